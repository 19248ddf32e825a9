//! A trained model that represents texts, for the commands that need one.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;

use super::progress::Progress;
use super::shared::Shared;
use crate::data::Corpus;
use crate::experiment::OpenedModel;
use crate::model::{self, EncoderOptions, Role, Vectors, encode_all};
use crate::retrieve::VectorIndex;
use crate::tokenizer::Tokenizer;
use crate::types::{Hit, Passage, Query, TokenId};

/// Tokens that are read at a time.
const BATCH_TOKENS: usize = 8192;

/// A sparse or dense model with its tokenizer.
pub(super) struct TextEncoder {
    opened: OpenedModel,
    options: EncoderOptions,
    tokenizer: Tokenizer,
}

impl TextEncoder {
    /// The model in `folder`, which must read both ways if it was trained to; with `passage_tokens` it reads so many of
    /// a passage.
    pub(super) fn open(
        folder: &Path,
        passage_tokens: Option<NonZeroUsize>,
        shared: &Shared,
    ) -> Result<Self> {
        let device = model::open_device(&shared.device)?;
        let opened = OpenedModel::open(folder, &device)?;
        let passage_tokens = passage_tokens.map(NonZeroUsize::get);
        let options = opened.encoder()?.with_passage_tokens(passage_tokens);
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

    /// The best `k` passages of `corpus` for each query, exactly; everything is held in memory.
    pub(super) fn rank(
        &self,
        corpus: &Corpus,
        queries: &[Query],
        k: usize,
    ) -> Result<Vec<Vec<Hit>>> {
        let mut bar = Progress::new("representing passages", corpus.len() as u64);
        let texts: Vec<String> = corpus.passages().iter().map(Passage::full_text).collect();
        let passages = self.encode(&texts, Role::Passage, &mut |done| bar.at(done as u64, ""))?;
        bar.finish();
        let texts: Vec<&str> = queries.iter().map(|query| &query.text[..]).collect();
        let queries = self.encode(&texts, Role::Query, &mut |_| ())?;
        let ids = corpus.passages().iter().map(|passage| passage.id.as_str());
        let index = VectorIndex::build(ids, &passages, self.width())?;
        Ok(index.search(&queries, k)?.0)
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
