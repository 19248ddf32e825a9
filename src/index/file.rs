//! The index file: its layout, writing, and opening.
//!
//! The container is that of [`section_file`](crate::section_file); what is of this format:
//!
//! ```text
//! offset  bytes  header
//!      0      8  magic "genretNG"
//!      8      4  format version (2)
//!     24      8  fingerprint of the tokenizer
//!     32      4  tokens of the vocabulary
//!     36      4  bytes per symbol of the text (2 or 4); the largest symbol is the separator
//!     40      4  longest n-gram, in tokens
//!     44      4  least count of an n-gram with a stored list of continuations
//!     48      4  passages
//!
//! field of a section: 0 none, 1 body, 2 title, 3 pseudo-queries; an index without any has no section of field 3
//!
//! kind  section, per field                                            items
//!    1  text: a separator after each passage and between two of its   u16 or u32
//!       pseudo-queries, eight more at the end
//!    2  suffixes: positions in the text, by the tokens there, each    u32
//!       in as many bits as the text's last position needs (the text
//!       with all of its separators; one at least), lowest bit first;
//!       then the number of positions in a word of its own
//!    3  starts: where each passage starts in the text, and where the  u32, passages + 1
//!       last one's separator ends
//!    4  blocks: the passage at every 64th position                    u32
//!    5  nodes: first row, first slot, first end; that is a place in   3 x u32, nodes + 1
//!       section 13, or behind all of those in section 7
//!    6  tokens of the slots                                           u32 per slot
//!    7  ends of the slots, in rows, of nodes with 65,536 or more      u32
//!    8  whether a slot has a node                                     1 bit per slot, in u64
//!    9  number of such slots before each u64 of section 8             u32
//!   13  ends of the slots, in rows behind the node's first, of the    u16
//!       other nodes
//!       section without field
//!   10  ends of the passages' external ids in section 11              u64, passages
//!   11  external ids, UTF-8, one after the other                      bytes
//!   12  where the tokenizer was when the index was built, UTF-8       bytes
//! ```

use std::io::{self, Write};
use std::path::Path;

use super::Field;
use super::error::IndexError;
use crate::section_file::{self, Bytes, Fault, Format, OWN_BYTES, Plain, SectionFile, View};

const FORMAT: Format = Format {
    magic: b"genretNG",
    version: 2,
};

/// What a section holds; the numbers are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(super) enum Kind {
    Text = 1,
    Suffixes = 2,
    Starts = 3,
    Blocks = 4,
    Nodes = 5,
    SlotTokens = 6,
    FarEnds = 7,
    SlotIsNode = 8,
    NodesBefore = 9,
    IdEnds = 10,
    IdBytes = 11,
    TokenizerHint = 12,
    NearEnds = 13,
}

/// Names of the kinds, from kind 1.
const PARTS: [&str; 13] = [
    "text",
    "suffixes",
    "passage starts",
    "passage blocks",
    "lists",
    "list tokens",
    "far list ends",
    "list children",
    "list child counts",
    "id ends",
    "ids",
    "tokenizer path",
    "list ends",
];

/// The numbers of the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) fingerprint: u64,
    pub(super) vocab_size: u32,
    pub(super) symbol_bytes: u32,
    pub(super) max_ngram_tokens: u32,
    pub(super) min_node_count: u32,
    pub(super) passages: u32,
}

/// A section to be written.
pub(super) struct Section<'a> {
    pub(super) kind: Kind,
    pub(super) field: Option<Field>,
    pub(super) bytes: &'a [u8],
}

impl Header {
    fn to_bytes(self) -> [u8; OWN_BYTES] {
        let mut own = [0; OWN_BYTES];
        own[..8].copy_from_slice(&self.fingerprint.to_ne_bytes());
        let numbers = [
            self.vocab_size,
            self.symbol_bytes,
            self.max_ngram_tokens,
            self.min_node_count,
            self.passages,
        ];
        for (place, number) in own[8..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        own
    }

    fn from_bytes(own: &[u8; OWN_BYTES]) -> Self {
        let (fingerprint, numbers) = own.split_first_chunk().expect("28 bytes begin with 8");
        let (numbers, _) = numbers.as_chunks();
        let number = |index: usize| u32::from_ne_bytes(numbers[index]);
        Self {
            fingerprint: u64::from_ne_bytes(*fingerprint),
            vocab_size: number(0),
            symbol_bytes: number(1),
            max_ngram_tokens: number(2),
            min_node_count: number(3),
            passages: number(4),
        }
    }
}

/// Writes header, section table and sections.
pub(super) fn write(
    out: &mut impl Write,
    header: &Header,
    sections: &[Section<'_>],
) -> io::Result<()> {
    let sections: Vec<section_file::Section> = sections
        .iter()
        .map(|section| section_file::Section {
            kind: section.kind as u16,
            field: field_number(section.field),
            bytes: section.bytes,
        })
        .collect();
    section_file::write(out, FORMAT, &header.to_bytes(), &sections)
}

/// An opened index file whose header and section table are sound.
pub(super) struct IndexFile {
    pub(super) header: Header,
    /// Of header and section table, which hold the checksum of every section.
    pub(super) checksum: u64,
    file: SectionFile,
}

impl IndexFile {
    /// Maps `path` and checks header and section table; reads nothing else.
    pub(super) fn open(path: &Path) -> Result<Self, IndexError> {
        Ok(Self::new(
            SectionFile::open(path, FORMAT).map_err(|f| error(path, f))?,
        ))
    }

    /// Checks header and section table of `bytes`; `path` is for messages.
    pub(super) fn parse(path: &Path, bytes: Bytes) -> Result<Self, IndexError> {
        Ok(Self::new(
            SectionFile::parse(bytes, FORMAT).map_err(|f| error(path, f))?,
        ))
    }

    fn new(file: SectionFile) -> Self {
        Self {
            header: Header::from_bytes(&file.own),
            checksum: file.checksum,
            file,
        }
    }

    /// Whether there are sections of `field`.
    pub(super) fn has_field(&self, field: Field) -> bool {
        let number = field_number(Some(field));
        self.file.parts().any(|(_, found, _)| found == number)
    }

    /// A section as items of `T`.
    pub(super) fn section<T: Plain>(
        &self,
        path: &Path,
        kind: Kind,
        field: Option<Field>,
    ) -> Result<View<T>, IndexError> {
        self.file
            .section(kind as u16, field_number(field))
            .ok_or_else(|| {
                IndexError::damaged(
                    path,
                    format!("section {kind:?} of {field:?} is absent or cut"),
                )
            })
    }

    /// Name, field and bytes of every section, in file order.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static str, Option<Field>, usize)> {
        self.file.parts().map(|(kind, number, bytes)| {
            let name = PARTS.get(usize::from(kind).wrapping_sub(1));
            let field = Field::ALL
                .into_iter()
                .find(|&field| field_number(Some(field)) == number);
            (name.copied().unwrap_or("unknown"), field, bytes)
        })
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> usize {
        self.file.len()
    }

    /// Reads everything and compares it with the checksums; between sections there are only zeros.
    pub(super) fn verify(&self, path: &Path) -> Result<(), IndexError> {
        self.file.verify().map_err(|fault| error(path, fault))
    }
}

fn error(path: &Path, fault: Fault) -> IndexError {
    let path = path.to_path_buf();
    match fault {
        Fault::Io(source) => IndexError::io(&path, "open", source),
        Fault::Magic(found) => IndexError::NotAnIndex { path, found },
        Fault::ByteOrder => IndexError::ByteOrder { path },
        Fault::Version(found) => IndexError::Version {
            path,
            found,
            expected: FORMAT.version,
        },
        Fault::Damaged(what) => IndexError::Damaged { path, what },
    }
}

fn field_number(field: Option<Field>) -> u16 {
    match field {
        None => 0,
        Some(Field::Body) => 1,
        Some(Field::Title) => 2,
        Some(Field::Queries) => 3,
    }
}
