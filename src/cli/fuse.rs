//! `genret fuse`: one run from several.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::table::say;
use crate::data::trec::{Qrels, Run};
use crate::eval::Measure;
use crate::eval::fusion::{Fusion, Normalisation, best_weight, fuse};

/// Combines runs by reciprocal ranks or weighted scores.
#[derive(Args, Debug)]
pub struct FuseArgs {
    /// Rankings in TREC format (plain, .gz or .zst); two or more.
    #[arg(long, required = true, num_args = 1..)]
    run: Vec<PathBuf>,
    /// How rankings become one.
    #[arg(long, value_enum, default_value = "rrf")]
    method: Method,
    /// Constant of reciprocal rank fusion.
    #[arg(long, default_value_t = 60.0)]
    rrf_k: f64,
    /// What is done to scores before they are added.
    #[arg(long, value_enum, default_value = "min-max")]
    normalise: Scaling,
    /// Weight of each run, in their order, separated by commas [default: equal weights].
    #[arg(long, value_delimiter = ',')]
    weights: Vec<f64>,
    /// Judgements by which the weights of two runs are chosen, in steps of 0.05: use other queries than those
    /// that are reported. The weights are printed; without --out nothing else is done.
    #[arg(long, conflicts_with = "weights")]
    tune: Option<PathBuf>,
    /// Measure that --tune makes largest.
    #[arg(long, default_value = "RR@10")]
    measure: String,
    /// Passages kept per query.
    #[arg(long, default_value_t = 1000)]
    depth: usize,
    /// Name of the fused system in the run file.
    #[arg(long, default_value = "fused")]
    tag: String,
    /// TREC run to write.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    /// Sum of weight / (k + rank).
    Rrf,
    /// Sum of weight times normalised score.
    Weighted,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scaling {
    /// Lowest of a query 0, highest 1.
    MinMax,
    /// Mean 0, standard deviation 1.
    Standard,
    /// Scores as they are.
    None,
}

/// Runs `genret fuse`.
///
/// # Errors
/// Those of the files; weights that do not fit the runs.
pub(super) fn run(args: &FuseArgs) -> Result<()> {
    if args.run.len() < 2 {
        bail!("--run names one file: fusion needs two or more");
    }
    if !(args.rrf_k >= 0.0 && args.rrf_k.is_finite()) {
        bail!("--rrf-k {} must not be negative", args.rrf_k);
    }
    if args.tune.is_none() && args.out.is_none() {
        bail!("--out is missing: name the run to write, or judgements to --tune by");
    }
    if !args.weights.is_empty() && args.weights.len() != args.run.len() {
        bail!(
            "--weights has {} numbers for {} runs: expected one per run",
            args.weights.len(),
            args.run.len()
        );
    }
    if let Some(weight) = args.weights.iter().find(|w| !(**w >= 0.0 && w.is_finite())) {
        bail!("--weights holds {weight}: expected numbers of at least 0");
    }
    let method = match args.method {
        Method::Rrf => Fusion::ReciprocalRank { k: args.rrf_k },
        Method::Weighted => Fusion::Scores(match args.normalise {
            Scaling::MinMax => Normalisation::MinMax,
            Scaling::Standard => Normalisation::Standard,
            Scaling::None => Normalisation::None,
        }),
    };
    let runs = args.run.iter().map(|path| Run::load(path));
    let runs: Vec<Run> = runs.collect::<Result<_, _>>()?;
    let runs: Vec<&Run> = runs.iter().collect();
    let mut weights = args.weights.clone();
    if let Some(path) = &args.tune {
        let &[first, second] = &runs[..] else {
            bail!("--tune chooses the weights of two runs, got {}", runs.len());
        };
        let measure: Measure = args.measure.parse()?;
        let qrels = Qrels::load(path)?;
        let (weight, mean) = best_weight([first, second], &qrels, measure, method, 20, args.depth)?;
        say!(
            "--weights {:.2},{weight:.2}  {measure} {mean:.4}",
            1.0 - weight
        );
        weights = vec![1.0 - weight, weight];
    }
    if weights.is_empty() {
        weights = vec![1.0 / runs.len() as f64; runs.len()];
    }
    if let Some(out) = &args.out {
        fuse(&runs, &weights, method, args.depth, &args.tag)?.write(out)?;
    }
    Ok(())
}
