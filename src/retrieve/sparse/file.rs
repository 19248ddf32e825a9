//! The file of an inverted index: layout, opening, statistics.
//!
//! The container is that of `section_file`; magic "genretSP", version 1.
//!
//! ```text
//! header: passages, terms, block_passages, bits of a weight (8 or 32) as u32; f32 sum of |weight - kept
//! weight| / sum of weights; f32 largest |weight - kept weight| / largest weight of its term; u32 zero
//!
//! kind  section                                                     items
//!    1  scale of each term: weight / kept steps                     f32, terms
//!    2  largest weight of each term, in steps                       f32, terms
//!    3  first posting of each term                                  u64, terms + 1
//!    4  first block entry of each term: one for every block if it   u64, terms + 1
//!       occurs often, else none
//!    5  block entries: largest weight, in steps                     u8 or f32
//!    6  block entries: end of the postings, from the term's first   u32
//!    7  postings: the passage, rising in every term                 u32
//!    8  postings: the weight, in steps                              u8 or f32
//!   10  ends of the passages' external ids in section 11            u64, passages
//!   11  external ids, UTF-8, one after the other                    bytes
//!       for approximate search, all or none
//!   12  first item of each passage in sections 13 and 14            u64, passages + 1
//!   13  terms of the passages                                       u32
//!   14  their weights, in steps                                     u8 or f32
//!   15  first cluster of each term                                  u64, terms + 1
//!   16  first member of each cluster                                u64, clusters + 1
//!   17  members of the clusters: passages                           u32
//!   18  first summary entry of each cluster                         u64, clusters + 1
//!   19  summary entries: terms                                      u32
//!   20  summary entries: codes                                      u8
//!   21  weight of a code of 1, of each cluster                      f32
//!
//!   31  hash of what made the model that made the vectors, UTF-8    bytes, or none
//! 32..  what the maker of the index adds, such as the words of its terms
//! ```

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Precision, VectorError, Weight};
use crate::section_file::{Bytes, Format, Ids, OWN_BYTES, Plain, SectionFile, View};
use crate::types::PassageIdx;

pub(super) const FORMAT: Format = Format {
    magic: b"genretSP",
    version: 1,
};

#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Kind {
    Scales = 1,
    Maxima = 2,
    FirstPosting = 3,
    FirstEntry = 4,
    EntryMax = 5,
    EntryEnd = 6,
    Passages = 7,
    Weights = 8,
    IdEnds = 10,
    IdBytes = 11,
    PassageStarts = 12,
    PassageTerms = 13,
    PassageWeights = 14,
    FirstCluster = 15,
    FirstMember = 16,
    Members = 17,
    FirstSummary = 18,
    SummaryTerms = 19,
    SummaryCodes = 20,
    SummaryScales = 21,
}

/// The section that names the model.
pub(super) const MODEL: u16 = 31;

/// Names of the kinds, from kind 1.
const PARTS: [&str; 21] = [
    "scales",
    "term maxima",
    "term postings",
    "term entries",
    "block maxima",
    "block ends",
    "passages",
    "weights",
    "",
    "id ends",
    "ids",
    "passage starts",
    "passage terms",
    "passage weights",
    "term clusters",
    "cluster starts",
    "cluster members",
    "summary starts",
    "summary terms",
    "summary codes",
    "summary scales",
];

/// The numbers of the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) passages: u32,
    pub(super) terms: u32,
    pub(super) block_passages: u32,
    pub(super) precision: Precision,
    pub(super) mean_error: f32,
    pub(super) largest_error: f32,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; OWN_BYTES] {
        let numbers = [
            self.passages,
            self.terms,
            self.block_passages,
            match self.precision {
                Precision::Bytes => 8,
                Precision::Floats => 32,
            },
            self.mean_error.to_bits(),
            self.largest_error.to_bits(),
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
            terms: number(1),
            block_passages: number(2),
            precision: match number(3) {
                8 => Precision::Bytes,
                32 => Precision::Floats,
                _ => return None,
            },
            mean_error: f32::from_bits(number(4)),
            largest_error: f32::from_bits(number(5)),
        };
        let block = header.block_passages;
        (block.is_power_of_two() && (8..=1024).contains(&block)).then_some(header)
    }
}

/// Weights in either precision.
#[derive(Clone)]
pub(super) enum Weights {
    Bytes(WeightsOf<u8>),
    Floats(WeightsOf<f32>),
}

#[derive(Clone)]
pub(super) struct WeightsOf<W: Weight> {
    pub(super) postings: View<W>,
    pub(super) block_maxima: View<W>,
    /// By passage, where there are clusters.
    pub(super) by_passage: View<W>,
}

/// The vectors by passage, and clusters of the heaviest postings.
#[derive(Clone)]
pub(super) struct Clusters {
    pub(super) first_of_passage: View<u64>,
    pub(super) passage_terms: View<u32>,
    pub(super) first_cluster: View<u64>,
    pub(super) first_member: View<u64>,
    pub(super) members: View<u32>,
    pub(super) first_entry: View<u64>,
    pub(super) entry_terms: View<u32>,
    pub(super) entry_codes: View<u8>,
    pub(super) scales: View<f32>,
}

impl Clusters {
    fn open(file: &SectionFile, path: &Path) -> Result<Self, VectorError> {
        Ok(Self {
            first_of_passage: section(file, path, Kind::PassageStarts)?,
            passage_terms: section(file, path, Kind::PassageTerms)?,
            first_cluster: section(file, path, Kind::FirstCluster)?,
            first_member: section(file, path, Kind::FirstMember)?,
            members: section(file, path, Kind::Members)?,
            first_entry: section(file, path, Kind::FirstSummary)?,
            entry_terms: section(file, path, Kind::SummaryTerms)?,
            entry_codes: section(file, path, Kind::SummaryCodes)?,
            scales: section(file, path, Kind::SummaryScales)?,
        })
    }

    /// Whether the sections fit `terms` and `passages`; their items are checked where they are used.
    fn fits(&self, terms: usize, passages: usize) -> bool {
        let clusters = self.scales.len();
        let spans = |starts: &[u64], lists: usize, items: usize| {
            starts.len() == lists + 1 && starts[lists] == items as u64
        };
        spans(&self.first_of_passage, passages, self.passage_terms.len())
            && spans(&self.first_cluster, terms, clusters)
            && spans(&self.first_member, clusters, self.members.len())
            && spans(&self.first_entry, clusters, self.entry_terms.len())
            && self.entry_codes.len() == self.entry_terms.len()
    }
}

impl<W: Weight> WeightsOf<W> {
    fn open(file: &SectionFile, path: &Path) -> Result<Self, VectorError> {
        Ok(Self {
            postings: section(file, path, Kind::Weights)?,
            block_maxima: section(file, path, Kind::EntryMax)?,
            by_passage: file
                .section(Kind::PassageWeights as u16, 0)
                .unwrap_or_else(|| vec![].into()),
        })
    }
}

/// An inverted index, mapped or in memory; see the [module](super). Cheap to clone.
#[derive(Clone)]
pub struct SparseIndex {
    path: PathBuf,
    pub(super) file: SectionFile,
    pub(super) header: Header,
    pub(super) scales: View<f32>,
    pub(super) largest: View<f32>,
    pub(super) first_posting: View<u64>,
    pub(super) first_entry: View<u64>,
    pub(super) entry_ends: View<u32>,
    pub(super) passages: View<u32>,
    pub(super) weights: Weights,
    pub(super) clusters: Option<Box<Clusters>>,
    ids: Ids,
}

/// Size and shape of an inverted index.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SparseStats {
    /// Passages.
    pub num_passages: usize,
    /// Terms that a vector may have.
    pub num_terms: usize,
    /// Terms that some passage has.
    pub used_terms: usize,
    /// Weights of all passages.
    pub num_postings: usize,
    /// Passages of the most frequent term.
    pub longest_list: usize,
    /// Passages per block.
    pub block_passages: usize,
    /// How weights are kept.
    pub precision: Precision,
    /// Sum of the rounding errors of all weights, divided by the sum of the weights.
    pub mean_error: f32,
    /// Largest rounding error, divided by the largest weight of the same term.
    pub largest_error: f32,
    /// Bytes of the file.
    pub file_bytes: usize,
    /// Its parts with their bytes.
    pub parts: Vec<(String, usize)>,
}

impl SparseIndex {
    /// Maps the index at `path`; checks header, section table and the bounds of every term, O(terms).
    ///
    /// [`verify`](Self::verify) reads everything. A file that is damaged elsewhere may give wrong
    /// answers, never a panic.
    ///
    /// # Errors
    /// [`VectorError`] if the file cannot be read, is no sparse index, of another version, or damaged.
    pub fn open(path: &Path) -> Result<Self, VectorError> {
        let file = SectionFile::open(path, FORMAT)
            .map_err(|fault| VectorError::file(path, "sparse index", FORMAT.version, fault))?;
        Self::from_file(path, file)
    }

    pub(super) fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self, VectorError> {
        let file = SectionFile::parse(bytes, FORMAT)
            .map_err(|fault| VectorError::file(path, "sparse index", FORMAT.version, fault))?;
        Self::from_file(path, file)
    }

    fn from_file(path: &Path, file: SectionFile) -> Result<Self, VectorError> {
        let damaged = |what: &str| VectorError::damaged(path, what);
        let header =
            Header::from_bytes(&file.own).ok_or_else(|| damaged("the header has wrong numbers"))?;
        let (terms, passages) = (header.terms as usize, header.passages as usize);
        let weights = match header.precision {
            Precision::Bytes => Weights::Bytes(WeightsOf::open(&file, path)?),
            Precision::Floats => Weights::Floats(WeightsOf::open(&file, path)?),
        };
        let clusters = match file.section::<u64>(Kind::PassageStarts as u16, 0) {
            Some(_) => Some(Box::new(Clusters::open(&file, path)?)),
            None => None,
        };
        let index = Self {
            header,
            scales: section(&file, path, Kind::Scales)?,
            largest: section(&file, path, Kind::Maxima)?,
            first_posting: section(&file, path, Kind::FirstPosting)?,
            first_entry: section(&file, path, Kind::FirstEntry)?,
            entry_ends: section(&file, path, Kind::EntryEnd)?,
            passages: section(&file, path, Kind::Passages)?,
            weights,
            clusters,
            ids: Ids::new(
                section(&file, path, Kind::IdEnds)?,
                section(&file, path, Kind::IdBytes)?,
            ),
            path: path.into(),
            file,
        };
        let (postings, entries) = match &index.weights {
            Weights::Bytes(of) => (of.postings.len(), of.block_maxima.len()),
            Weights::Floats(of) => (of.postings.len(), of.block_maxima.len()),
        };
        let bounds = |starts: &[u64], end: usize| {
            starts.len() == terms + 1
                && starts[0] == 0
                && starts[terms] == end as u64
                && starts.is_sorted()
        };
        let fits = index.scales.len() == terms
            && index.largest.len() == terms
            && bounds(&index.first_posting, postings)
            && bounds(&index.first_entry, entries)
            && index.passages.len() == postings
            && index.entry_ends.len() == entries
            && index.ids.len() == passages
            && (index.clusters.iter()).all(|clusters| clusters.fits(terms, passages));
        if !fits {
            return Err(damaged("the sections do not fit each other"));
        }
        let blocks = index.num_blocks() as u64;
        let whole = index.first_entry.windows(2).all(|w| {
            let entries = w[1] - w[0];
            entries == 0 || entries == blocks
        });
        if !whole {
            return Err(damaged("a term's entries do not fit the blocks"));
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
            .map_err(|fault| VectorError::file(&self.path, "sparse index", FORMAT.version, fault))
    }

    /// Where the index was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of passages.
    pub fn num_passages(&self) -> usize {
        self.header.passages as usize
    }

    /// Number of terms that a vector may have.
    pub fn num_terms(&self) -> usize {
        self.header.terms as usize
    }

    pub(super) fn num_blocks(&self) -> usize {
        self.num_passages()
            .div_ceil(self.header.block_passages as usize)
    }

    /// External id of a passage; empty if there is no such passage.
    pub fn doc_id(&self, passage: PassageIdx) -> &str {
        self.ids.get(passage.index())
    }

    /// Passages that have `term`; 0 for a term that the index does not have.
    pub fn passages_with(&self, term: u32) -> usize {
        let bounds = self.first_posting.get(term as usize..);
        bounds
            .and_then(|bounds| bounds.first_chunk())
            .map_or(0, |&[start, end]| (end - start) as usize)
    }

    /// Hash of what the index holds, from its checksums; reads nothing.
    pub fn fingerprint(&self) -> u64 {
        self.file.checksum
    }

    /// Hash of what made the model that made the vectors, if a model did.
    pub fn model(&self) -> Option<String> {
        let bytes = self.extra::<u8>(MODEL)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A section that the maker of the index added.
    pub(crate) fn extra<T: Plain>(&self, kind: u16) -> Option<View<T>> {
        self.file.section(kind, 0)
    }

    /// Size and shape.
    pub fn stats(&self) -> SparseStats {
        let lengths = self
            .first_posting
            .windows(2)
            .map(|w| (w[1] - w[0]) as usize);
        SparseStats {
            num_passages: self.num_passages(),
            num_terms: self.num_terms(),
            used_terms: lengths.clone().filter(|&len| len > 0).count(),
            num_postings: self.first_posting[self.num_terms()] as usize,
            longest_list: lengths.max().unwrap_or(0),
            block_passages: self.header.block_passages as usize,
            precision: self.header.precision,
            mean_error: self.header.mean_error,
            largest_error: self.header.largest_error,
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
