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

mod build;
mod file;
mod search;
#[cfg(test)]
mod tests;

pub use super::error::VectorError;
pub use build::SparseBuilder;
pub use file::{SparseIndex, SparseStats};

/// Weights of some terms; all others are zero.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SparseVector {
    /// The terms, strictly increasing.
    pub terms: Vec<u32>,
    /// Their weights, above zero and finite.
    pub weights: Vec<f32>,
}

impl SparseVector {
    /// The vector of `entries` in any order: weights of one term are added, zeros left out.
    pub fn from_entries(mut entries: Vec<(u32, f32)>) -> Self {
        entries.sort_by_key(|&(term, _)| term);
        let mut vector = Self::default();
        for (term, weight) in entries {
            match vector.terms.last() {
                Some(&last) if last == term => {
                    *vector.weights.last_mut().expect("as many as terms") += weight;
                }
                _ if weight != 0.0 => {
                    vector.terms.push(term);
                    vector.weights.push(weight);
                }
                _ => {}
            }
        }
        vector
    }

    /// Number of terms with a weight.
    pub fn len(&self) -> usize {
        self.terms.len()
    }

    /// Whether no term has a weight.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Terms and weights.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f32)> {
        self.terms.iter().copied().zip(self.weights.iter().copied())
    }

    /// Inner product: the sum over common terms in the order of the terms, in f64.
    pub fn dot(&self, other: &Self) -> f64 {
        let mut sum = 0.0;
        let mut at = 0;
        for (term, weight) in self.iter() {
            at += other.terms[at..].partition_point(|&t| t < term);
            if other.terms.get(at) == Some(&term) {
                sum += f64::from(weight) * f64::from(other.weights[at]);
            }
        }
        sum
    }

    /// Fails unless terms increase strictly below `num_terms` and weights are finite and above zero;
    /// `name` is for the message.
    fn check(&self, num_terms: usize, name: &dyn Fn() -> String) -> Result<(), VectorError> {
        let wrong = |what: String| Err(VectorError::vector(name(), what));
        if self.terms.len() != self.weights.len() {
            let (terms, weights) = (self.terms.len(), self.weights.len());
            return wrong(format!("{terms} terms but {weights} weights"));
        }
        if let Some(pair) = self.terms.windows(2).find(|pair| pair[0] >= pair[1]) {
            let (a, b) = (pair[0], pair[1]);
            return wrong(format!(
                "term {b} after {a}; sort the terms and name each once"
            ));
        }
        if let Some(&last) = self.terms.last()
            && last as usize >= num_terms
        {
            return wrong(format!("term {last}, but the index has {num_terms} terms"));
        }
        let bad = |&(_, w): &(u32, f32)| !(w.is_finite() && w > 0.0);
        if let Some((term, weight)) = self.iter().find(bad) {
            return wrong(format!(
                "term {term} has weight {weight}; weights are finite and above zero"
            ));
        }
        Ok(())
    }
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
