//! Attention of one new token per beam, with prompts shared by beams and histories found through
//! ancestors.
//!
//! Beam search keeps many continuations of few prompts. Keys and values of a prompt are stored once
//! per query; those of generated tokens are stored where they were made, one row per beam of that
//! step, and never move: a beam's history is the list of rows its ancestors had, one per step.
//! Reordering beams therefore copies a few integers instead of the cache. Beams of one query meet
//! its prompt in one product.

#[cfg(feature = "cube")]
mod device;
mod host;
mod tensors;

use burn::tensor::{Device, Tensor, TensorData};

use crate::flex::{host, is_flex, is_fused};
use crate::rotary::Rotary;
use host::HostStore;
use tensors::TensorLayer;

/// Sizes of a [`BeamCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers of the model.
    pub layers: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Components of one head, even where positions are rotary.
    pub head_dim: usize,
}

/// Keys and values of prompts and generated tokens during one beam search.
///
/// ```text
/// new(shape, rotary, prompt_lengths)           or relative(shape, bias, prompt_lengths)
/// set_prompt(layer, k, v)                      once per layer, from the pass over the prompts
/// repeat:
///     advance(parents)                         which row of the previous step each beam continues
///     decode_attention(q, k, v, cache, layer)  once per layer
///     decode_cross_attention(q, cache, layer)  once per layer, for encoder-decoders
/// ```
///
/// In a decoder-only model ([`BeamCache::new`]) a token sees its prompt and its history in one
/// attention. In an encoder-decoder ([`BeamCache::relative`]) the prompt is the encoder's output, met
/// by an attention of its own.
///
/// Before the first step there is one row per query. Memory: `layers * kv_heads * head_dim * 8`
/// bytes per prompt position (padded) and per beam and step.
pub struct BeamCache {
    shape: CacheShape,
    positions: Positions,
    /// Real length of each prompt.
    lengths: Vec<usize>,
    /// The query of each current row.
    queries: Vec<usize>,
    /// Rows of each current beam at every step including the current one, `[beams, steps]`.
    ancestors: Vec<u32>,
    /// Generated tokens of the current beams, including the one being computed.
    steps: usize,
    store: Store,
}

/// How scores know of positions.
enum Positions {
    /// Queries and keys are turned; prompt and history are one sequence.
    Rotary(Box<Rotary>),
    /// A number per steps back and head is added, `[steps, heads]`; prompts stand apart.
    Relative(Box<Tensor<2>>),
}

enum Store {
    /// The fused path: plain memory.
    Host(HostStore),
    /// Buffers of a device, read by one kernel.
    #[cfg(feature = "cube")]
    Device(Box<device::DeviceStore>),
    /// Any device: tensors.
    Tensors(Vec<TensorLayer>),
}

/// Where keys and values are kept.
enum Path {
    Host,
    #[cfg(feature = "cube")]
    Device,
    Tensors,
}

impl Path {
    fn of(fused: bool, device: &Device) -> Self {
        #[cfg(feature = "cube")]
        if crate::cube::is_cube(device) {
            return Self::Device;
        }
        let _ = device;
        if fused { Self::Host } else { Self::Tensors }
    }
}

/// The current beams.
struct Beams<'a> {
    shape: &'a CacheShape,
    lengths: &'a [usize],
    queries: &'a [usize],
    ancestors: &'a [u32],
    steps: usize,
    positions: &'a [usize],
}

impl BeamCache {
    /// An empty cache of a decoder-only model with rotary positions, for prompts of the given real
    /// lengths, one query each.
    ///
    /// The fused path is taken where the rotary tables are 32-bit floats on the CPU.
    pub fn new(shape: CacheShape, rotary: &Rotary, prompt_lengths: &[usize]) -> Self {
        let fused = is_fused(&rotary.cos) && is_flex(&rotary.sin.device());
        let path = Path::of(fused, &rotary.cos.device());
        Self::with(
            shape,
            Positions::Rotary(rotary.clone().into()),
            prompt_lengths,
            path,
        )
    }

    /// [`BeamCache::new`] in plain tensors, for any device; what tests compare it with.
    pub fn on_tensors(shape: CacheShape, rotary: &Rotary, prompt_lengths: &[usize]) -> Self {
        Self::with(
            shape,
            Positions::Rotary(rotary.clone().into()),
            prompt_lengths,
            Path::Tensors,
        )
    }

    /// An empty cache of an encoder-decoder with a bias by distance, for prompts of the given real
    /// lengths, one query each.
    ///
    /// `bias_th` is `[steps, heads]`: what is added to the score of the key that stands `t` steps
    /// before the query. Its rows limit the number of steps. Scores are not divided by anything, as
    /// in [`crate::relative_attention`]. The fused path is taken where it is 32-bit floats on the CPU.
    pub fn relative(shape: CacheShape, bias_th: Tensor<2>, prompt_lengths: &[usize]) -> Self {
        let path = Path::of(is_fused(&bias_th), &bias_th.device());
        Self::with(
            shape,
            Positions::Relative(bias_th.into()),
            prompt_lengths,
            path,
        )
    }

    /// [`BeamCache::relative`] in plain tensors, for any device; what tests compare it with.
    pub fn relative_on_tensors(
        shape: CacheShape,
        bias_th: Tensor<2>,
        prompt_lengths: &[usize],
    ) -> Self {
        Self::with(
            shape,
            Positions::Relative(bias_th.into()),
            prompt_lengths,
            Path::Tensors,
        )
    }

    fn with(shape: CacheShape, positions: Positions, prompt_lengths: &[usize], path: Path) -> Self {
        assert!(
            shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads),
            "BeamCache: heads are a multiple of kv_heads"
        );
        match &positions {
            Positions::Rotary(rotary) => assert_eq!(
                rotary.head_dim(),
                shape.head_dim,
                "BeamCache: head_dim of the rotary table"
            ),
            Positions::Relative(bias) => {
                assert_eq!(bias.dims()[1], shape.heads, "BeamCache: heads of the bias");
            }
        }
        let store = match path {
            Path::Host => Store::Host(HostStore::new(&positions, shape.layers)),
            #[cfg(feature = "cube")]
            Path::Device => Store::Device(device::DeviceStore::new(shape.layers).into()),
            Path::Tensors => Store::Tensors(vec![TensorLayer::default(); shape.layers]),
        };
        Self {
            shape,
            positions,
            lengths: prompt_lengths.to_vec(),
            queries: (0..prompt_lengths.len()).collect(),
            ancestors: Vec::new(),
            steps: 0,
            store,
        }
    }

    /// Number of current rows: queries before the first step, beams after.
    pub fn rows(&self) -> usize {
        self.queries.len()
    }

    /// The query of each current row.
    pub fn queries(&self) -> &[usize] {
        &self.queries
    }

    /// Position of the token each row is computing (or, before the first step, would compute next),
    /// counted from the first token its attention sees: of the prompt, or with a relative bias of the
    /// generated part.
    pub fn positions(&self) -> Vec<usize> {
        let first = |query: usize| match self.positions {
            Positions::Rotary(_) => self.lengths[query],
            Positions::Relative(_) => 0,
        };
        self.queries
            .iter()
            .map(|&query| first(query) + self.steps.saturating_sub(1))
            .collect()
    }

    /// Positions the tables cover.
    fn max_positions(&self) -> usize {
        match &self.positions {
            Positions::Rotary(rotary) => rotary.max_positions(),
            Positions::Relative(bias) => bias.dims()[0],
        }
    }

    /// Stores a layer's keys and values of all prompts, as the pass over the prompts made them.
    ///
    /// Both are `[queries * padded, kv_heads * head_dim]`, keys not turned.
    ///
    /// # Panics
    /// Where shapes disagree with the cache or a prompt is longer than the padding.
    pub fn set_prompt(&mut self, layer: usize, k_nd: Tensor<2>, v_nd: Tensor<2>) {
        let [rows, width] = k_nd.dims();
        assert_eq!(k_nd.dims(), v_nd.dims(), "set_prompt: shapes of k and v");
        assert_eq!(
            width,
            self.shape.kv_heads * self.shape.head_dim,
            "set_prompt: width of k and v"
        );
        let queries = self.lengths.len();
        let padded = rows / queries.max(1);
        assert_eq!(
            rows,
            padded * queries,
            "set_prompt: rows are queries times padded length"
        );
        assert!(
            self.lengths.iter().all(|&length| length <= padded),
            "set_prompt: a prompt exceeds {padded} positions"
        );
        assert!(
            matches!(self.positions, Positions::Relative(_)) || padded <= self.max_positions(),
            "set_prompt: {padded} positions exceed the rotary table"
        );
        match &mut self.store {
            Store::Host(store) => {
                store.set_prompt(layer, &self.shape, padded, &host(k_nd), &host(v_nd));
            }
            #[cfg(feature = "cube")]
            Store::Device(store) => {
                store.set_prompt(layer, &self.shape, &self.positions, padded, k_nd, v_nd);
            }
            Store::Tensors(layers) => {
                layers[layer].set_prompt(&self.shape, &self.positions, padded, k_nd, v_nd);
            }
        }
    }

    /// Begins a step in which row `i` continues row `parents[i]` of the step before (at first: of
    /// the queries).
    ///
    /// # Panics
    /// Where a parent does not exist or the tables hold too few positions.
    pub fn advance(&mut self, parents: &[usize]) {
        let mut ancestors = Vec::with_capacity(parents.len() * (self.steps + 1));
        for (row, &parent) in parents.iter().enumerate() {
            assert!(
                parent < self.rows(),
                "advance: parent {parent} of {} rows",
                self.rows()
            );
            ancestors.extend_from_slice(&self.ancestors[parent * self.steps..][..self.steps]);
            ancestors.push(u32::try_from(row).expect("fewer than 2^32 beams"));
        }
        self.queries = parents.iter().map(|&parent| self.queries[parent]).collect();
        self.ancestors = ancestors;
        self.steps += 1;
        let last = self.positions().into_iter().max().unwrap_or(0);
        assert!(
            last < self.max_positions(),
            "advance: position {last} exceeds the table of positions"
        );
        #[cfg(feature = "cube")]
        let positions = self.positions();
        #[cfg(feature = "cube")]
        if let Store::Device(store) = &mut self.store {
            let beams = Beams {
                shape: &self.shape,
                lengths: &self.lengths,
                queries: &self.queries,
                ancestors: &self.ancestors,
                steps: self.steps,
                positions: &positions,
            };
            store.advance(&beams, &self.positions);
        }
    }
}

/// Attention of the current token of every beam over its history and, with rotary positions, its
/// prompt, `[beams, heads * head_dim]`.
///
/// `q` is `[beams, heads * head_dim]`, `k` and `v` are `[beams, kv_heads * head_dim]` of the
/// current tokens, in the order given to [`BeamCache::advance`]; `k` and `v` are kept in the cache.
/// Time `beams * heads * head_dim * (prompt + steps)`. No gradient flows.
///
/// # Panics
/// Where shapes disagree with the cache, before [`BeamCache::advance`], or twice for one layer and
/// step.
pub fn decode_attention(
    q_bd: Tensor<2>,
    k_bd: Tensor<2>,
    v_bd: Tensor<2>,
    cache: &mut BeamCache,
    layer: usize,
) -> Tensor<2> {
    let width = cache.shape.kv_heads * cache.shape.head_dim;
    assert_eq!(
        k_bd.dims(),
        [cache.rows(), width],
        "decode_attention: shape of k"
    );
    assert_eq!(
        k_bd.dims(),
        v_bd.dims(),
        "decode_attention: shapes of k and v"
    );
    check_queries(&q_bd, cache);
    let positions = cache.positions();
    let beams = Beams {
        shape: &cache.shape,
        lengths: &cache.lengths,
        queries: &cache.queries,
        ancestors: &cache.ancestors,
        steps: cache.steps,
        positions: &positions,
    };
    match &mut cache.store {
        Store::Host(store) => {
            let (shape, device) = (q_bd.dims(), q_bd.device());
            let out = store.attend(layer, &beams, [q_bd, k_bd, v_bd].map(host));
            Tensor::from_data(TensorData::new(out, shape), &device)
        }
        #[cfg(feature = "cube")]
        Store::Device(store) => store.attend(layer, &beams, &cache.positions, [q_bd, k_bd, v_bd]),
        Store::Tensors(layers) => {
            layers[layer].attend(&beams, &cache.positions, [q_bd, k_bd, v_bd])
        }
    }
}

/// Attention of the current token of every beam over its prompt alone, `[beams, heads * head_dim]`,
/// as in [`crate::cross_attention`].
///
/// `q` is `[beams, heads * head_dim]`, in the order given to [`BeamCache::advance`]. Time `beams *
/// heads * head_dim * prompt`. No gradient flows.
///
/// # Panics
/// Where the shape disagrees with the cache, before [`BeamCache::advance`] or
/// [`BeamCache::set_prompt`], or where the cache is not of an encoder-decoder.
pub fn decode_cross_attention(q_bd: Tensor<2>, cache: &BeamCache, layer: usize) -> Tensor<2> {
    assert!(
        matches!(cache.positions, Positions::Relative(_)),
        "decode_cross_attention: the prompt is part of the history"
    );
    check_queries(&q_bd, cache);
    let beams = Beams {
        shape: &cache.shape,
        lengths: &cache.lengths,
        queries: &cache.queries,
        ancestors: &cache.ancestors,
        steps: cache.steps,
        positions: &[],
    };
    match &cache.store {
        Store::Host(store) => {
            let (shape, device) = (q_bd.dims(), q_bd.device());
            let out = store.attend_to_prompts(layer, &beams, &host(q_bd));
            Tensor::from_data(TensorData::new(out, shape), &device)
        }
        #[cfg(feature = "cube")]
        Store::Device(store) => store.attend_to_prompts(layer, &beams, q_bd),
        Store::Tensors(layers) => layers[layer].attend_to_prompts(&beams, q_bd),
    }
}

fn check_queries(q_bd: &Tensor<2>, cache: &BeamCache) {
    assert_eq!(
        q_bd.dims(),
        [cache.rows(), cache.shape.heads * cache.shape.head_dim],
        "decode_attention: shape of q"
    );
    assert!(
        cache.steps > 0,
        "decode_attention: `advance` begins every step"
    );
}
