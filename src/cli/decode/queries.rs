//! `genret decode --task queries`: pseudo-queries for every passage, as a BEIR query file and judgements.

use std::fs;
use std::io::Write;

use anyhow::{Context, Result, bail};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use super::partial::Partial;
use super::{DecodeArgs, options, sampling};
use crate::cli::progress::Progress;
use crate::cli::shared::Shared;
use crate::cli::table::say;
use crate::config::{Task, hash};
use crate::data::Corpus;
use crate::data::example::corpus_tokens;
use crate::decode::DecodeOptions;
use crate::experiment::OpenedModel;
use crate::model;
use crate::retrieve::doc2query::QueryWriter;

/// Tokens of the longest query, unless the command line says otherwise.
const MAX_QUERY_TOKENS: usize = 32;

pub(super) fn run(args: &DecodeArgs, shared: &Shared) -> Result<()> {
    let (Some(corpus), Some(out)) = (&args.corpus, &args.out) else {
        bail!("--task queries needs --corpus DIR and --out DIR");
    };
    for (flag, given) in [
        ("--queries", args.queries.is_some()),
        ("--text", args.text.is_some()),
        ("--stream", args.stream),
        ("--oracle", args.oracle),
        ("--filter", args.filter.is_some()),
        ("--prefix", !args.prefix.is_empty()),
        ("--explain", args.explain.is_some()),
    ] {
        if given {
            bail!("{flag} has no meaning with --task queries");
        }
    }
    if args.per_passage == 0 {
        bail!("--per-passage 0: ask for at least one query");
    }
    if args.beam.len() != 1 {
        bail!("--beam takes one width");
    }
    let decode = options(args, MAX_QUERY_TOKENS)?;
    let sampling = sampling(args, shared)?;
    let queries_path = out.join("queries.jsonl");
    let qrels_path = out.join("qrels/train.tsv");
    if queries_path.exists() || qrels_path.exists() {
        bail!(
            "{} holds queries already: choose another --out or remove them",
            out.display()
        );
    }
    let device = model::open_device(&shared.device)?;
    let trained = OpenedModel::open(&args.model, &device)?;
    let objective = &trained.objective;
    if objective.task != Task::Queries {
        bail!(
            "{}: the model was not trained to write queries; train one with objective.task = \"queries\"",
            args.model.display()
        );
    }
    let tokenizer = trained.tokenizer()?;
    let corpus = Corpus::load(corpus)?;
    let tokens = corpus_tokens(&tokenizer, corpus.passages())?;
    let writer = QueryWriter {
        model: &trained.model,
        tokenizer: &tokenizer,
        template: &objective.template,
        decode: &decode,
        sampling,
    };
    fs::create_dir_all(out.join("qrels"))
        .with_context(|| format!("making the folder {}", out.display()))?;
    let settings = DecodeOptions {
        memory_gib: None,
        ..decode.clone()
    };
    let identity = hash(&(
        &trained.identity,
        corpus.fingerprint(),
        (settings, sampling, args.per_passage, &shared.device),
    ));
    let paths = [queries_path.as_path(), qrels_path.as_path()];
    let mut partial = Partial::open(&paths, identity, "passages")?;
    let mut progress = Progress::new("writing queries", corpus.len() as u64);
    let window = writer.window(args.per_passage);
    let rest = partial.done()..corpus.len();
    for start in rest.step_by(window) {
        let range = start..corpus.len().min(start + window);
        let passages = &corpus.passages()[range.clone()];
        let keys: Vec<u64> = passages
            .iter()
            .map(|p| xxh3_64(p.id.as_str().as_bytes()))
            .collect();
        let written = writer.write(&tokens[range.clone()], &keys, args.per_passage)?;
        let (mut queries, mut qrels) = (vec![], vec![]);
        if start == 0 {
            writeln!(qrels, "query-id\tcorpus-id\tscore")?;
        }
        for (passage, written) in passages.iter().zip(&written) {
            for (number, query) in written.iter().enumerate() {
                let id = format!("{}-q{}", passage.id, number + 1);
                let line = json!({
                    "_id": id, "text": query.text, "metadata": { "log_prob": query.log_prob },
                });
                writeln!(queries, "{line}")?;
                writeln!(qrels, "{id}\t{}\t1", passage.id)?;
            }
        }
        partial.add(range.len(), &[queries, qrels])?;
        progress.at(partial.done() as u64, "");
    }
    progress.finish();
    partial.finish()?;
    say!("passages  {}", corpus.len());
    say!("queries   {}", queries_path.display());
    say!("qrels     {}", qrels_path.display());
    Ok(())
}
