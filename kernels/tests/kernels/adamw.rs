//! AdamW and the gradient norm against plain tensors and numbers worked by hand.

use crate::common::*;
use burn::tensor::Tensor;
use genret_kernels::{AdamWStep, adamw, reference, squared_norms};

const STEP: AdamWStep = AdamWStep {
    learning_rate: 0.1,
    beta_1: 0.9,
    beta_2: 0.99,
    epsilon: 1e-8,
    weight_decay: 0.01,
    gradient_factor: 1.0,
    step: 1,
};

#[test]
fn first_step_moves_by_the_learning_rate() {
    // At step 1 the corrected moments are g and g^2, so the update is lr * sign(g).
    let param = Tensor::<1>::from_data([1.0, -2.0, 3.0], &plain());
    let grad = Tensor::<1>::from_data([0.5, -4.0, 0.0], &plain());
    let (param, moments) = adamw(param, grad, None, &STEP);
    let keep = 1.0 - 0.1 * 0.01;
    assert_close(
        "parameter",
        &values(param),
        &[keep - 0.1, -2.0 * keep + 0.1, 3.0 * keep],
        1e-6,
    );
    assert_close("first", &values(moments.first), &[0.05, -0.4, 0.0], 1e-6);
    assert_close(
        "second",
        &values(moments.second),
        &[0.0025, 0.16, 0.0],
        1e-6,
    );
}

#[test]
fn equals_the_reference_over_steps_and_leaves_shared_buffers_alone() {
    let device = plain();
    for shape in [[1, 1], [3, 7], [200, 129]] {
        let start = matrix(1, shape, &device);
        let (mut fast, mut slow) = ((start.clone(), None), (start.clone(), None));
        for step in 1..=5 {
            let by = AdamWStep {
                step,
                gradient_factor: 0.7,
                ..STEP
            };
            let grad = matrix(10 + u64::from(step), shape, &device);
            let kept = fast.0.clone();
            let before = values(kept.clone());
            let (param, moments) = adamw(fast.0, grad.clone(), fast.1, &by);
            assert_eq!(
                values(kept),
                before,
                "a buffer somebody else holds was written"
            );
            fast = (param, Some(moments));
            let (param, moments) = reference::adamw(slow.0, grad, slow.1, &by);
            slow = (param, Some(moments));
            assert_close(
                "parameter",
                &values(fast.0.clone()),
                &values(slow.0.clone()),
                1e-6,
            );
        }
    }
}

#[test]
fn norms() {
    let x = Tensor::<2>::from_data([[3.0, 4.0], [0.0, 12.0]], &plain());
    assert_eq!(squared_norms(&[&x])[0], 169.0);
    let x = matrix(1, [333, 101], &plain());
    let exact: f64 = values(x.clone())
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum();
    assert!((squared_norms(&[&x])[0] - exact).abs() < 1e-9 * exact);
    assert!((squared_norms(&[&x.clone().transpose()])[0] - exact).abs() < 1e-9 * exact);
}

#[test]
fn moments_without_gradient_end_at_zero() {
    let (mut param, mut moments) = (Tensor::<1>::from_data([1.0, 1.0], &plain()), None);
    for step in 1..=2000 {
        let gradient = if step == 1 { [1e-3, 1e-3] } else { [0.0, 1e-3] };
        let gradient = Tensor::<1>::from_data(gradient, &plain());
        let by = AdamWStep { step, ..STEP };
        let (updated, next) = adamw(param, gradient, moments, &by);
        assert!(
            values(next.first.clone())
                .iter()
                .all(|x| *x == 0.0 || x.is_normal())
        );
        (param, moments) = (updated, Some(next));
    }
    let first = values(moments.expect("steps were taken").first);
    assert_eq!(first[0], 0.0);
    assert!((first[1] - 1e-3).abs() < 1e-8);
}
