//! What `run.sh` asks of a device: checks first, then times. And, so that one program needs carrying, genret itself.
//!
//! ```text
//! gpu check DEVICE [SIZE]                     logits, 20 training steps and decoding, beside the CPU
//! gpu train DEVICE SIZE f32|bf16 [SECS [BATCH SEQ]]     tokens/s, share of the peak, memory
//! gpu shape DEVICE SIZE [SEQ]                 the shape of a model as JSON, with FLOPs of training on a sequence
//! gpu decode DEVICE SIZE BEAM [BATCH [NEW]]   queries/s, share of the constraint, memory
//! gpu valid DEVICE HYPOTHESES                 every hypothesis of a search occurs in the corpus
//! gpu kernels DEVICE                          each kernel beside its memory-traffic floor
//! gpu memory DEVICE SIZE STEPS                device memory over many training steps
//! gpu genret ...                              the command line of genret
//! ```
//! SIZE is a model size by name (`s10m`) with random weights; the vocabulary is `VOCAB` (environment, default 32000),
//! the peak of the device `PEAK_TFLOPS` (default 990, an H200 in bf16), its memory bandwidth measured by a large copy.
//! Data are random, drawn from a seed. Times are wall times after warm-up, with the device synchronised; medians.

use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use clap::Parser;
use genret::allocator::{self, Allocator};
use genret::cli::{self, Command};
use genret::model::{Model, ModelOptions, open_device, parameters};
use genret::rng::stream;
use genret::sweep::flops::TrainingCost;
use genret::train::{AdamW, Gradients, TrainOptions};
use genret::types::TokenId;
use rand::RngExt;

mod decoding;
mod kernels;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if args.first().is_some_and(|a| a == "genret") {
        return match cli::run(&Command::parse_from(args)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(cli::exit_code(&error))
            }
        };
    }
    rayon::scope(|_| run(&args))
}

fn run(args: &[String]) -> ExitCode {
    let text = |at: usize, otherwise: &'static str| args.get(at).map_or(otherwise, |a| &a[..]);
    let number = |at: usize, otherwise: usize| -> usize {
        args.get(at)
            .map_or(otherwise, |a| a.parse().expect("a number"))
    };
    if let Some(folder) = std::env::var_os("GENRET_KERNELS") {
        genret::model::keep_kernels_in(std::path::Path::new(&folder));
    }
    let device = match open_device(text(1, "cpu")) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let passed = match text(0, "") {
        "check" => check(&device, text(2, "s1m")),
        "train" => {
            let half = text(3, "f32") == "bf16";
            let shape = [number(5, 16), number(6, 512)];
            train(&device, text(2, "s10m"), half, number(4, 30), shape);
            true
        }
        "shape" => {
            println!("{}", shape(text(2, "s10m"), number(3, 512)));
            true
        }
        "decode" => {
            decoding::speed(
                &device,
                text(2, "s10m"),
                number(3, 100),
                number(4, 8),
                number(5, 10),
            );
            true
        }
        "valid" => decoding::valid(&device, number(2, 100_000)),
        "kernels" => kernels::times(&device),
        "memory" => memory(&device, text(2, "s10m"), number(3, 1000)),
        _ => {
            eprintln!("usage: see the head of benches/gpu/main.rs");
            return ExitCode::from(2);
        }
    };
    ExitCode::from(u8::from(!passed))
}

fn env(name: &str, otherwise: f64) -> f64 {
    std::env::var(name).map_or(otherwise, |x| x.parse().expect(name))
}

fn vocab() -> usize {
    env("VOCAB", 32_000.0) as usize
}

fn random_model(size: &str, device: &Device) -> Model {
    let options = ModelOptions {
        size: Some(size.into()),
        ..ModelOptions::default()
    };
    let config = options.resolve(vocab()).expect("a size such as s10m");
    config.init(1, device)
}

/// What `train_torch.py` needs to train the same model.
fn shape(size: &str, seq: usize) -> serde_json::Value {
    let options = ModelOptions {
        size: Some(size.into()),
        ..ModelOptions::default()
    };
    let config = options.resolve(vocab()).expect("a size such as s10m");
    let mut shape = config.to_hugging_face();
    shape["flops"] = config
        .counts()
        .train(1, seq, TrainingCost::default())
        .into();
    shape
}

/// `count` sequences of `len` tokens, the same for the same seed.
fn sequences(count: usize, len: usize, seed: u64) -> Vec<Vec<TokenId>> {
    let mut stream = stream(seed, "gpu", &[]);
    let vocab = vocab() as u32;
    let mut token = || TokenId(stream.random_range(0..vocab));
    (0..count)
        .map(|_| (0..len).map(|_| token()).collect())
        .collect()
}

/// MiB of the device in use, as the driver tells; of the process on the CPU.
fn used_mib(device: &Device) -> Option<f64> {
    if !genret_kernels::has_kernels(device) {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        return Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0);
    }
    let query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
    let output = std::process::Command::new("nvidia-smi")
        .args(query)
        .output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    text.lines().next()?.trim().parse().ok()
}

fn show_mib(mib: Option<f64>) -> String {
    mib.map_or("unknown".into(), |mib| format!("{mib:.0} MiB"))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Sum of the losses of all tokens but the first of each sequence, one sequence being prompt and target.
fn loss(model: &Model, batch: &[Vec<TokenId>]) -> Tensor<1> {
    let pairs: Vec<(&[TokenId], &[TokenId])> = batch.iter().map(|row| row.split_at(1)).collect();
    let targets: Vec<TokenId> = batch.iter().flat_map(|row| &row[1..]).copied().collect();
    let hidden = model.target_hidden(&pairs);
    let hidden = hidden.expect("as many positions as the model has");
    let count = targets.len() as f64;
    model.loss_sum(hidden, &targets).div_scalar(count)
}

/// One update; the loss, read back.
fn step(
    model: Model,
    optimizer: &mut AdamW,
    batch: &[Vec<TokenId>],
    half: bool,
    rate: f64,
) -> (Model, f64) {
    let reading = if half {
        parameters::bf16(model.clone())
    } else {
        model.clone()
    };
    let loss = loss(&reading, batch);
    let value = f64::from(loss.clone().inner().into_scalar::<f32>());
    let mut gradients = Gradients::default();
    gradients.add(&model, loss.backward());
    drop(reading);
    let norm = gradients.norm();
    (optimizer.step(model, gradients, norm, rate), value)
}

/// ‖a - b‖ / ‖b‖; not a number where either holds one.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let apart = squares(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let norm = squares(&mut b.iter().map(|b| f64::from(*b)));
    (apart / norm).sqrt()
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let data = x.into_data().convert::<f32>();
    data.try_into_vec().expect("it was converted")
}

/// Logits, losses of 20 steps and decoding of the device beside those of the CPU.
fn check(device: &Device, size: &str) -> bool {
    let cpu = Device::flex();
    let mut passed = true;
    let mut verdict = |name: &str, value: f64, limit: f64| {
        let good = value <= limit;
        passed &= good;
        println!(
            "check {name}: {value:.3e}, at most {limit:.0e} wanted: {}",
            if good { "ok" } else { "FAILED" }
        );
    };
    let batch = sequences(4, 33, 3);
    let logits = |device: &Device, half: bool| {
        let model = random_model(size, device);
        let model = if half { parameters::bf16(model) } else { model };
        let pairs: Vec<(&[TokenId], &[TokenId])> = batch.iter().map(|r| r.split_at(1)).collect();
        let hidden = model.target_hidden(&pairs).expect("short sequences");
        use genret::model::NextTokenModel;
        values(model.logits(hidden))
    };
    let expected = logits(&cpu, false);
    // Matrix products in 32-bit floats may run as TF32, with 10 bits of mantissa.
    verdict(
        "logits f32",
        distance(&logits(device, false), &expected),
        2e-3,
    );
    verdict(
        "logits bf16",
        distance(&logits(device, true), &expected),
        3e-2,
    );
    let curve = |device: &Device, half: bool| -> Vec<f64> {
        let mut model = random_model(size, &device.clone().autodiff());
        let mut optimizer = AdamW::new(&TrainOptions::default());
        (0..20)
            .map(|at| {
                let batch = sequences(4, 33, at % 4);
                let found;
                (model, found) = step(model.clone(), &mut optimizer, &batch, half, 1e-3);
                found
            })
            .collect()
    };
    let expected = curve(&cpu, false);
    for (name, half, limit) in [("f32", false, 5e-3), ("bf16", true, 3e-2)] {
        let found = curve(device, half);
        println!("losses {name}: {found:.4?}\n    on the CPU: {expected:.4?}");
        let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b);
        let apart = apart.fold(0.0, |max: f64, x| if x.is_nan() { x } else { max.max(x) });
        let apart = if found.iter().all(|x| x.is_finite()) {
            apart
        } else {
            f64::NAN
        };
        verdict(&format!("20 steps {name}"), apart, limit);
    }
    verdict("hypotheses", decoding::apart(device, &cpu, size), 1e-2);
    passed
}

/// Training steps for about `secs` seconds.
fn train(device: &Device, size: &str, half: bool, secs: usize, [batch, seq]: [usize; 2]) {
    let mut model = random_model(size, &device.clone().autodiff());
    let mut optimizer = AdamW::new(&TrainOptions::default());
    let counts = model.config().counts();
    let flops = batch as f64 * counts.train(1, seq, TrainingCost::default());
    let tokens = (batch * seq) as f64;
    let (mut times, begun) = (vec![], Instant::now());
    let mut loss = 0.0;
    let mut warm = 0.0;
    for at in 0.. {
        let rows = sequences(batch, seq + 1, at as u64 % 4);
        let started = Instant::now();
        (model, loss) = step(model, &mut optimizer, &rows, half, 1e-4);
        device.sync().expect("the device goes on");
        let spent = started.elapsed().as_secs_f64();
        // Kernels are compiled and measured in the first steps.
        if at < 3 {
            warm += spent;
        } else {
            times.push(spent);
        }
        if times.len() >= 3 && begun.elapsed().as_secs_f64() > secs as f64 {
            break;
        }
    }
    let steps = times.len();
    let time = median(times);
    println!(
        "train {size} {} batch {batch} x {seq}: {:.1} ms, {:.0} tokens/s, MFU {:.3}, {}, {steps} steps, first three {warm:.1} s, loss {loss:.3}",
        if half { "bf16" } else { "f32" },
        1e3 * time,
        tokens / time,
        flops / time / (1e12 * env("PEAK_TFLOPS", 990.0)),
        show_mib(used_mib(device)),
    );
}

/// Memory in use after a tenth and after all of `steps` training steps; passes where it grew by less than 5%.
fn memory(device: &Device, size: &str, steps: usize) -> bool {
    let mut model = random_model(size, &device.clone().autodiff());
    let mut optimizer = AdamW::new(&TrainOptions::default());
    let mut early = None;
    for at in 0..steps {
        let rows = sequences(8, 65, at as u64);
        (model, _) = step(model, &mut optimizer, &rows, false, 1e-4);
        if at + 1 == steps.div_ceil(10) {
            device.sync().expect("the device goes on");
            early = used_mib(device);
        }
    }
    device.sync().expect("the device goes on");
    let late = used_mib(device);
    println!(
        "memory {size}: {} after {} steps, {} after {steps}",
        show_mib(early),
        steps.div_ceil(10),
        show_mib(late)
    );
    early
        .zip(late)
        .is_none_or(|(early, late)| late < 1.05 * early)
}
