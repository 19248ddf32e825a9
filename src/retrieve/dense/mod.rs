//! Dense vectors: exact search by inner product, in 32 bits or in eight, and a graph for approximate search.
//!
//! Exact search reads every vector: a few rows stay in the cache while many queries meet them, and
//! (rows x queries) tasks are shared by all threads. With eight bits a number is a multiple of the
//! vector's largest / 127, four times less to read; where the full vectors are kept too, the best of the
//! eight-bit ranking are scored again with all bits. The graph is that of [`graph`].
//!
//! Equal scores are in passage order; results do not depend on the number of threads.

use serde::{Deserialize, Serialize};

mod build;
mod file;
pub mod graph;
mod product;
mod search;
#[cfg(test)]
mod tests;

pub use super::error::VectorError;
pub use build::DenseBuilder;
pub use file::{DenseIndex, DenseStats};
pub use graph::GraphOptions;
pub use search::DenseSearch;

/// What is kept of the numbers of a vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numbers {
    /// All 32 bits: search is exact.
    #[default]
    Floats,
    /// Eight bits and a scale per vector.
    Bytes,
    /// Eight bits to rank with, and all bits to score the best again.
    Both,
}

/// What an index is built with.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DenseOptions {
    /// What is kept of the numbers.
    pub numbers: Numbers,
    /// The graph for approximate search, if there is to be one; needs all bits.
    pub graph: Option<GraphOptions>,
}
