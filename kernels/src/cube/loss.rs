//! Output projection and cross-entropy in chunks of rows on a device with CubeCL kernels.
//!
//! Per chunk: logits by the device's matrix product, loss and gradient of the logits in their place by one
//! kernel, and the two products of the backward pass. Gradients are made in the forward pass, and reach
//! autodiff as those of `<hidden, d hidden> + <weight, d weight>`, of which the value is taken away again.

use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, FloatDType, Int, IntDType, Shape, Tensor};
use burn_cubecl::CubeBackend;

use super::cross_entropy::cross_entropy;
use super::{Place, Units, argument, element};

/// Logits held at a time (256 MiB of half precision), in at least [`MIN_ROWS`] rows.
const CHUNK_LOGITS: usize = 1 << 27;
const MIN_ROWS: usize = 256;

#[backend_extension(Cube, Fusion)]
pub(crate) trait CrossEntropyRows: Backend {
    /// Losses `[rows]` in 32-bit floats; and the logits, or with `gradient` what they became.
    #[fusion(meta = outputs)]
    fn cross_entropy_rows(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

fn outputs(
    logits: &TensorSpec,
    _: &TensorSpec,
    weights: &TensorSpec,
    _: &bool,
) -> (TensorSpec, TensorSpec) {
    let losses = TensorSpec::new(weights.shape.clone(), DType::F32);
    (losses, logits.clone())
}

impl CrossEntropyRows for CubeBackend {
    fn cross_entropy_rows(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let shape: [usize; 2] = logits.meta.shape().dims();
        let logits = burn_cubecl::kernel::into_contiguous(logits);
        let logits = if gradient && !logits.can_mut() {
            logits.copy()
        } else {
            logits
        };
        let place = Place::of(&logits);
        let losses = place.empty(Shape::new([shape[0]]), DType::F32);
        let arguments = [
            logits.clone().into_buffer_arg(),
            argument(targets),
            argument(weights),
            losses.clone().into_buffer_arg(),
        ];
        let units = Units::of(&place.client, 512);
        cross_entropy(
            &place.client,
            arguments,
            element(logits.dtype),
            shape,
            gradient,
            units,
        );
        (losses, logits)
    }
}

/// See [`crate::linear_cross_entropy`].
pub(crate) fn linear_cross_entropy(
    hidden_nd: Tensor<2>,
    weight_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
    weights_n: Option<Tensor<1>>,
) -> Tensor<1> {
    let weights_n = weights_n.map(plain);
    let targets_n = plain_targets(targets_n);
    if !hidden_nd.device().is_autodiff() {
        return Pass::run(hidden_nd, weight_vd, targets_n, weights_n, false).loss;
    }
    let pass = Pass::run(
        hidden_nd.clone().inner(),
        weight_vd.clone().inner(),
        targets_n,
        weights_n,
        true,
    );
    let mut loss = Tensor::from_inner(pass.loss);
    let gradients = pass.gradients.expect("the pass was asked for gradients");
    for (x, gradient) in [hidden_nd, weight_vd].into_iter().zip(gradients) {
        let product = (single(x) * Tensor::from_inner(gradient)).sum();
        // Exactly zero, with the gradient of the product.
        loss = loss + (product.clone() - product.detach());
    }
    loss
}

/// See [`crate::token_losses`].
pub(crate) fn token_losses(
    hidden_nd: Tensor<2>,
    weight_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
) -> Tensor<1> {
    let tracked = hidden_nd.device().is_autodiff();
    let (hidden_nd, weight_vd) = (plain(hidden_nd), plain(weight_vd));
    let pass = Pass::run(hidden_nd, weight_vd, plain_targets(targets_n), None, false);
    if tracked {
        return Tensor::from_inner(pass.losses);
    }
    pass.losses
}

/// `x` without autodiff.
fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.device().is_autodiff() {
        x.inner()
    } else {
        x
    }
}

/// Targets as kernels read them.
fn plain_targets(targets_n: Tensor<1, Int>) -> Tensor<1, Int> {
    let targets_n = match targets_n.device().is_autodiff() {
        true => targets_n.inner(),
        false => targets_n,
    };
    targets_n.cast(IntDType::I32)
}

/// What one pass over the rows finds, without autodiff.
struct Pass {
    /// Weighted sum of the losses.
    loss: Tensor<1>,
    /// Unweighted loss of each row.
    losses: Tensor<1>,
    /// Of hidden states and weight, in 32-bit floats.
    gradients: Option<[Tensor<2>; 2]>,
}

impl Pass {
    fn run(
        hidden_nd: Tensor<2>,
        weight_vd: Tensor<2>,
        targets_n: Tensor<1, Int>,
        weights_n: Option<Tensor<1>>,
        gradient: bool,
    ) -> Self {
        let (device, [rows, _], [vocab, _]) =
            (hidden_nd.device(), hidden_nd.dims(), weight_vd.dims());
        let weights_n = match weights_n {
            Some(weights) => weights.cast(FloatDType::F32),
            None => Tensor::ones([rows], (&device, DType::F32)),
        };
        let weight_dv = weight_vd.clone().transpose();
        let chunk = (CHUNK_LOGITS / vocab.max(1)).max(MIN_ROWS);
        let mut loss = Tensor::zeros([1], (&device, DType::F32));
        let (mut losses, mut of_hidden, mut of_weight) = (vec![], vec![], None);
        for start in (0..rows).step_by(chunk) {
            let len = chunk.min(rows - start);
            let hidden = hidden_nd.clone().narrow(0, start, len);
            let weights = weights_n.clone().narrow(0, start, len);
            let targets = targets_n.clone().narrow(0, start, len);
            let (own, logits) = Dispatch::cross_entropy_rows(
                hidden.clone().matmul(weight_dv.clone()).into_dispatch(),
                targets.into_dispatch(),
                weights.clone().into_dispatch(),
                gradient,
            );
            let own = Tensor::<1>::from_dispatch(own);
            loss = loss + (own.clone() * weights).sum();
            losses.push(own);
            if gradient {
                let logits = Tensor::<2>::from_dispatch(logits);
                of_hidden.push(single(logits.clone().matmul(weight_vd.clone())));
                let product = single(logits.transpose().matmul(hidden));
                of_weight = Some(match of_weight {
                    Some(sum) => sum + product,
                    None => product,
                });
            }
        }
        let losses = match losses.len() {
            0 => Tensor::zeros([0], (&device, DType::F32)),
            1 => losses.remove(0),
            _ => Tensor::cat(losses, 0),
        };
        let gradients = gradient.then(|| {
            let of_hidden = match of_hidden.len() {
                0 => hidden_nd.zeros_like().cast(FloatDType::F32),
                1 => of_hidden.remove(0),
                _ => Tensor::cat(of_hidden, 0),
            };
            let of_weight =
                of_weight.unwrap_or_else(|| weight_vd.zeros_like().cast(FloatDType::F32));
            [of_hidden, of_weight]
        });
        Self {
            loss,
            losses,
            gradients,
        }
    }
}

/// `x` in 32-bit floats.
fn single(x: Tensor<2>) -> Tensor<2> {
    if x.dtype() == DType::F32 {
        return x;
    }
    x.cast(FloatDType::F32)
}
