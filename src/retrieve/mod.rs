//! From queries to rankings: one trait, one implementation per paradigm.

use crate::data::example::ExampleError;
use crate::data::trec::{Run, TrecError};
use crate::model::ModelError;
use crate::tokenizer::TokenizerError;
use crate::types::{DocId, Hit, PassageIdx, Query};

pub mod bm25;
pub mod dense;
pub mod doc2query;
pub mod docid;
mod error;
pub mod generative;
pub mod multi_view;
pub mod ranking;
mod search_error;
mod simd;
pub mod sparse;
mod top_k;
mod vectors;
mod visited;

pub use error::VectorError;
pub use search_error::SearchError;
pub use top_k::TopK;
pub use vectors::VectorIndex;

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
    /// An index of vectors.
    #[error(transparent)]
    Vector(#[from] VectorError),
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

/// The run `tag` of `hits`, one ranking per query; equal scores are separated, so that every evaluator
/// sees the order of the hits.
///
/// # Errors
/// [`TrecError`] for a query that comes twice.
pub fn run_of<'i>(
    tag: &str,
    queries: &[Query],
    hits: &[Vec<Hit>],
    doc_id: impl Fn(PassageIdx) -> &'i str,
) -> Result<Run, TrecError> {
    let mut run = Run::new(tag);
    for (query, hits) in queries.iter().zip(hits) {
        let docs = hits
            .iter()
            .map(|hit| (DocId::from(doc_id(hit.passage)), hit.score.get()));
        run.push(query.id.clone(), docs)?;
    }
    run.separate_ties();
    Ok(run)
}
