//! Queries of a file to a run file, with or without evidence; goes on where it was interrupted.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::partial::Partial;
use super::{DecodeArgs, Session, evidence};
use crate::cli::progress::Progress;
use crate::cli::shared::Shared;
use crate::config::hash;
use crate::data::trec::Run;
use crate::decode::DecodeOptions;
use crate::types::{DocId, Query};

pub(super) fn write(
    session: &Session,
    queries: &[Query],
    out: &Path,
    args: &DecodeArgs,
    shared: &Shared,
) -> Result<()> {
    let (index, retriever) = (&session.index, session.retriever());
    let texts: Vec<(&str, &str)> = queries
        .iter()
        .map(|q| (q.id.as_str(), &q.text[..]))
        .collect();
    let options = DecodeOptions {
        memory_gib: None,
        ..session.options.clone()
    };
    let identity = hash(&(
        &session.model.identity,
        index.fingerprint(),
        texts,
        (options, args.k, &args.tag, &args.explain, &shared.device),
    ));
    let mut paths = vec![out];
    paths.extend(args.explain.as_deref());
    let mut partial = Partial::open(&paths, identity, "queries")?;
    let mut progress = Progress::new("decoding", queries.len() as u64);
    for window in queries[partial.done()..].chunks(retriever.window()) {
        let answers = retriever.answer(window, args.k)?;
        let mut run = Run::new(&args.tag);
        let mut lines = vec![];
        for (query, answer) in window.iter().zip(&answers) {
            let docs = answer
                .hits
                .iter()
                .map(|hit| (DocId::from(index.doc_id(hit.passage)), hit.score.get()));
            run.push(query.id.clone(), docs)?;
            if args.explain.is_some() {
                let hits = evidence::hits(answer, index, &session.tokenizer, true);
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
