//! Sparse vectors: an inverted index with exact search by block-max pruning.
//!
//! A vector has a weight above zero for some terms; the score of a passage is the inner product with
//! the query. Passages are cut into blocks of consecutive ones, and every term knows its largest
//! weight in each block. Adding those up over a query's terms gives a bound for every block;
//! blocks are scored from the highest bound down, until no bound reaches the k-th best score (block-max
//! pruning: Mallia, Suel, Tonellotto, *Faster Learned Sparse Retrieval with Block-Max Pruning*, SIGIR
//! 2024). Bound and score add their products in one order, so rounding never makes a bound too low:
//! the result is exactly that of scoring everything, ties in passage order.
//!
//! Weights take eight bits, scaled per term, or the 32 of an `f32`; the file says which, and what the
//! rounding costs. Memory for building: 8 bytes per posting beside the index itself.

use crate::section_file::Plain;
use crate::types::SparseVector;

mod build;
mod file;
mod search;
#[cfg(test)]
mod tests;

pub use super::error::VectorError;
pub use build::SparseBuilder;
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
    /// Eight bits, as a multiple of 1/255 of the term's largest weight: 2 bytes a posting.
    Bytes,
    /// All bits of the `f32`: 8 bytes a posting.
    Floats,
}

/// What an index is built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SparseOptions {
    /// How weights are kept.
    pub precision: Precision,
    /// Passages per block, a power of two from 8 to 256.
    pub block_passages: usize,
}

impl Default for SparseOptions {
    fn default() -> Self {
        Self {
            precision: Precision::Bytes,
            block_passages: 64,
        }
    }
}

/// A posting: the place of a passage in its block, and its weight.
trait Posting: Plain {
    /// A block's largest weight.
    type Max: Plain + Into<f32>;
    /// The posting; `steps` is the weight in units of the term's scale.
    fn new(place: u8, steps: f32) -> Self;
    fn place(self) -> u8;
    /// In units of the term's scale.
    fn steps(self) -> f32;
    /// The weight again.
    fn weight(self) -> Self::Max;
    /// `sums[i] += maxima[i] * factor`.
    fn add_scaled(sums: &mut [f32], maxima: &[Self::Max], factor: f32);
}

impl Posting for u16 {
    type Max = u8;

    fn new(place: u8, steps: f32) -> Self {
        u16::from(steps as u8) << 8 | u16::from(place)
    }

    #[inline(always)]
    fn place(self) -> u8 {
        self as u8
    }

    #[inline(always)]
    fn steps(self) -> f32 {
        f32::from((self >> 8) as u8)
    }

    fn weight(self) -> u8 {
        (self >> 8) as u8
    }

    fn add_scaled(sums: &mut [f32], maxima: &[u8], factor: f32) {
        search::add_scaled_bytes(sums, maxima, factor);
    }
}

impl Posting for u64 {
    type Max = f32;

    fn new(place: u8, steps: f32) -> Self {
        u64::from(steps.to_bits()) << 32 | u64::from(place)
    }

    #[inline(always)]
    fn place(self) -> u8 {
        self as u8
    }

    #[inline(always)]
    fn steps(self) -> f32 {
        f32::from_bits((self >> 32) as u32)
    }

    fn weight(self) -> f32 {
        self.steps()
    }

    fn add_scaled(sums: &mut [f32], maxima: &[f32], factor: f32) {
        search::add_scaled_floats(sums, maxima, factor);
    }
}
