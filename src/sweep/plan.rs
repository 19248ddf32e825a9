//! What a sweep will do: every cell with its parameters, tokens, FLOPs, memory and time.

use crate::config::{Config, hash};
use crate::experiment::{Experiment, ExperimentError, ModelSpec};
use crate::model::ModelOptions;

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
    /// Expected bytes of weights, moments, gradients and activations in training.
    pub memory_bytes: f64,
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

/// The grid of `experiment`, smallest models and fractions first.
pub fn plan(experiment: &Experiment) -> Result<Plan, ExperimentError> {
    let config: &Config = &experiment.config;
    let mut models = vec![];
    let typical = experiment.typical_example()?;
    for size in &config.sweep.sizes {
        for &fraction in &config.sweep.fractions {
            for seed in &config.sweep.seeds {
                let options = ModelOptions {
                    size: Some(size.clone()),
                    ..config.model.clone()
                };
                let spec = experiment.model_spec(&options, fraction, config.seed + seed)?;
                let counts = spec.model.counts();
                let examples = spec.num_examples as f64 * config.train.epochs;
                let (prompt, target) = typical;
                let micro_tokens = (config.train.micro_batch_size.min(config.train.batch_size)
                    * (prompt + target)) as f64;
                let params = spec.model.params_embedding() + spec.model.params_non_embedding();
                // Beside these: weights, gradients and two moments.
                let activations = micro_tokens * spec.model.activations_per_token() as f64;
                let cells = config
                    .sweep
                    .beams
                    .iter()
                    .map(|&beam| CellPlan {
                        beam,
                        decode_flops: counts.decode(prompt, config.decode.max_new_tokens, beam),
                    })
                    .collect();
                let evaluate = &config.evaluate;
                let spans = (evaluate.cgl_negatives + 1) * evaluate.cgl_spans;
                let measure_flops =
                    evaluate.cgl_queries as f64 * counts.decode(prompt, target, spans);
                models.push(ModelPlan {
                    size: size.clone(),
                    tokens: examples * (prompt + target) as f64,
                    train_flops: examples * counts.train(prompt, target),
                    measure_flops,
                    memory_bytes: 4.0 * (4.0 * params as f64 + activations),
                    cells,
                    spec,
                });
            }
        }
    }
    models.sort_by(|a, b| a.train_flops.total_cmp(&b.train_flops));
    Ok(Plan { models })
}

impl ModelPlan {
    /// Id of the model: hash of everything that makes it.
    pub fn id(&self) -> String {
        hash(&self.spec)
    }
}
