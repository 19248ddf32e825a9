//! From the rows of a study to its report.

use super::super::bootstrap::{Bootstrap, bootstrap};
use super::super::fit::{Fit, FitOptions, fit};
use super::super::frontier::{frontier, iso_flop_slice};
use super::super::laws::Law;
use super::super::starts::geometric;
use super::super::validate::{
    Extrapolation, extrapolate, influence, leave_one_level_out, split_by_cost,
};
use super::super::{Observation, ScalingError};
use super::markdown::number;
use super::{
    Candidate, Curve, DecodeRow, LawReport, MOST_CURVES, ONE_RUN, Point, Question, Report,
    ReportOptions, Section, Slice, Study, TrainRow,
};

/// Fits everything the rows allow.
///
/// # Errors
/// Numbers that are not positive and per-query values that do not belong to their row. Laws that the rows
/// do not determine are no error but a refused candidate.
pub fn analyse(study: &Study, options: &ReportOptions) -> Result<Report, ScalingError> {
    check(study)?;
    let mut sections = train_sections(study, options)?;
    let kappa = kappa(&study.train);
    let mut result_frontier = None;
    let mut slices = Vec::new();
    let fitted = || study.train.iter().filter(|row| row.held_out.is_none());
    let joint = sections
        .iter()
        .find(|s| s.name == "joint")
        .and_then(|s| s.answer.as_ref());
    if let Some(joint) = joint {
        let cheapest = fitted().map(|row| row.flops).fold(f64::INFINITY, f64::min);
        let dearest = fitted().map(|row| row.flops).fold(0.0, f64::max);
        let budgets = geometric(cheapest, 100.0 * dearest, 9);
        let rows = joint_rows(study);
        if joint.intervals.is_some() {
            let replicates = bootstrap(&joint.fit, &rows, &options.resampling)?;
            result_frontier = frontier(
                &joint.fit,
                &replicates,
                kappa.0,
                &budgets,
                [cheapest, dearest],
            );
        }
        let smallest = fitted().map(|row| row.params).fold(f64::INFINITY, f64::min);
        let largest = fitted().map(|row| row.params).fold(0.0, f64::max);
        let sizes = geometric(smallest / 3.0, largest * 3.0, 121);
        slices = geometric(cheapest, dearest, 5)
            .into_iter()
            .map(|flops| Slice {
                flops,
                line: iso_flop_slice(&joint.fit, kappa.0, flops, &sizes),
            })
            .collect();
    }
    sections.extend(decode_sections(study, options)?);
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rows_hash: rows_hash(study),
        seed: options.resampling.seed,
        replicates: options.resampling.replicates,
        level: options.resampling.level,
        study: study.clone(),
        sections,
        kappa,
        frontier: result_frontier,
        slices,
        pareto: pareto(&study.decode),
    })
}

fn check(study: &Study) -> Result<(), ScalingError> {
    let positive = |row: usize, column: &str, value: f64| {
        if value > 0.0 && value.is_finite() {
            Ok(())
        } else {
            Err(ScalingError::NotPositive {
                row: row + 1,
                column: column.to_owned(),
                value,
            })
        }
    };
    for (i, row) in study.train.iter().enumerate() {
        for (column, value) in [
            ("params", row.params),
            ("data", row.data),
            ("flops", row.flops),
            ("loss", row.loss),
        ] {
            positive(i, column, value)?;
        }
    }
    for (i, row) in study.decode.iter().enumerate() {
        for (column, value) in [
            ("params", row.params),
            ("data", row.data),
            ("beam", row.beam),
            ("decoding flops", row.flops),
            ("quality", row.quality),
        ] {
            positive(i, column, value)?;
        }
    }
    Ok(())
}

fn rows_hash(study: &Study) -> String {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(
        serde_json::to_string(study)
            .expect("numbers and strings serialise")
            .as_bytes(),
    );
    let train = study.train.iter().flat_map(|row| &row.per_query);
    for value in train
        .chain(study.decode.iter().flat_map(|row| &row.per_query))
        .flatten()
    {
        hasher.update(&value.to_le_bytes());
    }
    format!("{:016x}", hasher.digest())
}

/// Median of flops / (N D) over the runs, and the largest relative deviation from it.
fn kappa(rows: &[TrainRow]) -> (f64, f64) {
    let mut all: Vec<f64> = rows
        .iter()
        .map(|row| row.flops / (row.params * row.data))
        .collect();
    all.sort_by(f64::total_cmp);
    let Some(&median) = all.get(all.len() / 2) else {
        return (f64::NAN, f64::NAN);
    };
    (
        median,
        all.iter()
            .fold(0.0, |worst, k| worst.max((k / median - 1.0).abs())),
    )
}

fn train_point(row: &TrainRow, x: Vec<f64>) -> (Observation, Point) {
    let point = Point {
        run: row.run.clone(),
        x: x.clone(),
        y: row.loss,
        flops: row.flops,
        fitted: row.held_out.is_none(),
    };
    let cluster = row.run.clone();
    (
        Observation {
            x,
            y: row.loss,
            cluster,
            per_query: row.per_query.clone(),
        },
        point,
    )
}

fn joint_rows(study: &Study) -> Vec<Observation> {
    let fitted = study.train.iter().filter(|row| row.held_out.is_none());
    fitted
        .map(|row| train_point(row, vec![row.params, row.data]).0)
        .collect()
}

fn train_sections(study: &Study, options: &ReportOptions) -> Result<Vec<Section>, ScalingError> {
    if study.train.is_empty() {
        return Ok(Vec::new());
    }
    let fitted = || study.train.iter().filter(|row| row.held_out.is_none());
    let most_data = fitted().map(|row| row.data).fold(0.0, f64::max);
    let largest = fitted().map(|row| row.params).fold(0.0, f64::max);
    let make = |name: &str, title: String, symbols: &[&'static str], laws: &[Law], rows: Vec<_>| {
        let input = |symbol: &&str| {
            if *symbol == "N" {
                &study.params_name
            } else {
                &study.data_name
            }
        };
        let question = Question {
            name: name.to_owned(),
            title,
            inputs: symbols.iter().map(input).cloned().collect(),
            symbols: symbols.to_vec(),
            cost: "training FLOPs",
            value: study.loss_name.clone(),
        };
        answer(question, laws, rows, options)
    };
    let at_full_data = study.train.iter().filter(|row| row.data == most_data);
    let at_full_size = study.train.iter().filter(|row| row.params == largest);
    let one_dial = [Law::Power, Law::PowerFree];
    Ok(vec![
        make(
            "size",
            format!(
                "{} against model size, D = {}",
                study.loss_name,
                number(most_data)
            ),
            &["N"],
            &one_dial,
            at_full_data
                .map(|row| train_point(row, vec![row.params]))
                .collect(),
        )?,
        make(
            "data",
            format!(
                "{} against training data, N = {}",
                study.loss_name,
                number(largest)
            ),
            &["D"],
            &one_dial,
            at_full_size
                .map(|row| train_point(row, vec![row.data]))
                .collect(),
        )?,
        make(
            "joint",
            format!("{} against model size and training data", study.loss_name),
            &["N", "D"],
            &[Law::Chinchilla, Law::Joint],
            study
                .train
                .iter()
                .map(|row| train_point(row, vec![row.params, row.data]))
                .collect(),
        )?,
    ])
}

fn decode_sections(study: &Study, options: &ReportOptions) -> Result<Vec<Section>, ScalingError> {
    let mut runs: Vec<&str> = Vec::new();
    for row in &study.decode {
        if !runs.contains(&row.run.as_str()) {
            runs.push(&row.run);
        }
    }
    let pair = |row: &DecodeRow, x: Vec<f64>, miss: bool| {
        let turn = |value: f64| if miss { 1.0 - value } else { value };
        let y = turn(row.quality);
        let point = Point {
            run: row.run.clone(),
            x: x.clone(),
            y,
            flops: row.flops,
            fitted: true,
        };
        let per_query = row
            .per_query
            .as_ref()
            .map(|all| all.iter().map(|v| turn(*v)).collect());
        (
            Observation {
                x,
                y,
                cluster: row.run.clone(),
                per_query,
            },
            point,
        )
    };
    let mut sections = Vec::new();
    for run in runs {
        let rows: Vec<&DecodeRow> = study.decode.iter().filter(|row| row.run == run).collect();
        let question = Question {
            name: format!("{ONE_RUN}{run}"),
            title: format!("{} against beam width, {run}", study.quality_name),
            inputs: vec!["beam width w".to_owned()],
            symbols: vec!["w"],
            cost: "FLOPs per query",
            value: study.quality_name.clone(),
        };
        let pairs = rows
            .iter()
            .map(|row| pair(row, vec![row.beam], false))
            .collect();
        sections.push(answer(question, &[Law::Saturating], pairs, options)?);
    }
    // Rows without a miss have no logarithm of it and no place in a law of misses.
    let missed: Vec<&DecodeRow> = study
        .decode
        .iter()
        .filter(|row| row.quality < 1.0)
        .collect();
    if !missed.is_empty() {
        let data_varies = missed.iter().any(|row| row.data != missed[0].data);
        let mut inputs = vec![study.params_name.clone()];
        let (law, symbols) = if data_varies {
            inputs.push(study.data_name.clone());
            (Law::ChinchillaBeam, vec!["N", "D", "w"])
        } else {
            (Law::Chinchilla, vec!["N", "w"])
        };
        inputs.push("beam width w".into());
        let x = |row: &DecodeRow| {
            if data_varies {
                vec![row.params, row.data, row.beam]
            } else {
                vec![row.params, row.beam]
            }
        };
        // The measure itself, through the form that cannot leave its range.
        let saturating = if data_varies {
            Law::SaturatingBeam
        } else {
            Law::SaturatingJoint
        };
        let rises = Question {
            name: "measure".into(),
            title: format!(
                "{} against model size, data and beam width",
                study.quality_name
            ),
            inputs: inputs.clone(),
            symbols: symbols.clone(),
            cost: "FLOPs per query",
            value: study.quality_name.clone(),
        };
        let pairs = (study.decode.iter())
            .map(|row| pair(row, x(row), false))
            .collect();
        sections.push(answer(rises, &[saturating], pairs, options)?);
        let question = Question {
            name: "quality".into(),
            title: format!(
                "1 - {} against model size and beam width",
                study.quality_name
            ),
            inputs,
            symbols,
            cost: "FLOPs per query",
            value: format!("1 - {}", study.quality_name),
        };
        let pairs = missed.iter().map(|row| pair(row, x(row), true)).collect();
        sections.push(answer(question, &[law], pairs, options)?);
    }
    Ok(sections)
}

fn pareto(rows: &[DecodeRow]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| {
        rows[a]
            .flops
            .total_cmp(&rows[b].flops)
            .then(rows[b].quality.total_cmp(&rows[a].quality))
    });
    let mut best = f64::NEG_INFINITY;
    order.retain(|&i| {
        let better = rows[i].quality > best;
        best = best.max(rows[i].quality);
        better
    });
    order
}

/// Fits every law to the rows, prefers one by AICc, and checks it.
///
/// # Errors
/// Numbers that are not positive and per-query values that do not belong to their row. A law that the rows do
/// not determine is no error but a refused candidate.
pub fn answer(
    question: Question,
    laws: &[Law],
    rows: Vec<(Observation, Point)>,
    options: &ReportOptions,
) -> Result<Section, ScalingError> {
    let (observations, points): (Vec<Observation>, Vec<Point>) = rows.into_iter().unzip();
    let split = |fitted: bool| -> Vec<usize> {
        (0..points.len())
            .filter(|&i| points[i].fitted == fitted)
            .collect()
    };
    let pick = |indices: &[usize]| -> Vec<Observation> {
        indices.iter().map(|&i| observations[i].clone()).collect()
    };
    let (fitted, unseen) = (split(true), split(false));
    let rows = pick(&fitted);
    let mut candidates = Vec::new();
    let mut fits: Vec<(Fit, Option<f64>)> = Vec::new();
    for &law in laws {
        let mut candidate = Candidate {
            law,
            aicc: None,
            rmse_log: None,
            left_out_error: None,
            refused: None,
        };
        match fit(law, &rows, &options.search) {
            Ok(fit) => {
                candidate.aicc = fit.aicc;
                candidate.rmse_log = Some(fit.rmse_log);
                candidate.left_out_error = left_out_error(&fit, &rows);
                fits.push((fit, candidate.left_out_error));
            }
            Err(error @ (ScalingError::TooFewRows { .. } | ScalingError::TooFewLevels { .. })) => {
                candidate.refused = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
        candidates.push(candidate);
    }
    let by_aicc = fits.iter().all(|(fit, _)| fit.aicc.is_some());
    let by_left_out = fits.iter().all(|(_, error)| error.is_some());
    let key = |(fit, error): &(Fit, Option<f64>)| match (by_aicc, by_left_out) {
        (true, _) => fit.aicc,
        (false, true) => *error,
        (false, false) => Some(fit.k as f64),
    };
    let order = |a: &_, b: &_| {
        key(a)
            .partial_cmp(&key(b))
            .unwrap_or(std::cmp::Ordering::Equal)
    };
    let preferred = fits.into_iter().min_by(order).map(|(fit, _)| fit);
    let preferred = match preferred {
        None => None,
        Some(fit) => {
            let costs: Vec<f64> = fitted.iter().map(|&i| points[i].flops).collect();
            Some(law_report(fit, &rows, &costs, &pick(&unseen), options)?)
        }
    };
    let Question {
        name,
        title,
        inputs,
        symbols,
        cost,
        value,
    } = question;
    Ok(Section {
        name,
        title,
        inputs,
        symbols,
        cost,
        value,
        points,
        candidates,
        answer: preferred,
    })
}

/// Mean |error| at left-out levels of the first input, if the rest determines the law every time.
fn left_out_error(fit: &Fit, rows: &[Observation]) -> Option<f64> {
    let left = leave_one_level_out(fit, rows, 0);
    let errors: Option<Vec<f64>> = left
        .iter()
        .map(|level| level.mean_error.map(f64::abs))
        .collect();
    errors.map(|errors| errors.iter().sum::<f64>() / errors.len() as f64)
}

fn law_report(
    fit: Fit,
    rows: &[Observation],
    costs: &[f64],
    unseen: &[Observation],
    options: &ReportOptions,
) -> Result<LawReport, ScalingError> {
    let law = fit.law;
    let mut warnings = fit.warnings.clone();
    let mut runs: Vec<&str> = rows.iter().map(|row| row.cluster.as_str()).collect();
    runs.sort_unstable();
    runs.dedup();
    let replicates = match bootstrap(&fit, rows, &options.resampling) {
        Ok(replicates) => Some(replicates),
        Err(error @ ScalingError::TooFewRuns { .. }) => {
            warnings.push(format!("no intervals: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    if replicates.is_some() && runs.len() == 1 {
        warnings
            .push("the intervals hold for this one run: they vary the queries, not the run".into());
    } else if replicates.is_some() && runs.len() < 10 {
        let count = runs.len();
        warnings.push(format!(
            "intervals from {count} runs are rough and tend to be too narrow"
        ));
    }
    let intervals = replicates
        .as_ref()
        .map(|replicates| replicates.params(&fit));
    let influence = match (&replicates, &intervals) {
        (Some(replicates), Some(params)) if runs.len() > 1 => influence(&fit, replicates, params),
        _ => Vec::new(),
    };
    let search = FitOptions {
        starts: options.search.starts.min(200),
    };
    let (extrapolation, extrapolation_note) = if unseen.is_empty() {
        let (cheap, dear) = split_by_cost(costs, options.cheap_share);
        let pick = |all: &[usize]| all.iter().map(|&i| rows[i].clone()).collect::<Vec<_>>();
        let what = format!(
            "fitted to the {} cheapest rows, predicting the {} others",
            cheap.len(),
            dear.len()
        );
        try_extrapolation(law, &pick(&cheap), &pick(&dear), &search, options, what)
    } else {
        let what = format!("predicting the {} held-out rows", unseen.len());
        try_extrapolation(law, rows, unseen, &search, options, what)
    };
    let everything: Vec<Observation> = rows.iter().chain(unseen).cloned().collect();
    Ok(LawReport {
        intervals,
        num_runs: runs.len(),
        num_queries: replicates.as_ref().map_or(0, |r| r.num_queries),
        redrawn: replicates.as_ref().map_or(0, |r| r.redrawn),
        extrapolation,
        extrapolation_note,
        left_out: leave_one_level_out(&fit, rows, 0),
        influence,
        curves: curves(&fit, replicates.as_ref(), &everything),
        warnings,
        fit,
    })
}

fn try_extrapolation(
    law: Law,
    fitted: &[Observation],
    unseen: &[Observation],
    search: &FitOptions,
    options: &ReportOptions,
    what: String,
) -> (Option<Extrapolation>, String) {
    if unseen.is_empty() {
        return (None, "no row is left to predict: all cost the same".into());
    }
    match extrapolate(law, fitted, unseen, search, &options.resampling) {
        Ok(result) => (Some(result), what),
        Err(error) => (None, format!("not possible ({what}): {error}")),
    }
}

/// The law along its last input: one curve for a law of one input, else one per level of the others.
fn curves(fit: &Fit, replicates: Option<&Bootstrap>, rows: &[Observation]) -> Vec<Curve> {
    let last = fit.law.num_inputs() - 1;
    let values = || rows.iter().map(|row| row.x[last]);
    let (low, high) = (
        values().fold(f64::INFINITY, f64::min),
        values().fold(0.0, f64::max),
    );
    // Up to a little beyond the data, where the law is asked for, but not below (a beam has one row at least).
    let along = geometric(low, high * (high / low).powf(0.1), 101);
    let mut fixed: Vec<Vec<f64>> = rows.iter().map(|row| row.x[..last].to_vec()).collect();
    fixed.sort_by(|a, b| a.partial_cmp(b).expect("inputs are finite"));
    fixed.dedup();
    if fixed.len() > MOST_CURVES {
        return Vec::new();
    }
    let make = |others: Vec<f64>| {
        let at = |x: f64| [others.as_slice(), &[x]].concat();
        let band = match replicates {
            Some(replicates) if others.is_empty() => along
                .iter()
                .map(|&x| {
                    let [low, high] = replicates.band(&at(x));
                    (x, low, high)
                })
                .collect(),
            _ => Vec::new(),
        };
        let line = along.iter().map(|&x| (x, fit.predict(&at(x)))).collect();
        Curve {
            fixed: others,
            line,
            band,
        }
    };
    fixed.into_iter().map(make).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::super::bootstrap::BootstrapOptions;
    use super::super::super::fit::tests::normal;
    use super::*;
    use crate::rng::stream;

    /// A study with five sizes and five amounts of data, beams 1 to 64, small noise.
    pub(crate) fn study() -> Study {
        let mut rng = stream(3, "test study", &[]);
        let theta = Law::Chinchilla.theta(&[300.0, 0.4, 60.0, 0.3, 0.5]);
        let mut train = Vec::new();
        for params in geometric(1e5, 1e7, 5) {
            for share in [0.2, 0.4, 0.6, 0.8, 1.0] {
                let data = 50_000.0 * share;
                let loss = Law::Chinchilla.value(&theta, &[params, data]);
                train.push(TrainRow {
                    run: format!("n{params:.0}-d{data:.0}"),
                    params,
                    params_total: Some(params * 1.5),
                    data,
                    tokens: Some(data * 20.0),
                    unique_data: None,
                    flops: 120.0 * params * data,
                    seed: Some(0),
                    loss: loss * (0.003 * normal(&mut rng)).exp(),
                    per_query: None,
                    held_out: None,
                });
            }
        }
        let mut decode = Vec::new();
        for (row, top) in train
            .iter()
            .filter(|row| row.data == 50_000.0)
            .zip([0.3, 0.4, 0.5, 0.55, 0.6])
        {
            for beam in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
                let truth: f64 = top / (1.0 + (-(0.7 * f64::ln(beam) - 0.3)).exp());
                decode.push(DecodeRow {
                    run: row.run.clone(),
                    params: row.params,
                    data: row.data,
                    beam,
                    flops: 2.0 * row.params * (20.0 + 10.0 * beam),
                    quality: truth * (0.01 * normal(&mut rng)).exp(),
                    per_query: None,
                });
            }
        }
        Study {
            title: "Test study".into(),
            loss_name: "CGL (nats)".into(),
            params_name: "non-embedding parameters N".into(),
            data_name: "training examples D".into(),
            flops_formula: "6 N tokens".into(),
            quality_name: "RR@10".into(),
            decode_flops_formula: "2 N (prompt + w generated)".into(),
            train,
            decode,
        }
    }

    pub(crate) fn options() -> ReportOptions {
        ReportOptions {
            search: FitOptions { starts: 60 },
            resampling: BootstrapOptions {
                replicates: 100,
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn a_report_answers_every_question_and_repeats() {
        let report = analyse(&study(), &options()).unwrap();
        let names: Vec<&str> = report.sections.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names[..3], ["size", "data", "joint"]);
        assert_eq!(names.len(), 3 + 5 + 2);
        let joint = report.sections[2].answer.as_ref().unwrap();
        assert_eq!(joint.fit.n, 25);
        assert!(
            (joint.fit.params[1] - 0.4).abs() < 0.08,
            "{:?}",
            joint.fit.params
        );
        assert!(joint.extrapolation.as_ref().unwrap().mean_error < 0.1);
        assert!((report.kappa.0 - 120.0).abs() < 1e-9 && report.kappa.1 < 1e-9);
        assert!(report.frontier.is_some() && report.slices.len() == 5);
        // One run alone has no run-to-run spread: the section says so instead of an interval of width zero.
        let beam = report.sections[3].answer.as_ref().unwrap();
        assert!(beam.intervals.is_none());
        assert!(
            beam.warnings.iter().any(|w| w.starts_with("no intervals")),
            "{:?}",
            beam.warnings
        );
        assert!(
            report.sections[8]
                .answer
                .as_ref()
                .unwrap()
                .intervals
                .is_some()
        );

        let text = report.markdown();
        for part in [
            "n = 25, k = 5, n - k = 20",
            "N_opt",
            "extrapolated",
            "RR@10",
            "Caution",
        ] {
            assert!(text.contains(part), "{part} missing in\n{text}");
        }
        let again = analyse(&study(), &options()).unwrap();
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            serde_json::to_string(&again).unwrap()
        );
    }

    #[test]
    fn held_out_rows_are_predicted_and_not_fitted() {
        let mut study = study();
        study.decode.clear();
        for row in study
            .train
            .iter_mut()
            .filter(|row| row.params > 9e6 || row.data == 50_000.0)
        {
            row.held_out = Some("largest size or all data".into());
        }
        let report = analyse(&study, &options()).unwrap();
        let joint = report.sections[2].answer.as_ref().unwrap();
        assert_eq!(joint.fit.n, 16);
        assert_eq!(joint.extrapolation.as_ref().unwrap().predictions.len(), 9);
        // The law in N alone moves to the most data that is fitted, and predicts the largest size there.
        let size = report.sections[0].answer.as_ref().unwrap();
        assert_eq!((size.fit.n, report.sections[0].points.len()), (4, 5));
        assert_eq!(size.extrapolation.as_ref().unwrap().predictions.len(), 1);
        assert!(report.markdown().contains("no: largest size"));
    }

    #[test]
    fn too_few_runs_give_reasons_instead_of_laws() {
        let mut study = study();
        study.decode.clear();
        study.train.truncate(3);
        let report = analyse(&study, &options()).unwrap();
        assert!(report.sections.iter().all(|s| {
            s.answer
                .as_ref()
                .is_none_or(|a| a.fit.law == Law::PowerFree)
        }));
        assert!(report.markdown().contains("n > k"));
        study.train[1].loss = -1.0;
        let error = analyse(&study, &options()).unwrap_err().to_string();
        assert!(error.starts_with("row 2: loss is -1"), "{error}");
    }

    #[test]
    fn only_rows_that_cost_more_for_more_quality_are_on_the_front() {
        let row = |flops, quality| DecodeRow {
            run: "r".into(),
            params: 1.0,
            data: 1.0,
            beam: 1.0,
            flops,
            quality,
            per_query: None,
        };
        let rows = [
            row(1.0, 0.2),
            row(3.0, 0.3),
            row(2.0, 0.4),
            row(4.0, 0.5),
            row(4.0, 0.6),
        ];
        assert_eq!(pareto(&rows), [0, 2, 4]);
    }
}
