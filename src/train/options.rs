//! How to train, as a configuration file writes it.

use serde::{Deserialize, Serialize};

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainOptions {
    /// Examples per optimiser update.
    pub batch_size: usize,
    /// Examples per forward pass; changes memory, not results beyond rounding.
    pub micro_batch_size: usize,
    /// Passes over the training examples; a fraction is allowed.
    pub epochs: f64,
    /// Training FLOPs to spend; the passes follow from it, and `epochs` does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
    /// Peak learning rate, or `"auto"`.
    pub learning_rate: LearningRate,
    /// How the learning rate falls after the warm-up.
    pub schedule: Schedule,
    /// Share of the steps in which the learning rate rises linearly from 0.
    pub warmup: f64,
    /// Share of the steps, the last ones, in which `wsd` falls to 0.
    #[serde(skip_serializing_if = "is_default_cooldown")]
    pub cooldown: f64,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices; vectors are not decayed.
    pub weight_decay: f64,
    /// Largest gradient norm; larger ones are scaled down to it. 0 turns clipping off.
    pub clip_norm: f64,
    /// Parameters with a learning rate or a weight decay of their own; the first group that fits counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParameterGroup>,
    /// Decay per step of the moving average of the weights, which then is the trained model; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub ema: f64,
    /// Keeps the activations of one layer instead of all, for the price of one more forward pass.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// Floats of the forward and backward pass; weights, moments and sums stay in 32 bits.
    #[serde(skip_serializing_if = "Precision::is_single")]
    pub precision: Precision,
    /// Steps between measurements of the validation loss; 0 measures after the last step only.
    pub validate_every: u64,
    /// Seconds between checkpoints.
    pub checkpoint_every_secs: f64,
}

const COOLDOWN: f64 = 0.2;

// Options of later versions are left out of hashes where they change nothing.
fn is_default_cooldown(value: &f64) -> bool {
    *value == COOLDOWN
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// Floats of the forward and backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// Brain floats of 16 bits (Micikevicius et al. 2018: 32-bit master weights), for GPUs.
    Bf16,
}

impl Precision {
    fn is_single(&self) -> bool {
        *self == Self::F32
    }
}

/// Parameters with settings of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// Parts of the names of its parameters, such as `embed_tokens` or `layers.0.`.
    pub names: Vec<String>,
    /// Factor of the learning rate.
    #[serde(default = "whole")]
    pub learning_rate: f64,
    /// Weight decay instead of the general one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

fn whole() -> f64 {
    1.0
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            batch_size: 64,
            micro_batch_size: 64,
            epochs: 1.0,
            flops: None,
            learning_rate: LearningRate::Auto(Auto::Auto),
            schedule: Schedule::Cosine,
            warmup: 0.1,
            cooldown: COOLDOWN,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.01,
            clip_norm: 1.0,
            groups: vec![],
            ema: 0.0,
            gradient_checkpointing: false,
            precision: Precision::F32,
            validate_every: 0,
            checkpoint_every_secs: 60.0,
        }
    }
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// Derive the number.
    Auto,
}

/// A learning rate: a number, or `"auto"` for [`kaplan_learning_rate`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LearningRate {
    /// Derived from the model's size.
    Auto(Auto),
    /// Given.
    Value(f64),
}

impl LearningRate {
    /// The peak learning rate of a model with that many non-embedding parameters.
    pub fn resolve(self, params_non_embedding: usize) -> f64 {
        match self {
            Self::Auto(_) => kaplan_learning_rate(params_non_embedding),
            Self::Value(value) => value,
        }
    }
}

/// Learning rate 0.003239 - 0.0001395 ln N for N non-embedding parameters (Kaplan et al. 2020,
/// equation D.1), held at 1e-4 for models so large that the formula falls below it.
pub fn kaplan_learning_rate(params_non_embedding: usize) -> f64 {
    (0.003_239 - 0.000_139_5 * (params_non_embedding as f64).ln()).max(1e-4)
}

/// How the learning rate falls from its peak after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// It does not.
    Constant,
    /// Linearly to 0.
    Linear,
    /// Along half a cosine to a tenth of the peak (Hoffmann et al. 2022).
    Cosine,
    /// Stays, then falls to 0 as 1 - sqrt of the `cooldown`'s share that is done (Haegele et al. 2024).
    Wsd,
}

impl TrainOptions {
    /// Share of the peak learning rate for update `step` (from 0) of `steps`.
    pub fn share_of_peak(&self, step: u64, steps: u64) -> f64 {
        let steps = steps as f64;
        let warmup_steps = (steps * self.warmup).ceil();
        let done = step as f64 + 1.0;
        if done <= warmup_steps {
            return done / warmup_steps;
        }
        let share = (done - warmup_steps) / (steps - warmup_steps + 1.0);
        match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - share,
            Schedule::Cosine => 0.1 + 0.45 * (1.0 + (std::f64::consts::PI * share).cos()),
            Schedule::Wsd => {
                let cooldown_steps = (steps * self.cooldown).ceil();
                let left = steps + 1.0 - done;
                // 1 - sqrt of the share that is done: flat is what it starts from.
                let share = 1.0 - (left / (cooldown_steps + 1.0)).min(1.0);
                1.0 - share.sqrt()
            }
        }
    }

    /// The first group that holds the parameter of that name.
    pub(super) fn group_of(&self, parameter: &str) -> Option<&ParameterGroup> {
        let holds = |g: &&ParameterGroup| g.names.iter().any(|name| parameter.contains(&name[..]));
        self.groups.iter().find(holds)
    }
}

impl TrainOptions {
    /// Says what is wrong with the options, if anything.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("batch_size", self.batch_size as f64),
            ("micro_batch_size", self.micro_batch_size as f64),
            ("epochs", self.epochs),
            ("flops", self.flops.unwrap_or(1.0)),
            ("epsilon", self.epsilon),
            ("learning_rate", self.learning_rate.resolve(1)),
        ];
        for (name, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(format!("train.{name} = {value} must be positive"));
            }
        }
        for (name, value) in [
            ("beta1", self.beta1),
            ("beta2", self.beta2),
            ("warmup", self.warmup),
            ("cooldown", self.cooldown),
            ("ema", self.ema),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(format!("train.{name} = {value} must lie in [0, 1)"));
            }
        }
        if self.gradient_checkpointing && self.precision != Precision::F32 {
            return Err(
                "train.gradient_checkpointing works with train.precision = \"f32\" only".into(),
            );
        }
        for group in &self.groups {
            let positive = group.learning_rate >= 0.0 && group.weight_decay.unwrap_or(0.0) >= 0.0;
            if group.names.is_empty() || !positive {
                return Err(
                    "train.groups: a group needs names, and numbers that are not negative".into(),
                );
            }
        }
        for (name, value) in [
            ("weight_decay", self.weight_decay),
            ("clip_norm", self.clip_norm),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(format!("train.{name} = {value} must not be negative"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_rise_and_fall() {
        let at = |schedule: Schedule| {
            let options = TrainOptions {
                schedule,
                warmup: 0.2,
                cooldown: 0.3,
                ..TrainOptions::default()
            };
            (0..10)
                .map(|s| options.share_of_peak(s, 10))
                .collect::<Vec<_>>()
        };
        let linear = at(Schedule::Linear);
        assert_eq!(&linear[..2], [0.5, 1.0]);
        assert!((linear[2] - 8.0 / 9.0).abs() < 1e-12 && (linear[9] - 1.0 / 9.0).abs() < 1e-12);
        let cosine = at(Schedule::Cosine);
        assert!(
            cosine[9] > 0.1 && cosine[9] < 0.15 && cosine.windows(2).skip(1).all(|w| w[1] < w[0])
        );
        assert_eq!(at(Schedule::Constant)[5], 1.0);
        let wsd = at(Schedule::Wsd);
        assert!(wsd[2..7].iter().all(|&share| share == 1.0), "{wsd:?}");
        // Three steps of the cooldown: 1/4, 2/4 and 3/4 of it done.
        for (share, done) in wsd[7..].iter().zip([0.25f64, 0.5, 0.75]) {
            assert!((share - (1.0 - done.sqrt())).abs() < 1e-12, "{wsd:?}");
        }
    }

    #[test]
    fn learning_rate_by_hand() {
        // ln 1e6 = 13.8155, times 0.0001395 = 0.0019273
        assert!((kaplan_learning_rate(1_000_000) - 0.001_311_7).abs() < 1e-7);
        let parsed: TrainOptions = toml::from_str("learning_rate = \"auto\"").unwrap();
        assert_eq!(parsed, TrainOptions::default());
        let parsed: TrainOptions = toml::from_str("learning_rate = 0.5").unwrap();
        assert_eq!(parsed.learning_rate.resolve(7), 0.5);
        assert!(toml::from_str::<TrainOptions>("learning_rat = 0.5").is_err());
    }
}
