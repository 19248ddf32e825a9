//! Restoring masked tokens, read in both directions (MNTP, BehnamGhader et al. 2024): the summed cross-entropy
//! of the masked tokens over their count.

use burn::module::Module;
use burn::tensor::Tensor;

use super::objective::{Found, ItemSize, Objective, Step};
use super::{TrainError, TrainOptions};
use crate::data::example::ExampleError;
use crate::data::masking::{MaskedBlock, Masker};
use crate::model::{MaskedText, Model, ModelError};
use crate::types::TokenId;

/// Learning to restore the masked tokens of blocks.
pub struct Masked<'a> {
    /// Blocks of the collection's tokens.
    pub blocks: &'a [Vec<TokenId>],
    /// Decides what is masked.
    pub masker: &'a Masker,
    /// Blocks whose loss is measured.
    pub validation: &'a [MaskedBlock],
    /// Seed of what is masked.
    pub seed: u64,
    /// FLOPs of training on one block of (tokens, masked tokens).
    pub flops: &'a dyn Fn(usize, usize) -> f64,
}

impl Objective for Masked<'_> {
    type Item = MaskedBlock;

    fn len(&self) -> usize {
        self.blocks.len()
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<MaskedBlock>, ExampleError> {
        let mask = |(number, block): (usize, &Vec<TokenId>)| {
            self.masker.mask(block, self.seed, epoch, number as u64)
        };
        Ok(self.blocks.iter().enumerate().map(mask).collect())
    }

    fn size(&self, block: &MaskedBlock) -> ItemSize {
        let (tokens, targets) = (block.tokens.len(), block.targets.len());
        ItemSize {
            tokens,
            targets,
            flops: (self.flops)(tokens, targets),
        }
    }

    fn check(&self, model: &Model, block: &MaskedBlock) -> Result<(), ModelError> {
        model.check_lengths(block.tokens.len(), 0)
    }

    fn gradients(&self, step: &Step<'_>, batch: &[&MaskedBlock]) -> Result<Found, TrainError> {
        let targets: usize = batch.iter().map(|block| block.targets.len()).sum();
        let scale = 1.0 / targets as f64;
        Ok(
            step.summed(batch, step.options.micro_batch_size, |model, micro| {
                step.backward(model, scale, |model| loss_sum(model, micro))
            })?,
        )
    }

    fn validation_loss(
        &self,
        model: &Model,
        options: &TrainOptions,
    ) -> Result<Option<f64>, TrainError> {
        let model = model.clone().valid();
        let blocks: Vec<&MaskedBlock> = self.validation.iter().collect();
        let mut sum = 0.0;
        for micro in blocks.chunks(options.micro_batch_size) {
            sum += super::scalar(loss_sum(&model, micro)?);
        }
        let targets: usize = blocks.iter().map(|block| block.targets.len()).sum();
        Ok((targets > 0).then(|| sum / targets as f64))
    }
}

fn loss_sum(model: &Model, blocks: &[&MaskedBlock]) -> Result<Tensor<1>, ModelError> {
    let texts: Vec<MaskedText<'_>> = (blocks.iter())
        .map(|block| (&block.tokens[..], &block.targets[..]))
        .collect();
    Ok(model.masked_loss_sum(&texts)?.0)
}
