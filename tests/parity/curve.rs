//! Twenty steps of training against PyTorch's AdamW (`train_curve.py`): losses within 1e-3.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use genret::model::{Llama, LlamaConfig, Sequences, T5, T5Config, checkpoint};
use genret::train::{AdamW, Gradients, TrainOptions};
use genret::types::TokenId;

use super::{integers, shared};

const TOLERANCE: f64 = 1e-3;

#[derive(serde::Deserialize)]
struct Curves {
    optimiser: Optimiser,
    learning_rates: BTreeMap<String, f64>,
    losses: BTreeMap<String, Vec<f64>>,
}

#[derive(serde::Deserialize)]
struct Optimiser {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    clip_norm: f64,
}

fn curves() -> Curves {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/train_curve.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Losses of as many steps as `expected` has, one mean loss over the labels each.
fn check<M: Module>(family: &str, name: &str, mut model: M, loss: impl Fn(&M) -> Tensor<1>) {
    let curves = curves();
    let by = &curves.optimiser;
    let mut optimizer = AdamW::new(&TrainOptions {
        beta1: by.beta1,
        beta2: by.beta2,
        epsilon: by.epsilon,
        weight_decay: by.weight_decay,
        clip_norm: by.clip_norm,
        ..TrainOptions::default()
    });
    for (step, expected) in curves.losses[name].iter().enumerate() {
        let loss = loss(&model);
        let found = f64::from(checkpoint::values(loss.clone().inner())[0]);
        let difference = (found - expected).abs();
        assert!(
            difference < TOLERANCE,
            "{name}, step {step}: loss {found}, PyTorch {expected}"
        );
        let mut gradients = Gradients::default();
        gradients.add(&model, loss.backward());
        let norm = gradients.norm();
        model = optimizer.step(model, gradients, norm, curves.learning_rates[family]);
    }
}

/// Rows of an input where `real` holds.
fn rows(ids: &[i64], batch: usize, real: impl Fn(usize) -> bool) -> Vec<Vec<TokenId>> {
    let seq = ids.len() / batch;
    let row = |row: usize| (row * seq..(row + 1) * seq).filter(|&i| real(i));
    let row = |r: usize| row(r).map(|i| TokenId(ids[i] as u32)).collect();
    (0..batch).map(row).collect()
}

/// Every checkpoint of `curves` whose name begins with `family`, with its inputs.
fn for_each(family: &str, check: impl Fn(&str, &Path, BTreeMap<String, Vec<i64>>)) {
    let Some(root) = shared::shared("fixtures/hf-parity") else {
        return;
    };
    for name in curves()
        .losses
        .keys()
        .filter(|name| name.starts_with(family))
    {
        let folder = root.join(name);
        check(name, &folder, integers(&folder.join("inputs.safetensors")));
    }
}

#[test]
fn llama_learns_as_in_pytorch() {
    let device = Device::flex().autodiff();
    for_each("llama", |name, folder, inputs| {
        let config = LlamaConfig::load(&folder.join("config.json")).unwrap();
        let model: Llama = checkpoint::load(config.init(0, &device), folder).unwrap();
        let (ids, mask) = (&inputs["input_ids"], &inputs["attention_mask"]);
        let batch = Sequences::pad(&rows(ids, 3, |i| mask[i] == 1));
        let (mut positions, mut targets) = (vec![], vec![]);
        for (i, &label) in inputs["labels"].iter().enumerate() {
            if i % batch.seq > 0 && label >= 0 {
                positions.push(i as i32 - 1);
                targets.push(TokenId(label as u32));
            }
        }
        check("llama", name, model, |model| {
            let positions = Tensor::from_ints(&positions[..], &device);
            let hidden = model.hidden(&batch, true).unwrap();
            let hidden = genret_kernels::embedding(hidden, positions);
            model.loss_sum(hidden, &targets) / targets.len() as f64
        });
    });
}

#[test]
fn t5_learns_as_in_pytorch() {
    let device = Device::flex().autodiff();
    for_each("t5", |name, folder, inputs| {
        let config = T5Config::load(&folder.join("config.json")).unwrap();
        let model: T5 = checkpoint::load(config.empty(&device), folder).unwrap();
        let (mask, labels) = (&inputs["attention_mask"], &inputs["labels"]);
        let prompts = rows(&inputs["input_ids"], 3, |i| mask[i] == 1);
        let targets = rows(labels, 3, |i| labels[i] >= 0);
        let examples: Vec<(&[TokenId], &[TokenId])> = prompts
            .iter()
            .zip(&targets)
            .map(|(prompt, target)| (&prompt[..], &target[..]))
            .collect();
        let all = targets.concat();
        check("t5", name, model, |model| {
            let hidden = model.target_hidden(&examples).unwrap();
            model.loss_sum(hidden, &all) / all.len() as f64
        });
    });
}
