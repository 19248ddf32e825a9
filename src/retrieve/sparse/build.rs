//! Building an inverted index: vectors in, a file or an index in memory out.

use std::path::{Path, PathBuf};

use super::clusters::{Source, divide};
use super::file::{FORMAT, Header, Kind, MODEL};
use super::{Precision, SparseIndex, SparseOptions, VectorError, Weight, check};
use crate::atomic_file;
use crate::section_file::{self, Bytes, IdList, Section, as_bytes};
use crate::types::SparseVector;

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
        if !block.is_power_of_two() || !(8..=1024).contains(&block) {
            return Err(VectorError::Option {
                name: "block_passages",
                range: "a power of two from 8 to 1024",
                found: block.to_string(),
            });
        }
        if let Some(clusters) = &options.clusters {
            clusters.check()?;
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

    /// Names the model that made the vectors, by the hash of what made it.
    pub fn of_model(mut self, identity: &str) -> Self {
        self.attach(MODEL, identity.into());
        self
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
            Precision::Bytes => self.build_as::<u8>(write),
            Precision::Floats => self.build_as::<f32>(write),
        }
    }

    fn build_as<W: Weight>(
        self,
        write: impl FnOnce(&Header, &[Section<'_>]) -> Result<(), VectorError>,
    ) -> Result<(), VectorError> {
        let lists = self.invert::<W>();
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
            of(Kind::EntryMax, as_bytes(&lists.entry_max)),
            of(Kind::EntryEnd, as_bytes(&lists.entry_ends)),
            of(Kind::Passages, as_bytes(&lists.passages)),
            of(Kind::Weights, as_bytes(&lists.weights)),
            of(Kind::IdEnds, as_bytes(&self.ids.ends)),
            of(Kind::IdBytes, &self.ids.bytes),
        ];
        let divided;
        let mut of_passages = (vec![0u64], vec![]);
        if let Some(options) = &self.options.clusters {
            let source = Source {
                ends: &self.ends,
                terms: &self.terms,
                weights: &self.weights,
                first_posting: &lists.first_posting,
                passages: &lists.passages,
            };
            divided = divide(&source, self.num_terms, options);
            of_passages
                .0
                .extend(self.ends.iter().map(|&end| end as u64));
            let weights = self.terms.iter().zip(&self.weights);
            let steps = weights
                .map(|(&term, &weight)| W::new(self.steps(weight, lists.scales[term as usize])));
            of_passages.1.extend(steps);
            sections.extend([
                of(Kind::PassageStarts, as_bytes(&of_passages.0)),
                of(Kind::PassageTerms, as_bytes(&self.terms)),
                of(Kind::PassageWeights, as_bytes(&of_passages.1)),
                of(Kind::FirstCluster, as_bytes(&divided.first_cluster)),
                of(Kind::FirstMember, as_bytes(&divided.first_member)),
                of(Kind::Members, as_bytes(&divided.members)),
                of(Kind::FirstSummary, as_bytes(&divided.first_entry)),
                of(Kind::SummaryTerms, as_bytes(&divided.entry_terms)),
                of(Kind::SummaryCodes, as_bytes(&divided.entry_codes)),
                of(Kind::SummaryScales, as_bytes(&divided.scales)),
            ]);
        }
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

    /// A weight in units of its term's scale, as it is kept.
    fn steps(&self, weight: f32, scale: f32) -> f32 {
        match self.options.precision {
            // It stays above zero, so that its passage is still found.
            Precision::Bytes => (weight / scale).round().clamp(1.0, 255.0),
            Precision::Floats => weight,
        }
    }

    /// Terms and weights of every passage, in order.
    fn vectors(&self) -> impl Iterator<Item = (&[u32], &[f32])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| (&self.terms[start..end], &self.weights[start..end]))
    }

    fn invert<W: Weight>(&self) -> Inverted<W> {
        let block = self.options.block_passages;
        let num_blocks = self.ends.len().div_ceil(block);
        let mut postings = vec![0u64; self.num_terms];
        let mut largest = vec![0.0f32; self.num_terms];
        for (&term, &weight) in self.terms.iter().zip(&self.weights) {
            let largest = &mut largest[term as usize];
            *largest = largest.max(weight);
            postings[term as usize] += 1;
        }
        let (mut first_posting, mut first_entry) = (vec![0], vec![0]);
        let (mut posting, mut entry) = (0, 0);
        for &count in &postings {
            posting += count;
            // The entries of a term take no more room than its postings.
            if count > 0 && count as usize >= num_blocks {
                entry += num_blocks as u64;
            }
            first_posting.push(posting);
            first_entry.push(entry);
        }
        let scale = |&largest: &f32| match self.options.precision {
            Precision::Bytes => largest / 255.0,
            Precision::Floats => 1.0,
        };
        let mut lists = Inverted {
            scales: largest.iter().map(scale).collect(),
            largest: vec![0.0; self.num_terms],
            entry_max: vec![W::new(0.0); entry as usize],
            entry_ends: vec![0; entry as usize],
            passages: vec![0; posting as usize],
            weights: vec![W::new(0.0); posting as usize],
            first_posting,
            first_entry,
            mean_error: 0.0,
            largest_error: 0.0,
        };
        // From now on the number of postings written.
        let mut written = postings;
        written.fill(0);
        let (mut sum, mut error_sum, mut largest_error) = (0.0, 0.0, 0.0f64);
        for (passage, (terms, weights)) in self.vectors().enumerate() {
            for (&term, &weight) in terms.iter().zip(weights) {
                let term = term as usize;
                let scale = lists.scales[term];
                let steps = self.steps(weight, scale);
                let at = (lists.first_posting[term] + written[term]) as usize;
                lists.passages[at] = passage as u32;
                lists.weights[at] = W::new(steps);
                lists.largest[term] = lists.largest[term].max(steps);
                written[term] += 1;
                if lists.first_entry[term] < lists.first_entry[term + 1] {
                    let entry = lists.first_entry[term] as usize + passage / block;
                    lists.entry_ends[entry] = written[term] as u32;
                    if lists.entry_max[entry] < W::new(steps) {
                        lists.entry_max[entry] = W::new(steps);
                    }
                }
                let error = (f64::from(steps * scale) - f64::from(weight)).abs();
                sum += f64::from(weight);
                error_sum += error;
                largest_error = largest_error.max(error / f64::from(largest[term]));
            }
        }
        for entries in lists.entry_ends.chunks_mut(num_blocks.max(1)) {
            // A block without the term ends where the one before ends.
            let mut end = 0;
            for entry in entries {
                end = end.max(*entry);
                *entry = end;
            }
        }
        if sum > 0.0 {
            lists.mean_error = (error_sum / sum) as f32;
        }
        lists.largest_error = largest_error as f32;
        lists
    }
}

/// The sections of the file.
struct Inverted<W: Weight> {
    scales: Vec<f32>,
    largest: Vec<f32>,
    first_posting: Vec<u64>,
    first_entry: Vec<u64>,
    entry_max: Vec<W>,
    entry_ends: Vec<u32>,
    passages: Vec<u32>,
    weights: Vec<W>,
    mean_error: f32,
    largest_error: f32,
}
