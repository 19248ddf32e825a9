//! One step: the gradient of a batch, in micro-batches, on one device or several.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::optimizer::Gradients;
use super::{Precision, TrainError, TrainOptions};
use crate::data::example::Example;
use crate::model::{Model, ModelError, PromptTarget, parameters};
use crate::types::TokenId;

/// Mean loss per target token of a batch, and its gradient.
///
/// Micro-batches go to the device of `model` and to `replicas` in turn, each of which is given the
/// weights and works in a thread of its own; gradients are added in the order of the devices, so that the
/// sum depends on their number but never on their speed.
pub(super) fn loss_and_gradients(
    model: &Model,
    replicas: &[Device],
    batch: &[&Example],
    options: &TrainOptions,
) -> Result<(f64, Gradients), TrainError> {
    let targets: usize = batch.iter().map(|e| e.target.len()).sum();
    let scale = 1.0 / targets as f64;
    let micros: Vec<&[&Example]> = batch.chunks(options.micro_batch_size).collect();
    let devices = 1 + replicas.len();
    let share = |model: Model, place: usize| {
        let mut gradients = Gradients::default();
        let mut loss_sum = 0.0;
        for micro in micros.iter().skip(place).step_by(devices) {
            let examples = prompts_and_targets(micro);
            let loss = if options.gradient_checkpointing {
                let (loss, found) = model.recomputed_gradients(&examples, scale)?;
                gradients.add_named(found);
                loss
            } else {
                let loss = match options.precision {
                    Precision::F32 => micro_loss(&model, &examples)?,
                    // Gradients flow through the rounded weights to the whole ones.
                    Precision::Bf16 => micro_loss(&parameters::bf16(model.clone()), &examples)?,
                };
                let loss = loss.mul_scalar(scale);
                let value = loss.clone().inner();
                gradients.add(&model, loss.backward());
                value
            };
            loss_sum += scalar(loss);
        }
        Ok::<_, ModelError>((loss_sum, gradients))
    };
    let (mut loss, mut gradients) = (0.0, Gradients::default());
    let home = model.device().inner();
    let shares: Vec<Result<(f64, Gradients), ModelError>> = std::thread::scope(|scope| {
        let others: Vec<_> = replicas
            .iter()
            .enumerate()
            .map(|(i, device)| {
                let replica = model.clone().fork(&device.clone().autodiff());
                scope.spawn(move || share(replica, i + 1))
            })
            .collect();
        let own = share(model.clone(), 0);
        let others = others.into_iter().map(|thread| match thread.join() {
            Ok(share) => share,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        std::iter::once(own).chain(others).collect()
    });
    for found in shares {
        let (sum, found) = found?;
        loss += sum;
        gradients.add_named(found.on(&home));
    }
    Ok((loss, gradients))
}

/// Mean loss per target token over `examples`, without gradients.
pub(super) fn validation_loss(
    model: &Model,
    examples: &[Example],
    micro_batch_size: usize,
) -> Result<f64, TrainError> {
    let model = model.clone().valid();
    let mut order: Vec<&Example> = examples.iter().collect();
    order.sort_by_key(|e| super::num_tokens(e));
    let mut sum = 0.0;
    for micro in order.chunks(micro_batch_size) {
        sum += scalar(micro_loss(&model, &prompts_and_targets(micro))?);
    }
    Ok(sum / examples.iter().map(|e| e.target.len()).sum::<usize>() as f64)
}

fn prompts_and_targets<'a>(batch: &[&'a Example]) -> Vec<PromptTarget<'a>> {
    let pair = |e: &&'a Example| (&e.prompt[..], &e.target[..]);
    batch.iter().map(pair).collect()
}

/// Summed loss of the target tokens of a micro-batch.
fn micro_loss(model: &Model, batch: &[PromptTarget<'_>]) -> Result<Tensor<1>, ModelError> {
    let targets: Vec<TokenId> = batch.iter().flat_map(|(_, t)| *t).copied().collect();
    Ok(model.loss_sum(model.target_hidden(batch)?, &targets))
}

fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}
