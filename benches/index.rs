//! The n-gram index: build, size, and the steps of beam search, alone or beside the field's index.
//!
//! `cargo bench --bench index -- [--corpus humanqa|phrases] [--tokens N] [--beam W] [--rounds R]
//! [--min-node-count N] [--live] [--peer PATH]`. With `--peer` (see `index_sdsl.sh`) the other index answers the same n-grams in
//! the same rounds; counts, distinct continuations and checksums must agree, and ratios are printed.
//! Times are CPU time of the thread, medians over rounds. Cold means that 128 MB are read before, as
//! a model's forward pass would; warm is the same call again. The peer's enumeration at its best and
//! its extension are warm: it has touched the same rows just before.

#[path = "../tests/common/shared.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use genret::data::Corpus;
use genret::data::example::corpus_tokens;
use genret::index::{
    Continuations, IndexBuilder, IndexOptions, LiveIndex, NgramIndex, Occurrence, SubstringIndex,
};
use genret::rng::{Stream, stream};
use genret::tokenizer::{Tokenizer, TokenizerKind, TrainOptions};
use genret::types::TokenId;
use rand::RngExt;

/// The longest n-gram asked for; beams are sampled for every length up to it.
const MAX_LEN: usize = 10;
const VOCAB: usize = 32_000;

struct Options {
    corpus: String,
    tokens: usize,
    beam: usize,
    rounds: usize,
    index: IndexOptions,
    live: bool,
    peer: Option<PathBuf>,
}

type Passages = Vec<Vec<TokenId>>;

/// Microseconds per beam, by what was measured, length of the n-grams and heat.
type Times = BTreeMap<(&'static str, usize, Heat), Vec<f64>>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Heat {
    Cold,
    Warm,
}

fn main() {
    let options = options();
    let Some(passages) = passages(&options) else {
        return;
    };
    let num_tokens: usize = passages.iter().map(Vec::len).sum();
    let folder = std::env::temp_dir().join(format!("genret-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the temporary folder can be made");

    let path = folder.join("ours.idx");
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("one thread starts");
    let begun = cpu_micros(Clock::Process);
    pool.install(|| build(&passages, options.index, &path));
    let build_secs = (cpu_micros(Clock::Process) - begun) / 1e6;
    let bits =
        fs::metadata(&path).expect("the index is there").len() as f64 * 8.0 / num_tokens as f64;
    println!("{num_tokens} tokens, {} passages", passages.len());
    println!("build {build_secs:.2} s CPU on one thread, {bits:.2} bits per token");

    let begun = cpu_micros(Clock::Thread);
    let index = NgramIndex::open(&path).expect("the index was just written");
    println!("open {:.0} microseconds", cpu_micros(Clock::Thread) - begun);
    // The same file as a live index of one segment.
    let live = options.live.then(|| LiveIndex::from(index.clone()));
    let beams = sample_beams(&passages, options.beam);
    let peer = options
        .peer
        .as_ref()
        .map(|program| Peer::build(program, &folder, &passages, &beams));
    if let Some(peer) = &peer {
        println!(
            "peer  {:.2} s CPU ({:.1}x), {:.2} bits per token ({:.2}x)",
            peer.build_secs,
            peer.build_secs / build_secs,
            peer.bits,
            bits / peer.bits
        );
    }
    let (mut ours, mut theirs) = (Times::new(), Times::new());
    let mut eviction = vec![1u64; 128 << 17];
    for _ in 0..options.rounds {
        match &live {
            Some(live) => measure(live, &beams, &mut eviction, &mut ours),
            None => measure(&index, &beams, &mut eviction, &mut ours),
        }
        if let Some(peer) = &peer {
            peer.measure(&index, &beams, &mut theirs);
        }
    }
    report(&ours, &theirs, options.beam);
    fs::remove_dir_all(&folder).expect("the temporary folder can be removed");
}

fn options() -> Options {
    let mut options = Options {
        corpus: "humanqa".into(),
        tokens: 20_000_000,
        beam: 100,
        rounds: 5,
        index: IndexOptions::default(),
        live: false,
        peer: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .unwrap_or_else(|| panic!("{flag} needs a value"))
        };
        match flag.as_str() {
            "--corpus" => options.corpus = value(),
            "--tokens" => options.tokens = value().parse().expect("--tokens is a number"),
            "--beam" => options.beam = value().parse().expect("--beam is a number"),
            "--rounds" => options.rounds = value().parse().expect("--rounds is a number"),
            "--min-node-count" => {
                options.index.min_node_count = value().parse().expect("the count is a number");
            }
            "--live" => options.live = true,
            "--peer" => options.peer = Some(value().into()),
            "--bench" => {} // Added by cargo.
            other => panic!("unknown flag {other}"),
        }
    }
    options
}

fn passages(options: &Options) -> Option<Passages> {
    if options.corpus == "phrases" {
        return Some(phrases(options.tokens));
    }
    let folder = shared::shared(&format!("data/{}", options.corpus))?;
    let corpus = Corpus::load(&folder).expect("the collection is sound");
    let texts: Vec<&str> = corpus.passages().iter().map(|p| p.text.as_str()).collect();
    let train = TrainOptions {
        kind: TokenizerKind::Bpe,
        vocab: VOCAB,
    };
    let tokenizer = Tokenizer::train(&texts, train).expect("the collection has enough words");
    let tokens = corpus_tokens(&tokenizer, corpus.passages()).expect("the texts can be tokenised");
    Some(tokens.into_iter().map(|tokens| tokens.body).collect())
}

/// Passages of 160 tokens made of phrases of one to eight tokens; phrases and tokens are drawn from
/// Zipf-like laws, so that short n-grams are frequent and long ones seldom repeat.
fn phrases(tokens: usize) -> Passages {
    let mut rng = stream(0, "bench phrases", &[]);
    let zipf = |rng: &mut Stream, n: usize| {
        // The inverse of the distribution function of 1 / (rank + 2.7).
        let u: f64 = rng.random();
        ((2.7 * ((n as f64 + 2.7) / 2.7).powf(u)) - 2.7) as usize
    };
    let phrases: Passages = (0..tokens / 40)
        .map(|_| {
            let len = rng.random_range(1..=8);
            (0..len)
                .map(|_| TokenId(zipf(&mut rng, VOCAB).min(VOCAB - 1) as u32))
                .collect()
        })
        .collect();
    (0..tokens / 160)
        .map(|_| {
            let mut passage = vec![];
            while passage.len() < 160 {
                passage.extend_from_slice(
                    &phrases[zipf(&mut rng, phrases.len()).min(phrases.len() - 1)],
                );
            }
            passage.truncate(160);
            passage
        })
        .collect()
}

fn build(passages: &Passages, options: IndexOptions, path: &Path) {
    let mut builder = IndexBuilder::new(VOCAB, 0, "", options).expect("the options are valid");
    for passage in passages {
        builder.push("", &[], passage).expect("no passage is empty");
    }
    builder.write(path).expect("the index can be written");
}

/// Per length from 0 a beam of n-grams from random places, and the token that follows each.
fn sample_beams(passages: &Passages, width: usize) -> Vec<Vec<(Vec<TokenId>, TokenId)>> {
    (0..=MAX_LEN)
        .map(|len| {
            let mut rng = stream(1, "bench beams", &[len as u64]);
            let mut beam = vec![];
            while beam.len() < width {
                let passage = &passages[rng.random_range(0..passages.len())];
                let start = rng.random_range(0..passage.len());
                if let Some(&next) = passage.get(start + len) {
                    beam.push((passage[start..start + len].to_vec(), next));
                }
            }
            beam
        })
        .collect()
}

fn measure<I: SubstringIndex>(
    index: &I,
    beams: &[Vec<(Vec<TokenId>, TokenId)>],
    eviction: &mut [u64],
    times: &mut Times,
) {
    let mut out = Continuations::new();
    let (mut tokens, mut counts): (Vec<TokenId>, Vec<u32>) = (vec![], vec![]);
    let mut sink = 0;
    for (len, beam) in beams.iter().enumerate() {
        let find = |ngram: &[TokenId]| index.find(ngram).expect("the n-gram was sampled");
        // States as a search holds them: each made from its parent's continuations.
        let arrive = |ngram: &[TokenId]| -> I::State {
            let mut state = index.root();
            let mut out = Continuations::new();
            for token in ngram {
                index.continuations(&[state], &mut out);
                let row = out.row(0);
                state = row.state(row.tokens.binary_search(token).expect("the token follows"));
            }
            state
        };
        let states: Vec<I::State> = beam.iter().map(|(ngram, _)| arrive(ngram)).collect();
        let mut timed = |what: &'static str, run: &mut dyn FnMut()| {
            eviction
                .iter_mut()
                .for_each(|word| *word = word.wrapping_mul(3));
            for heat in [Heat::Cold, Heat::Warm] {
                let begun = cpu_micros(Clock::Thread);
                run();
                let micros = cpu_micros(Clock::Thread) - begun;
                times.entry((what, len, heat)).or_default().push(micros);
            }
        };
        timed("enumerate", &mut || index.continuations(&states, &mut out));
        timed("copy", &mut || {
            index.continuations(&states, &mut out);
            tokens.clear();
            counts.clear();
            for row in out.iter() {
                tokens.extend_from_slice(row.tokens);
                counts.extend(row.counts().map(|count| count as u32));
            }
        });
        let mut moved: Vec<I::State> = Vec::with_capacity(beam.len());
        timed("step", &mut || {
            moved.clear();
            index.continuations(&states, &mut out);
            for (row, (_, next)) in out.iter().zip(beam) {
                let nth = row.tokens.binary_search(next).expect("the token follows");
                moved.push(row.state(nth));
            }
        });
        timed("extend", &mut || {
            for (state, (_, next)) in states.iter().zip(beam) {
                sink += usize::from(index.advance(*state, *next).is_some());
            }
        });
        timed("research", &mut || {
            for (ngram, _) in beam {
                sink += index.count(find(ngram));
            }
        });
        let rare: Vec<I::State> = states
            .iter()
            .copied()
            .filter(|&s| index.count(s) <= 1000)
            .collect();
        let mut found: Vec<Occurrence> = vec![];
        let located: usize = rare.iter().map(|&state| index.count(state)).sum();
        timed("locate", &mut || {
            for &state in &rare {
                index.occurrences(state, usize::MAX, &mut found);
                sink += found.len();
            }
        });
        // Kept beside the times, so that the report can divide.
        times
            .entry(("located", len, Heat::Cold))
            .or_default()
            .push(located as f64);
    }
    assert!(sink > 0, "the work is not left out");
}

/// The field's index, run as a program.
struct Peer<'a> {
    program: &'a Path,
    index: PathBuf,
    prefixes: PathBuf,
    build_secs: f64,
    bits: f64,
}

impl<'a> Peer<'a> {
    fn build(
        program: &'a Path,
        folder: &Path,
        passages: &Passages,
        beams: &[Vec<(Vec<TokenId>, TokenId)>],
    ) -> Self {
        // Passages reversed, tokens shifted by one, 0 between passages.
        let mut symbols: Vec<u8> = vec![];
        for (i, passage) in passages.iter().enumerate() {
            if i > 0 {
                symbols.extend(0u32.to_le_bytes());
            }
            symbols.extend(
                passage
                    .iter()
                    .rev()
                    .flat_map(|token| (token.0 + 1).to_le_bytes()),
            );
        }
        let text = folder.join("peer.tokens");
        fs::write(&text, symbols).expect("the peer's text can be written");
        let prefixes = folder.join("peer.prefixes");
        let mut lines = fs::File::create(&prefixes).expect("the n-grams can be written");
        for (ngram, _) in beams.iter().flatten() {
            let ids: Vec<String> = ngram
                .iter()
                .map(|token| (token.0 + 1).to_string())
                .collect();
            writeln!(lines, "{}", ids.join(" ")).expect("the n-grams can be written");
        }
        let index = folder.join("peer.idx");
        let said = run(Command::new(program).arg("build").arg(&text).arg(&index));
        let words: Vec<&str> = said.split_whitespace().collect();
        let number = |name: &str| value(&words, name);
        Self {
            program,
            prefixes,
            build_secs: number("build_cpu_s"),
            bits: number("bits_per_token"),
            index,
        }
    }

    fn measure(
        &self,
        index: &NgramIndex,
        beams: &[Vec<(Vec<TokenId>, TokenId)>],
        times: &mut Times,
    ) {
        let width = beams[0].len();
        let mut command = Command::new(self.program);
        command
            .arg("query")
            .arg(&self.index)
            .arg(&self.prefixes)
            .arg(width.to_string());
        let said = run(&mut command);
        let mut ngrams = beams.iter().flatten();
        let mut out = Continuations::new();
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |name: &str| value(&words, name);
            match words[0] {
                "prefix" => {
                    let (ngram, _) = ngrams.next().expect("one line per n-gram");
                    let state = index.find(ngram).expect("the n-gram was sampled");
                    index.continuations(&[state], &mut out);
                    let row = out.row(0);
                    let checksum = (0..row.tokens.len()).fold(0u64, |sum, nth| {
                        let symbol = u64::from(row.tokens[nth].0) + 2;
                        sum.wrapping_add(symbol.wrapping_mul(1_000_003) ^ row.count(nth) as u64)
                    });
                    // The peer counts separators and the sentinel in the empty n-gram.
                    let counts = ngram.is_empty() || number("count") == index.count(state) as f64;
                    assert!(counts, "count of {ngram:?}: {line}");
                    assert_eq!(number("distinct"), row.tokens.len() as f64, "{ngram:?}");
                    assert_eq!(words[7].parse(), Ok(checksum), "{ngram:?}");
                }
                "block" => {
                    let len = number("length") as usize;
                    for what in [
                        "enumerate_alloc_us",
                        "enumerate_best_us",
                        "extend_us",
                        "research_us",
                    ] {
                        times
                            .entry((what, len, Heat::Warm))
                            .or_default()
                            .push(number(what));
                    }
                }
                "locate_ns" => times
                    .entry(("locate_ns", 0, Heat::Warm))
                    .or_default()
                    .push(number("locate_ns")),
                _ => {}
            }
        }
        assert!(ngrams.next().is_none(), "one line per n-gram");
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the peer starts");
    assert!(
        output.status.success(),
        "the peer failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("the peer writes text")
}

/// The number behind `name`.
fn value(words: &[&str], name: &str) -> f64 {
    let at = words
        .iter()
        .position(|word| *word == name)
        .expect("the peer names its numbers");
    words[at + 1].parse().expect("a number follows its name")
}

fn report(ours: &Times, theirs: &Times, beam: usize) {
    let median = |times: &Times, what: &'static str, len: usize, heat: Heat| {
        let mut values = times.get(&(what, len, heat))?.clone();
        values.sort_by(f64::total_cmp);
        Some(values[values.len() / 2])
    };
    let our = |what, len, heat| median(ours, what, len, heat).unwrap_or(f64::NAN);
    let total = |what, heat| (1..MAX_LEN).map(|len| our(what, len, heat)).sum::<f64>();
    for (heat, name) in [(Heat::Cold, "cold"), (Heat::Warm, "warm")] {
        println!("\nmicroseconds per step of {beam} n-grams, {name}");
        println!("length  enumerate  with copy       step     extend  from scratch");
        let kinds = ["enumerate", "copy", "step", "extend", "research"];
        for len in 0..=MAX_LEN {
            let [a, b, c, d, e] = kinds.map(|what| our(what, len, heat));
            println!("{len:6} {a:10.1} {b:10.1} {c:10.1} {d:10.1} {e:13.1}");
        }
        let [a, b, c, d, e] = kinds.map(|what| total(what, heat));
        println!("   1-9 {a:10.1} {b:10.1} {c:10.1} {d:10.1} {e:13.1}");
        println!(
            "locate {:10.1} ns per occurrence of n-grams of 1 to 3 tokens",
            locate(ours, heat)
        );
    }
    if theirs.is_empty() {
        return;
    }
    let peer = |what, len| median(theirs, what, len, Heat::Warm).unwrap_or(f64::NAN);
    println!("\npeer, microseconds, and how many times ours, cold");
    println!("length  enumerate          of copy     extend");
    for len in 1..=MAX_LEN {
        let (best, extend) = (peer("enumerate_best_us", len), peer("extend_us", len));
        println!(
            "{len:6} {best:10.1} {:7.1}x {:7.1}x {extend:10.1} {:7.1}x",
            best / our("enumerate", len, Heat::Cold),
            best / our("copy", len, Heat::Cold),
            // The peer extends to this length, we from it.
            extend / our("extend", len - 1, Heat::Cold)
        );
    }
    let sum = |what| (1..MAX_LEN).map(|len| peer(what, len)).sum::<f64>();
    let enumerate = sum("enumerate_best_us");
    let best = enumerate + sum("extend_us");
    let called = sum("enumerate_alloc_us") + 2.0 * sum("research_us");
    println!("sum of lengths 1-9          ours cold  ours warm");
    let ratios = |name: &str, peer: f64, what| {
        let [cold, warm] = [Heat::Cold, Heat::Warm].map(|heat| peer / total(what, heat));
        println!("  {name:25} {cold:8.1}x {warm:8.1}x");
    };
    ratios("step, peer at its best", best, "step");
    ratios("step, peer as called", called, "step");
    ratios("enumerate", enumerate, "enumerate");
    ratios("enumerate with copy", enumerate, "copy");
    ratios("extend", sum("extend_us"), "extend");
    ratios("from scratch", sum("research_us"), "research");
    let [cold, warm] =
        [Heat::Cold, Heat::Warm].map(|heat| peer("locate_ns", 0) / locate(ours, heat));
    println!("  {:25} {cold:8.1}x {warm:8.1}x", "locate");
}

/// Nanoseconds per occurrence, over all rounds.
fn locate(times: &Times, heat: Heat) -> f64 {
    let sum = |what, heat| -> f64 {
        (1..=3)
            .filter_map(|len| times.get(&(what, len, heat)))
            .flatten()
            .sum()
    };
    sum("locate", heat) * 1e3 / sum("located", Heat::Cold)
}

enum Clock {
    Process = 2,
    Thread = 3,
}

/// CPU time in microseconds; the standard library has only wall time, which a shared machine spoils.
fn cpu_micros(clock: Clock) -> f64 {
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0i64; 2];
    // SAFETY: on 64-bit Linux a timespec is two 64-bit integers, and `time` may be written.
    let failed = unsafe { clock_gettime(clock as i32, &mut time) };
    assert_eq!(failed, 0, "the clock exists");
    time[0] as f64 * 1e6 + time[1] as f64 / 1e3
}
