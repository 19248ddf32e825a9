//! Every sequence with its probability, and nothing pruned: what a beam search is measured against.

use hashbrown::HashMap;

use super::{DecodeOptions, Forced, Hypothesis, Normalise, beam_search};
use crate::index::{Continuations, SubstringIndex};
use crate::model::{ModelError, NextTokenModel};
use crate::types::TokenId;

/// Corpus positions that are walked at once; bounds the memory of keys and values.
pub const WALKED_POSITIONS: usize = 20_000;

/// Every n-gram of the corpus of up to `max_tokens` tokens with its log-probability after `prompt`, each once.
///
/// Teacher forcing along the index, so that n-grams share the work of their beginnings. N-grams are walked in
/// blocks by their first token, of about [`WALKED_POSITIONS`] positions each. O(corpus tokens x `max_tokens`)
/// model steps and memory for the result: for small corpora.
///
/// # Errors
/// What the model returns; [`ModelError::NotFinite`] if it gives logits that are not numbers.
pub fn every_ngram<M: NextTokenModel, I: SubstringIndex>(
    model: &M,
    index: &I,
    prompt: &[TokenId],
    max_tokens: usize,
    normalise: Normalise,
) -> Result<Vec<Hypothesis<I::State>>, ModelError> {
    let mut first = Continuations::new();
    SubstringIndex::continuations(index, &[SubstringIndex::root(index)], &mut first);
    let row = first.row(0);
    let unlimited = |beam_width, max_new_tokens| DecodeOptions {
        beam_width,
        max_new_tokens,
        normalise,
        ..DecodeOptions::default()
    };
    // With probabilities over the allowed tokens a block would sum to one by itself.
    let singles: HashMap<TokenId, f64> = match normalise {
        Normalise::Full | Normalise::None => HashMap::new(),
        Normalise::Allowed => {
            let options = unlimited(row.tokens.len(), 1);
            let decoded = beam_search(model, index, &[prompt], &options)?;
            let singles = decoded.iter().flat_map(|d| &d.harvest);
            singles.map(|h| (h.tokens[0], h.log_prob)).collect()
        }
    };
    let mut ngrams = vec![];
    let mut block: Vec<[TokenId; 1]> = vec![];
    let mut positions = 0;
    for (nth, &token) in row.tokens.iter().enumerate() {
        block.push([token]);
        positions += row.count(nth);
        if positions < WALKED_POSITIONS && nth + 1 < row.tokens.len() {
            continue;
        }
        let forced = Forced::new(index, &block);
        // No more sequences of one length than positions.
        let options = unlimited(positions, max_tokens);
        let decoded = beam_search(model, &forced, &[prompt], &options)?;
        let harvest = || decoded.iter().flat_map(|d| &d.harvest);
        let single = harvest().find_map(|h| Some(singles.get(&h.tokens[0])? - h.log_prob));
        let shift = single.unwrap_or(0.0);
        ngrams.extend(harvest().map(|found| Hypothesis {
            state: found.state.inner(),
            tokens: found.tokens.clone(),
            log_prob: found.log_prob + shift,
            count: found.count,
        }));
        block.clear();
        positions = 0;
    }
    Ok(ngrams)
}
