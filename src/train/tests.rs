use super::*;
use crate::data::example::Example;
use crate::model::{Family, ModelOptions, checkpoint, parameters};
use crate::rng;
use crate::types::TokenId;
use burn::tensor::Device;
use rand::RngExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

const VOCAB: u32 = 40;

/// Examples whose target repeats a part of the prompt: learnable by copying.
struct Copying {
    examples: usize,
}

impl ExampleSource for Copying {
    fn len(&self) -> usize {
        self.examples
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<Example>, ExampleError> {
        let example = |i: usize| {
            let mut stream = rng::stream(1, "copying", &[epoch, i as u64]);
            let len = stream.random_range(3..9);
            let prompt: Vec<TokenId> = (0..len)
                .map(|_| TokenId(stream.random_range(0..VOCAB)))
                .collect();
            Example {
                target: prompt[..stream.random_range(1..=2)].to_vec(),
                prompt,
            }
        };
        Ok((0..self.examples).map(example).collect())
    }
}

fn model(device: &Device) -> Model {
    let options = ModelOptions {
        n_layers: Some(2),
        d_model: Some(32),
        n_heads: Some(4),
        n_kv_heads: Some(2),
        ..Default::default()
    };
    let config = options.resolve(VOCAB as usize).unwrap();
    config.init(3, device)
}

fn t5(device: &Device) -> Model {
    let options = ModelOptions {
        family: Family::T5,
        n_layers: Some(2),
        d_model: Some(32),
        n_heads: Some(4),
        ..Default::default()
    };
    let config = options.resolve(VOCAB as usize).unwrap();
    config.init(3, device)
}

fn options() -> TrainOptions {
    TrainOptions {
        batch_size: 8,
        micro_batch_size: 8,
        epochs: 2.0,
        learning_rate: LearningRate::Value(3e-3),
        validate_every: 5,
        checkpoint_every_secs: 0.0,
        ..Default::default()
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("genret-train-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Trains in `folder`, with a panic after step `stop`.
fn train(
    folder: &Path,
    options: &TrainOptions,
    stop: Option<u64>,
) -> Option<(Model, TrainSummary)> {
    let source = Copying { examples: 100 };
    let validation = Copying { examples: 10 }.epoch(99).unwrap();
    let run = || {
        TrainRun {
            objective: &Generation {
                source: &source,
                validation: &validation,
                flops: &|prompt, target| (prompt + 10 * target) as f64,
            },
            options,
            seed: 5,
            peak_flops: Some(1e12),
            replicas: &[],
            folder,
            progress: &mut |p| {
                assert_ne!(Some(p.step), stop, "stopped on purpose");
                ControlFlow::Continue(())
            },
        }
        .run(model(&Device::flex().autodiff()))
        .unwrap()
    };
    catch_unwind(AssertUnwindSafe(run)).ok()
}

fn weights(model: &Model) -> Vec<(String, Vec<u32>)> {
    parameters::list(model)
        .into_iter()
        .map(|p| {
            (
                p.name,
                checkpoint::values(p.values)
                    .iter()
                    .map(|v| v.to_bits())
                    .collect(),
            )
        })
        .collect()
}

fn rows(folder: &Path) -> Vec<StepRow> {
    let rows: Vec<StepRow> = record::read(&folder.join("steps.jsonl")).unwrap();
    rows.into_iter()
        .map(|row| StepRow {
            tokens_per_sec: 0.0,
            utilisation: None,
            peak_bytes: None,
            ..row
        })
        .collect()
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let whole = folder("whole");
    let (expected, summary) = train(&whole, &options(), None).unwrap();
    assert_eq!(summary.steps, 26);
    assert_eq!(summary.examples_seen, 200);
    for stops in [vec![1], vec![13], vec![7, 8, 25]] {
        let broken = folder("broken");
        for stop in &stops {
            assert!(train(&broken, &options(), Some(*stop)).is_none());
        }
        let (resumed, resumed_summary) = train(&broken, &options(), None).unwrap();
        assert_eq!(
            weights(&resumed),
            weights(&expected),
            "stopped at {stops:?}"
        );
        assert_eq!(rows(&broken), rows(&whole), "stopped at {stops:?}");
        assert_eq!(
            TrainSummary {
                secs: summary.secs,
                peak_bytes: summary.peak_bytes,
                ..resumed_summary
            },
            summary
        );
    }
}

#[test]
fn training_learns_and_micro_batches_do_not_matter() {
    let whole = folder("one-batch");
    let longer = TrainOptions {
        epochs: 20.0,
        ..options()
    };
    let (_, summary) = train(&whole, &longer, None).unwrap();
    let rows_whole = rows(&whole);
    assert!(
        (rows_whole[0].loss - (VOCAB as f64).ln()).abs() < 0.3,
        "{}",
        rows_whole[0].loss
    );
    assert!(summary.train_loss < 0.5 * rows_whole[0].loss, "{summary:?}");
    let split = folder("micro-batches");
    let micro = TrainOptions {
        micro_batch_size: 3,
        ..options()
    };
    train(&split, &micro, None).unwrap();
    let again = folder("again");
    train(&again, &options(), None).unwrap();
    for (a, b) in rows(&split).iter().zip(&rows(&again)) {
        assert!(
            (a.loss - b.loss).abs() < 1e-4,
            "step {}: {} {}",
            a.step,
            a.loss,
            b.loss
        );
    }
}

/// Loss and gradients of a batch by parameter name.
fn gradients(
    model: &Model,
    replicas: &[Device],
    options: &TrainOptions,
) -> Vec<(String, Vec<f32>)> {
    let examples = Copying { examples: 11 }.epoch(0).unwrap();
    let batch: Vec<&Example> = examples.iter().collect();
    let step = Step {
        model,
        replicas,
        options,
        done: 0,
        steps: 1,
    };
    let objective = Generation {
        source: &Copying { examples: 0 },
        validation: &[],
        flops: &|_, _| 0.0,
    };
    let found = objective.gradients(&step, &batch).unwrap();
    let loss = found.loss;
    let found = found.gradients.on(&Device::flex()).into_iter();
    let found = found.map(|(name, g)| (name, checkpoint::values(g)));
    std::iter::once(("loss".into(), vec![loss as f32]))
        .chain(found)
        .collect()
}

fn assert_close(found: &[(String, Vec<f32>)], expected: &[(String, Vec<f32>)]) {
    assert_eq!(found.len(), expected.len());
    for ((name, found), (other, expected)) in found.iter().zip(expected) {
        assert_eq!(name, other);
        let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-5 * largest.max(1e-3), "{name}: {a} {b}");
        }
    }
}

#[test]
fn layers_computed_again_give_the_same_gradients() {
    let device = Device::flex().autodiff();
    let again = TrainOptions {
        gradient_checkpointing: true,
        ..options()
    };
    for model in [model(&device), t5(&device)] {
        let expected = gradients(&model, &[], &options());
        assert!(expected.len() > 10);
        assert_close(&gradients(&model, &[], &again), &expected);
    }
}

#[test]
fn half_precision_gives_about_the_same_gradients_in_whole_precision() {
    let device = Device::flex().autodiff();
    let half = TrainOptions {
        precision: Precision::Bf16,
        ..options()
    };
    for model in [model(&device), t5(&device)] {
        let expected = gradients(&model, &[], &options());
        let found = gradients(&model, &[], &half);
        assert_ne!(found, expected);
        assert_eq!(found.len(), expected.len());
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| x * x).sum::<f32>().sqrt();
            let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
            let size = norm(&mut expected.iter().copied());
            // Eight bits of mantissa, through two layers and back.
            assert!(
                difference < 0.05 * size + 1e-6,
                "{name}: {difference} of {size}"
            );
        }
    }
}

#[test]
fn devices_share_a_step() {
    let device = Device::flex().autodiff();
    let options = TrainOptions {
        micro_batch_size: 2,
        ..options()
    };
    for model in [model(&device), t5(&device)] {
        let expected = gradients(&model, &[], &options);
        let shared = gradients(&model, &[Device::flex(), Device::flex()], &options);
        assert_close(&shared, &expected);
        let again = gradients(&model, &[Device::flex(), Device::flex()], &options);
        assert_eq!(shared, again);
    }
}

#[test]
fn averaged_weights_follow_and_survive_a_stop() {
    let averaged = TrainOptions {
        ema: 0.9,
        ..options()
    };
    let (plain, _) = train(&folder("plain"), &options(), None).unwrap();
    let whole = folder("averaged");
    let (expected, _) = train(&whole, &averaged, None).unwrap();
    assert_ne!(weights(&expected), weights(&plain));
    let broken = folder("averaged-broken");
    assert!(train(&broken, &averaged, Some(13)).is_none());
    let (resumed, _) = train(&broken, &averaged, None).unwrap();
    assert_eq!(weights(&resumed), weights(&expected));

    // By hand: 1, then 0.9 * 1 + 0.1 * 2.
    let model = model(&Device::flex().autodiff());
    let with =
        |model: Model, value: f32| parameters::replace(model, |_, _, old| old.full_like(value));
    let (one, two) = (with(model.clone(), 1.0), with(model, 2.0));
    let mut average = Average::new(0.9, &one);
    average.update(&two);
    let values = weights(&average.of(two));
    assert!(
        values
            .iter()
            .all(|(_, v)| v.iter().all(|&b| (f32::from_bits(b) - 1.1).abs() < 1e-6))
    );
}

#[test]
fn a_group_has_its_own_learning_rate() {
    let grouped = TrainOptions {
        groups: vec![ParameterGroup {
            names: vec!["embed_tokens".into(), "layers.1.".into()],
            learning_rate: 0.0,
            weight_decay: Some(0.0),
        }],
        ..options()
    };
    let (trained, _) = train(&folder("groups"), &grouped, None).unwrap();
    let first = weights(&model(&Device::flex()));
    for ((name, before), (_, after)) in first.iter().zip(&weights(&trained)) {
        let held = name.contains("embed_tokens") || name.contains("layers.1.");
        assert_eq!(before == after, held, "{name}");
    }
}

#[test]
fn divergence_stops_with_the_step() {
    let folder = folder("diverged");
    let wild = TrainOptions {
        learning_rate: LearningRate::Value(1e30),
        clip_norm: 0.0,
        ..options()
    };
    let source = Copying { examples: 50 };
    let error = TrainRun {
        objective: &Generation {
            source: &source,
            validation: &[],
            flops: &|_, _| 0.0,
        },
        options: &wild,
        seed: 5,
        peak_flops: None,
        replicas: &[],
        folder: &folder,
        progress: &mut |_| ControlFlow::Continue(()),
    }
    .run(model(&Device::flex().autodiff()))
    .unwrap_err();
    assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
}

#[test]
fn a_run_that_is_asked_to_stop_leaves_its_state_and_goes_on() {
    let seldom = TrainOptions {
        checkpoint_every_secs: 1e9,
        ..options()
    };
    let whole = folder("asked-whole");
    let (expected, _) = train(&whole, &seldom, None).unwrap();
    let asked = folder("asked");
    let source = Copying { examples: 100 };
    let validation = Copying { examples: 10 }.epoch(99).unwrap();
    let objective = Generation {
        source: &source,
        validation: &validation,
        flops: &|prompt, target| (prompt + 10 * target) as f64,
    };
    let error = TrainRun {
        objective: &objective,
        options: &seldom,
        seed: 5,
        peak_flops: None,
        replicas: &[],
        folder: &asked,
        progress: &mut |p| {
            if p.step == 9 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    }
    .run(model(&Device::flex().autodiff()))
    .unwrap_err();
    assert!(
        matches!(
            error,
            TrainError::Stopped {
                step: 9,
                steps: 26,
                ..
            }
        ),
        "{error}"
    );
    let mut first = None;
    let (resumed, _) = TrainRun {
        objective: &objective,
        options: &seldom,
        seed: 5,
        peak_flops: None,
        replicas: &[],
        folder: &asked,
        progress: &mut |p| {
            first.get_or_insert(p.step);
            ControlFlow::Continue(())
        },
    }
    .run(model(&Device::flex().autodiff()))
    .unwrap();
    assert_eq!(first, Some(10));
    assert_eq!(weights(&resumed), weights(&expected));
    assert_eq!(rows(&asked), rows(&whole));
}
