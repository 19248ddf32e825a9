//! `genret decode`: queries in, ranking out.

use std::fs::{self, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use super::shared::Shared;
use super::table::say;
use crate::config::hash;
use crate::data;
use crate::data::trec::Run;
use crate::decode::{BatchSize, DecodeOptions};
use crate::experiment::{ModelRecord, TrainedModel, read_json, write_json};
use crate::index::LiveIndex;
use crate::model::{self, Llama};
use crate::retrieve::generative::{Answer, Generative};
use crate::retrieve::ranking::{NgramEvidence, RankingOptions};
use crate::tokenizer::Tokenizer;
use crate::types::{DocId, Query, QueryId};

/// Generates n-grams for queries and ranks passages by them.
#[derive(Args, Debug)]
pub struct DecodeArgs {
    /// A folder written by `genret train`.
    #[arg(long)]
    model: PathBuf,
    /// An index written by `genret index build`: a file, or the folder of a live index.
    #[arg(long)]
    index: PathBuf,
    /// The queries: BEIR queries.jsonl or `id<TAB>text` lines.
    #[arg(long, required_unless_present = "text", conflicts_with = "text")]
    queries: Option<PathBuf>,
    /// One query, answered on the terminal with the n-grams that led to each passage.
    #[arg(long)]
    text: Option<String>,
    /// Hypotheses kept per query and step.
    #[arg(long, default_value_t = 10)]
    beam: usize,
    /// Tokens of the longest n-gram.
    #[arg(long, default_value_t = 10)]
    max_new_tokens: usize,
    /// Queries decoded together: a number, or `auto` for what the memory allows.
    #[arg(long, default_value = "auto")]
    batch: BatchSize,
    /// Passages per query.
    #[arg(long, default_value_t = 100)]
    k: usize,
    /// The TREC run file to write.
    #[arg(long, required_unless_present = "text")]
    out: Option<PathBuf>,
    /// Also write the evidence of every hit, one JSON line per query.
    #[arg(long, value_name = "FILE")]
    explain: Option<PathBuf>,
    /// Name of the system in the run file.
    #[arg(long, default_value = "genret-ngram")]
    tag: String,
}

pub(super) fn run(args: &DecodeArgs, shared: &Shared) -> Result<()> {
    let options = DecodeOptions {
        beam_width: args.beam,
        max_new_tokens: args.max_new_tokens,
        batch_size: args.batch,
        ..DecodeOptions::default()
    };
    options.check().map_err(anyhow::Error::msg)?;
    if args.k == 0 {
        bail!("--k 0: ask for at least one passage");
    }
    let device = model::open_device(&shared.device)?;
    let index = LiveIndex::open(&args.index)?;
    let queries = match &args.queries {
        Some(path) => data::load_queries(path)?,
        None => vec![],
    };
    let trained = TrainedModel::open(&args.model, &device)?;
    let tokenizer = trained.tokenizer()?;
    index.check_tokenizer(tokenizer.fingerprint())?;
    let retriever = Generative {
        model: &trained.model,
        index: &index,
        tokenizer: &tokenizer,
        template: &trained.record.spec.objective.template,
        decode: &options,
        ranking: &RankingOptions::default(),
    };
    match &args.text {
        Some(text) if text.trim().is_empty() => bail!("--text is empty: nothing to answer"),
        Some(text) => answer_on_terminal(&retriever, &tokenizer, text, args.k.min(10)),
        None => decode_file(
            &retriever,
            &trained.record,
            &tokenizer,
            &queries,
            args,
            shared,
        ),
    }
}

type NgramRetriever<'a> = Generative<'a, Llama, LiveIndex>;

fn answer_on_terminal(
    retriever: &NgramRetriever<'_>,
    tokenizer: &Tokenizer,
    text: &str,
    k: usize,
) -> Result<()> {
    let query = Query {
        id: QueryId::from("text"),
        text: text.into(),
    };
    let answers = retriever.answer(&[query], k)?;
    let answer = &answers[0];
    if answer.hits.is_empty() {
        say!("no passage: no generated n-gram tells any apart");
    }
    for (rank, (hit, evidence)) in answer.hits.iter().zip(&answer.evidence).enumerate() {
        let id = retriever.index.doc_id(hit.passage);
        say!("{:>3}  {:<24} {:>9.2}", rank + 1, id, hit.score.get());
        for ngram in evidence.ngrams.iter().take(5) {
            say!(
                "       {:>8.2}  in {:>4} places  {:?}",
                ngram.credit,
                ngram.count,
                tokenizer.decode(&ngram.tokens).trim()
            );
        }
    }
    Ok(())
}

/// How much of an interrupted decoding is on disk.
#[derive(Serialize, Deserialize)]
struct Partial {
    /// Hash of everything that decides the result.
    identity: String,
    /// Queries done.
    queries: usize,
    /// Bytes of the run file they take.
    run_bytes: u64,
    /// Bytes of the evidence file they take.
    evidence_bytes: u64,
}

fn decode_file(
    retriever: &NgramRetriever<'_>,
    record: &ModelRecord,
    tokenizer: &Tokenizer,
    queries: &[Query],
    args: &DecodeArgs,
    shared: &Shared,
) -> Result<()> {
    let out = args.out.as_ref().expect("clap requires it without --text");
    let beside = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let state_path = beside(out, ".partial.json");
    let texts: Vec<(&str, &str)> = queries
        .iter()
        .map(|q| (q.id.as_str(), &q.text[..]))
        .collect();
    let identity = hash(&(
        record,
        retriever.index.fingerprint(),
        texts,
        (
            args.beam,
            args.max_new_tokens,
            args.batch,
            args.k,
            &args.tag,
            &args.explain,
            &shared.device,
        ),
    ));
    // What was begun with other settings, or is not whole, is begun again.
    let holds = |path: &Path, bytes| {
        fs::metadata(beside(path, ".partial")).is_ok_and(|file| file.len() >= bytes)
    };
    let kept = if state_path.exists() {
        let partial: Partial = read_json(&state_path)?;
        let whole = holds(out, partial.run_bytes)
            && args
                .explain
                .as_ref()
                .is_none_or(|path| holds(path, partial.evidence_bytes));
        Some(partial).filter(|p| p.identity == identity && whole)
    } else {
        None
    };
    let mut partial = kept.unwrap_or(Partial {
        identity,
        queries: 0,
        run_bytes: 0,
        evidence_bytes: 0,
    });
    if partial.queries > 0 {
        eprintln!(
            "continuing after {} of {} queries",
            partial.queries,
            queries.len()
        );
    }
    let open = |path: &Path, bytes: u64| -> Result<fs::File> {
        let path = beside(path, ".partial");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let mut file = file.with_context(|| format!("opening {}", path.display()))?;
        file.set_len(bytes)?;
        file.seek(std::io::SeekFrom::End(0))?;
        Ok(file)
    };
    let mut run_file = open(out, partial.run_bytes)?;
    let mut evidence_file = args
        .explain
        .as_ref()
        .map(|path| open(path, partial.evidence_bytes))
        .transpose()?;

    let mut progress = Progress::new("decoding", queries.len() as u64);
    for batch in queries[partial.queries..].chunks(retriever.window()) {
        let answers = retriever.answer(batch, args.k)?;
        let mut run = Run::new(&args.tag);
        for (query, answer) in batch.iter().zip(&answers) {
            run.push(query.id.clone(), scored_docs(answer, retriever.index))?;
            if let Some(file) = &mut evidence_file {
                write_evidence(file, query, answer, retriever.index, tokenizer)?;
            }
        }
        run.check_ids()?;
        run.separate_ties();
        run.write_to(&mut run_file)?;
        partial.queries += batch.len();
        run_file.sync_data()?;
        partial.run_bytes = run_file.stream_position()?;
        if let Some(file) = &mut evidence_file {
            file.sync_data()?;
            partial.evidence_bytes = file.stream_position()?;
        }
        write_json(&state_path, &partial)?;
        progress.at(partial.queries as u64, "");
    }
    progress.finish();
    if let Some(path) = &args.explain {
        fs::rename(beside(path, ".partial"), path)?;
    }
    fs::rename(beside(out, ".partial"), out)?;
    if state_path.exists() {
        fs::remove_file(&state_path)?;
    }
    eprintln!("{} queries, run in {}", queries.len(), out.display());
    Ok(())
}

fn scored_docs<'a>(
    answer: &'a Answer,
    index: &'a LiveIndex,
) -> impl Iterator<Item = (DocId, f32)> + 'a {
    answer
        .hits
        .iter()
        .map(|hit| (DocId::from(index.doc_id(hit.passage)), hit.score.get()))
}

/// One JSON line: the query with its hits, and of each hit the n-grams with text and credit.
fn write_evidence(
    file: &mut fs::File,
    query: &Query,
    answer: &Answer,
    index: &LiveIndex,
    tokenizer: &Tokenizer,
) -> Result<()> {
    let ngram = |ngram: &NgramEvidence| {
        serde_json::json!({
            "text": tokenizer.decode(&ngram.tokens),
            "tokens": ngram.tokens,
            "positions": ngram.positions,
            "log_prob": ngram.log_prob,
            "count": ngram.count,
            "weight": ngram.weight,
            "credit": ngram.credit,
        })
    };
    let hits: Vec<_> = answer
        .hits
        .iter()
        .zip(&answer.evidence)
        .map(|(hit, evidence)| {
            serde_json::json!({
                "passage": index.doc_id(hit.passage),
                "score": hit.score,
                "ngrams": evidence.ngrams.iter().map(ngram).collect::<Vec<_>>(),
            })
        })
        .collect();
    let line = serde_json::json!({ "query": query.id, "text": query.text, "hits": hits });
    writeln!(file, "{line}")?;
    Ok(())
}
