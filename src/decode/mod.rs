//! Constrained beam search: a language model proposes, an index disposes.
//!
//! Every hypothesis carries its state in the index, so that one step looks up its continuations and
//! never searches the prefix again. Scores are log-probabilities over the whole vocabulary (Cai et
//! al. 2025; SEAL, Bevilacqua et al. 2022); tokens that do not continue the hypothesis in the corpus
//! are never candidates. The candidates of every step are harvested as n-grams.

pub mod cgl;
pub mod constraint;
mod options;
mod score;
mod search;

pub use options::{DecodeOptions, Normalise};
pub use score::target_losses;
pub use search::{Decoded, Hypothesis, beam_search};
