//! Texts as vectors, their scores and gradients against PyTorch (`make_encoders.py`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor};
use genret::model::{EncoderOptions, MaskedText, Model, Sequences, checkpoint, parameters};
use genret::types::TokenId;
use serde::Deserialize;

use super::{TOLERANCE, largest_difference};

#[derive(Deserialize)]
struct Cases {
    queries: Vec<Vec<TokenId>>,
    passages: Vec<Vec<TokenId>>,
    /// The passage of each query.
    positives: Vec<TokenId>,
    #[serde(default)]
    masked: Vec<Masked>,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    options: EncoderOptions,
    temperature: f64,
}

/// A text, and the tokens to restore with their positions.
type Masked = (Vec<TokenId>, Vec<(usize, TokenId)>);

struct Fixture {
    name: &'static str,
    model: Model,
    cases: Cases,
    expected: BTreeMap<String, Vec<f32>>,
}

fn fixtures() -> Vec<Fixture> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/encoders");
    let open = |name| {
        let folder = root.join(name);
        let cases = std::fs::read_to_string(folder.join("cases.json")).unwrap();
        Fixture {
            name,
            model: Model::open(&folder, &Device::flex().autodiff()).unwrap(),
            cases: serde_json::from_str(&cases).unwrap(),
            expected: checkpoint::read(&folder.join("expected.safetensors")).unwrap(),
        }
    };
    ["llama", "llama-tied", "t5", "t5-untied"].map(open).into()
}

impl Fixture {
    fn compare(&self, what: &str, got: Tensor<2>) {
        let difference = largest_difference(&checkpoint::values(got), &self.expected[what]);
        assert!(difference < TOLERANCE, "{} {what}: {difference}", self.name);
    }

    /// Compares a loss and the gradients of all weights; those not listed are zero or absent.
    fn compare_loss(&self, case: &str, loss: Tensor<1>) {
        self.compare(
            &format!("{case}.loss"),
            loss.clone().inner().reshape([1, 1]),
        );
        let gradients = parameters::gradients(&self.model, loss.backward());
        let prefix = format!("{case}.gradient.");
        let mut listed = self
            .expected
            .keys()
            .filter(|k| k.starts_with(&prefix))
            .count();
        assert!(listed > 0);
        for (parameter, gradient) in gradients {
            let gradient = checkpoint::values(gradient);
            let zeros = vec![0.0; gradient.len()];
            let expected = self.expected.get(&format!("{prefix}{parameter}"));
            listed -= usize::from(expected.is_some());
            let difference = largest_difference(&gradient, expected.unwrap_or(&zeros));
            assert!(
                difference < TOLERANCE,
                "{} {case}: gradient of {parameter}: {difference}",
                self.name
            );
        }
        assert_eq!(
            listed, 0,
            "{} {case}: gradients that are missing",
            self.name
        );
    }
}

#[test]
fn vectors_scores_and_gradients_equal_pytorch() {
    let mut compared = 0;
    for fixture in fixtures() {
        let Cases {
            queries,
            passages,
            positives,
            ..
        } = &fixture.cases;
        for (name, case) in &fixture.cases.cases {
            case.options
                .validate(fixture.model.config().family())
                .unwrap();
            fixture.model.check_both_ways(&case.options).unwrap();
            let encode = |texts: &[Vec<TokenId>]| {
                let batch = Sequences::pad(texts);
                fixture.model.encode(&batch, &case.options).unwrap()
            };
            let (queries, passages) = (encode(queries), encode(passages));
            fixture.compare(&format!("{name}.queries"), queries.clone().inner());
            fixture.compare(&format!("{name}.passages"), passages.clone().inner());
            let scores = queries.clone().matmul(passages.clone().transpose()) / case.temperature;
            fixture.compare(&format!("{name}.scores"), scores.inner());
            let targets: Vec<i32> = positives.iter().map(|p| p.0 as i32).collect();
            let targets = Tensor::from_ints(&targets[..], &fixture.model.device());
            let queries = queries / case.temperature;
            let loss = genret_kernels::linear_cross_entropy(queries, passages, targets, None);
            fixture.compare_loss(name, loss / positives.len() as f64);
            compared += 1;
        }
    }
    assert_eq!(compared, 15);
}

#[test]
fn masked_next_token_prediction_equals_pytorch() {
    let fixture = &fixtures()[0];
    let texts: Vec<MaskedText<'_>> = (fixture.cases.masked.iter())
        .map(|(tokens, restored)| (&tokens[..], &restored[..]))
        .collect();
    let (loss, count) = fixture.model.masked_loss_sum(&texts).unwrap();
    assert_eq!(count, 4);
    fixture.compare_loss("mntp", loss / count as f64);
}
