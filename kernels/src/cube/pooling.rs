//! The sparse head on a device with CubeCL kernels: logits in chunks of terms, pooled by one kernel, and a backward
//! pass that visits active terms alone.

use std::sync::Arc;

use burn::backend::autodiff::{
    NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Cube, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, FloatDType, Int, Shape, Tensor};
use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use super::pool::{PoolSize, hidden_gradient, pool, weight_gradient};
use super::{Place, argument, element};

/// Logits held at a time (256 MiB of half precision), in at least [`MIN_TERMS`] terms.
const CHUNK_LOGITS: usize = 1 << 27;
const MIN_TERMS: usize = 256;

/// What is pooled, and how.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    /// First row and end of each text.
    pub(crate) bounds: Arc<Vec<u32>>,
    /// What logits are multiplied by.
    pub(crate) scale: f32,
}

impl Texts {
    fn len(&self) -> usize {
        self.bounds.len() / 2
    }

    fn upload(&self, client: &Client) -> BufferArg {
        let bounds = if self.bounds.is_empty() {
            &[0][..]
        } else {
            &self.bounds[..]
        };
        let handle = client.create_from_slice(u32::as_bytes(bounds));
        // SAFETY: the buffer holds as many values.
        unsafe { BufferArg::from_raw_parts(handle, bounds.len()) }
    }
}

#[backend_extension(Cube, Fusion)]
pub(crate) trait PoolKernels: Backend {
    /// Values and places of the terms of a chunk of logits `[rows, terms]`, both `[texts, terms]`.
    #[fusion(meta = pooled)]
    fn pool_chunk(logits: FloatTensor<Self>, texts: Texts) -> (FloatTensor<Self>, IntTensor<Self>);

    /// Gradient of the weight, `[terms, width]`.
    #[fusion(dtype = DType::F32, shape = Shape::new([factors[1], hidden[1]]))]
    fn pool_weight_gradient(
        factors: FloatTensor<Self>,
        places: IntTensor<Self>,
        hidden: FloatTensor<Self>,
        texts: Texts,
    ) -> FloatTensor<Self>;

    /// Gradient of `rows` hidden states, `[rows, width]`.
    #[fusion(dtype = DType::F32, shape = Shape::new([*rows, weight[1]]))]
    fn pool_hidden_gradient(
        factors: FloatTensor<Self>,
        places: IntTensor<Self>,
        weight: FloatTensor<Self>,
        texts: Texts,
        rows: usize,
    ) -> FloatTensor<Self>;
}

fn pooled(logits: &TensorSpec, texts: &Texts) -> (TensorSpec, TensorSpec) {
    let shape = Shape::new([texts.len(), logits.shape[1]]);
    let values = TensorSpec::new(shape.clone(), DType::F32);
    (values, TensorSpec::new(shape, DType::I32))
}

impl PoolKernels for CubeBackend {
    fn pool_chunk(logits: FloatTensor<Self>, texts: Texts) -> (FloatTensor<Self>, IntTensor<Self>) {
        let place = Place::of(&logits);
        let size = PoolSize {
            texts: texts.len(),
            terms: logits.meta.shape()[1],
            width: 0,
        };
        let shape = Shape::new([size.texts, size.terms]);
        let values = place.empty(shape.clone(), DType::F32);
        let places = place.empty(shape, DType::I32);
        let dtype = element(logits.dtype);
        let arguments = [
            argument(logits),
            texts.upload(&place.client),
            values.clone().into_buffer_arg(),
            places.clone().into_buffer_arg(),
        ];
        pool(&place.client, arguments, dtype, size, texts.scale);
        (values, places)
    }

    fn pool_weight_gradient(
        factors: FloatTensor<Self>,
        places: IntTensor<Self>,
        hidden: FloatTensor<Self>,
        texts: Texts,
    ) -> FloatTensor<Self> {
        let place = Place::of(&factors);
        let size = PoolSize {
            texts: texts.len(),
            terms: factors.meta.shape()[1],
            width: hidden.meta.shape()[1],
        };
        let gradient = place.empty(Shape::new([size.terms, size.width]), DType::F32);
        let dtype = element(hidden.dtype);
        let arguments = [
            argument(factors),
            argument(places),
            texts.upload(&place.client),
            argument(hidden),
            gradient.clone().into_buffer_arg(),
        ];
        weight_gradient(&place.client, arguments, dtype, size);
        gradient
    }

    fn pool_hidden_gradient(
        factors: FloatTensor<Self>,
        places: IntTensor<Self>,
        weight: FloatTensor<Self>,
        texts: Texts,
        rows: usize,
    ) -> FloatTensor<Self> {
        let place = Place::of(&factors);
        let size = PoolSize {
            texts: texts.len(),
            terms: factors.meta.shape()[1],
            width: weight.meta.shape()[1],
        };
        let shape = Shape::new([rows, size.width]);
        let cleared = burn_cubecl::ops::numeric::zeros_client(
            place.client.clone(),
            factors.device.clone(),
            shape,
            DType::F32,
        );
        let dtype = element(weight.dtype);
        let arguments = [
            argument(factors),
            argument(places),
            texts.upload(&place.client),
            argument(weight),
            cleared.clone().into_buffer_arg(),
        ];
        hidden_gradient(&place.client, arguments, dtype, size);
        cleared
    }
}

/// See [`crate::sparse_pool`].
pub(crate) fn sparse_pool(hidden_nd: Tensor<2>, weight_vd: Tensor<2>, texts: Texts) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::pooled_on_device(
        hidden_nd.into_dispatch(),
        weight_vd.into_dispatch(),
        texts,
    ))
}

#[backend_extension(Autodiff, Cube)]
pub(crate) trait PooledOnDevice: Backend {
    fn pooled_on_device(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        texts: Texts,
    ) -> FloatTensor<Self>;
}

type Primitive = FloatTensor<Cube>;

impl PooledOnDevice for Cube {
    fn pooled_on_device(hidden: Primitive, weight: Primitive, texts: Texts) -> Primitive {
        let (values, _) = forward(tensor(hidden), tensor(weight), &texts);
        primitive(values)
    }
}

impl<C: CheckpointStrategy> PooledOnDevice for Autodiff<Cube, C> {
    fn pooled_on_device(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        texts: Texts,
    ) -> FloatTensor<Self> {
        match PoolBackward
            .prepare::<C>([hidden.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let nodes = [
                    weight.is_tracked().then(|| prep.checkpoint(&hidden)),
                    hidden.is_tracked().then(|| prep.checkpoint(&weight)),
                ];
                let rows = hidden.primitive().shape()[0];
                let (values, places) = forward(
                    tensor(hidden.into_primitive()),
                    tensor(weight.into_primitive()),
                    &texts,
                );
                let state = Forward {
                    texts,
                    rows,
                    values: values.clone(),
                    places,
                    nodes,
                };
                prep.finish(state, primitive(values))
            }
            OpsKind::UnTracked(prep) => prep.finish(Cube::pooled_on_device(
                hidden.into_primitive(),
                weight.into_primitive(),
                texts,
            )),
        }
    }
}

#[derive(Debug)]
struct PoolBackward;

/// What the backward pass needs of the forward pass.
#[derive(Clone, Debug)]
struct Forward {
    texts: Texts,
    /// Rows of the hidden states.
    rows: usize,
    values: Tensor<2>,
    places: Tensor<2, Int>,
    /// Hidden states, where the weight needs a gradient; and the weight, where they do.
    nodes: [Option<NodeId>; 2],
}

impl Backward<Cube, 2> for PoolBackward {
    type State = Forward;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [hidden_node, weight_node] = ops.parents;
        let state = ops.state;
        let upstream = tensor(grads.consume::<Cube>(&ops.node));
        // The derivative of ln(1 + s x) is s exp(-value), where the value is positive.
        let inactive = state.values.clone().lower_equal_elem(0.0);
        let factors =
            (upstream * state.values.neg().exp() * state.texts.scale).mask_fill(inactive, 0.0);
        if let (Some(node), Some(weight)) = (hidden_node, state.nodes[1]) {
            let weight = tensor(checkpointer.retrieve_node_output::<Primitive>(weight));
            let dtype = weight.dtype();
            let gradient = Tensor::<2>::from_dispatch(Dispatch::pool_hidden_gradient(
                factors.clone().into_dispatch(),
                state.places.clone().into_dispatch(),
                weight.into_dispatch(),
                state.texts.clone(),
                state.rows,
            ));
            grads.register::<Cube>(node.id, primitive(like(gradient, dtype)));
        }
        if let (Some(node), Some(hidden)) = (weight_node, state.nodes[0]) {
            let hidden = tensor(checkpointer.retrieve_node_output::<Primitive>(hidden));
            let dtype = hidden.dtype();
            let gradient = Tensor::<2>::from_dispatch(Dispatch::pool_weight_gradient(
                factors.into_dispatch(),
                state.places.into_dispatch(),
                hidden.into_dispatch(),
                state.texts,
            ));
            grads.register::<Cube>(node.id, primitive(like(gradient, dtype)));
        }
    }
}

/// Values and places, `[texts, terms]`.
fn forward(
    hidden_nd: Tensor<2>,
    weight_vd: Tensor<2>,
    texts: &Texts,
) -> (Tensor<2>, Tensor<2, Int>) {
    let ([rows, _], [vocab, _]) = (hidden_nd.dims(), weight_vd.dims());
    let chunk = (CHUNK_LOGITS / rows.max(1)).max(MIN_TERMS);
    let (mut values, mut places) = (vec![], vec![]);
    for start in (0..vocab.max(1)).step_by(chunk) {
        let terms = weight_vd.clone().narrow(0, start, chunk.min(vocab - start));
        let logits = hidden_nd.clone().matmul(terms.transpose());
        let (value, place) = Dispatch::pool_chunk(logits.into_dispatch(), texts.clone());
        values.push(Tensor::from_dispatch(value));
        places.push(Tensor::from_dispatch(place));
    }
    if values.len() == 1 {
        return (values.remove(0), places.remove(0));
    }
    (Tensor::cat(values, 1), Tensor::cat(places, 1))
}

fn like(x: Tensor<2>, dtype: DType) -> Tensor<2> {
    if x.dtype() == dtype {
        return x;
    }
    x.cast(FloatDType::from(dtype))
}

fn tensor(primitive: Primitive) -> Tensor<2> {
    Tensor::from_primitive::<Cube>(primitive)
}

fn primitive(tensor: Tensor<2>) -> Primitive {
    tensor
        .try_into_primitive::<Cube>()
        .expect("the tensor was made on this backend, without autodiff")
}
