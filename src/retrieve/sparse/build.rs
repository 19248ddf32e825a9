//! Building an inverted index: vectors in, a file or an index in memory out.

use std::path::{Path, PathBuf};

use super::file::{FORMAT, Header, Kind};
use super::{Posting, Precision, SparseIndex, SparseOptions, VectorError, check};
use crate::atomic_file;
use crate::section_file::{self, Bytes, IdList, Section, as_bytes};
use crate::types::SparseVector;

/// A term has an entry for every block if it occurs in at least this share of them.
const DENSE_SHARE: usize = 4;

/// Takes the vectors of the passages one by one; see the [module](super).
pub struct SparseBuilder {
    options: SparseOptions,
    num_terms: usize,
    ends: Vec<usize>,
    terms: Vec<u32>,
    weights: Vec<f32>,
    ids: IdList,
    extra: Vec<(u16, Vec<u8>)>,
}

impl SparseBuilder {
    /// An index of no passages yet, whose vectors have terms below `num_terms`.
    ///
    /// # Errors
    /// [`VectorError::Option`], [`VectorError::TooLarge`].
    pub fn new(num_terms: usize, options: SparseOptions) -> Result<Self, VectorError> {
        let block = options.block_passages;
        if !block.is_power_of_two() || !(8..=256).contains(&block) {
            return Err(VectorError::Option {
                name: "block_passages",
                range: "a power of two from 8 to 256",
                found: block.to_string(),
            });
        }
        if u32::try_from(num_terms).is_err() {
            return Err(VectorError::TooLarge {
                what: "terms",
                limit: u32::MAX.into(),
            });
        }
        Ok(Self {
            options,
            num_terms,
            ends: vec![],
            terms: vec![],
            weights: vec![],
            ids: IdList::default(),
            extra: vec![],
        })
    }

    /// Adds the next passage. A vector without terms is allowed: nothing finds it.
    ///
    /// # Errors
    /// [`VectorError::Vector`] naming the passage; [`VectorError::TooLarge`].
    pub fn push(&mut self, id: &str, vector: &SparseVector) -> Result<(), VectorError> {
        check(vector, self.num_terms, &|| format!("of passage {id}"))?;
        if self.ends.len() >= u32::MAX as usize {
            return Err(VectorError::TooLarge {
                what: "passages",
                limit: u32::MAX.into(),
            });
        }
        self.terms.extend(&vector.terms);
        self.weights.extend(&vector.weights);
        self.ends.push(self.terms.len());
        self.ids.push(id);
        Ok(())
    }

    /// Adds a section of the maker's own, of a kind from 32.
    pub(crate) fn attach(&mut self, kind: u16, bytes: Vec<u8>) {
        self.extra.push((kind, bytes));
    }

    /// Builds the index and writes it to `path`, which is complete or untouched afterwards.
    ///
    /// # Errors
    /// [`VectorError::Io`].
    pub fn write(self, path: &Path) -> Result<(), VectorError> {
        self.build(|own, sections| {
            atomic_file::write(path, |out| {
                section_file::write(out, FORMAT, &own.to_bytes(), sections)
            })
            .map_err(|e| VectorError::write(path, e))
        })
    }

    /// Builds the index in memory.
    pub fn into_index(self) -> Result<SparseIndex, VectorError> {
        let path = PathBuf::from("(memory)");
        let mut image = vec![];
        self.build(|own, sections| {
            section_file::write(&mut image, FORMAT, &own.to_bytes(), sections)
                .map_err(|e| VectorError::write(&path, e))
        })?;
        SparseIndex::from_bytes(&path, Bytes::owned(&image))
    }

    fn build(
        self,
        write: impl FnOnce(&Header, &[Section<'_>]) -> Result<(), VectorError>,
    ) -> Result<(), VectorError> {
        match self.options.precision {
            Precision::Bytes => self.build_as::<u16>(write),
            Precision::Floats => self.build_as::<u64>(write),
        }
    }

    fn build_as<P: Posting>(
        self,
        write: impl FnOnce(&Header, &[Section<'_>]) -> Result<(), VectorError>,
    ) -> Result<(), VectorError> {
        let mut lists = self.invert::<P>();
        let ends = std::mem::take(&mut lists.entry_ends);
        let of = |kind: Kind, bytes| Section {
            kind: kind as u16,
            field: 0,
            bytes,
        };
        let mut sections = vec![
            of(Kind::Scales, as_bytes(&lists.scales)),
            of(Kind::Maxima, as_bytes(&lists.largest)),
            of(Kind::FirstPosting, as_bytes(&lists.first_posting)),
            of(Kind::FirstEntry, as_bytes(&lists.first_entry)),
            of(Kind::FirstBlock, as_bytes(&lists.first_block)),
            of(Kind::EntryMax, as_bytes(&lists.entry_max)),
            of(Kind::EntryEnd, as_bytes(&ends)),
            of(Kind::EntryBlock, as_bytes(&lists.entry_blocks)),
            of(Kind::Postings, as_bytes(&lists.postings)),
            of(Kind::IdEnds, as_bytes(&self.ids.ends)),
            of(Kind::IdBytes, &self.ids.bytes),
        ];
        sections.extend(self.extra.iter().map(|(kind, bytes)| Section {
            kind: *kind,
            field: 0,
            bytes,
        }));
        let header = Header {
            passages: self.ids.len() as u32,
            terms: self.num_terms as u32,
            block_passages: self.options.block_passages as u32,
            precision: self.options.precision,
            mean_error: lists.mean_error,
            largest_error: lists.largest_error,
        };
        write(&header, &sections)
    }

    /// Terms and weights of every passage, in order.
    fn vectors(&self) -> impl Iterator<Item = (&[u32], &[f32])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| (&self.terms[start..end], &self.weights[start..end]))
    }

    fn invert<P: Posting>(&self) -> Inverted<P> {
        let block = self.options.block_passages;
        let num_blocks = self.ends.len().div_ceil(block);
        let mut lists = vec![List::default(); self.num_terms];
        for (passage, (terms, weights)) in self.vectors().enumerate() {
            let number = (passage / block) as u32;
            for (&term, &weight) in terms.iter().zip(weights) {
                lists[term as usize].count(number, weight);
            }
        }
        let scales: Vec<f32> = lists
            .iter()
            .map(|list| match self.options.precision {
                Precision::Bytes => list.largest / 255.0,
                Precision::Floats => 1.0,
            })
            .collect();
        let largest = lists
            .iter()
            .map(|list| match self.options.precision {
                Precision::Bytes if list.postings > 0 => 255.0,
                _ => list.largest,
            })
            .collect();
        let (mut first_posting, mut first_entry, mut first_block) = (vec![0], vec![0], vec![0]);
        let (mut postings, mut entries, mut blocks) = (0, 0, 0);
        for list in &mut lists {
            (list.posting, list.entry, list.block) = (postings, entries, blocks);
            list.dense = num_blocks > 0 && list.entries * DENSE_SHARE >= num_blocks;
            postings += list.postings;
            if list.dense {
                entries += num_blocks;
            } else {
                entries += list.entries;
                blocks += list.entries;
            }
            list.last = NONE;
            list.written = 0;
            first_posting.push(postings as u64);
            first_entry.push(entries as u64);
            first_block.push(blocks as u64);
        }
        let mut inverted = Inverted {
            scales,
            largest,
            first_posting,
            first_entry,
            first_block,
            entry_max: vec![P::new(0, 0.0).weight(); entries],
            entry_ends: vec![0; entries],
            entry_blocks: vec![0; blocks],
            postings: vec![P::new(0, 0.0); postings],
            mean_error: 0.0,
            largest_error: 0.0,
        };
        let (mut sum, mut error_sum, mut largest_error) = (0.0, 0.0, 0.0f64);
        for (passage, (terms, weights)) in self.vectors().enumerate() {
            let (number, place) = (passage / block, (passage % block) as u8);
            for (&term, &weight) in terms.iter().zip(weights) {
                let list = &mut lists[term as usize];
                let scale = inverted.scales[term as usize];
                let steps = match self.options.precision {
                    // A weight stays above zero, so that its passage is still found.
                    Precision::Bytes => (weight / scale).round().clamp(1.0, 255.0),
                    Precision::Floats => weight,
                };
                let posting = P::new(place, steps);
                list.put(number as u32, posting, &mut inverted);
                let error = (f64::from(steps * scale) - f64::from(weight)).abs();
                sum += f64::from(weight);
                error_sum += error;
                largest_error = largest_error.max(error / f64::from(list.largest));
            }
        }
        for list in lists.iter().filter(|list| list.dense) {
            // Blocks without the term end where the one before ends.
            let mut end = 0;
            for slot in &mut inverted.entry_ends[list.entry..list.entry + num_blocks] {
                end = end.max(*slot);
                *slot = end;
            }
        }
        if sum > 0.0 {
            inverted.mean_error = (error_sum / sum) as f32;
        }
        inverted.largest_error = largest_error as f32;
        inverted
    }
}

/// No block yet.
const NONE: u32 = u32::MAX;

/// How far the list of a term is.
#[derive(Clone)]
struct List {
    postings: usize,
    entries: usize,
    largest: f32,
    /// The last block that had the term.
    last: u32,
    dense: bool,
    /// Where the list begins.
    posting: usize,
    entry: usize,
    block: usize,
    /// Postings so far.
    written: usize,
}

impl Default for List {
    fn default() -> Self {
        Self {
            postings: 0,
            entries: 0,
            largest: 0.0,
            last: NONE,
            dense: false,
            posting: 0,
            entry: 0,
            block: 0,
            written: 0,
        }
    }
}

impl List {
    fn count(&mut self, block: u32, weight: f32) {
        self.postings += 1;
        self.entries += usize::from(self.last != block);
        self.last = block;
        self.largest = self.largest.max(weight);
    }

    fn put<P: Posting>(&mut self, block: u32, posting: P, out: &mut Inverted<P>) {
        out.postings[self.posting + self.written] = posting;
        self.written += 1;
        if self.dense {
            self.last = block;
        } else if self.last != block {
            // `entry` and `block` stand at the current entry, one before the next.
            if self.last != NONE {
                self.entry += 1;
                self.block += 1;
            }
            self.last = block;
            out.entry_blocks[self.block] = block;
        }
        let entry = if self.dense {
            self.entry + block as usize
        } else {
            self.entry
        };
        out.entry_ends[entry] = self.written as u32;
        let max = &mut out.entry_max[entry];
        if posting.weight().into() > (*max).into() {
            *max = posting.weight();
        }
    }
}

/// The sections of the file.
struct Inverted<P: Posting> {
    scales: Vec<f32>,
    largest: Vec<f32>,
    first_posting: Vec<u64>,
    first_entry: Vec<u64>,
    first_block: Vec<u64>,
    entry_max: Vec<P::Max>,
    entry_ends: Vec<u32>,
    entry_blocks: Vec<u32>,
    postings: Vec<P>,
    mean_error: f32,
    largest_error: f32,
}
