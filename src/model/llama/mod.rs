//! LLaMA: RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al. 2023).
//!
//! Activations are kept flat, `[batch * seq, width]`, so that every projection is one matrix product;
//! the fused operations come from `genret-kernels`. Shape legend: b batch, t sequence, n = b * t,
//! d model width, v vocabulary.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use genret_kernels::{self as kernels, AttentionShape, BeamCache, CacheShape, Rotary};

use super::layers::{Embedding, Initializer, Linear, Norm, Sequences, id_tensor, with_rows};
use super::recompute::{NamedGradients, Pulled, leaf};
use super::{Footprint, ModelError, NextTokenModel, PromptTarget};
use crate::types::TokenId;

mod config;

pub use config::{LlamaConfig, RopeScaling};

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
}

#[derive(Module, Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

#[derive(Module, Debug)]
struct Layer {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: Norm,
    post_attention_layernorm: Norm,
}

#[derive(Module, Debug)]
struct Decoder {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: Norm,
}

/// A LLaMA model; its parameters are named as in Hugging Face's `LlamaForCausalLM`.
#[derive(Module, Debug)]
pub struct Llama {
    model: Decoder,
    lm_head: Option<Linear>,
    #[module(skip)]
    rotary: Rotary,
    #[module(skip)]
    config: LlamaConfig,
}

impl LlamaConfig {
    /// A model with random weights drawn from `seed`.
    ///
    /// Matrices are normal with standard deviation sqrt(2 / (5 d_model)) (Nguyen and Salazar 2019);
    /// those that write into the residual stream are divided by sqrt(2 layers) (Radford et al. 2019).
    pub fn init(&self, seed: u64, device: &Device) -> Llama {
        self.build(&Initializer {
            seed: Some(seed),
            device,
        })
    }

    /// A model of zeros, to be filled from a checkpoint.
    pub fn empty(&self, device: &Device) -> Llama {
        self.build(&Initializer { seed: None, device })
    }

    fn build(&self, init: &Initializer<'_>) -> Llama {
        let device = init.device;
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let std = (2.0 / (5.0 * d as f64)).sqrt();
        let residual = std / (2.0 * self.num_hidden_layers as f64).sqrt();
        let layers = (0..self.num_hidden_layers)
            .map(|layer| {
                let linear = |name: &str, shape, std, bias| {
                    init.linear(&format!("layer {layer} {name}"), shape, std, bias)
                };
                Layer {
                    self_attn: Attention {
                        q_proj: linear("q", [q, d], std, self.attention_bias),
                        k_proj: linear("k", [kv, d], std, self.attention_bias),
                        v_proj: linear("v", [kv, d], std, self.attention_bias),
                        o_proj: linear("o", [d, q], residual, self.attention_bias),
                    },
                    mlp: Mlp {
                        gate_proj: linear("gate", [f, d], std, self.mlp_bias),
                        up_proj: linear("up", [f, d], std, self.mlp_bias),
                        down_proj: linear("down", [d, f], residual, self.mlp_bias),
                    },
                    input_layernorm: init.norm(d),
                    post_attention_layernorm: init.norm(d),
                }
            })
            .collect();
        let embedding = init.normal("embedding", [self.vocab_size, d], std);
        let lm_head = (!self.tie_word_embeddings)
            .then(|| init.linear("head", [self.vocab_size, d], std, false));
        Llama {
            model: Decoder {
                embed_tokens: Embedding { weight: embedding },
                layers,
                norm: init.norm(d),
            },
            lm_head,
            rotary: Rotary::new(
                &self.inverse_frequencies(),
                self.max_position_embeddings,
                &device.clone().inner(),
            ),
            config: self.clone(),
        }
    }
}

impl Mlp {
    fn forward(&self, x_nd: Tensor<2>) -> Tensor<2> {
        let gate = self.gate_proj.forward(x_nd.clone());
        self.down_proj
            .forward(kernels::swiglu(gate, self.up_proj.forward(x_nd)))
    }
}

impl Llama {
    /// The shape of the model.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The matrices with a row per token: the embedding, and the head where it is another.
    pub(super) fn vocabulary_weights(
        &mut self,
    ) -> (&mut Param<Tensor<2>>, Option<&mut Param<Tensor<2>>>) {
        let head = self.lm_head.as_mut().map(|head| &mut head.weight);
        (&mut self.model.embed_tokens.weight, head)
    }

    pub(super) fn with_vocab_size(mut self, vocab_size: usize, seed: u64) -> Self {
        self.config.vocab_size = vocab_size;
        let embedding = &mut self.model.embed_tokens.weight;
        *embedding = with_rows(embedding, vocab_size, "embedding", seed);
        if let Some(head) = &mut self.lm_head {
            head.weight = with_rows(&head.weight, vocab_size, "head", seed);
        }
        self
    }

    /// Calls `change` with every projection and its name, such as `model.layers.0.mlp.up_proj`.
    pub(super) fn for_each_linear(&mut self, change: &mut dyn FnMut(&str, &mut Linear)) {
        for (number, layer) in self.model.layers.iter_mut().enumerate() {
            let (attention, mlp) = (&mut layer.self_attn, &mut layer.mlp);
            for (name, linear) in [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.o_proj", &mut attention.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ] {
                change(&format!("model.layers.{number}.{name}"), linear);
            }
        }
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.model.norm.weight.val().device()
    }

    fn embed(&self, tokens: &[TokenId]) -> Tensor<2> {
        let ids = id_tensor(tokens, &self.device());
        kernels::embedding(self.model.embed_tokens.weight.val(), ids)
    }

    /// Hidden states after the final norm, `[batch * seq, d_model]`. Rows of padding hold no meaning.
    ///
    /// With `causal`, a position sees itself and what stands before it; without, every real token
    /// of its sequence.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] beyond `max_position_embeddings`.
    pub fn hidden(&self, batch: &Sequences, causal: bool) -> Result<Tensor<2>, ModelError> {
        self.check_length(batch.seq)?;
        Ok(self.pass(batch, causal, &mut |_, _, _| ()))
    }

    /// Hidden states that predict each target token of (prompt, target) `examples`, one row a token,
    /// example after example: `[target tokens, d_model]`.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] beyond `max_position_embeddings`.
    ///
    /// # Panics
    /// With an empty prompt or target.
    pub fn target_hidden(&self, examples: &[PromptTarget<'_>]) -> Result<Tensor<2>, ModelError> {
        let (batch, positions) = self.target_batch(examples);
        let hidden = self.hidden(&batch, true)?;
        Ok(kernels::embedding(hidden, positions))
    }

    /// What is read for (prompt, target) examples, and the flat rows that predict a target token.
    fn target_batch(&self, examples: &[PromptTarget<'_>]) -> (Sequences, Tensor<1, Int>) {
        // The last target token is predicted, never read.
        let rows: Vec<Vec<TokenId>> = examples
            .iter()
            .map(|(prompt, target)| [*prompt, &target[..target.len() - 1]].concat())
            .collect();
        let batch = Sequences::pad(&rows);
        let mut positions = vec![];
        for (row, (prompt, target)) in examples.iter().enumerate() {
            let first = row * batch.seq + prompt.len() - 1;
            positions.extend((first..first + target.len()).map(|p| p as i32));
        }
        let positions = Tensor::from_ints(&positions[..], &self.device());
        (batch, positions)
    }

    /// See [`Model::recomputed_gradients`](super::Model::recomputed_gradients).
    pub(super) fn recomputed_gradients(
        &self,
        examples: &[PromptTarget<'_>],
        scale: f64,
    ) -> Result<(Tensor<1>, NamedGradients), ModelError> {
        let (batch, positions) = self.target_batch(examples);
        self.check_length(batch.seq)?;
        let shape = self.attention_shape(&batch.lengths, true);
        let attend = |q, k, v| kernels::attention(q, k, v, &self.rotary, &shape);
        let forward = self.clone().valid();
        let mut inputs = vec![forward.embed(&batch.tokens)];
        for number in 0..self.config.num_hidden_layers {
            let output = forward.layer(number, inputs[number].clone(), attend);
            inputs.push(output);
        }

        let mut pulled = Pulled::new(self);
        let last = leaf(inputs.pop().expect("the embedding is the first"));
        let hidden = self
            .model
            .norm
            .forward(last.clone(), self.config.rms_norm_eps);
        let targets: Vec<TokenId> = examples.iter().flat_map(|(_, t)| *t).copied().collect();
        let loss = self.loss_sum(kernels::embedding(hidden, positions), &targets);
        let loss = loss.mul_scalar(scale);
        let value = loss.clone().inner();
        let [mut upstream] = pulled.backward(loss, [&last]);
        for (number, input) in inputs.into_iter().enumerate().rev() {
            let input = leaf(input);
            let output = self.layer(number, input.clone(), attend);
            [upstream] = pulled.through(output, upstream, [&input]);
        }
        pulled.through(self.embed(&batch.tokens), upstream, []);
        Ok((value, pulled.gradients()))
    }

    fn attention_shape<'a>(&self, lengths: &'a [usize], causal: bool) -> AttentionShape<'a> {
        AttentionShape {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            causal,
            lengths,
        }
    }

    /// One pass over a batch; `keys_values` is given every layer's keys (not yet rotated) and values.
    fn pass(
        &self,
        batch: &Sequences,
        causal: bool,
        keys_values: &mut dyn FnMut(usize, &Tensor<2>, &Tensor<2>),
    ) -> Tensor<2> {
        let shape = self.attention_shape(&batch.lengths, causal);
        let embedded = self.embed(&batch.tokens);
        self.through_layers(embedded, |layer, q, k, v| {
            keys_values(layer, &k, &v);
            kernels::attention(q, k, v, &self.rotary, &shape)
        })
    }

    /// All layers and the final norm, with `attend(layer, q, k, v)` as the attention.
    fn through_layers(
        &self,
        mut x: Tensor<2>,
        mut attend: impl FnMut(usize, Tensor<2>, Tensor<2>, Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        for number in 0..self.model.layers.len() {
            x = self.layer(number, x, |q, k, v| attend(number, q, k, v));
        }
        self.model.norm.forward(x, self.config.rms_norm_eps)
    }

    /// One layer, with `attend(q, k, v)` as its attention.
    fn layer(
        &self,
        number: usize,
        x: Tensor<2>,
        attend: impl FnOnce(Tensor<2>, Tensor<2>, Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let (layer, epsilon) = (&self.model.layers[number], self.config.rms_norm_eps);
        let attention = &layer.self_attn;
        let h = layer.input_layernorm.forward(x.clone(), epsilon);
        let attended = attend(
            attention.q_proj.forward(h.clone()),
            attention.k_proj.forward(h.clone()),
            attention.v_proj.forward(h),
        );
        let x = x + attention.o_proj.forward(attended);
        let h = layer.post_attention_layernorm.forward(x.clone(), epsilon);
        x + layer.mlp.forward(h)
    }

    /// Logits `[n, vocab]` of hidden states `[n, d_model]`.
    pub fn logits(&self, hidden_nd: Tensor<2>) -> Tensor<2> {
        kernels::linear(hidden_nd, self.head_weight())
    }

    /// Sum of the cross-entropies of `targets` given hidden states `[n, d_model]`, one target a row,
    /// in nats; the logits are never held whole. Shape `[1]`.
    pub fn loss_sum(&self, hidden_nd: Tensor<2>, targets: &[TokenId]) -> Tensor<1> {
        let targets = id_tensor(targets, &self.device());
        kernels::linear_cross_entropy(hidden_nd, self.head_weight(), targets, None)
    }

    /// Fails if a sequence of `len` tokens has no positions for all of them.
    pub fn check_length(&self, len: usize) -> Result<(), ModelError> {
        let limit = self.config.max_position_embeddings;
        if len > limit {
            return Err(ModelError::TooLong { got: len, limit });
        }
        Ok(())
    }

    /// Weight `[vocab, d_model]` of the output projection.
    pub(super) fn head_weight(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val(),
        }
    }
}

/// Hypotheses of a decoding with their cached keys and values.
pub struct LlamaState {
    cache: BeamCache,
}

impl NextTokenModel for Llama {
    type State = LlamaState;

    fn start(
        &self,
        prompts: &[&[TokenId]],
        max_new: usize,
    ) -> Result<(LlamaState, Tensor<2>), ModelError> {
        let batch = Sequences::pad(prompts);
        self.check_length(batch.seq + max_new)?;
        let shape = CacheShape {
            layers: self.config.num_hidden_layers,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        };
        let mut cache = BeamCache::new(shape, &self.rotary, &batch.lengths);
        let hidden = self.pass(&batch, true, &mut |layer, keys, values| {
            cache.set_prompt(layer, keys.clone(), values.clone());
        });
        let last: Vec<i32> = batch
            .lengths
            .iter()
            .enumerate()
            .map(|(row, length)| (row * batch.seq + length - 1) as i32)
            .collect();
        let last = Tensor::from_ints(&last[..], &self.device());
        Ok((LlamaState { cache }, kernels::embedding(hidden, last)))
    }

    fn step(
        &self,
        state: &mut LlamaState,
        parents: &[usize],
        last: &[TokenId],
    ) -> Result<Tensor<2>, ModelError> {
        state.cache.advance(parents);
        Ok(self.through_layers(self.embed(last), |layer, q, k, v| {
            kernels::decode_attention(q, k, v, &mut state.cache, layer)
        }))
    }

    fn logits(&self, hidden_nd: Tensor<2>) -> Tensor<2> {
        Self::logits(self, hidden_nd)
    }

    fn logits_of(&self, hidden_nd: Tensor<2>, tokens: &[TokenId]) -> Tensor<2> {
        let rows = kernels::embedding(self.head_weight(), id_tensor(tokens, &self.device()));
        kernels::linear(hidden_nd, rows)
    }

    fn footprint(&self) -> Footprint {
        self.config.footprint()
    }
}
