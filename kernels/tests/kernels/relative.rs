//! What encoder-decoders add: attention with a bias by distance, attention to the other side, and the
//! cache of their decoding.

use crate::common::*;
use burn::tensor::{Tensor, TensorData};
use genret_kernels::{
    self as fused, BeamCache, CacheShape, CrossShape, RelativeShape, decode_attention,
    decode_cross_attention, reference,
};

#[test]
fn relative_attention() {
    for seq in [1_usize, 7, 33, 65, 130] {
        for (heads, head_dim) in [(1, 8), (3, 5), (4, 16), (2, 64)] {
            for causal in [true, false] {
                let lengths = [seq, 1, seq.div_ceil(2), 0];
                let rows = lengths.len() * seq;
                let shape = RelativeShape {
                    heads,
                    head_dim,
                    causal,
                    lengths: &lengths,
                };
                let of = [rows, heads * head_dim];
                compare(
                    &format!("relative seq {seq} heads {heads}x{head_dim} causal {causal}"),
                    &[(1, of), (2, of), (3, of), (4, [2 * seq - 1, heads])],
                    |x| {
                        let [q, k, v, bias] = [0, 1, 2, 3].map(|i| x[i].clone());
                        fused::relative_attention(q, k, v, bias * 3.0, &shape)
                    },
                    |x| {
                        let [q, k, v, bias] = [0, 1, 2, 3].map(|i| x[i].clone());
                        reference::relative_attention(q, k, v, bias * 3.0, &shape)
                    },
                );
            }
        }
    }
}

#[test]
fn cross_attention() {
    for (queries, keys) in [(1_usize, 1_usize), (5, 9), (70, 3), (3, 70), (65, 130)] {
        for (heads, head_dim) in [(1, 8), (3, 5), (2, 64)] {
            // No keys in the third sequence, no queries in the last.
            let of_queries = [queries, queries.div_ceil(2), queries, 0];
            let of_keys = [keys.div_ceil(2), keys, 0, keys];
            let shape = CrossShape {
                heads,
                head_dim,
                queries: &of_queries,
                keys: &of_keys,
            };
            let width = heads * head_dim;
            compare(
                &format!("cross {queries}x{keys} heads {heads}x{head_dim}"),
                &[
                    (1, [4 * queries, width]),
                    (2, [4 * keys, width]),
                    (3, [4 * keys, width]),
                ],
                |x| fused::cross_attention(x[0].clone(), x[1].clone(), x[2].clone(), &shape),
                |x| reference::cross_attention(x[0].clone(), x[1].clone(), x[2].clone(), &shape),
            );
        }
    }
}

#[test]
fn bias_by_hand() {
    // Scores are the bias alone: ln 3 for the key before, zero for itself.
    let device = plain();
    let column =
        |x: &[f32]| Tensor::<2>::from_data(TensorData::new(x.to_vec(), [x.len(), 1]), &device);
    let (zero, v) = (column(&[0.0, 0.0]), column(&[4.0, 8.0]));
    let bias = column(&[3.0_f32.ln(), 0.0, 100.0]);
    let shape = |causal| RelativeShape {
        heads: 1,
        head_dim: 1,
        causal,
        lengths: &[2],
    };
    let run = |causal| {
        values(fused::relative_attention(
            zero.clone(),
            zero.clone(),
            v.clone(),
            bias.clone(),
            &shape(causal),
        ))
    };
    // Position 1: 3/4 of 4 and 1/4 of 8. Position 0 sees itself, or also the key after it.
    assert_close("causal", &run(true), &[4.0, 5.0], 1e-6);
    assert_close("both ways", &run(false), &[8.0, 5.0], 1e-6);
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let lengths = [40, 70, 1, 65, 33];
    let other = [20, 7, 90, 1, 64];
    assert_deterministic("relative and cross attention", 10, || {
        let device = autodiff();
        let [q, k, v] = [1, 2, 3].map(|seed| matrix(seed, [350, 48], &device).require_grad());
        let bias = matrix(4, [139, 3], &device).require_grad();
        let memory = matrix(5, [450, 48], &device).require_grad();
        let shape = RelativeShape {
            heads: 3,
            head_dim: 16,
            causal: true,
            lengths: &lengths,
        };
        let x = fused::relative_attention(q.clone(), k.clone(), v.clone(), bias.clone(), &shape);
        let shape = CrossShape {
            heads: 3,
            head_dim: 16,
            queries: &lengths,
            keys: &other,
        };
        let x = fused::cross_attention(x, memory.clone(), memory.clone(), &shape);
        let x = fused::geglu(x.clone(), fused::relu(x));
        let grads = x.clone().square().sum().backward();
        let mut all = bits(x);
        for leaf in [q, k, v, bias, memory] {
            all.extend(bits(leaf.grad(&grads).expect("tracked")));
        }
        all
    });
}

/// Steps of a search against plain tensors and against attention over whole sequences.
fn check_cache(shape: CacheShape, lengths: &[usize], beams_of_step: &[usize]) {
    let device = plain();
    let CacheShape {
        layers,
        heads,
        head_dim,
        ..
    } = shape;
    let width = heads * head_dim;
    let steps = beams_of_step.len();
    let bias = matrix(77, [steps, heads], &device);
    let padded = lengths.iter().copied().max().expect("a query") + 2;
    let mut fast = BeamCache::relative(shape, bias.clone(), lengths);
    let mut slow = BeamCache::relative_on_tensors(shape, bias.clone(), lengths);
    let mut prompts = Vec::new();
    for layer in 0..layers {
        let [k, v] = [1, 2].map(|seed| {
            let seed = seed + 10 * layer as u64;
            matrix(seed, [lengths.len() * padded, width], &device)
        });
        fast.set_prompt(layer, k.clone(), v.clone());
        slow.set_prompt(layer, k.clone(), v.clone());
        prompts.push((k, v));
    }
    // Per layer and beam the keys and values of its tokens.
    let mut histories = vec![vec![(vec![], vec![]); lengths.len()]; layers];
    for (step, &beams) in beams_of_step.iter().enumerate() {
        let parents: Vec<usize> = (0..beams)
            .map(|beam| (beam * 7 + step * 3 + beam / 2) % fast.rows())
            .collect();
        fast.advance(&parents);
        slow.advance(&parents);
        assert_eq!(fast.positions(), vec![step; beams]);
        for (layer, histories) in histories.iter_mut().enumerate() {
            let seed = 1000 + 100 * step as u64 + 10 * layer as u64;
            let [q, k, v] = [0, 1, 2].map(|of| matrix(seed + of, [beams, width], &device));
            let [found, expected] = [&mut fast, &mut slow].map(|cache| {
                values(decode_attention(
                    q.clone(),
                    k.clone(),
                    v.clone(),
                    cache,
                    layer,
                ))
            });
            assert_close("history: fused against tensors", &found, &expected, 2e-5);
            let (q_values, k, v) = (values(q.clone()), values(k), values(v));
            *histories = parents
                .iter()
                .map(|&parent| histories[parent].clone())
                .collect();
            for (beam, (keys, vals)) in histories.iter_mut().enumerate() {
                keys.extend_from_slice(&k[beam * width..][..width]);
                vals.extend_from_slice(&v[beam * width..][..width]);
                let seq = step + 1;
                let mut queries = vec![0.0_f32; seq * width];
                queries[step * width..].copy_from_slice(&q_values[beam * width..][..width]);
                let tensor = |x: &[f32]| {
                    Tensor::<2>::from_data(TensorData::new(x.to_vec(), [seq, width]), &device)
                };
                // Row `r` of the whole bias is for keys `seq - 1 - r` steps back; later keys are hidden.
                let back = bias.clone().narrow(0, 0, seq).flip([0]);
                let hidden = Tensor::zeros([seq - 1, heads], &device);
                let whole = reference::relative_attention(
                    tensor(&queries),
                    tensor(keys),
                    tensor(vals),
                    if seq == 1 {
                        back
                    } else {
                        Tensor::cat(vec![back, hidden], 0)
                    },
                    &RelativeShape {
                        heads,
                        head_dim,
                        causal: true,
                        lengths: &[seq],
                    },
                );
                let last = &values(whole)[step * width..];
                assert_close(
                    "history: whole",
                    &found[beam * width..][..width],
                    last,
                    2e-5,
                );
            }
            let found = values(decode_cross_attention(q.clone(), &fast, layer));
            let expected = values(decode_cross_attention(q, &slow, layer));
            assert_close("prompt: fused against tensors", &found, &expected, 2e-5);
            for (beam, &query) in fast.queries().iter().enumerate() {
                let of = |x: &Tensor<2>| x.clone().narrow(0, query * padded, padded);
                let q = Tensor::<2>::from_data(
                    TensorData::new(q_values[beam * width..][..width].to_vec(), [1, width]),
                    &device,
                );
                let (k, v) = &prompts[layer];
                let whole = reference::cross_attention(
                    q,
                    of(k),
                    of(v),
                    &CrossShape {
                        heads,
                        head_dim,
                        queries: &[1],
                        keys: &[lengths[query]],
                    },
                );
                let found = &found[beam * width..][..width];
                assert_close("prompt: whole", found, &values(whole), 2e-5);
            }
        }
    }
}

#[test]
fn cache_of_an_encoder_decoder() {
    for (heads, head_dim) in [(1, 8), (3, 5), (2, 64)] {
        let shape = CacheShape {
            layers: 2,
            heads,
            kv_heads: heads,
            head_dim,
        };
        check_cache(shape, &[5], &[1, 3, 5, 2, 7]);
        check_cache(shape, &[1, 17, 0, 9], &[4, 8, 40, 12, 12]);
    }
}
