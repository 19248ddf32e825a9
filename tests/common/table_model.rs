//! A language model that is a table, and random corpora.

use burn::tensor::{Device, Int, Tensor, TensorData};
use genret::model::{Footprint, ModelError, NextTokenModel};
use genret::rng;
use genret::types::TokenId;
use rand::RngExt;

/// A model whose logits are a table: drawn from the seed, the prompt and the last two tokens.
pub struct TableModel {
    pub vocab: usize,
    pub seed: u64,
}

impl TableModel {
    /// Logits after `generated` tokens of `prompt`.
    pub fn logits(&self, prompt: &[TokenId], generated: &[TokenId]) -> Vec<f32> {
        let mut place: Vec<u64> = prompt.iter().map(|t| u64::from(t.0)).collect();
        place.push(u64::MAX);
        place.extend(generated.iter().rev().take(2).map(|t| u64::from(t.0)));
        let mut stream = rng::stream(self.seed, "table", &place);
        (0..self.vocab)
            .map(|_| stream.random_range(-3.0..3.0))
            .collect()
    }

    /// Log-probability of `tokens` after `prompt`, over the whole vocabulary.
    pub fn log_prob(&self, prompt: &[TokenId], tokens: &[TokenId]) -> f64 {
        (0..tokens.len())
            .map(|i| {
                let logits = self.logits(prompt, &tokens[..i]);
                let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
                f64::from(logits[tokens[i].index()]) - sum.ln()
            })
            .sum()
    }
}

/// Prompt and generated tokens of every hypothesis.
pub type TableState = Vec<(Vec<TokenId>, Vec<TokenId>)>;

impl NextTokenModel for TableModel {
    type State = TableState;

    fn start(
        &self,
        prompts: &[&[TokenId]],
        _: usize,
    ) -> Result<(TableState, Tensor<2>), ModelError> {
        let state: TableState = prompts.iter().map(|p| (p.to_vec(), vec![])).collect();
        let logits = self.all_logits(&state);
        Ok((state, logits))
    }

    fn step(
        &self,
        state: &mut TableState,
        parents: &[usize],
        last: &[TokenId],
    ) -> Result<Tensor<2>, ModelError> {
        *state = parents
            .iter()
            .zip(last)
            .map(|(&parent, &token)| {
                let (prompt, mut generated) = state[parent].clone();
                generated.push(token);
                (prompt, generated)
            })
            .collect();
        Ok(self.all_logits(state))
    }

    /// The table gives logits at once: they are their own hidden states.
    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        hidden
    }

    fn logits_of(&self, hidden: Tensor<2>, tokens: &[TokenId]) -> Tensor<2> {
        let columns: Vec<i32> = tokens.iter().map(|t| t.0 as i32).collect();
        let columns = Tensor::<1, Int>::from_ints(&columns[..], &hidden.device());
        hidden.select(1, columns)
    }

    fn footprint(&self) -> Footprint {
        Footprint {
            prompt_token_bytes: 4,
            new_token_bytes: 4,
            pass_token_bytes: 4 * self.vocab,
            vocab: self.vocab,
        }
    }
}

impl TableModel {
    fn all_logits(&self, state: &TableState) -> Tensor<2> {
        let values: Vec<f32> = state
            .iter()
            .flat_map(|(prompt, generated)| self.logits(prompt, generated))
            .collect();
        Tensor::from_data(
            TensorData::new(values, [state.len(), self.vocab]),
            &Device::flex(),
        )
    }
}

/// Random passages over tokens `1..alphabet`, each of 1 to `longest` tokens.
pub fn random_passages(
    seed: u64,
    passages: usize,
    longest: usize,
    alphabet: u32,
) -> Vec<Vec<TokenId>> {
    let mut stream = rng::stream(seed, "passages", &[]);
    (0..passages)
        .map(|_| {
            let len = stream.random_range(1..=longest);
            (0..len)
                .map(|_| TokenId(stream.random_range(1..alphabet)))
                .collect()
        })
        .collect()
}
