//! Whether a law predicts what it was not fitted to.
//!
//! A good fit to the rows at hand says little (every form here reaches R2 > 0.99 over a few decades).
//! The honest questions are: fitted to the cheap runs, how far off is it at the expensive ones;
//! fitted without one size, how far off is it there; and which run carries the answer.

use rand::RngExt;
use serde::Serialize;

use super::bootstrap::{Bootstrap, BootstrapOptions, Interval, bootstrap, quantile};
use super::fit::{Fit, FitOptions, fit, refit};
use super::laws::Law;
use super::{Observation, ScalingError};
use crate::rng::stream;

/// One prediction of a value that the fit has not seen.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// The run predicted.
    pub run: String,
    /// Its inputs.
    pub x: Vec<f64>,
    /// The measured value.
    pub observed: f64,
    /// The predicted value.
    pub predicted: f64,
    /// predicted / observed - 1.
    pub relative_error: f64,
    /// Prediction interval for a new measurement: parameters and residuals both resampled. `None` where
    /// one run and no per-query values leave nothing to resample.
    pub interval: Option<[f64; 2]>,
}

impl Prediction {
    /// True if the interval contains the measured value, `None` without an interval.
    pub fn inside(&self) -> Option<bool> {
        self.interval
            .map(|[low, high]| low <= self.observed && self.observed <= high)
    }
}

/// A fit to some rows held against others.
#[derive(Clone, Debug, Serialize)]
pub struct Extrapolation {
    /// Rows fitted.
    pub n_fitted: usize,
    /// Parameters of the fit to those rows, named by [`Law::param_names`].
    pub params: Vec<f64>,
    /// The predictions, row by row.
    pub predictions: Vec<Prediction>,
    /// Mean of |relative error|.
    pub mean_error: f64,
    /// Largest |relative error|.
    pub max_error: f64,
    /// Share of the intervals that contain the measured value, where there are intervals.
    pub coverage: Option<f64>,
    /// Coverage the intervals aim at.
    pub level: f64,
}

/// Fits `fitted` and predicts `unseen`.
///
/// # Errors
/// Those of [`fit`] and [`bootstrap`] for the fitted rows, and of [`fit`] for the numbers of the unseen.
pub fn extrapolate(
    law: Law,
    fitted: &[Observation],
    unseen: &[Observation],
    search: &FitOptions,
    resampling: &BootstrapOptions,
) -> Result<Extrapolation, ScalingError> {
    let trained = fit(law, fitted, search)?;
    let thetas = match bootstrap(&trained, fitted, resampling) {
        Ok(replicates) => replicates.thetas,
        Err(ScalingError::TooFewRuns { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let tail = 0.5 * (1.0 - resampling.level);
    // Residuals of a fit are smaller than errors, by about sqrt((n - k) / n).
    let inflation = (trained.n as f64 / (trained.n - trained.k) as f64).sqrt();
    let predictions: Vec<Prediction> = unseen
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let mut rng = stream(resampling.seed, "prediction", &[index as u64]);
            let mut draws: Vec<f64> = (thetas.iter())
                .map(|theta| {
                    let residual = trained.residuals[rng.random_range(0..trained.n)];
                    (law.ln_value(theta, &row.x) - inflation * residual).exp()
                })
                .collect();
            draws.sort_by(f64::total_cmp);
            let interval =
                (!draws.is_empty()).then(|| [quantile(&draws, tail), quantile(&draws, 1.0 - tail)]);
            let predicted = trained.predict(&row.x);
            Prediction {
                run: row.cluster.clone(),
                x: row.x.clone(),
                observed: row.y,
                predicted,
                relative_error: predicted / row.y - 1.0,
                interval,
            }
        })
        .collect();
    let count = predictions.len() as f64;
    let errors = || predictions.iter().map(|p| p.relative_error.abs());
    Ok(Extrapolation {
        n_fitted: trained.n,
        params: trained.params,
        mean_error: errors().sum::<f64>() / count,
        max_error: errors().fold(0.0, f64::max),
        coverage: (!thetas.is_empty()).then(|| {
            predictions
                .iter()
                .filter(|p| p.inside() == Some(true))
                .count() as f64
                / count
        }),
        level: resampling.level,
        predictions,
    })
}

/// Indices of the rows that cost at most the `share`-quantile of `cost`, and of the others.
///
/// Rows of equal cost fall on the same side; at least one row is left for prediction unless all cost
/// the same.
pub fn split_by_cost(cost: &[f64], share: f64) -> (Vec<usize>, Vec<usize>) {
    let mut sorted = cost.to_vec();
    sorted.sort_by(f64::total_cmp);
    let keep = ((share * sorted.len() as f64).round() as usize).clamp(1, sorted.len());
    let mut limit = sorted[keep - 1];
    if limit == sorted[sorted.len() - 1] {
        limit = sorted
            .iter()
            .rev()
            .find(|c| **c < limit)
            .copied()
            .unwrap_or(limit);
    }
    (0..cost.len()).partition(|&i| cost[i] <= limit)
}

/// The error at one level of an input when that level is left out of the fit.
#[derive(Clone, Debug, Serialize)]
pub struct LeftOut {
    /// The value of the input that was left out.
    pub level: f64,
    /// Rows at that level.
    pub rows: usize,
    /// Mean of predicted / observed - 1 over them, or `None` where the rest does not determine the law.
    pub mean_error: Option<f64>,
    /// Largest |predicted / observed - 1|.
    pub max_error: Option<f64>,
}

/// Leaves out every level of input `input` (0-based) in turn, in increasing order, and refits from `whole`.
pub fn leave_one_level_out(whole: &Fit, rows: &[Observation], input: usize) -> Vec<LeftOut> {
    let mut levels: Vec<f64> = rows.iter().map(|row| row.x[input]).collect();
    levels.sort_by(f64::total_cmp);
    levels.dedup();
    let leave_out = |level: f64| {
        let (unseen, kept): (Vec<_>, Vec<_>) =
            rows.iter().cloned().partition(|row| row.x[input] == level);
        // The numbers passed the whole fit; what can fail here is that too few rows are left.
        let errors: Option<Vec<f64>> = match refit(whole.law, &kept, &whole.theta) {
            Ok(fit) => Some(
                unseen
                    .iter()
                    .map(|row| fit.predict(&row.x) / row.y - 1.0)
                    .collect(),
            ),
            Err(_) => None,
        };
        LeftOut {
            level,
            rows: unseen.len(),
            mean_error: errors
                .as_ref()
                .map(|e| e.iter().sum::<f64>() / e.len() as f64),
            max_error: errors.map(|e| e.iter().fold(0.0, |m: f64, v| m.max(v.abs()))),
        }
    };
    levels.into_iter().map(leave_out).collect()
}

/// How much the answer owes to one run.
#[derive(Clone, Debug, Serialize)]
pub struct Influence {
    /// The run.
    pub run: String,
    /// Change of every parameter when the run is left out, in bootstrap standard errors; empty where
    /// the rest does not determine the law.
    pub shifts: Vec<f64>,
}

impl Influence {
    /// The largest |shift|.
    pub fn largest(&self) -> f64 {
        self.shifts.iter().fold(0.0, |m, s| m.max(s.abs()))
    }
}

/// The influence of every run on the natural parameters, most influential first.
pub fn influence(fit: &Fit, replicates: &Bootstrap, params: &[Interval]) -> Vec<Influence> {
    let mut all: Vec<Influence> = (replicates.without_run.iter())
        .map(|(run, theta)| {
            let shifts = theta.as_ref().map(|theta| {
                let without = fit.law.natural(theta);
                let shift = |i: usize| (without[i] - fit.params[i]) / params[i].std_error;
                (0..fit.k).map(shift).collect()
            });
            Influence {
                run: run.clone(),
                shifts: shifts.unwrap_or_default(),
            }
        })
        .collect();
    all.sort_by(|a, b| b.largest().total_cmp(&a.largest()));
    all
}

#[cfg(test)]
mod tests {
    use super::super::fit::tests::{example, noisy, planted};
    use super::*;

    const SEARCH: FitOptions = FitOptions { starts: 60 };

    #[test]
    fn costs_split_with_ties_on_one_side() {
        assert_eq!(
            split_by_cost(&[1.0, 4.0, 2.0, 3.0], 0.5),
            (vec![0, 2], vec![1, 3])
        );
        assert_eq!(
            split_by_cost(&[1.0, 2.0, 2.0, 2.0], 0.5),
            (vec![0], vec![1, 2, 3])
        );
        assert_eq!(split_by_cost(&[1.0, 2.0, 3.0], 1.0), (vec![0, 1], vec![2]));
        assert_eq!(split_by_cost(&[1.0, 1.0], 0.7), (vec![0, 1], vec![]));
    }

    #[test]
    fn a_planted_law_is_extrapolated_within_its_interval() {
        let rows = noisy(
            &planted(Law::Chinchilla, &example(Law::Chinchilla)),
            0.01,
            4,
        );
        let cost: Vec<f64> = rows.iter().map(|row| row.x[0] * row.x[1]).collect();
        let (cheap, dear) = split_by_cost(&cost, 0.7);
        let pick = |indices: &[usize]| indices.iter().map(|&i| rows[i].clone()).collect::<Vec<_>>();
        let options = BootstrapOptions {
            replicates: 200,
            ..Default::default()
        };
        let law = Law::Chinchilla;
        let result = extrapolate(law, &pick(&cheap), &pick(&dear), &SEARCH, &options).unwrap();
        assert_eq!(result.n_fitted + result.predictions.len(), rows.len());
        assert!(result.mean_error < 0.03, "{}", result.mean_error);
        assert!(result.coverage.unwrap() > 0.8, "{:?}", result.coverage);
    }

    #[test]
    fn the_wrong_form_is_found_out_by_extrapolation() {
        // A pure power law fitted to data with a floor overestimates the fall.
        let rows = planted(Law::Power, &[3.22e4, 0.53, 0.04]);
        let options = BootstrapOptions {
            replicates: 100,
            ..Default::default()
        };
        let error = |law| {
            extrapolate(law, &rows[..8], &rows[8..], &SEARCH, &options)
                .unwrap()
                .max_error
        };
        assert!(error(Law::PowerFree) > 0.1 && error(Law::Power) < 1e-5);
    }

    #[test]
    fn leaving_out_a_level_predicts_it_or_says_why_not() {
        let rows = planted(Law::Power, &example(Law::Power));
        let whole = fit(Law::Power, &rows, &SEARCH).unwrap();
        let left = leave_one_level_out(&whole, &rows, 0);
        assert_eq!(left.len(), 12);
        assert!(
            left.iter()
                .all(|l| l.rows == 1 && l.max_error.unwrap() < 1e-6),
            "{left:?}"
        );
        let left = leave_one_level_out(&whole, &rows[..4], 0);
        assert!(left.iter().all(|l| l.max_error.is_none()));
    }

    #[test]
    fn influence_is_the_shift_of_a_refit() {
        // Noise within delta, where the optimum is a point: with far larger noise it may be a segment.
        let rows = noisy(&planted(Law::PowerFree, &example(Law::PowerFree)), 5e-4, 6);
        let whole = fit(Law::PowerFree, &rows, &SEARCH).unwrap();
        let options = BootstrapOptions {
            replicates: 200,
            ..Default::default()
        };
        let replicates = bootstrap(&whole, &rows, &options).unwrap();
        let params = replicates.params(&whole);
        let ranked = influence(&whole, &replicates, &params);
        assert!(
            ranked
                .windows(2)
                .all(|pair| pair[0].largest() >= pair[1].largest())
        );
        for entry in &ranked {
            let kept: Vec<Observation> = rows
                .iter()
                .filter(|row| row.cluster != entry.run)
                .cloned()
                .collect();
            let without = fit(Law::PowerFree, &kept, &SEARCH).unwrap();
            let shift = (without.params[1] - whole.params[1]) / params[1].std_error;
            assert!(
                (shift - entry.shifts[1]).abs() < 1e-4,
                "{shift} {:?}",
                entry.shifts
            );
        }
    }
}
