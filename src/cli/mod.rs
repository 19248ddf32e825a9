//! The command line: one function per verb. Only this module prints to stdout.
//!
//! Results go to stdout or `--out`, progress and remarks to stderr. Exit code 0 is success, 1 a run
//! that failed or an expectation that was missed, 2 bad usage, configuration or input, 75 a run that was
//! asked to stop (SIGTERM, SIGUSR1), saved its state and goes on when started again.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod cgl;
mod data;
mod decode;
mod docid;
mod encode;
mod encoding;
mod evaluate;
mod fit;
mod fuse;
mod gpu;
mod index;
mod mine;
mod progress;
mod search;
mod shared;
mod stop;
mod sweep;
mod synth;
mod table;
mod teach;
mod tokenizer;
mod train;

use shared::Shared;

/// Generative retrieval from a corpus to a fitted scaling law.
#[derive(Parser, Debug)]
#[command(name = "genret", version, about, propagate_version = true)]
pub struct Command {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Generate the embedded corpus, or inspect one.
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Train a tokenizer.
    #[command(subcommand)]
    Tokenizer(tokenizer::TokenizerCommand),
    /// Build, describe and query an n-gram index.
    #[command(subcommand)]
    Index(index::IndexCommand),
    /// Make identifiers of passages and look at them.
    #[command(subcommand)]
    Docid(docid::DocidCommand),
    /// Train one model.
    Train(train::TrainArgs),
    /// Generate n-grams for queries and rank passages by them.
    Decode(decode::DecodeArgs),
    /// Make an index of a corpus with a sparse or dense model.
    Encode(encode::EncodeArgs),
    /// Rank passages by BM25 or by the vectors of an index.
    Search(search::SearchArgs),
    /// Measure runs against judgements.
    Evaluate(evaluate::EvaluateArgs),
    /// Combine runs into one.
    Fuse(fuse::FuseArgs),
    /// Take hard negatives from a run.
    Mine(mine::MineArgs),
    /// Score the candidates of a run, for a student to learn from.
    Teach(teach::TeachArgs),
    /// Contrastive generation loss of a model.
    Cgl(cgl::CglArgs),
    /// Run a grid of models, fit scaling laws, draw curves.
    Sweep(sweep::SweepArgs),
    /// Fit a scaling law to the columns of a table.
    Fit(fit::FitArgs),
}

/// Carries out a parsed command line.
pub fn run(command: &Command) -> Result<()> {
    let shared = &command.shared;
    gpu::prepare(&shared.device)?;
    match &command.verb {
        Verb::Data(command) => data::run(command, shared),
        Verb::Tokenizer(command) => tokenizer::run(command, shared),
        Verb::Index(command) => index::run(command, shared),
        Verb::Docid(command) => docid::run(command, shared),
        Verb::Train(args) => train::run(args, shared),
        Verb::Decode(args) => decode::run(args, shared),
        Verb::Encode(args) => encode::run(args, shared),
        Verb::Search(args) => search::run(args, shared),
        Verb::Evaluate(args) => evaluate::run(args, shared),
        Verb::Fuse(args) => fuse::run(args),
        Verb::Mine(args) => mine::run(args),
        Verb::Teach(args) => teach::run(args, shared),
        Verb::Cgl(args) => cgl::run(args, shared),
        Verb::Sweep(args) => sweep::run(args, shared),
        Verb::Fit(args) => fit::run(args, shared),
    }
}

/// A run that did its work and did not reach what it was expected to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunFailed(pub String);

/// Whether the machine failed, rather than what it was given.
fn is_machines_fault(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull, WriteZero};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | WriteZero | OutOfMemory
    )
}

/// Exit code of an error: 1 if the work itself failed, 2 if something it was given is wrong, 75 if it was asked
/// to stop.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    use crate::experiment::ExperimentError;
    use crate::model::ModelError;
    use crate::sweep::SweepError;
    use crate::train::TrainError;
    // A transparent error hides its inner one from the chain.
    let code = |cause: &(dyn std::error::Error + 'static)| -> Option<u8> {
        let inner = match cause.downcast_ref() {
            Some(SweepError::Stopped) => return Some(stop::STOPPED),
            Some(SweepError::Workers { .. } | SweepError::TakenOver { .. }) => return Some(1),
            Some(SweepError::Experiment(inner)) => inner,
            _ => cause.downcast_ref()?,
        };
        match inner {
            ExperimentError::Train(TrainError::Stopped { .. }) => Some(stop::STOPPED),
            ExperimentError::Train(TrainError::Diverged { .. } | TrainError::Collapsed { .. }) => {
                Some(1)
            }
            ExperimentError::Model(ModelError::NotFinite { .. }) => Some(1),
            _ => None,
        }
    };
    if let Some(code) = error.chain().find_map(code) {
        return code;
    }
    let failed = error.chain().any(|cause| {
        cause.is::<RunFailed>()
            || matches!(cause.downcast_ref(), Some(ModelError::NotFinite { .. }))
            || cause.downcast_ref().is_some_and(is_machines_fault)
    });
    if failed { 1 } else { 2 }
}
