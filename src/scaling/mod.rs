//! Scaling laws from rows of numbers: fit, bootstrap, validation, frontier, report.
//!
//! The module knows no model, file format or tensor: it takes [`Observation`]s (inputs and a positive
//! value) and says which law they follow, how surely, and how well the law predicts what it has not
//! seen. Fits minimise the sum of Huber losses of `ln L^ - ln L` (Hoffmann et al. 2022; Besiroglu et
//! al. 2024 for the sum, not the mean, and a converged gradient); every interval is a bootstrap over
//! runs, and over queries where the rows keep per-query values. Results depend on the rows and the seed
//! only, not on the number of threads.

pub mod bootstrap;
pub mod buy;
pub mod compare;
pub mod design;
mod elementary;
pub mod fit;
pub mod frontier;
pub mod laws;
mod minimise;
mod normal;
pub mod report;
mod starts;
pub mod validate;

pub use bootstrap::{Bootstrap, BootstrapOptions, Interval};
pub use fit::{Fit, FitOptions, fit};
pub use laws::Law;
pub use minimise::HUBER_DELTA;

/// One measured point.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The inputs (dials) in the law's order: model size, data, beam width; all positive.
    pub x: Vec<f64>,
    /// The value (a loss, or a measure for the saturating law); positive.
    pub y: f64,
    /// The run it comes from: rows of one run are resampled together.
    pub cluster: String,
    /// The values whose mean is `y`, one per query, same queries in the same order in every row.
    pub per_query: Option<Vec<f64>>,
}

/// Why rows could not be fitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScalingError {
    /// No degrees of freedom are left.
    #[error(
        "{n} rows for the {k} parameters of `{law}`: a fit needs more rows than parameters (n > k), \
         better twice as many; add runs or choose a law with fewer parameters"
    )]
    TooFewRows {
        /// Name of the law.
        law: &'static str,
        /// Rows given.
        n: usize,
        /// Parameters of the law.
        k: usize,
    },
    /// An input does not vary enough for its parameters.
    #[error(
        "input {input} of `{law}` takes {levels} distinct value(s), at least {needed} are needed to \
         tell its parameters apart; vary it or choose a law without it"
    )]
    TooFewLevels {
        /// Name of the law.
        law: &'static str,
        /// 1-based position of the input.
        input: usize,
        /// Distinct values found.
        levels: usize,
        /// Distinct values needed.
        needed: usize,
    },
    /// A row has another number of inputs than the law.
    #[error("row {row} has {got} input(s), `{law}` takes {expected}")]
    InputCount {
        /// 1-based row.
        row: usize,
        /// Name of the law.
        law: &'static str,
        /// Inputs of the law.
        expected: usize,
        /// Inputs of the row.
        got: usize,
    },
    /// A number that has no logarithm.
    #[error(
        "row {row}: {column} is {value}, expected a positive finite number; correct or remove the row"
    )]
    NotPositive {
        /// 1-based row.
        row: usize,
        /// Which number.
        column: String,
        /// What was found.
        value: f64,
    },
    /// Fewer epochs than one.
    #[error(
        "row {row}: input {input} of `{law}` is {value}, expected at least 1: the epochs over the unique data that \
         were read"
    )]
    BelowOne {
        /// 1-based row.
        row: usize,
        /// 1-based position of the input.
        input: usize,
        /// Name of the law.
        law: &'static str,
        /// What was found.
        value: f64,
    },
    /// Per-query values that do not belong to the row's value.
    #[error(
        "row {row}: the per-query values have mean {mean}, but the value is {value}; \
         give the values the mean was taken over"
    )]
    NotTheMean {
        /// 1-based row.
        row: usize,
        /// Mean of the per-query values.
        mean: f64,
        /// The row's value.
        value: f64,
    },
    /// Rows with different query sets cannot be resampled together.
    #[error(
        "row {row} has {got} per-query values, the first row {expected}; give every row the same \
         queries in the same order, or none"
    )]
    QueryCount {
        /// 1-based row.
        row: usize,
        /// Values of the first row.
        expected: usize,
        /// Values of this row.
        got: usize,
    },
    /// Resampling gives no identifiable sample.
    #[error(
        "{clusters} run(s) are too few to resample for the {k} parameters of `{law}`: add runs, or give \
         per-query values"
    )]
    TooFewRuns {
        /// Name of the law.
        law: &'static str,
        /// Runs given.
        clusters: usize,
        /// Parameters of the law.
        k: usize,
    },
    /// A result file could not be written.
    #[error("cannot write {path}: {source}; check that the folder exists and is writable")]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
