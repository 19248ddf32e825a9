//! Training examples of what writes: spans and titles for queries, queries for passages.

use rayon::prelude::*;

use super::{Experiment, ExperimentError};
use crate::config::{DocidMixture, Task};
use crate::data::Pair;
use crate::data::example::{Example, ExampleError, ExampleMaker, nested_subset};
use crate::docid::Method;
use crate::train::ExampleSource;

impl Experiment {
    /// That share of the training pairs, with their place among all pairs, by which their spans are drawn: a pair has the
    /// same spans in every fraction.
    pub(super) fn pairs(&self, fraction: f64) -> Result<Vec<(u64, Pair)>, ExperimentError> {
        let split = &self.config.data.train;
        let pairs = self.dataset.pairs(split)?;
        if pairs.is_empty() {
            return Err(ExperimentError::EmptySplit {
                split: split.clone(),
            });
        }
        // The subset depends on the configuration's seed alone, so that all models of a fraction
        // see the same pairs.
        let chosen = nested_subset(self.config.seed, pairs.len(), fraction);
        Ok(chosen.into_iter().map(|i| (i as u64, pairs[i])).collect())
    }

    /// What a model of `task` learns to write, of identifiers those of `method`.
    pub(super) fn source<'a>(
        &'a self,
        pairs: &[(u64, Pair)],
        task: Task,
        method: Method,
        seed: u64,
    ) -> Result<Box<dyn ExampleSource + 'a>, ExperimentError> {
        let objective = &self.config.objective;
        if task == Task::Docids {
            let mixture = objective.docids;
            return Ok(Box::new(self.docid_source(pairs, method, mixture, seed)?));
        }
        let maker = ExampleMaker::new(
            &self.tokenizer,
            objective.template.clone(),
            objective.span.clone(),
        )?;
        let titles = pairs
            .iter()
            .filter(|(_, p)| objective.titles && !self.passages[p.passage.index()].title.is_empty())
            .count();
        let len = match task {
            Task::Ngrams => pairs.len() * objective.span.draws + titles,
            _ => pairs.len(),
        };
        Ok(Box::new(PairSource {
            experiment: self,
            len,
            pairs: pairs.to_vec(),
            maker,
            task,
            seed,
        }))
    }

    /// What the loss is measured on during training: of identifiers, those of queries alone.
    pub(super) fn validation_source<'a>(
        &'a self,
        pairs: &[(u64, Pair)],
        task: Task,
        method: Method,
    ) -> Result<Box<dyn ExampleSource + 'a>, ExperimentError> {
        let seed = self.config.seed;
        if task == Task::Docids {
            let queries = DocidMixture {
                queries: 1.0,
                passages: 0.0,
                pseudo: 0.0,
            };
            return Ok(Box::new(self.docid_source(pairs, method, queries, seed)?));
        }
        self.source(pairs, task, method, seed)
    }

    /// The pairs whose loss is measured during training, by the same rule.
    pub(super) fn validation_pairs(&self) -> Result<Vec<(u64, Pair)>, ExperimentError> {
        let data = &self.config.data;
        if data.validation.is_empty() {
            return Ok(vec![]);
        }
        let pairs = self.dataset.pairs(&data.validation)?;
        let share = (data.validation_queries as f64 / pairs.len().max(1) as f64).min(1.0);
        let chosen = nested_subset(self.config.seed, pairs.len(), share);
        Ok(chosen.into_iter().map(|i| (i as u64, pairs[i])).collect())
    }
}

/// Training examples of (query, passage) pairs.
struct PairSource<'a> {
    experiment: &'a Experiment,
    pairs: Vec<(u64, Pair)>,
    len: usize,
    maker: ExampleMaker<'a>,
    task: Task,
    seed: u64,
}

impl ExampleSource for PairSource<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<Example>, ExampleError> {
        let experiment = self.experiment;
        let corpus = &experiment.dataset.corpus;
        let of_pair = |(place, pair): &(u64, Pair)| {
            let query = &experiment.dataset.queries[pair.query].text;
            let tokens = &experiment.passages[pair.passage.index()];
            if self.task == Task::Queries {
                return Ok(vec![self.maker.query(query, tokens)?]);
            }
            let passage = corpus.passage(pair.passage);
            let mut examples = self
                .maker
                .ngram(query, passage, tokens, self.seed, epoch, *place)?;
            if experiment.config.objective.titles {
                examples.extend(self.maker.title(query, tokens)?);
            }
            Ok(examples)
        };
        let examples: Result<Vec<Vec<Example>>, ExampleError> =
            self.pairs.par_iter().map(of_pair).collect();
        Ok(examples?.into_iter().flatten().collect())
    }
}
