//! Generative retrieval: the model writes n-grams of the corpus, the n-grams rank the passages.

use rayon::prelude::*;

use super::ranking::{Evidence, NgramRanker, RankedPassage, RankingOptions, ScoredNgram};
use super::{RetrieveError, Retriever};
use crate::data::example::{Template, View};
use crate::decode::{Constraint, DecodeOptions, Forced, batches, beam_search};
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
    /// What the model is asked for: n-grams of the field that the index looks at.
    pub view: View,
}

/// The answer to one query.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The ranking, best first.
    pub hits: Vec<Hit>,
    /// Why each hit scored what it did, in the order of the hits.
    pub evidence: Vec<Evidence>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

impl<M: NextTokenModel, I: SubstringIndex> Generative<'_, M, I> {
    /// The best `k` passages of each query and what led to them, in the order of the queries.
    ///
    /// Queries with prompts of like length are decoded together, as many as `decode.batch_size` says.
    ///
    /// # Errors
    /// What tokenizer, model and ranking options give; [`RetrieveError::Prefix`].
    pub fn answer(&self, queries: &[Query], k: usize) -> Result<Vec<Answer>, RetrieveError> {
        let prompts = self.prompts(queries)?;
        let prefixes = self.prefixes()?;
        let ranker = NgramRanker::new(self.index, self.ranking)?;
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let mut answers = vec![Answer::default(); queries.len()];
        for batch in batches(&self.model.footprint(), self.decode, &lengths) {
            let together: Vec<&[TokenId]> = batch.iter().map(|&i| &prompts[i][..]).collect();
            let harvests = self.harvest(&together, &prefixes)?;
            let ranked: Vec<Vec<RankedPassage>> = harvests
                .par_iter()
                .map(|ngrams| ranker.rank(ngrams, k))
                .collect();
            for (&i, ranked) in batch.iter().zip(ranked) {
                answers[i] = answer(ranked, self.view, lengths[i]);
            }
        }
        Ok(answers)
    }

    /// Queries that are given to [`answer`](Self::answer) at a time where results are to come
    /// now and then: enough that those of like length find each other.
    pub fn window(&self) -> usize {
        4 * self.decode.queries_per_batch()
    }

    /// The prompts of queries.
    ///
    /// # Errors
    /// What the tokenizer gives.
    pub fn prompts(&self, queries: &[Query]) -> Result<Vec<Vec<TokenId>>, RetrieveError> {
        let prompt = |query: &Query| self.template.prompt(self.tokenizer, self.view, &query.text);
        Ok(queries.iter().map(prompt).collect::<Result<_, _>>()?)
    }

    /// The n-grams that decoding gives for one prompt.
    pub(super) fn ngrams(&self, prompt: &[TokenId]) -> Result<Vec<ScoredNgram>, RetrieveError> {
        let harvests = self.harvest(&[prompt], &self.prefixes()?)?;
        Ok(harvests.into_iter().flatten().collect())
    }

    /// The n-grams that decoding gives for prompts, all decoded together.
    fn harvest(
        &self,
        prompts: &[&[TokenId]],
        prefixes: &[Vec<TokenId>],
    ) -> Result<Vec<Vec<ScoredNgram>>, RetrieveError> {
        if prefixes.is_empty() {
            return self.harvest_under(self.index, prompts);
        }
        let mut harvests = self.harvest_under(&Forced::new(self.index, prefixes), prompts)?;
        for ngrams in &mut harvests {
            ngrams.retain(|n| prefixes.iter().any(|prefix| n.tokens.starts_with(prefix)));
        }
        Ok(harvests)
    }

    fn harvest_under<C: Constraint>(
        &self,
        constraint: &C,
        prompts: &[&[TokenId]],
    ) -> Result<Vec<Vec<ScoredNgram>>, RetrieveError> {
        let decoded = beam_search(self.model, constraint, prompts, self.decode)?;
        let ngrams = decoded.into_iter().map(|decoded| {
            let scored = decoded.harvest.into_iter().map(|h| ScoredNgram {
                log_prob: self.decode.score(h.log_prob, h.tokens.len()),
                tokens: h.tokens,
            });
            scored.collect()
        });
        Ok(ngrams.collect())
    }

    /// The tokens of `decode.prefixes`, encoded like the beginning of a field; other views than that of texts begin freely.
    fn prefixes(&self) -> Result<Vec<Vec<TokenId>>, RetrieveError> {
        if self.view != View::Ngram {
            return Ok(vec![]);
        }
        let encode = |text: &String| {
            let tokens = self.tokenizer.encode(&format!(" {}", text.trim()))?;
            match self.index.find(&tokens) {
                Some(_) => Ok(tokens),
                None => Err(RetrieveError::Prefix { text: text.clone() }),
            }
        };
        self.decode.prefixes.iter().map(encode).collect()
    }
}

fn answer(mut ranked: Vec<RankedPassage>, view: View, prompt_tokens: usize) -> Answer {
    let evidence = ranked.iter_mut().flat_map(|r| &mut r.evidence.ngrams);
    evidence.for_each(|ngram| ngram.view = view);
    let hit = |r: &RankedPassage| Hit {
        passage: r.passage,
        score: Score::new(r.score as f32).expect("credits are sums of finite weights"),
    };
    Answer {
        hits: ranked.iter().map(hit).collect(),
        evidence: ranked.into_iter().map(|r| r.evidence).collect(),
        prompt_tokens,
    }
}

impl<M: NextTokenModel, I: SubstringIndex> Retriever for Generative<'_, M, I> {
    fn tag(&self) -> &str {
        "genret-ngram"
    }

    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Vec<Hit>>, RetrieveError> {
        let answers = self.answer(queries, k)?;
        Ok(answers.into_iter().map(|answer| answer.hits).collect())
    }
}
