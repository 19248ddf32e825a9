//! From a table of runs to every law, check and caveat of a study, as JSON and Markdown.
//!
//! The report says for each question (how does the loss fall with size, with data, with both; how does
//! quality rise with beam width) which forms were tried, which one AICc prefers, its parameters with
//! intervals, how it extrapolates, and what to distrust. A law that cannot be fitted is reported with
//! the reason; nothing is left out silently.

mod analyse;
mod markdown;

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::ScalingError;
use super::bootstrap::{BootstrapOptions, Interval};
use super::fit::{Fit, FitOptions};
use super::frontier::Frontier;
use super::laws::Law;
use super::validate::{Extrapolation, Influence, LeftOut};

pub use analyse::{analyse, answer};

#[cfg(test)]
pub(crate) use analyse::tests;

/// How the names of sections about one run begin.
pub const ONE_RUN: &str = "beam-";

/// One trained model.
#[derive(Clone, Debug, Serialize)]
pub struct TrainRow {
    /// Name of the run; rows of one run are resampled together.
    pub run: String,
    /// Model size N as the law takes it (say which in [`Study::params_name`]).
    pub params: f64,
    /// All parameters, embeddings included, where known.
    pub params_total: Option<f64>,
    /// Training data D as the law takes it (say which in [`Study::data_name`]).
    pub data: f64,
    /// Training tokens, where known.
    pub tokens: Option<f64>,
    /// Distinct training examples, where known.
    pub unique_data: Option<f64>,
    /// Training FLOPs.
    pub flops: f64,
    /// Seed of the run, where known.
    pub seed: Option<u64>,
    /// The loss, lower is better.
    pub loss: f64,
    /// The values whose mean is the loss, one per query, same queries in every row.
    #[serde(skip_serializing)]
    pub per_query: Option<Vec<f64>>,
    /// Why the row is kept out of every fit and only predicted; `None` for rows that are fitted.
    pub held_out: Option<String>,
}

/// One model decoded with one beam width.
#[derive(Clone, Debug, Serialize)]
pub struct DecodeRow {
    /// Name of the run.
    pub run: String,
    /// Model size N.
    pub params: f64,
    /// Training data D.
    pub data: f64,
    /// Beam width w.
    pub beam: f64,
    /// FLOPs per query.
    pub flops: f64,
    /// Retrieval quality between 0 and 1, higher is better.
    pub quality: f64,
    /// The values whose mean is the quality, one per query.
    #[serde(skip_serializing)]
    pub per_query: Option<Vec<f64>>,
}

/// What a report is made from.
#[derive(Clone, Debug, Serialize)]
pub struct Study {
    /// Title of the report.
    pub title: String,
    /// The loss with its unit, e.g. `CGL (nats)`.
    pub loss_name: String,
    /// What N counts, e.g. `non-embedding parameters`.
    pub params_name: String,
    /// What D counts, e.g. `training examples`.
    pub data_name: String,
    /// How training FLOPs were counted, in words or as a formula.
    pub flops_formula: String,
    /// The quality measure, e.g. `RR@10`.
    pub quality_name: String,
    /// How decoding FLOPs were counted.
    pub decode_flops_formula: String,
    /// The trained models.
    pub train: Vec<TrainRow>,
    /// The decoded models, may be empty.
    pub decode: Vec<DecodeRow>,
}

/// How a report is made.
#[derive(Clone, Copy, Debug)]
pub struct ReportOptions {
    /// The search.
    pub search: FitOptions,
    /// The resampling.
    pub resampling: BootstrapOptions,
    /// Share of the rows, cheapest first, that the extrapolation test is fitted to [default: 0.7].
    pub cheap_share: f64,
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self {
            search: FitOptions::default(),
            resampling: BootstrapOptions::default(),
            cheap_share: 0.7,
        }
    }
}

/// The most curves of one law: a picture holds no more.
pub const MOST_CURVES: usize = 8;

/// A curve to draw: a law along one input, the others fixed.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// The inputs before the last one, which are fixed along the curve.
    pub fixed: Vec<f64>,
    /// The input and the law's value.
    pub line: Vec<(f64, f64)>,
    /// The input with the interval of the law's value; empty without a bootstrap.
    pub band: Vec<(f64, f64, f64)>,
}

/// A measured point of a section.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// The run.
    pub run: String,
    /// Inputs of the law.
    pub x: Vec<f64>,
    /// The value.
    pub y: f64,
    /// FLOPs: training or per query, whichever the section is about.
    pub flops: f64,
    /// False for held-out points, which no fit has seen.
    pub fitted: bool,
}

/// One form tried in a section.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The form.
    pub law: Law,
    /// Its AICc, where it could be fitted and n allows.
    pub aicc: Option<f64>,
    /// Root mean square of ln L^ - ln L, where it could be fitted.
    pub rmse_log: Option<f64>,
    /// Mean |relative error| at the levels of the first input when each is left out in turn, where the rest
    /// always determines the law.
    pub left_out_error: Option<f64>,
    /// Why it could not be fitted.
    pub refused: Option<String>,
}

/// The preferred form of a section with all that is known of it.
#[derive(Clone, Debug, Serialize)]
pub struct LawReport {
    /// The fit.
    pub fit: Fit,
    /// Intervals of its parameters; `None` with the reason in the warnings.
    pub intervals: Option<Vec<Interval>>,
    /// Distinct runs, the units that were resampled.
    pub num_runs: usize,
    /// Queries resampled, 0 if only runs were.
    pub num_queries: usize,
    /// Resamples that were drawn again because they did not determine the law.
    pub redrawn: usize,
    /// Prediction of unseen rows: the held-out ones, else the most expensive ones.
    pub extrapolation: Option<Extrapolation>,
    /// What the extrapolation was, or why there is none.
    pub extrapolation_note: String,
    /// Errors when each level of the first input is left out.
    pub left_out: Vec<LeftOut>,
    /// Influence of every run, largest first.
    pub influence: Vec<Influence>,
    /// Curves to draw; none where the inputs before the last take more than [`MOST_CURVES`] values.
    pub curves: Vec<Curve>,
    /// What to distrust.
    pub warnings: Vec<String>,
}

/// One question and its answer.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// Short name, used for files: `size`, `data`, `joint`, `beam-<run>`, `quality`.
    pub name: String,
    /// The question as a title.
    pub title: String,
    /// Names of the inputs, with units.
    pub inputs: Vec<String>,
    /// Symbols of the inputs: N, D, w.
    pub symbols: Vec<&'static str>,
    /// What [`Point::flops`] counts.
    pub cost: &'static str,
    /// Name of the value, with its unit.
    pub value: String,
    /// The rows.
    pub points: Vec<Point>,
    /// The forms tried.
    pub candidates: Vec<Candidate>,
    /// The preferred one, unless all were refused: by AICc, else (n too small for it) by left-out error, else
    /// the one with fewer parameters.
    pub answer: Option<LawReport>,
}

/// An iso-FLOP slice of the joint law.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// Training FLOPs.
    pub flops: f64,
    /// (size, value of the law).
    pub line: Vec<(f64, f64)>,
}

/// A whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of genret that made it.
    pub version: String,
    /// XXH3 of the rows as JSON, per-query values included, in hexadecimal.
    pub rows_hash: String,
    /// Seed of the resampling.
    pub seed: u64,
    /// Replicates of every bootstrap.
    pub replicates: usize,
    /// Coverage that the intervals aim at.
    pub level: f64,
    /// What it was made from.
    pub study: Study,
    /// The questions with their answers.
    pub sections: Vec<Section>,
    /// FLOPs per unit of N and of D: median over the runs, and largest deviation from it as a share.
    pub kappa: (f64, f64),
    /// The compute-optimal frontier, where the joint law is Chinchilla's.
    pub frontier: Option<Frontier>,
    /// Iso-FLOP slices of the joint law.
    pub slices: Vec<Slice>,
    /// The decoded rows that no cheaper row matches in quality, cheapest first (indices into `study.decode`).
    pub pareto: Vec<usize>,
}

/// A question to a table: how does the value depend on the inputs?
#[derive(Clone, Debug)]
pub struct Question {
    /// Short name, used for files.
    pub name: String,
    /// The question as a title.
    pub title: String,
    /// Names of the inputs, with units.
    pub inputs: Vec<String>,
    /// Symbols of the inputs in formulas: N, D, w.
    pub symbols: Vec<&'static str>,
    /// What [`Point::flops`] counts.
    pub cost: &'static str,
    /// Name of the value, with its unit.
    pub value: String,
}

impl Report {
    /// Writes `scaling.json` and `scaling.md` into `folder`, which must exist.
    pub fn write(&self, folder: &Path) -> Result<(), ScalingError> {
        let put = |name: &str, text: String| {
            let path = folder.join(name);
            crate::atomic_file::write(&path, |file| file.write_all(text.as_bytes()))
                .map_err(|source| ScalingError::Write { path, source })
        };
        let json =
            serde_json::to_string_pretty(self).expect("numbers, strings and lists serialise");
        put("scaling.json", json + "\n")?;
        put("scaling.md", self.markdown())
    }
}
