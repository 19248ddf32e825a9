//! Search in every vector, and through the graph.

use rayon::prelude::*;

use super::build::{check, quantise};
use super::product::{TOGETHER, byte_products, float_product, float_products};
use super::{DenseIndex, Numbers, VectorError};
use crate::retrieve::TopK;
use crate::retrieve::visited::Visited;
use crate::types::{Hit, PassageIdx};

/// Passages of a task; with few queries the tasks are still enough for many threads.
const SEGMENT: usize = 16_384;
/// Queries of a task.
const QUERIES: usize = 32;
/// Bytes of rows that stay in the cache while the queries of a task meet them.
const CACHED: usize = 128 * 1024;

/// How an index is searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DenseSearch {
    /// Every vector is read: the exact ranking by what the index keeps. Where it keeps both, the best
    /// `rescored` times k of the eight-bit ranking are ranked again by all bits; 0 reads all bits of
    /// every vector.
    Exact {
        /// How many times k.
        rescored: usize,
    },
    /// The graph is walked with the best `effort` passages in hand, at least k: faster, and not all of
    /// the nearest are found.
    Graph {
        /// Passages in hand.
        effort: usize,
    },
}

impl DenseIndex {
    /// The best `k` passages of each query (rows of the index's width, one after the other) by inner
    /// product, best first, ties in passage order; on all threads, and the same on any number.
    ///
    /// # Errors
    /// [`VectorError::Vector`] for queries of another width or with numbers that are not finite;
    /// [`VectorError::Absent`] for a graph that the index does not have.
    pub fn search(
        &self,
        queries: &[f32],
        k: usize,
        how: DenseSearch,
    ) -> Result<Vec<Vec<Hit>>, VectorError> {
        let width = self.width();
        if !queries.len().is_multiple_of(width) {
            let what = format!(
                "{} numbers; the index has {width} per vector",
                queries.len()
            );
            return Err(VectorError::vector("of the queries", what));
        }
        for (ordinal, query) in queries.chunks_exact(width).enumerate() {
            check(query, width, &|| format!("of query {ordinal}"))?;
        }
        match (how, self.numbers()) {
            (DenseSearch::Graph { effort }, _) => {
                if !self.has_graph() {
                    return Err(VectorError::Absent {
                        path: self.path().into(),
                        what: "graph",
                        remedy: "search exactly, or build it with a graph (`genret encode --graph`)",
                    });
                }
                let queries = queries.par_chunks_exact(width);
                let walk = |visited: &mut Visited, query| self.walk(query, k, effort, visited);
                Ok(queries.map_init(Visited::default, walk).collect())
            }
            (DenseSearch::Exact { .. }, Numbers::Bytes) => Ok(self.by_bytes(queries, k)),
            (DenseSearch::Exact { rescored }, Numbers::Both) if rescored > 0 => {
                let near = self.by_bytes(queries, k.saturating_mul(rescored));
                let pairs = queries.par_chunks_exact(width).zip(near);
                Ok(pairs
                    .map(|(query, near)| self.rescore(query, &near, k))
                    .collect())
            }
            (DenseSearch::Exact { .. }, _) => Ok(self.by_floats(queries, k)),
        }
    }

    /// A row of full numbers; the index has them.
    pub(super) fn row(&self, passage: u32) -> &[f32] {
        &self.values[passage as usize * self.width()..][..self.width()]
    }

    fn rescore(&self, query: &[f32], near: &[Hit], k: usize) -> Vec<Hit> {
        let mut top = TopK::new(k);
        for hit in near {
            let score = float_product(self.row(hit.passage.0), query);
            if score >= top.threshold() {
                top.push(hit.passage, score);
            }
        }
        top.into_hits()
    }

    fn by_floats(&self, queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
        let width = self.width();
        self.tasks(queries.len() / width, k, |first, passages, tops| {
            let rows_at_once = (CACHED / 4 / width).max(1);
            let mut scores = vec![0.0; rows_at_once * TOGETHER];
            for start in passages.clone().step_by(rows_at_once) {
                let end = (start + rows_at_once).min(passages.end);
                let rows = &self.values[start * width..end * width];
                for (group, tops) in tops.chunks_mut(TOGETHER).enumerate() {
                    // A group that is not full computes its last query again.
                    let of_query = |q: usize| {
                        let query = first + group * TOGETHER + q.min(tops.len() - 1);
                        &queries[query * width..][..width]
                    };
                    float_products(rows, std::array::from_fn(of_query), &mut scores);
                    for (q, top) in tops.iter_mut().enumerate() {
                        let of_query = scores[q..].iter().step_by(TOGETHER);
                        for (passage, &score) in (start..end).zip(of_query) {
                            if score >= top.threshold() {
                                top.push(PassageIdx(passage as u32), score);
                            }
                        }
                    }
                }
            }
        })
    }

    fn by_bytes(&self, queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
        let width = self.width();
        let mut codes = vec![];
        let scales: Vec<f32> = queries
            .chunks_exact(width)
            .map(|query| quantise(query, &mut codes))
            .collect();
        self.tasks(scales.len(), k, |first, passages, tops| {
            let rows_at_once = (CACHED / width).max(1);
            let mut sums = vec![0; rows_at_once];
            for start in passages.clone().step_by(rows_at_once) {
                let end = (start + rows_at_once).min(passages.end);
                let rows = &self.codes[start * width..end * width];
                for (q, top) in tops.iter_mut().enumerate() {
                    let query = first + q;
                    byte_products(rows, &codes[query * width..][..width], &mut sums);
                    for (passage, &sum) in (start..end).zip(&sums) {
                        let score = sum as f32 * (self.scales[passage] * scales[query]);
                        if score >= top.threshold() {
                            top.push(PassageIdx(passage as u32), score);
                        }
                    }
                }
            }
        })
    }

    /// The best of all passages, by tasks of some queries and some passages each: `task` gets the first
    /// query, the passages, and the best so far of each of its queries.
    fn tasks(
        &self,
        queries: usize,
        k: usize,
        task: impl Fn(usize, std::ops::Range<usize>, &mut [TopK]) + Sync,
    ) -> Vec<Vec<Hit>> {
        let segments = self.num_passages().div_ceil(SEGMENT);
        let groups = queries.div_ceil(QUERIES);
        let parts: Vec<Vec<Vec<Hit>>> = (0..groups * segments)
            .into_par_iter()
            .map(|number| {
                let (group, segment) = (number / segments, number % segments);
                let first = group * QUERIES;
                let last = (first + QUERIES).min(queries);
                let start = segment * SEGMENT;
                let end = (start + SEGMENT).min(self.num_passages());
                let mut tops = vec![TopK::new(k); last - first];
                task(first, start..end, &mut tops);
                tops.into_iter().map(TopK::into_hits).collect()
            })
            .collect();
        let mut best = vec![TopK::new(k); queries];
        for (number, part) in parts.into_iter().enumerate() {
            let first = number / segments * QUERIES;
            for (top, hits) in best[first..].iter_mut().zip(part) {
                for hit in hits {
                    if hit.score.get() >= top.threshold() {
                        top.push(hit.passage, hit.score.get());
                    }
                }
            }
        }
        best.into_iter().map(TopK::into_hits).collect()
    }
}
