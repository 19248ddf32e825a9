//! Seeded tensors and comparisons shared by the tests.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// The CPU without and with autodiff.
pub fn plain() -> Device {
    Device::flex()
}

pub fn autodiff() -> Device {
    Device::flex().autodiff()
}

/// Numbers in [-1, 1) from a seed, by a 64-bit linear congruential generator.
pub fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

pub fn matrix(seed: u64, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(numbers(seed, shape[0] * shape[1]), shape),
        device,
    )
}

pub fn vector(seed: u64, len: usize, device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(numbers(seed, len), [len]), device)
}

pub fn ids(seed: u64, len: usize, limit: usize, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = numbers(seed, len)
        .iter()
        .map(|x| ((x + 1.0) / 2.0 * limit as f32) as i64 % limit as i64)
        .collect();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

pub fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("f32")
}

pub fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
    values(x).into_iter().map(f32::to_bits).collect()
}

/// Largest difference relative to the largest value of the expectation (or to one).
pub fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}: lengths");
    let size = expected.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
    for (index, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!(
            (x - y).abs() <= tolerance * size,
            "{name}[{index}]: found {x}, expected {y} (scale {size})"
        );
    }
}

pub const TOLERANCE: f32 = 2e-5;

/// Values and gradients of a function of several matrices, with a random upstream gradient.
pub fn run(
    inputs: &[(u64, [usize; 2])],
    device: &Device,
    f: impl Fn(&[Tensor<2>]) -> Tensor<2>,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let leaves: Vec<Tensor<2>> = inputs
        .iter()
        .map(|&(seed, shape)| matrix(seed, shape, device).require_grad())
        .collect();
    let out = f(&leaves);
    let upstream = matrix(999, out.dims(), device);
    let grads = (out.clone() * upstream).sum().backward();
    let gradients = leaves
        .iter()
        .map(|leaf| values(leaf.grad(&grads).expect("every leaf has a gradient")))
        .collect();
    (values(out), gradients)
}

pub fn compare(
    name: &str,
    inputs: &[(u64, [usize; 2])],
    fast: impl Fn(&[Tensor<2>]) -> Tensor<2>,
    slow: impl Fn(&[Tensor<2>]) -> Tensor<2>,
) {
    let (expected, expected_gradients) = run(inputs, &autodiff(), &slow);
    for device in [
        autodiff(),
        Device::flex().autodiff().gradient_checkpointing(),
    ] {
        let (found, gradients) = run(inputs, &device, &fast);
        assert_close(name, &found, &expected, TOLERANCE);
        for (index, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
            assert_close(
                &format!("{name}: gradient {index}"),
                found,
                expected,
                TOLERANCE,
            );
        }
    }
    let leaves: Vec<Tensor<2>> = inputs
        .iter()
        .map(|&(seed, shape)| matrix(seed, shape, &plain()))
        .collect();
    assert_close(name, &values(fast(&leaves)), &expected, TOLERANCE);
}

/// Runs `work` in pools of one, two and three threads, `runs` times each, and checks that all bits
/// agree.
pub fn assert_deterministic(name: &str, runs: usize, work: impl Fn() -> Vec<u32> + Sync) {
    let first = work();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a small pool");
        for run in 0..runs {
            let again = pool.install(&work);
            assert!(
                again == first,
                "{name}: run {run} with {threads} threads differs"
            );
        }
    }
}
