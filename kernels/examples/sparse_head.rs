//! The head of a sparse encoder, fused and as plain tensors: milliseconds of a step and most bytes held.
//!
//! ```text
//! cargo run --release -p genret-kernels --example sparse_head -- [rounds] [width] [vocabulary] [batch] [tokens] [once]
//! ```
//! Defaults: 5 rounds, width 256, 131,072 terms, 8 texts of 128 tokens; `once` takes the plain form out, for a run
//! beside `benches/peers/sparse_head_torch.py`. A step is forward, sum of squares, backward to hidden states and
//! weight, in turn fused and plain (product, padding masked, `max_dim`, `log1p(relu)`), for a model in which about all
//! terms are active and for one in which one in a hundred is. CPU time of all threads (so give it one:
//! `RAYON_NUM_THREADS=1`); most bytes beside inputs and the two gradients
//! of the weight's and the hidden states' size. A text in four is half as long.

use std::alloc::{GlobalAlloc, Layout};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::{Bool, Device, Tensor, TensorData, activation};
use genret_kernels::{linear, sparse_pool};

#[global_allocator]
static ALLOCATOR: Counted = Counted;
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The allocator of genret, with a count of what is held.
struct Counted;

// SAFETY: every call is handed on to mimalloc as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(held, Relaxed);
        // SAFETY: as above.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { mimalloc::MiMalloc.dealloc(at, layout) }
    }
}

/// Numbers in [-1, 1) from a 64-bit linear congruential generator, the last of each row `last`.
fn matrix(seed: u64, shape: [usize; 2], last: f32, device: &Device) -> Tensor<2> {
    let mut state = seed;
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|i| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            if i % shape[1] == shape[1] - 1 {
                last
            } else {
                value
            }
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// CPU time of the process so far in milliseconds.
fn cpu_millis() -> f64 {
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    /// `CLOCK_PROCESS_CPUTIME_ID` of Linux.
    const PROCESS: i32 = 2;
    let mut time = [0i64; 2];
    // SAFETY: on 64-bit Linux a timespec is two 64-bit integers, and `time` may be written.
    let failed = unsafe { clock_gettime(PROCESS, &mut time) };
    assert_eq!(failed, 0, "the clock exists");
    time[0] as f64 * 1e3 + time[1] as f64 / 1e6
}

struct Case {
    hidden: Tensor<2>,
    weight: Tensor<2>,
    texts: Vec<Range<usize>>,
    seq: usize,
    scale: f32,
}

impl Case {
    fn fused(&self) -> Tensor<2> {
        sparse_pool(
            self.hidden.clone(),
            self.weight.clone(),
            &self.texts,
            self.scale,
        )
    }

    fn plain(&self) -> Tensor<2> {
        let (rows, vocab) = (self.texts.len(), self.weight.dims()[0]);
        let mut padding = vec![true; rows * self.seq];
        for text in &self.texts {
            padding[text.clone()].fill(false);
        }
        let padding = TensorData::new(padding, [rows, self.seq, 1]);
        let padding = Tensor::<3, Bool>::from_data(padding, &self.hidden.device());
        let logits = linear(self.hidden.clone(), self.weight.clone()) * self.scale;
        let logits = logits.reshape([rows, self.seq, vocab]);
        let logits = logits.mask_fill(padding.expand([rows, self.seq, vocab]), f32::MIN);
        activation::relu(logits.max_dim(1).squeeze_dim::<2>(1)).log1p()
    }

    /// Forward and backward milliseconds, most bytes held beside what there was and the gradients, and the active
    /// part of the terms.
    fn step(&self, form: fn(&Self) -> Tensor<2>) -> ([f64; 2], usize, f64) {
        let before = HELD.load(Relaxed);
        MOST.store(before, Relaxed);
        let start = cpu_millis();
        let out = form(self);
        let forward = cpu_millis() - start;
        let inner = out.clone().inner();
        let active = inner.greater_elem(0.0).float().mean().into_scalar::<f32>();
        let start = cpu_millis();
        let graph = out.square().sum().backward();
        let backward = cpu_millis() - start;
        assert!(self.weight.grad(&graph).is_some() && self.hidden.grad(&graph).is_some());
        let gradients =
            4 * (self.weight.shape().num_elements() + self.hidden.shape().num_elements());
        let most = MOST.load(Relaxed) - before - gradients;
        ([forward, backward], most, f64::from(active))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let given: Vec<usize> = std::env::args()
        .skip(1)
        .map(|x| x.parse().expect("a number"))
        .collect();
    let argument = |place: usize, default: usize| given.get(place).copied().unwrap_or(default);
    let (rounds, width, vocab) = (argument(0, 5), argument(1, 256), argument(2, 131_072));
    let (batch, seq, once) = (argument(3, 8), argument(4, 128), argument(5, 0) > 0);
    let device = Device::flex().autodiff();
    // A logit is about normal with this deviation; the constant takes it down by so many.
    let deviation = (width as f32).sqrt() / 3.0;
    for down in [0.0, 3.8] {
        let case = Case {
            hidden: matrix(1, [batch * seq, width], 1.0, &device).require_grad(),
            weight: matrix(2, [vocab, width], -down * deviation, &device).require_grad(),
            texts: (0..batch)
                .map(|i| i * seq..i * seq + if i % 4 == 3 { seq / 2 } else { seq })
                .collect(),
            seq,
            scale: (width as f32).powf(-0.25),
        };
        let (mut fused, mut plain) = (vec![vec![]; 2], vec![vec![]; 2]);
        let (mut bytes, mut active) = ([0; 2], 0.0);
        for _ in 0..rounds {
            let (times, most, part) = case.step(Case::fused);
            (bytes[0], active) = (most, part);
            for (all, time) in fused.iter_mut().zip(times) {
                all.push(time);
            }
            if !once {
                let (times, most, _) = case.step(Case::plain);
                bytes[1] = most;
                for (all, time) in plain.iter_mut().zip(times) {
                    all.push(time);
                }
            }
        }
        let mib = bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
        let line = |name: &str, times: Vec<Vec<f64>>, mib: f64| {
            let [forward, backward] = [0, 1].map(|i| median(times[i].clone()));
            println!("{name}: forward {forward:.1} ms, backward {backward:.1} ms, {mib:.1} MiB");
            forward + backward
        };
        println!("{:.2} % of the terms active", 100.0 * active);
        let fast = line("fused", fused, mib[0]);
        if !once {
            let slow = line("plain", plain, mib[1]);
            println!(
                "plain / fused: time {:.2}, memory {:.1}",
                slow / fast,
                mib[1] / mib[0]
            );
        }
    }
}
