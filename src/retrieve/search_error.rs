//! Search error: what a beam loses against scoring every n-gram of the corpus, apart from what the model
//! gets wrong.
//!
//! The exhaustive ranking credits passages with all n-grams of up to `max_new_tokens` tokens; whatever differs from it
//! in a beam's ranking is the search's doing. Stahlberg and Byrne 2019 make the distinction for translation.

use serde::{Deserialize, Serialize};

use super::RetrieveError;
use super::generative::Generative;
use super::ranking::{NgramRanker, RankedPassage, ScoredNgram};
use crate::decode::{DecodeOptions, every_ngram};
use crate::index::SubstringIndex;
use crate::model::NextTokenModel;
use crate::types::{Query, TokenId};

/// Search error of one beam width over some queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchError {
    /// Beam width.
    pub beam: usize,
    /// Queries that were compared: those for which the exhaustive ranking has a passage.
    pub queries: usize,
    /// Share of the queries whose best passage the beam does not rank first.
    pub lost_first: f64,
    /// Share of the queries whose best passage the beam does not rank at all, or below `k`.
    pub lost_passage: f64,
    /// Share of the queries whose n-gram of largest weight the beam did not write.
    pub lost_ngram: f64,
    /// Mean of how much likelier, in nats, the likeliest n-gram of `max_new_tokens` tokens is than the likeliest that
    /// the beam wrote (of those for which it wrote one).
    pub regret_log_prob: f64,
    /// Its largest value.
    pub regret_log_prob_max: f64,
    /// Mean of the exhaustive score of the best passage less that of the passage which the beam ranks first.
    pub regret_score: f64,
    /// The same as a share of the best passage's score.
    pub regret_score_share: f64,
}

/// What one query lost.
struct Loss {
    first: bool,
    passage: bool,
    ngram: bool,
    log_prob: Option<f64>,
    score: f64,
    score_share: f64,
}

impl<M: NextTokenModel, I: SubstringIndex> Generative<'_, M, I> {
    /// Search error of each beam width, with the other options as they are, in the ranking's first `k` passages;
    /// `told` hears after every query how many are done.
    ///
    /// Scores every n-gram of the corpus for every query: for small corpora.
    ///
    /// # Errors
    /// As for [`answer`](Self::answer).
    pub fn search_error(
        &self,
        queries: &[Query],
        beams: &[usize],
        k: usize,
        told: &mut dyn FnMut(usize),
    ) -> Result<Vec<SearchError>, RetrieveError> {
        let ranker = NgramRanker::new(self.index, self.ranking)?;
        let prompts = self.prompts(queries)?;
        let mut losses: Vec<Vec<Loss>> = beams.iter().map(|_| vec![]).collect();
        for (done, prompt) in prompts.iter().enumerate() {
            let all = self.every_ngram(prompt)?;
            let best = ranker.rank(&all, usize::MAX);
            if let Some(first) = best.first() {
                for (&beam, losses) in beams.iter().zip(&mut losses) {
                    let decode = DecodeOptions {
                        beam_width: beam,
                        groups: 1,
                        ..self.decode.clone()
                    };
                    let narrow = Generative {
                        decode: &decode,
                        ..*self
                    };
                    let found = narrow.ngrams(prompt)?;
                    let ranked = ranker.rank(&found, k);
                    losses.push(self.loss(&all, &best, first, &found, &ranked));
                }
            }
            told(done + 1);
        }
        let errors = beams.iter().zip(&losses);
        Ok(errors
            .map(|(&beam, losses)| mean_loss(beam, losses))
            .collect())
    }

    fn every_ngram(&self, prompt: &[TokenId]) -> Result<Vec<ScoredNgram>, RetrieveError> {
        let options = self.decode;
        let all = every_ngram(
            self.model,
            self.index,
            prompt,
            options.max_new_tokens,
            options.normalise,
        )?;
        let counted = all
            .into_iter()
            .filter(|h| h.tokens.len() >= options.min_new_tokens);
        Ok(counted
            .map(|h| ScoredNgram {
                log_prob: options.score(h.log_prob, h.tokens.len()),
                tokens: h.tokens,
            })
            .collect())
    }

    fn loss(
        &self,
        all: &[ScoredNgram],
        best: &[RankedPassage],
        first: &RankedPassage,
        found: &[ScoredNgram],
        ranked: &[RankedPassage],
    ) -> Loss {
        let length = self.decode.max_new_tokens;
        let likeliest = |ngrams: &[ScoredNgram]| {
            let full = ngrams.iter().filter(|n| n.tokens.len() == length);
            full.map(|n| n.log_prob).max_by(f64::total_cmp)
        };
        let log_prob = likeliest(all)
            .zip(likeliest(found))
            // Rounding makes a beam's own value differ in the last digits.
            .map(|(all, found)| (all - found).max(0.0));
        // Evidence is in the order of weights, and the n-gram of largest weight credits some passage in full.
        let heaviest = best
            .iter()
            .filter_map(|passage| passage.evidence.ngrams.first())
            .max_by(|a, b| {
                let order = a.weight.total_cmp(&b.weight);
                order.then_with(|| b.tokens.cmp(&a.tokens))
            });
        let ngram = heaviest.is_some_and(|h| found.iter().all(|n| n.tokens != h.tokens));
        let score = match ranked.first() {
            Some(chosen) => best
                .iter()
                .find(|passage| passage.passage == chosen.passage)
                .map_or(0.0, |passage| passage.score),
            None => 0.0,
        };
        Loss {
            first: ranked.first().is_none_or(|r| r.passage != first.passage),
            passage: ranked.iter().all(|r| r.passage != first.passage),
            ngram,
            log_prob,
            score: first.score - score,
            score_share: 1.0 - score / first.score,
        }
    }
}

fn mean_loss(beam: usize, losses: &[Loss]) -> SearchError {
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) = values.fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
        if count == 0.0 { 0.0 } else { sum / count }
    };
    let share = |lost: fn(&Loss) -> bool| mean(&mut losses.iter().map(|l| f64::from(lost(l))));
    SearchError {
        beam,
        queries: losses.len(),
        lost_first: share(|l| l.first),
        lost_passage: share(|l| l.passage),
        lost_ngram: share(|l| l.ngram),
        regret_log_prob: mean(&mut losses.iter().filter_map(|l| l.log_prob)),
        regret_log_prob_max: losses.iter().filter_map(|l| l.log_prob).fold(0.0, f64::max),
        regret_score: mean(&mut losses.iter().map(|l| l.score)),
        regret_score_share: mean(&mut losses.iter().map(|l| l.score_share)),
    }
}
