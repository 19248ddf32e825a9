//! Identifiers of an experiment's passages: made once per method, learned from three kinds of examples.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Experiment, ExperimentError, ModelSpec, Start, TrainedModel};
use crate::config::DocidMixture;
use crate::data::example::{Example, ExampleError, ExampleMaker, View, nested_subset};
use crate::data::{Corpus, Pair};
use crate::decode::DecodeOptions;
use crate::docid::{self, DocidOptions, Docids, Method};
use crate::index::{NgramIndex, Trie};
use crate::model::Model;
use crate::retrieve::docid::DocidRetriever;
use crate::retrieve::generative::Generative;
use crate::retrieve::multi_view::{DocidView, MultiView};
use crate::tokenizer::Tokenizer;
use crate::train::ExampleSource;
use crate::types::{Hit, Query, TokenId};

/// Identifiers that a model writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocidSpec {
    /// How they are made.
    pub options: DocidOptions,
    /// Tells them from others.
    pub identity: u64,
}

/// Identifiers by one method, as tokens of the experiment's models.
pub struct DocidSet {
    /// Their file.
    pub docids: Docids,
    /// What may be written.
    pub trie: Trie,
    /// Of every passage.
    pub ids: Arc<Vec<Vec<TokenId>>>,
    pub(super) spec: DocidSpec,
    pub(super) vocab_size: usize,
}

impl DocidSet {
    /// Opens the file of `options` below `out`, making it if it is not there.
    pub(super) fn open(
        out: &Path,
        options: &DocidOptions,
        corpus: &Corpus,
        tokenizer: &Tokenizer,
        told: &mut dyn FnMut(&str),
    ) -> Result<Self, ExperimentError> {
        let path = out.join(format!("docids-{}.genret", options.method.name()));
        if !path.exists() {
            told(&format!(
                "identifiers of passages: {}",
                options.method.name()
            ));
            docid::make(corpus, options, Some(tokenizer), told)?.write(&path, corpus)?;
        }
        let docids = Docids::open(&path)?;
        docids.check_corpus(corpus)?;
        if docids.notes().options != *options {
            return Err(ExperimentError::OtherSettings {
                path,
                what: "[docids]",
            });
        }
        let trie = docids.trie(tokenizer)?;
        let ids: Option<Vec<Vec<TokenId>>> = trie.ids().into_iter().collect();
        Ok(Self {
            ids: Arc::new(ids.ok_or_else(|| ExperimentError::Damaged {
                path,
                message: "a passage has no identifier (any more)".into(),
            })?),
            trie,
            spec: DocidSpec {
                options: options.clone(),
                identity: docids.notes().identity,
            },
            vocab_size: docids.vocab_size(tokenizer),
            docids,
        })
    }
}

impl DocidSet {
    /// Whether the model that training starts from writes these identifiers already.
    pub(super) fn is_learned_by(&self, start: Option<&Start>) -> Result<bool, ExperimentError> {
        let learned = start.map(Start::docids).transpose()?.flatten();
        Ok(learned.is_some_and(|spec| spec.identity == self.spec.identity))
    }
}

impl Experiment {
    /// The identifiers of `method`.
    ///
    /// # Panics
    /// If no model of the configuration writes them ([`Config::docid_methods`](crate::config::Config::docid_methods)).
    pub fn docids(&self, method: Method) -> &DocidSet {
        let set = self.docids.get(&method);
        set.expect("the methods of the configuration were opened")
    }

    /// Tokens that a generative model of `spec` writes at most, in each view that it is ranked by: identifiers end where
    /// they end.
    pub fn max_new_tokens(&self, spec: &ModelSpec) -> Vec<usize> {
        let longest = |view| match (view, &spec.docids) {
            (View::Docid, Some(docids)) => self.docids(docids.options.method).trie.longest(),
            _ => self.config.decode.max_new_tokens,
        };
        let ranked = self.config.ranked_by(spec.objective.learned());
        ranked.iter().map(|(view, _)| longest(view)).collect()
    }

    /// The rankings that a generative model gives for queries, `evaluate.depth` deep, and the tokens of their prompts
    /// (of all views together).
    ///
    /// # Errors
    /// What tokenizer, model and ranking give.
    pub fn answer(
        &self,
        trained: &TrainedModel,
        decode: &DecodeOptions,
        queries: &[Query],
    ) -> Result<Vec<(Vec<Hit>, usize)>, ExperimentError> {
        let (depth, tokenizer) = (self.config.evaluate.depth, &self.tokenizer);
        let (model, template) = (&trained.model, self.template());
        let spec = &trained.record.spec;
        let docids = spec.docids.as_ref().map(|docids| {
            let trie = &self.docids(docids.options.method).trie;
            DocidRetriever::new(model, trie, tokenizer, template, decode)
        });
        let learned = spec.objective.learned();
        let ranked = self.config.ranked_by(learned);
        if let (Some(docids), false) = (&docids, learned.of_texts() > 0.0) {
            let answers = docids.answer(queries, depth)?;
            return Ok(answers
                .into_iter()
                .map(|a| (a.hits, a.prompt_tokens))
                .collect());
        }
        let fields = ranked.fields();
        let fields: Vec<_> = fields
            .map(|(view, field, weight)| (view, self.index().with_field(field), weight))
            .collect();
        let views = fields.iter().map(|(view, index, weight)| {
            let generative = Generative {
                index,
                view: *view,
                ..self.generative(trained, decode)
            };
            (generative, *weight)
        });
        let docids = docids
            .filter(|_| ranked.docid > 0.0)
            .map(|retriever| DocidView {
                retriever,
                weight: ranked.docid,
                passages: None,
                ranking: &self.config.ranking,
            });
        let retriever = MultiView::new(views.collect(), docids);
        let answers = retriever.answer(queries, depth)?;
        Ok(answers
            .into_iter()
            .map(|a| (a.hits, a.prompt_tokens))
            .collect())
    }

    /// A model of n-grams as a retriever.
    pub fn generative<'a>(
        &'a self,
        trained: &'a TrainedModel,
        decode: &'a DecodeOptions,
    ) -> Generative<'a, Model, NgramIndex> {
        Generative {
            model: &trained.model,
            index: self.index(),
            tokenizer: &self.tokenizer,
            template: self.template(),
            decode,
            ranking: &self.config.ranking,
            view: View::Ngram,
        }
    }

    /// Examples whose targets are the identifiers of `method`: those of `pairs`, and what else `mixture` asks for.
    pub(super) fn docid_source(
        &self,
        pairs: &[(u64, Pair)],
        method: Method,
        mixture: DocidMixture,
        seed: u64,
    ) -> Result<DocidSource<'_>, ExperimentError> {
        Ok(DocidSource {
            experiment: self,
            ids: &self.docids(method).ids,
            pairs: pairs.iter().map(|(_, pair)| *pair).collect(),
            maker: self.maker()?,
            mixture,
            seed,
        })
    }
}

/// Training examples whose targets are identifiers.
pub(super) struct DocidSource<'a> {
    experiment: &'a Experiment,
    ids: &'a [Vec<TokenId>],
    pairs: Vec<Pair>,
    maker: ExampleMaker<'a>,
    mixture: DocidMixture,
    seed: u64,
}

impl DocidSource<'_> {
    /// How often each of three lists is gone through in an epoch, and their lengths.
    fn lists(&self) -> [(f64, usize); 3] {
        let (mixture, experiment) = (&self.mixture, self.experiment);
        [
            (mixture.queries, self.pairs.len()),
            (mixture.passages, experiment.passages.len()),
            (
                mixture.pseudo,
                experiment.pseudo_queries.as_ref().map_or(0, |p| p.len()),
            ),
        ]
    }
}

/// How many of `n` items an epoch holds that has each `times` times.
pub(super) fn drawn(times: f64, n: usize) -> usize {
    times as usize * n + (times.fract() * n as f64).round() as usize
}

/// Which items those are: all of them as often as `times` says whole, and a share drawn by the epoch.
pub(super) fn draw(seed: u64, list: u64, epoch: u64, times: f64, n: usize) -> Vec<usize> {
    let whole = (0..times as usize).flat_map(|_| 0..n);
    // The hash of a subset mixes its seed well enough to be given a sum.
    let place = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(3 * epoch + list);
    whole
        .chain(nested_subset(place, n, times.fract()))
        .collect()
}

impl ExampleSource for DocidSource<'_> {
    fn len(&self) -> usize {
        self.lists().iter().map(|&(times, n)| drawn(times, n)).sum()
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<Example>, ExampleError> {
        let experiment = self.experiment;
        let mut examples = vec![];
        for (list, (times, n)) in (0..).zip(self.lists()) {
            let of_item = |at: usize| match list {
                0 => {
                    let pair = self.pairs[at];
                    let query = &experiment.dataset.queries[pair.query].text;
                    self.maker.docid(query, &self.ids[pair.passage.index()])
                }
                1 => self
                    .maker
                    .own_docid(&experiment.passages[at], &self.ids[at]),
                _ => {
                    let pseudo_queries = experiment.pseudo_queries.as_ref();
                    let (passage, query) = pseudo_queries.expect("the list is not empty").get(at);
                    self.maker.docid(query, &self.ids[passage.index()])
                }
            };
            let items = draw(self.seed, list, epoch, times, n);
            let found: Result<Vec<Example>, ExampleError> =
                items.into_par_iter().map(of_item).collect();
            examples.extend(found?);
        }
        Ok(examples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_items_as_often_as_asked() {
        for (times, n) in [
            (0.0, 10),
            (0.25, 10),
            (1.0, 10),
            (2.5, 7),
            (0.5, 0),
            (0.99, 1),
        ] {
            let items = draw(5, 1, 3, times, n);
            assert_eq!(items.len(), drawn(times, n));
            for item in 0..n {
                let found = items.iter().filter(|i| **i == item).count();
                assert!(found == times as usize || found == times.ceil() as usize);
            }
        }
        assert_ne!(draw(5, 1, 3, 0.5, 100), draw(5, 1, 4, 0.5, 100));
        assert_ne!(draw(5, 1, 3, 0.5, 100), draw(5, 2, 3, 0.5, 100));
    }
}
