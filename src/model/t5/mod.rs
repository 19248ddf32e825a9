//! T5: an encoder that reads the prompt both ways and a decoder that writes with an eye on it (Raffel
//! et al. 2020); v1.0, and v1.1 with Flan (gated feed-forward, head of its own).
//!
//! RMSNorm before every layer, no biases in projections, scores not divided by anything, positions
//! known by a bias per head and distance bucket that all blocks of a stack share. Where the head is the
//! embedding, hidden states are multiplied by `d_model^-0.5` before it. Dropout is not applied.
//! There is no longest sequence: far distances share a bucket.
//!
//! Activations are kept flat, `[batch * seq, width]`; the fused operations come from
//! `genret-kernels`. Shape legend: n rows of a batch, d model width, h heads, r distances.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use genret_kernels::{self as kernels, BeamCache, CacheShape, CrossShape, RelativeShape};

use super::layers::{Embedding, Linear, Sequences, id_tensor, with_rows};
use super::recompute::{NamedGradients, Pulled, leaf};
use super::{Footprint, ModelError, NextTokenModel, PromptTarget};
use crate::types::TokenId;

mod config;
mod weights;

pub use config::{FeedForward, T5Config};
use weights::{Attention, Decoder, Encoder};

/// A T5 model; its parameters are named as in Hugging Face's `T5ForConditionalGeneration`.
#[derive(Module, Debug)]
pub struct T5 {
    shared: Embedding,
    encoder: Encoder,
    decoder: Decoder,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: T5Config,
}

impl T5 {
    /// The shape of the model.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// The matrices with a row per token: the embedding, and the head where it is another.
    pub(super) fn vocabulary_weights(
        &mut self,
    ) -> (&mut Param<Tensor<2>>, Option<&mut Param<Tensor<2>>>) {
        let head = self.lm_head.as_mut().map(|head| &mut head.weight);
        (&mut self.shared.weight, head)
    }

    pub(super) fn with_vocab_size(mut self, vocab_size: usize, seed: u64) -> Self {
        self.config.vocab_size = vocab_size;
        let embedding = &mut self.shared.weight;
        *embedding = with_rows(embedding, vocab_size, "embedding", seed);
        if let Some(head) = &mut self.lm_head {
            head.weight = with_rows(&head.weight, vocab_size, "head", seed);
        }
        self
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.shared.weight.val().device()
    }

    fn embed(&self, tokens: &[TokenId]) -> Tensor<2> {
        let ids = id_tensor(tokens, &self.device());
        kernels::embedding(self.shared.weight.val(), ids)
    }

    /// Biases `[r, h]` of the distances (key minus query), from the first block's table.
    fn bias(
        &self,
        first: &Attention,
        distances: impl Iterator<Item = isize>,
        both_ways: bool,
    ) -> Tensor<2> {
        let buckets: Vec<i32> = distances
            .map(|distance| self.config.bucket(distance, both_ways) as i32)
            .collect();
        let table = first.relative_attention_bias.as_ref();
        let table = table.expect("the first block holds the table of its stack");
        let buckets = Tensor::from_ints(&buckets[..], &self.device());
        kernels::embedding(table.weight.val(), buckets)
    }

    /// Hidden states of the encoder after its final norm, `[batch * seq, d_model]`: every token sees
    /// every real token of its sequence. Rows of padding hold no meaning.
    pub fn encode(&self, batch: &Sequences) -> Tensor<2> {
        let bias = self.encoder_bias(batch.seq);
        let mut x = self.embed(&batch.tokens);
        for number in 0..self.encoder.block.len() {
            x = self.encoder_block(number, x, bias.clone(), &batch.lengths);
        }
        let epsilon = self.config.layer_norm_epsilon;
        self.encoder.final_layer_norm.forward(x, epsilon)
    }

    fn encoder_bias(&self, seq: usize) -> Tensor<2> {
        let last = seq as isize - 1;
        let first = &self.encoder.block[0].layer.0.SelfAttention;
        self.bias(first, -last..=last, true)
    }

    fn decoder_bias(&self, seq: usize) -> Tensor<2> {
        let last = seq as isize - 1;
        let first = &self.decoder.block[0].layer.0.SelfAttention;
        self.bias(first, -last..=last, false)
    }

    fn encoder_block(
        &self,
        number: usize,
        x: Tensor<2>,
        bias: Tensor<2>,
        lengths: &[usize],
    ) -> Tensor<2> {
        let epsilon = self.config.layer_norm_epsilon;
        let (attention, mlp) = &self.encoder.block[number].layer;
        let h = attention.layer_norm.forward(x.clone(), epsilon);
        let attention = &attention.SelfAttention;
        let attended = kernels::relative_attention(
            attention.q.forward(h.clone()),
            attention.k.forward(h.clone()),
            attention.v.forward(h),
            bias,
            &self.relative_shape(lengths, false),
        );
        let x = x + attention.o.forward(attended);
        let h = mlp.layer_norm.forward(x.clone(), epsilon);
        x + mlp.DenseReluDense.forward(h)
    }

    fn relative_shape<'a>(&self, lengths: &'a [usize], causal: bool) -> RelativeShape<'a> {
        RelativeShape {
            heads: self.config.num_heads,
            head_dim: self.config.d_kv,
            causal,
            lengths,
        }
    }

    /// All decoder blocks and the final norm, with `attend(layer, q, own)` as the attentions: to the
    /// tokens written before where it is given their keys and values, else to the encoder's output.
    fn through_decoder(
        &self,
        mut x: Tensor<2>,
        mut attend: impl FnMut(usize, Tensor<2>, Option<[Tensor<2>; 2]>) -> Tensor<2>,
    ) -> Tensor<2> {
        for number in 0..self.decoder.block.len() {
            x = self.decoder_block(number, x, |q, own| attend(number, q, own));
        }
        let epsilon = self.config.layer_norm_epsilon;
        self.decoder.final_layer_norm.forward(x, epsilon)
    }

    /// One decoder block; `attend` as for all of them.
    fn decoder_block(
        &self,
        number: usize,
        x: Tensor<2>,
        mut attend: impl FnMut(Tensor<2>, Option<[Tensor<2>; 2]>) -> Tensor<2>,
    ) -> Tensor<2> {
        let epsilon = self.config.layer_norm_epsilon;
        let (own, cross, mlp) = &self.decoder.block[number].layer;
        let h = own.layer_norm.forward(x.clone(), epsilon);
        let attention = &own.SelfAttention;
        let q = attention.q.forward(h.clone());
        let own_keys_values = [attention.k.forward(h.clone()), attention.v.forward(h)];
        let attended = attend(q, Some(own_keys_values));
        let x = x + attention.o.forward(attended);
        let h = cross.layer_norm.forward(x.clone(), epsilon);
        let attention = &cross.EncDecAttention;
        let attended = attend(attention.q.forward(h), None);
        let x = x + attention.o.forward(attended);
        let h = mlp.layer_norm.forward(x.clone(), epsilon);
        x + mlp.DenseReluDense.forward(h)
    }

    /// Hidden states of the decoder after its final norm, `[batch * seq, d_model]`, for decoder inputs
    /// `batch` (which begin with the start token) and the encoder's `memory_nd` of `prompts`. Rows of
    /// padding hold no meaning.
    pub fn decode(
        &self,
        prompts: &Sequences,
        memory_nd: &Tensor<2>,
        batch: &Sequences,
    ) -> Tensor<2> {
        let bias = self.decoder_bias(batch.seq);
        let x = self.embed(&batch.tokens);
        self.through_decoder(x, |layer, q, own| {
            self.attend(layer, q, own, &bias, memory_nd, (prompts, batch))
        })
    }

    /// [`T5::decode`] for a decoder that reads the texts that the encoder reads, shifted right: its row `t` has seen
    /// the tokens before `t` itself and all of them through the encoder.
    pub(super) fn decode_shifted(&self, texts: &Sequences) -> Tensor<2> {
        let mut inputs = texts.clone();
        for (input, text) in
            (inputs.tokens.chunks_mut(texts.seq)).zip(texts.tokens.chunks(texts.seq))
        {
            input[0] = self.start_token();
            input[1..].copy_from_slice(&text[..texts.seq - 1]);
        }
        self.decode(texts, &self.encode(texts), &inputs)
    }

    /// The attentions of a decoder layer over whole sequences: to what was written before where `own` are its
    /// keys and values, else to the prompts' `memory_nd`.
    fn attend(
        &self,
        layer: usize,
        q: Tensor<2>,
        own: Option<[Tensor<2>; 2]>,
        bias: &Tensor<2>,
        memory_nd: &Tensor<2>,
        (prompts, batch): (&Sequences, &Sequences),
    ) -> Tensor<2> {
        match own {
            Some([k, v]) => {
                let shape = self.relative_shape(&batch.lengths, true);
                kernels::relative_attention(q, k, v, bias.clone(), &shape)
            }
            None => {
                let [k, v] = self.memory_keys_values(layer, memory_nd);
                let shape = CrossShape {
                    heads: self.config.num_heads,
                    head_dim: self.config.d_kv,
                    queries: &batch.lengths,
                    keys: &prompts.lengths,
                };
                kernels::cross_attention(q, k, v, &shape)
            }
        }
    }

    /// Keys and values that a decoder layer makes of the encoder's output.
    fn memory_keys_values(&self, layer: usize, memory_nd: &Tensor<2>) -> [Tensor<2>; 2] {
        let attention = &self.decoder.block[layer].layer.1.EncDecAttention;
        [&attention.k, &attention.v].map(|linear| linear.forward(memory_nd.clone()))
    }

    fn start_token(&self) -> TokenId {
        TokenId(self.config.decoder_start_token_id)
    }

    /// Hidden states that predict each target token of (prompt, target) `examples`, one row a token,
    /// example after example: `[target tokens, d_model]`.
    ///
    /// # Panics
    /// With an empty prompt or target.
    pub fn target_hidden(&self, examples: &[PromptTarget<'_>]) -> Result<Tensor<2>, ModelError> {
        let (prompts, inputs) = self.target_batch(examples);
        let hidden = self.decode(&prompts, &self.encode(&prompts), &inputs);
        Ok(self.real_rows(hidden, &inputs))
    }

    /// Prompts, and what the decoder reads.
    fn target_batch(&self, examples: &[PromptTarget<'_>]) -> (Sequences, Sequences) {
        let prompts: Vec<&[TokenId]> = examples.iter().map(|(prompt, _)| *prompt).collect();
        // Shifted right from the start token: the last target token is predicted, never read.
        let inputs: Vec<Vec<TokenId>> = examples
            .iter()
            .map(|(_, target)| [&[self.start_token()], &target[..target.len() - 1]].concat())
            .collect();
        (Sequences::pad(&prompts), Sequences::pad(&inputs))
    }

    /// The rows of `hidden_nd` that are not padding.
    fn real_rows(&self, hidden_nd: Tensor<2>, inputs: &Sequences) -> Tensor<2> {
        if inputs.lengths.iter().all(|&length| length == inputs.seq) {
            return hidden_nd;
        }
        let lengths = inputs.lengths.iter().enumerate();
        let real: Vec<i32> = lengths
            .flat_map(|(row, &length)| row * inputs.seq..row * inputs.seq + length)
            .map(|position| position as i32)
            .collect();
        let real = Tensor::from_ints(&real[..], &self.device());
        kernels::embedding(hidden_nd, real)
    }

    /// See [`Model::recomputed_gradients`](super::Model::recomputed_gradients).
    pub(super) fn recomputed_gradients(
        &self,
        examples: &[PromptTarget<'_>],
        scale: f64,
    ) -> (Tensor<1>, NamedGradients) {
        let (prompts, inputs) = self.target_batch(examples);
        let epsilon = self.config.layer_norm_epsilon;
        let forward = self.clone().valid();
        let biases = [
            forward.encoder_bias(prompts.seq),
            forward.decoder_bias(inputs.seq),
        ];
        let [encoder_bias, decoder_bias] = biases.map(leaf);
        let mut read = vec![forward.embed(&prompts.tokens)];
        for number in 0..self.config.num_layers {
            let bias = encoder_bias.clone().inner();
            let x = read[number].clone();
            read.push(forward.encoder_block(number, x, bias, &prompts.lengths));
        }
        let read_last = leaf(read.pop().expect("the embedding is the first"));
        let norm = &forward.encoder.final_layer_norm;
        let memory = leaf(norm.forward(read_last.clone().inner(), epsilon));
        let block = |model: &Self, number, x, bias: &Tensor<2>, memory: &Tensor<2>| {
            model.decoder_block(number, x, |q, own| {
                model.attend(number, q, own, bias, memory, (&prompts, &inputs))
            })
        };
        let mut written = vec![forward.embed(&inputs.tokens)];
        for number in 0..self.config.num_decoder_layers {
            let (bias, memory) = (decoder_bias.clone().inner(), memory.clone().inner());
            let x = written[number].clone();
            written.push(block(&forward, number, x, &bias, &memory));
        }

        let mut pulled = Pulled::new(self);
        let last = leaf(written.pop().expect("the embedding is the first"));
        let hidden = self.decoder.final_layer_norm.forward(last.clone(), epsilon);
        let targets: Vec<TokenId> = examples.iter().flat_map(|(_, t)| *t).copied().collect();
        let loss = self.loss_sum(self.real_rows(hidden, &inputs), &targets);
        let loss = loss.mul_scalar(scale);
        let value = loss.clone().inner();
        let [mut upstream] = pulled.backward(loss, [&last]);
        let mut of_bias = decoder_bias.clone().inner().zeros_like();
        let mut of_memory = memory.clone().inner().zeros_like();
        for (number, x) in written.into_iter().enumerate().rev() {
            let x = leaf(x);
            let output = block(self, number, x.clone(), &decoder_bias, &memory);
            let [of_x, bias, remembered] =
                pulled.through(output, upstream, [&x, &decoder_bias, &memory]);
            upstream = of_x;
            of_bias = of_bias + bias;
            of_memory = of_memory + remembered;
        }
        pulled.through(self.embed(&inputs.tokens), upstream, []);
        pulled.through(self.decoder_bias(inputs.seq), of_bias, []);

        let output = self
            .encoder
            .final_layer_norm
            .forward(read_last.clone(), epsilon);
        let [mut upstream] = pulled.through(output, of_memory, [&read_last]);
        let mut of_bias = encoder_bias.clone().inner().zeros_like();
        for (number, x) in read.into_iter().enumerate().rev() {
            let x = leaf(x);
            let output =
                self.encoder_block(number, x.clone(), encoder_bias.clone(), &prompts.lengths);
            let [of_x, bias] = pulled.through(output, upstream, [&x, &encoder_bias]);
            upstream = of_x;
            of_bias = of_bias + bias;
        }
        pulled.through(self.embed(&prompts.tokens), upstream, []);
        pulled.through(self.encoder_bias(prompts.seq), of_bias, []);
        (value, pulled.gradients())
    }

    /// Logits `[n, vocab]` of the decoder's hidden states `[n, d_model]`.
    pub fn logits(&self, hidden_nd: Tensor<2>) -> Tensor<2> {
        let (hidden_nd, weight_vd) = self.head(hidden_nd);
        kernels::linear(hidden_nd, weight_vd)
    }

    /// Sum of the cross-entropies of `targets` given hidden states `[n, d_model]`, one target a row,
    /// in nats; the logits are never held whole. Shape `[1]`.
    pub fn loss_sum(&self, hidden_nd: Tensor<2>, targets: &[TokenId]) -> Tensor<1> {
        let targets = id_tensor(targets, &self.device());
        let (hidden_nd, weight_vd) = self.head(hidden_nd);
        kernels::linear_cross_entropy(hidden_nd, weight_vd, targets, None)
    }

    /// Input and weight of the output projection.
    pub(super) fn head(&self, hidden_nd: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match &self.lm_head {
            Some(head) => (hidden_nd, head.weight.val()),
            None => {
                let scale = (self.config.d_model as f64).powf(-0.5);
                (hidden_nd.mul_scalar(scale), self.shared.weight.val())
            }
        }
    }
}

/// Hypotheses of a decoding with their cached keys and values; those of a prompt are shared by all
/// hypotheses that continue it.
pub struct T5State {
    cache: BeamCache,
}

impl T5 {
    /// Hidden states of the token after `last`, for the rows of the cache.
    fn next_hidden(&self, cache: &mut BeamCache, last: &[TokenId]) -> Tensor<2> {
        let x = self.embed(last);
        self.through_decoder(x, |layer, q, keys_values| match keys_values {
            Some([k, v]) => kernels::decode_attention(q, k, v, cache, layer),
            None => kernels::decode_cross_attention(q, cache, layer),
        })
    }
}

impl NextTokenModel for T5 {
    type State = T5State;

    fn start(
        &self,
        prompts: &[&[TokenId]],
        max_new: usize,
    ) -> Result<(T5State, Tensor<2>), ModelError> {
        let batch = Sequences::pad(prompts);
        let memory = self.encode(&batch);
        let shape = CacheShape {
            layers: self.config.num_decoder_layers,
            heads: self.config.num_heads,
            kv_heads: self.config.num_heads,
            head_dim: self.config.d_kv,
        };
        let first = &self.decoder.block[0].layer.0.SelfAttention;
        let back = (0..=max_new).map(|steps| -(steps as isize));
        let bias = self.bias(first, back, false);
        let mut cache = BeamCache::relative(shape, bias, &batch.lengths);
        for layer in 0..self.config.num_decoder_layers {
            let [k, v] = self.memory_keys_values(layer, &memory);
            cache.set_prompt(layer, k, v);
        }
        cache.advance(&(0..prompts.len()).collect::<Vec<_>>());
        let hidden = self.next_hidden(&mut cache, &vec![self.start_token(); prompts.len()]);
        Ok((T5State { cache }, hidden))
    }

    fn step(
        &self,
        state: &mut T5State,
        parents: &[usize],
        last: &[TokenId],
    ) -> Result<Tensor<2>, ModelError> {
        state.cache.advance(parents);
        Ok(self.next_hidden(&mut state.cache, last))
    }

    fn logits(&self, hidden_nd: Tensor<2>) -> Tensor<2> {
        Self::logits(self, hidden_nd)
    }

    fn logits_of(&self, hidden_nd: Tensor<2>, tokens: &[TokenId]) -> Tensor<2> {
        let (hidden_nd, weight_vd) = self.head(hidden_nd);
        let rows = kernels::embedding(weight_vd, id_tensor(tokens, &self.device()));
        kernels::linear(hidden_nd, rows)
    }

    fn footprint(&self) -> Footprint {
        self.config.footprint()
    }
}
