//! Attention of one new token per beam, with prompts shared by beams and histories found through
//! ancestors.
//!
//! Beam search keeps many continuations of few prompts. Keys and values of a prompt are stored once
//! per query; those of generated tokens are stored where they were made, one row per beam of that
//! step, and never move: a beam's history is the list of rows its ancestors had, one per step.
//! Reordering beams therefore copies a few integers instead of the cache. Beams of one query meet
//! its prompt in one product.

use burn::tensor::{Bool, Int, Tensor, TensorData, activation};
use rayon::prelude::*;

use crate::flex::{host, is_flex, is_fused};
use crate::product::{Matrix, Threads, Update, multiply};
use crate::reference::repeat_heads;
use crate::rotary::{Angles, Rotary, Rows, rotate};
use crate::simd::{dot, exp_row, scale, vectorised};

/// Beams of one query handled together by one thread.
const BEAMS: usize = 32;

/// Sizes of a [`BeamCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers of the model.
    pub layers: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Components of one head, even.
    pub head_dim: usize,
}

/// Keys and values of prompts and generated tokens during one beam search.
///
/// ```text
/// new(shape, rotary, prompt_lengths)
/// set_prompt(layer, k, v)              once per layer, from the pass over the prompts
/// repeat:
///     advance(parents)                 which row of the previous step each beam continues
///     decode_attention(q, k, v, cache, layer)     once per layer
/// ```
///
/// Before the first step there is one row per query. Memory: `layers * kv_heads * head_dim * 8`
/// bytes per prompt position (padded) and per beam and step.
pub struct BeamCache {
    shape: CacheShape,
    rotary: Rotary,
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

enum Store {
    /// The fused path: plain memory.
    Host(HostStore),
    /// Any device: tensors.
    Tensors(Vec<TensorLayer>),
}

struct HostStore {
    cos: Vec<f32>,
    sin: Vec<f32>,
    layers: Vec<HostLayer>,
}

/// One layer, keys turned by their positions.
#[derive(Clone, Default)]
struct HostLayer {
    /// Positions each prompt is padded to.
    padded: usize,
    /// `[queries, kv_heads, padded, dim]`.
    prompt_k: Vec<f32>,
    prompt_v: Vec<f32>,
    /// For each step `[beams, kv_heads * dim]`.
    step_k: Vec<Vec<f32>>,
    step_v: Vec<Vec<f32>>,
}

/// One layer, keys turned by their positions.
#[derive(Clone, Default)]
struct TensorLayer {
    /// `[queries, kv_heads, padded, dim]`, keys and values.
    prompt: Option<(Tensor<4>, Tensor<4>)>,
    /// For each step `[beams, kv_heads, 1, dim]`.
    step_k: Vec<Tensor<4>>,
    step_v: Vec<Tensor<4>>,
}

impl BeamCache {
    /// An empty cache for prompts of the given real lengths, one query each.
    ///
    /// The fused path is taken where the rotary tables are 32-bit floats on the CPU.
    pub fn new(shape: CacheShape, rotary: &Rotary, prompt_lengths: &[usize]) -> Self {
        if !(is_fused(&rotary.cos) && is_flex(&rotary.sin.device())) {
            return Self::on_tensors(shape, rotary, prompt_lengths);
        }
        let layers = vec![HostLayer::default(); shape.layers];
        let store = Store::Host(HostStore {
            cos: host(rotary.cos.clone()),
            sin: host(rotary.sin.clone()),
            layers,
        });
        Self::with(shape, rotary, prompt_lengths, store)
    }

    /// The same cache in plain tensors, for any device; what tests compare [`BeamCache::new`] with.
    pub fn on_tensors(shape: CacheShape, rotary: &Rotary, prompt_lengths: &[usize]) -> Self {
        Self::with(
            shape,
            rotary,
            prompt_lengths,
            Store::Tensors(vec![TensorLayer::default(); shape.layers]),
        )
    }

    fn with(shape: CacheShape, rotary: &Rotary, prompt_lengths: &[usize], store: Store) -> Self {
        assert!(
            shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads),
            "BeamCache: heads are a multiple of kv_heads"
        );
        assert_eq!(
            rotary.head_dim(),
            shape.head_dim,
            "BeamCache: head_dim of the rotary table"
        );
        Self {
            shape,
            rotary: rotary.clone(),
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

    /// Position of the token each row is computing (or, before the first step, would compute next).
    pub fn positions(&self) -> Vec<usize> {
        self.queries
            .iter()
            .map(|&query| self.lengths[query] + self.steps.saturating_sub(1))
            .collect()
    }

    /// Stores a layer's keys and values of all prompts, as the pass over the prompts made them.
    ///
    /// Both are `[queries * padded, kv_heads * head_dim]`, keys not yet turned.
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
            padded <= self.rotary.max_positions(),
            "set_prompt: {padded} positions exceed the rotary table"
        );
        match &mut self.store {
            Store::Host(store) => {
                store.set_prompt(layer, &self.shape, padded, &host(k_nd), &host(v_nd));
            }
            Store::Tensors(layers) => {
                let CacheShape {
                    kv_heads, head_dim, ..
                } = self.shape;
                let split = |x: Tensor<2>| {
                    x.reshape([queries, padded, kv_heads, head_dim])
                        .swap_dims(1, 2)
                };
                let cos = self.rotary.cos.clone().narrow(0, 0, padded).unsqueeze();
                let sin = self.rotary.sin.clone().narrow(0, 0, padded).unsqueeze();
                layers[layer].prompt = Some((turn(split(k_nd), cos, sin), split(v_nd)));
            }
        }
    }

    /// Begins a step in which row `i` continues row `parents[i]` of the step before (at first: of
    /// the queries).
    ///
    /// # Panics
    /// Where a parent does not exist or the rotary table holds too few positions.
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
            last < self.rotary.max_positions(),
            "advance: position {last} exceeds the rotary table"
        );
    }
}

/// Attention of the current token of every beam over its prompt and history, `[beams, heads *
/// head_dim]`.
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
    let CacheShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = cache.shape;
    assert_eq!(
        q_bd.dims(),
        [cache.rows(), heads * head_dim],
        "decode_attention: shape of q"
    );
    assert_eq!(
        k_bd.dims(),
        [cache.rows(), kv_heads * head_dim],
        "decode_attention: shape of k"
    );
    assert_eq!(
        k_bd.dims(),
        v_bd.dims(),
        "decode_attention: shapes of k and v"
    );
    assert!(
        cache.steps > 0,
        "decode_attention: `advance` begins every step"
    );
    let positions = cache.positions();
    let device = q_bd.device();
    match &mut cache.store {
        Store::Host(store) => {
            let shape = q_bd.dims();
            let beams = Beams {
                shape: &cache.shape,
                lengths: &cache.lengths,
                queries: &cache.queries,
                ancestors: &cache.ancestors,
                steps: cache.steps,
                positions: &positions,
            };
            let out = store.attend(layer, &beams, host(q_bd), host(k_bd), host(v_bd));
            Tensor::from_data(TensorData::new(out, shape), &device)
        }
        Store::Tensors(layers) => {
            let layer = &mut layers[layer];
            assert_eq!(
                layer.step_k.len() + 1,
                cache.steps,
                "decode_attention: once per layer and step"
            );
            let beams = positions.len();
            let indices =
                |x: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::new(x, [beams]), &device);
            let at = indices(positions.iter().map(|&p| p as i64).collect());
            let cos = cache
                .rotary
                .cos
                .clone()
                .select(0, at.clone())
                .reshape([beams, 1, 1, head_dim]);
            let sin = cache
                .rotary
                .sin
                .clone()
                .select(0, at)
                .reshape([beams, 1, 1, head_dim]);
            let q = turn(
                q_bd.reshape([beams, heads, 1, head_dim]),
                cos.clone(),
                sin.clone(),
            );
            layer
                .step_k
                .push(turn(k_bd.reshape([beams, kv_heads, 1, head_dim]), cos, sin));
            layer
                .step_v
                .push(v_bd.reshape([beams, kv_heads, 1, head_dim]));
            let (prompt_k, prompt_v) = layer
                .prompt
                .clone()
                .expect("decode_attention: `set_prompt` comes first");
            let padded = prompt_k.dims()[2];
            let of_query = indices(cache.queries.iter().map(|&query| query as i64).collect());
            let history = |prompt: Tensor<4>, steps: &[Tensor<4>]| {
                let mut parts = vec![prompt.select(0, of_query.clone())];
                for (step, made) in steps.iter().enumerate() {
                    let rows = cache.ancestors.iter().skip(step).step_by(cache.steps);
                    parts.push(
                        made.clone()
                            .select(0, indices(rows.map(|&row| i64::from(row)).collect())),
                    );
                }
                repeat_heads(Tensor::cat(parts, 2), heads)
            };
            let (k, v) = (
                history(prompt_k, &layer.step_k),
                history(prompt_v, &layer.step_v),
            );
            let keys = padded + cache.steps;
            let hidden = cache.queries.iter().flat_map(|&query| {
                let length = cache.lengths[query];
                (0..keys).map(move |key| key >= length && key < padded)
            });
            let hidden = Tensor::<4, Bool>::from_data(
                TensorData::new(hidden.collect(), [beams, 1, 1, keys]),
                &device,
            );
            let scores = q.matmul(k.swap_dims(2, 3)) / (head_dim as f64).sqrt();
            let probs = activation::softmax(
                scores.mask_fill(hidden.expand([beams, heads, 1, keys]), -1.0e9),
                3,
            );
            probs.matmul(v).reshape([beams, heads * head_dim])
        }
    }
}

/// Turns the last dimension by tables that broadcast over the others.
fn turn(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let dim = x.dims()[3];
    let first = x.clone().narrow(3, 0, dim / 2);
    let second = x.clone().narrow(3, dim / 2, dim / 2);
    x * cos + Tensor::cat(vec![second.neg(), first], 3) * sin
}

/// The current beams, as the host path sees them.
struct Beams<'a> {
    shape: &'a CacheShape,
    lengths: &'a [usize],
    queries: &'a [usize],
    ancestors: &'a [u32],
    steps: usize,
    positions: &'a [usize],
}

impl HostStore {
    fn angles(&self, dim: usize) -> Angles<'_> {
        Angles {
            cos: &self.cos,
            sin: &self.sin,
            dim,
        }
    }

    fn set_prompt(
        &mut self,
        layer: usize,
        shape: &CacheShape,
        padded: usize,
        k: &[f32],
        v: &[f32],
    ) {
        let (dim, kv_heads) = (shape.head_dim, shape.kv_heads);
        let width = kv_heads * dim;
        let (mut prompt_k, mut prompt_v) = (vec![0.0; k.len()], vec![0.0; v.len()]);
        for (nth, to) in prompt_k.chunks_exact_mut((padded * dim).max(1)).enumerate() {
            let from = Rows {
                start: nth / kv_heads * padded * width + nth % kv_heads * dim,
                stride: width,
            };
            rotate(
                k,
                from,
                to,
                Rows {
                    start: 0,
                    stride: dim,
                },
                self.angles(dim),
                0..padded,
                1.0,
            );
            for (row, to) in prompt_v[nth * padded * dim..][..padded * dim]
                .chunks_exact_mut(dim)
                .enumerate()
            {
                to.copy_from_slice(&v[from.start + row * width..][..dim]);
            }
        }
        self.layers[layer] = HostLayer {
            padded,
            prompt_k,
            prompt_v,
            ..HostLayer::default()
        };
    }

    fn attend(
        &mut self,
        layer: usize,
        beams: &Beams<'_>,
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
    ) -> Vec<f32> {
        let CacheShape {
            heads,
            kv_heads,
            head_dim: dim,
            ..
        } = *beams.shape;
        let factor = 1.0 / (dim as f32).sqrt();
        let (mut queries, mut keys) = (vec![0.0; q.len()], vec![0.0; k.len()]);
        for (row, &position) in beams.positions.iter().enumerate() {
            for head in 0..heads {
                let at = Rows {
                    start: (row * heads + head) * dim,
                    stride: dim,
                };
                rotate(
                    &q,
                    at,
                    &mut queries,
                    at,
                    self.angles(dim),
                    position..position + 1,
                    factor,
                );
            }
            for head in 0..kv_heads {
                let at = Rows {
                    start: (row * kv_heads + head) * dim,
                    stride: dim,
                };
                rotate(
                    &k,
                    at,
                    &mut keys,
                    at,
                    self.angles(dim),
                    position..position + 1,
                    1.0,
                );
            }
        }
        let layer = &mut self.layers[layer];
        assert_eq!(
            layer.step_k.len() + 1,
            beams.steps,
            "decode_attention: once per layer and step"
        );
        assert!(
            !layer.prompt_k.is_empty() || layer.padded == 0,
            "decode_attention: `set_prompt` comes first"
        );
        layer.step_k.push(keys);
        layer.step_v.push(v);
        let layer = &*layer;
        let mut order: Vec<usize> = (0..beams.queries.len()).collect();
        order.sort_by_key(|&row| beams.queries[row]);
        let parts: Vec<&[usize]> = order
            .chunk_by(|&a, &b| beams.queries[a] == beams.queries[b])
            .flat_map(|rows| rows.chunks(BEAMS))
            .collect();
        let outputs: Vec<Vec<f32>> = parts
            .par_iter()
            .map(|rows| layer.attend(beams, rows, &queries))
            .collect();
        let mut out = vec![0.0; q.len()];
        for (rows, from) in parts.iter().zip(&outputs) {
            for (&row, from) in rows.iter().zip(from.chunks_exact(heads * dim)) {
                out[row * heads * dim..][..heads * dim].copy_from_slice(from);
            }
        }
        out
    }
}

impl HostLayer {
    /// Outputs of beams of one query, `[rows, heads * dim]`; `queries` are turned and scaled.
    fn attend(&self, beams: &Beams<'_>, rows: &[usize], queries: &[f32]) -> Vec<f32> {
        let CacheShape {
            heads,
            kv_heads,
            head_dim: dim,
            ..
        } = *beams.shape;
        let (group, query) = (heads / kv_heads, beams.queries[rows[0]]);
        let prompt = beams.lengths[query];
        let keys = prompt + beams.steps;
        let count = rows.len() * group;
        let mut scores = vec![0.0; count * keys];
        let mut stacked = vec![0.0; count * dim];
        let mut out = vec![0.0; rows.len() * heads * dim];
        for head in 0..kv_heads {
            for (to, &row) in stacked.chunks_exact_mut(group * dim).zip(rows) {
                to.copy_from_slice(&queries[(row * heads + head * group) * dim..][..group * dim]);
            }
            let start = (query * kv_heads + head) * self.padded * dim;
            if prompt > 0 {
                let prompt_k = Matrix::new(&self.prompt_k[start..], prompt, dim, dim);
                let stacked = Matrix::new(&stacked, count, dim, dim);
                multiply(
                    &mut scores,
                    keys,
                    Update::Replace,
                    1.0,
                    stacked,
                    prompt_k.transposed(),
                    Threads::One,
                );
            }
            let history = History {
                steps: beams.steps,
                prompt,
                group,
                dim,
                width: kv_heads * dim,
                head,
            };
            for (nth, &row) in rows.iter().enumerate() {
                let ancestors = &beams.ancestors[row * beams.steps..][..beams.steps];
                let scores = &mut scores[nth * group * keys..][..group * keys];
                history_scores(
                    history,
                    ancestors,
                    &self.step_k,
                    &stacked[nth * group * dim..][..group * dim],
                    scores,
                );
            }
            if prompt > 0 {
                let prompt_v = Matrix::new(&self.prompt_v[start..], prompt, dim, dim);
                let probs = Matrix::new(&scores, count, prompt, keys);
                multiply(
                    &mut stacked,
                    dim,
                    Update::Replace,
                    1.0,
                    probs,
                    prompt_v,
                    Threads::One,
                );
            } else {
                stacked.fill(0.0);
            }
            for (nth, &row) in rows.iter().enumerate() {
                let ancestors = &beams.ancestors[row * beams.steps..][..beams.steps];
                let stacked = &mut stacked[nth * group * dim..][..group * dim];
                history_values(
                    history,
                    ancestors,
                    &self.step_v,
                    &scores[nth * group * keys..][..group * keys],
                    stacked,
                );
                out[(nth * heads + head * group) * dim..][..group * dim].copy_from_slice(stacked);
            }
        }
        out
    }
}

/// Sizes of one beam's history at one key-value head.
#[derive(Clone, Copy)]
struct History {
    steps: usize,
    prompt: usize,
    group: usize,
    dim: usize,
    width: usize,
    head: usize,
}

vectorised! {
    /// Appends the scores of generated keys to those of the prompt and takes the softmax of each
    /// head's row.
    fn history_scores(
        of: History,
        ancestors: &[u32],
        step_k: &[Vec<f32>],
        queries: &[f32],
        scores: &mut [f32],
    ) {
        let keys = of.prompt + of.steps;
        for (step, &row) in ancestors.iter().enumerate() {
            let key = &step_k[step][row as usize * of.width + of.head * of.dim..][..of.dim];
            for nth in 0..of.group {
                scores[nth * keys + of.prompt + step] = dot(&queries[nth * of.dim..][..of.dim], key);
            }
        }
        for scores in scores.chunks_exact_mut(keys) {
            let (_, sum) = exp_row(scores);
            scale(scores, 1.0 / sum);
        }
    }
}

vectorised! {
    /// Adds the values of generated tokens, weighted by their probabilities.
    fn history_values(
        of: History,
        ancestors: &[u32],
        step_v: &[Vec<f32>],
        probs: &[f32],
        out: &mut [f32],
    ) {
        let keys = of.prompt + of.steps;
        for (step, &row) in ancestors.iter().enumerate() {
            let value = &step_v[step][row as usize * of.width + of.head * of.dim..][..of.dim];
            for nth in 0..of.group {
                let prob = probs[nth * keys + of.prompt + step];
                for (out, value) in out[nth * of.dim..][..of.dim].iter_mut().zip(value) {
                    *out = prob.mul_add(*value, *out);
                }
            }
        }
    }
}
