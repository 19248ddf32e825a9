//! The state of a run between two steps, as `checkpoint.safetensors` holds it: trained weights, their
//! moving average, the moments, and what has been counted.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;

use super::{AdamW, Gradients, TrainError};
use crate::model::{Model, ModelError, checkpoint, parameters};

/// What a checkpoint counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counters {
    pub(super) step: u64,
    pub(super) examples: u64,
    pub(super) tokens: u64,
    pub(super) targets: u64,
    pub(super) flops: f64,
}

/// Everything that a step changes.
pub(super) struct State {
    pub(super) model: Model,
    pub(super) optimizer: AdamW,
    pub(super) average: Option<Average>,
    pub(super) counters: Counters,
}

/// Exponential moving average of the trained weights, by parameter name.
pub(super) struct Average {
    decay: f64,
    weights: BTreeMap<String, Tensor<1>>,
}

impl Average {
    /// Begins with the weights of `model`.
    pub(super) fn new(decay: f64, model: &Model) -> Self {
        let trained = parameters::list(model).into_iter().filter(|p| p.trained);
        Self {
            decay,
            weights: trained.map(|p| (p.name, p.values)).collect(),
        }
    }

    /// Moves towards the weights of `model`.
    pub(super) fn update(&mut self, model: &Model) {
        for parameter in parameters::list(model) {
            if let Some(old) = self.weights.remove(&parameter.name) {
                let step = (parameter.values - old.clone()).mul_scalar(1.0 - self.decay);
                self.weights.insert(parameter.name, old + step);
            }
        }
    }

    /// `model` with the averaged weights.
    pub(super) fn of(&self, model: Model) -> Model {
        parameters::replace(model, |name, _, old| {
            self.weights.get(name).cloned().unwrap_or(old)
        })
    }
}

impl State {
    /// The state after one update; what has been counted is left to the caller.
    pub(super) fn updated(mut self, gradients: Gradients, norm: f64, learning_rate: f64) -> Self {
        self.model = self
            .optimizer
            .step(self.model, gradients, norm, learning_rate);
        if let Some(average) = &mut self.average {
            average.update(&self.model);
        }
        self
    }

    /// The model as it would be used now: with averaged weights, if they are kept.
    pub(super) fn result(&self) -> Model {
        match &self.average {
            Some(average) => average.of(self.model.clone()),
            None => self.model.clone(),
        }
    }

    /// Writes the state, whole or not at all.
    pub(super) fn save(&self, path: &Path) -> Result<(), TrainError> {
        let flat = |kind: &str, name: &str, values: &Tensor<1>| {
            let values = checkpoint::values(values.clone());
            (format!("{kind}:{name}"), vec![values.len()], values)
        };
        let trained = parameters::list(&self.model)
            .into_iter()
            .filter(|p| p.trained);
        let mut tensors: Vec<_> = trained
            .map(|p| flat("weight", &p.name, &p.values))
            .collect();
        if let Some(average) = &self.average {
            let weights = average.weights.iter();
            tensors.extend(weights.map(|(name, values)| flat("average", name, values)));
        }
        tensors.extend(self.optimizer.state());
        tensors.push(self.counters.to_tensor());
        checkpoint::write(path, tensors).map_err(|source| {
            ModelError::Io {
                path: path.into(),
                source,
            }
            .into()
        })
    }

    /// Takes back what [`Self::save`] wrote; weights that are not trained stay as they are.
    pub(super) fn restore(mut self, path: &Path) -> Result<Self, TrainError> {
        let mut tensors = checkpoint::read(path)?;
        let damaged = |what: &str| ModelError::Config {
            path: path.into(),
            message: format!("the checkpoint lacks {what}; remove it to start again"),
        };
        self.counters = tensors
            .remove(Counters::NAME)
            .and_then(|values| Counters::from_values(&values))
            .ok_or_else(|| damaged("its counters"))?;
        let device = self.model.device().inner();
        let mut missing = None;
        let mut take = |kind: &str, name: &str, len: usize| {
            let values = tensors.remove(&format!("{kind}:{name}"));
            let values = values.filter(|values| values.len() == len);
            if values.is_none() {
                missing.get_or_insert_with(|| format!("`{kind}:{name}` in the model's shape"));
            }
            values.map(|values| Tensor::from_floats(&values[..], &device))
        };
        let trained: Vec<(String, usize)> = parameters::list(&self.model)
            .into_iter()
            .filter(|p| p.trained)
            .map(|p| (p.name, p.values.dims()[0]))
            .collect();
        let mut weights: BTreeMap<String, Tensor<1>> = BTreeMap::new();
        for (name, len) in trained {
            if let Some(values) = take("weight", &name, len) {
                weights.insert(name.clone(), values);
            }
            if let Some(average) = &mut self.average
                && let Some(values) = take("average", &name, len)
            {
                average.weights.insert(name, values);
            }
        }
        if let Some(missing) = missing {
            return Err(damaged(&missing).into());
        }
        self.model = parameters::replace(self.model, |name, _, old| {
            weights.remove(name).unwrap_or(old)
        });
        self.optimizer.restore(tensors, self.counters.step, &device);
        Ok(self)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_a_checkpoint() {
        let counters = Counters {
            step: 3,
            examples: u64::MAX,
            tokens: 1 << 40,
            targets: 0,
            flops: 1.5e18,
        };
        let (_, _, values) = counters.to_tensor();
        assert_eq!(Counters::from_values(&values), Some(counters));
    }
}
