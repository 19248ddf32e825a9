//! The largest logits of texts: against plain tensors, by hand, and on other thread counts.

use std::ops::Range;

use crate::common::*;
use burn::tensor::{Tensor, TensorData};
use genret_kernels::{reference, sparse_pool};

/// Texts of these lengths, each padded to `seq` rows, the first `skip` of them left out.
fn texts(lengths: &[usize], seq: usize, skip: usize) -> Vec<Range<usize>> {
    let text = |(i, &length): (usize, &usize)| {
        let first = i * seq;
        first + skip.min(length)..first + length
    };
    lengths.iter().enumerate().map(text).collect()
}

#[test]
fn equals_plain_tensors() {
    // The last sizes need several blocks of terms, several groups of texts, and one text larger than a group.
    for (lengths, seq, width, vocab) in [
        (&[1][..], 1, 1, 1),
        (&[3, 1, 0, 2], 3, 5, 7),
        (&[9, 4, 7], 9, 17, 65),
        (&[33, 12, 40], 40, 24, 1100),
        (&[2, 3], 3, 2, 70_000),
        (&[700, 600, 1, 900], 900, 6, 2100),
        (&[1500, 3], 1500, 4, 1500),
    ] {
        for skip in [0, usize::from(lengths.len() > 1)] {
            let texts = texts(lengths, seq, skip);
            compare(
                &format!("sparse pool of {lengths:?} x {width} x {vocab}, {skip} left out"),
                &[(1, [lengths.len() * seq, width]), (2, [vocab, width])],
                |x| sparse_pool(x[0].clone() * 3.0, x[1].clone(), &texts, 0.7),
                |x| reference::sparse_pool(x[0].clone() * 3.0, x[1].clone(), &texts, 0.7),
            );
        }
    }
}

#[test]
fn by_hand() {
    let device = autodiff();
    // Two texts of two rows, three terms. Logits of the first text: (1, 0, -1) and (1, 2, -3); of the second
    // (-1, 0, 1) and (3, 0, -3).
    let hidden = Tensor::<2>::from_data([[1.0, 0.0], [1.0, 2.0], [-1.0, 0.0], [3.0, 0.0]], &device);
    let weight = Tensor::<2>::from_data([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], &device);
    let (hidden, weight) = (hidden.require_grad(), weight.require_grad());
    let out = sparse_pool(hidden.clone(), weight.clone(), &[0..2, 2..4], 1.0);
    let ln = f32::ln;
    assert_close(
        "values",
        &values(out.clone()),
        &[ln(2.0), ln(3.0), 0.0, ln(4.0), 0.0, ln(2.0)],
        1e-6,
    );
    let grads = out.sum().backward();
    // 1 / (1 + x) at row 0 for term 0 (the first of equals), row 1 for term 1; row 3 and row 2 of the second text.
    assert_close(
        "gradient of hidden",
        &values(hidden.grad(&grads).expect("tracked")),
        &[0.5, 0.0, 0.0, 1.0 / 3.0, -0.5, -0.5, 0.25, 0.0],
        1e-6,
    );
    assert_close(
        "gradient of the weight",
        &values(weight.grad(&grads).expect("tracked")),
        &[0.5 + 0.75, 0.0, 1.0 / 3.0, 2.0 / 3.0, -0.5, 0.0],
        1e-6,
    );
}

#[test]
fn texts_without_rows_are_zero() {
    let device = autodiff();
    let hidden = matrix(1, [4, 3], &device).require_grad();
    let out = sparse_pool(
        hidden.clone(),
        matrix(2, [5, 3], &device),
        &[0..0, 4..4],
        1.0,
    );
    assert_eq!(values(out.clone()), [0.0; 10]);
    let grads = out.sum().backward();
    assert_eq!(values(hidden.grad(&grads).expect("tracked")), [0.0; 12]);
}

#[test]
fn one_side_alone_has_the_same_gradient() {
    let device = autodiff();
    let (hidden, weight) = (matrix(1, [12, 8], &device), matrix(2, [50, 8], &device));
    let gradients = |of_hidden: bool, of_weight: bool| {
        let track = |x: &Tensor<2>, wanted| match wanted {
            true => x.clone().require_grad(),
            false => x.clone(),
        };
        let (hidden, weight) = (track(&hidden, of_hidden), track(&weight, of_weight));
        let out = sparse_pool(hidden.clone(), weight.clone(), &[1..5, 5..12], 2.0);
        let grads = out.square().sum().backward();
        [hidden.grad(&grads), weight.grad(&grads)].map(|g| g.map(bits))
    };
    let [of_hidden, of_weight] = gradients(true, true);
    assert_eq!(gradients(true, false), [of_hidden, None]);
    assert_eq!(gradients(false, true), [None, of_weight]);
}

#[test]
fn rows_outside_of_texts_do_not_matter_and_nan_is_not_hidden() {
    let device = plain();
    let mut rows = numbers(1, 8 * 3);
    let pooled = |rows: &[f32]| {
        let rows = Tensor::<2>::from_data(TensorData::new(rows.to_vec(), [8, 3]), &device);
        values(sparse_pool(
            rows,
            matrix(2, [20, 3], &device),
            &[1..4, 6..8],
            1.0,
        ))
    };
    let whole = pooled(&rows);
    for padding in [0, 4, 5] {
        rows[padding * 3] = f32::NAN;
    }
    assert_eq!(pooled(&rows), whole);
    rows[6 * 3] = f32::NAN;
    let damaged = pooled(&rows);
    assert_eq!(damaged[..20], whole[..20]);
    assert!(damaged[20..].iter().all(|x| x.is_nan()));
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    assert_deterministic("sparse pool", 5, || {
        let device = autodiff();
        let hidden = matrix(1, [6 * 40, 32], &device).require_grad();
        let weight = matrix(2, [5000, 32], &device).require_grad();
        let texts = texts(&[40, 1, 0, 17, 40, 39], 40, 1);
        let out = sparse_pool(hidden.clone(), weight.clone(), &texts, 0.5);
        let grads = out.clone().square().sum().backward();
        let gradients = [hidden, weight].map(|x| bits(x.grad(&grads).expect("tracked")));
        [bits(out), gradients.concat()].concat()
    });
}
