//! Decoding: the next token of many hypotheses at once, with cached keys and values.

use burn::tensor::Tensor;

use super::ModelError;
use crate::types::TokenId;

/// A model that continues prompts token by token.
///
/// A state holds hypotheses, at first one per prompt. Each step replaces them by children: child i
/// extends hypothesis `parents[i]` by `last[i]`. A hypothesis may have any number of children, and
/// those without are forgotten. What comes back is the hidden state that the output head reads, one
/// row per hypothesis, so that the caller decides for which rows and tokens the head is evaluated.
pub trait NextTokenModel {
    /// Prompts and generated tokens with whatever the model caches of them.
    type State;

    /// Reads `prompts` and returns the hidden state `[prompts, d]` of the first token after each. At
    /// most `max_new` tokens can be generated from the state.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] if a prompt with `max_new` more tokens exceeds the model's positions.
    fn start(
        &self,
        prompts: &[&[TokenId]],
        max_new: usize,
    ) -> Result<(Self::State, Tensor<2>), ModelError>;

    /// Replaces the hypotheses by children and returns the hidden state `[children, d]` of the token
    /// after each.
    fn step(
        &self,
        state: &mut Self::State,
        parents: &[usize],
        last: &[TokenId],
    ) -> Result<Tensor<2>, ModelError>;

    /// Logits `[n, vocab]` of hidden states `[n, d]`.
    fn logits(&self, hidden_nd: Tensor<2>) -> Tensor<2>;

    /// Columns `tokens` of [`logits`](Self::logits), `[n, tokens]`, computed for these tokens alone.
    fn logits_of(&self, hidden_nd: Tensor<2>, tokens: &[TokenId]) -> Tensor<2>;

    /// What decoding keeps in memory beside the weights.
    fn footprint(&self) -> Footprint;
}

/// Bytes that decoding takes beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Kept per prompt token until the last query of the batch has ended.
    pub prompt_token_bytes: usize,
    /// Kept per generated token and beam until the last query of the batch has ended.
    pub new_token_bytes: usize,
    /// Held for a moment per token of a pass: activations of one layer.
    pub pass_token_bytes: usize,
    /// Columns of the output head.
    pub vocab: usize,
}
