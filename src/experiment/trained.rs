//! Models on disk: what made one, where it starts from, opening and saving.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::docids::DocidSpec;
use super::groups::{Grouping, Reads};
use super::{ExperimentError, VERSION, read_json, write_json};
use crate::config::{self, ObjectiveOptions, RetrieverKind, Task};
use crate::data::masking::MaskingOptions;
use crate::docid::Method;
use crate::model::{
    EncoderOptions, LoraOptions, Model, ModelConfig, ModelOptions, Pooling, T5Part, checkpoint,
    hub,
    lora::{self, ADAPTER_CONFIG, AdapterConfig},
};
use crate::record;
use crate::sweep::flops::TrainingCost;
use crate::tokenizer::Tokenizer;
use crate::train::{ContrastOptions, TrainOptions, TrainSummary};

const RECORD: &str = "genret.json";

/// A checkpoint that training starts from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Folder, or name on the Hugging Face hub.
    pub checkpoint: String,
    /// Hash of its configuration and weights.
    pub fingerprint: u64,
}

/// What makes the representations of a sparse or dense model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Representation {
    /// Sparse or dense.
    pub retriever: RetrieverKind,
    /// How texts become representations.
    pub encoder: EncoderOptions,
    /// How representations are learned.
    pub contrast: ContrastOptions,
    /// Hashes of the files that negatives and teacher come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<u64>,
}

/// Which passages a model learns to rank by prefixes of their identifiers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrefixRanking {
    /// Codes of the prefixes.
    pub lengths: Vec<usize>,
    /// Negatives and teacher; the rest is of representations and default.
    pub contrast: ContrastOptions,
    /// Hashes of the files that they come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<u64>,
}

/// Everything that makes a trained model; its hash is the model's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Shape.
    pub model: ModelConfig,
    /// The checkpoint it starts from; random weights without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// Adapters that are trained instead of all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraOptions>,
    /// Fingerprint of passages, queries and judgements.
    pub collection: u64,
    /// Fingerprint of the tokenizer.
    pub tokenizer: u64,
    /// Split of the training queries.
    pub split: String,
    /// Share of the training pairs.
    pub fraction: f64,
    /// Decides which pairs the share holds.
    pub subset_seed: u64,
    /// That many pairs.
    pub num_pairs: usize,
    /// Examples of one epoch.
    pub num_examples: usize,
    /// Split of the validation queries, and how many of them are used.
    pub validation: (String, usize),
    /// What the model learns.
    pub objective: ObjectiveOptions,
    /// The identifiers it writes, where those are learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docids: Option<DocidSpec>,
    /// Fingerprint of the pseudo-queries, where those are learned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudo_queries: Option<u64>,
    /// What is masked, where masked tokens are learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masking: Option<MaskingOptions>,
    /// Its representations, of a sparse or dense model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub representation: Option<Representation>,
    /// What it ranks, where identifiers are ranked by their prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<PrefixRanking>,
    /// How it is trained.
    pub train: TrainOptions,
    /// Seed of weights, order and spans.
    pub seed: u64,
}

/// What a model folder says about its model, in `genret.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Layout version.
    pub schema: u32,
    /// Version of genret and the commit it was built from.
    pub genret: String,
    /// Everything that made the model.
    pub spec: ModelSpec,
    /// Parameters of embedding and head.
    pub params_embedding: usize,
    /// All other parameters.
    pub params_non_embedding: usize,
    /// How training ended.
    pub summary: TrainSummary,
}

/// A trained model and its folder.
pub struct TrainedModel {
    /// The model, without gradients; adapters are merged.
    pub model: Model,
    /// What its folder says about it.
    pub record: ModelRecord,
    /// Its folder.
    pub folder: PathBuf,
}

/// A model to decode with: trained here, or any checkpoint.
pub struct OpenedModel {
    /// The model, without gradients; adapters are merged.
    pub model: Model,
    /// What it was trained for; the default of a checkpoint from elsewhere.
    pub objective: ObjectiveOptions,
    /// The identifiers it writes, if it was trained to.
    pub docids: Option<DocidSpec>,
    encoder: Option<EncoderOptions>,
    /// Hash of what made the model.
    pub identity: String,
    folder: PathBuf,
}

impl Start {
    /// The checkpoint `name`, downloaded if need be, and its shape.
    pub(super) fn find(name: &str) -> Result<(Self, ModelConfig), ExperimentError> {
        let folder = hub::folder(name)?;
        let start = Self {
            checkpoint: name.into(),
            fingerprint: checkpoint::fingerprint(&folder)?,
        };
        Ok((start, ModelConfig::load(&folder.join("config.json"))?))
    }

    /// The identifiers that the checkpoint has learned to write, if any.
    pub(super) fn docids(&self) -> Result<Option<DocidSpec>, ExperimentError> {
        let folder = hub::folder(&self.checkpoint)?;
        if !TrainedModel::is_in(&folder) {
            return Ok(None);
        }
        let record: ModelRecord = read_json(&folder.join(RECORD))?;
        Ok(record.spec.docids)
    }

    fn open(&self, device: &Device) -> Result<Model, ExperimentError> {
        let folder = hub::folder(&self.checkpoint)?;
        if checkpoint::fingerprint(&folder)? != self.fingerprint {
            return Err(ExperimentError::OtherStart {
                checkpoint: self.checkpoint.clone(),
            });
        }
        Ok(Model::open(&folder, device)?)
    }
}

impl ModelSpec {
    /// The shape, the start and the adapters that `options` name, for a vocabulary of `vocab_size`.
    pub(super) fn resolve(
        options: &ModelOptions,
        vocab_size: usize,
    ) -> Result<(ModelConfig, Option<Start>, Option<LoraOptions>), ExperimentError> {
        let (mut model, start) = match options.checkpoint() {
            Some(name) => {
                options.check_no_numbers()?;
                let (start, model) = Start::find(name)?;
                (model, Some(start))
            }
            None => (options.resolve(vocab_size)?, None),
        };
        let grown = vocab_size > model.vocab_size();
        model.set_vocab_size(vocab_size.max(model.vocab_size()));
        let lora = options
            .lora
            .as_ref()
            .map(|lora| lora.resolve(&model, grown, start.is_some()))
            .transpose()?;
        Ok((model, start, lora))
    }

    /// What decides, beside the shape, what a training step costs.
    pub fn training_cost(&self) -> TrainingCost {
        TrainingCost {
            recomputed: self.train.gradient_checkpointing,
            adapters: self.lora.as_ref().map(|options| {
                let params = lora::trained_params(&self.model, options);
                params as f64
            }),
        }
    }

    /// How it finds passages and what it learns, such as `sparse cl+kd` or `docids-rq`; empty for a model of n-grams.
    pub fn variant(&self) -> String {
        match &self.representation {
            Some(r) => format!("{} {}", r.retriever.name(), self.objective_name()),
            None if self.objective.task == Task::Views || self.docids.is_some() => {
                self.objective_name()
            }
            None => String::new(),
        }
    }

    /// What it learns: the task, of identifiers with the method that makes them.
    pub fn objective_name(&self) -> String {
        let task = self.objective.task.name();
        match &self.docids {
            Some(docids) => format!("{task}-{}", docids.options.method.name()),
            None => task.into(),
        }
    }

    /// What its training groups hold, of a model that learns from groups.
    pub(super) fn grouping(&self) -> Option<Grouping<'_>> {
        match (&self.representation, &self.prefixes) {
            (Some(representation), _) => Some(Grouping {
                contrast: &representation.contrast,
                distilled: self.objective.task != Task::Cl,
                reads: Reads::Texts(&representation.encoder),
            }),
            (None, Some(prefixes)) => Some(Grouping {
                contrast: &prefixes.contrast,
                distilled: true,
                reads: Reads::Docids(self.docid_method()),
            }),
            (None, None) => None,
        }
    }

    /// The method of the identifiers it writes; the default of models that write none.
    pub(super) fn docid_method(&self) -> Method {
        let docids = self.docids.as_ref();
        docids.map(|d| d.options.method).unwrap_or_default()
    }

    /// Numbers in a representation: terms, or dimensions.
    ///
    /// # Panics
    /// Of a generative model, as the methods that follow.
    pub fn representation_width(&self) -> usize {
        self.expect_representation().encoder.width(&self.model)
    }

    /// Hard negatives of a training example.
    pub fn negatives(&self) -> usize {
        self.expect_representation().contrast.per_query
    }

    /// What scores are divided by.
    pub fn temperature(&self) -> f64 {
        let representation = self.expect_representation();
        representation
            .contrast
            .temperature(representation.encoder.pooling)
    }

    /// FLOPs of the representation of a text of so many tokens.
    pub fn representation_flops(&self, tokens: usize) -> f64 {
        let encoder = &self.expect_representation().encoder;
        let (decoder, head) = read_by(encoder);
        self.model.counts().represent(tokens, decoder, head)
    }

    fn expect_representation(&self) -> &Representation {
        let representation = self.representation.as_ref();
        representation.expect("asked of sparse and dense models alone")
    }

    /// FLOPs of training once to write a target of so many tokens after a prompt.
    pub(super) fn generation_flops(&self, prompt: usize, target: usize) -> f64 {
        let counts = self.model.counts();
        counts.train(prompt, target, self.training_cost())
    }

    /// FLOPs of training once on a block of so many tokens, of which some are masked.
    pub(super) fn block_flops(&self, tokens: usize, masked: usize) -> f64 {
        let counts = self.model.counts();
        let body = counts.train_representation(tokens, false, false, self.training_cost());
        body + 6.0 * counts.params_head * masked as f64
    }

    /// FLOPs of training once on a text of so many tokens, of a sparse or dense model.
    ///
    /// A second forward pass counts where gradients are cached: a batch has more passages than fit one pass.
    pub(super) fn text_flops(&self, tokens: usize) -> f64 {
        let representation = self.expect_representation();
        let passages = self.train.batch_size * (1 + representation.contrast.per_query);
        let cost = TrainingCost {
            recomputed: passages > self.train.micro_batch_size,
            ..self.training_cost()
        };
        let (decoder, head) = read_by(&representation.encoder);
        let counts = self.model.counts();
        counts.train_representation(tokens, decoder, head, cost)
    }

    /// The model before its first step, on `device`.
    pub(super) fn begin(&self, device: &Device) -> Result<Model, ExperimentError> {
        let words_first = (self.representation.as_ref()).is_some_and(|made| {
            made.encoder.pooling == Pooling::Sparse && made.contrast.words_first
        });
        let model = match &self.start {
            None if words_first => self.model.init(self.seed, device).with_words_first(),
            None => self.model.init(self.seed, device),
            Some(start) => start
                .open(device)?
                .with_vocab_size(self.model.vocab_size(), self.seed),
        };
        Ok(match &self.lora {
            Some(options) => lora::adapt(model, options, self.seed)?,
            None => model,
        })
    }
}

/// Whether a decoder reads the texts too, and whether the output head is evaluated at their tokens.
fn read_by(encoder: &EncoderOptions) -> (bool, bool) {
    (
        encoder.t5_part == T5Part::EncoderDecoder,
        encoder.pooling == Pooling::Sparse,
    )
}

impl TrainedModel {
    /// Writes `model` into `folder` in the layout of Hugging Face (or, with adapters, of `peft`)
    /// with its tokenizer and record. The record comes last: with it the folder is finished.
    pub(super) fn save(
        model: Model,
        spec: &ModelSpec,
        summary: TrainSummary,
        tokenizer: &Tokenizer,
        folder: &Path,
    ) -> Result<Self, ExperimentError> {
        let config = spec.model.to_hugging_face();
        let model = match (&spec.lora, &spec.start) {
            (Some(options), Some(start)) => {
                checkpoint::save_config(&config, folder)?;
                lora::save(&model, options, &start.checkpoint, folder)?;
                lora::merge(model)
            }
            _ => {
                checkpoint::save(&model, &config, folder)?;
                model
            }
        };
        tokenizer.save(&folder.join("tokenizer.json"))?;
        let record = ModelRecord {
            schema: record::SCHEMA,
            genret: VERSION.into(),
            spec: spec.clone(),
            params_embedding: spec.model.params_embedding(),
            params_non_embedding: spec.model.params_non_embedding(),
            summary,
        };
        write_json(&folder.join(RECORD), &record)?;
        Ok(Self {
            model,
            record,
            folder: folder.into(),
        })
    }

    /// Whether `folder` holds a finished model.
    pub(super) fn is_in(folder: &Path) -> bool {
        folder.join(RECORD).exists()
    }

    /// Opens a folder that `genret train` or `genret sweep` finished.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, ExperimentError> {
        let path = folder.join(RECORD);
        let record: ModelRecord = read_json(&path)?;
        if record.schema > record::SCHEMA {
            return Err(ExperimentError::Later {
                path,
                found: record.schema,
            });
        }
        let model = match (&record.spec.lora, &record.spec.start) {
            (Some(_), Some(start)) => {
                let base = start.open(device)?;
                let vocab_size = record.spec.model.vocab_size();
                let base = base.with_vocab_size(vocab_size, record.spec.seed);
                lora::merge(lora::load(base, folder)?)
            }
            _ => Model::open(folder, device)?,
        };
        Ok(Self {
            model,
            record,
            folder: folder.into(),
        })
    }
}

impl OpenedModel {
    /// Opens a folder that genret trained, a Hugging Face folder, a folder of `peft` adapters, or
    /// `owner/name` on the hub.
    pub fn open(name: &Path, device: &Device) -> Result<Self, ExperimentError> {
        let folder = hub::folder(&name.to_string_lossy())?;
        if TrainedModel::is_in(&folder) {
            let trained = TrainedModel::open(&folder, device)?;
            return Ok(Self {
                identity: config::hash(&trained.record),
                objective: trained.record.spec.objective,
                docids: trained.record.spec.docids,
                encoder: trained.record.spec.representation.map(|r| r.encoder),
                model: trained.model,
                folder,
            });
        }
        let model = if folder.join(ADAPTER_CONFIG).exists() {
            let base = AdapterConfig::load(&folder)?.base;
            let base = Model::open(&hub::folder(&base)?, device)?;
            lora::merge(lora::load(base, &folder)?)
        } else if folder.join("config.json").exists() {
            Model::open(&folder, device)?
        } else {
            return Err(ExperimentError::NotAModel { path: folder });
        };
        Ok(Self {
            model,
            objective: ObjectiveOptions::default(),
            docids: None,
            encoder: None,
            identity: config::hash(&checkpoint::fingerprint(&folder)?),
            folder,
        })
    }

    /// How it represents texts.
    ///
    /// # Errors
    /// [`ExperimentError::NoEncoder`] of a model that was not trained to.
    pub fn encoder(&self) -> Result<&EncoderOptions, ExperimentError> {
        let folder = || self.folder.clone();
        (self.encoder.as_ref()).ok_or_else(|| ExperimentError::NoEncoder { path: folder() })
    }

    /// The tokenizer of the model.
    pub fn tokenizer(&self) -> Result<Tokenizer, ExperimentError> {
        Ok(Tokenizer::load(&self.folder.join("tokenizer.json"))?)
    }
}
