//! The tree of identifiers beside the crate constraint-decoding-trie (STATIC), on the same identifiers and prefixes, in turn.
//!
//! ```text
//! RAYON_NUM_THREADS=1 cargo run --release --manifest-path benches/peers/trie_static/Cargo.toml -- [N [LEVELS [CODES]]]
//! ```
//! CPU time of a step of 100 prefixes per depth. Bare: the continuations with their states here, the children of nodes there. As decoding makes
//! it: rows of bits over the vocabulary here; there what its decoder looks up, bytes over the vocabulary and the nodes that follow.

use std::hint::black_box;

use constraint_decoding_trie::decoder::ConstrainedDecoder;
use constraint_decoding_trie::transition::build_static_index;
use constraint_decoding_trie::types::{BeamState, TransitionMatrix};

#[path = "../../../index/clock.rs"]
mod clock;
#[path = "../../../trie/identifiers.rs"]
mod identifiers;

use clock::{Clock, cpu_micros};
use identifiers::{BEAMS, SETS, build, draw, prefixes, step};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: usize| -> usize {
        args.get(at)
            .map_or(otherwise, |a| a.parse().expect("a number"))
    };
    beside_static(number(0, 100_000), number(1, 32), number(2, 256));
}

fn beside_static(n: usize, levels: usize, codes: usize) {
    let all = draw(n, levels, codes);
    // Tokens mean the same at every position there.
    let trie = build(&all, levels, codes, 0);
    let (sets, drawn) = prefixes(&trie, &all, levels, 0);
    let ids: Vec<Vec<u32>> = all.chunks_exact(levels).map(<[u32]>::to_vec).collect();
    let begun = cpu_micros(Clock::Process);
    let index = build_static_index(&ids, codes as u32, levels as u32, 2);
    let built = (cpu_micros(Clock::Process) - begun) / 1e6;
    let matrix = &index.sparse;
    let bytes = 4 * matrix.row_pointers.len() + 8 * matrix.data.len();
    let dense = 8 * index.dense.bits.len() + 4 * index.dense.states.len();
    println!(
        "{} different identifiers of {levels} codes below {codes}; there: built in {built:.1} s of CPU, {:.1} bytes per identifier and {dense} for the first two levels",
        trie.num_ids(),
        bytes as f64 / trie.num_ids() as f64
    );
    let decoder = ConstrainedDecoder::new(index.clone(), BEAMS, 1);
    println!(
        "step of {BEAMS} prefixes, CPU us: depth, genret bare, children there; genret with mask, step there"
    );
    for depth in 0..levels {
        let states: Vec<BeamState> = drawn
            .iter()
            .map(|set| beams(matrix, &ids, set, depth))
            .collect();
        let mut rounds = vec![];
        for _ in 0..5 {
            let (bare, given) = step(&trie, &sets[depth], false);
            let (masked, _) = step(&trie, &sets[depth], true);
            let begun = cpu_micros(Clock::Process);
            let mut theirs = 0;
            for state in &states {
                for &node in &state.nodes[0] {
                    let children = matrix.children(node);
                    theirs += children.len();
                    black_box(children.last());
                }
            }
            let children = (cpu_micros(Clock::Process) - begun) / SETS as f64;
            assert_eq!(theirs / SETS, given, "the same continuations");
            // Their step is slow enough for a tenth of the sets.
            let some = &states[..SETS / 10];
            let begun = cpu_micros(Clock::Process);
            for state in some {
                if depth < 2 {
                    black_box(decoder.dense_lookup(state, depth));
                } else {
                    black_box(decoder.sparse_lookup(state, depth));
                }
            }
            let stepped = (cpu_micros(Clock::Process) - begun) / some.len() as f64;
            rounds.push([bare, children, masked, stepped]);
        }
        let median = |at: usize| {
            let mut values: Vec<f64> = rounds.iter().map(|round| round[at]).collect();
            values.sort_by(f64::total_cmp);
            values[2]
        };
        println!(
            "  {depth:>3} {:>8.2} {:>8.2}   {:>8.2} {:>10.1}",
            median(0),
            median(1),
            median(2),
            median(3)
        );
    }
}

/// The first `depth` codes of some identifiers as the hypotheses of the peer's beam search.
fn beams(matrix: &TransitionMatrix, ids: &[Vec<u32>], set: &[usize], depth: usize) -> BeamState {
    let mut state = BeamState::new(1, set.len());
    for (beam, &id) in set.iter().enumerate() {
        let prefix = &ids[id][..depth];
        let walk = |node, &token: &u32| matrix.next_node(node, token).expect("it was put in");
        state.nodes[0][beam] = prefix.iter().fold(0, walk);
        state.tokens[0][beam] = prefix.to_vec();
    }
    state
}
