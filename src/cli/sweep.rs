//! `genret sweep`: a grid of models, its laws and its curves.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::progress::Progress;
use super::shared::Shared;
use super::table::{self, say};
use super::train::load_config;
use crate::config::Config;
use crate::experiment::Experiment;
use crate::model;
use crate::scaling::report::{ONE_RUN, Report};
use crate::sweep::{self, CellRow, Event, Plan};

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
    /// Show which cells are finished.
    Status(ConfigArgs),
    /// Fit and draw again from the rows that are there.
    Report(ConfigArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The configuration, a TOML file.
    #[arg(required = true)]
    config: Option<PathBuf>,
    /// Changes one value of the configuration, such as `sweep.beams=[1,10]`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Show every cell with parameters, tokens, FLOPs, memory and time, and stop.
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

/// FLOPs per second that a small model reaches in training on this many processor threads; only for
/// the time estimate of a plan.
fn assumed_flops_per_sec() -> f64 {
    3e10 * std::thread::available_parallelism().map_or(1, |n| n.get()) as f64
}

pub(super) fn run(args: &SweepArgs, shared: &Shared) -> Result<()> {
    match (&args.verb, &args.run.config) {
        (Some(SweepVerb::Status(args)), _) => status(args, shared),
        (Some(SweepVerb::Report(args)), _) => {
            let config = load_config(&args.config, &args.set, shared)?;
            let settings = config.decode_settings();
            let mut rows = sweep::read_rows(&config)?;
            rows.retain(|row| row.settings == settings);
            report(&config, &rows)
        }
        (None, Some(path)) => sweep(path, &args.run, shared),
        (None, None) => bail!("name a configuration, such as configs/quickstart.toml"),
    }
}

fn sweep(path: &std::path::Path, args: &RunArgs, shared: &Shared) -> Result<()> {
    let config = load_config(path, &args.set, shared)?;
    if config.sweep.sizes.is_empty() {
        bail!(
            "{}: [sweep] names no sizes, such as sizes = [\"s0.3m\", \"s1m\"]",
            path.display()
        );
    }
    let device = model::open_device(&shared.device)?;
    let experiment = Experiment::open(config, &mut |what| eprintln!("{what}"))?;
    let plan = sweep::plan(&experiment)?;
    if args.dry_run {
        return print_plan(&plan, &experiment);
    }
    let mut display = Display {
        plan: &plan,
        bar: None,
    };
    let rows = sweep::run(&experiment, &plan, &device, &mut |event| {
        display.show(event)
    })?;
    display.close();
    report(&experiment.config, &rows)
}

/// A row of a table.
fn row<const N: usize>(cells: [&dyn std::fmt::Display; N]) -> Vec<String> {
    cells.iter().map(|cell| cell.to_string()).collect()
}

fn print_plan(plan: &Plan, experiment: &Experiment) -> Result<()> {
    let evaluate = &experiment.config.evaluate;
    let mut rows = vec![row([
        &"size",
        &"fraction",
        &"seed",
        &"parameters",
        &"embedding",
        &"examples",
        &"tokens",
        &"FLOPs",
        &"MB",
        &"beams",
    ])];
    let mut queries = 0;
    for split in &evaluate.splits {
        queries += experiment.queries(split)?.len();
    }
    let (mut flops, mut cells) = (0.0, 0);
    for model in &plan.models {
        let spec = &model.spec;
        let beams: Vec<String> = model.cells.iter().map(|c| c.beam.to_string()).collect();
        rows.push(row([
            &model.size,
            &spec.fraction,
            &spec.seed,
            &spec.model.params_non_embedding(),
            &spec.model.params_embedding(),
            &spec.num_examples,
            &format!("{:.3e}", model.tokens),
            &format!("{:.3e}", model.train_flops),
            &format!("{:.0}", model.memory_bytes / 1e6),
            &beams.join(" "),
        ]));
        let decode: f64 = model.cells.iter().map(|c| c.decode_flops).sum();
        flops += model.train_flops + model.measure_flops + decode * queries as f64;
        cells += model.cells.len();
    }
    table::print(&table::table(&rows, 1))?;
    say!(
        "{} models, {cells} cells, {flops:.2e} FLOPs in training, measuring and decoding: about {:.0} minutes at {:.0} GFLOP/s",
        plan.models.len(),
        flops / assumed_flops_per_sec() / 60.0,
        assumed_flops_per_sec() / 1e9,
    );
    Ok(())
}

fn status(args: &ConfigArgs, shared: &Shared) -> Result<()> {
    let config = load_config(&args.config, &args.set, shared)?;
    let settings = config.decode_settings();
    let done = sweep::read_rows(&config)?;
    let grid = &config.sweep;
    let mut rows = vec![row([&"size", &"fraction", &"seed", &"beam", &"state"])];
    for size in &grid.sizes {
        for &fraction in &grid.fractions {
            for &seed in &grid.seeds {
                for &beam in &grid.beams {
                    let (fraction, seed) = (fraction * config.data.fraction, config.seed + seed);
                    let found = done.iter().find(|r| {
                        r.settings == settings
                            && r.size == *size
                            && (r.fraction, r.seed, r.beam) == (fraction, seed, beam as u64)
                    });
                    let state =
                        found.map_or("missing".into(), |r| format!("done, CGL {:.3}", r.cgl));
                    rows.push(row([size, &fraction, &seed, &beam, &state]));
                }
            }
        }
    }
    table::print(&table::table(&rows, 1))
}

/// Progress of a sweep on stderr.
struct Display<'a> {
    plan: &'a Plan,
    bar: Option<(String, Progress)>,
}

impl Display<'_> {
    fn show(&mut self, event: Event) {
        match event {
            Event::Model(place) => {
                self.close();
                let model = &self.plan.models[place];
                eprintln!(
                    "model {} of {}: {} on {} of the data, seed {}",
                    place + 1,
                    self.plan.models.len(),
                    model.size,
                    model.spec.fraction,
                    model.spec.seed
                );
            }
            Event::Trained(p) => {
                let remark = format!("loss {:.3}, {:.0} tokens/s", p.loss, p.tokens_per_sec);
                self.at("  training".into(), p.step, p.steps, &remark);
            }
            Event::Measured(done, of) => {
                self.at("  contrastive loss".into(), done as u64, of as u64, "");
            }
            Event::Decoded(beam, done, of) => {
                self.at(
                    format!("  decoding, beam {beam}"),
                    done as u64,
                    of as u64,
                    "",
                );
            }
            Event::Cell(row) => {
                self.close();
                let measures: Vec<String> = row
                    .measures
                    .iter()
                    .flat_map(|(split, m)| {
                        m.iter().map(move |(k, v)| format!("{split} {k} {v:.3}"))
                    })
                    .collect();
                eprintln!(
                    "  beam {:>4}: CGL {:.3}, {}",
                    row.beam,
                    row.cgl,
                    measures.join(", ")
                );
            }
        }
    }

    fn at(&mut self, label: String, done: u64, of: u64, remark: &str) {
        if self.bar.as_ref().is_none_or(|(l, _)| *l != label) {
            self.close();
            self.bar = Some((label.clone(), Progress::new(&label, of)));
        }
        if let Some((_, bar)) = &mut self.bar {
            bar.at(done, remark);
        }
    }

    fn close(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
    }
}

/// Fits, draws and prints the laws of the rows.
fn report(config: &Config, rows: &[CellRow]) -> Result<()> {
    if rows.is_empty() {
        bail!(
            "no finished cells in {}: run `genret sweep` first",
            config.out.display()
        );
    }
    print_rows(rows, config)?;
    let quality = (
        &config.evaluate.splits[0][..],
        &config.evaluate.measures[0][..],
    );
    for written in sweep::report(&config.name, rows, quality, &config.out)? {
        print_laws(&written.report)?;
        say!("report    {}", written.folder.join("scaling.md").display());
        for picture in &written.pictures {
            say!("picture   {}", picture.display());
        }
    }
    Ok(())
}

fn print_rows(cells: &[CellRow], config: &Config) -> Result<()> {
    let columns: Vec<(&String, &String)> = config
        .evaluate
        .splits
        .iter()
        .flat_map(|s| config.evaluate.measures.iter().map(move |m| (s, m)))
        .collect();
    let mut head = row([
        &"size",
        &"parameters",
        &"fraction",
        &"pairs",
        &"seed",
        &"beam",
        &"CGL",
        &"+-",
        &"val.loss",
    ]);
    head.extend(
        columns
            .iter()
            .map(|(split, measure)| format!("{split} {measure}")),
    );
    head.extend(row([&"FLOPs/query", &"ms/query"]));
    let mut rows = vec![head];
    for cell in cells {
        let mut line = row([
            &cell.size,
            &cell.params_non_embedding,
            &cell.fraction,
            &cell.pairs,
            &cell.seed,
            &cell.beam,
            &format!("{:.3}", cell.cgl),
            &format!("{:.3}", cell.cgl_se),
            &cell
                .validation_loss
                .map_or("-".into(), |l| format!("{l:.3}")),
        ]);
        line.extend(columns.iter().map(|(split, measure)| {
            let value = cell.measures.get(*split).and_then(|m| m.get(*measure));
            value.map_or("-".into(), |v| format!("{v:.4}"))
        }));
        line.push(format!("{:.3e}", cell.decode_flops));
        line.push(format!("{:.1}", 1000.0 * cell.decode_secs));
        rows.push(line);
    }
    table::print(&table::table(&rows, 1))
}

/// One line per law: its formula with numbers, and how far it can be trusted.
fn print_laws(report: &Report) -> Result<()> {
    say!("\n{} of {}", report.study.loss_name, report.study.title);
    // The laws of single runs are many; they stand in the report.
    for section in report
        .sections
        .iter()
        .filter(|s| !s.name.starts_with(ONE_RUN))
    {
        let Some(answer) = &section.answer else {
            let reasons: Vec<&str> = section
                .candidates
                .iter()
                .filter_map(|c| c.refused.as_deref())
                .collect();
            say!("  {:<10} no law: {}", section.name, reasons.join("; "));
            continue;
        };
        let fit = &answer.fit;
        let intervals = answer.intervals.as_deref().unwrap_or_default();
        let params: Vec<String> = fit
            .law
            .param_names()
            .iter()
            .enumerate()
            .map(|(i, name)| match intervals.get(i) {
                Some(interval) => {
                    let [low, high] = interval.percentile;
                    format!("{name} = {:.4} [{low:.4}, {high:.4}]", fit.params[i])
                }
                None => format!("{name} = {:.4}", fit.params[i]),
            })
            .collect();
        say!(
            "  {:<10} {}",
            section.name,
            fit.law.formula(&section.symbols)
        );
        say!("  {:<10} {}", "", params.join(", "));
        say!(
            "  {:<10} {} points, {} parameters, RMSE of ln {:.4}, R2 of ln {:.4}",
            "",
            fit.n,
            fit.k,
            fit.rmse_log,
            fit.r2_log
        );
        for warning in &answer.warnings {
            say!("  {:<10} warning: {warning}", "");
        }
    }
    Ok(())
}
