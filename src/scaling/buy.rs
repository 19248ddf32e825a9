//! What to buy with a budget: the size, data and beam width at which a fitted law promises the best value.
//!
//! Training N parameters on D data costs `kappa N D`; a query on w beams costs
//! `F(N, w) = f0 + f1 w + f2 N + f3 N w` (the prompt once, then every beam; attention and head in the terms
//! without N), with coefficients that are never negative, fitted to the measured costs in relative
//! error. The budget pays for `kappa N D + queries F(N, w)`: for every width and size what is left buys data,
//! and the best of them wins, once for the fit and once for every bootstrap replicate, which gives the
//! intervals. Without queries to serve this is the compute-optimal frontier.

use rayon::prelude::*;
use serde::Serialize;

use super::bootstrap::{Bootstrap, Interval};
use super::fit::Fit;
use super::laws::Law;
use super::starts::geometric;

/// What things cost in FLOPs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prices {
    /// Training, per unit of N and unit of D.
    pub kappa: f64,
    /// f0 to f3 of a query, see the [module](self).
    pub query: [f64; 4],
}

impl Prices {
    /// Cost of one query.
    pub fn query(&self, params: f64, beam: f64) -> f64 {
        let [f0, f1, f2, f3] = self.query;
        f0 + f1 * beam + (f2 + f3 * beam) * params
    }

    /// The coefficients of a query that fit `rows` of (params, beam, FLOPs) best in relative error.
    ///
    /// Every subset of the four terms is tried, which for four is the whole of non-negative least squares.
    pub fn of_queries(rows: &[(f64, f64, f64)]) -> [f64; 4] {
        let mut best = (f64::INFINITY, [0.0; 4]);
        for subset in 1..16usize {
            let terms: Vec<usize> = (0..4).filter(|i| subset >> i & 1 == 1).collect();
            let features = |&(n, w, flops): &(f64, f64, f64)| {
                let all = [1.0 / flops, w / flops, n / flops, n * w / flops];
                terms.iter().map(|&i| all[i]).collect::<Vec<_>>()
            };
            let scale: Vec<f64> = (0..terms.len())
                .map(|i| {
                    rows.iter()
                        .map(|row| features(row)[i].powi(2))
                        .sum::<f64>()
                        .sqrt()
                })
                .collect();
            let count = terms.len();
            let mut a = vec![vec![0.0; count]; count];
            let mut b = vec![0.0; count];
            for row in rows {
                let f = features(row);
                for r in 0..count {
                    b[r] += f[r] / scale[r];
                    for c in 0..count {
                        a[r][c] += f[r] / scale[r] * f[c] / scale[c];
                    }
                }
            }
            let Some(lower) = cholesky(&a) else { continue };
            let found = solve(&lower, &b);
            if found.iter().any(|v| *v < 0.0) {
                continue;
            }
            let mut query = [0.0; 4];
            for (i, &term) in terms.iter().enumerate() {
                query[term] = found[i] / scale[i];
            }
            let prices = Prices { kappa: 0.0, query };
            let error: f64 = (rows.iter())
                .map(|&(n, w, flops)| (prices.query(n, w) / flops - 1.0).powi(2))
                .sum();
            // More terms must earn their place.
            if error < 0.999 * best.0 - 1e-18 {
                best = (error, query);
            }
        }
        best.1
    }
}

/// The lower triangle L with L L' = `matrix`, `None` if it is not positive definite.
pub(super) fn cholesky(matrix: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let n = matrix.len();
    let mut lower = vec![vec![0.0; n]; n];
    for r in 0..n {
        for c in 0..=r {
            let sum = matrix[r][c] - (0..c).map(|i| lower[r][i] * lower[c][i]).sum::<f64>();
            if r == c {
                if sum.is_nan() || sum <= 1e-13 * matrix[r][r].abs() {
                    return None;
                }
                lower[r][r] = sum.sqrt();
            } else {
                lower[r][c] = sum / lower[c][c];
            }
        }
    }
    Some(lower)
}

/// x with L L' x = `b`.
pub(super) fn solve(lower: &[Vec<f64>], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let mut x = b.to_vec();
    for r in 0..n {
        let sum: f64 = (0..r).map(|c| lower[r][c] * x[c]).sum();
        x[r] = (x[r] - sum) / lower[r][r];
    }
    for r in (0..n).rev() {
        let sum: f64 = (r + 1..n).map(|c| lower[c][r] * x[c]).sum();
        x[r] = (x[r] - sum) / lower[r][r];
    }
    x
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// FLOPs to spend.
    pub budget: f64,
    /// Queries to serve from it.
    pub queries: f64,
    /// What things cost.
    pub prices: Prices,
    /// Beam widths to choose from; for a law without beam width the first one is what a query costs.
    pub beams: &'a [f64],
    /// Smallest and largest size, data and budget of the rows the law was fitted to.
    pub measured: [[f64; 2]; 3],
    /// The most data there is; infinite where more can be had.
    pub most_data: f64,
}

/// What to buy.
#[derive(Clone, Debug, Serialize)]
pub struct Purchase {
    /// Model size N.
    pub params: Interval,
    /// Amount of data D.
    pub data: Interval,
    /// Beam width w.
    pub beam: Interval,
    /// The law's value there.
    pub value: Interval,
    /// Share of the budget spent on queries.
    pub query_share: f64,
    /// What to distrust.
    pub cautions: Vec<String>,
}

/// How far beyond the measured sizes a best one is looked for, as a factor.
const REACH: f64 = 1e4;

/// One choice: N, D, w and the law's value.
type Choice = [f64; 4];

/// The best choice of `law` at `theta`; `None` if the budget serves the queries at no size.
fn best(law: Law, theta: &[f64], order: &Order<'_>) -> Option<Choice> {
    let better = |a: f64, b: f64| if law.saturates() { a > b } else { a < b };
    let has_beam = law.num_inputs() == 3;
    let at = |n: f64, w: f64| -> Option<Choice> {
        let left = order.budget - order.queries * order.prices.query(n, w);
        let d = (left / (order.prices.kappa * n)).min(order.most_data);
        if d.is_nan() || d <= 0.0 {
            return None;
        }
        let value = match has_beam {
            true => law.value(theta, &[n, d, w]),
            false => law.value(theta, &[n, d]),
        };
        Some([n, d, w, value])
    };
    let [low, high] = order.measured[0];
    let sizes = geometric(low / REACH, high * REACH, 161);
    let beams = if has_beam {
        order.beams
    } else {
        &order.beams[..1]
    };
    let mut chosen: Option<(Choice, usize)> = None;
    for &w in beams {
        for (place, &n) in sizes.iter().enumerate() {
            let Some(choice) = at(n, w) else { continue };
            if chosen.is_none_or(|(best, _)| better(choice[3], best[3])) {
                chosen = Some((choice, place));
            }
        }
    }
    let (mut choice, place) = chosen?;
    // Between the neighbours of the best size, by golden section in ln N.
    let (mut a, mut b) = (
        sizes[place.saturating_sub(1)].ln(),
        sizes[(place + 1).min(sizes.len() - 1)].ln(),
    );
    let golden = 0.5 * (5.0_f64.sqrt() - 1.0);
    for _ in 0..40 {
        let (x, y) = (b - golden * (b - a), a + golden * (b - a));
        let worst = if law.saturates() {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        };
        let value = |x: f64| at(x.exp(), choice[2]).map_or(worst, |c| c[3]);
        if better(value(x), value(y)) {
            b = y;
        } else {
            a = x;
        }
    }
    if let Some(refined) = at((0.5 * (a + b)).exp(), choice[2])
        && better(refined[3], choice[3])
    {
        choice = refined;
    }
    Some(choice)
}

/// What to buy by the law of `fit`, with intervals from its replicates; `None` if the budget does not even
/// serve the queries.
///
/// The law takes size and data, or size, data and beam width. Costs about 0.2 ms a replicate and beam width.
pub fn buy(fit: &Fit, replicates: &Bootstrap, order: &Order<'_>) -> Option<Purchase> {
    let law = fit.law;
    let choice = best(law, &fit.theta, order)?;
    let draws: Vec<Option<Choice>> = (replicates.thetas.par_iter())
        .map(|theta| best(law, theta, order))
        .collect();
    let draws: Vec<Choice> = draws.into_iter().flatten().collect();
    let interval = |i: usize| {
        let mut values: Vec<f64> = draws.iter().map(|draw| draw[i]).collect();
        replicates.summary(choice[i], &mut values)
    };
    let [n, d, w, _] = choice;
    let queries = order.queries * order.prices.query(n, w);
    let mut cautions = vec![];
    let [sizes, data, budgets] = order.measured;
    let outside = |value: f64, [low, high]: [f64; 2]| value < low / 1.01 || value > high * 1.01;
    for (what, value, range) in [
        ("size", n, sizes),
        ("data", d, data),
        ("training budget", order.budget - queries, budgets),
    ] {
        if outside(value, range) {
            cautions.push(format!(
                "the {what} lies outside the {:.3e} to {:.3e} that were measured: the law is extrapolated",
                range[0], range[1]
            ));
        }
    }
    if n > 0.9 * REACH * sizes[1] || n < sizes[0] / (0.9 * REACH) {
        cautions.push(
            "the best size lies at the end of what was searched: this law knows no best size"
                .into(),
        );
    }
    if order.most_data.is_finite() && d >= 0.999 * order.most_data {
        cautions.push("all data there is is used: more money buys size alone".into());
    }
    Some(Purchase {
        params: interval(0),
        data: interval(1),
        beam: interval(2),
        value: interval(3),
        query_share: queries / order.budget,
        cautions,
    })
}

#[cfg(test)]
mod tests {
    use super::super::bootstrap::{BootstrapOptions, bootstrap};
    use super::super::fit::tests::{example, noisy, planted};
    use super::super::fit::{FitOptions, fit};
    use super::super::frontier::optimum;
    use super::*;

    fn order(budget: f64, beams: &[f64]) -> Order<'_> {
        Order {
            budget,
            queries: 0.0,
            prices: Prices {
                kappa: 6.0,
                query: [0.0, 0.0, 2.0, 10.0],
            },
            beams,
            measured: [[1e5, 1e9], [1e4, 1e8], [1e10, 1e18]],
            most_data: f64::INFINITY,
        }
    }

    #[test]
    fn without_queries_the_frontier_is_bought() {
        let params = example(Law::Chinchilla);
        let rows = noisy(&planted(Law::Chinchilla, &params), 0.003, 8);
        let fit = fit(Law::Chinchilla, &rows, &FitOptions { starts: 60 }).unwrap();
        let options = BootstrapOptions {
            replicates: 60,
            ..Default::default()
        };
        let replicates = bootstrap(&fit, &rows, &options).unwrap();
        let bought = buy(&fit, &replicates, &order(1e15, &[1.0])).unwrap();
        let (size, data) = optimum(Law::Chinchilla, &fit.params, 6.0, 1e15);
        assert!(
            (bought.params.estimate / size - 1.0).abs() < 1e-3,
            "{bought:?} {size}"
        );
        assert!((bought.data.estimate / data - 1.0).abs() < 1e-3);
        let [low, high] = bought.params.percentile;
        assert!(
            low < size && size < high && bought.cautions.is_empty(),
            "{bought:?}"
        );
        // Data that cannot be bought leave the money to size.
        let scarce = Order {
            most_data: 0.1 * data,
            ..order(1e15, &[1.0])
        };
        let bought = buy(&fit, &replicates, &scarce).unwrap();
        assert!((bought.data.estimate / (0.1 * data) - 1.0).abs() < 1e-9);
        assert!(bought.params.estimate > size);
    }

    #[test]
    fn queries_make_models_smaller_and_beams_are_chosen() {
        let params = example(Law::ChinchillaBeam);
        let rows = planted(Law::ChinchillaBeam, &params);
        let fit = fit(Law::ChinchillaBeam, &rows, &FitOptions { starts: 100 }).unwrap();
        let replicates = bootstrap(
            &fit,
            &rows,
            &BootstrapOptions {
                replicates: 20,
                ..Default::default()
            },
        )
        .unwrap();
        let beams = [1.0, 4.0, 16.0, 64.0];
        let none = buy(&fit, &replicates, &order(1e15, &beams)).unwrap();
        // A beam costs nothing where nothing is served.
        assert_eq!(none.beam.estimate, 64.0);
        let mut many = order(1e15, &beams);
        many.queries = 1e7;
        let served = buy(&fit, &replicates, &many).unwrap();
        assert!(served.params.estimate < none.params.estimate);
        assert!(
            served.query_share > 0.05 && served.query_share < 0.95,
            "{served:?}"
        );
        // Every other choice that costs as much is worse.
        let theta = &fit.theta;
        for w in beams {
            for n in geometric(1e4, 1e9, 400) {
                let d = (1e15 - 1e7 * many.prices.query(n, w)) / (6.0 * n);
                if d > 0.0 {
                    let value = Law::ChinchillaBeam.value(theta, &[n, d, w]);
                    assert!(value >= served.value.estimate * (1.0 - 1e-9), "{n} {w}");
                }
            }
        }
        many.queries = 1e30;
        assert!(buy(&fit, &replicates, &many).is_none());
    }

    #[test]
    fn query_prices_are_recovered() {
        let truth = Prices {
            kappa: 0.0,
            query: [3e4, 500.0, 20.0, 14.0],
        };
        let mut rows = vec![];
        for n in [1e4, 1e5, 1e6] {
            for w in [1.0, 4.0, 16.0, 64.0] {
                rows.push((n, w, truth.query(n, w)));
            }
        }
        let found = Prices::of_queries(&rows);
        for (found, truth) in found.iter().zip(truth.query) {
            assert!((found / truth - 1.0).abs() < 1e-6, "{found} {truth}");
        }
        // What the rows do not tell apart is left out, not made negative.
        let found = Prices::of_queries(&[(1e5, 4.0, 8e5)]);
        assert!(
            (Prices {
                kappa: 0.0,
                query: found
            }
            .query(1e5, 4.0)
                / 8e5
                - 1.0)
                .abs()
                < 1e-9
        );
    }
}
