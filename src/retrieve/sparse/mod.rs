//! Sparse vectors: an inverted index with exact search by block-max pruning.
//!
//! A vector has a weight above zero for some terms; the score of a passage is the inner product with
//! the query. Two ways to the same hits, chosen by the length of the query's lists:
//!
//! - Short lists are added up term by term, a window of passages at a time, from the term that can add
//!   most down; once what is left cannot lift a passage to the k-th best score, only the passages that
//!   are close are looked up in the lists that remain (MaxScore: Turtle and Flood, *Query Evaluation*,
//!   IPM 1995).
//! - Of long lists the index knows the largest weight in each block of consecutive passages. Adding
//!   those up gives a bound for every block; blocks are scored from the highest bound down, until no
//!   bound reaches the k-th best score (block-max pruning: Mallia, Suel, Tonellotto, *Faster Learned
//!   Sparse Retrieval with Block-Max Pruning*, SIGIR 2024).
//!
//! Every score is a sum in `f32` in one order, so the result is exactly that of scoring everything,
//! ties in passage order.
//!
//! With clusters ([`ClusterOptions`]) there is an approximate search too, faster by much and not exact.
//!
//! Weights take eight bits, scaled per term, or the 32 of an `f32`; the file says which, and what the
//! rounding costs. Memory for building: 8 bytes per posting beside the index itself.

use crate::section_file::Plain;
use crate::types::SparseVector;

mod build;
mod clusters;
mod file;
mod search;
#[cfg(test)]
mod tests;

pub use super::error::VectorError;
pub use build::SparseBuilder;
pub use clusters::{Approximation, ClusterOptions};
pub use file::{SparseIndex, SparseStats};

/// Fails unless terms increase strictly below `num_terms` and weights are finite and above zero;
/// `name` is for the message.
fn check(
    vector: &SparseVector,
    num_terms: usize,
    name: &dyn Fn() -> String,
) -> Result<(), VectorError> {
    let wrong = |what: String| Err(VectorError::vector(name(), what));
    if vector.terms.len() != vector.weights.len() {
        let (terms, weights) = (vector.terms.len(), vector.weights.len());
        return wrong(format!("{terms} terms but {weights} weights"));
    }
    if let Some(pair) = vector.terms.windows(2).find(|pair| pair[0] >= pair[1]) {
        let (a, b) = (pair[0], pair[1]);
        return wrong(format!(
            "term {b} after {a}; sort the terms and name each once"
        ));
    }
    if let Some(&last) = vector.terms.last()
        && last as usize >= num_terms
    {
        return wrong(format!("term {last}, but the index has {num_terms} terms"));
    }
    let bad = |&(_, w): &(u32, f32)| !(w.is_finite() && w > 0.0);
    if let Some((term, weight)) = vector.iter().find(bad) {
        return wrong(format!(
            "term {term} has weight {weight}; weights are finite and above zero"
        ));
    }
    Ok(())
}

/// How weights are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Eight bits, as a multiple of 1/255 of the term's largest weight: 5 bytes a posting.
    Bytes,
    /// All bits of the `f32`: 8 bytes a posting.
    Floats,
}

/// What an index is built with.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SparseOptions {
    /// How weights are kept.
    pub precision: Precision,
    /// Passages per block, a power of two from 8 to 1024.
    pub block_passages: usize,
    /// Clusters for approximate search, if there are to be any.
    pub clusters: Option<ClusterOptions>,
}

impl Default for SparseOptions {
    fn default() -> Self {
        Self {
            precision: Precision::Bytes,
            block_passages: 64,
            clusters: None,
        }
    }
}

/// A weight as it is kept, in units of its term's scale.
trait Weight: Plain + Into<f32> + PartialOrd {
    fn new(steps: f32) -> Self;
    /// `sums[i] += weights[i] * factor`.
    fn add_scaled(sums: &mut [f32], weights: &[Self], factor: f32);
}

impl Weight for u8 {
    fn new(steps: f32) -> Self {
        steps as u8
    }

    fn add_scaled(sums: &mut [f32], weights: &[u8], factor: f32) {
        search::add_scaled_bytes(sums, weights, factor);
    }
}

impl Weight for f32 {
    fn new(steps: f32) -> Self {
        steps
    }

    fn add_scaled(sums: &mut [f32], weights: &[f32], factor: f32) {
        search::add_scaled_floats(sums, weights, factor);
    }
}
