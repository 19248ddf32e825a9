//! Root-mean-square normalisation (Zhang and Sennrich 2019) in one pass per direction.
//!
//! With `r = 1 / sqrt(mean(x^2) + eps)`: `y = gamma x r`, and for an upstream gradient `g`, `dx = r
//! gamma g - x r^3 mean(gamma g x)` and `dgamma = sum over rows of g x r`. The gradient of gamma is
//! summed within blocks of [`ROWS`] rows, then over blocks in order.

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
use crate::simd::{lane_sum, vectorised};

/// Rows normalised by one thread at a time.
const ROWS: usize = 64;

/// `gamma * x / sqrt(mean(x^2) + eps)` for each row of `x`, `[n, d]`; `gamma` is `[d]`.
pub fn rms_norm(x_nd: Tensor<2>, gamma_d: Tensor<1>, eps: f64) -> Tensor<2> {
    assert_eq!(
        x_nd.dims()[1],
        gamma_d.dims()[0],
        "rms_norm: width of x and of gamma"
    );
    if !(is_fused(&x_nd) && is_fused(&gamma_d)) {
        return crate::reference::rms_norm(x_nd, gamma_d, eps);
    }
    Tensor::from_dispatch(Dispatch::rms_norm(
        x_nd.into_dispatch(),
        gamma_d.into_dispatch(),
        eps,
    ))
}

#[backend_extension(Autodiff, Flex)]
pub(crate) trait RmsNorm: Backend {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
}

impl RmsNorm for Flex {
    fn rms_norm(x: FlexTensor, gamma: FlexTensor, eps: f64) -> FlexTensor {
        let shape: [usize; 2] = dims(&x);
        let (x, gamma) = (x.to_contiguous(), gamma.to_contiguous());
        let (x, gamma) = (values(&x), values(&gamma));
        let block = ROWS * shape[1];
        let fill = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(block)
                .zip(x.par_chunks(block))
                .for_each(|(out, x)| forward(x, gamma, eps as f32, out));
        };
        // SAFETY: the blocks cover the output, and `forward` writes every element of its block.
        tensor(unsafe { filled(x.len(), fill) }, shape)
    }
}

impl<C: CheckpointStrategy> RmsNorm for Autodiff<Flex, C> {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        match RmsNormBackward
            .prepare::<C>([x.node(), gamma.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&gamma), eps);
                prep.finish(
                    state,
                    Flex::rms_norm(x.into_primitive(), gamma.into_primitive(), eps),
                )
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::rms_norm(
                x.into_primitive(),
                gamma.into_primitive(),
                eps,
            )),
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl Backward<Flex, 2> for RmsNormBackward {
    type State = (NodeId, NodeId, f64);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [x_node, gamma_node] = ops.parents;
        let upstream = grads.consume::<Flex>(&ops.node);
        let x: FlexTensor = checkpointer.retrieve_node_output(ops.state.0);
        let gamma: FlexTensor = checkpointer.retrieve_node_output(ops.state.1);
        let (dx, dgamma) = gradients(&x, &gamma, &upstream, ops.state.2);
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, dx);
        }
        if let Some(node) = gamma_node {
            grads.register::<Flex>(node.id, dgamma);
        }
    }
}

fn gradients(
    x: &FlexTensor,
    gamma: &FlexTensor,
    upstream: &FlexTensor,
    eps: f64,
) -> (FlexTensor, FlexTensor) {
    let shape: [usize; 2] = dims(x);
    let (x, gamma, upstream) = (
        x.to_contiguous(),
        gamma.to_contiguous(),
        upstream.to_contiguous(),
    );
    let (x, gamma, upstream) = (values(&x), values(&gamma), values(&upstream));
    let block = ROWS * shape[1];
    let mut partial: Vec<Vec<f32>> = Vec::new();
    let fill = |dx: &mut [MaybeUninit<f32>]| {
        dx.par_chunks_mut(block)
            .zip(x.par_chunks(block))
            .zip(upstream.par_chunks(block))
            .map(|((dx, x), upstream)| {
                let mut dgamma = vec![0.0; gamma.len()];
                backward(x, gamma, upstream, eps as f32, dx, &mut dgamma);
                dgamma
            })
            .collect_into_vec(&mut partial);
    };
    // SAFETY: the blocks cover the output, and `backward` writes every element of its block.
    let dx = unsafe { filled(x.len(), fill) };
    let mut dgamma = vec![0.0; gamma.len()];
    for part in &partial {
        for (total, term) in dgamma.iter_mut().zip(part) {
            *total += term;
        }
    }
    (tensor(dx, shape), tensor(dgamma, [shape[1]]))
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    (lane_sum(x.len(), |i| x[i] * x[i]) / x.len() as f32 + eps)
        .sqrt()
        .recip()
}

vectorised! {
    fn forward(x: &[f32], gamma: &[f32], eps: f32, out: &mut [MaybeUninit<f32>]) {
        let width = gamma.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let r = inverse_rms(x, eps);
            for i in 0..width {
                out[i].write(x[i] * r * gamma[i]);
            }
        }
    }
}

vectorised! {
    fn backward(
        x: &[f32],
        gamma: &[f32],
        upstream: &[f32],
        eps: f32,
        dx: &mut [MaybeUninit<f32>],
        dgamma: &mut [f32],
    ) {
        let width = gamma.len();
        let dgamma = &mut dgamma[..width];
        let rows = x.chunks_exact(width).zip(upstream.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for ((x, g), dx) in rows {
            let r = inverse_rms(x, eps);
            let mean = lane_sum(width, |i| g[i] * gamma[i] * x[i]) / width as f32;
            let pull = mean * r * r * r;
            for i in 0..width {
                dx[i].write(r * g[i] * gamma[i] - pull * x[i]);
                dgamma[i] += g[i] * x[i] * r;
            }
        }
    }
}
