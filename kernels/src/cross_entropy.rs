//! Output projection and cross-entropy in chunks of rows: the `[n, v]` logits are never held whole.
//!
//! For each chunk of rows: logits, the row-wise softmax in place, the loss, and where gradients are
//! wanted both products with `softmax - onehot` while it is in cache. The gradients for a unit
//! upstream gradient are kept for the backward pass, which scales them. Rows of weight zero are
//! left out of every product: a batch in which half of the positions are prompt costs half.

use std::ops::Range;

use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{dims, host, is_fused, positions, tensor, values};
use crate::product::{Matrix, Threads, Update, multiply, product};
use crate::simd::{BLOCK, exp_row, scale, vectorised};

/// Logits held at a time (16 MiB), as far as that leaves a chunk between [`MIN_ROWS`] and
/// [`MAX_ROWS`] rows.
const CHUNK_LOGITS: usize = 1 << 22;
const MIN_ROWS: usize = 32;
const MAX_ROWS: usize = 1024;

/// Sum over rows of `weight * -log softmax(hidden W^T)[target]`, as a tensor of one element.
///
/// `hidden` is `[n, d]`, the weight `[v, d]`, targets `[n]` ids below `v`, row weights `[n]` (all
/// one where absent). The sum is not divided by anything: the caller divides by the number of
/// tokens it counts. Rows of weight zero are skipped. Gradients flow to `hidden` and the weight,
/// not to the row weights. The row losses are added in 64-bit floats.
///
/// Memory: one chunk of logits (16 MiB for vocabularies from 4,096 to 131,072) and, with autodiff,
/// `[n, d]` and `[v, d]` gradients from forward to backward.
///
/// # Panics
/// Where shapes disagree or, on the fused path, where a target is outside `0..v`.
pub fn linear_cross_entropy(
    hidden_nd: Tensor<2>,
    weight_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
    weights_n: Option<Tensor<1>>,
) -> Tensor<1> {
    check(&hidden_nd, &weight_vd, &targets_n);
    if let Some(weights_n) = &weights_n {
        assert_eq!(
            weights_n.dims(),
            targets_n.dims(),
            "linear_cross_entropy: one weight per target"
        );
    }
    #[cfg(feature = "cube")]
    if crate::cube::is_cube(&hidden_nd.device()) {
        return crate::cube::loss::linear_cross_entropy(hidden_nd, weight_vd, targets_n, weights_n);
    }
    if !(is_fused(&hidden_nd) && is_fused(&weight_vd)) {
        return crate::reference::linear_cross_entropy(hidden_nd, weight_vd, targets_n, weights_n);
    }
    Tensor::from_dispatch(Dispatch::projected_cross_entropy(
        hidden_nd.into_dispatch(),
        weight_vd.into_dispatch(),
        targets_n.into_dispatch(),
        weights_n.map(host),
    ))
}

/// `-log softmax(hidden W^T)[target]` of each row, `[n]`, for evaluation: no gradient flows through
/// it.
///
/// Shapes, memory and panics as for [`linear_cross_entropy`].
pub fn token_losses(
    hidden_nd: Tensor<2>,
    weight_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
) -> Tensor<1> {
    check(&hidden_nd, &weight_vd, &targets_n);
    #[cfg(feature = "cube")]
    if crate::cube::is_cube(&hidden_nd.device()) {
        return crate::cube::loss::token_losses(hidden_nd, weight_vd, targets_n);
    }
    if !(is_fused(&hidden_nd) && is_fused(&weight_vd)) {
        return crate::reference::token_losses(hidden_nd, weight_vd, targets_n).detach();
    }
    Tensor::from_dispatch(Dispatch::projected_token_losses(
        hidden_nd.into_dispatch(),
        weight_vd.into_dispatch(),
        targets_n.into_dispatch(),
    ))
}

fn check(hidden_nd: &Tensor<2>, weight_vd: &Tensor<2>, targets_n: &Tensor<1, Int>) {
    assert_eq!(
        hidden_nd.dims()[1],
        weight_vd.dims()[1],
        "cross-entropy: width of hidden and of the weight"
    );
    assert_eq!(
        hidden_nd.dims()[0],
        targets_n.dims()[0],
        "cross-entropy: one target per row"
    );
}

#[backend_extension(Autodiff, Flex)]
pub(crate) trait ProjectedCrossEntropy: Backend {
    fn projected_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        row_weights: Option<Vec<f32>>,
    ) -> FloatTensor<Self>;
    fn projected_token_losses(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl ProjectedCrossEntropy for Flex {
    fn projected_cross_entropy(
        hidden: FlexTensor,
        weight: FlexTensor,
        targets: FlexTensor,
        row_weights: Option<Vec<f32>>,
    ) -> FlexTensor {
        sum(
            &hidden,
            &weight,
            &targets,
            row_weights.as_deref(),
            Wanted::default(),
        )
        .0
    }

    fn projected_token_losses(
        hidden: FlexTensor,
        weight: FlexTensor,
        targets: FlexTensor,
    ) -> FlexTensor {
        let rows = dims::<2>(&hidden)[0];
        let (hidden, weight) = (hidden.to_contiguous(), weight.to_contiguous());
        let head = Head::new(&hidden, &weight, &targets, None);
        tensor(head.run(Wanted::default()).losses, [rows])
    }
}

impl<C: CheckpointStrategy> ProjectedCrossEntropy for Autodiff<Flex, C> {
    fn projected_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: FlexTensor,
        row_weights: Option<Vec<f32>>,
    ) -> FloatTensor<Self> {
        let wanted = Wanted {
            hidden: hidden.is_tracked(),
            weight: weight.is_tracked(),
        };
        let (loss, gradients) = sum(
            hidden.primitive(),
            weight.primitive(),
            &targets,
            row_weights.as_deref(),
            wanted,
        );
        match CrossEntropyBackward
            .prepare::<C>([hidden.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(gradients, loss),
            OpsKind::UnTracked(prep) => prep.finish(loss),
        }
    }

    fn projected_token_losses(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: FlexTensor,
    ) -> FloatTensor<Self> {
        let losses =
            Flex::projected_token_losses(hidden.into_primitive(), weight.into_primitive(), targets);
        FloatTensor::<Self>::new(losses)
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl Backward<Flex, 2> for CrossEntropyBackward {
    /// Gradients of hidden and weight for an upstream gradient of one, where they are wanted.
    type State = [Option<FlexTensor>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = values(&grads.consume::<Flex>(&ops.node).to_contiguous())[0];
        for (node, gradient) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(node), Some(mut gradient)) = (node, gradient) {
                if upstream != 1.0 {
                    gradient
                        .storage_mut::<f32>()
                        .par_chunks_mut(BLOCK)
                        .for_each(|block| scale_block(block, upstream));
                }
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

vectorised! {
    fn scale_block(block: &mut [f32], factor: f32) {
        scale(block, factor);
    }
}

/// Which gradients the forward pass computes.
#[derive(Clone, Copy, Default)]
struct Wanted {
    hidden: bool,
    weight: bool,
}

/// Inputs of the output layer, as slices.
struct Head<'a> {
    hidden: &'a [f32],
    weight: &'a [f32],
    width: usize,
    vocab: usize,
    targets: Vec<usize>,
    row_weights: Option<&'a [f32]>,
}

/// Results of one pass; gradients are empty where they were not wanted.
struct Pass {
    /// Unweighted loss of each row; zero for rows left out.
    losses: Vec<f32>,
    dhidden: Vec<f32>,
    dweight: Vec<f32>,
}

/// The weighted sum of the row losses, and the wanted gradients for an upstream gradient of one.
fn sum(
    hidden: &FlexTensor,
    weight: &FlexTensor,
    targets: &FlexTensor,
    row_weights: Option<&[f32]>,
    wanted: Wanted,
) -> (FlexTensor, [Option<FlexTensor>; 2]) {
    let (hidden_shape, weight_shape) = (dims::<2>(hidden), dims::<2>(weight));
    let (hidden, weight) = (hidden.to_contiguous(), weight.to_contiguous());
    let head = Head::new(&hidden, &weight, targets, row_weights);
    let pass = head.run(wanted);
    let total: f64 = pass
        .losses
        .iter()
        .enumerate()
        .map(|(row, &loss)| f64::from(head.row_weight(row)) * f64::from(loss))
        .sum();
    let gradients = [
        wanted.hidden.then(|| tensor(pass.dhidden, hidden_shape)),
        wanted.weight.then(|| tensor(pass.dweight, weight_shape)),
    ];
    (tensor(vec![total as f32], [1]), gradients)
}

impl<'a> Head<'a> {
    fn new(
        hidden: &'a FlexTensor,
        weight: &'a FlexTensor,
        targets: &FlexTensor,
        row_weights: Option<&'a [f32]>,
    ) -> Self {
        let [vocab, width] = dims(weight);
        Self {
            hidden: values(hidden),
            weight: values(weight),
            width,
            vocab,
            targets: positions(targets, vocab),
            row_weights,
        }
    }

    fn row_weight(&self, row: usize) -> f32 {
        self.row_weights.map_or(1.0, |weights| weights[row])
    }

    fn run(&self, wanted: Wanted) -> Pass {
        let (width, vocab) = (self.width, self.vocab);
        let active: Vec<usize> = (0..self.targets.len())
            .filter(|&row| self.row_weight(row) != 0.0)
            .collect();
        let chunk_rows = (CHUNK_LOGITS / vocab.max(1)).clamp(MIN_ROWS, MAX_ROWS);
        let weight = Matrix::new(self.weight, vocab, width, width);
        let mut pass = Pass {
            losses: vec![0.0; self.targets.len()],
            dhidden: vec![0.0; if wanted.hidden { self.hidden.len() } else { 0 }],
            dweight: Vec::new(),
        };
        let mut logits = Vec::new();
        for rows in active.chunks(chunk_rows) {
            let gathered = self.gather(rows);
            let hidden = Matrix::new(
                gathered
                    .as_deref()
                    .unwrap_or_else(|| &self.hidden[self.span(rows)]),
                rows.len(),
                width,
                width,
            );
            if logits.is_empty() {
                logits = product(hidden, weight.transposed());
            } else {
                multiply(
                    &mut logits,
                    vocab,
                    Update::Replace,
                    1.0,
                    hidden,
                    weight.transposed(),
                    Threads::All,
                );
            }
            let logits = &mut logits[..rows.len() * vocab];
            let losses: Vec<f32> = logits
                .par_chunks_mut(vocab)
                .zip(rows)
                .map(|(logits, &row)| row_loss(logits, self.targets[row], self.row_weight(row)))
                .collect();
            for (&row, loss) in rows.iter().zip(losses) {
                pass.losses[row] = loss;
            }
            let dlogits = Matrix::new(logits, rows.len(), vocab, vocab);
            if wanted.hidden {
                match gathered {
                    None => multiply(
                        &mut pass.dhidden[self.span(rows)],
                        width,
                        Update::Replace,
                        1.0,
                        dlogits,
                        weight,
                        Threads::All,
                    ),
                    Some(_) => {
                        let dhidden = product(dlogits, weight);
                        for (&row, from) in rows.iter().zip(dhidden.chunks_exact(width)) {
                            pass.dhidden[row * width..][..width].copy_from_slice(from);
                        }
                    }
                }
            }
            if wanted.weight {
                if pass.dweight.is_empty() {
                    pass.dweight = product(dlogits.transposed(), hidden);
                } else {
                    multiply(
                        &mut pass.dweight,
                        width,
                        Update::Add,
                        1.0,
                        dlogits.transposed(),
                        hidden,
                        Threads::All,
                    );
                }
            }
        }
        if wanted.weight && pass.dweight.is_empty() {
            pass.dweight = vec![0.0; vocab * width];
        }
        pass
    }

    /// The rows' hidden states side by side, or nothing where they already stand so.
    fn gather(&self, rows: &[usize]) -> Option<Vec<f32>> {
        (rows[rows.len() - 1] - rows[0] + 1 != rows.len()).then(|| {
            rows.iter()
                .flat_map(|row| &self.hidden[row * self.width..][..self.width])
                .copied()
                .collect()
        })
    }

    /// Where consecutive rows stand in `hidden`.
    fn span(&self, rows: &[usize]) -> Range<usize> {
        rows[0] * self.width..(rows[0] + rows.len()) * self.width
    }
}

vectorised! {
    /// The loss of one row, whose logits become `weight * (softmax - onehot(target))`.
    fn row_loss(logits: &mut [f32], target: usize, weight: f32) -> f32 {
        let logit = logits[target];
        let (max, sum) = exp_row(logits);
        scale(logits, weight / sum);
        logits[target] -= weight;
        (max - logit) + sum.ln()
    }
}
