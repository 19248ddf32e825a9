//! A trie in a file, with the external ids of its passages and what made it.

use std::path::{Path, PathBuf};

use super::super::error::IndexError;
use super::super::file::{self, Format, Header, IndexFile, Kind, Section};
#[cfg(test)]
use super::super::storage::Bytes;
use super::super::storage::{View, as_bytes};
use super::{Codes, MIN_NODE_ROWS, Trie};
use crate::atomic_file;
use crate::types::PassageIdx;

/// The file; `index/file.rs` describes it.
const FORMAT: Format = Format {
    magic: b"genretID",
    version: 1,
    what: "a file of docids",
    build: "genret docid build",
};

/// A memory-mapped file of identifiers: the trie, the passages' external ids, notes, numbers.
pub struct TrieFile {
    path: PathBuf,
    trie: Trie,
    id_ends: View<u64>,
    id_bytes: View<u8>,
    notes: String,
    numbers: View<f32>,
    file: IndexFile,
}

impl TrieFile {
    /// Writes `path`, which is complete or untouched afterwards. `doc_ids` are those of all passages in order,
    /// `corpus` the fingerprint of their corpus, `notes` and `numbers` what the file is to hold beside.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    ///
    /// # Panics
    /// If the trie has been [shifted](Trie::shifted), or the ids are not as many as its passages.
    pub fn write<'d>(
        path: &Path,
        trie: &Trie,
        doc_ids: impl Iterator<Item = &'d str>,
        corpus: u64,
        notes: &str,
        numbers: &[f32],
    ) -> Result<(), IndexError> {
        assert_eq!(trie.shape.shift, 0, "a file holds codes from 0");
        let (mut id_ends, mut id_bytes) = (vec![], vec![]);
        for id in doc_ids {
            id_bytes.extend(id.as_bytes());
            id_ends.push(id_bytes.len() as u64);
        }
        assert_eq!(id_ends.len(), trie.num_passages(), "an id per passage");
        let (symbol_bytes, codes) = match &trie.codes {
            Codes::Byte(codes) => (1, as_bytes(&codes[..])),
            Codes::Narrow(codes) => (2, as_bytes(&codes[..])),
            Codes::Wide(codes) => (4, as_bytes(&codes[..])),
        };
        let shape = trie.shape;
        let header = Header {
            fingerprint: corpus,
            vocab_size: shape.vocab_size,
            symbol_bytes,
            max_ngram_tokens: shape.longest,
            min_node_count: MIN_NODE_ROWS,
            passages: shape.passages,
        };
        let numbers_of_shape = [shape.stride, shape.rows];
        let sections = [
            (Kind::TrieShape, as_bytes(&numbers_of_shape)),
            (Kind::TrieCodes, codes),
            (Kind::TrieStarts, as_bytes(&trie.starts[..])),
            (Kind::Nodes, as_bytes(&trie.nodes[..])),
            (Kind::SlotTokens, as_bytes(&trie.slot_tokens[..])),
            (Kind::SlotEnds, as_bytes(&trie.slot_ends[..])),
            (Kind::SlotIsNode, as_bytes(&trie.slot_is_node[..])),
            (Kind::NodesBefore, as_bytes(&trie.nodes_before[..])),
            (Kind::TrieMembers, as_bytes(&trie.members[..])),
            (Kind::TrieMemberEnds, as_bytes(&trie.member_ends[..])),
            (Kind::IdEnds, as_bytes(&id_ends)),
            (Kind::IdBytes, &id_bytes),
            (Kind::Notes, notes.as_bytes()),
            (Kind::Numbers, as_bytes(numbers)),
        ]
        .map(|(kind, bytes)| Section {
            kind,
            field: None,
            bytes,
        });
        atomic_file::write(path, |out| file::write(out, &FORMAT, &header, &sections))
            .map_err(|e| IndexError::io(path, "write", e))
    }

    /// Maps the file at `path`; checks header, table of sections and the stored lists, O(lists).
    ///
    /// # Errors
    /// [`IndexError`] if the file cannot be read, is something else, or does not fit itself.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::from_file(path, IndexFile::open(path, &FORMAT)?)
    }

    #[cfg(test)]
    pub(super) fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self, IndexError> {
        Self::from_file(path, IndexFile::parse(path, &FORMAT, bytes)?)
    }

    fn from_file(path: &Path, file: IndexFile) -> Result<Self, IndexError> {
        let id_ends: View<u64> = file.section(path, Kind::IdEnds, None)?;
        let notes: View<u8> = file.section(path, Kind::Notes, None)?;
        if id_ends.len() != file.header.passages as usize {
            return Err(FORMAT.damaged(path, "the passage ids do not fit the passages"));
        }
        if file.header.min_node_count != MIN_NODE_ROWS {
            return Err(FORMAT.damaged(path, "lists of another size"));
        }
        Ok(Self {
            path: path.into(),
            trie: Trie::open(path, &FORMAT, &file)?,
            id_ends,
            id_bytes: file.section(path, Kind::IdBytes, None)?,
            notes: String::from_utf8_lossy(&notes).into_owned(),
            numbers: file.section(path, Kind::Numbers, None)?,
            file,
        })
    }

    /// The identifiers.
    pub fn trie(&self) -> &Trie {
        &self.trie
    }

    /// The external id of a passage; empty if it is out of range.
    pub fn doc_id(&self, passage: PassageIdx) -> &str {
        let at = passage.index();
        let start = at
            .checked_sub(1)
            .and_then(|before| self.id_ends.get(before));
        let start = start.map_or(0, |&start| start as usize);
        let end = self.id_ends.get(at).map_or(start, |&end| end as usize);
        let bytes = self.id_bytes.get(start..end).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// External ids of all passages, in passage order.
    pub fn doc_ids(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.id_ends.len()).map(|at| self.doc_id(PassageIdx(at as u32)))
    }

    /// Fingerprint of the corpus that the identifiers were made for.
    pub fn corpus(&self) -> u64 {
        self.file.header.fingerprint
    }

    /// Tells this file from others: a hash of header and section table, which hold a hash of everything.
    pub fn fingerprint(&self) -> u64 {
        self.file.checksum
    }

    /// What the file says of its making.
    pub fn notes(&self) -> &str {
        &self.notes
    }

    /// The numbers of the file.
    pub fn numbers(&self) -> &[f32] {
        &self.numbers
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> usize {
        self.file.len()
    }

    /// Name and bytes of every part, in file order.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.file.parts().map(|(name, _, bytes)| (name, bytes))
    }

    /// Reads everything and compares it with the checksums.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] naming the first section that differs.
    pub fn verify(&self) -> Result<(), IndexError> {
        self.file.verify(&self.path)
    }
}
