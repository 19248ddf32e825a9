//! What a sweep will do: every cell with its parameters, tokens, FLOPs, memory and time.
//!
//! The plan is also written to `plan.json` in the sweep's folder, so that its state can be told, and its
//! laws be used to plan the next one, from the folder alone.
//!
//! Memory of a model is the larger of training (16 bytes a parameter for weights, gradient and moments,
//! the activations of a micro-batch, three times the logits of its targets) and decoding (weights and
//! [`batch_bytes`] of the widest beam; for representations see `representation_memory`), with what a process holds anyway: 250 MB of program, the index
//! file, and eight times the corpus for text and tokens.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::SweepError;
use crate::config::{Config, RetrieverKind, Task, hash};
use crate::decode::{DecodeOptions, batch_bytes};
use crate::docid::Method;
use crate::experiment::{Experiment, ExperimentError, ModelSpec, read_json, write_json};

/// Everything a sweep will do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Models in the order they are trained: smallest first.
    pub models: Vec<ModelPlan>,
}

/// One model of the grid.
#[derive(Clone, Debug)]
pub struct ModelPlan {
    /// Everything that makes the model.
    pub spec: ModelSpec,
    /// Size by name.
    pub size: String,
    /// Expected tokens seen in training.
    pub tokens: f64,
    /// Expected training FLOPs.
    pub train_flops: f64,
    /// Expected FLOPs of measuring the contrastive generation loss.
    pub measure_flops: f64,
    /// Expected bytes of a process that trains and decodes the model, by the formula at the head of `sweep/plan.rs`.
    pub memory_bytes: f64,
    /// Optimiser updates.
    pub steps: u64,
    /// The decodings of the model.
    pub cells: Vec<CellPlan>,
}

/// One decoding of a model.
#[derive(Clone, Copy, Debug)]
pub struct CellPlan {
    /// Beam width.
    pub beam: usize,
    /// Expected FLOPs of decoding one query.
    pub decode_flops: f64,
}

/// The grid of `experiment`, cheapest models first.
pub fn plan(experiment: &Experiment) -> Result<Plan, ExperimentError> {
    let config: &Config = &experiment.config;
    let mut models = vec![];
    let process = process_memory(experiment)?;
    for variant in config.variants() {
        for size in &config.sweep.sizes {
            for &fraction in &config.sweep.fractions {
                for seed in &config.sweep.seeds {
                    let options = config.model.with_size(size)?;
                    let seed = config.seed + seed;
                    for method in methods(config, variant.1) {
                        let spec =
                            experiment.model_spec_of(&options, variant, method, fraction, seed)?;
                        models.push(model_plan(experiment, size, spec, process)?);
                    }
                }
            }
        }
    }
    models.sort_by(|a, b| a.train_flops.total_cmp(&b.train_flops));
    Ok(Plan { models })
}

/// The methods of identifiers that a task is learned with: all of the configuration, or any where none are written.
fn methods(config: &Config, task: Task) -> Vec<Method> {
    match task {
        task if config.learned_by(task).docid > 0.0 => config.docid_methods(),
        _ => vec![config.docids.method],
    }
}

fn model_plan(
    experiment: &Experiment,
    size: &str,
    spec: ModelSpec,
    process: f64,
) -> Result<ModelPlan, ExperimentError> {
    let config = &experiment.config;
    let (tokens, flops) = experiment.typical(&spec)?;
    let examples = spec.num_examples as f64 * spec.train.epochs;
    let batches = spec.num_examples.div_ceil(spec.train.batch_size) as f64;
    let steps = (batches * spec.train.epochs).round().max(1.0) as u64;
    let counts = spec.model.counts();
    let evaluate = &config.evaluate;
    let (cells, measure_flops, memory) = match &spec.representation {
        None => {
            let (prompt, target) = experiment.typical_example(&spec)?;
            let views = experiment.max_new_tokens(&spec);
            let cells = config.sweep.beams.iter().map(|&beam| CellPlan {
                beam,
                decode_flops: views
                    .iter()
                    .map(|&new| counts.decode(prompt, new, beam))
                    .sum(),
            });
            let spans = match spec.objective.learned().body > 0.0 {
                true => (evaluate.cgl_negatives + 1) * evaluate.cgl_spans,
                false => evaluate.cgl_negatives + 1,
            };
            let measure = evaluate.cgl_queries as f64 * counts.decode(prompt, target, spans);
            let memory = memory(experiment, &spec, (prompt, target));
            (cells.collect(), measure, memory)
        }
        Some(representation) => {
            let (query, passage) = experiment.typical_texts(&representation.encoder)?;
            let corpus = experiment.dataset.corpus.len() as f64;
            let cell = CellPlan {
                beam: 1,
                decode_flops: spec.representation_flops(query),
            };
            // Every passage is represented once, before the first query.
            let measure = corpus * spec.representation_flops(passage);
            let terms = spec
                .representation_width()
                .min(match representation.retriever {
                    RetrieverKind::Sparse => ACTIVE_TERMS,
                    _ => usize::MAX,
                });
            // The vectors and an index of them: a term or dimension twice, a term with its number.
            let memory = representation_memory(&spec, passage) + 16.0 * corpus * terms as f64;
            (vec![cell], measure, memory)
        }
    };
    Ok(ModelPlan {
        size: size.into(),
        tokens: examples * tokens,
        train_flops: examples * flops,
        measure_flops,
        memory_bytes: memory + process,
        steps,
        cells,
        spec,
    })
}

/// Active terms of a passage that are expected of a trained sparse model.
const ACTIVE_TERMS: usize = 512;

/// As [`memory`], for a model of representations: the activations of the texts of a pass, and the
/// representations of a batch with their gradients.
fn representation_memory(spec: &ModelSpec, passage: usize) -> f64 {
    let shape = &spec.model;
    let params = (shape.params_embedding() + shape.params_non_embedding()) as f64;
    let width = spec.representation_width() as f64;
    let group = 1 + spec.negatives();
    let texts = (spec.train.batch_size * group) as f64;
    let read = texts.min(spec.train.micro_batch_size as f64);
    let kept = shape.activations_per_token() as f64;
    16.0 * params + 4.0 * read * passage as f64 * kept + 16.0 * texts * width
}

/// A size by name, followed by what tells a model from one of n-grams.
pub(super) fn named(size: &str, variant: &str) -> String {
    format!("{size} {variant}").trim_end().into()
}

impl ModelPlan {
    /// Size, and what tells it from a model of n-grams.
    pub fn name(&self) -> String {
        named(&self.size, &self.spec.variant())
    }

    /// Id of the model: hash of everything that makes it.
    pub fn id(&self) -> String {
        hash(&self.spec)
    }
}

fn memory(experiment: &Experiment, spec: &ModelSpec, (prompt, target): (usize, usize)) -> f64 {
    let config = &experiment.config;
    let shape = &spec.model;
    let params = (shape.params_embedding() + shape.params_non_embedding()) as f64;
    let vocab = shape.vocab_size() as f64;
    let examples = config.train.micro_batch_size.min(config.train.batch_size) as f64;
    let kept = shape.activations_per_token() as f64;
    let training = 16.0 * params
        + 4.0 * examples * (prompt + target) as f64 * kept
        + 12.0 * examples * target as f64 * vocab;
    let beams = config.sweep.beams.iter().map(|&beam_width| {
        let options = DecodeOptions {
            beam_width,
            ..config.decode.clone()
        };
        let queries = options.queries_per_batch();
        batch_bytes(&shape.footprint(), &options, queries, prompt)
    });
    let decoding = 4.0 * params + beams.max().unwrap_or(0) as f64;
    training.max(decoding)
}

fn process_memory(experiment: &Experiment) -> Result<f64, ExperimentError> {
    let index = match experiment.config.needs_ngram_index() {
        false => 0,
        true => {
            let path = experiment.index_path();
            let found = std::fs::metadata(&path);
            found
                .map_err(|source| ExperimentError::Io { path, source })?
                .len()
        }
    };
    let passages = experiment.dataset.corpus.passages();
    let text: usize = passages.iter().map(|p| p.title.len() + p.text.len()).sum();
    Ok(2.5e8 + index as f64 + 8.0 * text as f64)
}

/// What `plan.json` says of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedPlan {
    /// Name of the experiment.
    pub name: String,
    /// Queries that every cell decodes.
    pub queries: usize,
    /// Models in the order they are trained.
    pub models: Vec<SavedModel>,
}

/// What `plan.json` says of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedModel {
    /// Id: hash of everything that makes it.
    pub id: String,
    /// Size by name.
    pub size: String,
    /// How it finds passages and what it learns, such as `sparse cl+kd`; empty for n-grams.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Share of the training pairs.
    pub fraction: f64,
    /// Seed of weights and order.
    pub seed: u64,
    /// All parameters but embedding and head.
    pub params_non_embedding: u64,
    /// Distinct (query, passage) pairs.
    pub pairs: u64,
    /// Optimiser updates.
    pub steps: u64,
    /// Expected training FLOPs.
    pub train_flops: f64,
    /// Expected FLOPs of the contrastive generation loss.
    pub measure_flops: f64,
    /// Expected bytes of a process that works on it.
    pub memory_bytes: f64,
    /// Beam width and expected FLOPs per query of every cell.
    pub cells: Vec<(u64, f64)>,
}

impl Plan {
    /// Model and beam width of every cell, in order.
    pub fn cells(&self) -> Vec<(String, u64)> {
        let of_model = |m: &ModelPlan| {
            let id = m.id();
            let cells = m.cells.iter();
            cells
                .map(move |c| (id.clone(), c.beam as u64))
                .collect::<Vec<_>>()
        };
        self.models.iter().flat_map(of_model).collect()
    }

    /// What [`SavedPlan`] keeps of it.
    pub fn to_saved(&self, experiment: &Experiment) -> Result<SavedPlan, ExperimentError> {
        let mut queries = 0;
        for split in &experiment.config.evaluate.splits {
            queries += experiment.queries(split)?.len();
        }
        let models = self.models.iter().map(|model| SavedModel {
            id: model.id(),
            size: model.size.clone(),
            variant: model.spec.variant(),
            fraction: model.spec.fraction,
            seed: model.spec.seed,
            params_non_embedding: model.spec.model.params_non_embedding() as u64,
            pairs: model.spec.num_pairs as u64,
            steps: model.steps,
            train_flops: model.train_flops,
            measure_flops: model.measure_flops,
            memory_bytes: model.memory_bytes,
            cells: (model.cells.iter())
                .map(|cell| (cell.beam as u64, cell.decode_flops))
                .collect(),
        });
        Ok(SavedPlan {
            name: experiment.config.name.clone(),
            queries,
            models: models.collect(),
        })
    }
}

impl SavedPlan {
    /// Model and beam width of every cell, in order.
    pub fn cells(&self) -> Vec<(String, u64)> {
        let of_model = |m: &SavedModel| {
            let cells = m.cells.iter();
            cells
                .map(|(beam, _)| (m.id.clone(), *beam))
                .collect::<Vec<_>>()
        };
        self.models.iter().flat_map(of_model).collect()
    }

    /// Writes `plan.json` below `out`.
    pub fn save(&self, out: &Path) -> Result<(), SweepError> {
        Ok(write_json(&out.join("plan.json"), self)?)
    }

    /// The plan below `out`, `None` if no sweep has begun there.
    pub fn open(out: &Path) -> Result<Option<Self>, SweepError> {
        let path = out.join("plan.json");
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(read_json(&path)?))
    }
}

impl SavedModel {
    /// Size, and what tells it from a model of n-grams.
    pub fn name(&self) -> String {
        named(&self.size, &self.variant)
    }

    /// Expected FLOPs of training it, measuring it, and decoding `queries` queries in every cell.
    pub fn flops(&self, queries: usize) -> f64 {
        let decode: f64 = self.cells.iter().map(|(_, flops)| flops).sum();
        self.train_flops + self.measure_flops + decode * queries as f64
    }
}
