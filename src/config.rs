//! Configuration files: one TOML per named run, every key known, every number checked.
//!
//! Each section is the options struct of the module that acts on it. A file is read, `--set` changes
//! are applied, and the whole is checked before anything is written.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::example::{View, ViewWeights};
use crate::data::masking::MaskingOptions;
use crate::data::synth::SynthOptions;
use crate::decode::{DecodeOptions, Normalise};
use crate::docid::{DocidOptions, Method};
use crate::model::{EncoderOptions, ModelOptions, Pooling};
use crate::retrieve::ranking::RankingOptions;
use crate::tokenizer::TokenizerKind;
use crate::train::{CodeScore, ContrastOptions, TrainOptions};

mod executor;
mod objective;

pub use executor::{ExecutorKind, ExecutorOptions, FitAfter, SlurmOptions};
pub use objective::{DocidMixture, ObjectiveOptions, RetrieverKind, Task};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not the expected TOML; the message shows line and column.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// A `--set` argument that cannot be applied.
    #[error("--set {argument}: {message}")]
    Set {
        /// The argument.
        argument: String,
        /// What is wrong with it.
        message: String,
    },
    /// A value that makes no sense.
    #[error("{}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value and what is allowed.
        message: String,
    },
}

/// A whole experiment: data, model, training, decoding, measurement and the grid of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the experiment, for titles and rows.
    pub name: String,
    /// Folder of everything the experiment writes; relative to the working directory.
    pub out: PathBuf,
    /// Seed of every random decision.
    #[serde(default)]
    pub seed: u64,
    /// FLOP/s of the device at its best, so that training tells how much of it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_flops: Option<f64>,
    /// How passages are found; a sweep replaces it.
    #[serde(default)]
    pub retriever: RetrieverKind,
    /// Where passages and queries come from.
    pub data: DataOptions,
    /// Which tokenizer.
    #[serde(default)]
    pub tokenizer: TokenizerOptions,
    /// Shape of the model; a sweep replaces its size.
    #[serde(default)]
    pub model: ModelOptions,
    /// What the model learns to emit.
    #[serde(default)]
    pub objective: ObjectiveOptions,
    /// Identifiers of passages, for the tasks `docids` and `prefixes`.
    #[serde(default)]
    pub docids: DocidOptions,
    /// How texts become representations, for sparse and dense retrieval.
    #[serde(default)]
    pub encoder: EncoderOptions,
    /// How representations are learned; negatives and teacher also where prefixes are ranked.
    #[serde(default)]
    pub contrast: ContrastOptions,
    /// What is masked, for the task `mntp`.
    #[serde(default)]
    pub masking: MaskingOptions,
    /// How it is trained.
    #[serde(default)]
    pub train: TrainOptions,
    /// How queries are decoded; a sweep replaces the beam width.
    #[serde(default)]
    pub decode: DecodeOptions,
    /// How n-grams become a ranking.
    #[serde(default)]
    pub ranking: RankingOptions,
    /// How results are measured.
    #[serde(default)]
    pub evaluate: EvaluateOptions,
    /// The grid of `genret sweep`.
    #[serde(default)]
    pub sweep: SweepOptions,
    /// Where the grid is worked on.
    #[serde(default)]
    pub executor: ExecutorOptions,
}

/// Where passages and queries come from: a folder in the BEIR layout, or the embedded corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataOptions {
    /// A folder with `corpus.jsonl`, `queries.jsonl` and `qrels/`.
    pub folder: Option<PathBuf>,
    /// The embedded corpus, generated into `out`.
    pub synth: Option<SynthOptions>,
    /// Queries of the passages, a folder that `genret decode --task queries` wrote for this corpus: a third field of the
    /// n-gram index, and what `objective` makes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudo_queries: Option<PathBuf>,
    /// Split of the training queries.
    #[serde(default = "split_train")]
    pub train: String,
    /// Split whose loss is measured during training; empty for none.
    #[serde(default = "split_dev")]
    pub validation: String,
    /// Queries of the validation split that are used.
    #[serde(default = "validation_queries")]
    pub validation_queries: usize,
    /// Share of the training pairs that is used; smaller shares are subsets of larger ones.
    #[serde(default = "whole")]
    pub fraction: f64,
}

fn split_train() -> String {
    "train".into()
}

fn split_dev() -> String {
    "dev".into()
}

fn validation_queries() -> usize {
    200
}

fn whole() -> f64 {
    1.0
}

/// Which tokenizer: a file, or one trained on the corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerOptions {
    /// A Hugging Face `tokenizer.json`, or the checkpoint that has one, a folder or `owner/name` on the hub;
    /// otherwise one is trained.
    pub path: Option<PathBuf>,
    /// Algorithm of the trained one.
    pub kind: TokenizerKind,
    /// Vocabulary of the trained one.
    pub vocab: usize,
    /// Whether the trained one reads all texts in lower case, and a first word as any other: for sparse and dense models,
    /// which match words.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lowercase: bool,
}

impl Default for TokenizerOptions {
    fn default() -> Self {
        Self {
            path: None,
            kind: TokenizerKind::Bpe,
            vocab: 8192,
            lowercase: false,
        }
    }
}

/// How results are measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateOptions {
    /// Splits whose queries are decoded.
    pub splits: Vec<String>,
    /// At most this many queries of a split; the same ones in every cell.
    pub queries: usize,
    /// Passages kept per query.
    pub depth: usize,
    /// Tokens of a passage that a sparse or dense model reads, at most; by default as many as in training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passage_tokens: Option<usize>,
    /// Measures, as `genret evaluate` takes them.
    pub measures: Vec<String>,
    /// Queries of the first split whose contrastive generation loss is measured.
    pub cgl_queries: usize,
    /// Negatives per query.
    pub cgl_negatives: usize,
    /// Spans that identify a passage in the loss.
    pub cgl_spans: usize,
    /// Whether the searches of `cgl_queries` queries are compared with exhaustive ones; for small corpora.
    pub search_error: bool,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self {
            splits: vec!["test".into()],
            queries: usize::MAX,
            depth: 100,
            passage_tokens: None,
            measures: ["RR@10", "nDCG@10", "R@10", "R@100"]
                .map(String::from)
                .to_vec(),
            cgl_queries: 200,
            cgl_negatives: 256,
            cgl_spans: 10,
            search_error: false,
        }
    }
}

/// The grid of a sweep: every combination is one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SweepOptions {
    /// Model sizes by name.
    pub sizes: Vec<String>,
    /// Shares of the training pairs.
    pub fractions: Vec<f64>,
    /// Methods of identifiers, for the task `docids`; that of `docids.method` if none is named. Random ones are added as the
    /// control.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub docids: Vec<Method>,
    /// Beam widths.
    pub beams: Vec<usize>,
    /// Seeds; each is added to the configuration's.
    pub seeds: Vec<u64>,
    /// Ways to find passages; without any, that of the configuration. Generative models are trained on n-grams.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retrievers: Vec<RetrieverKind>,
    /// Tasks of sparse and dense models; without any, that of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<Task>,
    /// Sizes that no law is fitted to: they are run, predicted and drawn hollow.
    pub hold_out: Vec<String>,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            sizes: vec![],
            fractions: vec![1.0],
            docids: vec![],
            beams: vec![10],
            seeds: vec![0],
            retrievers: vec![],
            objectives: vec![],
            hold_out: vec![],
        }
    }
}

impl Config {
    /// Reads `path`, applies `key=value` changes in order, and checks every value.
    pub fn load(path: &Path, changes: &[String]) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Io {
            path: path.into(),
            source,
        })?;
        let parse_error = |e: toml::de::Error| ConfigError::Parse {
            path: path.into(),
            message: e.to_string(),
        };
        // The plain file first, so that its mistakes are shown with line and column.
        let mut config: Self = toml::from_str(&text).map_err(parse_error)?;
        if !changes.is_empty() {
            let mut table: toml::Table = toml::from_str(&text).map_err(parse_error)?;
            for argument in changes {
                set(&mut table, argument)?;
                config =
                    table
                        .clone()
                        .try_into()
                        .map_err(|e: toml::de::Error| ConfigError::Set {
                            argument: argument.clone(),
                            message: e.to_string(),
                        })?;
            }
        }
        config.check().map_err(|message| ConfigError::Value {
            path: path.into(),
            message,
        })?;
        Ok(config)
    }

    /// Hash of what decides a cell's measures, beside its model and beam width.
    pub fn decode_settings(&self) -> String {
        let decode = DecodeOptions {
            beam_width: 0,
            memory_gib: None,
            ..self.decode.clone()
        };
        hash(&(
            self.seed,
            decode,
            self.ranking,
            &self.objective.template,
            (
                &self.evaluate.splits,
                self.evaluate.queries,
                self.evaluate.depth,
            ),
            (&self.evaluate.measures, self.contrastive_settings()),
            self.evaluate.search_error,
        ))
    }

    /// Hash of what decides the contrastive generation loss of a model.
    pub fn contrastive_settings(&self) -> String {
        let evaluate = &self.evaluate;
        hash(&(
            self.seed,
            &self.objective.span,
            &self.objective.template,
            (evaluate.splits.first(), evaluate.queries),
            evaluate.passage_tokens,
            (
                evaluate.cgl_queries,
                evaluate.cgl_negatives,
                evaluate.cgl_spans,
            ),
        ))
    }

    /// Every (retriever, task) of the sweep.
    pub fn variants(&self) -> Vec<(RetrieverKind, Task)> {
        let own = [self.retriever];
        let retrievers = match &self.sweep.retrievers[..] {
            [] => &own[..],
            named => named,
        };
        let own = [self.objective.task];
        let objectives = match &self.sweep.objectives[..] {
            [] => &own[..],
            named => named,
        };
        let tasks = |&retriever: &RetrieverKind| -> Vec<(RetrieverKind, Task)> {
            match (retriever, self.objective.task) {
                (RetrieverKind::Generative, task) if task.serves(retriever) => {
                    vec![(retriever, task)]
                }
                (RetrieverKind::Generative, _) => vec![(retriever, Task::Ngrams)],
                _ => objectives.iter().map(|&task| (retriever, task)).collect(),
            }
        };
        retrievers.iter().flat_map(tasks).collect()
    }

    /// How identifiers are made, each way that a model of the configuration learns: with [`Method::Random`] beside any
    /// other, the control that tells what their meaning is worth, unless they are one of several views or were learned
    /// before. None if no model writes identifiers.
    pub fn docid_methods(&self) -> Vec<Method> {
        let variants = self.variants();
        let task = variants.iter().map(|(_, task)| *task);
        let Some(task) = { task }.find(|&task| self.learned_by(task).docid > 0.0) else {
            return vec![];
        };
        let mut methods = match &self.sweep.docids[..] {
            [] => vec![self.docids.method],
            named => named.to_vec(),
        };
        if !self.sweep.sizes.is_empty() && task == Task::Docids {
            methods.push(Method::Random);
        }
        methods.sort_unstable();
        methods.dedup();
        methods
    }

    /// Whether n-grams are looked up: by a generative model, of the configuration itself or of its sweep.
    pub fn needs_ngram_index(&self) -> bool {
        let own = (self.retriever, self.objective.task);
        let mut all = self.variants().into_iter().chain([own]);
        all.any(|(retriever, task)| {
            retriever == RetrieverKind::Generative
                && (task == Task::Queries || self.learned_by(task).of_texts() > 0.0)
        })
    }

    /// What a model of `task` learns to write of a passage.
    pub fn learned_by(&self, task: Task) -> ViewWeights {
        let objective = ObjectiveOptions {
            task,
            ..self.objective.clone()
        };
        objective.learned()
    }

    /// The views that a model which has learned `learned` is ranked by, and how much each counts: identifiers alone, or
    /// what `ranking.views` says.
    pub fn ranked_by(&self, learned: ViewWeights) -> ViewWeights {
        match learned.of_texts() > 0.0 {
            true => self.ranking.views,
            false => ViewWeights {
                docid: 1.0,
                ..ViewWeights::NONE
            },
        }
    }

    /// How the texts of a sparse or dense model become representations; what only sparse ones have is left
    /// out of dense ones.
    pub fn encoder_of(&self, retriever: RetrieverKind) -> Option<EncoderOptions> {
        let encoder = self.encoder.clone();
        match retriever {
            RetrieverKind::Generative => None,
            RetrieverKind::Sparse => Some(EncoderOptions {
                pooling: Pooling::Sparse,
                ..encoder
            }),
            RetrieverKind::Dense => Some(EncoderOptions {
                pooling: match encoder.pooling {
                    Pooling::Sparse => Pooling::Mean,
                    own => own,
                },
                query_top_k: None,
                passage_top_k: None,
                ..encoder
            }),
        }
    }

    /// Every view that is ranked by is learned.
    fn check_views(&self) -> Result<(), String> {
        for (_, task) in self.variants() {
            let learned = self.learned_by(task);
            let ranked = self.ranked_by(learned).iter();
            for (view, _) in ranked.filter(|_| learned != ViewWeights::NONE) {
                if learned.of(view) > 0.0 {
                    continue;
                }
                let remedy = match (task, view) {
                    (Task::Ngrams, View::Title) => "objective.titles = true".into(),
                    (Task::Ngrams, _) => {
                        format!(
                            "objective.task = \"views\" and objective.views.{}",
                            view.name()
                        )
                    }
                    _ => format!("objective.views.{}", view.name()),
                };
                return Err(format!(
                    "ranking.views counts {}, which the model does not learn: set {remedy}, or ranking.views.{} = 0",
                    view.name(),
                    view.name()
                ));
            }
        }
        Ok(())
    }

    /// Ranking by prefixes, and what it asks of decoding.
    fn check_prefixes(&self) -> Result<(), String> {
        let prefixes = &self.objective.prefixes;
        let checked = prefixes.check();
        checked.map_err(|e| format!("objective.prefixes: {e}"))?;
        let plain = self.decode.normalise == Normalise::None;
        if self.objective.task == Task::Prefixes {
            if self.train.gradient_checkpointing {
                return Err("objective.task = \"prefixes\" and train.gradient_checkpointing exclude each other: lower train.micro_batch_size to save memory".into());
            }
            if plain != (prefixes.score == CodeScore::Logits) {
                return Err("objective.prefixes.score = \"logits\" and decode.normalise = \"none\" go together: set both, or score = \"log-probs\" and another normalise".into());
            }
        } else if plain && self.objective.task != Task::Docids {
            return Err("decode.normalise = \"none\" ranks identifiers by their logits; n-grams are weighed by their probabilities: set \"full\" or \"allowed\"".into());
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        match (&self.data.folder, &self.data.synth) {
            (Some(_), None) | (None, Some(_)) => {}
            _ => return Err("[data] needs either `folder` or `synth`".into()),
        }
        let objective = &self.objective;
        objective
            .span
            .validate()
            .map_err(|e| format!("objective.span: {e}"))?;
        objective
            .template
            .validate()
            .map_err(|e| format!("objective.template: {e}"))?;
        for fraction in self.sweep.fractions.iter().chain([&self.data.fraction]) {
            if !(*fraction > 0.0 && *fraction <= 1.0) {
                return Err(format!("a data fraction of {fraction} must lie in (0, 1]"));
            }
        }
        let own = [(self.retriever, objective.task)];
        for (retriever, task) in self.variants().into_iter().chain(own) {
            if !task.serves(retriever) {
                return Err(format!(
                    "retriever = \"{}\" and objective.task = \"{}\" do not go together: generative models learn ngrams, docids, views, prefixes or queries, sparse and dense ones cl, kd or cl+kd",
                    retriever.name(),
                    task.name()
                ));
            }
        }
        if matches!(objective.task, Task::Queries | Task::Mntp) && !self.sweep.sizes.is_empty() {
            return Err(format!(
                "a sweep measures retrieval, and objective.task = \"{}\" does not find passages: train it with `genret train` and remove sweep.sizes",
                objective.task.name()
            ));
        }
        objective.check()?;
        self.check_prefixes()?;
        if objective.needs_pseudo_queries() && self.data.pseudo_queries.is_none() {
            return Err("the objective learns from pseudo-queries: name the folder that `genret decode --task queries` wrote, data.pseudo_queries".into());
        }
        self.check_views()?;
        let docids = self.docids.check();
        docids.map_err(|e| format!("docids: {e}"))?;
        self.contrast.check()?;
        let masking = self.masking.validate();
        masking.map_err(|e| format!("masking: {e}"))?;
        let groups = self.decode.groups;
        if !self.sweep.sizes.is_empty()
            && let Some(beam) = self
                .sweep
                .beams
                .iter()
                .find(|&&beam| beam % groups.max(1) != 0)
        {
            return Err(format!(
                "sweep.beams holds {beam}, which decode.groups = {groups} does not divide"
            ));
        }
        if self.sweep.beams.contains(&0) {
            return Err("sweep.beams holds a 0; a beam is at least 1 wide".into());
        }
        for size in &self.sweep.hold_out {
            if !self.sweep.sizes.contains(size) {
                return Err(format!(
                    "sweep.hold_out holds {size}, which is not among sweep.sizes"
                ));
            }
        }
        for size in &self.sweep.sizes {
            let options = self.model.with_size(size).map_err(|e| e.to_string())?;
            if options.checkpoint().is_none() {
                // Any vocabulary: the names are checked.
                options.resolve(1).map_err(|e| e.to_string())?;
            }
        }
        let starts = self.sweep.sizes.iter().chain(&self.model.size);
        if self.tokenizer.path.is_none()
            && let Some(name) = starts.into_iter().find(|size| size.contains('/'))
        {
            return Err(format!(
                "the checkpoint `{name}` reads with its own tokenizer: set tokenizer.path, to `{name}` as well if it has one"
            ));
        }
        for measure in &self.evaluate.measures {
            measure
                .parse::<crate::eval::Measure>()
                .map_err(|e| format!("evaluate.measures: {e}"))?;
        }
        for (name, value) in [
            ("evaluate.cgl_spans", self.evaluate.cgl_spans),
            ("evaluate.cgl_negatives", self.evaluate.cgl_negatives),
            ("evaluate.depth", self.evaluate.depth),
            ("evaluate.queries", self.evaluate.queries),
            (
                "evaluate.passage_tokens",
                self.evaluate.passage_tokens.unwrap_or(1),
            ),
            ("tokenizer.vocab", self.tokenizer.vocab),
        ] {
            if value == 0 {
                return Err(format!("{name} = 0 must be at least 1"));
            }
        }
        if self.evaluate.splits.is_empty() || self.evaluate.measures.is_empty() {
            return Err("[evaluate] needs at least one split and one measure".into());
        }
        self.train.check()?;
        if let Some(lora) = &self.model.lora {
            lora.check()?;
            if lora.dropout > 0.0 && self.train.gradient_checkpointing {
                return Err("model.lora.dropout and train.gradient_checkpointing exclude each other: a layer computed again would drop other values".into());
            }
        }
        self.executor.check()?;
        self.decode.check()?;
        self.ranking.validate().map_err(|e| e.to_string())
    }
}

/// Hash of what makes a result: equal values have equal hashes, on every machine.
pub fn hash(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).expect("options are plain data");
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&json))
}

/// Sets a dotted key of a table; the value is TOML, or a plain string.
fn set(table: &mut toml::Table, argument: &str) -> Result<(), ConfigError> {
    let error = |message: &str| ConfigError::Set {
        argument: argument.into(),
        message: message.into(),
    };
    let (key, value) = argument
        .split_once('=')
        .ok_or_else(|| error("expected key=value, such as train.epochs=2"))?;
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    let mut parts = key.trim().split('.').collect::<Vec<_>>();
    let name = parts
        .pop()
        .filter(|n| !n.is_empty())
        .ok_or_else(|| error("the key is empty"))?;
    let mut at = table;
    for part in parts {
        at = at
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| error("a part of the key is not a section"))?;
    }
    at.insert(name.into(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, changes: &[&str]) -> Result<Config, ConfigError> {
        let path = std::env::temp_dir().join(format!(
            "genret-config-{}-{}.toml",
            std::process::id(),
            hash(&(text, changes))
        ));
        fs::write(&path, text).unwrap();
        let changes: Vec<String> = changes.iter().map(|c| c.to_string()).collect();
        let loaded = Config::load(&path, &changes);
        fs::remove_file(&path).unwrap();
        loaded
    }

    const SMALL: &str = "name = \"t\"\nout = \"o\"\n[data]\nfolder = \"d\"\n[train]\nepochs = 2\n";

    #[test]
    fn changes_are_applied_in_order() {
        let config = load(
            SMALL,
            &["train.epochs=3", "train.epochs=0.5", "model.size=s1m"],
        )
        .unwrap();
        assert_eq!(config.train.epochs, 0.5);
        assert_eq!(config.model.size.as_deref(), Some("s1m"));
        assert_eq!(load(SMALL, &[]).unwrap().train.epochs, 2.0);
    }

    #[test]
    fn mistakes_are_named() {
        let message = |text: &str, changes: &[&str]| load(text, changes).unwrap_err().to_string();
        assert!(message(&format!("{SMALL}epoch = 1\n"), &[]).contains("line 7"));
        assert!(message(SMALL, &["train.epoch=1"]).contains("epoch"));
        assert!(message(SMALL, &["train.epochs"]).contains("key=value"));
        assert!(message(SMALL, &["data.fraction=0"]).contains("(0, 1]"));
        let grid = [
            "decode.groups=5",
            "sweep.sizes=[\"s1m\"]",
            "sweep.beams=[5, 12]",
        ];
        assert!(message(SMALL, &grid).contains("12"));
        assert!(load(SMALL, &["decode.groups=5"]).is_ok());
        assert!(message(SMALL, &["model.size=./folder"]).contains("tokenizer.path"));
        assert!(message(SMALL, &["data.synth.passages=10"]).contains("either"));
    }
}
