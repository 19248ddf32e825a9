//! Kernels beside the time that their memory traffic takes at the bandwidth of a large copy.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use genret_kernels::{
    AllowedRows, constrained_best, linear_cross_entropy, rms_norm, sparse_pool, swiglu,
};

use super::{env, median, values, vocab};

fn random(shape: [usize; 2], device: &Device, dtype: DType) -> Tensor<2> {
    let x = Tensor::random(shape, Distribution::Normal(0.0, 1.0), device);
    if dtype == DType::F32 {
        x
    } else {
        x.cast(burn::tensor::FloatDType::from(dtype))
    }
}

/// Median seconds of `work`, which leaves nothing to the device when it returns.
fn secs(mut work: impl FnMut()) -> f64 {
    for _ in 0..3 {
        work();
    }
    let times = (0..15).map(|_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    });
    median(times.collect())
}

/// Prints times and floors; false if a result was not a number.
pub fn times(device: &Device) -> bool {
    let sync = || device.sync().expect("the device goes on");
    // `SCALE` shrinks the sizes where the device is slow.
    let scale = env("SCALE", 1.0);
    let sized = |n: usize| ((n as f64 * scale) as usize).max(8);
    let elements = [sized(16_384), 16_384];
    let x = random(elements, device, DType::F32);
    sync();
    let copy = secs(|| {
        let copied = x.clone().mul_scalar(1.25);
        sync();
        drop(copied);
    });
    let bandwidth = 8.0 * (elements[0] * elements[1]) as f64 / copy;
    println!("copy: {:.1} GB/s", bandwidth / 1e9);
    drop(x);
    let mut finite = true;
    let mut show = |name: &str, time: f64, bytes: f64, sum: f32| {
        finite &= sum.is_finite();
        let floor = bytes / bandwidth;
        println!(
            "kernel {name}: {:.3} ms, floor {:.3} ms, {:.0} % of bandwidth",
            1e3 * time,
            1e3 * floor,
            100.0 * floor / time
        );
    };
    let vocab = vocab();

    for rows in [100, 1000] {
        let rows = sized(rows);
        let logits = random([rows, vocab], device, DType::F32);
        let per_row = 500.min(vocab / 2);
        let offsets: Vec<u32> = (0..=rows).map(|r| (r * per_row) as u32).collect();
        let tokens: Vec<u32> = (0..rows * per_row)
            .map(|i| ((i * 61) % vocab) as u32)
            .collect();
        let bases = vec![0.0; rows];
        let allowed = AllowedRows {
            offsets: &offsets,
            tokens: &tokens,
            bases: &bases,
            queries: &[0, rows as u32],
        };
        let best = || constrained_best(|_| logits.clone(), &allowed, 2 * rows, rows);
        let time = secs(|| drop(best()));
        let bytes = 4.0 * (rows * vocab) as f64;
        show(
            &format!("constrained step, {rows} beams"),
            time,
            bytes,
            best()[0][0].log_prob,
        );
    }

    for dtype in [DType::F32, DType::BF16] {
        let (rows, width) = (sized(8192), sized(2048));
        let size = if dtype == DType::F32 { 4.0 } else { 2.0 };
        let x = random([rows, width], device, dtype);
        let y = random([rows, width], device, dtype);
        let gamma = Tensor::<1>::ones([width], (device, dtype));
        let bytes = size * (rows * width) as f64;
        let norm = || rms_norm(x.clone(), gamma.clone(), 1e-5);
        let time = secs(|| {
            let done = norm();
            sync();
            drop(done);
        });
        let sum = values(norm().sum())[0];
        show(&format!("RMSNorm {dtype:?}"), time, 2.0 * bytes, sum);
        let gated = || swiglu(x.clone(), y.clone());
        let time = secs(|| {
            let done = gated();
            sync();
            drop(done);
        });
        let sum = values(gated().sum())[0];
        show(&format!("SwiGLU {dtype:?}"), time, 3.0 * bytes, sum);

        // Products dominate: of the traffic only logits read, written as gradients and read twice more.
        let (rows, width) = (sized(4096), sized(1024));
        let tracked = device.clone().autodiff();
        let hidden = random([rows, width], device, dtype).mul_scalar(0.02);
        let weight = random([vocab, width], device, dtype);
        let targets: Vec<i64> = (0..rows).map(|r| (r * 31 % vocab) as i64).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &tracked);
        let loss = || {
            let hidden = Tensor::<2>::from_inner(hidden.clone()).require_grad();
            let weight = Tensor::<2>::from_inner(weight.clone()).require_grad();
            linear_cross_entropy(hidden, weight, targets.clone(), None)
        };
        let time = secs(|| {
            let gradients = loss().backward();
            sync();
            drop(gradients);
        });
        let bytes = 6.0 * size * (rows * vocab) as f64;
        let flops = 6.0 * (rows * vocab * width) as f64;
        let sum = values(loss().inner())[0];
        show(
            &format!("cross-entropy with gradient {dtype:?}"),
            time,
            bytes,
            sum,
        );
        println!("    {:.1} TFLOP/s", flops / time / 1e12);

        let text = rows.min(128);
        let texts: Vec<std::ops::Range<usize>> = (0..rows / text)
            .map(|t| t * text..t * text + text - text / 5)
            .collect();
        let pooled = || {
            let hidden = Tensor::<2>::from_inner(hidden.clone()).require_grad();
            let weight = Tensor::<2>::from_inner(weight.clone()).require_grad();
            sparse_pool(hidden, weight, &texts, 1.0).sum()
        };
        let time = secs(|| {
            let gradients = pooled().backward();
            sync();
            drop(gradients);
        });
        let bytes = 2.0 * size * (rows * vocab) as f64;
        let sum = values(pooled().inner())[0];
        show(
            &format!("sparse head with gradient {dtype:?}"),
            time,
            bytes,
            sum,
        );
    }
    finite
}
