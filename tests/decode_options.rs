//! Every option of the search against the same search written with sets of sequences.

#[path = "common/table_model.rs"]
mod table_model;
#[path = "common/trie.rs"]
mod trie;

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;
use genret::decode::{
    Constraint, DecodeOptions, FreeText, Normalise, SampleOptions, beam_search, best_of_queries,
    every_ngram, sample,
};
use genret::index::{Continuations, IndexBuilder, IndexOptions, NgramIndex, SubstringIndex};
use genret::model::{Model, ModelOptions, NextTokenModel};
use genret::types::TokenId;
use table_model::{TableModel, random_passages};
use trie::Trie;

const VOCAB: usize = 12;
const END: TokenId = TokenId(1);

fn index_of(passages: &[Vec<TokenId>]) -> NgramIndex {
    let mut builder = IndexBuilder::new(VOCAB, 1, "test", IndexOptions::default()).unwrap();
    for (i, passage) in passages.iter().enumerate() {
        builder.push(&format!("p{i}"), &[], passage).unwrap();
    }
    builder.into_index().unwrap()
}

fn table(seed: u64) -> TableModel {
    TableModel { vocab: VOCAB, seed }
}

fn llama(seed: u64, vocab: usize) -> Model {
    let options = ModelOptions {
        n_layers: Some(2),
        d_model: Some(32),
        n_heads: Some(4),
        ..Default::default()
    };
    options.resolve(vocab).unwrap().init(seed, &Device::flex())
}

/// Every n-gram of up to `longest` tokens.
fn ngrams(passages: &[Vec<TokenId>], longest: usize) -> BTreeSet<Vec<TokenId>> {
    let mut found = BTreeSet::new();
    for passage in passages {
        for start in 0..passage.len() {
            for len in 1..=longest.min(passage.len() - start) {
                found.insert(passage[start..start + len].to_vec());
            }
        }
    }
    found
}

const PROMPT: [TokenId; 2] = [TokenId(3), TokenId(2)];

/// Identifiers, each ended by END; some begin others.
fn identifiers(seed: u64) -> Vec<Vec<TokenId>> {
    let mut all: Vec<Vec<TokenId>> = random_passages(seed, 25, 5, VOCAB as u32)
        .into_iter()
        .map(|tokens| {
            let mut id: Vec<TokenId> = tokens.into_iter().filter(|t| *t != END).collect();
            id.push(END);
            id
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn identifiers_are_found_as_by_exhaustive_scoring() {
    for seed in 0..10 {
        let ids = identifiers(seed);
        let model = table(seed);
        for length_penalty in [0.0, 1.0, -0.5] {
            for min_new_tokens in [1, 3] {
                let options = DecodeOptions {
                    beam_width: 40,
                    max_new_tokens: 6,
                    min_new_tokens,
                    length_penalty,
                    ..DecodeOptions::default()
                };
                let mut expected: Vec<(Vec<TokenId>, f64)> = ids
                    .iter()
                    .filter(|id| id.len() >= min_new_tokens)
                    .map(|id| {
                        let sum = model.log_prob(&PROMPT, id);
                        (id.clone(), sum / (id.len() as f64).powf(length_penalty))
                    })
                    .collect();
                expected.sort_by(|a, b| b.1.total_cmp(&a.1));
                let trie = Trie::new(&ids);
                let decoded = beam_search(&model, &trie, &[&PROMPT], &options).unwrap();
                let finished = &decoded[0].finished;
                assert_eq!(finished.len(), expected.len());
                for (found, (id, score)) in finished.iter().zip(&expected) {
                    assert_eq!(&found.tokens, id);
                    assert!((options.score(found.log_prob, id.len()) - score).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn stopping_when_decided_changes_nothing() {
    let mut ended_early = 0;
    for seed in 0..40 {
        let ids = identifiers(seed);
        let trie = Trie::new(&ids);
        let model = table(seed);
        for length_penalty in [0.0, 1.0, -1.0] {
            let options = DecodeOptions {
                beam_width: 3,
                max_new_tokens: 6,
                length_penalty,
                ..DecodeOptions::default()
            };
            let decoded = &beam_search(&model, &trie, &[&PROMPT], &options).unwrap()[0];
            // The same search with lists, always to the end.
            let mut beam: Vec<Vec<TokenId>> = vec![vec![]];
            let mut finished: Vec<(Vec<TokenId>, f64)> = vec![];
            for _ in 0..6 {
                let mut candidates: Vec<(Vec<TokenId>, f64)> = vec![];
                for tokens in &beam {
                    for token in (0..VOCAB as u32).map(TokenId) {
                        let mut longer = tokens.clone();
                        longer.push(token);
                        if ids.iter().any(|id| id.starts_with(&longer)) {
                            let log_prob = model.log_prob(&PROMPT, &longer);
                            candidates.push((longer, log_prob));
                        }
                    }
                }
                candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
                candidates.truncate(6);
                beam.clear();
                for (rank, (tokens, log_prob)) in candidates.into_iter().enumerate() {
                    if tokens.ends_with(&[END]) {
                        if rank < 3 {
                            let score = options.score(log_prob, tokens.len());
                            finished.push((tokens, score));
                        }
                    } else if beam.len() < 3 {
                        beam.push(tokens);
                    }
                }
            }
            finished.sort_by(|a, b| b.1.total_cmp(&a.1));
            finished.truncate(3);
            let found: Vec<_> = decoded.finished.iter().map(|h| &h.tokens).collect();
            let expected: Vec<_> = finished.iter().map(|(tokens, _)| tokens).collect();
            assert_eq!(
                found, expected,
                "seed {seed}, length penalty {length_penalty}"
            );
            let longest = decoded.harvest.iter().map(|h| h.tokens.len()).max();
            ended_early += usize::from(longest < Some(ids.iter().map(Vec::len).max().unwrap()));
        }
    }
    assert!(ended_early > 10, "{ended_early}");
}

#[test]
fn identifiers_that_begin_others_end_and_go_on() {
    let ids = |s: &[u32]| -> Vec<TokenId> { s.iter().copied().map(TokenId).collect() };
    let trie = Trie::new(&[ids(&[2]), ids(&[2, 3]), ids(&[2, 3, 4]), ids(&[5, 6])]);
    let options = DecodeOptions {
        beam_width: 10,
        max_new_tokens: 5,
        ..DecodeOptions::default()
    };
    let decoded = beam_search(&table(1), &trie, &[&PROMPT], &options).unwrap();
    let found: BTreeSet<Vec<TokenId>> = decoded[0]
        .finished
        .iter()
        .map(|h| h.tokens.clone())
        .collect();
    let expected = [ids(&[2]), ids(&[2, 3]), ids(&[2, 3, 4]), ids(&[5, 6])];
    assert_eq!(found, BTreeSet::from(expected));
    assert!(decoded[0].last.is_empty());
}

#[test]
fn groups_are_diverse_beam_search() {
    for seed in 0..20 {
        let passages = random_passages(seed, 10, 20, VOCAB as u32);
        let index = index_of(&passages);
        let all = ngrams(&passages, 5);
        let model = table(seed);
        let (width, groups, penalty) = (6, 3, 1.5);
        let options = DecodeOptions {
            beam_width: width,
            groups,
            diversity_penalty: penalty,
            max_new_tokens: 5,
            ..DecodeOptions::default()
        };
        let decoded = &beam_search(&model, &index, &[&PROMPT], &options).unwrap()[0];
        // The same, written with lists.
        let share = width / groups;
        let mut beams: Vec<Vec<Vec<TokenId>>> = vec![vec![vec![]]; groups];
        let mut harvest: Vec<Vec<TokenId>> = vec![];
        for _ in 0..5 {
            let mut taken: BTreeMap<TokenId, usize> = BTreeMap::new();
            for beam in &mut beams {
                let mut candidates = vec![];
                for tokens in beam.iter() {
                    for token in (0..VOCAB as u32).map(TokenId) {
                        let mut longer = tokens.clone();
                        longer.push(token);
                        if all.contains(&longer) {
                            let times = taken.get(&token).copied().unwrap_or(0) as f64;
                            let rank = model.log_prob(&PROMPT, &longer) - penalty * times;
                            candidates.push((longer, rank));
                        }
                    }
                }
                candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
                candidates.truncate(2 * share);
                for (tokens, _) in &candidates {
                    if !harvest.contains(tokens) {
                        harvest.push(tokens.clone());
                    }
                }
                *beam = candidates.into_iter().take(share).map(|c| c.0).collect();
                for tokens in beam.iter() {
                    *taken.entry(tokens[tokens.len() - 1]).or_default() += 1;
                }
            }
        }
        let found: Vec<_> = decoded.harvest.iter().map(|h| h.tokens.clone()).collect();
        assert_eq!(found, harvest, "seed {seed}");
        for h in &decoded.harvest {
            // Penalties choose; they do not change what is reported.
            assert!((h.log_prob - model.log_prob(&PROMPT, &h.tokens)).abs() < 1e-5);
        }
    }
}

#[test]
fn the_head_of_few_tokens_equals_the_whole_head() {
    // A large vocabulary of which the corpus uses a little, so that few rows of the head are needed.
    let vocab = 400;
    let passages = random_passages(4, 30, 30, 60);
    let mut builder = IndexBuilder::new(vocab, 1, "test", IndexOptions::default()).unwrap();
    for (i, passage) in passages.iter().enumerate() {
        builder.push(&format!("p{i}"), &[], passage).unwrap();
    }
    let index = builder.into_index().unwrap();
    let model = llama(4, vocab);
    let options = |normalise| DecodeOptions {
        beam_width: 5,
        max_new_tokens: 4,
        normalise,
        ..DecodeOptions::default()
    };
    let prompts: [&[TokenId]; 2] = [&PROMPT, &[TokenId(9)]];
    let decoded = beam_search(&model, &index, &prompts, &options(Normalise::Allowed)).unwrap();
    for (prompt, decoded) in prompts.iter().zip(&decoded) {
        for found in &decoded.harvest {
            // The definition: at each step softmax over the tokens that continue the n-gram.
            let all = ngrams(&passages, 4);
            let mut expected = 0.0;
            for at in 0..found.tokens.len() {
                let before = &found.tokens[..at];
                let allowed: Vec<&Vec<TokenId>> = all
                    .iter()
                    .filter(|n| n.len() == at + 1 && n.starts_with(before))
                    .collect();
                let losses = genret::decode::target_losses(&model, prompt, &allowed).unwrap();
                let log_probs: Vec<f64> = losses.iter().map(|l| -f64::from(l[at])).collect();
                let sum: f64 = log_probs.iter().map(|l| l.exp()).sum();
                let own = allowed.iter().position(|n| n[at] == found.tokens[at]);
                expected += log_probs[own.unwrap()] - sum.ln();
            }
            assert!(
                (found.log_prob - expected).abs() < 1e-4,
                "{} {expected}",
                found.log_prob
            );
        }
    }
}

#[test]
fn the_exhaustive_walk_scores_every_ngram_once() {
    let passages = random_passages(6, 12, 20, VOCAB as u32);
    let index = index_of(&passages);
    let model = table(6);
    let all = ngrams(&passages, 4);
    let walked = every_ngram(&model, &index, &PROMPT, 4, Normalise::Full).unwrap();
    assert_eq!(walked.len(), all.len());
    for found in &walked {
        assert!(all.contains(&found.tokens));
        assert!((found.log_prob - model.log_prob(&PROMPT, &found.tokens)).abs() < 1e-5);
    }
    let options = DecodeOptions {
        beam_width: 1000,
        max_new_tokens: 4,
        normalise: Normalise::Allowed,
        ..DecodeOptions::default()
    };
    let wide = &beam_search(&model, &index, &[&PROMPT], &options).unwrap()[0].harvest;
    let walked = every_ngram(&model, &index, &PROMPT, 4, Normalise::Allowed).unwrap();
    let scores: BTreeMap<_, f64> = walked.into_iter().map(|h| (h.tokens, h.log_prob)).collect();
    assert_eq!(scores.len(), wide.len());
    for found in wide {
        assert!((scores[&found.tokens] - found.log_prob).abs() < 1e-5);
    }
}

#[test]
fn draws_follow_the_distribution_and_repeat() {
    let model = table(2);
    let text = FreeText::new(VOCAB, END, &[TokenId(0)]);
    let options = DecodeOptions {
        max_new_tokens: 3,
        ..DecodeOptions::default()
    };
    let draw = |sampling: SampleOptions, prompts: &[&[TokenId]], keys: &[u64], n| {
        sample(&model, &text, prompts, keys, n, &options, &sampling).unwrap()
    };
    let n = 20_000;
    for (temperature, top_k, top_p) in [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.6)] {
        let sampling = SampleOptions {
            temperature,
            top_k,
            top_p,
            seed: 5,
        };
        let drawn = &draw(sampling, &[&PROMPT], &[7], n)[0];
        // The distribution of the first token, by the definition.
        let logits = model.logits(&PROMPT, &[]);
        let mut tokens: Vec<usize> = (1..VOCAB).collect();
        tokens.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        tokens.truncate(if top_k == 0 { VOCAB } else { top_k });
        let weight = |t: &usize| (f64::from(logits[*t]) / temperature).exp();
        let total: f64 = tokens.iter().map(weight).sum();
        let mut sum = 0.0;
        tokens.retain(|t| {
            let kept = sum < top_p;
            sum += weight(t) / total;
            kept
        });
        let total: f64 = tokens.iter().map(weight).sum();
        for token in 0..VOCAB {
            let expected = if tokens.contains(&token) {
                weight(&token) / total
            } else {
                0.0
            };
            let count = drawn
                .iter()
                .filter(|h| h.tokens[0].index() == token)
                .count();
            let found = count as f64 / n as f64;
            // Five standard errors.
            let error = 5.0 * (expected * (1.0 - expected) / n as f64).sqrt();
            assert!(
                (found - expected).abs() <= error,
                "{token}: {found} {expected}"
            );
        }
        for h in drawn.iter().take(200) {
            assert!((h.log_prob - model.log_prob(&PROMPT, &h.tokens)).abs() < 1e-5);
            let end = h.tokens.iter().position(|t| *t == END);
            assert!(end.is_none_or(|at| at + 1 == h.tokens.len()));
        }
    }
    // Draws belong to (seed, key, number), whatever else is drawn with them.
    let sampling = SampleOptions::default();
    let other: &[TokenId] = &[TokenId(9)];
    let together = draw(sampling, &[other, &PROMPT], &[1, 7], 6);
    assert_eq!(together[1], draw(sampling, &[&PROMPT], &[7], 6)[0]);
    assert_eq!(together[1][..4], draw(sampling, &[&PROMPT], &[7], 4)[0]);
    let seeded = SampleOptions {
        seed: 1,
        ..sampling
    };
    assert_ne!(together[1], draw(seeded, &[&PROMPT], &[7], 6)[0]);
}

#[test]
fn the_best_of_queries_are_the_best_of_all_their_rows() {
    const LAST: [TokenId; 5] = [TokenId(2), TokenId(3), TokenId(4), TokenId(2), TokenId(5)];
    let (model, index) = (table(5), index_of(&random_passages(5, 60, 8, VOCAB as u32)));
    let prompts: [&[TokenId]; 2] = [&PROMPT, &[TokenId(4)]];
    let (mut state, _) = model.start(&prompts, 3).unwrap();
    let hidden = model.step(&mut state, &[0, 0, 1, 1, 1], &LAST).unwrap();
    let root = SubstringIndex::root(&index);
    let states = LAST.map(|token| index.advance(root, token).expect("a frequent token"));
    let mut continuations = Continuations::new();
    Constraint::continuations(&index, &states, &mut continuations);
    let log_probs = [-1.0, -2.0, -50.5, -54.0, -51.5];
    let takes = |nth: usize| nth % 3 != 1;
    for limit in [1, 6, 100] {
        let found = best_of_queries(
            &model,
            &hidden,
            &continuations,
            &[0, 2, 5],
            &log_probs,
            limit,
            |_, nth| takes(nth),
        );
        let found = found.unwrap();
        for (query, rows) in [0..2, 2..5].into_iter().enumerate() {
            let mut expected: Vec<(f64, usize, usize)> = vec![];
            for row in rows {
                for (nth, &token) in continuations.row(row).tokens.iter().enumerate() {
                    let tokens = [LAST[row], token];
                    let before = model.log_prob(prompts[query], &tokens[..1]);
                    let log_prob = model.log_prob(prompts[query], &tokens) - before;
                    if takes(nth) {
                        expected.push((log_probs[row] + log_prob, row, nth));
                    }
                }
            }
            expected.sort_by(|a, b| b.0.total_cmp(&a.0));
            expected.truncate(limit);
            assert_eq!(found[query].len(), expected.len());
            for (found, &(score, row, nth)) in found[query].iter().zip(&expected) {
                assert_eq!((found.row, found.nth), (row, nth));
                assert!((log_probs[row] + f64::from(found.log_prob) - score).abs() < 1e-5);
            }
        }
    }
}

/// The kernels of a GPU on the CPU, in the whole search.
#[cfg(feature = "cuda")]
#[test]
fn a_device_that_selects_by_itself_finds_the_same() {
    let index = index_of(&random_passages(3, 60, 8, VOCAB as u32));
    let options = DecodeOptions {
        beam_width: 5,
        max_new_tokens: 5,
        ..DecodeOptions::default()
    };
    let prompts: [&[TokenId]; 3] = [&PROMPT, &[TokenId(4)], &[TokenId(5); 7]];
    let on = |device: &Device| {
        let config = llama(7, VOCAB).config();
        beam_search(&config.init(7, device), &index, &prompts, &options).unwrap()
    };
    let (found, expected) = (on(&Device::cpu()), on(&Device::flex()));
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.harvest.len(), expected.harvest.len());
        for (found, expected) in found.harvest.iter().zip(&expected.harvest) {
            assert_eq!(found.tokens, expected.tokens);
            assert!((found.log_prob - expected.log_prob).abs() < 1e-4);
        }
    }
}
