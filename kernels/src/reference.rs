//! The operations of this crate written with plain tensor operations.
//!
//! They define what each fused operation means, serve the devices that have no fused path, and are
//! what the tests compare with. They hold every intermediate tensor: [`linear_cross_entropy`] here
//! keeps `[n, v]` logits. In half precision, sums over many values (norms, softmax, losses) are taken in
//! 32-bit floats.

use std::ops::Range;

use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor, TensorData, activation};

use crate::attention::{AttentionShape, CrossShape, RelativeShape};
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
    let logits_nv = single(hidden_nd.matmul(weight_vd.transpose()));
    let log_probs_nv = activation::log_softmax(logits_nv, 1);
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

/// See [`crate::sparse_pool`].
pub fn sparse_pool(
    hidden_nd: Tensor<2>,
    weight_vd: Tensor<2>,
    texts: &[Range<usize>],
    scale: f32,
) -> Tensor<2> {
    let vocab = weight_vd.dims()[0];
    let weight_dv = weight_vd.transpose();
    let pooled = texts.iter().map(|text| {
        if text.is_empty() {
            return Tensor::zeros([1, vocab], (&hidden_nd.device(), DType::F32));
        }
        let rows = hidden_nd.clone().narrow(0, text.start, text.len());
        let logits = single(rows.matmul(weight_dv.clone()));
        activation::relu(logits.max_dim(0))
            .mul_scalar(scale)
            .log1p()
    });
    let pooled: Vec<Tensor<2>> = pooled.collect();
    if pooled.is_empty() {
        return Tensor::zeros([0, vocab], (&hidden_nd.device(), DType::F32));
    }
    Tensor::cat(pooled, 0)
}

/// See [`crate::rms_norm`].
pub fn rms_norm(x_nd: Tensor<2>, gamma_d: Tensor<1>, eps: f64) -> Tensor<2> {
    let dtype = x_nd.dtype();
    let x_nd = single(x_nd);
    let rms_n1 = (x_nd.clone().square().mean_dim(1) + eps).sqrt();
    like(x_nd / rms_n1, dtype) * gamma_d.unsqueeze()
}

/// `x` in 32-bit floats.
fn single<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    like(x, DType::F32)
}

/// `x` in floats of type `dtype`.
fn like<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype {
        return x;
    }
    x.cast(FloatDType::from(dtype))
}

/// See [`crate::swiglu`].
pub fn swiglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    activation::silu(gate_nf) * up_nf
}

/// See [`crate::geglu`].
pub fn geglu(gate_nf: Tensor<2>, up_nf: Tensor<2>) -> Tensor<2> {
    activation::gelu_approximate(gate_nf) * up_nf
}

/// See [`crate::relu`].
pub fn relu(x_nf: Tensor<2>) -> Tensor<2> {
    activation::relu(x_nf)
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
        let table = |table: &Tensor<2>| like(table.clone().narrow(0, 0, seq), x.dtype());
        let cos = table(&rotary.cos).unsqueeze::<4>();
        let sin = table(&rotary.sin).unsqueeze::<4>();
        let first = x.clone().narrow(3, 0, dim / 2);
        let second = x.clone().narrow(3, dim / 2, dim / 2);
        x * cos + Tensor::cat(vec![second.neg(), first], 3) * sin
    };
    let q = turn(split(q_nd, shape.heads));
    let k = repeat_heads(turn(split(k_nd, shape.kv_heads)), shape.heads);
    let v = repeat_heads(split(v_nd, shape.kv_heads), shape.heads);
    let scores = q.matmul(k.swap_dims(2, 3)) / (dim as f64).sqrt();
    let masks = masks(
        shape.lengths,
        shape.lengths,
        [seq, seq],
        shape.causal,
        &device,
    );
    attend(scores, v, masks)
}

/// See [`crate::relative_attention`].
pub fn relative_attention(
    q_nd: Tensor<2>,
    k_nd: Tensor<2>,
    v_nd: Tensor<2>,
    bias_rh: Tensor<2>,
    shape: &RelativeShape<'_>,
) -> Tensor<2> {
    let device = q_nd.device();
    let (batch, dim, heads) = (shape.lengths.len(), shape.head_dim, shape.heads);
    let seq = q_nd.dims()[0] / batch.max(1);
    let split = |x: Tensor<2>| x.reshape([batch, seq, heads, dim]).swap_dims(1, 2);
    let distances = (0..seq).flat_map(|query| (0..seq).map(move |key| seq - 1 + key - query));
    let distances: Vec<i64> = distances.map(|distance| distance as i64).collect();
    let distances = Tensor::from_data(TensorData::new(distances, [seq * seq]), &device);
    let bias = bias_rh
        .select(0, distances)
        .reshape([1, seq, seq, heads])
        .permute([0, 3, 1, 2]);
    let scores = split(q_nd).matmul(split(k_nd).swap_dims(2, 3)) + bias;
    let masks = masks(
        shape.lengths,
        shape.lengths,
        [seq, seq],
        shape.causal,
        &device,
    );
    attend(scores, split(v_nd), masks)
}

/// See [`crate::cross_attention`].
pub fn cross_attention(
    q_nd: Tensor<2>,
    k_md: Tensor<2>,
    v_md: Tensor<2>,
    shape: &CrossShape<'_>,
) -> Tensor<2> {
    let device = q_nd.device();
    let (batch, dim, heads) = (shape.keys.len(), shape.head_dim, shape.heads);
    let split = |x: Tensor<2>| {
        let seq = x.dims()[0] / batch.max(1);
        x.reshape([batch, seq, heads, dim]).swap_dims(1, 2)
    };
    let (q, k, v) = (split(q_nd), split(k_md), split(v_md));
    let sizes = [q.dims()[2], k.dims()[2]];
    let masks = masks(shape.queries, shape.keys, sizes, false, &device);
    attend(q.matmul(k.swap_dims(2, 3)), v, masks)
}

/// Softmax of scores `[batch, heads, queries, keys]` and weighted sum of values, heads side by side;
/// `masks` as from [`masks`].
fn attend(
    scores: Tensor<4>,
    v: Tensor<4>,
    (hidden, unused): (Tensor<4, Bool>, Tensor<4, Bool>),
) -> Tensor<2> {
    let [batch, heads, queries, keys] = scores.dims();
    let dim = v.dims()[3];
    let hidden = hidden.expand([batch, heads, queries, keys]);
    let scores = single(scores).mask_fill(hidden, -1.0e9);
    let probs = like(activation::softmax(scores, 3), v.dtype());
    let unused = unused.expand([batch, heads, queries, dim]);
    probs
        .matmul(v)
        .mask_fill(unused, 0.0)
        .swap_dims(1, 2)
        .reshape([batch * queries, heads * dim])
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

/// True where a query may not see a key, and where a query is padding or has no keys at all; of four dimensions
/// (batch, 1, queries, keys), some of them 1.
///
/// Only lengths are sent to the device. Padding comes last, so a causal query that is none never sees any.
fn masks(
    queries: &[usize],
    keys: &[usize],
    sizes: [usize; 2],
    causal: bool,
    device: &Device,
) -> (Tensor<4, Bool>, Tensor<4, Bool>) {
    let batch = queries.len();
    let positions = |len: usize, shape: [usize; 4]| {
        Tensor::<1, Int>::arange(0..len as i64, device).reshape(shape)
    };
    let of_text = |values: Vec<i64>| {
        Tensor::<1, Int>::from_data(TensorData::new(values, [batch]), device)
            .reshape([batch, 1, 1, 1])
    };
    let key = positions(sizes[1], [1, 1, 1, sizes[1]]);
    let query = positions(sizes[0], [1, 1, sizes[0], 1]);
    let hidden = if causal {
        key.greater(query.clone())
    } else {
        key.greater_equal(of_text(keys.iter().map(|&keys| keys as i64).collect()))
    };
    let used = queries.iter().zip(keys);
    let used = used.map(|(&queries, &keys)| if keys == 0 { 0 } else { queries as i64 });
    (hidden, query.greater_equal(of_text(used.collect())))
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

/// See [`crate::squared_norms`].
pub fn squared_norms<const D: usize>(tensors: &[&Tensor<D>]) -> Vec<f64> {
    let norms: Vec<Tensor<1>> = tensors
        .iter()
        .map(|x| single((*x).clone()).square().sum())
        .collect();
    if norms.is_empty() {
        return vec![];
    }
    let norms = Tensor::cat(norms, 0).into_data();
    norms.iter::<f32>().map(f64::from).collect()
}
