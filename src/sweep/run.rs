//! Doing what a sweep lacks.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use super::claim::{Claim, Claims};
use super::measure::Measuring;
use super::plan::{CellPlan, ModelPlan, Plan};
use super::rows::{collect, read_rows, row_path, write_row};
use super::{CellRow, SweepError};
use crate::config::Config;
use crate::experiment::{Experiment, ExperimentError, write_json};
use crate::train::{Progress, TrainError};

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
    /// Passages represented: done, of.
    Represented(usize, usize),
    /// A cell is finished.
    Cell(Box<CellRow>),
    /// All that is missing is being done by other processes: that many models.
    Waiting(usize),
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
        let (experiment, model) = (self.experiment, self.model);
        let mut told = |event: Event| self.tell(event);
        let measuring = Measuring::begin(experiment, model, &trained, &mut told)?;
        for cell in &missing {
            let row = measuring.row(cell, &mut |event| self.tell(event))?;
            write_row(&experiment.config.out, &row)?;
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
            Event::Represented(done, of) => {
                (self.claim).tell("representations", None, *done as u64, *of as u64);
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
}
