//! What contrastive training and distillation are told, as a configuration file writes it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::Pooling;

/// Which loss representations are trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Contrastive: the positive against every other passage of the batch.
    Contrastive,
    /// Distillation: the scores of a teacher.
    Distillation,
    /// Half of each.
    Both,
}

/// How representations are compared, with which negatives and which teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastOptions {
    /// Where hard negatives come from: `bm25`, `random`, or a TREC run such as `genret mine` writes.
    pub negatives: String,
    /// Hard negatives of a query per visit, drawn anew in every epoch.
    pub per_query: usize,
    /// They are drawn from the first so many of the run.
    pub depth: usize,
    /// Where the scores to distil come from: `bm25`, or a TREC run such as `genret teach` writes, or JSON lines with
    /// `query`, `doc` and `score`.
    pub teacher: String,
    /// Factor of the teacher's scores.
    pub teacher_scale: f64,
    /// How the teacher's scores are learned.
    pub distillation: Distillation,
    /// Scores are divided by it; without, 0.01 for dense and 1 for sparse representations.
    pub temperature: Option<f64>,
    /// What keeps sparse representations sparse.
    pub regulariser: Regulariser,
    /// Its weight on queries.
    pub lambda_query: f64,
    /// Its weight on passages.
    pub lambda_passage: f64,
    /// Share of the optimiser steps in which the weights rise quadratically from 0.
    pub ramp: f64,
    /// A sparse model of random weights begins by matching words ([`Model::with_words_first`]); nothing to others.
    ///
    /// [`Model::with_words_first`]: crate::model::Model::with_words_first
    pub words_first: bool,
    /// More active terms than this in the mean passage, once the weights have risen, end the training.
    pub max_terms: usize,
}

/// How a teacher's scores are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distillation {
    /// KL divergence of the distributions over a query's own passages.
    Kl,
    /// Squared difference of the margins between positive and negatives.
    MarginMse,
}

/// What keeps sparse representations sparse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regulariser {
    /// Expected work of an inverted index: squared mean activations, summed over terms.
    Flops,
    /// Sum of the weights of a representation.
    L1,
    /// Nothing.
    None,
}

impl Default for ContrastOptions {
    fn default() -> Self {
        Self {
            negatives: Self::BM25.into(),
            per_query: 16,
            depth: 200,
            teacher: Self::BM25.into(),
            teacher_scale: 1.0,
            distillation: Distillation::Kl,
            temperature: None,
            regulariser: Regulariser::Flops,
            lambda_query: 0.05,
            lambda_passage: 0.04,
            ramp: 1.0 / 3.0,
            words_first: true,
            max_terms: 10_000,
        }
    }
}

impl ContrastOptions {
    /// The word for BM25, as a source of negatives and as a teacher.
    pub const BM25: &str = "bm25";
    /// The word for negatives from anywhere in the corpus.
    pub const RANDOM: &str = "random";

    /// The run that negatives are drawn from, if they come from a file.
    pub fn negatives_file(&self) -> Option<&Path> {
        let own = [Self::BM25, Self::RANDOM].contains(&&self.negatives[..]);
        (!own).then(|| Path::new(&self.negatives))
    }

    /// The run with the teacher's scores, if they come from a file.
    pub fn teacher_file(&self) -> Option<&Path> {
        (self.teacher != Self::BM25).then(|| Path::new(&self.teacher))
    }

    /// What scores are divided by.
    pub fn temperature(&self, pooling: Pooling) -> f64 {
        self.temperature.unwrap_or(match pooling {
            Pooling::Sparse => 1.0,
            _ => 0.01,
        })
    }

    /// Says what is wrong with the options, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.per_query == 0 || self.depth < self.per_query {
            return Err(format!(
                "contrast.per_query = {} and contrast.depth = {}: at least one negative per query, drawn from at least as many",
                self.per_query, self.depth
            ));
        }
        for (name, value) in [
            ("temperature", self.temperature.unwrap_or(1.0)),
            ("teacher_scale", self.teacher_scale),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(format!("contrast.{name} = {value} must be positive"));
            }
        }
        for (name, value) in [
            ("lambda_query", self.lambda_query),
            ("lambda_passage", self.lambda_passage),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(format!("contrast.{name} = {value} must not be negative"));
            }
        }
        if !(0.0..=1.0).contains(&self.ramp) {
            return Err(format!("contrast.ramp = {} must lie in [0, 1]", self.ramp));
        }
        Ok(())
    }

    /// Share of the regulariser's weight before update `done` (from 0) of `steps`: (t / T)^2 up to
    /// T = `ramp` x `steps`, then 1.
    pub(super) fn share_of_weight(&self, done: u64, steps: u64) -> f64 {
        let until = self.ramp * steps as f64;
        if until <= done as f64 {
            return 1.0;
        }
        (done as f64 / until).powi(2)
    }
}
