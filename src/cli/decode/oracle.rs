//! Search error: the beam against every n-gram of the corpus.

use anyhow::Result;

use super::{DecodeArgs, Session};
use crate::cli::progress::Progress;
use crate::cli::table::{print, table};
use crate::retrieve::SearchError;
use crate::types::Query;

/// Measures every beam width of the command line on `queries` and prints a table or JSON.
pub(super) fn report(session: &Session, queries: &[Query], args: &DecodeArgs) -> Result<()> {
    let mut progress = Progress::new("exhaustive search", queries.len() as u64);
    let retriever = session.retriever();
    let errors = retriever.search_error(queries, &args.beam, args.k, &mut |done| {
        progress.at(done as u64, "");
    })?;
    progress.finish();
    if args.json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&errors)?));
    }
    let head = [
        "beam",
        "queries",
        "best passage not first",
        "not found",
        "best n-gram lost",
        "regret log p",
        "largest",
        "regret score",
        "share",
    ];
    let mut rows: Vec<Vec<String>> = vec![head.map(String::from).to_vec()];
    rows.extend(errors.iter().map(row));
    print(&table(&rows, 0))
}

fn row(error: &SearchError) -> Vec<String> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    vec![
        error.beam.to_string(),
        error.queries.to_string(),
        percent(error.lost_first),
        percent(error.lost_passage),
        percent(error.lost_ngram),
        format!("{:.3}", error.regret_log_prob),
        format!("{:.3}", error.regret_log_prob_max),
        format!("{:.2}", error.regret_score),
        percent(error.regret_score_share),
    ]
}
