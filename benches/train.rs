//! Milliseconds and memory of training steps of small models on the CPU.
//!
//! ```text
//! cargo bench --bench train -- llama|t5 [--steps 30] [--vocab 8192] [--export FOLDER]
//! ```
//! The library's own models and optimiser, as `genret train` uses them: LLaMA of width 256 with 4
//! layers, 4 heads and 2 key-value heads of 64, 16 sequences of 64 tokens; T5 of width 256 with 4
//! blocks in each stack, 4 heads of 64, gated, 16 prompts of 64 tokens and targets of 64. Both have
//! feed-forward layers of 688 and a tied head. Prints the losses of the first steps, medians of
//! forward, backward, clipping with optimiser, and the whole step, and the peak of resident memory.
//! With `--export` the initial checkpoint and the batches are written to a folder, which
//! `benches/peers/train_torch.py` reads to run the same steps in PyTorch, in turn with this program.

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use genret::allocator::{self, Allocator};
use genret::model::{FeedForward, LlamaConfig, Sequences, T5Config, checkpoint};
use genret::train::{AdamW, Gradients, TrainOptions};
use genret::types::TokenId;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

const BATCHES: usize = 4;
const BATCH: usize = 16;
const SEQ: usize = 64;
const LEARNING_RATE: f64 = 1e-3;

struct Args {
    family: String,
    steps: usize,
    vocab: usize,
    export: Option<String>,
}

fn args() -> Args {
    let mut found = Args {
        family: "llama".into(),
        steps: 30,
        vocab: 8192,
        export: None,
    };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|x| x.parse().ok()).expect("a number");
        match arg.as_str() {
            "--steps" => found.steps = number(),
            "--vocab" => found.vocab = number(),
            "--export" => found.export = args.next(),
            _ => found.family = arg,
        }
    }
    found
}

/// Batches of token ids from a 64-bit linear congruential generator, each of `per_batch` sequences
/// of `seq` ids.
fn batches(vocab: usize, per_batch: usize, seq: usize) -> Vec<Vec<Vec<TokenId>>> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        TokenId(((state >> 33) % vocab as u64) as u32)
    };
    let mut sequence = || (0..seq).map(|_| next()).collect();
    let mut batch = || (0..per_batch).map(|_| sequence()).collect();
    (0..BATCHES).map(|_| batch()).collect()
}

/// Trains, and prints what it took; `loss` gives the mean loss of a batch.
fn run<M: Module>(mut model: M, steps: usize, loss: impl Fn(&M, usize) -> Tensor<1>) {
    let mut optimizer = AdamW::new(&TrainOptions {
        weight_decay: 0.1,
        ..TrainOptions::default()
    });
    let mut times: [Vec<f64>; 4] = Default::default();
    for step in 0..steps {
        let start = Instant::now();
        let loss = loss(&model, step % BATCHES);
        let value: f32 = loss.clone().into_scalar();
        let forward_done = Instant::now();
        let mut gradients = Gradients::default();
        gradients.add(&model, loss.backward());
        let backward_done = Instant::now();
        let norm = gradients.norm();
        model = optimizer.step(model, gradients, norm, LEARNING_RATE);
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
    if let Some(peak) = peak_mebibytes() {
        println!("peak {peak} MiB");
    }
}

/// Largest resident memory of this process so far, where the system tells it.
fn peak_mebibytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes / 1024)
}

fn export<M: Module>(
    model: &M,
    config: &serde_json::Value,
    batches: &[Vec<Vec<TokenId>>],
    folder: &str,
) {
    let folder = Path::new(folder);
    checkpoint::save(model, config, folder).expect("a folder that can be written");
    let text = serde_json::to_string(batches).expect("numbers are JSON");
    std::fs::write(folder.join("batches.json"), text).expect("a folder that can be written");
}

fn main() {
    allocator::keep_freed_memory();
    let args = args();
    let device = Device::flex().autodiff();
    let steps = args.steps;
    match args.family.as_str() {
        "llama" => {
            let config = LlamaConfig {
                vocab_size: args.vocab,
                hidden_size: 256,
                intermediate_size: 688,
                num_hidden_layers: 4,
                num_attention_heads: 4,
                num_key_value_heads: 2,
                head_dim: 64,
                max_position_embeddings: SEQ,
                rms_norm_eps: 1e-5,
                rope_theta: 10_000.0,
                rope_scaling: None,
                tie_word_embeddings: true,
                attention_bias: false,
                mlp_bias: false,
            };
            let model = config.init(1, &device);
            // One id more: the first is read, the last is predicted.
            let batches = batches(args.vocab, BATCH, SEQ + 1);
            if let Some(folder) = &args.export {
                export(&model, &config.to_hugging_face(), &batches, folder);
            }
            run(model, steps, |model, batch| {
                let rows = |skip: usize| {
                    let rows = batches[batch].iter();
                    rows.map(|row| row[skip..skip + SEQ].to_vec())
                        .collect::<Vec<_>>()
                };
                let hidden = model.hidden(&Sequences::pad(&rows(0)), true);
                let hidden = hidden.expect("as many positions as the batch has");
                model.loss_sum(hidden, &rows(1).concat()) / (BATCH * SEQ) as f64
            });
        }
        "t5" => {
            let config = T5Config {
                vocab_size: args.vocab,
                d_model: 256,
                d_kv: 64,
                d_ff: 688,
                num_layers: 4,
                num_decoder_layers: 4,
                num_heads: 4,
                relative_attention_num_buckets: 32,
                relative_attention_max_distance: 128,
                layer_norm_epsilon: 1e-6,
                feed_forward_proj: FeedForward::GatedGelu,
                tie_word_embeddings: true,
                decoder_start_token_id: 0,
                pad_token_id: 0,
                eos_token_id: 1,
            };
            let model = config.init(1, &device);
            // Prompts, then targets.
            let batches = batches(args.vocab, 2 * BATCH, SEQ);
            if let Some(folder) = &args.export {
                export(&model, &config.to_hugging_face(), &batches, folder);
            }
            run(model, steps, |model, batch| {
                let (prompts, targets) = batches[batch].split_at(BATCH);
                let examples: Vec<(&[TokenId], &[TokenId])> = prompts
                    .iter()
                    .zip(targets)
                    .map(|(prompt, target)| (&prompt[..], &target[..]))
                    .collect();
                let hidden = model
                    .target_hidden(&examples)
                    .expect("no limit to positions");
                model.loss_sum(hidden, &targets.concat()) / (BATCH * SEQ) as f64
            });
        }
        other => panic!("family `{other}`: expected llama or t5"),
    }
}
