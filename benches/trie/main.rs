//! The tree of identifiers: building, memory, a step of beam search.
//!
//! ```text
//! cargo bench --bench trie -- [N [LEVELS [CODES]]]             alone
//! cargo bench --bench trie -- serve FILE N LEVELS CODES        driven by peers/trie_python.py
//! ```
//! Identifiers are drawn: codes prefer small numbers, and three in ten differ from the one before in their last codes
//! alone. `serve` writes them to FILE, a byte per code, and then reads a depth per line of stdin: it answers with the
//! CPU time of a step of 100 prefixes of that depth, bare and with a mask over the vocabulary, so that runs of the two programs alternate.

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use genret::index::TrieFile;

#[path = "../index/clock.rs"]
#[expect(
    dead_code,
    reason = "the clock of the process serves the other benchmarks"
)]
mod clock;
mod identifiers;

use identifiers::{BEAMS, build, draw, prefixes, step};

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

fn alone(n: usize, levels: usize, codes: usize) {
    let all = draw(n, levels, codes);
    let begun = Instant::now();
    let trie = build(&all, levels, codes, codes);
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
    let (sets, _) = prefixes(file.trie(), &all, levels, codes);
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
    let trie = build(&all, levels, codes, codes);
    let sets = {
        let secs = begun.elapsed().as_secs_f64();
        println!("{secs}");
        prefixes(&trie, &all, levels, codes).0
    };
    for line in std::io::stdin().lock().lines() {
        let depth: usize = line.expect("stdin").trim().parse().expect("a depth");
        let [bare, masked] = [false, true].map(|masked| step(&trie, &sets[depth], masked).0);
        println!("{bare} {masked}");
    }
}
