//! What a trained model is worth: contrastive loss, quality and cost, as the row of a cell.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::plan::{CellPlan, ModelPlan};
use super::run::Event;
use super::{CellRow, SweepError};
use crate::config::RetrieverKind;
use crate::data::trec::Run;
use crate::decode::DecodeOptions;
use crate::eval::{self, Measure, cgl};
use crate::experiment::{
    Experiment, ExperimentError, Represented, TrainedModel, read_json, write_json,
};
use crate::record;
use crate::retrieve::{SearchError, run_of};
use crate::types::{Hit, Query};

/// Contrastive losses of one model, kept beside it.
#[derive(Default, Serialize, Deserialize)]
struct Losses {
    cgl: Vec<f64>,
    positive: Vec<f64>,
    negative: Vec<f64>,
}

/// A trained model with what all of its cells share.
pub(super) struct Measuring<'a> {
    experiment: &'a Experiment,
    plan: &'a ModelPlan,
    trained: &'a TrainedModel,
    losses: Losses,
    /// The corpus as a sparse or dense model has it.
    represented: Option<Represented>,
}

/// Hears what is done and may end it.
type Told<'a> = dyn FnMut(Event) -> Result<(), SweepError> + 'a;

/// The rankings of a cell, and what they cost.
#[derive(Default)]
struct Answers {
    runs: Vec<(String, Run)>,
    queries: usize,
    flops: f64,
    secs: f64,
}

impl<'a> Measuring<'a> {
    /// Represents the corpus, of a sparse or dense model, and measures the contrastive loss.
    pub(super) fn begin(
        experiment: &'a Experiment,
        plan: &'a ModelPlan,
        trained: &'a TrainedModel,
        told: &mut Told<'_>,
    ) -> Result<Self, SweepError> {
        let represented = match &plan.spec.representation {
            None => None,
            Some(representation) => {
                let passages = experiment.dataset.corpus.len();
                let mut stopped = Ok(());
                let mut progress = |done| {
                    if stopped.is_ok() {
                        stopped = told(Event::Represented(done, passages));
                    }
                    stopped.is_ok()
                };
                let encoder = &(representation.encoder)
                    .with_passage_tokens(experiment.config.evaluate.passage_tokens);
                let made = experiment.represent(trained, encoder, &mut progress)?;
                stopped?;
                made
            }
        };
        let mut measuring = Self {
            experiment,
            plan,
            trained,
            losses: Losses::default(),
            represented,
        };
        measuring.losses = measuring.contrastive(told)?;
        Ok(measuring)
    }

    /// The losses on the cases of the experiment: from the model's folder, or measured now.
    fn contrastive(&self, told: &mut Told<'_>) -> Result<Losses, SweepError> {
        let settings = self.experiment.config.contrastive_settings();
        let path = self.trained.folder.join(format!("cgl-{settings}.json"));
        if path.exists() {
            return Ok(read_json(&path)?);
        }
        let losses = match &self.represented {
            Some(represented) => {
                let temperature = self.plan.spec.temperature();
                let model = &self.trained.model;
                let cases =
                    (self.experiment).contrastive_scores(model, represented, temperature)?;
                let mut losses = Losses::default();
                for case in cases {
                    losses.push(&case);
                }
                losses
            }
            None => self.generation_losses(told)?,
        };
        write_json(&path, &losses)?;
        Ok(losses)
    }

    fn generation_losses(&self, told: &mut Told<'_>) -> Result<Losses, SweepError> {
        let mut losses = Losses::default();
        let cases = self.experiment.contrastive_cases(&self.plan.spec)?;
        for (i, case) in cases.iter().enumerate() {
            let found = crate::decode::cgl::contrastive_losses(&self.trained.model, case, 512)
                .map_err(ExperimentError::from)?;
            let of_passages: Vec<f64> = found
                .passages
                .iter()
                .map(|spans| cgl::Aggregation::MeanToken.passage_loss(spans))
                .collect();
            losses.push(&of_passages);
            told(Event::Measured(i + 1, cases.len()))?;
        }
        Ok(losses)
    }

    /// The row of one cell.
    pub(super) fn row(&self, cell: &CellPlan, told: &mut Told<'_>) -> Result<CellRow, SweepError> {
        let (experiment, plan, losses) = (self.experiment, self.plan, &self.losses);
        let config = &experiment.config;
        let mut decode = config.decode.clone();
        decode.beam_width = cell.beam;
        let answers = match &self.represented {
            None => self.decode(&decode, told)?,
            Some(represented) => self.look_up(represented)?,
        };
        let measures = config.evaluate.measures.iter();
        let measures: Vec<Measure> = measures
            .map(|m| m.parse().expect("the configuration was checked"))
            .collect();
        let mut split_means = BTreeMap::new();
        let mut quality_per_query = vec![];
        for (split, run) in &answers.runs {
            let name = format!("{split}-beam{}.trec", cell.beam);
            run.write(&self.trained.folder.join(name))
                .map_err(ExperimentError::from)?;
            let qrels = experiment
                .dataset
                .qrels(split)
                .map_err(ExperimentError::from)?;
            let qrels = qrels.restricted_to(run.queries().map(|(query, _)| query));
            let values = eval::evaluate(&qrels, run, &measures);
            if quality_per_query.is_empty() {
                quality_per_query = values.values(0).to_vec();
            }
            let names = measures.iter().map(|m| m.to_string());
            split_means.insert(split.clone(), names.zip(values.means()).collect());
        }
        let summary = &self.trained.record.summary;
        let model = self.trained.model.config();
        let (cgl_mean, cgl_se) = cgl::mean_and_standard_error(&losses.cgl);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let representation = plan.spec.representation.as_ref();
        let retriever = representation.map_or(RetrieverKind::Generative, |r| r.retriever);
        Ok(CellRow {
            schema: record::SCHEMA,
            name: config.name.clone(),
            family: model.family().name().into(),
            retriever: retriever.name().into(),
            objective: plan.spec.objective_name(),
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
            decode_flops: answers.flops / answers.queries as f64,
            decode_secs: answers.secs / answers.queries as f64,
            quality_per_query,
            measures: split_means,
            search_error: self.search_error(&decode)?,
        })
    }

    /// Rankings by generated n-grams or identifiers.
    fn decode(&self, options: &DecodeOptions, told: &mut Told<'_>) -> Result<Answers, SweepError> {
        let (experiment, beam) = (self.experiment, options.beam_width);
        let config = &experiment.config;
        let counts = self.trained.model.config().counts();
        let longest = experiment.max_new_tokens(&self.plan.spec);
        let mut answers = Answers::default();
        for split in &config.evaluate.splits {
            let queries: Vec<Query> = experiment.queries(split)?;
            let mut hits = vec![];
            for batch in queries.chunks(4 * options.queries_per_batch()) {
                let started = Instant::now();
                let found = experiment.answer(self.trained, options, batch)?;
                answers.secs += started.elapsed().as_secs_f64();
                for (of_query, prompt) in found {
                    let views = longest.iter();
                    answers.flops += views
                        .map(|&new| counts.decode(prompt / longest.len(), new, beam))
                        .sum::<f64>();
                    hits.push(of_query);
                }
                told(Event::Decoded(beam, hits.len(), queries.len()))?;
            }
            self.add_run(&mut answers, split, &queries, &hits)?;
        }
        Ok(answers)
    }

    /// Rankings by representations.
    fn look_up(&self, represented: &Represented) -> Result<Answers, SweepError> {
        let experiment = self.experiment;
        let mut answers = Answers::default();
        for split in &experiment.config.evaluate.splits {
            let queries: Vec<Query> = experiment.queries(split)?;
            let started = Instant::now();
            let depth = experiment.config.evaluate.depth;
            let found = represented.search(experiment, &self.trained.model, &queries, depth)?;
            answers.secs += started.elapsed().as_secs_f64();
            let read = found.tokens.iter();
            answers.flops += read
                .map(|&t| self.plan.spec.representation_flops(t))
                .sum::<f64>();
            answers.flops += found.products;
            self.add_run(&mut answers, split, &queries, &found.hits)?;
        }
        Ok(answers)
    }

    fn add_run(
        &self,
        answers: &mut Answers,
        split: &str,
        queries: &[Query],
        hits: &[Vec<Hit>],
    ) -> Result<(), SweepError> {
        let corpus = &self.experiment.dataset.corpus;
        let tag = &self.experiment.config.name;
        let run = run_of(tag, queries, hits, |p| corpus.passage(p).id.as_str());
        let run = run.map_err(ExperimentError::from)?;
        answers.runs.push((split.into(), run));
        answers.queries += queries.len();
        Ok(())
    }

    /// What the beam of `decode` loses against exhaustive search, if the configuration asks for it.
    fn search_error(&self, decode: &DecodeOptions) -> Result<Option<SearchError>, ExperimentError> {
        let config = &self.experiment.config;
        let of_ngrams = self.plan.spec.objective.learned().body > 0.0;
        if !config.evaluate.search_error || !of_ngrams {
            return Ok(None);
        }
        let mut queries = self.experiment.queries(&config.evaluate.splits[0])?;
        queries.truncate(config.evaluate.cgl_queries);
        let (beams, depth) = ([decode.beam_width], config.evaluate.depth);
        let retriever = self.experiment.generative(self.trained, decode);
        let errors = retriever.search_error(&queries, &beams, depth, &mut |_| ())?;
        Ok(errors.into_iter().next())
    }
}

impl Losses {
    /// Adds one case: the losses of its passages, the positive first.
    fn push(&mut self, of_passages: &[f64]) {
        let (positive, negatives) = of_passages.split_first().expect("the positive comes first");
        self.cgl.push(cgl::contrastive(*positive, negatives));
        self.positive.push(*positive);
        self.negative
            .push(negatives.iter().sum::<f64>() / negatives.len() as f64);
    }
}
