//! Flags that every command takes.

use clap::Args;

/// Flags that every command takes.
#[derive(Args, Clone, Debug)]
pub struct Shared {
    /// Where tensors live: `cpu` or `cuda:N`; several, separated by commas, share the steps of `genret train`
    /// [default: cpu].
    #[arg(long, global = true, default_value = "cpu", hide_default_value = true)]
    pub device: String,
    /// Seed of every random decision [default: the configuration's, else 0].
    #[arg(long, global = true)]
    pub seed: Option<u64>,
    /// More detail on stderr; repeat for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}
