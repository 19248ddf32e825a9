//! Queries to rankings by the identifiers that a model writes.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::run_file::{self, Origin, Ranking};
use super::{DecodeArgs, options};
use crate::cli::shared::Shared;
use crate::cli::table::say;
use crate::config::Task;
use crate::data;
use crate::decode::Normalise;
use crate::docid::Docids;
use crate::experiment::OpenedModel;
use crate::index::{IndexError, PassageSet, Trie};
use crate::model;
use crate::retrieve::docid::{DocidAnswer, DocidRetriever};
use crate::tokenizer::Tokenizer;
use crate::train::CodeScore;
use crate::types::{DocId, Query, QueryId};

/// The identifiers of `path` as tokens of `model`, which has learned them.
///
/// # Errors
/// For a model of something else, or of other identifiers.
pub(in crate::cli) fn open(
    path: &Path,
    model: &OpenedModel,
    tokenizer: &Tokenizer,
) -> Result<(Docids, Trie)> {
    let docids = Docids::open(path)?;
    let learned = model.docids.as_ref();
    let Some(learned) = learned.filter(|_| model.objective.learned().docid > 0.0) else {
        bail!(
            "the model was not trained to write identifiers; train one with objective.task = \"docids\", or \"views\" with objective.views.docid"
        );
    };
    if learned.identity != docids.notes().identity {
        bail!(
            "{}: other identifiers than the model has learned; give the file of its experiment, docids-{}.genret",
            path.display(),
            learned.options.method.name()
        );
    }
    let trie = docids.trie(tokenizer)?;
    Ok((docids, trie))
}

/// Answers the queries of the command line.
pub(super) fn run(path: &Path, args: &DecodeArgs, shared: &Shared) -> Result<()> {
    for (flag, given) in [
        ("--stream", args.stream),
        ("--oracle", args.oracle),
        ("--prefix", !args.prefix.is_empty()),
        ("--max-new-tokens", args.max_new_tokens.is_some()),
        ("--min-new-tokens", args.min_new_tokens != 1),
    ] {
        if given {
            bail!("{flag} belongs to n-grams: leave it out with --docids, or give --index as well");
        }
    }
    if args.views.is_some_and(|views| views.of_texts() > 0.0) {
        bail!("--views names n-grams: give their --index as well");
    }
    let decode = options(args, 1)?;
    let device = model::open_device(&shared.device)?;
    let queries = match (&args.queries, &args.text) {
        (Some(path), _) => data::load_queries(path)?,
        (None, Some(text)) => vec![Query {
            id: QueryId::from("text"),
            text: text.clone(),
        }],
        (None, None) => bail!("nothing to answer: give --queries FILE or --text TEXT"),
    };
    let model = OpenedModel::open(&args.model, &device)?;
    let tokenizer = model.tokenizer()?;
    let (docids, mut trie) = open(path, &model, &tokenizer)?;
    let objective = &model.objective;
    let by_logits =
        objective.task == Task::Prefixes && objective.prefixes.score == CodeScore::Logits;
    if by_logits && decode.normalise != Normalise::None {
        eprintln!("note: the model learned to rank by logits; --normalise none does");
    }
    if let Some(ids) = &args.filter {
        trie = trie.restricted_to(&listed(ids, &docids)?);
    }
    let template = &model.objective.template;
    let retriever = DocidRetriever::new(&model.model, &trie, &tokenizer, template, &decode);
    if args.queries.is_none() {
        let answers = retriever.answer(&queries, args.k.min(10))?;
        return show(&answers[0], &docids);
    }
    let Some(out) = &args.out else {
        bail!("--queries needs --out RUN for the ranking");
    };
    let filter = args.filter.is_some().then_some(trie.num_ids() as u64);
    let origin = Origin {
        model: &model.identity,
        corpus: docids.file().fingerprint() ^ filter.unwrap_or(0),
        options: &decode,
        window: retriever.window(),
    };
    run_file::write(&origin, &queries, out, args, shared, &mut |window| {
        let answers = retriever.answer(window, args.k)?;
        Ok(answers.iter().map(|a| ranking(a, &docids)).collect())
    })
}

/// The passages whose external ids a file lists.
fn listed(path: &Path, docids: &Docids) -> Result<PassageSet, IndexError> {
    let ids = docids
        .file()
        .doc_ids()
        .zip((0..).map(crate::types::PassageIdx));
    PassageSet::read_listed(path, ids)
}

fn ranking(answer: &DocidAnswer, docids: &Docids) -> Ranking {
    let docs = answer.hits.iter().map(|hit| {
        let id = DocId::from(docids.doc_id(hit.passage));
        (id, hit.score.get())
    });
    let hits = answer.hits.iter().zip(&answer.sources);
    let hits = hits.map(|(hit, &source)| -> Value {
        let written = &answer.written[source];
        json!({
            "passage": docids.doc_id(hit.passage),
            "score": hit.score,
            "tokens": written.tokens,
            "log_prob": written.log_prob,
            "shared_by": written.passages,
        })
    });
    Ranking {
        docs: docs.collect(),
        hits: hits.collect(),
    }
}

fn show(answer: &DocidAnswer, docids: &Docids) -> Result<()> {
    if answer.hits.is_empty() {
        say!("no passage: no identifier was written");
    }
    for (rank, (hit, &source)) in answer.hits.iter().zip(&answer.sources).enumerate() {
        let written = &answer.written[source];
        let tokens: Vec<String> = written.tokens.iter().map(|t| t.0.to_string()).collect();
        let id = docids.doc_id(hit.passage);
        say!(
            "{:>3}  {id:<24} {:>9.3}  {}",
            rank + 1,
            hit.score.get(),
            tokens.join(" ")
        );
    }
    Ok(())
}
