//! `genret sweep`: a grid of models, its laws and its curves.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::shared::Shared;
use super::train::load_config;
use crate::config::{Config, ExecutorKind};
use crate::sweep::Output;

mod plan;
mod report;
mod run;
mod status;
mod watch;

/// Runs what is missing of a grid, fits scaling laws, draws curves.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_precedence_over_arg = true
)]
pub struct SweepArgs {
    #[command(subcommand)]
    verb: Option<SweepVerb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand, Debug)]
enum SweepVerb {
    /// Show how far every cell is, from the sweep's folder alone.
    Status(ConfigArgs),
    /// Fit the laws to the rows that are there and print them.
    Fit(ConfigArgs),
    /// Draw the pictures of the rows that are there.
    Plot(ConfigArgs),
    /// Fit, draw and write the report of the rows that are there.
    Report(ConfigArgs),
    /// Say what to buy with a budget by the laws of the rows, or which cells pin the laws down.
    Plan(plan::PlanArgs),
    /// Show how far every model is, with its loss as a curve, until all are done.
    Watch(watch::WatchArgs),
    /// Write the training steps of all models for TensorBoard or as CSV.
    Export(watch::ExportArgs),
    /// Work on one model: what executors start.
    #[command(hide = true)]
    Work(WorkArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The configuration, a TOML file.
    #[arg(required = true)]
    config: Option<PathBuf>,
    /// Changes one value of the configuration, such as `sweep.beams=[1,10]`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where the models are worked on, `local` or `slurm` [default: the configuration's, else local].
    #[arg(long)]
    executor: Option<ExecutorKind>,
    /// Worker processes of a local run [default: the configuration's, else 1].
    #[arg(long)]
    workers: Option<usize>,
    /// Show every cell with parameters, tokens, FLOPs, memory and time, and the scripts of a cluster, and stop.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
struct ConfigArgs {
    /// The configuration, a TOML file.
    config: PathBuf,
    /// Changes one value of the configuration; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args, Debug)]
struct WorkArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Id of the model.
    #[arg(long)]
    model: String,
    /// The cluster's name of the task, the same in every life of it.
    #[arg(long)]
    task: Option<String>,
}

pub(super) fn run(args: &SweepArgs, shared: &Shared) -> Result<()> {
    match (&args.verb, &args.run.config) {
        (Some(SweepVerb::Status(args)), _) => status::run(args, shared),
        (Some(SweepVerb::Fit(args)), _) => report::run(args, shared, Output::Laws),
        (Some(SweepVerb::Plot(args)), _) => report::plot(args, shared),
        (Some(SweepVerb::Report(args)), _) => report::run(args, shared, Output::All),
        (Some(SweepVerb::Plan(args)), _) => plan::run(args, shared),
        (Some(SweepVerb::Watch(args)), _) => watch::run(args, shared),
        (Some(SweepVerb::Export(args)), _) => watch::export(args, shared),
        (Some(SweepVerb::Work(args)), _) => run::work(args, shared),
        (None, Some(path)) => run::sweep(path, &args.run, shared),
        (None, None) => bail!("name a configuration, such as configs/quickstart.toml"),
    }
}

impl ConfigArgs {
    fn load(&self, shared: &Shared) -> Result<Config> {
        load_config(&self.config, &self.set, shared)
    }
}

/// A row of a table.
fn row<const N: usize>(cells: [&dyn std::fmt::Display; N]) -> Vec<String> {
    cells.iter().map(|cell| cell.to_string()).collect()
}
