//! Low-rank adapters (Hu et al. 2021): `y = x W^T + (alpha / r) x A^T B^T`, W frozen, A and B trained.
//!
//! Files are in the format of the `peft` package: `adapter_config.json` and
//! `adapter_model.safetensors`, whose names are those of the model behind `base_model.model.`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Distribution, Tensor, TensorData};
use genret_kernels as kernels;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::layers::{Initializer, Linear};
use super::{Family, Model, ModelConfig, ModelError, checkpoint, parameters};
use crate::atomic_file;

/// File of an adapter's settings.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Which projections get adapters, and how wide they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraOptions {
    /// Rank r of the adapters.
    pub rank: usize,
    /// Scale: adapters are multiplied by alpha / rank.
    pub alpha: f64,
    /// Share of an adapter's inputs set to 0 in training.
    pub dropout: f64,
    /// Projections with adapters, by the last part of their name; none stands for the queries' and
    /// values' projections of attention.
    pub targets: Vec<String>,
    /// Modules trained whole, by the last part of their name, such as `embed_tokens`.
    pub modules_to_save: Vec<String>,
}

impl Default for LoraOptions {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            targets: vec![],
            modules_to_save: vec![],
        }
    }
}

impl LoraOptions {
    /// Says what is wrong with the options, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.rank == 0 {
            return Err("model.lora.rank = 0 must be at least 1".into());
        }
        let scale = self.alpha > 0.0 && self.alpha.is_finite();
        if !(scale && (0.0..1.0).contains(&self.dropout)) {
            return Err(format!(
                "model.lora: dropout = {} must lie in [0, 1) and alpha = {} must be positive",
                self.dropout, self.alpha
            ));
        }
        Ok(())
    }

    /// The options with every name given: the family's own targets where there are none, and the
    /// embedding (and head) among the modules trained whole where the vocabulary has `grown`.
    ///
    /// # Errors
    /// [`ModelError::Shape`] if the model does not start from a checkpoint.
    pub fn resolve(
        &self,
        model: &ModelConfig,
        grown: bool,
        has_start: bool,
    ) -> Result<Self, ModelError> {
        if !has_start {
            return Err(ModelError::Shape(
                "model.lora adapts a checkpoint: give model.size as a folder or `owner/name`"
                    .into(),
            ));
        }
        let mut options = self.clone();
        if options.targets.is_empty() {
            let targets = match model.family() {
                Family::Llama => ["q_proj", "v_proj"],
                Family::T5 => ["q", "v"],
            };
            options.targets = targets.map(String::from).to_vec();
        }
        if grown {
            for name in model.vocabulary_modules() {
                if !options.modules_to_save.iter().any(|m| m == name) {
                    options.modules_to_save.push((*name).into());
                }
            }
        }
        Ok(options)
    }

    fn is_target(&self, name: &str) -> bool {
        self.targets.iter().any(|t| last_part(name) == t)
    }

    /// Whether the parameter of that name is trained whole.
    fn is_saved(&self, parameter: &str) -> bool {
        let module = parameter.rsplit_once('.').map_or("", |(module, _)| module);
        self.modules_to_save.iter().any(|s| last_part(module) == s)
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// The adapter of one projection.
#[derive(Module, Debug)]
pub(super) struct Adapter {
    /// `[rank, in]`
    a: Param<Tensor<2>>,
    /// `[out, rank]`
    b: Param<Tensor<2>>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
}

impl Adapter {
    /// A is uniform in +-1/sqrt(in) and B is 0, so that the model starts as it was.
    fn init(name: &str, weight: &Tensor<2>, options: &LoraOptions, init: &Initializer<'_>) -> Self {
        let [output, input] = weight.dims();
        let bound = 1.0 / (input as f64).sqrt();
        let zeros = vec![0f32; output * options.rank];
        Self {
            a: init.uniform(&format!("{name} lora"), [options.rank, input], bound),
            b: Param::from_data(TensorData::new(zeros, [output, options.rank]), init.device),
            scale: options.alpha / options.rank as f64,
            dropout: options.dropout,
        }
    }

    /// What the adapter adds to the projection of `x`.
    pub(super) fn forward(&self, x_ni: Tensor<2>) -> Tensor<2> {
        let x_ni = if self.dropout > 0.0 && x_ni.is_autodiff() {
            let keep = 1.0 - self.dropout;
            let device = x_ni.device().inner();
            let mask = Tensor::<2>::random(x_ni.dims(), Distribution::Bernoulli(keep), &device);
            x_ni * Tensor::from_inner(mask.div_scalar(keep))
        } else {
            x_ni
        };
        let narrow = kernels::linear(x_ni, self.a.val());
        kernels::linear(narrow, self.b.val()).mul_scalar(self.scale)
    }

    /// The projection's weight with the adapter added.
    fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        weight + self.b.val().matmul(self.a.val()).mul_scalar(self.scale)
    }
}

/// Parameters of the adapters that `options` give a model of that shape.
pub fn trained_params(model: &ModelConfig, options: &LoraOptions) -> usize {
    let shapes = model.linear_shapes();
    let targets = shapes.iter().filter(|(name, _)| options.is_target(name));
    targets.map(|(_, [o, i])| options.rank * (o + i)).sum()
}

/// `model` with an adapter at every target, and all else frozen but the modules to save.
///
/// # Errors
/// [`ModelError::Shape`] if a name in the options fits nothing.
pub fn adapt(mut model: Model, options: &LoraOptions, seed: u64) -> Result<Model, ModelError> {
    let device = model.device();
    let init = Initializer {
        seed: Some(seed),
        device: &device,
    };
    let mut unused = options.targets.clone();
    model.for_each_linear(&mut |name, linear| {
        if options.is_target(name) {
            linear.adapter = Some(Adapter::init(name, &linear.weight.val(), options, &init));
            unused.retain(|target| target != last_part(name));
        }
    });
    if let Some(target) = unused.first() {
        return Err(ModelError::Shape(format!(
            "model.lora.targets: the model has no projection `{target}`"
        )));
    }
    let names: Vec<String> = parameters::list(&model)
        .into_iter()
        .map(|p| p.name)
        .collect();
    for module in &options.modules_to_save {
        let known = |name: &String| {
            let parent = name.rsplit_once('.').map_or("", |(parent, _)| parent);
            last_part(parent) == module
        };
        if !names.iter().any(known) {
            return Err(ModelError::Shape(format!(
                "model.lora.modules_to_save: the model has no module `{module}`"
            )));
        }
    }
    Ok(freeze(model, |name| {
        is_adapter(name) || options.is_saved(name)
    }))
}

/// `model` with every adapter added to its weight; nothing is frozen.
pub fn merge(mut model: Model) -> Model {
    model.for_each_linear(&mut |_, linear: &mut Linear| {
        if let Some(adapter) = linear.adapter.take() {
            let weight = adapter.merged(linear.weight.val()).detach();
            linear.weight = Param::from_tensor(weight);
        }
    });
    model
}

fn is_adapter(name: &str) -> bool {
    name.ends_with(".adapter.a") || name.ends_with(".adapter.b")
}

/// Only parameters for which `trained` holds get gradients.
fn freeze<M: Module>(module: M, trained: impl Fn(&str) -> bool) -> M {
    struct Mapper<F> {
        path: parameters::Path,
        trained: F,
    }
    impl<F: Fn(&str) -> bool> ModuleMapper for Mapper<F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let trained = (self.trained)(&self.path.name());
            param.set_require_grad(trained)
        }
    }
    module.map(&mut Mapper {
        path: parameters::Path::default(),
        trained,
    })
}

/// The name of a parameter in `peft`'s files.
fn peft_name(name: &str) -> String {
    let name = match (
        name.strip_suffix(".adapter.a"),
        name.strip_suffix(".adapter.b"),
    ) {
        (Some(projection), _) => format!("{projection}.lora_A.weight"),
        (_, Some(projection)) => format!("{projection}.lora_B.weight"),
        _ => name.to_string(),
    };
    format!("{PREFIX}{name}")
}

/// Writes the adapters and the modules trained whole into `folder`, as `peft` does.
///
/// # Errors
/// [`ModelError::Io`].
pub fn save(
    model: &Model,
    options: &LoraOptions,
    base: &str,
    folder: &Path,
) -> Result<(), ModelError> {
    let tensors = parameters::list(model)
        .into_iter()
        .filter(|p| is_adapter(&p.name) || options.is_saved(&p.name))
        .map(|p| (peft_name(&p.name), p.shape, checkpoint::values(p.values)))
        .collect();
    let config = json!({
        "peft_type": "LORA",
        "task_type": match model.config().family() {
            Family::Llama => "CAUSAL_LM",
            Family::T5 => "SEQ_2_SEQ_LM",
        },
        "base_model_name_or_path": base,
        "r": options.rank,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "target_modules": options.targets,
        "modules_to_save": if options.modules_to_save.is_empty() { None } else { Some(&options.modules_to_save) },
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    let io_error = |path: PathBuf| move |source| ModelError::Io { path, source };
    std::fs::create_dir_all(folder).map_err(io_error(folder.into()))?;
    let path = folder.join(ADAPTER_WEIGHTS);
    checkpoint::write(&path, tensors).map_err(io_error(path))?;
    let path = folder.join(ADAPTER_CONFIG);
    let text = serde_json::to_string_pretty(&config).expect("a JSON value always serialises");
    atomic_file::write(&path, |w| writeln!(w, "{text}")).map_err(io_error(path))
}

/// What `adapter_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Folder or hub name of the model that was adapted.
    pub base: String,
    /// Its adapters.
    pub options: LoraOptions,
}

impl AdapterConfig {
    /// Reads the `adapter_config.json` of `folder`.
    ///
    /// # Errors
    /// [`ModelError::Config`] for settings that change what is computed and are not supported.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        #[derive(Deserialize)]
        struct File {
            peft_type: String,
            base_model_name_or_path: Option<String>,
            r: usize,
            lora_alpha: f64,
            #[serde(default)]
            lora_dropout: f64,
            target_modules: serde_json::Value,
            modules_to_save: Option<Vec<String>>,
            #[serde(default)]
            bias: Option<String>,
            #[serde(default)]
            fan_in_fan_out: bool,
            #[serde(default)]
            use_dora: bool,
            #[serde(default)]
            use_rslora: bool,
            #[serde(default)]
            rank_pattern: BTreeMap<String, serde_json::Value>,
            #[serde(default)]
            alpha_pattern: BTreeMap<String, serde_json::Value>,
        }
        let path = folder.join(ADAPTER_CONFIG);
        let bad = |message: String| ModelError::Config {
            path: path.clone(),
            message,
        };
        let text = std::fs::read_to_string(&path).map_err(|source| ModelError::Io {
            path: path.clone(),
            source,
        })?;
        let file: File = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let unsupported = [
            ("peft_type other than LORA", file.peft_type != "LORA"),
            (
                "bias other than none",
                file.bias.is_some_and(|b| b != "none"),
            ),
            ("fan_in_fan_out", file.fan_in_fan_out),
            ("use_dora", file.use_dora),
            ("use_rslora", file.use_rslora),
            ("rank_pattern", !file.rank_pattern.is_empty()),
            ("alpha_pattern", !file.alpha_pattern.is_empty()),
        ];
        if let Some((what, _)) = unsupported.iter().find(|(_, found)| *found) {
            return Err(bad(format!("{what} is not supported")));
        }
        let targets = serde_json::from_value(file.target_modules).map_err(|_| {
            bad("target_modules must be a list of names; a pattern is not supported".into())
        })?;
        Ok(Self {
            base: file.base_model_name_or_path.unwrap_or_default(),
            options: LoraOptions {
                rank: file.r,
                alpha: file.lora_alpha,
                dropout: file.lora_dropout,
                targets,
                modules_to_save: file.modules_to_save.unwrap_or_default(),
            },
        })
    }
}

/// `base` with the adapters and modules of `folder`, all else frozen; [`merge`] makes one model of them.
///
/// # Errors
/// [`ModelError::Tensors`] names what is missing, unknown or of another shape.
pub fn load(base: Model, folder: &Path) -> Result<Model, ModelError> {
    let options = AdapterConfig::load(folder)?.options;
    let model = adapt(base, &options, 0)?;
    let stored = |name: &str| (is_adapter(name) || options.is_saved(name)).then(|| peft_name(name));
    checkpoint::load_some(model, &folder.join(ADAPTER_WEIGHTS), &stored)
}
