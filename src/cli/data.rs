//! `genret data`: generate the embedded corpus, inspect a collection.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::shared::Shared;
use super::synth::{self, SynthArgs};
use super::table::{print, table};
use crate::data::inspect::{Inspection, Lengths, inspect};

/// Verbs of `genret data`.
#[derive(Subcommand, Debug)]
pub enum DataCommand {
    /// Count passages, queries and judgements, and list everything that is wrong with them.
    Inspect(InspectArgs),
    /// Generate the embedded corpus with queries and judgements.
    Synth(SynthArgs),
}

/// Flags of `genret data inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Collection: a BEIR folder (corpus.jsonl, queries.jsonl, qrels/*.tsv; plain, .gz or .zst).
    dir: PathBuf,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// At most this many errors are listed; all are counted.
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

/// Runs a verb of `genret data`.
///
/// # Errors
/// A folder without a corpus; after the report, faults that keep the collection from loading.
pub fn run(command: &DataCommand, shared: &Shared) -> anyhow::Result<()> {
    match command {
        DataCommand::Inspect(args) => run_inspect(args),
        DataCommand::Synth(args) => synth::run(args, shared),
    }
}

fn run_inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let found = inspect(&args.dir, args.limit)?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?;
    } else {
        print(&report(&found))?;
    }
    if found.num_errors > 0 {
        bail!(
            "{} does not load: {} errors",
            args.dir.display(),
            found.num_errors
        );
    }
    Ok(())
}

fn report(found: &Inspection) -> String {
    let row = |cells: &[&str]| {
        cells
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<String>>()
    };
    let mut texts = vec![row(&[
        "",
        "number",
        "words: mean",
        "median",
        "95 % within",
        "longest",
    ])];
    for (name, number, words) in [
        ("passages", found.passages, &found.passage_words),
        ("queries", found.queries, &found.query_words),
    ] {
        let mut cells = row(&[name]);
        cells.push(number.to_string());
        if let Some(Lengths {
            mean,
            median,
            p95,
            max,
        }) = words
        {
            cells.push(format!("{mean:.1}"));
            cells.extend([median, p95, max].map(ToString::to_string));
        }
        texts.push(cells);
    }
    let mut splits = vec![row(&[
        "split",
        "queries",
        "judgements",
        "relevant passages",
        "not in train",
        "queries on these alone",
        "query words in passage",
        "grades",
    ])];
    let or_dash = |number: Option<usize>| number.map_or("-".into(), |n| n.to_string());
    for split in &found.splits {
        let grades: Vec<String> = split
            .grades
            .iter()
            .map(|(grade, count)| format!("{grade}: {count}"))
            .collect();
        splits.push(vec![
            split.name.clone(),
            split.queries.to_string(),
            split.grades.values().sum::<usize>().to_string(),
            split.relevant_passages.to_string(),
            or_dash(split.unseen_passages),
            or_dash(split.unseen_queries),
            split
                .word_overlap
                .map_or("-".into(), |share| format!("{:.1} %", 100.0 * share)),
            grades.join(", "),
        ]);
    }
    let mut text = table(&texts, 1);
    text.push_str(&format!(
        "passages with a title {}, repeated passages {}\n",
        found.titles, found.duplicate_passages
    ));
    if splits.len() > 1 {
        text.push('\n');
        text.push_str(&table(&splits, 1));
    }
    let mut list = |title: String, lines: &[String]| {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}\n"));
            lines
                .iter()
                .for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    };
    list("remarks".into(), &found.remarks);
    let more = found.num_errors - found.errors.len();
    let more = if more > 0 {
        format!(", {more} more than shown")
    } else {
        String::new()
    };
    list(
        format!("errors ({}{more})", found.num_errors),
        &found.errors,
    );
    if found.num_errors > found.errors.len() && found.errors.is_empty() {
        text.push_str(&format!("\nerrors ({})\n", found.num_errors));
    }
    text
}
