//! Where logits meet the constraint: the scores of the allowed tokens of every hypothesis.
//!
//! The output head is evaluated for [`HEAD_ROWS`] hypotheses at a time, so that memory does not grow with
//! beam width times vocabulary. With [`Normalise::Full`] it is evaluated for the whole vocabulary; with
//! [`Normalise::Allowed`] and [`Normalise::None`] only for the tokens that some hypothesis of the block may take, if these are at most
//! one in [`FEW_SHARE`] of the vocabulary: gathering rows of the head then costs less than it saves.
//!
//! [`for_each_row`] brings logits to the host; [`best_of_queries`] leaves them on the device, tells it what is
//! allowed, and receives the best of each query.

use std::cmp::Ordering;
use std::ops::Range;

use burn::tensor::Tensor;
use genret_kernels::{self as kernels, AllowedRows, Best, FORBIDDEN, log_sum_exp};
use rayon::prelude::*;

use super::Normalise;
use crate::index::{ContinuationRow, Continuations};
use crate::model::{ModelError, NextTokenModel};
use crate::types::TokenId;

/// Hypotheses whose logits are held at once.
pub const HEAD_ROWS: usize = 256;

/// Hypotheses whose logits are held at once on a device that selects by itself.
const DEVICE_ROWS: usize = 2048;

/// The head is evaluated for the allowed tokens alone where they are at most one in this many.
const FEW_SHARE: usize = 4;

/// The logits of one hypothesis at the tokens that may follow it.
pub struct AllowedLogits<'a, S> {
    /// The tokens that may follow, with counts and states.
    pub allowed: ContinuationRow<'a, S>,
    /// Logarithm of the sum over which probabilities are normalised.
    pub norm: f64,
    logits: &'a [f32],
    /// Column of each token, where the logits are not those of the whole vocabulary.
    columns: Option<&'a [u32]>,
}

impl<S> AllowedLogits<'_, S> {
    /// Logit of the allowed token number `nth`.
    #[inline]
    pub fn logit(&self, nth: usize) -> f32 {
        let token = self.allowed.tokens[nth].index();
        self.logits[self
            .columns
            .map_or(token, |columns| columns[token] as usize)]
    }

    /// The best `limit` allowed tokens for which `takes(number)` holds, as (number, logit); equal logits in
    /// the order of tokens. Unsorted.
    pub fn best(&self, limit: usize, takes: impl Fn(usize) -> bool) -> Vec<(u32, f32)> {
        let len = self.allowed.tokens.len();
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(len.min(4 * limit));
        // A token with a logit below the worst of `limit` known ones is passed over at once.
        let mut threshold = f32::NEG_INFINITY;
        for nth in 0..len {
            let logit = self.logit(nth);
            if logit >= threshold && takes(nth) {
                best.push((nth as u32, logit));
                if best.len() >= 4 * limit {
                    best.select_nth_unstable_by(limit - 1, by_logit);
                    best.truncate(limit);
                    threshold = best[limit - 1].1;
                }
            }
        }
        if best.len() > limit {
            best.select_nth_unstable_by(limit - 1, by_logit);
            best.truncate(limit);
        }
        best
    }
}

fn by_logit(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// `use_row(row, logits)` of every row of `hidden_nd`, in order; a row whose tokens are none gives `None`.
///
/// `continuations` holds one row per row of `hidden_nd`. Time: the output head, two passes over each
/// row's logits, and what `use_row` does.
///
/// # Errors
/// [`ModelError::NotFinite`] if a logit is not a number.
pub fn for_each_row<M, S, T>(
    model: &M,
    hidden_nd: &Tensor<2>,
    continuations: &Continuations<'_, S>,
    normalise: Normalise,
    use_row: impl Fn(usize, &AllowedLogits<'_, S>) -> T + Sync,
) -> Result<Vec<Option<T>>, ModelError>
where
    M: NextTokenModel,
    S: Copy + Send + Sync,
    T: Send,
{
    let [num_rows, _] = hidden_nd.dims();
    let vocab = model.footprint().vocab;
    let mut results = Vec::with_capacity(num_rows);
    let mut columns = vec![];
    for start in (0..num_rows).step_by(HEAD_ROWS) {
        let rows = start..num_rows.min(start + HEAD_ROWS);
        let hidden = if rows.len() == num_rows {
            hidden_nd.clone()
        } else {
            hidden_nd.clone().slice([rows.clone()])
        };
        let few = match normalise {
            Normalise::Full => None,
            Normalise::Allowed | Normalise::None => {
                few_tokens(continuations, rows.clone(), vocab / FEW_SHARE)
            }
        };
        let logits = match &few {
            Some(tokens) if tokens.is_empty() => {
                results.extend(rows.map(|_| None));
                continue;
            }
            Some(tokens) => {
                columns.resize(vocab, 0);
                for (column, token) in tokens.iter().enumerate() {
                    columns[token.index()] = column as u32;
                }
                model.logits_of(hidden, tokens)
            }
            None => model.logits(hidden),
        };
        let width = logits.dims()[1];
        let data = logits.into_data().convert::<f32>();
        let values = data
            .as_slice::<f32>()
            .expect("the data was converted to f32");
        let columns = few.as_ref().map(|_| &columns[..]);
        let of_row = |row: usize| {
            let allowed = continuations.row(row);
            let allowed_len = allowed.tokens.len();
            if allowed_len == 0 {
                return Ok(None);
            }
            let mut logits = AllowedLogits {
                allowed,
                norm: 0.0,
                logits: &values[(row - start) * width..][..width],
                columns,
            };
            logits.norm = match normalise {
                Normalise::Full => log_sum_exp(logits.logits),
                Normalise::Allowed => {
                    let gathered: Vec<f32> =
                        (0..allowed_len).map(|nth| logits.logit(nth)).collect();
                    log_sum_exp(&gathered)
                }
                // Not a number if a logit is not, as the sums are.
                Normalise::None => {
                    let logits = (0..allowed_len).map(|nth| logits.logit(nth));
                    f64::from(logits.fold(0.0, |zero, logit| zero + 0.0 * logit))
                }
            };
            if !logits.norm.is_finite() {
                return Err(ModelError::NotFinite { what: "logits" });
            }
            Ok(Some(use_row(row, &logits)))
        };
        let block: Result<Vec<Option<T>>, ModelError> = rows.into_par_iter().map(of_row).collect();
        results.extend(block?);
    }
    Ok(results)
}

/// The best `limit` continuations of each query, normalised over the whole vocabulary: best first, equal ones by
/// row, then token.
///
/// Query `q` owns the rows `queries[q]..queries[q + 1]`, which so far have `log_probs`; `takes(row, nth)` says whether a
/// continuation may be taken. On a GPU what is allowed goes to the device and `limit` pairs per query come back.
/// Candidates are compared in 32-bit floats, less the best log-probability of their query.
///
/// # Errors
/// [`ModelError::NotFinite`] if a logit is not a number.
pub fn best_of_queries<M, S>(
    model: &M,
    hidden_nd: &Tensor<2>,
    continuations: &Continuations<'_, S>,
    queries: &[u32],
    log_probs: &[f64],
    limit: usize,
    takes: impl Fn(&ContinuationRow<'_, S>, usize) -> bool,
) -> Result<Vec<Vec<Best>>, ModelError>
where
    M: NextTokenModel,
    S: Copy,
{
    let mut offsets = Vec::with_capacity(continuations.len() + 1);
    offsets.push(0);
    let mut tokens = vec![];
    for row in continuations.iter() {
        let allowed = row.tokens.iter().enumerate();
        tokens
            .extend(allowed.map(|(nth, token)| if takes(&row, nth) { token.0 } else { FORBIDDEN }));
        offsets
            .push(u32::try_from(tokens.len()).expect("a step has fewer than 2^32 continuations"));
    }
    let mut bases = Vec::with_capacity(log_probs.len());
    for range in queries.windows(2) {
        let own = &log_probs[range[0] as usize..range[1] as usize];
        let best = own.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        bases.extend(own.iter().map(|log_prob| (log_prob - best) as f32));
    }
    let allowed = AllowedRows {
        offsets: &offsets,
        tokens: &tokens,
        bases: &bases,
        queries,
    };
    let logits_of = |rows: Range<usize>| {
        let all = rows.len() == hidden_nd.dims()[0];
        let hidden = hidden_nd.clone();
        model.logits(if all { hidden } else { hidden.slice([rows]) })
    };
    let best = kernels::constrained_best(logits_of, &allowed, limit, DEVICE_ROWS);
    let finite = |best: &Best| best.log_prob.is_finite();
    if !best.iter().flatten().all(finite) {
        return Err(ModelError::NotFinite { what: "logits" });
    }
    Ok(best)
}

/// All tokens that rows may take, increasing; `None` if they are more than `limit`.
fn few_tokens<S: Copy>(
    continuations: &Continuations<'_, S>,
    rows: Range<usize>,
    limit: usize,
) -> Option<Vec<TokenId>> {
    let mut tokens: Vec<TokenId> = vec![];
    for row in rows {
        tokens.extend_from_slice(continuations.row(row).tokens);
        if tokens.len() > 4 * limit {
            tokens.sort_unstable();
            tokens.dedup();
            if tokens.len() > limit {
                return None;
            }
        }
    }
    tokens.sort_unstable();
    tokens.dedup();
    (tokens.len() <= limit).then_some(tokens)
}
