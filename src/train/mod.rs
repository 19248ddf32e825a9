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

use burn::tensor::Tensor;

use crate::data::batch;
use crate::data::example::{Example, ExampleError};
use crate::model::{Model, ModelError, checkpoint, parameters};
use crate::record::{self, RecordError, RowWriter, StepRow};
use crate::types::TokenId;

mod optimizer;
mod options;

pub use options::{LearningRate, Schedule, TrainOptions, kaplan_learning_rate};

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
        "{what} is {value} at step {step}: training diverged; the last good checkpoint is {}. \
         Lower train.learning_rate or train.clip_norm and resume", checkpoint.display()
    )]
    Diverged {
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The step that produced it.
        step: u64,
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
}

/// What a checkpoint counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counters {
    step: u64,
    examples: u64,
    tokens: u64,
    targets: u64,
    flops: f64,
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
    pub fn run(&mut self, mut model: Model) -> Result<(Model, TrainSummary), TrainError> {
        if self.source.is_empty() {
            return Err(TrainError::NoExamples);
        }
        let options = self.options;
        let steps_per_epoch = self.source.len().div_ceil(options.batch_size) as u64;
        let steps = ((steps_per_epoch as f64 * options.epochs).round() as u64).max(1);
        let checkpoint_path = self.folder.join("checkpoint.safetensors");
        let mut optimizer = AdamW::new(options);
        let mut counters = Counters::default();
        if checkpoint_path.exists() {
            (model, counters) = self.restore(model, &mut optimizer, &checkpoint_path)?;
        }
        let rows_path = self.folder.join("steps.jsonl");
        let mut rows = RowWriter::open(&rows_path, counters.step as usize)?;
        let peak = options
            .learning_rate
            .resolve(model.config().params_non_embedding());
        let mut epoch_data: Option<(u64, Vec<Example>, Vec<Vec<usize>>)> = None;
        let mut saved = Instant::now();

        while counters.step < steps {
            let started = Instant::now();
            let (epoch, index) = (
                counters.step / steps_per_epoch,
                counters.step % steps_per_epoch,
            );
            if epoch_data.as_ref().is_none_or(|(held, ..)| *held != epoch) {
                let examples = self.source.epoch(epoch)?;
                let lengths: Vec<usize> = examples.iter().map(num_tokens).collect();
                // Before the first step, not in the middle of the night.
                for example in &examples {
                    model.check_lengths(example.prompt.len(), example.target.len())?;
                }
                let order = batch::batches(&lengths, options.batch_size, self.seed, epoch);
                epoch_data = Some((epoch, examples, order));
            }
            let (_, examples, order) = epoch_data.as_ref().expect("it was filled above");
            let batch: Vec<&Example> = order[index as usize]
                .iter()
                .map(|&i| &examples[i])
                .collect();

            let (loss, gradients) = loss_and_gradients(&model, &batch, options.micro_batch_size)?;
            let diverged = |what, value| TrainError::Diverged {
                what,
                value,
                step: counters.step + 1,
                checkpoint: checkpoint_path.clone(),
            };
            if !loss.is_finite() {
                return Err(diverged("the loss", loss));
            }
            let learning_rate = options.schedule.at(counters.step, steps, options.warmup) * peak;
            let grad_norm = gradients.norm();
            if !grad_norm.is_finite() {
                return Err(diverged("the gradient norm", grad_norm));
            }
            model = optimizer.step(model, gradients, grad_norm, learning_rate);

            let tokens: usize = batch.iter().map(|e| num_tokens(e)).sum();
            let tokens_per_sec = tokens as f64 / started.elapsed().as_secs_f64();
            counters.step += 1;
            counters.examples += batch.len() as u64;
            counters.tokens += tokens as u64;
            counters.targets += batch.iter().map(|e| e.target.len() as u64).sum::<u64>();
            counters.flops += batch
                .iter()
                .map(|e| (self.flops)(e.prompt.len(), e.target.len()))
                .sum::<f64>();
            let last = counters.step == steps;
            let due = options.validate_every > 0 && counters.step % options.validate_every == 0;
            let validation_loss = if !self.validation.is_empty() && (due || last) {
                Some(validation_loss(
                    &model,
                    self.validation,
                    options.micro_batch_size,
                )?)
            } else {
                None
            };
            rows.write(&StepRow {
                step: counters.step,
                loss,
                learning_rate,
                grad_norm,
                examples_seen: counters.examples,
                tokens_seen: counters.tokens,
                flops: counters.flops,
                validation_loss,
                tokens_per_sec,
            })?;
            let told = (self.progress)(Progress {
                step: counters.step,
                steps,
                loss,
                tokens_per_sec,
            });
            let due = saved.elapsed().as_secs_f64() > options.checkpoint_every_secs;
            if !last && (due || told.is_break()) {
                rows.sync()?;
                self.save(&model, &optimizer, counters, &checkpoint_path)?;
                saved = Instant::now();
                if told.is_break() {
                    return Err(TrainError::Stopped {
                        step: counters.step,
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
            examples_seen: counters.examples,
            tokens_seen: counters.tokens,
            target_tokens_seen: counters.targets,
            flops: counters.flops,
            secs: secs.sum(),
            train_loss: tail.iter().map(|r| r.loss).sum::<f64>() / tail.len() as f64,
            validation_loss: rows.last().and_then(|r| r.validation_loss),
        };
        Ok((model, summary))
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

    fn save(
        &self,
        model: &Model,
        optimizer: &AdamW,
        counters: Counters,
        path: &Path,
    ) -> Result<(), TrainError> {
        let mut tensors: Vec<_> = parameters::list(model)
            .into_iter()
            .map(|p| {
                (
                    format!("weight:{}", p.name),
                    p.shape,
                    checkpoint::values(p.values),
                )
            })
            .collect();
        tensors.extend(optimizer.state());
        tensors.push(counters.to_tensor());
        checkpoint::write(path, tensors).map_err(|source| {
            ModelError::Io {
                path: path.into(),
                source,
            }
            .into()
        })
    }

    fn restore(
        &self,
        model: Model,
        optimizer: &mut AdamW,
        path: &Path,
    ) -> Result<(Model, Counters), TrainError> {
        let mut tensors = checkpoint::read(path)?;
        let damaged = |what: &str| ModelError::Config {
            path: path.into(),
            message: format!("the checkpoint lacks {what}; remove it to start again"),
        };
        let counters = tensors
            .remove(Counters::NAME)
            .and_then(|values| Counters::from_values(&values))
            .ok_or_else(|| damaged("its counters"))?;
        let device = model.device().inner();
        let mut missing = None;
        let model = parameters::replace(model, |name, _, old| {
            match tensors.remove(&format!("weight:{name}")) {
                Some(values) if values.len() == old.dims()[0] => {
                    Tensor::from_floats(&values[..], &device)
                }
                _ => {
                    missing.get_or_insert_with(|| name.to_string());
                    old
                }
            }
        });
        if let Some(name) = missing {
            return Err(damaged(&format!("`{name}` in the model's shape")).into());
        }
        optimizer.restore(tensors, counters.step, &device);
        Ok((model, counters))
    }
}

impl Counters {
    const NAME: &'static str = "counters";

    /// 64-bit values as pairs of 32-bit patterns, so that one file format serves.
    fn to_tensor(self) -> (String, Vec<usize>, Vec<f32>) {
        let words = [
            self.step,
            self.examples,
            self.tokens,
            self.targets,
            self.flops.to_bits(),
        ];
        // 16 bits a value: every such integer is exact in f32.
        let values: Vec<f32> = words
            .iter()
            .flat_map(|w| (0..4).map(move |i| ((w >> (16 * i)) & 0xffff) as f32))
            .collect();
        (Self::NAME.into(), vec![values.len()], values)
    }

    fn from_values(values: &[f32]) -> Option<Self> {
        if values.len() != 20 {
            return None;
        }
        let word = |i: usize| {
            (0..4).fold(0u64, |word, part| {
                word | (values[4 * i + part] as u64) << (16 * part)
            })
        };
        Some(Self {
            step: word(0),
            examples: word(1),
            tokens: word(2),
            targets: word(3),
            flops: f64::from_bits(word(4)),
        })
    }
}

fn num_tokens(example: &Example) -> usize {
    example.prompt.len() + example.target.len()
}

/// Mean loss per target token of a batch, and its gradient.
fn loss_and_gradients(
    model: &Model,
    batch: &[&Example],
    micro_batch_size: usize,
) -> Result<(f64, Gradients), TrainError> {
    let targets: usize = batch.iter().map(|e| e.target.len()).sum();
    let mut gradients = Gradients::default();
    let mut loss_sum = 0.0;
    for micro in batch.chunks(micro_batch_size) {
        let loss = micro_loss(model, micro)?;
        loss_sum += scalar(loss.clone());
        let scaled = loss.mul_scalar(1.0 / targets as f64);
        gradients.add(model, scaled.backward());
    }
    Ok((loss_sum / targets as f64, gradients))
}

/// Mean loss per target token over `examples`, without gradients.
fn validation_loss(
    model: &Model,
    examples: &[Example],
    micro_batch_size: usize,
) -> Result<f64, TrainError> {
    use burn::module::Module;
    let model = model.clone().valid();
    let mut order: Vec<&Example> = examples.iter().collect();
    order.sort_by_key(|e| num_tokens(e));
    let mut sum = 0.0;
    for micro in order.chunks(micro_batch_size) {
        sum += scalar(micro_loss(&model, micro)?);
    }
    Ok(sum / examples.iter().map(|e| e.target.len()).sum::<usize>() as f64)
}

/// Summed loss of the target tokens of a micro-batch.
fn micro_loss(model: &Model, batch: &[&Example]) -> Result<Tensor<1>, TrainError> {
    let pairs: Vec<(&[TokenId], &[TokenId])> = batch
        .iter()
        .map(|e| (&e.prompt[..], &e.target[..]))
        .collect();
    let targets: Vec<TokenId> = pairs.iter().flat_map(|(_, t)| *t).copied().collect();
    Ok(model.loss_sum(model.target_hidden(&pairs)?, &targets))
}

fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}

#[cfg(test)]
mod tests;
