//! Decoding: the next token of many hypotheses at once, with cached keys and values.

use burn::tensor::Tensor;

use super::ModelError;
use crate::types::TokenId;

/// A model that continues prompts token by token.
///
/// A state holds hypotheses, at first one per prompt. Each step replaces them by children: child i
/// extends hypothesis `parents[i]` by `last[i]`. A hypothesis may have any number of children, and
/// those without are forgotten. Logits are `[hypotheses, vocab]`.
pub trait NextTokenModel {
    /// Prompts and generated tokens with whatever the model caches of them.
    type State;

    /// Reads `prompts` and returns the logits of the first token after each. At most `max_new`
    /// tokens can be generated from the state.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] if a prompt with `max_new` more tokens exceeds the model's positions.
    fn start(
        &self,
        prompts: &[&[TokenId]],
        max_new: usize,
    ) -> Result<(Self::State, Tensor<2>), ModelError>;

    /// Replaces the hypotheses by children and returns the logits of the token after each.
    fn step(
        &self,
        state: &mut Self::State,
        parents: &[usize],
        last: &[TokenId],
    ) -> Result<Tensor<2>, ModelError>;
}
