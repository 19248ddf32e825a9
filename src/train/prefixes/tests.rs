use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use rand::RngExt;
use serde::Deserialize;

use super::*;
use crate::model::{Family, ModelOptions, checkpoint};
use crate::rng;
use crate::types::PassageIdx;

#[derive(Default)]
struct Source {
    ids: Vec<Vec<TokenId>>,
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
        &self.ids[passage.index()]
    }
}

fn objective<'a>(
    source: &'a Source,
    options: &'a PrefixOptions,
    lengths: &'a [usize],
) -> Prefixes<'a> {
    Prefixes {
        source,
        validation: &source.groups,
        options,
        lengths,
        teacher_scale: 1.0,
        flops: &|prompt, id| (prompt + id) as f64,
    }
}

/// Loss and named gradients of a batch at update `done` of 9.
fn found(
    objective: &Prefixes<'_>,
    model: &Model,
    micro_batch_size: usize,
    replicas: &[Device],
    done: u64,
) -> (f64, Vec<(String, Vec<f32>)>) {
    let options = TrainOptions {
        micro_batch_size,
        ..Default::default()
    };
    let step = Step {
        model,
        replicas,
        options: &options,
        done,
        steps: 9,
    };
    let groups = objective.source.epoch(0).unwrap();
    let batch: Vec<&Group> = groups.iter().collect();
    let found = objective.gradients(&step, &batch).unwrap();
    let named = found.gradients.on(&Device::flex());
    let values = named.into_iter().map(|(n, g)| (n, checkpoint::values(g)));
    (found.loss, values.collect())
}

#[test]
fn margins_by_hand() {
    let options = PrefixOptions {
        lengths: vec![1, 2],
        decay: 0.5,
        score: CodeScore::Logits,
    };
    let lengths = options.lengths_of(2).unwrap();
    assert_eq!(lengths, [1, 2]);
    let source = Source::default();
    let objective = objective(&source, &options, &lengths);
    // One query: the positive 3 + 1, a negative 2 + 2, another of one code, 5. The teacher: 4, 1, 0.
    let scores = [3.0f32, 1.0, 2.0, 2.0, 5.0];
    let loss = |lengths: &[usize]| {
        let scores = Tensor::<1>::from_floats(scores, &Device::flex());
        let teacher = vec![4.0, 1.0, 0.0];
        crate::train::scalar(objective.squared_errors(scores, &[2, 2, 1], teacher, 3, lengths))
    };
    // Whole: margins 0 and -1 for 3 and 4.
    let whole = 9.0 + 25.0;
    // First codes alone are all there is in the first stage: margins 1 and -2 for the teacher's 3 and 4.
    assert_eq!(loss(&[1]), 4.0 + 36.0);
    // Beside whole ones they get (1 - 1/2) / (1 - 1/4) = 2/3 of it: 2 and 8/3.
    let first = 1.0 + (14.0f64 / 3.0).powi(2);
    assert!((loss(&lengths) - whole - first).abs() < 1e-5);
}

#[test]
fn stages_take_in_ever_longer_prefixes() {
    let options = PrefixOptions::default();
    let source = Source::default();
    let all = options.lengths_of(20).unwrap();
    assert_eq!(all, [4, 8, 16, 20]);
    let objective = objective(&source, &options, &all);
    let longest = |done| *objective.stage(done, 100).last().unwrap();
    assert_eq!([0, 24, 25, 50, 75, 99].map(longest), [4, 4, 8, 16, 20, 20]);
    // RIPOR's shares for its identifiers of 32: 1/2, 3/4, 7/8 of 1 - 2/32.
    for (length, share) in [(4, 0.5), (8, 0.75), (16, 0.875), (32, 0.9375)] {
        assert!((options.share(length, 32) - share / 0.9375).abs() < 1e-12);
    }
    assert_eq!(options.lengths_of(32).unwrap(), [4, 8, 16, 32]);
    assert_eq!(options.lengths_of(3).unwrap(), [3]);
}

#[test]
fn bad_options_are_refused() {
    let options = |lengths: &[usize], decay| PrefixOptions {
        lengths: lengths.to_vec(),
        decay,
        ..Default::default()
    };
    assert!(options(&[4, 4], 2.0).check().is_err());
    assert!(options(&[0, 4], 0.0).check().is_err());
    assert!(options(&[4], f64::NAN).check().is_err());
    assert!(options(&[], 0.0).check().is_ok());
    let message = options(&[1, 2], 2.0).lengths_of(4).unwrap_err();
    assert!(message.contains("prefixes of 1"), "{message}");
    assert!(options(&[1, 2], 0.5).lengths_of(4).is_ok());
    assert!(options(&[4, 8], 2.0).lengths_of(2).is_err());
}

#[derive(Deserialize)]
struct Fixture {
    lengths: Vec<usize>,
    decay: f64,
    groups: Vec<FixtureGroup>,
    losses: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct FixtureGroup {
    query: Vec<TokenId>,
    ids: Vec<Vec<TokenId>>,
    teacher: Vec<f32>,
}

/// Every case of tests/parity/prefixes.json: both families, heads tied and not, both scores, all stages.
#[test]
fn losses_and_gradients_equal_pytorch() {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity");
    let text = std::fs::read_to_string(parity.join("prefixes.json")).unwrap();
    let fixture: Fixture = serde_json::from_str(&text).unwrap();
    let expected = checkpoint::read(&parity.join("prefixes.safetensors")).unwrap();
    let mut source = Source::default();
    for group in fixture.groups {
        let first = source.ids.len() as u32;
        let passages = (first..first + group.ids.len() as u32).map(PassageIdx);
        source.groups.push(Group {
            query: group.query,
            passages: passages.collect(),
            relevant: vec![],
            teacher: group.teacher,
        });
        source.ids.extend(group.ids);
    }
    assert_eq!(fixture.losses.len(), 24);
    for (case, value) in &fixture.losses {
        let [name, score, stage] = case.split('.').collect::<Vec<_>>()[..] else {
            panic!("{case}");
        };
        let options = PrefixOptions {
            lengths: fixture.lengths.clone(),
            decay: fixture.decay,
            score: match score {
                "logits" => CodeScore::Logits,
                _ => CodeScore::LogProbs,
            },
        };
        let lengths = options.lengths_of(4).unwrap();
        let objective = objective(&source, &options, &lengths);
        let folder = parity.join("encoders").join(name);
        let model = Model::open(&folder, &Device::flex().autodiff()).unwrap();
        let done = 3 * stage.parse::<u64>().unwrap();
        let (loss, gradients) = found(&objective, &model, 100, &[], done);
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-4 * (1.0 + b.abs());
        assert!(close(loss, *value), "{case}: {loss} {value}");
        if stage != "2" {
            continue;
        }
        let prefix = format!("{case}.");
        let listed = expected.keys().filter(|k| k.starts_with(&prefix)).count();
        let mut met = 0;
        for (parameter, gradient) in gradients {
            let wanted = expected.get(&format!("{prefix}{parameter}"));
            met += usize::from(wanted.is_some());
            let zeros = vec![0.0; gradient.len()];
            let wanted = wanted.unwrap_or(&zeros);
            let largest = wanted.iter().fold(1f32, |m, v| m.max(v.abs()));
            for (a, b) in gradient.iter().zip(wanted) {
                let close = (a - b).abs() <= 1e-4 * largest;
                assert!(close, "{case} {parameter}: {a} {b} of {largest}");
            }
        }
        assert_eq!(met, listed, "{case}");
        let valid = objective.validation_loss(&model, &TrainOptions::default());
        assert!(close(valid.unwrap().unwrap(), *value));
    }
}

#[test]
fn micro_batches_and_devices_change_nothing() {
    let mut stream = rng::stream(7, "prefixes", &[]);
    let mut tokens = |len: usize| -> Vec<TokenId> {
        (0..len)
            .map(|_| TokenId(stream.random_range(0..40)))
            .collect()
    };
    let source = Source {
        ids: (0..9).map(|i| tokens(2 + i % 4)).collect(),
        groups: (0..7)
            .map(|i| Group {
                query: tokens(2 + i as usize % 5),
                passages: [i, (i + 1) % 9, (i + 4) % 9].map(PassageIdx).to_vec(),
                relevant: vec![],
                teacher: vec![2.5, i as f32, 0.25],
            })
            .collect(),
    };
    for (family, score) in [
        (Family::Llama, CodeScore::Logits),
        (Family::T5, CodeScore::Logits),
        (Family::Llama, CodeScore::LogProbs),
        (Family::T5, CodeScore::LogProbs),
    ] {
        let shape = ModelOptions {
            family,
            n_layers: Some(2),
            d_model: Some(32),
            n_heads: Some(4),
            ..Default::default()
        };
        let device = Device::flex().autodiff();
        let model = shape.resolve(40).unwrap().init(3, &device);
        let options = PrefixOptions {
            lengths: vec![1, 3],
            decay: 0.5,
            score,
        };
        let lengths = options.lengths_of(5).unwrap();
        let objective = objective(&source, &options, &lengths);
        let (loss, expected) = found(&objective, &model, 100, &[], 8);
        for (micro, replicas) in [(1, 0), (6, 0), (9, 2), (100, 1)] {
            let replicas = vec![Device::flex(); replicas];
            let (other, gradients) = found(&objective, &model, micro, &replicas, 8);
            assert!((loss - other).abs() < 1e-5 * loss.abs(), "{loss} {other}");
            assert_eq!(gradients.len(), expected.len());
            for ((name, a), (_, b)) in gradients.iter().zip(&expected) {
                let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * largest.max(1e-3);
                assert!(a.iter().zip(b).all(close), "{name} in parts of {micro}");
            }
        }
    }
}
