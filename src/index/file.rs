//! The index file: its layout, writing, and opening.
//!
//! All integers are in the byte order of the machine that wrote the file; the order is recorded.
//!
//! ```text
//! offset  bytes  header
//!      0      8  magic "genretNG"
//!      8      4  format version (1)
//!     12      4  0x0a0b0c0d, to tell the byte order
//!     16      8  length of the file
//!     24      8  fingerprint of the tokenizer
//!     32      4  tokens of the vocabulary
//!     36      4  bytes per symbol of the text (2 or 4); the largest symbol is the separator
//!     40      4  longest n-gram, in tokens
//!     44      4  least count of an n-gram with a stored list of continuations
//!     48      4  passages
//!     52      4  number of sections S
//!     56      8  zero
//!     64   S*32  section table
//!  ..+32      8  xxh3-64 of everything before
//!
//! offset  bytes  entry of the section table
//!      0      2  kind
//!      2      2  field: 0 none, 1 body, 2 title
//!      4      4  zero
//!      8      8  offset of the section, a multiple of 64
//!     16      8  length in bytes
//!     24      8  xxh3-64 of the section
//!
//! kind  section, per field                                            items
//!    1  text: a separator after each passage, eight more at the end   u16 or u32
//!    2  suffixes: positions in the text, by the tokens there          u32 per token
//!    3  starts: where each passage starts in the text, and where the  u32, passages + 1
//!       last one's separator ends
//!    4  blocks: the passage at every 64th position                    u32
//!    5  nodes: first row, first slot                                  2 x u32, nodes + 1
//!    6  tokens of the slots                                           u32 per slot
//!    7  ends of the slots, in rows                                    u32 per slot
//!    8  whether a slot has a node                                     1 bit per slot, in u64
//!    9  number of such slots before each u64 of section 8             u32
//!       section without field
//!   10  ends of the passages' external ids in section 11              u64, passages
//!   11  external ids, UTF-8, one after the other                      bytes
//!   12  where the tokenizer was when the index was built, UTF-8       bytes
//! ```
//!
//! Sections lie in the order of the table, zeros between them, nothing behind the last.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use super::Field;
use super::error::IndexError;
use super::storage::{Bytes, Plain, View};

const MAGIC: &[u8; 8] = b"genretNG";
const VERSION: u32 = 1;
const BYTE_ORDER: u32 = 0x0a0b_0c0d;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
const ALIGNMENT: usize = 64;
/// More sections than any version has: bounds the work on a damaged header.
const MAX_SECTIONS: usize = 1024;

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
    SlotEnds = 7,
    SlotIsNode = 8,
    NodesBefore = 9,
    IdEnds = 10,
    IdBytes = 11,
    TokenizerHint = 12,
}

/// Names of the kinds, from kind 1.
const PARTS: [&str; 12] = [
    "text",
    "suffixes",
    "passage starts",
    "passage blocks",
    "lists",
    "list tokens",
    "list ends",
    "list children",
    "list child counts",
    "id ends",
    "ids",
    "tokenizer path",
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

/// Writes header, section table and sections.
pub(super) fn write(
    out: &mut impl Write,
    header: &Header,
    sections: &[Section<'_>],
) -> io::Result<()> {
    let mut offset = HEADER_BYTES + sections.len() * ENTRY_BYTES + 8;
    let mut table = vec![];
    for section in sections {
        offset = offset.next_multiple_of(ALIGNMENT);
        table.extend((section.kind as u16).to_ne_bytes());
        table.extend(field_number(section.field).to_ne_bytes());
        table.extend(0u32.to_ne_bytes());
        table.extend((offset as u64).to_ne_bytes());
        table.extend((section.bytes.len() as u64).to_ne_bytes());
        table.extend(xxh3_64(section.bytes).to_ne_bytes());
        offset += section.bytes.len();
    }
    let mut head = vec![];
    head.extend(MAGIC);
    for number in [VERSION, BYTE_ORDER] {
        head.extend(number.to_ne_bytes());
    }
    for number in [offset as u64, header.fingerprint] {
        head.extend(number.to_ne_bytes());
    }
    for number in [
        header.vocab_size,
        header.symbol_bytes,
        header.max_ngram_tokens,
        header.min_node_count,
        header.passages,
        sections.len() as u32,
        0,
        0,
    ] {
        head.extend(number.to_ne_bytes());
    }
    head.extend(table);
    head.extend(xxh3_64(&head).to_ne_bytes());
    out.write_all(&head)?;
    let mut written = head.len();
    for section in sections {
        let padding = written.next_multiple_of(ALIGNMENT) - written;
        out.write_all(&[0; ALIGNMENT][..padding])?;
        out.write_all(section.bytes)?;
        written += padding + section.bytes.len();
    }
    Ok(())
}

/// An opened index file whose header and section table are sound.
pub(super) struct IndexFile {
    pub(super) header: Header,
    /// Of header and section table, which hold the checksum of every section.
    pub(super) checksum: u64,
    bytes: Arc<Bytes>,
    sections: Vec<Entry>,
}

struct Entry {
    kind: u16,
    field: u16,
    range: Range<usize>,
    checksum: u64,
}

impl IndexFile {
    /// Maps `path` and checks header and section table; reads nothing else.
    pub(super) fn open(path: &Path) -> Result<Self, IndexError> {
        let file = File::open(path).map_err(|e| IndexError::io(path, "open", e))?;
        // SAFETY: index files are replaced by renaming, never written in place (see `storage`).
        let map = unsafe { Mmap::map(&file) }.map_err(|e| IndexError::io(path, "open", e))?;
        Self::parse(path, Bytes::Mapped(map))
    }

    /// Checks header and section table of `bytes`; `path` is for messages.
    pub(super) fn parse(path: &Path, bytes: Bytes) -> Result<Self, IndexError> {
        let reader = Reader { bytes: &bytes };
        let damaged = |what: &str| IndexError::damaged(path, what);
        if !bytes.starts_with(MAGIC) {
            let start = &bytes[..bytes.len().min(MAGIC.len())];
            return Err(IndexError::NotAnIndex {
                path: path.into(),
                found: format!("{:?}", String::from_utf8_lossy(start)),
            });
        }
        let cut = || damaged("the header is cut");
        match reader.u32(12).ok_or_else(cut)? {
            BYTE_ORDER => {}
            other if other == BYTE_ORDER.swap_bytes() => {
                return Err(IndexError::ByteOrder { path: path.into() });
            }
            _ => return Err(damaged("the byte order mark is wrong")),
        }
        let version = reader.u32(8).ok_or_else(cut)?;
        if version != VERSION {
            return Err(IndexError::Version {
                path: path.into(),
                found: version,
                expected: VERSION,
            });
        }
        let count = reader.u32(52).ok_or_else(cut)? as usize;
        if count > MAX_SECTIONS {
            return Err(damaged("the number of sections is wrong"));
        }
        let end = HEADER_BYTES + count * ENTRY_BYTES;
        let checksum = reader
            .u64(end)
            .ok_or_else(|| damaged("the section table is cut"))?;
        if checksum != xxh3_64(&bytes[..end]) {
            return Err(damaged(
                "header or section table do not match their checksum",
            ));
        }
        let len = reader.u64(16).ok_or_else(cut)?;
        if len != bytes.len() as u64 {
            return Err(damaged(&format!(
                "{} bytes long, expected {len}",
                bytes.len()
            )));
        }
        let sections = (HEADER_BYTES..end)
            .step_by(ENTRY_BYTES)
            .map(|at| reader.entry(at))
            .collect::<Option<_>>()
            .ok_or_else(|| damaged("a section lies outside the file"))?;
        let header = (|| {
            Some(Header {
                fingerprint: reader.u64(24)?,
                vocab_size: reader.u32(32)?,
                symbol_bytes: reader.u32(36)?,
                max_ngram_tokens: reader.u32(40)?,
                min_node_count: reader.u32(44)?,
                passages: reader.u32(48)?,
            })
        })()
        .ok_or_else(cut)?;
        Ok(Self {
            header,
            checksum,
            bytes: Arc::new(bytes),
            sections,
        })
    }

    /// A section as items of `T`.
    pub(super) fn section<T: Plain>(
        &self,
        path: &Path,
        kind: Kind,
        field: Option<Field>,
    ) -> Result<View<T>, IndexError> {
        let wanted = |e: &&Entry| e.kind == kind as u16 && e.field == field_number(field);
        self.sections
            .iter()
            .find(wanted)
            .and_then(|entry| View::new(&self.bytes, entry.range.clone()))
            .ok_or_else(|| {
                IndexError::damaged(
                    path,
                    format!("section {kind:?} of {field:?} is absent or cut"),
                )
            })
    }

    /// Name, field and bytes of every section, in file order.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static str, Option<Field>, usize)> {
        self.sections.iter().map(|entry| {
            let name = PARTS.get(usize::from(entry.kind).wrapping_sub(1));
            let field = [Field::Body, Field::Title]
                .into_iter()
                .find(|&field| field_number(Some(field)) == entry.field);
            (name.copied().unwrap_or("unknown"), field, entry.range.len())
        })
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Reads everything and compares it with the checksums; between sections there are only zeros.
    pub(super) fn verify(&self, path: &Path) -> Result<(), IndexError> {
        let mut end = HEADER_BYTES + self.sections.len() * ENTRY_BYTES + 8;
        for entry in &self.sections {
            let what = || format!("section {} of field {}", entry.kind, entry.field);
            let padding = self.bytes.get(end..entry.range.start);
            if padding.is_none_or(|padding| padding.iter().any(|&byte| byte != 0)) {
                let what = format!("no zeros before {}", what());
                return Err(IndexError::damaged(path, what));
            }
            if xxh3_64(&self.bytes[entry.range.clone()]) != entry.checksum {
                let what = format!("{} does not match its checksum", what());
                return Err(IndexError::damaged(path, what));
            }
            end = entry.range.end;
        }
        if end != self.bytes.len() {
            return Err(IndexError::damaged(path, "bytes behind the last section"));
        }
        Ok(())
    }
}

fn field_number(field: Option<Field>) -> u16 {
    match field {
        None => 0,
        Some(Field::Body) => 1,
        Some(Field::Title) => 2,
    }
}

/// Reads integers, `None` out of bounds.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_ne_bytes)
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        let start = usize::try_from(self.u64(at + 8)?).ok()?;
        let len = usize::try_from(self.u64(at + 16)?).ok()?;
        let range = start..start.checked_add(len)?;
        self.bytes.get(range.clone())?;
        Some(Entry {
            kind: self.u16(at)?,
            field: self.u16(at + 2)?,
            range,
            checksum: self.u64(at + 24)?,
        })
    }
}
