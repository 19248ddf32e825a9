//! How to decode, as a configuration file writes it.

use serde::{Deserialize, Serialize};

/// How to decode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecodeOptions {
    /// Hypotheses kept per query and step.
    pub beam_width: usize,
    /// Tokens of the longest sequence.
    pub max_new_tokens: usize,
    /// Tokens of the shortest sequence that counts.
    pub min_new_tokens: usize,
    /// The score of a sequence of n tokens is the sum of their log-probabilities / n^penalty.
    pub length_penalty: f64,
    /// When a query that has `beam_width` complete sequences is done.
    pub stop: Stop,
    /// Over which tokens probabilities sum to one.
    pub normalise: Normalise,
    /// Groups of hypotheses, each of `beam_width` / groups, that avoid each other's tokens (diverse beam
    /// search, Vijayakumar et al. 2018); 1 is plain beam search.
    pub groups: usize,
    /// What a token loses, in nats, for every earlier group that chose it at the same step.
    pub diversity_penalty: f64,
    /// Texts of which every sequence begins with one; empty for none.
    pub prefixes: Vec<String>,
    /// Queries decoded together, or `"auto"`; changes memory and speed, not results beyond rounding.
    pub batch_size: BatchSize,
    /// GiB that decoding may take beside the weights where the batch size is `"auto"`; absent, the command line takes
    /// half of what the machine has free and a library call 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gib: Option<f64>,
}

/// Over which tokens probabilities sum to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalise {
    /// All of the vocabulary: scores are the model's own log-probabilities.
    Full,
    /// The tokens that the constraint allows; the output head is evaluated for them alone where they are few.
    Allowed,
    /// None: the score of a sequence is the sum of its logits, as models rank identifiers that learned so. What is called a
    /// log-probability then is that sum.
    None,
}

/// When a query that has `beam_width` complete sequences is done. Without a length penalty both say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// When no sequence that goes on can become better than the worst of them, however long it gets.
    Exact,
    /// When no sequence that goes on is better at its present length (the default of transformers' `generate`).
    Early,
}

/// Queries decoded together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BatchSize {
    /// What fits the memory, see [`batches`](super::batches).
    Auto(Auto),
    /// Given.
    Queries(usize),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// Derive the number.
    Auto,
}

impl std::str::FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto(Auto::Auto)),
            (_, Ok(queries)) if queries > 0 => Ok(Self::Queries(queries)),
            _ => Err(format!("`{text}` is neither `auto` nor a number above 0")),
        }
    }
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            beam_width: 10,
            max_new_tokens: 10,
            min_new_tokens: 1,
            length_penalty: 0.0,
            stop: Stop::Exact,
            normalise: Normalise::Full,
            groups: 1,
            diversity_penalty: 0.0,
            prefixes: vec![],
            batch_size: BatchSize::Auto(Auto::Auto),
            memory_gib: None,
        }
    }
}

impl DecodeOptions {
    /// Says what is wrong with the options, if anything.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("beam_width", self.beam_width),
            ("max_new_tokens", self.max_new_tokens),
            ("min_new_tokens", self.min_new_tokens),
            ("groups", self.groups),
        ] {
            if value == 0 {
                return Err(format!("decode.{name} = 0 must be at least 1"));
            }
        }
        if self.batch_size == BatchSize::Queries(0) {
            return Err("decode.batch_size = 0 must be `auto` or at least 1".into());
        }
        if self.min_new_tokens > self.max_new_tokens {
            return Err(format!(
                "decode.min_new_tokens = {} exceeds decode.max_new_tokens = {}",
                self.min_new_tokens, self.max_new_tokens
            ));
        }
        if !self.beam_width.is_multiple_of(self.groups) {
            return Err(format!(
                "decode.beam_width = {} must be a multiple of decode.groups = {}",
                self.beam_width, self.groups
            ));
        }
        if !self.length_penalty.is_finite() {
            return Err("decode.length_penalty must be a number".into());
        }
        if !(self.diversity_penalty >= 0.0 && self.diversity_penalty.is_finite()) {
            return Err("decode.diversity_penalty must be a number of 0 or more".into());
        }
        if self.prefixes.iter().any(|prefix| prefix.trim().is_empty()) {
            return Err("decode.prefixes holds an empty text".into());
        }
        match self.memory_gib {
            Some(gib) if !(gib > 0.0 && gib.is_finite()) => {
                Err(format!("decode.memory_gib = {gib} must be above 0"))
            }
            _ => Ok(()),
        }
    }

    /// The score of a sequence of `len` tokens: `log_prob / len^length_penalty`.
    pub fn score(&self, log_prob: f64, len: usize) -> f64 {
        if self.length_penalty == 0.0 {
            return log_prob;
        }
        log_prob / (len as f64).powf(self.length_penalty)
    }
}

/// How to draw texts at random.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleOptions {
    /// Logits are divided by it; above 0.
    pub temperature: f64,
    /// Only that many of the likeliest tokens are drawn; 0 for all (Fan et al. 2018).
    pub top_k: usize,
    /// Only the likeliest tokens whose probabilities reach this sum are drawn (Holtzman et al. 2020).
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 10,
            top_p: 1.0,
            seed: 0,
        }
    }
}

impl SampleOptions {
    /// Says what is wrong with the options, if anything.
    pub fn check(&self) -> Result<(), String> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(format!(
                "a temperature of {} must be above 0",
                self.temperature
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(format!("top-p = {} must lie in (0, 1]", self.top_p));
        }
        Ok(())
    }
}
