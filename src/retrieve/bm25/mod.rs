//! BM25 in Lucene's variant, over the inverted index of [`sparse`](super::sparse).
//!
//! ```text
//! score(q, d) = sum over words w of q of  idf(w) * tf / (tf + k1 (1 - b + b |d| / mean |d|))
//! idf(w) = ln(1 + (N - df + 0.5) / (df + 0.5))
//! ```
//!
//! A word that stands twice in the query counts twice. The text of a passage is its title, a space,
//! and its body. Lengths are exact, as in bm25s; Lucene rounds them to a byte, which moves its
//! scores by some percent. The fraction is the weight of a posting, idf that of the query's term.

use std::path::Path;

use hashbrown::HashMap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::sparse::{Precision, SparseBuilder, SparseIndex, SparseOptions, VectorError};
use super::{RetrieveError, Retriever};
use crate::data::Corpus;
use crate::section_file::{IdList, Ids, as_bytes};
use crate::types::{Hit, PassageIdx, Query, SparseVector};

mod analyzer;
#[cfg(test)]
mod tests;

pub use analyzer::{Analyzer, Stemmer, StopWords};

/// Sections that BM25 adds to the index.
const SETTINGS: u16 = 32;
const WORD_ENDS: u16 = 33;
const WORD_BYTES: u16 = 34;

/// The parameters of BM25.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bm25Options {
    /// How slowly more occurrences stop counting, 0 or more.
    pub k1: f64,
    /// How much longer passages lose, from 0 to 1.
    pub b: f64,
    /// What becomes of a word's ending.
    pub stemmer: Stemmer,
    /// Words that are not counted.
    pub stop_words: StopWords,
    /// How weights are kept; the default keeps all bits.
    pub precision: Precision,
}

impl Default for Bm25Options {
    fn default() -> Self {
        Self {
            k1: 0.9,
            b: 0.4,
            stemmer: Stemmer::English,
            stop_words: StopWords::English,
            precision: Precision::Floats,
        }
    }
}

impl Bm25Options {
    fn check(&self) -> Result<(), VectorError> {
        let wrong = |name, range, found: f64| {
            Err(VectorError::Option {
                name,
                range,
                found: found.to_string(),
            })
        };
        if !(self.k1.is_finite() && self.k1 >= 0.0) {
            return wrong("k1", "0 or more", self.k1);
        }
        if !(0.0..=1.0).contains(&self.b) {
            return wrong("b", "from 0 to 1", self.b);
        }
        Ok(())
    }
}

/// What a BM25 index was made from.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
struct Settings {
    options: Bm25Options,
    corpus: u64,
}

/// BM25 over a corpus.
pub struct Bm25 {
    index: SparseIndex,
    analyzer: Analyzer,
    words: HashMap<Box<str>, u32>,
    settings: Settings,
    tag: String,
}

impl Bm25 {
    /// Counts the words of `corpus`, in memory.
    ///
    /// # Errors
    /// [`VectorError::Option`] for parameters out of range.
    pub fn of_corpus(corpus: &Corpus, options: &Bm25Options) -> Result<Self, VectorError> {
        Self::from_index(count(corpus, options)?.into_index()?)
    }

    /// Counts the words of `corpus` and writes the index to `path`.
    ///
    /// # Errors
    /// As [`of_corpus`](Self::of_corpus), or if the file cannot be written.
    pub fn write(corpus: &Corpus, options: &Bm25Options, path: &Path) -> Result<(), VectorError> {
        count(corpus, options)?.write(path)
    }

    /// Opens an index that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// Those of [`SparseIndex::open`]; [`VectorError::Absent`] if the index was not made for BM25.
    pub fn open(path: &Path) -> Result<Self, VectorError> {
        Self::from_index(SparseIndex::open(path)?)
    }

    /// BM25 by an index that has its words.
    ///
    /// # Errors
    /// [`VectorError::Absent`] if the index was not made for BM25.
    pub fn from_index(index: SparseIndex) -> Result<Self, VectorError> {
        let (Some(settings), Some(ends), Some(bytes)) = (
            index.extra::<u8>(SETTINGS),
            index.extra(WORD_ENDS),
            index.extra(WORD_BYTES),
        ) else {
            return Err(VectorError::Absent {
                path: index.path().into(),
                what: "words",
                remedy: "it is not for BM25: give the model that made it with --model",
            });
        };
        let damaged = |what: &str| VectorError::damaged(index.path(), what);
        let settings: Settings = serde_json::from_slice(&settings)
            .map_err(|e| damaged(&format!("settings of BM25: {e}")))?;
        let list = Ids::new(ends, bytes);
        if list.len() != index.num_terms() {
            return Err(damaged("the words do not fit the terms"));
        }
        let words = (0..list.len()).map(|term| (list.get(term).into(), term as u32));
        Ok(Self {
            words: words.collect(),
            analyzer: Analyzer::new(settings.options.stemmer, settings.options.stop_words),
            settings,
            index,
            tag: "genret-bm25".into(),
        })
    }

    /// The same under another name in run files.
    pub fn with_tag(self, tag: &str) -> Self {
        Self {
            tag: tag.into(),
            ..self
        }
    }

    /// The parameters that the index was made with.
    pub fn options(&self) -> &Bm25Options {
        &self.settings.options
    }

    /// Whether the index was made from this corpus with these parameters.
    pub fn is_of(&self, corpus: &Corpus, options: &Bm25Options) -> bool {
        self.settings.options == *options && self.settings.corpus == corpus.fingerprint()
    }

    /// The inverted index, with the ids of the passages.
    pub fn index(&self) -> &SparseIndex {
        &self.index
    }

    /// The words of a query that the corpus has, with their idf times their number in the query.
    pub fn query(&self, text: &str) -> SparseVector {
        let num_passages = self.index.num_passages() as f64;
        let mut entries = vec![];
        self.analyzer.words(text, |word| {
            if let Some(&term) = self.words.get(&*self.analyzer.stem(word)) {
                let df = self.index.passages_with(term) as f64;
                entries.push((term, idf(num_passages, df) as f32));
            }
        });
        SparseVector::from_entries(entries)
    }

    /// The best `k` passages for a text, best first, ties in passage order; at most those that share
    /// a word with it.
    pub fn rank(&self, text: &str, k: usize) -> Vec<Hit> {
        self.index
            .search(&self.query(text), k)
            .expect("idf is above zero, and the words are the index's own")
    }

    /// The score of a passage for a text; 0 if they share no word or there is no such passage.
    pub fn score(&self, text: &str, passage: PassageIdx) -> f32 {
        self.index.score(&self.query(text), passage).unwrap_or(0.0)
    }
}

impl Retriever for Bm25 {
    fn tag(&self) -> &str {
        &self.tag
    }

    fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Vec<Hit>>, RetrieveError> {
        let vectors: Vec<_> = queries.par_iter().map(|q| self.query(&q.text)).collect();
        Ok(self.index.search_all(&vectors, k)?)
    }
}

fn idf(num_passages: f64, df: f64) -> f64 {
    ((num_passages - df + 0.5) / (df + 0.5)).ln_1p()
}

/// The postings of all words of `corpus`.
fn count(corpus: &Corpus, options: &Bm25Options) -> Result<SparseBuilder, VectorError> {
    options.check()?;
    let analyzer = Analyzer::new(options.stemmer, options.stop_words);
    let mut words = IdList::default();
    let mut terms: HashMap<String, u32> = HashMap::new();
    // Terms by unstemmed word: most words come again, and stemming takes longer than looking up.
    let mut stemmed: HashMap<Box<str>, u32> = HashMap::new();
    let (mut counts, mut ends): (Vec<(u32, u32)>, Vec<usize>) = (vec![], vec![]);
    let mut of_passage = vec![];
    let mut lengths = vec![];
    for passage in corpus.passages() {
        of_passage.clear();
        let mut take = |word: &str| {
            let term = match stemmed.get(word) {
                Some(&term) => term,
                None => {
                    let stem = analyzer.stem(word);
                    let term = *terms.entry_ref(&*stem).or_insert_with(|| {
                        words.push(&stem);
                        words.len() as u32 - 1
                    });
                    stemmed.insert(word.into(), term);
                    term
                }
            };
            of_passage.push(term);
        };
        // Nothing runs across the space between title and body.
        analyzer.words(&passage.title, &mut take);
        analyzer.words(&passage.text, &mut take);
        lengths.push(of_passage.len());
        of_passage.sort_unstable();
        let runs = of_passage.chunk_by(|a, b| a == b);
        counts.extend(runs.map(|run| (run[0], run.len() as u32)));
        ends.push(counts.len());
    }
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
    let sparse = SparseOptions {
        precision: options.precision,
        ..SparseOptions::default()
    };
    let mut builder = SparseBuilder::new(words.len(), sparse)?;
    let mut start = 0;
    let mut vector = SparseVector::default();
    for ((passage, &length), &end) in corpus.passages().iter().zip(&lengths).zip(&ends) {
        let norm = options.k1 * (1.0 - options.b + options.b * length as f64 / mean);
        vector.terms.clear();
        vector.weights.clear();
        for &(term, count) in &counts[start..end] {
            let tf = f64::from(count);
            vector.terms.push(term);
            vector.weights.push((tf / (tf + norm)) as f32);
        }
        builder.push(passage.id.as_str(), &vector)?;
        start = end;
    }
    let settings = Settings {
        options: *options,
        corpus: corpus.fingerprint(),
    };
    let settings = serde_json::to_vec(&settings).expect("plain numbers and names");
    builder.attach(SETTINGS, settings);
    builder.attach(WORD_ENDS, as_bytes(&words.ends).to_vec());
    builder.attach(WORD_BYTES, words.bytes);
    Ok(builder)
}
