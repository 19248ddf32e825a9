//! `genret train`: one model from a configuration.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::progress::Progress;
use super::shared::Shared;
use super::stop::Stop;
use super::table::say;
use crate::config::Config;
use crate::experiment::Experiment;
use crate::model;

/// Trains one model.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// The configuration, a TOML file.
    #[arg(long)]
    config: PathBuf,
    /// Changes one value of the configuration, such as `train.epochs=2`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Continue from the last checkpoint; without it a half-trained model is an error.
    #[arg(long)]
    resume: bool,
    /// Show every resolved number and stop.
    #[arg(long)]
    dry_run: bool,
}

/// Loads a configuration with the shared flags applied.
pub(super) fn load_config(
    path: &std::path::Path,
    set: &[String],
    shared: &Shared,
) -> Result<Config> {
    let mut set = set.to_vec();
    set.extend(shared.seed.map(|seed| format!("seed={seed}")));
    Ok(Config::load(path, &set)?)
}

pub(super) fn run(args: &TrainArgs, shared: &Shared) -> Result<()> {
    let config = load_config(&args.config, &args.set, shared)?;
    let devices = model::open_devices(&shared.device)?;
    let experiment = Experiment::open(config, &mut |what| eprintln!("{what}"))?;
    let config = &experiment.config;
    let variant = (config.retriever, config.objective.task);
    let spec = experiment.model_spec(&config.model, variant, 1.0, config.seed)?;
    let (tokens, flops) = experiment.typical(&spec)?;
    let examples = spec.num_examples as f64 * spec.train.epochs;
    let (layers, width) = spec.model.layers_and_width();
    eprintln!(
        "{layers} layers of width {width}, {} + {} parameters (embedding + rest)\n\
         {} pairs, {} examples an epoch of about {tokens:.0} tokens, {:.3} epochs, about {:.3e} FLOPs",
        spec.model.params_embedding(),
        spec.model.params_non_embedding(),
        spec.num_pairs,
        spec.num_examples,
        spec.train.epochs,
        examples * flops,
    );
    if args.dry_run {
        say!(
            "{}",
            serde_json::to_string_pretty(&spec).context("writing the resolved run")?
        );
        return Ok(());
    }
    let folder = experiment.model_folder(&spec);
    if folder.join("checkpoint.safetensors").exists() && !args.resume {
        bail!(
            "{} holds a half-trained model of these settings: continue with --resume, or remove the folder",
            folder.display()
        );
    }
    let stop = Stop::listen()?;
    let mut bar: Option<Progress> = None;
    let trained = experiment.train(&spec, &devices, &mut |p| {
        let bar = bar.get_or_insert_with(|| Progress::new("training", p.steps));
        bar.at(
            p.step,
            &format!("loss {:.4}, {:.0} tokens/s", p.loss, p.tokens_per_sec),
        );
        stop.asked()
    })?;
    if let Some(bar) = bar {
        bar.finish();
    }
    let summary = &trained.record.summary;
    say!("model            {}", trained.folder.display());
    say!("steps            {}", summary.steps);
    say!("tokens           {}", summary.tokens_seen);
    say!("FLOPs            {:.3e}", summary.flops);
    say!("seconds          {:.1}", summary.secs);
    let unit = match spec.representation {
        Some(_) => "nats/query",
        None => "nats/token",
    };
    say!("training loss    {:.4} {unit}", summary.train_loss);
    if let Some(loss) = summary.validation_loss {
        say!("validation loss  {loss:.4} {unit}");
    }
    Ok(())
}
