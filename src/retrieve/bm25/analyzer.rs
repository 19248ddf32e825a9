//! From a text to the words that BM25 counts.

use std::borrow::Cow;
use std::fmt;

use hashbrown::HashSet;
use rust_stemmers::Algorithm;
use serde::{Deserialize, Serialize};

/// What becomes of a word's ending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stemmer {
    /// It stays.
    None,
    /// Snowball's stemmer for English, also known as Porter 2.
    #[default]
    English,
}

/// Words that are not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopWords {
    /// None: every word counts.
    None,
    /// The 33 English words that Lucene and bm25s (`en`) leave out.
    #[default]
    English,
}

const ENGLISH_STOP_WORDS: [&str; 33] = [
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it",
    "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these",
    "they", "this", "to", "was", "will", "with",
];

/// Cuts texts into words: lower case, runs of two or more letters, digits and underscores (bm25s:
/// `(?u)\b\w\w+\b`), without stop words, stemmed.
pub struct Analyzer {
    stemmer: Option<rust_stemmers::Stemmer>,
    stop_words: HashSet<&'static str>,
}

impl fmt::Debug for Analyzer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stem = self.stemmer.is_some();
        write!(
            f,
            "Analyzer {{ stem: {stem}, stop: {} }}",
            self.stop_words.len()
        )
    }
}

impl Analyzer {
    /// With the given stemmer and stop words.
    pub fn new(stemmer: Stemmer, stop_words: StopWords) -> Self {
        let algorithm = match stemmer {
            Stemmer::None => None,
            Stemmer::English => Some(Algorithm::English),
        };
        let words = match stop_words {
            StopWords::None => &[][..],
            StopWords::English => &ENGLISH_STOP_WORDS,
        };
        Self {
            stemmer: algorithm.map(rust_stemmers::Stemmer::create),
            stop_words: words.iter().copied().collect(),
        }
    }

    /// Hands over the words of `text` in order, not yet stemmed.
    pub fn words(&self, text: &str, mut take: impl FnMut(&str)) {
        let lower = text.to_lowercase();
        let is_word = |c: char| c == '_' || c.is_alphanumeric();
        for word in lower.split(|c: char| !is_word(c)) {
            // One character is at most four bytes; count characters only where it matters.
            let long = word.len() > 4 || word.chars().nth(1).is_some();
            if long && !self.stop_words.contains(word) {
                take(word);
            }
        }
    }

    /// The stem of a word.
    pub fn stem<'w>(&self, word: &'w str) -> Cow<'w, str> {
        match &self.stemmer {
            Some(stemmer) => stemmer.stem(word),
            None => word.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stems(text: &str, stemmer: Stemmer, stop_words: StopWords) -> Vec<String> {
        let analyzer = Analyzer::new(stemmer, stop_words);
        let mut stems = vec![];
        analyzer.words(text, |word| stems.push(analyzer.stem(word).into_owned()));
        stems
    }

    #[test]
    fn texts_become_words() {
        let text = "The cats' x_1 isn't 2-run; A CAF\u{c9} (running)\u{2014}runs.";
        assert_eq!(
            stems(text, Stemmer::None, StopWords::None),
            [
                "the",
                "cats",
                "x_1",
                "isn",
                "run",
                "caf\u{e9}",
                "running",
                "runs"
            ]
        );
        assert_eq!(
            stems(text, Stemmer::English, StopWords::English),
            ["cat", "x_1", "isn", "run", "caf\u{e9}", "run", "run"]
        );
        assert!(stems(" .,a b ", Stemmer::English, StopWords::None).is_empty());
    }
}
