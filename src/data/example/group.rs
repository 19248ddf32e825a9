//! Examples of retrieval by representations: a query with passages, and what a teacher thinks of them.

use crate::types::{PassageIdx, TokenId};

/// A query, a relevant passage and others that are not.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// The query's tokens.
    pub query: Vec<TokenId>,
    /// The positive, then the hard negatives.
    pub passages: Vec<PassageIdx>,
    /// All passages known to be relevant to the query: never negatives of it.
    pub relevant: Vec<PassageIdx>,
    /// The teacher's score of each of [`Self::passages`]; empty without a teacher.
    pub teacher: Vec<f32>,
}
