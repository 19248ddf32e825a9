//! A file of typed sections behind a checksummed header: the container of every index of genret.
//!
//! All numbers are in the byte order of the machine that wrote the file; the order is recorded.
//!
//! ```text
//! offset  bytes  header
//!      0      8  magic of the format
//!      8      4  version of the format
//!     12      4  0x0a0b0c0d, to tell the byte order
//!     16      8  length of the file
//!     24     28  what the format keeps there
//!     52      4  number of sections S
//!     56      8  zero
//!     64   S*32  section table
//!  ..+32      8  xxh3-64 of everything before
//!
//! offset  bytes  entry of the section table
//!      0      2  kind
//!      2      2  field, of formats that have several sections of a kind
//!      4      4  zero
//!      8      8  offset of the section, a multiple of 64
//!     16      8  length in bytes
//!     24      8  xxh3-64 of the section
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

mod ids;
mod storage;

pub(crate) use ids::{IdList, Ids};
pub(crate) use storage::{Bytes, Plain, View, as_bytes, prefetch};

const BYTE_ORDER: u32 = 0x0a0b_0c0d;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
const ALIGNMENT: usize = 64;
/// More sections than any format has: bounds the work on a damaged header.
const MAX_SECTIONS: usize = 1024;
/// Bytes of the header that belong to the format.
pub(crate) const OWN_BYTES: usize = 28;

/// What tells one format from another.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub(crate) magic: &'static [u8; 8],
    pub(crate) version: u32,
}

/// A section to be written.
pub(crate) struct Section<'a> {
    pub(crate) kind: u16,
    pub(crate) field: u16,
    pub(crate) bytes: &'a [u8],
}

/// Why a file is not what it should be.
pub(crate) enum Fault {
    /// It cannot be read.
    Io(io::Error),
    /// It is something else: its first bytes.
    Magic(String),
    /// It was written on a machine with another byte order.
    ByteOrder,
    /// It has another version of the format.
    Version(u32),
    /// It is cut or changed: what does not fit.
    Damaged(String),
}

impl Fault {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }
}

/// Writes header, section table and sections.
pub(crate) fn write(
    out: &mut impl Write,
    format: Format,
    own: &[u8; OWN_BYTES],
    sections: &[Section<'_>],
) -> io::Result<()> {
    let mut offset = HEADER_BYTES + sections.len() * ENTRY_BYTES + 8;
    let mut table = vec![];
    for section in sections {
        offset = offset.next_multiple_of(ALIGNMENT);
        table.extend(section.kind.to_ne_bytes());
        table.extend(section.field.to_ne_bytes());
        table.extend(0u32.to_ne_bytes());
        table.extend((offset as u64).to_ne_bytes());
        table.extend((section.bytes.len() as u64).to_ne_bytes());
        table.extend(xxh3_64(section.bytes).to_ne_bytes());
        offset += section.bytes.len();
    }
    let mut head = vec![];
    head.extend(format.magic);
    head.extend(format.version.to_ne_bytes());
    head.extend(BYTE_ORDER.to_ne_bytes());
    head.extend((offset as u64).to_ne_bytes());
    head.extend(own);
    head.extend((sections.len() as u32).to_ne_bytes());
    head.extend([0; 8]);
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

/// An opened file whose header and section table are sound. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SectionFile {
    /// What the format keeps in the header.
    pub(crate) own: [u8; OWN_BYTES],
    /// Of header and section table, which hold the checksum of every section.
    pub(crate) checksum: u64,
    bytes: Arc<Bytes>,
    sections: Arc<[Entry]>,
}

struct Entry {
    kind: u16,
    field: u16,
    range: Range<usize>,
    checksum: u64,
}

impl SectionFile {
    /// Maps `path` and checks header and section table; reads nothing else.
    pub(crate) fn open(path: &Path, format: Format) -> Result<Self, Fault> {
        let file = File::open(path).map_err(Fault::Io)?;
        // SAFETY: these files are replaced by renaming, never written in place (see `storage`).
        let map = unsafe { Mmap::map(&file) }.map_err(Fault::Io)?;
        Self::parse(Bytes::Mapped(map), format)
    }

    /// Checks header and section table of `bytes`.
    pub(crate) fn parse(bytes: Bytes, format: Format) -> Result<Self, Fault> {
        let reader = Reader { bytes: &bytes };
        if !bytes.starts_with(format.magic) {
            let start = &bytes[..bytes.len().min(format.magic.len())];
            return Err(Fault::Magic(format!(
                "{:?}",
                String::from_utf8_lossy(start)
            )));
        }
        let cut = || Fault::damaged("the header is cut");
        match reader.u32(12).ok_or_else(cut)? {
            BYTE_ORDER => {}
            other if other == BYTE_ORDER.swap_bytes() => return Err(Fault::ByteOrder),
            _ => return Err(Fault::damaged("the byte order mark is wrong")),
        }
        let version = reader.u32(8).ok_or_else(cut)?;
        if version != format.version {
            return Err(Fault::Version(version));
        }
        let count = reader.u32(52).ok_or_else(cut)? as usize;
        if count > MAX_SECTIONS {
            return Err(Fault::damaged("the number of sections is wrong"));
        }
        let end = HEADER_BYTES + count * ENTRY_BYTES;
        let checksum = reader
            .u64(end)
            .ok_or_else(|| Fault::damaged("the section table is cut"))?;
        if checksum != xxh3_64(&bytes[..end]) {
            return Err(Fault::damaged(
                "header or section table do not match their checksum",
            ));
        }
        let len = reader.u64(16).ok_or_else(cut)?;
        if len != bytes.len() as u64 {
            return Err(Fault::Damaged(format!(
                "{} bytes long, expected {len}",
                bytes.len()
            )));
        }
        let sections = (HEADER_BYTES..end)
            .step_by(ENTRY_BYTES)
            .map(|at| reader.entry(at))
            .collect::<Option<_>>()
            .ok_or_else(|| Fault::damaged("a section lies outside the file"))?;
        Ok(Self {
            own: reader.array(24).ok_or_else(cut)?,
            checksum,
            bytes: Arc::new(bytes),
            sections,
        })
    }

    /// A section as items of `T`; `None` if it is absent or its length does not fit.
    pub(crate) fn section<T: Plain>(&self, kind: u16, field: u16) -> Option<View<T>> {
        let wanted = |e: &&Entry| e.kind == kind && e.field == field;
        let entry = self.sections.iter().find(wanted)?;
        View::new(&self.bytes, entry.range.clone())
    }

    /// Kind, field and bytes of every section, in file order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (u16, u16, usize)> {
        self.sections
            .iter()
            .map(|entry| (entry.kind, entry.field, entry.range.len()))
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Reads everything and compares it with the checksums; between sections there are only zeros.
    pub(crate) fn verify(&self) -> Result<(), Fault> {
        let mut end = HEADER_BYTES + self.sections.len() * ENTRY_BYTES + 8;
        for entry in self.sections.iter() {
            let what = || format!("section {} of field {}", entry.kind, entry.field);
            let padding = self.bytes.get(end..entry.range.start);
            if padding.is_none_or(|padding| padding.iter().any(|&byte| byte != 0)) {
                return Err(Fault::Damaged(format!("no zeros before {}", what())));
            }
            if xxh3_64(&self.bytes[entry.range.clone()]) != entry.checksum {
                let what = format!("{} does not match its checksum", what());
                return Err(Fault::Damaged(what));
            }
            end = entry.range.end;
        }
        if end != self.bytes.len() {
            return Err(Fault::damaged("bytes behind the last section"));
        }
        Ok(())
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
