//! Attention over flattened activations: grouped-query with rotary positions applied inside, with
//! a bias by distance, or from one set of sequences to another.
//!
//! All of them share one pass per direction (`sequences`).

mod sequences;
mod softmax;

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

use crate::flex::{dims, is_fused, tensor, values};
use crate::rotary::{Angles, Rotary};
use sequences::{Plan, Positions, Sequences, Side};

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

/// Sizes of one call of [`relative_attention`].
#[derive(Clone, Copy, Debug)]
pub struct RelativeShape<'a> {
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Components of one head.
    pub head_dim: usize,
    /// Whether a position sees only itself and earlier ones.
    pub causal: bool,
    /// Real length of each sequence, at most the padded length; padding stands on the right.
    pub lengths: &'a [usize],
}

/// Sizes of one call of [`cross_attention`].
#[derive(Clone, Copy, Debug)]
pub struct CrossShape<'a> {
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Components of one head.
    pub head_dim: usize,
    /// Real number of queries of each sequence, at most the padded number.
    pub queries: &'a [usize],
    /// Real number of keys of each sequence, at most the padded number.
    pub keys: &'a [usize],
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
    assert!(
        shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads),
        "attention: heads are a multiple of kv_heads"
    );
    assert!(
        shape.head_dim.is_multiple_of(2) && shape.head_dim > 0,
        "attention: head_dim is even"
    );
    let queries = side(
        "attention: q",
        &q_nd,
        shape.heads * shape.head_dim,
        shape.lengths,
    );
    let keys = side(
        "attention: k",
        &k_nd,
        shape.kv_heads * shape.head_dim,
        shape.lengths,
    );
    assert_eq!(queries.seq, keys.seq, "attention: rows of q and k");
    assert_eq!(k_nd.dims(), v_nd.dims(), "attention: shapes of k and v");
    assert_eq!(
        rotary.head_dim(),
        shape.head_dim,
        "attention: head_dim of the rotary table"
    );
    assert!(
        queries.seq <= rotary.max_positions(),
        "attention: {} positions, table of {}",
        queries.seq,
        rotary.max_positions()
    );
    let tensors = [&q_nd, &k_nd, &v_nd, &rotary.cos, &rotary.sin];
    if !tensors.into_iter().all(is_fused) {
        return crate::reference::attention(q_nd, k_nd, v_nd, rotary, shape);
    }
    let plan = Plan {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        dim: shape.head_dim,
        causal: shape.causal,
        queries,
        keys,
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

/// Attention of every position over its sequence with a bias by distance, `[batch * seq, heads *
/// head_dim]`.
///
/// `q`, `k` and `v` are `[batch * seq, heads * head_dim]`, rows of one sequence consecutive. The
/// score of query `i` and key `j` at head `h` is their dot product plus `bias[seq - 1 + j - i, h]`,
/// not divided by anything (Raffel et al. 2020, section 2.1, and its implementation); `bias` is
/// `[2 seq - 1, heads]` and receives a gradient. Keys at or beyond a sequence's length are never
/// attended; outputs and gradients of those rows are zero.
///
/// Time `batch * heads * seq^2 * head_dim`; memory beyond the outputs `64 * seq` scores per thread.
///
/// # Panics
/// Where shapes disagree or a length exceeds the padded length.
pub fn relative_attention(
    q_nd: Tensor<2>,
    k_nd: Tensor<2>,
    v_nd: Tensor<2>,
    bias_rh: Tensor<2>,
    shape: &RelativeShape<'_>,
) -> Tensor<2> {
    let width = shape.heads * shape.head_dim;
    let queries = side("relative_attention: q", &q_nd, width, shape.lengths);
    assert_eq!(
        q_nd.dims(),
        k_nd.dims(),
        "relative_attention: shapes of q and k"
    );
    assert_eq!(
        k_nd.dims(),
        v_nd.dims(),
        "relative_attention: shapes of k and v"
    );
    assert_eq!(
        bias_rh.dims(),
        [(2 * queries.seq).saturating_sub(1), shape.heads],
        "relative_attention: shape of the bias"
    );
    if ![&q_nd, &k_nd, &v_nd, &bias_rh].into_iter().all(is_fused) {
        return crate::reference::relative_attention(q_nd, k_nd, v_nd, bias_rh, shape);
    }
    let plan = Plan {
        heads: shape.heads,
        kv_heads: shape.heads,
        dim: shape.head_dim,
        causal: shape.causal,
        keys: queries.clone(),
        queries,
    };
    Tensor::from_dispatch(Dispatch::relative_attention(
        q_nd.into_dispatch(),
        k_nd.into_dispatch(),
        v_nd.into_dispatch(),
        bias_rh.into_dispatch(),
        plan,
    ))
}

/// Attention from every query to all keys of the other side, without positions, `[batch * queries,
/// heads * head_dim]`.
///
/// `q` is `[batch * queries, heads * head_dim]`, `k` and `v` are `[batch * keys, heads * head_dim]`,
/// rows of one sequence consecutive. Scores are dot products, not divided by anything. Queries and
/// keys at or beyond their real number are left out; outputs and gradients of those rows are zero,
/// as are outputs of a sequence without keys.
///
/// Time `batch * heads * queries * keys * head_dim`; memory beyond the outputs `64 * keys` scores per
/// thread.
///
/// # Panics
/// Where shapes disagree or a real number exceeds the padded one.
pub fn cross_attention(
    q_nd: Tensor<2>,
    k_md: Tensor<2>,
    v_md: Tensor<2>,
    shape: &CrossShape<'_>,
) -> Tensor<2> {
    assert_eq!(
        shape.queries.len(),
        shape.keys.len(),
        "cross_attention: sequences of queries and of keys"
    );
    let width = shape.heads * shape.head_dim;
    let queries = side("cross_attention: q", &q_nd, width, shape.queries);
    let keys = side("cross_attention: k", &k_md, width, shape.keys);
    assert_eq!(
        k_md.dims(),
        v_md.dims(),
        "cross_attention: shapes of k and v"
    );
    if ![&q_nd, &k_md, &v_md].into_iter().all(is_fused) {
        return crate::reference::cross_attention(q_nd, k_md, v_md, shape);
    }
    let plan = Plan {
        heads: shape.heads,
        kv_heads: shape.heads,
        dim: shape.head_dim,
        causal: false,
        queries,
        keys,
    };
    Tensor::from_dispatch(Dispatch::cross_attention(
        q_nd.into_dispatch(),
        k_md.into_dispatch(),
        v_md.into_dispatch(),
        plan,
    ))
}

/// One side of a call, its shape checked.
fn side(name: &str, x_nd: &Tensor<2>, width: usize, lengths: &[usize]) -> Side {
    let [rows, found] = x_nd.dims();
    let batch = lengths.len();
    assert!(
        batch > 0 && rows % batch == 0,
        "{name}: {rows} rows are not {batch} sequences of equal length"
    );
    assert!(
        found == width && width > 0,
        "{name}: width {found}, not {width}"
    );
    let seq = rows / batch;
    assert!(
        lengths.iter().all(|&length| length <= seq),
        "{name}: a length exceeds {seq}"
    );
    Side {
        seq,
        lengths: lengths.into(),
    }
}

#[backend_extension(Autodiff, Flex)]
pub(crate) trait Attention: Backend {
    fn rotary_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self>;
    fn relative_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self>;
    fn cross_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self>;
}

impl Attention for Flex {
    fn rotary_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        cos: FlexTensor,
        sin: FlexTensor,
        plan: Plan,
    ) -> FlexTensor {
        Tables::Rotary(cos, sin).outputs([q, k, v], &plan)
    }

    fn relative_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        bias: FlexTensor,
        plan: Plan,
    ) -> FlexTensor {
        Tables::Relative(bias).outputs([q, k, v], &plan)
    }

    fn cross_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, plan: Plan) -> FlexTensor {
        Tables::Free.outputs([q, k, v], &plan)
    }
}

impl<C: CheckpointStrategy> Attention for Autodiff<Flex, C> {
    fn rotary_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        let tables = Tables::Rotary(cos.into_primitive(), sin.into_primitive());
        tracked::<C>(q, k, v, tables, plan)
    }

    fn relative_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node(), bias.node()];
        let tables = Tables::Relative(bias.into_primitive());
        match AttentionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let inputs = [&q, &k, &v].map(|x| prep.checkpoint(x));
                let out = tables.outputs([q, k, v].map(|x| x.into_primitive()), &plan);
                prep.finish(
                    Saved {
                        inputs,
                        tables,
                        plan,
                    },
                    out,
                )
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(tables.outputs([q, k, v].map(|x| x.into_primitive()), &plan))
            }
        }
    }

    fn cross_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        plan: Plan,
    ) -> FloatTensor<Self> {
        tracked::<C>(q, k, v, Tables::Free, plan)
    }
}

/// An operation whose tables have no gradient.
fn tracked<C: CheckpointStrategy>(
    q: FloatTensor<Autodiff<Flex, C>>,
    k: FloatTensor<Autodiff<Flex, C>>,
    v: FloatTensor<Autodiff<Flex, C>>,
    tables: Tables,
    plan: Plan,
) -> FloatTensor<Autodiff<Flex, C>> {
    match AttentionBackward
        .prepare::<C>([q.node(), k.node(), v.node()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut prep) => {
            let inputs = [&q, &k, &v].map(|x| prep.checkpoint(x));
            let out = tables.outputs([q, k, v].map(|x| x.into_primitive()), &plan);
            prep.finish(
                Saved {
                    inputs,
                    tables,
                    plan,
                },
                out,
            )
        }
        OpsKind::UnTracked(prep) => {
            prep.finish(tables.outputs([q, k, v].map(|x| x.into_primitive()), &plan))
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    inputs: [NodeId; 3],
    tables: Tables,
    plan: Plan,
}

impl Saved {
    /// Gradients of q, k and v, and of the bias where there is one.
    fn gradients(
        self,
        checkpointer: &mut Checkpointer,
        upstream: &FlexTensor,
    ) -> ([FlexTensor; 3], Option<FlexTensor>) {
        let inputs = self.inputs.map(|id| checkpointer.retrieve_node_output(id));
        self.tables.gradients(inputs, &self.plan, upstream)
    }
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
        let (gradients, _) = ops.state.gradients(checkpointer, &upstream);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl Backward<Flex, 4> for AttentionBackward {
    type State = Saved;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<Flex>(&ops.node);
        let (gradients, bias) = ops.state.gradients(checkpointer, &upstream);
        for (node, gradient) in ops
            .parents
            .into_iter()
            .zip(gradients.into_iter().chain(bias))
        {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// What scores know of positions, as tensors.
#[derive(Clone, Debug)]
enum Tables {
    /// Cosines and sines.
    Rotary(FlexTensor, FlexTensor),
    /// A number per distance and head.
    Relative(FlexTensor),
    /// Nothing.
    Free,
}

impl Tables {
    fn outputs(&self, inputs: [FlexTensor; 3], plan: &Plan) -> FlexTensor {
        let shape = dims::<2>(&inputs[0]);
        tensor(self.on_slices(inputs, plan, |s| s.outputs()), shape)
    }

    fn gradients(
        &self,
        inputs: [FlexTensor; 3],
        plan: &Plan,
        upstream: &FlexTensor,
    ) -> ([FlexTensor; 3], Option<FlexTensor>) {
        let upstream = upstream.to_contiguous();
        let (q, k) = (dims::<2>(&inputs[0]), dims::<2>(&inputs[1]));
        let found = self.on_slices(inputs, plan, |s| s.gradients(values(&upstream)));
        let bias = match self {
            Self::Relative(bias) => {
                let [distances, heads] = dims(bias);
                Some(tensor(
                    transposed(&found.bias, distances),
                    [distances, heads],
                ))
            }
            _ => None,
        };
        let inputs = [tensor(found.q, q), tensor(found.k, k), tensor(found.v, k)];
        (inputs, bias)
    }

    fn on_slices<T>(
        &self,
        inputs: [FlexTensor; 3],
        plan: &Plan,
        work: impl FnOnce(&Sequences<'_>) -> T,
    ) -> T {
        let [q, k, v] = inputs.map(|x| x.to_contiguous());
        let run = |positions: Positions<'_>| {
            work(&Sequences {
                q: values(&q),
                k: values(&k),
                v: values(&v),
                positions,
                plan,
            })
        };
        match self {
            Self::Rotary(cos, sin) => {
                let (cos, sin) = (cos.to_contiguous(), sin.to_contiguous());
                run(Positions::Rotary(Angles {
                    cos: values(&cos),
                    sin: values(&sin),
                    dim: plan.dim,
                }))
            }
            Self::Relative(bias) => {
                let bias = transposed(values(&bias.to_contiguous()), plan.heads);
                run(Positions::Relative(&bias))
            }
            Self::Free => run(Positions::Free),
        }
    }
}

/// The transpose of a matrix of `columns` columns.
fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| matrix.iter().skip(column).step_by(columns).copied())
        .collect()
}
