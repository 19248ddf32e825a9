//! Rows of scores: bias, mask, softmax, and the way back.

use crate::simd::{dot, exp_row, scale, vectorised};

/// What is added to the scores of a block, by head and distance.
#[derive(Clone, Copy)]
pub(super) struct Bias<'a> {
    /// One row of `stride` numbers per head of the group.
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    /// Where the numbers of the block's first query begin; each next query begins one earlier.
    pub(super) first: usize,
}

vectorised! {
    /// Softmax of `group * count` rows of `keys` scores; with a causal mask, row `r` of a group
    /// stands at position `causal_first + r` and later keys get zero.
    pub(super) fn softmax(
        scores: &mut [f32],
        keys: usize,
        group: usize,
        count: usize,
        causal_first: Option<usize>,
        bias: Option<Bias<'_>>,
    ) {
        for (row, scores) in scores.chunks_exact_mut(keys).take(group * count).enumerate() {
            let (head, query) = (row / count, row % count);
            let visible = causal_first.map_or(keys, |first| first + query + 1);
            let (seen, unseen) = scores.split_at_mut(visible);
            if let Some(bias) = bias {
                let terms = &bias.values[head * bias.stride + bias.first - query..][..visible];
                for (score, term) in seen.iter_mut().zip(terms) {
                    *score += term;
                }
            }
            let (_, sum) = exp_row(seen);
            scale(seen, 1.0 / sum);
            unseen.fill(0.0);
        }
    }
}

vectorised! {
    /// Turns gradients of probabilities into gradients of scores: `p (dp - sum(p dp))` for each
    /// row.
    pub(super) fn softmax_backward(probs: &[f32], dprobs: &mut [f32], keys: usize, rows: usize) {
        for (p, dp) in probs.chunks_exact(keys).zip(dprobs.chunks_exact_mut(keys)).take(rows) {
            let pull = dot(p, dp);
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - pull);
            }
        }
    }
}

vectorised! {
    /// Adds the gradients of `count` rows of scores of one head to those of its bias; row `r` begins
    /// at `first - r`.
    pub(super) fn add_scores(
        dscores: &[f32],
        keys: usize,
        count: usize,
        first: usize,
        bias: &mut [f32],
    ) {
        for (row, dscores) in dscores.chunks_exact(keys).take(count).enumerate() {
            for (total, term) in bias[first - row..][..keys].iter_mut().zip(dscores) {
                *total += term;
            }
        }
    }
}
