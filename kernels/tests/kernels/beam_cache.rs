//! The beam cache against plain tensors and against attention over the whole sequence.

use crate::common::*;
use burn::tensor::Tensor;
use genret_kernels::{AttentionShape, BeamCache, CacheShape, Rotary, decode_attention, reference};

fn rotary(head_dim: usize) -> Rotary {
    let frequencies: Vec<f64> = (0..head_dim / 2)
        .map(|i| 50_f64.powf(-2.0 * i as f64 / head_dim as f64))
        .collect();
    Rotary::new(&frequencies, 200, &plain())
}

/// A beam's tokens as (k, v) rows, to build its whole sequence again.
#[derive(Clone)]
struct History {
    k: Vec<f32>,
    v: Vec<f32>,
}

fn check(shape: CacheShape, lengths: &[usize], beams_of_step: &[usize]) {
    let device = plain();
    let CacheShape {
        layers,
        heads,
        kv_heads,
        head_dim,
    } = shape;
    let (q_width, width) = (heads * head_dim, kv_heads * head_dim);
    let rotary = rotary(head_dim);
    let padded = lengths.iter().copied().max().expect("a query") + 2;
    let mut fast = BeamCache::new(shape, &rotary, lengths);
    let mut slow = BeamCache::on_tensors(shape, &rotary, lengths);
    let mut histories: Vec<Vec<History>> = Vec::new();
    for layer in 0..layers {
        let [k, v] = [1, 2].map(|seed| {
            matrix(
                seed + 10 * layer as u64,
                [lengths.len() * padded, width],
                &device,
            )
        });
        fast.set_prompt(layer, k.clone(), v.clone());
        slow.set_prompt(layer, k.clone(), v.clone());
        let (k, v) = (values(k), values(v));
        let of = |x: &[f32], query: usize| {
            x[query * padded * width..][..lengths[query] * width].to_vec()
        };
        histories.push(
            (0..lengths.len())
                .map(|query| History {
                    k: of(&k, query),
                    v: of(&v, query),
                })
                .collect(),
        );
    }
    for (step, &beams) in beams_of_step.iter().enumerate() {
        // Parents out of order and repeated; some rows are dropped.
        let parents: Vec<usize> = (0..beams)
            .map(|beam| (beam * 7 + step * 3 + beam / 2) % fast.rows())
            .collect();
        fast.advance(&parents);
        slow.advance(&parents);
        assert_eq!(fast.queries(), slow.queries());
        for (layer, histories) in histories.iter_mut().enumerate() {
            let seed = 1000 + 100 * step as u64 + 10 * layer as u64;
            let q = matrix(seed, [beams, q_width], &device);
            let [k, v] = [1, 2].map(|of| matrix(seed + of, [beams, width], &device));
            let found = values(decode_attention(
                q.clone(),
                k.clone(),
                v.clone(),
                &mut fast,
                layer,
            ));
            let expected = values(decode_attention(
                q.clone(),
                k.clone(),
                v.clone(),
                &mut slow,
                layer,
            ));
            assert_close("fused against tensors", &found, &expected, 2e-5);
            let (q, k, v) = (values(q), values(k), values(v));
            *histories = parents
                .iter()
                .map(|&parent| histories[parent].clone())
                .collect();
            for (beam, history) in histories.iter_mut().enumerate() {
                history.k.extend(&k[beam * width..][..width]);
                history.v.extend(&v[beam * width..][..width]);
                let seq = history.k.len() / width;
                let mut queries = vec![0.0; seq * q_width];
                queries[(seq - 1) * q_width..].copy_from_slice(&q[beam * q_width..][..q_width]);
                let tensor = |x: &[f32], width: usize| {
                    Tensor::<1>::from_data(x, &device).reshape([seq, width])
                };
                let lengths = [seq];
                let whole = AttentionShape {
                    heads,
                    kv_heads,
                    head_dim,
                    causal: true,
                    lengths: &lengths,
                };
                let out = reference::attention(
                    tensor(&queries, q_width),
                    tensor(&history.k, width),
                    tensor(&history.v, width),
                    &rotary,
                    &whole,
                );
                let last = &values(out)[(seq - 1) * q_width..];
                assert_close(
                    "fused against the whole sequence",
                    &found[beam * q_width..][..q_width],
                    last,
                    2e-5,
                );
            }
        }
    }
}

#[test]
fn one_query_and_its_beams() {
    check(
        CacheShape {
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
        },
        &[5],
        &[3, 5, 5, 2, 7],
    );
}

#[test]
fn several_queries_of_different_lengths() {
    for (heads, kv_heads, head_dim) in [(4, 4, 10), (4, 1, 32), (2, 2, 64)] {
        check(
            CacheShape {
                layers: 1,
                heads,
                kv_heads,
                head_dim,
            },
            &[1, 17, 9],
            &[3, 8, 40, 12, 12],
        );
    }
}

#[test]
fn many_beams_need_several_parts() {
    check(
        CacheShape {
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
        },
        &[6],
        &[40, 100, 33],
    );
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let shape = CacheShape {
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
    };
    assert_deterministic("decode", 10, || {
        let device = plain();
        let rotary = rotary(16);
        let mut cache = BeamCache::new(shape, &rotary, &[30, 12, 25]);
        cache.set_prompt(
            0,
            matrix(1, [90, 32], &device),
            matrix(2, [90, 32], &device),
        );
        let mut all = Vec::new();
        for step in 0..4 {
            let parents: Vec<usize> = (0..60).map(|beam| beam * 5 % cache.rows()).collect();
            cache.advance(&parents);
            let [q, k, v] = [(3, 64), (4, 32), (5, 32)]
                .map(|(seed, width)| matrix(seed + 10 * step, [60, width], &device));
            all.extend(bits(decode_attention(q, k, v, &mut cache, 0)));
        }
        all
    });
}

#[test]
fn positions_follow_the_prompt() {
    let shape = CacheShape {
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
    };
    let mut cache = BeamCache::new(shape, &rotary(8), &[4, 7]);
    assert_eq!((cache.rows(), cache.positions()), (2, vec![4, 7]));
    cache.advance(&[1, 0, 1]);
    assert_eq!(
        (cache.queries(), cache.positions()),
        (&[1, 0, 1][..], vec![7, 4, 7])
    );
    cache.advance(&[1, 2]);
    assert_eq!(
        (cache.queries(), cache.positions()),
        (&[0, 1][..], vec![5, 8])
    );
}
