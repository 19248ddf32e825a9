//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019), over parameters by name.
//!
//! Burn's optimisers key their state by a random id and apply an update in a dozen tensor
//! operations; here the state is named, so that it can be stored beside the weights, and an update
//! is one fused pass.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Gradients as Graph, Tensor};
use genret_kernels::{self as kernels, Moments};

use super::TrainOptions;
use crate::model::recompute::{self, NamedGradients};
use crate::model::{checkpoint, parameters};

/// Gradients by parameter name, flat.
#[derive(Default)]
pub struct Gradients {
    by_name: NamedGradients,
}

impl Gradients {
    /// Adds the gradients of one backward pass through `model`.
    pub fn add<M: Module>(&mut self, model: &M, graph: Graph) {
        self.add_named(parameters::gradients(model, graph));
    }

    /// Adds gradients by parameter name.
    pub(super) fn add_named(&mut self, gradients: NamedGradients) {
        for (name, gradient) in gradients {
            recompute::add(&mut self.by_name, name, gradient);
        }
    }

    /// The gradients by name, on `device`.
    pub(super) fn on(self, device: &Device) -> NamedGradients {
        let moved = self.by_name.into_iter();
        moved.map(|(name, g)| (name, g.to_device(device))).collect()
    }

    /// Euclidean norm over all parameters, summed in the order of their names.
    pub fn norm(&self) -> f64 {
        let gradients: Vec<&Tensor<1>> = self.by_name.values().collect();
        let sum: f64 = kernels::squared_norms(&gradients).into_iter().sum();
        sum.sqrt()
    }
}

/// First and second moments by parameter name, and the number of updates.
pub struct AdamW {
    options: TrainOptions,
    moments: BTreeMap<String, Moments<1>>,
    steps: u32,
}

impl AdamW {
    /// No moments yet; the constants of `options`.
    pub fn new(options: &TrainOptions) -> Self {
        Self {
            options: options.clone(),
            moments: BTreeMap::new(),
            steps: 0,
        }
    }

    /// Updates every parameter that has a gradient; gradients, of norm `grad_norm`, are scaled down to
    /// `clip_norm`.
    pub fn step<M: Module>(
        &mut self,
        model: M,
        mut gradients: Gradients,
        grad_norm: f64,
        learning_rate: f64,
    ) -> M {
        self.steps += 1;
        let options = &self.options;
        let clipped = options.clip_norm > 0.0 && grad_norm > options.clip_norm;
        let step = kernels::AdamWStep {
            learning_rate,
            beta_1: options.beta1 as f32,
            beta_2: options.beta2 as f32,
            epsilon: options.epsilon as f32,
            weight_decay: 0.0,
            gradient_factor: if clipped {
                (options.clip_norm / grad_norm) as f32
            } else {
                1.0
            },
            step: self.steps,
        };
        let moments = &mut self.moments;
        parameters::replace(model, |name, shape, weights| {
            let Some(gradient) = gradients.by_name.remove(name) else {
                return weights;
            };
            let group = options.group_of(name);
            let decay = group.and_then(|g| g.weight_decay);
            let decay = decay.unwrap_or(if shape.len() > 1 {
                options.weight_decay
            } else {
                0.0
            });
            let step = kernels::AdamWStep {
                weight_decay: decay as f32,
                learning_rate: learning_rate * group.map_or(1.0, |g| g.learning_rate),
                ..step
            };
            let (weights, updated) = kernels::adamw(weights, gradient, moments.remove(name), &step);
            moments.insert(name.into(), updated);
            weights
        })
    }

    /// The moments and the step count as named tensors.
    pub(super) fn state(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let mut state = vec![];
        for (name, moments) in &self.moments {
            for (kind, tensor) in [("first", &moments.first), ("second", &moments.second)] {
                let values = checkpoint::values(tensor.clone());
                state.push((format!("{kind}:{name}"), vec![values.len()], values));
            }
        }
        state
    }

    /// Takes the moments back from [`Self::state`] after `steps` updates.
    pub(super) fn restore(
        &mut self,
        mut state: BTreeMap<String, Vec<f32>>,
        steps: u64,
        device: &Device,
    ) {
        let names: Vec<String> = state
            .keys()
            .filter_map(|k| k.strip_prefix("first:"))
            .map(String::from)
            .collect();
        for name in names {
            let first = state.remove(&format!("first:{name}"));
            if let (Some(first), Some(second)) = (first, state.remove(&format!("second:{name}"))) {
                let tensor = |values: Vec<f32>| Tensor::from_floats(&values[..], device);
                let moments = Moments {
                    first: tensor(first),
                    second: tensor(second),
                };
                self.moments.insert(name, moments);
            }
        }
        self.steps = steps as u32;
    }
}
