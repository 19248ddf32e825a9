//! Milliseconds of one decoding step of a small LLaMA on the CPU, for beams that share one prompt.
//!
//! ```text
//! cargo run --release -p genret-kernels --example decode_step -- [beams] [queries]
//! ```
//! Width 256, feed-forward layers of 688, vocabulary 8192, random weights; each query has a prompt of 32 tokens and its
//! beams are reordered at every step. Prints medians over 15 steps of 10 searches: the whole step up to
//! logits, and the part of it spent in attention over the cache.

use std::time::{Duration, Instant};

use burn::tensor::{Device, Int, Tensor, TensorData};
use genret_kernels::{
    BeamCache, CacheShape, Rotary, decode_attention, embedding, linear, rms_norm, swiglu,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WIDTH: usize = 256;
const HEAD_DIM: usize = 64;
const SHAPE: CacheShape = CacheShape {
    layers: 4,
    heads: 4,
    kv_heads: 2,
    head_dim: HEAD_DIM,
};
const FFN: usize = 688;
const VOCAB: usize = 8192;
const PROMPT: usize = 32;
const STEPS: usize = 15;
const SEARCHES: usize = 10;

/// Numbers in [-0.03, 0.03) from a 64-bit linear congruential generator.
fn matrix(state: &mut u64, shape: [usize; 2], device: &Device) -> Tensor<2> {
    let mut next = || {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.03
    };
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| next()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .map(|x| x.parse::<usize>().expect("a number"));
    let beams = args.next().unwrap_or(10);
    let queries = args.next().unwrap_or(1);
    let device = Device::flex();
    let mut state = 1;
    let kv = SHAPE.kv_heads * HEAD_DIM;
    let table = matrix(&mut state, [VOCAB, WIDTH], &device);
    let gain = Tensor::<1>::ones([WIDTH], &device);
    let shapes = [
        [WIDTH, WIDTH],
        [kv, WIDTH],
        [kv, WIDTH],
        [WIDTH, WIDTH],
        [FFN, WIDTH],
        [FFN, WIDTH],
        [WIDTH, FFN],
    ];
    let layers: Vec<[Tensor<2>; 7]> = (0..SHAPE.layers)
        .map(|_| shapes.map(|shape| matrix(&mut state, shape, &device)))
        .collect();
    let frequencies: Vec<f64> = (0..HEAD_DIM / 2)
        .map(|i| 10_000_f64.powf(-2.0 * i as f64 / HEAD_DIM as f64))
        .collect();
    let rotary = Rotary::new(&frequencies, 256, &device);
    let (mut whole, mut attending) = (Vec::new(), Vec::new());
    for _ in 0..SEARCHES {
        let mut cache = BeamCache::new(SHAPE, &rotary, &vec![PROMPT; queries]);
        for layer in 0..SHAPE.layers {
            let [k, v] = [0, 1].map(|_| matrix(&mut state, [queries * PROMPT, kv], &device));
            cache.set_prompt(layer, k, v);
        }
        for step in 0..STEPS {
            let rows = beams * queries;
            let parents: Vec<usize> = match step {
                0 => (0..rows).map(|row| row / beams).collect(),
                _ => (0..rows)
                    .map(|row| row / beams * beams + row * 7 % beams)
                    .collect(),
            };
            let ids: Vec<i32> = (0..rows)
                .map(|row| ((row * 131 + step * 17) % VOCAB) as i32)
                .collect();
            let start = Instant::now();
            let mut in_attention = Duration::ZERO;
            cache.advance(&parents);
            let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [rows]), &device);
            let mut x = embedding(table.clone(), ids);
            for (layer, [q, k, v, o, gate, up, down]) in layers.iter().enumerate() {
                let n = rms_norm(x.clone(), gain.clone(), 1e-5);
                let [q, k, v] = [q, k, v].map(|weight| linear(n.clone(), weight.clone()));
                let from = Instant::now();
                let attended = decode_attention(q, k, v, &mut cache, layer);
                in_attention += from.elapsed();
                x = x + linear(attended, o.clone());
                let n = rms_norm(x.clone(), gain.clone(), 1e-5);
                let [gate, up] = [gate, up].map(|weight| linear(n.clone(), weight.clone()));
                x = x + linear(swiglu(gate, up), down.clone());
            }
            let logits = linear(rms_norm(x, gain.clone(), 1e-5), table.clone());
            assert_eq!(logits.dims(), [rows, VOCAB]);
            whole.push(start.elapsed().as_secs_f64() * 1e3);
            attending.push(in_attention.as_secs_f64() * 1e3);
        }
    }
    let (whole, attending) = (median(whole), median(attending));
    println!(
        "{queries} queries x {beams} beams: step {whole:.3} ms, of it attention {attending:.3} ms"
    );
}
