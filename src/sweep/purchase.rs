//! What to buy with a budget, by every law that the rows of a sweep carry.

use serde::Serialize;

use super::report::{LOSSES, models, run_of};
use super::{CellRow, SweepError};
use crate::config::Config;
use crate::scaling::bootstrap::bootstrap;
use crate::scaling::buy::{Order, Prices, Purchase, buy};
use crate::scaling::report::ReportOptions;
use crate::scaling::{Fit, Interval, Law, Observation, ScalingError, fit};

/// What one measure says should be bought.
#[derive(Clone, Debug, Serialize)]
pub struct Bought {
    /// Family and retriever.
    pub series: String,
    /// The measure.
    pub measure: String,
    /// The law, with symbols.
    pub law: Option<String>,
    /// What to buy; the value is that of the measure itself.
    pub purchase: Option<Purchase>,
    /// Why there is nothing to buy.
    pub refused: Option<String>,
}

/// What to buy with `budget` FLOPs from which `queries` queries are served too, by the laws of each series and
/// measure; `most_data` pairs are to be had.
///
/// Losses follow a law in size and data. A measure follows one of its miss, 1 - measure, in size, data and
/// beam width.
pub fn purchases(
    config: &Config,
    rows: &[CellRow],
    budget: f64,
    queries: f64,
    most_data: f64,
) -> Result<Vec<Bought>, SweepError> {
    if rows.is_empty() {
        return Err(SweepError::NoRows {
            out: config.out.clone(),
        });
    }
    let mut series: Vec<String> = rows.iter().map(CellRow::series).collect();
    series.sort();
    series.dedup();
    let mut all = vec![];
    for series in series {
        let own: Vec<CellRow> = (rows.iter())
            .filter(|row| row.series() == series)
            .cloned()
            .collect();
        all.extend(of_series(
            config,
            &series,
            &own,
            (budget, queries, most_data),
        )?);
    }
    Ok(all)
}

fn of_series(
    config: &Config,
    series: &str,
    rows: &[CellRow],
    (budget, queries, most_data): (f64, f64, f64),
) -> Result<Vec<Bought>, SweepError> {
    let size = |row: &CellRow| row.params_non_embedding as f64;
    let data = |row: &CellRow| row.pairs as f64;
    let range = |of: &dyn Fn(&CellRow) -> f64| {
        let values = || rows.iter().map(of);
        [
            values().fold(f64::INFINITY, f64::min),
            values().fold(0.0, f64::max),
        ]
    };
    let mut kappas: Vec<f64> = (rows.iter())
        .map(|row| row.train_flops / (size(row) * data(row)))
        .collect();
    kappas.sort_by(f64::total_cmp);
    let cells: Vec<(f64, f64, f64)> = (rows.iter())
        .map(|row| (size(row), row.beam as f64, row.decode_flops))
        .collect();
    let mut beams: Vec<f64> = rows.iter().map(|row| row.beam as f64).collect();
    beams.sort_by(f64::total_cmp);
    beams.dedup();
    let order = Order {
        budget,
        queries,
        prices: Prices {
            kappa: kappas[kappas.len() / 2],
            query: Prices::of_queries(&cells),
        },
        beams: &beams,
        measured: [range(&size), range(&data), range(&|row| row.train_flops)],
        most_data,
    };
    let options = ReportOptions::default();
    let mut all = vec![];
    let mut add = |measure: &str, laws: &[Law], rows: &[Observation], miss: bool| {
        let mut bought = Bought {
            series: series.into(),
            measure: measure.into(),
            law: None,
            purchase: None,
            refused: None,
        };
        match by_law(laws, rows, &order, &options) {
            Ok((fit, purchase)) => {
                bought.law = Some(fit.law.formula(&["N", "D", "w"]));
                match purchase {
                    Some(found) => {
                        bought.purchase = Some(if miss { of_hits(found) } else { found })
                    }
                    None => {
                        bought.refused = Some("the budget does not even serve the queries".into())
                    }
                }
            }
            Err(
                error @ (ScalingError::TooFewRows { .. }
                | ScalingError::TooFewLevels { .. }
                | ScalingError::TooFewRuns { .. }),
            ) => bought.refused = Some(error.to_string()),
            Err(error) => return Err(SweepError::from(error)),
        }
        all.push(bought);
        Ok(())
    };
    for loss in &LOSSES {
        let value = |row: &&CellRow| (loss.value)(row);
        if rows.iter().any(|row| value(&row).is_none()) {
            continue;
        }
        let observed: Vec<Observation> = (models(rows).into_iter())
            .filter_map(|row| {
                Some(Observation {
                    x: vec![size(row), data(row)],
                    y: value(&row)?,
                    cluster: run_of(row),
                    per_query: None,
                })
            })
            .collect();
        add(loss.name, &[Law::Chinchilla, Law::Joint], &observed, false)?;
    }
    let split = &config.evaluate.splits[0];
    for measure in &config.evaluate.measures {
        let observed: Vec<Observation> = (rows.iter())
            .filter_map(|row| {
                let hit = *row.measures.get(split)?.get(measure)?;
                (hit < 1.0).then(|| Observation {
                    x: vec![size(row), data(row), row.beam as f64],
                    y: 1.0 - hit,
                    cluster: run_of(row),
                    per_query: None,
                })
            })
            .collect();
        let name = format!("{measure} ({split})");
        add(&name, &[Law::ChinchillaBeam], &observed, true)?;
    }
    Ok(all)
}

/// The preferred law of `rows` (by AICc, else the one with fewer parameters) and what it buys.
fn by_law(
    laws: &[Law],
    rows: &[Observation],
    order: &Order<'_>,
    options: &ReportOptions,
) -> Result<(Fit, Option<Purchase>), ScalingError> {
    let mut fits = laws
        .iter()
        .map(|&law| fit(law, rows, &options.search))
        .collect::<Result<Vec<_>, _>>()?;
    fits.sort_by(|a, b| match (a.aicc, b.aicc) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.k.cmp(&b.k),
    });
    let fit = fits.swap_remove(0);
    let replicates = bootstrap(&fit, rows, &options.resampling)?;
    let purchase = buy(&fit, &replicates, order);
    Ok((fit, purchase))
}

/// The purchase with its value as hits instead of misses.
fn of_hits(mut purchase: Purchase) -> Purchase {
    let Interval {
        estimate,
        std_error,
        percentile,
        bca,
    } = purchase.value;
    let turned = |[low, high]: [f64; 2]| [1.0 - high, 1.0 - low];
    purchase.value = Interval {
        estimate: 1.0 - estimate,
        std_error,
        percentile: turned(percentile),
        bca: turned(bca),
    };
    purchase
}
