//! Doing what a sweep lacks.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use super::claim::{Claim, Claims};
use super::plan::{CellPlan, ModelPlan, Plan};
use super::rows::{collect, read_rows, row_path, write_row};
use super::{CellRow, SweepError};
use crate::config::{Config, RetrieverKind};
use crate::data::trec::Run;
use crate::decode::DecodeOptions;
use crate::eval::{self, Measure, cgl};
use crate::experiment::{Experiment, ExperimentError, TrainedModel, read_json, write_json};
use crate::record;
use crate::retrieve::SearchError;
use crate::retrieve::generative::Generative;
use crate::train::{Progress, TrainError};
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
    /// All that is missing is being done by other processes: that many models.
    Waiting(usize),
}

/// Contrastive generation losses of one model, kept beside it.
#[derive(Serialize, Deserialize)]
struct CglFile {
    cgl: Vec<f64>,
    positive: Vec<f64>,
    negative: Vec<f64>,
}

/// The cells of every model of `plan` that have no row of today's settings yet.
pub fn missing(config: &Config, plan: &Plan) -> Result<Vec<Vec<CellPlan>>, SweepError> {
    let settings = config.decode_settings();
    let held: HashSet<(String, u64)> = read_rows(config)?
        .into_iter()
        .filter(|row| row.settings == settings)
        .map(|row| (row.model, row.beam))
        .collect();
    let of_model = |model: &ModelPlan| {
        let id = model.id();
        let lacks = |cell: &&CellPlan| !held.contains(&(id.clone(), cell.beam as u64));
        model.cells.iter().filter(lacks).copied().collect()
    };
    Ok(plan.models.iter().map(of_model).collect())
}

/// Trains, measures and decodes every cell of the models `chosen` (places in `plan`) that has no row yet and
/// that no other process is working on; waits for the others; returns the rows of the whole plan that are
/// there, in its order.
///
/// # Errors
/// [`SweepError::Stopped`] after `told` has answered with a break: everything finished is saved.
pub fn run(
    experiment: &Experiment,
    plan: &Plan,
    chosen: &[usize],
    device: &burn::tensor::Device,
    claims: &mut Claims,
    told: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Vec<CellRow>, SweepError> {
    let config = &experiment.config;
    let cells = plan.cells();
    let mut collected = Collected::default();
    loop {
        let (mut elsewhere, mut worked) = (0, false);
        let missing = missing(config, plan)?;
        for &place in chosen.iter().filter(|&&place| !missing[place].is_empty()) {
            let model = &plan.models[place];
            let Some(claim) = claims.take(&model.id())? else {
                elsewhere += 1;
                continue;
            };
            worked = true;
            told(Event::Model(place)).continue_or(SweepError::Stopped)?;
            let task = Task {
                experiment,
                model,
                claim,
                device,
                told: &mut *told,
                finished: &mut || collected.now_and_then(config, &cells),
            };
            task.work(&missing[place])?;
        }
        if elsewhere == 0 {
            break;
        }
        if !worked {
            told(Event::Waiting(elsewhere)).continue_or(SweepError::Stopped)?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    collect(config, &cells)
}

/// When the table was last collected, and how long that took.
#[derive(Default)]
struct Collected(Option<(Instant, Duration)>);

impl Collected {
    /// Collects the table, unless the last time is so near that collecting would take a twentieth of the work.
    fn now_and_then(&mut self, config: &Config, cells: &[(String, u64)]) -> Result<(), SweepError> {
        if let Some((last, took)) = self.0
            && last.elapsed() < 20 * took
        {
            return Ok(());
        }
        let started = Instant::now();
        collect(config, cells)?;
        self.0 = Some((Instant::now(), started.elapsed()));
        Ok(())
    }
}

/// Turns a break into an error.
trait OrStop {
    fn continue_or(self, error: SweepError) -> Result<(), SweepError>;
}

impl OrStop for ControlFlow<()> {
    fn continue_or(self, error: SweepError) -> Result<(), SweepError> {
        match self {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(error),
        }
    }
}

/// Why the last attempt at a model failed, in `failures/MODEL.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub message: String,
}

pub(super) fn failure_path(config: &Config, model: &str) -> PathBuf {
    config.out.join("failures").join(format!("{model}.json"))
}

/// One model in the hands of this process.
struct Task<'a> {
    experiment: &'a Experiment,
    model: &'a ModelPlan,
    claim: Claim,
    device: &'a burn::tensor::Device,
    told: &'a mut dyn FnMut(Event) -> ControlFlow<()>,
    /// Called after every finished cell.
    finished: &'a mut dyn FnMut() -> Result<(), SweepError>,
}

impl Task<'_> {
    fn work(mut self, missing: &[CellPlan]) -> Result<(), SweepError> {
        let path = failure_path(&self.experiment.config, &self.model.id());
        let result = self.cells(missing);
        match &result {
            Ok(()) => match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SweepError::Io { path, source: e });
                }
                _ => {}
            },
            Err(SweepError::Stopped | SweepError::TakenOver { .. }) => {}
            Err(error) => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder).map_err(SweepError::io(folder))?;
                }
                let message = error.to_string();
                write_json(&path, &Failure { message })?;
            }
        }
        result
    }

    fn cells(&mut self, missing: &[CellPlan]) -> Result<(), SweepError> {
        // Rows may have come between the look at them and the claim.
        let config = &self.experiment.config;
        let (id, settings) = (self.model.id(), config.decode_settings());
        let lacks =
            |cell: &&CellPlan| !row_path(&config.out, &id, &settings, cell.beam as u64).exists();
        let missing: Vec<CellPlan> = missing.iter().filter(lacks).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let (claim, told) = (&self.claim, &mut *self.told);
        let trained = self.experiment.train(
            &self.model.spec,
            std::slice::from_ref(self.device),
            &mut |progress| {
                claim.tell("training", None, progress.step, progress.steps);
                if claim.check().is_err() {
                    return ControlFlow::Break(());
                }
                told(Event::Trained(progress))
            },
        );
        let trained = match trained {
            Err(ExperimentError::Train(TrainError::Stopped { .. })) => {
                self.claim.check()?;
                return Err(SweepError::Stopped);
            }
            other => other?,
        };
        let losses = self.contrastive(&trained)?;
        for cell in missing {
            let row = self.decode_cell(&trained, &losses, &cell)?;
            write_row(&self.experiment.config.out, &row)?;
            (self.finished)()?;
            self.tell(Event::Cell(Box::new(row)))?;
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) -> Result<(), SweepError> {
        match &event {
            Event::Measured(done, of) => {
                (self.claim).tell("contrastive loss", None, *done as u64, *of as u64);
            }
            Event::Decoded(beam, done, of) => {
                let beam = Some(*beam as u64);
                self.claim.tell("decoding", beam, *done as u64, *of as u64);
            }
            _ => {}
        }
        self.claim.check()?;
        (self.told)(event).continue_or(SweepError::Stopped)
    }

    /// The losses of one model on the cases of the experiment: from its folder, or measured now.
    fn contrastive(&mut self, trained: &TrainedModel) -> Result<CglFile, SweepError> {
        let experiment = self.experiment;
        let settings = experiment.config.contrastive_settings();
        let path = trained.folder.join(format!("cgl-{settings}.json"));
        if path.exists() {
            return Ok(read_json(&path)?);
        }
        let mut file = CglFile {
            cgl: vec![],
            positive: vec![],
            negative: vec![],
        };
        let cases = experiment.contrastive_cases(&trained.record.spec)?;
        for (i, case) in cases.iter().enumerate() {
            let losses = crate::decode::cgl::contrastive_losses(&trained.model, case, 512)
                .map_err(ExperimentError::from)?;
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
            self.tell(Event::Measured(i + 1, cases.len()))?;
        }
        write_json(&path, &file)?;
        Ok(file)
    }

    fn decode_cell(
        &mut self,
        trained: &TrainedModel,
        losses: &CglFile,
        cell: &CellPlan,
    ) -> Result<CellRow, SweepError> {
        let (experiment, plan) = (self.experiment, self.model);
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
        let max_new_tokens = experiment.max_new_tokens(&plan.spec);
        let (mut decoded, mut flops, mut secs) = (0usize, 0.0, 0.0);
        let mut split_means = BTreeMap::new();
        let mut quality_per_query = vec![];
        for split in &config.evaluate.splits {
            let queries: Vec<Query> = experiment.queries(split)?;
            let mut run = Run::new(&config.name);
            let mut done = 0;
            for batch in queries.chunks(4 * options.queries_per_batch()) {
                let started = Instant::now();
                let answers = experiment.answer(trained, &options, batch)?;
                secs += started.elapsed().as_secs_f64();
                for (query, (hits, prompt_tokens)) in batch.iter().zip(&answers) {
                    flops += counts.decode(*prompt_tokens, max_new_tokens, cell.beam);
                    let corpus = &experiment.dataset.corpus;
                    let docs = hits
                        .iter()
                        .map(|h| (corpus.passage(h.passage).id.clone(), h.score.get()));
                    run.push(query.id.clone(), docs)
                        .map_err(ExperimentError::from)?;
                }
                done += batch.len();
                self.tell(Event::Decoded(cell.beam, done, queries.len()))?;
            }
            decoded += done;
            let path = trained
                .folder
                .join(format!("{split}-beam{}.trec", cell.beam));
            run.separate_ties();
            run.write(&path).map_err(ExperimentError::from)?;
            let judged = queries.iter().map(|q| &q.id);
            let qrels = (experiment.dataset.qrels(split))
                .map_err(ExperimentError::from)?
                .restricted_to(judged);
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
            family: model.family().name().into(),
            retriever: RetrieverKind::Generative.name().into(),
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
            decode_flops: flops / decoded as f64,
            decode_secs: secs / decoded as f64,
            quality_per_query,
            measures: split_means,
            search_error: search_error(experiment, trained, &options)?,
        })
    }
}

/// What the beam of `decode` loses against exhaustive search, if the configuration asks for it.
fn search_error(
    experiment: &Experiment,
    trained: &TrainedModel,
    decode: &DecodeOptions,
) -> Result<Option<SearchError>, ExperimentError> {
    let config = &experiment.config;
    if !config.evaluate.search_error || trained.record.spec.docids.is_some() {
        return Ok(None);
    }
    let mut queries = experiment.queries(&config.evaluate.splits[0])?;
    queries.truncate(config.evaluate.cgl_queries);
    let retriever = Generative {
        model: &trained.model,
        index: experiment.index(),
        tokenizer: &experiment.tokenizer,
        template: experiment.template(),
        decode,
        ranking: &config.ranking,
    };
    let beams = [decode.beam_width];
    let errors = retriever.search_error(&queries, &beams, config.evaluate.depth, &mut |_| ())?;
    Ok(errors.into_iter().next())
}
