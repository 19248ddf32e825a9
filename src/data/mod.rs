//! Corpora, queries and judgements: how they are read and how they hang together.
//!
//! A collection is a BEIR folder (`corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`) or MS MARCO tables
//! (`collection.tsv`, `queries.tsv`), plain, .gz or .zst. Everything is read in file order, and
//! whatever is wrong is an error with file and line: no row is left out silently.

use std::path::PathBuf;

pub mod batch;
pub mod example;
pub mod inspect;
pub mod masking;
pub mod reader;
pub mod synth;
pub mod trec;

mod beir;
mod corpus;
mod dataset;
mod msmarco;
mod pseudo_queries;

pub use beir::load_answers;
pub use corpus::{Corpus, load_queries};
pub use dataset::{Dataset, Pair};
pub use pseudo_queries::PseudoQueries;

use reader::ReadError;
use trec::TrecError;

/// Why a corpus, queries or a collection could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Judgements could not be read.
    #[error(transparent)]
    Trec(#[from] TrecError),
    /// A folder without the file that makes it a collection.
    #[error("{}: found neither {expected}, plain, .gz or .zst; name a BEIR folder or an MS MARCO table", path.display())]
    NotACollection {
        /// The folder.
        path: PathBuf,
        /// The files looked for.
        expected: &'static str,
    },
    /// A line is not the JSON object it should be.
    #[error("{}:{line}: column {column}: expected {expected}, found {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Byte of the line, from 1.
        column: usize,
        /// The members of a line.
        expected: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A line has another number of columns.
    #[error("{}:{line}: expected {expected}, found {found} columns", path.display())]
    Columns {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The columns of this format.
        expected: &'static str,
        /// Number of columns.
        found: usize,
    },
    /// An id or a text is missing, empty or blank.
    #[error("{}:{line}: {what} is {how}; {remedy}", path.display())]
    EmptyField {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The field and its row.
        what: String,
        /// Missing or empty.
        how: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Two rows have one id.
    #[error("{}:{line}: {what} {id:?} appears again, first in line {first}; ids must be unique", path.display())]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// Line of the repetition, from 1 (or place in the list).
        line: usize,
        /// Line of the first appearance.
        first: usize,
        /// Passage or query.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// A file without rows.
    #[error("{}: expected {expected}, found none", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// More passages than a `PassageIdx` can number.
    #[error("{}: more than 4,294,967,295 passages; split the corpus", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A judgement names what is not in the collection.
    #[error("{}:{line}: {what} {id:?} is not in {}; remove the judgement or add the {what}", path.display(), within.display())]
    Dangling {
        /// The qrels file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Passage or query.
        what: &'static str,
        /// The id.
        id: String,
        /// The file it should be in.
        within: PathBuf,
    },
    /// A pseudo-query of no passage.
    #[error("{}: no passage for query {query:?}; judge it, or remove the query", path.display())]
    Unjudged {
        /// The qrels file.
        path: PathBuf,
        /// The query.
        query: String,
    },
    /// A folder without pseudo-queries.
    #[error(
        "{0}: no pseudo-queries: qrels/train.tsv is missing; write the folder with `genret decode --task queries --out {0}`",
        folder.display()
    )]
    NoPseudoQueries {
        /// The folder.
        folder: PathBuf,
    },
    /// A split that the collection does not have.
    #[error("{}: no split {split:?}; there are {known}", path.display())]
    NoSplit {
        /// The folder.
        path: PathBuf,
        /// The split asked for.
        split: String,
        /// The splits it has.
        known: String,
    },
}
