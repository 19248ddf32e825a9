//! Which passages the generated n-grams speak for.
//!
//! After SEAL (Bevilacqua et al. 2022, section 3.2) and its reading in Cai et al. 2025. With c(n) the
//! occurrences of n-gram n, V the tokens of the corpus, s the smoothing and p(n) the model's
//! probability:
//! ```text
//! P0(n) = (c(n) + s) / (V + s)
//! w(n)  = max(0, log p(n) + log(1 - P0(n)) - log P0(n) - log(1 - p(n)))^alpha,   0 if c(n) = 0
//! ```
//! A passage takes occurrences greedily: n-grams by decreasing weight, occurrences by position, each
//! unless it overlaps one taken before. The first occurrence taken of n credits the passage with
//! `w(n) * (1 - beta + beta * |tokens(n) \ C| / |tokens(n)|)`, where tokens(n) is the set of n's
//! tokens and C those of the n-grams credited before (factor 1 while C is empty); further ones only
//! take their positions. The passage scores `(1 - lambda) * (sum of credits) + lambda * (largest w(n)
//! credited)`. Stage 1 does this with the n-grams that occur at most `max_rare_count` times; stage 2
//! again for the best `rescored_passages`, with all n-grams that occur at most `max_count` times.
//!
//! O(occurrences of the rare n-grams), plus the tokens of the rescored passages if there are frequent
//! n-grams; a few milliseconds for a thousand n-grams.

mod greedy;
#[cfg(test)]
mod tests;

use hashbrown::HashMap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::example::{View, ViewWeights};
use crate::index::{Occurrence, SubstringIndex};
use crate::types::{PassageIdx, TokenId};
use greedy::{Credits, Greedy, NgramTable, Place, PrefixTree};

/// Why n-grams cannot be ranked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RankingError {
    /// The weights of the views make no sense.
    #[error("ranking.views: {0}")]
    Views(String),
    /// A number of [`RankingOptions`] makes no sense.
    #[error("ranking.{name} = {found} is out of range: expected {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        found: f64,
        /// What is accepted.
        expected: &'static str,
    },
}

/// The numbers of the formulas in the [module](self).
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RankingOptions {
    /// s: added to the count of every n-gram, above 0; default 5.
    pub smoothing: f64,
    /// alpha: weights are raised to this power, above 0; default 2.
    pub weight_exponent: f64,
    /// beta: share of a weight that is lost where all tokens were credited before, 0 to 1; default 0.8.
    pub repetition_discount: f64,
    /// lambda: share of the single best n-gram in a score, 0 to 1; default 0.
    pub best_ngram_share: f64,
    /// N-grams that occur more often do not nominate passages; default 1,500.
    pub max_rare_count: usize,
    /// Passages that are scored with the frequent n-grams too, the most that are returned; default 1,500.
    pub rescored_passages: usize,
    /// N-grams that occur more often are ignored; default 10,000,000.
    pub max_count: usize,
    /// Which views are generated, and how much the score of each counts; default texts alone.
    #[serde(skip_serializing_if = "ViewWeights::is_default")]
    pub views: ViewWeights,
}

impl Default for RankingOptions {
    fn default() -> Self {
        Self {
            smoothing: 5.0,
            weight_exponent: 2.0,
            repetition_discount: 0.8,
            best_ngram_share: 0.0,
            max_rare_count: 1500,
            rescored_passages: 1500,
            max_count: 10_000_000,
            views: ViewWeights::default(),
        }
    }
}

impl RankingOptions {
    /// Checks every number.
    ///
    /// # Errors
    /// [`RankingError::Option`] for the first that is out of range.
    pub fn validate(&self) -> Result<(), RankingError> {
        let positive = f64::MIN_POSITIVE..=f64::MAX;
        let checks = [
            ("smoothing", self.smoothing, &positive, "a number above 0"),
            (
                "weight_exponent",
                self.weight_exponent,
                &positive,
                "a number above 0",
            ),
            (
                "repetition_discount",
                self.repetition_discount,
                &(0.0..=1.0),
                "0 to 1",
            ),
            (
                "best_ngram_share",
                self.best_ngram_share,
                &(0.0..=1.0),
                "0 to 1",
            ),
        ];
        self.views.check().map_err(RankingError::Views)?;
        match checks
            .into_iter()
            .find(|(_, found, range, _)| !range.contains(found))
        {
            Some((name, found, _, expected)) => Err(RankingError::Option {
                name,
                found,
                expected,
            }),
            None => Ok(()),
        }
    }

    /// w(n) of an n-gram that occurs `count` times among `num_tokens` tokens.
    ///
    /// Probabilities above 1 - 1e-10 count as that, so that a certain n-gram has a finite weight; a
    /// `log_prob` that is not a number weighs nothing.
    pub fn weight(&self, log_prob: f64, count: usize, num_tokens: usize) -> f64 {
        if count == 0 {
            return 0.0;
        }
        let log_prob = if log_prob > MAX_LOG_PROB {
            MAX_LOG_PROB
        } else {
            log_prob
        };
        let log_odds = log_prob - (-log_prob.exp_m1()).ln();
        // 1 - P0 = (V - c) / (V + s), so V + s cancels.
        let others = (num_tokens - count) as f64;
        let log_base_odds = (count as f64 + self.smoothing).ln() - others.ln();
        (log_odds - log_base_odds)
            .max(0.0)
            .powf(self.weight_exponent)
    }
}

/// Passages that one thread scores before it takes others.
const SCORED_TOGETHER: usize = 2048;

/// Passages that one thread rescores before it takes others.
const RESCORED_TOGETHER: usize = 128;

/// The largest log-probability that enters a weight.
const MAX_LOG_PROB: f64 = -1e-10;

/// An n-gram the model generated.
#[derive(Clone, PartialEq, Debug)]
pub struct ScoredNgram {
    /// The tokens.
    pub tokens: Vec<TokenId>,
    /// Natural logarithm of the model's probability of the tokens given the query.
    pub log_prob: f64,
}

/// A passage and why it scored what it did.
#[derive(Clone, PartialEq, Debug)]
pub struct RankedPassage {
    /// The passage.
    pub passage: PassageIdx,
    /// Its score, above 0; larger is better.
    pub score: f64,
    /// The n-grams that gave it.
    pub evidence: Evidence,
}

/// The n-grams that gave a passage its score, in the order they were credited.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Evidence {
    /// The n-grams, by decreasing weight.
    pub ngrams: Vec<NgramEvidence>,
}

/// What one n-gram gave a passage.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct NgramEvidence {
    /// Where it occurs; [`View::Docid`] of an identifier, which stands for an n-gram at position 0.
    pub view: View,
    /// The n-gram.
    pub tokens: Vec<TokenId>,
    /// Where the passage took it: offsets of its first token, increasing.
    pub positions: Vec<u32>,
    /// The model's log-probability.
    pub log_prob: f64,
    /// Occurrences in the corpus, or passages with the identifier.
    pub count: usize,
    /// w(n).
    pub weight: f64,
    /// What the passage was credited with: the weight after the repetition discount.
    pub credit: f64,
}

/// Ranks the passages of an index by generated n-grams.
pub struct NgramRanker<'a, I> {
    index: &'a I,
    options: RankingOptions,
}

/// An n-gram with a positive weight.
struct Weighted<'a, S> {
    tokens: &'a [TokenId],
    log_prob: f64,
    state: S,
    count: usize,
    weight: f64,
}

impl<'a, I: SubstringIndex> NgramRanker<'a, I> {
    /// A ranker with these numbers.
    ///
    /// # Errors
    /// [`RankingError::Option`] if one is out of range.
    pub fn new(index: &'a I, options: &RankingOptions) -> Result<Self, RankingError> {
        options.validate()?;
        Ok(Self {
            index,
            options: *options,
        })
    }

    /// The best `k` passages, best first; equal scores in passage order.
    ///
    /// Of equal n-grams the most probable counts, the empty one never does. Passages without a
    /// credited n-gram are not returned, nor more than `rescored_passages`.
    pub fn rank(&self, ngrams: &[ScoredNgram], k: usize) -> Vec<RankedPassage> {
        let weighted = self.weigh(ngrams);
        let options = &self.options;
        let is_rare = |ngram: &Weighted<'_, I::State>| ngram.count <= options.max_rare_count;
        let table = NgramTable::new(weighted.iter().map(|n| (n.tokens, n.weight)));
        let mut greedy = Greedy::new(&table, options.repetition_discount);

        let mut nominated = self.nominate(&weighted, is_rare);
        let score = |greedy: &mut Greedy<'_>, places: &[Place]| {
            let credits = greedy.credit(places);
            let sum: f64 = credits.list.iter().map(|c| c.credit).sum();
            let best = credits
                .list
                .first()
                .map_or(0.0, |c| weighted[c.ngram as usize].weight);
            (1.0 - options.best_ngram_share) * sum + options.best_ngram_share * best
        };
        let first_scores = |(part, passages): (usize, &[PassageIdx])| {
            let mut greedy = greedy.clone();
            let slots = (part * SCORED_TOGETHER..).zip(passages);
            let scored = slots.map(|(i, &passage)| {
                let score = score(&mut greedy, nominated.places(i));
                (score, passage, i)
            });
            scored.collect::<Vec<_>>()
        };
        let mut best: Vec<(f64, PassageIdx, usize)> = nominated
            .passages
            .par_chunks(SCORED_TOGETHER)
            .enumerate()
            .map(first_scores)
            .collect::<Vec<_>>()
            .concat();
        let order = |a: &(f64, PassageIdx, usize), b: &(f64, PassageIdx, usize)| {
            b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
        };
        if best.len() > options.rescored_passages {
            best.select_nth_unstable_by(options.rescored_passages, order);
            best.truncate(options.rescored_passages);
        }

        let frequent = (0..).zip(&weighted).filter(|(_, n)| !is_rare(n));
        let frequent = PrefixTree::new(frequent.map(|(i, n)| (i, n.tokens)));
        if !frequent.is_empty() {
            // Passages do not depend on each other; each part has buffers of its own.
            let rescore = |part: &[(f64, PassageIdx, usize)]| {
                let mut greedy = greedy.clone();
                let (mut tokens, mut found) = (vec![], vec![]);
                let mut rescored = Nominated::default();
                let mut scores = Vec::with_capacity(part.len());
                for (_, passage, i) in part {
                    self.index.passage_tokens(*passage, &mut tokens);
                    let places = &mut rescored.places;
                    frequent.find(&tokens, nominated.places(*i), &mut found, places);
                    rescored.end(*passage);
                    scores.push(score(&mut greedy, rescored.places(scores.len())));
                }
                (scores, rescored)
            };
            let parts: Vec<(Vec<f64>, Nominated)> =
                best.par_chunks(RESCORED_TOGETHER).map(rescore).collect();
            for (part, (scores, rescored)) in best.chunks_mut(RESCORED_TOGETHER).zip(&parts) {
                for (nth, (old, passage, i)) in part.iter_mut().enumerate() {
                    *old = scores[nth];
                    // Kept for the evidence of the passages that are returned.
                    nominated.places.extend_from_slice(rescored.places(nth));
                    *i = nominated.end(*passage);
                }
            }
        }
        if best.len() > k {
            best.select_nth_unstable_by(k, order);
            best.truncate(k);
        }
        best.sort_unstable_by(order);
        best.into_iter()
            .map(|(score, passage, i)| {
                let credits = greedy.credit(nominated.places(i));
                RankedPassage {
                    passage,
                    score,
                    evidence: evidence(&weighted, credits),
                }
            })
            .collect()
    }

    /// The distinct n-grams with a positive weight and not too many occurrences, by decreasing
    /// weight, then tokens.
    fn weigh<'n>(&self, ngrams: &'n [ScoredNgram]) -> Vec<Weighted<'n, I::State>> {
        let mut sorted: Vec<&ScoredNgram> = ngrams.iter().collect();
        sorted.sort_unstable_by(|a, b| {
            a.tokens
                .cmp(&b.tokens)
                .then(b.log_prob.total_cmp(&a.log_prob))
        });
        sorted.dedup_by(|a, b| a.tokens == b.tokens);
        let num_tokens = self.index.num_tokens();
        let mut weighted = vec![];
        // The states of the prefixes of the previous n-gram: neighbours share most of them.
        let mut prefixes = vec![self.index.root()];
        let mut previous: &[TokenId] = &[];
        for ngram in sorted {
            let tokens = &ngram.tokens[..];
            let shared = tokens
                .iter()
                .zip(previous)
                .take_while(|(a, b)| a == b)
                .count();
            prefixes.truncate(shared + 1);
            for &token in &tokens[prefixes.len() - 1..] {
                let Some(state) = self.index.advance(prefixes[prefixes.len() - 1], token) else {
                    break;
                };
                prefixes.push(state);
            }
            previous = tokens;
            if prefixes.len() != tokens.len() + 1 || tokens.is_empty() {
                continue;
            }
            let state = prefixes[tokens.len()];
            let count = self.index.count(state);
            let weight = self.options.weight(ngram.log_prob, count, num_tokens);
            if weight > 0.0 && count <= self.options.max_count {
                weighted.push(Weighted {
                    tokens,
                    log_prob: ngram.log_prob,
                    state,
                    count,
                    weight,
                });
            }
        }
        // The sort is stable: equal weights stay in the order of their tokens.
        weighted.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        weighted
    }

    /// The occurrences of the rare n-grams, by passage.
    fn nominate(
        &self,
        weighted: &[Weighted<'_, I::State>],
        is_rare: impl Fn(&Weighted<'_, I::State>) -> bool,
    ) -> Nominated {
        let mut slots: HashMap<PassageIdx, u32> = HashMap::new();
        let mut passages = vec![];
        let mut found: Vec<(u32, Place)> = vec![];
        let mut occurrences: Vec<Occurrence> = vec![];
        for (ngram, weighted) in (0..).zip(weighted).filter(|(_, n)| is_rare(n)) {
            self.index
                .occurrences(weighted.state, usize::MAX, &mut occurrences);
            for occurrence in &occurrences {
                let slot = *slots.entry(occurrence.passage).or_insert_with(|| {
                    passages.push(occurrence.passage);
                    passages.len() as u32 - 1
                });
                found.push((
                    slot,
                    Place {
                        ngram,
                        position: occurrence.position,
                    },
                ));
            }
        }
        Nominated::group(passages, &found)
    }
}

/// Passages with their occurrences, each by n-gram, then position.
struct Nominated {
    passages: Vec<PassageIdx>,
    starts: Vec<usize>,
    places: Vec<Place>,
}

impl Default for Nominated {
    fn default() -> Self {
        Self {
            passages: vec![],
            starts: vec![0],
            places: vec![],
        }
    }
}

impl Nominated {
    /// Brings places of the same passage (an index into `passages`) together, keeping their order.
    fn group(passages: Vec<PassageIdx>, found: &[(u32, Place)]) -> Self {
        let mut starts = vec![0; passages.len() + 1];
        for (slot, _) in found {
            starts[*slot as usize + 1] += 1;
        }
        for slot in 0..passages.len() {
            starts[slot + 1] += starts[slot];
        }
        let mut next = starts.clone();
        let mut places = vec![
            Place {
                ngram: 0,
                position: 0
            };
            found.len()
        ];
        for &(slot, place) in found {
            let at = &mut next[slot as usize];
            places[*at] = place;
            *at += 1;
        }
        Self {
            passages,
            starts,
            places,
        }
    }

    /// The places added since the last passage are those of `passage`; returns its slot.
    fn end(&mut self, passage: PassageIdx) -> usize {
        self.passages.push(passage);
        self.starts.push(self.places.len());
        self.passages.len() - 1
    }

    fn places(&self, slot: usize) -> &[Place] {
        &self.places[self.starts[slot]..self.starts[slot + 1]]
    }
}

fn evidence<S>(weighted: &[Weighted<'_, S>], credits: Credits<'_>) -> Evidence {
    let ngrams = credits.list.iter().map(|credit| {
        let ngram = &weighted[credit.ngram as usize];
        NgramEvidence {
            view: View::Ngram,
            tokens: ngram.tokens.to_vec(),
            positions: credits.positions(credit).to_vec(),
            log_prob: ngram.log_prob,
            count: ngram.count,
            weight: ngram.weight,
            credit: credit.credit,
        }
    });
    Evidence {
        ngrams: ngrams.collect(),
    }
}
