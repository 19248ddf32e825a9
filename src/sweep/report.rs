//! From the rows of a sweep to laws, report and pictures.

use std::fs;
use std::path::{Path, PathBuf};

use super::CellRow;
use crate::experiment::ExperimentError;
use crate::plot::study;
use crate::scaling::report::{DecodeRow, Report, ReportOptions, Study, TrainRow, analyse};

/// A report and where it was written.
pub struct Written {
    /// What was fitted.
    pub report: Report,
    /// Folder of `scaling.md`, `scaling.json` and the pictures.
    pub folder: PathBuf,
    /// The pictures.
    pub pictures: Vec<PathBuf>,
}

/// A loss that laws are fitted to.
struct Loss {
    folder: &'static str,
    name: &'static str,
    value: fn(&CellRow) -> Option<f64>,
    per_query: fn(&CellRow) -> Option<Vec<f64>>,
    /// Whether the laws of quality, which are the same for every loss, go into this report.
    with_quality: bool,
}

const LOSSES: [Loss; 2] = [
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

/// Fits every law to `rows`, once per loss, and writes reports and pictures under `out/report`.
///
/// `quality` names a split and a measure of the rows. Cells where it is zero have no place on a
/// logarithmic axis and are left out of the beam law; the title of the report says how many.
pub fn report(
    title: &str,
    rows: &[CellRow],
    quality: (&str, &str),
    out: &Path,
) -> Result<Vec<Written>, ExperimentError> {
    let mut written = vec![];
    for loss in &LOSSES {
        if rows.iter().any(|row| (loss.value)(row).is_none()) {
            continue;
        }
        let study = study_of(title, rows, loss, quality);
        let report = analyse(&study, &ReportOptions::default())?;
        let folder = out.join("report").join(loss.folder);
        fs::create_dir_all(&folder).map_err(|source| ExperimentError::Io {
            path: folder.clone(),
            source,
        })?;
        report.write(&folder)?;
        let pictures = study::draw(&report, &folder, "png")?;
        written.push(Written {
            report,
            folder,
            pictures,
        });
    }
    Ok(written)
}

fn study_of(title: &str, rows: &[CellRow], loss: &Loss, quality: (&str, &str)) -> Study {
    let mut train: Vec<TrainRow> = vec![];
    let mut decode = vec![];
    let mut zeros = 0;
    let (split, measure) = quality;
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
                held_out: None,
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
