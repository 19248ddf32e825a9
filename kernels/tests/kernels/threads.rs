//! The same bits from run to run and for any number of threads.

use crate::common::*;
use genret_kernels::{
    AdamWStep, AttentionShape, Rotary, adamw, attention, embedding, linear, linear_cross_entropy,
    rms_norm, squared_norms, swiglu,
};

/// Bits of the loss and of every gradient of a small model that uses each operation.
fn step(rows: usize, width: usize, vocab: usize) -> Vec<u32> {
    let device = autodiff();
    let (heads, head_dim, batch) = (4, width / 4, 3);
    let frequencies: Vec<f64> = (0..head_dim / 2).map(|i| 0.5_f64.powi(i as i32)).collect();
    let rotary = Rotary::new(&frequencies, rows, &device);
    let table = matrix(1, [vocab, width], &device).require_grad();
    let wide = matrix(2, [2 * width, width], &device).require_grad();
    let narrow = matrix(3, [width / 2, width], &device).require_grad();
    let gain = vector(4, width, &device).require_grad();
    let x = embedding(table.clone(), ids(5, batch * rows, vocab, &device));
    let normed = rms_norm(x.clone(), gain.clone(), 1e-5);
    let k = linear(normed.clone(), narrow.clone());
    let lengths = [rows, rows / 2, rows - 1];
    let shape = AttentionShape {
        heads,
        kv_heads: 2,
        head_dim,
        causal: true,
        lengths: &lengths,
    };
    let x = x + attention(normed.clone(), k.clone(), k, &rotary, &shape);
    let up = linear(x.clone(), wide.clone());
    let x = x + swiglu(up.clone().narrow(1, 0, width), up.narrow(1, width, width));
    let weights = vector(8, batch * rows, &device).abs();
    let loss = linear_cross_entropy(
        x,
        table.clone(),
        ids(6, batch * rows, vocab, &device),
        Some(weights),
    );
    let grads = loss.backward();
    let mut all = bits(loss);
    let step = AdamWStep {
        learning_rate: 1e-3,
        beta_1: 0.9,
        beta_2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        gradient_factor: 0.5,
        step: 1,
    };
    for leaf in [table, wide, narrow] {
        let gradient = leaf.grad(&grads).expect("tracked");
        let norm = squared_norms(&[&gradient])[0].to_bits();
        all.extend([norm as u32, (norm >> 32) as u32]);
        let (param, moments) = adamw(leaf.inner(), gradient.clone(), None, &step);
        all.extend(
            bits(gradient)
                .into_iter()
                .chain(bits(param))
                .chain(bits(moments.second)),
        );
    }
    all.extend(bits(gain.grad(&grads).expect("tracked")));
    all
}

#[test]
fn small_step() {
    assert_deterministic("small step", 20, || step(11, 24, 37));
}

#[test]
fn large_step() {
    assert_deterministic("large step", 10, || step(90, 128, 2001));
}
