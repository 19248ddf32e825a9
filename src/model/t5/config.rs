//! The shape of a T5 model: Hugging Face's `config.json`, published sizes, sizes by name, counts.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::{Footprint, ModelError, ModelOptions, default_heads};
use crate::sweep::flops::{EncoderCounts, ModelCounts};

/// Shape and constants of a T5 model, as in Hugging Face's `config.json`.
///
/// Keys that do not change what the model computes are ignored on reading; a key that would change
/// it and is not supported is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct T5Config {
    /// Number of tokens the embedding and the output head know.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one head; heads together may be wider or narrower than `d_model`.
    pub d_kv: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// Blocks of the encoder.
    pub num_layers: usize,
    /// Blocks of the decoder.
    pub num_decoder_layers: usize,
    /// Heads of every attention.
    pub num_heads: usize,
    /// Buckets that distances are sorted into.
    pub relative_attention_num_buckets: usize,
    /// Distance from which all share the last bucket.
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in RMSNorm.
    pub layer_norm_epsilon: f64,
    /// What the feed-forward layer computes.
    pub feed_forward_proj: FeedForward,
    /// Whether the output head is the embedding, with hidden states scaled by `d_model^-0.5` before
    /// it; otherwise it has a matrix of its own and nothing is scaled.
    pub tie_word_embeddings: bool,
    /// The token that the decoder reads first.
    pub decoder_start_token_id: u32,
    /// Padding, for programs that read the checkpoint; genret pads by lengths.
    pub pad_token_id: u32,
    /// End of a text, for programs that read the checkpoint.
    pub eos_token_id: u32,
}

/// The feed-forward layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedForward {
    /// `wo relu(wi x)`: v1.0.
    Relu,
    /// `wo (gelu(wi_0 x) * wi_1 x)` with the tanh approximation of GELU: v1.1, Flan.
    GatedGelu,
}

/// Name; blocks per stack, `d_model`, `d_kv`, heads, `d_ff`. Sources: Raffel et al. 2020 (section
/// 3.7.2 and appendix) for v1.0; the checkpoints' own notes (2020) for v1.1.
const PUBLISHED: [(&str, [usize; 5]); 10] = [
    ("t5-small", [6, 512, 64, 8, 2048]),
    ("t5-base", [12, 768, 64, 12, 3072]),
    ("t5-large", [24, 1024, 64, 16, 4096]),
    ("t5-3b", [24, 1024, 128, 32, 16_384]),
    ("t5-11b", [24, 1024, 128, 128, 65_536]),
    ("t5-v1.1-small", [8, 512, 64, 6, 1024]),
    ("t5-v1.1-base", [12, 768, 64, 12, 2048]),
    ("t5-v1.1-large", [24, 1024, 64, 16, 2816]),
    ("t5-v1.1-xl", [24, 2048, 64, 32, 5120]),
    ("t5-v1.1-xxl", [24, 4096, 64, 64, 10_240]),
];

/// Blocks per stack and width for about `params` non-embedding parameters, of which a pair of encoder
/// and decoder block of width d holds 28 d^2 (three attentions of 4 d^2, two feed-forward layers of
/// three matrices of 8/3 d^2).
///
/// Source: the width-to-depth ratio of 64 of T5 v1.1 base (768 / 12), the size its authors tuned, as
/// of LLaMA's sizes by name; at least two blocks, because copying a word from the prompt takes an
/// attention head in each of two (Olsson et al. 2022). Widths are multiples of 8 below 128, of 16
/// above.
fn layers_and_width(params: f64) -> (usize, usize) {
    const RATIO: f64 = 64.0;
    const SQUARES: f64 = 28.0;
    let layers = (params / (SQUARES * RATIO * RATIO)).cbrt().round().max(2.0);
    let width = (params / (SQUARES * layers)).sqrt();
    let step = if width < 128.0 { 8.0 } else { 16.0 };
    let width = (width / step).round().max(1.0) * step;
    (layers as usize, width as usize)
}

impl T5Config {
    /// The shape that `options` describe, for a vocabulary of `vocab_size` tokens: a published one, or
    /// a size by name or numbers in the form of v1.1 with v1.0's tied head, whose initial logits are
    /// of unit size. Both stacks have `n_layers` blocks; `max_positions` is of no account.
    pub(in super::super) fn from_options(
        options: &ModelOptions,
        vocab_size: usize,
    ) -> Result<Self, ModelError> {
        let published = options.size.as_deref();
        if let Some(config) = published.and_then(|name| Self::published(name, vocab_size)) {
            options.check_no_numbers()?;
            return Ok(config);
        }
        let (layers, width) = options.layers_and_width(layers_and_width)?;
        let heads = options.n_heads.unwrap_or_else(|| default_heads(width));
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(ModelError::Shape(format!(
                "d_model = {width} is not divisible by n_heads = {heads}"
            )));
        }
        if options.n_kv_heads.is_some_and(|kv| kv != heads) {
            return Err(ModelError::Shape(format!(
                "n_kv_heads must be n_heads = {heads}: T5 shares no keys and values between heads"
            )));
        }
        let config = Self {
            d_model: width,
            d_kv: width / heads,
            d_ff: options
                .d_ff
                .unwrap_or_else(|| (8 * width).div_ceil(48) * 16),
            num_heads: heads,
            tie_word_embeddings: options.tie_embeddings.unwrap_or(true),
            ..Self::of_form(FeedForward::GatedGelu, layers, vocab_size)
        };
        config.check()?;
        Ok(config)
    }

    /// The published shape of that name, such as `t5-v1.1-base`.
    fn published(name: &str, vocab_size: usize) -> Option<Self> {
        let &(_, [layers, d_model, d_kv, num_heads, d_ff]) =
            PUBLISHED.iter().find(|(known, _)| *known == name)?;
        let gated = name.starts_with("t5-v1.1");
        let form = match gated {
            true => FeedForward::GatedGelu,
            false => FeedForward::Relu,
        };
        Some(Self {
            d_model,
            d_kv,
            d_ff,
            num_heads,
            tie_word_embeddings: !gated,
            ..Self::of_form(form, layers, vocab_size)
        })
    }

    /// What all shapes have in common; widths are still 0.
    fn of_form(feed_forward_proj: FeedForward, layers: usize, vocab_size: usize) -> Self {
        Self {
            vocab_size,
            d_model: 0,
            d_kv: 0,
            d_ff: 0,
            num_layers: layers,
            num_decoder_layers: layers,
            num_heads: 0,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj,
            tie_word_embeddings: true,
            decoder_start_token_id: 0,
            pad_token_id: 0,
            eos_token_id: 1,
        }
    }

    /// Reads Hugging Face's `config.json`, as transformers 4 and 5 write it.
    ///
    /// Transformers 5 writes `tie_word_embeddings = true` for every T5, and says by
    /// `scale_decoder_outputs` whether the head is in truth the embedding.
    ///
    /// # Errors
    /// [`ModelError::Config`] for another family or a setting that is not supported.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path).map_err(|source| ModelError::Io {
            path: path.into(),
            source,
        })?;
        Self::from_json(&text).map_err(|message| ModelError::Config {
            path: path.into(),
            message,
        })
    }

    fn from_json(text: &str) -> Result<Self, String> {
        let mut json: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let fields = json.as_object_mut().ok_or("expected a JSON object")?;
        let model_type = fields.get("model_type").and_then(|v| v.as_str());
        if model_type != Some("t5") {
            return Err(format!(
                "model_type is `{}`, expected `t5`",
                model_type.unwrap_or_default()
            ));
        }
        let number = |name: &str| fields.get(name).and_then(serde_json::Value::as_u64);
        let layers = number("num_layers").ok_or("num_layers is missing")?;
        let absent = |name: &str| fields.get(name).is_none_or(serde_json::Value::is_null);
        let defaults = [
            ("num_decoder_layers", layers.into()),
            ("relative_attention_num_buckets", 32.into()),
            ("relative_attention_max_distance", 128.into()),
            ("layer_norm_epsilon", 1e-6.into()),
            ("feed_forward_proj", "relu".into()),
            ("tie_word_embeddings", true.into()),
            ("pad_token_id", 0.into()),
            ("eos_token_id", 1.into()),
        ];
        let missing: Vec<_> = defaults
            .into_iter()
            .filter(|(name, _)| absent(name))
            .collect();
        fields.extend(
            missing
                .into_iter()
                .map(|(name, value)| (name.into(), value)),
        );
        if fields
            .get("decoder_start_token_id")
            .is_none_or(|v| v.is_null())
        {
            let pad = fields["pad_token_id"].clone();
            fields.insert("decoder_start_token_id".into(), pad);
        }
        if let Some(scaled) = fields.remove("scale_decoder_outputs") {
            fields.insert("tie_word_embeddings".into(), scaled);
        }
        let unit = fields["feed_forward_proj"].as_str().unwrap_or_default();
        let activation = match unit {
            "relu" => "relu",
            "gated-gelu" => "gelu_new",
            _ => {
                return Err(format!(
                    "feed_forward_proj is `{unit}`, only `relu` and `gated-gelu` are supported"
                ));
            }
        };
        let gated = unit != "relu";
        let found = fields.get("dense_act_fn").and_then(|v| v.as_str());
        if let Some(found) = found.filter(|found| *found != activation) {
            return Err(format!(
                "dense_act_fn is `{found}`, only `{activation}` is supported with `{unit}`"
            ));
        }
        let found = fields
            .get("is_gated_act")
            .and_then(serde_json::Value::as_bool);
        if found.is_some_and(|found| found != gated) {
            return Err(format!(
                "is_gated_act = {} does not go with `{unit}`",
                !gated
            ));
        }
        let config: Self = serde_json::from_value(json).map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string())?;
        Ok(config)
    }

    /// The `config.json` that transformers' `T5ForConditionalGeneration` reads.
    pub fn to_hugging_face(&self) -> serde_json::Value {
        let gated = self.feed_forward_proj == FeedForward::GatedGelu;
        let mut json = serde_json::to_value(self).expect("a struct of numbers is always JSON");
        let fields = json
            .as_object_mut()
            .expect("a struct serialises to an object");
        for (name, value) in [
            (
                "architectures",
                serde_json::json!(["T5ForConditionalGeneration"]),
            ),
            ("model_type", "t5".into()),
            ("is_encoder_decoder", true.into()),
            ("is_gated_act", gated.into()),
            (
                "dense_act_fn",
                if gated { "gelu_new" } else { "relu" }.into(),
            ),
            ("scale_decoder_outputs", self.tie_word_embeddings.into()),
            ("dropout_rate", 0.0.into()),
            ("initializer_factor", 1.0.into()),
            ("use_cache", true.into()),
            ("torch_dtype", "float32".into()),
        ] {
            fields.insert(name.into(), value);
        }
        json
    }

    fn check(&self) -> Result<(), ModelError> {
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_decoder_layers", self.num_decoder_layers),
            ("num_heads", self.num_heads),
        ] {
            if value == 0 {
                return Err(ModelError::Shape(format!("{name} is 0")));
            }
        }
        let (buckets, furthest) = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        );
        if buckets < 4 || !buckets.is_multiple_of(4) || furthest <= buckets / 2 {
            return Err(ModelError::Shape(format!(
                "relative_attention_num_buckets = {buckets} must be a multiple of 4, and relative_attention_max_distance = {furthest} more than half of it"
            )));
        }
        if self.decoder_start_token_id as usize >= self.vocab_size {
            return Err(ModelError::Shape(format!(
                "decoder_start_token_id = {} is outside the vocabulary of {}",
                self.decoder_start_token_id, self.vocab_size
            )));
        }
        Ok(())
    }

    /// Bucket of a distance, key position minus query position.
    ///
    /// Half of the buckets hold one distance each, the others logarithmically more, up to the furthest
    /// (Raffel et al. 2020, section 2.1). Both ways, later keys have the upper half of all buckets;
    /// otherwise they share the first with the query itself. Logarithms are of 32-bit floats, as
    /// where the models were made.
    pub(super) fn bucket(&self, distance: isize, both_ways: bool) -> usize {
        let all = self.relative_attention_num_buckets;
        let (buckets, first) = match both_ways {
            true => (all / 2, if distance > 0 { all / 2 } else { 0 }),
            false => (all, 0),
        };
        let far = match both_ways {
            true => distance.unsigned_abs(),
            false => (-distance).max(0) as usize,
        };
        let exact = buckets / 2;
        if far < exact {
            return first + far;
        }
        let span = (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
        let share = (far as f32 / exact as f32).ln() / span;
        first + (exact + (share * (buckets - exact) as f32) as usize).min(buckets - 1)
    }

    /// Width of all heads together.
    pub(super) fn attention_width(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// The counts that decide what a pass through the model costs.
    pub fn counts(&self) -> ModelCounts {
        let memory = self.num_decoder_layers * self.attention_params() / 2;
        ModelCounts {
            params_non_embedding: (self.decoder_params() - memory) as f64,
            params_head: (self.vocab_size * self.d_model) as f64,
            layers: self.num_decoder_layers as f64,
            attention_width: self.attention_width() as f64,
            encoder: Some(EncoderCounts {
                params: self.encoder_params() as f64,
                layers: self.num_layers as f64,
                params_memory: memory as f64,
            }),
        }
    }

    /// Every projection by the last part of its name, with `[out, in]`.
    pub(in super::super) fn linear_shapes(&self) -> Vec<(&'static str, [usize; 2])> {
        let (d, f, width) = (self.d_model, self.d_ff, self.attention_width());
        let attention = [
            ("q", [width, d]),
            ("k", [width, d]),
            ("v", [width, d]),
            ("o", [d, width]),
        ];
        let mlp: &[(&str, [usize; 2])] = match self.feed_forward_proj {
            FeedForward::Relu => &[("wi", [f, d]), ("wo", [d, f])],
            FeedForward::GatedGelu => &[("wi_0", [f, d]), ("wi_1", [f, d]), ("wo", [d, f])],
        };
        let attentions = attention.repeat(self.num_layers + 2 * self.num_decoder_layers);
        [
            attentions,
            mlp.repeat(self.num_layers + self.num_decoder_layers),
        ]
        .concat()
    }

    /// What decoding keeps in memory beside the weights.
    pub fn footprint(&self) -> Footprint {
        let (width, layers) = (self.attention_width(), self.num_decoder_layers);
        // A layer holds its input and its normed input, beside either queries, keys, values and their
        // attention or the three vectors of the feed-forward layer.
        let widest = (4 * width).max(3 * self.d_ff);
        Footprint {
            prompt_token_bytes: 4 * 2 * layers * width,
            new_token_bytes: 4 * 2 * layers * width,
            pass_token_bytes: 4 * (3 * self.d_model + widest),
            vocab: self.vocab_size,
        }
    }

    /// Numbers per token that a training step keeps for its backward pass: per encoder block about 16
    /// vectors of the model's width and 4 of the feed-forward width, per decoder block ten of the
    /// model's width more; a token stands in one of the two.
    pub fn activations_per_token(&self) -> usize {
        let (d, f) = (self.d_model.max(self.attention_width()), self.d_ff);
        let encoder = self.num_layers * (16 * d + 4 * f);
        let decoder = self.num_decoder_layers * (26 * d + 4 * f);
        encoder.max(decoder)
    }

    /// Parameters of the embedding (and of the output head where it is not the same matrix).
    pub fn params_embedding(&self) -> usize {
        let copies = if self.tie_word_embeddings { 1 } else { 2 };
        copies * self.vocab_size * self.d_model
    }

    /// All other parameters.
    pub fn params_non_embedding(&self) -> usize {
        self.encoder_params() + self.decoder_params()
    }

    /// Of one attention; half of them make keys and values.
    fn attention_params(&self) -> usize {
        4 * self.d_model * self.attention_width()
    }

    fn feed_forward_params(&self) -> usize {
        let matrices = match self.feed_forward_proj {
            FeedForward::Relu => 2,
            FeedForward::GatedGelu => 3,
        };
        matrices * self.d_model * self.d_ff
    }

    fn bias_params(&self) -> usize {
        self.relative_attention_num_buckets * self.num_heads
    }

    fn encoder_params(&self) -> usize {
        let block = self.attention_params() + self.feed_forward_params() + 2 * self.d_model;
        self.num_layers * block + self.bias_params() + self.d_model
    }

    fn decoder_params(&self) -> usize {
        let block = 2 * self.attention_params() + self.feed_forward_params() + 3 * self.d_model;
        self.num_decoder_layers * block + self.bias_params() + self.d_model
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::flops::TrainingCost;

    fn options(size: &str) -> ModelOptions {
        ModelOptions {
            size: Some(size.into()),
            ..Default::default()
        }
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
            ("s300m", 3e8),
            ("s1b", 1e9),
        ] {
            let config = T5Config::from_options(&options(name), 1000).unwrap();
            let ratio = config.params_non_embedding() as f64 / target;
            assert!((0.8..1.25).contains(&ratio), "{name}: {ratio}, {config:?}");
            assert!(config.num_heads >= 2 && config.num_layers >= 2);
        }
    }

    #[test]
    fn published_sizes_hold_the_parameters_of_their_checkpoints() {
        for (name, params) in [
            ("t5-small", 60_506_624),
            ("t5-base", 222_903_552),
            ("t5-large", 737_668_096),
            ("t5-3b", 2_851_598_336),
            ("t5-11b", 11_307_321_344),
            ("t5-v1.1-small", 76_961_152),
            ("t5-v1.1-base", 247_577_856),
            ("t5-v1.1-large", 783_150_080),
            ("t5-v1.1-xl", 2_849_757_184),
            ("t5-v1.1-xxl", 11_135_332_352),
        ] {
            let config = T5Config::from_options(&options(name), 32_128).unwrap();
            let found = config.params_embedding() + config.params_non_embedding();
            assert_eq!(found, params, "{name}");
        }
    }

    #[test]
    fn bad_shapes_are_refused() {
        let numbers = ModelOptions {
            d_model: Some(64),
            n_layers: Some(1),
            ..Default::default()
        };
        assert!(T5Config::from_options(&numbers, 10).is_ok());
        let cases = [
            ModelOptions {
                n_heads: Some(7),
                ..numbers.clone()
            },
            ModelOptions {
                n_kv_heads: Some(1),
                ..numbers.clone()
            },
            ModelOptions {
                n_layers: Some(0),
                ..numbers.clone()
            },
            ModelOptions {
                d_model: Some(64),
                ..options("t5-small")
            },
            options("t5-huge"),
        ];
        for options in cases {
            assert!(T5Config::from_options(&options, 10).is_err(), "{options:?}");
        }
    }

    #[test]
    fn configurations_of_transformers_4_and_5() {
        let four = r#"{"model_type": "t5", "vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 160, "num_layers": 3, "num_decoder_layers": null, "num_heads": 3, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false, "pad_token_id": 2}"#;
        let config = T5Config::from_json(four).unwrap();
        assert_eq!(config.num_decoder_layers, 3);
        assert_eq!((config.decoder_start_token_id, config.eos_token_id), (2, 1));
        assert!(!config.tie_word_embeddings);
        let five = four.replace(
            r#""tie_word_embeddings": false"#,
            r#""tie_word_embeddings": true, "scale_decoder_outputs": false, "is_gated_act": true, "dense_act_fn": "gelu_new""#,
        );
        assert_eq!(T5Config::from_json(&five).unwrap(), config);
        let own = config.to_hugging_face().to_string();
        assert_eq!(T5Config::from_json(&own).unwrap(), config);
        for (from, to) in [
            ("gated-gelu", "gated-silu"),
            (r#""model_type": "t5""#, r#""model_type": "bert""#),
            (r#""pad_token_id": 2"#, r#""is_gated_act": false"#),
            (r#""pad_token_id": 2"#, r#""dense_act_fn": "gelu""#),
            (r#""pad_token_id": 2"#, r#""pad_token_id": 100"#),
            (r#""num_heads": 3"#, r#""num_heads": 0"#),
        ] {
            assert!(
                T5Config::from_json(&four.replace(from, to)).is_err(),
                "{to}"
            );
        }
    }

    #[test]
    fn buckets_begin_where_transformers_begins_them() {
        let config = T5Config::published("t5-small", 10).unwrap();
        // First distance of each bucket after the exact ones, by transformers 5.23.
        let both_ways = [8, 12, 16, 23, 32, 46, 64, 91];
        let back = [
            16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113,
        ];
        for far in 0..1000_isize {
            let starts = |list: &[isize]| list.iter().filter(|&&start| start <= far).count();
            let expected = if far < 8 {
                far as usize
            } else {
                7 + starts(&both_ways)
            };
            assert_eq!(config.bucket(-far, true), expected, "{far} back");
            if far > 0 {
                assert_eq!(config.bucket(far, true), 16 + expected, "{far} ahead");
                assert_eq!(config.bucket(far, false), 0, "{far} ahead, hidden");
            }
            let expected = if far < 16 {
                far as usize
            } else {
                15 + starts(&back)
            };
            assert_eq!(config.bucket(-far, false), expected, "{far} back");
        }
    }

    #[test]
    fn parameters_and_operations_by_hand() {
        let options = ModelOptions {
            d_model: Some(4),
            n_layers: Some(1),
            n_heads: Some(2),
            d_ff: Some(6),
            ..Default::default()
        };
        let config = T5Config::from_options(&options, 10).unwrap();
        // Encoder: 4 matrices of 16, three of 24, two gains, the bias of 32 x 2, the last gain;
        // decoder: four matrices and one gain more.
        let encoder = 64 + 72 + 8 + 64 + 4;
        let decoder = 128 + 72 + 12 + 64 + 4;
        assert_eq!(config.params_non_embedding(), encoder + decoder);
        assert_eq!(config.params_embedding(), 40);
        let counts = config.counts();
        // A prompt of 3 is read once, 9 pairs of positions; keys and values of it: 2 matrices of 16.
        let prompt = (2 * encoder * 3 + 4 * 4 * 9 + 2 * 32 * 3) as f64;
        // A decoder token: its other matrices, the head, itself and 3 prompt positions.
        let token = (2 * (decoder - 32) + 2 * 40) as f64;
        let pair = (4 * 4) as f64;
        assert_eq!(counts.prefill(3), prompt + token + pair * (1.0 + 3.0));
        // Two target tokens: 1 + 2 positions of the decoder, 3 of the prompt each.
        let forward = prompt + 2.0 * token + pair * (3.0 + 6.0);
        assert_eq!(counts.train(3, 2, TrainingCost::default()), 3.0 * forward);
        // The second token on five beams sees 2 positions and the prompt.
        let second = token + pair * (2.0 + 3.0);
        assert_eq!(counts.decode(3, 2, 5), counts.prefill(3) + 5.0 * second);
    }
}
