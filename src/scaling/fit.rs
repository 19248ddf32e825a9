//! Which parameters fit best, and how well.
//!
//! A fit runs the Newton search of `minimise` from a grid of starts and keeps the lowest objective; the
//! share of starts that reach it says how much the answer owes to luck.

use rand::RngExt;
use rayon::prelude::*;
use serde::Serialize;

use super::laws::{Law, MAX_INPUTS, fixed, with_form};
use super::minimise::{LogPoints, Start, minimise};
use super::starts::start_grid;
use super::{Observation, ScalingError};
use crate::rng::stream;

/// How a fit searches.
#[derive(Clone, Copy, Debug)]
pub struct FitOptions {
    /// About how many starts to search from; at least one per corner of the grid [default: 1000].
    pub starts: usize,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self { starts: 1000 }
    }
}

/// A fitted law.
#[derive(Clone, Debug, Serialize)]
pub struct Fit {
    /// The form.
    pub law: Law,
    /// Rows fitted.
    pub n: usize,
    /// Free parameters.
    pub k: usize,
    /// Natural parameters, named by [`Law::param_names`].
    pub params: Vec<f64>,
    /// The search point: logarithms of the positive parameters, see [`Law::natural`].
    pub theta: Vec<f64>,
    /// Sum of Huber losses at the optimum.
    pub objective: f64,
    /// Euclidean norm of the objective's gradient at the optimum, in theta with centred inputs.
    pub gradient_norm: f64,
    /// Starts searched from.
    pub starts: usize,
    /// Share of the starts that reached the best objective (within 1e-6 of it).
    pub best_share: f64,
    /// R2 of ln L: near 1 whenever L spans a wide range; never to be read alone.
    pub r2_log: f64,
    /// Root mean square of ln L^ - ln L: about the relative error.
    pub rmse_log: f64,
    /// R2 of ln(L - E) over the rows with L > E: what is left once the floor is taken out.
    pub r2_reducible: Option<f64>,
    /// Corrected Akaike criterion of a normal error in ln L with k + 1 parameters; lower is better.
    /// `None` if n <= k + 2.
    pub aicc: Option<f64>,
    /// ln L^ - ln L, row by row.
    pub residuals: Vec<f64>,
    /// What to distrust, in words.
    pub warnings: Vec<String>,
}

impl Fit {
    /// The predicted value at inputs `x`.
    pub fn predict(&self, x: &[f64]) -> f64 {
        self.law.value(&self.theta, x)
    }
}

/// Fits `law` to the rows.
///
/// Costs about 0.05 ms a start for 240 rows and five parameters on one core; starts run in parallel.
///
/// # Errors
/// n <= k, inputs that do not vary, and values without a logarithm, with the row.
pub fn fit(law: Law, rows: &[Observation], options: &FitOptions) -> Result<Fit, ScalingError> {
    let sample = Sample::new(law, rows)?;
    let starts = start_grid(law, options.starts, sample.mean_ln_y(), sample.max_ln_y());
    let found = search(law, &sample, &starts);
    let best = (0..found.len())
        .min_by(|&a, &b| found[a].value.total_cmp(&found[b].value).then(a.cmp(&b)))
        .expect("the grid has at least one start");
    let End {
        theta,
        value: objective,
        gradient_norm,
        converged,
    } = &found[best];
    let limit = objective * (1.0 + 1e-6) + 1e-14;
    let reached = found.iter().filter(|end| end.value <= limit).count();
    let mut fit = describe(law, &sample, sample.uncentred(theta), *objective);
    fit.gradient_norm = *gradient_norm;
    fit.starts = found.len();
    fit.best_share = reached as f64 / found.len() as f64;
    fit.warnings = warnings(&fit, &sample, *converged);
    Ok(fit)
}

/// Where a search ended, in centred coordinates.
#[derive(Clone)]
struct End {
    theta: Vec<f64>,
    value: f64,
    gradient_norm: f64,
    converged: bool,
}

/// From this many rows on the long way into the valley is gone on [`THINNED`] of them.
const MANY: usize = 128;
const THINNED: usize = 64;
/// Where the rows are thinned, one start in so many is searched from on all rows all the same.
const DIRECT: usize = 32;

/// Where the search from every start ends.
///
/// Most passes of a search follow a curved valley to its lowest point, which few rows show as well as many:
/// of many rows a random 64 lead every start to a minimum of theirs, and each distinct one of these is the start
/// for all rows. One start in thirty-two takes the direct way, lest all depend on the 64.
fn search(law: Law, sample: &Sample, starts: &[Vec<f64>]) -> Vec<End> {
    let all = sample.points();
    let from = |points: &LogPoints, theta: &[f64], start: Start| {
        with_form!(law, F, K, {
            let found = minimise::<K, F>(points, fixed::<K>(theta), start);
            End {
                theta: found.theta.to_vec(),
                value: found.value,
                gradient_norm: found.gradient_norm,
                converged: found.converged,
            }
        })
    };
    if sample.len() < MANY {
        return (starts.par_iter())
            .map(|theta| from(&all, theta, Start::Cold))
            .collect();
    }
    let few = sample.thinned(THINNED);
    let ends: Vec<End> = (starts.par_iter().enumerate())
        .map(|(i, theta)| match i % DIRECT {
            0 => from(&all, theta, Start::Cold),
            _ => from(&few, theta, Start::Cold),
        })
        .collect();
    let mut distinct: Vec<&End> = Vec::new();
    let mut place = vec![usize::MAX; ends.len()];
    for (i, end) in ends.iter().enumerate().filter(|(i, _)| i % DIRECT != 0) {
        let same = |other: &&End| {
            (end.theta.iter().zip(&other.theta))
                .all(|(a, b)| (a - b).abs() <= 1e-6 * (1.0 + b.abs()))
        };
        place[i] = distinct.iter().position(same).unwrap_or_else(|| {
            distinct.push(end);
            distinct.len() - 1
        });
    }
    let refined: Vec<End> = (distinct.par_iter())
        .map(|end| from(&all, &end.theta, Start::Warm))
        .collect();
    let chosen = ends.iter().zip(&place);
    chosen
        .map(|(end, &place)| refined.get(place).unwrap_or(end).clone())
        .collect()
}

/// Fits `law` to the rows by one search from `theta`, the optimum for similar rows.
pub(super) fn refit(law: Law, rows: &[Observation], theta: &[f64]) -> Result<Fit, ScalingError> {
    let sample = Sample::new(law, rows)?;
    let start = sample.centred(theta);
    let (theta, objective) = with_form!(law, F, K, {
        let found = minimise::<K, F>(&sample.points(), fixed::<K>(&start), Start::Warm);
        (found.theta.to_vec(), found.value)
    });
    Ok(describe(law, &sample, sample.uncentred(&theta), objective))
}

/// Rows checked against a law and made ready for the search.
#[derive(Clone)]
pub(super) struct Sample {
    law: Law,
    centre: [f64; MAX_INPUTS],
    ln_x: Vec<[f64; MAX_INPUTS]>,
    ln_y: Vec<f64>,
    weights: Vec<f64>,
    /// For every row an id shared by the rows with equal inputs.
    input_group: Vec<usize>,
    num_input_groups: usize,
}

impl Sample {
    pub fn new(law: Law, rows: &[Observation]) -> Result<Sample, ScalingError> {
        let (n, k) = (rows.len(), law.num_params());
        if n <= k {
            return Err(ScalingError::TooFewRows {
                law: law.name(),
                n,
                k,
            });
        }
        let mut ln_x = Vec::with_capacity(n);
        let mut ln_y = Vec::with_capacity(n);
        for (index, row) in rows.iter().enumerate() {
            let row_number = index + 1;
            if row.x.len() != law.num_inputs() {
                return Err(ScalingError::InputCount {
                    row: row_number,
                    law: law.name(),
                    expected: law.num_inputs(),
                    got: row.x.len(),
                });
            }
            let mut logs = [0.0; MAX_INPUTS];
            for (input, &value) in row.x.iter().enumerate() {
                logs[input] = ln(value, row_number, || format!("input {}", input + 1))?;
                if law.counts_from_one(input) && value < 1.0 {
                    return Err(ScalingError::BelowOne {
                        row: row_number,
                        input: input + 1,
                        law: law.name(),
                        value,
                    });
                }
            }
            ln_x.push(logs);
            ln_y.push(ln(row.y, row_number, || "the value".into())?);
        }
        let mut groups: Vec<[u64; MAX_INPUTS]> = Vec::new();
        let input_group = ln_x
            .iter()
            .map(|logs| {
                let bits = logs.map(f64::to_bits);
                groups.iter().position(|g| *g == bits).unwrap_or_else(|| {
                    groups.push(bits);
                    groups.len() - 1
                })
            })
            .collect();
        for input in 0..law.num_inputs() {
            let mut levels: Vec<u64> = groups.iter().map(|g| g[input]).collect();
            levels.sort_unstable();
            levels.dedup();
            let needed = if law.num_inputs() == 1 { k } else { 2 };
            if levels.len() < needed {
                let (law, levels) = (law.name(), levels.len());
                return Err(ScalingError::TooFewLevels {
                    law,
                    input: input + 1,
                    levels,
                    needed,
                });
            }
        }
        let centre = std::array::from_fn(|i| match law.counts_from_one(i) {
            true => 0.0,
            false => ln_x.iter().map(|x| x[i]).sum::<f64>() / n as f64,
        });
        for logs in &mut ln_x {
            for (log, centre) in logs.iter_mut().zip(&centre) {
                *log -= centre;
            }
        }
        let num_input_groups = groups.len();
        Ok(Sample {
            law,
            centre,
            ln_x,
            ln_y,
            weights: vec![1.0; n],
            input_group,
            num_input_groups,
        })
    }

    pub fn len(&self) -> usize {
        self.ln_y.len()
    }

    pub fn points(&self) -> LogPoints {
        LogPoints::new(&self.ln_x, &self.ln_y, &self.weights)
    }

    /// A random `count` of the points, always the same ones.
    fn thinned(&self, count: usize) -> LogPoints {
        let mut rng = stream(0, "thinned rows", &[]);
        let mut order: Vec<usize> = (0..self.len()).collect();
        let mut weights = vec![0.0; self.len()];
        for i in 0..count.min(self.len()) {
            order.swap(i, rng.random_range(i..self.len()));
            weights[order[i]] = 1.0;
        }
        LogPoints::new(&self.ln_x, &self.ln_y, &weights)
    }

    /// The points with other values and weights, as a bootstrap draws them.
    pub fn points_with(&self, ln_y: Option<&[f64]>, weights: &[f64]) -> LogPoints {
        LogPoints::new(&self.ln_x, ln_y.unwrap_or(&self.ln_y), weights)
    }

    /// Number of distinct inputs among the rows of positive weight.
    pub fn num_distinct(&self, weights: &[f64]) -> usize {
        let mut seen = vec![false; self.num_input_groups];
        for (&group, &weight) in self.input_group.iter().zip(weights) {
            seen[group] |= weight > 0.0;
        }
        seen.iter().filter(|s| **s).count()
    }

    pub fn centred(&self, theta: &[f64]) -> Vec<f64> {
        self.law.recentred(theta, &self.centre)
    }

    pub fn uncentred(&self, theta: &[f64]) -> Vec<f64> {
        self.law.recentred(theta, &self.centre.map(|c| -c))
    }

    fn mean_ln_y(&self) -> f64 {
        self.ln_y.iter().sum::<f64>() / self.len() as f64
    }

    fn max_ln_y(&self) -> f64 {
        self.ln_y.iter().fold(f64::NEG_INFINITY, |m, y| m.max(*y))
    }
}

fn ln(value: f64, row: usize, column: impl Fn() -> String) -> Result<f64, ScalingError> {
    if value > 0.0 && value.is_finite() {
        Ok(value.ln())
    } else {
        Err(ScalingError::NotPositive {
            row,
            column: column(),
            value,
        })
    }
}

/// Everything about a fit that follows from its parameters and the rows.
fn describe(law: Law, sample: &Sample, theta: Vec<f64>, objective: f64) -> Fit {
    let (n, k) = (sample.len(), law.num_params());
    let centred = sample.centred(&theta);
    let predicted: Vec<f64> = with_form!(law, F, K, {
        use super::laws::Form;
        let centred = fixed::<K>(&centred);
        sample
            .ln_x
            .iter()
            .map(|x| <F as Form<K>>::at(&centred, x).value)
            .collect()
    });
    let residuals: Vec<f64> = predicted
        .iter()
        .zip(&sample.ln_y)
        .map(|(p, y)| p - y)
        .collect();
    let squared: f64 = residuals.iter().map(|r| r * r).sum();
    let params = law.natural(&theta);
    let r2_reducible = law.has_floor().then(|| {
        let floor = params[k - 1];
        let above = predicted
            .iter()
            .zip(&sample.ln_y)
            .filter(|(_, y)| y.exp() > floor);
        let pairs: Vec<(f64, f64)> = above
            .map(|(p, y)| ((p.exp() - floor).ln(), (y.exp() - floor).ln()))
            .collect();
        let observed: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        r2(
            pairs.iter().map(|(p, o)| (p - o) * (p - o)).sum(),
            &observed,
        )
    });
    let free = k as f64 + 1.0;
    let rest = n as f64 - free - 1.0;
    let aicc = (rest > 0.0 && squared > 0.0).then(|| {
        n as f64 * (squared / n as f64).ln() + 2.0 * free + 2.0 * free * (free + 1.0) / rest
    });
    Fit {
        law,
        n,
        k,
        params,
        theta,
        objective,
        gradient_norm: 0.0,
        starts: 0,
        best_share: 0.0,
        r2_log: r2(squared, &sample.ln_y),
        rmse_log: (squared / n as f64).sqrt(),
        r2_reducible: r2_reducible.filter(|r| r.is_finite()),
        aicc,
        residuals,
        warnings: Vec::new(),
    }
}

fn r2(squared_error: f64, observed: &[f64]) -> f64 {
    let mean = observed.iter().sum::<f64>() / observed.len() as f64;
    1.0 - squared_error
        / observed
            .iter()
            .map(|y| (y - mean) * (y - mean))
            .sum::<f64>()
}

fn warnings(fit: &Fit, sample: &Sample, converged: bool) -> Vec<String> {
    let (n, k) = (fit.n, fit.k);
    let mut said = Vec::new();
    if n < 2 * k {
        said.push(format!(
            "{n} rows for {k} parameters (n < 2k): the parameters are weakly determined"
        ));
    }
    if sample.num_input_groups <= k {
        said.push(format!(
            "{} distinct inputs for {k} parameters: repeated runs leave no degree of freedom for the form",
            sample.num_input_groups
        ));
    }
    if !converged {
        said.push(format!(
            "the search did not converge (gradient norm {:.1e}): an optimum may lie at infinity",
            fit.gradient_norm
        ));
    }
    if fit.best_share < 0.05 {
        said.push(format!(
            "only {:.1} % of the starts reached the best optimum: the surface is rough",
            100.0 * fit.best_share
        ));
    }
    let smallest = sample
        .ln_y
        .iter()
        .fold(f64::INFINITY, |m, y| m.min(*y))
        .exp();
    for (name, &value) in fit.law.param_names().iter().zip(&fit.params) {
        match *name {
            "a" | "b" | "g" if value <= 0.0 && fit.law != Law::Broken => said.push(format!(
                "exponent {name} = {value:.3} is not positive: the value does not fall with its input"
            )),
            "E" if value < 1e-3 * smallest => said.push(format!(
                "the floor E = {value:.2e} is indistinguishable from zero: prefer the law without a floor"
            )),
            "s" | "t" | "u" if value <= 0.0 => said.push(format!(
                "slope {name} = {value:.3} is not positive: the measure does not rise with its input"
            )),
            "h" if value > 1.0 => {
                said.push(format!("the ceiling h = {value:.3} exceeds 1, impossible for a fraction"));
            }
            _ => {}
        }
    }
    said
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::starts::geometric;
    use super::*;

    /// Rows that follow `law` exactly on a grid of inputs.
    pub fn planted(law: Law, natural: &[f64]) -> Vec<Observation> {
        let theta = law.theta(natural);
        let axes: Vec<Vec<f64>> = match law.num_inputs() {
            1 if law == Law::Saturating => vec![geometric(1.0, 256.0, 9)],
            1 if law == Law::Broken => vec![geometric(1e4, 1e10, 25)],
            1 => vec![geometric(1e5, 1e9, 12)],
            2 => vec![geometric(1e5, 1e9, 7), geometric(1e4, 1e8, 6)],
            _ => vec![
                geometric(1e5, 1e9, 5),
                geometric(1e4, 1e8, 5),
                geometric(1.0, 128.0, 5),
            ],
        };
        let cells: usize = axes.iter().map(Vec::len).product();
        let rows = (0..cells).map(|cell| {
            let mut rest = cell;
            let x: Vec<f64> = axes
                .iter()
                .map(|axis| {
                    let value = axis[rest % axis.len()];
                    rest /= axis.len();
                    value
                })
                .collect();
            Observation {
                y: law.value(&theta, &x),
                x,
                cluster: format!("run{cell}"),
                per_query: None,
            }
        });
        rows.collect()
    }

    /// A standard normal draw (Box and Muller).
    pub fn normal(rng: &mut crate::rng::Stream) -> f64 {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// The rows with log-normal noise of relative size `noise`.
    pub fn noisy(rows: &[Observation], noise: f64, seed: u64) -> Vec<Observation> {
        let mut rng = stream(seed, "test noise", &[]);
        let mut rows = rows.to_vec();
        rows.iter_mut()
            .for_each(|row| row.y *= (noise * normal(&mut rng)).exp());
        rows
    }

    pub fn example(law: Law) -> Vec<f64> {
        match law {
            Law::PowerFree => vec![3.22e4, 0.53],
            Law::Power => vec![3.22e4, 0.53, 0.04],
            Law::Joint => vec![3.22e4, 0.53, 3.49e3, 0.8, 0.04],
            Law::Chinchilla => vec![477.83, 0.34731, 2143.4, 0.36717, 1.81722],
            Law::ChinchillaBeam => vec![477.83, 0.34731, 2143.4, 0.36717, 0.8, 0.6, 1.81722],
            Law::Reuse => vec![477.83, 0.34731, 2143.4, 0.36717, 15.4, 1.81722],
            Law::Saturating => vec![0.8, 0.6, -0.5],
            Law::SaturatingJoint => vec![0.8, 0.4, 0.3, -10.0],
            Law::SaturatingBeam => vec![0.8, 0.4, 0.3, 0.5, -11.0],
            Law::Broken => vec![30.0, 0.2, 0.3, 1.0e7, 0.8, 0.05],
        }
    }

    #[test]
    fn planted_parameters_are_recovered_exactly() {
        for law in Law::ALL {
            let natural = example(law);
            let fit = fit(law, &planted(law, &natural), &FitOptions { starts: 100 }).unwrap();
            for (found, planted) in fit.params.iter().zip(&natural) {
                assert!(
                    (found / planted - 1.0).abs() < 1e-6,
                    "{law:?} {found} {planted}"
                );
            }
            assert!(
                fit.rmse_log < 1e-7 && fit.gradient_norm < 1e-8,
                "{law:?} {fit:?}"
            );
            assert!(fit.best_share > 0.5, "{law:?} {}", fit.best_share);
        }
    }

    #[test]
    fn a_grid_search_finds_nothing_better() {
        let rows = noisy(&planted(Law::Power, &example(Law::Power)), 0.02, 3);
        let fit = fit(Law::Power, &rows, &FitOptions::default()).unwrap();
        let objective = |theta: &[f64]| -> f64 {
            rows.iter()
                .map(|row| {
                    let r = (Law::Power.ln_value(theta, &row.x) - row.y.ln()).abs();
                    if r <= 1e-3 {
                        r * r / 2.0
                    } else {
                        1e-3 * (r - 5e-4)
                    }
                })
                .sum()
        };
        assert!((objective(&fit.theta) / fit.objective - 1.0).abs() < 1e-9);
        // Around the optimum along and across the valley of (c, a), and far away.
        let centre = 1e7_f64.ln();
        let mut best = f64::INFINITY;
        for i in -20..=20 {
            for j in -20..=20 {
                for k in -20..=20 {
                    let (i, j, k) = (f64::from(i), f64::from(j), f64::from(k));
                    for size in [1e-3, 1e-2, 1e-1] {
                        let a = fit.theta[1] + size * j;
                        let c = fit.theta[0] + size * i + size * j * centre;
                        best = best.min(objective(&[c, a, fit.theta[2] + size * k]));
                    }
                }
            }
        }
        assert!(
            fit.objective <= best * (1.0 + 1e-12),
            "{} {best}",
            fit.objective
        );
    }

    #[test]
    fn the_way_through_few_rows_ends_where_the_direct_way_does() {
        let law = Law::Chinchilla;
        let mut rng = stream(2, "many rows", &[]);
        let theta = law.theta(&example(law));
        let rows: Vec<Observation> = (0..150)
            .map(|i| {
                let x: Vec<f64> = (0..2)
                    .map(|_| (10.0 + 10.0 * rng.random::<f64>()).exp())
                    .collect();
                Observation {
                    y: law.value(&theta, &x) * (0.02 * normal(&mut rng)).exp(),
                    x,
                    cluster: i.to_string(),
                    per_query: None,
                }
            })
            .collect();
        let sample = Sample::new(law, &rows).unwrap();
        let starts = start_grid(law, 100, sample.mean_ln_y(), sample.max_ln_y());
        let found = search(law, &sample, &starts);
        assert_eq!(found.len(), starts.len());
        for (start, end) in starts.iter().zip(&found) {
            let direct = with_form!(law, F, K, {
                minimise::<K, F>(&sample.points(), fixed::<K>(start), Start::Cold).value
            });
            assert!(
                (end.value / direct - 1.0).abs() < 1e-9,
                "{} {direct}",
                end.value
            );
        }
    }

    #[test]
    fn outliers_hardly_move_the_fit() {
        let mut rows = planted(Law::Power, &example(Law::Power));
        rows[4].y *= 3.0;
        let fit = fit(Law::Power, &rows, &FitOptions::default()).unwrap();
        assert!(
            (fit.params[1] / 0.53 - 1.0).abs() < 1e-3,
            "{:?}",
            fit.params
        );
    }

    #[test]
    fn too_few_rows_or_levels_are_refused_and_few_are_warned_of() {
        let rows = planted(Law::Power, &example(Law::Power));
        let options = FitOptions::default();
        assert!(matches!(
            fit(Law::Power, &rows[..3], &options),
            Err(ScalingError::TooFewRows { n: 3, k: 3, .. })
        ));
        let two_sizes: Vec<Observation> = [&rows[0], &rows[1], &rows[0], &rows[1]]
            .map(Clone::clone)
            .into();
        assert!(matches!(
            fit(Law::Power, &two_sizes, &options),
            Err(ScalingError::TooFewLevels {
                input: 1,
                levels: 2,
                needed: 3,
                ..
            })
        ));
        let few = fit(Law::Power, &rows[..5], &options).unwrap();
        assert!(
            few.warnings.iter().any(|w| w.contains("n < 2k")),
            "{:?}",
            few.warnings
        );
        assert_eq!(few.aicc, None); // n = k + 2
        assert!(
            fit(Law::Power, &rows, &options)
                .unwrap()
                .warnings
                .is_empty()
        );
    }

    #[test]
    fn what_repeated_data_are_worth_needs_epochs() {
        let mut rows = planted(Law::Reuse, &example(Law::Reuse));
        let options = FitOptions { starts: 100 };
        let noisy = fit(Law::Reuse, &noisy(&rows, 0.003, 7), &options).unwrap();
        assert!(
            (noisy.params[4] / 15.4).ln().abs() < 0.15,
            "{:?}",
            noisy.params
        );
        let once: Vec<Observation> = rows.iter().filter(|row| row.x[2] == 1.0).cloned().collect();
        let error = fit(Law::Reuse, &once, &options).unwrap_err().to_string();
        assert!(
            error.starts_with("input 3 of `reuse` takes 1 distinct"),
            "{error}"
        );
        rows[4].x[2] = 0.5;
        let error = fit(Law::Reuse, &rows, &options).unwrap_err().to_string();
        assert!(
            error.starts_with("row 5: input 3 of `reuse` is 0.5"),
            "{error}"
        );
    }

    #[test]
    fn bad_numbers_are_named_with_their_row() {
        for (value, column) in [
            (-1.0, "y"),
            (f64::NAN, "y"),
            (0.0, "x"),
            (f64::INFINITY, "x"),
        ] {
            let mut rows = planted(Law::Power, &example(Law::Power));
            if column == "y" {
                rows[6].y = value;
            } else {
                rows[6].x[0] = value;
            }
            let error = fit(Law::Power, &rows, &FitOptions::default()).unwrap_err();
            assert!(error.to_string().starts_with("row 7"), "{error}");
        }
    }

    #[test]
    fn falling_floor_and_rising_value_are_warned_of() {
        let options = FitOptions::default();
        let rows = noisy(&planted(Law::PowerFree, &[3.0e4, 0.3]), 0.001, 1);
        let fitted = fit(Law::Power, &rows, &options).unwrap();
        assert!((fitted.params[1] - 0.3).abs() < 0.01, "{:?}", fitted.params);
        let rising = planted(Law::PowerFree, &[3.0e4, -0.3]);
        let fitted = fit(Law::PowerFree, &rising, &options).unwrap();
        assert!(
            fitted.warnings.iter().any(|w| w.contains("not positive")),
            "{:?}",
            fitted.warnings
        );
    }

    #[test]
    fn aicc_prefers_the_planted_form() {
        let options = FitOptions::default();
        let aicc = |law, rows: &[Observation]| fit(law, rows, &options).unwrap().aicc.unwrap();
        let rows = noisy(&planted(Law::Power, &[3.22e4, 0.5, 0.1]), 0.01, 5);
        assert!(aicc(Law::Power, &rows) < aicc(Law::PowerFree, &rows));
        let rows = noisy(&planted(Law::PowerFree, &[3.22e4, 0.1]), 0.01, 5);
        assert!(aicc(Law::PowerFree, &rows) < aicc(Law::Power, &rows));
    }
}
