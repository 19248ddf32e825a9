//! The beam cache in plain memory: the fused path on the CPU.

use std::ops::Range;

use rayon::prelude::*;

use super::{Beams, CacheShape, Positions};
use crate::flex::host;
use crate::product::{Matrix, Threads, Update, multiply};
use crate::rotary::{Angles, Rows, copy_rows, rotate};
use crate::simd::{dot, exp_row, scale, vectorised};

/// Beams of one query handled together by one thread.
const BEAMS: usize = 32;

/// All layers and the tables of positions.
pub(super) struct HostStore {
    tables: Tables,
    layers: Vec<HostLayer>,
}

/// What scores know of positions.
enum Tables {
    /// `[positions, dim]` each.
    Rotary { cos: Vec<f32>, sin: Vec<f32> },
    /// `[steps back, heads]`.
    Relative(Vec<f32>),
}

/// One layer, keys as the scores see them.
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

impl HostStore {
    pub(super) fn new(positions: &Positions, layers: usize) -> Self {
        let tables = match positions {
            Positions::Rotary(rotary) => Tables::Rotary {
                cos: host(rotary.cos.clone()),
                sin: host(rotary.sin.clone()),
            },
            Positions::Relative(bias) => Tables::Relative(host((**bias).clone())),
        };
        Self {
            tables,
            layers: vec![HostLayer::default(); layers],
        }
    }

    /// What scores are multiplied by.
    fn factor(&self, dim: usize) -> f32 {
        match self.tables {
            Tables::Rotary { .. } => 1.0 / (dim as f32).sqrt(),
            Tables::Relative(_) => 1.0,
        }
    }

    /// Rows of one head as the scores see them, times `factor`.
    fn place(
        &self,
        from: &[f32],
        from_rows: Rows,
        to: &mut [f32],
        to_rows: Rows,
        (dim, positions): (usize, Range<usize>),
        factor: f32,
    ) {
        match &self.tables {
            Tables::Rotary { cos, sin } => {
                let angles = Angles { cos, sin, dim };
                rotate(from, from_rows, to, to_rows, angles, positions, factor);
            }
            Tables::Relative(_) => {
                let count = positions.len();
                copy_rows(from, from_rows, to, to_rows, count, dim, factor);
            }
        }
    }

    pub(super) fn set_prompt(
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
            let packed = Rows {
                start: 0,
                stride: dim,
            };
            self.place(k, from, to, packed, (dim, 0..padded), 1.0);
            let to = &mut prompt_v[nth * padded * dim..][..padded * dim];
            copy_rows(v, from, to, packed, padded, dim, 1.0);
        }
        self.layers[layer] = HostLayer {
            padded,
            prompt_k,
            prompt_v,
            ..HostLayer::default()
        };
    }

    /// Attention of the current tokens to what they see of prompt and history; keys and values of
    /// the tokens are kept. `inputs` are q, k and v.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        beams: &Beams<'_>,
        [q, k, v]: [Vec<f32>; 3],
    ) -> Vec<f32> {
        let CacheShape {
            heads,
            kv_heads,
            head_dim: dim,
            ..
        } = *beams.shape;
        let factor = self.factor(dim);
        let (mut queries, mut keys) = (vec![0.0; q.len()], vec![0.0; k.len()]);
        for (row, &position) in beams.positions.iter().enumerate() {
            for (x, to, heads, factor) in [
                (&q, &mut queries, heads, factor),
                (&k, &mut keys, kv_heads, 1.0),
            ] {
                for head in 0..heads {
                    let at = Rows {
                        start: (row * heads + head) * dim,
                        stride: dim,
                    };
                    self.place(x, at, to, at, (dim, position..position + 1), factor);
                }
            }
        }
        let layer = &mut self.layers[layer];
        assert_eq!(
            layer.step_k.len() + 1,
            beams.steps,
            "decode_attention: once per layer and step"
        );
        layer.step_k.push(keys);
        layer.step_v.push(v);
        let (layer, bias) = match &self.tables {
            Tables::Relative(bias) => (&*layer, Some(&bias[..])),
            Tables::Rotary { .. } => (&*layer, None),
        };
        let sees = Sees {
            prompt: bias.is_none(),
            history: true,
        };
        layer.all_beams(beams, sees, bias, &queries)
    }

    /// Attention of the current tokens to their prompts alone.
    pub(super) fn attend_to_prompts(
        &self,
        layer: usize,
        beams: &Beams<'_>,
        queries: &[f32],
    ) -> Vec<f32> {
        let sees = Sees {
            prompt: true,
            history: false,
        };
        self.layers[layer].all_beams(beams, sees, None, queries)
    }
}

/// What the current tokens attend to.
#[derive(Clone, Copy)]
struct Sees {
    prompt: bool,
    history: bool,
}

impl HostLayer {
    /// Outputs of all beams, `[beams, heads * dim]`; `queries` are as the scores see them, `bias` is
    /// `[steps back, heads]`.
    fn all_beams(
        &self,
        beams: &Beams<'_>,
        sees: Sees,
        bias: Option<&[f32]>,
        queries: &[f32],
    ) -> Vec<f32> {
        assert!(
            !sees.prompt || !self.prompt_k.is_empty() || self.padded == 0,
            "decode_attention: `set_prompt` comes first"
        );
        let width = beams.shape.heads * beams.shape.head_dim;
        let mut order: Vec<usize> = (0..beams.queries.len()).collect();
        order.sort_by_key(|&row| beams.queries[row]);
        let parts: Vec<&[usize]> = order
            .chunk_by(|&a, &b| beams.queries[a] == beams.queries[b])
            .flat_map(|rows| rows.chunks(BEAMS))
            .collect();
        let outputs: Vec<Vec<f32>> = parts
            .par_iter()
            .map(|rows| self.some_beams(beams, rows, sees, bias, queries))
            .collect();
        let mut out = vec![0.0; queries.len()];
        for (rows, from) in parts.iter().zip(&outputs) {
            for (&row, from) in rows.iter().zip(from.chunks_exact(width)) {
                out[row * width..][..width].copy_from_slice(from);
            }
        }
        out
    }

    /// Outputs of beams of one query, `[rows, heads * dim]`.
    fn some_beams(
        &self,
        beams: &Beams<'_>,
        rows: &[usize],
        sees: Sees,
        bias: Option<&[f32]>,
        queries: &[f32],
    ) -> Vec<f32> {
        let CacheShape {
            heads,
            kv_heads,
            head_dim: dim,
            ..
        } = *beams.shape;
        let (group, query) = (heads / kv_heads, beams.queries[rows[0]]);
        let prompt = if sees.prompt { beams.lengths[query] } else { 0 };
        let steps = if sees.history { beams.steps } else { 0 };
        let keys = prompt + steps;
        let count = rows.len() * group;
        if keys == 0 {
            return vec![0.0; rows.len() * heads * dim];
        }
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
                steps,
                prompt,
                group,
                dim,
                heads,
                head,
            };
            for (nth, &row) in rows.iter().enumerate() {
                let ancestors = &beams.ancestors[row * beams.steps..][..steps];
                let scores = &mut scores[nth * group * keys..][..group * keys];
                history_scores(
                    history,
                    ancestors,
                    &self.step_k,
                    &stacked[nth * group * dim..][..group * dim],
                    bias,
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
                let ancestors = &beams.ancestors[row * beams.steps..][..steps];
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
    heads: usize,
    head: usize,
}

impl History {
    /// Where the key or value of a row of a step begins.
    #[inline(always)]
    fn start(&self, row: u32) -> usize {
        (row as usize * (self.heads / self.group) + self.head) * self.dim
    }
}

vectorised! {
    /// Appends the scores of generated keys, with their bias, to those of the prompt and takes the
    /// softmax of each head's row.
    fn history_scores(
        of: History,
        ancestors: &[u32],
        step_k: &[Vec<f32>],
        queries: &[f32],
        bias: Option<&[f32]>,
        scores: &mut [f32],
    ) {
        let keys = of.prompt + of.steps;
        for (step, &row) in ancestors.iter().enumerate() {
            let key = &step_k[step][of.start(row)..][..of.dim];
            for nth in 0..of.group {
                let back = of.steps - 1 - step;
                let term = bias.map_or(0.0, |bias| bias[back * of.heads + of.head * of.group + nth]);
                scores[nth * keys + of.prompt + step] =
                    dot(&queries[nth * of.dim..][..of.dim], key) + term;
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
            let value = &step_v[step][of.start(row)..][..of.dim];
            for nth in 0..of.group {
                let prob = probs[nth * keys + of.prompt + step];
                for (out, value) in out[nth * of.dim..][..of.dim].iter_mut().zip(value) {
                    *out = prob.mul_add(*value, *out);
                }
            }
        }
    }
}
