//! Contrastive generation loss (Cai et al. 2025): how much better a model generates identifiers of
//! the relevant passage than those of random ones.
//!
//! The negatives and spans of a query derive from the seed and the query alone, so every model is
//! measured on the same ones. Aggregation into one number per query is `eval::cgl`.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::target_losses;
use crate::model::{ModelError, NextTokenModel};
use crate::types::{PassageIdx, QueryId, TokenId};

/// One query with its positive passage, its negatives and the spans that identify each.
#[derive(Clone, Debug, PartialEq)]
pub struct ContrastiveCase {
    /// The query.
    pub query: QueryId,
    /// Prompt of the query.
    pub prompt: Vec<TokenId>,
    /// The positive passage first, then the negatives.
    pub passages: Vec<PassageIdx>,
    /// Spans of passage i: `spans[span_ranges[i]]`.
    pub span_ranges: Vec<Range<usize>>,
    /// Token sequences, each occurring in its passage.
    pub spans: Vec<Vec<TokenId>>,
}

/// Token losses of every span of every passage of one case, in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContrastiveLosses {
    /// For each passage (the positive first) and span the losses of its tokens.
    pub passages: Vec<Vec<Vec<f32>>>,
}

/// Measures one case. Spans are scored in blocks of `block` at a time, which bounds memory and
/// changes nothing else.
pub fn contrastive_losses<M: NextTokenModel>(
    model: &M,
    case: &ContrastiveCase,
    block: usize,
) -> Result<ContrastiveLosses, ModelError> {
    let mut losses = Vec::with_capacity(case.spans.len());
    for spans in case.spans.chunks(block) {
        losses.extend(target_losses(model, &case.prompt, spans)?);
    }
    Ok(ContrastiveLosses {
        passages: case
            .span_ranges
            .iter()
            .map(|range| losses[range.clone()].to_vec())
            .collect(),
    })
}
