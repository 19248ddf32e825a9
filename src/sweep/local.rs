//! Worker processes on this machine: one model each at a time, as many as memory and `workers` allow.
//!
//! The largest models begin first, since the sweep ends when its longest worker does (Graham 1969: at most 4/3 of
//! the best schedule); a model that does not fit beside those at work waits, and smaller ones go before it.
//! A worker that dies without a word is started again, twice at most: its model goes on from the last
//! checkpoint.

use std::ops::ControlFlow;
use std::process::{Child, Command};
use std::time::Duration;

use super::SweepError;
use super::plan::{ModelPlan, Plan};
use super::run::{Failure, failure_path};
use crate::config::Config;
use crate::experiment::read_json;

/// How often a worker that died is started again.
const RETRIES: usize = 2;
const POLL: Duration = Duration::from_millis(100);

/// How models become processes.
pub struct Workers<'a> {
    /// Processes at the same time.
    pub count: usize,
    /// Bytes they may use together; infinite where nobody knows.
    pub memory_bytes: f64,
    /// Exit code of a worker that was asked to stop and saved its state.
    pub stopped_code: i32,
    /// The command that works on the model of this id and ends.
    pub launch: &'a mut dyn FnMut(&str) -> std::io::Result<Command>,
}

/// What the workers are doing.
#[derive(Clone, Debug)]
pub enum WorkerEvent {
    /// A worker began with the model at this place of the plan.
    Began(usize),
    /// A worker ended: well, or with this message.
    Ended(usize, Option<String>),
    /// Nothing has happened for a moment.
    Tick,
}

struct Running {
    place: usize,
    child: Child,
}

/// Has the models `chosen` (places in `plan`) done by worker processes.
///
/// # Errors
/// [`SweepError::Stopped`] after `told` has answered with a break and the workers have saved their state;
/// [`SweepError::Workers`] once all others are done, if some failed.
pub fn run_workers(
    config: &Config,
    plan: &Plan,
    chosen: &[usize],
    workers: &mut Workers<'_>,
    told: &mut dyn FnMut(WorkerEvent) -> ControlFlow<()>,
) -> Result<(), SweepError> {
    let mut waiting: Vec<usize> = chosen.to_vec();
    waiting.sort_by(|&a, &b| {
        let flops = |i: usize| plan.models[i].train_flops;
        flops(b).total_cmp(&flops(a)).then(a.cmp(&b))
    });
    let mut running: Vec<Running> = vec![];
    let mut deaths = vec![0usize; plan.models.len()];
    let mut failed = vec![];
    let (mut stopping, mut told_workers) = (false, false);
    loop {
        while !stopping && running.len() < workers.count {
            let held: Vec<&ModelPlan> = running.iter().map(|r| &plan.models[r.place]).collect();
            let Some(next) = fits(plan, &waiting, &held, workers.memory_bytes) else {
                break;
            };
            let place = waiting.remove(next);
            let child = start(&plan.models[place].id(), workers)?;
            running.push(Running { place, child });
            stopping |= told(WorkerEvent::Began(place)).is_break();
        }
        if running.is_empty() && (stopping || waiting.is_empty()) {
            break;
        }
        std::thread::sleep(POLL);
        stopping |= told(WorkerEvent::Tick).is_break();
        if stopping && !told_workers {
            told_workers = true;
            for worker in &running {
                ask_to_stop(&worker.child);
            }
        }
        let mut ended = vec![];
        for (index, worker) in running.iter_mut().enumerate() {
            let status = worker
                .child
                .try_wait()
                .map_err(|source| SweepError::Start {
                    program: "a worker".into(),
                    source,
                    remedy: "",
                })?;
            if let Some(status) = status {
                ended.push((index, status));
            }
        }
        for (index, status) in ended.into_iter().rev() {
            let place = running.remove(index).place;
            let message = match status.code() {
                Some(0) => None,
                Some(code) if code == workers.stopped_code => {
                    if !stopping {
                        waiting.insert(0, place);
                    }
                    Some("stopped, its state is saved".to_string())
                }
                // A signal: killed for its memory, or by somebody.
                None if deaths[place] < RETRIES && !stopping => {
                    deaths[place] += 1;
                    waiting.insert(0, place);
                    Some(format!(
                        "{status}; it begins again from its last checkpoint"
                    ))
                }
                _ => {
                    let model = &plan.models[place];
                    let message = reason(config, model).unwrap_or_else(|| status.to_string());
                    failed.push(format!("{} ({}): {message}", model.name(), model.id()));
                    Some(message)
                }
            };
            stopping |= told(WorkerEvent::Ended(place, message)).is_break();
        }
    }
    if stopping {
        return Err(SweepError::Stopped);
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(SweepError::Workers {
        failed,
        of: chosen.len(),
    })
}

/// The first of `waiting` that fits beside `held`; anything fits alone.
fn fits(plan: &Plan, waiting: &[usize], held: &[&ModelPlan], memory: f64) -> Option<usize> {
    let used: f64 = held.iter().map(|m| m.memory_bytes).sum();
    let fits = |&place: &usize| held.is_empty() || used + plan.models[place].memory_bytes <= memory;
    waiting.iter().position(fits)
}

fn start(id: &str, workers: &mut Workers<'_>) -> Result<Child, SweepError> {
    let failed = |source| SweepError::Start {
        program: "a worker".into(),
        source,
        remedy: "",
    };
    let mut command = (workers.launch)(id).map_err(failed)?;
    command.spawn().map_err(failed)
}

fn ask_to_stop(child: &Child) {
    // The standard library can only kill; a worker that is gone already needs no asking.
    let _ = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
}

/// Why a worker says it failed.
fn reason(config: &Config, model: &ModelPlan) -> Option<String> {
    let path = failure_path(config, &model.id());
    if !path.exists() {
        return None;
    }
    read_json::<Failure>(&path).ok().map(|f| f.message)
}
