//! Identities and scores shared by every module.
//!
//! One type per identity, so that a token cannot be taken for a passage. Nothing here knows about
//! files, tensors or models.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A token of the tokenizer's vocabulary.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
#[repr(transparent)]
pub struct TokenId(pub u32);

impl TokenId {
    /// The id as an array index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Ordinal of a passage in its corpus, 0 to corpus size - 1, in file order.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
#[repr(transparent)]
pub struct PassageIdx(pub u32);

impl PassageIdx {
    /// The ordinal as an array index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

macro_rules! external_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as written in the file.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.into())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(|id| Self(id.into()))
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

external_id! {
    /// External id of a passage, as its files write it (cheap to clone).
    DocId
}
external_id! {
    /// External id of a query, as its files write it (cheap to clone).
    QueryId
}

/// A ranking score: an `f32` that is never NaN, totally ordered, larger is better.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(transparent)]
pub struct Score(f32);

impl Score {
    /// The score, or `None` if `value` is NaN. Negative zero becomes zero.
    pub fn new(value: f32) -> Option<Self> {
        (!value.is_nan()).then_some(Self(value + 0.0))
    }

    /// The plain number.
    pub fn get(self) -> f32 {
        self.0
    }
}

impl Eq for Score {}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Weights of some terms; all others are zero.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SparseVector {
    /// The terms, strictly increasing.
    pub terms: Vec<u32>,
    /// Their weights, above zero and finite.
    pub weights: Vec<f32>,
}

impl SparseVector {
    /// The vector of `entries` in any order: weights of one term are added, zeros left out.
    pub fn from_entries(mut entries: Vec<(u32, f32)>) -> Self {
        entries.sort_by_key(|&(term, _)| term);
        let mut vector = Self::default();
        for (term, weight) in entries {
            match vector.terms.last() {
                Some(&last) if last == term => {
                    *vector.weights.last_mut().expect("as many as terms") += weight;
                }
                _ if weight != 0.0 => {
                    vector.terms.push(term);
                    vector.weights.push(weight);
                }
                _ => {}
            }
        }
        vector
    }

    /// Number of terms with a weight.
    pub fn len(&self) -> usize {
        self.terms.len()
    }

    /// Whether no term has a weight.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Terms and weights.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f32)> {
        self.terms.iter().copied().zip(self.weights.iter().copied())
    }

    /// Inner product: the sum over common terms in the order of the terms, in f64.
    pub fn dot(&self, other: &Self) -> f64 {
        let mut sum = 0.0;
        let mut at = 0;
        for (term, weight) in self.iter() {
            at += other.terms[at..].partition_point(|&t| t < term);
            if other.terms.get(at) == Some(&term) {
                sum += f64::from(weight) * f64::from(other.weights[at]);
            }
        }
        sum
    }

    /// The positive values of `row` by their place, the largest `top_k` of them; of equal values the first.
    pub fn from_row(row: &[f32], top_k: Option<usize>) -> Self {
        let mut kept: Vec<(u32, f32)> = (row.iter().enumerate())
            .filter(|&(_, &weight)| weight > 0.0)
            .map(|(term, &weight)| (term as u32, weight))
            .collect();
        if let Some(k) = top_k.filter(|&k| k < kept.len()) {
            kept.select_nth_unstable_by(k, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            kept.truncate(k);
            kept.sort_unstable_by_key(|&(term, _)| term);
        }
        let (terms, weights) = kept.into_iter().unzip();
        Self { terms, weights }
    }
}

/// A query with its external id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// External id.
    pub id: QueryId,
    /// The text as written, never empty.
    pub text: String,
}

/// A passage: the unit of retrieval.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passage {
    /// External id.
    pub id: DocId,
    /// Title, may be empty.
    pub title: String,
    /// Body text, never empty.
    pub text: String,
}

impl Passage {
    /// Title and text as one, with a space between: what BM25 and the encoders read.
    pub fn full_text(&self) -> String {
        match &self.title[..] {
            "" => self.text.clone(),
            title => format!("{title} {}", self.text),
        }
    }
}

/// One line of a ranking.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hit {
    /// The passage found.
    pub passage: PassageIdx,
    /// Its score; larger is better.
    pub score: Score,
}

/// Sorts best first; equal scores by passage order, so that every ranking is reproducible.
pub fn sort_hits(hits: &mut [Hit]) {
    hits.sort_unstable_by(|a, b| b.score.cmp(&a.score).then(a.passage.cmp(&b.passage)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_ordered_and_never_nan() {
        assert_eq!(Score::new(f32::NAN), None);
        let score = |v| Score::new(v).unwrap();
        assert!(score(2.0) > score(-1.0));
        assert_eq!(score(-0.0).cmp(&score(0.0)), Ordering::Equal);
        assert!(score(f32::INFINITY) > score(f32::MAX));
    }

    #[test]
    fn hits_sort_by_score_then_passage() {
        let hit = |p, s| Hit {
            passage: PassageIdx(p),
            score: Score::new(s).unwrap(),
        };
        let mut hits = vec![hit(2, 1.0), hit(0, 1.0), hit(1, 3.0)];
        sort_hits(&mut hits);
        let order: Vec<u32> = hits.iter().map(|h| h.passage.0).collect();
        assert_eq!(order, [1, 0, 2]);
    }
}
