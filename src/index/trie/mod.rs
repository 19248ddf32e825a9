//! A set of identifiers, walked token by token: the tree of its prefixes as flat arrays.
//!
//! The identifiers lie sorted in one array, so that those that begin alike are a range of rows. A prefix
//! that many begin with has a stored list (a node of compressed rows: tokens, and the ends of their
//! ranges), so that a step is a slice; what follows a prefix of few is read from their rows, which are
//! neighbours. Long unshared ends thus cost their codes and nothing else.
//!
//! A token is `shift + stride * position + code`: with a stride, code 7 at position 0 is another token than code
//! 7 at position 1, and codes stay small. A step costs one or two cache misses per prefix.

mod build;
mod error;
mod stored;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use build::TrieBuilder;
pub use error::TrieError;
pub use stored::TrieFile;

use super::nodes::{NodeTables, child_node};
use super::{Continuations, Ends, PassageSet, SharedRow};
use crate::section_file::{Plain, View, prefetch};
use crate::types::{PassageIdx, TokenId};

/// Prefixes of at least so many identifiers have a stored list.
const MIN_NODE_ROWS: u32 = 8;
/// States whose memory is requested before it is read.
const AHEAD: usize = 12;
/// In place of a slot: the root, and a prefix without a list.
const ROOT: u32 = u32::MAX;
const NO_LIST: u32 = u32::MAX - 1;

/// Identifiers of passages, sorted, with lists of what follows their shared prefixes. Cheap to clone.
#[derive(Clone)]
pub struct Trie {
    shape: Shape,
    codes: Codes,
    /// Where each row begins in the codes, and the end; empty if all are equally long.
    starts: View<u32>,
    /// Per node its first row and its first slot; one more at the end.
    nodes: View<[u32; 2]>,
    slot_tokens: View<TokenId>,
    slot_ends: View<u32>,
    slot_is_node: View<u64>,
    nodes_before: View<u32>,
    /// The passages of the rows, row after row.
    members: View<u32>,
    /// Where those of each row end; empty if each row has one.
    member_ends: View<u32>,
}

/// The numbers of a trie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    /// Every token is below.
    vocab_size: u32,
    /// The token of code 0 at position 0.
    shift: u32,
    /// How much a code's token grows from position to position.
    stride: u32,
    /// Tokens of the longest identifier; of every one if `starts` is empty.
    longest: u32,
    /// Identifiers.
    rows: u32,
    /// Passages that could have one: all ordinals are below.
    passages: u32,
}

/// The codes of all rows.
#[derive(Clone)]
enum Codes {
    Byte(View<u8>),
    Narrow(View<u16>),
    Wide(View<u32>),
}

/// An integer that holds a code.
trait Code: Plain + Ord + Default {
    fn value(self) -> u32;
    /// `value`, which fits.
    fn of(value: u32) -> Self;
    /// Codes of this width as those of any.
    fn wrap(codes: Vec<Self>) -> Codes;
}

impl Code for u8 {
    fn value(self) -> u32 {
        self.into()
    }
    fn of(value: u32) -> Self {
        value as u8
    }
    fn wrap(codes: Vec<Self>) -> Codes {
        Codes::Byte(codes.into())
    }
}

impl Code for u16 {
    fn value(self) -> u32 {
        self.into()
    }
    fn of(value: u32) -> Self {
        value as u16
    }
    fn wrap(codes: Vec<Self>) -> Codes {
        Codes::Narrow(codes.into())
    }
}

impl Code for u32 {
    fn value(self) -> u32 {
        self
    }
    fn of(value: u32) -> Self {
        value
    }
    fn wrap(codes: Vec<Self>) -> Codes {
        Codes::Wide(codes.into())
    }
}

/// Runs an expression with the codes as a slice of their type.
macro_rules! with_codes {
    ($codes:expr, $slice:ident => $body:expr) => {
        match $codes {
            $crate::index::trie::Codes::Byte($slice) => $body,
            $crate::index::trie::Codes::Narrow($slice) => $body,
            $crate::index::trie::Codes::Wide($slice) => $body,
        }
    };
}

/// Where a prefix stands in a [`Trie`]: the rows that begin with it.
///
/// It belongs to the trie that gave it; in another it gives wrong answers, never a panic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TrieState {
    first: u32,
    end: u32,
    slot: u32,
    depth: u32,
}

impl TrieState {
    /// Tokens of the prefix.
    pub fn depth(self) -> usize {
        self.depth as usize
    }

    /// Number of identifiers that begin with it.
    pub fn count(self) -> usize {
        self.rows().len()
    }

    fn rows(self) -> Range<u32> {
        self.first..self.end
    }
}

/// The state of a continuation of a stored list.
fn child(parent: TrieState, _: TokenId, slot: u32, rows: Range<u32>) -> TrieState {
    TrieState {
        first: rows.start,
        end: rows.end,
        slot,
        depth: parent.depth + 1,
    }
}

/// The stored continuations of a prefix.
struct List<'a> {
    first_row: u32,
    first_slot: u32,
    tokens: &'a [TokenId],
    ends: &'a [u32],
}

impl Trie {
    /// Number of identifiers; passages may share one.
    pub fn num_ids(&self) -> usize {
        self.shape.rows as usize
    }

    /// Number of passages that could have one: the ordinals of all are below.
    pub fn num_passages(&self) -> usize {
        self.shape.passages as usize
    }

    /// Number of passages that have an identifier.
    pub fn num_identified(&self) -> usize {
        self.members.len()
    }

    /// Every token is below this number.
    pub fn vocab_size(&self) -> usize {
        self.shape.vocab_size as usize
    }

    /// Tokens of the longest identifier.
    pub fn longest(&self) -> usize {
        self.shape.longest as usize
    }

    /// The state of the empty prefix.
    pub fn root(&self) -> TrieState {
        TrieState {
            first: 0,
            end: self.shape.rows,
            slot: ROOT,
            depth: 0,
        }
    }

    /// For each prefix the tokens that follow it, increasing, with the number of identifiers that begin so, and
    /// states; `out` is replaced.
    pub fn continuations<'i>(
        &'i self,
        states: &[TrieState],
        out: &mut Continuations<'i, TrieState>,
    ) {
        out.clear();
        with_codes!(&self.codes, codes => {
            for state in states.iter().take(AHEAD) {
                self.request(codes, *state);
            }
            for (at, &state) in states.iter().enumerate() {
                if let Some(later) = states.get(at + AHEAD) {
                    self.request(codes, *later);
                }
                match self.list(state) {
                    Some(list) => out.push_shared_row(SharedRow {
                        tokens: list.tokens,
                        ends: Ends::Far(list.ends),
                        start: list.first_row,
                        parent: state,
                        first_slot: list.first_slot,
                        child,
                    }),
                    None => self.read_rows(codes, state, out),
                }
            }
        });
    }

    /// Asks for the memory that a state points to.
    #[inline]
    fn request<T: Code>(&self, codes: &[T], state: TrieState) {
        if state.slot < NO_LIST && state.count() >= MIN_NODE_ROWS as usize {
            prefetch(&self.slot_is_node, state.slot as usize / 64);
            prefetch(&self.nodes_before, state.slot as usize / 64);
        } else if self.starts.is_empty() {
            let at = |row: u32| row as usize * self.longest() + state.depth as usize;
            prefetch(codes, at(state.first));
            prefetch(codes, at(state.end.max(1) - 1));
        } else {
            prefetch(&self.starts, state.first as usize);
        }
    }

    /// The list of a prefix, if it has one.
    fn list(&self, state: TrieState) -> Option<List<'_>> {
        let node = match state.slot {
            NO_LIST => return None,
            ROOT => 0,
            slot => {
                if state.rows().len() < MIN_NODE_ROWS as usize {
                    return None;
                }
                child_node(&self.slot_is_node, &self.nodes_before, slot)?
            }
        };
        let &[[first_row, first_slot], [_, end_slot]] =
            self.nodes.get(node as usize..)?.first_chunk()?;
        let slots = first_slot as usize..end_slot as usize;
        Some(List {
            first_row,
            first_slot,
            tokens: self.slot_tokens.get(slots.clone())?,
            ends: self.slot_ends.get(slots)?,
        })
    }

    /// Appends the continuations of a prefix as its rows tell them.
    fn read_rows<'i, T: Code>(
        &self,
        codes: &[T],
        state: TrieState,
        out: &mut Continuations<'i, TrieState>,
    ) {
        let rows = state.first..state.end.min(self.shape.rows);
        if !self.starts.is_empty() {
            let column = rows.map(|row| self.code(codes, row, state.depth));
            return self.read_column(state, column, out);
        }
        // Of equally long rows the codes stand in steps of that length.
        let (longest, depth) = (self.longest(), state.depth());
        // They are sorted: where the first and the last agree, so do all between.
        let code = |row: u32| codes.get((row as usize).checked_mul(longest)?.checked_add(depth)?);
        if depth < longest
            && rows.start < rows.end
            && let Some(&first) = code(rows.start)
            && code(rows.end - 1) == Some(&first)
            && let Some(token) = self.shape.token(state.depth, first)
        {
            let next = TrieState {
                first: rows.start,
                end: rows.end,
                slot: NO_LIST,
                depth: state.depth + 1,
            };
            return out.push_single_row(TokenId(token), rows.len() as u32, next);
        }
        let column = || -> Option<&[T]> {
            let last = rows.end.checked_sub(1)? as usize;
            let from = (rows.start as usize).checked_mul(longest)?;
            let to = last.checked_mul(longest)?.checked_add(depth + 1)?;
            let inside = depth < longest;
            inside.then(|| codes.get(from.checked_add(depth)?..to))?
        };
        let column = column().unwrap_or_default();
        self.read_column(
            state,
            column.iter().step_by(longest.max(1)).map(|c| Some(*c)),
            out,
        );
    }

    /// Appends the runs of equal codes of a prefix's rows; `None` is the identifier that ends here.
    fn read_column<'i, T: Code>(
        &self,
        state: TrieState,
        column: impl Iterator<Item = Option<T>>,
        out: &mut Continuations<'i, TrieState>,
    ) {
        let (mut run, mut first, mut row, mut least) = (None, state.first, state.first, 0);
        let mut push = |run: Option<T>, rows: Range<u32>| {
            // The token always exists and is greater than the last in a file that is not damaged.
            let token = run.and_then(|code| self.shape.token(state.depth, code));
            if let Some(token) = token.filter(|token| *token >= least) {
                least = token + 1;
                let next = TrieState {
                    first: rows.start,
                    end: rows.end,
                    slot: NO_LIST,
                    depth: state.depth + 1,
                };
                out.push(TokenId(token), rows.len() as u32, next);
            }
        };
        for code in column {
            if code != run {
                push(run, first..row);
                (run, first) = (code, row);
            }
            row += 1;
        }
        push(run, first..row);
        out.end_row();
    }

    /// The code of a row at a position; `None` behind its end.
    #[inline(always)]
    fn code<T: Code>(&self, codes: &[T], row: u32, depth: u32) -> Option<T> {
        let row = row as usize;
        if self.starts.is_empty() {
            let inside = depth < self.shape.longest;
            let at = row
                .checked_mul(self.longest())?
                .checked_add(depth as usize)?;
            return inside.then(|| codes.get(at).copied())?;
        }
        let &[start, end] = self.starts.get(row..)?.first_chunk()?;
        let at = start.checked_add(depth)?;
        (at < end).then(|| codes.get(at as usize).copied())?
    }

    fn row_codes<'c, T>(&self, codes: &'c [T], row: u32) -> &'c [T] {
        let row = row as usize;
        let range = if self.starts.is_empty() {
            let start = row.saturating_mul(self.longest());
            start..start.saturating_add(self.longest())
        } else {
            let bounds = self.starts.get(row..).and_then(|s| s.first_chunk());
            bounds.map_or(0..0, |&[start, end]| start as usize..end as usize)
        };
        codes.get(range).unwrap_or_default()
    }

    /// Whether the prefix is an identifier, and whether longer ones begin with it.
    pub fn is_complete(&self, state: TrieState) -> (bool, bool) {
        let complete = with_codes!(&self.codes, codes => {
            self.row_codes(codes, state.first).len() == state.depth()
        });
        (complete && state.depth > 0, state.count() > 1)
    }

    /// The passages of the identifier that the prefix is, increasing; none if it is no identifier.
    pub fn passages_at(&self, state: TrieState) -> impl ExactSizeIterator<Item = PassageIdx> {
        let members = match self.is_complete(state) {
            (true, _) => self.members_of(state.first),
            (false, _) => &[],
        };
        members.iter().map(|&passage| PassageIdx(passage))
    }

    fn members_of(&self, row: u32) -> &[u32] {
        let row = row as usize;
        let range = if self.member_ends.is_empty() {
            row..row.saturating_add(1)
        } else {
            let start = match row {
                0 => 0,
                _ => self.member_ends.get(row - 1).copied().unwrap_or(u32::MAX),
            };
            start as usize..self.member_ends.get(row).copied().unwrap_or(0) as usize
        };
        self.members.get(range).unwrap_or_default()
    }

    /// The identifier of every passage, in passage order; `None` for one that has none. O(tokens).
    pub fn ids(&self) -> Vec<Option<Vec<TokenId>>> {
        let mut ids = vec![None; self.num_passages()];
        for row in 0..self.shape.rows {
            let id = self.id(row);
            for &passage in self.members_of(row) {
                if let Some(slot) = ids.get_mut(passage as usize) {
                    *slot = Some(id.clone());
                }
            }
        }
        ids
    }

    /// Passages by identifier: the identifiers that several share, each with its passages.
    pub fn shared(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.shape.rows)
            .map(|row| self.members_of(row))
            .filter(|members| members.len() > 1)
    }

    /// The tokens of a row.
    fn id(&self, row: u32) -> Vec<TokenId> {
        let depths = 0..self.shape.longest;
        with_codes!(&self.codes, codes => {
            let codes = self.row_codes(codes, row).iter();
            let tokens = depths.zip(codes).filter_map(|(depth, code)| self.shape.token(depth, *code));
            tokens.map(TokenId).collect()
        })
    }

    /// The same identifiers with every token `by` higher: behind the vocabulary of a tokenizer, say.
    ///
    /// Copies the stored lists, which are a small part of the whole.
    ///
    /// # Errors
    /// [`TrieError::TooLarge`] if a token would leave 32 bits.
    pub fn shifted(&self, by: u32) -> Result<Self, TrieError> {
        let too_large = TrieError::TooLarge { what: "tokens" };
        let vocab_size = self.shape.vocab_size.checked_add(by).ok_or(too_large)?;
        let tokens: Vec<TokenId> = self.slot_tokens.iter().map(|t| TokenId(t.0 + by)).collect();
        Ok(Self {
            shape: Shape {
                vocab_size,
                shift: self.shape.shift + by,
                ..self.shape
            },
            slot_tokens: tokens.into(),
            ..self.clone()
        })
    }

    /// The identifiers of the passages in `subset`, as if the others had none; ordinals stay. O(identifiers), and the
    /// memory of those that stay.
    pub fn restricted_to(&self, subset: &PassageSet) -> Self {
        with_codes!(&self.codes, codes => {
            let mut rows = build::Rows::default();
            let mut members = vec![];
            for row in 0..self.shape.rows {
                members.clear();
                let inside = |passage: &&u32| subset.contains(PassageIdx(**passage));
                members.extend(self.members_of(row).iter().filter(inside));
                let codes = self.row_codes(codes, row);
                let known = |(depth, code): (u32, _)| self.shape.token(depth, code).is_some();
                if !members.is_empty() && (0..).zip(codes.iter().copied()).all(known) {
                    rows.push(codes, &members);
                }
            }
            rows.into_trie(self.shape)
        })
    }

    /// What makes the stored lists unusable, if anything. O(slots).
    fn misfit(&self) -> Option<&'static str> {
        let (rows, slots) = (self.num_ids(), self.slot_tokens.len());
        let num_codes = with_codes!(&self.codes, codes => codes.len());
        let codes_fit = if self.starts.is_empty() {
            rows.checked_mul(self.longest()) == Some(num_codes)
        } else {
            self.starts.len() == rows + 1 && self.starts[rows] as usize == num_codes
        };
        let members_fit = if self.member_ends.is_empty() {
            self.members.len() == rows
        } else {
            self.member_ends.len() == rows
                && self.member_ends.last().copied() == Some(self.members.len() as u32)
        };
        let fits = codes_fit
            && members_fit
            && self.nodes.len() >= 2
            && self.slot_ends.len() == slots
            && self.slot_is_node.len() == slots.div_ceil(64)
            && self.nodes_before.len() == self.slot_is_node.len();
        if !fits {
            return Some("the sections do not fit");
        }
        let sound = self.nodes.windows(2).all(|pair| {
            let &[[first_row, first], [_, end]] = pair else {
                return false;
            };
            let slots = first as usize..end as usize;
            let (tokens, ends) = (
                self.slot_tokens.get(slots.clone()),
                self.slot_ends.get(slots),
            );
            let (Some(tokens), Some(ends)) = (tokens, ends) else {
                return false;
            };
            tokens.is_sorted_by(|a, b| a < b)
                && ends.is_sorted_by(|a, b| a < b)
                && ends.first().is_none_or(|&end| end > first_row)
                && ends.last().is_none_or(|&end| end as usize <= rows)
                && tokens.last().is_none_or(|t| t.0 < self.shape.vocab_size)
        });
        (!sound).then_some("a list of continuations is not in order")
    }

    fn from_parts(
        shape: Shape,
        codes: Codes,
        starts: Vec<u32>,
        tables: NodeTables,
        members: Vec<u32>,
        member_ends: Vec<u32>,
    ) -> Self {
        Self {
            shape,
            codes,
            starts: starts.into(),
            nodes: tables.nodes.into(),
            slot_tokens: tables.tokens.into(),
            slot_ends: tables.ends.into(),
            slot_is_node: tables.is_node.into(),
            nodes_before: tables.nodes_before.into(),
            members: members.into(),
            member_ends: member_ends.into(),
        }
    }
}

impl Shape {
    /// The token of a code at a position; `None` beyond the vocabulary.
    #[inline(always)]
    fn token<T: Code>(&self, depth: u32, code: T) -> Option<u32> {
        let base = self.stride.checked_mul(depth)?.checked_add(self.shift)?;
        let token = base.checked_add(code.value())?;
        (token < self.vocab_size).then_some(token)
    }
}
