//! What a model learns and how it finds passages, as a configuration file writes it.

use serde::{Deserialize, Serialize};

use crate::data::example::{SpanOptions, Template, ViewWeights};
use crate::train::{Loss, PrefixOptions};

/// What the model learns to emit for a query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveOptions {
    /// What is read and what is written.
    pub task: Task,
    /// How spans are drawn from a relevant passage.
    pub span: SpanOptions,
    /// Whether the passage's title is a target too, once per pair and epoch; for the task `ngrams`.
    pub titles: bool,
    /// How often an epoch holds the examples of each view, for the task `views`: every pair's spans, its title, one of its
    /// passage's pseudo-queries, and all that `docids` says.
    #[serde(skip_serializing_if = "ViewWeights::is_default")]
    pub views: ViewWeights,
    /// How often an epoch holds each pseudo-query as if it were a training query, with spans and title of its passage; of
    /// identifiers `docids.pseudo` says it.
    #[serde(skip_serializing_if = "is_zero")]
    pub pseudo: f64,
    /// What identifiers are learned from, for the tasks `docids` and `views`.
    #[serde(skip_serializing_if = "DocidMixture::is_default")]
    pub docids: DocidMixture,
    /// Which prefixes of identifiers are ranked, for the task `prefixes`.
    #[serde(skip_serializing_if = "PrefixOptions::is_default")]
    pub prefixes: PrefixOptions,
    /// The prompts.
    pub template: Template,
}

fn is_zero(weight: &f64) -> bool {
    *weight == 0.0
}

impl ObjectiveOptions {
    /// What a model of the task learns to write of a passage, and how much of each; nothing of other tasks.
    pub fn learned(&self) -> ViewWeights {
        match self.task {
            Task::Ngrams => ViewWeights {
                body: 1.0,
                title: f64::from(u8::from(self.titles)),
                ..ViewWeights::NONE
            },
            Task::Docids | Task::Prefixes => ViewWeights {
                docid: 1.0,
                ..ViewWeights::NONE
            },
            Task::Views => self.views,
            _ => ViewWeights::NONE,
        }
    }

    /// Whether pseudo-queries are read or written.
    pub fn needs_pseudo_queries(&self) -> bool {
        let learned = self.learned();
        let read = (learned.docid * self.docids.pseudo).max(self.pseudo * learned.of_texts());
        learned.queries > 0.0 || read > 0.0
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.docids.check()?;
        self.views
            .check()
            .map_err(|e| format!("objective.views: {e}"))?;
        if !(0.0..=1000.0).contains(&self.pseudo) {
            return Err("objective.pseudo must lie between 0 and 1000".into());
        }
        if self.task == Task::Views && self.titles {
            return Err(
                "objective.titles belongs to the task ngrams: set objective.views.title".into(),
            );
        }
        Ok(())
    }
}

/// How often an epoch holds each kind of example whose target is an identifier; 0.5 is half of them, drawn anew for every
/// epoch, and 2 is each of them twice.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DocidMixture {
    /// Training queries, with the identifiers of their relevant passages.
    pub queries: f64,
    /// Passages, each with its own (DSI's indexing); every passage of the corpus, whatever the data fraction.
    pub passages: f64,
    /// Queries of `data.pseudo_queries`, with the identifiers of the passages they were written for (DSI-QG).
    pub pseudo: f64,
}

impl Default for DocidMixture {
    fn default() -> Self {
        Self {
            queries: 1.0,
            passages: 1.0,
            pseudo: 0.0,
        }
    }
}

impl DocidMixture {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// So many times as much of each.
    pub fn times(self, factor: f64) -> Self {
        Self {
            queries: factor * self.queries,
            passages: factor * self.passages,
            pseudo: factor * self.pseudo,
        }
    }

    fn check(&self) -> Result<(), String> {
        let weights = [self.queries, self.passages, self.pseudo];
        if weights.iter().any(|w| !(0.0..=1000.0).contains(w)) || weights.iter().sum::<f64>() == 0.0
        {
            return Err("objective.docids: queries, passages and pseudo must lie between 0 and 1000, and not all be 0".into());
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
    /// Several views of relevant passages, each by a prompt of its own: retrieval.
    Views,
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
            Self::Views => "views",
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
            Self::Ngrams
            | Self::Docids
            | Self::Views
            | Self::Prefixes
            | Self::Queries
            | Self::Mntp => None,
            Self::Cl => Some(Loss::Contrastive),
            Self::Kd => Some(Loss::Distillation),
            Self::ClKd => Some(Loss::Both),
        }
    }

    /// Whether models of this task can be those of `retriever`.
    pub(super) fn serves(self, retriever: RetrieverKind) -> bool {
        match self {
            Self::Ngrams | Self::Docids | Self::Views | Self::Prefixes | Self::Queries => {
                retriever == RetrieverKind::Generative
            }
            Self::Mntp => true,
            Self::Cl | Self::Kd | Self::ClKd => retriever != RetrieverKind::Generative,
        }
    }
}
