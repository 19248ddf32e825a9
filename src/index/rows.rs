//! The sorted rows of one field, and how they are asked.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::continuations::find_token;
use super::error::IndexError;
use super::file::{Header, IndexFile, Kind};
use super::nodes::{NodeTables, ShortEnds, child_node, run_end};
use super::packed::{PackedRows, pack};
use super::suffix::Symbol;
use super::{BLOCK_TOKENS, Continuations, Ends, Field, Occurrence, SEPARATOR, SharedRow};
use crate::section_file::{View, prefetch};
use crate::types::{PassageIdx, TokenId};

/// States whose reads are issued together.
const BATCH: usize = 32;
/// Rows of a range whose text is requested before the range is read.
const AHEAD: u32 = 16;
/// Ranges up to this many rows are read row by row, requested in time; of longer ones without a list
/// (copies in the corpus, deep n-grams) the ends of runs are searched.
const READ_ROWS: u32 = 1024;

/// Text, rows and lists of one field.
pub(super) struct FieldData {
    pub(super) header: Header,
    pub(super) text: Text,
    pub(super) suffixes: PackedRows,
    pub(super) starts: View<u32>,
    pub(super) blocks: View<u32>,
    pub(super) nodes: View<[u32; 3]>,
    pub(super) slot_tokens: View<TokenId>,
    pub(super) near_ends: View<u16>,
    pub(super) far_ends: View<u32>,
    pub(super) slot_is_node: View<u64>,
    pub(super) nodes_before: View<u32>,
    /// One bit per node: its list was found sound. Lists are checked when first used, so that opening
    /// reads nothing and a damaged list is never given out.
    sound: Vec<AtomicU64>,
}

/// The text of one field.
#[derive(Clone)]
pub(super) enum Text {
    Narrow(View<u16>),
    Wide(View<u32>),
}

impl Text {
    /// Symbols, separators included.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Narrow(text) => text.len(),
            Self::Wide(text) => text.len(),
        }
    }
}

/// Where an n-gram stands in an [`NgramIndex`](super::NgramIndex).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State(pub(super) Place);

/// `depth` is the length of the n-gram, `start..end` its rows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Place {
    /// An n-gram with a stored list.
    Node {
        depth: u16,
        node: u32,
        start: u32,
        end: u32,
    },
    /// A continuation of a node, which may or may not have a list itself.
    Slot {
        depth: u16,
        slot: u32,
        start: u32,
        end: u32,
    },
    /// Rows without a list.
    Rows { depth: u16, start: u32, end: u32 },
    /// The only occurrence.
    Once { depth: u16, position: u32 },
}

const _: () = assert!(size_of::<State>() == 16);

/// The stored continuations of a node.
pub(super) struct NodeList<'a> {
    pub(super) first_row: u32,
    pub(super) first_slot: u32,
    pub(super) tokens: &'a [TokenId],
    pub(super) ends: Ends<'a>,
}

impl FieldData {
    pub(super) fn open(path: &Path, file: &IndexFile, field: Field) -> Result<Self, IndexError> {
        let header = file.header;
        let at = Some(field);
        let text = match header.symbol_bytes {
            2 => Text::Narrow(file.section(path, Kind::Text, at)?),
            4 => Text::Wide(file.section(path, Kind::Text, at)?),
            other => {
                return Err(IndexError::damaged(
                    path,
                    format!("{other} bytes per symbol"),
                ));
            }
        };
        let misfit = || IndexError::damaged(path, format!("the sections of {field:?} do not fit"));
        let text_len = text.len();
        let rows = file.section(path, Kind::Suffixes, at)?;
        let data = Self {
            header,
            text,
            suffixes: PackedRows::new(rows, text_len).ok_or_else(misfit)?,
            starts: file.section(path, Kind::Starts, at)?,
            blocks: file.section(path, Kind::Blocks, at)?,
            nodes: file.section(path, Kind::Nodes, at)?,
            slot_tokens: file.section(path, Kind::SlotTokens, at)?,
            near_ends: file.section(path, Kind::NearEnds, at)?,
            far_ends: file.section(path, Kind::FarEnds, at)?,
            slot_is_node: file.section(path, Kind::SlotIsNode, at)?,
            nodes_before: file.section(path, Kind::NodesBefore, at)?,
            sound: vec![],
        };
        let slots = data.slot_tokens.len();
        let fits = data.starts.len() == header.passages as usize + 1
            && text_len <= u32::MAX as usize
            && data.nodes.len() >= 2
            && data.near_ends.len() + data.far_ends.len() == slots
            && data.slot_is_node.len() == slots.div_ceil(64)
            && data.nodes_before.len() == data.slot_is_node.len();
        if !fits {
            return Err(misfit());
        }
        Ok(data.unchecked_lists())
    }

    /// A field that no passage has.
    pub(super) fn empty(header: Header) -> Self {
        let mut tables = NodeTables::default();
        tables.start_node(0);
        tables.finish(0);
        let text = Text::Narrow(vec![].into());
        Self::new(header, text, vec![], vec![0].into(), vec![].into(), tables)
    }

    /// A field of these parts, which fit each other.
    pub(super) fn new(
        header: Header,
        text: Text,
        suffixes: Vec<u32>,
        starts: View<u32>,
        blocks: View<u32>,
        tables: NodeTables,
    ) -> Self {
        let (short, rows) = (ShortEnds::new(&tables), pack(suffixes, text.len()));
        Self {
            header,
            suffixes: PackedRows::new(rows.into(), text.len())
                .expect("the rows were packed for it"),
            text,
            starts,
            blocks,
            nodes: short.nodes.into(),
            slot_tokens: tables.tokens.into(),
            near_ends: short.near.into(),
            far_ends: short.far.into(),
            slot_is_node: tables.is_node.into(),
            nodes_before: tables.nodes_before.into(),
            sound: vec![],
        }
        .unchecked_lists()
    }

    /// With no list found sound yet.
    fn unchecked_lists(mut self) -> Self {
        let words = self.nodes.len().div_ceil(64);
        self.sound = (0..words).map(|_| AtomicU64::new(0)).collect();
        self
    }

    /// The token `depth` behind a position; `None` at a separator.
    #[inline(always)]
    fn symbol<T: Symbol>(&self, text: &[T], position: u32, depth: u16) -> Option<u32> {
        let symbol = text.get(position as usize + depth as usize)?.value();
        (symbol < self.header.vocab_size).then_some(symbol)
    }

    /// The list of a node, if it has one that is sound.
    #[inline]
    pub(super) fn node(&self, node: u32) -> Option<NodeList<'_>> {
        let node = node as usize;
        let &[[first_row, first_slot, first_end], [_, end_slot, _]] =
            self.nodes.get(node..)?.first_chunk()?;
        let tokens = self
            .slot_tokens
            .get(first_slot as usize..end_slot as usize)?;
        let (end, near) = (first_end as usize, self.near_ends.len());
        let list = NodeList {
            first_row,
            first_slot,
            tokens,
            ends: match self.near_ends.get(end..end + tokens.len()) {
                Some(ends) => Ends::Near(ends),
                None => Ends::Far(
                    self.far_ends
                        .get(end.checked_sub(near)?..)?
                        .get(..tokens.len())?,
                ),
            },
        };
        let (word, bit) = (&self.sound[node / 64], 1 << (node % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            if !self.is_sound(&list) {
                return None;
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Some(list)
    }

    #[cold]
    fn is_sound(&self, list: &NodeList<'_>) -> bool {
        let ends = match list.ends {
            Ends::Far(ends) => {
                ends.is_sorted_by(|a, b| a < b)
                    && ends.first().is_none_or(|&end| end > list.first_row)
            }
            Ends::Near(ends) => {
                ends.is_sorted_by(|a, b| a < b) && ends.first().is_none_or(|&end| end > 0)
            }
        };
        let Some(last) = list.tokens.len().checked_sub(1) else {
            return true;
        };
        let end = match list.ends {
            Ends::Far(ends) => ends[last] as usize,
            Ends::Near(ends) => list.first_row as usize + usize::from(ends[last]),
        };
        ends && end <= self.suffixes.len()
            && list.tokens.is_sorted_by(|a, b| a < b)
            && list.tokens[last].0 < self.header.vocab_size
    }

    /// The place with a node if it has one, never a slot.
    #[inline]
    fn resolve(&self, place: Place) -> Place {
        let Place::Slot {
            depth,
            slot,
            start,
            end,
        } = place
        else {
            return place;
        };
        if end.saturating_sub(start) >= self.header.min_node_count
            && let Some(node) = self.child_node(slot)
        {
            return Place::Node {
                depth,
                node,
                start,
                end,
            };
        }
        Place::Rows { depth, start, end }
    }

    /// The node of a slot, if it has one.
    #[inline(always)]
    pub(super) fn child_node(&self, slot: u32) -> Option<u32> {
        child_node(&self.slot_is_node, &self.nodes_before, slot)
    }

    pub(super) fn advance<T: Symbol>(
        &self,
        text: &[T],
        state: State,
        token: TokenId,
    ) -> Option<State> {
        match self.resolve(state.0) {
            Place::Node { depth, node, .. } if self.goes_on(depth) => {
                let list = self.node(node)?;
                let nth = find_token(list.tokens, token)?;
                let end = |nth: usize| list.ends.get(list.first_row, nth);
                let start = nth.checked_sub(1).map_or(list.first_row, end);
                let slot = list.first_slot.wrapping_add(nth as u32);
                Some(child_of_node(state, token, slot, start..end(nth)))
            }
            Place::Rows { depth, start, end } if self.goes_on(depth) => {
                let rows = self.suffixes.range(start, end);
                // Separators sort last, as if they were the largest token.
                let symbol = |nth: usize| {
                    let position = self.suffixes.position(rows.start + nth as u32);
                    self.symbol(text, position, depth).unwrap_or(u32::MAX)
                };
                let first = first_row(rows.len(), |row| symbol(row) < token.0);
                if first == rows.len() || symbol(first) != token.0 {
                    return None;
                }
                let last = run_end(rows.len(), first, |row| symbol(row) == token.0);
                Some(State(self.child_rows(depth + 1, rows.start, first, last)))
            }
            Place::Once { depth, position } if self.goes_on(depth) => {
                let found = self.symbol(text, position, depth)? == token.0;
                found.then_some(State(Place::Once {
                    depth: depth + 1,
                    position,
                }))
            }
            _ => None,
        }
    }

    /// Appends the continuations of `states` to `out`, a row each.
    pub(super) fn continuations<'i, T: Symbol>(
        &'i self,
        text: &[T],
        states: &[State],
        out: &mut Continuations<'i, State>,
    ) {
        for batch in states.chunks(BATCH) {
            self.batch(text, batch, out);
        }
    }

    /// Appends the rows of at most `BATCH` states to `out`, in three rounds: what each state points
    /// to is requested one round before it is read.
    fn batch<'i, T: Symbol>(
        &'i self,
        text: &[T],
        states: &[State],
        out: &mut Continuations<'i, State>,
    ) {
        for state in states {
            match state.0 {
                Place::Node { node, .. } => self.request_node(node),
                Place::Slot {
                    slot, start, end, ..
                } => {
                    if end.saturating_sub(start) >= self.header.min_node_count {
                        prefetch(&self.slot_is_node, slot as usize / 64);
                        prefetch(&self.nodes_before, slot as usize / 64);
                    } else {
                        self.request_rows(start, end);
                    }
                }
                Place::Rows { start, end, .. } => self.request_rows(start, end),
                Place::Once { depth, position } => {
                    prefetch(text, position as usize + depth as usize);
                }
            }
        }
        for state in states {
            match self.resolve(state.0) {
                Place::Node { node, .. } => self.request_node(node),
                Place::Rows { depth, start, end } => {
                    let rows = self
                        .suffixes
                        .range(start, end.min(start.saturating_add(AHEAD)));
                    for position in self.suffixes.positions(rows) {
                        prefetch(text, position as usize + depth as usize);
                    }
                }
                _ => {}
            }
        }
        for &state in states {
            match self.resolve(state.0) {
                Place::Node { depth, node, .. } if self.goes_on(depth) => match self.node(node) {
                    Some(list) => out.push_shared_row(SharedRow {
                        tokens: list.tokens,
                        ends: list.ends,
                        start: list.first_row,
                        parent: state,
                        first_slot: list.first_slot,
                        child: child_of_node,
                    }),
                    None => out.end_row(),
                },
                Place::Rows { depth, start, end } if self.goes_on(depth) => {
                    self.push_rows(text, depth, start, end, out);
                    out.end_row();
                }
                Place::Once { depth, position } if self.goes_on(depth) => {
                    match self.symbol(text, position, depth) {
                        Some(symbol) => {
                            let depth = depth + 1;
                            let next = State(Place::Once { depth, position });
                            out.push_single_row(TokenId(symbol), 1, next);
                        }
                        None => out.end_row(),
                    }
                }
                _ => out.end_row(),
            }
        }
    }

    #[inline(always)]
    fn request_node(&self, node: u32) {
        prefetch(&self.nodes, node as usize);
        prefetch(&self.sound, node as usize / 64);
    }

    #[inline(always)]
    fn request_rows(&self, start: u32, end: u32) {
        self.suffixes.prefetch(start);
        if end.saturating_sub(start) > 1 {
            self.suffixes
                .prefetch(end.min(start.saturating_add(AHEAD)) - 1);
        }
    }

    /// The continuations of rows without a list.
    fn push_rows<T: Symbol>(
        &self,
        text: &[T],
        depth: u16,
        start: u32,
        end: u32,
        out: &mut Continuations<'_, State>,
    ) {
        let rows = self.suffixes.range(start, end);
        let len = rows.len();
        let position = |nth: usize| self.suffixes.position(rows.start + nth as u32);
        let mut previous = None;
        let mut row = 0;
        while row < len {
            // Separators sort last. Tokens that do not increase are damage.
            let token = self.symbol(text, position(row), depth);
            if token.is_none() || token <= previous {
                break;
            }
            previous = token;
            let same = |row: usize| self.symbol(text, position(row), depth) == token;
            let after = if len <= READ_ROWS as usize {
                let mut after = row + 1;
                while after < len {
                    let later = after + AHEAD as usize;
                    if later < len {
                        prefetch(text, position(later) as usize + depth as usize);
                    }
                    if !same(after) {
                        break;
                    }
                    after += 1;
                }
                after
            } else {
                run_end(len, row, same)
            };
            let child = State(self.child_rows(depth + 1, rows.start, row, after));
            out.push(
                TokenId(token.unwrap_or_default()),
                (after - row) as u32,
                child,
            );
            row = after;
        }
    }

    /// The place of the rows from the `first` to before the `last` behind row `start`.
    #[inline(always)]
    fn child_rows(&self, depth: u16, start: u32, first: usize, last: usize) -> Place {
        let (start, end) = (start + first as u32, start + last as u32);
        if end - start == 1 {
            let position = self.suffixes.position(start);
            Place::Once { depth, position }
        } else {
            Place::Rows { depth, start, end }
        }
    }

    #[inline(always)]
    fn goes_on(&self, depth: u16) -> bool {
        u32::from(depth) < self.header.max_ngram_tokens && depth < u16::MAX
    }

    pub(super) fn copy_tokens<T: Symbol>(&self, symbols: Option<&[T]>, out: &mut Vec<TokenId>) {
        let symbols = symbols.unwrap_or_default().iter();
        out.extend(symbols.map(|symbol| TokenId(symbol.value())));
        if out
            .iter()
            .max()
            .is_some_and(|token| token.0 >= self.header.vocab_size)
        {
            out.retain_mut(|token| {
                if token.0 == T::SEPARATOR.value() {
                    *token = SEPARATOR;
                }
                // Others are damage.
                *token == SEPARATOR || token.0 < self.header.vocab_size
            });
        }
    }

    /// Appends the first `limit` of `rows` in text order to `out`.
    pub(super) fn occurrences(
        &self,
        rows: impl Iterator<Item = u32>,
        field: Field,
        limit: usize,
        out: &mut Vec<Occurrence>,
    ) {
        let mut positions: Vec<u32> = rows.collect();
        if limit < positions.len() {
            positions.select_nth_unstable(limit);
            positions.truncate(limit);
        }
        positions.sort_unstable();
        out.reserve(positions.len());
        // All look-ups of a batch in one table before those in the next, so that they overlap.
        let mut passages = [None; BATCH];
        for positions in positions.chunks(BATCH) {
            for (passage, &position) in passages.iter_mut().zip(positions) {
                *passage = self.blocks.get(position as usize / BLOCK_TOKENS);
                if let Some(&passage) = *passage {
                    prefetch(&self.starts, passage as usize + 1);
                }
            }
            for (passage, &position) in passages.iter().zip(positions) {
                let found = passage.and_then(|&passage| self.locate(passage, position));
                out.extend(found.map(|(passage, position)| Occurrence {
                    passage,
                    position,
                    field,
                }));
            }
        }
    }

    /// Passage and offset of a position that lies in `passage` or behind it.
    #[inline(always)]
    fn locate(&self, passage: u32, position: u32) -> Option<(PassageIdx, u32)> {
        let mut passage = passage as usize;
        // Most blocks lie in one passage or two: the first step without a branch.
        passage += usize::from(*self.starts.get(passage + 1)? <= position);
        while *self.starts.get(passage + 1)? <= position {
            passage += 1;
        }
        let offset = position.checked_sub(*self.starts.get(passage)?)?;
        Some((PassageIdx(passage as u32), offset))
    }
}

/// The state of a continuation of a node.
pub(super) fn child_of_node(parent: State, _token: TokenId, slot: u32, rows: Range<u32>) -> State {
    let depth = match parent.0 {
        Place::Node { depth, .. }
        | Place::Slot { depth, .. }
        | Place::Rows { depth, .. }
        | Place::Once { depth, .. } => depth.saturating_add(1),
    };
    State(Place::Slot {
        depth,
        slot,
        start: rows.start,
        end: rows.end,
    })
}

/// The first row that is not `before`, of rows where those that are come first.
fn first_row(len: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
