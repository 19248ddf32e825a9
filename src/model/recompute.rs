//! Gradients with the activations of one layer at a time (Chen et al. 2016).
//!
//! The forward pass keeps only what goes into each layer. The backward pass goes from the last layer to
//! the first: it computes the layer again, this time with its graph, and pulls the gradient of the
//! layer's output back to its input and its parameters. One more forward pass of the layers is paid for
//! a memory that holds one layer.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::{Model, parameters};

/// Gradients by parameter name, flat.
pub type NamedGradients = BTreeMap<String, Tensor<1>>;

/// What a backward pass through the layers of `model` has gathered.
pub(super) struct Pulled<'a, M> {
    model: &'a M,
    gradients: NamedGradients,
}

impl<'a, M: burn::module::Module> Pulled<'a, M> {
    pub(super) fn new(model: &'a M) -> Self {
        Self {
            model,
            gradients: NamedGradients::new(),
        }
    }

    /// Gradients of `leaves` where the scalar `loss` is computed from them.
    pub(super) fn backward<const N: usize>(
        &mut self,
        loss: Tensor<1>,
        leaves: [&Tensor<2>; N],
    ) -> [Tensor<2>; N] {
        let graph = loss.backward();
        let pulled = leaves.map(|leaf| {
            leaf.grad(&graph)
                .unwrap_or_else(|| leaf.clone().inner().zeros_like())
        });
        for (name, gradient) in parameters::gradients(self.model, graph) {
            add(&mut self.gradients, name, gradient);
        }
        pulled
    }

    /// Gradients of `leaves` where `output` is computed from them and its gradient is `upstream`.
    pub(super) fn through<const N: usize>(
        &mut self,
        output: Tensor<2>,
        upstream: Tensor<2>,
        leaves: [&Tensor<2>; N],
    ) -> [Tensor<2>; N] {
        // Frozen parameters alone leave nothing to pull.
        if !output.is_tracked() {
            return leaves.map(|leaf| leaf.clone().inner().zeros_like());
        }
        self.backward((output * Tensor::from_inner(upstream)).sum(), leaves)
    }

    pub(super) fn gradients(self) -> NamedGradients {
        self.gradients
    }
}

/// Adds `gradient` to what `sums` holds of the parameter.
pub fn add(sums: &mut NamedGradients, name: String, gradient: Tensor<1>) {
    let sum = match sums.remove(&name) {
        Some(sum) => sum + gradient,
        None => gradient,
    };
    sums.insert(name, sum);
}

/// A tensor whose gradient is wanted.
pub(super) fn leaf(value: Tensor<2>) -> Tensor<2> {
    Tensor::from_inner(value.inner()).require_grad()
}

impl Model {
    /// Summed loss of the targets of (prompt, target) `examples` times `scale`, and its gradients,
    /// with the activations of one layer at a time.
    ///
    /// # Errors
    /// As [`Model::target_hidden`].
    pub fn recomputed_gradients(
        &self,
        examples: &[super::PromptTarget<'_>],
        scale: f64,
    ) -> Result<(Tensor<1>, NamedGradients), super::ModelError> {
        match self {
            Self::Llama(model) => model.recomputed_gradients(examples, scale),
            Self::T5(model) => Ok(model.recomputed_gradients(examples, scale)),
        }
    }
}
