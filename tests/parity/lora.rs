//! Low-rank adapters against `peft` (`make_adapters.py`).

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use genret::model::lora::{self, AdapterConfig};
use genret::model::{LoraOptions, Model, NextTokenModel, checkpoint, parameters};
use genret::types::TokenId;

use super::{TOLERANCE, integers, largest_difference, shared};

fn adapters(family: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/parity/adapters").join(family)
}

/// Folder of the base and the first example of its inputs: what is read, and what is predicted.
fn base(family: &str) -> Option<(PathBuf, Vec<TokenId>, Vec<TokenId>)> {
    let config = AdapterConfig::load(&adapters(family)).unwrap();
    let folder = shared::shared("fixtures/hf-parity")?.join(config.base);
    let inputs = integers(&folder.join("inputs.safetensors"));
    let first = |name: &str| -> Vec<TokenId> {
        let ids = &inputs[name][..inputs[name].len() / 3];
        let real = ids.iter().take_while(|&&id| id >= 0);
        real.map(|&id| TokenId(id as u32)).collect()
    };
    let (prompt, target) = match family {
        "t5" => {
            let mask = inputs["attention_mask"].iter();
            let length = mask
                .take(inputs["input_ids"].len() / 3)
                .filter(|&&m| m == 1);
            (
                first("input_ids")[..length.count()].to_vec(),
                first("labels"),
            )
        }
        _ => {
            let ids = first("input_ids");
            (ids[..1].to_vec(), ids[1..].to_vec())
        }
    };
    Some((folder, prompt, target))
}

#[test]
fn adapters_of_peft_act_as_in_peft_and_are_saved_as_they_were() {
    for family in ["llama", "t5"] {
        let Some((folder, prompt, target)) = base(family) else {
            return;
        };
        let open = || Model::open(&folder, &Device::flex()).unwrap();
        let adapted = lora::load(open(), &adapters(family)).unwrap();
        let expected = checkpoint::read(&adapters(family).join("expected.safetensors")).unwrap();
        let logits = |model: &Model| {
            let hidden = model.target_hidden(&[(&prompt[..], &target[..])]).unwrap();
            checkpoint::values(model.logits(hidden))
        };
        let merged = lora::merge(adapted.clone());
        for model in [&adapted, &merged] {
            let got = logits(model);
            let difference = largest_difference(&got, &expected["logits"][..got.len()]);
            assert!(difference < TOLERANCE, "{family}: {difference}");
        }
        assert!(largest_difference(&logits(&open()), &logits(&merged)) > 0.01);

        let out = std::env::temp_dir().join(format!("genret-lora-{family}-{}", std::process::id()));
        let config = AdapterConfig::load(&adapters(family)).unwrap();
        lora::save(&adapted, &config.options, &config.base, &out).unwrap();
        assert_eq!(AdapterConfig::load(&out).unwrap(), config);
        let file = "adapter_model.safetensors";
        let read = |folder: &Path| checkpoint::read(&folder.join(file)).unwrap();
        assert_eq!(read(&out), read(&adapters(family)));
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn only_adapters_and_named_modules_are_trained() {
    for (family, embedding) in [("llama", "embed_tokens"), ("t5", "shared")] {
        let Some((folder, prompt, target)) = base(family) else {
            return;
        };
        let model = Model::open(&folder, &Device::flex().autodiff()).unwrap();
        let shape = model.config();
        let options = LoraOptions {
            rank: 3,
            ..LoraOptions::default()
        };
        let options = options.resolve(&shape, true, true).unwrap();
        let grown = model.with_vocab_size(shape.vocab_size() + 5, 1);
        let adapted = lora::adapt(grown.clone(), &options, 2).unwrap();
        let trained: usize = parameters::list(&adapted)
            .iter()
            .filter(|p| p.name.contains(".adapter."))
            .map(|p| p.shape.iter().product::<usize>())
            .sum();
        assert_eq!(trained, lora::trained_params(&shape, &options));
        // Old rows are what they were; B is 0, so nothing is changed yet.
        let logits = |model: &Model| {
            let hidden = model.target_hidden(&[(&prompt[..], &target[..])]).unwrap();
            checkpoint::values(model.logits(hidden).inner())
        };
        assert_eq!(logits(&adapted), logits(&grown));
        let hidden = adapted
            .target_hidden(&[(&prompt[..], &target[..])])
            .unwrap();
        let graph = adapted.loss_sum(hidden, &target).backward();
        let gradients = parameters::gradients(&adapted, graph);
        assert!(!gradients.is_empty());
        for name in gradients.keys() {
            let known =
                name.contains(".adapter.") || name.contains(embedding) || name == "lm_head.weight";
            assert!(known, "{family}: {name}");
        }
        let listed = parameters::list(&adapted).into_iter().filter(|p| p.trained);
        assert_eq!(listed.count(), gradients.len());
        // Inference has none of it.
        let names = |model: Model| parameters::shapes(&model.valid());
        assert_eq!(names(lora::merge(adapted)), names(grown));
    }
}
