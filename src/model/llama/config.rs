//! The shape of a LLaMA model: Hugging Face's `config.json`, published sizes, parameter counts.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::options::{ModelOptions, default_heads, layers_and_width};
use super::super::{Footprint, ModelError};
use crate::sweep::flops::ModelCounts;

/// Shape and constants of a LLaMA model, as in Hugging Face's `config.json`.
///
/// Keys that do not change what the model computes are ignored on reading; a key that would change
/// it and is not supported is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Number of tokens the embedding and the output head know.
    pub vocab_size: usize,
    /// Width of the residual stream (`d_model`).
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Longest sequence the rotary tables cover.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Frequency scaling of Llama 3.1 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases in the attention projections.
    #[serde(default)]
    pub attention_bias: bool,
    /// Biases in the feed-forward projections.
    #[serde(default)]
    pub mlp_bias: bool,
}

/// Rotary frequency scaling of Llama 3.1 (`rope_type = "llama3"`): wavelengths beyond
/// `original_max_position_embeddings / low_freq_factor` are stretched by `factor`, those below
/// `original / high_freq_factor` are kept, and those between are interpolated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeScaling {
    /// Always `llama3`.
    pub rope_type: String,
    /// How much the long wavelengths are stretched.
    pub factor: f64,
    /// Divides the original length to give the longest interpolated wavelength.
    pub low_freq_factor: f64,
    /// Divides the original length to give the shortest interpolated wavelength.
    pub high_freq_factor: f64,
    /// Context length the model was first trained with.
    pub original_max_position_embeddings: usize,
}

/// Published shapes: name; layers, width, feed-forward width; query and key/value heads; vocabulary
/// aside. The context is what the first release was trained with.
const PUBLISHED: [(&str, [usize; 5], usize); 9] = [
    ("llama-2-7b", [32, 4096, 11008, 32, 32], 4096),
    ("llama-2-13b", [40, 5120, 13824, 40, 40], 4096),
    ("llama-2-70b", [80, 8192, 28672, 64, 8], 4096),
    ("llama-3-8b", [32, 4096, 14336, 32, 8], 8192),
    ("llama-3-70b", [80, 8192, 28672, 64, 8], 8192),
    ("llama-3.1-8b", [32, 4096, 14336, 32, 8], 131_072),
    ("llama-3.1-70b", [80, 8192, 28672, 64, 8], 131_072),
    ("llama-3.2-1b", [16, 2048, 8192, 32, 8], 131_072),
    ("llama-3.2-3b", [28, 3072, 8192, 24, 8], 131_072),
];

impl LlamaConfig {
    /// The shape that `options` describe, for a vocabulary of `vocab_size` tokens.
    pub(in super::super) fn from_options(
        options: &ModelOptions,
        vocab_size: usize,
    ) -> Result<Self, ModelError> {
        if let Some(config) = options
            .size
            .as_deref()
            .and_then(|name| Self::published(name, vocab_size))
        {
            options.check_no_numbers()?;
            return Ok(Self {
                max_position_embeddings: options
                    .max_positions
                    .unwrap_or(config.max_position_embeddings),
                ..config
            });
        }
        let (layers, width) = options.layers_and_width(layers_and_width)?;
        let heads = options.n_heads.unwrap_or_else(|| default_heads(width));
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(ModelError::Shape(format!(
                "d_model = {width} is not divisible by n_heads = {heads}"
            )));
        }
        let config = Self {
            vocab_size,
            hidden_size: width,
            intermediate_size: options
                .d_ff
                .unwrap_or_else(|| (8 * width).div_ceil(48) * 16),
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: options.n_kv_heads.unwrap_or(heads),
            head_dim: width / heads,
            max_position_embeddings: options.max_positions.unwrap_or(512),
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tie_word_embeddings: options.tie_embeddings.unwrap_or(true),
            attention_bias: false,
            mlp_bias: false,
        };
        config.check()?;
        Ok(config)
    }

    /// The published shape of that name, such as `llama-3.2-1b`, with a vocabulary of its own.
    /// Sources: Touvron et al. 2023 (Llama 2); Grattafiori et al. 2024 (Llama 3) and its model cards.
    fn published(name: &str, vocab_size: usize) -> Option<Self> {
        let &(_, [layers, width, d_ff, heads, kv_heads], max_positions) =
            PUBLISHED.iter().find(|(known, ..)| *known == name)?;
        let third = name.starts_with("llama-3");
        // The small ones of 3.2 stretch by 32 where 3.1 stretches by 8, and tie their embeddings.
        let small = name.starts_with("llama-3.2");
        let scaled = small || name.starts_with("llama-3.1");
        Some(Self {
            vocab_size,
            hidden_size: width,
            intermediate_size: d_ff,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: width / heads,
            max_position_embeddings: max_positions,
            rms_norm_eps: 1e-5,
            rope_theta: if third { 500_000.0 } else { 10_000.0 },
            rope_scaling: scaled.then(|| RopeScaling {
                rope_type: "llama3".into(),
                factor: if small { 32.0 } else { 8.0 },
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            }),
            tie_word_embeddings: small,
            attention_bias: false,
            mlp_bias: false,
        })
    }

    /// Reads Hugging Face's `config.json`; both the keys of transformers 4 (`rope_theta`,
    /// `rope_scaling`) and of 5 (`rope_parameters`) are understood.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path).map_err(|source| ModelError::Io {
            path: path.into(),
            source,
        })?;
        let bad = |message: String| ModelError::Config {
            path: path.into(),
            message,
        };
        let mut json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let fields = json
            .as_object_mut()
            .ok_or_else(|| bad("expected a JSON object".into()))?;
        let model_type = fields
            .get("model_type")
            .and_then(|v| v.as_str())
            .unwrap_or("");
        if model_type != "llama" {
            return Err(bad(format!(
                "model_type is `{model_type}`, expected `llama`"
            )));
        }
        for (name, expected) in [("hidden_act", "silu")] {
            if let Some(found) = fields
                .get(name)
                .and_then(|v| v.as_str())
                .filter(|v| *v != expected)
            {
                return Err(bad(format!(
                    "{name} is `{found}`, only `{expected}` is supported"
                )));
            }
        }
        if let Some(mut rope) = fields.remove("rope_parameters") {
            let theta = rope.get("rope_theta").cloned();
            if let Some(theta) = theta {
                fields.insert("rope_theta".into(), theta);
            }
            let kind = rope
                .get("rope_type")
                .and_then(|v| v.as_str())
                .unwrap_or("default");
            if kind == "default" {
                rope = serde_json::Value::Null;
            }
            fields.insert("rope_scaling".into(), rope);
        }
        let number = |fields: &serde_json::Map<String, serde_json::Value>, name: &str| {
            fields.get(name).and_then(|v| v.as_u64())
        };
        let heads = number(fields, "num_attention_heads")
            .ok_or_else(|| bad("num_attention_heads is missing".into()))?;
        if fields.get("head_dim").is_none_or(|v| v.is_null()) {
            let width = number(fields, "hidden_size").unwrap_or(0);
            fields.insert("head_dim".into(), (width / heads.max(1)).into());
        }
        for (name, value) in [
            ("num_key_value_heads", heads.into()),
            ("rope_theta", 10_000.0.into()),
            ("tie_word_embeddings", false.into()),
            ("max_position_embeddings", 2048.into()),
            ("rms_norm_eps", 1e-6.into()),
        ] {
            if fields.get(name).is_none_or(serde_json::Value::is_null) {
                fields.insert(name.into(), value);
            }
        }
        let config: Self = serde_json::from_value(json).map_err(|e| bad(e.to_string()))?;
        config.check().map_err(|e| bad(e.to_string()))?;
        Ok(config)
    }

    /// The `config.json` that transformers' `LlamaForCausalLM` reads.
    pub fn to_hugging_face(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("a struct of numbers is always JSON");
        let fields = json
            .as_object_mut()
            .expect("a struct serialises to an object");
        for (name, value) in [
            ("architectures", serde_json::json!(["LlamaForCausalLM"])),
            ("model_type", "llama".into()),
            ("hidden_act", "silu".into()),
            ("initializer_range", 0.02.into()),
            ("torch_dtype", "float32".into()),
        ] {
            fields.insert(name.into(), value);
        }
        json
    }

    pub(super) fn check(&self) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Shape(message));
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 {
                return fail(format!("{name} is 0"));
            }
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            return fail(format!(
                "num_attention_heads = {} is not a multiple of num_key_value_heads = {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return fail(format!(
                "head_dim = {} is odd; rotary positions need pairs",
                self.head_dim
            ));
        }
        if let Some(scaling) = &self.rope_scaling
            && scaling.rope_type != "llama3"
        {
            return fail(format!(
                "rope scaling `{}` is not supported, only `llama3`",
                scaling.rope_type
            ));
        }
        Ok(())
    }

    /// Angle per position of each pair of components of a head, in radians: `head_dim / 2` numbers.
    pub fn inverse_frequencies(&self) -> Vec<f64> {
        (0..self.head_dim / 2)
            .map(|i| {
                let frequency = self.rope_theta.powf(-2.0 * i as f64 / self.head_dim as f64);
                self.rope_scaling
                    .as_ref()
                    .map_or(frequency, |s| s.apply(frequency))
            })
            .collect()
    }

    /// The counts that decide what a pass through the model costs.
    pub fn counts(&self) -> ModelCounts {
        ModelCounts {
            params_non_embedding: self.params_non_embedding() as f64,
            params_head: (self.vocab_size * self.hidden_size) as f64,
            layers: self.num_hidden_layers as f64,
            attention_width: (self.num_attention_heads * self.head_dim) as f64,
            encoder: None,
        }
    }

    /// Every projection by the last part of its name, with `[out, in]`.
    pub(in super::super) fn linear_shapes(&self) -> Vec<(&'static str, [usize; 2])> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let layer = [
            ("q_proj", [q, d]),
            ("k_proj", [kv, d]),
            ("v_proj", [kv, d]),
            ("o_proj", [d, q]),
            ("gate_proj", [f, d]),
            ("up_proj", [f, d]),
            ("down_proj", [d, f]),
        ];
        layer.repeat(self.num_hidden_layers)
    }

    /// What decoding keeps in memory beside the weights.
    pub fn footprint(&self) -> Footprint {
        let kv = self.num_key_value_heads * self.head_dim;
        let q = self.num_attention_heads * self.head_dim;
        // A layer holds its input and its normed input, beside either queries, keys, values and their
        // attention or the three vectors of the feed-forward layer.
        let widest = (2 * q + 2 * kv).max(3 * self.intermediate_size);
        Footprint {
            prompt_token_bytes: self.num_hidden_layers * kv * 8,
            new_token_bytes: self.num_hidden_layers * kv * 8,
            pass_token_bytes: 4 * (3 * self.hidden_size + widest),
            vocab: self.vocab_size,
        }
    }

    /// Numbers per token that a training step keeps for its backward pass: per layer about 16 vectors
    /// of the model's width and 4 of the feed-forward width.
    pub fn activations_per_token(&self) -> usize {
        self.num_hidden_layers * (16 * self.hidden_size + 4 * self.intermediate_size)
    }

    /// Parameters of the embedding (and of the output head where it is not the same matrix).
    pub fn params_embedding(&self) -> usize {
        let copies = if self.tie_word_embeddings { 1 } else { 2 };
        copies * self.vocab_size * self.hidden_size
    }

    /// All other parameters.
    pub fn params_non_embedding(&self) -> usize {
        let d = self.hidden_size;
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let f = self.intermediate_size;
        let attention = 2 * d * q
            + 2 * d * kv
            + if self.attention_bias {
                q + 2 * kv + d
            } else {
                0
            };
        let mlp = 3 * d * f + if self.mlp_bias { 2 * f + d } else { 0 };
        self.num_hidden_layers * (attention + mlp + 2 * d) + d
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f64) -> f64 {
        let original = self.original_max_position_embeddings as f64;
        let turns = original * frequency / (2.0 * std::f64::consts::PI);
        let share = ((turns - self.low_freq_factor)
            / (self.high_freq_factor - self.low_freq_factor))
            .clamp(0.0, 1.0);
        frequency * (share + (1.0 - share) / self.factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_shapes_hold_the_published_number_of_parameters() {
        for (name, vocab, params) in [
            ("llama-2-7b", 32_000, 6_738_415_616usize),
            ("llama-2-13b", 32_000, 13_015_864_320),
            ("llama-2-70b", 32_000, 68_976_648_192),
            ("llama-3-8b", 128_256, 8_030_261_248),
            ("llama-3.1-70b", 128_256, 70_553_706_496),
            ("llama-3.2-1b", 128_256, 1_235_814_400),
            ("llama-3.2-3b", 128_256, 3_212_749_824),
        ] {
            let config = LlamaConfig::published(name, vocab).unwrap();
            config.check().unwrap();
            let total = config.params_embedding() + config.params_non_embedding();
            assert_eq!(total, params, "{name}");
        }
    }
}
