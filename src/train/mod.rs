//! Training: which examples, in which order, with which updates; checkpoints; resume.
//!
//! One step is: the examples of a batch -> micro-batches -> summed loss of the target tokens divided
//! by the step's token count (never a mean of means) -> accumulated gradient -> clip -> AdamW ->
//! one JSON row. Everything random derives from (seed, epoch, example), so the state of a run is its
//! weights, its moments and its step number, and a run that was killed and resumed ends with the
//! same bits as one that was not.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use rand::RngExt;

use crate::data::batch;
use crate::data::example::{Example, ExampleError};
use crate::machine;
use crate::model::{Model, ModelError};
use crate::record::{self, RecordError, RowWriter, StepRow};
use crate::rng;

mod optimizer;
mod options;
mod state;
mod step;

pub use options::{
    LearningRate, ParameterGroup, Precision, Schedule, TrainOptions, kaplan_learning_rate,
};

use state::{Average, Counters, State};
use step::{loss_and_gradients, validation_loss};

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

/// Where training examples come from; the same pass always gives the same examples.
pub trait ExampleSource {
    /// Examples in one pass.
    fn len(&self) -> usize;
    /// Whether a pass holds no examples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The examples of pass `epoch`, as many as [`Self::len`].
    fn epoch(&self, epoch: u64) -> Result<Vec<Example>, ExampleError>;
}

/// Where a run is, for a progress display.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Updates done.
    pub step: u64,
    /// Updates in all.
    pub steps: u64,
    /// Mean loss of the step, nats per target token.
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
    /// Target tokens seen: those the loss was taken on.
    pub target_tokens_seen: u64,
    /// Training FLOPs.
    pub flops: f64,
    /// Seconds spent in steps.
    pub secs: f64,
    /// Mean loss of the last tenth of the steps.
    pub train_loss: f64,
    /// Loss per target token on the validation examples after the last step.
    pub validation_loss: Option<f64>,
    /// The most memory that the process held in a step, in bytes, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
}

/// What a run needs besides its model.
pub struct TrainRun<'a> {
    /// Training examples.
    pub source: &'a dyn ExampleSource,
    /// Examples whose loss is measured on a fixed schedule.
    pub validation: &'a [Example],
    /// How to train.
    pub options: &'a TrainOptions,
    /// Seed of the order of examples.
    pub seed: u64,
    /// FLOPs of training on one example of (prompt, target) tokens.
    pub flops: &'a dyn Fn(usize, usize) -> f64,
    /// FLOP/s of the devices together at their best, where known; rows then tell their utilisation.
    pub peak_flops: Option<f64>,
    /// Devices that share the work with the model's own.
    pub replicas: &'a [Device],
    /// Folder of `steps.jsonl` and `checkpoint.safetensors`.
    pub folder: &'a Path,
    /// Told after every step; a break saves a checkpoint and ends the run with [`TrainError::Stopped`].
    pub progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

impl TrainRun<'_> {
    /// Trains `model` (which must live on an autodiff device) from the start, or from the checkpoint
    /// in the folder if there is one; returns the trained model.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] leaves the last good checkpoint in place.
    pub fn run(&mut self, model: Model) -> Result<(Model, TrainSummary), TrainError> {
        if self.source.is_empty() {
            return Err(TrainError::NoExamples);
        }
        let options = self.options;
        let steps_per_epoch = self.source.len().div_ceil(options.batch_size) as u64;
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
        let mut epoch_data: Option<(u64, Vec<Example>, Vec<Vec<usize>>)> = None;
        let mut saved = Instant::now();

        while state.counters.step < steps {
            let started = Instant::now();
            let (epoch, index) = (
                state.counters.step / steps_per_epoch,
                state.counters.step % steps_per_epoch,
            );
            if epoch_data.as_ref().is_none_or(|(held, ..)| *held != epoch) {
                let examples = self.source.epoch(epoch)?;
                let lengths: Vec<usize> = examples.iter().map(num_tokens).collect();
                // Before the first step, not in the middle of the night.
                for example in &examples {
                    state
                        .model
                        .check_lengths(example.prompt.len(), example.target.len())?;
                }
                let order = batch::batches(&lengths, options.batch_size, self.seed, epoch);
                epoch_data = Some((epoch, examples, order));
            }
            let (_, examples, order) = epoch_data.as_ref().expect("it was filled above");
            let batch: Vec<&Example> = order[index as usize]
                .iter()
                .map(|&i| &examples[i])
                .collect();

            // What a step draws (dropout) depends on the step alone.
            let drawn = rng::stream(self.seed, "step", &[state.counters.step]).random();
            state.model.device().seed(drawn);
            let (loss, gradients) =
                loss_and_gradients(&state.model, self.replicas, &batch, options)?;
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

            let tokens: usize = batch.iter().map(|e| num_tokens(e)).sum();
            let secs = started.elapsed().as_secs_f64();
            let tokens_per_sec = tokens as f64 / secs;
            state.counters.step += 1;
            state.counters.examples += batch.len() as u64;
            state.counters.tokens += tokens as u64;
            state.counters.targets += batch.iter().map(|e| e.target.len() as u64).sum::<u64>();
            let flops: f64 = batch
                .iter()
                .map(|e| (self.flops)(e.prompt.len(), e.target.len()))
                .sum();
            state.counters.flops += flops;
            let last = state.counters.step == steps;
            let due = options.validate_every > 0
                && state.counters.step.is_multiple_of(options.validate_every);
            let validation_loss = if !self.validation.is_empty() && (due || last) {
                let model = state.result();
                Some(validation_loss(
                    &model,
                    self.validation,
                    options.micro_batch_size,
                )?)
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
}

fn num_tokens(example: &Example) -> usize {
    example.prompt.len() + example.target.len()
}

#[cfg(test)]
mod tests;
