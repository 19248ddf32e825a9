//! Laws and pictures of the rows that are there.

use anyhow::Result;

use super::{ConfigArgs, row};
use crate::cli::shared::Shared;
use crate::cli::table::{self, say};
use crate::config::Config;
use crate::scaling::report::{ONE_RUN, Report};
use crate::sweep::{self, CellRow, Output, SavedPlan};

pub(super) fn run(args: &ConfigArgs, shared: &Shared, output: Output) -> Result<()> {
    let config = args.load(shared)?;
    let rows = rows(&config)?;
    write(&config, &rows, output)
}

/// Draws everything and prints where.
pub(super) fn plot(args: &ConfigArgs, shared: &Shared) -> Result<()> {
    let config = args.load(shared)?;
    let made = sweep::report(&config, &rows(&config)?, Output::All)?;
    for picture in made
        .written
        .iter()
        .flat_map(|w| &w.pictures)
        .chain(&made.pictures)
    {
        say!("{}", picture.display());
    }
    Ok(())
}

/// The finished rows of the configuration's settings, in the order of the plan.
pub(super) fn rows(config: &Config) -> Result<Vec<CellRow>> {
    let settings = config.decode_settings();
    Ok(match SavedPlan::open(&config.out)? {
        Some(plan) => sweep::collect(config, &plan.cells())?,
        // A folder of before plans were written.
        None => {
            let mut rows = sweep::read_rows(config)?;
            rows.retain(|row| row.settings == settings);
            rows
        }
    })
}

/// Fits, draws and prints the laws of the rows.
pub(super) fn write(config: &Config, rows: &[CellRow], output: Output) -> Result<()> {
    let made = sweep::report(config, rows, output)?;
    print_rows(rows, config)?;
    for written in &made.written {
        print_laws(&written.report)?;
        let folder = &written.folder;
        say!("report    {}", folder.join("scaling.md").display());
        for picture in &written.pictures {
            say!("picture   {}", picture.display());
        }
    }
    for (series, comparison) in &made.comparisons {
        let of = match series.is_empty() {
            true => String::new(),
            false => format!("{series}: "),
        };
        say!("\n{of}{}", comparison.verdict);
    }
    say!("report    {}", made.summary.display());
    for picture in &made.pictures {
        say!("picture   {}", picture.display());
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
        &"series",
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
            &cell.series(),
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
    table::print(&table::table(&rows, 2))
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
                    let [value, low, high] = [fit.params[i], low, high].map(compact);
                    format!("{name} = {value} [{low}, {high}]")
                }
                None => format!("{name} = {}", compact(fit.params[i])),
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

/// A number in few characters.
fn compact(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-3..1e6).contains(&size) => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}
