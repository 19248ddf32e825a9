//! T5 against the same package's values.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use genret::model::{NextTokenModel, Sequences, T5, T5Config, checkpoint, parameters};
use genret::types::TokenId;

use super::{TOLERANCE, identifiers_score, integers, largest_difference, shared};

const CHECKPOINTS: [&str; 2] = ["t5-v1.0-relu-tied", "t5-v1.1-gated-gelu-untied"];

struct Fixture {
    inputs: BTreeMap<String, Vec<i64>>,
    long_input: Vec<TokenId>,
    expected: BTreeMap<String, Vec<f32>>,
    gradients: BTreeMap<String, Vec<f32>>,
    model: T5,
}

fn tokens(ids: &[i64]) -> Vec<TokenId> {
    ids.iter().map(|&id| TokenId(id as u32)).collect()
}

/// Every tensor of floats, and the one of integers among them.
fn expected(path: &Path) -> (BTreeMap<String, Vec<f32>>, Vec<TokenId>) {
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut floats = BTreeMap::new();
    let mut long_input = vec![];
    for (name, view) in tensors.iter() {
        match name {
            "long_input_ids" => {
                let (ids, _) = view.data().as_chunks();
                let ids: Vec<i64> = ids.iter().map(|b| i64::from_le_bytes(*b)).collect();
                long_input = tokens(&ids);
            }
            _ => {
                let (values, _) = view.data().as_chunks();
                let values = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
                floats.insert(name.to_string(), values);
            }
        }
    }
    (floats, long_input)
}

fn for_each_fixture(mut check: impl FnMut(&str, Fixture), device: &Device) {
    let Some(root) = shared::shared("fixtures/hf-parity") else {
        return;
    };
    for name in CHECKPOINTS {
        let folder = root.join(name);
        let config = T5Config::load(&folder.join("config.json")).unwrap();
        // The same shape from the keys of transformers 5.
        let five = T5Config::load(&folder.join("config.v5.json")).unwrap();
        assert_eq!(config, five, "{name}");
        let (expected, long_input) = expected(&folder.join("expected.safetensors"));
        let fixture = Fixture {
            inputs: integers(&folder.join("inputs.safetensors")),
            long_input,
            expected,
            gradients: checkpoint::read(&folder.join("grads.safetensors")).unwrap(),
            model: checkpoint::load(config.empty(device), &folder).unwrap(),
        };
        check(name, fixture);
    }
}

impl Fixture {
    /// Rows of an input without padding.
    fn rows(&self, ids: &str, real: impl Fn(usize) -> bool) -> Vec<Vec<TokenId>> {
        let ids = &self.inputs[ids];
        let seq = ids.len() / 3;
        (0..3)
            .map(|row| {
                let positions = (row * seq..(row + 1) * seq).filter(|&i| real(i));
                tokens(&positions.map(|i| ids[i]).collect::<Vec<_>>())
            })
            .collect()
    }

    fn prompts(&self) -> Vec<Vec<TokenId>> {
        let mask = &self.inputs["attention_mask"];
        self.rows("input_ids", |i| mask[i] == 1)
    }

    fn targets(&self) -> Vec<Vec<TokenId>> {
        let labels = &self.inputs["labels"];
        self.rows("labels", |i| labels[i] >= 0)
    }

    fn decoder_inputs(&self) -> Vec<Vec<TokenId>> {
        let labels = &self.inputs["labels"];
        self.rows("decoder_input_ids", |i| labels[i] >= 0)
    }

    /// Largest difference from `expected[name]` over the positions that are `real`.
    fn difference(&self, name: &str, got: &[f32], real: &[bool]) -> f32 {
        let expected = &self.expected[name];
        assert_eq!(expected.len(), got.len(), "{name}");
        let width = got.len() / real.len();
        (0..got.len())
            .filter(|i| real[i / width])
            .map(|i| (got[i] - expected[i]).abs())
            .fold(0.0, f32::max)
    }
}

#[test]
fn logits_and_hidden_states_equal_transformers() {
    for_each_fixture(
        |name, fixture| {
            let (prompts, inputs) = (fixture.prompts(), fixture.decoder_inputs());
            let (prompts, inputs) = (Sequences::pad(&prompts), Sequences::pad(&inputs));
            let memory = fixture.model.encode(&prompts);
            let hidden = fixture.model.decode(&prompts, &memory, &inputs);
            let logits = fixture.model.logits(hidden.clone());
            let real: Vec<bool> = fixture.inputs["attention_mask"]
                .iter()
                .map(|&m| m == 1)
                .collect();
            let written: Vec<bool> = fixture.inputs["labels"].iter().map(|&l| l >= 0).collect();
            for (what, got, real) in [
                ("encoder_last_hidden_state", memory, &real),
                ("decoder_hidden_states.2", hidden, &written),
                ("logits", logits, &written),
            ] {
                let difference = fixture.difference(what, &checkpoint::values(got), real);
                assert!(
                    difference < TOLERANCE,
                    "{name}: {what} differ by {difference}"
                );
            }
            let long = Sequences::pad(&[&fixture.long_input]);
            let got = checkpoint::values(fixture.model.encode(&long));
            let what = "long_encoder_last_hidden_state";
            let difference = fixture.difference(what, &got, &vec![true; long.seq]);
            assert!(
                difference < TOLERANCE,
                "{name}: {what} differ by {difference}"
            );
        },
        &Device::flex(),
    );
}

#[test]
fn loss_and_gradients_equal_pytorch() {
    for_each_fixture(
        |name, fixture| {
            let (prompts, targets) = (fixture.prompts(), fixture.targets());
            let examples: Vec<(&[TokenId], &[TokenId])> = prompts
                .iter()
                .zip(&targets)
                .map(|(prompt, target)| (&prompt[..], &target[..]))
                .collect();
            let targets = targets.concat();
            let hidden = fixture.model.target_hidden(&examples).unwrap();
            let loss = fixture.model.loss_sum(hidden, &targets) / targets.len() as f64;
            let got = checkpoint::values(loss.clone().inner())[0];
            let difference = (got - fixture.expected["loss"][0]).abs();
            assert!(difference < TOLERANCE, "{name}: loss {got}");
            let gradients = parameters::gradients(&fixture.model, loss.backward());
            assert_eq!(gradients.len(), fixture.gradients.len(), "{name}");
            for (parameter, gradient) in gradients {
                let gradient = checkpoint::values(gradient);
                let difference = largest_difference(&gradient, &fixture.gradients[&parameter]);
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
            let (prompts, inputs) = (fixture.prompts(), fixture.decoder_inputs());
            let vocab = fixture.model.config().vocab_size;
            let batch = Sequences::pad(&inputs);
            let memory = Sequences::pad(&prompts);
            let hidden = fixture
                .model
                .decode(&memory, &fixture.model.encode(&memory), &batch);
            let whole = checkpoint::values(fixture.model.logits(hidden));
            let prompts: Vec<&[TokenId]> = prompts.iter().map(|p| &p[..]).collect();
            let (mut state, mut hidden) = fixture.model.start(&prompts, 8).unwrap();
            // Which example each hypothesis follows; those that have ended are dropped.
            let mut order: Vec<usize> = vec![0, 1, 2];
            for step in 0..9 {
                let got = checkpoint::values(fixture.model.logits(hidden));
                for (got, &row) in got.chunks(vocab).zip(&order) {
                    let expected = &whole[(row * batch.seq + step) * vocab..][..vocab];
                    let difference = largest_difference(got, expected);
                    assert!(
                        difference < TOLERANCE,
                        "{name}, step {step}, row {row}: {difference}"
                    );
                }
                // Hypotheses in another order, the first of them twice.
                let lasts: Vec<usize> = (0..order.len())
                    .rev()
                    .filter(|&i| inputs[order[i]].len() > step + 1)
                    .collect();
                let parents = match lasts.first() {
                    Some(&first) => [&lasts[..], &[first]].concat(),
                    None => break,
                };
                order = parents.iter().map(|&p| order[p]).collect();
                let last: Vec<TokenId> = order.iter().map(|&row| inputs[row][step + 1]).collect();
                hidden = fixture.model.step(&mut state, &parents, &last).unwrap();
            }
        },
        &Device::flex(),
    );
}

#[test]
fn identifiers_score_as_in_transformers() {
    for_each_fixture(
        |name, fixture| identifiers_score(name, &fixture.model, &fixture.prompts()),
        &Device::flex(),
    );
}

#[test]
fn a_saved_model_loads_to_the_same_bits() {
    let folder = std::env::temp_dir().join(format!("genret-parity-t5-{}", std::process::id()));
    for_each_fixture(
        |name, fixture| {
            let config = fixture.model.config();
            checkpoint::save(&fixture.model, &config.to_hugging_face(), &folder).unwrap();
            let read = T5Config::load(&folder.join("config.json")).unwrap();
            assert_eq!(&read, config, "{name}");
            let model = checkpoint::load(read.init(7, &Device::flex()), &folder).unwrap();
            let (old, new) = (parameters::list(&fixture.model), parameters::list(&model));
            for (a, b) in old.into_iter().zip(new) {
                let (values, read) = (checkpoint::values(a.values), checkpoint::values(b.values));
                assert_eq!(values, read, "{name} {}", a.name);
            }
        },
        &Device::flex(),
    );
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn copies_of_the_embedding_are_accepted_where_they_are_equal() {
    let folder = std::env::temp_dir().join(format!("genret-copies-t5-{}", std::process::id()));
    for_each_fixture(
        |name, fixture| {
            std::fs::create_dir_all(&folder).unwrap();
            let config = fixture.model.config();
            let mut tensors: Vec<_> = parameters::list(&fixture.model)
                .into_iter()
                .map(|p| (p.name, p.shape, checkpoint::values(p.values)))
                .collect();
            let (_, shape, values) = tensors.iter().find(|(n, ..)| n == "shared.weight").unwrap();
            let (shape, mut values) = (shape.clone(), values.clone());
            tensors.push((
                "encoder.embed_tokens.weight".into(),
                shape.clone(),
                values.clone(),
            ));
            let copy = "decoder.embed_tokens.weight";
            let path = folder.join("model.safetensors");
            let load = |tensors: Vec<_>| {
                checkpoint::write(&path, tensors).unwrap();
                checkpoint::load(config.empty(&Device::flex()), &folder)
            };
            let with = |values: Vec<f32>| {
                let mut all = tensors.clone();
                all.push((copy.into(), shape.clone(), values));
                all
            };
            assert!(load(with(values.clone())).is_ok(), "{name}");
            values[3] += 1.0;
            let error = load(with(values)).unwrap_err().to_string();
            assert!(error.contains(copy), "{error}");
        },
        &Device::flex(),
    );
    let _ = std::fs::remove_dir_all(&folder);
}
