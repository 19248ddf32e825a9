//! BM25 on the queries of a sweep: what every trained model is held against.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::models;
use super::{CellRow, SweepError};
use crate::config::Config;
use crate::eval::compare::{CompareOptions, Comparison, compare, holm};
use crate::eval::{self, Measure};
use crate::experiment::{Experiment, ExperimentError, read_json, write_json};
use crate::retrieve::{Retriever, run_of};

const FILE: &str = "bm25.json";

/// BM25 on the queries of a sweep, in `bm25.json`; its rankings lie beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Hash of what decides the measures.
    settings: String,
    /// Split to measure to mean.
    pub measures: BTreeMap<String, BTreeMap<String, f64>>,
    /// The first measure of the first split, per query, in the order of the judgements.
    quality_per_query: Vec<f64>,
}

/// A trained model held against BM25.
#[derive(Clone, Debug, Serialize)]
pub struct AgainstBm25 {
    /// Family, retriever and objective.
    pub series: String,
    /// Size by name.
    pub size: String,
    /// Training pairs.
    pub pairs: u64,
    /// Training FLOPs.
    pub train_flops: f64,
    /// The first measure of the first split, at the widest beam.
    pub quality: f64,
    /// The model's values less those of BM25.
    pub comparison: Comparison,
    /// The p-value of the randomisation test, adjusted for the number of models.
    pub p_holm: f64,
}

/// BM25 on the queries of the experiment: from its folder, or measured now.
///
/// # Errors
/// Those of the files.
pub fn baseline(experiment: &Experiment) -> Result<Baseline, SweepError> {
    let config = &experiment.config;
    if let Some(found) = open(config)? {
        return Ok(found);
    }
    let bm25 = experiment.bm25()?;
    let measures = config.evaluate.measures.iter();
    let measures: Vec<Measure> = measures
        .map(|m| m.parse().expect("the configuration was checked"))
        .collect();
    let mut found = Baseline {
        settings: config.decode_settings(),
        measures: BTreeMap::new(),
        quality_per_query: vec![],
    };
    for split in &config.evaluate.splits {
        let queries = experiment.queries(split)?;
        let hits = bm25.search(&queries, config.evaluate.depth);
        let hits = hits.map_err(ExperimentError::from)?;
        let corpus = &experiment.dataset.corpus;
        let run = run_of(bm25.tag(), &queries, &hits, |p| {
            corpus.passage(p).id.as_str()
        });
        let run = run.map_err(ExperimentError::from)?;
        run.write(&config.out.join(format!("bm25-{split}.trec")))
            .map_err(ExperimentError::from)?;
        let qrels = experiment
            .dataset
            .qrels(split)
            .map_err(ExperimentError::from)?;
        let qrels = qrels.restricted_to(queries.iter().map(|query| &query.id));
        let values = eval::evaluate(&qrels, &run, &measures);
        if found.quality_per_query.is_empty() {
            found.quality_per_query = values.values(0).to_vec();
        }
        let names = measures.iter().map(|m| m.to_string());
        found
            .measures
            .insert(split.clone(), names.zip(values.means()).collect());
    }
    write_json(&config.out.join(FILE), &found)?;
    Ok(found)
}

/// BM25 as it was measured with today's settings, if it was.
pub(super) fn open(config: &Config) -> Result<Option<Baseline>, SweepError> {
    let path = config.out.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let found: Baseline = read_json(&path)?;
    Ok((found.settings == config.decode_settings()).then_some(found))
}

/// Every model at its widest beam against BM25, by series and size; Holm's correction over all.
pub(super) fn against(rows: &[CellRow], baseline: &Baseline, config: &Config) -> Vec<AgainstBm25> {
    let (split, measure) = (&config.evaluate.splits[0], &config.evaluate.measures[0]);
    let options = CompareOptions {
        seed: config.seed,
        ..CompareOptions::default()
    };
    let of_model = |row: &&CellRow| {
        let theirs = &baseline.quality_per_query;
        if row.quality_per_query.len() != theirs.len() {
            return None;
        }
        let pairs = row.quality_per_query.iter().zip(theirs);
        let differences: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
        Some(AgainstBm25 {
            series: row.series(),
            size: row.size.clone(),
            pairs: row.pairs,
            train_flops: row.train_flops,
            quality: *row.measures.get(split)?.get(measure)?,
            comparison: compare(&differences, &options)?,
            p_holm: f64::NAN,
        })
    };
    let mut models = models(rows);
    models.sort_by_cached_key(|row| (row.series(), row.params_non_embedding));
    let mut all: Vec<AgainstBm25> = models.iter().filter_map(of_model).collect();
    let p_values: Vec<f64> = all.iter().map(|a| a.comparison.p_randomisation).collect();
    for (one, adjusted) in all.iter_mut().zip(holm(&p_values)) {
        one.p_holm = adjusted;
    }
    all
}
