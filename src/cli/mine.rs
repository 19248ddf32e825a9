//! `genret mine`: hard negatives from a run.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::table::say;
use crate::data::trec::{Qrels, Run, RunLine};
use crate::eval::trec_order;

/// Takes hard negatives from a run: its best passages that are not relevant.
#[derive(Args, Debug)]
pub struct MineArgs {
    /// Rankings in TREC format (plain, .gz or .zst), of training queries.
    #[arg(long)]
    run: PathBuf,
    /// Judgements of the training queries; whatever is relevant is left out.
    #[arg(long)]
    qrels: PathBuf,
    /// Leaves out the first so many passages of each query, which are often relevant though nobody judged them.
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// Leaves out passages that score more than this share of the best relevant passage's score (such as 0.95),
    /// for the same reason; queries whose relevant passages are not in the run keep all.
    #[arg(long)]
    max_share: Option<f64>,
    /// Negatives kept per query.
    #[arg(long, default_value_t = 200)]
    depth: usize,
    /// TREC run to write, for `contrast.negatives` of a configuration.
    #[arg(long)]
    out: PathBuf,
}

/// Runs `genret mine`.
///
/// # Errors
/// Those of the files; no negatives at all.
pub(super) fn run(args: &MineArgs) -> Result<()> {
    if args.depth == 0 {
        bail!("--depth 0 keeps no negatives: expected at least 1");
    }
    let run = Run::load(&args.run)?;
    let qrels = Qrels::load(&args.qrels)?;
    let mut mined = Run::new(run.tag());
    let (mut negatives, mut unjudged) = (0, 0);
    for (query, ranking) in run.queries() {
        if qrels.judgements(query.as_str()).is_none() {
            unjudged += 1;
            continue;
        }
        let kept = negatives_of(args, ranking, |doc| {
            qrels
                .relevant(query.as_str())
                .any(|relevant| relevant.as_str() == doc)
        });
        negatives += kept.len();
        let kept = kept.iter().map(|line| (line.doc.clone(), line.score));
        mined.push(query.clone(), kept)?;
    }
    if negatives == 0 {
        bail!(
            "{}: no negatives for the queries of {}: do the files belong together?",
            args.run.display(),
            args.qrels.display()
        );
    }
    mined.write(&args.out)?;
    if unjudged > 0 {
        eprintln!("{unjudged} queries of the run have no judgements and were left out");
    }
    say!("queries    {}", mined.len());
    say!("negatives  {negatives}");
    Ok(())
}

fn negatives_of<'a>(
    args: &MineArgs,
    ranking: &'a [RunLine],
    is_relevant: impl Fn(&str) -> bool,
) -> Vec<&'a RunLine> {
    let lines = trec_order(ranking);
    let best = lines.iter().find(|line| is_relevant(line.doc.as_str()));
    let limit = match (args.max_share, best) {
        (Some(share), Some(best)) => share * best.score,
        _ => f64::INFINITY,
    };
    let others = lines
        .into_iter()
        .skip(args.skip)
        .filter(|line| line.score <= limit && !is_relevant(line.doc.as_str()));
    others.take(args.depth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DocId;

    #[test]
    fn relevant_first_and_too_good_passages_are_left_out() {
        let line = |(doc, score): (&str, f64)| RunLine {
            doc: DocId::from(doc),
            score,
        };
        let ranking = [
            ("a", 10.0),
            ("b", 9.0),
            ("r", 8.0),
            ("c", 7.8),
            ("d", 7.0),
            ("e", 1.0),
        ];
        let ranking = ranking.map(line);
        let kept = |skip: usize, max_share: Option<f64>, depth: usize| -> String {
            let args = MineArgs {
                run: PathBuf::new(),
                qrels: PathBuf::new(),
                skip,
                max_share,
                depth,
                out: PathBuf::new(),
            };
            let found = negatives_of(&args, &ranking, |doc| doc == "r");
            found.iter().map(|line| line.doc.as_str()).collect()
        };
        assert_eq!(kept(0, None, 9), "abcde");
        assert_eq!(kept(1, None, 2), "bc");
        assert_eq!(kept(0, Some(0.95), 9), "de");
    }
}
