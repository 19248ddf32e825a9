//! A corpus as a sparse or dense model represents it, and exact search in it.

use rayon::prelude::*;

use super::{Experiment, ExperimentError, TrainedModel};
use crate::eval::cgl;
use crate::model::{EncoderOptions, Model, Role, Vectors, encode_all};
use crate::retrieve::{RetrieveError, VectorIndex};
use crate::types::{Hit, PassageIdx, Query, TokenId};

/// Tokens that are read at a time.
const BATCH_TOKENS: usize = 8192;

/// The vectors of all passages.
pub struct Represented {
    encoder: EncoderOptions,
    passages: Vectors,
    index: VectorIndex,
}

/// What a search found, and what it took.
pub struct Found {
    /// Hits per query.
    pub hits: Vec<Vec<Hit>>,
    /// Tokens read per query.
    pub tokens: Vec<usize>,
    /// FLOPs of all inner products; of sparse vectors those of a search without pruning.
    pub products: f64,
}

impl Experiment {
    /// The vectors of all passages by `trained`, searchable; `None` if `progress`, which is told how many are done,
    /// answers no.
    pub fn represent(
        &self,
        trained: &TrainedModel,
        encoder: &EncoderOptions,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Represented>, ExperimentError> {
        trained.model.check_both_ways(encoder)?;
        let texts = self.texts(encoder)?;
        let mut goes_on = true;
        let passages = encode_all(
            &trained.model,
            &texts,
            encoder,
            Role::Passage,
            BATCH_TOKENS,
            &mut |done| goes_on = goes_on && progress(done),
        )?;
        if !goes_on {
            return Ok(None);
        }
        let ids = self.dataset.corpus.passages().iter().map(|p| p.id.as_str());
        let width = encoder.width(&trained.model.config());
        let index = VectorIndex::build(ids, &passages, width).map_err(RetrieveError::from)?;
        Ok(Some(Represented {
            encoder: encoder.clone(),
            passages,
            index,
        }))
    }

    /// Negated scores over `temperature` of the cases of the contrastive loss: per query of the first split and relevant
    /// passage that passage, then random others, the same as a generative model meets.
    pub fn contrastive_scores(
        &self,
        model: &Model,
        represented: &Represented,
        temperature: f64,
    ) -> Result<Vec<Vec<f64>>, ExperimentError> {
        let options = &self.config.evaluate;
        let split = &options.splits[0];
        let qrels = self.dataset.qrels(split)?;
        let mut queries = self.queries(split)?;
        queries.truncate(options.cgl_queries);
        let (vectors, _) = self.represent_queries(model, &represented.encoder, &queries)?;
        let corpus = &self.dataset.corpus;
        let cases = queries
            .par_iter()
            .enumerate()
            .flat_map_iter(|(place, query)| {
                let relevant: Vec<PassageIdx> = qrels
                    .relevant(query.id.as_str())
                    .filter_map(|doc| corpus.find(doc.as_str()))
                    .collect();
                let (seed, count) = (self.config.seed, options.cgl_negatives);
                let negatives = cgl::negatives(seed, &query.id, corpus.len(), &relevant, count);
                let vectors = &vectors;
                relevant.into_iter().map(move |positive| {
                    let passages = std::iter::once(&positive).chain(&negatives);
                    let score =
                        |p: &PassageIdx| vectors.dot(place, &represented.passages, p.index());
                    passages.map(|p| -score(p) / temperature).collect()
                })
            });
        Ok(cases.collect())
    }

    fn represent_queries(
        &self,
        model: &Model,
        encoder: &EncoderOptions,
        queries: &[Query],
    ) -> Result<(Vectors, Vec<usize>), ExperimentError> {
        let texts = queries
            .par_iter()
            .map(|q| self.query_tokens(&q.text, encoder));
        let texts: Vec<Vec<TokenId>> = texts.collect::<Result<_, _>>()?;
        let lengths = texts.iter().map(Vec::len).collect();
        let vectors = encode_all(
            model,
            &texts,
            encoder,
            Role::Query,
            BATCH_TOKENS,
            &mut |_| (),
        )?;
        Ok((vectors, lengths))
    }
}

impl Represented {
    /// The best `k` passages of each query, exactly.
    pub fn search(
        &self,
        experiment: &Experiment,
        model: &Model,
        queries: &[Query],
        k: usize,
    ) -> Result<Found, ExperimentError> {
        let (vectors, tokens) = experiment.represent_queries(model, &self.encoder, queries)?;
        let found = self.index.search(&vectors, k);
        let (hits, products) = found.map_err(RetrieveError::from)?;
        Ok(Found {
            hits,
            tokens,
            products,
        })
    }
}
