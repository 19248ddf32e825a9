//! Models against values of PyTorch and transformers (`../shared/fixtures/hf-parity`): 1e-4 absolute.

#[path = "parity/curve.rs"]
mod curve;
#[path = "parity/encoders.rs"]
mod encoders;
#[path = "parity/lora.rs"]
mod lora;
#[path = "common/shared.rs"]
mod shared;
#[path = "parity/t5.rs"]
mod t5;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use genret::decode::target_losses;
use genret::model::{Llama, LlamaConfig, Model, NextTokenModel, Sequences, checkpoint, parameters};
use genret::types::TokenId;
use safetensors::SafeTensors;

const TOLERANCE: f32 = 1e-4;
const CHECKPOINTS: [&str; 6] = [
    "llama-plain-untied",
    "llama-plain-tied",
    "llama3-gqa-untied",
    "llama3-gqa-tied",
    "llama-headdim-bias-mqa",
    "llama3-bf16-sharded",
];

struct Fixture {
    inputs: BTreeMap<String, Vec<i64>>,
    expected: BTreeMap<String, Vec<f32>>,
    gradients: Option<BTreeMap<String, Vec<f32>>>,
    model: Llama,
}

fn largest_difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

fn integers(path: &Path) -> BTreeMap<String, Vec<i64>> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| {
        data.chunks(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    tensors
        .iter()
        .map(|(name, view)| (name.to_string(), values(view.data())))
        .collect()
}

fn fixture(folder: &Path, device: &Device) -> Fixture {
    let config = LlamaConfig::load(&folder.join("config.json")).unwrap();
    // The same shape from the keys of transformers 5.
    assert_eq!(
        config,
        LlamaConfig::load(&folder.join("config.v5.json")).unwrap()
    );
    let gradients = folder.join("grads.safetensors");
    Fixture {
        inputs: integers(&folder.join("inputs.safetensors")),
        expected: checkpoint::read(&folder.join("expected.safetensors")).unwrap(),
        gradients: gradients
            .exists()
            .then(|| checkpoint::read(&gradients).unwrap()),
        model: checkpoint::load(config.init(0, device), folder).unwrap(),
    }
}

impl Fixture {
    /// Input ids without padding.
    fn rows(&self) -> Vec<Vec<TokenId>> {
        let (ids, mask) = (&self.inputs["input_ids"], &self.inputs["attention_mask"]);
        let seq = ids.len() / 3;
        (0..3)
            .map(|row| {
                (row * seq..(row + 1) * seq)
                    .filter(|&i| mask[i] == 1)
                    .map(|i| TokenId(ids[i] as u32))
                    .collect()
            })
            .collect()
    }

    /// Largest difference from `expected[name]` over real positions, with `width` values each.
    fn difference(&self, name: &str, got: &[f32], width: usize) -> f32 {
        let mask = &self.inputs["attention_mask"];
        let expected = &self.expected[name];
        assert_eq!(expected.len(), got.len(), "{name}");
        (0..got.len())
            .filter(|i| mask[i / width] == 1)
            .map(|i| (got[i] - expected[i]).abs())
            .fold(0.0, f32::max)
    }
}

fn for_each_fixture(mut check: impl FnMut(&str, Fixture), device: &Device) {
    let Some(root) = shared::shared("fixtures/hf-parity") else {
        return;
    };
    for name in CHECKPOINTS {
        check(name, fixture(&root.join(name), device));
    }
}

#[test]
fn logits_and_hidden_states_equal_transformers() {
    for_each_fixture(
        |name, fixture| {
            let batch = Sequences::pad(&fixture.rows());
            let config = fixture.model.config();
            let causal = fixture.model.hidden(&batch, true).unwrap();
            let logits = checkpoint::values(fixture.model.logits(causal));
            let difference = fixture.difference("logits", &logits, config.vocab_size);
            assert!(
                difference < TOLERANCE,
                "{name}: causal logits differ by {difference}"
            );
            let hidden = checkpoint::values(fixture.model.hidden(&batch, false).unwrap());
            let expected = "bidirectional.last_hidden_state";
            let difference = fixture.difference(expected, &hidden, config.hidden_size);
            assert!(
                difference < TOLERANCE,
                "{name}: bidirectional states differ by {difference}"
            );
        },
        &Device::flex(),
    );
}

#[test]
fn loss_and_gradients_equal_pytorch() {
    for_each_fixture(
        |name, fixture| {
            let batch = Sequences::pad(&fixture.rows());
            let labels = &fixture.inputs["labels"];
            let mut positions = vec![];
            let mut targets = vec![];
            for (i, &label) in labels
                .iter()
                .enumerate()
                .filter(|(i, l)| i % batch.seq > 0 && **l >= 0)
            {
                positions.push(i as i32 - 1);
                targets.push(TokenId(label as u32));
            }
            let hidden = fixture.model.hidden(&batch, true).unwrap();
            let positions =
                burn::tensor::Tensor::from_ints(&positions[..], &fixture.model.device());
            let hidden = genret_kernels::embedding(hidden, positions);
            let loss = fixture.model.loss_sum(hidden, &targets) / targets.len() as f64;
            let got = checkpoint::values(loss.clone().inner())[0];
            assert!(
                (got - fixture.expected["loss"][0]).abs() < TOLERANCE,
                "{name}: loss {got}"
            );
            let Some(expected) = &fixture.gradients else {
                return;
            };
            let gradients = parameters::gradients(&fixture.model, loss.backward());
            assert_eq!(gradients.len(), expected.len(), "{name}");
            for (parameter, gradient) in gradients {
                let expected = &expected[&parameter];
                let gradient = checkpoint::values(gradient);
                let difference = largest_difference(&gradient, expected);
                assert!(
                    difference < TOLERANCE,
                    "{name}: gradient of {parameter}: {difference}"
                );
            }
        },
        &Device::flex().autodiff(),
    );
}

#[test]
fn cached_decoding_equals_the_whole_pass() {
    for_each_fixture(
        |name, fixture| {
            let config = fixture.model.config().clone();
            let rows = fixture.rows();
            let batch = Sequences::pad(&rows);
            let hidden = fixture.model.hidden(&batch, true).unwrap();
            let whole = checkpoint::values(fixture.model.logits(hidden));
            // Prompts of different lengths, then the rest token by token, rows in changing order.
            let prompts: Vec<&[TokenId]> = rows.iter().map(|r| &r[..r.len() - 6]).collect();
            let (mut state, mut hidden) = fixture.model.start(&prompts, 6).unwrap();
            let mut order = vec![0, 1, 2];
            for step in 0..=6 {
                let some = [TokenId(7), TokenId(3), TokenId(200)];
                let few = checkpoint::values(fixture.model.logits_of(hidden.clone(), &some));
                let got = checkpoint::values(fixture.model.logits(hidden));
                for (at, &row) in order.iter().enumerate() {
                    let position = row * batch.seq + rows[row].len() - 7 + step;
                    let width = config.vocab_size;
                    let expected = &whole[position * width..(position + 1) * width];
                    let got = &got[at * width..(at + 1) * width];
                    let difference = largest_difference(got, expected);
                    assert!(
                        difference < TOLERANCE,
                        "{name}, step {step}, row {row}: {difference}"
                    );
                    for (column, token) in some.iter().enumerate() {
                        let difference = few[at * some.len() + column] - got[token.index()];
                        assert!(difference.abs() < 1e-5, "{name}: head of some tokens");
                    }
                }
                if step == 6 {
                    break;
                }
                // A hypothesis may have several children, and they may come in any order.
                let parents: Vec<usize> = match step {
                    0 => vec![2, 0, 1, 0],
                    1 => vec![3, 2, 0],
                    _ => vec![1, 2, 0],
                };
                order = parents.iter().map(|&p| order[p]).collect();
                let last: Vec<TokenId> = order
                    .iter()
                    .map(|&row| rows[row][rows[row].len() - 6 + step])
                    .collect();
                hidden = fixture.model.step(&mut state, &parents, &last).unwrap();
            }
        },
        &Device::flex(),
    );
}

#[test]
fn identifiers_score_as_in_transformers() {
    for_each_fixture(
        |name, fixture| {
            identifiers_score(name, &fixture.model, &fixture.rows());
        },
        &Device::flex(),
    );
}

/// Checks the summed log-probability of every identifier of a fixture's `generate.json`.
fn identifiers_score<M: NextTokenModel>(name: &str, model: &M, prompts: &[Vec<TokenId>]) {
    let root = shared::shared("fixtures/hf-parity").unwrap();
    let text = std::fs::read_to_string(root.join(name).join("generate.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut compared = 0;
    // Per trie and sequence: every identifier with its summed log-probability.
    for per_sequence in json["exhaustive"].as_object().unwrap().values() {
        for (prompt, scored) in prompts.iter().zip(per_sequence.as_array().unwrap()) {
            let scored: Vec<(Vec<TokenId>, f64)> = serde_json::from_value(scored.clone()).unwrap();
            let identifiers: Vec<&[TokenId]> = scored.iter().map(|(i, _)| &i[..]).collect();
            let losses = target_losses(model, prompt, &identifiers).unwrap();
            for (losses, (identifier, score)) in losses.iter().zip(&scored) {
                let sum: f64 = losses.iter().map(|&l| f64::from(l)).sum();
                // One tolerance per token.
                let difference = (sum + score).abs() / losses.len() as f64;
                assert!(
                    difference < f64::from(TOLERANCE),
                    "{name} {identifier:?}: {difference}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 0);
}

#[test]
fn a_saved_model_loads_to_the_same_bits() {
    let folder = std::env::temp_dir().join(format!("genret-parity-{}", std::process::id()));
    for_each_fixture(
        |name, fixture| {
            let config = fixture.model.config();
            checkpoint::save(&fixture.model, &config.to_hugging_face(), &folder).unwrap();
            let read = LlamaConfig::load(&folder.join("config.json")).unwrap();
            assert_eq!(&read, config, "{name}");
            let model = checkpoint::load(read.init(7, &Device::flex()), &folder).unwrap();
            for (a, b) in parameters::list(&fixture.model)
                .into_iter()
                .zip(parameters::list(&model))
            {
                assert_eq!(
                    checkpoint::values(a.values),
                    checkpoint::values(b.values),
                    "{name} {}",
                    a.name
                );
            }
        },
        &Device::flex(),
    );
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
#[ignore = "writes a folder for tests/parity/open_in_transformers.py; GENRET_PARITY_MODEL=folder of genret train, GENRET_PARITY_OUT=where to write"]
fn export() {
    let variable = |name: &str| std::path::PathBuf::from(std::env::var(name).expect(name));
    let (from, to) = (
        variable("GENRET_PARITY_MODEL"),
        variable("GENRET_PARITY_OUT"),
    );
    std::fs::create_dir_all(&to).unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let model = Model::open(&to, &Device::flex()).unwrap();
    let tokenizer = genret::tokenizer::Tokenizer::load(&to).unwrap();
    let tokens = tokenizer
        .encode(" Which river runs through the town, and who built its bridge?")
        .unwrap();
    // An encoder-decoder reads the text and is asked to write it.
    let hidden = match &model {
        Model::Llama(model) => model.hidden(&Sequences::pad(&[&tokens]), true),
        Model::T5(model) => model.target_hidden(&[(&tokens, &tokens)]),
    };
    let logits = checkpoint::values(model.logits(hidden.unwrap()));
    let rows: Vec<&[f32]> = logits.chunks(model.config().vocab_size()).collect();
    let text = tokenizer.decode(&tokens);
    let case = serde_json::json!({ "tokens": tokens, "logits": rows, "text": text });
    std::fs::write(to.join("logits.json"), case.to_string()).unwrap();
}
