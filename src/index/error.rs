//! Why an index cannot be built, opened or trusted.

use std::io;
use std::path::{Path, PathBuf};

/// Why an index cannot be built, opened or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A file could not be read or written.
    #[error("{path}: cannot {action} the index")]
    Io {
        /// The index file.
        path: PathBuf,
        /// `open`, `read`, `write` or `lock`.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "{path}: not an n-gram index (it starts with {found}); build one with `genret index build`"
    )]
    NotAnIndex {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// The file was written by another release.
    #[error(
        "{path}: index format {found}, this genret reads format {expected}; \
         rebuild with `genret index build`"
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
        "{path}: written with another byte order; rebuild on this machine with `genret index build`"
    )]
    ByteOrder {
        /// The file.
        path: PathBuf,
    },
    /// The file is incomplete or its bytes have changed.
    #[error("{path}: damaged ({what}); rebuild with `genret index build`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The index belongs to another tokenizer than the one in use.
    #[error(
        "{path}: built with tokenizer {expected:016x} ({hint}), but the tokenizer in use is {found:016x}; \
         use the first one, or rebuild with `genret index build`"
    )]
    Tokenizer {
        /// The index.
        path: PathBuf,
        /// Fingerprint of the tokenizer that the index was built with.
        expected: u64,
        /// The tokenizer's file when the index was built.
        hint: String,
        /// Fingerprint of the tokenizer in use.
        found: u64,
    },
    /// A passage has no tokens to index.
    #[error("passage {index} ({id}): no tokens; remove it from the corpus or give it a text")]
    EmptyPassage {
        /// Ordinal of the passage, from 0.
        index: usize,
        /// Its external id.
        id: String,
    },
    /// A token is outside the vocabulary.
    #[error(
        "passage {index} ({id}): token {token}, but the vocabulary has {vocab_size}; \
         tokenise the corpus with the tokenizer that the index is built for"
    )]
    TokenOutOfRange {
        /// Ordinal of the passage, from 0.
        index: usize,
        /// Its external id.
        id: String,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The corpus is larger than one index holds.
    #[error("the corpus has more than {limit} {what}; split it into several indexes")]
    TooLarge {
        /// `tokens`, `bytes of ids` or `vocabulary entries`.
        what: &'static str,
        /// The most that one index holds.
        limit: u64,
    },
    /// Another process is changing the index.
    #[error("{path}: another process is changing this index; try again when it has ended")]
    Locked {
        /// The index folder.
        path: PathBuf,
    },
    /// A live index is to be made where there is one.
    #[error(
        "{path}: there is an index already; add to it with `genret index add`, or remove it first"
    )]
    Exists {
        /// The index folder.
        path: PathBuf,
    },
    /// A single file is to be changed.
    #[error(
        "{path}: an index in a single file cannot change; build a folder with `genret index build --live`"
    )]
    NotLive {
        /// The index file.
        path: PathBuf,
    },
    /// A passage is added whose id is there already.
    #[error(
        "{path}: passage {id} is there already or comes twice; delete it with `genret index delete` first"
    )]
    DuplicateId {
        /// The index folder.
        path: PathBuf,
        /// The external id.
        id: String,
    },
    /// A list of passages could not be read.
    #[error("{path}: cannot read the ids")]
    Ids {
        /// The file with one id per line.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A list of passages names one that is not there.
    #[error(
        "{path}:{line}: the index has no passage {id:?}; remove the line, or use the index of the corpus \
         that the ids were taken from"
    )]
    UnknownListed {
        /// The file with one id per line.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The external id.
        id: String,
    },
    /// A list of passages names none.
    #[error("{path}: no ids; write one per line")]
    NoIds {
        /// The file.
        path: PathBuf,
    },
    /// A parameter of the build is out of its range.
    #[error("{name} must be {range}, got {found}")]
    Option {
        /// The parameter.
        name: &'static str,
        /// Its range.
        range: &'static str,
        /// Its value.
        found: usize,
    },
}

impl IndexError {
    pub(in crate::index) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            action,
            source,
        }
    }

    pub(in crate::index) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.into(),
            what: what.into(),
        }
    }
}
