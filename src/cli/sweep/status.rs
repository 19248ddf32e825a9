//! How far a sweep is.

use anyhow::Result;

use super::{ConfigArgs, row};
use crate::cli::shared::Shared;
use crate::cli::table::{self, say};
use crate::sweep::{self, ModelState, State};

/// Prints the state of every cell.
pub(super) fn run(args: &ConfigArgs, shared: &Shared) -> Result<()> {
    let config = args.load(shared)?;
    let Some(models) = sweep::status(&config)? else {
        say!(
            "no sweep has begun in {}: `genret sweep {}` begins one",
            config.out.display(),
            args.config.display()
        );
        return Ok(());
    };
    table::print(&cells(&models))?;
    say!("{}", summary(&models));
    Ok(())
}

/// One line per cell.
fn cells(models: &[ModelState]) -> String {
    let mut rows = vec![row([
        &"model",
        &"fraction",
        &"seed",
        &"beam",
        &"state",
        &"progress",
        &"left",
        &"",
    ])];
    for model in models {
        for cell in &model.cells {
            let (progress, remark) = progress(&cell.state, model);
            let left = match cell.state {
                State::Done(_) => String::new(),
                _ => model.secs_left.map_or("?".into(), duration),
            };
            rows.push(row([
                &model.plan.name(),
                &model.plan.fraction,
                &model.plan.seed,
                &cell.beam,
                &cell.state.word(),
                &progress,
                &left,
                &remark,
            ]));
        }
    }
    table::table_with(&rows, &[0, 7])
}

fn progress(state: &State, model: &ModelState) -> (String, String) {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    match state {
        State::Waiting(trained) if *trained > 0.0 => (percent(*trained), "of the training".into()),
        State::Waiting(_) => (String::new(), String::new()),
        State::Running(stage, share) => {
            let by = (model.claim.as_ref()).map_or(String::new(), |(b, _)| b.owner.to_string());
            (percent(*share), format!("{stage}, {by}"))
        }
        State::Silent(secs) => (
            String::new(),
            format!("no sign of life for {}", duration(*secs)),
        ),
        State::Failed(message) => (String::new(), message.clone()),
        State::Done(row) => (String::new(), format!("CGL {:.3}", row.cgl)),
    }
}

/// How many cells are in which state, and the expected time.
pub(super) fn summary(models: &[ModelState]) -> String {
    let cells = || models.iter().flat_map(|m| &m.cells);
    let total = cells().count();
    let counts: Vec<String> = ["done", "running", "waiting", "silent", "failed"]
        .iter()
        .map(|word| (cells().filter(|c| c.state.word() == *word).count(), word))
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let left: Option<f64> = models.iter().map(|m| m.secs_left).sum();
    let at_work = models.iter().filter(|m| m.claim.is_some()).count().max(1);
    let eta = match left {
        Some(secs) if secs > 0.0 => {
            format!(
                "; about {} left at today's pace",
                duration(secs / at_work as f64)
            )
        }
        _ => String::new(),
    };
    format!("{} of {total} cells{eta}", counts.join(", "))
}

/// Seconds as a person says them.
pub(super) fn duration(secs: f64) -> String {
    match secs {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
