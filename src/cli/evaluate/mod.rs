//! `genret evaluate`: measures of runs against judgements, and whether runs differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::RunFailed;
use super::shared::Shared;
use super::table::{print, table};

mod suite;

use crate::data::trec::{Qrels, Run};
use crate::data::{Corpus, load_answers};
use crate::eval::answer::answer_match;
use crate::eval::compare::{CompareOptions, Comparison, compare, holm};
use crate::eval::{Measure, evaluate};
use crate::types::QueryId;

/// Flags of `genret evaluate`.
#[derive(Args, Debug)]
pub struct EvaluateArgs {
    /// Judgements: TREC qrels or a BEIR table (plain, .gz or .zst).
    #[arg(long, required_unless_present = "suite")]
    qrels: Option<PathBuf>,
    /// Rankings in TREC format (plain, .gz or .zst); several files, or the flag several times.
    #[arg(long, required_unless_present = "suite", num_args = 1..)]
    run: Vec<PathBuf>,
    /// A folder of BEIR collections, evaluated together: hits with the query's own id are removed, and the mean
    /// over collections is unweighted.
    #[arg(long, conflicts_with_all = ["qrels", "run", "per_query", "check", "corpus", "only_answered"])]
    suite: Option<PathBuf>,
    /// With --suite: a system's folder, with COLLECTION.trec for every collection; several folders, or the flag
    /// several times.
    #[arg(long, num_args = 1.., requires = "suite")]
    runs: Vec<PathBuf>,
    /// With --suite: ranks every collection by BM25 into this folder, unless it is there, and evaluates it too.
    #[arg(long, requires = "suite", value_name = "FOLDER")]
    bm25: Option<PathBuf>,
    /// With --suite: ranks every collection by this sparse or dense model, unless that is done, and evaluates it
    /// too; rankings lie in its folder, in `suite`. May be repeated.
    #[arg(long, requires = "suite")]
    model: Vec<PathBuf>,
    /// With --model: tokens of a passage that are read, at most [default: as many as in training]; the rankings then lie
    /// in `suite-TOKENS`.
    #[arg(long, requires = "model", value_name = "TOKENS")]
    passage_tokens: Option<NonZeroUsize>,
    /// With --suite: split whose judgements count.
    #[arg(long, default_value = "test", requires = "suite")]
    split: String,
    /// Measures, separated by commas: RR, AP, nDCG (each alone or with @k), R@k, P@k, Success@k, Rprec,
    /// AnswerMatch@k; with (rel=2) grades from 2 are relevant.
    #[arg(long, value_delimiter = ',', default_value = "RR@10,nDCG@10,R@100")]
    measures: Vec<String>,
    /// Print the values of every query too.
    #[arg(long)]
    per_query: bool,
    /// Test all pairs of runs: randomisation test, Holm's correction, bootstrap interval, t-test.
    #[arg(long)]
    compare: bool,
    /// Average over the judged queries that a run has [default: over all judged queries, where a missing
    /// one counts 0].
    #[arg(long)]
    only_answered: bool,
    /// Corpus with the texts of the passages, for AnswerMatch: a BEIR folder or an MS MARCO TSV.
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Queries with answers in metadata.answers, for AnswerMatch [default: queries.jsonl in the folder
    /// given with --corpus].
    #[arg(long)]
    queries: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// TOML file whose [expected] table every run must meet, else the exit code is 1: "RR@10" = { value =
    /// 0.64, tolerance = 0.01 } or { at_least = 0.6 }.
    #[arg(long)]
    check: Option<PathBuf>,
}

/// What a measure should come to.
#[derive(Deserialize, Debug, PartialEq)]
#[serde(untagged)]
enum Expectation {
    Near(Near),
    AtLeast(AtLeast),
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Near {
    value: f64,
    tolerance: f64,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct AtLeast {
    at_least: f64,
}

impl Expectation {
    /// What was expected, if `got` is not it.
    fn missed_by(&self, got: f64) -> Option<String> {
        let (met, text) = match self {
            Self::Near(Near { value, tolerance }) => (
                (got - value).abs() <= *tolerance,
                format!("{value} +- {tolerance}"),
            ),
            Self::AtLeast(AtLeast { at_least }) => {
                (got >= *at_least, format!("at least {at_least}"))
            }
        };
        // A NaN meets nothing.
        (!met).then_some(text)
    }
}

/// A wanted column of the table.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Judged(Measure),
    AnswerMatch(usize),
}

impl Wanted {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        if let Some(cutoff) = text.strip_prefix("AnswerMatch") {
            let cutoff = cutoff
                .strip_prefix('@')
                .and_then(|k| k.parse().ok())
                .filter(|k| *k >= 1);
            return match cutoff {
                Some(k) => Ok(Self::AnswerMatch(k)),
                None => bail!(
                    "measure {text:?}: expected a cutoff of at least 1, such as AnswerMatch@5"
                ),
            };
        }
        Ok(Self::Judged(text.parse()?))
    }

    fn name(&self) -> String {
        match self {
            Self::Judged(measure) => measure.to_string(),
            Self::AnswerMatch(k) => format!("AnswerMatch@{k}"),
        }
    }
}

/// One measure of one run.
struct Column {
    name: String,
    queries: Vec<QueryId>,
    values: Vec<f64>,
    mean: f64,
}

/// One run with all its measures.
struct Report {
    label: String,
    tag: String,
    missing: usize,
    unjudged: usize,
    columns: Vec<Column>,
}

/// Texts and answers for AnswerMatch.
struct Answers {
    corpus: Corpus,
    answers: Vec<(QueryId, Vec<String>)>,
}

/// Runs `genret evaluate`.
///
/// # Errors
/// Those of the files and measures; [`RunFailed`] if an expectation is missed, after the tables.
pub fn run(args: &EvaluateArgs, shared: &Shared) -> anyhow::Result<()> {
    let options = CompareOptions {
        seed: shared.seed.unwrap_or(0),
        ..CompareOptions::default()
    };
    if let Some(folder) = &args.suite {
        return suite::run(args, folder, &options, shared);
    }
    if args.compare && args.run.len() < 2 {
        bail!("--compare needs at least two runs; give --run more files");
    }
    let expected = args
        .check
        .as_deref()
        .map(expectations)
        .transpose()?
        .unwrap_or_default();
    let mut wanted: Vec<Wanted> = vec![];
    for text in args.measures.iter().chain(expected.keys()) {
        let measure = Wanted::parse(text)?;
        if !wanted.contains(&measure) {
            wanted.push(measure);
        }
    }
    let path = args.qrels.as_ref();
    let qrels = Qrels::load(path.expect("asked for by clap where there is no suite"))?;
    let answers = answers(args, &wanted, &qrels)?;
    let labels = labels(&args.run);
    let mut reports = vec![];
    for (path, label) in args.run.iter().zip(labels) {
        reports.push(measure(
            args,
            path,
            label,
            &wanted,
            &qrels,
            answers.as_ref(),
        )?);
    }
    let comparisons = if args.compare {
        compare_all(&reports, &options)
    } else {
        vec![]
    };
    if args.json {
        let value = as_json(args, &qrels, &reports, &comparisons);
        print(&format!("{}\n", serde_json::to_string_pretty(&value)?))?;
    } else {
        print(&as_text(args, &reports, &comparisons, &options))?;
    }
    check(&reports, &expected)
}

/// The `[expected]` table of a file; its other tables are not looked at.
fn expectations(path: &Path) -> anyhow::Result<BTreeMap<String, Expectation>> {
    #[derive(Deserialize)]
    struct File {
        expected: BTreeMap<String, Expectation>,
    }
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let file: File = toml::from_str(&text).with_context(|| {
        format!(
            "{}: expected a table [expected] of lines such as \"RR@10\" = {{ value = 0.64, tolerance = 0.01 }} or {{ at_least = 0.6 }}",
            path.display()
        )
    })?;
    // Names in the file may be spelled in more than one way.
    file.expected
        .into_iter()
        .map(|(name, e)| Ok((Wanted::parse(&name)?.name(), e)))
        .collect()
}

/// What AnswerMatch needs, if it is wanted: answers of the judged queries that have some.
fn answers(
    args: &EvaluateArgs,
    wanted: &[Wanted],
    qrels: &Qrels,
) -> anyhow::Result<Option<Answers>> {
    if !wanted.iter().any(|w| matches!(w, Wanted::AnswerMatch(_))) {
        return Ok(None);
    }
    let Some(corpus) = &args.corpus else {
        bail!("AnswerMatch needs the texts of the passages; name them with --corpus");
    };
    let queries = args
        .queries
        .clone()
        .unwrap_or_else(|| corpus.join("queries.jsonl"));
    let mut answers = load_answers(&queries)?;
    answers.retain(|(query, _)| qrels.judgements(query.as_str()).is_some());
    if answers.is_empty() {
        bail!(
            "{}: no judged query has metadata.answers; AnswerMatch cannot be measured",
            queries.display()
        );
    }
    Ok(Some(Answers {
        corpus: Corpus::load(corpus)?,
        answers,
    }))
}

/// File names, with their folders where two are the same.
fn labels(paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let names: Vec<Option<String>> = paths.iter().map(name).collect();
    let once = |name: &Option<String>| names.iter().filter(|n| *n == name).count() == 1;
    let label = |(path, name): (&PathBuf, &Option<String>)| match name {
        Some(text) if once(name) => text.clone(),
        _ => path.display().to_string(),
    };
    paths.iter().zip(&names).map(label).collect()
}

fn measure(
    args: &EvaluateArgs,
    path: &Path,
    label: String,
    wanted: &[Wanted],
    qrels: &Qrels,
    answers: Option<&Answers>,
) -> anyhow::Result<Report> {
    let run = Run::load(path)?;
    let judged: Vec<Measure> = wanted
        .iter()
        .filter_map(|w| {
            if let Wanted::Judged(measure) = w {
                Some(*measure)
            } else {
                None
            }
        })
        .collect();
    let evaluation = evaluate(qrels, &run, &judged);
    let (missing, unjudged) = (evaluation.num_missing(), evaluation.num_unjudged());
    if missing == qrels.len() && (!run.is_empty() || args.only_answered) {
        bail!(
            "{}: none of its {} queries is judged in {}; the files do not belong together",
            path.display(),
            run.len(),
            qrels.path().display()
        );
    }
    if missing > 0 {
        let rule = if args.only_answered {
            "are left out"
        } else {
            "count 0"
        };
        eprintln!(
            "{label}: {missing} of {} judged queries are not in the run and {rule}",
            qrels.len()
        );
    }
    if unjudged > 0 {
        eprintln!("{label}: {unjudged} queries have no judgements and count nowhere");
    }
    let means = if args.only_answered {
        evaluation.means_of_answered()
    } else {
        evaluation.means()
    };
    let cutoffs: Vec<usize> = wanted
        .iter()
        .filter_map(|w| {
            if let Wanted::AnswerMatch(k) = w {
                Some(*k)
            } else {
                None
            }
        })
        .collect();
    let matches = match answers {
        Some(Answers { corpus, answers }) => {
            let text = |id: &str| corpus.find(id).map(|p| &corpus.passage(p).text[..]);
            answer_match(&run, answers, text, &cutoffs)
                .with_context(|| path.display().to_string())?
        }
        None => vec![],
    };
    let column = |w: &Wanted| match w {
        Wanted::Judged(measure) => {
            let at = judged
                .iter()
                .position(|m| m == measure)
                .expect("collected from the same list");
            let queries = evaluation.queries().to_vec();
            let values = evaluation.values(at).to_vec();
            Column {
                name: w.name(),
                queries,
                values,
                mean: means[at],
            }
        }
        Wanted::AnswerMatch(k) => {
            let at = cutoffs
                .iter()
                .position(|c| c == k)
                .expect("collected from the same list");
            let queries: Vec<QueryId> = answers
                .iter()
                .flat_map(|a| &a.answers)
                .map(|(query, _)| query.clone())
                .collect();
            let counted = queries
                .iter()
                .zip(&matches[at])
                .filter(|(query, _)| !args.only_answered || run.ranking(query.as_str()).is_some());
            let counted: Vec<f64> = counted.map(|(_, value)| *value).collect();
            let mean = counted.iter().sum::<f64>() / counted.len() as f64;
            Column {
                name: w.name(),
                queries,
                values: matches[at].clone(),
                mean,
            }
        }
    };
    let columns = wanted.iter().map(column).collect();
    Ok(Report {
        label,
        tag: run.tag().into(),
        missing,
        unjudged,
        columns,
    })
}

/// A pair of runs compared by one measure.
struct Pair {
    measure: String,
    first: String,
    second: String,
    comparison: Comparison,
    p_holm: f64,
}

/// Every pair of runs by every measure; Holm's correction over the pairs of a measure.
fn compare_all(reports: &[Report], options: &CompareOptions) -> Vec<Pair> {
    let mut all = vec![];
    for column in 0..reports[0].columns.len() {
        let mut pairs = vec![];
        for (i, first) in reports.iter().enumerate() {
            for second in &reports[i + 1..] {
                let (a, b) = (&first.columns[column], &second.columns[column]);
                let differences: Vec<f64> =
                    a.values.iter().zip(&b.values).map(|(a, b)| a - b).collect();
                let Some(comparison) = compare(&differences, options) else {
                    continue;
                };
                pairs.push(Pair {
                    measure: a.name.clone(),
                    first: first.label.clone(),
                    second: second.label.clone(),
                    comparison,
                    p_holm: f64::NAN,
                });
            }
        }
        let p_values: Vec<f64> = pairs.iter().map(|p| p.comparison.p_randomisation).collect();
        for (pair, adjusted) in pairs.iter_mut().zip(holm(&p_values)) {
            pair.p_holm = adjusted;
        }
        all.extend(pairs);
    }
    all
}

fn as_text(
    args: &EvaluateArgs,
    reports: &[Report],
    comparisons: &[Pair],
    options: &CompareOptions,
) -> String {
    let names = reports[0].columns.iter().map(|column| column.name.clone());
    let mut text = String::new();
    if args.per_query {
        let head = ["query", "run"]
            .map(String::from)
            .into_iter()
            .chain(names.clone());
        let mut rows: Vec<Vec<String>> = vec![head.collect()];
        let mut seen = BTreeSet::new();
        let queries = reports[0].columns.iter().flat_map(|column| &column.queries);
        let order: Vec<&QueryId> = queries.filter(|query| seen.insert(*query)).collect();
        let places: Vec<BTreeMap<&str, usize>> = reports[0]
            .columns
            .iter()
            .map(|c| {
                c.queries
                    .iter()
                    .enumerate()
                    .map(|(i, q)| (q.as_str(), i))
                    .collect()
            })
            .collect();
        for query in order {
            for report in reports {
                let mut row = vec![query.to_string(), report.label.clone()];
                for (column, place) in report.columns.iter().zip(&places) {
                    let at = place.get(query.as_str());
                    row.push(at.map_or("-".into(), |&i| format!("{:.4}", column.values[i])));
                }
                rows.push(row);
            }
        }
        text.push_str(&table(&rows, 2));
        text.push('\n');
    }
    let mut rows = vec![
        std::iter::once("run".to_string())
            .chain(names)
            .chain(["queries".into()])
            .collect::<Vec<_>>(),
    ];
    for report in reports {
        let mut row = vec![report.label.clone()];
        row.extend(
            report
                .columns
                .iter()
                .map(|column| format!("{:.4}", column.mean)),
        );
        let left_out = if args.only_answered {
            report.missing
        } else {
            0
        };
        row.push((report.columns[0].queries.len() - left_out).to_string());
        rows.push(row);
    }
    text.push_str(&table(&rows, 1));
    if !comparisons.is_empty() {
        let head = [
            "measure",
            "first",
            "second",
            "difference",
            "95 % interval",
            "better",
            "worse",
            "p",
            "p (Holm)",
            "p (t-test)",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        for pair in comparisons {
            let c = &pair.comparison;
            rows.push(vec![
                pair.measure.clone(),
                pair.first.clone(),
                pair.second.clone(),
                format!("{:+.4}", c.difference),
                format!("{:+.4} to {:+.4}", c.interval.0, c.interval.1),
                c.wins.to_string(),
                c.losses.to_string(),
                p_value(Some(c.p_randomisation)),
                p_value(Some(pair.p_holm)),
                p_value(c.p_t),
            ]);
        }
        text.push('\n');
        text.push_str(&table(&rows, 3));
        text.push_str(&format!(
            "p: paired randomisation test, two-sided, at most {} sign patterns, seed {}; Holm over the pairs of a measure\n",
            options.permutations, options.seed
        ));
    }
    text
}

fn p_value(p: Option<f64>) -> String {
    match p {
        None => "-".into(),
        Some(p) if p < 1e-4 => format!("{p:.1e}"),
        Some(p) => format!("{p:.4}"),
    }
}

fn as_json(args: &EvaluateArgs, qrels: &Qrels, reports: &[Report], comparisons: &[Pair]) -> Value {
    let runs: Vec<Value> = reports
        .iter()
        .zip(&args.run)
        .map(|(report, path)| {
            let means: BTreeMap<&str, f64> = report
                .columns
                .iter()
                .map(|c| (&c.name[..], c.mean))
                .collect();
            let mut value = json!({
                "file": path.display().to_string(),
                "run": report.label,
                "tag": report.tag,
                "means": means,
                "missing_queries": report.missing,
                "unjudged_queries": report.unjudged,
            });
            if args.per_query {
                let mut queries: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
                for column in &report.columns {
                    for (query, number) in column.queries.iter().zip(&column.values) {
                        queries
                            .entry(query.as_str())
                            .or_default()
                            .insert(&column.name, *number);
                    }
                }
                value["per_query"] = json!(queries);
            }
            value
        })
        .collect();
    let pairs: Vec<Value> = comparisons
        .iter()
        .map(|pair| {
            let c = &pair.comparison;
            json!({
                "measure": pair.measure,
                "first": pair.first,
                "second": pair.second,
                "queries": c.queries,
                "wins": c.wins,
                "losses": c.losses,
                "difference": c.difference,
                "interval_95": [c.interval.0, c.interval.1],
                "p_randomisation": c.p_randomisation,
                "p_holm": pair.p_holm,
                "p_t_test": c.p_t,
            })
        })
        .collect();
    let mut value = json!({
        "qrels": qrels.path().display().to_string(),
        "judged_queries": qrels.len(),
        "averaged_over": if args.only_answered { "answered" } else { "judged" },
        "runs": runs,
    });
    if args.compare {
        value["comparisons"] = json!(pairs);
    }
    value
}

fn check(reports: &[Report], expected: &BTreeMap<String, Expectation>) -> anyhow::Result<()> {
    let mut missed = vec![];
    for report in reports {
        for column in &report.columns {
            let expectation = expected.get(&column.name);
            if let Some(text) = expectation.and_then(|e| e.missed_by(column.mean)) {
                missed.push(format!(
                    "{}: {} is {:.4}, expected {text}",
                    report.label, column.name, column.mean
                ));
            }
        }
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(RunFailed(missed.join("; ")).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_met_or_missed() {
        let near = Expectation::Near(Near {
            value: 0.5,
            tolerance: 0.01,
        });
        assert_eq!(near.missed_by(0.505), None);
        assert_eq!(near.missed_by(0.52).unwrap(), "0.5 +- 0.01");
        assert!(near.missed_by(f64::NAN).is_some());
        let least = Expectation::AtLeast(AtLeast { at_least: 0.5 });
        assert_eq!(least.missed_by(0.5), None);
        assert_eq!(least.missed_by(0.4).unwrap(), "at least 0.5");
    }

    #[test]
    fn expectation_files_are_read_strictly() {
        let read = |name: &str, text: &str| {
            let path =
                std::env::temp_dir().join(format!("genret-check-{name}-{}", std::process::id()));
            fs::write(&path, text).unwrap();
            let found = expectations(&path);
            fs::remove_file(&path).unwrap();
            found
        };
        let good = "name = \"x\"\n[expected]\n\"MRR@10\" = { value = 0.5, tolerance = 0.1 }\n\"R@5\" = { at_least = 0.2 }\n";
        let found = read("good", good).unwrap();
        assert!(found.keys().eq(["R@5", "RR@10"]));
        assert!(read("none", "[other]\n").is_err());
        assert!(
            read(
                "typo",
                "[expected]\nRR = { value = 0.5, tolerence = 0.1 }\n"
            )
            .is_err()
        );
        assert!(read("measure", "[expected]\nXY = { at_least = 0.5 }\n").is_err());
    }

    #[test]
    fn labels_are_short_where_they_can_be() {
        let paths = ["a/x.trec", "b/x.trec", "c/y.trec"].map(PathBuf::from);
        assert_eq!(labels(&paths), ["a/x.trec", "b/x.trec", "y.trec"]);
    }
}
