//! The tree of identifiers: building, memory, a step of beam search.
//!
//! ```text
//! cargo bench --bench trie -- [N [LEVELS [CODES]]]             alone
//! cargo bench --bench trie -- serve FILE N LEVELS CODES        driven by peers/trie_python.py
//! ```
//! Identifiers are drawn: codes prefer small numbers, and three in ten differ from the one before in their last codes
//! alone. `serve` writes them to FILE, a byte per code, and then reads a depth per line of stdin: it answers with the
//! CPU time of a step of 100 prefixes of that depth, bare and with a mask over the vocabulary, so that runs of the two programs alternate.

use std::hint::black_box;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use genret::index::{Continuations, Trie, TrieBuilder, TrieFile, TrieState};
use genret::rng::stream;
use genret::types::TokenId;
use rand::RngExt;

#[path = "index/clock.rs"]
#[expect(
    dead_code,
    reason = "the clock of the process serves the other benchmarks"
)]
mod clock;

use clock::{Clock, cpu_micros};

const BEAMS: usize = 100;
/// Different sets of prefixes, so that they do not all stay in the cache.
const SETS: usize = 200;

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let number = |at: usize, otherwise: usize| -> usize {
        args.get(at)
            .map_or(otherwise, |a| a.parse().expect("a number"))
    };
    if args.first().is_some_and(|a| a == "serve") {
        let (n, levels, codes) = (number(2, 0), number(3, 0), number(4, 0));
        serve(Path::new(&args[1]), n, levels, codes);
    } else {
        alone(number(0, 1_000_000), number(1, 32), number(2, 256));
    }
}

/// `n` identifiers of `levels` codes below `codes`, one after the other.
fn draw(n: usize, levels: usize, codes: usize) -> Vec<u32> {
    let mut rng = stream(1, "trie bench", &[]);
    let mut all: Vec<u32> = Vec::with_capacity(n * levels);
    for id in 0..n {
        let like = id > 0 && rng.random_range(0..10) < 3;
        let first = if like { levels - levels.div_ceil(8) } else { 0 };
        let before = id.wrapping_sub(1).wrapping_mul(levels);
        for level in 0..levels {
            if level < first {
                all.push(all[before + level]);
            } else {
                let x: f64 = rng.random();
                all.push((x * x.sqrt() * codes as f64) as u32);
            }
        }
    }
    all
}

fn build(all: &[u32], levels: usize, codes: usize) -> Trie {
    let mut builder = TrieBuilder::new(codes, codes).expect("an alphabet");
    for id in all.chunks_exact(levels) {
        builder.push(id).expect("codes of the alphabet");
    }
    builder.finish().expect("not too many")
}

/// Sets of prefixes of every depth: of random identifiers.
fn prefixes(trie: &Trie, all: &[u32], levels: usize, codes: usize) -> Vec<Vec<Vec<TrieState>>> {
    let mut rng = stream(2, "trie bench", &[]);
    let n = all.len() / levels;
    let mut sets = vec![vec![vec![]; SETS]; levels];
    let mut out = Continuations::new();
    for set in 0..SETS {
        let ids: Vec<usize> = (0..BEAMS).map(|_| rng.random_range(0..n)).collect();
        let mut states = vec![trie.root(); BEAMS];
        for (depth, sets) in sets.iter_mut().enumerate() {
            sets[set] = states.clone();
            trie.continuations(&states, &mut out);
            for ((state, id), row) in states.iter_mut().zip(&ids).zip(out.iter()) {
                let token = TokenId((depth * codes) as u32 + all[id * levels + depth]);
                let nth = row.tokens.binary_search(&token);
                *state = row.state(nth.expect("an identifier that was put in"));
            }
        }
    }
    sets
}

/// CPU microseconds of one step of 100 prefixes, and the continuations it gave; with a mask over the vocabulary, as a
/// logits processor makes, or without.
fn step(trie: &Trie, sets: &[Vec<TrieState>], masked: bool) -> (f64, usize) {
    let mut out = Continuations::new();
    let mut given = 0;
    let mut mask = vec![];
    let begun = cpu_micros(Clock::Thread);
    for set in sets {
        trie.continuations(set, &mut out);
        if masked {
            out.mask_rows(trie.vocab_size(), &mut mask);
            black_box(&mask);
        }
        // What a beam search reads of it: every token, the states of a few.
        for row in out.iter() {
            given += row.tokens.len();
            if let Some(last) = row.tokens.len().checked_sub(1) {
                black_box(row.state(last));
            }
        }
    }
    let micros = (cpu_micros(Clock::Thread) - begun) / sets.len() as f64;
    (micros, given / sets.len())
}

fn alone(n: usize, levels: usize, codes: usize) {
    let all = draw(n, levels, codes);
    let begun = Instant::now();
    let trie = build(&all, levels, codes);
    let built = begun.elapsed().as_secs_f64();
    println!(
        "{n} identifiers of {levels} codes below {codes}, {} different",
        trie.num_ids()
    );
    println!("built in {built:.1} s");
    let path = std::env::temp_dir().join(format!("genret-trie-{}", std::process::id()));
    let begun = Instant::now();
    let ids = std::iter::repeat_n("", n);
    TrieFile::write(&path, &trie, ids, 0, "", &[]).expect("a writable temporary folder");
    println!("written in {:.1} s", begun.elapsed().as_secs_f64());
    drop(trie);
    let begun = Instant::now();
    let file = TrieFile::open(&path).expect("what was written");
    println!("opened in {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    let external = ["id ends", "ids"];
    let parts = file.parts().filter(|(name, _)| !external.contains(name));
    let parts: Vec<(&str, usize)> = parts.collect();
    let bytes: usize = parts.iter().map(|part| part.1).sum();
    println!(
        "{:.1} bytes per identifier without external ids",
        bytes as f64 / n as f64
    );
    for (name, bytes) in parts {
        println!("  {name:<18} {:>6.2}", bytes as f64 / n as f64);
    }
    let sets = prefixes(file.trie(), &all, levels, codes);
    println!("step of {BEAMS} prefixes: depth, microseconds, continuations");
    for (depth, sets) in sets.iter().enumerate() {
        let mut rounds: Vec<(f64, usize)> =
            (0..5).map(|_| step(file.trie(), sets, false)).collect();
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (micros, given) = rounds[2];
        println!("  {depth:>3} {:>8.2} {given:>8}", micros);
    }
    std::fs::remove_file(&path).expect("what was written");
}

fn serve(path: &Path, n: usize, levels: usize, codes: usize) {
    let all = draw(n, levels, codes);
    let bytes: Vec<u8> = all.iter().map(|&code| code as u8).collect();
    std::fs::write(path, bytes).expect("a writable file");
    let begun = Instant::now();
    let trie = build(&all, levels, codes);
    let sets = {
        let secs = begun.elapsed().as_secs_f64();
        println!("{secs}");
        prefixes(&trie, &all, levels, codes)
    };
    for line in std::io::stdin().lock().lines() {
        let depth: usize = line.expect("stdin").trim().parse().expect("a depth");
        let [bare, masked] = [false, true].map(|masked| step(&trie, &sets[depth], masked).0);
        println!("{bare} {masked}");
    }
}
