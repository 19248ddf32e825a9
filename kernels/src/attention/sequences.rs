//! Attention of all sequences of a call over slices: what every kind of positions has in common.
//!
//! One sequence is the unit of parallel work. Within it, each key-value head is made ready once; its
//! group of query heads is stacked, so a block of [`QUERIES`] positions of all heads of the group
//! meets the keys in one product. Scores of one block are held at a time; with a causal mask a
//! block sees only the keys up to its end. The backward pass computes the probabilities again and
//! accumulates over blocks in order. Nothing is computed beyond a sequence's real length: padded
//! rows of outputs and gradients are zero.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::softmax::{Bias, add_scores, softmax, softmax_backward};
use crate::product::{Matrix, Threads, Update, multiply};
use crate::rotary::{Angles, Rows, copy_rows, rotate, rotate_back};

/// Query positions per block.
const QUERIES: usize = 64;

/// Positions of one side of a call: padded length, and the real length of each sequence.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(super) seq: usize,
    pub(super) lengths: Arc<[usize]>,
}

/// Sizes of a call, owned, for the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
    pub(super) causal: bool,
    pub(super) queries: Side,
    pub(super) keys: Side,
}

/// How scores know of positions.
#[derive(Clone, Copy)]
pub(super) enum Positions<'a> {
    /// Queries and keys are turned; scores are divided by the root of the head's width.
    Rotary(Angles<'a>),
    /// A number per head and distance is added to the score, `[heads, queries + keys - 1]`: entry
    /// `queries - 1 + key - query`.
    Relative(&'a [f32]),
    /// Not at all.
    Free,
}

/// All sequences of a call, as slices.
pub(super) struct Sequences<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) positions: Positions<'a>,
    pub(super) plan: &'a Plan,
}

/// Gradients of a call; `bias` as in [`Positions::Relative`], empty for other positions.
pub(super) struct Gradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// Where the gradients of one sequence go.
struct Targets<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
    bias: Vec<f32>,
}

/// A block of query positions of one sequence and the number of keys it sees.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    count: usize,
    keys: usize,
}

impl Block {
    fn positions(&self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

impl Sequences<'_> {
    /// Outputs of all sequences.
    pub(super) fn outputs(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.q.len()];
        out.par_chunks_mut((self.plan.queries.seq * self.q_width()).max(1))
            .enumerate()
            .for_each(|(batch, out)| self.forward(batch, out));
        out
    }

    /// Gradients of all sequences; those of the bias are added in the order of the sequences.
    pub(super) fn gradients(&self, upstream: &[f32]) -> Gradients {
        let plan = self.plan;
        let mut all = Gradients {
            q: vec![0.0; self.q.len()],
            k: vec![0.0; self.k.len()],
            v: vec![0.0; self.v.len()],
            bias: match self.positions {
                Positions::Relative(bias) => vec![0.0; bias.len()],
                _ => vec![],
            },
        };
        let q_block = (plan.queries.seq * self.q_width()).max(1);
        let k_block = (plan.keys.seq * self.k_width()).max(1);
        let mut biases = vec![];
        all.q
            .par_chunks_mut(q_block)
            .zip(all.k.par_chunks_mut(k_block))
            .zip(all.v.par_chunks_mut(k_block))
            .zip(upstream.par_chunks(q_block))
            .enumerate()
            .map(|(batch, (((q, k), v), upstream))| {
                let bias = vec![0.0; all.bias.len()];
                let mut targets = Targets { q, k, v, bias };
                self.backward(batch, upstream, &mut targets);
                targets.bias
            })
            .collect_into_vec(&mut biases);
        for part in &biases {
            for (total, term) in all.bias.iter_mut().zip(part) {
                *total += term;
            }
        }
        all
    }

    fn group(&self) -> usize {
        self.plan.heads / self.plan.kv_heads
    }

    fn q_width(&self) -> usize {
        self.plan.heads * self.plan.dim
    }

    fn k_width(&self) -> usize {
        self.plan.kv_heads * self.plan.dim
    }

    /// The blocks of a sequence; none where there are no keys to see.
    fn blocks(&self, batch: usize) -> impl Iterator<Item = Block> {
        let (queries, keys) = self.lengths(batch);
        let causal = self.plan.causal;
        let queries = if keys == 0 { 0 } else { queries };
        (0..queries).step_by(QUERIES).map(move |first| {
            let count = QUERIES.min(queries - first);
            Block {
                first,
                count,
                keys: if causal { first + count } else { keys },
            }
        })
    }

    /// Real numbers of queries and keys.
    fn lengths(&self, batch: usize) -> (usize, usize) {
        let plan = self.plan;
        (plan.queries.lengths[batch], plan.keys.lengths[batch])
    }

    /// Rows of query head `head`, from position `first` of a sequence.
    fn q_rows(&self, head: usize, first: usize) -> Rows {
        Rows {
            start: first * self.q_width() + head * self.plan.dim,
            stride: self.q_width(),
        }
    }

    /// Rows of key-value head `head` of a sequence.
    fn k_rows(&self, head: usize) -> Rows {
        Rows {
            start: head * self.plan.dim,
            stride: self.k_width(),
        }
    }

    /// The queries of one sequence.
    fn queries(&self, batch: usize) -> &[f32] {
        let size = self.plan.queries.seq * self.q_width();
        &self.q[batch * size..][..size]
    }

    /// The keys or values of one sequence.
    fn keys<'b>(&self, all: &'b [f32], batch: usize) -> &'b [f32] {
        let size = self.plan.keys.seq * self.k_width();
        &all[batch * size..][..size]
    }

    /// What scores are multiplied by; the queries of the products carry it.
    fn factor(&self) -> f32 {
        match self.positions {
            Positions::Rotary(_) => 1.0 / (self.plan.dim as f32).sqrt(),
            _ => 1.0,
        }
    }

    /// Rows as the scores see them, times `factor`.
    fn place(
        &self,
        from: &[f32],
        from_rows: Rows,
        to: &mut [f32],
        to_rows: Rows,
        positions: Range<usize>,
        factor: f32,
    ) {
        match self.positions {
            Positions::Rotary(angles) => {
                rotate(from, from_rows, to, to_rows, angles, positions, factor);
            }
            _ => {
                let count = positions.len();
                copy_rows(from, from_rows, to, to_rows, count, self.plan.dim, factor);
            }
        }
    }

    /// The transpose of [`Self::place`], for gradients.
    fn place_back(
        &self,
        from: &[f32],
        to: &mut [f32],
        to_rows: Rows,
        positions: Range<usize>,
        factor: f32,
    ) {
        let from_rows = self.packed();
        match self.positions {
            Positions::Rotary(angles) => {
                rotate_back(from, from_rows, to, to_rows, angles, positions, factor);
            }
            _ => {
                let count = positions.len();
                copy_rows(from, from_rows, to, to_rows, count, self.plan.dim, factor);
            }
        }
    }

    fn packed(&self) -> Rows {
        Rows {
            start: 0,
            stride: self.plan.dim,
        }
    }

    fn forward(&self, batch: usize, out: &mut [f32]) {
        let dim = self.plan.dim;
        let mut scratch = Scratch::new(self, batch);
        let v = self.keys(self.v, batch);
        for head in 0..self.plan.kv_heads {
            scratch.place_keys(self, batch, head);
            for block in self.blocks(batch) {
                scratch.probabilities(self, batch, head, block);
                let rows = self.group() * block.count;
                let probs = Matrix::new(&scratch.probs, rows, block.keys, block.keys);
                let values = Matrix::new(&v[head * dim..], block.keys, dim, self.k_width());
                multiply(
                    &mut scratch.stacked,
                    dim,
                    Update::Replace,
                    1.0,
                    probs,
                    values,
                    Threads::One,
                );
                self.unstack(&scratch.stacked, head, block, out);
            }
        }
    }

    fn backward(&self, batch: usize, upstream: &[f32], targets: &mut Targets<'_>) {
        let dim = self.plan.dim;
        let (_, length) = self.lengths(batch);
        let mut scratch = Scratch::new(self, batch);
        let mut dprobs = vec![0.0; scratch.probs.len()];
        let mut dkeys = vec![0.0; length * dim];
        let v = self.keys(self.v, batch);
        for head in 0..self.plan.kv_heads {
            scratch.place_keys(self, batch, head);
            dkeys.fill(0.0);
            for block in self.blocks(batch) {
                scratch.probabilities(self, batch, head, block);
                self.stack(upstream, head, block, &mut scratch.stacked);
                let rows = self.group() * block.count;
                let values = Matrix::new(&v[head * dim..], block.keys, dim, self.k_width());
                let probs = Matrix::new(&scratch.probs, rows, block.keys, block.keys);
                let dout = Matrix::new(&scratch.stacked, rows, dim, dim);
                multiply(
                    &mut targets.v[head * dim..],
                    self.k_width(),
                    Update::Add,
                    1.0,
                    probs.transposed(),
                    dout,
                    Threads::One,
                );
                multiply(
                    &mut dprobs,
                    block.keys,
                    Update::Replace,
                    1.0,
                    dout,
                    values.transposed(),
                    Threads::One,
                );
                softmax_backward(&scratch.probs, &mut dprobs, block.keys, rows);
                if let Positions::Relative(_) = self.positions {
                    let heads = head * self.group()..(head + 1) * self.group();
                    let distances = self.distances();
                    for (head, dscores) in heads.zip(dprobs.chunks(block.count * block.keys)) {
                        let bias = &mut targets.bias[head * distances..][..distances];
                        let first = self.plan.queries.seq - 1 - block.first;
                        add_scores(dscores, block.keys, block.count, first, bias);
                    }
                }
                let dscores = Matrix::new(&dprobs, rows, block.keys, block.keys);
                let queries = Matrix::new(&scratch.queries, rows, dim, dim);
                multiply(
                    &mut dkeys,
                    dim,
                    Update::Add,
                    1.0,
                    dscores.transposed(),
                    queries,
                    Threads::One,
                );
                let keys = Matrix::new(&scratch.keys, block.keys, dim, dim);
                multiply(
                    &mut scratch.stacked,
                    dim,
                    Update::Replace,
                    1.0,
                    dscores,
                    keys,
                    Threads::One,
                );
                for (nth, stacked) in scratch
                    .stacked
                    .chunks_exact(block.count * dim)
                    .take(self.group())
                    .enumerate()
                {
                    let rows = self.q_rows(head * self.group() + nth, block.first);
                    self.place_back(stacked, targets.q, rows, block.positions(), self.factor());
                }
            }
            // The queries of the scores carried the factor, so the keys' gradient has it already.
            self.place_back(&dkeys, targets.k, self.k_rows(head), 0..length, 1.0);
        }
    }

    /// Distances a bias has numbers for.
    fn distances(&self) -> usize {
        self.plan.queries.seq + self.plan.keys.seq - 1
    }

    /// Copies the group's heads of a block from `[seq, heads * dim]` to `[group, count, dim]`.
    fn stack(&self, from: &[f32], head: usize, block: Block, to: &mut [f32]) {
        let dim = self.plan.dim;
        for (nth, to) in to
            .chunks_exact_mut(block.count * dim)
            .take(self.group())
            .enumerate()
        {
            let rows = self.q_rows(head * self.group() + nth, block.first);
            copy_rows(from, rows, to, self.packed(), block.count, dim, 1.0);
        }
    }

    /// The inverse of [`Self::stack`].
    fn unstack(&self, from: &[f32], head: usize, block: Block, to: &mut [f32]) {
        let dim = self.plan.dim;
        for (nth, from) in from
            .chunks_exact(block.count * dim)
            .take(self.group())
            .enumerate()
        {
            let rows = self.q_rows(head * self.group() + nth, block.first);
            copy_rows(from, self.packed(), to, rows, block.count, dim, 1.0);
        }
    }
}

/// Buffers of one sequence, used for one head and one block at a time.
struct Scratch {
    /// Keys of the head as the scores see them, `[length, dim]`.
    keys: Vec<f32>,
    /// Queries of the block as the scores see them, scaled, `[group, count, dim]`.
    queries: Vec<f32>,
    /// Probabilities of the block, `[group, count, keys]`.
    probs: Vec<f32>,
    /// Outputs or their gradients of the block, `[group, count, dim]`.
    stacked: Vec<f32>,
}

impl Scratch {
    fn new(sequences: &Sequences<'_>, batch: usize) -> Self {
        let dim = sequences.plan.dim;
        let (queries, keys) = sequences.lengths(batch);
        let rows = sequences.group() * QUERIES.min(queries);
        Self {
            keys: vec![0.0; keys * dim],
            queries: vec![0.0; rows * dim],
            probs: vec![0.0; rows * keys],
            stacked: vec![0.0; rows * dim],
        }
    }

    fn place_keys(&mut self, sequences: &Sequences<'_>, batch: usize, head: usize) {
        let k = sequences.keys(sequences.k, batch);
        let (_, length) = sequences.lengths(batch);
        let rows = sequences.k_rows(head);
        let packed = sequences.packed();
        sequences.place(k, rows, &mut self.keys, packed, 0..length, 1.0);
    }

    fn probabilities(
        &mut self,
        sequences: &Sequences<'_>,
        batch: usize,
        head: usize,
        block: Block,
    ) {
        let (dim, group) = (sequences.plan.dim, sequences.group());
        let q = sequences.queries(batch);
        for nth in 0..group {
            let from = sequences.q_rows(head * group + nth, block.first);
            let to = Rows {
                start: nth * block.count * dim,
                stride: dim,
            };
            let factor = sequences.factor();
            sequences.place(q, from, &mut self.queries, to, block.positions(), factor);
        }
        let rows = group * block.count;
        let queries = Matrix::new(&self.queries, rows, dim, dim);
        let keys = Matrix::new(&self.keys, block.keys, dim, dim);
        multiply(
            &mut self.probs,
            block.keys,
            Update::Replace,
            1.0,
            queries,
            keys.transposed(),
            Threads::One,
        );
        let bias = match sequences.positions {
            Positions::Relative(values) => Some(Bias {
                values: &values[head * group * sequences.distances()..],
                stride: sequences.distances(),
                first: sequences.plan.queries.seq - 1 - block.first,
            }),
            _ => None,
        };
        let causal = sequences.plan.causal.then_some(block.first);
        let probs = &mut self.probs;
        softmax(probs, block.keys, group, block.count, causal, bias);
    }
}
