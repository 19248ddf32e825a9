//! An index in memory of the vectors of a corpus, sparse or dense, searched exactly.

use super::VectorError;
use super::dense::{DenseBuilder, DenseIndex, DenseOptions, DenseSearch};
use super::sparse::{Precision, SparseBuilder, SparseIndex, SparseOptions};
use crate::model::Vectors;
use crate::types::Hit;

/// Vectors of passages with all their bits.
pub enum VectorIndex {
    /// By terms.
    Sparse(Box<SparseIndex>),
    /// Row after row.
    Dense(Box<DenseIndex>),
}

impl VectorIndex {
    /// The index of `vectors`, of `width` terms or dimensions, for passages with these external ids.
    ///
    /// # Errors
    /// [`VectorError::Vector`] for numbers that are not finite.
    pub fn build<'i>(
        ids: impl Iterator<Item = &'i str>,
        vectors: &Vectors,
        width: usize,
    ) -> Result<Self, VectorError> {
        Ok(match vectors {
            Vectors::Sparse(vectors) => {
                let options = SparseOptions {
                    precision: Precision::Floats,
                    ..SparseOptions::default()
                };
                let mut builder = SparseBuilder::new(width, options)?;
                for (id, vector) in ids.zip(vectors) {
                    builder.push(id, vector)?;
                }
                Self::Sparse(Box::new(builder.into_index()?))
            }
            Vectors::Dense { values, .. } => {
                let mut builder = DenseBuilder::new(width, DenseOptions::default())?;
                for (id, vector) in ids.zip(values.chunks_exact(width)) {
                    builder.push(id, vector)?;
                }
                Self::Dense(Box::new(builder.into_index()?))
            }
        })
    }

    /// The best `k` passages of each query, best first, ties in passage order; and the FLOPs of all inner products,
    /// of sparse vectors those of a search without pruning.
    ///
    /// # Errors
    /// [`VectorError::Vector`] for queries that are no vectors of this index.
    ///
    /// # Panics
    /// For queries of the other kind: one model makes both.
    pub fn search(&self, queries: &Vectors, k: usize) -> Result<(Vec<Vec<Hit>>, f64), VectorError> {
        Ok(match (self, queries) {
            (Self::Sparse(index), Vectors::Sparse(queries)) => {
                let terms = queries.iter().flat_map(|query| &query.terms);
                let postings: usize = terms.map(|&term| index.passages_with(term)).sum();
                (index.search_all(queries, k)?, 2.0 * postings as f64)
            }
            (Self::Dense(index), Vectors::Dense { values, .. }) => {
                let products = 2.0 * values.len() as f64 * index.num_passages() as f64;
                let how = DenseSearch::Exact { rescored: 0 };
                (index.search(values, k, how)?, products)
            }
            _ => panic!("queries and passages are represented by one model"),
        })
    }
}
