//! What the encoders of sparse and dense models read.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Experiment, ExperimentError};
use crate::model::{EncoderOptions, Role};
use crate::types::TokenId;

/// The tokens of all passages, as they were read last.
pub(super) struct Texts {
    encoder: EncoderOptions,
    tokens: Arc<Vec<Vec<TokenId>>>,
}

impl Experiment {
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
        let pairs = self.pairs(self.config.data.fraction)?;
        let some = &pairs[..pairs.len().min(200)];
        let mut queries = 0;
        for (_, pair) in some {
            let text = &self.dataset.queries[pair.query].text;
            queries += self.query_tokens(text, encoder)?.len();
        }
        let texts = self.texts(encoder)?;
        let passages: usize = texts.iter().map(Vec::len).sum();
        Ok((queries.div_ceil(some.len()), passages.div_ceil(texts.len())))
    }
}
