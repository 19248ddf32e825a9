//! What a model learns and how it finds passages, as a configuration file writes it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::example::{SpanOptions, Template};
use crate::train::{Loss, PrefixOptions};

/// What the model learns to emit for a query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveOptions {
    /// What is read and what is written.
    pub task: Task,
    /// How spans are drawn from a relevant passage.
    pub span: SpanOptions,
    /// Whether the passage's title is a target too, once per pair and epoch.
    pub titles: bool,
    /// What identifiers are learned from, for the task `docids`.
    #[serde(skip_serializing_if = "DocidMixture::is_default")]
    pub docids: DocidMixture,
    /// Which prefixes of identifiers are ranked, for the task `prefixes`.
    #[serde(skip_serializing_if = "PrefixOptions::is_default")]
    pub prefixes: PrefixOptions,
    /// The prompts.
    pub template: Template,
}

/// How often an epoch holds each kind of example whose target is an identifier; 0.5 is half of them, drawn anew for every
/// epoch, and 2 is each of them twice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DocidMixture {
    /// Training queries, with the identifiers of their relevant passages.
    pub queries: f64,
    /// Passages, each with its own (DSI's indexing); every passage of the corpus, whatever the data fraction.
    pub passages: f64,
    /// Queries of `pseudo_queries`, with the identifiers of the passages they were written for (DSI-QG).
    pub pseudo: f64,
    /// A folder written by `genret decode --task queries` for this corpus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pseudo_queries: Option<PathBuf>,
}

impl Default for DocidMixture {
    fn default() -> Self {
        Self {
            queries: 1.0,
            passages: 1.0,
            pseudo: 0.0,
            pseudo_queries: None,
        }
    }
}

impl DocidMixture {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let weights = [self.queries, self.passages, self.pseudo];
        if weights.iter().any(|w| !(0.0..=1000.0).contains(w)) || weights.iter().sum::<f64>() == 0.0
        {
            return Err("objective.docids: queries, passages and pseudo must lie between 0 and 1000, and not all be 0".into());
        }
        if (self.pseudo > 0.0) != self.pseudo_queries.is_some() {
            return Err("objective.docids: pseudo and pseudo_queries go together: a weight above 0 and the folder that `genret decode --task queries` wrote".into());
        }
        Ok(())
    }
}

/// How passages are found for a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetrieverKind {
    /// A model writes n-grams of them.
    #[default]
    Generative,
    /// Weights of vocabulary terms and an inverted index.
    Sparse,
    /// Vectors and inner products.
    Dense,
}

impl RetrieverKind {
    /// The name, as configurations write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generative => "generative",
            Self::Sparse => "sparse",
            Self::Dense => "dense",
        }
    }
}

/// What a model learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// N-grams of relevant passages for a query: retrieval.
    #[default]
    Ngrams,
    /// Identifiers of relevant passages for a query, and of passages for themselves: retrieval.
    Docids,
    /// To rank passages by the prefixes of identifiers that the model has learned, by negatives and a teacher: retrieval.
    Prefixes,
    /// Queries for a passage, one example per pair (doc2query, Nogueira et al. 2019).
    Queries,
    /// Masked tokens of passages, read in both directions: what representations begin with.
    Mntp,
    /// Representations, by contrast with negatives.
    Cl,
    /// Representations, by distilling a teacher.
    Kd,
    /// Representations, by half of each.
    #[serde(rename = "cl+kd")]
    ClKd,
}

impl Task {
    /// The name, as configurations write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ngrams => "ngrams",
            Self::Docids => "docids",
            Self::Prefixes => "prefixes",
            Self::Queries => "queries",
            Self::Mntp => "mntp",
            Self::Cl => "cl",
            Self::Kd => "kd",
            Self::ClKd => "cl+kd",
        }
    }

    /// The loss, of tasks that learn representations.
    pub fn loss(self) -> Option<Loss> {
        match self {
            Self::Ngrams | Self::Docids | Self::Prefixes | Self::Queries | Self::Mntp => None,
            Self::Cl => Some(Loss::Contrastive),
            Self::Kd => Some(Loss::Distillation),
            Self::ClKd => Some(Loss::Both),
        }
    }

    /// Whether models of this task write identifiers.
    pub fn writes_docids(self) -> bool {
        matches!(self, Self::Docids | Self::Prefixes)
    }

    /// Whether models of this task can be those of `retriever`.
    pub(super) fn serves(self, retriever: RetrieverKind) -> bool {
        match self {
            Self::Ngrams | Self::Docids | Self::Prefixes | Self::Queries => {
                retriever == RetrieverKind::Generative
            }
            Self::Mntp => true,
            Self::Cl | Self::Kd | Self::ClKd => retriever != RetrieverKind::Generative,
        }
    }
}
