//! Which measure extrapolates best: every measure of the same runs fitted to the cheap ones and asked about
//! the others.
//!
//! A measure that hardly changes is predicted to within a percent by anyone, so errors of different
//! measures are not comparable as they are. Each is therefore divided by the error of predicting no change
//! at all (the value of the dearest run that was fitted): 0 is a perfect prediction, 1 is no better than that.
//! The law of a measure is chosen on the cheap runs alone, by AICc. Intervals resample the runs of the fit (the
//! same draws for every measure, so that measures can be compared draw by draw) and the predicted runs.

use rand::RngExt;
use serde::Serialize;

use super::bootstrap::{BootstrapOptions, bootstrap, quantile};
use super::fit::{Fit, FitOptions, fit};
use super::laws::Law;
use super::validate::split_by_cost;
use super::{Observation, ScalingError};
use crate::rng::stream;

/// One measure of the runs.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Name with unit.
    pub name: String,
    /// Forms to choose from.
    pub laws: Vec<Law>,
    /// The runs, `None` where the measure has no logarithm (a measure of 0).
    pub rows: Vec<Option<Observation>>,
}

/// How a measure did.
#[derive(Clone, Debug, Serialize)]
pub struct Contender {
    /// Name with unit.
    pub name: String,
    /// The form chosen on the cheap runs.
    pub law: Option<Law>,
    /// Why there is none.
    pub refused: Option<String>,
    /// Cheap runs fitted.
    pub fitted: usize,
    /// The runs predicted.
    pub unseen: Vec<Unseen>,
    /// Mean of |predicted / measured - 1| over them, with its interval.
    pub error: Option<Estimate>,
    /// The same for predicting no change.
    pub unchanged_error: f64,
    /// Their ratio: 0 is perfect, 1 no better than predicting no change.
    pub relative: Option<Estimate>,
    /// Relative error of every draw, to compare contenders draw by draw.
    #[serde(skip)]
    draws: Vec<f64>,
}

/// A predicted run.
#[derive(Clone, Debug, Serialize)]
pub struct Unseen {
    /// The run.
    pub run: String,
    /// Its cost in FLOPs.
    pub cost: f64,
    /// The measured value.
    pub observed: f64,
    /// The predicted value.
    pub predicted: f64,
}

/// A number with its percentile interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower and upper end.
    pub interval: [f64; 2],
}

/// All measures side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// How they did, in the order given.
    pub contenders: Vec<Contender>,
    /// The one with the least relative error.
    pub best: Option<usize>,
    /// Share of the draws in which the best beats the second best.
    pub confidence: Option<f64>,
    /// What follows, in a sentence.
    pub verdict: String,
}

/// Fits every measure to the `cheap_share` of runs of least `costs` and predicts the others.
///
/// # Errors
/// Values that are not positive. A measure whose rows do not determine a law is no error but refused.
pub fn compare(
    measures: &[Measured],
    costs: &[f64],
    cheap_share: f64,
    search: &FitOptions,
    resampling: &BootstrapOptions,
) -> Result<Comparison, ScalingError> {
    let (cheap, dear) = split_by_cost(costs, cheap_share);
    let contenders: Vec<Contender> = measures
        .iter()
        .map(|m| contend(m, costs, &cheap, &dear, search, resampling))
        .collect::<Result<_, _>>()?;
    let mut order: Vec<usize> = (0..contenders.len())
        .filter(|&i| contenders[i].relative.is_some())
        .collect();
    let value = |i: usize| contenders[i].relative.map_or(f64::NAN, |r| r.value);
    order.sort_by(|&a, &b| value(a).total_cmp(&value(b)).then(a.cmp(&b)));
    let confidence = (order.len() > 1).then(|| {
        let (first, second) = (&contenders[order[0]].draws, &contenders[order[1]].draws);
        let pairs = first.iter().zip(second);
        pairs.clone().filter(|(a, b)| a < b).count() as f64 / pairs.len().max(1) as f64
    });
    let verdict = verdict(&contenders, &order, confidence, resampling.level);
    Ok(Comparison {
        best: order.first().copied(),
        contenders,
        confidence,
        verdict,
    })
}

fn verdict(
    contenders: &[Contender],
    order: &[usize],
    confidence: Option<f64>,
    level: f64,
) -> String {
    let Some(&best) = order.first() else {
        return "No measure has enough runs to be extrapolated.".into();
    };
    let winner = &contenders[best];
    let relative = winner.relative.expect("those in the order have one");
    let percent = 100.0 * winner.error.map_or(f64::NAN, |e| e.value);
    let mut text = format!(
        "{} extrapolates best: fitted to the {} cheapest runs it misses the {} others by {percent:.1} % on \
         average, {:.2} [{:.2}, {:.2}] of the error of predicting no change",
        winner.name,
        winner.fitted,
        winner.unseen.len(),
        relative.value,
        relative.interval[0],
        relative.interval[1],
    );
    if relative.value >= 1.0 {
        text += "; that is no better than predicting no change, so none of these laws should be trusted";
    }
    match (confidence, order.get(1)) {
        (Some(share), Some(&second)) => {
            let surely = if share >= level { "" } else { "not surely: " };
            text += &format!(
                "; {surely}it beats {} in {:.0} % of the draws.",
                contenders[second].name,
                100.0 * share
            );
        }
        _ => text += ".",
    }
    text
}

fn contend(
    measured: &Measured,
    costs: &[f64],
    cheap: &[usize],
    dear: &[usize],
    search: &FitOptions,
    resampling: &BootstrapOptions,
) -> Result<Contender, ScalingError> {
    let there = |places: &[usize]| -> Vec<usize> {
        (places.iter().copied())
            .filter(|&i| measured.rows[i].is_some())
            .collect()
    };
    let pick = |places: &[usize]| -> Vec<Observation> {
        places
            .iter()
            .filter_map(|&i| measured.rows[i].clone())
            .collect()
    };
    let (cheap, dear) = (there(cheap), there(dear));
    let (rows, unseen) = (pick(&cheap), pick(&dear));
    let mut contender = Contender {
        name: measured.name.clone(),
        law: None,
        refused: None,
        fitted: rows.len(),
        unseen: vec![],
        error: None,
        unchanged_error: f64::NAN,
        relative: None,
        draws: vec![],
    };
    let mut refused = vec![];
    let mut fits: Vec<Fit> = vec![];
    for &law in &measured.laws {
        match fit(law, &rows, search) {
            Ok(fit) => fits.push(fit),
            Err(error @ (ScalingError::TooFewRows { .. } | ScalingError::TooFewLevels { .. })) => {
                refused.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let by_aicc = fits.iter().all(|fit| fit.aicc.is_some());
    let key = |fit: &Fit| match by_aicc {
        true => fit.aicc.unwrap_or(f64::INFINITY),
        false => fit.k as f64,
    };
    let Some(chosen) = fits.into_iter().min_by(|a, b| key(a).total_cmp(&key(b))) else {
        contender.refused = Some(refused.join("; "));
        return Ok(contender);
    };
    if unseen.is_empty() {
        contender.refused = Some("no run is left to predict".into());
        return Ok(contender);
    }
    let law = chosen.law;
    let dearest = (cheap.iter().zip(&rows))
        .max_by(|(a, _), (b, _)| costs[**a].total_cmp(&costs[**b]))
        .map(|(_, row)| row.y)
        .expect("a law was fitted to some rows");
    let error_of =
        |theta: &[f64], row: &Observation| (law.value(theta, &row.x) / row.y - 1.0).abs();
    let unchanged: Vec<f64> = (unseen.iter())
        .map(|row| (dearest / row.y - 1.0).abs())
        .collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let errors: Vec<f64> = (unseen.iter())
        .map(|row| error_of(&chosen.theta, row))
        .collect();
    let thetas = match bootstrap(&chosen, &rows, resampling) {
        Ok(replicates) => replicates.thetas,
        Err(error @ ScalingError::TooFewRuns { .. }) => {
            contender.refused = Some(error.to_string());
            return Ok(contender);
        }
        Err(error) => return Err(error),
    };
    let mut absolute = vec![];
    for (index, theta) in thetas.iter().enumerate() {
        let mut rng = stream(resampling.seed, "unseen runs", &[index as u64]);
        let drawn: Vec<usize> = (0..unseen.len())
            .map(|_| rng.random_range(0..unseen.len()))
            .collect();
        let error = drawn
            .iter()
            .map(|&i| error_of(theta, &unseen[i]))
            .sum::<f64>();
        let still = drawn.iter().map(|&i| unchanged[i]).sum::<f64>();
        absolute.push(error / drawn.len() as f64);
        contender.draws.push(error / still);
    }
    let estimate = |value: f64, draws: &[f64]| {
        let mut sorted = draws.to_vec();
        sorted.sort_by(f64::total_cmp);
        let tail = 0.5 * (1.0 - resampling.level);
        Estimate {
            value,
            interval: [quantile(&sorted, tail), quantile(&sorted, 1.0 - tail)],
        }
    };
    contender.law = Some(law);
    contender.unchanged_error = mean(&unchanged);
    contender.error = Some(estimate(mean(&errors), &absolute));
    contender.relative = Some(estimate(mean(&errors) / mean(&unchanged), &contender.draws));
    contender.unseen = (dear.iter().zip(&unseen))
        .map(|(&place, row)| Unseen {
            run: row.cluster.clone(),
            cost: costs[place],
            observed: row.y,
            predicted: chosen.predict(&row.x),
        })
        .collect();
    Ok(contender)
}

#[cfg(test)]
mod tests {
    use super::super::fit::tests::{example, noisy, planted};
    use super::*;

    #[test]
    fn a_law_beats_noise_and_a_constant_is_no_prediction() {
        let clean = planted(Law::Chinchilla, &example(Law::Chinchilla));
        let costs: Vec<f64> = clean.iter().map(|row| row.x[0] * row.x[1]).collect();
        let lawful = noisy(&clean, 0.003, 1);
        let flat: Vec<Observation> = (clean.iter())
            .map(|row| Observation {
                y: 2.0,
                ..row.clone()
            })
            .collect();
        let erratic = noisy(&flat, 0.3, 2);
        let measured = |name: &str, rows: &[Observation]| Measured {
            name: name.into(),
            laws: vec![Law::Chinchilla, Law::Joint],
            rows: rows.iter().cloned().map(Some).collect(),
        };
        let mut few = measured("few", &lawful);
        few.rows[4..].fill(None);
        let all = [
            measured("lawful", &lawful),
            measured("erratic", &erratic),
            few,
        ];
        let options = BootstrapOptions {
            replicates: 100,
            ..Default::default()
        };
        let result = compare(&all, &costs, 0.7, &FitOptions { starts: 60 }, &options).unwrap();
        assert_eq!(result.best, Some(0));
        assert!(result.confidence.unwrap() > 0.95, "{}", result.verdict);
        let [lawful, erratic, few] = &result.contenders[..] else {
            panic!("three contenders")
        };
        assert!(lawful.relative.unwrap().interval[1] < 0.5, "{lawful:?}");
        assert!(erratic.relative.unwrap().value > 0.5, "{erratic:?}");
        assert!(few.law.is_none() && few.refused.as_ref().unwrap().contains("n > k"));
        assert!(
            result.verdict.starts_with("lawful extrapolates best"),
            "{}",
            result.verdict
        );
    }
}
