//! Decoding over the tree of identifiers: nothing but identifiers comes out, and the best of them.

#[path = "common/table_model.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod table_model;
#[path = "common/trie.rs"]
mod trie;

use std::collections::{BTreeMap, HashSet};

use genret::decode::{Constraint, DecodeOptions, Decoded, beam_search};
use genret::index::{Trie, TrieBuilder};
use genret::rng::stream;
use genret::types::TokenId;
use rand::RngExt;
use table_model::TableModel;

const TEXT: u32 = 10;

/// `n` random identifiers of up to `longest` codes below `codes`, no one the beginning of another, and their tree.
fn identifiers(seed: u64, n: usize, longest: usize, codes: u32) -> (Vec<Vec<TokenId>>, Trie) {
    let mut rng = stream(seed, "identifiers", &[]);
    let mut builder = TrieBuilder::new(codes as usize + 1, codes as usize + 1).unwrap();
    let ids = (0..n).map(|_| {
        let len = rng.random_range(1..longest);
        let mut id: Vec<u32> = (0..len).map(|_| rng.random_range(0..codes)).collect();
        id.push(codes); // The end.
        builder.push(&id).unwrap();
        let tokens = (0..)
            .zip(&id)
            .map(|(at, code)| TokenId(TEXT + at * (codes + 1) + code));
        tokens.collect()
    });
    let ids = ids.collect();
    (ids, builder.finish().unwrap().shifted(TEXT).unwrap())
}

fn options(beam_width: usize, longest: usize) -> DecodeOptions {
    DecodeOptions {
        beam_width,
        max_new_tokens: longest,
        ..DecodeOptions::default()
    }
}

/// What a search found, without its states.
fn found<S>(decoded: &[Decoded<S>]) -> Vec<Vec<(Vec<TokenId>, f64)>> {
    let of_query = |decoded: &Decoded<S>| {
        let finished = decoded.finished.iter();
        finished.map(|h| (h.tokens.clone(), h.log_prob)).collect()
    };
    decoded.iter().map(of_query).collect()
}

#[test]
fn a_search_finds_what_it_finds_over_the_plain_tree() {
    for seed in 0..4 {
        let (ids, tree) = identifiers(seed, 400, 6, 4);
        let plain = trie::Trie::new(&ids);
        let model = TableModel {
            vocab: tree.vocab_size(),
            seed,
        };
        let prompts: Vec<Vec<TokenId>> = (0..5).map(|p| vec![TokenId(p), TokenId(p + 1)]).collect();
        let prompts: Vec<&[TokenId]> = prompts.iter().map(Vec::as_slice).collect();
        for beam in [1, 3, 20, 1000] {
            fn search<C: Constraint>(
                model: &TableModel,
                constraint: &C,
                prompts: &[&[TokenId]],
                options: &DecodeOptions,
            ) -> Vec<Vec<(Vec<TokenId>, f64)>> {
                found(&beam_search(model, constraint, prompts, options).unwrap())
            }
            let options = options(beam, tree.longest());
            let flat = search(&model, &tree, &prompts, &options);
            assert_eq!(flat, search(&model, &plain, &prompts, &options));
            if beam < 1000 {
                continue;
            }
            // So wide a beam finds every identifier, with its probability.
            for (prompt, found) in prompts.iter().zip(&flat) {
                let found: BTreeMap<_, _> = found.iter().cloned().collect();
                let different: HashSet<_> = ids.iter().collect();
                assert_eq!(found.len(), different.len());
                for id in &ids {
                    let expected = model.log_prob(prompt, id);
                    assert!((found[id] - expected).abs() < 1e-4, "{id:?}");
                }
            }
        }
    }
}

/// Decodes `queries` prompts, 50 identifiers each; all of them are identifiers, none comes twice for a prompt.
fn all_exist(queries: u32) {
    let (ids, tree) = identifiers(7, 3000, 6, 6);
    let ids: HashSet<Vec<TokenId>> = ids.into_iter().collect();
    let model = TableModel {
        vocab: tree.vocab_size(),
        seed: 1,
    };
    let options = options(50, tree.longest());
    let mut decoded = 0;
    for first in (0..queries).step_by(100) {
        let prompts: Vec<Vec<TokenId>> = (first..first + 100)
            .map(|p| vec![TokenId(p % TEXT), TokenId(p / TEXT)])
            .collect();
        let prompts: Vec<&[TokenId]> = prompts.iter().map(Vec::as_slice).collect();
        for of_query in found(&beam_search(&model, &tree, &prompts, &options).unwrap()) {
            let different: HashSet<&Vec<TokenId>> = of_query.iter().map(|f| &f.0).collect();
            assert_eq!((of_query.len(), different.len()), (50, 50));
            assert!(different.into_iter().all(|id| ids.contains(id)));
            decoded += of_query.len();
        }
    }
    assert_eq!(decoded, queries as usize * 50);
}

#[test]
fn every_identifier_that_is_written_exists() {
    all_exist(400);
}

#[test]
#[ignore = "a million; cargo test --release --test docids -- --ignored"]
fn a_million_identifiers_that_are_written_exist() {
    all_exist(20_000);
}
