//! Grouped-query attention with rotary positions applied inside, over flattened activations.
//!
//! One sequence is the unit of parallel work. Within it, each key-value head is turned once; its
//! group of query heads is stacked, so a block of [`QUERIES`] positions of all heads of the group
//! meets the keys in one product. Scores of one block are held at a time; with a causal mask a
//! block sees only the keys up to its end. The backward pass computes the probabilities again and
//! accumulates over blocks in order. Nothing is computed beyond a sequence's real length: padded
//! rows of outputs and gradients are zero.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{dims, is_fused, tensor, values};
use crate::product::{Matrix, Threads, Update, multiply};
use crate::rotary::{Angles, Rotary, Rows, rotate, rotate_back};
use crate::simd::{dot, exp_row, scale, vectorised};

/// Query positions per block.
const QUERIES: usize = 64;

/// Sizes of one call of [`attention`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape<'a> {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key-value heads; each serves `heads / kv_heads` consecutive query heads.
    pub kv_heads: usize,
    /// Components of one head, even.
    pub head_dim: usize,
    /// Whether a position sees only itself and earlier ones.
    pub causal: bool,
    /// Real length of each sequence, at most the padded length; padding stands on the right.
    pub lengths: &'a [usize],
}

/// Attention of every position over its sequence, `[batch * seq, heads * head_dim]`.
///
/// `q` is `[batch * seq, heads * head_dim]`, `k` and `v` are `[batch * seq, kv_heads * head_dim]`,
/// rows of one sequence consecutive, `batch = lengths.len()`. Queries and keys are turned by their
/// position in the sequence, scores are divided by `sqrt(head_dim)`. Keys at or beyond a sequence's
/// length are never attended; outputs and gradients of those rows are zero.
///
/// Time `batch * heads * seq^2 * head_dim`; memory beyond the outputs `heads / kv_heads * 64 * seq`
/// scores per thread.
///
/// # Panics
/// Where shapes disagree, a length exceeds the padded length, or the table holds too few positions.
pub fn attention(
    q_nd: Tensor<2>,
    k_nd: Tensor<2>,
    v_nd: Tensor<2>,
    rotary: &Rotary,
    shape: &AttentionShape<'_>,
) -> Tensor<2> {
    let [rows, width] = q_nd.dims();
    let batch = shape.lengths.len();
    assert!(
        batch > 0 && rows % batch == 0,
        "attention: {rows} rows are not {batch} sequences of equal length"
    );
    let seq = rows / batch;
    assert!(
        shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads),
        "attention: heads are a multiple of kv_heads"
    );
    assert!(
        shape.head_dim.is_multiple_of(2) && shape.head_dim > 0,
        "attention: head_dim is even"
    );
    assert_eq!(width, shape.heads * shape.head_dim, "attention: width of q");
    assert_eq!(
        k_nd.dims(),
        [rows, shape.kv_heads * shape.head_dim],
        "attention: shape of k"
    );
    assert_eq!(k_nd.dims(), v_nd.dims(), "attention: shapes of k and v");
    assert_eq!(
        rotary.head_dim(),
        shape.head_dim,
        "attention: head_dim of the rotary table"
    );
    assert!(
        seq <= rotary.max_positions(),
        "attention: {seq} positions, table of {}",
        rotary.max_positions()
    );
    assert!(
        shape.lengths.iter().all(|&length| length <= seq),
        "attention: a length exceeds {seq}"
    );
    let tensors = [&q_nd, &k_nd, &v_nd, &rotary.cos, &rotary.sin];
    if !tensors.into_iter().all(is_fused) {
        return crate::reference::attention(q_nd, k_nd, v_nd, rotary, shape);
    }
    let plan = Plan {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        dim: shape.head_dim,
        seq,
        causal: shape.causal,
        lengths: shape.lengths.into(),
    };
    Tensor::from_dispatch(Dispatch::rotary_attention(
        q_nd.into_dispatch(),
        k_nd.into_dispatch(),
        v_nd.into_dispatch(),
        rotary.cos.clone().into_dispatch(),
        rotary.sin.clone().into_dispatch(),
        plan,
    ))
}

/// Sizes of a call, owned, for the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    seq: usize,
    causal: bool,
    lengths: Arc<[usize]>,
}

#[backend_extension(Autodiff, Flex)]
pub(crate) trait RotaryAttention: Backend {
    fn rotary_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self>;
}

impl RotaryAttention for Flex {
    fn rotary_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        cos: FlexTensor,
        sin: FlexTensor,
        plan: Plan,
    ) -> FlexTensor {
        let shape = dims::<2>(&q);
        let [q, k, v, cos, sin] = [q, k, v, cos, sin].map(|x| x.to_contiguous());
        let angles = Angles {
            cos: values(&cos),
            sin: values(&sin),
            dim: plan.dim,
        };
        let sequence = Sequences {
            q: values(&q),
            k: values(&k),
            v: values(&v),
            angles,
            plan: &plan,
        };
        let mut out = vec![0.0; shape[0] * shape[1]];
        out.par_chunks_mut((plan.seq * shape[1]).max(1))
            .enumerate()
            .for_each(|(batch, out)| sequence.forward(batch, out));
        tensor(out, shape)
    }
}

impl<C: CheckpointStrategy> RotaryAttention for Autodiff<Flex, C> {
    fn rotary_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        match AttentionBackward
            .prepare::<C>([q.node(), k.node(), v.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let inputs = [
                    prep.checkpoint(&q),
                    prep.checkpoint(&k),
                    prep.checkpoint(&v),
                ];
                let state = Saved {
                    inputs,
                    cos: cos.clone(),
                    sin: sin.clone(),
                    plan: plan.clone(),
                };
                let out = Flex::rotary_attention(
                    q.into_primitive(),
                    k.into_primitive(),
                    v.into_primitive(),
                    cos,
                    sin,
                    plan,
                );
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => {
                let out = Flex::rotary_attention(
                    q.into_primitive(),
                    k.into_primitive(),
                    v.into_primitive(),
                    cos,
                    sin,
                    plan,
                );
                prep.finish(out)
            }
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    inputs: [NodeId; 3],
    cos: FlexTensor,
    sin: FlexTensor,
    plan: Plan,
}

impl Backward<Flex, 3> for AttentionBackward {
    type State = Saved;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<Flex>(&ops.node);
        let Saved {
            inputs,
            cos,
            sin,
            plan,
        } = ops.state;
        let inputs = inputs.map(|id| checkpointer.retrieve_node_output::<FlexTensor>(id));
        let gradients = gradients(inputs, [cos, sin], &plan, &upstream);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

fn gradients(
    inputs: [FlexTensor; 3],
    tables: [FlexTensor; 2],
    plan: &Plan,
    upstream: &FlexTensor,
) -> [FlexTensor; 3] {
    let (q_shape, k_shape) = (dims::<2>(&inputs[0]), dims::<2>(&inputs[1]));
    let [q, k, v] = inputs.map(|x| x.to_contiguous());
    let [cos, sin] = tables.map(|x| x.to_contiguous());
    let upstream = upstream.to_contiguous();
    let upstream = values(&upstream);
    let angles = Angles {
        cos: values(&cos),
        sin: values(&sin),
        dim: plan.dim,
    };
    let sequence = Sequences {
        q: values(&q),
        k: values(&k),
        v: values(&v),
        angles,
        plan,
    };
    let mut dq = vec![0.0; q_shape[0] * q_shape[1]];
    let mut dk = vec![0.0; k_shape[0] * k_shape[1]];
    let mut dv = vec![0.0; k_shape[0] * k_shape[1]];
    let (q_block, k_block) = (
        (plan.seq * q_shape[1]).max(1),
        (plan.seq * k_shape[1]).max(1),
    );
    dq.par_chunks_mut(q_block)
        .zip(dk.par_chunks_mut(k_block))
        .zip(dv.par_chunks_mut(k_block))
        .zip(upstream.par_chunks(q_block))
        .enumerate()
        .for_each(|(batch, (((dq, dk), dv), upstream))| {
            sequence.backward(batch, upstream, dq, dk, dv)
        });
    [
        tensor(dq, q_shape),
        tensor(dk, k_shape),
        tensor(dv, k_shape),
    ]
}

/// All sequences of a call, as slices.
struct Sequences<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    angles: Angles<'a>,
    plan: &'a Plan,
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
    fn group(&self) -> usize {
        self.plan.heads / self.plan.kv_heads
    }

    fn q_width(&self) -> usize {
        self.plan.heads * self.plan.dim
    }

    fn k_width(&self) -> usize {
        self.plan.kv_heads * self.plan.dim
    }

    fn blocks(&self, length: usize) -> impl Iterator<Item = Block> {
        let causal = self.plan.causal;
        (0..length).step_by(QUERIES).map(move |first| {
            let count = QUERIES.min(length - first);
            Block {
                first,
                count,
                keys: if causal { first + count } else { length },
            }
        })
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

    /// Slices of one sequence.
    fn of<'b>(&self, all: &'b [f32], batch: usize, width: usize) -> &'b [f32] {
        &all[batch * self.plan.seq * width..][..self.plan.seq * width]
    }

    fn forward(&self, batch: usize, out: &mut [f32]) {
        let (dim, length) = (self.plan.dim, self.plan.lengths[batch]);
        let mut scratch = Scratch::new(self, length);
        let v = self.of(self.v, batch, self.k_width());
        for head in 0..self.plan.kv_heads {
            scratch.turn_keys(self, batch, head, length);
            for block in self.blocks(length) {
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

    fn backward(
        &self,
        batch: usize,
        upstream: &[f32],
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let (dim, length) = (self.plan.dim, self.plan.lengths[batch]);
        let mut scratch = Scratch::new(self, length);
        let mut dprobs = vec![0.0; scratch.probs.len()];
        let mut dkeys = vec![0.0; length * dim];
        let packed = Rows {
            start: 0,
            stride: dim,
        };
        let v = self.of(self.v, batch, self.k_width());
        for head in 0..self.plan.kv_heads {
            scratch.turn_keys(self, batch, head, length);
            dkeys.fill(0.0);
            for block in self.blocks(length) {
                scratch.probabilities(self, batch, head, block);
                self.stack(upstream, head, block, &mut scratch.stacked);
                let rows = self.group() * block.count;
                let values = Matrix::new(&v[head * dim..], block.keys, dim, self.k_width());
                let probs = Matrix::new(&scratch.probs, rows, block.keys, block.keys);
                let dout = Matrix::new(&scratch.stacked, rows, dim, dim);
                multiply(
                    &mut dv[head * dim..],
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
                    let target = self.q_rows(head * self.group() + nth, block.first);
                    rotate_back(
                        stacked,
                        packed,
                        dq,
                        target,
                        self.angles,
                        block.positions(),
                        self.factor(),
                    );
                }
            }
            // The queries of the scores carried the factor, so the keys' gradient has it already.
            rotate_back(
                &dkeys,
                packed,
                dk,
                self.k_rows(head),
                self.angles,
                0..length,
                1.0,
            );
        }
    }

    /// What scores are multiplied by; the turned queries carry it.
    fn factor(&self) -> f32 {
        1.0 / (self.plan.dim as f32).sqrt()
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
            for (row, to) in to.chunks_exact_mut(dim).enumerate() {
                to.copy_from_slice(&from[rows.start + row * rows.stride..][..dim]);
            }
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
            for (row, from) in from.chunks_exact(dim).enumerate() {
                to[rows.start + row * rows.stride..][..dim].copy_from_slice(from);
            }
        }
    }
}

/// Buffers of one sequence, used for one head and one block at a time.
struct Scratch {
    /// Turned keys of the head, `[length, dim]`.
    keys: Vec<f32>,
    /// Turned and scaled queries of the block, `[group, count, dim]`.
    queries: Vec<f32>,
    /// Probabilities of the block, `[group, count, keys]`.
    probs: Vec<f32>,
    /// Outputs or their gradients of the block, `[group, count, dim]`.
    stacked: Vec<f32>,
}

impl Scratch {
    fn new(sequences: &Sequences<'_>, length: usize) -> Self {
        let dim = sequences.plan.dim;
        let rows = sequences.group() * QUERIES.min(length);
        Self {
            keys: vec![0.0; length * dim],
            queries: vec![0.0; rows * dim],
            probs: vec![0.0; rows * length],
            stacked: vec![0.0; rows * dim],
        }
    }

    fn turn_keys(&mut self, sequences: &Sequences<'_>, batch: usize, head: usize, length: usize) {
        let k = sequences.of(sequences.k, batch, sequences.k_width());
        let packed = Rows {
            start: 0,
            stride: sequences.plan.dim,
        };
        rotate(
            k,
            sequences.k_rows(head),
            &mut self.keys,
            packed,
            sequences.angles,
            0..length,
            1.0,
        );
    }

    fn probabilities(
        &mut self,
        sequences: &Sequences<'_>,
        batch: usize,
        head: usize,
        block: Block,
    ) {
        let (dim, group) = (sequences.plan.dim, sequences.group());
        let q = sequences.of(sequences.q, batch, sequences.q_width());
        for nth in 0..group {
            let from = sequences.q_rows(head * group + nth, block.first);
            let to = Rows {
                start: nth * block.count * dim,
                stride: dim,
            };
            rotate(
                q,
                from,
                &mut self.queries,
                to,
                sequences.angles,
                block.positions(),
                sequences.factor(),
            );
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
        softmax(
            &mut self.probs,
            block.keys,
            group,
            block.count,
            sequences.plan.causal.then_some(block.first),
        );
    }
}

vectorised! {
    /// Softmax of `group * count` rows of `keys` scores; with a causal mask, row `r` of a group
    /// stands at position `first + r` and later keys get zero.
    fn softmax(
        scores: &mut [f32],
        keys: usize,
        group: usize,
        count: usize,
        causal_first: Option<usize>,
    ) {
        for (row, scores) in scores.chunks_exact_mut(keys).take(group * count).enumerate() {
            let visible = causal_first.map_or(keys, |first| first + row % count + 1);
            let (seen, unseen) = scores.split_at_mut(visible);
            let (_, sum) = exp_row(seen);
            scale(seen, 1.0 / sum);
            unseen.fill(0.0);
        }
    }
}

vectorised! {
    /// Turns gradients of probabilities into gradients of scores: `p (dp - sum(p dp))` for each
    /// row.
    fn softmax_backward(probs: &[f32], dprobs: &mut [f32], keys: usize, rows: usize) {
        for (p, dp) in probs.chunks_exact(keys).zip(dprobs.chunks_exact_mut(keys)).take(rows) {
            let pull = dot(p, dp);
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - pull);
            }
        }
    }
}
