//! The n-gram index: sorted positions, and how they are asked.
//!
//! The rows are the positions of all tokens, sorted by the tokens that follow. The occurrences of an
//! n-gram are one range of rows; the next tokens of those rows, already in order, are its
//! continuations, and each continuation's rows lie inside the range. So a step never searches a
//! prefix again. Three kinds of n-grams are served differently: frequent ones have their list stored
//! (`nodes`), rare ones are read off their rows, and one that occurs once is a position in the text.
//! Reads of many n-grams are issued together, so that cache misses overlap.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::error::IndexError;
use super::file::{Header, IndexFile, Kind};
use super::nodes::run_end;
use super::storage::{Bytes, View, prefetch};
use super::suffix::Symbol;
use super::{BLOCK_TOKENS, Continuations, Field, Occurrence, SharedRow, SubstringIndex};
use crate::types::{PassageIdx, TokenId};

/// States whose reads are issued together.
const BATCH: usize = 32;
/// Rows of a range whose text is requested before the range is read.
const AHEAD: usize = 16;
/// Ranges up to this many rows are read row by row, requested in time; of longer ones without a list
/// (copies in the corpus, deep n-grams) the ends of runs are searched.
const READ_ROWS: usize = 1024;

/// An index of all n-grams of one field of a corpus; see the [module](super). Cheap to clone.
#[derive(Clone)]
pub struct NgramIndex {
    corpus: Arc<CorpusData>,
    data: Arc<FieldData>,
    field: Field,
}

/// What all fields share.
struct CorpusData {
    path: PathBuf,
    file: IndexFile,
    id_ends: View<u64>,
    id_bytes: View<u8>,
    tokenizer_hint: String,
    fields: [Arc<FieldData>; 2],
}

struct FieldData {
    header: Header,
    text: Text,
    suffixes: View<u32>,
    starts: View<u32>,
    blocks: View<u32>,
    nodes: View<[u32; 2]>,
    slot_tokens: View<TokenId>,
    slot_ends: View<u32>,
    slot_is_node: View<u64>,
    nodes_before: View<u32>,
    /// One bit per node: its list was found sound. Lists are checked when first used, so that opening
    /// reads nothing and a damaged list is never given out.
    sound: Vec<AtomicU64>,
}

enum Text {
    Narrow(View<u16>),
    Wide(View<u32>),
}

/// Where an n-gram stands in an [`NgramIndex`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State(Place);

/// `depth` is the length of the n-gram, `start..end` its rows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Place {
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
struct NodeList<'a> {
    first_row: u32,
    first_slot: u32,
    tokens: &'a [TokenId],
    ends: &'a [u32],
}

/// Size and shape of an index.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct IndexStats {
    /// Passages of the corpus.
    pub num_passages: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// The longest n-gram, in tokens.
    pub max_ngram_tokens: usize,
    /// Least count of an n-gram with a stored list of continuations.
    pub min_node_count: usize,
    /// Bytes of the file.
    pub file_bytes: usize,
    /// Bits of the file per token of all fields; absent for an empty corpus.
    pub bits_per_token: Option<f64>,
    /// Fingerprint of the tokenizer, hexadecimal.
    pub tokenizer: String,
    /// Where the tokenizer was when the index was built.
    pub tokenizer_hint: String,
    /// Body and title.
    pub fields: Vec<FieldStats>,
}

/// Size and shape of one field of an index.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FieldStats {
    /// Which field.
    pub field: Field,
    /// Its tokens over all passages.
    pub num_tokens: usize,
    /// Different tokens that occur.
    pub distinct_tokens: usize,
    /// N-grams with a stored list of continuations.
    pub nodes: usize,
    /// Continuations in those lists.
    pub stored_continuations: usize,
}

impl NgramIndex {
    /// Opens the bodies of the index at `path`: maps the file, checks header and section table.
    ///
    /// Under a millisecond whatever the size; [`verify`](Self::verify) reads everything. A file that
    /// is damaged elsewhere may give wrong answers, never a panic.
    ///
    /// # Errors
    /// [`IndexError`] if the file cannot be read, is no index, of another format version, byte order
    /// or length, or its header or table of sections is damaged.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::from_file(path, IndexFile::open(path)?)
    }

    pub(super) fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self, IndexError> {
        Self::from_file(path, IndexFile::parse(path, bytes)?)
    }

    fn from_file(path: &Path, file: IndexFile) -> Result<Self, IndexError> {
        let header = file.header;
        let body = Arc::new(FieldData::open(path, &file, Field::Body)?);
        let title = Arc::new(FieldData::open(path, &file, Field::Title)?);
        let hint: View<u8> = file.section(path, Kind::TokenizerHint, None)?;
        let corpus = CorpusData {
            path: path.into(),
            id_ends: file.section(path, Kind::IdEnds, None)?,
            id_bytes: file.section(path, Kind::IdBytes, None)?,
            tokenizer_hint: String::from_utf8_lossy(&hint).into_owned(),
            fields: [body.clone(), title],
            file,
        };
        if corpus.id_ends.len() != header.passages as usize {
            return Err(IndexError::damaged(
                path,
                "the passage ids do not fit the passages",
            ));
        }
        Ok(Self {
            corpus: Arc::new(corpus),
            data: body,
            field: Field::Body,
        })
    }

    /// The same index for the n-grams of another field.
    pub fn with_field(&self, field: Field) -> Self {
        let data = match field {
            Field::Body => &self.corpus.fields[0],
            Field::Title => &self.corpus.fields[1],
        };
        Self {
            corpus: self.corpus.clone(),
            data: data.clone(),
            field,
        }
    }

    /// The field whose n-grams this index answers for.
    pub fn field(&self) -> Field {
        self.field
    }

    /// Fails unless the index was built with the tokenizer of this fingerprint.
    ///
    /// # Errors
    /// [`IndexError::Tokenizer`], naming both.
    pub fn check_tokenizer(&self, fingerprint: u64) -> Result<(), IndexError> {
        if fingerprint == self.data.header.fingerprint {
            return Ok(());
        }
        Err(IndexError::Tokenizer {
            path: self.corpus.path.clone(),
            expected: self.data.header.fingerprint,
            hint: self.corpus.tokenizer_hint.clone(),
            found: fingerprint,
        })
    }

    /// Path of the index, and fingerprint and whereabouts of its tokenizer.
    pub(super) fn tokenizer(&self) -> (&Path, u64, &str) {
        let corpus = &self.corpus;
        (
            &corpus.path,
            self.data.header.fingerprint,
            &corpus.tokenizer_hint,
        )
    }

    /// External id of a passage; empty if there is no such passage.
    pub fn doc_id(&self, passage: PassageIdx) -> &str {
        let ends = &self.corpus.id_ends;
        let index = passage.index();
        let start = if index == 0 {
            Some(0)
        } else {
            ends.get(index - 1).copied()
        };
        let range = || Some(start? as usize..*ends.get(index)? as usize);
        let bytes = range()
            .and_then(|range| self.corpus.id_bytes.get(range))
            .unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Hash of what the index holds, from its checksums; reads nothing.
    pub fn fingerprint(&self) -> u64 {
        self.corpus.file.checksum
    }

    /// Reads the whole file and compares it with its checksums.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] naming the first section that differs.
    pub fn verify(&self) -> Result<(), IndexError> {
        self.corpus.file.verify(&self.corpus.path)
    }

    /// Size and shape.
    pub fn stats(&self) -> IndexStats {
        let header = &self.data.header;
        let tokens: usize = self.corpus.fields.iter().map(|f| f.suffixes.len()).sum();
        let file_bytes = self.corpus.file.len();
        let fields = [Field::Body, Field::Title]
            .into_iter()
            .zip(&self.corpus.fields);
        IndexStats {
            num_passages: self.num_passages(),
            vocab_size: self.vocab_size(),
            max_ngram_tokens: self.max_ngram_tokens(),
            min_node_count: header.min_node_count as usize,
            file_bytes,
            bits_per_token: (tokens > 0).then(|| file_bytes as f64 * 8.0 / tokens as f64),
            tokenizer: format!("{:016x}", header.fingerprint),
            tokenizer_hint: self.corpus.tokenizer_hint.clone(),
            fields: fields
                .map(|(field, data)| FieldStats {
                    field,
                    num_tokens: data.suffixes.len(),
                    distinct_tokens: data.node(0).map_or(0, |root| root.tokens.len()),
                    nodes: data.nodes.len() - 1,
                    stored_continuations: data.slot_tokens.len(),
                })
                .collect(),
        }
    }
}

impl SubstringIndex for NgramIndex {
    type State = State;

    fn vocab_size(&self) -> usize {
        self.data.header.vocab_size as usize
    }

    fn num_tokens(&self) -> usize {
        self.data.suffixes.len()
    }

    fn num_passages(&self) -> usize {
        self.data.header.passages as usize
    }

    fn max_ngram_tokens(&self) -> usize {
        self.data.header.max_ngram_tokens as usize
    }

    fn passage_tokens(&self, passage: PassageIdx, out: &mut Vec<TokenId>) {
        out.clear();
        let bounds = self
            .data
            .starts
            .get(passage.index()..)
            .and_then(|s| s.first_chunk());
        let Some(&[start, end]) = bounds else { return };
        let range = start as usize..(end as usize).saturating_sub(1);
        match &self.data.text {
            Text::Narrow(text) => self.data.copy_tokens(text.get(range), out),
            Text::Wide(text) => self.data.copy_tokens(text.get(range), out),
        }
    }

    fn root(&self) -> State {
        let end = self.data.suffixes.len() as u32;
        State(Place::Node {
            depth: 0,
            node: 0,
            start: 0,
            end,
        })
    }

    fn count(&self, state: State) -> usize {
        match state.0 {
            Place::Node { start, end, .. }
            | Place::Slot { start, end, .. }
            | Place::Rows { start, end, .. } => (start..end).len(),
            Place::Once { .. } => 1,
        }
    }

    fn advance(&self, state: State, token: TokenId) -> Option<State> {
        if token.index() >= self.vocab_size() {
            return None;
        }
        match &self.data.text {
            Text::Narrow(text) => self.data.advance(text, state, token),
            Text::Wide(text) => self.data.advance(text, state, token),
        }
    }

    fn continuations<'i>(&'i self, states: &[State], out: &mut Continuations<'i, State>) {
        out.clear();
        for batch in states.chunks(BATCH) {
            match &self.data.text {
                Text::Narrow(text) => self.data.continuations(text, batch, out),
                Text::Wide(text) => self.data.continuations(text, batch, out),
            }
        }
    }

    fn occurrences(&self, state: State, limit: usize, out: &mut Vec<Occurrence>) {
        out.clear();
        let occurrence = |&position: &u32| {
            let (passage, position) = self.data.locate(position)?;
            Some(Occurrence {
                passage,
                position,
                field: self.field,
            })
        };
        let rows = match state.0 {
            Place::Once { position, .. } => {
                out.extend([position].iter().take(limit).filter_map(occurrence));
                return;
            }
            Place::Node { start, end, .. }
            | Place::Slot { start, end, .. }
            | Place::Rows { start, end, .. } => self.data.rows(start, end),
        };
        let mut positions = rows.to_vec();
        if limit < positions.len() {
            positions.select_nth_unstable(limit);
            positions.truncate(limit);
        }
        positions.sort_unstable();
        out.extend(positions.iter().filter_map(occurrence));
    }
}

impl FieldData {
    fn open(path: &Path, file: &IndexFile, field: Field) -> Result<Self, IndexError> {
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
        let data = Self {
            header,
            text,
            suffixes: file.section(path, Kind::Suffixes, at)?,
            starts: file.section(path, Kind::Starts, at)?,
            blocks: file.section(path, Kind::Blocks, at)?,
            nodes: file.section(path, Kind::Nodes, at)?,
            slot_tokens: file.section(path, Kind::SlotTokens, at)?,
            slot_ends: file.section(path, Kind::SlotEnds, at)?,
            slot_is_node: file.section(path, Kind::SlotIsNode, at)?,
            nodes_before: file.section(path, Kind::NodesBefore, at)?,
            sound: vec![],
        };
        let text_len = match &data.text {
            Text::Narrow(text) => text.len(),
            Text::Wide(text) => text.len(),
        };
        let slots = data.slot_tokens.len();
        let fits = data.starts.len() == header.passages as usize + 1
            && data.suffixes.len() <= text_len
            && text_len <= u32::MAX as usize
            && data.nodes.len() >= 2
            && data.slot_ends.len() == slots
            && data.slot_is_node.len() == slots.div_ceil(64)
            && data.nodes_before.len() == data.slot_is_node.len();
        if !fits {
            return Err(IndexError::damaged(
                path,
                format!("the sections of {field:?} do not fit"),
            ));
        }
        let words = data.nodes.len().div_ceil(64);
        Ok(Self {
            sound: (0..words).map(|_| AtomicU64::new(0)).collect(),
            ..data
        })
    }

    fn rows(&self, start: u32, end: u32) -> &[u32] {
        self.suffixes
            .get(start as usize..end as usize)
            .unwrap_or_default()
    }

    /// The token `depth` behind a position; `None` at a separator.
    #[inline(always)]
    fn symbol<T: Symbol>(&self, text: &[T], position: u32, depth: u16) -> Option<u32> {
        let symbol = text.get(position as usize + depth as usize)?.value();
        (symbol < self.header.vocab_size).then_some(symbol)
    }

    /// The list of a node, if it has one that is sound.
    #[inline]
    fn node(&self, node: u32) -> Option<NodeList<'_>> {
        let node = node as usize;
        let &[[first_row, first_slot], [_, end_slot]] = self.nodes.get(node..)?.first_chunk()?;
        let slots = first_slot as usize..end_slot as usize;
        let list = NodeList {
            first_row,
            first_slot,
            tokens: self.slot_tokens.get(slots.clone())?,
            ends: self.slot_ends.get(slots)?,
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
        let increasing = list.tokens.is_sorted_by(|a, b| a < b)
            && list.ends.is_sorted_by(|a, b| a < b)
            && list.ends.first().is_none_or(|&end| end > list.first_row);
        let last = |token: &TokenId| token.0 < self.header.vocab_size;
        increasing
            && list.tokens.last().is_none_or(last)
            && list
                .ends
                .last()
                .is_none_or(|&end| end as usize <= self.suffixes.len())
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
        let (word, bit) = (slot as usize / 64, slot % 64);
        if end.saturating_sub(start) >= self.header.min_node_count
            && let (Some(&bits), Some(&before)) =
                (self.slot_is_node.get(word), self.nodes_before.get(word))
            && bits >> bit & 1 == 1
        {
            let before = before.wrapping_add((bits & ((1 << bit) - 1)).count_ones());
            return Place::Node {
                depth,
                node: before.wrapping_add(1),
                start,
                end,
            };
        }
        Place::Rows { depth, start, end }
    }

    fn advance<T: Symbol>(&self, text: &[T], state: State, token: TokenId) -> Option<State> {
        match self.resolve(state.0) {
            Place::Node { depth, node, .. } if self.goes_on(depth) => {
                let list = self.node(node)?;
                let nth = list.tokens.binary_search(&token).ok()?;
                let start = if nth == 0 {
                    list.first_row
                } else {
                    list.ends[nth - 1]
                };
                let slot = list.first_slot.wrapping_add(nth as u32);
                Some(child_of_node(state, slot, start..list.ends[nth]))
            }
            Place::Rows { depth, start, end } if self.goes_on(depth) => {
                let rows = self.rows(start, end);
                // Separators sort last, as if they were the largest token.
                let symbol = |row: usize| self.symbol(text, rows[row], depth).unwrap_or(u32::MAX);
                let first = first_row(rows.len(), |row| symbol(row) < token.0);
                if first == rows.len() || symbol(first) != token.0 {
                    return None;
                }
                let last = run_end(rows.len(), first, |row| symbol(row) == token.0);
                Some(State(child_rows(depth + 1, rows, start, first, last)))
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

    /// Appends the rows of at most `BATCH` states to `out`, in three rounds: what each state points
    /// to is requested one round before it is read.
    fn continuations<'i, T: Symbol>(
        &'i self,
        text: &[T],
        states: &[State],
        out: &mut Continuations<'i, State>,
    ) {
        let mut places = [Place::Once {
            depth: 0,
            position: 0,
        }; BATCH];
        for state in states {
            match state.0 {
                Place::Node { node, .. } => prefetch(&self.nodes, node as usize),
                Place::Slot { slot, start, .. } => {
                    prefetch(&self.slot_is_node, slot as usize / 64);
                    prefetch(&self.nodes_before, slot as usize / 64);
                    prefetch(&self.suffixes, start as usize);
                }
                Place::Rows { start, .. } => {
                    prefetch(&self.suffixes, start as usize);
                    prefetch(&self.suffixes, start as usize + AHEAD - 1);
                }
                Place::Once { depth, position } => {
                    prefetch(text, position as usize + depth as usize);
                }
            }
        }
        for (place, state) in places.iter_mut().zip(states) {
            *place = self.resolve(state.0);
            match *place {
                Place::Node { node, .. } => prefetch(&self.nodes, node as usize),
                Place::Rows { depth, start, end } => {
                    let rows = self.rows(start, end);
                    for &position in &rows[..rows.len().min(AHEAD)] {
                        prefetch(text, position as usize + depth as usize);
                    }
                }
                _ => {}
            }
        }
        for (&place, &state) in places.iter().zip(states) {
            match place {
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
                    if let Some(symbol) = self.symbol(text, position, depth) {
                        let next = Place::Once {
                            depth: depth + 1,
                            position,
                        };
                        out.push(TokenId(symbol), 1, State(next));
                    }
                    out.end_row();
                }
                _ => out.end_row(),
            }
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
        let rows = self.rows(start, end);
        let mut previous = None;
        let mut row = 0;
        while row < rows.len() {
            // Separators sort last. Tokens that do not increase are damage.
            let token = self.symbol(text, rows[row], depth);
            if token.is_none() || token <= previous {
                break;
            }
            previous = token;
            let same = |row: usize| self.symbol(text, rows[row], depth) == token;
            let after = if rows.len() <= READ_ROWS {
                let mut after = row + 1;
                while after < rows.len() {
                    if let Some(&later) = rows.get(after + AHEAD) {
                        prefetch(text, later as usize + depth as usize);
                    }
                    if !same(after) {
                        break;
                    }
                    after += 1;
                }
                after
            } else {
                run_end(rows.len(), row, same)
            };
            let child = State(child_rows(depth + 1, rows, start, row, after));
            out.push(
                TokenId(token.unwrap_or_default()),
                (after - row) as u32,
                child,
            );
            row = after;
        }
    }

    #[inline(always)]
    fn goes_on(&self, depth: u16) -> bool {
        u32::from(depth) < self.header.max_ngram_tokens && depth < u16::MAX
    }

    fn copy_tokens<T: Symbol>(&self, symbols: Option<&[T]>, out: &mut Vec<TokenId>) {
        out.extend(
            symbols
                .unwrap_or_default()
                .iter()
                .map(|symbol| TokenId(symbol.value())),
        );
        if out
            .iter()
            .max()
            .is_some_and(|token| token.0 >= self.header.vocab_size)
        {
            out.retain(|token| token.0 < self.header.vocab_size); // The file is damaged.
        }
    }

    /// Passage and offset of a position.
    fn locate(&self, position: u32) -> Option<(PassageIdx, u32)> {
        let mut passage = *self.blocks.get(position as usize / BLOCK_TOKENS)? as usize;
        while *self.starts.get(passage + 1)? <= position {
            passage += 1;
        }
        let offset = position.checked_sub(*self.starts.get(passage)?)?;
        Some((PassageIdx(passage as u32), offset))
    }
}

/// The state of a continuation of a node.
pub(super) fn child_of_node(parent: State, slot: u32, rows: std::ops::Range<u32>) -> State {
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

/// The place of the rows `first..last` of `rows`, which start at row `start` of all.
#[inline(always)]
fn child_rows(depth: u16, rows: &[u32], start: u32, first: usize, last: usize) -> Place {
    if last - first == 1 {
        Place::Once {
            depth,
            position: rows[first],
        }
    } else {
        Place::Rows {
            depth,
            start: start + first as u32,
            end: start + last as u32,
        }
    }
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
