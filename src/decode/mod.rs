//! Constrained decoding: a language model proposes, a constraint disposes.
//!
//! Every hypothesis carries its state in the [`Constraint`], so that one step looks up its continuations and
//! never searches the prefix again. Scores are log-probabilities over the whole vocabulary (Cai et
//! al. 2025; SEAL, Bevilacqua et al. 2022); tokens that do not continue the hypothesis are never
//! candidates. The candidates of every step are harvested as n-grams; where the constraint says that a
//! sequence is complete it is finished, as identifiers are.

pub mod cgl;
mod constraint;
mod exhaustive;
mod head;
mod memory;
mod options;
mod sample;
mod score;
mod search;

pub use constraint::{Constraint, End, Forced, ForcedState, FreeText, TextState};
pub use exhaustive::{WALKED_POSITIONS, every_ngram};
pub use head::{AllowedLogits, HEAD_ROWS, best_of_queries, for_each_row};
pub use memory::{AUTO_QUERIES, AUTO_ROWS, DEFAULT_GIB, batch_bytes, batches};
pub use options::{Auto, BatchSize, DecodeOptions, Normalise, SampleOptions, Stop};
pub use sample::sample;
pub use score::target_losses;
pub use search::{Decoded, Hypothesis, beam_search};
