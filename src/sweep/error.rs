//! Why a sweep cannot be run or read.

use std::path::PathBuf;

use crate::experiment::ExperimentError;
use crate::plot::PlotError;
use crate::record::RecordError;
use crate::scaling::ScalingError;

/// Why a sweep cannot be run or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The experiment itself.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// Rows of results or of steps.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Fitting laws.
    #[error(transparent)]
    Scaling(#[from] ScalingError),
    /// Drawing.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A file of the sweep could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {source}{remedy}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Slurm refused a job.
    #[error("{command} failed: {message}")]
    Refused {
        /// The command line.
        command: String,
        /// What it said.
        message: String,
    },
    /// Whoever watches the sweep asked for it; what is finished is saved.
    #[error("stopped as asked; the same command goes on")]
    Stopped,
    /// Another process took the model, which it can only do when this one has long given no sign of life.
    #[error(
        "model {model} was taken over by {by}: this process gave no sign of life for too long; raise \
         executor.stale_secs if it was alive"
    )]
    TakenOver {
        /// The model.
        model: String,
        /// Who has it now.
        by: String,
    },
    /// Worker processes failed.
    #[error("{} of {of} models failed: {}", failed.len(), failed.join("; "))]
    Workers {
        /// Model and reason.
        failed: Vec<String>,
        /// Models that were to be done.
        of: usize,
    },
    /// A model that is not in the plan.
    #[error("the plan of {} holds no model {model}; the configuration was changed since", out.display())]
    NoSuchModel {
        /// The id.
        model: String,
        /// Folder of the sweep.
        out: PathBuf,
    },
    /// There is nothing to report on.
    #[error("no finished cells in {}: run `genret sweep` first", out.display())]
    NoRows {
        /// Folder of the sweep.
        out: PathBuf,
    },
    /// The rows do not allow what was asked.
    #[error("{0}")]
    Unanswerable(String),
}

impl SweepError {
    /// For `map_err`: an I/O error of `path`.
    pub(super) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> SweepError {
        let path = path.to_path_buf();
        move |source| SweepError::Io { path, source }
    }
}
