//! Why identifiers cannot be put into a trie, or their file be trusted.

use std::io;
use std::path::{Path, PathBuf};

use crate::section_file::Fault;

/// Why identifiers cannot be put into a trie, or their file be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrieError {
    /// The file could not be read or written.
    #[error("{}: cannot {action} the identifiers", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `open` or `write`.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "{}: not a file of identifiers (it starts with {found}); make one with `genret docid build`", path.display()
    )]
    NotDocids {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// The file was written by another release.
    #[error(
        "{}: format {found} of identifiers, this genret reads format {expected}; rebuild with `genret docid build`",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The version that this release reads and writes.
        expected: u32,
    },
    /// The file was written on a machine with another byte order.
    #[error(
        "{}: written with another byte order; rebuild on this machine with `genret docid build`", path.display()
    )]
    ByteOrder {
        /// The file.
        path: PathBuf,
    },
    /// The file is incomplete or its bytes have changed.
    #[error("{}: damaged ({what}); rebuild with `genret docid build`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The alphabet is empty or too large.
    #[error("{found} codes to choose from: expected between 1 and 4,294,967,295")]
    Alphabet {
        /// Codes to choose from.
        found: usize,
    },
    /// A code is outside the alphabet.
    #[error("identifier {index} has code {code}, but there are {alphabet} to choose from")]
    CodeOutOfRange {
        /// Ordinal of the passage, from 0.
        index: usize,
        /// The code.
        code: u32,
        /// Codes to choose from.
        alphabet: u32,
    },
    /// More than 32 bits can number.
    #[error(
        "the identifiers need more than 4,294,967,294 {what}: take fewer or shorter ones, or codes from a smaller set"
    )]
    TooLarge {
        /// `passages`, `tokens` or `codes`.
        what: &'static str,
    },
}

impl TrieError {
    /// What is wrong with `path`.
    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.into(),
            what: what.into(),
        }
    }

    pub(super) fn fault(path: &Path, fault: Fault, expected: u32) -> Self {
        let path = path.to_path_buf();
        match fault {
            Fault::Io(source) => Self::Io {
                path,
                action: "open",
                source,
            },
            Fault::Magic(found) => Self::NotDocids { path, found },
            Fault::ByteOrder => Self::ByteOrder { path },
            Fault::Version(found) => Self::Version {
                path,
                found,
                expected,
            },
            Fault::Damaged(what) => Self::Damaged { path, what },
        }
    }
}
