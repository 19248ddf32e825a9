//! How to decode, as a configuration file writes it.

use serde::{Deserialize, Serialize};

/// How to decode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecodeOptions {
    /// Hypotheses kept per query and step.
    pub beam_width: usize,
    /// Tokens of the longest n-gram.
    pub max_new_tokens: usize,
    /// Over which tokens probabilities sum to one.
    pub normalise: Normalise,
    /// Queries decoded together; changes memory and speed, not results beyond rounding.
    pub batch_size: usize,
}

/// Over which tokens probabilities sum to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalise {
    /// All of the vocabulary: scores are the model's own log-probabilities.
    Full,
    /// The tokens that the index allows.
    Allowed,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            beam_width: 10,
            max_new_tokens: 10,
            normalise: Normalise::Full,
            batch_size: 16,
        }
    }
}

impl DecodeOptions {
    /// Says what is wrong with the options, if anything.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("beam_width", self.beam_width),
            ("max_new_tokens", self.max_new_tokens),
            ("batch_size", self.batch_size),
        ] {
            if value == 0 {
                return Err(format!("decode.{name} = 0 must be at least 1"));
            }
        }
        Ok(())
    }
}
