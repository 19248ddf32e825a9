//! Queries of a file to a run file, with or without evidence; goes on where it was interrupted.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::DecodeArgs;
use super::partial::Partial;
use crate::cli::progress::Progress;
use crate::cli::shared::Shared;
use crate::config::hash;
use crate::data::trec::Run;
use crate::decode::DecodeOptions;
use crate::types::{DocId, Query};

/// The ranking of one query, best first, and what led to it where that was asked for.
pub(super) struct Ranking {
    pub(super) docs: Vec<(DocId, f32)>,
    pub(super) hits: Vec<Value>,
}

/// What decides a run besides the flags of the command.
pub(super) struct Origin<'a> {
    pub(super) model: &'a str,
    /// Of the index or the identifiers.
    pub(super) corpus: u64,
    pub(super) options: &'a DecodeOptions,
    /// Queries that are answered at a time.
    pub(super) window: usize,
}

/// Answers `queries` window by window into the run file `out` and the evidence beside it.
pub(super) fn write(
    origin: &Origin<'_>,
    queries: &[Query],
    out: &Path,
    args: &DecodeArgs,
    shared: &Shared,
    answer: &mut dyn FnMut(&[Query]) -> Result<Vec<Ranking>>,
) -> Result<()> {
    let texts: Vec<(&str, &str)> = queries
        .iter()
        .map(|q| (q.id.as_str(), &q.text[..]))
        .collect();
    let options = DecodeOptions {
        memory_gib: None,
        ..origin.options.clone()
    };
    let identity = hash(&(
        origin.model,
        origin.corpus,
        texts,
        (options, args.k, args.tag(), &args.explain, &shared.device),
    ));
    let mut paths = vec![out];
    paths.extend(args.explain.as_deref());
    let mut partial = Partial::open(&paths, identity, "queries")?;
    let mut progress = Progress::new("decoding", queries.len() as u64);
    for window in queries[partial.done()..].chunks(origin.window) {
        let mut run = Run::new(args.tag());
        let mut lines = vec![];
        for (query, ranking) in window.iter().zip(answer(window)?) {
            run.push(query.id.clone(), ranking.docs)?;
            if args.explain.is_some() {
                let hits = ranking.hits;
                let line = json!({ "query": query.id, "text": query.text, "hits": hits });
                writeln!(lines, "{line}")?;
            }
        }
        run.check_ids()?;
        run.separate_ties();
        let mut ranking = vec![];
        run.write_to(&mut ranking)?;
        partial.add(window.len(), &[ranking, lines])?;
        progress.at(partial.done() as u64, "");
    }
    progress.finish();
    partial.finish()?;
    eprintln!("{} queries, run in {}", queries.len(), out.display());
    Ok(())
}
