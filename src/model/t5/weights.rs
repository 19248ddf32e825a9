//! The parameters of T5, named as in Hugging Face's `T5ForConditionalGeneration`, and their initial
//! values.
#![allow(
    non_snake_case,
    reason = "fields are the names of parameters in checkpoints"
)]

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use genret_kernels as kernels;

use super::super::layers::{Embedding, Initializer, Linear, Norm};
use super::{FeedForward, T5, T5Config};

#[derive(Module, Debug)]
pub(super) struct Attention {
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    /// `[buckets, heads]`, in the first block of a stack, which all of its blocks use.
    pub(super) relative_attention_bias: Option<Embedding>,
}

/// Either `wi` or both of `wi_0` (the gate) and `wi_1`.
#[derive(Module, Debug)]
pub(super) struct Mlp {
    pub(super) wi: Option<Linear>,
    pub(super) wi_0: Option<Linear>,
    pub(super) wi_1: Option<Linear>,
    pub(super) wo: Linear,
}

#[derive(Module, Debug)]
pub(super) struct SelfAttention {
    pub(super) SelfAttention: Attention,
    pub(super) layer_norm: Norm,
}

#[derive(Module, Debug)]
pub(super) struct CrossAttention {
    pub(super) EncDecAttention: Attention,
    pub(super) layer_norm: Norm,
}

#[derive(Module, Debug)]
pub(super) struct MlpLayer {
    pub(super) DenseReluDense: Mlp,
    pub(super) layer_norm: Norm,
}

#[derive(Module, Debug)]
pub(super) struct EncoderBlock {
    pub(super) layer: (SelfAttention, MlpLayer),
}

#[derive(Module, Debug)]
pub(super) struct DecoderBlock {
    pub(super) layer: (SelfAttention, CrossAttention, MlpLayer),
}

#[derive(Module, Debug)]
pub(super) struct Encoder {
    pub(super) block: Vec<EncoderBlock>,
    pub(super) final_layer_norm: Norm,
}

#[derive(Module, Debug)]
pub(super) struct Decoder {
    pub(super) block: Vec<DecoderBlock>,
    pub(super) final_layer_norm: Norm,
}

impl Mlp {
    pub(super) fn forward(&self, x_nd: Tensor<2>) -> Tensor<2> {
        let hidden = match (&self.wi, &self.wi_0, &self.wi_1) {
            (None, Some(gate), Some(up)) => {
                kernels::geglu(gate.forward(x_nd.clone()), up.forward(x_nd))
            }
            (Some(wi), None, None) => kernels::relu(wi.forward(x_nd)),
            _ => unreachable!("a layer is built with `wi`, or with `wi_0` and `wi_1`"),
        };
        self.wo.forward(hidden)
    }

    fn linears(&mut self) -> impl Iterator<Item = (&'static str, &mut Linear)> {
        let inner = [
            ("wi", &mut self.wi),
            ("wi_0", &mut self.wi_0),
            ("wi_1", &mut self.wi_1),
        ];
        inner
            .into_iter()
            .filter_map(|(name, linear)| Some((name, linear.as_mut()?)))
            .chain([("wo", &mut self.wo)])
    }
}

impl Attention {
    fn linears(&mut self) -> [(&'static str, &mut Linear); 4] {
        [
            ("q", &mut self.q),
            ("k", &mut self.k),
            ("v", &mut self.v),
            ("o", &mut self.o),
        ]
    }
}

/// Draws the weights of one block of a stack.
struct Block<'a> {
    config: &'a T5Config,
    init: &'a Initializer<'a>,
    /// `encoder 3`
    name: String,
    first: bool,
}

impl Block<'_> {
    fn linear(&self, name: &str, shape: [usize; 2], variance: f64) -> Linear {
        let name = format!("{} {name}", self.name);
        self.init.linear(&name, shape, variance.sqrt(), false)
    }

    fn attention(&self, kind: &str, bias: bool) -> Attention {
        let config = self.config;
        let (d, width) = (config.d_model, config.attention_width());
        let (by_model, by_heads) = (1.0 / d as f64, 1.0 / width as f64);
        let linear =
            |name: &str, shape, variance| self.linear(&format!("{kind} {name}"), shape, variance);
        Attention {
            q: linear("q", [width, d], by_model / config.d_kv as f64),
            k: linear("k", [width, d], by_model),
            v: linear("v", [width, d], by_model),
            o: linear("o", [d, width], by_heads),
            relative_attention_bias: bias.then(|| {
                let shape = [config.relative_attention_num_buckets, config.num_heads];
                let name = format!("{} {kind} bias", self.name);
                Embedding {
                    weight: self.init.normal(&name, shape, by_model.sqrt()),
                }
            }),
        }
    }

    fn self_attention(&self) -> SelfAttention {
        SelfAttention {
            SelfAttention: self.attention("self", self.first),
            layer_norm: self.init.norm(self.config.d_model),
        }
    }

    fn cross_attention(&self) -> CrossAttention {
        CrossAttention {
            EncDecAttention: self.attention("cross", false),
            layer_norm: self.init.norm(self.config.d_model),
        }
    }

    fn mlp(&self) -> MlpLayer {
        let (d, f) = (self.config.d_model, self.config.d_ff);
        let gated = self.config.feed_forward_proj == FeedForward::GatedGelu;
        let inner = |name| self.linear(name, [f, d], 1.0 / d as f64);
        MlpLayer {
            DenseReluDense: Mlp {
                wi: (!gated).then(|| inner("wi")),
                wi_0: gated.then(|| inner("wi_0")),
                wi_1: gated.then(|| inner("wi_1")),
                wo: self.linear("wo", [d, f], 1.0 / f as f64),
            },
            layer_norm: self.init.norm(d),
        }
    }
}

impl T5Config {
    /// A model with random weights drawn from `seed`.
    ///
    /// Normal with the variances of T5 (Shazeer and Stern 2018 via mesh-tensorflow; transformers'
    /// `_init_weights` with factor 1): embedding and head 1, q 1 / (d_model d_kv), which stands for
    /// the missing division of scores, k and v 1 / d_model, o 1 / (heads d_kv), into the
    /// feed-forward layer 1 / d_model, out of it 1 / d_ff, position biases 1 / d_model; gains are 1.
    pub fn init(&self, seed: u64, device: &Device) -> T5 {
        self.build(&Initializer {
            seed: Some(seed),
            device,
        })
    }

    /// A model of zeros, to be filled from a checkpoint.
    pub fn empty(&self, device: &Device) -> T5 {
        self.build(&Initializer { seed: None, device })
    }

    fn build(&self, init: &Initializer<'_>) -> T5 {
        let block = |stack: &str, number: usize| Block {
            config: self,
            init,
            name: format!("{stack} {number}"),
            first: number == 0,
        };
        let shape = [self.vocab_size, self.d_model];
        let encoder = (0..self.num_layers).map(|number| {
            let block = block("encoder", number);
            EncoderBlock {
                layer: (block.self_attention(), block.mlp()),
            }
        });
        let decoder = (0..self.num_decoder_layers).map(|number| {
            let block = block("decoder", number);
            DecoderBlock {
                layer: (block.self_attention(), block.cross_attention(), block.mlp()),
            }
        });
        T5 {
            shared: Embedding {
                weight: init.normal("embedding", shape, 1.0),
            },
            encoder: Encoder {
                block: encoder.collect(),
                final_layer_norm: init.norm(self.d_model),
            },
            decoder: Decoder {
                block: decoder.collect(),
                final_layer_norm: init.norm(self.d_model),
            },
            lm_head: (!self.tie_word_embeddings).then(|| init.linear("head", shape, 1.0, false)),
            config: self.clone(),
        }
    }
}

impl T5 {
    /// Calls `change` with every projection and its name, such as
    /// `decoder.block.0.layer.1.EncDecAttention.q`.
    pub(in super::super) fn for_each_linear(&mut self, change: &mut dyn FnMut(&str, &mut Linear)) {
        let mut attention = |place: String, attention: &mut Attention| {
            for (name, linear) in attention.linears() {
                change(&format!("{place}.{name}"), linear);
            }
        };
        for (number, block) in self.encoder.block.iter_mut().enumerate() {
            let place = format!("encoder.block.{number}.layer.0.SelfAttention");
            attention(place, &mut block.layer.0.SelfAttention);
        }
        for (number, block) in self.decoder.block.iter_mut().enumerate() {
            let place = format!("decoder.block.{number}.layer");
            let (own, cross) = (&mut block.layer.0, &mut block.layer.1);
            attention(format!("{place}.0.SelfAttention"), &mut own.SelfAttention);
            attention(
                format!("{place}.1.EncDecAttention"),
                &mut cross.EncDecAttention,
            );
        }
        let encoder = self.encoder.block.iter_mut().enumerate();
        let encoder =
            encoder.map(|(n, block)| (format!("encoder.block.{n}.layer.1"), &mut block.layer.1));
        let decoder = self.decoder.block.iter_mut().enumerate();
        let decoder =
            decoder.map(|(n, block)| (format!("decoder.block.{n}.layer.2"), &mut block.layer.2));
        for (place, mlp) in encoder.chain(decoder) {
            for (name, linear) in mlp.DenseReluDense.linears() {
                change(&format!("{place}.DenseReluDense.{name}"), linear);
            }
        }
    }
}
