//! Several views of a passage, generated apart and ranked together (MINDER, Li et al. 2023): n-grams of its text and of
//! its title, each by a prompt of its own; the score of a passage is the weighted sum over the views.
//!
//! Costs a search per view. A passage that is not among the best `ranking.rescored_passages` of a view has nothing of it.

use hashbrown::HashMap;

use super::RetrieveError;
use super::generative::{Answer, Generative};
use super::ranking::Evidence;
use crate::data::example::View;
use crate::index::{Field, SubstringIndex};
use crate::model::NextTokenModel;
use crate::types::{Hit, PassageIdx, Query, Score, sort_hits};

/// A retriever by n-grams of texts, and of titles beside them.
pub struct MultiView<'a, M, I> {
    body: Generative<'a, M, I>,
    titles: Option<Generative<'a, M, I>>,
}

impl<'a, M: NextTokenModel, I: SubstringIndex> MultiView<'a, M, I> {
    /// A retriever as `body`, which also has the n-grams of `titles`, an index of the same passages, generated if there
    /// is one; `ranking.title_weight` says how much they count.
    pub fn new(body: Generative<'a, M, I>, titles: Option<&'a I>) -> Self {
        let titles = titles.map(|index| Generative {
            index,
            view: View::Title,
            ..body
        });
        Self { body, titles }
    }

    /// Queries that are given to [`answer`](Self::answer) at a time where results are to come now and then.
    pub fn window(&self) -> usize {
        self.body.window()
    }

    /// The best `k` passages of each query and what led to them; the tokens of prompts are those of all views.
    ///
    /// # Errors
    /// As of [`Generative::answer`].
    pub fn answer(&self, queries: &[Query], k: usize) -> Result<Vec<Answer>, RetrieveError> {
        let Some(titles) = &self.titles else {
            return self.body.answer(queries, k);
        };
        let deep = self.body.ranking.rescored_passages.max(k);
        let weight = self.body.ranking.title_weight;
        let bodies = self.body.answer(queries, deep)?;
        let titles = titles.answer(queries, deep)?;
        let both = bodies.into_iter().zip(titles);
        Ok(both
            .map(|(body, title)| sum(body, title, weight, k))
            .collect())
    }
}

/// The best `k` passages by the score of `body` and `weight` times that of `title`.
fn sum(body: Answer, title: Answer, weight: f64, k: usize) -> Answer {
    let mut found: HashMap<PassageIdx, (f64, Evidence)> = HashMap::new();
    for (answer, weight, field) in [
        (body.hits.iter().zip(body.evidence), 1.0, Field::Body),
        (title.hits.iter().zip(title.evidence), weight, Field::Title),
    ] {
        for (hit, evidence) in answer {
            let (score, all) = found.entry(hit.passage).or_default();
            *score += weight * f64::from(hit.score.get());
            all.ngrams
                .extend(evidence.ngrams.into_iter().map(|mut ngram| {
                    ngram.credit *= weight;
                    ngram.field = field;
                    ngram
                }));
        }
    }
    let mut hits: Vec<Hit> = found
        .iter()
        .map(|(&passage, (score, _))| Hit {
            passage,
            score: Score::new(*score as f32).expect("a sum of finite scores"),
        })
        .collect();
    sort_hits(&mut hits);
    hits.truncate(k);
    let evidence = hits.iter().map(|hit| found.remove(&hit.passage));
    Answer {
        evidence: evidence.map(|of| of.unwrap_or_default().1).collect(),
        prompt_tokens: body.prompt_tokens + title.prompt_tokens,
        hits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieve::ranking::NgramEvidence;
    use crate::types::TokenId;

    fn answer(hits: &[(u32, f32)]) -> Answer {
        let hit = |&(passage, score): &(u32, f32)| Hit {
            passage: PassageIdx(passage),
            score: Score::new(score).unwrap(),
        };
        let evidence = |&(passage, score): &(u32, f32)| Evidence {
            ngrams: vec![NgramEvidence {
                field: Field::Body,
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
        let (body, title) = (answer(&[(3, 8.0), (1, 5.0)]), answer(&[(1, 4.0), (9, 1.0)]));
        let both = sum(body.clone(), title.clone(), 2.0, 10);
        let scores: Vec<(u32, f32)> = both
            .hits
            .iter()
            .map(|h| (h.passage.0, h.score.get()))
            .collect();
        assert_eq!(scores, [(1, 13.0), (3, 8.0), (9, 2.0)]);
        let of = |nth: usize| -> Vec<(Field, f64)> {
            let ngrams = both.evidence[nth].ngrams.iter();
            ngrams.map(|n| (n.field, n.credit)).collect()
        };
        assert_eq!(of(0), [(Field::Body, 5.0), (Field::Title, 8.0)]);
        assert_eq!(of(1), [(Field::Body, 8.0)]);
        assert_eq!(both.prompt_tokens, 14);
        assert_eq!(sum(body, title, 0.5, 1).hits[0].passage, PassageIdx(3));
    }
}
