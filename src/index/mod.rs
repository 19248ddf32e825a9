//! Which n-grams occur in the corpus, how often, where, and what follows them.
//!
//! [`SubstringIndex`] is what decoding and ranking see: integers only, no tensors, no text. An n-gram
//! is any token sequence inside one field of one passage (one query, of pseudo-queries); it never crosses into another. [`NgramIndex`]
//! answers from a sorted list of all corpus positions (a suffix array) with tables for the frequent
//! prefixes, so that a step of beam search costs microseconds; it is built by [`IndexBuilder`] and
//! lives in one memory-mapped file.

mod build;
mod continuations;
mod error;
mod file;
mod filter;
pub mod live;
mod ngram;
mod nodes;
mod packed;
mod rows;
mod suffix;
#[cfg(test)]
mod tests;
mod trie;

pub use build::{IndexBuilder, IndexOptions};
pub use continuations::{ContinuationRow, Continuations, Csr, Ends, SharedRow};
pub use error::IndexError;
pub use filter::PassageSet;
pub use live::{LiveIndex, LiveState, LiveStats, LiveWriter};
pub use ngram::{FieldStats, IndexStats, NgramIndex, PartStats};
pub use rows::State;
pub use trie::{Trie, TrieBuilder, TrieError, TrieFile, TrieState};

use serde::{Deserialize, Serialize};

use crate::types::{PassageIdx, TokenId};

/// Text positions between two entries of the table from position to passage.
const BLOCK_TOKENS: usize = 64;

/// What stands between the texts of a field in [`SubstringIndex::passage_tokens`]; no token, and never given out as one.
pub const SEPARATOR: TokenId = TokenId(u32::MAX);

/// A part of a passage that n-grams are taken from. N-grams never cross from one to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The text of the passage.
    Body,
    /// The title of the passage, possibly empty.
    Title,
    /// Queries that the passage might answer, possibly none; n-grams do not cross from one to the next either.
    Queries,
}

impl Field {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Body, Self::Title, Self::Queries];

    /// The name, as the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Title => "title",
            Self::Queries => "queries",
        }
    }
}

/// One place where an n-gram occurs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Occurrence {
    /// The passage.
    pub passage: PassageIdx,
    /// Offset of the first token in [`SubstringIndex::passage_tokens`].
    pub position: u32,
    /// The field of the passage.
    pub field: Field,
}

/// All n-grams of a corpus of tokenised passages.
///
/// A [`State`](Self::State) stands for one n-gram that occurs. It belongs to the index that gave it;
/// in another index it gives wrong answers, never a panic.
pub trait SubstringIndex: Send + Sync {
    /// Where an n-gram stands.
    type State: Copy + Send + Sync;

    /// Tokens of the tokenizer's vocabulary; every token given out is below.
    fn vocab_size(&self) -> usize;

    /// Tokens of the indexed field over all passages (V_tok of the ranking formulas).
    fn num_tokens(&self) -> usize;

    /// Passages of the corpus.
    fn num_passages(&self) -> usize;

    /// The longest n-gram that has a state, in tokens; longer ones count as absent.
    fn max_ngram_tokens(&self) -> usize;

    /// The tokens of the indexed field of `passage`, with [`SEPARATOR`] between its texts; `out` is replaced.
    fn passage_tokens(&self, passage: PassageIdx, out: &mut Vec<TokenId>);

    /// The state of the empty n-gram, which occurs at every token.
    fn root(&self) -> Self::State;

    /// How often the n-gram occurs, overlapping occurrences included.
    fn count(&self, state: Self::State) -> usize;

    /// The state of the n-gram followed by `token`; `None` if that does not occur.
    fn advance(&self, state: Self::State, token: TokenId) -> Option<Self::State>;

    /// For each n-gram the tokens that follow it, increasing, with counts and states; `out` is replaced.
    ///
    /// Row i belongs to `states[i]`. The counts of a row sum to the count of the n-gram less its
    /// occurrences at the end of a field. `out` may refer to the index instead of copying from it.
    fn continuations<'i>(
        &'i self,
        states: &[Self::State],
        out: &mut Continuations<'i, Self::State>,
    );

    /// Where the n-gram occurs: the first `limit` places by passage, then position; `out` is replaced.
    ///
    /// O(count) in time, whatever the limit.
    fn occurrences(&self, state: Self::State, limit: usize, out: &mut Vec<Occurrence>);

    /// The state of `ngram`; `None` if it does not occur.
    fn find(&self, ngram: &[TokenId]) -> Option<Self::State> {
        ngram
            .iter()
            .try_fold(self.root(), |state, &token| self.advance(state, token))
    }

    /// How often `ngram` occurs; the number of tokens if it is empty.
    fn ngram_count(&self, ngram: &[TokenId]) -> usize {
        self.find(ngram).map_or(0, |state| self.count(state))
    }
}
