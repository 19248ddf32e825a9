//! Pictures of several measures, or of several families of models, in one pair of axes.

use super::axis::Axis;
use super::text::number;
use super::{Chart, Mark, Series};
use crate::scaling::compare::Comparison;
use crate::scaling::report::Report;

/// Measured points of one name with the law through them.
#[derive(Clone, Debug)]
pub struct Line {
    /// Entry in the legend.
    pub label: String,
    /// Measured points, in order of x.
    pub points: Vec<(f64, f64)>,
    /// The law, empty if there is none: then the points are joined.
    pub law: Vec<(f64, f64)>,
}

/// How far the predictions of runs that no fit has seen are off, one series per measure.
pub fn extrapolations(comparison: &Comparison, series: &str) -> Chart {
    let of = match series.is_empty() {
        true => String::new(),
        false => format!(", {series}"),
    };
    let mut chart = Chart::new(
        &format!("Predictions of runs that no fit has seen{of}"),
        Axis::log("training FLOPs of the predicted run"),
        Axis::linear("prediction error (%)"),
    );
    chart.reference = Some((0.0, String::new()));
    let shown: Vec<_> = (comparison.contenders.iter())
        .filter(|c| c.law.is_some())
        .collect();
    let costs = || shown.iter().flat_map(|c| c.unseen.iter().map(|u| u.cost));
    let (low, high) = (
        costs().fold(f64::INFINITY, f64::min),
        costs().fold(0.0, f64::max),
    );
    for (place, c) in shown.iter().enumerate() {
        let short = c.name.split(" (").next().unwrap_or(&c.name);
        let relative = c
            .relative
            .map_or(String::new(), |r| format!(": {:.2}", r.value));
        // The measures of a run stand beside one another, in the order of the legend.
        let aside = place as f64 - 0.5 * (shown.len() - 1) as f64;
        let shift = (high / low).max(1.5).powf(0.014 * aside);
        chart.series.push(Series {
            label: format!("{short}{relative}"),
            points: (c.unseen.iter())
                .map(|u| Mark::at(u.cost * shift, 100.0 * (u.predicted / u.observed - 1.0)))
                .collect(),
            ..Series::default()
        });
    }
    let fitted = shown.iter().map(|c| c.fitted).max();
    chart.notes.push(format!(
        "Laws chosen on and fitted to the {} cheapest runs; the measures of a run stand side by side. In the \
         legend: error relative to predicting no change after them (0 is perfect, 1 no better).",
        fitted.unwrap_or(0)
    ));
    chart
}

/// Measures between 0 and 1, together called `output`, against one input.
pub fn measures(title: &str, input: &str, output: &str, lines: &[Line]) -> Chart {
    let mut chart = Chart::new(title, Axis::log(input), Axis::linear(output));
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        chart.series.push(Series {
            label: line.label.clone(),
            points: line.points.iter().map(|&(x, y)| Mark::at(x, y)).collect(),
            line: match line.law.is_empty() {
                true => line.points.clone(),
                false => line.law.clone(),
            },
            dashed: line.law.is_empty(),
            ..Series::default()
        });
    }
    let laws = lines.iter().filter(|line| !line.law.is_empty()).count();
    chart.notes.push(match laws {
        0 => "Dashed lines join measured points: too few for a law.".into(),
        _ => "Solid: h / (1 + exp(\u{2212}(s ln x + c))) through the points; dashed lines join points that do \
              not determine it."
            .into(),
    });
    chart
}

/// The loss against model size on all of the data, one series per family, each with its own law.
pub fn against_size(reports: &[(&str, &Report)]) -> Chart {
    let study = &reports[0].1.study;
    let mut chart = Chart::new(
        &format!("{} by family", study.loss_name),
        Axis::log(&study.params_name),
        Axis::log(&study.loss_name),
    );
    chart.band_label = format!("{:.0} % interval", 100.0 * reports[0].1.level);
    for (name, report) in reports {
        let Some(section) = report.sections.iter().find(|s| s.name == "size") else {
            continue;
        };
        let curve = section.answer.as_ref().and_then(|a| a.curves.first());
        chart.series.push(Series {
            label: (*name).to_owned(),
            points: (section.points.iter())
                .map(|p| Mark {
                    held_out: !p.fitted,
                    ..Mark::at(p.x[0], p.y)
                })
                .collect(),
            line: curve.map_or_else(Vec::new, |c| c.line.clone()),
            band: curve.map_or_else(Vec::new, |c| c.band.clone()),
            ..Series::default()
        });
        if let Some(answer) = &section.answer {
            let fit = &answer.fit;
            let text = super::study::formula(fit.law, &fit.params, &section.symbols);
            chart.notes.push(format!("{name}: {text} (n = {})", fit.n));
        }
    }
    chart
}

/// Quality against FLOPs per query, one series per family: all cells, and a line through those that no
/// cheaper cell of the family matches.
pub fn against_flops(reports: &[(&str, &Report)]) -> Chart {
    let study = &reports[0].1.study;
    let mut chart = Chart::new(
        &format!("{} at equal inference compute", study.quality_name),
        Axis::log("FLOPs per query"),
        Axis::linear(&study.quality_name),
    );
    for (name, report) in reports {
        let decode = &report.study.decode;
        let at = |i: usize| (decode[i].flops, decode[i].quality);
        chart.series.push(Series {
            label: (*name).to_owned(),
            points: (decode.iter())
                .map(|row| Mark::at(row.flops, row.quality))
                .collect(),
            line: report.pareto.iter().map(|&i| at(i)).collect(),
            ..Series::default()
        });
        if let Some(&best) = report.pareto.last() {
            let row = &decode[best];
            chart.notes.push(format!(
                "{name}: best {} with N = {}, D = {}, beam {}.",
                number(row.quality),
                number(row.params),
                number(row.data),
                row.beam
            ));
        }
    }
    chart
}
