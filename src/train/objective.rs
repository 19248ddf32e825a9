//! What a run learns: its examples, and the loss and gradient of a batch of them.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::optimizer::Gradients;
use super::{Precision, TrainError, TrainOptions};
use crate::data::example::ExampleError;
use crate::model::{Model, ModelError, parameters};
use crate::record::Representations;

/// What a run learns from. The same pass always gives the same items.
pub trait Objective {
    /// One training example.
    type Item;

    /// Items in one pass.
    fn len(&self) -> usize;

    /// Whether a pass holds no items.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items of pass `epoch`, as many as [`Self::len`].
    fn epoch(&self, epoch: u64) -> Result<Vec<Self::Item>, ExampleError>;

    /// How large an item is.
    fn size(&self, item: &Self::Item) -> ItemSize;

    /// Fails if `model` cannot read the item.
    fn check(&self, model: &Model, item: &Self::Item) -> Result<(), ModelError>;

    /// Loss of a batch and its gradient; neither depends on micro-batches or devices beyond rounding.
    fn gradients(&self, step: &Step<'_>, batch: &[&Self::Item]) -> Result<Found, TrainError>;

    /// Loss on the validation items; `None` without any. `model` carries no gradients.
    fn validation_loss(
        &self,
        model: &Model,
        options: &TrainOptions,
    ) -> Result<Option<f64>, TrainError>;
}

/// How large a training example is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ItemSize {
    /// Tokens read and written; items of like length share a batch.
    pub tokens: usize,
    /// Tokens that a loss is taken on.
    pub targets: usize,
    /// FLOPs of training on it once.
    pub flops: f64,
}

/// One optimiser update that is about to be made.
pub struct Step<'a> {
    /// The model, on an autodiff device.
    pub model: &'a Model,
    /// Devices that share the work with the model's own.
    pub replicas: &'a [Device],
    /// How to train.
    pub options: &'a TrainOptions,
    /// Updates done before this one.
    pub done: u64,
    /// Updates in all.
    pub steps: u64,
}

/// What an objective found for a batch.
pub struct Found {
    /// The loss.
    pub loss: f64,
    /// Its gradient.
    pub gradients: Gradients,
    /// What the representations looked like, for objectives that make some.
    pub representations: Option<Representations>,
}

impl Step<'_> {
    /// The model that reads, in half precision if asked for.
    pub(super) fn reading(&self, model: &Model) -> Model {
        match self.options.precision {
            Precision::F32 => model.clone(),
            // Gradients flow through the rounded weights to the whole ones.
            Precision::Bf16 => parameters::bf16(model.clone()),
        }
    }

    /// `scale` times what `loss` says, and its gradient.
    pub(super) fn backward(
        &self,
        model: &Model,
        scale: f64,
        loss: impl Fn(&Model) -> Result<Tensor<1>, ModelError>,
    ) -> Result<(Tensor<1>, Gradients), ModelError> {
        let loss = loss(&self.reading(model))?.mul_scalar(scale);
        let value = loss.clone().inner();
        let mut gradients = Gradients::default();
        gradients.add(model, loss.backward());
        Ok((value, gradients))
    }

    /// Sums of the losses and gradients of the micro-batches of `batch`, of `at_once` items each, on all devices.
    pub(super) fn summed<I: Sync>(
        &self,
        batch: &[&I],
        at_once: usize,
        gradients: impl Fn(&Model, &[&I]) -> Result<(Tensor<1>, Gradients), ModelError> + Sync,
    ) -> Result<Found, ModelError> {
        let micros: Vec<&[&I]> = batch.chunks(at_once).collect();
        let home = self.model.device().inner();
        let shares = self.on_devices(|model, place, devices| {
            let (mut loss, mut sum) = (0.0, Gradients::default());
            for micro in micros.iter().skip(place).step_by(devices) {
                let (value, found) = gradients(model, micro)?;
                loss += super::scalar(value);
                sum.add_named(found.on(&model.device().inner()));
            }
            Ok((loss, sum))
        })?;
        let (mut loss, mut gradients) = (0.0, Gradients::default());
        for (sum, found) in shares {
            loss += sum;
            gradients.add_named(found.on(&home));
        }
        Ok(Found {
            loss,
            gradients,
            representations: None,
        })
    }

    /// What `work` finds on every device: it is called with a model, the place of the device and how many there are.
    ///
    /// The first device is the model's own; each of the others is given the weights and works in a thread of
    /// its own. Results are in the order of the devices, so that a sum of them depends on their number but never
    /// on their speed.
    pub(super) fn on_devices<R: Send>(
        &self,
        work: impl Fn(&Model, usize, usize) -> Result<R, ModelError> + Sync,
    ) -> Result<Vec<R>, ModelError> {
        let devices = 1 + self.replicas.len();
        let work = &work;
        std::thread::scope(|scope| {
            let others: Vec<_> = self
                .replicas
                .iter()
                .enumerate()
                .map(|(i, device)| {
                    let replica = self.model.clone().fork(&device.clone().autodiff());
                    scope.spawn(move || work(&replica, i + 1, devices))
                })
                .collect();
            let own = work(self.model, 0, devices);
            let others = others.into_iter().map(|thread| match thread.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            std::iter::once(own).chain(others).collect()
        })
    }
}
