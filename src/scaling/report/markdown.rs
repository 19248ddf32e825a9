//! The report as Markdown: one table per question, caveats beside the numbers they qualify.

use std::fmt::Write as _;

use super::{LawReport, Report, Section};
use crate::scaling::bootstrap::Interval;
use crate::scaling::minimise::HUBER_DELTA;

/// A number in at most four significant digits: 0.0412, 3.5, 12700, 1.27e7.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    if !(1e-3..1e5).contains(&size) {
        let text = format!("{value:.3e}");
        let (mantissa, exponent) = text
            .split_once('e')
            .expect("scientific notation has an exponent");
        return format!(
            "{}e{exponent}",
            mantissa.trim_end_matches('0').trim_end_matches('.')
        );
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "n/a".into(), number)
}

fn percent(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

fn range(bounds: [f64; 2]) -> String {
    format!("{} .. {}", number(bounds[0]), number(bounds[1]))
}

impl Report {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        self.write_markdown(&mut out)
            .expect("writing to a string cannot fail");
        out
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        let study = &self.study;
        writeln!(out, "# {}\n", study.title)?;
        writeln!(
            out,
            "N: {}. D: {}. Training FLOPs: {}. Fits minimise the sum of Huber losses (delta {HUBER_DELTA}) of \
             ln L^ - ln L. Intervals: {:.0} % BCa (percentile beside it), {} bootstrap replicates, seed {}; runs \
             are resampled, and queries too where a section says so. genret {}, rows {}.\n",
            study.params_name,
            study.data_name,
            study.flops_formula,
            100.0 * self.level,
            self.replicates,
            self.seed,
            self.version,
            self.rows_hash
        )?;
        for section in &self.sections {
            write_section(out, section)?;
        }
        self.write_frontier(out)?;
        self.write_pareto(out)?;
        self.write_runs(out)
    }

    fn write_frontier(&self, out: &mut String) -> std::fmt::Result {
        let Some(frontier) = &self.frontier else {
            return Ok(());
        };
        writeln!(out, "## What to buy with a training budget\n")?;
        writeln!(
            out,
            "C = {} N D (median of the runs; they differ from it by up to {}). N_opt grows as C^{}, D_opt as \
             C^{}.\n",
            number(self.kappa.0),
            percent(self.kappa.1),
            with_range(&frontier.size_exponent),
            with_range(&frontier.data_exponent)
        )?;
        writeln!(
            out,
            "| C (FLOPs) | N_opt | D_opt | {} | |",
            self.study.loss_name
        )?;
        writeln!(out, "|---|---|---|---|---|")?;
        for best in &frontier.allocations {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                number(best.flops),
                with_range(&best.params),
                with_range(&best.data),
                with_range(&best.loss),
                if best.measured { "" } else { "extrapolated" }
            )?;
        }
        writeln!(out)
    }

    fn write_pareto(&self, out: &mut String) -> std::fmt::Result {
        if self.pareto.is_empty() {
            return Ok(());
        }
        writeln!(out, "## What to buy with an inference budget\n")?;
        writeln!(
            out,
            "Measured rows that no cheaper one matches in {}. FLOPs per query: {}.\n",
            self.study.quality_name, self.study.decode_flops_formula
        )?;
        writeln!(
            out,
            "| FLOPs per query | run | N | D | beam width | {} |",
            self.study.quality_name
        )?;
        writeln!(out, "|---|---|---|---|---|---|")?;
        for &index in &self.pareto {
            let row = &self.study.decode[index];
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                number(row.flops),
                row.run,
                number(row.params),
                number(row.data),
                row.beam,
                number(row.quality)
            )?;
        }
        writeln!(out)
    }

    fn write_runs(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## Runs\n")?;
        let loss = &self.study.loss_name;
        writeln!(
            out,
            "| run | seed | N | N with embeddings | D | tokens | unique data | FLOPs | {loss} | in the fit |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|---|---|")?;
        for row in &self.study.train {
            let seed = row
                .seed
                .map_or_else(|| "n/a".into(), |seed| seed.to_string());
            let fitted = row
                .held_out
                .as_ref()
                .map_or_else(|| "yes".into(), |why| format!("no: {why}"));
            writeln!(
                out,
                "| {} | {seed} | {} | {} | {} | {} | {} | {} | {} | {fitted} |",
                row.run,
                number(row.params),
                optional(row.params_total),
                number(row.data),
                optional(row.tokens),
                optional(row.unique_data),
                number(row.flops),
                number(row.loss)
            )?;
        }
        Ok(())
    }
}

impl Section {
    /// The section as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        write_section(&mut out, self).expect("writing to a string cannot fail");
        out
    }
}

fn write_section(out: &mut String, section: &Section) -> std::fmt::Result {
    writeln!(out, "## {}\n", section.title)?;
    writeln!(
        out,
        "| form | formula | k | AICc | RMSE of ln L | error left out | |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for candidate in &section.candidates {
        let chosen = section
            .answer
            .as_ref()
            .is_some_and(|a| a.fit.law == candidate.law);
        writeln!(
            out,
            "| {} | `{}` | {} | {} | {} | {} | {} |",
            candidate.law.name(),
            candidate.law.formula(&section.symbols),
            candidate.law.num_params(),
            optional(candidate.aicc),
            optional(candidate.rmse_log),
            candidate
                .left_out_error
                .map_or_else(|| "n/a".into(), percent),
            candidate
                .refused
                .as_deref()
                .unwrap_or(if chosen { "preferred" } else { "" })
        )?;
    }
    match &section.answer {
        Some(answer) => write_answer(out, section, answer),
        None => writeln!(
            out,
            "\nNo law: the {} rows do not determine one.\n",
            section.points.len()
        ),
    }
}

fn with_range(interval: &Interval) -> String {
    format!("{} ({})", number(interval.estimate), range(interval.bca))
}

fn write_answer(out: &mut String, section: &Section, answer: &LawReport) -> std::fmt::Result {
    let fit = &answer.fit;
    writeln!(
        out,
        "\n| parameter | estimate | interval (BCa) | percentile | standard error |"
    )?;
    writeln!(out, "|---|---|---|---|---|")?;
    for (i, name) in fit.law.param_names().iter().enumerate() {
        let value = number(fit.params[i]);
        match &answer.intervals {
            Some(all) => {
                let Interval {
                    bca,
                    percentile,
                    std_error,
                    ..
                } = all[i];
                let (bca, percentile) = (range(bca), range(percentile));
                writeln!(
                    out,
                    "| {name} | {value} | {bca} | {percentile} | {} |",
                    number(std_error)
                )?;
            }
            None => writeln!(out, "| {name} | {value} | n/a | n/a | n/a |")?,
        }
    }
    let queries = match answer.num_queries {
        0 => String::new(),
        queries => format!(" x {queries} queries"),
    };
    writeln!(
        out,
        "\nn = {}, k = {}, n - k = {}; resampled: {} runs{queries} ({} draws repeated). RMSE of ln L {}, R2 of ln L \
         {:.5}, R2 of the reducible part {}. Optimum: sum of Huber losses {:.4e}, gradient norm {:.0e}, reached by {} of \
         {} starts.\n",
        fit.n,
        fit.k,
        fit.n - fit.k,
        answer.num_runs,
        answer.redrawn,
        number(fit.rmse_log),
        fit.r2_log,
        fit.r2_reducible
            .map_or_else(|| "n/a".into(), |r| format!("{r:.5}")),
        fit.objective,
        fit.gradient_norm,
        percent(fit.best_share),
        fit.starts
    )?;
    match &answer.extrapolation {
        None => writeln!(out, "Extrapolation: {}.\n", answer.extrapolation_note)?,
        Some(result) => {
            writeln!(
                out,
                "Extrapolation ({}): mean error {}, largest {}; {} of the {:.0} % prediction intervals hold the \
                 measured value.\n",
                answer.extrapolation_note,
                percent(result.mean_error),
                percent(result.max_error),
                result.coverage.map_or_else(|| "n/a".into(), percent),
                100.0 * result.level
            )?;
            writeln!(out, "| run | measured | predicted | error | interval | |")?;
            writeln!(out, "|---|---|---|---|---|---|")?;
            for row in &result.predictions {
                writeln!(
                    out,
                    "| {} | {} | {} | {} | {} | {} |",
                    row.run,
                    number(row.observed),
                    number(row.predicted),
                    percent(row.relative_error),
                    row.interval.map_or_else(|| "n/a".into(), range),
                    match row.inside() {
                        Some(true) => "inside",
                        Some(false) => "outside",
                        None => "",
                    }
                )?;
            }
            writeln!(out)?;
        }
    }
    write_left_out(out, section, answer)?;
    if let Some(most) = answer.influence.first().filter(|i| !i.shifts.is_empty()) {
        writeln!(
            out,
            "Most influential run: {}; without it a parameter moves by {:.1} standard errors.\n",
            most.run,
            most.largest()
        )?;
    }
    for warning in &answer.warnings {
        writeln!(out, "- Caution: {warning}.")?;
    }
    if !answer.warnings.is_empty() {
        writeln!(out)?;
    }
    Ok(())
}

fn write_left_out(out: &mut String, section: &Section, answer: &LawReport) -> std::fmt::Result {
    let (all, input) = (&answer.left_out, &section.inputs[0]);
    if all.len() > 12 {
        let known: Vec<f64> = all
            .iter()
            .filter_map(|level| level.mean_error)
            .map(f64::abs)
            .collect();
        let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
        let worst = known.iter().fold(0.0, |m: f64, e| m.max(*e));
        return writeln!(
            out,
            "One of {} levels of {input} left out: mean |error| {}, largest {}, {} undetermined.\n",
            all.len(),
            percent(mean),
            percent(worst),
            all.len() - known.len()
        );
    }
    let errors = all.iter().map(|level| {
        let error = level
            .mean_error
            .map_or_else(|| "undetermined".into(), percent);
        format!("{}: {error}", number(level.level))
    });
    let errors: Vec<String> = errors.collect();
    writeln!(
        out,
        "Mean error when one level of {input} is left out: {}.\n",
        errors.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_unambiguous() {
        for (value, text) in [
            (0.0412345, "0.04123"),
            (3.5, "3.5"),
            (12700.0, "12700"),
            (1.27e7, "1.27e7"),
            (1e6, "1e6"),
            (-0.25, "-0.25"),
            (0.0, "0"),
            (999.96, "1000"),
            (2.5e-5, "2.5e-5"),
            (123_456.0, "1.235e5"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
