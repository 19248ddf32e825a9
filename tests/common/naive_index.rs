//! The n-gram index in its slowest and most obvious form: scan every passage, every time.

use std::collections::BTreeMap;

use crate::index::{Continuations, Field, Occurrence, SEPARATOR, SubstringIndex};
use crate::types::{PassageIdx, TokenId};

/// All n-grams of one field, found by comparing at every position.
pub struct NaiveIndex {
    field: Field,
    vocab_size: usize,
    max_ngram_tokens: usize,
    /// With [`SEPARATOR`] between the texts of a passage.
    passages: Vec<Vec<TokenId>>,
}

/// An n-gram that occurs, as its first occurrence and its length in tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NaiveState {
    passage: usize,
    position: usize,
    len: usize,
}

impl NaiveIndex {
    /// An index of the n-grams of up to `max_ngram_tokens` tokens in `passages`.
    pub fn new(
        field: Field,
        vocab_size: usize,
        max_ngram_tokens: usize,
        passages: Vec<Vec<TokenId>>,
    ) -> Self {
        Self {
            field,
            vocab_size,
            max_ngram_tokens,
            passages,
        }
    }

    /// The n-gram of a state.
    pub fn ngram(&self, state: NaiveState) -> &[TokenId] {
        if state.len == 0 {
            return &[];
        }
        &self.passages[state.passage][state.position..state.position + state.len]
    }

    /// Where `ngram` occurs, by passage and position; every token if it is empty.
    fn places(&self, ngram: &[TokenId]) -> Vec<(usize, usize)> {
        let mut places = vec![];
        for (p, tokens) in self.passages.iter().enumerate() {
            for position in 0..tokens.len() {
                if tokens[position] != SEPARATOR && tokens[position..].starts_with(ngram) {
                    places.push((p, position));
                }
            }
        }
        places
    }
}

impl SubstringIndex for NaiveIndex {
    type State = NaiveState;

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn num_tokens(&self) -> usize {
        let tokens = self.passages.iter().flatten();
        tokens.filter(|token| **token != SEPARATOR).count()
    }

    fn num_passages(&self) -> usize {
        self.passages.len()
    }

    fn max_ngram_tokens(&self) -> usize {
        self.max_ngram_tokens
    }

    fn passage_tokens(&self, passage: PassageIdx, out: &mut Vec<TokenId>) {
        out.clear();
        out.extend(&self.passages[passage.index()]);
    }

    fn root(&self) -> NaiveState {
        NaiveState {
            passage: 0,
            position: 0,
            len: 0,
        }
    }

    fn count(&self, state: NaiveState) -> usize {
        self.places(self.ngram(state)).len()
    }

    fn advance(&self, state: NaiveState, token: TokenId) -> Option<NaiveState> {
        let mut ngram = self.ngram(state).to_vec();
        ngram.push(token);
        if ngram.len() > self.max_ngram_tokens || token == SEPARATOR {
            return None;
        }
        let &(passage, position) = self.places(&ngram).first()?;
        Some(NaiveState {
            passage,
            position,
            len: ngram.len(),
        })
    }

    fn continuations<'i>(&'i self, states: &[NaiveState], out: &mut Continuations<'i, NaiveState>) {
        out.clear();
        for &state in states {
            let mut counts: BTreeMap<TokenId, u32> = BTreeMap::new();
            for (passage, position) in self.places(self.ngram(state)) {
                if let Some(&next) = self.passages[passage].get(position + state.len) {
                    *counts.entry(next).or_default() += 1;
                }
            }
            for (token, count) in counts {
                if let Some(child) = self.advance(state, token) {
                    out.push(token, count, child);
                }
            }
            out.end_row();
        }
    }

    fn occurrences(&self, state: NaiveState, limit: usize, out: &mut Vec<Occurrence>) {
        out.clear();
        for (passage, position) in self.places(self.ngram(state)).into_iter().take(limit) {
            out.push(Occurrence {
                passage: PassageIdx(passage as u32),
                position: position as u32,
                field: self.field,
            });
        }
    }
}
