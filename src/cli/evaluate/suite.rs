//! `genret evaluate --suite`: one table over several collections, as BEIR is reported.
//!
//! Conventions of BEIR (Thakur et al. 2021): a hit whose id is the query's own id is removed, a query counts 0 where
//! a run lacks it, the last line is the unweighted mean over collections, and a folder of collections (CQADupStack)
//! counts as one, with the mean of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{EvaluateArgs, p_value};
use crate::cli::encoding::TextEncoder;
use crate::cli::shared::Shared;
use crate::cli::table::{print, table};
use crate::data::trec::{Qrels, Run};
use crate::data::{Corpus, load_queries};
use crate::eval::compare::{CompareOptions, Comparison, compare, holm};
use crate::eval::{Evaluation, Measure, evaluate};
use crate::retrieve::bm25::{Bm25, Bm25Options};
use crate::retrieve::{Retriever, run_of};
use crate::types::{Hit, Query};

/// Passages that are found per query: a thousand, and the query's own should it be among them.
const DEPTH: usize = 1001;

/// A collection, or a folder of some.
struct Collection {
    name: String,
    /// Folders below the suite's.
    parts: Vec<PathBuf>,
}

/// The values of all systems on one collection: by system, then by part.
struct Row {
    name: String,
    systems: Vec<Vec<Evaluation>>,
}

/// Runs `genret evaluate --suite`.
///
/// # Errors
/// Those of the files; a collection that a system has no run of.
pub(super) fn run(
    args: &EvaluateArgs,
    suite: &Path,
    options: &CompareOptions,
    shared: &Shared,
) -> Result<()> {
    let measures = args.measures.iter().map(|text| text.trim().parse());
    let measures: Vec<Measure> = measures.collect::<Result<_, _>>()?;
    let collections = collections(suite, &args.split)?;
    let mut systems: Vec<(String, PathBuf)> = vec![];
    for folder in &args.runs {
        let name = folder.file_name().unwrap_or(folder.as_os_str());
        systems.push((name.to_string_lossy().into_owned(), folder.clone()));
    }
    if let Some(folder) = &args.bm25 {
        let rank = &|corpus: &Corpus, queries: &[Query]| {
            let bm25 = Bm25::of_corpus(corpus, &Bm25Options::default())?;
            Ok(bm25.search(queries, DEPTH)?)
        };
        rank_all(suite, &collections, &args.split, folder, "bm25", rank)?;
        systems.push(("bm25".into(), folder.clone()));
    }
    for model in &args.model {
        let encoder = TextEncoder::open(model, args.passage_tokens, shared)?;
        let folder = match args.passage_tokens {
            None => model.join("suite"),
            Some(tokens) => model.join(format!("suite-{tokens}")),
        };
        let name = model.file_name().unwrap_or(model.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let rank = &|corpus: &Corpus, queries: &[Query]| encoder.rank(corpus, queries, DEPTH);
        rank_all(suite, &collections, &args.split, &folder, &name, rank)?;
        systems.push((name, folder));
    }
    if systems.is_empty() {
        bail!("--suite needs rankings: folders with --runs, or --bm25 or --model to make them");
    }
    let mut rows = vec![];
    for collection in &collections {
        let of_system = |(_, folder): &(String, PathBuf)| -> Result<Vec<Evaluation>> {
            let part = |part: &PathBuf| {
                let qrels = Qrels::load(&qrels_path(&suite.join(part), &args.split)?)?;
                let run = Run::load(&run_path(folder, part)?)?.without_own_ids();
                Ok(evaluate(&qrels, &run, &measures))
            };
            collection.parts.iter().map(part).collect()
        };
        rows.push(Row {
            name: collection.name.clone(),
            systems: systems.iter().map(of_system).collect::<Result<_>>()?,
        });
    }
    let names: Vec<String> = systems.into_iter().map(|(name, _)| name).collect();
    let pairs = if args.compare {
        compare_all(&rows, &names, &measures, options)
    } else {
        vec![]
    };
    if args.json {
        let value = as_json(&rows, &names, &measures, &pairs);
        print(&format!("{}\n", serde_json::to_string_pretty(&value)?))
    } else {
        print(&as_text(&rows, &names, &measures, &pairs))
    }
}

/// The collections of a folder, by name.
fn collections(suite: &Path, split: &str) -> Result<Vec<Collection>> {
    let mut found = vec![];
    for name in folders(suite)? {
        if qrels_path(&suite.join(&name), split).is_ok() {
            let parts = vec![PathBuf::from(&name)];
            found.push(Collection { name, parts });
            continue;
        }
        let own = folders(&suite.join(&name))?.into_iter();
        let parts = own.map(|part| Path::new(&name).join(part));
        let parts: Vec<PathBuf> = parts
            .filter(|part| qrels_path(&suite.join(part), split).is_ok())
            .collect();
        if parts.is_empty() {
            eprintln!("{name}: left out, it has no qrels/{split}.tsv");
        } else {
            found.push(Collection { name, parts });
        }
    }
    if found.is_empty() {
        bail!(
            "{}: no folder in it has qrels/{split}.tsv: expected BEIR collections, one folder each",
            suite.display()
        );
    }
    Ok(found)
}

fn folders(path: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
    let mut names = vec![];
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", path.display()))?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn with_ending(path: &Path, endings: &[&str]) -> Option<PathBuf> {
    let with = |ending: &&str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    endings.iter().map(with).find(|path| path.exists())
}

fn qrels_path(collection: &Path, split: &str) -> Result<PathBuf> {
    let path = collection.join("qrels").join(split);
    with_ending(&path, &[".tsv", ".tsv.gz", ".tsv.zst"])
        .with_context(|| format!("{}.tsv: not found", path.display()))
}

fn run_path(runs: &Path, part: &Path) -> Result<PathBuf> {
    let path = runs.join(part);
    let endings = [".trec", ".run", ".txt", ".trec.gz", ".trec.zst"];
    with_ending(&path, &endings).with_context(|| {
        format!(
            "{}.trec: not found; a folder of --runs holds one ranking per collection",
            path.display()
        )
    })
}

/// Finds passages of a corpus for queries.
type Rank<'a> = dyn Fn(&Corpus, &[Query]) -> Result<Vec<Vec<Hit>>> + 'a;

/// Ranks the judged queries of every part that has no ranking in `runs` yet.
fn rank_all(
    suite: &Path,
    collections: &[Collection],
    split: &str,
    runs: &Path,
    tag: &str,
    rank: &Rank<'_>,
) -> Result<()> {
    for part in collections.iter().flat_map(|c| &c.parts) {
        if run_path(runs, part).is_ok() {
            continue;
        }
        eprintln!("{}: ranking by {tag}", part.display());
        let folder = suite.join(part);
        let corpus = Corpus::load(&folder)?;
        let qrels = Qrels::load(&qrels_path(&folder, split)?)?;
        let queries: Vec<Query> = load_queries(&folder)?
            .into_iter()
            .filter(|query| qrels.judgements(query.id.as_str()).is_some())
            .collect();
        let hits = rank(&corpus, &queries)?;
        let mut path = runs.join(part).into_os_string();
        path.push(".trec");
        let path = PathBuf::from(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let run = run_of(tag, &queries, &hits, |p| corpus.passage(p).id.as_str())?;
        run.without_own_ids().write(&path)?;
    }
    Ok(())
}

impl Row {
    /// Mean over the parts of the collection, each a mean over its queries.
    fn mean(&self, system: usize, measure: usize) -> f64 {
        let parts = &self.systems[system];
        parts.iter().map(|part| part.means()[measure]).sum::<f64>() / parts.len() as f64
    }

    fn values(&self, system: usize, measure: usize) -> Vec<f64> {
        let parts = self.systems[system].iter();
        parts
            .flat_map(|part| part.values(measure))
            .copied()
            .collect()
    }
}

/// Unweighted mean over collections.
fn mean(rows: &[Row], system: usize, measure: usize) -> f64 {
    rows.iter()
        .map(|row| row.mean(system, measure))
        .sum::<f64>()
        / rows.len() as f64
}

/// Two systems on one collection.
struct Pair {
    measure: String,
    collection: String,
    systems: [String; 2],
    comparison: Comparison,
    p_holm: f64,
}

/// Every pair of systems on every collection; Holm's correction over all of a measure.
fn compare_all(
    rows: &[Row],
    names: &[String],
    measures: &[Measure],
    options: &CompareOptions,
) -> Vec<Pair> {
    let mut all = vec![];
    for (at, measure) in measures.iter().enumerate() {
        let mut pairs = vec![];
        for row in rows {
            for first in 0..names.len() {
                for second in first + 1..names.len() {
                    let (a, b) = (row.values(first, at), row.values(second, at));
                    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
                    pairs.extend(compare(&differences, options).map(|comparison| Pair {
                        measure: measure.to_string(),
                        collection: row.name.clone(),
                        systems: [names[first].clone(), names[second].clone()],
                        comparison,
                        p_holm: f64::NAN,
                    }));
                }
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

fn as_text(rows: &[Row], names: &[String], measures: &[Measure], pairs: &[Pair]) -> String {
    let mut text = String::new();
    for (at, measure) in measures.iter().enumerate() {
        let head = [measure.to_string()]
            .into_iter()
            .chain(names.iter().cloned());
        let mut lines: Vec<Vec<String>> = vec![head.collect()];
        let line = |name: &str, value: &dyn Fn(usize) -> f64| -> Vec<String> {
            let values = (0..names.len()).map(|system| format!("{:.4}", value(system)));
            [name.to_string()].into_iter().chain(values).collect()
        };
        for row in rows {
            lines.push(line(&row.name, &|system| row.mean(system, at)));
        }
        lines.push(line(&format!("mean of {}", rows.len()), &|system| {
            mean(rows, system, at)
        }));
        text.push_str(&table(&lines, 1));
        text.push('\n');
    }
    if !pairs.is_empty() {
        let head = [
            "measure",
            "collection",
            "first",
            "second",
            "difference",
            "p",
            "p (Holm)",
        ];
        let mut lines = vec![head.map(String::from).to_vec()];
        for pair in pairs {
            lines.push(vec![
                pair.measure.clone(),
                pair.collection.clone(),
                pair.systems[0].clone(),
                pair.systems[1].clone(),
                format!("{:+.4}", pair.comparison.difference),
                p_value(Some(pair.comparison.p_randomisation)),
                p_value(Some(pair.p_holm)),
            ]);
        }
        text.push_str(&table(&lines, 4));
        text.push_str(
            "p: paired randomisation test, two-sided; Holm over all lines of a measure\n",
        );
    }
    text
}

fn as_json(rows: &[Row], names: &[String], measures: &[Measure], pairs: &[Pair]) -> Value {
    let systems = names.iter().enumerate().map(|(system, name)| {
        let of_measure = |(at, measure): (usize, &Measure)| {
            let of_row = |row: &Row| (row.name.clone(), json!(row.mean(system, at)));
            let collections: serde_json::Map<String, Value> = rows.iter().map(of_row).collect();
            let value = json!({ "collections": collections, "mean": mean(rows, system, at) });
            (measure.to_string(), value)
        };
        let measures: serde_json::Map<String, Value> =
            measures.iter().enumerate().map(of_measure).collect();
        json!({ "system": name, "measures": measures })
    });
    let comparisons = pairs.iter().map(|pair| {
        json!({
            "measure": pair.measure,
            "collection": pair.collection,
            "first": pair.systems[0],
            "second": pair.systems[1],
            "difference": pair.comparison.difference,
            "interval_95": [pair.comparison.interval.0, pair.comparison.interval.1],
            "p_randomisation": pair.comparison.p_randomisation,
            "p_holm": pair.p_holm,
            "p_t_test": pair.comparison.p_t,
        })
    });
    json!({
        "systems": systems.collect::<Vec<_>>(),
        "comparisons": comparisons.collect::<Vec<_>>(),
    })
}
