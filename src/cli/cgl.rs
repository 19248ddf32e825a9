//! `genret cgl`: the contrastive generation loss of a model.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use hashbrown::HashMap;

use super::decode::docids;
use super::progress::Progress;
use super::shared::Shared;
use super::table::say;
use crate::atomic_file;
use crate::data;
use crate::data::example::SpanOptions;
use crate::data::trec::Qrels;
use crate::decode::cgl::contrastive_losses;
use crate::eval::cgl::{self, Aggregation};
use crate::experiment::{
    CaseOptions, OpenedModel, contrastive_cases, corpus_of_index, docid_cases,
};
use crate::index::LiveIndex;
use crate::model;
use crate::types::PassageIdx;

/// Contrastive generation loss of a model: how much better it generates spans of the relevant passage
/// than spans of random ones.
#[derive(Args, Debug)]
pub struct CglArgs {
    /// A folder written by `genret train`.
    #[arg(long)]
    model: PathBuf,
    /// The passages: an index written by `genret index build`, a file or the folder of a live one.
    #[arg(long, required_unless_present = "docids")]
    index: Option<PathBuf>,
    /// The identifiers that the model has learned, in place of an index: a file written by `genret docid build`.
    #[arg(long, value_name = "FILE", conflicts_with = "index")]
    docids: Option<PathBuf>,
    /// The queries: BEIR queries.jsonl or `id<TAB>text` lines.
    #[arg(long)]
    queries: PathBuf,
    /// The judgements: TREC qrels or BEIR TSV.
    #[arg(long)]
    qrels: PathBuf,
    /// Random passages that each relevant one is compared with.
    #[arg(long, default_value_t = 256)]
    negatives: usize,
    /// Spans that identify a passage.
    #[arg(long, default_value_t = 10)]
    spans: usize,
    /// At most this many queries, in file order [default: all].
    #[arg(long)]
    limit: Option<usize>,
    /// Token losses of every span, one JSON line per query.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CglArgs, shared: &Shared) -> Result<()> {
    let device = model::open_device(&shared.device)?;
    let trained = OpenedModel::open(&args.model, &device)?;
    let tokenizer = trained.tokenizer()?;
    let queries = data::load_queries(&args.queries)?;
    let qrels = Qrels::load(&args.qrels)?;
    let judged: Vec<_> = queries
        .into_iter()
        .filter(|q| qrels.relevant(q.id.as_str()).next().is_some())
        .take(args.limit.unwrap_or(usize::MAX))
        .collect();
    let objective = &trained.objective;
    let options = CaseOptions {
        seed: shared.seed.unwrap_or(0),
        negatives: args.negatives,
        span: SpanOptions {
            draws: args.spans,
            ..objective.span.clone()
        },
        template: &objective.template,
    };
    let (cases, ids, spans) = match &args.docids {
        Some(path) => {
            let (docids, trie) = docids::open(path, &trained, &tokenizer)?;
            let targets: Option<Vec<_>> = trie.ids().into_iter().collect();
            let targets = targets.with_context(|| {
                let path = path.display();
                format!("{path}: passages were deleted, and negatives are drawn from all: give the file of before")
            })?;
            let ids: Vec<String> = docids.file().doc_ids().map(String::from).collect();
            let known = docids.file().doc_ids().zip((0..).map(PassageIdx));
            let places: HashMap<&str, PassageIdx> = known.collect();
            let find = |doc: &str| places.get(doc).copied();
            let cases = docid_cases(&targets, &find, &tokenizer, &judged, &qrels, &options)?;
            (cases, ids, 1)
        }
        None => {
            let index = LiveIndex::open(args.index.as_ref().context("--index is missing")?)?;
            index.check_tokenizer(tokenizer.fingerprint())?;
            let (corpus, passages) = corpus_of_index(&index, &tokenizer)?;
            let cases =
                contrastive_cases(&corpus, &passages, &tokenizer, &judged, &qrels, &options)?;
            let ids = corpus.passages().iter().map(|p| p.id.to_string()).collect();
            (cases, ids, args.spans)
        }
    };
    let mut progress = Progress::new("measuring", cases.len() as u64);
    let mut rows = vec![];
    let mut values: Vec<(Aggregation, Vec<f64>)> =
        Aggregation::ALL.iter().map(|&a| (a, vec![])).collect();
    for (done, case) in cases.iter().enumerate() {
        let losses = contrastive_losses(&trained.model, case, 512)?;
        for (aggregation, values) in &mut values {
            let per_passage: Vec<f64> = losses
                .passages
                .iter()
                .map(|spans| aggregation.passage_loss(spans))
                .collect();
            values.push(cgl::contrastive(per_passage[0], &per_passage[1..]));
        }
        if args.out.is_some() {
            let passages: Vec<&str> = case.passages.iter().map(|p| &ids[p.index()][..]).collect();
            rows.push(serde_json::json!({
                "query": case.query, "passages": passages, "losses": losses.passages,
            }));
        }
        progress.at(done as u64 + 1, "");
    }
    progress.finish();
    if let Some(out) = &args.out {
        atomic_file::write(out, |w| {
            rows.iter().try_for_each(|row| writeln!(w, "{row}"))
        })
        .with_context(|| format!("writing {}", out.display()))?;
    }
    let chance = ((args.negatives + 1) as f64).ln();
    for (aggregation, values) in &values {
        let (mean, error) = cgl::mean_and_standard_error(values);
        let name = format!("CGL-{aggregation}@{}x{spans}", args.negatives);
        if args.json {
            let row = serde_json::json!({
                "metric": name, "mean": mean, "standard_error": error, "queries": values.len(), "chance": chance,
            });
            say!("{row}");
        } else {
            say!(
                "{name:<28} {mean:.4} +- {error:.4}  ({} queries, chance {chance:.3})",
                values.len()
            );
        }
    }
    Ok(())
}
