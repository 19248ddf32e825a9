//! What follows the n-grams of a step, as the index gives it out.
//!
//! A row is mostly a loan: long lists lie in the index and are referred to, short ones are copied. States
//! and counts are made of the continuations that someone asks about.

use std::ops::Range;
use std::slice;

use crate::section_file::prefetch;
use crate::types::TokenId;

/// The continuations of several n-grams, one row each. Reused from step to step, it stops allocating.
///
/// An index fills it through [`clear`](Self::clear), then per row either [`push`](Self::push) for each
/// continuation and [`end_row`](Self::end_row), or [`push_shared_row`](Self::push_shared_row).
#[derive(Debug)]
pub struct Continuations<'i, S> {
    rows: Vec<StoredRow<S>>,
    shared: Vec<SharedRow<'i, S>>,
    made: Vec<MadeRow<S>>,
    tokens: Vec<TokenId>,
    ends: Vec<u32>,
    states: Vec<S>,
    row_start: usize,
    row_states: usize,
}

/// Small, because a step writes one for each n-gram into memory that the caches have lost.
#[derive(Debug)]
enum StoredRow<S> {
    /// First token, their number, and where their states begin.
    Own(u32, u32, u32),
    /// One continuation with its count and state.
    Single(TokenId, u32, S),
    /// Its number among the rows whose states are made when they are asked for.
    Made(u32),
    /// Its number among the rows that lie in the index.
    Shared(u32),
}

/// Tokens, and how their states are made.
#[derive(Debug)]
struct MadeRow<S> {
    range: Range<usize>,
    parent: S,
    child: MakeState<S>,
}

/// The state of a continuation: from the state that its row continues, the token, its slot and its range.
type MakeState<S> = fn(S, TokenId, u32, Range<u32>) -> S;

/// A row that lies in the index, with what is needed to make the states of its continuations.
#[derive(Clone, Copy, Debug)]
pub struct SharedRow<'i, S> {
    /// The tokens, increasing.
    pub tokens: &'i [TokenId],
    /// The end of each continuation's range; as many as `tokens`, increasing.
    pub ends: Ends<'i>,
    /// The start of the first continuation's range.
    pub start: u32,
    /// The state that the row continues.
    pub parent: S,
    /// Number of the first continuation, passed on to `child` with the row offset added.
    pub first_slot: u32,
    /// The state of a continuation: from parent, token, slot and range.
    pub child: fn(S, TokenId, u32, Range<u32>) -> S,
}

/// Continuations that are copied at a time.
const CHUNK: usize = 128;
/// How many are requested before they are copied: the processor's own look-ahead ends with each page.
const AHEAD: usize = 512;
/// Tokens in a cache line.
const LINE_TOKENS: usize = 16;

/// Asks the processor to load the continuations in `range` soon.
fn request(tokens: &[TokenId], ends: Ends<'_>, range: Range<usize>) {
    let lines = range
        .step_by(LINE_TOKENS)
        .take_while(|&line| line < tokens.len());
    for (number, line) in lines.enumerate() {
        prefetch(tokens, line);
        match ends {
            Ends::Far(ends) => prefetch(ends, line),
            Ends::Near(ends) if number % 2 == 0 => prefetch(ends, line),
            Ends::Near(_) => {}
        }
    }
}

/// The continuations of several n-grams, copied out: row i is what lies between `ends[i - 1]` (0 for the
/// first) and `ends[i]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Csr {
    /// The tokens that follow, increasing inside a row.
    pub tokens: Vec<TokenId>,
    /// How often each follows.
    pub counts: Vec<u32>,
    /// Where each row ends.
    pub ends: Vec<u32>,
}

impl Csr {
    /// Removes all rows, keeping the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.counts.clear();
        self.ends.clear();
    }
}

/// Where the ranges of the continuations of a row end.
#[derive(Clone, Copy, Debug)]
pub enum Ends<'a> {
    /// As they are.
    Far(&'a [u32]),
    /// Less the start of the first range.
    Near(&'a [u16]),
}

impl Ends<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Far(ends) => ends.len(),
            Self::Near(ends) => ends.len(),
        }
    }

    /// The end of range `nth`, where the first range starts at `start`.
    #[inline(always)]
    pub(super) fn get(&self, start: u32, nth: usize) -> u32 {
        match self {
            Self::Far(ends) => ends[nth],
            Self::Near(ends) => start.wrapping_add(ends[nth].into()),
        }
    }

    /// Appends the lengths of the ranges in `range`, where the first of all starts at `start`.
    fn push_counts(&self, start: u32, range: Range<usize>, out: &mut Vec<u32>) {
        let Some(before) = range.start.checked_sub(1) else {
            if range.end > 0 {
                out.push(self.get(start, 0).wrapping_sub(start));
                self.push_counts(start, 1..range.end, out);
            }
            return;
        };
        match self {
            Self::Far(ends) => {
                let pairs = ends[range.clone()].iter().zip(&ends[before..range.end - 1]);
                out.extend(pairs.map(|(end, start)| end - start));
            }
            Self::Near(ends) => {
                let pairs = ends[range.clone()].iter().zip(&ends[before..range.end - 1]);
                out.extend(pairs.map(|(end, start)| u32::from(end - start)));
            }
        }
    }
}

/// The continuations of one n-gram.
#[derive(Clone, Copy, Debug)]
pub struct ContinuationRow<'a, S> {
    /// The tokens that follow, increasing.
    pub tokens: &'a [TokenId],
    start: u32,
    ends: Ends<'a>,
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
            shared: vec![],
            made: vec![],
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
            StoredRow::Own(start, len, states) => {
                let states = *states as usize..*states as usize + *len as usize;
                let range = *start as usize..*start as usize + *len as usize;
                self.own_row(range, RowStates::Listed(&self.states[states]))
            }
            StoredRow::Single(token, count, state) => ContinuationRow {
                tokens: slice::from_ref(token),
                start: 0,
                ends: Ends::Far(slice::from_ref(count)),
                states: RowStates::Listed(slice::from_ref(state)),
            },
            StoredRow::Made(number) => {
                let row = &self.made[*number as usize];
                let states = RowStates::Made {
                    parent: row.parent,
                    first_slot: 0,
                    child: row.child,
                };
                self.own_row(row.range.clone(), states)
            }
            StoredRow::Shared(number) => {
                let row = &self.shared[*number as usize];
                ContinuationRow {
                    tokens: row.tokens,
                    start: row.start,
                    ends: row.ends,
                    states: RowStates::Made {
                        parent: row.parent,
                        first_slot: row.first_slot,
                        child: row.child,
                    },
                }
            }
        }
    }

    fn own_row<'a>(
        &'a self,
        range: Range<usize>,
        states: RowStates<'a, S>,
    ) -> ContinuationRow<'a, S> {
        ContinuationRow {
            tokens: &self.tokens[range.clone()],
            start: 0,
            ends: Ends::Far(&self.ends[range]),
            states,
        }
    }

    /// Row `row` if it lies in the index.
    pub(super) fn shared_row(&self, row: usize) -> Option<&SharedRow<'i, S>> {
        match *self.rows.get(row)? {
            StoredRow::Shared(number) => Some(&self.shared[number as usize]),
            _ => None,
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

    /// Tokens and counts of all rows, one after the other; `out` is replaced.
    ///
    /// Under a nanosecond a continuation, bound by memory.
    pub fn copy_to(&self, out: &mut Csr) {
        out.clear();
        let total = self.iter().map(|row| row.tokens.len()).sum();
        out.tokens.reserve(total);
        out.counts.reserve(total);
        for nth in 0..self.len() {
            if let Some(later) = self.shared_row(nth + 1) {
                request(later.tokens, later.ends, 0..AHEAD);
            }
            let row = self.row(nth);
            for start in (0..row.tokens.len()).step_by(CHUNK) {
                let later = start + AHEAD..start + AHEAD + CHUNK;
                request(row.tokens, row.ends, later);
                let written = out.tokens.len();
                for line in (AHEAD..AHEAD + CHUNK).step_by(LINE_TOKENS) {
                    prefetch(&out.tokens, written + line);
                    prefetch(&out.counts, written + line);
                }
                let chunk = start..row.tokens.len().min(start + CHUNK);
                out.tokens.extend_from_slice(&row.tokens[chunk.clone()]);
                row.ends.push_counts(row.start, chunk, &mut out.counts);
            }
            out.ends.push(out.tokens.len() as u32);
        }
    }

    /// Removes all rows, keeping the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.shared.clear();
        self.made.clear();
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
    pub(super) fn push_token(&mut self, token: TokenId, count: u32) {
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
        let len = self.tokens.len() - self.row_start;
        let row = StoredRow::Own(self.row_start as u32, len as u32, self.row_states as u32);
        self.start_row(row);
    }

    /// Ends a row whose states are made of `parent` when they are asked for.
    pub(super) fn end_made_row(&mut self, parent: S, child: MakeState<S>) {
        let row = StoredRow::Made(self.made.len() as u32);
        self.made.push(MadeRow {
            range: self.row_start..self.tokens.len(),
            parent,
            child,
        });
        self.start_row(row);
    }

    fn start_row(&mut self, row: StoredRow<S>) {
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
        self.rows.push(StoredRow::Shared(self.shared.len() as u32));
        self.shared.push(row);
    }
}

impl<S: Copy> ContinuationRow<'_, S> {
    /// The number of the continuation by `token`; `None` if it does not follow.
    pub fn find(&self, token: TokenId) -> Option<usize> {
        find_token(self.tokens, token)
    }

    /// How often continuation `nth` occurs.
    #[inline]
    pub fn count(&self, nth: usize) -> usize {
        self.range(nth).len()
    }

    /// How often each continuation occurs.
    #[inline]
    pub fn counts(&self) -> impl ExactSizeIterator<Item = usize> {
        let mut start = self.start;
        (0..self.tokens.len()).map(move |nth| {
            let end = self.ends.get(self.start, nth);
            (std::mem::replace(&mut start, end)..end).len()
        })
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
        let start = match nth.checked_sub(1) {
            Some(before) => self.ends.get(self.start, before),
            None => self.start,
        };
        start..self.ends.get(self.start, nth)
    }
}

/// The place of `token` in a list of increasing ones; `None` if it is not there.
///
/// Fifteen places at a time: the list lies in memory that the caches have lost, and reads that do not wait
/// for each other cost as much as one.
pub(super) fn find_token(tokens: &[TokenId], token: TokenId) -> Option<usize> {
    const PARTS: usize = 16;
    let (mut start, mut end) = (0, tokens.len());
    while end - start > PARTS {
        let part = (end - start).div_ceil(PARTS);
        let firsts = tokens[start + part..end].iter().step_by(part);
        let before: usize = firsts.map(|first| usize::from(*first <= token)).sum();
        start += before * part;
        end = end.min(start + part);
    }
    let place = start + tokens[start..end].iter().position(|&t| t == token)?;
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use rand::RngExt;

    #[test]
    fn a_token_is_found_where_binary_search_finds_it() {
        let mut rng = stream(1, "find token", &[]);
        for len in [
            0, 1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 271, 272, 4000, 5000,
        ] {
            let mut next = 0;
            let list: Vec<TokenId> = (0..len)
                .map(|_| {
                    next += rng.random_range(1..4);
                    TokenId(next)
                })
                .collect();
            for token in (0..next + 3).map(TokenId) {
                assert_eq!(find_token(&list, token), list.binary_search(&token).ok());
            }
        }
    }

    /// Rows longer than what is copied and requested at a time.
    #[test]
    fn long_rows_are_copied_whole() {
        let tokens: Vec<TokenId> = (0..1500).map(TokenId).collect();
        let far: Vec<u32> = (0..1500).map(|nth| 100_000 + nth * nth).collect();
        let near: Vec<u16> = (1..=1500).map(|nth| nth * 43).collect();
        let mut rows: Continuations<()> = Continuations::new();
        let lens = [0, 1, 127, 128, 129, 511, 512, 640, 641, 1500];
        for len in lens {
            for ends in [Ends::Far(&far[..len]), Ends::Near(&near[..len])] {
                rows.push_shared_row(SharedRow {
                    tokens: &tokens[..len],
                    ends,
                    start: 99_990,
                    parent: (),
                    first_slot: 0,
                    child: |_, _, _, _| (),
                });
            }
        }
        let mut csr = Csr::default();
        rows.copy_to(&mut csr);
        assert_eq!(csr.ends.len(), 2 * lens.len());
        let mut start = 0;
        for (row, &end) in rows.iter().zip(&csr.ends) {
            let copied = start..end as usize;
            start = end as usize;
            assert_eq!(row.tokens, &csr.tokens[copied.clone()]);
            assert!(
                row.counts()
                    .eq(csr.counts[copied].iter().map(|&count| count as usize))
            );
        }
    }
}
