//! Language models in Burn: shapes, forward passes, caches, Hugging Face checkpoints.
//!
//! A model maps token ids to hidden states and logits and knows nothing of corpora, indexes or
//! objectives. Parameters carry the names and layouts of Hugging Face (`[out, in]` matrices), so a
//! checkpoint is the list of a module's parameters.

use std::path::PathBuf;

pub mod checkpoint;
mod device;
mod encoder;
mod family;
pub mod hub;
mod layers;
mod llama;
pub mod lora;
mod masked;
mod next_token;
mod options;
pub mod parameters;
pub mod recompute;
mod t5;
mod words;

pub use device::{check_math_library, keep_kernels_in, open_device, open_devices};
pub use encoder::{EncoderOptions, Pooling, Role, T5Part, Vectors, encode_all};
pub use family::{Model, ModelConfig, ModelState};
pub use layers::Sequences;
pub use llama::{Llama, LlamaConfig, LlamaState, RopeScaling};
pub use lora::LoraOptions;
pub use masked::MaskedText;
pub use next_token::{Footprint, NextTokenModel};
pub use options::{Family, ModelOptions, default_heads, layers_and_width, params_of_size};
pub use t5::{FeedForward, T5, T5Config, T5State};

use crate::types::TokenId;

/// What a model reads, and what it is asked to write after it.
pub type PromptTarget<'a> = (&'a [TokenId], &'a [TokenId]);

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A configuration file that this program cannot follow.
    #[error("{}: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// Numbers that make no model.
    #[error("{0}")]
    Shape(String),
    /// Tensors of a checkpoint that do not fit the model.
    #[error("{}: the checkpoint does not fit the model of its config.json:\n{}", path.display(), problems.join("\n"))]
    Tensors {
        /// The checkpoint.
        path: PathBuf,
        /// One line per missing, unknown or misshaped tensor.
        problems: Vec<String>,
    },
    /// A sequence longer than the model's rotary tables.
    #[error(
        "a sequence of {got} tokens is longer than the model's {limit} positions: shorten the input or train with a larger `max_positions`"
    )]
    TooLong {
        /// Tokens asked for.
        got: usize,
        /// Positions the model has.
        limit: usize,
    },
    /// A value that is not a number came out of the model.
    #[error(
        "the model's {what} are not finite numbers: its weights are damaged or training diverged"
    )]
    NotFinite {
        /// Which values.
        what: &'static str,
    },
    /// A setting of an encoder that makes no sense, or none with this model.
    #[error("{setting} = {value}: {remedy}")]
    Encoder {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A model that was to read both ways and reads from left to right.
    #[error(
        "changing the last token of a text leaves the state of its first as it was: the model does not read both ways, or its weights are zero; open trained weights, or accept an encoder that reads from left to right with `bidirectional = false`"
    )]
    OneWay,
    /// Masked next-token prediction of a model that was never causal.
    #[error(
        "masked next-token prediction teaches a decoder alone to read both ways; a T5 encoder reads both ways as it is: train it for retrieval without this step"
    )]
    Unmasked,
    /// A checkpoint that is neither a folder nor to be had from the Hugging Face hub.
    #[error("checkpoint `{name}`: {message}")]
    Hub {
        /// Folder or name.
        name: String,
        /// What went wrong and what to do.
        message: String,
    },
    /// A device name that is not understood or not available.
    #[error("{0}")]
    Device(String),
}
