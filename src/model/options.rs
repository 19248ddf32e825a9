//! Which model: a family and a size by name, a published shape, explicit numbers, or a checkpoint.

use serde::{Deserialize, Serialize};

use super::{LlamaConfig, LoraOptions, ModelConfig, ModelError, T5Config};

/// The architecture of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// A decoder alone (Touvron et al. 2023).
    #[default]
    Llama,
    /// An encoder and a decoder (Raffel et al. 2020).
    T5,
}

impl Family {
    /// Its name in configurations, rows and plots.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::T5 => "t5",
        }
    }
}

/// A model as a configuration file writes it: a size by name, explicit numbers, or a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelOptions {
    /// The architecture; `size` may name it instead.
    pub family: Family,
    /// `s0.1m`, `s3m`, `s1b`, ...: about that many non-embedding parameters, with random weights.
    /// `llama-3.2-1b`, ...: a published shape, with random weights. Anything with a `/`: a checkpoint
    /// to start from, a folder or `owner/name` on the Hugging Face hub. `family:` may stand first.
    pub size: Option<String>,
    /// Width of the residual stream; with `n_layers` instead of `size`.
    pub d_model: Option<usize>,
    /// Number of layers; with `d_model` instead of `size`.
    pub n_layers: Option<usize>,
    /// Query heads; by default as [`default_heads`].
    pub n_heads: Option<usize>,
    /// Key and value heads; by default as many as query heads.
    pub n_kv_heads: Option<usize>,
    /// Feed-forward width; by default what the family's sizing rule says.
    pub d_ff: Option<usize>,
    /// Whether the output head is the embedding; by default true.
    pub tie_embeddings: Option<bool>,
    /// Longest sequence; by default 512.
    pub max_positions: Option<usize>,
    /// Trains low-rank adapters instead of all weights.
    pub lora: Option<LoraOptions>,
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
    /// The same options with `name` as the size; `family:` before it sets the family.
    pub fn with_size(&self, name: &str) -> Result<Self, ModelError> {
        let mut options = Self {
            size: Some(name.into()),
            ..self.clone()
        };
        if let Some((family, size)) = name.split_once(':') {
            options.family = match family {
                "llama" => Family::Llama,
                "t5" => Family::T5,
                _ => {
                    return Err(ModelError::Shape(format!(
                        "model size `{name}`: family `{family}` is not known, expected `llama` or `t5`"
                    )));
                }
            };
            options.size = Some(size.into());
        } else if name.starts_with("t5-") && !name.contains('/') {
            options.family = Family::T5;
        }
        Ok(options)
    }

    /// The checkpoint that `size` names, if it names one: a folder, or `owner/name` on the hub.
    pub fn checkpoint(&self) -> Option<&str> {
        self.size.as_deref().filter(|size| size.contains('/'))
    }

    /// The concrete shape for a vocabulary of `vocab_size` tokens, with random weights.
    ///
    /// # Errors
    /// [`ModelError::Shape`] for names that are not known and numbers that make no model.
    pub fn resolve(&self, vocab_size: usize) -> Result<ModelConfig, ModelError> {
        let options = match &self.size {
            Some(size) => &self.with_size(size)?,
            None => self,
        };
        match options.family {
            Family::Llama => LlamaConfig::from_options(options, vocab_size).map(ModelConfig::Llama),
            Family::T5 => T5Config::from_options(options, vocab_size).map(ModelConfig::T5),
        }
    }

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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama(options: ModelOptions) -> LlamaConfig {
        match options.resolve(1000).unwrap() {
            ModelConfig::Llama(config) => config,
            ModelConfig::T5(config) => panic!("{config:?}"),
        }
    }

    fn size(name: &str) -> LlamaConfig {
        llama(ModelOptions::default().with_size(name).unwrap())
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
