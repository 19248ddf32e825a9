//! `x W^T` for a weight held as `[out, in]`, the layout of checkpoint files.
//!
//! Forward is one product; backward is two, `dx = g W` and `dW = g^T x`. Nothing is transposed in
//! memory: the product reads its operands with strides.

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
use crate::product::{Matrix, against_rows, product};

/// `x W^T`, `[n, out]`, for `x` of `[n, in]` and a weight of `[out, in]` (no bias).
pub fn linear(x_ni: Tensor<2>, weight_oi: Tensor<2>) -> Tensor<2> {
    assert_eq!(
        x_ni.dims()[1],
        weight_oi.dims()[1],
        "linear: input width of x and of the weight"
    );
    if !(is_fused(&x_ni) && is_fused(&weight_oi)) {
        return crate::reference::linear(x_ni, weight_oi);
    }
    Tensor::from_dispatch(Dispatch::linear_oi(
        x_ni.into_dispatch(),
        weight_oi.into_dispatch(),
    ))
}

#[backend_extension(Autodiff, Flex)]
pub(crate) trait Linear: Backend {
    fn linear_oi(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Linear for Flex {
    fn linear_oi(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let [rows, inner] = dims(&x);
        let [outer, _] = dims(&weight);
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        tensor(
            against_rows(values(&x), values(&weight), inner),
            [rows, outer],
        )
    }
}

impl<C: CheckpointStrategy> Linear for Autodiff<Flex, C> {
    fn linear_oi(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        match LinearBackward
            .prepare::<C>([x.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let needed = (
                    weight.is_tracked().then(|| prep.checkpoint(&x)),
                    x.is_tracked().then(|| prep.checkpoint(&weight)),
                );
                prep.finish(
                    needed,
                    Flex::linear_oi(x.into_primitive(), weight.into_primitive()),
                )
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::linear_oi(x.into_primitive(), weight.into_primitive()))
            }
        }
    }
}

#[derive(Debug)]
struct LinearBackward;

impl Backward<Flex, 2> for LinearBackward {
    /// The node of `x` where the weight needs a gradient, and of the weight where `x` does.
    type State = (Option<NodeId>, Option<NodeId>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [x_node, weight_node] = ops.parents;
        let upstream = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [rows, outer] = dims(&upstream);
        let g = Matrix::new(values(&upstream), rows, outer, outer);
        if let (Some(node), Some(weight)) = (x_node, ops.state.1) {
            let weight = checkpointer
                .retrieve_node_output::<FlexTensor>(weight)
                .to_contiguous();
            let [_, inner] = dims(&weight);
            let dx = product(g, Matrix::new(values(&weight), outer, inner, inner));
            grads.register::<Flex>(node.id, tensor(dx, [rows, inner]));
        }
        if let (Some(node), Some(x)) = (weight_node, ops.state.0) {
            let x = checkpointer
                .retrieve_node_output::<FlexTensor>(x)
                .to_contiguous();
            let [_, inner] = dims(&x);
            let dweight = product(g.transposed(), Matrix::new(values(&x), rows, inner, inner));
            grads.register::<Flex>(node.id, tensor(dweight, [outer, inner]));
        }
    }
}
