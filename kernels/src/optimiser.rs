//! AdamW (Loshchilov and Hutter 2019) in one pass over a parameter, and the norm that clips its
//! gradient.
//!
//! Plain tensor operations read and write the parameter, its gradient and both moments about
//! fifteen times; the fused update reads four arrays and writes three, in place where nobody else
//! holds them.

use burn::backend::Flex;
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{is_fused, values};
use crate::simd::{BLOCK, LANES, vectorised};

/// Numbers of one optimiser step, the same for every element of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Step size, after the schedule.
    pub learning_rate: f64,
    /// Decay of the mean of gradients per step.
    pub beta_1: f32,
    /// Decay of the mean of squared gradients per step.
    pub beta_2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled decay: the parameter is first multiplied by `1 - learning_rate * weight_decay`.
    pub weight_decay: f32,
    /// What the gradient is multiplied by first: 1, or the factor that clips its norm.
    pub gradient_factor: f32,
    /// Number of this step, from 1: the bias corrections depend on it.
    pub step: u32,
}

impl AdamWStep {
    /// `1 - beta^step` for both moments.
    pub(crate) fn corrections(&self) -> (f64, f64) {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(self.step));
        (correction(self.beta_1), correction(self.beta_2))
    }
}

/// Running means of a parameter's gradient and of its square, in the parameter's shape.
#[derive(Clone, Debug)]
pub struct Moments<const D: usize> {
    /// Mean of gradients.
    pub first: Tensor<D>,
    /// Mean of squared gradients.
    pub second: Tensor<D>,
}

/// The parameter after one AdamW step, and its moments; moments start from zero where absent.
///
/// With `g` the gradient times its factor: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `p =
/// p (1 - lr wd) - lr (m / c1) / (sqrt(v / c2) + eps)` with `c = 1 - beta^step`, as PyTorch's
/// `AdamW`. Tensors carry no autodiff (`Tensor::inner`). Buffers held by nobody else are updated in
/// place.
///
/// # Panics
/// Where shapes differ or `step` is zero.
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    moments: Option<Moments<D>>,
    step: &AdamWStep,
) -> (Tensor<D>, Moments<D>) {
    assert_eq!(
        param.dims(),
        grad.dims(),
        "adamw: shapes of parameter and gradient"
    );
    assert!(step.step > 0, "adamw: steps are counted from 1");
    let plain = |x: &Tensor<D>| is_fused(x) && !x.device().is_autodiff();
    let held = moments
        .as_ref()
        .is_none_or(|m| plain(&m.first) && plain(&m.second));
    if !(plain(&param) && plain(&grad) && held) {
        return crate::reference::adamw(param, grad, moments, step);
    }
    let moments = moments.unwrap_or_else(|| Moments {
        first: grad.zeros_like(),
        second: grad.zeros_like(),
    });
    assert_eq!(
        moments.first.dims(),
        grad.dims(),
        "adamw: shapes of moments and gradient"
    );
    assert_eq!(
        moments.second.dims(),
        grad.dims(),
        "adamw: shapes of moments and gradient"
    );
    let grad = flex(grad);
    let [mut param, mut first, mut second] = [param, moments.first, moments.second].map(flex);
    let factors = Factors::new(step);
    param
        .storage_mut::<f32>()
        .par_chunks_mut(BLOCK)
        .zip(first.storage_mut::<f32>().par_chunks_mut(BLOCK))
        .zip(second.storage_mut::<f32>().par_chunks_mut(BLOCK))
        .zip(values(&grad).par_chunks(BLOCK))
        .for_each(|(((param, first), second), grad)| update(param, first, second, grad, factors));
    let [param, first, second] = [param, first, second].map(Tensor::from_primitive::<Flex>);
    (param, Moments { first, second })
}

/// Sum of squares of all elements of each tensor.
///
/// The norm of a whole gradient is the square root of their sum in a fixed order. In 64-bit floats on
/// the CPU; elsewhere in 32-bit floats on the device, and one number per tensor is read back, all at once.
pub fn squared_norms<const D: usize>(tensors: &[&Tensor<D>]) -> Vec<f64> {
    let on_host = |x: &&Tensor<D>| is_fused(x) && !x.device().is_autodiff();
    if !tensors.iter().all(on_host) {
        return crate::reference::squared_norms(tensors);
    }
    let norm = |x: &&Tensor<D>| {
        let x = flex((*x).clone());
        let partial: Vec<f64> = values(&x).par_chunks(BLOCK).map(sum_of_squares).collect();
        partial.into_iter().sum()
    };
    tensors.iter().map(norm).collect()
}

fn flex<const D: usize>(x: Tensor<D>) -> FlexTensor {
    let x = x
        .try_into_primitive::<Flex>()
        .expect("the caller found the tensor on Flex without autodiff");
    // The original handle ends here, so a tensor held by nobody else stays unique.
    x.to_contiguous()
}

/// [`AdamWStep`] as the inner loop uses it.
#[derive(Clone, Copy)]
struct Factors {
    grad: f32,
    keep_1: f32,
    take_1: f32,
    keep_2: f32,
    take_2: f32,
    decay: f32,
    rate: f32,
    root: f32,
    epsilon: f32,
}

impl Factors {
    fn new(step: &AdamWStep) -> Self {
        let (correction_1, correction_2) = step.corrections();
        Self {
            grad: step.gradient_factor,
            keep_1: step.beta_1,
            take_1: (1.0 - f64::from(step.beta_1)) as f32,
            keep_2: step.beta_2,
            take_2: (1.0 - f64::from(step.beta_2)) as f32,
            decay: (1.0 - step.learning_rate * f64::from(step.weight_decay)) as f32,
            rate: (step.learning_rate / correction_1) as f32,
            root: (1.0 / correction_2.sqrt()) as f32,
            epsilon: step.epsilon,
        }
    }
}

/// Zero for values so small that they move no parameter.
///
/// Moments of a row that gets no gradient shrink by a factor at every step; without this they
/// end as subnormal numbers, which processors handle a hundred times slower.
#[inline(always)]
fn settle(moment: f32) -> f32 {
    if moment.abs() < 1e-30 { 0.0 } else { moment }
}

vectorised! {
    fn update(param: &mut [f32], first: &mut [f32], second: &mut [f32], grad: &[f32], by: Factors) {
        let len = param.len();
        let (first, second, grad) = (&mut first[..len], &mut second[..len], &grad[..len]);
        for i in 0..len {
            let g = grad[i] * by.grad;
            let m = settle(by.keep_1 * first[i] + by.take_1 * g);
            let v = settle(by.keep_2 * second[i] + by.take_2 * g * g);
            first[i] = m;
            second[i] = v;
            param[i] = param[i] * by.decay - by.rate * m / (v.sqrt() * by.root + by.epsilon);
        }
    }
}

vectorised! {
    fn sum_of_squares(x: &[f32]) -> f64 {
        let mut lanes = [0.0_f64; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                let x = f64::from(chunk[lane]);
                lanes[lane] += x * x;
            }
        }
        let mut total: f64 = lanes.iter().sum();
        for &x in rest {
            total += f64::from(x) * f64::from(x);
        }
        total
    }
}
