//! Why an index of vectors cannot be built, opened or trusted.

use std::io;
use std::path::{Path, PathBuf};

use crate::section_file::Fault;

/// Why an index of sparse or dense vectors cannot be built, opened or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorError {
    /// A file could not be read or written.
    #[error("{}: cannot {action} the index", path.display())]
    Io {
        /// The index file.
        path: PathBuf,
        /// `open` or `write`.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{}: not a {expected} (it starts with {found}); build one with `genret encode` or `genret search --bm25 DIR --index FILE`", path.display())]
    NotAnIndex {
        /// The file.
        path: PathBuf,
        /// The kind of index asked for.
        expected: &'static str,
        /// Its first bytes.
        found: String,
    },
    /// The file was written by another release or with another byte order.
    #[error("{}: index format {found}, this genret reads format {expected}; remove the file and build it again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: String,
        /// What this release reads on this machine.
        expected: u32,
    },
    /// The file is incomplete or its bytes have changed.
    #[error("{}: damaged ({what}); remove the file and build it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A vector is not what its index takes.
    #[error("vector {vector}: {what}")]
    Vector {
        /// Ordinal of the vector, from 0, or its external id.
        vector: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The collection is larger than one index holds.
    #[error("more than {limit} {what}; split the collection into several indexes")]
    TooLarge {
        /// `passages` or `terms`.
        what: &'static str,
        /// The most that one index holds.
        limit: u64,
    },
    /// A parameter is out of its range.
    #[error("{name} must be {range}, got {found}")]
    Option {
        /// The parameter.
        name: &'static str,
        /// Its range.
        range: &'static str,
        /// Its value.
        found: String,
    },
    /// The file has no such part.
    #[error("{}: the index has no {what}; {remedy}", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
}

impl VectorError {
    pub(super) fn vector(vector: impl ToString, what: impl Into<String>) -> Self {
        Self::Vector {
            vector: vector.to_string(),
            what: what.into(),
        }
    }

    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.into(),
            what: what.into(),
        }
    }

    pub(super) fn write(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            action: "write",
            source,
        }
    }

    /// The fault of a file that should hold an `expected` of format `version`.
    pub(super) fn file(path: &Path, expected: &'static str, version: u32, fault: Fault) -> Self {
        let path = path.to_path_buf();
        match fault {
            Fault::Io(source) => Self::Io {
                path,
                action: "open",
                source,
            },
            Fault::Magic(found) => Self::NotAnIndex {
                path,
                expected,
                found,
            },
            Fault::ByteOrder => Self::Version {
                path,
                found: "with another byte order".into(),
                expected: version,
            },
            Fault::Version(found) => Self::Version {
                path,
                found: found.to_string(),
                expected: version,
            },
            Fault::Damaged(what) => Self::Damaged { path, what },
        }
    }
}
