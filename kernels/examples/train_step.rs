//! Milliseconds of one training step of a small LLaMA on the CPU, made of this crate's operations.
//!
//! ```text
//! cargo run --release -p genret-kernels --example train_step -- [steps] [export-file]
//! ```
//! Prints the losses of the first steps and medians of forward, backward, clipping with optimiser,
//! and the whole step. With a second argument the initial weights and the batches are written there
//! (little-endian f32, then i32), which `examples/train_step_torch.py` reads to run the same steps
//! in PyTorch.

use std::io::Write;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use genret_kernels::{
    AdamWStep, AttentionShape, Moments, Rotary, adamw, attention, embedding, linear,
    linear_cross_entropy, rms_norm, squared_norm, swiglu,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WIDTH: usize = 256;
const LAYERS: usize = 4;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = WIDTH / HEADS;
const FFN: usize = 688;
const VOCAB: usize = 8192;
const BATCH: usize = 16;
const SEQ: usize = 64;
const BATCHES: usize = 4;
const EPS: f64 = 1e-5;

/// Numbers in [-1, 1) from a 64-bit linear congruential generator.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Shapes of all parameters in order: embedding; per layer two gains (as rows), q, k, v, o, gate,
/// up, down; final gain.
fn shapes() -> Vec<[usize; 2]> {
    let kv = KV_HEADS * HEAD_DIM;
    let layer = [
        [1, WIDTH],
        [WIDTH, WIDTH],
        [kv, WIDTH],
        [kv, WIDTH],
        [WIDTH, WIDTH],
        [1, WIDTH],
        [FFN, WIDTH],
        [FFN, WIDTH],
        [WIDTH, FFN],
    ];
    let mut all = vec![[VOCAB, WIDTH]];
    all.extend(std::iter::repeat_n(layer, LAYERS).flatten());
    all.push([1, WIDTH]);
    all
}

fn forward(
    params: &[Tensor<2>],
    rotary: &Rotary,
    ids: Tensor<1, Int>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    let gain = |x: &Tensor<2>| x.clone().reshape([WIDTH]);
    let lengths = [SEQ; BATCH];
    let shape = AttentionShape {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        causal: true,
        lengths: &lengths,
    };
    let table = &params[0];
    let mut x = embedding(table.clone(), ids);
    for layer in params[1..params.len() - 1].chunks_exact(9) {
        let [attn_gain, q, k, v, o, ffn_gain, gate, up, down] = layer else {
            unreachable!("chunks of nine")
        };
        let n = rms_norm(x.clone(), gain(attn_gain), EPS);
        let [q, k, v] = [q, k, v].map(|weight| linear(n.clone(), weight.clone()));
        x = x + linear(attention(q, k, v, rotary, &shape), o.clone());
        let n = rms_norm(x.clone(), gain(ffn_gain), EPS);
        let [gate, up] = [gate, up].map(|weight| linear(n.clone(), weight.clone()));
        x = x + linear(swiglu(gate, up), down.clone());
    }
    let x = rms_norm(x, gain(&params[params.len() - 1]), EPS);
    linear_cross_entropy(x, table.clone(), targets, None) / (BATCH * SEQ) as f64
}

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let steps: usize = args
        .next()
        .map_or(30, |x| x.parse().expect("the number of steps"));
    let device = Device::flex().autodiff();
    let plain = Device::flex();
    let mut numbers = Numbers(1);
    let weights: Vec<Vec<f32>> = shapes()
        .iter()
        .map(|&[rows, cols]| {
            (0..rows * cols)
                .map(|_| {
                    if rows == 1 {
                        1.0
                    } else {
                        numbers.next() * 0.035
                    }
                })
                .collect()
        })
        .collect();
    let batches: Vec<Vec<i32>> = (0..BATCHES)
        .map(|_| {
            (0..BATCH * (SEQ + 1))
                .map(|_| ((numbers.next() + 1.0) * 0.5 * VOCAB as f32) as i32 % VOCAB as i32)
                .collect()
        })
        .collect();
    if let Some(path) = args.next() {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for x in weights.iter().flatten() {
            file.write_all(&x.to_le_bytes())?;
        }
        for x in batches.iter().flatten() {
            file.write_all(&x.to_le_bytes())?;
        }
        file.flush()?;
    }
    let frequencies: Vec<f64> = (0..HEAD_DIM / 2)
        .map(|i| 10_000_f64.powf(-2.0 * i as f64 / HEAD_DIM as f64))
        .collect();
    let rotary = Rotary::new(&frequencies, SEQ, &plain);
    let mut params: Vec<Tensor<2>> = weights
        .into_iter()
        .zip(shapes())
        .map(|(x, shape)| Tensor::from_data(TensorData::new(x, shape), &plain))
        .collect();
    let mut moments: Vec<Option<Moments<2>>> = params.iter().map(|_| None).collect();
    let mut times: [Vec<f64>; 4] = Default::default();
    for step in 0..steps {
        let rows = |offset: usize| {
            let ids: Vec<i32> = batches[step % BATCHES]
                .chunks(SEQ + 1)
                .flat_map(|row| row[offset..offset + SEQ].to_vec())
                .collect();
            Tensor::<1, Int>::from_data(TensorData::new(ids, [BATCH * SEQ]), &device)
        };
        let start = Instant::now();
        let leaves: Vec<Tensor<2>> = params
            .drain(..)
            .map(|x| Tensor::from_inner(x).require_grad())
            .collect();
        let loss = forward(&leaves, &rotary, rows(0), rows(1));
        let value: f32 = loss.clone().into_scalar();
        let forward_done = Instant::now();
        let mut grads = loss.backward();
        let backward_done = Instant::now();
        let gradients: Vec<Tensor<2>> = leaves
            .iter()
            .map(|leaf| leaf.grad_remove(&mut grads).expect("a leaf has a gradient"))
            .collect();
        let norm = gradients.iter().map(squared_norm).sum::<f64>().sqrt();
        let by = AdamWStep {
            learning_rate: 1e-3,
            beta_1: 0.9,
            beta_2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_factor: (1.0 / (norm + 1e-6)).min(1.0) as f32,
            step: step as u32 + 1,
        };
        drop(grads);
        for ((leaf, gradient), moments) in leaves.into_iter().zip(gradients).zip(&mut moments) {
            let (param, updated) = adamw(leaf.inner(), gradient, moments.take(), &by);
            params.push(param);
            *moments = Some(updated);
        }
        let end = Instant::now();
        for (times, (from, to)) in times.iter_mut().zip([
            (start, forward_done),
            (forward_done, backward_done),
            (backward_done, end),
            (start, end),
        ]) {
            times.push((to - from).as_secs_f64() * 1e3);
        }
        if step < 5 {
            println!("step {} loss {value:.6} norm {norm:.6}", step + 1);
        }
    }
    for (name, times) in ["forward", "backward", "optimiser", "step"]
        .iter()
        .zip(&mut times)
    {
        times.sort_by(f64::total_cmp);
        println!("{name} {:.2} ms", times[times.len() / 2]);
    }
    Ok(())
}
