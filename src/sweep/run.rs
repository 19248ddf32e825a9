//! Doing what a sweep lacks.

use std::collections::BTreeMap;
use std::time::Instant;

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use super::CellRow;
use super::plan::{CellPlan, ModelPlan, Plan};
use crate::config::Config;
use crate::data::trec::Run;
use crate::decode::DecodeOptions;
use crate::eval::{self, Measure, cgl};
use crate::experiment::{Experiment, ExperimentError, TrainedModel, read_json, write_json};
use crate::record::{self, RowWriter};
use crate::retrieve::SearchError;
use crate::retrieve::generative::Generative;
use crate::train::Progress;
use crate::types::Query;

/// What a sweep is doing.
#[derive(Clone, Debug)]
pub enum Event {
    /// A model begins: its place in the plan.
    Model(usize),
    /// A training step is done.
    Trained(Progress),
    /// Queries measured by contrastive generation loss: done, of.
    Measured(usize, usize),
    /// Queries decoded: beam width, done, of.
    Decoded(usize, usize, usize),
    /// A cell is finished.
    Cell(Box<CellRow>),
}

/// Contrastive generation losses of one model, kept beside it.
#[derive(Serialize, Deserialize)]
struct CglFile {
    cgl: Vec<f64>,
    positive: Vec<f64>,
    negative: Vec<f64>,
}

/// Trains, measures and decodes every cell of `plan` that has no row yet; returns all rows, in the
/// order of the plan.
pub fn run(
    experiment: &Experiment,
    plan: &Plan,
    device: &burn::tensor::Device,
    told: &mut dyn FnMut(Event),
) -> Result<Vec<CellRow>, ExperimentError> {
    let path = experiment.config.out.join("runs.jsonl");
    let done = read_rows(&experiment.config)?;
    let settings = experiment.config.decode_settings();
    let held: HashSet<(String, u64)> = done
        .iter()
        .filter(|r| r.settings == settings)
        .map(|r| (r.model.clone(), r.beam))
        .collect();
    let mut writer = RowWriter::open(&path, done.len())?;
    for (place, model) in plan.models.iter().enumerate() {
        let id = model.id();
        let missing: Vec<&CellPlan> = model
            .cells
            .iter()
            .filter(|c| !held.contains(&(id.clone(), c.beam as u64)))
            .collect();
        if missing.is_empty() {
            continue;
        }
        told(Event::Model(place));
        let trained = experiment.train(&model.spec, device, &mut |progress| {
            told(Event::Trained(progress));
            std::ops::ControlFlow::Continue(())
        })?;
        let losses = contrastive(experiment, &trained, told)?;
        for cell in missing {
            let row = decode_cell(experiment, model, &trained, &losses, cell, told)?;
            writer.write(&row)?;
            writer.sync()?;
            told(Event::Cell(Box::new(row)));
        }
    }
    let mut rows: BTreeMap<(String, u64), CellRow> = read_rows(&experiment.config)?
        .into_iter()
        .filter(|row| row.settings == settings)
        .map(|row| ((row.model.clone(), row.beam), row))
        .collect();
    let order = plan.models.iter().flat_map(|m| {
        let id = m.id();
        m.cells.iter().map(move |c| (id.clone(), c.beam as u64))
    });
    Ok(order.filter_map(|key| rows.remove(&key)).collect())
}

/// All rows of the experiment's folder, whatever settings they were measured with.
///
/// # Errors
/// A damaged row, or one that a later version of genret wrote.
pub fn read_rows(config: &Config) -> Result<Vec<CellRow>, ExperimentError> {
    let path = config.out.join("runs.jsonl");
    let rows: Vec<CellRow> = record::read(&path)?;
    match rows.iter().find(|row| row.schema > record::SCHEMA) {
        Some(row) => Err(ExperimentError::Later {
            path,
            found: row.schema,
        }),
        None => Ok(rows),
    }
}

/// The losses of one model on the cases of the experiment: from its folder, or measured now.
fn contrastive(
    experiment: &Experiment,
    trained: &TrainedModel,
    told: &mut dyn FnMut(Event),
) -> Result<CglFile, ExperimentError> {
    let settings = experiment.config.contrastive_settings();
    let path = trained.folder.join(format!("cgl-{settings}.json"));
    if path.exists() {
        return read_json(&path);
    }
    let mut file = CglFile {
        cgl: vec![],
        positive: vec![],
        negative: vec![],
    };
    let cases = experiment.contrastive_cases()?;
    for (i, case) in cases.iter().enumerate() {
        let losses = crate::decode::cgl::contrastive_losses(&trained.model, case, 512)?;
        let passage_losses: Vec<f64> = losses
            .passages
            .iter()
            .map(|spans| cgl::Aggregation::MeanToken.passage_loss(spans))
            .collect();
        let (positive, negatives) = passage_losses
            .split_first()
            .expect("the positive comes first");
        file.cgl.push(cgl::contrastive(*positive, negatives));
        file.positive.push(*positive);
        file.negative
            .push(negatives.iter().sum::<f64>() / negatives.len() as f64);
        told(Event::Measured(i + 1, cases.len()));
    }
    write_json(&path, &file)?;
    Ok(file)
}

/// What the beam of `decode` loses against exhaustive search, if the configuration asks for it.
fn search_error(
    experiment: &Experiment,
    trained: &TrainedModel,
    decode: &DecodeOptions,
) -> Result<Option<SearchError>, ExperimentError> {
    let config = &experiment.config;
    if !config.evaluate.search_error {
        return Ok(None);
    }
    let mut queries = experiment.queries(&config.evaluate.splits[0])?;
    queries.truncate(config.evaluate.cgl_queries);
    let retriever = Generative {
        model: &trained.model,
        index: &experiment.index,
        tokenizer: &experiment.tokenizer,
        template: experiment.template(),
        decode,
        ranking: &config.ranking,
    };
    let beams = [decode.beam_width];
    let errors = retriever.search_error(&queries, &beams, config.evaluate.depth, &mut |_| ())?;
    Ok(errors.into_iter().next())
}

fn decode_cell(
    experiment: &Experiment,
    plan: &ModelPlan,
    trained: &TrainedModel,
    losses: &CglFile,
    cell: &CellPlan,
    told: &mut dyn FnMut(Event),
) -> Result<CellRow, ExperimentError> {
    let config = &experiment.config;
    let mut options = config.decode.clone();
    options.beam_width = cell.beam;
    let measures: Vec<Measure> = config
        .evaluate
        .measures
        .iter()
        .map(|m| m.parse().expect("the configuration was checked"))
        .collect();
    let counts = trained.model.config().counts();
    let (mut decoded, mut flops, mut secs) = (0usize, 0.0, 0.0);
    let mut split_means = BTreeMap::new();
    let mut quality_per_query = vec![];
    for split in &config.evaluate.splits {
        let queries: Vec<Query> = experiment.queries(split)?;
        let retriever = Generative {
            model: &trained.model,
            index: &experiment.index,
            tokenizer: &experiment.tokenizer,
            template: experiment.template(),
            decode: &options,
            ranking: &config.ranking,
        };
        let mut run = Run::new(&config.name);
        let mut done = 0;
        for batch in queries.chunks(retriever.window()) {
            let started = Instant::now();
            let answers = retriever.answer(batch, config.evaluate.depth)?;
            secs += started.elapsed().as_secs_f64();
            for (query, answer) in batch.iter().zip(&answers) {
                flops += counts.decode(answer.prompt_tokens, options.max_new_tokens, cell.beam);
                let corpus = &experiment.dataset.corpus;
                let docs = answer
                    .hits
                    .iter()
                    .map(|h| (corpus.passage(h.passage).id.clone(), h.score.get()));
                run.push(query.id.clone(), docs)?;
            }
            done += batch.len();
            told(Event::Decoded(cell.beam, done, queries.len()));
        }
        decoded += done;
        let path = trained
            .folder
            .join(format!("{split}-beam{}.trec", cell.beam));
        run.separate_ties();
        run.write(&path)?;
        let judged = queries.iter().map(|q| &q.id);
        let qrels = experiment.dataset.qrels(split)?.restricted_to(judged);
        let values = eval::evaluate(&qrels, &run, &measures);
        let means = values.means();
        if quality_per_query.is_empty() {
            quality_per_query = values.values(0).to_vec();
        }
        split_means.insert(
            split.clone(),
            measures.iter().map(|m| m.to_string()).zip(means).collect(),
        );
    }
    let summary = &trained.record.summary;
    let model = trained.model.config();
    let (cgl_mean, cgl_se) = cgl::mean_and_standard_error(&losses.cgl);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    Ok(CellRow {
        schema: record::SCHEMA,
        name: config.name.clone(),
        genret: crate::experiment::VERSION.into(),
        model: plan.id(),
        settings: config.decode_settings(),
        size: plan.size.clone(),
        params_embedding: model.params_embedding() as u64,
        params_non_embedding: model.params_non_embedding() as u64,
        seed: plan.spec.seed,
        fraction: plan.spec.fraction,
        pairs: plan.spec.num_pairs as u64,
        examples: summary.examples_seen,
        tokens: summary.tokens_seen,
        train_flops: summary.flops,
        train_secs: summary.secs,
        train_loss: summary.train_loss,
        validation_loss: summary.validation_loss,
        cgl: cgl_mean,
        cgl_se,
        positive_loss: mean(&losses.positive),
        negative_loss: mean(&losses.negative),
        cgl_per_query: losses.cgl.clone(),
        beam: cell.beam as u64,
        decode_flops: flops / decoded as f64,
        decode_secs: secs / decoded as f64,
        quality_per_query,
        measures: split_means,
        search_error: search_error(experiment, trained, &options)?,
    })
}
