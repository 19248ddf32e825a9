//! The shape of a LLaMA model: Hugging Face's `config.json`, and sizes by name.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ModelError;
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

/// A model shape as a configuration file writes it: a size by name, or explicit numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelOptions {
    /// `s0.1m`, `s3m`, `s100m`, ...: about that many million non-embedding parameters.
    pub size: Option<String>,
    /// Width of the residual stream; with `n_layers` instead of `size`.
    pub d_model: Option<usize>,
    /// Number of layers; with `d_model` instead of `size`.
    pub n_layers: Option<usize>,
    /// Query heads; by default as [`default_heads`].
    pub n_heads: Option<usize>,
    /// Key and value heads; by default as many as query heads.
    pub n_kv_heads: Option<usize>,
    /// Feed-forward width; by default 8/3 of `d_model`, rounded up to a multiple of 16.
    pub d_ff: Option<usize>,
    /// Whether the output head is the embedding; by default true.
    pub tie_embeddings: Option<bool>,
    /// Longest sequence; by default 512.
    pub max_positions: Option<usize>,
}

/// Layers and width for about `params` non-embedding parameters, of which a layer of width d holds
/// 12 d^2 (four attention matrices, three of 8/3 d^2).
///
/// Source: the width-to-depth ratio of 64 that nanochat (Karpathy 2025) keeps at every size, within
/// the wide optimum of Kaplan et al. 2020 (figure 5); at least two layers, because copying a word
/// from the prompt takes an attention head in each of two (Olsson et al. 2022). Widths are multiples
/// of 16.
pub fn layers_and_width(params: f64) -> (usize, usize) {
    const RATIO: f64 = 64.0;
    let layers = (params / (12.0 * RATIO * RATIO)).cbrt().round().max(2.0);
    let width = (params / (12.0 * layers)).sqrt() / 16.0;
    (layers as usize, (width.round().max(1.0) as usize) * 16)
}

/// Heads for a width: the widest of 64, 32, 16 that divides it into at least four heads, else
/// what leaves two or more.
pub fn default_heads(d_model: usize) -> usize {
    [64, 32, 16, 8]
        .into_iter()
        .find(|dim| d_model.is_multiple_of(*dim) && d_model / dim >= 4)
        .map_or_else(
            || if d_model.is_multiple_of(4) { 2 } else { 1 },
            |dim| d_model / dim,
        )
}

/// Non-embedding parameters that a size name such as `s0.3m` or `s1b` stands for.
pub fn params_of_size(name: &str) -> Result<f64, ModelError> {
    let error = || {
        ModelError::Shape(format!(
            "model size `{name}` is not understood: write `s` and a number with `m` or `b`, such as s0.1m, s3m, s1b"
        ))
    };
    let number = name.strip_prefix('s').ok_or_else(error)?;
    let (number, scale) = match (number.strip_suffix('m'), number.strip_suffix('b')) {
        (Some(number), _) => (number, 1e6),
        (_, Some(number)) => (number, 1e9),
        _ => return Err(error()),
    };
    let value: f64 = number.parse().map_err(|_| error())?;
    if !(value * scale >= 1e3 && value * scale <= 1e12) {
        return Err(error());
    }
    Ok(value * scale)
}

impl ModelOptions {
    /// Layers and width: given, or by `rule` from the number of parameters that `size` names.
    pub(super) fn layers_and_width(
        &self,
        rule: fn(f64) -> (usize, usize),
    ) -> Result<(usize, usize), ModelError> {
        match (&self.size, self.n_layers, self.d_model) {
            (Some(size), None, None) => Ok(rule(params_of_size(size)?)),
            (None, Some(layers), Some(width)) => Ok((layers, width)),
            _ => Err(ModelError::Shape(
                "[model] needs either `size`, or both `n_layers` and `d_model`".into(),
            )),
        }
    }

    /// Refuses numbers beside a published shape or a checkpoint, which has its own.
    pub fn check_no_numbers(&self) -> Result<(), ModelError> {
        let given = [
            ("d_model", self.d_model),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("d_ff", self.d_ff),
            ("tie_embeddings", self.tie_embeddings.map(usize::from)),
        ];
        match given.iter().find(|(_, value)| value.is_some()) {
            Some((name, _)) => Err(ModelError::Shape(format!(
                "model.{name} cannot be changed: `{}` is a given shape",
                self.size.as_deref().unwrap_or_default()
            ))),
            None => Ok(()),
        }
    }

    /// The concrete shape for a vocabulary of `vocab_size` tokens.
    pub fn resolve(&self, vocab_size: usize) -> Result<LlamaConfig, ModelError> {
        let (layers, width) = match (&self.size, self.n_layers, self.d_model) {
            (Some(size), None, None) => layers_and_width(params_of_size(size)?),
            (None, Some(layers), Some(width)) => (layers, width),
            _ => {
                return Err(ModelError::Shape(
                    "[model] needs either `size`, or both `n_layers` and `d_model`".into(),
                ));
            }
        };
        let heads = self.n_heads.unwrap_or_else(|| default_heads(width));
        if !width.is_multiple_of(heads) || heads == 0 {
            return Err(ModelError::Shape(format!(
                "d_model = {width} is not divisible by n_heads = {heads}"
            )));
        }
        let config = LlamaConfig {
            vocab_size,
            hidden_size: width,
            intermediate_size: self.d_ff.unwrap_or_else(|| (8 * width).div_ceil(48) * 16),
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: self.n_kv_heads.unwrap_or(heads),
            head_dim: width / heads,
            max_position_embeddings: self.max_positions.unwrap_or(512),
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tie_word_embeddings: self.tie_embeddings.unwrap_or(true),
            attention_bias: false,
            mlp_bias: false,
        };
        config.check()?;
        Ok(config)
    }
}

impl LlamaConfig {
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

    fn check(&self) -> Result<(), ModelError> {
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

    fn size(name: &str) -> LlamaConfig {
        ModelOptions {
            size: Some(name.into()),
            ..Default::default()
        }
        .resolve(1000)
        .unwrap()
    }

    #[test]
    fn sizes_by_name_hold_about_that_many_parameters() {
        for (name, target) in [
            ("s0.1m", 1e5),
            ("s0.3m", 3e5),
            ("s1m", 1e6),
            ("s3m", 3e6),
            ("s10m", 1e7),
            ("s30m", 3e7),
            ("s100m", 1e8),
            ("s1b", 1e9),
        ] {
            let config = size(name);
            let ratio = config.params_non_embedding() as f64 / target;
            assert!((0.8..1.25).contains(&ratio), "{name}: {ratio}, {config:?}");
            assert!(config.num_attention_heads >= 2 && config.num_hidden_layers >= 2);
        }
        assert_eq!(
            (size("s0.1m").hidden_size, size("s0.1m").num_hidden_layers),
            (64, 2)
        );
    }

    #[test]
    fn bad_shapes_are_refused() {
        for name in ["1m", "sm", "s-1m", "s1", "s1k"] {
            assert!(params_of_size(name).is_err(), "{name}");
        }
        assert!(ModelOptions::default().resolve(10).is_err());
        let both = ModelOptions {
            size: Some("s1m".into()),
            d_model: Some(64),
            ..Default::default()
        };
        assert!(both.resolve(10).is_err());
        let odd = ModelOptions {
            d_model: Some(64),
            n_layers: Some(1),
            n_heads: Some(7),
            ..Default::default()
        };
        assert!(odd.resolve(10).is_err());
    }

    #[test]
    fn parameters_of_a_layer_by_hand() {
        let config = ModelOptions {
            d_model: Some(4),
            n_layers: Some(1),
            n_heads: Some(2),
            n_kv_heads: Some(1),
            d_ff: Some(6),
            ..Default::default()
        }
        .resolve(10)
        .unwrap();
        // q 16, k 8, v 8, o 16, three of 24, two norms of 4, final norm 4
        assert_eq!(config.params_non_embedding(), 16 + 8 + 8 + 16 + 72 + 8 + 4);
        assert_eq!(config.params_embedding(), 40);
    }
}
