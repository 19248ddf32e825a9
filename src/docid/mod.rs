//! Identifiers of passages: learned from vectors, taken from titles, or drawn at random.
//!
//! Residual quantisation (RIPOR, Zeng et al. 2024) and hierarchical k-means (DSI, Tay et al. 2022; NCI, Wang et al.
//! 2022) give passages with like vectors identifiers that begin alike; titles say what a passage is about (GENRE, De
//! Cao et al. 2021); one token per passage (atomic) and random codes are the controls that show what the meaning of
//! identifiers is worth. All end up in one file: a [`Trie`], external ids, how they were made, centroids.
//!
//! Codes are tokens behind the tokenizer's vocabulary, other ones at every position; [`Docids::trie`] says which.

mod assign;
mod collisions;
mod hierarchy;
mod kmeans;
mod matrix_file;
mod report;
mod residual;
mod vectors;

use std::path::{Path, PathBuf};

use rand::RngExt;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

pub use matrix_file::write_matrix;
pub use report::{LevelReport, Report};
pub use vectors::Vectors;

use crate::data::Corpus;
use crate::index::{PassageSet, Trie, TrieBuilder, TrieError, TrieFile};
use crate::rng::stream;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::types::PassageIdx;

/// Why identifiers cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocidError {
    /// The file of identifiers, or what it is to hold.
    #[error(transparent)]
    Trie(#[from] TrieError),
    /// A title could not be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// An option makes no sense.
    #[error("{name} = {found} must be {range}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        found: usize,
        /// What is accepted.
        range: String,
    },
    /// Titles are to be tokenised, and no tokenizer was given.
    #[error("titles are made of a tokenizer's tokens: name the one of the model")]
    NoTokenizer,
    /// The tokenizer is not the one of the titles.
    #[error(
        "{}: titles of tokenizer {expected:016x}, but the tokenizer in use is {found:016x}; use the first one, or rebuild \
         with `genret docid build`", path.display()
    )]
    OtherTokenizer {
        /// The file.
        path: PathBuf,
        /// Fingerprint of the tokenizer that the titles were made with.
        expected: u64,
        /// Fingerprint of the one in use.
        found: u64,
    },
    /// The file of vectors could not be read or written.
    #[error("{}: cannot read or write the vectors: {source}", path.display())]
    Vectors {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file of vectors is not what is expected.
    #[error(
        "{}: {found}; expected a .npy or .safetensors file with one matrix of numbers, a row per passage in the order of the \
         corpus", path.display()
    )]
    NotVectors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: String,
    },
    /// The file holds vectors of another corpus.
    #[error("{}: {found} vectors for {passages} passages; encode the same corpus again", path.display())]
    OtherNumber {
        /// The file.
        path: PathBuf,
        /// Its rows.
        found: usize,
        /// Passages of the corpus.
        passages: usize,
    },
    /// The identifiers are those of other passages.
    #[error(
        "{}: made for another corpus (fingerprint {expected:016x}, this one is {found:016x}); rebuild with `genret docid \
         build`", path.display()
    )]
    OtherCorpus {
        /// The file of identifiers.
        path: PathBuf,
        /// Fingerprint of its corpus.
        expected: u64,
        /// Fingerprint of the corpus in use.
        found: u64,
    },
}

/// Where identifiers come from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Residual quantisation of the passages' vectors.
    #[default]
    Rq,
    /// Hierarchical k-means of the passages' vectors.
    Kmeans,
    /// One token per passage.
    Atomic,
    /// The title, or the first words where there is none.
    Title,
    /// Random codes of the shape of residual quantisation: the control.
    Random,
}

impl Method {
    /// The name, as configurations write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rq => "rq",
            Self::Kmeans => "kmeans",
            Self::Atomic => "atomic",
            Self::Title => "title",
            Self::Random => "random",
        }
    }
}

/// What becomes of passages with the same identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolve {
    /// Further codes at the end number them.
    #[default]
    Suffix,
    /// They share it, and their rank.
    None,
}

/// How identifiers are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DocidOptions {
    /// Where they come from.
    pub method: Method,
    /// Codes of an identifier (rq, random).
    pub levels: usize,
    /// Codes to choose from at each position (rq, random); clusters of a cluster (kmeans).
    pub codes: usize,
    /// Passages of the largest cluster that is not divided (kmeans); 0 stands for `codes`.
    pub leaf: usize,
    /// Words that stand for a title where there is none, and the most of one (title).
    pub words: usize,
    /// A `.npy` or `.safetensors` file with a vector per passage, in the order of the corpus (rq, kmeans); TF-IDF of the
    /// passages' words, projected at random, if none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vectors: Option<PathBuf>,
    /// Numbers of a vector that is made of a passage's words.
    pub dims: usize,
    /// Rounds of k-means.
    pub iterations: usize,
    /// What becomes of passages with the same identifier.
    pub resolve: Resolve,
    /// Decides every random choice.
    pub seed: u64,
}

impl Default for DocidOptions {
    fn default() -> Self {
        Self {
            method: Method::Rq,
            levels: 4,
            codes: 64,
            leaf: 0,
            words: 12,
            vectors: None,
            dims: 256,
            iterations: 20,
            resolve: Resolve::Suffix,
            seed: 0,
        }
    }
}

impl DocidOptions {
    /// Fails on numbers that make no sense.
    ///
    /// # Errors
    /// [`DocidError::Option`].
    pub fn check(&self) -> Result<(), DocidError> {
        for (name, found, range) in [
            ("levels", self.levels, 1..=256),
            ("codes", self.codes, 2..=1 << 20),
            ("leaf", self.leaf.max(1), 1..=1 << 20),
            ("words", self.words, 1..=1024),
            ("dims", self.dims, 1..=65_536),
            ("iterations", self.iterations, 1..=10_000),
        ] {
            if !range.contains(&found) {
                return Err(DocidError::Option {
                    name,
                    found,
                    range: format!("between {} and {}", range.start(), range.end()),
                });
            }
        }
        Ok(())
    }

    /// Whether vectors of the passages decide the identifiers.
    pub fn needs_vectors(&self) -> bool {
        matches!(self.method, Method::Rq | Method::Kmeans)
    }

    fn leaf(&self) -> usize {
        if self.leaf == 0 {
            self.codes
        } else {
            self.leaf
        }
    }
}

/// The codes of every passage, before they become a trie.
struct Codes {
    /// In passage order.
    codes: Vec<Vec<u32>>,
    /// Every code is below.
    alphabet: usize,
    /// Whether a code means something else at every position.
    by_position: bool,
    /// `[positions, alphabet, dims]`, where codes have centroids.
    centroids: Vec<f32>,
    /// Share of the variance that is left after each position.
    errors: Vec<f64>,
    /// Which codes may number passages with the same identifier, and where the numbers go.
    suffix: Suffix,
}

/// Where passages with the same identifier are numbered.
#[derive(Clone, Copy)]
enum Suffix {
    /// Behind the last code, for all passages, by any code.
    Last,
    /// Before the end code `alphabet - 1 - codes`, for those that need it, by the codes behind that one.
    BeforeEnd { codes: usize },
}

/// Identifiers of every passage of a corpus, made and not yet written.
pub struct Made {
    trie: Trie,
    notes: Notes,
    centroids: Vec<f32>,
}

/// What made the identifiers, as the file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notes {
    /// How.
    pub options: DocidOptions,
    /// Fingerprint of the tokenizer whose tokens they are, for titles.
    pub tokenizer: Option<u64>,
    /// Hash of all identifiers as they were made: what models have learned, whatever was deleted since.
    pub identity: u64,
    /// Tokens of that tokenizer; 0 for codes.
    pub vocab_size: usize,
    /// Numbers of a centroid; 0 if there are none.
    pub dims: usize,
    /// What came of it.
    pub report: Report,
}

/// Makes identifiers for the passages of `corpus`; `told` hears what is being done.
///
/// Uses all threads; the result does not depend on their number.
///
/// # Errors
/// [`DocidError::Option`], [`DocidError::NoTokenizer`], [`DocidError::Tokenizer`], [`DocidError::Trie`]; those of
/// [`Vectors::read`].
pub fn make(
    corpus: &Corpus,
    options: &DocidOptions,
    tokenizer: Option<&Tokenizer>,
    told: &mut dyn FnMut(&str),
) -> Result<Made, DocidError> {
    options.check()?;
    let vectors = match (options.needs_vectors(), &options.vectors) {
        (false, _) => None,
        (true, Some(path)) => Some(Vectors::read(path, corpus.len())?),
        (true, None) => {
            told("vectors of the passages' words");
            let passages = corpus.passages();
            Some(Vectors::of_words(passages, options.dims, options.seed))
        }
    };
    let dims = vectors.as_ref().map_or(0, Vectors::dims);
    let mut titles_of = None;
    let mut codes = match (options.method, vectors) {
        (Method::Rq, Some(vectors)) => residual::quantise(vectors, options, told),
        (Method::Kmeans, Some(vectors)) => {
            told("hierarchical k-means");
            hierarchy::divide(&vectors, options)
        }
        (Method::Rq | Method::Kmeans, None) => unreachable!("vectors were made above"),
        (Method::Atomic, _) => atomic(corpus.len()),
        (Method::Random, _) => random(corpus.len(), options),
        (Method::Title, _) => {
            let tokenizer = tokenizer.ok_or(DocidError::NoTokenizer)?;
            titles_of = Some(tokenizer);
            titles(corpus, tokenizer, options)?
        }
    };
    let collided = collisions::Collided::of(&codes.codes);
    if options.resolve == Resolve::Suffix {
        collisions::resolve(&mut codes);
    }
    told("the tree of the identifiers");
    let stride = if codes.by_position { codes.alphabet } else { 0 };
    let mut builder = TrieBuilder::new(codes.alphabet, stride)?;
    codes.codes.iter().try_for_each(|id| builder.push(id))?;
    let trie = builder.finish()?;
    let mut hasher = Xxh3::new();
    for id in &codes.codes {
        hasher.update(&(id.len() as u64).to_le_bytes());
        id.iter()
            .for_each(|code| hasher.update(&code.to_le_bytes()));
    }
    let report = Report::new(&codes, collided, trie.num_ids());
    let notes = Notes {
        options: options.clone(),
        tokenizer: titles_of.map(Tokenizer::fingerprint),
        identity: hasher.digest(),
        vocab_size: titles_of.map_or(0, Tokenizer::vocab_size),
        dims: if codes.centroids.is_empty() { 0 } else { dims },
        report,
    };
    Ok(Made {
        trie,
        notes,
        centroids: codes.centroids,
    })
}

impl Made {
    /// What came of it.
    pub fn report(&self) -> &Report {
        &self.notes.report
    }

    /// Writes the identifiers of the passages of `corpus` to `path`, which is complete or untouched afterwards.
    ///
    /// # Errors
    /// [`TrieError::Io`].
    pub fn write(&self, path: &Path, corpus: &Corpus) -> Result<(), DocidError> {
        let ids = corpus.passages().iter().map(|p| p.id.as_str());
        let notes = serde_json::to_string(&self.notes).expect("notes are plain numbers and words");
        let fingerprint = corpus.fingerprint();
        TrieFile::write(path, &self.trie, ids, fingerprint, &notes, &self.centroids)?;
        Ok(())
    }
}

/// One token per passage.
fn atomic(passages: usize) -> Codes {
    Codes {
        codes: (0..passages as u32).map(|passage| vec![passage]).collect(),
        alphabet: passages,
        by_position: true,
        centroids: vec![],
        errors: vec![],
        suffix: Suffix::Last,
    }
}

/// Codes that say nothing.
fn random(passages: usize, options: &DocidOptions) -> Codes {
    let id = |passage: usize| {
        let mut rng = stream(options.seed, "random docid", &[passage as u64]);
        let codes = (0..options.levels).map(|_| rng.random_range(0..options.codes as u32));
        codes.collect()
    };
    Codes {
        codes: (0..passages).map(id).collect(),
        alphabet: options.codes,
        by_position: true,
        centroids: vec![],
        errors: vec![],
        suffix: Suffix::Last,
    }
}

/// The first words of every title, or of the text where there is none, and an end.
fn titles(
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    options: &DocidOptions,
) -> Result<Codes, DocidError> {
    let texts: Vec<String> = corpus
        .passages()
        .iter()
        .map(|passage| {
            let named = !passage.title.trim().is_empty();
            let text = if named { &passage.title } else { &passage.text };
            // After one space, as inside running text and in the index.
            text.split_whitespace()
                .take(options.words)
                .fold(String::new(), |text, word| text + " " + word)
        })
        .collect();
    let vocab_size = tokenizer.vocab_size();
    let ids = tokenizer.encode_batch(&texts)?.into_iter().map(|tokens| {
        let end = vocab_size as u32;
        tokens.iter().map(|t| t.0).chain([end]).collect()
    });
    Ok(Codes {
        codes: ids.collect(),
        alphabet: vocab_size + 1 + options.codes,
        by_position: false,
        centroids: vec![],
        errors: vec![],
        suffix: Suffix::BeforeEnd {
            codes: options.codes,
        },
    })
}

/// A file of identifiers, open.
pub struct Docids {
    path: PathBuf,
    file: TrieFile,
    notes: Notes,
}

impl Docids {
    /// Opens what `genret docid build` wrote.
    ///
    /// # Errors
    /// [`TrieError`] if it is something else or damaged.
    pub fn open(path: &Path) -> Result<Self, DocidError> {
        let file = TrieFile::open(path)?;
        let notes: Notes = serde_json::from_str(file.notes())
            .map_err(|e| TrieError::damaged(path, format!("its notes: {e}")))?;
        let (dims, tokens) = (notes.dims, file.trie().vocab_size());
        let numbers = file.numbers().len();
        if dims > 0 && (numbers % dims != 0 || numbers / dims > tokens) {
            return Err(TrieError::damaged(path, "the centroids do not fit the codes").into());
        }
        Ok(Self {
            path: path.into(),
            file,
            notes,
        })
    }

    /// The identifiers as tokens of a model: codes stand behind the vocabulary of `tokenizer`, titles are its tokens.
    ///
    /// # Errors
    /// [`DocidError::OtherTokenizer`] for titles of another tokenizer.
    pub fn trie(&self, tokenizer: &Tokenizer) -> Result<Trie, DocidError> {
        match self.notes.tokenizer {
            Some(expected) if expected != tokenizer.fingerprint() => {
                Err(DocidError::OtherTokenizer {
                    path: self.path.clone(),
                    expected,
                    found: tokenizer.fingerprint(),
                })
            }
            Some(_) => Ok(self.file.trie().clone()),
            None => Ok(self.file.trie().shifted(tokenizer.vocab_size() as u32)?),
        }
    }

    /// Tokens of the model that has those of `tokenizer` and the codes.
    pub fn vocab_size(&self, tokenizer: &Tokenizer) -> usize {
        let codes = self
            .file
            .trie()
            .vocab_size()
            .saturating_sub(self.notes.vocab_size);
        tokenizer.vocab_size() + codes
    }

    /// Centroids of the first codes, in the order of their tokens, and the numbers of each; none of other methods
    /// than residual quantisation.
    pub fn centroids(&self) -> Option<(&[f32], usize)> {
        (self.notes.dims > 0).then(|| (self.file.numbers(), self.notes.dims))
    }

    /// Replaces the file by one in which the passages of `deleted` have no identifier. Ordinals, codes and the tokens that
    /// models have learned stay.
    ///
    /// # Errors
    /// [`TrieError::Io`].
    pub fn delete(&self, deleted: &PassageSet) -> Result<(), DocidError> {
        let passages = (0..self.file.trie().num_passages() as u32).map(PassageIdx);
        let kept: PassageSet = passages.filter(|p| !deleted.contains(*p)).collect();
        let (file, trie) = (&self.file, self.file.trie().restricted_to(&kept));
        let (notes, numbers) = (file.notes(), file.numbers());
        TrieFile::write(
            &self.path,
            &trie,
            file.doc_ids(),
            file.corpus(),
            notes,
            numbers,
        )?;
        Ok(())
    }

    /// What made the identifiers.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The file.
    pub fn file(&self) -> &TrieFile {
        &self.file
    }

    /// The external id of a passage.
    pub fn doc_id(&self, passage: PassageIdx) -> &str {
        self.file.doc_id(passage)
    }

    /// Fails if the identifiers are not those of `corpus`.
    ///
    /// # Errors
    /// [`DocidError::OtherCorpus`].
    pub fn check_corpus(&self, corpus: &Corpus) -> Result<(), DocidError> {
        let (expected, found) = (self.file.corpus(), corpus.fingerprint());
        if expected == found {
            return Ok(());
        }
        Err(DocidError::OtherCorpus {
            path: self.path.clone(),
            expected,
            found,
        })
    }
}

#[cfg(test)]
mod tests;
