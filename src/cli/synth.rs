//! `genret data synth`: writes the built-in corpus.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::shared::Shared;
use crate::data::synth::{SynthOptions, generate};

/// Flags of `genret data synth`.
#[derive(Args, Debug)]
pub struct SynthArgs {
    /// Folder to write in BEIR layout; it must be absent or empty.
    #[arg(long)]
    out: PathBuf,
    /// Number of passages, 200 to 5000000.
    #[arg(long, default_value_t = 10_000)]
    passages: usize,
    /// Number of questions per passage, 1 to 16.
    #[arg(long, default_value_t = 4)]
    queries_per_passage: usize,
}

/// Runs `genret data synth`; the seed is that of `shared`, 0 where none is given.
///
/// # Errors
/// Numbers out of range, a folder that is not empty, a disk that is full.
pub fn run(args: &SynthArgs, shared: &Shared) -> anyhow::Result<()> {
    let options = SynthOptions {
        passages: args.passages,
        queries_per_passage: args.queries_per_passage,
        seed: shared.seed.unwrap_or(0),
    };
    let bar = ProgressBar::new(args.passages as u64).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} passages, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let counts = generate(options, &args.out, &mut |done| {
        bar.set_position(done as u64)
    });
    bar.finish_and_clear();
    let counts = counts?;
    let [train, dev, test, unseen] = counts.queries;
    eprintln!(
        "{}: {} passages; questions: {train} train, {dev} dev, {test} test, {unseen} unseen",
        args.out.display(),
        counts.passages
    );
    Ok(())
}
