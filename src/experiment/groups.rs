//! Groups of what learns representations, or to rank identifiers: a query, a relevant passage, hard negatives, a teacher's scores.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use rand::RngExt;
use rayon::prelude::*;

use super::{Experiment, ExperimentError};
use crate::data::Pair;
use crate::data::example::{ExampleError, Group, View};
use crate::data::trec::Run;
use crate::docid::Method;
use crate::model::EncoderOptions;
use crate::retrieve::RetrieveError;
use crate::retrieve::bm25::Bm25;
use crate::rng;
use crate::train::{ContrastOptions, GroupSource};
use crate::types::{PassageIdx, TokenId};

/// Passages that may be drawn as negatives of a pair, with the teacher's scores if there is one.
struct Candidates {
    relevant: Vec<PassageIdx>,
    positive: f32,
    negatives: Vec<(PassageIdx, f32)>,
}

/// What groups hold.
pub(super) struct Grouping<'a> {
    /// Negatives and teacher.
    pub(super) contrast: &'a ContrastOptions,
    /// Whether a teacher's scores are learned.
    pub(super) distilled: bool,
    /// What the model reads.
    pub(super) reads: Reads<'a>,
}

/// What a model reads of queries and passages.
pub(super) enum Reads<'a> {
    /// Their texts.
    Texts(&'a EncoderOptions),
    /// Prompts of queries, and the identifiers of passages.
    Docids(Method),
}

/// Groups of training pairs.
pub(super) struct PairGroups<'a> {
    experiment: &'a Experiment,
    texts: Arc<Vec<Vec<TokenId>>>,
    pairs: Vec<(u64, Pair)>,
    queries: Vec<Vec<TokenId>>,
    candidates: Vec<Candidates>,
    per_query: usize,
    distilled: bool,
    /// Scores passages that are drawn from the whole corpus, where it is the teacher.
    bm25: Option<&'a Bm25>,
    seed: u64,
}

/// Scores of a TREC run by query and passage.
struct Scores {
    path: PathBuf,
    by_query: HashMap<String, HashMap<PassageIdx, f32>>,
}

impl Experiment {
    /// Groups of `pairs`, which are judged in `split`; with `known` without the queries that a teacher's file lacks.
    pub(super) fn groups<'a>(
        &'a self,
        pairs: &[(u64, Pair)],
        split: &str,
        grouping: &Grouping<'_>,
        seed: u64,
        known: bool,
    ) -> Result<PairGroups<'a>, ExperimentError> {
        let &Grouping {
            contrast,
            distilled,
            ..
        } = grouping;
        let qrels = self.dataset.qrels(split)?;
        let negatives = contrast.negatives_file().map(|path| self.scores(path));
        let negatives = negatives.transpose()?;
        let teacher = contrast.teacher_file().filter(|_| distilled);
        let teacher = teacher.map(|path| self.scores(path)).transpose()?;
        let mut pairs = pairs.to_vec();
        if let Some(teacher) = teacher.as_ref().filter(|_| known) {
            pairs.retain(|(_, pair)| {
                let query = &self.dataset.queries[pair.query].id;
                teacher.by_query.contains_key(query.as_str())
            });
        }
        let corpus = self.dataset.corpus.len();
        let scored = distilled && teacher.is_none();
        let bm25 = match scored || contrast.negatives == ContrastOptions::BM25 {
            true => Some(self.bm25()?),
            false => None,
        };
        let of_pair = |(_, pair): &(u64, Pair)| -> Result<Candidates, ExperimentError> {
            let query = &self.dataset.queries[pair.query];
            let relevant: Vec<PassageIdx> = qrels
                .relevant(query.id.as_str())
                .filter_map(|doc| self.dataset.corpus.find(doc.as_str()))
                .collect();
            let words = bm25.map(|bm25| (bm25, bm25.query(&query.text)));
            let mut found: Vec<(PassageIdx, f32)> = match (&negatives, &words) {
                (Some(run), _) => run.ranking(query.id.as_str()),
                (None, Some((bm25, words))) if contrast.negatives == ContrastOptions::BM25 => {
                    let hits = bm25.index().search(words, contrast.depth + relevant.len());
                    let hits = hits.map_err(RetrieveError::from)?.into_iter();
                    hits.map(|hit| (hit.passage, hit.score.get())).collect()
                }
                _ => vec![],
            };
            if contrast.per_query + relevant.len() > corpus {
                return Err(ExperimentError::FewPassages {
                    wanted: contrast.per_query,
                    corpus,
                });
            }
            found.retain(|(passage, _)| !relevant.contains(passage));
            found.truncate(contrast.depth);
            let mut positive = 0.0;
            if let Some(teacher) = &teacher {
                // Negatives without a score cannot be learned from.
                found.retain_mut(|(passage, score)| {
                    let known = teacher.score(query.id.as_str(), *passage);
                    *score = known.unwrap_or(*score);
                    known.is_some()
                });
                positive = teacher
                    .score(query.id.as_str(), pair.passage)
                    .ok_or_else(|| self.unscored(teacher, pair, "its relevant passage"))?;
                if found.len() < contrast.per_query {
                    return Err(self.unscored(teacher, pair, "enough negatives"));
                }
            } else if let Some((bm25, words)) = words.filter(|_| scored) {
                let score = |passage| {
                    let score = bm25.index().score(&words, passage);
                    score.map_err(RetrieveError::from)
                };
                for (passage, known) in found.iter_mut() {
                    *known = score(*passage)?;
                }
                positive = score(pair.passage)?;
            }
            Ok(Candidates {
                relevant,
                positive,
                negatives: found,
            })
        };
        let candidates = pairs
            .par_iter()
            .map(of_pair)
            .collect::<Result<Vec<_>, _>>()?;
        let queries = pairs.par_iter().map(|(_, pair)| {
            let text = &self.dataset.queries[pair.query].text;
            match grouping.reads {
                Reads::Texts(encoder) => self.query_tokens(text, encoder),
                Reads::Docids(_) => {
                    let template = self.template();
                    Ok(template.prompt(&self.tokenizer, View::Docid, text)?)
                }
            }
        });
        let queries = queries.collect::<Result<Vec<_>, _>>()?;
        Ok(PairGroups {
            experiment: self,
            texts: match grouping.reads {
                Reads::Texts(encoder) => self.texts(encoder)?,
                Reads::Docids(method) => self.docids(method).ids.clone(),
            },
            pairs,
            queries,
            candidates,
            per_query: contrast.per_query,
            distilled,
            bm25: bm25.filter(|_| scored),
            seed,
        })
    }

    fn unscored(&self, teacher: &Scores, pair: &Pair, what: &'static str) -> ExperimentError {
        ExperimentError::Unscored {
            path: teacher.path.clone(),
            query: self.dataset.queries[pair.query].id.to_string(),
            what,
        }
    }

    /// The scores of a run whose passages are in the corpus.
    fn scores(&self, path: &Path) -> Result<Scores, ExperimentError> {
        let run = Run::load(path)?;
        let mut by_query = HashMap::new();
        for (query, lines) in run.queries() {
            let scores = lines.iter().filter_map(|line| {
                let passage = self.dataset.corpus.find(line.doc.as_str())?;
                Some((passage, line.score as f32))
            });
            by_query.insert(query.to_string(), scores.collect());
        }
        Ok(Scores {
            path: path.into(),
            by_query,
        })
    }
}

impl Scores {
    fn score(&self, query: &str, passage: PassageIdx) -> Option<f32> {
        self.by_query.get(query)?.get(&passage).copied()
    }

    /// The passages of a query, best first, equal scores in passage order.
    fn ranking(&self, query: &str) -> Vec<(PassageIdx, f32)> {
        let Some(scores) = self.by_query.get(query) else {
            return vec![];
        };
        let mut ranking: Vec<(PassageIdx, f32)> = scores.iter().map(|(&p, &s)| (p, s)).collect();
        ranking.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranking
    }
}

impl PairGroups<'_> {
    fn group(&self, place: usize, epoch: u64) -> Group {
        let (number, pair) = self.pairs[place];
        let candidates = &self.candidates[place];
        let mut stream = rng::stream(self.seed, "negatives", &[epoch, number]);
        let mut passages = vec![pair.passage];
        let mut teacher = vec![candidates.positive];
        let wanted = self.per_query.min(candidates.negatives.len());
        let mut places: Vec<usize> = (0..candidates.negatives.len()).collect();
        for drawn in 0..wanted {
            let other = stream.random_range(drawn..places.len());
            places.swap(drawn, other);
            let (passage, score) = candidates.negatives[places[drawn]];
            passages.push(passage);
            teacher.push(score);
        }
        // Where the run has too few: any others; there are enough.
        let corpus = self.experiment.dataset.corpus.len();
        let mut taken: HashSet<PassageIdx> = passages.iter().copied().collect();
        taken.extend(&candidates.relevant);
        while passages.len() <= self.per_query {
            let passage = PassageIdx(stream.random_range(0..corpus as u32));
            if taken.insert(passage) {
                passages.push(passage);
            }
        }
        let query = &self.experiment.dataset.queries[pair.query].text;
        for &passage in &passages[teacher.len()..] {
            teacher.push(self.bm25.map_or(0.0, |bm25| bm25.score(query, passage)));
        }
        Group {
            query: self.queries[place].clone(),
            passages,
            relevant: candidates.relevant.clone(),
            teacher: if self.distilled { teacher } else { vec![] },
        }
    }
}

impl GroupSource for PairGroups<'_> {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<Group>, ExampleError> {
        let places = (0..self.pairs.len()).into_par_iter();
        Ok(places.map(|place| self.group(place, epoch)).collect())
    }

    fn passage(&self, passage: PassageIdx) -> &[TokenId] {
        &self.texts[passage.index()]
    }
}
