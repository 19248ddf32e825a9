//! The operations of this crate written with plain tensor operations.
//!
//! They define what each fused operation means, serve the devices that have no fused path, and are
//! what the tests compare with. They hold every intermediate tensor: [`linear_cross_entropy`] here
//! keeps `[n, v]` logits.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};

use crate::attention::AttentionShape;
use crate::optimiser::{AdamWStep, Moments};
use crate::rotary::Rotary;

/// See [`crate::linear`].
pub fn linear(x_ni: Tensor<2>, weight_oi: Tensor<2>) -> Tensor<2> {
    x_ni.matmul(weight_oi.transpose())
}

/// See [`crate::token_losses`]; gradients flow through this one.
pub fn token_losses(
    hidden_nd: Tensor<2>,
    weight_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
) -> Tensor<1> {
    let log_probs_nv = activation::log_softmax(hidden_nd.matmul(weight_vd.transpose()), 1);
    let targets_n1 = targets_n.unsqueeze_dim(1);
    log_probs_nv.gather(1, targets_n1).squeeze_dim::<1>(1).neg()
}

/// See [`crate::linear_cross_entropy`].
pub fn linear_cross_entropy(
    hidden_nd: Tensor<2>,
    weight_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
    weights_n: Option<Tensor<1>>,
) -> Tensor<1> {
    let losses_n = token_losses(hidden_nd, weight_vd, targets_n);
    match weights_n {
        Some(weights_n) => (losses_n * weights_n).sum(),
        None => losses_n.sum(),
    }
}

/// See [`crate::rms_norm`].
pub fn rms_norm(x_nd: Tensor<2>, gamma_d: Tensor<1>, eps: f64) -> Tensor<2> {
    let rms_n1 = (x_nd.clone().square().mean_dim(1) + eps).sqrt();
    (x_nd / rms_n1) * gamma_d.unsqueeze()
}

/// See [`crate::swiglu`].
pub fn swiglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    activation::silu(gate_nf) * up_nf
}

/// See [`crate::embedding`].
pub fn embedding(weight_vd: Tensor<2>, ids_n: Tensor<1, Int>) -> Tensor<2> {
    weight_vd.select(0, ids_n)
}

/// See [`crate::attention`].
pub fn attention(
    q_nd: Tensor<2>,
    k_nd: Tensor<2>,
    v_nd: Tensor<2>,
    rotary: &Rotary,
    shape: &AttentionShape<'_>,
) -> Tensor<2> {
    let device = q_nd.device();
    let [rows, _] = q_nd.dims();
    let (batch, dim) = (shape.lengths.len(), shape.head_dim);
    let seq = rows / batch.max(1);
    let split = |x: Tensor<2>, heads: usize| x.reshape([batch, seq, heads, dim]).swap_dims(1, 2);
    let turn = |x: Tensor<4>| {
        let cos = rotary.cos.clone().narrow(0, 0, seq).unsqueeze::<4>();
        let sin = rotary.sin.clone().narrow(0, 0, seq).unsqueeze::<4>();
        let first = x.clone().narrow(3, 0, dim / 2);
        let second = x.clone().narrow(3, dim / 2, dim / 2);
        x * cos + Tensor::cat(vec![second.neg(), first], 3) * sin
    };
    let q = turn(split(q_nd, shape.heads));
    let k = repeat_heads(turn(split(k_nd, shape.kv_heads)), shape.heads);
    let v = repeat_heads(split(v_nd, shape.kv_heads), shape.heads);
    let (hidden, padded) = masks(shape.lengths, seq, shape.causal, &device);
    let scores = q.matmul(k.swap_dims(2, 3)) / (dim as f64).sqrt();
    let probs = activation::softmax(
        scores.mask_fill(hidden.expand([batch, shape.heads, seq, seq]), -1.0e9),
        3,
    );
    let out = probs
        .matmul(v)
        .mask_fill(padded.expand([batch, shape.heads, seq, dim]), 0.0);
    out.swap_dims(1, 2).reshape([rows, shape.heads * dim])
}

/// `[batch, kv_heads, seq, dim]` to `[batch, heads, seq, dim]`: each key-value head serves `heads /
/// kv_heads` consecutive query heads.
pub(crate) fn repeat_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, kv_heads, seq, dim] = x.dims();
    let group = heads / kv_heads;
    x.reshape([batch, kv_heads, 1, seq, dim])
        .expand([batch, kv_heads, group, seq, dim])
        .reshape([batch, heads, seq, dim])
}

/// True where a query may not see a key, `[batch, 1, seq, seq]`, and where a query is padding,
/// `[batch, 1, seq, 1]`.
fn masks(
    lengths: &[usize],
    seq: usize,
    causal: bool,
    device: &Device,
) -> (Tensor<4, Bool>, Tensor<4, Bool>) {
    let batch = lengths.len();
    let mut hidden = Vec::with_capacity(batch * seq * seq);
    let mut padded = Vec::with_capacity(batch * seq);
    for &length in lengths {
        for query in 0..seq {
            padded.push(query >= length);
            hidden.extend((0..seq).map(|key| key >= length || (causal && key > query)));
        }
    }
    (
        Tensor::from_data(TensorData::new(hidden, [batch, 1, seq, seq]), device),
        Tensor::from_data(TensorData::new(padded, [batch, 1, seq, 1]), device),
    )
}

/// See [`crate::adamw`].
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    moments: Option<Moments<D>>,
    step: &AdamWStep,
) -> (Tensor<D>, Moments<D>) {
    let (beta_1, beta_2) = (f64::from(step.beta_1), f64::from(step.beta_2));
    let moments = moments.unwrap_or_else(|| Moments {
        first: grad.zeros_like(),
        second: grad.zeros_like(),
    });
    let grad = grad * f64::from(step.gradient_factor);
    let first = moments.first * beta_1 + grad.clone() * (1.0 - beta_1);
    let second = moments.second * beta_2 + grad.square() * (1.0 - beta_2);
    let (correction_1, correction_2) = step.corrections();
    let update = (first.clone() / correction_1)
        / ((second.clone() / correction_2).sqrt() + f64::from(step.epsilon));
    let param = param * (1.0 - step.learning_rate * f64::from(step.weight_decay))
        - update * step.learning_rate;
    (param, Moments { first, second })
}

/// See [`crate::squared_norm`].
pub fn squared_norm<const D: usize>(x: &Tensor<D>) -> f64 {
    let data = x.clone().into_data().convert::<f32>();
    data.iter::<f32>()
        .map(|x| f64::from(x) * f64::from(x))
        .sum()
}
