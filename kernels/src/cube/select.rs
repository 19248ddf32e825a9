//! The constrained step of a beam search on the device: what every allowed continuation scores, and the
//! best of each query.
//!
//! [`score_allowed`] reads a row's logits once for the normaliser of the whole vocabulary and writes the
//! scores of the allowed tokens alone; [`best_of`] finds the largest of a query's scores, whatever
//! their rows, by bisection of their bit patterns: two bits of the threshold per pass over scores that stay
//! in the cache. Masked logits are never written, and the host reads `limit` numbers per query.
//!
//! Time at 100 beams and 32k tokens: the logits once (13 MB in 32-bit floats) and 17 passes over the
//! scores, by one cube per query.

use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{Units, reduce_max_sum, reduce_sums};

/// In the place of a token: the continuation is there and may not be taken.
pub const FORBIDDEN: u32 = u32::MAX;

/// Score of what may not be taken.
const NEVER: f32 = f32::NEG_INFINITY;

#[cube(launch_unchecked)]
fn score_allowed_kernel<F: Float>(
    logits: &[F],
    offsets: &[u32],
    tokens: &[u32],
    bases: &[f32],
    scores: &mut [f32],
    vocab: u32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS_X as usize;
    let unit = UNIT_POS_X as usize;
    let vocab = vocab as usize;
    let first = row * vocab;
    let mut max = f32::new(f32::MIN);
    let mut sum = 0.0f32;
    let mut i = unit;
    while i < vocab {
        let x = f32::cast_from(logits[first + i]);
        // One exponential per logit: the sum is rescaled only where the maximum grows.
        let apart = f32::exp(-f32::abs(x - max));
        if x > max {
            sum = sum * apart + 1.0;
            max = x;
        } else {
            sum += apart;
        }
        i += units;
    }
    let mut maxima = Shared::new_slice(units);
    let mut sums = Shared::new_slice(units);
    maxima[unit] = max;
    sums[unit] = sum;
    reduce_max_sum(&mut maxima, &mut sums, units);
    let base = bases[row] - (maxima[0] + f32::ln(sums[0]));
    let end = offsets[row + 1] as usize;
    let mut at = offsets[row] as usize + unit;
    while at < end {
        let token = tokens[at];
        let mut score = f32::new(NEVER);
        if token != 0xFFFF_FFFFu32 {
            score = base + f32::cast_from(logits[first + token as usize]);
        }
        scores[at] = score;
        at += units;
    }
}

/// The order of floats as the order of integers; NaN is the largest.
#[cube]
fn rank_of(score: f32) -> u32 {
    let bits = u32::reinterpret(score);
    let mut rank = bits | 0x8000_0000u32;
    if bits >= 0x8000_0000u32 {
        rank = !bits;
    }
    if score.is_nan() {
        rank = 0xFFFF_FFFFu32;
    }
    rank
}

#[cube(launch_unchecked)]
fn best_of_kernel(
    scores: &[f32],
    queries: &[u32],
    winners: &mut [u32],
    limit: u32,
    #[comptime] units: usize,
) {
    let query = CUBE_POS_X as usize;
    let unit = UNIT_POS_X as usize;
    let begin = queries[query] as usize;
    let end = queries[query + 1] as usize;
    // One number of each of three kinds per unit.
    let mut counts = Shared::new_slice(3 * units);

    // The largest rank that at least `limit` scores reach, two bits at a time; zero if there are not as many.
    let mut threshold = 0u32;
    let mut shift = 32u32;
    while shift > 0 {
        shift -= 2;
        let one = threshold + (1u32 << shift);
        let two = one + (1u32 << shift);
        let three = two + (1u32 << shift);
        let mut reach_one = 0u32;
        let mut reach_two = 0u32;
        let mut reach_three = 0u32;
        let mut at = begin + unit;
        while at < end {
            let rank = rank_of(scores[at]);
            if rank >= one {
                reach_one += 1;
            }
            if rank >= two {
                reach_two += 1;
            }
            if rank >= three {
                reach_three += 1;
            }
            at += units;
        }
        counts[unit] = reach_one;
        counts[units + unit] = reach_two;
        counts[2 * units + unit] = reach_three;
        reduce_sums(&mut counts, 3usize, units);
        if counts[2 * units] >= limit {
            threshold = three;
        } else if counts[units] >= limit {
            threshold = two;
        } else if counts[0] >= limit {
            threshold = one;
        }
        // Nobody overwrites the sums before all have read them.
        sync_cube();
    }

    // All above the threshold win, and of those at it the first in order, until there are `limit`.
    let mut above = 0u32;
    let mut equal = 0u32;
    // A unit takes consecutive scores now, so that counts of units before it are counts of places before it.
    let share = (end - begin).div_ceil(units);
    let from = usize::min(begin + unit * share, end);
    let to = usize::min(from + share, end);
    let mut at = from;
    while at < to {
        let rank = rank_of(scores[at]);
        if rank > threshold {
            above += 1;
        } else if rank == threshold {
            equal += 1;
        }
        at += 1;
    }
    counts[unit] = above;
    counts[units + unit] = equal;
    sync_cube();
    let mut above_before = 0u32;
    let mut equal_before = 0u32;
    let mut above_all = 0u32;
    let mut other = 0usize;
    while other < units {
        if other < unit {
            above_before += counts[other];
            equal_before += counts[units + other];
        }
        above_all += counts[other];
        other += 1;
    }
    let wanted = limit - u32::min(above_all, limit);
    let mut at = from;
    while at < to {
        let score = scores[at];
        let rank = rank_of(score);
        let mut place = limit;
        if rank > threshold {
            place = above_before;
            above_before += 1;
        } else if rank == threshold {
            if equal_before < wanted {
                place = above_all + equal_before;
            }
            equal_before += 1;
        }
        if place < limit {
            let slot = (query as u32 * limit + place) as usize * 2;
            winners[slot] = (at - begin) as u32;
            winners[slot + 1] = u32::reinterpret(score);
        }
        at += 1;
    }
}

/// Scores of the allowed tokens of each row, in the order of `tokens`: `base + logit - log sum of
/// e^logit over the vocabulary`.
///
/// `logits` are `[rows, vocab]` of type `dtype`; row `i` allows `tokens[offsets[i]..offsets[i + 1]]`, and
/// those that are [`FORBIDDEN`] score negative infinity.
pub fn score_allowed(
    client: &Client,
    logits: BufferArg,
    dtype: ElemType,
    vocab: usize,
    rows: &RowsOnDevice,
    units: Units,
) -> Handle {
    let scores = client.empty(rows.allowed.max(1) * size_of::<f32>());
    if rows.count > 0 {
        // SAFETY: `RowsOnDevice` is made of checked rows: offsets lie in the scores and tokens in the vocabulary.
        unsafe {
            score_allowed_kernel::launch_unchecked(
                client,
                CubeCount::new_1d(rows.count as u32),
                units.cube_dim(),
                logits,
                BufferArg::from_raw_parts(rows.offsets.clone(), rows.count + 1),
                BufferArg::from_raw_parts(rows.tokens.clone(), rows.allowed.max(1)),
                BufferArg::from_raw_parts(rows.bases.clone(), rows.count),
                BufferArg::from_raw_parts(scores.clone(), rows.allowed.max(1)),
                vocab as u32,
                units.get(),
                dtype,
            );
        }
    }
    scores
}

/// What rows of logits may go on with, on the device.
pub struct RowsOnDevice {
    offsets: Handle,
    tokens: Handle,
    bases: Handle,
    count: usize,
    allowed: usize,
}

impl RowsOnDevice {
    /// Uploads the rows.
    ///
    /// # Panics
    /// Where offsets do not rise to the number of tokens, or a token is outside `0..vocab`.
    pub fn new(
        client: &Client,
        offsets: &[u32],
        tokens: &[u32],
        bases: &[f32],
        vocab: usize,
    ) -> Self {
        let count = bases.len();
        assert_eq!(
            offsets.len(),
            count + 1,
            "constrained step: one row per base"
        );
        assert!(
            offsets[0] == 0 && offsets.is_sorted() && offsets[count] as usize == tokens.len(),
            "constrained step: offsets rise from 0 to the number of tokens"
        );
        assert!(
            tokens
                .iter()
                .all(|&t| t == FORBIDDEN || (t as usize) < vocab),
            "constrained step: tokens lie in the vocabulary"
        );
        let tokens_or_one = if tokens.is_empty() {
            &[FORBIDDEN][..]
        } else {
            tokens
        };
        Self {
            offsets: client.create_from_slice(u32::as_bytes(offsets)),
            tokens: client.create_from_slice(u32::as_bytes(tokens_or_one)),
            bases: client.create_from_slice(f32::as_bytes(bases)),
            count,
            allowed: tokens.len(),
        }
    }
}

/// The best `limit` scores of each query: `[queries, limit, 2]`, place among the query's scores and bits
/// of the score, in no order.
///
/// Query `q` owns `scores[queries[q]..queries[q + 1]]`. Of equal scores the first are taken; a NaN is larger
/// than every number. Where a query has fewer scores the rest of its places is [`FORBIDDEN`].
pub fn best_of(
    client: &Client,
    scores: BufferArg,
    queries: &[u32],
    limit: usize,
    units: Units,
) -> Handle {
    let count = queries.len() - 1;
    let empty = vec![FORBIDDEN; (count * limit * 2).max(1)];
    let winners = client.create_from_slice(u32::as_bytes(&empty));
    if count * limit > 0 {
        let queries_on_device = client.create_from_slice(u32::as_bytes(queries));
        // SAFETY: the caller's offsets lie in the scores; places are below `limit`.
        unsafe {
            best_of_kernel::launch_unchecked(
                client,
                CubeCount::new_1d(count as u32),
                units.cube_dim(),
                scores,
                BufferArg::from_raw_parts(queries_on_device, queries.len()),
                BufferArg::from_raw_parts(winners.clone(), empty.len()),
                limit as u32,
                units.get(),
            );
        }
    }
    winners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::testing::{client, random};

    /// What the two kernels mean, in the same 32-bit floats.
    fn naive_scores(
        logits: &[f32],
        vocab: usize,
        offsets: &[u32],
        tokens: &[u32],
        bases: &[f32],
    ) -> Vec<f64> {
        let mut scores = vec![];
        for (row, base) in bases.iter().enumerate() {
            let logits = &logits[row * vocab..][..vocab];
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            for &token in &tokens[offsets[row] as usize..offsets[row + 1] as usize] {
                scores.push(if token == FORBIDDEN {
                    f64::NEG_INFINITY
                } else {
                    f64::from(*base) + f64::from(logits[token as usize]) - sum.ln()
                });
            }
        }
        scores
    }

    fn naive_best(scores: &[f32], queries: &[u32], limit: usize) -> Vec<Vec<(u32, f32)>> {
        queries
            .windows(2)
            .map(|range| {
                let own = &scores[range[0] as usize..range[1] as usize];
                let mut order: Vec<(u32, f32)> = own
                    .iter()
                    .enumerate()
                    .map(|(i, &s)| (i as u32, s))
                    .collect();
                order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                order.truncate(limit);
                order.sort_by_key(|&(i, _)| i);
                order
            })
            .collect()
    }

    fn read_best(client: &Client, handle: Handle, limit: usize) -> Vec<Vec<(u32, f32)>> {
        let bytes = client.read_one_unchecked(handle);
        u32::from_bytes(&bytes)
            .chunks_exact(2 * limit)
            .map(|of_query| {
                let mut found: Vec<(u32, f32)> = of_query
                    .chunks_exact(2)
                    .filter(|pair| pair[0] != FORBIDDEN)
                    .map(|pair| (pair[0], f32::from_bits(pair[1])))
                    .collect();
                found.sort_by_key(|&(i, _)| i);
                found
            })
            .collect()
    }

    #[test]
    fn scores_of_allowed_tokens_equal_the_formula() {
        let client = client();
        for (rows, vocab, most, units) in [
            (1, 1, 1, 1),
            (3, 63, 7, 1),
            (5, 513, 90, 2),
            (2, 1000, 999, 4),
        ] {
            let logits: Vec<f32> = random(rows * vocab, 7).iter().map(|x| 6.0 * x).collect();
            let (mut offsets, mut tokens) = (vec![0u32], vec![]);
            for row in 0..rows {
                let count = if row == 1 { 0 } else { most };
                tokens.extend((0..count).map(|i| ((i * 13 + row) % vocab) as u32));
                offsets.push(tokens.len() as u32);
            }
            tokens[0] = FORBIDDEN;
            let bases: Vec<f32> = random(rows, 8);
            let on_device = RowsOnDevice::new(&client, &offsets, &tokens, &bases, vocab);
            let handle = client.create_from_slice(f32::as_bytes(&logits));
            // SAFETY: the buffer holds as many values.
            let arg = unsafe { BufferArg::from_raw_parts(handle, logits.len()) };
            let scores = score_allowed(
                &client,
                arg,
                f32::elem_type_native(),
                vocab,
                &on_device,
                Units::new(units),
            );
            let bytes = client.read_one_unchecked(scores);
            let expected = naive_scores(&logits, vocab, &offsets, &tokens, &bases);
            for (got, expected) in f32::from_bytes(&bytes).iter().zip(&expected) {
                let same =
                    f64::from(*got) == *expected || (f64::from(*got) - expected).abs() < 2e-5;
                assert!(same, "{got} is not {expected} with {units} units");
            }
        }
    }

    #[test]
    fn the_best_of_each_query_are_found_ties_in_order() {
        let client = client();
        for (units, limit) in [(1, 1), (1, 5), (1, 64), (2, 4), (4, 7)] {
            // Few distinct values, so that most thresholds are tied; one query without scores.
            let mut scores: Vec<f32> = random(600, limit as u64)
                .iter()
                .map(|x| (x * 8.0).round() / 4.0 - 3.0)
                .collect();
            scores[17] = f32::NEG_INFINITY;
            scores[300] = 0.0;
            scores[301] = -0.0;
            // Units of a cube wait for each other in a loop on the CPU: few cubes of several.
            let queries = &[0, 1, 66, 66, 129, 600][..if units == 1 { 6 } else { 3 }];
            let handle = client.create_from_slice(f32::as_bytes(&scores));
            // SAFETY: the buffer holds as many values.
            let arg = unsafe { BufferArg::from_raw_parts(handle, scores.len()) };
            let winners = best_of(&client, arg, queries, limit, Units::new(units));
            assert_eq!(
                read_best(&client, winners, limit),
                naive_best(&scores, queries, limit)
            );
        }
    }

    #[test]
    fn a_nan_wins_so_that_it_is_seen() {
        let client = client();
        let handle = client.create_from_slice(f32::as_bytes(&[1.0, -f32::NAN, 3.0]));
        // SAFETY: the buffer holds as many values.
        let arg = unsafe { BufferArg::from_raw_parts(handle, 3) };
        let winners = best_of(&client, arg, &[0, 3], 1, Units::new(1));
        assert!(read_best(&client, winners, 1)[0][0].1.is_nan());
    }
}
