//! Beam search over many queries at once.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::DecodeOptions;
use super::constraint::{Extension, Row, best_extensions, row_ranges};
use crate::index::{Continuations, SubstringIndex};
use crate::model::{ModelError, NextTokenModel};
use crate::types::TokenId;

/// A token sequence that occurs in the corpus, and how likely the model finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis<S> {
    /// The tokens, without the prompt.
    pub tokens: Vec<TokenId>,
    /// Log-probability of the tokens given the prompt.
    pub log_prob: f64,
    /// Occurrences in the corpus.
    pub count: usize,
    /// Where the sequence stands in the index.
    pub state: S,
}

/// What decoding one query gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<S> {
    /// Candidates of every step: for each length the best 2 x `beam_width` sequences, each once.
    pub harvest: Vec<Hypothesis<S>>,
    /// The hypotheses of the last step, best first.
    pub last: Vec<Hypothesis<S>>,
}

/// Decodes `prompts` together under the constraint of `index`.
///
/// Per query and step: the 2 x `beam_width` best allowed extensions of its hypotheses are harvested,
/// the best `beam_width` of them go on. A query without any extension leaves the batch. Results do
/// not depend on which queries are decoded together, beyond rounding.
///
/// # Errors
/// What the model returns; [`ModelError::NotFinite`] if it gives logits that are not numbers.
pub fn beam_search<M: NextTokenModel, I: SubstringIndex>(
    model: &M,
    index: &I,
    prompts: &[&[TokenId]],
    options: &DecodeOptions,
) -> Result<Vec<Decoded<I::State>>, ModelError> {
    let root = Hypothesis {
        tokens: vec![],
        log_prob: 0.0,
        count: 0,
        state: index.root(),
    };
    let mut decoded: Vec<Decoded<I::State>> = prompts
        .iter()
        .map(|_| Decoded {
            harvest: vec![],
            last: vec![root.clone()],
        })
        .collect();
    let (mut state, mut hidden) = model.start(prompts, options.max_new_tokens)?;
    let mut continuations = Continuations::default();
    for length in 1..=options.max_new_tokens {
        let ranges = row_ranges(decoded.iter().map(|d| d.last.len()));
        let states: Vec<I::State> = decoded
            .iter()
            .flat_map(|d| d.last.iter().map(|h| h.state))
            .collect();
        index.continuations(&states, &mut continuations);
        let logits = model.logits(hidden);
        let extended = extend(&decoded, &ranges, &logits, &continuations, options)?;

        let mut parents = vec![];
        let mut last = vec![];
        for ((decoded, range), extensions) in decoded.iter_mut().zip(&ranges).zip(extended) {
            let children: Vec<Hypothesis<I::State>> = extensions
                .iter()
                .map(|e| {
                    let mut tokens = Vec::with_capacity(length);
                    tokens.extend_from_slice(&decoded.last[e.parent].tokens);
                    tokens.push(e.token);
                    Hypothesis {
                        tokens,
                        log_prob: e.log_prob,
                        count: e.count,
                        state: e.state,
                    }
                })
                .collect();
            let kept = children.len().min(options.beam_width);
            parents.extend(extensions[..kept].iter().map(|e| range.start + e.parent));
            last.extend(extensions[..kept].iter().map(|e| e.token));
            decoded.last = children[..kept].to_vec();
            decoded.harvest.extend(children);
        }
        if last.is_empty() {
            break;
        }
        if length == options.max_new_tokens {
            break;
        }
        hidden = model.step(&mut state, &parents, &last)?;
    }
    for decoded in &mut decoded {
        decoded.last.retain(|h| !h.tokens.is_empty());
    }
    Ok(decoded)
}

/// The best extensions of every query's hypotheses.
fn extend<S: Copy + Send + Sync>(
    decoded: &[Decoded<S>],
    ranges: &[std::ops::Range<usize>],
    logits_bv: &Tensor<2>,
    continuations: &Continuations<'_, S>,
    options: &DecodeOptions,
) -> Result<Vec<Vec<Extension<S>>>, ModelError> {
    let [_, vocab] = logits_bv.dims();
    let data = logits_bv.clone().into_data().convert::<f32>();
    let values = data
        .as_slice::<f32>()
        .expect("the data was converted to f32");
    decoded
        .par_iter()
        .zip(ranges)
        .map(|(decoded, range)| {
            let rows: Vec<Row<'_>> = decoded
                .last
                .iter()
                .zip(range.clone())
                .map(|(h, row)| Row {
                    logits: &values[row * vocab..(row + 1) * vocab],
                    log_prob: h.log_prob,
                })
                .collect();
            let limit = 2 * options.beam_width;
            best_extensions(&rows, continuations, range.start, limit, options.normalise)
                .ok_or(ModelError::NotFinite { what: "logits" })
        })
        .collect()
}
