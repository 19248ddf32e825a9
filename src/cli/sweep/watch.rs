//! A live view on a sweep, and its steps for other boards.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::status::{duration, summary};
use super::{ConfigArgs, row};
use crate::cli::shared::Shared;
use crate::cli::table::{self, say};
use crate::config::Config;
use crate::sweep::{self, ModelState, SavedPlan, State};

#[derive(Args, Debug)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the view once and stop, for scripts.
    #[arg(long)]
    once: bool,
    /// Seconds between looks.
    #[arg(long, default_value_t = 2.0)]
    every: f64,
}

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder for a TensorBoard event file per model.
    #[arg(long, required_unless_present = "csv")]
    tensorboard: Option<PathBuf>,
    /// File for one table of all steps.
    #[arg(long)]
    csv: Option<PathBuf>,
}

/// Columns of a curve.
const CURVE: usize = 32;

pub(super) fn run(args: &WatchArgs, shared: &Shared) -> Result<()> {
    if !(args.every > 0.0 && args.every < 1e6) {
        bail!(
            "--every is {}, expected a number of seconds above 0",
            args.every
        );
    }
    let config = args.config.load(shared)?;
    loop {
        let Some(models) = sweep::status(&config)? else {
            if args.once {
                bail!("no sweep has begun in {}", config.out.display());
            }
            std::thread::sleep(Duration::from_secs_f64(args.every));
            continue;
        };
        let view = format!("{}{}\n", view(&models), summary(&models));
        if args.once {
            return table::print(&view);
        }
        // Clear the screen and go to its corner.
        table::print(&format!("\u{1b}[2J\u{1b}[H{view}"))?;
        let done =
            (models.iter().flat_map(|m| &m.cells)).all(|c| matches!(c.state, State::Done(_)));
        if done {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs_f64(args.every));
    }
}

/// One line per model: how far it is, its loss as a curve, what its cells reached.
fn view(models: &[ModelState]) -> String {
    let mut rows = vec![row([
        &"model",
        &"fraction",
        &"seed",
        &"",
        &"steps",
        &"loss",
        &"",
        &"left",
        &"cells",
        &"CGL",
        &"doing",
    ])];
    for model in models {
        let plan = &model.plan;
        let step = model.steps.last().map_or(0, |(step, _)| *step);
        let share = step as f64 / plan.steps as f64;
        let done: Vec<_> = (model.cells.iter())
            .filter_map(|c| match &c.state {
                State::Done(row) => Some(row),
                _ => None,
            })
            .collect();
        let finished = done.len() == model.cells.len();
        let doing = match model
            .cells
            .iter()
            .find(|c| !matches!(c.state, State::Done(_)))
        {
            None => "done".into(),
            Some(cell) => match (&cell.state, &model.claim) {
                (State::Running(stage, share), Some((beat, _))) => {
                    let beam = beat
                        .doing
                        .beam
                        .map_or(String::new(), |b| format!(" beam {b}"));
                    format!("{stage}{beam} {:.0} %, {}", 100.0 * share, beat.owner)
                }
                (State::Failed(message), _) => format!("failed: {message}"),
                (state, _) => state.word().to_string(),
            },
        };
        let left = match model.secs_left {
            _ if finished => String::new(),
            Some(secs) => duration(secs),
            None => "?".into(),
        };
        let losses: Vec<f64> = model.steps.iter().map(|(_, loss)| *loss).collect();
        rows.push(row([
            &plan.name(),
            &plan.fraction,
            &plan.seed,
            &bar(share),
            &format!("{step}/{}", plan.steps),
            &losses
                .last()
                .map_or(String::new(), |loss| format!("{loss:.3}")),
            &curve(&losses),
            &left,
            &format!("{}/{}", done.len(), model.cells.len()),
            &done
                .first()
                .map_or(String::new(), |row| format!("{:.3}", row.cgl)),
            &doing,
        ]));
    }
    table::table_with(&rows, &[0, 3, 6, 10])
}

/// A share as ten blocks.
fn bar(share: f64) -> String {
    let full = (10.0 * share.clamp(0.0, 1.0)).round() as usize;
    "\u{2588}".repeat(full) + &"\u{2591}".repeat(10 - full)
}

/// Values as a line of blocks: the mean of every stretch, between the least and the greatest of them.
fn curve(values: &[f64]) -> String {
    let columns = CURVE.min(values.len());
    let means: Vec<f64> = (0..columns)
        .map(|i| {
            let stretch = &values[i * values.len() / columns..(i + 1) * values.len() / columns];
            stretch.iter().sum::<f64>() / stretch.len() as f64
        })
        .collect();
    let low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let block = |value: &f64| {
        let share = if high > low {
            (value - low) / (high - low)
        } else {
            0.0
        };
        char::from_u32(0x2581 + (share * 7.0).round() as u32).unwrap_or(' ')
    };
    means.iter().map(block).collect()
}

/// Writes the steps of every model for other boards.
pub(super) fn export(args: &ExportArgs, shared: &Shared) -> Result<()> {
    let config: Config = args.config.load(shared)?;
    let Some(plan) = SavedPlan::open(&config.out)? else {
        bail!("no sweep has begun in {}", config.out.display());
    };
    if let Some(path) = &args.csv {
        let steps = sweep::csv(&plan, &config.out, path)?;
        say!("{}  {steps} steps", path.display());
    }
    if let Some(folder) = &args.tensorboard {
        for path in sweep::tensorboard(&plan, &config.out, folder)? {
            say!("{}", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_fall_as_their_values_do() {
        assert_eq!(curve(&[]), "");
        assert_eq!(curve(&[2.0, 2.0]), "\u{2581}\u{2581}");
        assert_eq!(curve(&[8.0, 1.0]), "\u{2588}\u{2581}");
        let long: Vec<f64> = (0..1000).map(|i| -f64::from(i)).collect();
        let text: Vec<char> = curve(&long).chars().collect();
        assert_eq!(text.len(), CURVE);
        assert!(text.windows(2).all(|pair| pair[1] <= pair[0]));
        assert_eq!(bar(0.5).matches('\u{2588}').count(), 5);
    }
}
