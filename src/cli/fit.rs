//! `genret fit`: a scaling law for the columns of any table.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::Value;

use super::shared::Shared;
use super::table::print;
use crate::atomic_file;
use crate::plot::study::draw_section;
use crate::scaling::report::{Point, Question, ReportOptions, Section, answer};
use crate::scaling::{BootstrapOptions, FitOptions, Law, Observation};

/// Flags of `genret fit`.
#[derive(Args, Debug)]
pub struct FitArgs {
    /// The table: .csv, .tsv (both with a header line) or .jsonl (one object a line).
    rows: PathBuf,
    /// Columns of the inputs, separated by commas: one dial, or model size and data, or those and beam width.
    /// In JSONL a dot enters an object.
    #[arg(long, value_delimiter = ',', required = true)]
    x: Vec<String>,
    /// Column of the value: a loss, or a measure for the saturating law.
    #[arg(long)]
    y: String,
    /// The form: power, power-free, broken, saturating (one input), joint, chinchilla, saturating-joint (two),
    /// chinchilla-beam, saturating-beam, reuse (three; reuse takes size, unique data and epochs), or auto, which compares those for a falling value by AICc.
    #[arg(long, default_value = "auto")]
    law: String,
    /// Column that names the run; rows of one run are resampled together [default: every row is a run].
    #[arg(long)]
    cluster: Option<String>,
    /// Column with the array of per-query values whose mean is the value, to resample queries too (JSONL only).
    #[arg(long)]
    per_query: Option<String>,
    /// Column of the cost in FLOPs by which cheap rows are told from expensive ones [default: the product of the
    /// inputs].
    #[arg(long)]
    cost: Option<String>,
    /// Share of the rows, cheapest first, from which the others are predicted.
    #[arg(long, default_value_t = 0.7)]
    cheap_share: f64,
    /// Number of bootstrap replicates.
    #[arg(long, default_value_t = 1000)]
    bootstrap: usize,
    /// Coverage of the intervals, between 0 and 1.
    #[arg(long, default_value_t = 0.95)]
    level: f64,
    /// About how many starts to search from.
    #[arg(long, default_value_t = 1000)]
    starts: usize,
    /// Folder for fit.json, fit.md and the pictures; made if absent [default: nothing is written].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON instead of Markdown.
    #[arg(long)]
    json: bool,
}

/// Fits the laws, prints what is known of the preferred one and draws it.
pub fn run(args: &FitArgs, shared: &Shared) -> anyhow::Result<()> {
    ensure!(
        args.level > 0.0 && args.level < 1.0,
        "--level is {}, expected a number between 0 and 1, e.g. 0.95",
        args.level
    );
    ensure!(
        args.cheap_share > 0.0 && args.cheap_share < 1.0,
        "--cheap-share is {}, expected a number between 0 and 1, e.g. 0.7",
        args.cheap_share
    );
    ensure!(
        args.bootstrap >= 2,
        "--bootstrap is {}, expected at least 2",
        args.bootstrap
    );
    let mut laws = laws(&args.law, args.x.len())?;
    let rows = load(args)?;
    if laws.len() > 1 {
        // A break is a last resort, and three more parameters: only where the rows are twice as many as they.
        laws.retain(|law| *law != Law::Broken || rows.len() >= 2 * law.num_params());
    }
    let symbols = match args.x.len() {
        1 => vec!["x"],
        _ if laws == [Law::Reuse] => vec!["N", "U", "e"],
        count => ["N", "D", "w"][..count].to_vec(),
    };
    let question = Question {
        name: "fit".into(),
        title: format!("{} against {}", args.y, args.x.join(" and ")),
        inputs: args.x.clone(),
        symbols,
        cost: if args.cost.is_some() {
            "FLOPs"
        } else {
            "product of the inputs"
        },
        value: args.y.clone(),
    };
    let options = ReportOptions {
        search: FitOptions {
            starts: args.starts,
        },
        resampling: BootstrapOptions {
            replicates: args.bootstrap,
            seed: shared.seed.unwrap_or(0),
            level: args.level,
        },
        cheap_share: args.cheap_share,
    };
    let section = answer(question, &laws, rows, &options)
        .with_context(|| format!("fitting {}", args.rows.display()))?;
    if section.answer.is_none() {
        let reasons: Vec<&str> = section
            .candidates
            .iter()
            .filter_map(|c| c.refused.as_deref())
            .collect();
        bail!("{}: {}", args.rows.display(), reasons.join("; "));
    }
    let json = serde_json::to_string_pretty(&section)? + "\n";
    if let Some(folder) = &args.out {
        write(&section, &json, args.level, folder)?;
    }
    if args.json {
        print(&json)
    } else {
        print(&section.markdown())
    }
}

fn laws(name: &str, inputs: usize) -> anyhow::Result<Vec<Law>> {
    if name == "auto" {
        return Ok(match inputs {
            1 => vec![Law::Power, Law::PowerFree, Law::Broken],
            2 => vec![Law::Chinchilla, Law::Joint],
            3 => vec![Law::ChinchillaBeam],
            _ => bail!("--x names {inputs} columns, expected 1 to 3"),
        });
    }
    let Some(law) = Law::from_name(name) else {
        let known: Vec<&str> = Law::ALL.iter().map(|law| law.name()).collect();
        bail!("--law is `{name}`, expected auto, {}", known.join(", "));
    };
    ensure!(
        law.num_inputs() == inputs,
        "--law {name} takes {} column(s) in --x, {inputs} given",
        law.num_inputs()
    );
    Ok(vec![law])
}

fn write(section: &Section, json: &str, level: f64, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, text) in [("fit.json", json), ("fit.md", &section.markdown())] {
        let path = folder.join(name);
        atomic_file::write(&path, |file| file.write_all(text.as_bytes()))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    for path in draw_section(section, level, folder, "png")? {
        eprintln!("{}", path.display());
    }
    Ok(())
}

/// The rows of the table in file order.
fn load(args: &FitArgs) -> anyhow::Result<Vec<(Observation, Point)>> {
    let path = &args.rows;
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let records = match extension {
        "csv" => delimited(path, b',')?,
        "tsv" => delimited(path, b'\t')?,
        "jsonl" => json_lines(path)?,
        _ => bail!(
            "{}: expected a table named .csv, .tsv or .jsonl",
            path.display()
        ),
    };
    let mut rows = Vec::with_capacity(records.len());
    for record in &records {
        let here = || format!("{}, line {}", path.display(), record.line);
        let number = |column: &String| record.positive(column).with_context(here);
        let x: Vec<f64> = args.x.iter().map(number).collect::<Result<_, _>>()?;
        let y = number(&args.y)?;
        let cost = args
            .cost
            .as_ref()
            .map_or_else(|| Ok(x.iter().product()), number)?;
        let run = match &args.cluster {
            Some(column) => record.text(column).with_context(here)?,
            None => format!("line {}", record.line),
        };
        let per_query = match &args.per_query {
            Some(column) => Some(record.numbers(column).with_context(here)?),
            None => None,
        };
        rows.push((
            Observation {
                x: x.clone(),
                y,
                cluster: run.clone(),
                per_query,
            },
            Point {
                run,
                x,
                y,
                flops: cost,
                fitted: true,
            },
        ));
    }
    Ok(rows)
}

/// One row with its 1-based line in the file.
struct Record {
    line: u64,
    value: Value,
}

impl Record {
    fn get(&self, column: &str) -> anyhow::Result<&Value> {
        let nested = || {
            column
                .split('.')
                .try_fold(&self.value, |value, part| value.get(part))
        };
        if let Some(value) = self.value.get(column).or_else(nested) {
            return Ok(value);
        }
        let known: Vec<&str> = self
            .value
            .as_object()
            .into_iter()
            .flat_map(|o| o.keys())
            .map(String::as_str)
            .collect();
        bail!("no column `{column}`; there are {}", known.join(", "))
    }

    fn positive(&self, column: &str) -> anyhow::Result<f64> {
        let value = self.get(column)?;
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => bail!(
                "column `{column}` is {value}, expected a positive number; correct or remove the row"
            ),
        }
    }

    fn text(&self, column: &str) -> anyhow::Result<String> {
        Ok(match self.get(column)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    fn numbers(&self, column: &str) -> anyhow::Result<Vec<f64>> {
        let value = self.get(column)?;
        let numbers = value
            .as_array()
            .and_then(|all| all.iter().map(Value::as_f64).collect());
        numbers.with_context(|| format!("column `{column}` is no array of numbers"))
    }
}

fn delimited(path: &Path, delimiter: u8) -> anyhow::Result<Vec<Record>> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_path(path)
        .with_context(|| format!("reading {}", path.display()))?;
    let header = reader
        .headers()
        .with_context(|| format!("reading {}", path.display()))?
        .clone();
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.with_context(|| format!("reading {}", path.display()))?;
        let line = row.position().map_or(0, csv::Position::line);
        let cells = header.iter().zip(&row);
        let value = cells
            .map(|(name, cell)| (name.trim().to_owned(), Value::from(cell)))
            .collect();
        records.push(Record {
            line,
            value: Value::Object(value),
        });
    }
    Ok(records)
}

fn json_lines(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.trim().is_empty());
    lines
        .map(|(text, line)| {
            let value: Value = serde_json::from_str(text).with_context(|| {
                format!("{}, line {line}: expected a JSON object", path.display())
            })?;
            ensure!(
                value.is_object(),
                "{}, line {line}: expected a JSON object, found {value}",
                path.display()
            );
            Ok(Record { line, value })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: FitArgs,
        #[command(flatten)]
        shared: Shared,
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("genret-fit-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn fit(flags: &[&str]) -> anyhow::Result<()> {
        let whole = Whole::parse_from(["fit"].iter().chain(flags));
        run(&whole.args, &whole.shared)
    }

    /// L = (1e4 / N)^0.5 + 0.1 at eight sizes, as CSV.
    fn csv_table() -> String {
        let mut text = String::from("run,N,loss\n");
        for i in 0..8 {
            let n = 1e4 * 4f64.powi(i);
            text += &format!("r{i},{n},{}\n", (1e4 / n).sqrt() + 0.1);
        }
        text
    }

    #[test]
    fn a_table_becomes_a_law_with_pictures() {
        let folder = folder("table");
        let table = folder.join("rows.csv");
        fs::write(&table, csv_table()).unwrap();
        let out = folder.join("out");
        let flags = [
            "--x",
            "N",
            "--y",
            "loss",
            "--cluster",
            "run",
            "--bootstrap",
            "50",
            "--starts",
            "50",
        ];
        let paths = [table.to_str().unwrap(), "--out", out.to_str().unwrap()];
        fit(&[&paths[..], &flags[..]].concat()).unwrap();
        let json: Value =
            serde_json::from_str(&fs::read_to_string(out.join("fit.json")).unwrap()).unwrap();
        let params = &json["answer"]["fit"]["params"];
        for (found, planted) in params.as_array().unwrap().iter().zip([1e4, 0.5, 0.1]) {
            assert!(
                (found.as_f64().unwrap() / planted - 1.0).abs() < 1e-6,
                "{params}"
            );
        }
        for name in [
            "fit.md",
            "fit.png",
            "fit-residuals-1.png",
            "fit-residuals-flops.png",
        ] {
            assert!(out.join(name).exists(), "{name}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn json_lines_with_nested_columns_and_queries() {
        let folder = folder("jsonl");
        let table = folder.join("rows.jsonl");
        let mut text = String::new();
        for i in 0..6 {
            let n = 1e4 * 4f64.powi(i);
            let loss = (1e4 / n).sqrt();
            text += &format!(
                "{{\"model\":{{\"n\":{n}}},\"loss\":{loss},\"each\":[{},{}]}}\n",
                0.5 * loss,
                1.5 * loss
            );
        }
        fs::write(&table, text).unwrap();
        let flags = [
            "--x",
            "model.n",
            "--y",
            "loss",
            "--law",
            "power-free",
            "--per-query",
            "each",
            "--json",
        ];
        fit(&[
            &[table.to_str().unwrap(), "--bootstrap", "20"][..],
            &flags[..],
        ]
        .concat())
        .unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_column() {
        let folder = folder("mistakes");
        let table = folder.join("rows.csv");
        let path = table.to_str().unwrap();
        let error = |text: &str, flags: &[&str]| {
            fs::write(&table, text).unwrap();
            format!("{:#}", fit(&[&[path][..], flags].concat()).unwrap_err())
        };
        let usual = ["--x", "N", "--y", "loss"];
        let bad = csv_table().replace("r2,160000,0.35", "r2,160000,-0.35");
        let said = error(&bad, &usual);
        assert!(
            said.contains("line 4") && said.contains("column `loss` is \"-0.35\""),
            "{said}"
        );
        let said = error(&csv_table().replace("160000", "many"), &usual);
        assert!(
            said.contains("line 4") && said.contains("column `N` is \"many\""),
            "{said}"
        );
        let said = error(&csv_table(), &["--x", "M", "--y", "loss"]);
        assert!(
            said.contains("no column `M`; there are ") && said.contains("loss"),
            "{said}"
        );
        let said = error(&csv_table(), &["--x", "N", "--y", "loss", "--law", "cubic"]);
        assert!(said.contains("expected auto, power-free"), "{said}");
        let said = error(
            &csv_table(),
            &["--x", "N", "--y", "loss", "--law", "chinchilla"],
        );
        assert!(said.contains("takes 2 column(s)"), "{said}");
        let three: String = csv_table()
            .lines()
            .take(4)
            .map(|l| format!("{l}\n"))
            .collect();
        let said = error(&three, &["--x", "N", "--y", "loss", "--law", "power"]);
        assert!(
            said.contains("3 rows for the 3 parameters of `power`"),
            "{said}"
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
