//! Beam search against `generate` of transformers on `../shared/fixtures/hf-parity`: the same sequences,
//! scores within 1e-4 per token.

#[path = "common/shared.rs"]
mod shared;
#[path = "common/trie.rs"]
mod trie;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use genret::decode::{DecodeOptions, Decoded, Stop, beam_search};
use genret::model::{Model, NextTokenModel};
use genret::types::TokenId;
use safetensors::SafeTensors;
use serde::Deserialize;
use trie::Trie;

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Generated {
    eos_token_id: u32,
    tries: BTreeMap<String, Vec<Vec<TokenId>>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    trie: String,
    length_penalty: f64,
    early_stopping: bool,
    max_new_tokens: usize,
    num_beams: usize,
    /// Per prompt the sequences that were returned, filled with the end token.
    sequences: Vec<Vec<Vec<TokenId>>>,
    scores: Vec<Vec<f64>>,
}

/// The sequences of `names[0]` where `names[1]` is 1.
fn rows(path: &Path, names: [&str; 2]) -> Vec<Vec<TokenId>> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let [ids, mask] = names.map(|name| {
        let view = tensors.tensor(name).unwrap();
        let width = view.shape()[1];
        let values = view
            .data()
            .chunks(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()));
        let values: Vec<i64> = values.collect();
        values
            .chunks(width)
            .map(<[i64]>::to_vec)
            .collect::<Vec<_>>()
    });
    let real = ids.iter().zip(&mask).map(|(ids, mask)| {
        let real = ids.iter().zip(mask).filter(|&(_, &mask)| mask == 1);
        real.map(|(&id, _)| TokenId(id as u32)).collect()
    });
    real.collect()
}

/// What transformers returns: finished sequences, and where the length ran out unfinished ones too.
fn returned(
    decoded: &Decoded<u32>,
    case: &Case,
    options: &DecodeOptions,
) -> Vec<(Vec<TokenId>, f64)> {
    let mut all: Vec<(Vec<TokenId>, f64)> = decoded
        .finished
        .iter()
        .chain(&decoded.last)
        .map(|h| (h.tokens.clone(), options.score(h.log_prob, h.tokens.len())))
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(case.num_beams);
    all
}

/// Compares all cases of a checkpoint; returns how many sequences were compared.
fn compare<M: NextTokenModel>(
    name: &str,
    model: &M,
    prompts: &[Vec<TokenId>],
    folder: &Path,
) -> usize {
    let text = std::fs::read_to_string(folder.join("generate.json")).unwrap();
    let generated: Generated = serde_json::from_str(&text).unwrap();
    let end = TokenId(generated.eos_token_id);
    let mut compared = 0;
    // With early stopping transformers ends a search that could still find better sequences.
    for case in generated.cases.iter().filter(|case| !case.early_stopping) {
        let what = format!(
            "{name}, trie {}, length penalty {}, {} tokens",
            case.trie, case.length_penalty, case.max_new_tokens
        );
        let trie = Trie::new(&generated.tries[&case.trie]);
        let options = DecodeOptions {
            beam_width: case.num_beams,
            max_new_tokens: case.max_new_tokens,
            length_penalty: case.length_penalty,
            stop: Stop::Early,
            ..DecodeOptions::default()
        };
        let prompts: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
        let decoded = beam_search(model, &trie, &prompts, &options).unwrap();
        for (row, decoded) in decoded.iter().enumerate() {
            let expected = case.sequences[row].iter().zip(&case.scores[row]);
            // Scores of -1e8 stand for beams that the tree had no path for.
            let expected: Vec<(Vec<TokenId>, f64)> = expected
                .filter(|(_, score)| **score > -1e8)
                .map(|(tokens, score)| {
                    let len = tokens.iter().position(|t| *t == end);
                    (
                        tokens[..len.map_or(tokens.len(), |len| len + 1)].to_vec(),
                        *score,
                    )
                })
                .collect();
            let found = returned(decoded, case, &options);
            let only = |all: &[(Vec<TokenId>, f64)]| -> Vec<Vec<TokenId>> {
                all.iter().map(|(tokens, _)| tokens.clone()).collect()
            };
            assert_eq!(
                only(&found),
                only(&expected),
                "{what}, prompt {row}: {found:?} {expected:?}"
            );
            for ((tokens, score), (_, expected)) in found.iter().zip(&expected) {
                let difference = (score - expected).abs() / tokens.len() as f64;
                assert!(difference < TOLERANCE, "{what}: {score} {expected}");
                compared += 1;
            }
        }
    }
    compared
}

#[test]
fn beams_equal_transformers() {
    let Some(root) = shared::shared("fixtures/hf-parity") else {
        return;
    };
    let mut compared = 0;
    for name in [
        "llama-plain-untied",
        "llama-plain-tied",
        "llama3-gqa-untied",
        "llama3-gqa-tied",
        "llama-headdim-bias-mqa",
        "llama3-bf16-sharded",
        "t5-v1.0-relu-tied",
        "t5-v1.1-gated-gelu-untied",
    ] {
        let folder = root.join(name);
        let model = Model::open(&folder, &Device::flex()).unwrap();
        let names = if name.starts_with("t5") {
            ["input_ids", "attention_mask"]
        } else {
            ["left_input_ids", "left_attention_mask"]
        };
        let prompts = rows(&folder.join("inputs.safetensors"), names);
        compared += compare(name, &model, &prompts, &folder);
    }
    println!("{compared} sequences");
    assert!(compared > 700, "{compared}");
}
