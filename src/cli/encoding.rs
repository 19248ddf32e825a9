//! A trained model that represents texts, for the commands that need one.

use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use super::shared::Shared;
use crate::experiment::OpenedModel;
use crate::model::{self, EncoderOptions, Role, Vectors, encode_all};
use crate::tokenizer::Tokenizer;
use crate::types::TokenId;

/// Tokens that are read at a time.
const BATCH_TOKENS: usize = 8192;

/// A sparse or dense model with its tokenizer.
pub(super) struct TextEncoder {
    opened: OpenedModel,
    options: EncoderOptions,
    tokenizer: Tokenizer,
}

impl TextEncoder {
    /// The model in `folder`, which must read both ways if it was trained to.
    pub(super) fn open(folder: &Path, shared: &Shared) -> Result<Self> {
        let device = model::open_device(&shared.device)?;
        let opened = OpenedModel::open(folder, &device)?;
        let options = opened.encoder()?.clone();
        opened.model.check_both_ways(&options)?;
        Ok(Self {
            tokenizer: opened.tokenizer()?,
            opened,
            options,
        })
    }

    /// Hash of what made the model.
    pub(super) fn identity(&self) -> &str {
        &self.opened.identity
    }

    /// Numbers in a vector: terms, or dimensions.
    pub(super) fn width(&self) -> usize {
        self.options.width(&self.opened.model.config())
    }

    /// The vectors of `texts` in their order; `progress` is told how many are done.
    pub(super) fn encode<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        role: Role,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vectors> {
        let (limit, closes) = (self.options.tokens(role), self.options.closes());
        let tokens = texts
            .par_iter()
            .map(|text| self.tokenizer.encode_framed(text.as_ref(), limit, closes));
        let tokens: Vec<Vec<TokenId>> = tokens.collect::<Result<_, _>>()?;
        let (model, options) = (&self.opened.model, &self.options);
        let vectors = encode_all(model, &tokens, options, role, BATCH_TOKENS, progress)?;
        Ok(vectors)
    }
}
