//! Sets of passages, and an index of one.
//!
//! A filter (freshness, language, access rights) is exact if generation and ranking see the index
//! that would have been built of its passages alone. That index is made from the whole one without
//! sorting: the rows of the subset, in the order they have, are its rows, and a continuation of a
//! stored list keeps as many of its rows as lie inside. One pass over the rows with a bit per
//! position (n / 8 bytes, mostly in cache) finds them; ranks in those bits give the new lists.

use std::fs;
use std::ops::Range;
use std::path::Path;

use hashbrown::HashMap;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::error::IndexError;
use super::live::LiveIndex;
use super::nodes::NodeTables;
use super::packed::PackedRows;
use super::rows::FieldData;
use crate::section_file::as_bytes;
use crate::types::PassageIdx;

/// Rows that one thread looks at before it takes others.
const CHUNK_ROWS: usize = 1 << 16;

/// A set of passages of one index: one bit each.
///
/// Collected from passages in any order; those beyond the index do not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PassageSet {
    /// No zero words at the end, so that equal sets are equal.
    words: Vec<u64>,
}

impl FromIterator<PassageIdx> for PassageSet {
    fn from_iter<I: IntoIterator<Item = PassageIdx>>(passages: I) -> Self {
        let mut words: Vec<u64> = vec![];
        for passage in passages {
            let word = passage.index() / 64;
            if word >= words.len() {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << (passage.0 % 64);
        }
        Self { words }
    }
}

impl PassageSet {
    /// The passages of `index` whose external ids `path` lists, one per line; empty lines count not.
    ///
    /// # Errors
    /// [`IndexError::Ids`], [`IndexError::NoIds`], or [`IndexError::UnknownListed`] with the line of an
    /// id that is not there or deleted.
    pub fn read(path: &Path, index: &LiveIndex) -> Result<Self, IndexError> {
        Self::read_listed(path, index.passages().map(|p| (index.doc_id(p), p)))
    }

    /// As [`read`](Self::read), of passages that are known by their external ids.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn read_listed<'d>(
        path: &Path,
        known: impl Iterator<Item = (&'d str, PassageIdx)>,
    ) -> Result<Self, IndexError> {
        let text = fs::read_to_string(path).map_err(|source| IndexError::Ids {
            path: path.into(),
            source,
        })?;
        let known: HashMap<&str, PassageIdx> = known.collect();
        let lines = (1..).zip(text.lines().map(str::trim));
        let passages: Self = lines
            .filter(|(_, id)| !id.is_empty())
            .map(|(line, id)| {
                let unknown = || IndexError::UnknownListed {
                    path: path.into(),
                    line,
                    id: id.into(),
                };
                known.get(id).copied().ok_or_else(unknown)
            })
            .collect::<Result<_, _>>()?;
        if passages.is_empty() {
            return Err(IndexError::NoIds { path: path.into() });
        }
        Ok(passages)
    }

    /// Number of passages.
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether `passage` is one of them.
    #[inline]
    pub fn contains(&self, passage: PassageIdx) -> bool {
        let word = self.words.get(passage.index() / 64);
        word.is_some_and(|word| word >> (passage.0 % 64) & 1 == 1)
    }

    /// The passages, increasing.
    pub fn iter(&self) -> impl Iterator<Item = PassageIdx> {
        self.iter_range(0..self.words.len() * 64)
    }

    /// Those of the passages in `range`, increasing.
    pub(in crate::index) fn iter_range(
        &self,
        range: Range<usize>,
    ) -> impl Iterator<Item = PassageIdx> {
        range
            .map(|passage| PassageIdx(passage as u32))
            .filter(|&passage| self.contains(passage))
    }

    /// Removes the passages that are not in `other`.
    pub(in crate::index) fn intersect(&mut self, other: &Self) {
        self.words.truncate(other.words.len());
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= other;
        }
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }

    /// Hash of the passages.
    pub(in crate::index) fn fingerprint(&self) -> u64 {
        xxh3_64(as_bytes(&self.words))
    }
}

/// A bit per row of an index with a running count: how many rows before one are kept.
struct KeptRows {
    words: Vec<u64>,
    /// Per word the bits before it.
    before: Vec<u32>,
}

impl KeptRows {
    /// The rows kept before `row`.
    fn rank(&self, row: u32) -> u32 {
        let (word, bit) = (row as usize / 64, row % 64);
        match (self.words.get(word), self.before.get(word)) {
            (Some(bits), Some(before)) => before + (bits & ((1 << bit) - 1)).count_ones(),
            _ => match (self.words.last(), self.before.last()) {
                (Some(bits), Some(before)) => before + bits.count_ones(),
                _ => 0,
            },
        }
    }
}

impl FieldData {
    /// The field of an index in which the passages outside `subset` have no tokens.
    pub(super) fn restricted_to(&self, subset: &PassageSet) -> Self {
        let text_len = self.text.len();
        let mut inside = vec![0u64; text_len.div_ceil(64)];
        for (passage, bounds) in self.starts.windows(2).enumerate() {
            if subset.contains(PassageIdx(passage as u32)) {
                let end = (bounds[1] as usize).min(text_len);
                set_bits(&mut inside, bounds[0] as usize..end);
            }
        }
        let (rows, kept) = keep_rows(&self.suffixes, &inside);
        let tables = self.kept_lists(&kept, rows.len() as u32);
        Self::new(
            self.header,
            self.text.clone(),
            rows,
            self.starts.clone(),
            self.blocks.clone(),
            tables,
        )
    }

    /// The stored lists without the rows that are not kept.
    fn kept_lists(&self, kept: &KeptRows, num_rows: u32) -> NodeTables {
        let mut tables = NodeTables::default();
        let count = self.nodes.len() - 1;
        // Children come after their parents, so whether a node stays is known when it is reached.
        let mut stays = vec![false; count];
        stays[0] = true;
        for node in 0..count {
            if !stays[node] {
                continue;
            }
            tables.start_node(kept.rank(self.nodes[node][0]));
            // A damaged list has no continuations here either.
            let Some(list) = self.node(node as u32) else {
                continue;
            };
            let mut start = kept.rank(list.first_row);
            for (slot, (nth, &token)) in (list.first_slot..).zip(list.tokens.iter().enumerate()) {
                let end = kept.rank(list.ends.get(list.first_row, nth));
                if end > start {
                    let child = self.child_node(slot).map(|child| child as usize);
                    let child = child.filter(|&child| {
                        end - start >= self.header.min_node_count
                            && (node + 1..count).contains(&child)
                    });
                    if let Some(child) = child {
                        stays[child] = true;
                    }
                    tables.push(token, end, child.is_some());
                }
                start = end;
            }
        }
        tables.finish(num_rows);
        tables
    }
}

/// Sets the bits of `range`.
fn set_bits(words: &mut [u64], range: Range<usize>) {
    if range.is_empty() {
        return;
    }
    let (first, last) = (range.start / 64, (range.end - 1) / 64);
    let from = u64::MAX << (range.start % 64);
    let to = u64::MAX >> (63 - (range.end - 1) % 64);
    if first == last {
        words[first] |= from & to;
    } else {
        words[first] |= from;
        words[first + 1..last].fill(u64::MAX);
        words[last] |= to;
    }
}

/// The rows whose position has its bit set, and which they are.
fn keep_rows(rows: &PackedRows, inside: &[u64]) -> (Vec<u32>, KeptRows) {
    let chunks: Vec<(Vec<u32>, Vec<u64>)> = (0..rows.len().div_ceil(CHUNK_ROWS))
        .into_par_iter()
        .map(|chunk| {
            let chunk = chunk * CHUNK_ROWS..rows.len().min((chunk + 1) * CHUNK_ROWS);
            let mut kept = Vec::with_capacity(chunk.len());
            let mut words = Vec::with_capacity(chunk.len().div_ceil(64));
            for start in chunk.clone().step_by(64) {
                let (mut bits, mut block) = (0u64, [0; 64]);
                let some = start as u32..chunk.end.min(start + 64) as u32;
                for (nth, position) in rows.positions(some).enumerate() {
                    let word = inside.get(position as usize / 64).copied().unwrap_or(0);
                    bits |= (word >> (position % 64) & 1) << nth;
                    block[nth] = position;
                }
                words.push(bits);
                while bits != 0 {
                    kept.push(block[bits.trailing_zeros() as usize]);
                    bits &= bits - 1;
                }
            }
            (kept, words)
        })
        .collect();
    let mut kept = Vec::with_capacity(chunks.iter().map(|(kept, _)| kept.len()).sum());
    let mut words: Vec<u64> = Vec::with_capacity(rows.len().div_ceil(64));
    for (chunk_kept, chunk_words) in chunks {
        kept.extend(chunk_kept);
        words.extend(chunk_words);
    }
    let before = words
        .iter()
        .scan(0, |sum, word: &u64| {
            let before = *sum;
            *sum += word.count_ones();
            Some(before)
        })
        .collect();
    (kept, KeptRows { words, before })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{builder, compare, naive, passages, queries_of, temporary};
    use crate::index::{Field, LiveWriter, NgramIndex};
    use crate::rng::stream;
    use crate::types::TokenId;
    use rand::RngExt;

    fn draw(seed: u64, passages: usize, share: f64) -> PassageSet {
        let mut rng = stream(seed, "subset", &[]);
        (0..passages as u32)
            .map(PassageIdx)
            .filter(|_| rng.random::<f64>() < share)
            .collect()
    }

    /// The passages of `subset`; the others have no tokens.
    fn emptied(
        passages: &[(Vec<TokenId>, Vec<TokenId>)],
        subset: &PassageSet,
    ) -> Vec<(Vec<TokenId>, Vec<TokenId>)> {
        let inside = |p: usize| subset.contains(PassageIdx(p as u32));
        let both = passages.iter().enumerate();
        both.map(|(p, both)| {
            if inside(p) {
                both.clone()
            } else {
                Default::default()
            }
        })
        .collect()
    }

    #[test]
    fn bits_of_every_range() {
        for start in 0..130 {
            for end in start..=130 {
                let mut words = [0u64; 3];
                set_bits(&mut words, start..end);
                for bit in 0..192 {
                    let set = words[bit / 64] >> (bit % 64) & 1 == 1;
                    assert_eq!(set, (start..end).contains(&bit), "{start}..{end} {bit}");
                }
            }
        }
    }

    #[test]
    fn a_set_knows_its_passages() {
        let set: PassageSet = [64, 3, 3, 700].map(PassageIdx).into_iter().collect();
        assert_eq!(set.len(), 3);
        assert!(set.iter().eq([3, 64, 700].map(PassageIdx)));
        assert!(!set.contains(PassageIdx(4)) && !set.contains(PassageIdx(100_000)));
        let mut both = set.clone();
        both.intersect(&[3, 65].map(PassageIdx).into_iter().collect());
        assert_eq!(both, [3].map(PassageIdx).into_iter().collect());
        both.intersect(&PassageSet::default());
        assert!(both.is_empty());
    }

    #[test]
    fn a_filtered_index_equals_that_of_its_passages() {
        for (seed, (alphabet, mean_len)) in (0..).zip([(1, 20), (2, 9), (5, 70), (300, 30)]) {
            for (max, min_node) in [(1, 1), (4, 2), (7, 64), (40, 3), (64, 256)] {
                for share in [0.0, 0.01, 0.1, 0.5, 0.9, 1.0] {
                    let corpus = passages(seed, 1500, mean_len, alphabet, 0);
                    let vocab = alphabet as usize + 1;
                    let index = builder(&corpus, vocab, max, min_node).into_index().unwrap();
                    let subset = draw(seed, corpus.len(), share);
                    let filtered = index.restricted_to(&subset);
                    let expected = emptied(&corpus, &subset);
                    for field in Field::ALL {
                        let naive = naive(&expected, field, vocab, max);
                        compare(&filtered.with_field(field), &naive, seed, 4);
                    }
                    assert_ne!(filtered.fingerprint(), index.fingerprint());
                }
            }
        }
    }

    /// Lists made by ranks are those made of the rows.
    #[test]
    fn a_filtered_index_has_the_lists_of_one_built_of_its_passages() {
        let corpus = passages(3, 4000, 30, 4, 0);
        let index = builder(&corpus, 4, 9, 8).into_index().unwrap();
        let subset = draw(3, corpus.len(), 0.4);
        let kept: Vec<_> = subset.iter().map(|p| corpus[p.index()].clone()).collect();
        let built = builder(&kept, 4, 9, 8).into_index().unwrap();
        let shape = |index: &NgramIndex| serde_json::to_value(index.stats().fields).unwrap();
        assert_eq!(shape(&index.restricted_to(&subset)), shape(&built));
    }

    #[test]
    fn a_filtered_live_index_leaves_out_what_is_deleted() {
        let folder = temporary("filtered");
        let _ = fs::remove_dir_all(&folder);
        let options = crate::index::IndexOptions {
            max_ngram_tokens: 12,
            min_node_count: 6,
        };
        let mut writer = LiveWriter::create(&folder, 9, 7, "", options).unwrap();
        let mut corpus = vec![];
        for part in 0..3 {
            let passages = passages(part, 600, 9, 9, 0);
            let mut builder = writer.builder().unwrap();
            for (title, body) in &passages {
                let (id, queries) = (format!("p{}", corpus.len()), queries_of(body));
                builder
                    .push_with_queries(&id, title, body, &queries)
                    .unwrap();
                corpus.push((title.clone(), body.clone()));
            }
            writer.add(builder).unwrap();
        }
        let deleted = draw(1, corpus.len(), 0.2);
        writer.delete(&deleted).unwrap();
        let index = writer.index().unwrap();
        for share in [0.01, 0.3, 1.0] {
            let mut subset = draw(2, corpus.len(), share);
            let filtered = index.restricted_to(&subset);
            subset.intersect(&index.passages().collect());
            assert!(filtered.passages().eq(subset.iter()));
            let expected = emptied(&corpus, &subset);
            for field in Field::ALL {
                compare(
                    &filtered.with_field(field),
                    &naive(&expected, field, 9, 12),
                    5,
                    4,
                );
            }
            // Restricting again leaves what is in both.
            let again = draw(7, corpus.len(), 0.5);
            let twice = filtered.restricted_to(&again);
            subset.intersect(&again);
            let expected = emptied(&corpus, &subset);
            compare(&twice, &naive(&expected, Field::Body, 9, 12), 5, 4);
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn ids_that_are_not_there_are_refused_with_their_line() {
        let corpus = passages(3, 200, 30, 4, 0);
        let index = LiveIndex::from(builder(&corpus, 4, 9, 8).into_index().unwrap());
        let path = temporary("ids.txt");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            PassageSet::read(&path, &index)
        };
        let expected = [0, 2].map(PassageIdx).into_iter().collect();
        assert_eq!(read("d2\n\n d0\r\nd2\n").unwrap(), expected);
        let message = read("d2\n\nnobody\n").unwrap_err().to_string();
        assert!(
            message.contains("ids.txt:3: ") && message.contains("\"nobody\""),
            "{message}"
        );
        assert!(matches!(read("\n"), Err(IndexError::NoIds { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            PassageSet::read(&path, &index),
            Err(IndexError::Ids { .. })
        ));
    }
}
