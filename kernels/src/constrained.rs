//! One step of a beam search under a constraint: of all that may follow, the best of each query.
//!
//! On a device with CubeCL kernels the logits never reach the host: it sends the allowed tokens and receives `limit` places
//! and scores per query. Elsewhere the rows are read back and selected by the reference.

use std::cmp::Ordering;
use std::ops::Range;

use burn::tensor::Tensor;

use crate::flex::host;
use crate::log_sum_exp;

/// In the place of a token: it is in the list and may not be taken.
pub const FORBIDDEN: u32 = u32::MAX;

/// What may follow each row of a step, and which rows compete.
#[derive(Clone, Copy, Debug)]
pub struct AllowedRows<'a> {
    /// Row `i` may go on with `tokens[offsets[i]..offsets[i + 1]]`; from 0, one more than there are rows.
    pub offsets: &'a [u32],
    /// Tokens, or [`FORBIDDEN`].
    pub tokens: &'a [u32],
    /// Added to the log-probabilities of a row before rows are compared.
    pub bases: &'a [f32],
    /// Query `q` owns the rows `queries[q]..queries[q + 1]`; from 0, one more than there are queries.
    pub queries: &'a [u32],
}

impl AllowedRows<'_> {
    fn check(&self) {
        let rows = self.bases.len();
        assert_eq!(
            self.offsets.len(),
            rows + 1,
            "constrained_best: one row per base"
        );
        assert!(
            rises(self.offsets, self.tokens.len()),
            "constrained_best: offsets rise from 0 to the number of tokens"
        );
        assert!(
            rises(self.queries, rows),
            "constrained_best: queries rise from 0 to the number of rows"
        );
    }

    /// The row that owns place `at` of the tokens of `query`, and the place within the row.
    #[cfg(feature = "cube")]
    fn row_of(&self, query: usize, at: usize) -> (usize, usize) {
        let first = self.queries[query] as usize;
        let at = self.offsets[first] as usize + at;
        let own = &self.offsets[first..=self.queries[query + 1] as usize];
        let row = first + own.partition_point(|&offset| offset as usize <= at) - 1;
        (row, at - self.offsets[row] as usize)
    }
}

fn rises(offsets: &[u32], end: usize) -> bool {
    offsets.first() == Some(&0)
        && offsets.is_sorted()
        && offsets.last().is_some_and(|&last| last as usize == end)
}

/// One of the best continuations of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// The row it continues.
    pub row: usize,
    /// Which of the row's tokens.
    pub nth: usize,
    /// Log-probability of the token after its row, over the whole vocabulary; NaN where logits are none.
    pub log_prob: f32,
}

/// The `limit` best continuations of each query by `base + log-probability`, best first; equal ones by
/// row, then place in the row.
///
/// `logits_of(rows)` gives logits `[rows, vocab]`; it is called for at most `rows_at_once` rows at a time, in order.
/// A NaN counts as the best, so that it is seen. Selection is in 32-bit floats: bases are best given relative to
/// those of the query's best row.
///
/// # Panics
/// Where offsets do not rise or a token is outside of the vocabulary.
pub fn constrained_best(
    logits_of: impl Fn(Range<usize>) -> Tensor<2>,
    allowed: &AllowedRows<'_>,
    limit: usize,
    rows_at_once: usize,
) -> Vec<Vec<Best>> {
    allowed.check();
    let rows = allowed.bases.len();
    let chunks = (0..rows).step_by(rows_at_once.max(1));
    let chunks = chunks.map(|start| start..rows.min(start + rows_at_once));
    let mut on_host: Vec<Vec<(f32, Best)>> = vec![vec![]; allowed.queries.len() - 1];
    #[cfg(feature = "cube")]
    let mut on_device = vec![];
    for chunk in chunks {
        let logits = logits_of(chunk.clone());
        #[cfg(feature = "cube")]
        if crate::cube::is_cube(&logits.device()) {
            on_device.push(device::scores(logits, allowed, chunk));
            continue;
        }
        add_scores(&mut on_host, logits, allowed, chunk);
    }
    #[cfg(feature = "cube")]
    if !on_device.is_empty() {
        return device::best(on_device, allowed, limit);
    }
    on_host
        .into_iter()
        .map(|found| sorted(found, limit))
        .collect()
}

/// Best first, at most `limit`.
fn sorted(mut found: Vec<(f32, Best)>, limit: usize) -> Vec<Best> {
    found.sort_unstable_by(by_score);
    found.truncate(limit);
    found.into_iter().map(|(_, best)| best).collect()
}

fn by_score(a: &(f32, Best), b: &(f32, Best)) -> Ordering {
    let last_if_nan = |score: f32| if score.is_nan() { f32::INFINITY } else { score };
    last_if_nan(b.0)
        .total_cmp(&last_if_nan(a.0))
        .then((a.1.row, a.1.nth).cmp(&(b.1.row, b.1.nth)))
}

/// The continuations of the rows of `chunk`, each with its score, by query.
fn add_scores(
    found: &mut [Vec<(f32, Best)>],
    logits: Tensor<2>,
    allowed: &AllowedRows<'_>,
    chunk: Range<usize>,
) {
    let vocab = logits.dims()[1];
    let logits = host(logits);
    for (row, logits) in chunk.zip(logits.chunks_exact(vocab.max(1))) {
        let query = allowed
            .queries
            .partition_point(|&first| first as usize <= row)
            - 1;
        let norm = log_sum_exp(logits) as f32;
        let tokens =
            &allowed.tokens[allowed.offsets[row] as usize..allowed.offsets[row + 1] as usize];
        for (nth, &token) in tokens.iter().enumerate() {
            if token == FORBIDDEN {
                continue;
            }
            let log_prob = logits[token as usize] - norm;
            let best = Best { row, nth, log_prob };
            found[query].push((allowed.bases[row] + log_prob, best));
        }
    }
}

#[cfg(feature = "cube")]
mod device {
    use std::ops::Range;
    use std::sync::Arc;

    use burn::backend::tensor::{FloatTensor, IntTensor};
    use burn::backend::{Backend, Dispatch, backend_extension};
    use burn::tensor::{DType, Int, Shape, Tensor};
    use burn_cubecl::CubeBackend;

    use super::{AllowedRows, Best, FORBIDDEN};
    use crate::cube::select::{RowsOnDevice, best_of, score_allowed};
    use crate::cube::{Place, Units, argument, element};

    /// Rows of one chunk of logits; offsets from 0.
    #[derive(Debug)]
    pub(crate) struct Rows {
        offsets: Vec<u32>,
        tokens: Vec<u32>,
        bases: Vec<f32>,
    }

    #[backend_extension(Cube, Fusion)]
    pub(crate) trait ConstrainedStep: Backend {
        #[fusion(dtype = DType::F32, shape = Shape::new([rows.tokens.len().max(1)]))]
        fn allowed_scores(logits: FloatTensor<Self>, rows: Arc<Rows>) -> FloatTensor<Self>;
        #[fusion(dtype = DType::I32, shape = Shape::new([best_len(queries, limit)]))]
        fn best_scores(
            scores: FloatTensor<Self>,
            queries: Arc<Vec<u32>>,
            limit: usize,
        ) -> IntTensor<Self>;
    }

    /// Numbers that the best `limit` of each query take.
    fn best_len(queries: &Arc<Vec<u32>>, limit: &usize) -> usize {
        ((queries.len() - 1) * limit * 2).max(1)
    }

    impl ConstrainedStep for CubeBackend {
        fn allowed_scores(logits: FloatTensor<Self>, rows: Arc<Rows>) -> FloatTensor<Self> {
            let place = Place::of(&logits);
            let vocab = logits.meta.shape()[1];
            let dtype = element(logits.dtype);
            let client = &place.client;
            let on_device =
                RowsOnDevice::new(client, &rows.offsets, &rows.tokens, &rows.bases, vocab);
            let units = Units::of(client, 256);
            let scores = score_allowed(client, argument(logits), dtype, vocab, &on_device, units);
            place.tensor(scores, [rows.tokens.len().max(1)], DType::F32)
        }

        fn best_scores(
            scores: FloatTensor<Self>,
            queries: Arc<Vec<u32>>,
            limit: usize,
        ) -> IntTensor<Self> {
            let place = Place::of(&scores);
            let client = &place.client;
            let units = Units::of(client, 512);
            let winners = best_of(client, argument(scores), &queries, limit, units);
            place.tensor(winners, [best_len(&queries, &limit)], DType::I32)
        }
    }

    /// Scores of what the rows of `chunk` may go on with; `None` if that is nothing.
    pub(super) fn scores(
        logits: Tensor<2>,
        allowed: &AllowedRows<'_>,
        chunk: Range<usize>,
    ) -> Option<Tensor<1>> {
        let offsets = &allowed.offsets[chunk.start..=chunk.end];
        let (first, end) = (offsets[0], offsets[offsets.len() - 1]);
        if first == end {
            return None;
        }
        let rows = Rows {
            offsets: offsets.iter().map(|offset| offset - first).collect(),
            tokens: allowed.tokens[first as usize..end as usize].to_vec(),
            bases: allowed.bases[chunk].to_vec(),
        };
        Some(Tensor::from_dispatch(Dispatch::allowed_scores(
            logits.into_dispatch(),
            Arc::new(rows),
        )))
    }

    /// The best of each query, read back: the one transfer of a step to the host.
    pub(super) fn best(
        scores: Vec<Option<Tensor<1>>>,
        allowed: &AllowedRows<'_>,
        limit: usize,
    ) -> Vec<Vec<Best>> {
        let mut scores: Vec<Tensor<1>> = scores.into_iter().flatten().collect();
        let num_queries = allowed.queries.len() - 1;
        let Some(last) = scores.pop() else {
            return vec![vec![]; num_queries];
        };
        let scores = if scores.is_empty() {
            last
        } else {
            scores.push(last);
            Tensor::cat(scores, 0)
        };
        let of_row = |&row: &u32| allowed.offsets[row as usize];
        let queries: Vec<u32> = allowed.queries.iter().map(of_row).collect();
        let winners: Tensor<1, Int> = Tensor::from_dispatch(Dispatch::best_scores(
            scores.into_dispatch(),
            Arc::new(queries),
            limit,
        ));
        let winners: Vec<i32> = winners
            .into_data()
            .try_into_vec()
            .expect("the kernel writes 32-bit integers");
        let of_query = |(query, winners): (usize, &[i32])| {
            let found = winners.chunks_exact(2).filter_map(|pair| {
                let (at, score) = (
                    pair[0].cast_unsigned(),
                    f32::from_bits(pair[1].cast_unsigned()),
                );
                if at == FORBIDDEN || score == f32::NEG_INFINITY {
                    return None;
                }
                let (row, nth) = allowed.row_of(query, at as usize);
                let log_prob = score - allowed.bases[row];
                Some((score, Best { row, nth, log_prob }))
            });
            super::sorted(found.collect(), limit)
        };
        let by_query = winners.chunks_exact((2 * limit).max(1));
        by_query
            .take(num_queries)
            .enumerate()
            .map(of_query)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    /// Two queries: rows 0 and 1, and row 2, over five tokens.
    fn check(device: &Device) {
        let logits: [[f32; 5]; 3] = [
            [0.0, 1.0, 2.0, 3.0, 4.0],
            [4.0, 3.0, 2.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0],
        ];
        let allowed = AllowedRows {
            offsets: &[0, 2, 5, 7],
            tokens: &[1, 4, 0, FORBIDDEN, 4, 2, 3],
            bases: &[0.0, -1.0, 0.0],
            queries: &[0, 2, 3],
        };
        let rows = |rows: Range<usize>| {
            let values = logits[rows.clone()].concat();
            Tensor::from_data(TensorData::new(values, [rows.len(), 5]), device)
        };
        for rows_at_once in [1, 2, 100] {
            let best = constrained_best(rows, &allowed, 3, rows_at_once);
            // ln(1 + e + e^2 + e^3 + e^4) is 4.4519; a fifth each is -1.6094.
            let expected: [&[(usize, usize, f32)]; 2] = [
                &[(0, 1, -0.4519), (1, 0, -0.4519), (0, 0, -3.4519)],
                &[(2, 0, -1.6094), (2, 1, -1.6094)],
            ];
            assert_eq!(best.len(), 2);
            for (best, expected) in best.iter().zip(expected) {
                assert_eq!(best.len(), expected.len());
                for (best, &(row, nth, log_prob)) in best.iter().zip(expected) {
                    assert_eq!((best.row, best.nth), (row, nth));
                    assert!((best.log_prob - log_prob).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn the_best_of_each_query_on_the_host() {
        check(&Device::flex());
    }

    #[cfg(feature = "cube")]
    #[test]
    fn the_best_of_each_query_on_the_device() {
        check(&Device::cpu());
    }
}
