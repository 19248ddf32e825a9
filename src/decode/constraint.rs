//! Where logits meet the index: the best allowed extensions of the hypotheses of one query.

use std::cmp::Ordering;
use std::ops::Range;

use genret_kernels::log_sum_exp;

use super::Normalise;
use crate::index::Continuations;
use crate::types::TokenId;

/// A hypothesis extended by one token that the index allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extension<S> {
    /// Which hypothesis of the query it extends.
    pub parent: usize,
    /// The token it adds.
    pub token: TokenId,
    /// Log-probability of the extended sequence.
    pub log_prob: f64,
    /// Occurrences of the extended sequence in the corpus.
    pub count: usize,
    /// Its state in the index.
    pub state: S,
}

/// A hypothesis to extend: the logits of its next token and its log-probability so far.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Logits over the vocabulary.
    pub logits: &'a [f32],
    /// Log-probability of the hypothesis.
    pub log_prob: f64,
}

/// The best `limit` extensions of `rows`, best first; equal scores by parent, then token.
///
/// `continuations` holds those of row i of the query at `first + i`. O(v) per row and
/// O(allowed) for the selection. `None` if a logit is not a number.
pub fn best_extensions<S: Copy>(
    rows: &[Row<'_>],
    continuations: &Continuations<'_, S>,
    first: usize,
    limit: usize,
    normalise: Normalise,
) -> Option<Vec<Extension<S>>> {
    let mut best: Vec<Extension<S>> = vec![];
    let mut gathered = vec![];
    for (parent, row) in rows.iter().enumerate() {
        let allowed = continuations.row(first + parent);
        if allowed.tokens.is_empty() {
            continue;
        }
        let norm = match normalise {
            Normalise::Full => log_sum_exp(row.logits),
            Normalise::Allowed => {
                gathered.clear();
                gathered.extend(allowed.tokens.iter().map(|t| row.logits[t.index()]));
                log_sum_exp(&gathered)
            }
        };
        if !norm.is_finite() {
            return None;
        }
        for (i, &token) in allowed.tokens.iter().enumerate() {
            best.push(Extension {
                parent,
                token,
                log_prob: row.log_prob + f64::from(row.logits[token.index()]) - norm,
                count: allowed.count(i),
                state: allowed.state(i),
            });
        }
        // Pruned as it grows, so that memory stays within one row's allowed set and `limit`.
        keep_best(&mut best, limit);
    }
    best.sort_unstable_by(order);
    Some(best)
}

fn keep_best<S>(extensions: &mut Vec<Extension<S>>, limit: usize) {
    if extensions.len() > limit {
        extensions.select_nth_unstable_by(limit - 1, order);
        extensions.truncate(limit);
    }
}

fn order<S>(a: &Extension<S>, b: &Extension<S>) -> Ordering {
    b.log_prob
        .total_cmp(&a.log_prob)
        .then(a.parent.cmp(&b.parent))
        .then(a.token.cmp(&b.token))
}

/// The rows of hypotheses in a flat batch that belong to each query.
pub fn row_ranges(per_query: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut start = 0;
    per_query
        .map(|len| {
            start += len;
            start - len..start
        })
        .collect()
}
