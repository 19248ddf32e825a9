//! Masked next-token prediction (MNTP, BehnamGhader et al. 2024): running text with tokens to be restored.
//!
//! Passages are concatenated and cut into blocks; of every block a fraction of the tokens is selected, and most of
//! these are replaced. A model that reads both ways is asked for each selected token at the position before it, so
//! the first token of a block is never selected. What is drawn depends on (seed, epoch, block) and nothing else.

use rand::RngExt;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::rng;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::types::TokenId;

/// Why texts could not be masked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MaskingError {
    /// A number in the configuration makes no sense.
    #[error("{name} = {value} is out of range: expected {expected}")]
    OutOfRange {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// The text that stands for a masked token is not one token.
    #[error(
        "mask_token = {text:?} is {count} tokens of this tokenizer: expected one; choose a text that is a single token, or the name of a token as the vocabulary writes it"
    )]
    NotOneToken {
        /// The text.
        text: String,
        /// Tokens it is made of.
        count: usize,
    },
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// What is selected and what becomes of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskingOptions {
    /// Tokens in a block.
    pub block: usize,
    /// Part of a block's tokens, the first left out, that is selected; one token at least.
    pub selected: f64,
    /// Part of the selected tokens that becomes the mask token.
    pub masked: f64,
    /// Part of the selected tokens that becomes any token of the vocabulary; the rest stays.
    pub random: f64,
    /// The mask token: a text that is a single token, or the token as the vocabulary writes it.
    pub mask_token: String,
}

impl Default for MaskingOptions {
    fn default() -> Self {
        Self {
            block: 512,
            selected: 0.2,
            masked: 0.8,
            random: 0.1,
            mask_token: "_".to_owned(),
        }
    }
}

/// A block as a model reads it, and what it is to restore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MaskedBlock {
    /// The tokens, some of them replaced.
    pub tokens: Vec<TokenId>,
    /// Positions of the selected tokens, increasing and never 0, with what stood there.
    pub targets: Vec<(usize, TokenId)>,
}

/// Masks blocks of a collection.
#[derive(Clone, PartialEq, Debug)]
pub struct Masker {
    options: MaskingOptions,
    mask: TokenId,
    vocab: usize,
}

impl MaskingOptions {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`MaskingError::OutOfRange`].
    pub fn validate(&self) -> Result<(), MaskingError> {
        let bad = |name, value: &dyn std::fmt::Display, expected| {
            Err(MaskingError::OutOfRange {
                name,
                value: value.to_string(),
                expected,
            })
        };
        if self.block < 2 {
            return bad("block", &self.block, "at least 2");
        }
        for (name, part) in [
            ("selected", self.selected),
            ("masked", self.masked),
            ("random", self.random),
        ] {
            if !(0.0..=1.0).contains(&part) || (name == "selected" && part == 0.0) {
                return bad(name, &part, "a part of 1, and some tokens selected");
            }
        }
        if self.masked + self.random > 1.0 + 1e-9 {
            let sum = self.masked + self.random;
            return bad("masked + random", &sum, "at most 1");
        }
        Ok(())
    }
}

impl Masker {
    /// A masker for the tokens of `tokenizer`.
    ///
    /// # Errors
    /// [`MaskingError::OutOfRange`], [`MaskingError::NotOneToken`], [`MaskingError::Tokenizer`].
    pub fn new(tokenizer: &Tokenizer, options: MaskingOptions) -> Result<Self, MaskingError> {
        options.validate()?;
        let text = &options.mask_token;
        let mask = match tokenizer.encode(text)?[..] {
            [token] => token,
            ref tokens => tokenizer
                .token_to_id(text)
                .ok_or_else(|| MaskingError::NotOneToken {
                    text: text.clone(),
                    count: tokens.len(),
                })?,
        };
        Ok(Self {
            options,
            mask,
            vocab: tokenizer.vocab_size(),
        })
    }

    /// The blocks of concatenated `passages`, in order; what is left over at the end is a shorter block, unless it is a
    /// single token.
    pub fn blocks<P: AsRef<[TokenId]>>(&self, passages: &[P]) -> Vec<Vec<TokenId>> {
        let all: Vec<TokenId> = (passages.iter())
            .flat_map(|passage| passage.as_ref())
            .copied()
            .collect();
        let blocks = all.chunks(self.options.block);
        blocks
            .filter(|block| block.len() > 1)
            .map(<[TokenId]>::to_vec)
            .collect()
    }

    /// Block number `block` with its tokens replaced; equal numbers, equal draws.
    ///
    /// # Panics
    /// With fewer than two tokens.
    pub fn mask(&self, tokens: &[TokenId], seed: u64, epoch: u64, block: u64) -> MaskedBlock {
        let mut rng = rng::stream(seed, "mask", &[epoch, block]);
        let candidates = tokens.len() - 1;
        let count = (self.options.selected * candidates as f64).round() as usize;
        let mut places = sample(&mut rng, candidates, count.clamp(1, candidates)).into_vec();
        places.sort_unstable();
        let mut replaced = tokens.to_vec();
        let mut targets = Vec::with_capacity(places.len());
        for place in places {
            let position = place + 1;
            targets.push((position, tokens[position]));
            let fate: f64 = rng.random();
            if fate < self.options.masked {
                replaced[position] = self.mask;
            } else if fate < self.options.masked + self.options.random {
                replaced[position] = TokenId(rng.random_range(0..self.vocab as u32));
            }
        }
        MaskedBlock {
            tokens: replaced,
            targets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masker(options: MaskingOptions) -> Masker {
        Masker::new(&Tokenizer::bytes(), options).unwrap()
    }

    #[test]
    fn blocks_are_cut_from_all_passages() {
        let options = MaskingOptions {
            block: 4,
            ..MaskingOptions::default()
        };
        let passages: Vec<Vec<TokenId>> =
            [3, 0, 5, 2].map(|n| (0..n).map(TokenId).collect()).into();
        let lengths = |passages: &[Vec<TokenId>]| -> Vec<usize> {
            let blocks = masker(options.clone()).blocks(passages);
            assert_eq!(blocks.concat(), passages.concat()[..blocks.concat().len()]);
            blocks.iter().map(Vec::len).collect()
        };
        assert_eq!(lengths(&passages), [4, 4, 2]);
        // A single token that is left over has nothing before it.
        assert_eq!(lengths(&passages[..3]), [4, 4]);
        assert_eq!(lengths(&[vec![TokenId(1); 5]]), [4]);
        assert!(lengths(&[]).is_empty());
    }

    #[test]
    fn a_fifth_is_selected_and_mostly_masked() {
        let masker = masker(MaskingOptions::default());
        let tokens: Vec<TokenId> = (0..512).map(|t| TokenId(t % 50)).collect();
        let (mut masked, mut kept, mut other) = (0, 0, 0);
        for block in 0..200 {
            let made = masker.mask(&tokens, 1, 0, block);
            assert_eq!(made.targets.len(), 102);
            assert!(made.targets.is_sorted() && made.targets[0].0 > 0);
            let mut restored = made.tokens.clone();
            for &(position, token) in &made.targets {
                match made.tokens[position] {
                    found if found == token => kept += 1,
                    found if found == TokenId(u32::from(b'_')) => masked += 1,
                    _ => other += 1,
                }
                restored[position] = token;
            }
            assert_eq!(restored, tokens);
        }
        let part = |count: usize| count as f64 / (200.0 * 102.0);
        assert!((part(masked) - 0.8).abs() < 0.01, "{masked}");
        assert!((part(kept) - 0.1).abs() < 0.01, "{kept}");
        assert!((part(other) - 0.1).abs() < 0.01, "{other}");
    }

    #[test]
    fn draws_repeat_by_seed_epoch_and_block() {
        let masker = masker(MaskingOptions::default());
        let tokens: Vec<TokenId> = (0..40).map(TokenId).collect();
        let first = masker.mask(&tokens, 1, 2, 3);
        assert_eq!(first, masker.mask(&tokens, 1, 2, 3));
        for (seed, epoch, block) in [(2, 2, 3), (1, 3, 3), (1, 2, 4)] {
            assert_ne!(first, masker.mask(&tokens, seed, epoch, block));
        }
        let two = masker.mask(&tokens[..2], 1, 0, 0);
        assert_eq!(two.targets, [(1, TokenId(1))]);
    }

    #[test]
    fn the_mask_is_one_token() {
        let with = |text: &str| MaskingOptions {
            mask_token: text.to_owned(),
            ..MaskingOptions::default()
        };
        let error = Masker::new(&Tokenizer::bytes(), with("[MASK]")).unwrap_err();
        assert!(
            error.to_string().contains("\"[MASK]\" is 6 tokens"),
            "{error}"
        );
        let empty = Masker::new(&Tokenizer::bytes(), with("")).unwrap_err();
        assert!(matches!(empty, MaskingError::NotOneToken { count: 0, .. }));
        for (text, expected) in [
            ("selected = 0.0", "selected = 0"),
            ("masked = 0.95", "masked + random"),
            ("block = 1", "block = 1"),
            ("random = -0.1", "random = -0.1"),
        ] {
            let options: MaskingOptions = toml::from_str(text).unwrap();
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(toml::from_str::<MaskingOptions>("blocks = 3").is_err());
    }
}
