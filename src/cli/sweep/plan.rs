//! What to buy with a budget, and which cells to run first.

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use super::{ConfigArgs, report, row};
use crate::cli::shared::Shared;
use crate::cli::table::{self, say};
use crate::config::Config;
use crate::experiment::Experiment;
use crate::scaling::design::{self, Assumed, Candidate, Criterion, Design};
use crate::scaling::report::ReportOptions;
use crate::scaling::{Interval, Law, Observation, fit};
use crate::sweep::{self, CellRow, SavedModel, SavedPlan};

#[derive(Args, Debug)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// FLOPs to spend on training and on the queries to serve, such as 1e18.
    #[arg(long)]
    budget: Option<f64>,
    /// Hours of the device instead of FLOPs, with --flops-per-sec.
    #[arg(long, conflicts_with = "budget", requires = "flops_per_sec")]
    gpu_hours: Option<f64>,
    /// Peak FLOPs per second of the device.
    #[arg(long)]
    flops_per_sec: Option<f64>,
    /// Share of the peak that is reached.
    #[arg(long, default_value_t = 0.4)]
    mfu: f64,
    /// Queries that will be served from the budget.
    #[arg(long, default_value_t = 0.0)]
    queries: f64,
    /// The most training pairs that can be had [default: no limit].
    #[arg(long)]
    most_data: Option<f64>,
    /// Say instead which cells of the grid pin down the law of size and data best for the budget [default
    /// budget: half of what the whole grid costs].
    #[arg(long)]
    design: bool,
    /// What a design is judged by: the variances of the exponents, or the determinant of the information.
    #[arg(long, value_enum, default_value_t = Judge::Exponents, requires = "design")]
    criterion: Judge,
    /// Standard deviation of ln L between runs that a design assumes [default: that of the rows, else 0.01].
    #[arg(long, requires = "design")]
    noise: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Judge {
    Exponents,
    Determinant,
}

pub(super) fn run(args: &PlanArgs, shared: &Shared) -> Result<()> {
    let config = args.config.load(shared)?;
    let budget = match (args.budget, args.gpu_hours, args.flops_per_sec) {
        (Some(flops), ..) => Some(flops),
        (None, Some(hours), Some(rate)) => Some(hours * 3600.0 * rate * args.mfu),
        _ => None,
    };
    for (flag, value) in [
        ("--budget", budget.unwrap_or(1.0)),
        ("--mfu", args.mfu),
        ("--most-data", args.most_data.unwrap_or(1.0)),
        ("--noise", args.noise.unwrap_or(1.0)),
    ] {
        ensure!(
            value > 0.0 && value.is_finite(),
            "{flag} comes to {value}, expected a positive number"
        );
    }
    ensure!(
        args.queries >= 0.0 && args.queries.is_finite(),
        "--queries is {}, expected a number from 0",
        args.queries
    );
    if args.design {
        return cells(args, config, budget);
    }
    let Some(budget) = budget else {
        bail!("say what to spend: --budget FLOPS, or --gpu-hours H --flops-per-sec R");
    };
    let rows = report::rows(&config)?;
    let most = args.most_data.unwrap_or(f64::INFINITY);
    let all = sweep::purchases(&config, &rows, budget, args.queries, most)?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    say!(
        "{budget:.3e} FLOPs, from which {} queries are served; N non-embedding parameters, D training pairs",
        args.queries
    );
    let several = all.iter().any(|b| b.series != all[0].series);
    let mut lines = vec![row([
        &"best by",
        &"N",
        &"D",
        &"beam",
        &"expected",
        &"queries",
    ])];
    let mut remarks = vec![];
    let mut cautions: Vec<(String, Vec<String>)> = vec![];
    for bought in &all {
        let name = match several {
            true => format!("{}: {}", bought.series, bought.measure),
            false => bought.measure.clone(),
        };
        let Some(found) = &bought.purchase else {
            let why = bought.refused.clone().unwrap_or_default();
            remarks.push(format!("{name}: {why}"));
            continue;
        };
        let has_beam = bought.law.as_ref().is_some_and(|law| law.contains('w'));
        lines.push(row([
            &name,
            &range(&found.params),
            &range(&found.data),
            &match has_beam {
                true => range(&found.beam),
                false => "any".into(),
            },
            &range(&found.value),
            &format!("{:.0} %", 100.0 * found.query_share),
        ]));
        for caution in &found.cautions {
            match cautions.iter_mut().find(|(text, _)| text == caution) {
                Some((_, names)) => names.push(name.clone()),
                None => cautions.push((caution.clone(), vec![name.clone()])),
            }
        }
    }
    table::print(&table::table(&lines, 1))?;
    for (caution, names) in cautions {
        let whose = match names.len() == lines.len() - 1 {
            true => "by every law".to_string(),
            false => names.join(", "),
        };
        say!("caution: {whose}: {caution}");
    }
    for remark in remarks {
        say!("no answer: {remark}");
    }
    Ok(())
}

fn range(interval: &Interval) -> String {
    let [low, high] = interval.percentile;
    let digits = |v: f64| match v.abs() {
        0.0 => "0".to_string(),
        size if (1e-3..1e4).contains(&size) => {
            let decimals = (2 - size.log10().floor() as i32).clamp(0, 4) as usize;
            format!("{v:.decimals$}")
        }
        _ => format!("{v:.2e}"),
    };
    let (value, low, high) = (digits(interval.estimate), digits(low), digits(high));
    format!("{value} [{low}, {high}]")
}

/// Which cells of the grid to run.
fn cells(args: &PlanArgs, config: Config, budget: Option<f64>) -> Result<()> {
    let plan = match SavedPlan::open(&config.out)? {
        Some(plan) => plan,
        None => {
            ensure!(
                !config.sweep.sizes.is_empty(),
                "{}: [sweep] names no sizes to choose from",
                args.config.config.display()
            );
            let experiment = Experiment::open(config.clone(), &mut |what| eprintln!("{what}"))?;
            sweep::plan(&experiment)?.to_saved(&experiment)?
        }
    };
    let candidates: Vec<Candidate> = (plan.models.iter())
        .map(|model| Candidate {
            x: vec![model.params_non_embedding as f64, model.pairs as f64],
            cost: model.flops(plan.queries),
        })
        .collect();
    let all: f64 = candidates.iter().map(|c| c.cost).sum();
    let budget = budget.unwrap_or(0.5 * all);
    let rows = report::rows(&config)?;
    let (mut assumed, source) = assumed(&rows, &candidates)?;
    if let Some(noise) = args.noise {
        assumed.noise = noise;
    }
    let criterion = match args.criterion {
        Judge::Exponents => Criterion::Exponents,
        Judge::Determinant => Criterion::Determinant,
    };
    let chosen = design::design(&assumed, &candidates, budget, criterion);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&chosen)?);
        return Ok(());
    }
    say!(
        "{} with parameters {source}, noise of ln L {:.3}",
        assumed.law.formula(&["N", "D"]),
        assumed.noise
    );
    print_cells(&plan.models, &candidates, &chosen)?;
    let whole = design::whole(&assumed, &candidates);
    for (what, design) in [("these cells", &chosen), ("the whole grid", &whole)] {
        let errors: Vec<String> = (design.std_errors.iter())
            .map(|(name, error)| match error.is_finite() {
                true => format!("{name} +- {error:.4}"),
                false => format!("{name} undetermined"),
            })
            .collect();
        say!(
            "{what}: {} models, {:.2e} FLOPs, expected {}",
            design.chosen.len(),
            design.cost,
            errors.join(", ")
        );
    }
    Ok(())
}

fn print_cells(models: &[SavedModel], candidates: &[Candidate], design: &Design) -> Result<()> {
    let mut lines = vec![row([&"size", &"fraction", &"seed", &"N", &"D", &"FLOPs"])];
    for &i in &design.chosen {
        let model = &models[i];
        lines.push(row([
            &model.size,
            &model.fraction,
            &model.seed,
            &model.params_non_embedding,
            &model.pairs,
            &format!("{:.2e}", candidates[i].cost),
        ]));
    }
    table::print(&table::table(&lines, 1))
}

/// The law that is assumed: that of the rows, or a guess.
fn assumed(rows: &[CellRow], candidates: &[Candidate]) -> Result<(Assumed, &'static str)> {
    let mut observed: Vec<Observation> = vec![];
    for row in rows {
        if let Some(y) = row.validation_loss
            && !observed.iter().any(|o| o.cluster == row.model)
        {
            observed.push(Observation {
                x: vec![row.params_non_embedding as f64, row.pairs as f64],
                y,
                cluster: row.model.clone(),
                per_query: None,
            });
        }
    }
    let search = ReportOptions::default().search;
    for law in [Law::Chinchilla, Law::Joint] {
        if let Ok(fit) = fit(law, &observed, &search)
            && fit.warnings.is_empty()
        {
            let assumed = Assumed {
                law,
                theta: fit.theta,
                noise: fit.rmse_log,
            };
            return Ok((assumed, "fitted to the rows that are there"));
        }
    }
    let law = Law::Chinchilla;
    let assumed = Assumed {
        law,
        theta: design::guess(law, candidates),
        noise: 0.01,
    };
    Ok((assumed, "guessed: exponents 0.35, equal parts"))
}
