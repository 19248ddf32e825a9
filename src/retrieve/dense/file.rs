//! The file of an index of dense vectors: layout, opening, statistics.
//!
//! The container is that of `section_file`; magic "genretDN", version 1.
//!
//! ```text
//! header: passages, width, what is kept (32 floats, 8 bytes, 40 both) as u32; f32 sum of |number - kept
//! number| / sum of |number|; links of a node of the graph, 0 without one, and the node to begin at, as u32;
//! u32 zero
//!
//! kind  section                                                     items
//!    1  vectors, row after row                                      f32, passages x width, or none
//!    2  eight-bit codes, row after row                              i8, passages x width, or none
//!    3  scales of the codes                                         f32, passages, or none
//!    4  links of every node on the ground, filled up with itself    u32, passages x 2 links, or none
//!    5  links of nodes above the ground, layer after layer          u32
//!    6  first item of each node in section 5                        u64, passages + 1, or none
//!    7  ends of the passages' external ids in section 8             u64, passages
//!    8  external ids, UTF-8, one after the other                    bytes
//!    9  hash of what made the model that made the vectors, UTF-8    bytes
//! ```

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Numbers, VectorError};
use crate::section_file::{Bytes, Format, Ids, OWN_BYTES, Plain, SectionFile, View};
use crate::types::PassageIdx;

pub(super) const FORMAT: Format = Format {
    magic: b"genretDN",
    version: 1,
};

#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Kind {
    Values = 1,
    Codes = 2,
    Scales = 3,
    GroundLinks = 4,
    UpperLinks = 5,
    UpperStarts = 6,
    IdEnds = 7,
    IdBytes = 8,
    Model = 9,
}

/// Names of the kinds, from kind 1.
const PARTS: [&str; 9] = [
    "vectors",
    "codes",
    "scales",
    "ground links",
    "upper links",
    "upper starts",
    "id ends",
    "ids",
    "model",
];

/// The numbers of the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) passages: u32,
    pub(super) width: u32,
    pub(super) numbers: Numbers,
    pub(super) mean_error: f32,
    pub(super) links: u32,
    pub(super) entry: u32,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; OWN_BYTES] {
        let numbers = [
            self.passages,
            self.width,
            match self.numbers {
                Numbers::Floats => 32,
                Numbers::Bytes => 8,
                Numbers::Both => 40,
            },
            self.mean_error.to_bits(),
            self.links,
            self.entry,
            0,
        ];
        let mut own = [0; OWN_BYTES];
        for (place, number) in own.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        own
    }

    fn from_bytes(own: &[u8; OWN_BYTES]) -> Option<Self> {
        let (numbers, _) = own.as_chunks();
        let number = |index: usize| u32::from_ne_bytes(numbers[index]);
        let header = Self {
            passages: number(0),
            width: number(1),
            numbers: match number(2) {
                32 => Numbers::Floats,
                8 => Numbers::Bytes,
                40 => Numbers::Both,
                _ => return None,
            },
            mean_error: f32::from_bits(number(3)),
            links: number(4),
            entry: number(5),
        };
        (header.width > 0).then_some(header)
    }
}

/// An index of dense vectors, mapped or in memory; see the [module](super). Cheap to clone.
#[derive(Clone)]
pub struct DenseIndex {
    path: PathBuf,
    file: SectionFile,
    pub(super) header: Header,
    pub(super) values: View<f32>,
    pub(super) codes: View<i8>,
    pub(super) scales: View<f32>,
    pub(super) ground: View<u32>,
    pub(super) upper: View<u32>,
    pub(super) starts: View<u64>,
    ids: Ids,
    model: View<u8>,
}

/// Size and shape of an index of dense vectors.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DenseStats {
    /// Passages.
    pub num_passages: usize,
    /// Numbers of a vector.
    pub width: usize,
    /// What is kept of them.
    pub numbers: Numbers,
    /// Sum of the rounding errors of all numbers, divided by the sum of the numbers without signs.
    pub mean_error: f32,
    /// Links of a node of the graph above the ground, 0 without a graph.
    pub links: usize,
    /// Bytes of the file.
    pub file_bytes: usize,
    /// Its parts with their bytes.
    pub parts: Vec<(String, usize)>,
}

impl DenseIndex {
    /// Maps the index at `path`; checks header, section table and lengths, O(passages) with a graph.
    ///
    /// # Errors
    /// [`VectorError`] if the file cannot be read, is no dense index, of another version, or damaged.
    pub fn open(path: &Path) -> Result<Self, VectorError> {
        let file = SectionFile::open(path, FORMAT)
            .map_err(|fault| VectorError::file(path, "dense index", FORMAT.version, fault))?;
        Self::from_file(path, file)
    }

    pub(super) fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self, VectorError> {
        let file = SectionFile::parse(bytes, FORMAT)
            .map_err(|fault| VectorError::file(path, "dense index", FORMAT.version, fault))?;
        Self::from_file(path, file)
    }

    fn from_file(path: &Path, file: SectionFile) -> Result<Self, VectorError> {
        let damaged = |what: &str| VectorError::damaged(path, what);
        let header =
            Header::from_bytes(&file.own).ok_or_else(|| damaged("the header has wrong numbers"))?;
        let index = Self {
            path: path.into(),
            header,
            values: section(&file, path, Kind::Values)?,
            codes: section(&file, path, Kind::Codes)?,
            scales: section(&file, path, Kind::Scales)?,
            ground: section(&file, path, Kind::GroundLinks)?,
            upper: section(&file, path, Kind::UpperLinks)?,
            starts: section(&file, path, Kind::UpperStarts)?,
            ids: Ids::new(
                section(&file, path, Kind::IdEnds)?,
                section(&file, path, Kind::IdBytes)?,
            ),
            model: section(&file, path, Kind::Model)?,
            file,
        };
        let (passages, width) = (header.passages as usize, header.width as usize);
        let numbers = passages.checked_mul(width);
        let (floats, bytes) = match header.numbers {
            Numbers::Floats => (numbers, Some(0)),
            Numbers::Bytes => (Some(0), numbers),
            Numbers::Both => (numbers, numbers),
        };
        let scales = if header.numbers == Numbers::Floats {
            0
        } else {
            passages
        };
        let links = header.links as usize;
        let graph = if links == 0 || passages == 0 {
            index.ground.is_empty() && index.upper.is_empty()
        } else {
            Some(index.ground.len()) == links.checked_mul(2).and_then(|l| l.checked_mul(passages))
                && index.starts.len() == passages + 1
                && index.starts.is_sorted()
                && index.starts[passages] == index.upper.len() as u64
                && header.entry < header.passages
        };
        let fits = Some(index.values.len()) == floats
            && Some(index.codes.len()) == bytes
            && index.scales.len() == scales
            && index.ids.len() == passages
            && graph;
        if !fits {
            return Err(damaged("the sections do not fit each other"));
        }
        Ok(index)
    }

    /// Reads the whole file and compares it with its checksums.
    ///
    /// # Errors
    /// [`VectorError::Damaged`] naming the first section that differs.
    pub fn verify(&self) -> Result<(), VectorError> {
        self.file
            .verify()
            .map_err(|fault| VectorError::file(&self.path, "dense index", FORMAT.version, fault))
    }

    /// Where the index was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of passages.
    pub fn num_passages(&self) -> usize {
        self.header.passages as usize
    }

    /// Numbers of a vector.
    pub fn width(&self) -> usize {
        self.header.width as usize
    }

    /// What is kept of them.
    pub fn numbers(&self) -> Numbers {
        self.header.numbers
    }

    /// Whether the index has a graph for approximate search.
    pub fn has_graph(&self) -> bool {
        self.header.links > 0
    }

    /// Hash of what made the model that made the vectors; empty if none did.
    pub fn model(&self) -> String {
        String::from_utf8_lossy(&self.model).into_owned()
    }

    /// External id of a passage; empty if there is no such passage.
    pub fn doc_id(&self, passage: PassageIdx) -> &str {
        self.ids.get(passage.index())
    }

    /// Hash of what the index holds, from its checksums; reads nothing.
    pub fn fingerprint(&self) -> u64 {
        self.file.checksum
    }

    /// Size and shape.
    pub fn stats(&self) -> DenseStats {
        DenseStats {
            num_passages: self.num_passages(),
            width: self.width(),
            numbers: self.header.numbers,
            mean_error: self.header.mean_error,
            links: self.header.links as usize,
            file_bytes: self.file.len(),
            parts: self
                .file
                .parts()
                .map(|(kind, _, bytes)| {
                    let name = PARTS.get(usize::from(kind).wrapping_sub(1));
                    (name.copied().unwrap_or("other").to_string(), bytes)
                })
                .collect(),
        }
    }
}

fn section<T: Plain>(file: &SectionFile, path: &Path, kind: Kind) -> Result<View<T>, VectorError> {
    file.section(kind as u16, 0)
        .ok_or_else(|| VectorError::damaged(path, format!("section {kind:?} is absent or cut")))
}
