//! Operations on CubeCL's CPU runtime against plain tensors on Flex: the same kernels as on CUDA.

use crate::common::*;
use burn::tensor::{Device, Int, Tensor};
use genret_kernels::{
    AdamWStep, BeamCache, CacheShape, Rotary, adamw, decode_attention, decode_cross_attention,
    linear_cross_entropy, reference, rms_norm, sparse_pool, squared_norms, swiglu, token_losses,
};

fn cube() -> Device {
    Device::cpu()
}

/// Values and gradients on CubeCL beside those of `slow` on Flex, and values without autodiff.
fn compare_devices(
    name: &str,
    inputs: &[(u64, [usize; 2])],
    fast: impl Fn(&[Tensor<2>], &Device) -> Tensor<2>,
    slow: impl Fn(&[Tensor<2>], &Device) -> Tensor<2>,
) {
    let (expected, expected_gradients) = run(inputs, &autodiff(), |x| slow(x, &autodiff()));
    let device = cube().autodiff();
    let (found, gradients) = run(inputs, &device, |x| fast(x, &device));
    assert_close(name, &found, &expected, TOLERANCE);
    for (index, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
        let name = format!("{name}: gradient {index}");
        assert_close(&name, found, expected, TOLERANCE);
    }
    let plain: Vec<Tensor<2>> = inputs
        .iter()
        .map(|&(seed, shape)| matrix(seed, shape, &cube()))
        .collect();
    assert_close(name, &values(fast(&plain, &cube())), &expected, TOLERANCE);
}

#[test]
fn cross_entropy_of_chunks() {
    for (rows, width, vocab) in [(1, 1, 1), (5, 3, 63), (65, 16, 130), (33, 8, 511)] {
        for weighted in [false, true] {
            let of = |x: &[Tensor<2>], device: &Device, fast: bool| {
                let targets: Tensor<1, Int> = ids(7, rows, vocab, device);
                let weights = weighted.then(|| vector(8, rows, device).clamp_min(0.0));
                let (hidden, weight) = (x[0].clone() * 3.0, x[1].clone());
                let loss = match fast {
                    true => linear_cross_entropy(hidden, weight, targets, weights),
                    false => reference::linear_cross_entropy(hidden, weight, targets, weights),
                };
                loss.reshape([1, 1])
            };
            compare_devices(
                &format!("cross-entropy {rows} x {width} x {vocab}, weighted {weighted}"),
                &[(1, [rows, width]), (2, [vocab, width])],
                |x, device| of(x, device, true),
                |x, device| of(x, device, false),
            );
        }
        let losses = |device: &Device| {
            let (hidden, weight) = (
                matrix(1, [rows, width], device),
                matrix(2, [vocab, width], device),
            );
            values(token_losses(hidden, weight, ids(7, rows, vocab, device)))
        };
        assert_close(
            "token losses",
            &losses(&cube()),
            &losses(&plain()),
            TOLERANCE,
        );
    }
}

#[test]
fn sparse_head() {
    for (texts, rows, width, vocab) in [
        (vec![0..1, 1..1], 1, 1, 1),
        (vec![0..3, 3..3, 4..6], 7, 5, 63),
        (vec![1..20, 20..33, 40..65], 65, 24, 513),
    ] {
        compare_devices(
            &format!("sparse pool of {texts:?} x {width} x {vocab}"),
            &[(1, [rows, width]), (2, [vocab, width])],
            |x, _| sparse_pool(x[0].clone() * 3.0, x[1].clone(), &texts, 0.7),
            |x, _| reference::sparse_pool(x[0].clone() * 3.0, x[1].clone(), &texts, 0.7),
        );
    }
}

#[test]
fn what_burn_fuses() {
    for (rows, width) in [(1, 2), (65, 33)] {
        let shape = [rows, width];
        compare_devices(
            "RMSNorm",
            &[(1, shape), (2, [1, width])],
            |x, _| rms_norm(x[0].clone(), x[1].clone().reshape([width]), 1e-5),
            |x, _| reference::rms_norm(x[0].clone(), x[1].clone().reshape([width]), 1e-5),
        );
        compare_devices(
            "SwiGLU",
            &[(1, shape), (2, shape)],
            |x, _| swiglu(x[0].clone(), x[1].clone()),
            |x, _| reference::swiglu(x[0].clone(), x[1].clone()),
        );
    }
}

#[test]
fn optimiser_step() {
    let step = AdamWStep {
        learning_rate: 0.1,
        beta_1: 0.9,
        beta_2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.1,
        gradient_factor: 0.5,
        step: 3,
    };
    let stepped = |device: &Device| {
        let (param, grad) = (matrix(1, [65, 7], device), matrix(2, [65, 7], device));
        let (param, moments) = adamw(param, grad.clone(), None, &step);
        let (param, _) = adamw(param, grad, Some(moments), &step);
        values(param)
    };
    assert_close("AdamW", &stepped(&cube()), &stepped(&plain()), TOLERANCE);
    let norms = |device: &Device| {
        let tensors = [matrix(1, [65, 7], device), matrix(2, [3, 1], device)];
        squared_norms(&[&tensors[0], &tensors[1]])
    };
    for (found, expected) in norms(&cube()).iter().zip(norms(&plain())) {
        assert!((found - expected).abs() < 1e-5 * expected);
    }
}

/// Attention of several steps of beams that are reordered, dropped and multiplied.
fn attended(
    device: &Device,
    shape: CacheShape,
    lengths: &[usize],
    relative: bool,
) -> Vec<Vec<f32>> {
    let (q_width, width) = (
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
    );
    let padded = lengths.iter().max().expect("a query") + 2;
    let is_host = !genret_kernels::has_kernels(device);
    let mut cache = if relative {
        let bias = matrix(5, [16, shape.heads], device);
        match is_host {
            true => BeamCache::relative_on_tensors(shape, bias, lengths),
            false => BeamCache::relative(shape, bias, lengths),
        }
    } else {
        let frequencies: Vec<f64> = (0..shape.head_dim / 2)
            .map(|i| 50_f64.powf(-2.0 * i as f64 / shape.head_dim as f64))
            .collect();
        let rotary = Rotary::new(&frequencies, 200, device);
        match is_host {
            true => BeamCache::on_tensors(shape, &rotary, lengths),
            false => BeamCache::new(shape, &rotary, lengths),
        }
    };
    for layer in 0..shape.layers {
        let [k, v] = [1, 2].map(|seed| {
            let seed = seed + 10 * layer as u64;
            matrix(seed, [lengths.len() * padded, width], device)
        });
        cache.set_prompt(layer, k, v);
    }
    let mut found = vec![];
    for (step, beams) in [lengths.len(), 3, 7, 2, 9, 11, 1].into_iter().enumerate() {
        let rows = cache.rows();
        let parents: Vec<usize> = (0..beams)
            .map(|beam| (beam * 7 + step * 3 + beam / 2) % rows)
            .collect();
        cache.advance(&parents);
        for layer in 0..shape.layers {
            let seed = 1000 + 100 * step as u64 + 10 * layer as u64;
            let q = matrix(seed, [beams, q_width], device);
            let [k, v] = [1, 2].map(|of| matrix(seed + of, [beams, width], device));
            found.push(values(decode_attention(q.clone(), k, v, &mut cache, layer)));
            if relative {
                found.push(values(decode_cross_attention(q, &cache, layer)));
            }
        }
    }
    found
}

#[test]
fn beams_attend_to_prompts_and_histories() {
    for (heads, kv_heads, head_dim, lengths, relative) in [
        (1, 1, 2, &[1][..], false),
        (4, 2, 6, &[5, 1, 66], false),
        (3, 3, 5, &[4, 0, 9], true),
    ] {
        let shape = CacheShape {
            layers: 2,
            heads,
            kv_heads,
            head_dim,
        };
        let found = attended(&cube(), shape, lengths, relative);
        let expected = attended(&plain(), shape, lengths, relative);
        for (found, expected) in found.iter().zip(&expected) {
            assert_close("attention of beams", found, expected, 2e-5);
        }
    }
}
