//! SwiGLU (Shazeer 2020): `silu(gate) * up` with `silu(z) = z / (1 + e^-z)`, in one pass per
//! direction.
//!
//! With `s = 1 / (1 + e^-gate)` and an upstream gradient `g`: `dup = g gate s` and
//! `dgate = g up s (1 + gate (1 - s))`.

use std::mem::MaybeUninit;

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

use crate::flex::{dims, filled, is_fused, tensor, values};
use crate::simd::{BLOCK, exp, vectorised};

/// `silu(gate) * up`, element by element; both are `[n, f]`.
pub fn swiglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    assert_eq!(
        gate_nf.dims(),
        up_nf.dims(),
        "swiglu: shapes of gate and up"
    );
    if !(is_fused(&gate_nf) && is_fused(&up_nf)) {
        return crate::reference::swiglu(gate_nf, up_nf);
    }
    Tensor::from_dispatch(Dispatch::swiglu(
        gate_nf.into_dispatch(),
        up_nf.into_dispatch(),
    ))
}

#[backend_extension(Autodiff, Flex)]
pub(crate) trait SwiGlu: Backend {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl SwiGlu for Flex {
    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let shape: [usize; 2] = dims(&gate);
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let (gate, up) = (values(&gate), values(&up));
        let fill = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(BLOCK)
                .zip(gate.par_chunks(BLOCK))
                .zip(up.par_chunks(BLOCK))
                .for_each(|((out, gate), up)| forward(gate, up, out));
        };
        // SAFETY: the blocks cover the output, and `forward` writes every element of its block.
        tensor(unsafe { filled(gate.len(), fill) }, shape)
    }
}

impl<C: CheckpointStrategy> SwiGlu for Autodiff<Flex, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        match SwiGluBackward
            .prepare::<C>([gate.node(), up.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&gate), prep.checkpoint(&up));
                prep.finish(
                    state,
                    Flex::swiglu(gate.into_primitive(), up.into_primitive()),
                )
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::swiglu(gate.into_primitive(), up.into_primitive()))
            }
        }
    }
}

#[derive(Debug)]
struct SwiGluBackward;

impl Backward<Flex, 2> for SwiGluBackward {
    type State = (NodeId, NodeId);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [gate_node, up_node] = ops.parents;
        let upstream = grads.consume::<Flex>(&ops.node);
        let gate: FlexTensor = checkpointer.retrieve_node_output(ops.state.0);
        let up: FlexTensor = checkpointer.retrieve_node_output(ops.state.1);
        let (dgate, dup) = gradients(&gate, &up, &upstream);
        if let Some(node) = gate_node {
            grads.register::<Flex>(node.id, dgate);
        }
        if let Some(node) = up_node {
            grads.register::<Flex>(node.id, dup);
        }
    }
}

fn gradients(
    gate: &FlexTensor,
    up: &FlexTensor,
    upstream: &FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let shape: [usize; 2] = dims(gate);
    let (gate, up, upstream) = (
        gate.to_contiguous(),
        up.to_contiguous(),
        upstream.to_contiguous(),
    );
    let (gate, up, upstream) = (values(&gate), values(&up), values(&upstream));
    let len = gate.len();
    let mut dup = Vec::new();
    let fill = |dgate: &mut [MaybeUninit<f32>]| {
        let fill = |dup: &mut [MaybeUninit<f32>]| {
            dgate
                .par_chunks_mut(BLOCK)
                .zip(dup.par_chunks_mut(BLOCK))
                .zip(gate.par_chunks(BLOCK))
                .zip(up.par_chunks(BLOCK))
                .zip(upstream.par_chunks(BLOCK))
                .for_each(|((((dgate, dup), gate), up), g)| backward(gate, up, g, dgate, dup));
        };
        // SAFETY: the blocks cover both outputs, and `backward` writes every element of its two blocks.
        dup = unsafe { filled(len, fill) };
    };
    // SAFETY: as above.
    let dgate = unsafe { filled(len, fill) };
    (tensor(dgate, shape), tensor(dup, shape))
}

/// `1 / (1 + e^-x)`, at least 1e-20, so that no subnormal number reaches a product.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp((-x).min(46.0)))
}

vectorised! {
    fn forward(gate: &[f32], up: &[f32], out: &mut [MaybeUninit<f32>]) {
        let (gate, up) = (&gate[..out.len()], &up[..out.len()]);
        for i in 0..out.len() {
            out[i].write(gate[i] * up[i] * sigmoid(gate[i]));
        }
    }
}

vectorised! {
    fn backward(
        gate: &[f32],
        up: &[f32],
        upstream: &[f32],
        dgate: &mut [MaybeUninit<f32>],
        dup: &mut [MaybeUninit<f32>],
    ) {
        let len = dgate.len();
        let (gate, up, upstream, dup) = (&gate[..len], &up[..len], &upstream[..len], &mut dup[..len]);
        for i in 0..len {
            let s = sigmoid(gate[i]);
            dup[i].write(upstream[i] * gate[i] * s);
            dgate[i].write(upstream[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s)));
        }
    }
}
