//! Decoding against exhaustive search, and what must not change a result.

#[path = "common/table_model.rs"]
mod table_model;

use std::collections::BTreeMap;

use burn::tensor::Device;
use genret::decode::{DecodeOptions, Decoded, Normalise, beam_search, target_losses};
use genret::index::{IndexBuilder, IndexOptions, NgramIndex, SubstringIndex};
use genret::model::{Model, ModelOptions, NextTokenModel};
use genret::types::TokenId;
use table_model::{TableModel, random_passages};

const VOCAB: usize = 12;

fn index_of(passages: &[Vec<TokenId>]) -> NgramIndex {
    let options = IndexOptions {
        min_node_count: 4,
        ..IndexOptions::default()
    };
    let mut builder = IndexBuilder::new(VOCAB, 1, "test", options).unwrap();
    for (i, passage) in passages.iter().enumerate() {
        builder.push(&format!("p{i}"), &[], passage).unwrap();
    }
    builder.into_index().unwrap()
}

/// Every n-gram of up to `longest` tokens, with its count.
fn all_ngrams(passages: &[Vec<TokenId>], longest: usize) -> BTreeMap<Vec<TokenId>, usize> {
    let mut counts = BTreeMap::new();
    for passage in passages {
        for start in 0..passage.len() {
            for len in 1..=longest.min(passage.len() - start) {
                *counts
                    .entry(passage[start..start + len].to_vec())
                    .or_insert(0) += 1;
            }
        }
    }
    counts
}

fn prompt(seed: u32) -> Vec<TokenId> {
    vec![TokenId(seed % 7 + 1), TokenId(seed / 7 % 5)]
}

fn options(beam_width: usize, max_new_tokens: usize) -> DecodeOptions {
    DecodeOptions {
        beam_width,
        max_new_tokens,
        ..DecodeOptions::default()
    }
}

fn small_llama(seed: u64) -> Model {
    let options = ModelOptions {
        n_layers: Some(2),
        d_model: Some(32),
        n_heads: Some(4),
        n_kv_heads: Some(2),
        ..Default::default()
    };
    options.resolve(VOCAB).unwrap().init(seed, &Device::flex())
}

#[test]
fn a_wide_beam_is_exhaustive() {
    for seed in 0..12 {
        let passages = random_passages(seed, 6, 14, VOCAB as u32);
        let index = index_of(&passages);
        let model = TableModel { vocab: VOCAB, seed };
        let prompt = prompt(seed as u32);
        let expected = all_ngrams(&passages, 4);
        let decoded = &beam_search(&model, &index, &[&prompt], &options(500, 4)).unwrap()[0];
        assert_eq!(decoded.harvest.len(), expected.len(), "every n-gram once");
        for found in &decoded.harvest {
            assert_eq!(expected[&found.tokens], found.count, "{:?}", found.tokens);
            let log_prob = model.log_prob(&prompt, &found.tokens);
            assert!(
                (found.log_prob - log_prob).abs() < 1e-5,
                "{:?}",
                found.tokens
            );
        }
    }
}

#[test]
fn a_narrow_beam_keeps_the_best_of_each_step() {
    for seed in 0..12 {
        let passages = random_passages(seed, 8, 20, VOCAB as u32);
        let index = index_of(&passages);
        let model = TableModel { vocab: VOCAB, seed };
        let prompt = prompt(seed as u32);
        let ngrams = all_ngrams(&passages, 5);
        let width = 3;
        let decoded = &beam_search(&model, &index, &[&prompt], &options(width, 5)).unwrap()[0];
        // The same search, written with sets of sequences.
        let mut beam: Vec<(Vec<TokenId>, f64)> = vec![(vec![], 0.0)];
        let mut harvest = vec![];
        for _ in 0..5 {
            let mut candidates = vec![];
            for (tokens, _) in &beam {
                for token in 0..VOCAB as u32 {
                    let mut longer = tokens.clone();
                    longer.push(TokenId(token));
                    if ngrams.contains_key(&longer) {
                        let score = model.log_prob(&prompt, &longer);
                        candidates.push((longer, score));
                    }
                }
            }
            candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
            candidates.truncate(2 * width);
            harvest.extend(candidates.clone());
            beam = candidates[..candidates.len().min(width)].to_vec();
        }
        let found: Vec<_> = decoded.harvest.iter().map(|h| h.tokens.clone()).collect();
        let expected: Vec<_> = harvest.into_iter().map(|(tokens, _)| tokens).collect();
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[test]
fn allowed_probabilities_sum_to_one() {
    let passages = random_passages(3, 6, 10, VOCAB as u32);
    let index = index_of(&passages);
    let model = TableModel {
        vocab: VOCAB,
        seed: 3,
    };
    let options = DecodeOptions {
        normalise: Normalise::Allowed,
        ..options(100, 1)
    };
    let decoded = &beam_search(&model, &index, &[&prompt(1)], &options).unwrap()[0];
    let sum: f64 = decoded.harvest.iter().map(|h| h.log_prob.exp()).sum();
    // The normaliser sums in f32, within 1e-6.
    assert!((sum - 1.0).abs() < 2e-6, "{sum}");
}

fn assert_same<S>(a: &Decoded<S>, b: &Decoded<S>, what: &str) {
    assert_eq!(a.harvest.len(), b.harvest.len(), "{what}");
    for (a, b) in a.harvest.iter().zip(&b.harvest) {
        assert_eq!(a.tokens, b.tokens, "{what}");
        assert!(
            (a.log_prob - b.log_prob).abs() < 1e-4,
            "{what}: {} {}",
            a.log_prob,
            b.log_prob
        );
    }
}

#[test]
fn a_batch_decodes_as_each_query_alone() {
    let passages = random_passages(5, 20, 30, VOCAB as u32);
    let index = index_of(&passages);
    let model = small_llama(5);
    let prompts: Vec<Vec<TokenId>> = (1..6usize)
        .map(|i| {
            (0..i * 3)
                .map(|j| TokenId(((i * 5 + j * 7) % VOCAB) as u32))
                .collect()
        })
        .collect();
    let together: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
    let together = beam_search(&model, &index, &together, &options(4, 6)).unwrap();
    for (prompt, batched) in prompts.iter().zip(&together) {
        let alone = &beam_search(&model, &index, &[prompt], &options(4, 6)).unwrap()[0];
        assert_same(alone, batched, "batch of one");
    }
}

#[test]
fn every_emitted_ngram_occurs_in_the_corpus() {
    let passages = random_passages(8, 40, 25, VOCAB as u32);
    let index = index_of(&passages);
    let model = small_llama(8);
    let ngrams = all_ngrams(&passages, 8);
    for seed in 0..20 {
        let prompt = prompt(seed);
        for decoded in beam_search(&model, &index, &[&prompt], &options(5, 8)).unwrap() {
            for found in decoded.harvest.iter().chain(&decoded.last) {
                assert_eq!(
                    ngrams.get(&found.tokens),
                    Some(&found.count),
                    "{:?}",
                    found.tokens
                );
                assert_eq!(index.count(found.state), found.count);
            }
        }
    }
}

#[test]
fn a_search_scores_as_teacher_forcing_does() {
    let passages = random_passages(11, 20, 25, VOCAB as u32);
    let index = index_of(&passages);
    let model = small_llama(11);
    let prompt = prompt(11);
    let decoded = &beam_search(&model, &index, &[&prompt], &options(6, 7)).unwrap()[0];
    let targets: Vec<&[TokenId]> = decoded.harvest.iter().map(|h| &h.tokens[..]).collect();
    let losses = target_losses(&model, &prompt, &targets).unwrap();
    for (found, losses) in decoded.harvest.iter().zip(&losses) {
        let sum: f32 = losses.iter().sum();
        assert!((found.log_prob as f32 + sum).abs() < 1e-4);
    }
    // Neither order nor company of the targets changes a value.
    let alone = target_losses(&model, &prompt, &targets[5..6]).unwrap();
    for (a, b) in alone[0].iter().zip(&losses[5]) {
        assert!((a - b).abs() < 1e-5);
    }
}

#[test]
fn too_long_a_prompt_is_an_error() {
    let model = small_llama(1);
    let prompt = vec![TokenId(1); 510];
    let message = model.start(&[&prompt], 10).err().unwrap().to_string();
    assert!(
        message.contains("520") && message.contains("512"),
        "{message}"
    );
}
