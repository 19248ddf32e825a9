//! `genret teach`: scores to distil, for the candidates of a run.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args};
use hashbrown::HashMap;
use rayon::prelude::*;

use super::encoding::TextEncoder;
use super::progress::Progress;
use super::shared::Shared;
use super::table::say;
use crate::data::trec::{Qrels, Run};
use crate::data::{Corpus, load_queries};
use crate::model::Role;
use crate::retrieve::bm25::{Bm25, Bm25Options};
use crate::types::{DocId, PassageIdx, Query};

/// Scores the candidates of a run by BM25 or a trained model: a teacher for `contrast.teacher` of a configuration.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("teacher").required(true))]
pub struct TeachArgs {
    /// The passages: a BEIR folder or an MS MARCO table.
    #[arg(long)]
    corpus: PathBuf,
    /// The queries: BEIR queries.jsonl or `id<TAB>text` lines.
    #[arg(long)]
    queries: PathBuf,
    /// The passages to score for each query: a TREC run, such as `genret mine` or `genret search` writes.
    #[arg(long)]
    candidates: PathBuf,
    /// Judgements, whose relevant passages are scored as well; distillation needs them.
    #[arg(long)]
    qrels: Option<PathBuf>,
    /// BM25 is the teacher.
    #[arg(long, group = "teacher")]
    bm25: bool,
    /// A trained sparse or dense model is the teacher: a folder.
    #[arg(long, group = "teacher")]
    model: Option<PathBuf>,
    /// TREC run to write.
    #[arg(long)]
    out: PathBuf,
}

/// What is to be scored.
struct Pairs {
    queries: Vec<Query>,
    /// By query.
    passages: Vec<Vec<PassageIdx>>,
}

/// Runs `genret teach`.
///
/// # Errors
/// Those of the files; a query or passage of the candidates that is not there.
pub(super) fn run(args: &TeachArgs, shared: &Shared) -> Result<()> {
    let corpus = Corpus::load(&args.corpus)?;
    let pairs = pairs(args, &corpus)?;
    let scores = match &args.model {
        None => by_bm25(&corpus, &pairs)?,
        Some(folder) => by_model(folder, &corpus, &pairs, shared)?,
    };
    let tag = if args.bm25 { "bm25" } else { "model" };
    let mut run = Run::new(tag);
    let mut count = 0;
    for ((query, passages), scores) in pairs.queries.iter().zip(&pairs.passages).zip(scores) {
        let mut lines: Vec<(DocId, f64)> = (passages.iter().zip(scores))
            .map(|(&passage, score)| (corpus.passage(passage).id.clone(), score))
            .collect();
        lines.sort_by(|a, b| b.1.total_cmp(&a.1));
        count += lines.len();
        run.push(query.id.clone(), lines)?;
    }
    run.write(&args.out)?;
    say!("queries  {}", run.len());
    say!("scores   {count}");
    Ok(())
}

fn pairs(args: &TeachArgs, corpus: &Corpus) -> Result<Pairs> {
    let mut queries: HashMap<String, Query> = load_queries(&args.queries)?
        .into_iter()
        .map(|query| (query.id.to_string(), query))
        .collect();
    let run = Run::load(&args.candidates)?;
    let qrels = args.qrels.as_deref().map(Qrels::load).transpose()?;
    let find = |doc: &DocId| {
        corpus.find(doc.as_str()).with_context(|| {
            format!(
                "{}: passage `{doc}` is not in {}: give the corpus that was searched",
                args.candidates.display(),
                args.corpus.display()
            )
        })
    };
    let mut found = Pairs {
        queries: vec![],
        passages: vec![],
    };
    for (id, lines) in run.queries() {
        let query = queries.remove(id.as_str()).with_context(|| {
            format!(
                "{}: query `{id}` is not in {}: give the queries of the run",
                args.candidates.display(),
                args.queries.display()
            )
        })?;
        let relevant = qrels.iter().flat_map(|qrels| qrels.relevant(id.as_str()));
        let docs = lines.iter().map(|line| &line.doc).chain(relevant);
        let mut passages = docs.map(find).collect::<Result<Vec<_>>>()?;
        passages.sort_unstable();
        passages.dedup();
        found.queries.push(query);
        found.passages.push(passages);
    }
    if found.queries.is_empty() {
        bail!("{}: the run has no queries", args.candidates.display());
    }
    Ok(found)
}

fn by_bm25(corpus: &Corpus, pairs: &Pairs) -> Result<Vec<Vec<f64>>> {
    let bm25 = Bm25::of_corpus(corpus, &Bm25Options::default())?;
    let score = |(query, passages): (&Query, &Vec<PassageIdx>)| -> Result<Vec<f64>> {
        let words = bm25.query(&query.text);
        let scores = passages
            .iter()
            .map(|&passage| bm25.index().score(&words, passage));
        scores.map(|score| Ok(f64::from(score?))).collect()
    };
    pairs
        .queries
        .par_iter()
        .zip(&pairs.passages)
        .map(score)
        .collect()
}

fn by_model(
    folder: &std::path::Path,
    corpus: &Corpus,
    pairs: &Pairs,
    shared: &Shared,
) -> Result<Vec<Vec<f64>>> {
    let encoder = TextEncoder::open(folder, None, shared)?;
    let mut wanted: Vec<PassageIdx> = pairs.passages.concat();
    wanted.sort_unstable();
    wanted.dedup();
    let encode = |texts: &[String], role: Role, label: &str| {
        let mut bar = Progress::new(label, texts.len() as u64);
        let made = encoder.encode(texts, role, &mut |done| bar.at(done as u64, ""));
        bar.finish();
        made
    };
    let passages = wanted.iter().map(|&p| corpus.passage(p).full_text());
    let passages: Vec<String> = passages.collect();
    let passages = encode(&passages, Role::Passage, "representing passages")?;
    let queries: Vec<String> = pairs.queries.iter().map(|q| q.text.clone()).collect();
    let queries = encode(&queries, Role::Query, "representing queries")?;
    let places: HashMap<PassageIdx, usize> = wanted
        .iter()
        .enumerate()
        .map(|(place, &passage)| (passage, place))
        .collect();
    let score = |(query, own): (usize, &Vec<PassageIdx>)| -> Vec<f64> {
        own.iter()
            .map(|p| queries.dot(query, &passages, places[p]))
            .collect()
    };
    Ok(pairs.passages.par_iter().enumerate().map(score).collect())
}
