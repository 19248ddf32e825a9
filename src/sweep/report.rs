//! From the rows of a sweep to laws, report and pictures.
//!
//! Rows of several families or retrievers are studied apart, each under its own name, and drawn together:
//! loss against size, quality against FLOPs per query. Over all measures of one series stands a
//! comparison: which of them a law extrapolates best.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::baseline::{self, AgainstBm25, Baseline};
use super::{CellRow, SweepError};
use crate::atomic_file;
use crate::config::Config;
use crate::plot::study;
use crate::plot::together::{self, Line};
use crate::scaling::compare::{Comparison, Measured, compare};
use crate::scaling::report::{DecodeRow, Report, ReportOptions, Study, TrainRow, analyse};
use crate::scaling::{FitOptions, Law, Observation, fit};

/// A report and where it was written.
pub struct Written {
    /// Family and retriever, empty where there is only one.
    pub series: String,
    /// What was fitted.
    pub report: Report,
    /// Folder of `scaling.md`, `scaling.json` and the pictures.
    pub folder: PathBuf,
    /// The pictures as PNG; each has an SVG beside it.
    pub pictures: Vec<PathBuf>,
}

/// Everything made of the rows of a sweep.
pub struct SweepReport {
    /// One report per series and loss.
    pub written: Vec<Written>,
    /// How the measures of each series compare.
    pub comparisons: Vec<(String, Comparison)>,
    /// Every model against BM25, where that was measured.
    pub against_bm25: Vec<AgainstBm25>,
    /// Pictures of several measures or series together, as PNG; each has an SVG beside it.
    pub pictures: Vec<PathBuf>,
    /// The Markdown that leads to all of it.
    pub summary: PathBuf,
}

/// What is written of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The laws as JSON and Markdown.
    Laws,
    /// The laws and their pictures.
    All,
}

/// A loss that laws are fitted to.
pub(super) struct Loss {
    folder: &'static str,
    pub(super) name: &'static str,
    pub(super) value: fn(&CellRow) -> Option<f64>,
    per_query: fn(&CellRow) -> Option<Vec<f64>>,
    /// Whether the laws of quality, which are the same for every loss, go into this report.
    with_quality: bool,
}

pub(super) const LOSSES: [Loss; 2] = [
    Loss {
        folder: "cgl",
        name: "contrastive generation loss (nats)",
        value: |row| Some(row.cgl),
        per_query: |row| Some(row.cgl_per_query.clone()),
        with_quality: true,
    },
    Loss {
        folder: "generation-loss",
        name: "generation loss (nats per token)",
        value: |row| row.validation_loss,
        per_query: |_| None,
        with_quality: false,
    },
];

/// `scaling.json` of a whole sweep.
#[derive(Serialize)]
struct Summary<'a> {
    name: &'a str,
    rows: usize,
    comparisons: &'a [(String, Comparison)],
    bm25: Option<&'a Baseline>,
    against_bm25: &'a [AgainstBm25],
    reports: Vec<&'a Path>,
}

/// Fits every law to `rows`, once per series and loss, and writes reports and pictures under `out/report`.
///
/// The first split and measure of the configuration are the quality. Cells where it is zero have no place on
/// a logarithmic axis and are left out of the beam law; the title of the report says how many.
pub fn report(
    config: &Config,
    rows: &[CellRow],
    output: Output,
) -> Result<SweepReport, SweepError> {
    if rows.is_empty() {
        return Err(SweepError::NoRows {
            out: config.out.clone(),
        });
    }
    let options = ReportOptions::default();
    let root = config.out.join("report");
    make(&root)?;
    let mut all_series: Vec<String> = rows.iter().map(CellRow::series).collect();
    all_series.sort();
    all_series.dedup();
    let several = all_series.len() > 1;
    let (mut written, mut comparisons) = (vec![], vec![]);
    for series in &all_series {
        let own: Vec<CellRow> = (rows.iter())
            .filter(|row| row.series() == *series)
            .cloned()
            .collect();
        let series = if several {
            series.clone()
        } else {
            String::new()
        };
        for loss in &LOSSES {
            if own.iter().any(|row| (loss.value)(row).is_none()) {
                continue;
            }
            let title = match series.is_empty() {
                true => config.name.clone(),
                false => format!("{}, {series}", config.name),
            };
            let study = study_of(&title, &own, loss, config);
            let report = analyse(&study, &options)?;
            let folder = root.join(&series).join(loss.folder);
            make(&folder)?;
            report.write(&folder)?;
            let pictures = match output {
                Output::Laws => vec![],
                Output::All => {
                    study::draw(&report, &folder, "svg")?;
                    study::draw(&report, &folder, "png")?
                }
            };
            written.push(Written {
                series: series.clone(),
                report,
                folder,
                pictures,
            });
        }
        comparisons.push((series, comparison(config, &own, &options)?));
    }
    let bm25 = baseline::open(config)?;
    let pictures = match output {
        Output::Laws => vec![],
        Output::All => {
            let bm25 = bm25.as_ref();
            joint_pictures(&written, &comparisons, rows, bm25, config, &root)?
        }
    };
    let summary = root.join("sweep.md");
    let made = SweepReport {
        written,
        comparisons,
        against_bm25: match &bm25 {
            Some(bm25) => baseline::against(rows, bm25, config),
            None => vec![],
        },
        pictures,
        summary,
    };
    write_summary(config, rows, &made, bm25.as_ref(), &root)?;
    Ok(made)
}

fn make(folder: &Path) -> Result<(), SweepError> {
    fs::create_dir_all(folder).map_err(SweepError::io(folder))
}

fn quality(config: &Config) -> (&str, &str) {
    (&config.evaluate.splits[0], &config.evaluate.measures[0])
}

pub(super) fn run_of(row: &CellRow) -> String {
    format!("{}-{}-seed{}", row.size, row.fraction, row.seed)
}

/// One row per model: that of its widest beam.
pub(super) fn models(rows: &[CellRow]) -> Vec<&CellRow> {
    let mut models: Vec<&CellRow> = vec![];
    for row in rows {
        match models.iter_mut().find(|m| m.model == row.model) {
            Some(held) if held.beam < row.beam => *held = row,
            Some(_) => {}
            None => models.push(row),
        }
    }
    models
}

/// Every loss and every measure of the first split, at the widest beam, as functions of size and data.
fn comparison(
    config: &Config,
    rows: &[CellRow],
    options: &ReportOptions,
) -> Result<Comparison, SweepError> {
    let models = models(rows);
    let varies = |of: fn(&CellRow) -> f64| models.iter().any(|m| of(m) != of(models[0]));
    let size: fn(&CellRow) -> f64 = |row| row.params_non_embedding as f64;
    let data: fn(&CellRow) -> f64 = |row| row.pairs as f64;
    let inputs: Vec<fn(&CellRow) -> f64> = match (varies(size), varies(data)) {
        (true, true) => vec![size, data],
        (false, true) => vec![data],
        _ => vec![size],
    };
    let (falling, rising) = match inputs.len() {
        2 => (
            vec![Law::Chinchilla, Law::Joint],
            vec![Law::SaturatingJoint],
        ),
        _ => (vec![Law::Power, Law::PowerFree], vec![Law::Saturating]),
    };
    let measured = |name: &str, laws: &[Law], value: &dyn Fn(&CellRow) -> Option<f64>| Measured {
        name: name.into(),
        laws: laws.to_vec(),
        rows: (models.iter())
            .map(|row| {
                let y = value(row).filter(|y| *y > 0.0)?;
                Some(Observation {
                    x: inputs.iter().map(|input| input(row)).collect(),
                    y,
                    cluster: run_of(row),
                    per_query: None,
                })
            })
            .collect(),
    };
    let mut measures = vec![];
    for loss in &LOSSES {
        if rows.iter().all(|row| (loss.value)(row).is_some()) {
            measures.push(measured(loss.name, &falling, &loss.value));
        }
    }
    let split = &config.evaluate.splits[0];
    let beam = models.iter().map(|m| m.beam).max().unwrap_or(1);
    for measure in &config.evaluate.measures {
        let value = |row: &CellRow| row.measures.get(split)?.get(measure).copied();
        measures.push(measured(
            &format!("{measure} ({split}, beam {beam})"),
            &rising,
            &value,
        ));
    }
    let costs: Vec<f64> = models.iter().map(|m| m.train_flops).collect();
    Ok(compare(
        &measures,
        &costs,
        options.cheap_share,
        &options.search,
        &options.resampling,
    )?)
}

/// Pictures that hold several measures or series.
fn joint_pictures(
    written: &[Written],
    comparisons: &[(String, Comparison)],
    rows: &[CellRow],
    bm25: Option<&Baseline>,
    config: &Config,
    root: &Path,
) -> Result<Vec<PathBuf>, SweepError> {
    let mut charts = vec![];
    for (series, comparison) in comparisons {
        if comparison.best.is_some() {
            let name = match series.is_empty() {
                true => "extrapolation".to_string(),
                false => format!("extrapolation-{series}"),
            };
            charts.push((name, together::extrapolations(comparison, series)));
        }
    }
    if let Some(chart) = measures_chart(rows, config) {
        charts.push(("measures".into(), chart));
    }
    let several = comparisons.len() > 1;
    if several {
        let quality = quality_chart(rows, bm25, config);
        charts.push(("families-quality-size".into(), quality));
        for loss in &LOSSES {
            let of_loss: Vec<(&str, &Report)> = (written.iter())
                .filter(|w| w.folder.ends_with(loss.folder))
                .map(|w| (w.series.as_str(), &w.report))
                .collect();
            if of_loss.len() > 1 {
                let name = format!("families-{}", loss.folder);
                charts.push((name, together::against_size(&of_loss)));
                if loss.with_quality {
                    charts.push((
                        "families-quality-flops".into(),
                        together::against_flops(&of_loss),
                    ));
                }
            }
        }
    }
    study::save_all(&charts, root, "svg")?;
    Ok(study::save_all(&charts, root, "png")?)
}

/// The measures of the first split at the widest beam, on all of the data, against model size.
fn measures_chart(rows: &[CellRow], config: &Config) -> Option<crate::plot::Chart> {
    let first = rows.first()?.series();
    let own: Vec<CellRow> = (rows.iter())
        .filter(|row| row.series() == first)
        .cloned()
        .collect();
    let models = models(&own);
    let pairs = models.iter().map(|m| m.pairs).max()?;
    let split = &config.evaluate.splits[0];
    let line = |measure: &String| {
        let mut points: Vec<(f64, f64)> = (models.iter())
            .filter(|m| m.pairs == pairs)
            .filter_map(|m| {
                let value = *m.measures.get(split)?.get(measure)?;
                Some((m.params_non_embedding as f64, value))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Line {
            label: measure.clone(),
            law: saturating_curve(&points),
            points,
        }
    };
    let lines: Vec<Line> = config.evaluate.measures.iter().map(line).collect();
    if lines.iter().all(|line| line.points.len() < 2) {
        return None;
    }
    let beam = models.iter().map(|m| m.beam).max()?;
    Some(together::measures(
        &format!("Retrieval quality against model size ({split}, beam {beam}, {pairs} pairs)"),
        "non-embedding parameters",
        &config.evaluate.measures.join(", "),
        &lines,
    ))
}

/// The quality of all series at the widest beam, on all of the data, against model size.
fn quality_chart(rows: &[CellRow], bm25: Option<&Baseline>, config: &Config) -> crate::plot::Chart {
    let (split, measure) = quality(config);
    let mut series: Vec<String> = rows.iter().map(CellRow::series).collect();
    series.sort();
    series.dedup();
    let models = models(rows);
    let pairs = models.iter().map(|m| m.pairs).max();
    let line = |series: String| {
        let own = models
            .iter()
            .filter(|m| m.series() == series && Some(m.pairs) == pairs);
        let mut points: Vec<(f64, f64)> = own
            .filter_map(|m| {
                let value = *m.measures.get(split)?.get(measure)?;
                Some((m.params_non_embedding as f64, value))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Line {
            label: series,
            points,
            law: vec![],
        }
    };
    let lines: Vec<Line> = series.into_iter().map(line).collect();
    let title = format!("{measure} ({split}) against model size");
    let mut chart = together::measures(&title, "non-embedding parameters", measure, &lines);
    let value = bm25.and_then(|b| b.measures.get(split)?.get(measure));
    chart.reference = value.map(|&value| (value, "BM25".to_string()));
    chart
}

/// The saturating law through points, if they determine it.
fn saturating_curve(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let rows: Vec<Observation> = (points.iter())
        .filter(|(_, y)| *y > 0.0)
        .map(|&(x, y)| Observation {
            x: vec![x],
            y,
            cluster: x.to_string(),
            per_query: None,
        })
        .collect();
    let Ok(law) = fit(Law::Saturating, &rows, &FitOptions::default()) else {
        return vec![];
    };
    let (low, high) = (rows[0].x[0], rows[rows.len() - 1].x[0]);
    let at = |i: i32| low * (high / low).powf(f64::from(i) / 60.0);
    (0..=63).map(at).map(|x| (x, law.predict(&[x]))).collect()
}

fn write_summary(
    config: &Config,
    rows: &[CellRow],
    made: &SweepReport,
    bm25: Option<&Baseline>,
    root: &Path,
) -> Result<(), SweepError> {
    let put = |path: &Path, text: &str| {
        atomic_file::write(path, |file| file.write_all(text.as_bytes()))
            .map_err(SweepError::io(path))
    };
    put(&made.summary, &markdown(config, rows, made, bm25, root))?;
    let summary = Summary {
        name: &config.name,
        rows: rows.len(),
        comparisons: &made.comparisons,
        bm25,
        against_bm25: &made.against_bm25,
        reports: made.written.iter().map(|w| w.folder.as_path()).collect(),
    };
    let json = serde_json::to_string_pretty(&summary).expect("numbers and strings serialise");
    put(&root.join("sweep.json"), &(json + "\n"))
}

fn markdown(
    config: &Config,
    rows: &[CellRow],
    made: &SweepReport,
    bm25: Option<&Baseline>,
    root: &Path,
) -> String {
    let mut out = format!("# {}\n\n{} cells.\n", config.name, rows.len());
    if let Some(bm25) = bm25 {
        out.push_str(&table_against(made, bm25, config));
    }
    for (series, comparison) in &made.comparisons {
        let heading = match series.is_empty() {
            true => "Which measure extrapolates best".to_string(),
            false => format!("Which measure extrapolates best, {series}"),
        };
        let _ = write!(
            out,
            "\n## {heading}\n\n{}\n\nThe law of each measure is chosen on and fitted to the cheapest 70 % of the \
             runs and predicts the others. The relative error is that error divided by the error of predicting no \
             change after the dearest fitted run.\n\n\
             | measure | law | fitted | predicted | mean error | predicting no change | relative error |\n\
             |---|---|--:|--:|--:|--:|--:|\n",
            comparison.verdict
        );
        for c in &comparison.contenders {
            let percent = |v: f64| format!("{:.1}", 100.0 * v);
            let error = c.error.map_or("n/a".into(), |e| {
                let [low, high] = e.interval;
                format!(
                    "{} % [{}, {}]",
                    percent(e.value),
                    percent(low),
                    percent(high)
                )
            });
            let relative = c.relative.map_or_else(
                || c.refused.clone().unwrap_or_default(),
                |e| {
                    format!(
                        "{:.2} [{:.2}, {:.2}]",
                        e.value, e.interval[0], e.interval[1]
                    )
                },
            );
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {error} | {} | {relative} |",
                c.name,
                c.law.map_or("none", |law| law.name()),
                c.fitted,
                c.unseen.len(),
                match c.unchanged_error.is_finite() {
                    true => format!("{} %", percent(c.unchanged_error)),
                    false => "n/a".into(),
                },
            );
        }
    }
    let relative = |path: &Path| {
        let inner = path.strip_prefix(root).unwrap_or(path);
        inner.display().to_string()
    };
    let _ = writeln!(out, "\n## Reports\n");
    for w in &made.written {
        let _ = writeln!(
            out,
            "- [{} of {}]({})",
            w.report.study.loss_name,
            w.report.study.title,
            relative(&w.folder.join("scaling.md"))
        );
    }
    if !made.pictures.is_empty() {
        let _ = writeln!(out, "\n## Pictures\n");
        for picture in &made.pictures {
            let name = relative(picture);
            let _ = writeln!(out, "![{}]({name})\n", name.trim_end_matches(".png"));
        }
    }
    out
}

/// BM25 and what is better or worse than it.
fn table_against(made: &SweepReport, bm25: &Baseline, config: &Config) -> String {
    let (split, measure) = quality(config);
    let value = bm25.measures.get(split).and_then(|m| m.get(measure));
    let mut out = format!(
        "\n## Against BM25\n\nBM25 (k1 0.9, b 0.4, English stemmer and stop words) has {measure} {:.4} on the same queries of \
         `{split}`. Differences with their 95 % bootstrap interval; p by the paired randomisation test, two-sided, after \
         Holm over all rows.\n\n| series | size | pairs | training FLOPs | {measure} | difference | p (Holm) |\n|---|---|--:|--:|--:|--:|--:|\n",
        value.copied().unwrap_or(f64::NAN),
    );
    for a in &made.against_bm25 {
        let c = &a.comparison;
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.2e} | {:.4} | {:+.4} [{:+.4}, {:+.4}] | {:.2e} |",
            a.series,
            a.size,
            a.pairs,
            a.train_flops,
            a.quality,
            c.difference,
            c.interval.0,
            c.interval.1,
            a.p_holm,
        );
    }
    out
}

/// The study of one series and loss.
fn study_of(title: &str, rows: &[CellRow], loss: &Loss, config: &Config) -> Study {
    let mut train: Vec<TrainRow> = vec![];
    let mut decode = vec![];
    let mut zeros = 0;
    let (split, measure) = quality(config);
    for row in rows {
        let run = format!("{}-{}-seed{}", row.size, row.fraction, row.seed);
        if !train.iter().any(|t| t.run == run) {
            train.push(TrainRow {
                run: run.clone(),
                params: row.params_non_embedding as f64,
                params_total: Some((row.params_non_embedding + row.params_embedding) as f64),
                data: row.pairs as f64,
                tokens: Some(row.tokens as f64),
                unique_data: Some(row.pairs as f64),
                flops: row.train_flops,
                seed: Some(row.seed),
                loss: (loss.value)(row).expect("rows without the loss were refused"),
                per_query: (loss.per_query)(row),
                held_out: (config.sweep.hold_out.contains(&row.size))
                    .then(|| "held out by the configuration".into()),
            });
        }
        if !loss.with_quality {
            continue;
        }
        match row.measures.get(split).and_then(|m| m.get(measure)) {
            Some(&value) if value > 0.0 => decode.push(DecodeRow {
                run,
                params: row.params_non_embedding as f64,
                data: row.pairs as f64,
                beam: row.beam as f64,
                flops: row.decode_flops,
                quality: value,
                per_query: Some(row.quality_per_query.clone()),
            }),
            _ => zeros += 1,
        }
    }
    let remark = match zeros {
        0 => String::new(),
        n => format!(" ({n} cells with {measure} = 0 are left out of the beam law)"),
    };
    Study {
        title: format!("{title}{remark}"),
        loss_name: loss.name.into(),
        params_name: "non-embedding parameters".into(),
        data_name: "training pairs".into(),
        flops_formula: "3 (2 N T + attention + head at target positions) per example".into(),
        quality_name: format!("{measure} ({split})"),
        decode_flops_formula: "forward of the prompt, then of every generated token on every beam"
            .into(),
        train,
        decode,
    }
}
