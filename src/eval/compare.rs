//! Whether two systems differ: paired tests over the same queries.
//!
//! Everything takes the differences of per-query values, first system minus second, so that values
//! of different queries cannot be compared. The randomisation test (Fisher 1935; Smucker, Allan and
//! Carterette 2007 for retrieval) asks how often random signs give a mean as far from zero; it is
//! exact for few differences and assumes no distribution. The t-test is beside it for reference.
//! Random parts depend on the seed alone, not on the number of threads.

use rand::{Rng, RngExt};
use rayon::prelude::*;

use crate::rng;

/// How much work a comparison does, and from which seed.
#[derive(Clone, Debug, PartialEq)]
pub struct CompareOptions {
    /// Sign patterns of the randomisation test; all of them if there are no more.
    pub permutations: usize,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// Coverage of the interval, between 0 and 1.
    pub confidence: f64,
    /// Seed of both.
    pub seed: u64,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self {
            permutations: 100_000,
            resamples: 10_000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

/// What is known about a difference of two systems.
#[derive(serde::Serialize, Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Queries compared.
    pub queries: usize,
    /// Queries on which the first system is better.
    pub wins: usize,
    /// Queries on which the second system is better.
    pub losses: usize,
    /// Mean difference.
    pub difference: f64,
    /// Bootstrap interval of the mean difference over queries (percentiles).
    pub interval: (f64, f64),
    /// Two-sided p-value of the randomisation test.
    pub p_randomisation: f64,
    /// Two-sided p-value of the paired t-test; `None` for fewer than two queries.
    pub p_t: Option<f64>,
}

/// Compares two systems by their differences; `None` without queries.
pub fn compare(differences: &[f64], options: &CompareOptions) -> Option<Comparison> {
    let interval = bootstrap_interval(differences, options)?;
    Some(Comparison {
        queries: differences.len(),
        wins: differences.iter().filter(|d| **d > 0.0).count(),
        losses: differences.iter().filter(|d| **d < 0.0).count(),
        difference: differences.iter().sum::<f64>() / differences.len() as f64,
        interval,
        p_randomisation: randomisation_test(differences, options),
        p_t: t_test(differences),
    })
}

/// Permutations drawn from one random stream.
const BLOCK: usize = 1000;

/// Two-sided p-value of the paired randomisation test: the share of sign patterns whose sum is at
/// least as far from zero as the observed one.
///
/// Exact if all sign patterns of the differences that are not zero are no more than
/// `options.permutations`. Otherwise that many are drawn and the observed one is counted with them,
/// `(b + 1) / (B + 1)`, so that it is never 0. Cost: permutations x differences additions.
pub fn randomisation_test(differences: &[f64], options: &CompareOptions) -> f64 {
    let nonzero: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    let scale: f64 = nonzero.iter().map(|d| d.abs()).sum();
    // Sums of the same numbers in another order of signs may differ in the last bits.
    let observed = nonzero.iter().sum::<f64>().abs() - 1e-12 * scale;
    let extreme = |signs: &mut dyn FnMut() -> u64| {
        let mut sum = 0.0;
        for chunk in nonzero.chunks(64) {
            let mut bits = signs();
            for difference in chunk {
                // The lowest bit becomes the sign.
                sum += f64::from_bits(difference.to_bits() ^ (bits << 63));
                bits >>= 1;
            }
        }
        sum.abs() >= observed
    };
    let patterns = u32::try_from(nonzero.len())
        .ok()
        .and_then(|n| 1usize.checked_shl(n));
    if let Some(patterns) = patterns.filter(|p| *p <= options.permutations) {
        let count = (0..patterns as u64)
            .filter(|&bits| extreme(&mut || bits))
            .count();
        return count as f64 / patterns as f64;
    }
    let count: usize = (0..options.permutations.div_ceil(BLOCK))
        .into_par_iter()
        .map(|block| {
            let mut stream = rng::stream(options.seed, "randomisation-test", &[block as u64]);
            let here = BLOCK.min(options.permutations - block * BLOCK);
            (0..here)
                .filter(|_| extreme(&mut || stream.next_u64()))
                .count()
        })
        .sum();
    (count + 1) as f64 / (options.permutations + 1) as f64
}

/// Two-sided p-value of the paired t-test; `None` for fewer than two differences.
///
/// Equal differences have no variance: then 1 if they are zero, else 0.
pub fn t_test(differences: &[f64]) -> Option<f64> {
    if differences.len() < 2 {
        return None;
    }
    let count = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / count;
    let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
    if squares == 0.0 {
        return Some(if mean == 0.0 { 1.0 } else { 0.0 });
    }
    let t = mean / (squares / (count - 1.0) / count).sqrt();
    Some(t_tails(t, count - 1.0))
}

/// Holm's adjusted p-values (1979), in the order of the given ones: the i-th smallest of m times
/// m - i, counted from 0, never smaller than one before it, at most 1.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest: f64 = 0.0;
    for (i, &at) in order.iter().enumerate() {
        largest = largest.max((p_values[at] * (order.len() - i) as f64).min(1.0));
        adjusted[at] = largest;
    }
    adjusted
}

/// Percentile bootstrap interval of the mean over queries; `None` without differences. Cost:
/// resamples x differences.
pub fn bootstrap_interval(differences: &[f64], options: &CompareOptions) -> Option<(f64, f64)> {
    let resamples = options.resamples.max(1);
    if differences.is_empty() {
        return None;
    }
    let mut means: Vec<f64> = (0..resamples)
        .into_par_iter()
        .map(|resample| {
            let mut stream = rng::stream(options.seed, "bootstrap", &[resample as u64]);
            let mut draw = || differences[stream.random_range(0..differences.len())];
            (0..differences.len()).map(|_| draw()).sum::<f64>() / differences.len() as f64
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let cut = ((1.0 - options.confidence) / 2.0 * resamples as f64) as usize;
    let cut = cut.min((resamples - 1) / 2);
    Some((means[cut], means[resamples - 1 - cut]))
}

/// Probability that Student's t with `freedom` degrees of freedom is at least as far from zero.
fn t_tails(t: f64, freedom: f64) -> f64 {
    let square = t * t;
    regularised_beta(
        freedom / 2.0,
        0.5,
        freedom / (freedom + square),
        square / (freedom + square),
    )
}

/// The regularised incomplete beta function `I_x(a, b)`; `rest` is `1 - x`, given apart because the
/// subtraction would lose digits. Continued fraction of Abramowitz and Stegun 26.5.8.
fn regularised_beta(a: f64, b: f64, x: f64, rest: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if rest <= 0.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * rest.ln()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, rest) / b
    }
}

/// The continued fraction of [`regularised_beta`] by the modified method of Lentz.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let away_from_zero = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    // Converges in about the square root of max(a, b) steps.
    for m in 1..100_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut step = 1.0;
        for coefficient in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + coefficient * d);
            c = away_from_zero(1.0 + coefficient / c);
            step = c * d;
            value *= step;
        }
        if (step - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

/// Logarithm of the gamma function for `x` of at least 0.5: Stirling's series, the argument raised
/// to 16 first. Relative error below 1e-14.
fn ln_gamma(x: f64) -> f64 {
    let (mut shifted, mut product) = (x, 1.0);
    while shifted < 16.0 {
        product *= shifted;
        shifted += 1.0;
    }
    let square = 1.0 / (shifted * shifted);
    let series = 1.0 / 12.0
        - square
            * (1.0 / 360.0 - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0)));
    (shifted - 0.5) * shifted.ln() - shifted + 0.5 * std::f64::consts::TAU.ln() + series / shifted
        - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: [f64; 8] = [0.5, 1.0, 0.25, 0.0, 1.0, 0.333, 0.2, 1.0];
    const SECOND: [f64; 8] = [0.25, 1.0, 0.5, 0.0, 0.5, 0.125, 0.25, 0.5];

    fn differences() -> Vec<f64> {
        FIRST.iter().zip(SECOND).map(|(a, b)| a - b).collect()
    }

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance
    }

    /// `2 * scipy.stats.t.sf(t, df)`, scipy 1.17.1.
    #[test]
    fn tails_equal_scipy() {
        for (t, freedom, expected) in [
            (0.0, 1.0, 1.0),
            (1.0, 1.0, 0.5000000000000001),
            (2.5, 2.0, 0.12961172022151082),
            (3.0, 10.0, 0.01334365502256957),
            (0.1, 3.0, 0.9266523488008059),
            (12.0, 30.0, 5.580185415199261e-13),
            (1.96, 5000.0, 0.050051252291819504),
            (0.5, 100000.0, 0.6170761776544179),
        ] {
            let p = t_tails(t, freedom);
            assert!(
                close(p, expected, 1e-10 * expected),
                "{t} {freedom}: {p} {expected}"
            );
            assert_eq!(p, t_tails(-t, freedom));
        }
    }

    /// `scipy.stats.ttest_rel(FIRST, SECOND)`, and `ttest_1samp(x, 0)` of
    /// `x = sin(i * i) * 0.3 + 0.02`, i from 1 to 1000; scipy 1.17.1.
    #[test]
    fn t_tests_equal_scipy() {
        assert!(close(
            t_test(&differences()).unwrap(),
            0.17057499442776689,
            1e-12
        ));
        assert!(close(
            t_test(&sines()).unwrap(),
            0.004467194007128608,
            1e-12
        ));
        assert_eq!(t_test(&[1.0]), None);
        assert_eq!(
            (t_test(&[0.0, 0.0]), t_test(&[0.5, 0.5])),
            (Some(1.0), Some(0.0))
        );
    }

    fn sines() -> Vec<f64> {
        (1..=1000)
            .map(|i| (f64::from(i) * f64::from(i)).sin() * 0.3 + 0.02)
            .collect()
    }

    /// `scipy.stats.permutation_test((FIRST - SECOND,), mean, permutation_type="samples",
    /// n_resamples=inf)` gives 0.25; with 100,000 resamples of the sines 0.00454; scipy 1.17.1.
    #[test]
    fn randomisation_tests_equal_scipy() {
        let options = CompareOptions::default();
        assert_eq!(randomisation_test(&differences(), &options), 0.25);
        // Drawn instead of enumerated: standard deviation 0.0014.
        let drawn = CompareOptions {
            permutations: 63,
            ..options.clone()
        };
        let repeated = (0..2000).map(|seed| CompareOptions {
            seed,
            ..drawn.clone()
        });
        let mean = repeated
            .map(|o| randomisation_test(&differences(), &o))
            .sum::<f64>()
            / 2000.0;
        assert!(close(mean, (0.25 * 63.0 + 1.0) / 64.0, 0.006), "{mean}");
        let p = randomisation_test(&sines(), &options);
        assert!(close(p, 0.00454, 0.0007), "{p}");
        assert_eq!(p, randomisation_test(&sines(), &options));
        assert_eq!(randomisation_test(&[0.0; 5], &options), 1.0);
        // Always the same sign: two of 2^8 patterns.
        assert_eq!(randomisation_test(&[1.0; 8], &options), 2.0 / 256.0);
    }

    #[test]
    fn holm_by_hand() {
        let close_to = |a: &[f64], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| close(*a, b, 1e-15));
        assert!(close_to(&holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]));
        assert!(close_to(&holm(&[0.6, 0.01, 0.5]), [1.0, 0.03, 1.0]));
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn intervals_cover_the_mean() {
        let options = CompareOptions::default();
        let values = sines();
        let (low, high) = bootstrap_interval(&values, &options).unwrap();
        let mean = values.iter().sum::<f64>() / 1000.0;
        // Normal theory: 1.96 standard errors of 0.3 / sqrt(2) / sqrt(1000) on each side.
        assert!(close(mean - low, 0.01315, 0.0005) && close(high - mean, 0.01315, 0.0005));
        assert_eq!(bootstrap_interval(&[], &options), None);
        assert_eq!(bootstrap_interval(&[0.5], &options), Some((0.5, 0.5)));
        let comparison = compare(&differences(), &options).unwrap();
        assert_eq!(
            (comparison.queries, comparison.wins, comparison.losses),
            (8, 4, 2)
        );
    }
}
