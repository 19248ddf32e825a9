//! Several views of a passage, generated apart and ranked together (MINDER, Li et al. 2023): n-grams of its text, its
//! title and its pseudo-queries, and its identifier, each by a prompt of its own; the score of a passage is the weighted sum
//! over the views.
//!
//! Costs a search per view. A passage that is not among the best `ranking.rescored_passages` of a view has nothing of it.
//! An identifier weighs what an n-gram would that occurs once per passage that has it, in a corpus of one token per
//! passage.

use hashbrown::HashMap;

use super::RetrieveError;
use super::docid::{DocidAnswer, DocidRetriever};
use super::generative::{Answer, Generative};
use super::ranking::{Evidence, NgramEvidence, RankingOptions};
use crate::data::example::View;
use crate::index::SubstringIndex;
use crate::model::NextTokenModel;
use crate::types::{Hit, PassageIdx, Query, Score, sort_hits};

/// A retriever by n-grams of some fields, and by identifiers beside them.
pub struct MultiView<'a, M, I> {
    fields: Vec<(Generative<'a, M, I>, f64)>,
    docids: Option<DocidView<'a, M>>,
}

/// Identifiers as one of several views.
pub struct DocidView<'a, M> {
    /// Writes them.
    pub retriever: DocidRetriever<'a, M>,
    /// How much they count.
    pub weight: f64,
    /// Per passage of the identifiers that of the n-gram index, if it is one; the same ordinals where there is no list.
    pub passages: Option<&'a [Option<PassageIdx>]>,
    /// Makes weights of log-probabilities.
    pub ranking: &'a RankingOptions,
}

impl<'a, M: NextTokenModel, I: SubstringIndex> MultiView<'a, M, I> {
    /// A retriever by the n-grams of `fields`, indexes of the same passages with how much each counts, and by `docids`.
    /// Prompts and evidence follow the `view` of each.
    pub fn new(fields: Vec<(Generative<'a, M, I>, f64)>, docids: Option<DocidView<'a, M>>) -> Self {
        Self { fields, docids }
    }

    /// Queries that are given to [`answer`](Self::answer) at a time where results are to come now and then.
    pub fn window(&self) -> usize {
        let fields = self.fields.iter().map(|(view, _)| view.window());
        let docids = self.docids.iter().map(|view| view.retriever.window());
        fields.chain(docids).max().unwrap_or(1)
    }

    /// The best `k` passages of each query and what led to them; the tokens of prompts are those of all views.
    ///
    /// # Errors
    /// As of [`Generative::answer`].
    pub fn answer(&self, queries: &[Query], k: usize) -> Result<Vec<Answer>, RetrieveError> {
        let several = self.fields.len() + usize::from(self.docids.is_some()) > 1;
        let mut sums: Vec<Sum> = queries.iter().map(|_| Sum::default()).collect();
        for (view, weight) in &self.fields {
            let depth = match several {
                true => view.ranking.rescored_passages.max(k),
                false => k,
            };
            for (sum, answer) in sums.iter_mut().zip(view.answer(queries, depth)?) {
                sum.add(answer, *weight);
            }
        }
        if let Some(view) = &self.docids {
            // Whatever the beam has written, for the sum may bring any of it to the front.
            let answers = view.retriever.answer(queries, usize::MAX)?;
            for (sum, answer) in sums.iter_mut().zip(answers) {
                sum.add(view.weigh(answer), view.weight);
            }
        }
        Ok(sums.into_iter().map(|sum| sum.best(k)).collect())
    }
}

impl<M: NextTokenModel> DocidView<'_, M> {
    /// The passages by the weights of their identifiers.
    fn weigh(&self, answer: DocidAnswer) -> Answer {
        let mut weighed = Answer {
            prompt_tokens: answer.prompt_tokens,
            ..Answer::default()
        };
        for (hit, &source) in answer.hits.iter().zip(&answer.sources) {
            let written = &answer.written[source];
            let passage = match self.passages {
                Some(passages) => passages.get(hit.passage.index()).copied().flatten(),
                None => Some(hit.passage),
            };
            let (log_prob, count) = (f64::from(hit.score.get()), written.passages);
            let weight =
                self.ranking
                    .weight(log_prob, count, self.retriever.trie().num_identified());
            let Some(passage) = passage.filter(|_| weight > 0.0) else {
                continue;
            };
            weighed.hits.push(Hit {
                passage,
                score: Score::new(weight as f32).expect("weights are finite"),
            });
            weighed.evidence.push(Evidence {
                ngrams: vec![NgramEvidence {
                    view: View::Docid,
                    tokens: written.tokens.clone(),
                    positions: vec![0],
                    log_prob: written.log_prob,
                    count,
                    weight,
                    credit: weight,
                }],
            });
        }
        weighed
    }
}

/// What the views of one query add up to.
#[derive(Default)]
struct Sum {
    found: HashMap<PassageIdx, (f64, Evidence)>,
    prompt_tokens: usize,
}

impl Sum {
    fn add(&mut self, answer: Answer, weight: f64) {
        self.prompt_tokens += answer.prompt_tokens;
        for (hit, evidence) in answer.hits.iter().zip(answer.evidence) {
            let (score, all) = self.found.entry(hit.passage).or_default();
            *score += weight * f64::from(hit.score.get());
            let ngrams = evidence.ngrams.into_iter().map(|mut ngram| {
                ngram.credit *= weight;
                ngram
            });
            all.ngrams.extend(ngrams);
        }
    }

    fn best(mut self, k: usize) -> Answer {
        let found = self.found.iter();
        let hit = |(&passage, (score, _)): (&PassageIdx, &(f64, Evidence))| Hit {
            passage,
            score: Score::new(*score as f32).expect("a sum of finite scores"),
        };
        let mut hits: Vec<Hit> = found.map(hit).collect();
        sort_hits(&mut hits);
        hits.truncate(k);
        let evidence = hits.iter().map(|hit| self.found.remove(&hit.passage));
        Answer {
            evidence: evidence.map(|of| of.unwrap_or_default().1).collect(),
            prompt_tokens: self.prompt_tokens,
            hits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TokenId;

    fn answer(view: View, hits: &[(u32, f32)]) -> Answer {
        let hit = |&(passage, score): &(u32, f32)| Hit {
            passage: PassageIdx(passage),
            score: Score::new(score).unwrap(),
        };
        let evidence = |&(passage, score): &(u32, f32)| Evidence {
            ngrams: vec![NgramEvidence {
                view,
                tokens: vec![TokenId(passage)],
                positions: vec![0],
                log_prob: -1.0,
                count: 1,
                weight: f64::from(score),
                credit: f64::from(score),
            }],
        };
        Answer {
            hits: hits.iter().map(hit).collect(),
            evidence: hits.iter().map(evidence).collect(),
            prompt_tokens: 7,
        }
    }

    #[test]
    fn views_are_summed() {
        let (body, title) = (
            answer(View::Ngram, &[(3, 8.0), (1, 5.0)]),
            answer(View::Title, &[(1, 4.0), (9, 1.0)]),
        );
        let sum = |weight: f64, k: usize| {
            let mut sum = Sum::default();
            sum.add(body.clone(), 1.0);
            sum.add(title.clone(), weight);
            sum.best(k)
        };
        let both = sum(2.0, 10);
        let scores: Vec<(u32, f32)> = both
            .hits
            .iter()
            .map(|h| (h.passage.0, h.score.get()))
            .collect();
        assert_eq!(scores, [(1, 13.0), (3, 8.0), (9, 2.0)]);
        let of = |nth: usize| -> Vec<(View, f64)> {
            let ngrams = both.evidence[nth].ngrams.iter();
            ngrams.map(|n| (n.view, n.credit)).collect()
        };
        assert_eq!(of(0), [(View::Ngram, 5.0), (View::Title, 8.0)]);
        assert_eq!(of(1), [(View::Ngram, 8.0)]);
        assert_eq!(both.prompt_tokens, 14);
        assert_eq!(sum(0.5, 1).hits[0].passage, PassageIdx(3));
    }
}
