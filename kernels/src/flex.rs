//! Between Burn's tensors and slices: which device a tensor is on, its values as a slice, a tensor
//! from values.

use std::mem::MaybeUninit;

use burn::backend::DispatchDevice;
use burn::tensor::{Bytes, DType, Device, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};

/// Whether the fused path serves this tensor: 32-bit floats on Flex, with or without autodiff.
pub(crate) fn is_fused<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && is_flex(&tensor.device())
}

/// Whether the device is Flex, with or without autodiff.
pub(crate) fn is_flex(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// A copy of a tensor's values in plain memory, rows contiguous, as 32-bit floats.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .expect("the values were converted to f32")
}

/// The dimensions of a tensor as an array.
pub(crate) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}

/// The values of a float tensor made contiguous by [`FlexTensor::to_contiguous`].
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .expect("the fused path is taken only for f32, and the tensor was made contiguous")
}

/// The values of an integer tensor as positions in `0..limit`.
///
/// # Panics
/// Where a value is negative or at least `limit`.
pub(crate) fn positions(tensor: &FlexTensor, limit: usize) -> Vec<usize> {
    let tensor = tensor.to_contiguous();
    let wide: Vec<i64> = match tensor.dtype() {
        DType::I64 => tensor.as_slice::<i64>().expect("contiguous").to_vec(),
        DType::I32 => tensor
            .as_slice::<i32>()
            .expect("contiguous")
            .iter()
            .map(|&x| i64::from(x))
            .collect(),
        DType::U32 => tensor
            .as_slice::<u32>()
            .expect("contiguous")
            .iter()
            .map(|&x| i64::from(x))
            .collect(),
        other => panic!("token ids must be I32, I64 or U32, found {other:?}"),
    };
    wide.into_iter()
        .map(|id| {
            usize::try_from(id)
                .ok()
                .filter(|&id| id < limit)
                .unwrap_or_else(|| panic!("id {id} is outside 0..{limit}"))
        })
        .collect()
}

/// A contiguous tensor holding `values`.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape.into()),
        DType::F32,
    )
}

/// A vector of `len` values written by `fill`, without clearing the memory first.
///
/// Freshly mapped or recycled memory need not be cleared when every element is written anyway: the
/// outputs of one training step are hundreds of megabytes.
///
/// # Safety
/// `fill` must write every element of the slice it is given.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`, and the caller promises that `fill` wrote every element.
    unsafe { values.set_len(len) };
    values
}
