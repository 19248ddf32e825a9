//! The pictures of a scaling report: one per question, its residuals, iso-FLOP slices, quality against FLOPs.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::axis::{Axis, Scale};
use super::text::number;
use super::{Chart, Mark, PlotError, Series};
use crate::scaling::Law;
use crate::scaling::report::{LawReport, MOST_CURVES, ONE_RUN, Report, Section};

/// Draws every picture of `report` into `folder` (which must exist) and returns their paths, in order.
///
/// `extension` is `png` or `svg`. Names: `<section>.png`, `<section>-residuals-<input>.png`, `isoflop.png`,
/// `frontier.png`, `quality-flops.png`.
pub fn draw(report: &Report, folder: &Path, extension: &str) -> Result<Vec<PathBuf>, PlotError> {
    let mut charts: Vec<(String, Chart)> = Vec::new();
    for section in &report.sections {
        charts.extend(section_charts(section, report.level));
    }
    if !report.slices.is_empty() {
        charts.push(("isoflop".into(), iso_flop(report)));
    }
    charts.extend(best_size(report).map(|chart| ("frontier".into(), chart)));
    if !report.study.decode.is_empty() {
        charts.push(("quality-flops".into(), quality(report)));
    }
    save_all(&charts, folder, extension)
}

/// Draws the curve and the residuals of one section into `folder` (which must exist) and returns the paths.
///
/// `level` is the coverage that the section's intervals aim at; names are those of [`draw`].
pub fn draw_section(
    section: &Section,
    level: f64,
    folder: &Path,
    extension: &str,
) -> Result<Vec<PathBuf>, PlotError> {
    save_all(&section_charts(section, level), folder, extension)
}

/// Draws named charts into `folder` (which must exist) and returns their paths, in order; those without a coordinate,
/// of measures that are 0 everywhere, are left out.
pub fn save_all(
    charts: &[(String, Chart)],
    folder: &Path,
    extension: &str,
) -> Result<Vec<PathBuf>, PlotError> {
    // Drawing takes a tenth of a second a picture, all of it computing.
    charts
        .par_iter()
        .filter(|(_, chart)| {
            let drawn = |s: &Series| !s.points.is_empty() || !s.line.is_empty();
            chart.series.iter().any(drawn)
        })
        .map(|(name, chart)| {
            let path = folder.join(format!("{name}.{extension}"));
            chart.save(&path).map(|()| path)
        })
        .collect()
}

fn section_charts(section: &Section, level: f64) -> Vec<(String, Chart)> {
    if section.points.is_empty() {
        return Vec::new();
    }
    let name = file_name(&section.name);
    let mut charts = vec![(name.clone(), curves(section, level))];
    // A law of one run's few widths is read off its curve.
    let of_one_run = section.name.starts_with(ONE_RUN);
    if let Some(answer) = section.answer.as_ref().filter(|_| !of_one_run) {
        for (input, label) in section.inputs.iter().enumerate() {
            let chart = residuals(section, answer, label, &|point| point.x[input]);
            charts.push((format!("{name}-residuals-{}", input + 1), chart));
        }
        let chart = residuals(section, answer, section.cost, &|point| point.flops);
        charts.push((format!("{name}-residuals-flops"), chart));
    }
    charts
}

fn file_name(name: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    name.chars().map(safe).collect()
}

/// The measured points of a section with its law: one series per level of all inputs but the last, or
/// measured against fitted values where there are more than [`MOST_CURVES`] levels.
pub fn curves(section: &Section, level: f64) -> Chart {
    let last = section.inputs.len() - 1;
    let saturating = section
        .answer
        .as_ref()
        .is_some_and(|a| a.fit.law.saturates());
    let y = if saturating {
        Scale::Linear
    } else {
        Scale::Log
    };
    let y = Axis {
        label: minus(&section.value),
        scale: y,
    };
    let mut chart = Chart::new(&minus(&section.title), Axis::log(&section.inputs[last]), y);
    chart.band_label = format!("{:.0} % interval", 100.0 * level);
    let mut levels: Vec<&[f64]> = section.points.iter().map(|p| &p.x[..last]).collect();
    levels.sort_by(|a, b| a.partial_cmp(b).expect("inputs are finite"));
    levels.dedup();
    if levels.len() > MOST_CURVES {
        return parity(section);
    }
    for fixed in levels {
        let names = fixed.iter().zip(&section.symbols);
        let label: Vec<String> = names
            .map(|(v, name)| format!("{name} = {}", number(*v)))
            .collect();
        let points = section.points.iter().filter(|p| &p.x[..last] == fixed);
        let marks = points
            .map(|p| Mark {
                held_out: !p.fitted,
                ..Mark::at(p.x[last], p.y)
            })
            .collect();
        let answer = section.answer.as_ref();
        let curve = answer.and_then(|answer| answer.curves.iter().find(|c| c.fixed == fixed));
        chart.series.push(Series {
            label: if label.is_empty() {
                "measured and fitted".into()
            } else {
                label.join(", ")
            },
            points: marks,
            line: curve.map_or_else(Vec::new, |c| c.line.clone()),
            band: curve.map_or_else(Vec::new, |c| c.band.clone()),
            ..Series::default()
        });
    }
    if let Some(answer) = &section.answer {
        chart.notes.push(note(section, answer));
    } else {
        chart.notes.push("No law: too few rows.".into());
    }
    chart
}

/// Measured against fitted values: what is left to draw when the inputs take too many values for curves.
fn parity(section: &Section) -> Chart {
    let value = minus(&section.value);
    let x = Axis::log(&format!("{value}, fitted"));
    let mut chart = Chart::new(
        &minus(&section.title),
        x,
        Axis::log(&format!("{value}, measured")),
    );
    let Some(answer) = &section.answer else {
        return chart;
    };
    let mark = |p: &crate::scaling::report::Point| Mark {
        held_out: !p.fitted,
        ..Mark::at(answer.fit.predict(&p.x), p.y)
    };
    let points: Vec<Mark> = section.points.iter().map(mark).collect();
    let low = points
        .iter()
        .map(|p| p.x.min(p.y))
        .fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.x.max(p.y)).fold(0.0, f64::max);
    chart.series.push(Series {
        label: "runs".into(),
        points,
        ..Series::default()
    });
    chart.series.push(Series {
        label: "equal".into(),
        line: vec![(low, low), (high, high)],
        neutral: true,
        ..Series::default()
    });
    chart.notes.push(note(section, answer));
    chart
}

/// The formula with its numbers, the intervals, and how far to trust them.
fn note(section: &Section, answer: &LawReport) -> String {
    let fit = &answer.fit;
    let mut parts = vec![formula(fit.law, &fit.params, &section.symbols)];
    if let Some(intervals) = &answer.intervals {
        let names = fit.law.param_names().iter().zip(intervals);
        let exponents =
            names.filter(|(name, _)| ["a", "b", "g", "s", "t", "u", "E", "h"].contains(name));
        let ranges: Vec<String> = exponents
            .map(|(name, i)| {
                format!(
                    "{name} in [{},\u{a0}{}]",
                    number(i.bca[0]),
                    number(i.bca[1])
                )
            })
            .collect();
        parts.push(ranges.join(", "));
    }
    parts.push(format!("n = {}", fit.n));
    parts.push(format!("k = {}", fit.k));
    if let Some(result) = &answer.extrapolation {
        let (rows, error) = (result.predictions.len(), 100.0 * result.mean_error);
        parts.push(format!("unseen rows: {rows}, mean error {error:.1} %"));
    }
    unbroken(&(parts.join("; ") + "."))
}

/// `text` with the spaces that no line should end at made unbreakable.
fn unbroken(text: &str) -> String {
    text.replace(" %", "\u{a0}%")
        .replace(" = ", "\u{a0}=\u{a0}")
        .replace(" in [", "\u{a0}in\u{a0}[")
}

/// `text` with a minus sign where it subtracts.
fn minus(text: &str) -> String {
    text.replace("1 - ", "1\u{a0}\u{2212}\u{a0}")
}

/// The law with its numbers, for inputs called `symbols`; exponents raised as in [`Chart`] texts.
pub fn formula(law: Law, params: &[f64], symbols: &[&str]) -> String {
    let p: Vec<String> = params.iter().map(|v| number(*v)).collect();
    let term = |coefficient: usize, symbol: usize| {
        let exponent = number(-params[coefficient + 1]);
        format!("{}\u{a0}{}^{{{exponent}}}", p[coefficient], symbols[symbol])
    };
    match law {
        Law::PowerFree => format!("L = ({}/{})^{{{}}}", p[0], symbols[0], p[1]),
        Law::Power => format!("L = ({}/{})^{{{}}} + {}", p[0], symbols[0], p[1], p[2]),
        Law::Joint => {
            let ratio = number(params[1] / params[3]);
            let (size, data) = (symbols[0], symbols[1]);
            format!(
                "L = [({}/{size})^{{{ratio}}} + {}/{data}]^{{{}}} + {}",
                p[0], p[2], p[3], p[4]
            )
        }
        Law::Chinchilla => format!("L = {} + {} + {}", p[4], term(0, 0), term(2, 1)),
        Law::ChinchillaBeam => {
            format!(
                "L = {} + {} + {} + {}",
                p[6],
                term(0, 0),
                term(2, 1),
                term(4, 2)
            )
        }
        Law::Reuse => {
            let (data, epochs, r) = (symbols[1], symbols[2], &p[4]);
            format!(
                "L = {} + {} + {}\u{a0}[{data}\u{a0}(1 + {r}\u{a0}(1 \u{2212} exp((1 \u{2212} {epochs})/{r})))]^{{{}}}",
                p[5],
                term(0, 0),
                p[2],
                number(-params[3])
            )
        }
        Law::Saturating | Law::SaturatingJoint | Law::SaturatingBeam => {
            let (h, c) = (&p[0], number(-params[p.len() - 1]));
            let terms = p[1..].iter().zip(&symbols[..law.num_inputs()]);
            let terms: String = terms
                .map(|(s, x)| format!(" \u{2212} {s} ln\u{a0}{x}"))
                .collect();
            format!("M = {h} / (1 + exp({c}{terms}))")
        }
        Law::Broken => {
            let (x, f) = (symbols[0], number(1.0 / params[4]));
            let outer = number(-params[2] * params[4]);
            format!(
                "L = {} + {}\u{a0}{x}^{{{}}} (1 + ({x}/{})^{{{f}}})^{{{outer}}}",
                p[5],
                p[0],
                number(-params[1]),
                p[3]
            )
        }
    }
}

/// Residuals of the fitted points, in per cent, against one of their numbers.
fn residuals(
    section: &Section,
    answer: &LawReport,
    label: &str,
    x: &dyn Fn(&crate::scaling::report::Point) -> f64,
) -> Chart {
    let y = Axis::linear("residual: fitted / measured \u{2212} 1 (%)");
    let title = format!("Residuals: {}", minus(&section.title));
    let mut chart = Chart::new(&title, Axis::log(label), y);
    let fitted = section
        .points
        .iter()
        .filter(|p| p.fitted)
        .zip(&answer.fit.residuals);
    let points = fitted
        .map(|(p, r)| Mark::at(x(p), 100.0 * r.exp_m1()))
        .collect();
    chart.series.push(Series {
        points,
        ..Series::default()
    });
    chart.reference = Some((0.0, String::new()));
    let rmse = 100.0 * answer.fit.rmse_log;
    let (n, k) = (answer.fit.n, answer.fit.k);
    chart.notes.push(unbroken(&format!(
        "Root mean square {rmse:.2} %; n = {n}; k = {k}."
    )));
    chart
}

/// The joint law along budgets, with the best size of each.
fn iso_flop(report: &Report) -> Chart {
    let study = &report.study;
    let title = "Iso-FLOP slices of the joint law";
    let mut chart = Chart::new(
        title,
        Axis::log(&study.params_name),
        Axis::log(&study.loss_name),
    );
    let mut optima = Series {
        label: "best size".into(),
        neutral: true,
        ..Series::default()
    };
    for slice in &report.slices {
        let best = slice.line.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let inner =
            |at: &&(f64, f64)| at.0 > slice.line[0].0 && at.0 < slice.line[slice.line.len() - 1].0;
        optima
            .points
            .extend(best.filter(inner).map(|at| Mark::at(at.0, at.1)));
        chart.series.push(Series {
            label: format!("C = {} FLOPs", number(slice.flops)),
            line: slice.line.clone(),
            ..Series::default()
        });
    }
    if !optima.points.is_empty() {
        chart.series.push(optima);
    }
    if let Some(frontier) = &report.frontier {
        let range = |i: &crate::scaling::Interval| {
            format!(
                "{} [{}, {}]",
                number(i.estimate),
                number(i.bca[0]),
                number(i.bca[1])
            )
        };
        chart.notes.push(unbroken(&format!(
            "Best size grows as C^{{p}} with p = {}, best data with {}; C = {}\u{a0}N\u{a0}D.",
            range(&frontier.size_exponent),
            range(&frontier.data_exponent),
            number(frontier.kappa)
        )));
    }
    chart
}

/// The best size against the training budget, with the runs.
fn best_size(report: &Report) -> Option<Chart> {
    let frontier = report.frontier.as_ref()?;
    let x = Axis::log("training FLOPs C");
    let mut chart = Chart::new(
        "Compute-optimal model size",
        x,
        Axis::log(&report.study.params_name),
    );
    chart.band_label = format!("{:.0} % interval", 100.0 * report.level);
    let all = &frontier.allocations;
    chart.series.push(Series {
        label: "best size".into(),
        line: all.iter().map(|a| (a.flops, a.params.estimate)).collect(),
        band: all
            .iter()
            .map(|a| (a.flops, a.params.bca[0], a.params.bca[1]))
            .collect(),
        ..Series::default()
    });
    let runs = report.study.train.iter();
    chart.series.push(Series {
        label: "runs".into(),
        points: runs
            .map(|row| Mark {
                held_out: row.held_out.is_some(),
                ..Mark::at(row.flops, row.params)
            })
            .collect(),
        neutral: true,
        ..Series::default()
    });
    let exponent = frontier.size_exponent;
    chart.notes.push(unbroken(&format!(
        "N grows as C^{{p}} with p = {} in [{}, {}]; beyond the runs the law is extrapolated.",
        number(exponent.estimate),
        number(exponent.bca[0]),
        number(exponent.bca[1])
    )));
    Some(chart)
}

/// Quality against FLOPs per query: one line per run over its beam widths.
fn quality(report: &Report) -> Chart {
    let study = &report.study;
    let title = format!("{} against inference compute", study.quality_name);
    let x = Axis::log("FLOPs per query");
    let mut chart = Chart::new(&title, x, Axis::linear(&study.quality_name));
    let mut runs: Vec<&str> = Vec::new();
    for row in &study.decode {
        if !runs.contains(&row.run.as_str()) {
            runs.push(&row.run);
        }
    }
    let same_data = study
        .decode
        .iter()
        .all(|row| row.data == study.decode[0].data);
    for run in runs {
        let mut rows: Vec<_> = study.decode.iter().filter(|row| row.run == run).collect();
        rows.sort_by(|a, b| a.flops.total_cmp(&b.flops));
        let data = if same_data {
            String::new()
        } else {
            format!(", D = {}", number(rows[0].data))
        };
        chart.series.push(Series {
            label: format!("N = {}{data}", number(rows[0].params)),
            points: rows
                .iter()
                .map(|row| Mark::at(row.flops, row.quality))
                .collect(),
            line: rows.iter().map(|row| (row.flops, row.quality)).collect(),
            ..Series::default()
        });
    }
    let mut widths: Vec<f64> = study.decode.iter().map(|row| row.beam).collect();
    widths.sort_by(f64::total_cmp);
    widths.dedup();
    let widths: Vec<String> = widths.into_iter().map(number).collect();
    chart.notes.push(format!(
        "Beam widths {}, from left to right on every line. FLOPs per query: {}.",
        widths.join(", "),
        study.decode_flops_formula
    ));
    chart
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::report::analyse;
    use crate::scaling::report::tests::{options, study};

    #[test]
    fn every_section_gets_its_pictures() {
        let mut study = study();
        study.train[24].held_out = Some("test".into());
        let report = analyse(&study, &options()).unwrap();
        let folder = std::env::temp_dir().join(format!("genret-plots-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let paths = draw(&report, &folder, "svg").unwrap();
        // Three training sections with 2 + 2 + 3 residuals and a curve each, five beams with a curve only, two joint with 4.
        assert_eq!(paths.len(), 3 + 2 + 2 + 3 + 5 + 2 * 4 + 3);
        for path in &paths {
            let text = std::fs::read_to_string(path).unwrap();
            assert!(
                text.ends_with("</svg>\n") && !text.contains("NaN"),
                "{}",
                path.display()
            );
        }
        let empty = Chart::new("t", Axis::log("x"), Axis::log("y"));
        assert_eq!(
            save_all(&[("empty".into(), empty)], &folder, "svg")
                .unwrap()
                .len(),
            0
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
