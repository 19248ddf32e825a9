//! The units between two products of a feed-forward layer, in one pass per direction.
//!
//! Gated linear units (Shazeer 2020) are `z sigmoid(a(z)) up` for a gate `z`: SwiGLU with `a(z) = z`,
//! GEGLU with the tanh approximation of GELU (Hendrycks and Gimpel 2016), `z (1 + tanh(u)) / 2 = z
//! sigmoid(2 u)` for `u = sqrt(2 / pi) (z + 0.044715 z^3)`. With `s = sigmoid(a(z))` and an upstream
//! gradient `g`: `dup = g z s` and `dz = g up s (1 + z (1 - s) a'(z))`.

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

/// What a gate's sigmoid is taken of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gate {
    Silu,
    GeluTanh,
}

/// `silu(gate) * up`, element by element; both are `[n, f]`.
pub fn swiglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    check("swiglu", &gate_nf, &up_nf);
    if !(is_fused(&gate_nf) && is_fused(&up_nf)) {
        return crate::reference::swiglu(gate_nf, up_nf);
    }
    gated(gate_nf, up_nf, Gate::Silu)
}

/// `gelu(gate) * up` with the tanh approximation of GELU, element by element; both are `[n, f]`.
pub fn geglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    check("geglu", &gate_nf, &up_nf);
    if !(is_fused(&gate_nf) && is_fused(&up_nf)) {
        return crate::reference::geglu(gate_nf, up_nf);
    }
    gated(gate_nf, up_nf, Gate::GeluTanh)
}

fn check(name: &str, gate_nf: &Tensor<2>, up_nf: &Tensor<2>) {
    assert_eq!(
        gate_nf.dims(),
        up_nf.dims(),
        "{name}: shapes of gate and up"
    );
}

fn gated(gate_nf: Tensor<2>, up_nf: Tensor<2>, gate: Gate) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::gated(
        gate_nf.into_dispatch(),
        up_nf.into_dispatch(),
        gate,
    ))
}

/// `max(x, 0)`, element by element, `[n, f]`; the gradient at zero is zero, and NaN stays NaN.
pub fn relu(x_nf: Tensor<2>) -> Tensor<2> {
    if !is_fused(&x_nf) {
        return crate::reference::relu(x_nf);
    }
    Tensor::from_dispatch(Dispatch::rectified(x_nf.into_dispatch()))
}

#[backend_extension(Autodiff, Flex)]
pub(crate) trait Units: Backend {
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self>;
    fn rectified(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Units for Flex {
    fn gated(gate: FlexTensor, up: FlexTensor, kind: Gate) -> FlexTensor {
        let shape: [usize; 2] = dims(&gate);
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let (gate, up) = (values(&gate), values(&up));
        let fill = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(BLOCK)
                .zip(gate.par_chunks(BLOCK))
                .zip(up.par_chunks(BLOCK))
                .for_each(|((out, gate), up)| forward(gate, up, kind, out));
        };
        // SAFETY: the blocks cover the output, and `forward` writes every element of its block.
        tensor(unsafe { filled(gate.len(), fill) }, shape)
    }

    fn rectified(x: FlexTensor) -> FlexTensor {
        let shape: [usize; 2] = dims(&x);
        let x = x.to_contiguous();
        let x = values(&x);
        let fill = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(BLOCK)
                .zip(x.par_chunks(BLOCK))
                .for_each(|(out, x)| rectify(x, out));
        };
        // SAFETY: the blocks cover the output, and `rectify` writes every element of its block.
        tensor(unsafe { filled(x.len(), fill) }, shape)
    }
}

impl<C: CheckpointStrategy> Units for Autodiff<Flex, C> {
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self> {
        match GatedBackward
            .prepare::<C>([gate.node(), up.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&gate), prep.checkpoint(&up), kind);
                prep.finish(
                    state,
                    Flex::gated(gate.into_primitive(), up.into_primitive(), kind),
                )
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::gated(
                gate.into_primitive(),
                up.into_primitive(),
                kind,
            )),
        }
    }

    fn rectified(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let node = x.node();
        let out = Flex::rectified(x.into_primitive());
        match ReluBackward.prepare::<C>([node]).compute_bound().stateful() {
            // The output is kept: the product that follows keeps it as well.
            OpsKind::Tracked(prep) => prep.finish(out.clone(), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[derive(Debug)]
struct ReluBackward;

impl Backward<Flex, 1> for ReluBackward {
    /// The output.
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_node] = ops.parents;
        let mut upstream = grads.consume::<Flex>(&ops.node).to_contiguous();
        if let Some(node) = x_node {
            upstream
                .storage_mut::<f32>()
                .par_chunks_mut(BLOCK)
                .zip(values(&ops.state).par_chunks(BLOCK))
                .for_each(|(g, out)| rectify_backward(out, g));
            grads.register::<Flex>(node.id, upstream);
        }
    }
}

#[derive(Debug)]
struct GatedBackward;

impl Backward<Flex, 2> for GatedBackward {
    type State = (NodeId, NodeId, Gate);

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
        let (dgate, dup) = gradients(&gate, &up, ops.state.2, &upstream);
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
    kind: Gate,
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
                .for_each(|((((dgate, dup), gate), up), g)| {
                    backward(gate, up, g, kind, dgate, dup)
                });
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

/// `2 sqrt(2 / pi)`, and that times the cubic coefficient of GELU.
const LINEAR: f32 = 1.595_769;
const CUBIC: f32 = LINEAR * 0.044_715;

vectorised! {
    fn forward(gate: &[f32], up: &[f32], kind: Gate, out: &mut [MaybeUninit<f32>]) {
        match kind {
            Gate::Silu => combine(gate, up, out, |z| z),
            Gate::GeluTanh => combine(gate, up, out, |z| z * (LINEAR + CUBIC * z * z)),
        }
    }
}

/// `gate sigmoid(argument(gate)) up`.
#[inline(always)]
fn combine(gate: &[f32], up: &[f32], out: &mut [MaybeUninit<f32>], argument: impl Fn(f32) -> f32) {
    let (gate, up) = (&gate[..out.len()], &up[..out.len()]);
    for i in 0..out.len() {
        out[i].write(gate[i] * up[i] * sigmoid(argument(gate[i])));
    }
}

vectorised! {
    fn backward(
        gate: &[f32],
        up: &[f32],
        upstream: &[f32],
        kind: Gate,
        dgate: &mut [MaybeUninit<f32>],
        dup: &mut [MaybeUninit<f32>],
    ) {
        let inputs = [gate, up, upstream];
        match kind {
            Gate::Silu => derive(inputs, dgate, dup, |z| (z, 1.0)),
            Gate::GeluTanh => derive(inputs, dgate, dup, |z| {
                let square = z * z;
                (z * (LINEAR + CUBIC * square), LINEAR + 3.0 * CUBIC * square)
            }),
        }
    }
}

/// Both gradients; `argument` gives the sigmoid's argument and its derivative.
#[inline(always)]
fn derive(
    [gate, up, upstream]: [&[f32]; 3],
    dgate: &mut [MaybeUninit<f32>],
    dup: &mut [MaybeUninit<f32>],
    argument: impl Fn(f32) -> (f32, f32),
) {
    let len = dgate.len();
    let (gate, up, upstream, dup) = (&gate[..len], &up[..len], &upstream[..len], &mut dup[..len]);
    for i in 0..len {
        let (a, slope) = argument(gate[i]);
        let s = sigmoid(a);
        dup[i].write(upstream[i] * gate[i] * s);
        dgate[i].write(upstream[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s) * slope));
    }
}

vectorised! {
    fn rectify(x: &[f32], out: &mut [MaybeUninit<f32>]) {
        for (out, &x) in out.iter_mut().zip(x) {
            out.write(if x < 0.0 { 0.0 } else { x });
        }
    }
}

vectorised! {
    /// Gradients become zero where the output is.
    fn rectify_backward(out: &[f32], gradients: &mut [f32]) {
        for (g, &out) in gradients.iter_mut().zip(out) {
            *g = if out == 0.0 { 0.0 } else { *g };
        }
    }
}
