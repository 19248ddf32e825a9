//! Rows of a table by id, with a gradient that adds rows in the order of the ids.
//!
//! The backward pass groups positions by id, so each row of the gradient is written by one thread
//! and its terms are added in increasing position: the sum has the same bits at any number of
//! threads.

use std::mem::MaybeUninit;
use std::sync::Arc;

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

use crate::flex::{dims, filled, is_fused, positions, tensor, values};

/// Rows `ids` of the table `[v, d]`, as `[n, d]`.
///
/// # Panics
/// On the fused path, where an id is outside `0..v`.
pub fn embedding(weight_vd: Tensor<2>, ids_n: Tensor<1, Int>) -> Tensor<2> {
    if !is_fused(&weight_vd) {
        return crate::reference::embedding(weight_vd, ids_n);
    }
    Tensor::from_dispatch(Dispatch::embedding_rows(
        weight_vd.into_dispatch(),
        ids_n.into_dispatch(),
    ))
}

#[backend_extension(Autodiff, Flex)]
pub(crate) trait EmbeddingRows: Backend {
    fn embedding_rows(weight: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;
}

impl EmbeddingRows for Flex {
    fn embedding_rows(weight: FlexTensor, ids: FlexTensor) -> FlexTensor {
        let ids = positions(&ids, dims::<2>(&weight)[0]);
        rows(&weight, &ids)
    }
}

impl<C: CheckpointStrategy> EmbeddingRows for Autodiff<Flex, C> {
    fn embedding_rows(weight: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let size = dims::<2>(weight.primitive())[0];
        let ids = positions(&ids, size);
        let output = rows(weight.primitive(), &ids);
        match EmbeddingBackward
            .prepare::<C>([weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((ids.into(), size), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

#[derive(Debug)]
struct EmbeddingBackward;

impl Backward<Flex, 1> for EmbeddingBackward {
    /// The ids and the number of rows of the table.
    type State = (Arc<[usize]>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [weight_node] = ops.parents;
        let upstream = grads.consume::<Flex>(&ops.node);
        if let Some(node) = weight_node {
            let (ids, size) = ops.state;
            grads.register::<Flex>(node.id, scatter(&upstream, &ids, size));
        }
    }
}

fn rows(weight: &FlexTensor, ids: &[usize]) -> FlexTensor {
    let [_, width] = dims(weight);
    let weight = weight.to_contiguous();
    let weight = values(&weight);
    let fill = |out: &mut [MaybeUninit<f32>]| {
        for (out, &id) in out.chunks_exact_mut(width).zip(ids) {
            out.write_copy_of_slice(&weight[id * width..][..width]);
        }
    };
    // SAFETY: one row is written per id, and the output holds as many rows as there are ids.
    tensor(
        unsafe { filled(ids.len() * width, fill) },
        [ids.len(), width],
    )
}

/// The table's gradient, `[size, d]`: row `i` is the sum of the upstream rows whose id is `i`.
fn scatter(upstream: &FlexTensor, ids: &[usize], size: usize) -> FlexTensor {
    let [_, width] = dims(upstream);
    let upstream = upstream.to_contiguous();
    let upstream = values(&upstream);
    // Rows of the table per thread at a time; a fixed number keeps the order of additions fixed.
    const TABLE_ROWS: usize = 1024;
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_unstable_by_key(|&position| (ids[position], position));
    let mut gradient = vec![0.0_f32; size * width];
    gradient
        .par_chunks_mut(TABLE_ROWS * width)
        .enumerate()
        .for_each(|(chunk, gradient)| {
            let first = chunk * TABLE_ROWS;
            let begin = order.partition_point(|&position| ids[position] < first);
            let end = order.partition_point(|&position| ids[position] < first + TABLE_ROWS);
            for &position in &order[begin..end] {
                let row = &mut gradient[(ids[position] - first) * width..][..width];
                for (total, term) in row.iter_mut().zip(&upstream[position * width..][..width]) {
                    *total += term;
                }
            }
        });
    tensor(gradient, [size, width])
}
