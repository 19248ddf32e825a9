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

use serde::Serialize;

use super::error::IndexError;
use super::file::{IndexFile, Kind};
use super::filter::PassageSet;
use super::rows::{FieldData, Place, State, Text};
use super::{Continuations, Field, Occurrence, SubstringIndex};
use crate::section_file::{Bytes, Ids, View};
use crate::types::{PassageIdx, TokenId};

/// An index of all n-grams of one field of a corpus; see the [module](super). Cheap to clone.
#[derive(Clone)]
pub struct NgramIndex {
    corpus: Arc<CorpusData>,
    /// As [`Field::ALL`].
    fields: [Arc<FieldData>; 3],
    field: Field,
    /// The passages that exist; all where there is none.
    subset: Option<Arc<PassageSet>>,
}

/// What all fields share.
struct CorpusData {
    path: PathBuf,
    file: IndexFile,
    ids: Ids,
    tokenizer_hint: String,
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
    /// Body, title, and pseudo-queries if there are any.
    pub fields: Vec<FieldStats>,
    /// What the bytes of the file are.
    pub parts: Vec<PartStats>,
}

/// Bytes of one part of an index file.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PartStats {
    /// What it holds.
    pub name: &'static str,
    /// The field, if it belongs to one.
    pub field: Option<Field>,
    /// Its bytes.
    pub bytes: usize,
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
        let body = FieldData::open(path, &file, Field::Body)?;
        let title = FieldData::open(path, &file, Field::Title)?;
        let queries = match file.has_field(Field::Queries) {
            true => FieldData::open(path, &file, Field::Queries)?,
            false => FieldData::empty(header),
        };
        let hint: View<u8> = file.section(path, Kind::TokenizerHint, None)?;
        let corpus = CorpusData {
            path: path.into(),
            ids: Ids::new(
                file.section(path, Kind::IdEnds, None)?,
                file.section(path, Kind::IdBytes, None)?,
            ),
            tokenizer_hint: String::from_utf8_lossy(&hint).into_owned(),
            file,
        };
        if corpus.ids.len() != header.passages as usize {
            return Err(IndexError::damaged(
                path,
                "the passage ids do not fit the passages",
            ));
        }
        Ok(Self {
            corpus: Arc::new(corpus),
            fields: [body, title, queries].map(Arc::new),
            field: Field::Body,
            subset: None,
        })
    }

    /// The same index for the n-grams of another field.
    pub fn with_field(&self, field: Field) -> Self {
        Self {
            field,
            ..self.clone()
        }
    }

    /// The same index for the n-grams of the passages in `subset`, of all fields.
    ///
    /// As if the other passages had no tokens: they count nowhere, nothing that only they say can be
    /// generated, and they occur nowhere; ordinals stay. O(n) once, then as fast as the whole index;
    /// four bytes of memory per token of the subset and its share of the stored lists.
    pub fn restricted_to(&self, subset: &PassageSet) -> Self {
        let mut subset = subset.clone();
        if let Some(old) = &self.subset {
            subset.intersect(old);
        }
        Self {
            fields: self
                .fields
                .each_ref()
                .map(|data| Arc::new(data.restricted_to(&subset))),
            subset: Some(Arc::new(subset)),
            ..self.clone()
        }
    }

    fn data(&self) -> &FieldData {
        &self.fields[self.field as usize]
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
        if fingerprint == self.data().header.fingerprint {
            return Ok(());
        }
        Err(IndexError::Tokenizer {
            path: self.corpus.path.clone(),
            expected: self.data().header.fingerprint,
            hint: self.corpus.tokenizer_hint.clone(),
            found: fingerprint,
        })
    }

    /// Path of the index, and fingerprint and whereabouts of its tokenizer.
    pub(super) fn tokenizer(&self) -> (&Path, u64, &str) {
        let corpus = &self.corpus;
        (
            &corpus.path,
            self.data().header.fingerprint,
            &corpus.tokenizer_hint,
        )
    }

    /// External id of a passage; empty if there is no such passage.
    pub fn doc_id(&self, passage: PassageIdx) -> &str {
        self.corpus.ids.get(passage.index())
    }

    /// Hash of what the index holds, from its checksums; reads nothing.
    pub fn fingerprint(&self) -> u64 {
        match &self.subset {
            None => self.corpus.file.checksum,
            Some(subset) => self.corpus.file.checksum ^ subset.fingerprint(),
        }
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
        let header = &self.data().header;
        let tokens: usize = self.fields.iter().map(|f| f.suffixes.len()).sum();
        let file_bytes = self.corpus.file.len();
        let fields = Field::ALL.into_iter().zip(&self.fields);
        let fields =
            fields.filter(|(field, data)| *field != Field::Queries || !data.suffixes.is_empty());
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
            parts: self
                .corpus
                .file
                .parts()
                .map(|(name, field, bytes)| PartStats { name, field, bytes })
                .collect(),
        }
    }
}

impl SubstringIndex for NgramIndex {
    type State = State;

    fn vocab_size(&self) -> usize {
        self.data().header.vocab_size as usize
    }

    fn num_tokens(&self) -> usize {
        self.data().suffixes.len()
    }

    fn num_passages(&self) -> usize {
        self.data().header.passages as usize
    }

    fn max_ngram_tokens(&self) -> usize {
        self.data().header.max_ngram_tokens as usize
    }

    fn passage_tokens(&self, passage: PassageIdx, out: &mut Vec<TokenId>) {
        out.clear();
        if self.subset.as_ref().is_some_and(|s| !s.contains(passage)) {
            return;
        }
        let bounds = self
            .data()
            .starts
            .get(passage.index()..)
            .and_then(|s| s.first_chunk());
        let Some(&[start, end]) = bounds else { return };
        let range = start as usize..(end as usize).saturating_sub(1);
        match &self.data().text {
            Text::Narrow(text) => self.data().copy_tokens(text.get(range), out),
            Text::Wide(text) => self.data().copy_tokens(text.get(range), out),
        }
    }

    fn root(&self) -> State {
        let end = self.data().suffixes.len() as u32;
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
        match &self.data().text {
            Text::Narrow(text) => self.data().advance(text, state, token),
            Text::Wide(text) => self.data().advance(text, state, token),
        }
    }

    fn continuations<'i>(&'i self, states: &[State], out: &mut Continuations<'i, State>) {
        out.clear();
        let data = self.data();
        match &data.text {
            Text::Narrow(text) => data.continuations(text, states, out),
            Text::Wide(text) => data.continuations(text, states, out),
        }
    }

    fn occurrences(&self, state: State, limit: usize, out: &mut Vec<Occurrence>) {
        out.clear();
        match &state.0 {
            Place::Once { position, .. } => {
                let rows = std::iter::once(*position);
                self.data().occurrences(rows, self.field, limit, out);
            }
            Place::Node { start, end, .. }
            | Place::Slot { start, end, .. }
            | Place::Rows { start, end, .. } => {
                let rows = &self.data().suffixes;
                let rows = rows.positions(rows.range(*start, *end));
                self.data().occurrences(rows, self.field, limit, out);
            }
        }
    }
}
