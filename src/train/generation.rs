//! Writing targets after prompts: the summed cross-entropy of target tokens over their count.

use burn::module::Module;
use burn::tensor::Tensor;

use super::objective::{Found, ItemSize, Objective, Step};
use super::optimizer::Gradients;
use super::{TrainError, TrainOptions};
use crate::data::example::{Example, ExampleError};
use crate::model::{Model, ModelError, PromptTarget};
use crate::types::TokenId;

/// Where examples come from; the same pass always gives the same examples.
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

/// Learning to write the targets of examples.
pub struct Generation<'a> {
    /// Training examples.
    pub source: &'a dyn ExampleSource,
    /// Examples whose loss is measured.
    pub validation: &'a [Example],
    /// FLOPs of training on one example of (prompt, target) tokens.
    pub flops: &'a dyn Fn(usize, usize) -> f64,
}

impl Objective for Generation<'_> {
    type Item = Example;

    fn len(&self) -> usize {
        self.source.len()
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<Example>, ExampleError> {
        self.source.epoch(epoch)
    }

    fn size(&self, example: &Example) -> ItemSize {
        let (prompt, target) = (example.prompt.len(), example.target.len());
        ItemSize {
            tokens: prompt + target,
            targets: target,
            flops: (self.flops)(prompt, target),
        }
    }

    fn check(&self, model: &Model, example: &Example) -> Result<(), ModelError> {
        model.check_lengths(example.prompt.len(), example.target.len())
    }

    fn gradients(&self, step: &Step<'_>, batch: &[&Example]) -> Result<Found, TrainError> {
        let targets: usize = batch.iter().map(|e| e.target.len()).sum();
        let scale = 1.0 / targets as f64;
        Ok(
            step.summed(batch, step.options.micro_batch_size, |model, micro| {
                let examples = prompts_and_targets(micro);
                if step.options.gradient_checkpointing {
                    let (loss, found) = model.recomputed_gradients(&examples, scale)?;
                    let mut gradients = Gradients::default();
                    gradients.add_named(found);
                    return Ok((loss, gradients));
                }
                step.backward(model, scale, |model| loss_sum(model, &examples))
            })?,
        )
    }

    fn validation_loss(
        &self,
        model: &Model,
        options: &TrainOptions,
    ) -> Result<Option<f64>, TrainError> {
        let model = model.clone().valid();
        let mut order: Vec<&Example> = self.validation.iter().collect();
        order.sort_by_key(|e| e.prompt.len() + e.target.len());
        let mut sum = 0.0;
        for micro in order.chunks(options.micro_batch_size) {
            sum += super::scalar(loss_sum(&model, &prompts_and_targets(micro))?);
        }
        let targets: usize = order.iter().map(|e| e.target.len()).sum();
        Ok((targets > 0).then(|| sum / targets as f64))
    }
}

fn prompts_and_targets<'a>(batch: &[&'a Example]) -> Vec<PromptTarget<'a>> {
    let pair = |e: &&'a Example| (&e.prompt[..], &e.target[..]);
    batch.iter().map(pair).collect()
}

/// Summed loss of the target tokens of a micro-batch.
fn loss_sum(model: &Model, batch: &[PromptTarget<'_>]) -> Result<Tensor<1>, ModelError> {
    let targets: Vec<TokenId> = batch.iter().flat_map(|(_, t)| *t).copied().collect();
    Ok(model.loss_sum(model.target_hidden(batch)?, &targets))
}
