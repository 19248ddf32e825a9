//! How far a sweep is, told from its folder alone.

use std::path::Path;

use super::claim::{Beat, read_claims};
use super::plan::SavedPlan;
use super::rows::read_rows;
use super::run::{Failure, failure_path};
use super::{CellRow, SavedModel, SweepError};
use crate::config::Config;
use crate::experiment::read_json;
use crate::record::{self, StepRow};

/// What is known of one model.
#[derive(Clone, Debug)]
pub struct ModelState {
    /// What the plan says of it.
    pub plan: SavedModel,
    /// Its cells, in the plan's order.
    pub cells: Vec<CellState>,
    /// Loss and number of every training step so far.
    pub steps: Vec<(u64, f64)>,
    /// Who works on it, with the seconds since the last sign of life.
    pub claim: Option<(Beat, f64)>,
    /// Expected seconds until it is done, where the pace is known.
    pub secs_left: Option<f64>,
}

/// What is known of one cell.
#[derive(Clone, Debug)]
pub struct CellState {
    /// Beam width.
    pub beam: u64,
    /// How far it is.
    pub state: State,
}

/// How far a cell is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Nobody is at it; the share of the training that is done and saved.
    Waiting(f64),
    /// Somebody is at its model: the stage with the share that is done.
    Running(String, f64),
    /// Somebody was at its model and has given no sign of life for that many seconds.
    Silent(f64),
    /// The last attempt failed.
    Failed(String),
    /// Its row is there.
    Done(Box<CellRow>),
}

impl State {
    /// The state in one word.
    pub fn word(&self) -> &'static str {
        match self {
            State::Waiting(_) => "waiting",
            State::Running(..) => "running",
            State::Silent(_) => "silent",
            State::Failed(_) => "failed",
            State::Done(_) => "done",
        }
    }
}

/// The state of every model of the plan in the folder of `config`; `None` if no sweep has begun there.
pub fn status(config: &Config) -> Result<Option<Vec<ModelState>>, SweepError> {
    let Some(plan) = SavedPlan::open(&config.out)? else {
        return Ok(None);
    };
    let rows = read_rows(config)?;
    let claims = read_claims(&config.out)?;
    let settings = config.decode_settings();
    // FLOPs per second: the median of the finished models, whose training was timed.
    let mut paces: Vec<f64> = (rows.iter())
        .filter(|row| row.train_secs > 0.0)
        .map(|row| row.train_flops / row.train_secs)
        .collect();
    paces.sort_by(f64::total_cmp);
    let pace = paces.get(paces.len() / 2).copied();
    let mut models = vec![];
    for model in plan.models {
        let done = |beam: u64| {
            (rows.iter()).find(|r| r.settings == settings && r.model == model.id && r.beam == beam)
        };
        let claim = claims.get(&model.id).cloned();
        let failed = failure_path(config, &model.id);
        let failure = if failed.exists() {
            Some(read_json::<Failure>(&failed)?.message)
        } else {
            None
        };
        let steps = steps(&config.out, &model.id)?;
        let trained = steps.last().map_or(0.0, |(step, _)| *step as f64) / model.steps as f64;
        let unfinished = || match (&claim, &failure) {
            (Some((_, age)), _) if *age > config.executor.stale_secs => State::Silent(*age),
            (Some((beat, _)), _) => {
                let doing = &beat.doing;
                State::Running(
                    doing.stage.clone(),
                    doing.done as f64 / doing.of.max(1) as f64,
                )
            }
            (None, Some(message)) => State::Failed(message.clone()),
            (None, None) => State::Waiting(trained),
        };
        let mut cells = vec![];
        let mut flops_left = 0.0;
        for &(beam, flops) in &model.cells {
            let state = match done(beam) {
                Some(row) => State::Done(Box::new(row.clone())),
                None => {
                    flops_left += flops * plan.queries as f64;
                    unfinished()
                }
            };
            cells.push(CellState { beam, state });
        }
        let finished = cells.iter().all(|c| matches!(c.state, State::Done(_)));
        if !finished && trained < 1.0 {
            flops_left += (1.0 - trained) * model.train_flops + model.measure_flops;
        }
        let stage = claim.as_ref().and_then(|(beat, _)| beat.doing.secs_left());
        let secs_left = match pace.map(|pace| flops_left / pace) {
            _ if finished => Some(0.0),
            Some(secs) => Some(secs),
            None => stage,
        };
        models.push(ModelState {
            plan: model,
            cells,
            steps,
            claim,
            secs_left,
        });
    }
    Ok(Some(models))
}

/// Number and loss of the steps of a model.
fn steps(out: &Path, model: &str) -> Result<Vec<(u64, f64)>, SweepError> {
    let rows = step_rows(out, model)?;
    Ok(rows.iter().map(|row| (row.step, row.loss)).collect())
}

/// The step rows of a model, none if it was never begun.
pub(super) fn step_rows(out: &Path, model: &str) -> Result<Vec<StepRow>, SweepError> {
    Ok(record::read(
        &out.join("models").join(model).join("steps.jsonl"),
    )?)
}
