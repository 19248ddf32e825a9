use super::*;
use crate::model::{Family, ModelOptions, T5Part, checkpoint};
use burn::tensor::Device;

/// Cases of tests/parity/objectives.json.
mod parity {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Deserialize)]
    struct Fixture {
        group: usize,
        lambdas: BTreeMap<String, f64>,
        until: u64,
        teacher: Vec<Vec<f32>>,
        masked: Vec<Vec<bool>>,
        representations: BTreeMap<String, Inputs>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Inputs {
        queries: Vec<Vec<f32>>,
        passages: Vec<Vec<f32>>,
    }

    #[derive(Deserialize)]
    struct Case {
        kind: String,
        representations: String,
        temperature: Option<f64>,
        #[serde(default)]
        masked: bool,
        step: Option<u64>,
        value: f64,
        gradients: Inputs,
    }

    fn leaf(rows: &[Vec<f32>]) -> Tensor<2> {
        let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
        Tensor::from_data(data, &Device::flex().autodiff()).require_grad()
    }

    /// The loss of a case, through the objective as training uses it.
    fn loss(fixture: &Fixture, case: &Case, queries: Tensor<2>, passages: Tensor<2>) -> Tensor<1> {
        let regularised = case.step.is_some();
        let loss = match case.kind.as_str() {
            "cl" | "flops" | "l1" => Loss::Contrastive,
            "cl_kl" => Loss::Both,
            _ => Loss::Distillation,
        };
        let steps = fixture.until * 3;
        let options = ContrastOptions {
            temperature: case.temperature,
            distillation: match case.kind.as_str() {
                "margin_mse" => Distillation::MarginMse,
                _ => Distillation::Kl,
            },
            regulariser: match case.kind.as_str() {
                "flops" => Regulariser::Flops,
                "l1" => Regulariser::L1,
                _ => Regulariser::None,
            },
            lambda_query: fixture.lambdas["queries"],
            lambda_passage: fixture.lambdas["passages"],
            ..Default::default()
        };
        let (num_queries, num_passages) = (queries.dims()[0], passages.dims()[0]);
        // The published form compares the positive with one negative.
        let shown = if case.kind == "margin_mse" {
            2
        } else {
            fixture.group
        };
        let groups = (0..num_queries).map(|q| (q * fixture.group..).take(shown).collect());
        let masked = fixture.masked.iter().enumerate().flat_map(|(query, row)| {
            let places = row.iter().enumerate().filter(|(_, masked)| **masked);
            places.map(move |(passage, _)| (query, passage))
        });
        let batch = Batch {
            queries: vec![],
            passages: vec![],
            pool: Pool {
                groups: groups.collect(),
                masked: masked.filter(|_| case.masked).collect(),
                len: num_passages,
            },
            teacher: fixture
                .teacher
                .iter()
                .flat_map(|t| &t[..shown])
                .copied()
                .collect(),
        };
        let encoder = EncoderOptions {
            pooling: Pooling::Sparse,
            ..Default::default()
        };
        let objective = Contrastive {
            source: &super::Source::default(),
            validation: &[],
            encoder: &encoder,
            options: &options,
            loss,
            seed: 0,
            flops: &|_| 0.0,
        };
        let weight = options.share_of_weight(case.step.unwrap_or(0), steps);
        let parts = objective.loss(&batch, queries.clone(), passages, weight);
        match (regularised, parts.regulariser) {
            (false, _) => parts.total,
            (true, Some(regulariser)) => regulariser,
            // Before the first step its weight is nothing.
            (true, None) => queries.sum().mul_scalar(0.0),
        }
    }

    #[test]
    fn losses_and_gradients_equal_pytorch() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/objectives.json");
        let fixture: Fixture =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(fixture.cases.len() >= 30);
        for case in &fixture.cases {
            let inputs = &fixture.representations[&case.representations];
            let (queries, passages) = (leaf(&inputs.queries), leaf(&inputs.passages));
            let loss = loss(&fixture, case, queries.clone(), passages.clone());
            let graph = loss.backward();
            let name = format!("{} {} {:?}", case.kind, case.representations, case.step);
            let value = crate::train::scalar(loss.inner());
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-4 * (1.0 + b.abs());
            assert!(close(value, case.value), "{name}: {value} {}", case.value);
            for (leaf, expected) in [
                (queries, &case.gradients.queries),
                (passages, &case.gradients.passages),
            ] {
                let found = leaf.grad(&graph);
                let found = found.unwrap_or_else(|| leaf.clone().inner().zeros_like());
                for (a, b) in checkpoint::values(found).iter().zip(expected.concat()) {
                    assert!(close(f64::from(*a), f64::from(b)), "{name}: {a} {b}");
                }
            }
        }
    }
}

#[derive(Default)]
struct Source {
    passages: Vec<Vec<TokenId>>,
    groups: Vec<Group>,
}

impl GroupSource for Source {
    fn len(&self) -> usize {
        self.groups.len()
    }

    fn epoch(&self, _: u64) -> Result<Vec<Group>, ExampleError> {
        Ok(self.groups.clone())
    }

    fn passage(&self, passage: PassageIdx) -> &[TokenId] {
        &self.passages[passage.index()]
    }
}

const VOCAB: u32 = 40;

/// Queries that repeat tokens of their passage; the second and third group share passages.
fn source() -> Source {
    let mut stream = rng::stream(7, "groups", &[]);
    let mut text = |len: usize| -> Vec<TokenId> {
        (0..len)
            .map(|_| TokenId(stream.random_range(0..VOCAB)))
            .collect()
    };
    let passages: Vec<Vec<TokenId>> = (0..12).map(|i| text(3 + i % 5)).collect();
    let group = |query: u32, passages_of: [u32; 3], relevant: &[u32]| Group {
        query: passages[passages_of[0] as usize][..2 + query as usize % 2].to_vec(),
        passages: passages_of.map(PassageIdx).to_vec(),
        relevant: relevant.iter().map(|&p| PassageIdx(p)).collect(),
        teacher: vec![2.5, 0.5 + query as f32, 0.25],
    };
    let groups = vec![
        group(0, [0, 1, 2], &[0]),
        group(1, [3, 4, 5], &[3, 6]),
        group(2, [6, 4, 7], &[3, 6]),
        group(3, [8, 9, 10], &[8, 0]),
        group(4, [11, 0, 1], &[11]),
    ];
    Source { passages, groups }
}

fn model() -> Model {
    model_of(Family::Llama)
}

fn model_of(family: Family) -> Model {
    let options = ModelOptions {
        family,
        n_layers: Some(2),
        d_model: Some(32),
        n_heads: Some(4),
        n_kv_heads: (family == Family::Llama).then_some(2),
        ..Default::default()
    };
    options
        .resolve(VOCAB as usize)
        .unwrap()
        .init(3, &Device::flex().autodiff())
}

fn objective<'a>(
    source: &'a Source,
    encoder: &'a EncoderOptions,
    options: &'a ContrastOptions,
) -> Contrastive<'a> {
    Contrastive {
        source,
        validation: &source.groups,
        encoder,
        options,
        loss: Loss::Both,
        seed: 1,
        flops: &|tokens| tokens as f64,
    }
}

#[test]
fn a_batch_holds_every_passage_once_and_masks_what_is_relevant() {
    let source = source();
    let (encoder, options) = (EncoderOptions::default(), ContrastOptions::default());
    let objective = objective(&source, &encoder, &options);
    let groups: Vec<&Group> = source.groups.iter().collect();
    let batch = objective.batch(&groups);
    assert_eq!(batch.passages.len(), 12);
    assert_eq!(batch.pool.groups[2], [6, 4, 7]);
    assert_eq!(batch.pool.groups[4], [11, 0, 1]);
    // 6 for the second query, 3 for the third, 0 for the fourth: by place in the pool.
    assert_eq!(batch.pool.masked, [(1, 6), (2, 3), (3, 0)]);
}

#[test]
fn cached_gradients_are_those_of_the_whole_batch() {
    let source = source();
    let options = ContrastOptions::default();
    for (family, pooling, t5_part) in [
        (Family::Llama, Pooling::Sparse, T5Part::Encoder),
        (Family::Llama, Pooling::Mean, T5Part::Encoder),
        (Family::T5, Pooling::Last, T5Part::Encoder),
        (Family::T5, Pooling::Sparse, T5Part::EncoderDecoder),
    ] {
        let model = model_of(family);
        let encoder = EncoderOptions {
            pooling,
            t5_part,
            ..Default::default()
        };
        let objective = objective(&source, &encoder, &options);
        let batch: Vec<&Group> = source.groups.iter().collect();
        let found = |micro_batch_size: usize, replicas: &[Device]| {
            let train = TrainOptions {
                micro_batch_size,
                ..Default::default()
            };
            let step = Step {
                model: &model,
                replicas,
                options: &train,
                done: 5,
                steps: 9,
            };
            let found = objective.gradients(&step, &batch).unwrap();
            let named = found.gradients.on(&Device::flex());
            let values = named.into_iter().map(|(n, g)| (n, checkpoint::values(g)));
            (
                found.loss,
                values.collect::<Vec<_>>(),
                found.representations,
            )
        };
        let (loss, expected, row) = found(100, &[]);
        let row = row.unwrap();
        assert_eq!(row.pool, 12);
        assert_eq!(row.passage_terms.is_some(), pooling == Pooling::Sparse);
        for (micro, replicas) in [(1, 0), (3, 0), (4, 2), (100, 1)] {
            let replicas = vec![Device::flex(); replicas];
            let (other, gradients, _) = found(micro, &replicas);
            assert!((loss - other).abs() < 1e-5, "{loss} {other}");
            assert_eq!(gradients.len(), expected.len());
            for ((name, a), (_, b)) in gradients.iter().zip(&expected) {
                let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * largest.max(1e-3);
                assert!(a.iter().zip(b).all(close), "{name} in parts of {micro}");
            }
        }
        let valid = objective
            .validation_loss(&model, &TrainOptions::default())
            .unwrap()
            .unwrap();
        let learned = loss - row.regulariser.unwrap_or(0.0);
        assert!((valid - learned).abs() < 1e-5, "{valid} {learned}");
    }
}

#[test]
fn activity_by_hand() {
    let rows = [
        [0.0f32, 1.0, 2.0],
        [0.0, 3.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0; 3],
    ];
    let x = Tensor::from_data(TensorData::from(rows), &Device::flex());
    let activity = Activity::of(x.clone());
    assert_eq!(
        (activity.mean_terms, activity.dead, activity.always_on),
        (1.0, 1, 0)
    );
    let activity = Activity::of(x.slice([0..3, 0..3]));
    assert_eq!((activity.dead, activity.always_on), (0, 1));
}

#[test]
fn collapse_is_told() {
    let (source, model) = (source(), model());
    let encoder = EncoderOptions {
        pooling: Pooling::Sparse,
        ..Default::default()
    };
    let options = ContrastOptions {
        max_terms: 2,
        ..Default::default()
    };
    let objective = objective(&source, &encoder, &options);
    let batch: Vec<&Group> = source.groups.iter().collect();
    let train = TrainOptions::default();
    let at = |done: u64| {
        let step = Step {
            model: &model,
            replicas: &[],
            options: &train,
            done,
            steps: 9,
        };
        objective.gradients(&step, &batch)
    };
    assert!(at(0).is_ok());
    let message = at(3).err().unwrap().to_string();
    assert!(
        message.contains("step 4") && message.contains("collapsed"),
        "{message}"
    );
}

#[test]
fn the_weight_rises_by_the_square_of_the_steps() {
    let options = ContrastOptions::default();
    let shares: Vec<f64> = [0, 1, 2, 3, 9]
        .map(|step| options.share_of_weight(step, 9))
        .to_vec();
    assert_eq!(shares[0], 0.0);
    assert!((shares[1] - 1.0 / 9.0).abs() < 1e-12 && (shares[2] - 4.0 / 9.0).abs() < 1e-12);
    assert_eq!(shares[3..], [1.0, 1.0]);
    let none = ContrastOptions {
        ramp: 0.0,
        ..options
    };
    assert_eq!(none.share_of_weight(0, 9), 1.0);
}
