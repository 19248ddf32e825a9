//! Constrained decoding on a device.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use genret::decode::{Auto, BatchSize, Constraint, DecodeOptions, End, beam_search};
use genret::index::{Continuations, IndexBuilder, IndexOptions, NgramIndex};
use genret::rng::stream;
use genret::types::TokenId;
use rand::RngExt;

use super::{median, random_model, sequences, show_mib, used_mib, vocab};

const PROMPT_TOKENS: usize = 32;

/// Passages of 100 tokens, frequent ones far more often than rare ones.
fn passages(count: usize) -> Vec<Vec<TokenId>> {
    let mut stream = stream(11, "passages", &[]);
    let vocab = vocab() as f64;
    // The inverse of a distribution near that of Zipf's law.
    let mut token = || {
        let share: f64 = stream.random_range(0.0..1.0);
        TokenId((vocab.powf(share) as u32).min(vocab as u32 - 1))
    };
    (0..count)
        .map(|_| (0..100).map(|_| token()).collect())
        .collect()
}

fn index_of(passages: &[Vec<TokenId>]) -> NgramIndex {
    let options = IndexOptions::default();
    let mut builder = IndexBuilder::new(vocab(), 0, "random", options).expect("a vocabulary");
    for (i, passage) in passages.iter().enumerate() {
        let pushed = builder.push(&i.to_string(), &[], passage);
        pushed.expect("tokens of the vocabulary");
    }
    builder.into_index().expect("a corpus")
}

fn options(beam_width: usize, max_new_tokens: usize) -> DecodeOptions {
    DecodeOptions {
        beam_width,
        max_new_tokens,
        batch_size: BatchSize::Auto(Auto::Auto),
        ..DecodeOptions::default()
    }
}

/// A constraint that measures the time spent in it.
struct Timed<'a, C> {
    inner: &'a C,
    nanos: AtomicU64,
}

impl<C: Constraint> Constraint for Timed<'_, C> {
    type State = C::State;

    fn root(&self) -> C::State {
        self.inner.root()
    }

    fn continuations<'i>(&'i self, states: &[C::State], out: &mut Continuations<'i, C::State>) {
        let started = Instant::now();
        self.inner.continuations(states, out);
        let nanos = started.elapsed().as_nanos() as u64;
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn end(&self, state: C::State) -> End {
        self.inner.end(state)
    }
}

pub fn speed(device: &Device, size: &str, beam: usize, batch: usize, new: usize) {
    let index = index_of(&passages(20_000));
    let model = random_model(size, device);
    let prompts = sequences(batch, PROMPT_TOKENS, 7);
    let prompts: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
    let timed = Timed {
        inner: &index,
        nanos: AtomicU64::new(0),
    };
    let (mut times, mut inside) = (vec![], vec![]);
    for round in 0..5 {
        timed.nanos.store(0, Ordering::Relaxed);
        let started = Instant::now();
        let decoded = beam_search(&model, &timed, &prompts, &options(beam, new));
        decoded.expect("finite logits");
        let secs = started.elapsed().as_secs_f64();
        // Kernels are compiled and measured in the first rounds.
        if round >= 2 {
            times.push(secs);
            inside.push(timed.nanos.load(Ordering::Relaxed) as f64 / 1e9 / secs);
        }
    }
    let time = median(times);
    println!(
        "decode {size} beam {beam}, {batch} queries, {new} tokens: {:.2} queries/s, {:.2} ms a step, index {:.2} %, {}",
        batch as f64 / time,
        1e3 * time / new as f64,
        100.0 * median(inside),
        show_mib(used_mib(device)),
    );
}

/// The largest difference of log-probabilities, relative, between the best hypotheses of two devices at the same places.
pub fn apart(device: &Device, reference: &Device, size: &str) -> f64 {
    let index = index_of(&passages(500));
    let prompts = sequences(3, PROMPT_TOKENS, 8);
    let prompts: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
    let decode = |device: &Device| {
        let model = random_model(size, device);
        beam_search(&model, &index, &prompts, &options(10, 5)).expect("finite logits")
    };
    let (found, expected) = (decode(device), decode(reference));
    let mut apart: f64 = 0.0;
    for (found, expected) in found.iter().zip(&expected) {
        if found.harvest.len() != expected.harvest.len() {
            println!(
                "{} n-grams, {} on the CPU",
                found.harvest.len(),
                expected.harvest.len()
            );
            return f64::NAN;
        }
        for (a, b) in found.harvest.iter().zip(&expected.harvest) {
            apart = apart.max((a.log_prob - b.log_prob).abs() / b.log_prob.abs());
        }
    }
    apart
}

/// Decodes until `wanted` hypotheses were emitted and looks each up in a set of all n-grams.
pub fn valid(device: &Device, wanted: usize) -> bool {
    const NEW: usize = 8;
    let passages = passages(2_000);
    let mut all: HashSet<&[TokenId]> = HashSet::new();
    for passage in &passages {
        for from in 0..passage.len() {
            for to in from + 1..=passage.len().min(from + NEW) {
                all.insert(&passage[from..to]);
            }
        }
    }
    let index = index_of(&passages);
    let model = random_model("s1m", device);
    let (mut checked, mut invalid) = (0, 0);
    for round in 0.. {
        let prompts = sequences(16, PROMPT_TOKENS, 100 + round);
        let prompts: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
        let decoded = beam_search(&model, &index, &prompts, &options(50, NEW));
        for found in decoded.expect("finite logits") {
            for hypothesis in found.harvest {
                checked += 1;
                invalid += usize::from(!all.contains(&hypothesis.tokens[..]));
            }
        }
        if checked >= wanted {
            break;
        }
    }
    println!("valid: {checked} hypotheses, {invalid} do not occur in the corpus");
    invalid == 0
}
