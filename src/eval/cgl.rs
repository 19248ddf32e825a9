//! Contrastive generation loss: from token losses to one number per (query, passage) pair.
//!
//! With l(d) the loss of generating passage d's identifiers for the query,
//! `CGL = -log(exp(-l(d+)) / (exp(-l(d+)) + sum over negatives of exp(-l(d-))))`, in nats: contrastive
//! entropy (Fang et al. 2024) on generation losses, as Cai et al. (SIGIR 2025) use it. A model that
//! cannot tell passages apart has ln(1 + number of negatives), ln 257 = 5.549 with 256.

use std::fmt;

use hashbrown::HashMap;
use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64;

use crate::rng;
use crate::types::{PassageIdx, QueryId};

/// How the token losses of a passage's spans become the loss of the passage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Aggregation {
    /// Mean over the target tokens of all spans: the definition of the study.
    MeanToken,
    /// Sum over the tokens of a span, mean over the spans: for one identifier its
    /// negative log-probability.
    SumSpan,
    /// `-log sum over spans of p(span)`: any of the spans will do. More spans make it smaller, so
    /// passages need equally many to be compared.
    LogSumExp,
    /// The loss of the most probable span.
    Max,
}

impl Aggregation {
    /// Every aggregation, the default first.
    pub const ALL: [Self; 4] = [Self::MeanToken, Self::SumSpan, Self::LogSumExp, Self::Max];

    /// The loss of a passage, in nats, from those of the tokens of its spans. NaN if there are no
    /// spans, or none with a token for [`Aggregation::MeanToken`]: nothing was measured.
    pub fn passage_loss(self, spans: &[Vec<f32>]) -> f64 {
        let sum = |span: &Vec<f32>| span.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        let total = || spans.iter().map(sum).sum::<f64>();
        if spans.is_empty() {
            return f64::NAN;
        }
        match self {
            Self::MeanToken => total() / spans.iter().map(Vec::len).sum::<usize>() as f64,
            Self::SumSpan => total() / spans.len() as f64,
            Self::LogSumExp => -log_sum_exp(spans.iter().map(|span| -sum(span))),
            // `f64::min` would drop a NaN.
            Self::Max => {
                spans.iter().map(sum).fold(
                    f64::INFINITY,
                    |a, b| if a.is_nan() || b >= a { a } else { b },
                )
            }
        }
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MeanToken => "mean-token",
            Self::SumSpan => "sum-span",
            Self::LogSumExp => "logsumexp",
            Self::Max => "max",
        })
    }
}

/// Contrastive generation loss of one positive passage against negatives, in nats; NaN if a loss is.
pub fn contrastive(positive_loss: f64, negative_losses: &[f64]) -> f64 {
    let all = std::iter::once(positive_loss).chain(negative_losses.iter().copied());
    positive_loss + log_sum_exp(all.map(|loss| -loss))
}

/// `log(sum of exp(x))` without overflow; NaN if a value is.
fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() && !values.clone().any(f64::is_nan) {
        return max;
    }
    max + values.map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// Negative passages of a query: uniform without replacement from those not in `relevant`, the same
/// for every model under one seed. The first n of a longer draw are the draw of n. Fewer than
/// `count` if the corpus has no more.
pub fn negatives(
    seed: u64,
    query: &QueryId,
    corpus_len: usize,
    relevant: &[PassageIdx],
    count: usize,
) -> Vec<PassageIdx> {
    let mut relevant: Vec<usize> = relevant
        .iter()
        .map(|p| p.index())
        .filter(|&p| p < corpus_len)
        .collect();
    relevant.sort_unstable();
    relevant.dedup();
    let available = corpus_len - relevant.len();
    let mut stream = rng::stream(seed, "cgl-negatives", &[xxh3_64(query.as_str().as_bytes())]);
    // The first steps of a Fisher-Yates shuffle of 0..available, holding only what has moved.
    let mut moved: HashMap<usize, usize> = HashMap::new();
    (0..count.min(available))
        .map(|i| {
            let j = stream.random_range(i as u64..available as u64) as usize;
            let drawn = moved.get(&j).copied().unwrap_or(j);
            let here = moved.get(&i).copied().unwrap_or(i);
            moved.insert(j, here);
            // The drawn-th passage that is not relevant.
            let mut passage = drawn;
            for &skipped in &relevant {
                if skipped > passage {
                    break;
                }
                passage += 1;
            }
            PassageIdx(passage as u32)
        })
        .collect()
}

/// Mean and its standard error over pairs: standard deviation (n - 1) / square root of n. The error
/// is NaN for fewer than two values, the mean for none; a NaN among the values shows in both.
pub fn mean_and_standard_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() < 2 {
        return (mean, f64::NAN);
    }
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0) / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn chance_is_the_logarithm_of_the_number_of_passages() {
        assert!(close(contrastive(3.0, &[3.0; 256]), 257f64.ln()));
        assert!((257f64.ln() - 5.549).abs() < 1e-3);
    }

    #[test]
    fn the_loss_is_the_formula_and_does_not_overflow() {
        let (positive, negatives) = (0.5f64, [1.0f64, 2.0]);
        let e = |l: f64| (-l).exp();
        let expected = -(e(positive) / (e(positive) + e(1.0) + e(2.0))).ln();
        assert!(close(contrastive(positive, &negatives), expected));
        assert!(close(contrastive(1000.0, &[0.0]), 1000.0));
        assert!(close(contrastive(0.0, &[1000.0]), 0.0));
        assert_eq!(contrastive(0.0, &[f64::INFINITY]), 0.0);
        assert!(contrastive(0.0, &[f64::NAN]).is_nan());
        assert!(contrastive(f64::NAN, &[1.0]).is_nan());
        assert_eq!(contrastive(2.0, &[]), 0.0);
    }

    #[test]
    fn aggregations_of_two_spans() {
        let spans = vec![vec![1.0, 2.0, 3.0], vec![2.0]];
        assert_eq!(Aggregation::MeanToken.passage_loss(&spans), 2.0);
        assert_eq!(Aggregation::SumSpan.passage_loss(&spans), 4.0);
        assert_eq!(Aggregation::Max.passage_loss(&spans), 2.0);
        let both = -((-6f64).exp() + (-2f64).exp()).ln();
        assert!(close(Aggregation::LogSumExp.passage_loss(&spans), both));
        for aggregation in Aggregation::ALL {
            assert!(aggregation.passage_loss(&[]).is_nan());
            assert!(
                aggregation
                    .passage_loss(&[vec![1.0], vec![f32::NAN]])
                    .is_nan()
            );
            assert!(
                aggregation
                    .passage_loss(&[vec![f32::NAN], vec![1.0]])
                    .is_nan()
            );
        }
        let names: Vec<_> = Aggregation::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["mean-token", "sum-span", "logsumexp", "max"]);
    }

    fn draw(seed: u64, query: &str, len: usize, relevant: &[u32], count: usize) -> Vec<u32> {
        let relevant: Vec<_> = relevant.iter().map(|&p| PassageIdx(p)).collect();
        negatives(seed, &query.into(), len, &relevant, count)
            .iter()
            .map(|p| p.0)
            .collect()
    }

    #[test]
    fn negatives_are_distinct_not_relevant_and_nested() {
        for len in [1, 2, 63, 64, 65, 511, 1000] {
            let relevant = [0, (len as u32 - 1) / 2, len as u32 - 1, 0];
            let all = draw(7, "q", len, &relevant, len);
            let mut sorted = all.clone();
            sorted.sort_unstable();
            let expected: Vec<u32> = (0..len as u32).filter(|p| !relevant.contains(p)).collect();
            assert_eq!(sorted, expected);
            for count in [0, 1, all.len() / 2] {
                let count = count.min(all.len());
                assert_eq!(draw(7, "q", len, &relevant, count), all[..count]);
            }
        }
        assert_ne!(draw(7, "q", 1000, &[], 9), draw(8, "q", 1000, &[], 9));
        assert_ne!(draw(7, "q", 1000, &[], 9), draw(7, "p", 1000, &[], 9));
    }

    #[test]
    fn negatives_are_uniform() {
        // 2 of 6 passages for 6,000 queries: each is drawn 2,000 times, standard deviation 37.
        let mut counts = [0u32; 8];
        for query in 0..6000 {
            for passage in draw(0, &format!("q{query}"), 8, &[2, 5], 2) {
                counts[passage as usize] += 1;
            }
        }
        assert_eq!((counts[2], counts[5]), (0, 0));
        let far = |count: &u32| count.abs_diff(2000) > 150;
        assert!(!counts.iter().filter(|c| **c > 0).any(far), "{counts:?}");
    }

    #[test]
    fn standard_error_of_one_to_five() {
        let (mean, error) = mean_and_standard_error(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(close(mean, 3.0) && close(error, 0.5f64.sqrt()));
        assert!(mean_and_standard_error(&[2.0]).1.is_nan());
    }
}
