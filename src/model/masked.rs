//! Masked next-token prediction: the loss of a decoder alone that learns to read both ways (BehnamGhader et al.
//! 2024).

use burn::tensor::Tensor;
use genret_kernels as kernels;

use super::{Model, ModelError, Sequences};
use crate::types::TokenId;

/// What a model reads, some tokens of it replaced, and the tokens to restore with their positions.
pub type MaskedText<'a> = (&'a [TokenId], &'a [(usize, TokenId)]);

impl Model {
    /// Sum of the cross-entropies of the tokens to restore, in nats, each read from the logits of the position
    /// before it while every token sees every other; and how many there are. Shape `[1]`.
    ///
    /// # Errors
    /// [`ModelError::Unmasked`] for a T5; [`ModelError::TooLong`] beyond the model's positions.
    ///
    /// # Panics
    /// Where a position is 0 or outside of its text, or there are none.
    pub fn masked_loss_sum(
        &self,
        texts: &[MaskedText<'_>],
    ) -> Result<(Tensor<1>, usize), ModelError> {
        let Self::Llama(model) = self else {
            return Err(ModelError::Unmasked);
        };
        let rows: Vec<&[TokenId]> = texts.iter().map(|(tokens, _)| *tokens).collect();
        let batch = Sequences::pad(&rows);
        let (mut positions, mut targets) = (vec![], vec![]);
        for (row, (tokens, restored)) in texts.iter().enumerate() {
            for &(position, token) in *restored {
                assert!(
                    position > 0 && position < tokens.len(),
                    "position {position} of {}",
                    tokens.len()
                );
                positions.push((row * batch.seq + position - 1) as i32);
                targets.push(token);
            }
        }
        let hidden_nd = model.hidden(&batch, false)?;
        let positions = Tensor::from_ints(&positions[..], &self.device());
        let before = kernels::embedding(hidden_nd, positions);
        Ok((model.loss_sum(before, &targets), targets.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelOptions, NextTokenModel, checkpoint};
    use burn::tensor::{Device, activation};

    fn model(size: &str) -> Model {
        let options = ModelOptions::default().with_size(size).unwrap();
        options.resolve(30).unwrap().init(1, &Device::flex())
    }

    fn tokens(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().map(|&id| TokenId(id)).collect()
    }

    #[test]
    fn tokens_are_read_from_the_position_before_them() {
        let model = model("llama:s0.1m");
        let Model::Llama(llama) = &model else {
            unreachable!()
        };
        let (long, short) = (tokens(&[3, 1, 4, 1, 5, 9]), tokens(&[2, 7, 1]));
        let restored = [
            [(1, TokenId(8)), (4, TokenId(6))],
            [(1, TokenId(2)), (2, TokenId(0))],
        ];
        let texts = [
            (&long[..], &restored[0][..]),
            (&short[..], &restored[1][..]),
        ];
        let (loss, count) = model.masked_loss_sum(&texts).unwrap();
        let mut expected = 0.0;
        for (text, restored) in texts {
            let hidden = llama.hidden(&Sequences::pad(&[text]), false).unwrap();
            let log_probs = activation::log_softmax(model.logits(hidden), 1);
            let log_probs = checkpoint::values(log_probs);
            for &(position, token) in restored {
                expected -= log_probs[(position - 1) * 30 + token.index()];
            }
        }
        assert_eq!(count, 4);
        let got = checkpoint::values(loss)[0];
        assert!((got - expected).abs() < 1e-4, "{got} and {expected}");
    }

    #[test]
    fn a_t5_is_refused() {
        let (text, restored) = (tokens(&[3, 1]), [(1, TokenId(2))]);
        let error = model("t5:s0.1m").masked_loss_sum(&[(&text, &restored)]);
        assert!(matches!(error, Err(ModelError::Unmasked)));
    }
}
