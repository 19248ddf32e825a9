//! From queries to rankings: one trait, one implementation per paradigm.

use crate::data::example::ExampleError;
use crate::model::ModelError;
use crate::tokenizer::TokenizerError;
use crate::types::{Hit, Query};

pub mod bm25;
pub mod doc2query;
pub mod generative;
pub mod ranking;
mod search_error;

pub use search_error::SearchError;

/// Why a search failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetrieveError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The ranking options.
    #[error(transparent)]
    Ranking(#[from] ranking::RankingError),
    /// A passage could not be made a prompt.
    #[error(transparent)]
    Example(#[from] ExampleError),
    /// A query could not be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A text that every generated n-gram was to begin with is not in the corpus.
    #[error(
        "the prefix {text:?} does not occur in the corpus: give whole words as they stand there"
    )]
    Prefix {
        /// The text.
        text: String,
    },
}

/// Ranks passages for queries.
pub trait Retriever {
    /// Name of the system in run files.
    fn tag(&self) -> &str;

    /// The best `k` passages of each query, best first; equal scores in passage order.
    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Vec<Hit>>, RetrieveError>;
}
