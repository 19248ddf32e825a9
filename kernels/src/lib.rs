//! Fused tensor operations of genret, each with its plain-tensor reference.
//!
//! A training step of a small language model on a CPU spends its time in matrix products and, next
//! to them, in reading and writing activations. The operations here join what a step does between
//! two products into one pass over the data, with a hand-written backward pass:
//!
//! | operation | what it joins |
//! |---|---|
//! | [`linear`] | product with a weight `[out, in]`, and both products of its backward pass |
//! | [`linear_cross_entropy`] | output projection, softmax, loss and both gradients, in row chunks |
//! | [`sparse_pool`] | output projection, largest logit of each term over a text, `ln(1 + relu(.))` |
//! | [`rms_norm`] | mean of squares, scaling, gain |
//! | [`swiglu`], [`geglu`], [`relu`] | SiLU or GELU of the gate times the other branch; the plain unit |
//! | [`attention`] | rotary positions, grouped-query scores, softmax, weighted sum |
//! | [`relative_attention`], [`cross_attention`] | scores, bias by distance or none, softmax, weighted sum |
//! | [`embedding`] | row lookup with a scatter that adds rows in order |
//! | [`constrained_best`] | softmax normaliser, allowed tokens, the best of each query |
//! | [`decode_attention`], [`decode_cross_attention`] | attention of one new token per beam over a [`BeamCache`] |
//! | [`adamw`], [`squared_norms`] | one pass over a parameter, its gradient and its two moments |
//!
//! # Three paths, one meaning
//! Tensors of 32-bit floats on Burn's Flex device (the CPU) take the fused path, with or without
//! autodiff. On devices of CubeCL (CUDA, and its CPU runtime; feature `cube`) [`constrained_best`],
//! [`linear_cross_entropy`], [`sparse_pool`] and [`decode_attention`] run kernels of this crate, in any
//! float type; what is left to element-wise operations is fused by Burn there. Everything else
//! takes [`mod@reference`], the same formula written with plain tensor operations. Tests compare values and
//! gradients of the three.
//!
//! # Determinism
//! A result depends on the inputs and on the kind of processor (vector width, fused multiply-add),
//! never on the number of threads or on their timing: work is cut at fixed sizes, each part is
//! written by one thread, and partial sums are added in the order of the parts.
//!
//! # Shapes
//! Suffixes of tensor names: `n` rows (`batch * seq` of flattened activations), `d` model width,
//! `f` width of the feed-forward layer, `v` vocabulary, `i` input width, `o` output width.
//!
//! # Panics
//! Every function panics when shapes disagree with each other: shapes are decided by the program,
//! never by a file, so a mismatch is a defect of the caller. Second derivatives are not supported
//! on the fused path.
#![deny(missing_docs, rustdoc::broken_intra_doc_links)]

pub mod reference;

use burn::tensor::Device;

mod attention;
mod constrained;
mod cross_entropy;
#[cfg(feature = "cube")]
mod cube;
mod decode;
mod embedding;
mod flex;
mod gate;
mod linear;
mod log_sum_exp;
mod optimiser;
mod product;
mod rms_norm;
mod rotary;
mod simd;
mod sparse_pool;

pub use attention::{
    AttentionShape, CrossShape, RelativeShape, attention, cross_attention, relative_attention,
};
pub use constrained::{AllowedRows, Best, FORBIDDEN, constrained_best};
pub use cross_entropy::{linear_cross_entropy, token_losses};
pub use decode::{BeamCache, CacheShape, decode_attention, decode_cross_attention};
pub use embedding::embedding;
pub use gate::{geglu, relu, swiglu};
pub use linear::linear;
pub use log_sum_exp::log_sum_exp;
pub use optimiser::{AdamWStep, Moments, adamw, squared_norms};
pub use rms_norm::rms_norm;
pub use rotary::Rotary;
pub use sparse_pool::sparse_pool;

/// Whether the device runs the kernels in CubeCL: CUDA, or CubeCL's CPU runtime; with or without autodiff.
pub fn has_kernels(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return cube::is_cube(device);
    #[cfg(not(feature = "cube"))]
    {
        let _ = device;
        false
    }
}
