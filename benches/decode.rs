//! Constrained decoding: beside transformers, its share in the index, its memory, its exactness.
//!
//! ```text
//! cargo bench --bench decode -- serve FOLDER BEAM BATCH NEW full|allowed     driven by peers/decode_transformers.py
//! cargo bench --bench decode -- share [BEAM BATCH NEW [N]]      share of the constraint in the time
//! cargo bench --bench decode -- memory BEAM BATCH NEW [N]       peak memory beside the estimate
//! cargo bench --bench decode -- audit [HYPOTHESES]              every hypothesis against the corpus
//! cargo bench --bench decode -- head [ROWS [N]]                 the output head of some tokens and of all
//! ```
//! N is a model size by name (default s10m), with random weights and a vocabulary of 32,000; the corpus is that of
//! `../shared/data/humanqa` in words. `serve` reads a line per run from stdin, so that runs of the two programs alternate.

#[path = "../tests/common/shared.rs"]
mod shared;
#[path = "../tests/common/trie.rs"]
mod trie;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use genret::data::Corpus;
use genret::decode::{
    Auto, BatchSize, Constraint, DecodeOptions, End, Normalise, batch_bytes, batches, beam_search,
};
use genret::index::{
    Continuations, IndexBuilder, IndexOptions, NgramIndex, PassageSet, SubstringIndex,
};
use genret::model::{Model, ModelOptions, NextTokenModel};
use genret::rng::stream;
use genret::types::{PassageIdx, TokenId};
use rand::RngExt;
use trie::Trie;

const VOCAB: usize = 32_000;
const PROMPT_TOKENS: usize = 32;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let number = |at: usize, otherwise: usize| -> usize {
        args.get(at)
            .map_or(otherwise, |a| a.parse().expect("a number"))
    };
    let size = |at: usize| args.get(at).map_or("s10m", |a| &a[..]);
    match args.first().map(|a| &a[..]) {
        Some("serve") => {
            let few = args.get(5).is_some_and(|a| a == "allowed");
            let options = DecodeOptions {
                normalise: if few {
                    Normalise::Allowed
                } else {
                    Normalise::Full
                },
                ..options(number(2, 10), number(4, 20))
            };
            serve(Path::new(&args[1]), number(3, 1), &options);
        }
        Some("head") => head(number(1, 10), size(2)),
        Some("share") => share(number(1, 100), number(2, 1), number(3, 20), size(4)),
        Some("memory") => memory(number(1, 16), number(2, 1), number(3, 20), size(4)),
        Some("audit") => audit(number(1, 1_000_000)),
        _ => println!("usage: see the head of benches/decode.rs"),
    }
}

fn options(beam_width: usize, max_new_tokens: usize) -> DecodeOptions {
    DecodeOptions {
        beam_width,
        max_new_tokens,
        batch_size: BatchSize::Auto(Auto::Auto),
        ..DecodeOptions::default()
    }
}

fn random_model(size: &str, vocab: usize) -> Model {
    let options = ModelOptions {
        size: Some(size.into()),
        ..ModelOptions::default()
    };
    options.resolve(vocab).unwrap().init(1, &Device::flex())
}

fn random_prompts(count: usize, vocab: usize) -> Vec<Vec<TokenId>> {
    let mut stream = stream(7, "prompts", &[]);
    let mut token = || TokenId(stream.random_range(0..vocab as u32));
    (0..count)
        .map(|_| (0..PROMPT_TOKENS).map(|_| token()).collect())
        .collect()
}

/// Seconds of processor time of this process, all threads.
fn cpu_secs() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let nanos = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1e9
}

/// A line of `/proc/self/status` in MiB, such as `VmHWM`.
fn status_mib(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let kib = line.and_then(|l| {
        l.trim_matches([':', ' ', '\t', 'k', 'B'])
            .parse::<f64>()
            .ok()
    });
    kib.unwrap_or(0.0) / 1024.0
}

/// Decodes `FOLDER/prompts.json` under the identifiers of `FOLDER/identifiers.json` with its model, once per line
/// of stdin; prints seconds, processor seconds and on the line `sequences` also what was found.
fn serve(folder: &Path, batch: usize, options: &DecodeOptions) {
    let read = |name: &str| -> Vec<Vec<TokenId>> {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let model = Model::open(folder, &Device::flex()).unwrap();
    let trie = Trie::new(&read("identifiers.json"));
    let prompts = read("prompts.json");
    let prompts: Vec<&[TokenId]> = prompts.iter().take(batch).map(|p| &p[..]).collect();
    for line in std::io::stdin().lock().lines() {
        let (started, cpu) = (Instant::now(), cpu_secs());
        let decoded = beam_search(&model, &trie, &prompts, options).unwrap();
        let (secs, cpu) = (started.elapsed().as_secs_f64(), cpu_secs() - cpu);
        let mut row =
            serde_json::json!({ "secs": secs, "cpu_secs": cpu, "peak_mib": status_mib("VmHWM") });
        if line.unwrap() == "sequences" {
            let found = decoded.iter().map(|d| {
                let finished = d.finished.iter();
                finished
                    .map(|h| (h.tokens.clone(), h.log_prob))
                    .collect::<Vec<_>>()
            });
            row["sequences"] = serde_json::json!(found.collect::<Vec<_>>());
        }
        println!("{row}");
    }
}

/// The passages of humanqa in words, numbered by their first appearance; rare words share numbers.
fn passages() -> Option<Vec<Vec<TokenId>>> {
    let corpus = Corpus::load(&shared::shared("data/humanqa")?).unwrap();
    let mut words: std::collections::HashMap<&str, u32> = std::collections::HashMap::new();
    let text = corpus.passages().iter().map(|passage| {
        let ids = passage.text.split_whitespace().map(|word| {
            let next = words.len() as u32 % VOCAB as u32;
            TokenId(*words.entry(word).or_insert(next))
        });
        ids.collect()
    });
    Some(text.collect())
}

fn index_of(passages: &[Vec<TokenId>]) -> NgramIndex {
    let mut builder = IndexBuilder::new(VOCAB, 0, "words", IndexOptions::default()).unwrap();
    for (i, passage) in passages.iter().enumerate() {
        builder.push(&i.to_string(), &[], passage).unwrap();
    }
    builder.into_index().unwrap()
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
        self.nanos
            .fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    fn end(&self, state: C::State) -> End {
        self.inner.end(state)
    }
}

fn share(beam: usize, batch: usize, new: usize, size: &str) {
    let Some(passages) = passages() else { return };
    let index = index_of(&passages);
    let model = random_model(size, VOCAB);
    let prompts = random_prompts(batch, VOCAB);
    let prompts: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
    let options = options(beam, new);
    let timed = Timed {
        inner: &index,
        nanos: AtomicU64::new(0),
    };
    for round in 0..4 {
        timed.nanos.store(0, Ordering::Relaxed);
        let (started, cpu) = (Instant::now(), cpu_secs());
        let decoded = beam_search(&model, &timed, &prompts, &options).unwrap();
        let (secs, cpu) = (started.elapsed().as_secs_f64(), cpu_secs() - cpu);
        let inside = timed.nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let harvested: usize = decoded.iter().map(|d| d.harvest.len()).sum();
        println!(
            "round {round}: {size}, beam {beam}, batch {batch}, {new} tokens: {:.2} queries/s, {:.1} ms ({:.1} ms cpu) a query, \
             index {:.2} ms ({:.2} %), {harvested} n-grams",
            batch as f64 / secs,
            1e3 * secs / batch as f64,
            1e3 * cpu / batch as f64,
            1e3 * inside / batch as f64,
            100.0 * inside / secs,
        );
    }
}

fn memory(beam: usize, batch: usize, new: usize, size: &str) {
    let Some(passages) = passages() else { return };
    let index = index_of(&passages);
    drop(passages);
    let model = random_model(size, VOCAB);
    let prompts = random_prompts(batch, VOCAB);
    let prompts: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
    let options = options(beam, new);
    // One token first: what the first pass makes ready stays out of the difference.
    beam_search(&model, &index, &prompts[..1], &self::options(1, 1)).unwrap();
    std::fs::write("/proc/self/clear_refs", "5").expect("resetting the peak needs Linux");
    let before = status_mib("VmRSS");
    let footprint = model.footprint();
    beam_search(&model, &index, &prompts, &options).unwrap();
    let peak = status_mib("VmHWM") - before;
    let estimate =
        batch_bytes(&footprint, &options, batch, PROMPT_TOKENS) as f64 / f64::from(1 << 20);
    let cache = (batch * beam * (new - 1) * footprint.new_token_bytes) as f64 / f64::from(1 << 20);
    println!(
        "{size}, beam {beam}, batch {batch}, {new} tokens: peak {peak:.1} MiB over {before:.0} MiB of weights and index, \
         estimate {estimate:.1} MiB, generated keys and values {cache:.1} MiB, rest {:.1} MiB",
        peak - cache
    );
}

/// Processor time of the head of `rows` hypotheses: for all tokens, and for shares of them drawn at random.
fn head(rows: usize, size: &str) {
    let model = random_model(size, VOCAB);
    let prompts = random_prompts(rows, VOCAB);
    let prompts: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
    let (_, hidden) = model.start(&prompts, 1).unwrap();
    let median = |head: &dyn Fn() -> usize| {
        let mut times: Vec<f64> = (0..15)
            .map(|_| {
                let cpu = cpu_secs();
                std::hint::black_box(head());
                1e3 * (cpu_secs() - cpu)
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let values = |logits: burn::tensor::Tensor<2>| logits.into_data().as_bytes().len();
    let all = median(&|| values(model.logits(hidden.clone())));
    println!("{size}, {rows} rows: all {VOCAB} tokens {all:.2} ms cpu");
    for share in [2, 3, 4, 8, 32, 128] {
        let mut stream = stream(3, "tokens", &[share]);
        let mut tokens: Vec<TokenId> = (0..VOCAB / share as usize)
            .map(|_| TokenId(stream.random_range(0..VOCAB as u32)))
            .collect();
        tokens.sort_unstable();
        let some = median(&|| values(model.logits_of(hidden.clone(), &tokens)));
        println!(
            "  one in {share:>3}: {some:.2} ms cpu, {:.2} of all",
            some / all
        );
    }
}

/// Decodes until `wanted` hypotheses were emitted, whole corpus and filtered, and looks each up in a set of
/// all n-grams of the passages that were made without the index.
fn audit(wanted: usize) {
    const PASSAGES: usize = 2000;
    const NEW: usize = 12;
    let Some(mut passages) = passages() else {
        return;
    };
    passages.truncate(PASSAGES);
    let hash = |tokens: &[TokenId]| {
        let mut hasher = DefaultHasher::new();
        tokens.hash(&mut hasher);
        hasher.finish()
    };
    let all_ngrams = |keeps: &dyn Fn(usize) -> bool| -> HashSet<u64> {
        let kept = passages.iter().enumerate().filter(|(i, _)| keeps(*i));
        let mut found = HashSet::new();
        for (_, passage) in kept {
            for start in 0..passage.len() {
                for len in 1..=NEW.min(passage.len() - start) {
                    found.insert(hash(&passage[start..start + len]));
                }
            }
        }
        found
    };
    let whole = index_of(&passages);
    let third: PassageSet = (0..PASSAGES as u32).step_by(3).map(PassageIdx).collect();
    let filtered = whole.restricted_to(&third);
    let cases = [
        ("whole", whole, all_ngrams(&|_| true)),
        ("filtered", filtered, all_ngrams(&|i| i % 3 == 0)),
    ];
    let model = random_model("s0.1m", VOCAB);
    let options = options(100, NEW);
    for (name, index, expected) in &cases {
        let (mut emitted, mut wrong, mut batch) = (0, 0, 0);
        while emitted < wanted {
            let mut stream = stream(batch, "audit", &[]);
            let mut token = || TokenId(stream.random_range(0..VOCAB as u32));
            let prompts: Vec<Vec<TokenId>> =
                (0..16).map(|_| (0..5).map(|_| token()).collect()).collect();
            let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
            for group in batches(&model.footprint(), &options, &lengths) {
                let prompts: Vec<&[TokenId]> = group.iter().map(|&i| &prompts[i][..]).collect();
                for decoded in beam_search(&model, index, &prompts, &options).unwrap() {
                    for h in decoded.harvest.iter().chain(&decoded.last) {
                        emitted += 1;
                        let occurs = expected.contains(&hash(&h.tokens));
                        wrong += usize::from(!occurs || index.count(h.state) != h.count);
                    }
                }
            }
            batch += 1;
        }
        println!("{name}: {emitted} hypotheses, {wrong} do not occur");
        assert_eq!(wrong, 0);
    }
}
