//! Which n-grams occur in the corpus, how often, where, and what follows them.
//!
//! [`SubstringIndex`] is what decoding and ranking see: integers only, no tensors, no text. An n-gram
//! is any token sequence inside one field of one passage (one query, of pseudo-queries); it never crosses into another. [`NgramIndex`]
//! answers from a sorted list of all corpus positions (a suffix array) with tables for the frequent
//! prefixes, so that a step of beam search costs microseconds; it is built by [`IndexBuilder`] and
//! lives in one memory-mapped file.

mod build;
mod error;
mod file;
mod filter;
pub mod live;
mod ngram;
mod nodes;
mod rows;
mod suffix;
#[cfg(test)]
mod tests;
mod trie;

pub use build::{IndexBuilder, IndexOptions};
pub use error::IndexError;
pub use filter::PassageSet;
pub use live::{LiveIndex, LiveState, LiveStats, LiveWriter};
pub use ngram::{FieldStats, IndexStats, NgramIndex, PartStats};
pub use rows::State;
pub use trie::{Trie, TrieBuilder, TrieError, TrieFile, TrieState};

use std::ops::Range;
use std::slice;

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

/// The continuations of several n-grams, one row each. Reused from step to step, it stops allocating.
///
/// An index fills it through [`clear`](Self::clear), then per row either [`push`](Self::push) for each
/// continuation and [`end_row`](Self::end_row), or [`push_shared_row`](Self::push_shared_row).
#[derive(Debug)]
pub struct Continuations<'i, S> {
    rows: Vec<StoredRow<'i, S>>,
    tokens: Vec<TokenId>,
    ends: Vec<u32>,
    states: Vec<S>,
    row_start: usize,
    row_states: usize,
}

#[derive(Debug)]
enum StoredRow<'i, S> {
    /// Tokens, and where their states begin.
    Own(Range<usize>, usize),
    /// Tokens, and how their states are made.
    Made(Range<usize>, S, MakeState<S>),
    /// One continuation with its count and state.
    Single(TokenId, u32, S),
    Shared(SharedRow<'i, S>),
}

/// The state of a continuation: from the state that its row continues, the token, its slot and its range.
type MakeState<S> = fn(S, TokenId, u32, Range<u32>) -> S;

/// A row that lies in the index, with what is needed to make the states of its continuations.
#[derive(Clone, Copy, Debug)]
pub struct SharedRow<'i, S> {
    /// The tokens, increasing.
    pub tokens: &'i [TokenId],
    /// The end of each continuation's range; as many as `tokens`, increasing.
    pub ends: &'i [u32],
    /// The start of the first continuation's range.
    pub start: u32,
    /// The state that the row continues.
    pub parent: S,
    /// Number of the first continuation, passed on to `child` with the row offset added.
    pub first_slot: u32,
    /// The state of a continuation: from parent, token, slot and range.
    pub child: fn(S, TokenId, u32, Range<u32>) -> S,
}

/// The continuations of one n-gram.
#[derive(Clone, Copy, Debug)]
pub struct ContinuationRow<'a, S> {
    /// The tokens that follow, increasing.
    pub tokens: &'a [TokenId],
    start: u32,
    ends: &'a [u32],
    states: RowStates<'a, S>,
}

#[derive(Clone, Copy, Debug)]
enum RowStates<'a, S> {
    Listed(&'a [S]),
    Made {
        parent: S,
        first_slot: u32,
        child: MakeState<S>,
    },
}

impl<S> Default for Continuations<'_, S> {
    fn default() -> Self {
        Self {
            rows: vec![],
            tokens: vec![],
            ends: vec![],
            states: vec![],
            row_start: 0,
            row_states: 0,
        }
    }
}

impl<'i, S: Copy> Continuations<'i, S> {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Row `row`, below [`len`](Self::len).
    pub fn row(&self, row: usize) -> ContinuationRow<'_, S> {
        match &self.rows[row] {
            StoredRow::Own(range, states) => ContinuationRow {
                tokens: &self.tokens[range.clone()],
                start: 0,
                ends: &self.ends[range.clone()],
                states: RowStates::Listed(&self.states[*states..*states + range.len()]),
            },
            StoredRow::Made(range, parent, child) => ContinuationRow {
                tokens: &self.tokens[range.clone()],
                start: 0,
                ends: &self.ends[range.clone()],
                states: RowStates::Made {
                    parent: *parent,
                    first_slot: 0,
                    child: *child,
                },
            },
            StoredRow::Single(token, count, state) => ContinuationRow {
                tokens: slice::from_ref(token),
                start: 0,
                ends: slice::from_ref(count),
                states: RowStates::Listed(slice::from_ref(state)),
            },
            StoredRow::Shared(row) => ContinuationRow {
                tokens: row.tokens,
                start: row.start,
                ends: row.ends,
                states: RowStates::Made {
                    parent: row.parent,
                    first_slot: row.first_slot,
                    child: row.child,
                },
            },
        }
    }

    /// All rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ContinuationRow<'_, S>> {
        (0..self.len()).map(|row| self.row(row))
    }

    /// A bit per row and token: whether the token follows; `out` is replaced.
    ///
    /// Row i begins at word i * ceil(`vocab_size` / 32); the bit of token t is bit t mod 32 of word
    /// t / 32. Zeroing costs 4 KB per row and 32,768 tokens, a token about a nanosecond: for few
    /// continuations the rows themselves are smaller and faster.
    pub fn mask_rows(&self, vocab_size: usize, out: &mut Vec<u32>) {
        let stride = vocab_size.div_ceil(32);
        out.clear();
        out.resize(self.len() * stride, 0);
        for (row, mask) in self.iter().zip(out.chunks_exact_mut(stride.max(1))) {
            for token in row.tokens {
                mask[token.index() / 32] |= 1 << (token.0 % 32);
            }
        }
    }

    /// Removes all rows, keeping the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tokens.clear();
        self.ends.clear();
        self.states.clear();
        self.row_start = 0;
        self.row_states = 0;
    }

    /// Adds a continuation to the row that is being written; tokens increase, `count` is positive.
    #[inline]
    pub fn push(&mut self, token: TokenId, count: u32, state: S) {
        self.push_token(token, count);
        self.states.push(state);
    }

    /// As [`push`](Self::push), of a row that [`end_made_row`](Self::end_made_row) ends.
    #[inline]
    fn push_token(&mut self, token: TokenId, count: u32) {
        let before = if self.ends.len() == self.row_start {
            0
        } else {
            self.ends[self.ends.len() - 1]
        };
        self.tokens.push(token);
        self.ends.push(before + count);
    }

    /// Ends the row that is being written, possibly empty.
    #[inline]
    pub fn end_row(&mut self) {
        let row = StoredRow::Own(self.row_start..self.tokens.len(), self.row_states);
        self.start_row(row);
    }

    /// Ends a row whose states are made of `parent` when they are asked for.
    fn end_made_row(&mut self, parent: S, child: MakeState<S>) {
        let row = StoredRow::Made(self.row_start..self.tokens.len(), parent, child);
        self.start_row(row);
    }

    fn start_row(&mut self, row: StoredRow<'i, S>) {
        self.rows.push(row);
        self.row_start = self.tokens.len();
        self.row_states = self.states.len();
    }

    /// Adds a whole row of one continuation.
    #[inline]
    pub fn push_single_row(&mut self, token: TokenId, count: u32, state: S) {
        self.rows.push(StoredRow::Single(token, count, state));
    }

    /// Adds a whole row that lies in the index.
    #[inline]
    pub fn push_shared_row(&mut self, row: SharedRow<'i, S>) {
        debug_assert_eq!(row.tokens.len(), row.ends.len());
        self.rows.push(StoredRow::Shared(row));
    }
}

impl<S: Copy> ContinuationRow<'_, S> {
    /// How often continuation `nth` occurs.
    #[inline]
    pub fn count(&self, nth: usize) -> usize {
        self.range(nth).len()
    }

    /// How often each continuation occurs.
    #[inline]
    pub fn counts(&self) -> impl ExactSizeIterator<Item = usize> {
        let mut start = self.start;
        self.ends
            .iter()
            .map(move |&end| (std::mem::replace(&mut start, end)..end).len())
    }

    /// Appends how often each continuation occurs: [`counts`](Self::counts), several at a time.
    pub fn extend_counts(&self, out: &mut Vec<u32>) {
        if let Some(&first) = self.ends.first() {
            out.push(first - self.start);
            out.extend(self.ends.windows(2).map(|pair| pair[1] - pair[0]));
        }
    }

    /// The state of the n-gram with continuation `nth`.
    #[inline]
    pub fn state(&self, nth: usize) -> S {
        match self.states {
            RowStates::Listed(states) => states[nth],
            RowStates::Made {
                parent,
                first_slot,
                child,
            } => {
                let slot = first_slot.wrapping_add(nth as u32);
                child(parent, self.tokens[nth], slot, self.range(nth))
            }
        }
    }

    /// The `limit` continuations with the largest of `logits`, which is as long as the vocabulary;
    /// equal ones by token; only those above `least`. Best first, as their numbers in the row; `out`
    /// is replaced.
    ///
    /// O(continuations) with one comparison for each that is not among the best so far: counts and
    /// states are made of the winners alone. A logit that is not a number never wins.
    pub fn best(&self, logits: &[f32], least: f32, limit: usize, out: &mut Vec<u32>) {
        out.clear();
        let logit = |nth: u32| logits[self.tokens[nth as usize].index()];
        // Tokens increase with their number, so that equal logits are ordered by number.
        let order = |a: &u32, b: &u32| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b));
        let mut bar = least;
        for (nth, token) in (0..).zip(self.tokens) {
            if logits[token.index()] > bar {
                out.push(nth);
                if out.len() >= 2 * limit.max(1) {
                    out.select_nth_unstable_by(limit, order);
                    out.truncate(limit);
                    bar = out
                        .iter()
                        .map(|&nth| logit(nth))
                        .fold(f32::INFINITY, f32::min);
                }
            }
        }
        out.sort_unstable_by(order);
        out.truncate(limit);
    }

    #[inline]
    fn range(&self, nth: usize) -> Range<u32> {
        let start = if nth == 0 {
            self.start
        } else {
            self.ends[nth - 1]
        };
        start..self.ends[nth]
    }
}
