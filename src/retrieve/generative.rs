//! Generative retrieval: the model writes n-grams of the corpus, the n-grams rank the passages.

use super::ranking::{Evidence, NgramRanker, RankingOptions, ScoredNgram};
use super::{RetrieveError, Retriever};
use crate::data::example::{Template, View};
use crate::decode::{DecodeOptions, beam_search};
use crate::index::SubstringIndex;
use crate::model::NextTokenModel;
use crate::tokenizer::Tokenizer;
use crate::types::{Hit, Query, Score, TokenId};

/// A model, an index and how to use them.
pub struct Generative<'a, M, I> {
    /// Proposes tokens.
    pub model: &'a M,
    /// Disposes.
    pub index: &'a I,
    /// The tokenizer of both.
    pub tokenizer: &'a Tokenizer,
    /// The prompts the model was trained with.
    pub template: &'a Template,
    /// How to decode.
    pub decode: &'a DecodeOptions,
    /// How n-grams become a ranking.
    pub ranking: &'a RankingOptions,
}

/// The answer to one query.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The ranking, best first.
    pub hits: Vec<Hit>,
    /// Why each hit scored what it did, in the order of the hits.
    pub evidence: Vec<Evidence>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

impl<M: NextTokenModel, I: SubstringIndex> Generative<'_, M, I> {
    /// The best `k` passages of each query and what led to them. All queries are decoded together.
    ///
    /// # Errors
    /// What tokenizer, model and ranking options give.
    pub fn answer(&self, queries: &[Query], k: usize) -> Result<Vec<Answer>, RetrieveError> {
        let prompts = queries
            .iter()
            .map(|q| self.template.prompt(self.tokenizer, View::Ngram, &q.text))
            .collect::<Result<Vec<_>, _>>()?;
        let borrowed: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
        let decoded = beam_search(self.model, self.index, &borrowed, self.decode)?;
        let ranker = NgramRanker::new(self.index, self.ranking)?;
        let answer = |(decoded, prompt): (crate::decode::Decoded<I::State>, &Vec<TokenId>)| {
            let ngrams: Vec<ScoredNgram> = decoded
                .harvest
                .into_iter()
                .map(|h| ScoredNgram {
                    tokens: h.tokens,
                    log_prob: h.log_prob,
                })
                .collect();
            let ranked = ranker.rank(&ngrams, k);
            let hit = |score, passage| Hit {
                passage,
                score: Score::new(score as f32).expect("credits are sums of finite weights"),
            };
            Answer {
                hits: ranked.iter().map(|r| hit(r.score, r.passage)).collect(),
                evidence: ranked.into_iter().map(|r| r.evidence).collect(),
                prompt_tokens: prompt.len(),
            }
        };
        Ok(decoded.into_iter().zip(&prompts).map(answer).collect())
    }
}

impl<M: NextTokenModel, I: SubstringIndex> Retriever for Generative<'_, M, I> {
    fn tag(&self) -> &str {
        "genret-ngram"
    }

    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Vec<Hit>>, RetrieveError> {
        let mut hits = Vec::with_capacity(queries.len());
        for batch in queries.chunks(self.decode.batch_size) {
            hits.extend(self.answer(batch, k)?.into_iter().map(|answer| answer.hits));
        }
        Ok(hits)
    }
}
