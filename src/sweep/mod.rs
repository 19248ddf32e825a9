//! A grid of models: what is missing is trained, decoded and measured; one row per cell.
//!
//! A cell is (size, data fraction, seed, beam width). Cells of one (size, fraction, seed) share a
//! model and its contrastive generation loss. Finished cells are row files and are not done again unless a
//! setting that decides them has changed; an unfinished model resumes from its checkpoint.
//!
//! Any number of processes on any number of machines that share the folder work on one sweep: each takes
//! a model that nobody has (`claim`), does what it lacks (`run`) and writes its rows (`rows`). `local` starts
//! such processes on this machine, `slurm` on a cluster, `status` tells from the folder how far they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{RetrieverKind, Task};
use crate::model::Family;
use crate::retrieve::SearchError;

mod baseline;
mod claim;
mod error;
mod export;
pub mod flops;
mod local;
mod measure;
mod plan;
mod purchase;
mod report;
mod rows;
mod run;
pub mod slurm;
mod status;

pub use baseline::{AgainstBm25, Baseline, baseline};
pub use claim::{Beat, Claims, Doing, Owner, read_claims};
pub use error::SweepError;
pub use export::{csv, tensorboard};
pub use local::{WorkerEvent, Workers, run_workers};
pub use plan::{CellPlan, ModelPlan, Plan, SavedModel, SavedPlan, plan};
pub use purchase::{Bought, purchases};
pub use report::{Output, SweepReport, Written, report};
pub use rows::{collect, read_rows};
pub use run::{Event, missing, run};
pub use status::{CellState, ModelState, State, status};

/// One finished cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellRow {
    /// Layout version of the row.
    pub schema: u32,
    /// Name of the experiment.
    pub name: String,
    /// Version of genret and the commit it was built from.
    pub genret: String,
    /// Architecture of the model; rows of before it was written are of the first one.
    #[serde(default = "first_family")]
    pub family: String,
    /// How passages are found; rows of before it was written are generative.
    #[serde(default = "first_retriever")]
    pub retriever: String,
    /// What the model learned; rows of before it was written learned n-grams.
    #[serde(default = "first_objective")]
    pub objective: String,
    /// Id of the trained model: hash of everything that made it.
    pub model: String,
    /// Hash of everything else that decides the measures.
    pub settings: String,
    /// Size by name.
    pub size: String,
    /// Parameters of embedding and head.
    pub params_embedding: u64,
    /// All other parameters.
    pub params_non_embedding: u64,
    /// Seed of initial weights and order of examples.
    pub seed: u64,
    /// Share of the training pairs.
    pub fraction: f64,
    /// Distinct (query, passage) pairs seen.
    pub pairs: u64,
    /// Examples seen: pairs times spans times epochs.
    pub examples: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Training FLOPs.
    pub train_flops: f64,
    /// Seconds of training.
    pub train_secs: f64,
    /// Mean training loss of the last tenth of the steps, nats per target token.
    pub train_loss: f64,
    /// Loss on the validation examples, nats per target token.
    pub validation_loss: Option<f64>,
    /// Mean contrastive generation loss, nats; chance is ln(negatives + 1). Of sparse and dense models the same with
    /// the score of a passage over the temperature in place of its negated loss (contrastive entropy).
    pub cgl: f64,
    /// Its standard error over queries.
    pub cgl_se: f64,
    /// Mean loss of the positive passages, nats per token; of sparse and dense models the negated score.
    pub positive_loss: f64,
    /// Mean loss of the negative passages, likewise.
    pub negative_loss: f64,
    /// Contrastive generation loss per query, in the order of the queries.
    pub cgl_per_query: Vec<f64>,
    /// Beam width; 1 of sparse and dense models.
    pub beam: u64,
    /// Mean FLOPs of decoding one query.
    pub decode_flops: f64,
    /// Mean seconds of decoding and ranking one query.
    pub decode_secs: f64,
    /// The first measure of the first split, per query, in the order of the judgements.
    pub quality_per_query: Vec<f64>,
    /// Split to measure to mean.
    pub measures: BTreeMap<String, BTreeMap<String, f64>>,
    /// What the beam lost against exhaustive search, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_error: Option<SearchError>,
}

impl CellRow {
    /// What it is studied together with: family, and what a model of n-grams is not: another objective, another
    /// retriever.
    pub fn series(&self) -> String {
        let generative = self.retriever == RetrieverKind::Generative.name();
        match (generative, &self.objective[..]) {
            (true, "ngrams") => self.family.clone(),
            (true, objective) => format!("{}-{objective}", self.family),
            (false, objective) => format!("{}-{}-{objective}", self.family, self.retriever),
        }
    }
}

fn first_family() -> String {
    Family::Llama.name().into()
}

fn first_retriever() -> String {
    RetrieverKind::Generative.name().into()
}

fn first_objective() -> String {
    Task::Ngrams.name().into()
}
