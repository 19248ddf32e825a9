//! A trie in a file, with the external ids of its passages and what made it.
//!
//! The container is that of [`section_file`](crate::section_file); what is of this format:
//!
//! ```text
//! offset  bytes  header
//!      0      8  magic "genretID"
//!      8      4  format version (1)
//!     24      8  fingerprint of the corpus
//!     32      4  every token is below
//!     36      4  bytes per code (1, 2 or 4)
//!     40      4  tokens of the longest identifier
//!     44      4  what a code's token grows by from position to position
//!     48      4  passages
//!
//! kind  section                                                       items
//!    1  identifiers                                                   u32
//!    2  codes of the sorted identifiers, one after the other          u8, u16 or u32
//!    3  where each begins in section 2; empty if of one length        u32, identifiers + 1
//!    4  nodes: first row, first slot                                  2 x u32, nodes + 1
//!    5  tokens of the slots                                           u32 per slot
//!    6  ends of the slots, in rows                                    u32 per slot
//!    7  whether a slot has a node                                     1 bit per slot, in u64
//!    8  number of such slots before each u64 of section 7             u32
//!    9  passages of the identifiers                                   u32
//!   10  their ends in section 9; empty if each has one passage        u32, identifiers
//!   11  ends of the passages' external ids in section 12              u64, passages
//!   12  external ids, UTF-8, one after the other                      bytes
//!   13  what made the identifiers, JSON                               bytes
//!   14  numbers that belong to them (centroids)                       f32
//! ```

use std::path::{Path, PathBuf};

use super::{Codes, Shape, Trie, TrieError};
use crate::atomic_file;
#[cfg(test)]
use crate::section_file::Bytes;
use crate::section_file::{
    self, Format, IdList, Ids, OWN_BYTES, Plain, Section, SectionFile, View, as_bytes,
};
use crate::types::PassageIdx;

const FORMAT: Format = Format {
    magic: b"genretID",
    version: 1,
};

/// What a section holds; the numbers are part of the format.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
enum Kind {
    Rows = 1,
    Codes = 2,
    Starts = 3,
    Nodes = 4,
    SlotTokens = 5,
    SlotEnds = 6,
    SlotIsNode = 7,
    NodesBefore = 8,
    Members = 9,
    MemberEnds = 10,
    IdEnds = 11,
    IdBytes = 12,
    Notes = 13,
    Numbers = 14,
}

/// Names of the kinds, from kind 1.
const PARTS: [&str; 14] = [
    "identifiers",
    "codes",
    "code starts",
    "lists",
    "list tokens",
    "list ends",
    "list children",
    "list child counts",
    "passages",
    "passage ends",
    "id ends",
    "ids",
    "notes",
    "numbers",
];

/// A memory-mapped file of identifiers: the trie, the passages' external ids, notes, numbers.
pub struct TrieFile {
    path: PathBuf,
    trie: Trie,
    ids: Ids,
    notes: String,
    numbers: View<f32>,
    file: SectionFile,
}

impl TrieFile {
    /// Writes `path`, which is complete or untouched afterwards. `doc_ids` are those of all passages in order,
    /// `corpus` the fingerprint of their corpus, `notes` and `numbers` what the file is to hold beside.
    ///
    /// # Errors
    /// [`TrieError::Io`].
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
    ) -> Result<(), TrieError> {
        assert_eq!(trie.shape.shift, 0, "a file holds codes from 0");
        let mut ids = IdList::default();
        doc_ids.for_each(|id| ids.push(id));
        assert_eq!(ids.len(), trie.num_passages(), "an id per passage");
        let (code_bytes, codes) = match &trie.codes {
            Codes::Byte(codes) => (1, as_bytes(&codes[..])),
            Codes::Narrow(codes) => (2, as_bytes(&codes[..])),
            Codes::Wide(codes) => (4, as_bytes(&codes[..])),
        };
        let shape = trie.shape;
        let mut own = [0; OWN_BYTES];
        own[..8].copy_from_slice(&corpus.to_ne_bytes());
        let of_shape = [
            shape.vocab_size,
            code_bytes,
            shape.longest,
            shape.stride,
            shape.passages,
        ];
        for (place, number) in own[8..].chunks_exact_mut(4).zip(of_shape) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        let rows = [shape.rows];
        let sections = [
            (Kind::Rows, as_bytes(&rows)),
            (Kind::Codes, codes),
            (Kind::Starts, as_bytes(&trie.starts[..])),
            (Kind::Nodes, as_bytes(&trie.nodes[..])),
            (Kind::SlotTokens, as_bytes(&trie.slot_tokens[..])),
            (Kind::SlotEnds, as_bytes(&trie.slot_ends[..])),
            (Kind::SlotIsNode, as_bytes(&trie.slot_is_node[..])),
            (Kind::NodesBefore, as_bytes(&trie.nodes_before[..])),
            (Kind::Members, as_bytes(&trie.members[..])),
            (Kind::MemberEnds, as_bytes(&trie.member_ends[..])),
            (Kind::IdEnds, as_bytes(&ids.ends)),
            (Kind::IdBytes, &ids.bytes),
            (Kind::Notes, notes.as_bytes()),
            (Kind::Numbers, as_bytes(numbers)),
        ]
        .map(|(kind, bytes)| Section {
            kind: kind as u16,
            field: 0,
            bytes,
        });
        atomic_file::write(path, |out| {
            section_file::write(out, FORMAT, &own, &sections)
        })
        .map_err(|source| TrieError::Io {
            path: path.into(),
            action: "write",
            source,
        })
    }

    /// Maps the file at `path`; checks header, table of sections and the stored lists, O(lists).
    ///
    /// # Errors
    /// [`TrieError`] if the file cannot be read, is something else, or does not fit itself.
    pub fn open(path: &Path) -> Result<Self, TrieError> {
        Self::from_file(path, SectionFile::open(path, FORMAT))
    }

    #[cfg(test)]
    pub(super) fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self, TrieError> {
        Self::from_file(path, SectionFile::parse(bytes, FORMAT))
    }

    fn from_file(
        path: &Path,
        file: Result<SectionFile, section_file::Fault>,
    ) -> Result<Self, TrieError> {
        let file = file.map_err(|fault| TrieError::fault(path, fault, FORMAT.version))?;
        let ids = Ids::new(
            section(path, &file, Kind::IdEnds)?,
            section(path, &file, Kind::IdBytes)?,
        );
        let notes: View<u8> = section(path, &file, Kind::Notes)?;
        let trie = trie(path, &file)?;
        if ids.len() != trie.num_passages() {
            return Err(TrieError::damaged(
                path,
                "the passage ids do not fit the passages",
            ));
        }
        Ok(Self {
            path: path.into(),
            trie,
            ids,
            notes: String::from_utf8_lossy(&notes).into_owned(),
            numbers: section(path, &file, Kind::Numbers)?,
            file,
        })
    }

    /// The identifiers.
    pub fn trie(&self) -> &Trie {
        &self.trie
    }

    /// The external id of a passage; empty if it is out of range.
    pub fn doc_id(&self, passage: PassageIdx) -> &str {
        self.ids.get(passage.index())
    }

    /// External ids of all passages, in passage order.
    pub fn doc_ids(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.ids.len()).map(|at| self.ids.get(at))
    }

    /// Fingerprint of the corpus that the identifiers were made for.
    pub fn corpus(&self) -> u64 {
        let (fingerprint, _) = self.file.own.split_first_chunk().expect("28 bytes hold 8");
        u64::from_ne_bytes(*fingerprint)
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
        self.file.parts().map(|(kind, _, bytes)| {
            let name = PARTS.get(usize::from(kind).wrapping_sub(1));
            (name.copied().unwrap_or("unknown"), bytes)
        })
    }

    /// Reads everything and compares it with the checksums.
    ///
    /// # Errors
    /// [`TrieError::Damaged`] naming the first section that differs.
    pub fn verify(&self) -> Result<(), TrieError> {
        let fault = |fault| TrieError::fault(&self.path, fault, FORMAT.version);
        self.file.verify().map_err(fault)
    }
}

fn section<T: Plain>(path: &Path, file: &SectionFile, kind: Kind) -> Result<View<T>, TrieError> {
    let missing = || TrieError::damaged(path, format!("section {kind:?} is absent or cut"));
    file.section(kind as u16, 0).ok_or_else(missing)
}

/// The trie of a file, whose sections fit each other.
fn trie(path: &Path, file: &SectionFile) -> Result<Trie, TrieError> {
    let (_, own) = file.own.split_at(8);
    let number = |index: usize| u32::from_ne_bytes(own.as_chunks().0[index]);
    let rows: View<u32> = section(path, file, Kind::Rows)?;
    let &[rows] = &rows[..] else {
        return Err(TrieError::damaged(path, "the identifiers are not counted"));
    };
    let trie = Trie {
        shape: Shape {
            vocab_size: number(0),
            shift: 0,
            stride: number(3),
            longest: number(2),
            rows,
            passages: number(4),
        },
        codes: match number(1) {
            1 => Codes::Byte(section(path, file, Kind::Codes)?),
            2 => Codes::Narrow(section(path, file, Kind::Codes)?),
            4 => Codes::Wide(section(path, file, Kind::Codes)?),
            other => return Err(TrieError::damaged(path, format!("{other} bytes per code"))),
        },
        starts: section(path, file, Kind::Starts)?,
        nodes: section(path, file, Kind::Nodes)?,
        slot_tokens: section(path, file, Kind::SlotTokens)?,
        slot_ends: section(path, file, Kind::SlotEnds)?,
        slot_is_node: section(path, file, Kind::SlotIsNode)?,
        nodes_before: section(path, file, Kind::NodesBefore)?,
        members: section(path, file, Kind::Members)?,
        member_ends: section(path, file, Kind::MemberEnds)?,
    };
    match trie.misfit() {
        None => Ok(trie),
        Some(what) => Err(TrieError::damaged(path, what)),
    }
}
