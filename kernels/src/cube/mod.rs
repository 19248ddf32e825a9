//! Kernels in CubeCL: one source for CUDA and for CubeCL's CPU runtime.
//!
//! A kernel works in cubes (thread blocks) of [`Units`] units (threads) each. Every sum is taken in an order that
//! depends on the sizes and on the number of units alone, so a device gives the same bits every time.

use burn::backend::DispatchDevice;
use burn::backend::cubecl::dtype_to_elem_type;
use burn::tensor::{DType, Device, Shape};
use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::server::Handle;

pub(crate) mod attend;
pub(crate) mod cross_entropy;
pub(crate) mod loss;
pub(crate) mod pool;
pub(crate) mod pooling;
pub(crate) mod select;
mod units;

pub(crate) use units::*;

/// Whether the device runs these kernels, with or without autodiff.
pub(crate) fn is_cube(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Cube(_) => true,
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Cube(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// A tensor's values as an argument, rows one after the other.
pub(crate) fn argument(tensor: CubeTensor) -> BufferArg {
    into_contiguous(tensor).into_buffer_arg()
}

/// The element type of a tensor as kernels know it.
pub(crate) fn element(dtype: DType) -> ElemType {
    dtype_to_elem_type(dtype)
}

/// Where a tensor is made.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) client: Client,
    device: CubeDevice,
}

impl Place {
    /// Where `tensor` is.
    pub(crate) fn of(tensor: &CubeTensor) -> Self {
        Self {
            client: tensor.client.clone(),
            device: tensor.device.clone(),
        }
    }

    /// A tensor of what a kernel wrote into `handle`.
    pub(crate) fn tensor(
        &self,
        handle: Handle,
        shape: impl Into<Shape>,
        dtype: DType,
    ) -> CubeTensor {
        CubeTensor::new_contiguous(
            self.client.clone(),
            self.device.clone(),
            shape.into(),
            handle,
            dtype,
        )
    }

    /// A tensor whose values a kernel is about to write.
    pub(crate) fn empty(&self, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
        let shape = shape.into();
        let handle = self
            .client
            .empty(shape.num_elements().max(1) * dtype.size());
        self.tensor(handle, shape, dtype)
    }
}
