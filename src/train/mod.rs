//! Training: which examples, in which order, with which updates; checkpoints; resume.
//!
//! One step is: the items of a batch -> loss and gradient by the [`Objective`] -> clip -> AdamW -> one JSON
//! row. An objective writes targets ([`Generation`], a sum over target tokens divided by their count, never
//! a mean of means), restores masked tokens ([`Masked`], likewise), makes representations ([`Contrastive`]) or ranks
//! identifiers by their prefixes ([`Prefixes`]). Everything random derives from (seed,
//! epoch, item) or (seed, step), so the state of a run is its weights, its moments and its step number,
//! and a run that was killed and resumed ends with the same bits as one that was not.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use rand::RngExt;

use crate::data::batch;
use crate::data::example::ExampleError;
use crate::machine;
use crate::model::{Model, ModelError};
use crate::record::{self, RecordError, RowWriter, StepRow};
use crate::rng;

mod contrastive;
mod generation;
mod masked;
mod objective;
mod optimizer;
mod options;
mod prefixes;
mod state;

pub use contrastive::{ContrastOptions, Contrastive, Distillation, GroupSource, Loss, Regulariser};
pub use generation::{ExampleSource, Generation};
pub use masked::Masked;
pub use objective::{Found, ItemSize, Objective, Step};
pub use options::{
    LearningRate, ParameterGroup, Precision, Schedule, TrainOptions, kaplan_learning_rate,
};
pub use prefixes::{CodeScore, PrefixOptions, Prefixes};

use state::{Average, Counters, State};

pub use optimizer::{AdamW, Gradients};

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The model or one of its files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The step rows.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The examples could not be made.
    #[error(transparent)]
    Example(#[from] ExampleError),
    /// The loss or the gradient is not a number.
    #[error(
        "{what} is {value} at step {step} (batch {batch} of epoch {epoch}): training diverged; the last good checkpoint is {}. \
         Lower train.learning_rate or train.clip_norm and resume", checkpoint.display()
    )]
    Diverged {
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The step that produced it.
        step: u64,
        /// Its batch, from 1.
        batch: u64,
        /// In which pass, from 1.
        epoch: u64,
        /// Where the last good state is.
        checkpoint: PathBuf,
    },
    /// Sparse representations without terms, or with too many.
    #[error(
        "step {step}: {what} (mean active terms: queries {query_terms:.1}, passages {passage_terms:.1}): the representations have collapsed. \
         Lower contrast.lambda_query and contrast.lambda_passage (or raise them, if there are too many terms) or train.learning_rate, and train again"
    )]
    Collapsed {
        /// What is wrong.
        what: &'static str,
        /// The step that found it.
        step: u64,
        /// Mean active terms of the batch's queries.
        query_terms: f64,
        /// Mean active terms of its passages.
        passage_terms: f64,
    },
    /// The progress callback asked for it.
    #[error("stopped after step {step} of {steps}; {} continues it", checkpoint.display())]
    Stopped {
        /// Updates done.
        step: u64,
        /// Updates in all.
        steps: u64,
        /// Where the state is.
        checkpoint: PathBuf,
    },
    /// There is nothing to train on.
    #[error("no training examples: the data fraction or the training split is empty")]
    NoExamples,
}

/// Where a run is, for a progress display.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Updates done.
    pub step: u64,
    /// Updates in all.
    pub steps: u64,
    /// Loss of the step: nats per target token, or the mean over queries.
    pub loss: f64,
    /// Tokens per second of the step.
    pub tokens_per_sec: f64,
}

/// What a finished run is known by.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TrainSummary {
    /// Optimiser updates.
    pub steps: u64,
    /// Examples seen.
    pub examples_seen: u64,
    /// Tokens seen, prompts and targets.
    pub tokens_seen: u64,
    /// Tokens that a loss was taken on: those of targets; none where representations are compared.
    pub target_tokens_seen: u64,
    /// Training FLOPs.
    pub flops: f64,
    /// Seconds spent in steps.
    pub secs: f64,
    /// Mean loss of the last tenth of the steps.
    pub train_loss: f64,
    /// Loss on the validation items after the last step.
    pub validation_loss: Option<f64>,
    /// The most memory that the process held in a step, in bytes, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
}

/// What a run needs besides its model.
pub struct TrainRun<'a, O> {
    /// What it learns.
    pub objective: &'a O,
    /// How to train.
    pub options: &'a TrainOptions,
    /// Seed of the order of examples.
    pub seed: u64,
    /// FLOP/s of the devices together at their best, where known; rows then tell their utilisation.
    pub peak_flops: Option<f64>,
    /// Devices that share the work with the model's own.
    pub replicas: &'a [Device],
    /// Folder of `steps.jsonl` and `checkpoint.safetensors`.
    pub folder: &'a Path,
    /// Told after every step; a break saves a checkpoint and ends the run with [`TrainError::Stopped`].
    pub progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

/// The items of one pass and the batches they form.
struct Pass<I> {
    epoch: u64,
    items: Vec<I>,
    order: Vec<Vec<usize>>,
}

impl<O: Objective> TrainRun<'_, O> {
    /// Trains `model` (which must live on an autodiff device) from the start, or from the checkpoint
    /// in the folder if there is one; returns the trained model.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] leaves the last good checkpoint in place.
    pub fn run(&mut self, model: Model) -> Result<(Model, TrainSummary), TrainError> {
        let (objective, options) = (self.objective, self.options);
        if objective.is_empty() {
            return Err(TrainError::NoExamples);
        }
        let steps_per_epoch = objective.len().div_ceil(options.batch_size) as u64;
        let steps = ((steps_per_epoch as f64 * options.epochs).round() as u64).max(1);
        let checkpoint_path = self.folder.join("checkpoint.safetensors");
        let mut state = State {
            average: (options.ema > 0.0).then(|| Average::new(options.ema, &model)),
            optimizer: AdamW::new(options),
            counters: Counters::default(),
            model,
        };
        if checkpoint_path.exists() {
            state = state.restore(&checkpoint_path)?;
        }
        let rows_path = self.folder.join("steps.jsonl");
        let mut rows = RowWriter::open(&rows_path, state.counters.step as usize)?;
        let peak = options
            .learning_rate
            .resolve(state.model.config().params_non_embedding());
        let mut pass: Option<Pass<O::Item>> = None;
        let mut saved = Instant::now();

        while state.counters.step < steps {
            let started = Instant::now();
            let (epoch, index) = (
                state.counters.step / steps_per_epoch,
                state.counters.step % steps_per_epoch,
            );
            if pass.as_ref().is_none_or(|held| held.epoch != epoch) {
                let items = objective.epoch(epoch)?;
                // Before the first step, not in the middle of the night.
                for item in &items {
                    objective.check(&state.model, item)?;
                }
                let lengths: Vec<usize> = items.iter().map(|i| objective.size(i).tokens).collect();
                let order = batch::batches(&lengths, options.batch_size, self.seed, epoch);
                pass = Some(Pass {
                    epoch,
                    items,
                    order,
                });
            }
            let Pass { items, order, .. } = pass.as_ref().expect("it was filled above");
            let batch: Vec<&O::Item> = order[index as usize].iter().map(|&i| &items[i]).collect();

            // What a step draws (dropout) depends on the step alone.
            let drawn = rng::stream(self.seed, "step", &[state.counters.step]).random();
            state.model.device().seed(drawn);
            let found = objective.gradients(
                &Step {
                    model: &state.model,
                    replicas: self.replicas,
                    options,
                    done: state.counters.step,
                    steps,
                },
                &batch,
            )?;
            let (loss, gradients) = (found.loss, found.gradients);
            let diverged = |what, value| TrainError::Diverged {
                what,
                value,
                step: state.counters.step + 1,
                batch: index + 1,
                epoch: epoch + 1,
                checkpoint: checkpoint_path.clone(),
            };
            if !loss.is_finite() {
                return Err(diverged("the loss", loss));
            }
            let learning_rate = peak * options.share_of_peak(state.counters.step, steps);
            let grad_norm = gradients.norm();
            if !grad_norm.is_finite() {
                return Err(diverged("the gradient norm", grad_norm));
            }
            state = state.updated(gradients, grad_norm, learning_rate);

            let sizes: Vec<ItemSize> = batch.iter().map(|item| objective.size(item)).collect();
            let tokens: usize = sizes.iter().map(|s| s.tokens).sum();
            let flops: f64 = sizes.iter().map(|s| s.flops).sum();
            let secs = started.elapsed().as_secs_f64();
            let tokens_per_sec = tokens as f64 / secs;
            state.counters.step += 1;
            state.counters.examples += batch.len() as u64;
            state.counters.tokens += tokens as u64;
            state.counters.targets += sizes.iter().map(|s| s.targets as u64).sum::<u64>();
            state.counters.flops += flops;
            let last = state.counters.step == steps;
            let due = options.validate_every > 0
                && state.counters.step.is_multiple_of(options.validate_every);
            let validation_loss = if due || last {
                objective.validation_loss(&state.result(), options)?
            } else {
                None
            };
            rows.write(&StepRow {
                step: state.counters.step,
                loss,
                learning_rate,
                grad_norm,
                examples_seen: state.counters.examples,
                tokens_seen: state.counters.tokens,
                flops: state.counters.flops,
                validation_loss,
                tokens_per_sec,
                utilisation: self.peak_flops.map(|peak| flops / secs / peak),
                peak_bytes: machine::peak_bytes(),
                representations: found.representations,
            })?;
            let told = (self.progress)(Progress {
                step: state.counters.step,
                steps,
                loss,
                tokens_per_sec,
            });
            let due = saved.elapsed().as_secs_f64() > options.checkpoint_every_secs;
            if !last && (due || told.is_break()) {
                rows.sync()?;
                state.save(&checkpoint_path)?;
                saved = Instant::now();
                if told.is_break() {
                    return Err(TrainError::Stopped {
                        step: state.counters.step,
                        steps,
                        checkpoint: checkpoint_path,
                    });
                }
            }
        }
        rows.sync()?;
        let rows: Vec<StepRow> = record::read(&rows_path)?;
        let starts = std::iter::once(0).chain(rows.iter().map(|r| r.tokens_seen));
        let secs = rows
            .iter()
            .zip(starts)
            .map(|(r, start)| (r.tokens_seen - start) as f64 / r.tokens_per_sec);
        let tail = &rows[rows.len() - rows.len().div_ceil(10)..];
        let summary = TrainSummary {
            steps,
            examples_seen: state.counters.examples,
            tokens_seen: state.counters.tokens,
            target_tokens_seen: state.counters.targets,
            flops: state.counters.flops,
            secs: secs.sum(),
            train_loss: tail.iter().map(|r| r.loss).sum::<f64>() / tail.len() as f64,
            validation_loss: rows.last().and_then(|r| r.validation_loss),
            peak_bytes: rows.iter().filter_map(|r| r.peak_bytes).max(),
        };
        Ok((state.result(), summary))
    }
}

/// Removes the checkpoint of a finished run, once its model is saved elsewhere.
pub fn discard_checkpoint(folder: &Path) -> Result<(), TrainError> {
    let path = folder.join("checkpoint.safetensors");
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(ModelError::Io { path, source: e }.into())
        }
        _ => Ok(()),
    }
}

fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}

#[cfg(test)]
mod tests;
