//! A model of any family behind one type, so that training, decoding and sweeps are written once.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use genret_kernels as kernels;
use serde::{Deserialize, Serialize};

use super::checkpoint;
use super::layers::{Initializer, Linear, id_tensor, with_directions};
use super::{
    Family, Footprint, Llama, LlamaConfig, LlamaState, ModelError, NextTokenModel, PromptTarget,
    T5, T5Config, T5State,
};
use crate::sweep::flops::ModelCounts;
use crate::types::TokenId;

/// The shape of a model of any family, as in Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModelConfig {
    /// A decoder alone.
    Llama(LlamaConfig),
    /// An encoder and a decoder.
    T5(T5Config),
}

/// A model of any family.
#[derive(Module, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it, and its weights are elsewhere"
)]
pub enum Model {
    /// A decoder alone.
    Llama(Llama),
    /// An encoder and a decoder.
    T5(T5),
}

/// Hypotheses of a decoding with whatever their model caches of them.
pub enum ModelState {
    /// Of a decoder alone.
    Llama(LlamaState),
    /// Of an encoder and a decoder.
    T5(T5State),
}

impl ModelConfig {
    /// Reads Hugging Face's `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a family or a setting that is not supported.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        #[derive(Deserialize)]
        struct Kind {
            model_type: Option<String>,
        }
        let text = std::fs::read_to_string(path).map_err(|source| ModelError::Io {
            path: path.into(),
            source,
        })?;
        let bad = |message: String| ModelError::Config {
            path: path.into(),
            message,
        };
        let kind: Kind = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        match kind.model_type.as_deref() {
            Some("llama") => LlamaConfig::load(path).map(Self::Llama),
            Some("t5") => T5Config::load(path).map(Self::T5),
            other => Err(bad(format!(
                "model_type is `{}`, expected `llama` or `t5`",
                other.unwrap_or_default()
            ))),
        }
    }

    /// The `config.json` that transformers reads.
    pub fn to_hugging_face(&self) -> serde_json::Value {
        match self {
            Self::Llama(config) => config.to_hugging_face(),
            Self::T5(config) => config.to_hugging_face(),
        }
    }

    /// A model with random weights drawn from `seed`.
    pub fn init(&self, seed: u64, device: &Device) -> Model {
        match self {
            Self::Llama(config) => Model::Llama(config.init(seed, device)),
            Self::T5(config) => Model::T5(config.init(seed, device)),
        }
    }

    /// A model of zeros, to be filled from a checkpoint.
    pub fn empty(&self, device: &Device) -> Model {
        match self {
            Self::Llama(config) => Model::Llama(config.empty(device)),
            Self::T5(config) => Model::T5(config.empty(device)),
        }
    }

    /// The architecture.
    pub fn family(&self) -> Family {
        match self {
            Self::Llama(_) => Family::Llama,
            Self::T5(_) => Family::T5,
        }
    }

    /// Layers and width, to name the shape in few words.
    pub fn layers_and_width(&self) -> (usize, usize) {
        match self {
            Self::Llama(config) => (config.num_hidden_layers, config.hidden_size),
            Self::T5(config) => (
                config.num_layers + config.num_decoder_layers,
                config.d_model,
            ),
        }
    }

    /// What decoding keeps in memory beside the weights.
    pub fn footprint(&self) -> Footprint {
        match self {
            Self::Llama(config) => config.footprint(),
            Self::T5(config) => config.footprint(),
        }
    }

    /// Numbers per token that a training step keeps for its backward pass, about.
    pub fn activations_per_token(&self) -> usize {
        match self {
            Self::Llama(config) => config.activations_per_token(),
            Self::T5(config) => config.activations_per_token(),
        }
    }

    /// Every projection by the last part of its name, with `[out, in]`.
    pub(super) fn linear_shapes(&self) -> Vec<(&'static str, [usize; 2])> {
        match self {
            Self::Llama(config) => config.linear_shapes(),
            Self::T5(config) => config.linear_shapes(),
        }
    }

    /// Modules with a row per token.
    pub(super) fn vocabulary_modules(&self) -> &'static [&'static str] {
        match self {
            Self::Llama(config) if config.tie_word_embeddings => &["embed_tokens"],
            Self::Llama(_) => &["embed_tokens", "lm_head"],
            Self::T5(config) if config.tie_word_embeddings => &["shared"],
            Self::T5(_) => &["shared", "lm_head"],
        }
    }

    /// Tokens the embedding knows.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.vocab_size,
            Self::T5(config) => config.vocab_size,
        }
    }

    /// Changes the number of tokens that the embedding knows.
    pub fn set_vocab_size(&mut self, vocab_size: usize) {
        match self {
            Self::Llama(config) => config.vocab_size = vocab_size,
            Self::T5(config) => config.vocab_size = vocab_size,
        }
    }

    /// Parameters of the embedding (and of the output head where it is not the same matrix).
    pub fn params_embedding(&self) -> usize {
        match self {
            Self::Llama(config) => config.params_embedding(),
            Self::T5(config) => config.params_embedding(),
        }
    }

    /// All other parameters.
    pub fn params_non_embedding(&self) -> usize {
        match self {
            Self::Llama(config) => config.params_non_embedding(),
            Self::T5(config) => config.params_non_embedding(),
        }
    }

    /// The counts that decide what a pass through the model costs.
    pub fn counts(&self) -> ModelCounts {
        match self {
            Self::Llama(config) => config.counts(),
            Self::T5(config) => config.counts(),
        }
    }
}

impl Model {
    /// The shape of the model.
    pub fn config(&self) -> ModelConfig {
        match self {
            Self::Llama(model) => ModelConfig::Llama(model.config().clone()),
            Self::T5(model) => ModelConfig::T5(model.config().clone()),
        }
    }

    /// The model in the Hugging Face folder `folder`.
    ///
    /// # Errors
    /// What is wrong with its configuration or its tensors, by name.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = ModelConfig::load(&folder.join("config.json"))?;
        checkpoint::load(config.empty(device), folder)
    }

    /// The model with rows for at least `vocab_size` tokens in embedding and head; old rows stay as
    /// they are. New rows are the mean of the old ones (Hewitt 2021), each with noise of a hundredth
    /// of their spread, so that no two are alike.
    pub fn with_vocab_size(self, vocab_size: usize, seed: u64) -> Self {
        if vocab_size <= self.config().vocab_size() {
            return self;
        }
        match self {
            Self::Llama(model) => Self::Llama(model.with_vocab_size(vocab_size, seed)),
            Self::T5(model) => Self::T5(model.with_vocab_size(vocab_size, seed)),
        }
    }

    /// The model whose tokens from `first` on begin as the directions of `vectors`, `[n, dims]`, in embedding and head,
    /// each row as long as those of the other tokens are on average. Where `dims` is not the model's width, vectors are
    /// projected by random normal numbers of `seed`, which keeps angles.
    pub fn with_token_vectors(
        mut self,
        first: usize,
        vectors: &[f32],
        dims: usize,
        seed: u64,
    ) -> Self {
        let (_, width) = self.config().layers_and_width();
        let projected = match dims == width {
            true => vectors.to_vec(),
            false => project(vectors, dims, width, seed),
        };
        let (embedding, head) = match &mut self {
            Self::Llama(model) => model.vocabulary_weights(),
            Self::T5(model) => model.vocabulary_weights(),
        };
        for weight in [Some(embedding), head].into_iter().flatten() {
            *weight = with_directions(weight, first, &projected);
        }
        self
    }

    /// Calls `change` with every projection and its name.
    pub(super) fn for_each_linear(&mut self, change: &mut dyn FnMut(&str, &mut Linear)) {
        match self {
            Self::Llama(model) => model.for_each_linear(change),
            Self::T5(model) => model.for_each_linear(change),
        }
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        match self {
            Self::Llama(model) => model.device(),
            Self::T5(model) => model.device(),
        }
    }

    /// Fails if a prompt and a target of these lengths do not fit the model's positions.
    pub fn check_lengths(&self, prompt: usize, target: usize) -> Result<(), ModelError> {
        match self {
            Self::Llama(model) => model.check_length(prompt + target),
            // Far distances share a bucket: there is no longest sequence.
            Self::T5(_) => Ok(()),
        }
    }

    /// Hidden states that predict each target token of (prompt, target) `examples`, one row a token,
    /// example after example: `[target tokens, d_model]`.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] beyond the model's positions.
    pub fn target_hidden(&self, examples: &[PromptTarget<'_>]) -> Result<Tensor<2>, ModelError> {
        match self {
            Self::Llama(model) => model.target_hidden(examples),
            Self::T5(model) => model.target_hidden(examples),
        }
    }

    /// Sum of the cross-entropies of `targets` given hidden states `[n, d_model]`, one target a row,
    /// in nats; the logits are never held whole. Shape `[1]`.
    pub fn loss_sum(&self, hidden_nd: Tensor<2>, targets: &[TokenId]) -> Tensor<1> {
        match self {
            Self::Llama(model) => model.loss_sum(hidden_nd, targets),
            Self::T5(model) => model.loss_sum(hidden_nd, targets),
        }
    }

    /// The logit of each of `targets` given hidden states `[n, d_model]`, one target a row: `[n]`. No other logit is computed.
    pub fn target_logits(&self, hidden_nd: Tensor<2>, targets: &[TokenId]) -> Tensor<1> {
        let (hidden_nd, weight_vd) = self.head(hidden_nd);
        let weight_nd = kernels::embedding(weight_vd, id_tensor(targets, &self.device()));
        (hidden_nd * weight_nd).sum_dim(1).flatten(0, 1)
    }

    /// The log-probability of each of `targets` given hidden states `[n, d_model]`, one target a row: `[n]`. All logits are
    /// held: `4 n vocab` bytes, three times with their gradient.
    pub fn target_log_probs(&self, hidden_nd: Tensor<2>, targets: &[TokenId]) -> Tensor<1> {
        let (hidden_nd, weight_vd) = self.head(hidden_nd);
        let log_probs_nv = activation::log_softmax(kernels::linear(hidden_nd, weight_vd), 1);
        let targets = id_tensor(targets, &self.device()).unsqueeze_dim(1);
        log_probs_nv.gather(1, targets).flatten(0, 1)
    }

    /// Input and weight of the output projection.
    fn head(&self, hidden_nd: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match self {
            Self::Llama(model) => (hidden_nd, model.head_weight()),
            Self::T5(model) => model.head(hidden_nd),
        }
    }
}

/// `vectors` times a matrix `[dims, width]` of normal numbers.
fn project(vectors: &[f32], dims: usize, width: usize, seed: u64) -> Vec<f32> {
    let device = Device::flex();
    let init = Initializer {
        seed: Some(seed),
        device: &device,
    };
    let matrix = init.normal("projected token vectors", [dims, width], 1.0);
    let vectors = TensorData::new(vectors.to_vec(), [vectors.len() / dims, dims]);
    let vectors = Tensor::<2>::from_data(vectors, &device);
    vectors
        .matmul(matrix.val())
        .into_data()
        .iter::<f32>()
        .collect()
}

impl NextTokenModel for Model {
    type State = ModelState;

    fn start(
        &self,
        prompts: &[&[TokenId]],
        max_new: usize,
    ) -> Result<(ModelState, Tensor<2>), ModelError> {
        match self {
            Self::Llama(model) => model
                .start(prompts, max_new)
                .map(|(state, logits)| (ModelState::Llama(state), logits)),
            Self::T5(model) => model
                .start(prompts, max_new)
                .map(|(state, logits)| (ModelState::T5(state), logits)),
        }
    }

    fn step(
        &self,
        state: &mut ModelState,
        parents: &[usize],
        last: &[TokenId],
    ) -> Result<Tensor<2>, ModelError> {
        match (self, state) {
            (Self::Llama(model), ModelState::Llama(state)) => model.step(state, parents, last),
            (Self::T5(model), ModelState::T5(state)) => model.step(state, parents, last),
            _ => unreachable!("a state is stepped by the model that started it"),
        }
    }

    fn logits(&self, hidden_nd: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Llama(model) => model.logits(hidden_nd),
            Self::T5(model) => model.logits(hidden_nd),
        }
    }

    fn logits_of(&self, hidden_nd: Tensor<2>, tokens: &[TokenId]) -> Tensor<2> {
        match self {
            Self::Llama(model) => model.logits_of(hidden_nd, tokens),
            Self::T5(model) => model.logits_of(hidden_nd, tokens),
        }
    }

    fn footprint(&self) -> Footprint {
        match self {
            Self::Llama(model) => model.footprint(),
            Self::T5(model) => model.footprint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelOptions, parameters};

    #[test]
    fn tokens_begin_as_the_directions_of_their_vectors() {
        for name in ["llama:s0.03m", "t5:s0.03m"] {
            let options = ModelOptions::default().with_size(name).unwrap();
            let model = options.resolve(53).unwrap().init(1, &Device::flex());
            let (_, width) = model.config().layers_and_width();
            let rows = |model: &mut Model| -> Vec<Vec<f32>> {
                let (embedding, _) = match model {
                    Model::Llama(model) => model.vocabulary_weights(),
                    Model::T5(model) => model.vocabulary_weights(),
                };
                let values: Vec<f32> = embedding.val().into_data().iter::<f32>().collect();
                values.chunks(width).map(<[f32]>::to_vec).collect()
            };
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let before = rows(&mut model.clone());
            let mean = before[..50].iter().map(|r| dot(r, r).sqrt()).sum::<f32>() / 50.0;
            for dims in [width, 600] {
                // Two that point the same way, and one of zeros.
                let mut vectors = vec![0f32; 3 * dims];
                vectors[..5].fill(2.0);
                vectors[dims..dims + 5].fill(3.0);
                let mut changed = model.clone().with_token_vectors(50, &vectors, dims, 7);
                let after = rows(&mut changed);
                assert_eq!(after[..50], before[..50]);
                assert_eq!(after[52], before[52]);
                assert!((dot(&after[50], &after[50]).sqrt() - mean).abs() < 1e-4 * mean);
                let angle = dot(&after[50], &after[51]) / (mean * mean);
                assert!((angle - 1.0).abs() < 1e-4, "{angle}");
            }
        }
    }

    #[test]
    fn counts_are_the_models_own() {
        for (name, tied) in [
            ("llama:", true),
            ("llama:", false),
            ("t5:", true),
            ("t5:", false),
        ] {
            let options = ModelOptions {
                tie_embeddings: Some(tied),
                ..ModelOptions::default()
            };
            let options = options.with_size(&format!("{name}s0.1m")).unwrap();
            let config = options.resolve(50).unwrap();
            let mut model = config.empty(&Device::flex());
            let total: usize = parameters::shapes(&model)
                .iter()
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum();
            let counted = config.params_embedding() + config.params_non_embedding();
            assert_eq!(total, counted, "{name} {tied}");
            let mut found = vec![];
            model.for_each_linear(&mut |name, linear| {
                let last = name.rsplit('.').next().unwrap().to_string();
                found.push((last, linear.weight.val().dims()));
            });
            let shapes = config.linear_shapes();
            let mut expected: Vec<_> = shapes.iter().map(|&(n, s)| (n.to_string(), s)).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{name} {tied}");
        }
    }
}
