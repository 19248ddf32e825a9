//! A vector per passage: read from a file, or made of the passages' words.

use std::path::Path;

use hashbrown::HashMap;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{DocidError, matrix_file};
use crate::types::Passage;

/// A matrix of finite numbers, a row per passage.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    dims: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// The matrix in a `.npy` or `.safetensors` file, for `passages` passages.
    ///
    /// # Errors
    /// [`DocidError::Vectors`], [`DocidError::NotVectors`], [`DocidError::OtherNumber`].
    pub fn read(path: &Path, passages: usize) -> Result<Self, DocidError> {
        let matrix = matrix_file::read(path)?;
        let bad = |found: String| DocidError::NotVectors {
            path: path.into(),
            found,
        };
        if matrix.dims == 0 {
            return Err(bad("rows of no numbers".into()));
        }
        let rows = matrix.values.len() / matrix.dims;
        if rows != passages {
            return Err(DocidError::OtherNumber {
                path: path.into(),
                found: rows,
                passages,
            });
        }
        if let Some(at) = matrix.values.iter().position(|x| !x.is_finite()) {
            let (row, value) = (at / matrix.dims, matrix.values[at]);
            return Err(bad(format!("row {row} (from 0) holds {value}")));
        }
        Ok(matrix)
    }

    /// Vectors of unit length made of words: TF-IDF weights, `(1 + ln tf) ln((n + 1) / df)`, of the words of title and
    /// text in lower case, projected by random signs (Achlioptas 2003), which keeps angles to about `1 / sqrt(dims)`.
    pub fn of_words(passages: &[Passage], dims: usize, seed: u64) -> Self {
        let counted: Vec<Vec<(u64, u32)>> = passages
            .par_iter()
            .map(|passage| word_counts(passage, seed))
            .collect();
        let mut frequency: HashMap<u64, u32> = HashMap::new();
        for (word, _) in counted.iter().flatten() {
            *frequency.entry(*word).or_default() += 1;
        }
        let n = passages.len() as f64;
        let mut values = vec![0f32; passages.len() * dims];
        values
            .par_chunks_exact_mut(dims)
            .zip(&counted)
            .for_each(|(vector, words)| {
                for &(word, count) in words {
                    let rarity = ((n + 1.0) / f64::from(frequency[&word])).ln();
                    let weight = ((1.0 + f64::from(count).ln()) * rarity) as f32;
                    for (block, part) in (0u64..).zip(vector.chunks_mut(64)) {
                        let signs = xxh3_64_with_seed(&block.to_le_bytes(), word);
                        for (bit, x) in part.iter_mut().enumerate() {
                            *x += if signs >> bit & 1 == 1 {
                                weight
                            } else {
                                -weight
                            };
                        }
                    }
                }
                let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                if length > 0.0 {
                    vector.iter_mut().for_each(|x| *x /= length);
                }
            });
        Self { dims, values }
    }

    /// A matrix of rows of `dims` numbers.
    pub(super) fn new(dims: usize, values: Vec<f32>) -> Self {
        Self { dims, values }
    }

    /// Numbers of a row.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.dims
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Row `at`, below [`len`](Self::len).
    pub fn row(&self, at: usize) -> &[f32] {
        &self.values[at * self.dims..(at + 1) * self.dims]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dims)
    }

    pub(super) fn into_values(self) -> Vec<f32> {
        self.values
    }
}

/// Hashes of the words of a passage with their counts, in the order of their first places.
fn word_counts(passage: &Passage, seed: u64) -> Vec<(u64, u32)> {
    let mut places: HashMap<u64, usize> = HashMap::new();
    let mut words: Vec<(u64, u32)> = vec![];
    for text in [&passage.title, &passage.text] {
        for word in text.split(|c: char| !c.is_alphanumeric()) {
            if word.is_empty() {
                continue;
            }
            let hash = xxh3_64_with_seed(word.to_lowercase().as_bytes(), seed);
            let at = *places.entry(hash).or_insert_with(|| {
                words.push((hash, 0));
                words.len() - 1
            });
            words[at].1 += 1;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(title: &str, text: &str) -> Passage {
        Passage {
            id: "d".into(),
            title: title.into(),
            text: text.into(),
        }
    }

    #[test]
    fn like_passages_have_like_vectors() {
        let passages = [
            passage("Rivers", "the river Tarn floods the plain in spring"),
            passage("", "In spring the river Tarn floods the plain."),
            passage("Music", "a composer wrote songs and odes for the guild"),
        ];
        let vectors = Vectors::of_words(&passages, 1000, 3);
        assert_eq!((vectors.len(), vectors.dims()), (3, 1000));
        let angle = |a: usize, b: usize| -> f32 {
            let pairs = vectors.row(a).iter().zip(vectors.row(b));
            pairs.map(|(a, b)| a * b).sum()
        };
        assert!((angle(0, 0) - 1.0).abs() < 1e-4);
        assert!(angle(0, 1) > 0.7, "{}", angle(0, 1));
        assert!(angle(0, 2).abs() < 0.15, "{}", angle(0, 2));
        assert_eq!(vectors, Vectors::of_words(&passages, 1000, 3));
        assert_ne!(vectors, Vectors::of_words(&passages, 1000, 4));
    }
}
