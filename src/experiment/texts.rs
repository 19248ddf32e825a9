//! What the encoders of sparse and dense models read.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Experiment, ExperimentError};
use crate::data::Pair;
use crate::data::masking::{MaskedBlock, Masker, MaskingOptions};
use crate::model::{EncoderOptions, Role};
use crate::types::TokenId;

/// The tokens of all passages, as they were read last.
pub(super) struct Texts {
    encoder: EncoderOptions,
    tokens: Arc<Vec<Vec<TokenId>>>,
}

/// The collection in blocks, for learning masked tokens.
pub(super) struct Blocks {
    pub(super) masker: Masker,
    pub(super) train: Vec<Vec<TokenId>>,
    pub(super) validation: Vec<MaskedBlock>,
}

impl Experiment {
    /// All passages in blocks; the last twentieth is for validation, at most `data.validation_queries` of them.
    pub(super) fn blocks(&self, masking: &MaskingOptions) -> Result<Blocks, ExperimentError> {
        let masker = Masker::new(&self.tokenizer, masking.clone())?;
        let fields = self.passages.iter().flat_map(|p| [&p.title, &p.body]);
        let mut train = masker.blocks(&fields.collect::<Vec<_>>());
        let data = &self.config.data;
        let held = match data.validation.is_empty() {
            true => 0,
            false => data.validation_queries.min(train.len() / 20),
        };
        let held = train.split_off(train.len() - held).into_iter().enumerate();
        let seed = self.config.seed;
        let validation = held.map(|(number, block)| masker.mask(&block, seed, 0, number as u64));
        Ok(Blocks {
            validation: validation.collect(),
            masker,
            train,
        })
    }

    /// The tokens of a query as the encoder reads them.
    pub fn query_tokens(
        &self,
        text: &str,
        encoder: &EncoderOptions,
    ) -> Result<Vec<TokenId>, ExperimentError> {
        let limit = encoder.tokens(Role::Query);
        Ok(self
            .tokenizer
            .encode_framed(text, limit, encoder.closes())?)
    }

    /// The tokens of every passage, title and text, as the encoder reads them.
    pub fn texts(
        &self,
        encoder: &EncoderOptions,
    ) -> Result<Arc<Vec<Vec<TokenId>>>, ExperimentError> {
        let mut held = self.texts.lock().expect("nothing panics while it is held");
        if let Some(texts) = &*held
            && texts.encoder == *encoder
        {
            return Ok(texts.tokens.clone());
        }
        let passages = self.dataset.corpus.passages().par_iter();
        let texts = passages.map(|passage| {
            let (text, limit) = (passage.full_text(), encoder.tokens(Role::Passage));
            self.tokenizer.encode_framed(&text, limit, encoder.closes())
        });
        let tokens = Arc::new(texts.collect::<Result<Vec<_>, _>>()?);
        *held = Some(Texts {
            encoder: encoder.clone(),
            tokens: tokens.clone(),
        });
        Ok(tokens)
    }

    /// Mean tokens of a query, over some training pairs, and of a passage.
    pub fn typical_texts(
        &self,
        encoder: &EncoderOptions,
    ) -> Result<(usize, usize), ExperimentError> {
        let pairs = some_of(&self.pairs(self.config.data.fraction)?);
        let mut queries = 0;
        for (_, pair) in &pairs {
            let text = &self.dataset.queries[pair.query].text;
            queries += self.query_tokens(text, encoder)?.len();
        }
        let texts = self.texts(encoder)?;
        let passages: usize = texts.iter().map(Vec::len).sum();
        Ok((
            queries.div_ceil(pairs.len()),
            passages.div_ceil(texts.len()),
        ))
    }
}

/// Two hundred pairs from all over.
pub(super) fn some_of(pairs: &[(u64, Pair)]) -> Vec<(u64, Pair)> {
    let step = (pairs.len() / 200).max(1);
    pairs.iter().step_by(step).take(200).copied().collect()
}
