//! Every fused operation equals its plain-tensor reference, in values and gradients.

use crate::common::*;
use burn::tensor::{Device, Int, Tensor, TensorData};
use genret_kernels::{self as fused, AttentionShape, Rotary, reference};

#[test]
fn linear() {
    for (rows, inner, outer) in [
        (1, 1, 1),
        (7, 10, 3),
        (33, 64, 65),
        (130, 257, 31),
        (1, 64, 200),
        (200, 2, 5),
    ] {
        compare(
            &format!("linear {rows}x{inner}x{outer}"),
            &[(1, [rows, inner]), (2, [outer, inner])],
            |x| fused::linear(x[0].clone(), x[1].clone()),
            |x| reference::linear(x[0].clone(), x[1].clone()),
        );
    }
}

#[test]
fn rms_norm() {
    for (rows, width) in [(1, 1), (1, 7), (65, 33), (130, 256), (3, 16)] {
        compare(
            &format!("rms_norm {rows}x{width}"),
            &[(1, [rows, width]), (2, [1, width])],
            |x| fused::rms_norm(x[0].clone(), x[1].clone().reshape([width]), 1e-5),
            |x| reference::rms_norm(x[0].clone(), x[1].clone().reshape([width]), 1e-5),
        );
    }
}

#[test]
fn units() {
    for (rows, width) in [(1, 1), (5, 7), (300, 129)] {
        compare(
            &format!("swiglu {rows}x{width}"),
            &[(1, [rows, width]), (2, [rows, width])],
            |x| fused::swiglu(x[0].clone() * 8.0, x[1].clone()),
            |x| reference::swiglu(x[0].clone() * 8.0, x[1].clone()),
        );
        compare(
            &format!("geglu {rows}x{width}"),
            &[(1, [rows, width]), (2, [rows, width])],
            |x| fused::geglu(x[0].clone() * 8.0, x[1].clone()),
            |x| reference::geglu(x[0].clone() * 8.0, x[1].clone()),
        );
        compare(
            &format!("relu {rows}x{width}"),
            &[(1, [rows, width])],
            |x| fused::relu(x[0].clone()),
            |x| reference::relu(x[0].clone()),
        );
    }
}

#[test]
fn embedding() {
    for (size, width, count) in [(1, 3, 4), (2050, 5, 300), (100, 32, 1)] {
        compare(
            &format!("embedding {size}x{width}, {count} ids"),
            &[(1, [size, width])],
            |x| fused::embedding(x[0].clone(), ids(5, count, size, &x[0].device())),
            |x| reference::embedding(x[0].clone(), ids(5, count, size, &x[0].device())),
        );
    }
}

#[test]
fn cross_entropy() {
    // The last two sizes need several chunks of rows.
    for (rows, width, vocab) in [
        (1, 4, 2),
        (7, 16, 33),
        (65, 10, 100),
        (1100, 8, 50),
        (100, 6, 70_000),
    ] {
        for kind in ["none", "ones", "mixed", "zeros"] {
            let row_weights = |device: &Device| {
                let mut values = numbers(7, rows);
                for (row, value) in values.iter_mut().enumerate() {
                    *value = match kind {
                        "ones" => 1.0,
                        "zeros" => 0.0,
                        _ if row % 3 == 1 => 0.0,
                        _ => value.abs(),
                    };
                }
                (kind != "none")
                    .then(|| Tensor::<1>::from_data(TensorData::new(values, [rows]), device))
            };
            let apply = |x: &[Tensor<2>], fast: bool| {
                let device = x[0].device();
                let (hidden, weight) = (x[0].clone() * 3.0, x[1].clone());
                let (targets, weights) = (ids(5, rows, vocab, &device), row_weights(&device));
                let loss = match fast {
                    true => fused::linear_cross_entropy(hidden, weight, targets, weights),
                    false => reference::linear_cross_entropy(hidden, weight, targets, weights),
                };
                (loss / rows as f64).reshape([1, 1])
            };
            compare(
                &format!("cross-entropy {rows}x{width}x{vocab}, weights {kind}"),
                &[(1, [rows, width]), (2, [vocab, width])],
                |x| apply(x, true),
                |x| apply(x, false),
            );
        }
        for device in [plain(), autodiff()] {
            let (hidden, weight) = (
                matrix(1, [rows, width], &device),
                matrix(2, [vocab, width], &device),
            );
            let targets = ids(5, rows, vocab, &device);
            let found = fused::token_losses(hidden.clone(), weight.clone(), targets.clone());
            let expected = reference::token_losses(hidden, weight, targets);
            assert_close("token losses", &values(found), &values(expected), TOLERANCE);
        }
    }
}

#[test]
fn cross_entropy_by_hand_and_gradient_of_one_side() {
    let device = autodiff();
    // Logits are (0, ln 3): probabilities 1/4 and 3/4.
    let hidden = Tensor::<2>::from_data([[1.0, 0.0]], &device);
    let weight = Tensor::<2>::from_data([[0.0, 0.0], [3.0_f32.ln(), 0.0]], &device).require_grad();
    let target = Tensor::<1, Int>::from_data([0], &device);
    let loss = fused::linear_cross_entropy(hidden, weight.clone(), target, None);
    let grads = (loss.clone() * 2.0).backward();
    assert_close("loss", &values(loss), &[4.0_f32.ln()], 1e-6);
    assert_close(
        "gradient",
        &values(weight.grad(&grads).expect("tracked")),
        &[-1.5, 0.0, 1.5, 0.0],
        1e-6,
    );
}

#[test]
fn nan_is_not_hidden() {
    let device = plain();
    let mut hidden = numbers(1, 40);
    hidden[25] = f32::NAN;
    let hidden = Tensor::<2>::from_data(TensorData::new(hidden, [4, 10]), &device);
    let losses = values(fused::token_losses(
        hidden.clone(),
        matrix(2, [30, 10], &device),
        ids(3, 4, 30, &device),
    ));
    assert_eq!(
        losses.iter().map(|x| x.is_nan()).collect::<Vec<_>>(),
        [false, false, true, false]
    );
    assert!(values(fused::swiglu(hidden.clone(), hidden.clone()))[25].is_nan());
    assert!(values(fused::geglu(hidden.clone(), hidden.clone()))[25].is_nan());
    assert!(values(fused::relu(hidden.clone()))[25].is_nan());
    assert!(
        values(fused::rms_norm(hidden, vector(1, 10, &device), 1e-5))[20..30]
            .iter()
            .all(|x| x.is_nan())
    );
}

fn rotary(head_dim: usize, positions: usize, device: &Device) -> Rotary {
    let frequencies: Vec<f64> = (0..head_dim / 2)
        .map(|i| 100_f64.powf(-2.0 * i as f64 / head_dim as f64))
        .collect();
    Rotary::new(&frequencies, positions, device)
}

#[test]
fn attention() {
    for seq in [1_usize, 7, 33, 65, 130] {
        for (heads, kv_heads) in [(4, 2), (4, 1), (4, 4)] {
            for head_dim in [8, 10, 32, 64] {
                if seq > 65 && head_dim > 10 {
                    continue;
                }
                for causal in [true, false] {
                    let lengths = [seq, 1, seq.div_ceil(2), 0];
                    let rows = lengths.len() * seq;
                    let shape = AttentionShape {
                        heads,
                        kv_heads,
                        head_dim,
                        causal,
                        lengths: &lengths,
                    };
                    let name = format!(
                        "attention seq {seq} heads {heads}/{kv_heads} dim {head_dim} causal {causal}"
                    );
                    let (q, kv) = ([rows, heads * head_dim], [rows, kv_heads * head_dim]);
                    // The table's device must have the inputs' autodiff strategy: build it from
                    // theirs.
                    compare(
                        &name,
                        &[(1, q), (2, kv), (3, kv)],
                        |x| {
                            let rotary = rotary(head_dim, seq + 3, &x[0].device());
                            fused::attention(
                                x[0].clone() * 2.0,
                                x[1].clone() * 2.0,
                                x[2].clone(),
                                &rotary,
                                &shape,
                            )
                        },
                        |x| {
                            let rotary = rotary(head_dim, seq + 3, &x[0].device());
                            reference::attention(
                                x[0].clone() * 2.0,
                                x[1].clone() * 2.0,
                                x[2].clone(),
                                &rotary,
                                &shape,
                            )
                        },
                    );
                }
            }
        }
    }
}

#[test]
fn attention_padding_is_zero_and_changes_nothing() {
    let device = autodiff();
    let (seq, dim) = (9, 8);
    let rotary = rotary(dim, 16, &device);
    let lengths = [5, 9];
    let run = |seed: u64| {
        // The padded rows (5..9 of the first sequence) hold other values for each seed.
        let input = |of: u64, width: usize| {
            let mut x = numbers(of, 2 * seq * width);
            x[5 * width..9 * width].copy_from_slice(&numbers(seed, 4 * width));
            Tensor::<2>::from_data(TensorData::new(x, [2 * seq, width]), &device).require_grad()
        };
        let (q, k, v) = (input(1, 16), input(2, 8), input(3, 8));
        let shape = AttentionShape {
            heads: 2,
            kv_heads: 1,
            head_dim: dim,
            causal: false,
            lengths: &lengths,
        };
        let out = fused::attention(q.clone(), k.clone(), v.clone(), &rotary, &shape);
        let grads = out.clone().square().sum().backward();
        let gradients = [q, k, v].map(|x| values(x.grad(&grads).expect("tracked")));
        (values(out), gradients)
    };
    let (out, gradients) = run(50);
    assert!(out[5 * 16..9 * 16].iter().all(|&x| x == 0.0));
    assert!(gradients[0][5 * 16..9 * 16].iter().all(|&x| x == 0.0));
    assert!(gradients[1][5 * 8..9 * 8].iter().all(|&x| x == 0.0));
    assert!(gradients[2][5 * 8..9 * 8].iter().all(|&x| x == 0.0));
    assert_eq!((out, gradients), run(51));
}

#[test]
fn inputs_need_not_be_contiguous() {
    let device = autodiff();
    let run = |fast: bool| {
        let x = matrix(1, [12, 40], &device).require_grad();
        let (a, b) = (x.clone().narrow(1, 4, 8), x.clone().narrow(1, 20, 8));
        let weight = matrix(2, [8, 5], &device).require_grad();
        let out = match fast {
            true => fused::linear(fused::swiglu(a, b), weight.clone().transpose()),
            false => reference::linear(reference::swiglu(a, b), weight.clone().transpose()),
        };
        let grads = out.clone().square().sum().backward();
        let gradient = values(x.grad(&grads).expect("tracked"));
        (
            values(out),
            gradient,
            values(weight.grad(&grads).expect("tracked")),
        )
    };
    let (found, expected) = (run(true), run(false));
    assert_close("value", &found.0, &expected.0, TOLERANCE);
    assert_close("gradient of x", &found.1, &expected.1, TOLERANCE);
    assert_close("gradient of the weight", &found.2, &expected.2, TOLERANCE);
}
