//! Queries that a model writes for passages (doc2query, Nogueira et al. 2019), as training data or identifiers.

use hashbrown::HashSet;

use super::RetrieveError;
use crate::data::example::{ExampleError, PassageTokens, Template};
use crate::decode::{
    DecodeOptions, FreeText, Hypothesis, SampleOptions, TextState, batches, beam_search, sample,
};
use crate::model::NextTokenModel;
use crate::tokenizer::Tokenizer;
use crate::types::TokenId;

/// A model that was trained to write queries, and how to use it.
pub struct QueryWriter<'a, M> {
    /// The model.
    pub model: &'a M,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The prompts it was trained with.
    pub template: &'a Template,
    /// How to decode; the beam is as wide as it says, or as the queries wanted.
    pub decode: &'a DecodeOptions,
    /// How to draw; `None` takes the likeliest queries instead.
    pub sampling: Option<SampleOptions>,
}

/// A query that was written for a passage.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenQuery {
    /// Its text.
    pub text: String,
    /// Log-probability of its tokens, end token included.
    pub log_prob: f64,
}

impl<M: NextTokenModel> QueryWriter<'_, M> {
    /// At most `per_passage` different queries for each passage, by decreasing score or in the order drawn.
    ///
    /// Draws depend on the seed, `keys[i]` of passage i and the model, not on the other passages. Texts without a
    /// letter or digit and repetitions are left out. A query that did not end is cut at `max_new_tokens`.
    ///
    /// # Errors
    /// [`ExampleError::NoEnd`], and what tokenizer and model give.
    pub fn write(
        &self,
        passages: &[PassageTokens],
        keys: &[u64],
        per_passage: usize,
    ) -> Result<Vec<Vec<WrittenQuery>>, RetrieveError> {
        let end = self.tokenizer.eos().ok_or(ExampleError::NoEnd)?;
        let never: Vec<TokenId> = [self.tokenizer.bos(), self.tokenizer.pad()]
            .into_iter()
            .flatten()
            .collect();
        let text = FreeText::new(self.tokenizer.vocab_size(), end, &never);
        let prompts: Vec<Vec<TokenId>> = passages
            .iter()
            .map(|p| self.template.passage_prompt(self.tokenizer, p))
            .collect::<Result<_, _>>()?;
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let options = self.options(per_passage);
        let mut written = vec![vec![]; passages.len()];
        for batch in batches(&self.model.footprint(), &options, &lengths) {
            let together: Vec<&[TokenId]> = batch.iter().map(|&i| &prompts[i][..]).collect();
            let found: Vec<Vec<Hypothesis<TextState>>> = match &self.sampling {
                Some(sampling) => {
                    let keys: Vec<u64> = batch.iter().map(|&i| keys[i]).collect();
                    let model = self.model;
                    sample(
                        model,
                        &text,
                        &together,
                        &keys,
                        per_passage,
                        &options,
                        sampling,
                    )?
                }
                None => beam_search(self.model, &text, &together, &options)?
                    .into_iter()
                    // Those that are still being written stand behind those that ended.
                    .map(|d| d.finished.into_iter().chain(d.last).collect())
                    .collect(),
            };
            for (&i, hypotheses) in batch.iter().zip(found) {
                written[i] = self.queries(hypotheses, end, per_passage);
            }
        }
        Ok(written)
    }

    /// Passages given to [`write`](Self::write) at a time where results are to come now and then.
    pub fn window(&self, per_passage: usize) -> usize {
        4 * self.options(per_passage).queries_per_batch()
    }

    fn options(&self, per_passage: usize) -> DecodeOptions {
        let beam_width = match self.sampling {
            Some(_) => per_passage,
            None => self.decode.beam_width.max(per_passage),
        };
        DecodeOptions {
            beam_width,
            groups: 1,
            ..self.decode.clone()
        }
    }

    fn queries(
        &self,
        hypotheses: Vec<Hypothesis<TextState>>,
        end: TokenId,
        limit: usize,
    ) -> Vec<WrittenQuery> {
        let mut seen: HashSet<String> = HashSet::new();
        let queries = hypotheses.into_iter().filter_map(|hypothesis| {
            let tokens = &hypothesis.tokens[..];
            let text = self
                .tokenizer
                .decode(tokens.strip_suffix(&[end]).unwrap_or(tokens));
            // One line and single blanks, as query files have it.
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let fresh = text.chars().any(char::is_alphanumeric) && seen.insert(text.clone());
            fresh.then_some(WrittenQuery {
                text,
                log_prob: hypothesis.log_prob,
            })
        });
        queries.take(limit).collect()
    }
}
