//! Drawn identifiers, their tree, and a step through it: shared with peers/trie_static.

use std::hint::black_box;

use genret::index::{Continuations, Trie, TrieBuilder, TrieState};
use genret::rng::stream;
use genret::types::TokenId;
use rand::RngExt;

use super::clock::{Clock, cpu_micros};

/// Prefixes of a step.
pub const BEAMS: usize = 100;
/// Different sets of prefixes, so that they do not all stay in the cache.
pub const SETS: usize = 200;

/// `n` identifiers of `levels` codes below `codes`, one after the other.
pub fn draw(n: usize, levels: usize, codes: usize) -> Vec<u32> {
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

/// The tree of them; a code's token grows by `stride` from position to position.
pub fn build(all: &[u32], levels: usize, codes: usize, stride: usize) -> Trie {
    let mut builder = TrieBuilder::new(codes, stride).expect("an alphabet");
    for id in all.chunks_exact(levels) {
        builder.push(id).expect("codes of the alphabet");
    }
    builder.finish().expect("not too many")
}

/// Sets of prefixes of every depth, of random identifiers, and which those are; a code's token grows by `stride` from
/// position to position.
pub fn prefixes(
    trie: &Trie,
    all: &[u32],
    levels: usize,
    stride: usize,
) -> (Vec<Vec<Vec<TrieState>>>, Vec<Vec<usize>>) {
    let mut rng = stream(2, "trie bench", &[]);
    let n = all.len() / levels;
    let mut sets = vec![vec![vec![]; SETS]; levels];
    let mut drawn = vec![];
    let mut out = Continuations::new();
    for set in 0..SETS {
        let ids: Vec<usize> = (0..BEAMS).map(|_| rng.random_range(0..n)).collect();
        let mut states = vec![trie.root(); BEAMS];
        for (depth, sets) in sets.iter_mut().enumerate() {
            sets[set] = states.clone();
            trie.continuations(&states, &mut out);
            for ((state, id), row) in states.iter_mut().zip(&ids).zip(out.iter()) {
                let token = TokenId((depth * stride) as u32 + all[id * levels + depth]);
                let nth = row.tokens.binary_search(&token);
                *state = row.state(nth.expect("an identifier that was put in"));
            }
        }
        drawn.push(ids);
    }
    (sets, drawn)
}

/// CPU microseconds of one step of 100 prefixes, and the continuations it gave; with a mask over the vocabulary, as a
/// logits processor makes, or without.
pub fn step(trie: &Trie, sets: &[Vec<TrieState>], masked: bool) -> (f64, usize) {
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
