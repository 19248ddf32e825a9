//! Exact search: block bounds, then the blocks themselves from the highest bound down.

use std::ops::Range;

use rayon::prelude::*;

use super::file::{Lists, ListsOf};
use super::{Posting, SparseIndex, VectorError, check};
use crate::retrieve::TopK;
use crate::retrieve::simd::wide;
use crate::types::{Hit, PassageIdx, SparseVector};

/// Blocks scored before the first cut of the others.
const FIRST_ROUND: usize = 4;

/// Memory that searches use again.
#[derive(Default)]
pub(super) struct Scratch {
    bounds: Vec<f32>,
    keys: Vec<u64>,
}

/// A term of a query in this index.
struct Term {
    /// What a step of its weights adds to the score.
    step: f32,
    /// The most that it adds.
    most: f32,
    term: u32,
    posting: usize,
    entries: Range<usize>,
    /// Its blocks in the list of block numbers; `None` if every block has an entry.
    blocks: Option<Range<usize>>,
}

impl SparseIndex {
    /// The best `k` passages by inner product of the kept weights, best first, ties in passage order;
    /// passages without a common term are never hits.
    ///
    /// Exact: as if every passage were scored, in f32, the query's terms added from the one that can
    /// add most down.
    ///
    /// # Errors
    /// [`VectorError::Vector`] for a query that is no vector of this index.
    pub fn search(&self, query: &SparseVector, k: usize) -> Result<Vec<Hit>, VectorError> {
        check(query, self.num_terms(), &|| "of the query".into())?;
        Ok(self.search_with(query, k, &mut Scratch::default()))
    }

    /// [`search`](Self::search) for many queries on all threads; results do not depend on their number.
    ///
    /// # Errors
    /// As there, naming the first such query by ordinal.
    pub fn search_all(
        &self,
        queries: &[SparseVector],
        k: usize,
    ) -> Result<Vec<Vec<Hit>>, VectorError> {
        for (ordinal, query) in queries.iter().enumerate() {
            check(query, self.num_terms(), &|| format!("of query {ordinal}"))?;
        }
        Ok(queries
            .par_iter()
            .map_init(Scratch::default, |scratch, query| {
                self.search_with(query, k, scratch)
            })
            .collect())
    }

    /// The same hits as [`search`](Self::search), by adding up every posting of the query's terms.
    ///
    /// # Errors
    /// As there.
    pub fn search_exhaustively(
        &self,
        query: &SparseVector,
        k: usize,
    ) -> Result<Vec<Hit>, VectorError> {
        check(query, self.num_terms(), &|| "of the query".into())?;
        let terms = self.terms(query);
        Ok(match &self.lists {
            Lists::Bytes(lists) => self.add_everything(lists, &terms, k),
            Lists::Floats(lists) => self.add_everything(lists, &terms, k),
        })
    }

    /// The score of one passage: what [`search`](Self::search) would give it, 0 without a common term.
    ///
    /// # Errors
    /// As there, or if there is no such passage.
    pub fn score(&self, query: &SparseVector, passage: PassageIdx) -> Result<f32, VectorError> {
        check(query, self.num_terms(), &|| "of the query".into())?;
        if passage.index() >= self.num_passages() {
            let what = format!("the index has {} passages", self.num_passages());
            return Err(VectorError::vector(passage.0, what));
        }
        let terms = self.terms(query);
        Ok(match &self.lists {
            Lists::Bytes(lists) => self.score_one(lists, &terms, passage),
            Lists::Floats(lists) => self.score_one(lists, &terms, passage),
        })
    }

    fn search_with(&self, query: &SparseVector, k: usize, scratch: &mut Scratch) -> Vec<Hit> {
        let terms = self.terms(query);
        match &self.lists {
            Lists::Bytes(lists) => self.prune(lists, &terms, k, scratch),
            Lists::Floats(lists) => self.prune(lists, &terms, k, scratch),
        }
    }

    /// The query's terms that occur, from the one that can add most down.
    fn terms(&self, query: &SparseVector) -> Vec<Term> {
        let mut terms: Vec<Term> = query
            .iter()
            .filter_map(|(term, weight)| {
                let at = term as usize;
                let range = |starts: &[u64]| starts[at] as usize..starts[at + 1] as usize;
                let entries = range(&self.first_entry);
                let blocks = range(&self.first_block);
                let step = weight * self.scales[at];
                (!entries.is_empty()).then(|| Term {
                    step,
                    most: step * self.largest[at],
                    term,
                    posting: self.first_posting[at] as usize,
                    blocks: (!blocks.is_empty()).then_some(blocks),
                    entries,
                })
            })
            .collect();
        terms.sort_unstable_by(|a, b| b.most.total_cmp(&a.most).then(a.term.cmp(&b.term)));
        terms
    }

    fn prune<P: Posting>(
        &self,
        lists: &ListsOf<P>,
        terms: &[Term],
        k: usize,
        scratch: &mut Scratch,
    ) -> Vec<Hit> {
        let num_blocks = self.num_blocks();
        scratch.bounds.clear();
        scratch.bounds.resize(num_blocks, 0.0);
        for term in terms {
            self.add_bounds(lists, term, &mut scratch.bounds);
        }
        let keys = &mut scratch.keys;
        keys.clear();
        let bounds = scratch.bounds.iter().enumerate();
        keys.extend(
            bounds
                .filter(|&(_, &bound)| bound > 0.0)
                .map(|(block, &bound)| {
                    u64::from(bound.to_bits()) << 32 | u64::from(!(block as u32))
                }),
        );
        let mut top = TopK::new(k);
        let bound = |key: u64| f32::from_bits((key >> 32) as u32);
        let mut rest = &mut keys[..];
        let mut round = FIRST_ROUND.max(2 * k / self.header.block_passages as usize);
        while !rest.is_empty() {
            let take = round.min(rest.len());
            if take < rest.len() {
                rest.select_nth_unstable_by(take, |a, b| b.cmp(a));
            }
            let (head, tail) = rest.split_at_mut(take);
            head.sort_unstable_by(|a, b| b.cmp(a));
            for &key in &*head {
                if bound(key) < top.threshold() {
                    return top.into_hits();
                }
                self.score_block(lists, terms, !(key as u32), &mut top);
            }
            top.settle();
            let threshold = top.threshold();
            let mut kept = 0;
            for at in 0..tail.len() {
                let key = tail[at];
                tail[kept] = key;
                kept += usize::from(bound(key) >= threshold);
            }
            rest = &mut tail[..kept];
            round *= 2;
        }
        top.into_hits()
    }

    /// Adds the most that `term` gives a passage of each block.
    fn add_bounds<P: Posting>(&self, lists: &ListsOf<P>, term: &Term, bounds: &mut [f32]) {
        let maxima = &lists.maxima[term.entries.clone()];
        match &term.blocks {
            None => P::add_scaled(bounds, maxima, term.step),
            Some(blocks) => {
                let blocks = &self.entry_blocks[blocks.clone()];
                for (&block, &max) in blocks.iter().zip(maxima) {
                    if let Some(bound) = bounds.get_mut(block as usize) {
                        *bound += max.into() * term.step;
                    }
                }
            }
        }
    }

    /// The postings of `term` in `block`.
    #[inline(always)]
    fn postings<'l, P: Posting>(&self, lists: &'l ListsOf<P>, term: &Term, block: u32) -> &'l [P] {
        let entry = match &term.blocks {
            None => term.entries.start + block as usize,
            Some(blocks) => match self.entry_blocks[blocks.clone()].binary_search(&block) {
                Ok(at) => term.entries.start + at,
                Err(_) => return &[],
            },
        };
        self.entry_postings(lists, term, entry)
    }

    #[inline(always)]
    fn entry_postings<'l, P: Posting>(
        &self,
        lists: &'l ListsOf<P>,
        term: &Term,
        entry: usize,
    ) -> &'l [P] {
        let start = if entry == term.entries.start {
            0
        } else {
            self.entry_ends[entry - 1]
        };
        let range = term.posting + start as usize..term.posting + self.entry_ends[entry] as usize;
        lists.postings.get(range).unwrap_or_default()
    }

    fn score_block<P: Posting>(
        &self,
        lists: &ListsOf<P>,
        terms: &[Term],
        block: u32,
        top: &mut TopK,
    ) {
        let mut scores = [0.0f32; 256];
        for term in terms {
            for &posting in self.postings(lists, term, block) {
                scores[usize::from(posting.place())] += posting.steps() * term.step;
            }
        }
        let size = self.header.block_passages as usize;
        let first = block as usize * size;
        let size = size.min(self.num_passages() - first);
        offer(&scores[..size], first as u32, top);
    }

    fn add_everything<P: Posting>(&self, lists: &ListsOf<P>, terms: &[Term], k: usize) -> Vec<Hit> {
        let size = self.header.block_passages as usize;
        let mut scores = vec![0.0f32; self.num_blocks() * size];
        for term in terms {
            for (at, entry) in term.entries.clone().enumerate() {
                let block = match &term.blocks {
                    None => at,
                    Some(blocks) => self.entry_blocks[blocks.start + at] as usize,
                };
                let Some(scores) = scores.get_mut(block * size..(block + 1) * size) else {
                    continue;
                };
                for &posting in self.entry_postings(lists, term, entry) {
                    if let Some(score) = scores.get_mut(usize::from(posting.place())) {
                        *score += posting.steps() * term.step;
                    }
                }
            }
        }
        let mut top = TopK::new(k);
        scores.truncate(self.num_passages());
        for (chunk, scores) in scores.chunks(size).enumerate() {
            offer(scores, (chunk * size) as u32, &mut top);
        }
        top.into_hits()
    }

    fn score_one<P: Posting>(
        &self,
        lists: &ListsOf<P>,
        terms: &[Term],
        passage: PassageIdx,
    ) -> f32 {
        let size = self.header.block_passages;
        let (block, place) = (passage.0 / size, passage.0 % size);
        let mut score = 0.0;
        for term in terms {
            let postings = self.postings(lists, term, block);
            if let Ok(at) = postings.binary_search_by_key(&(place as u8), |p| p.place()) {
                score += postings[at].steps() * term.step;
            }
        }
        score
    }
}

/// Offers the passages from `first` on to `top`, those that score above zero.
fn offer(scores: &[f32], first: u32, top: &mut TopK) {
    let least = top.threshold().max(f32::MIN_POSITIVE);
    if largest(scores) < least {
        return;
    }
    for (place, &score) in scores.iter().enumerate() {
        if score >= least && score >= top.threshold() {
            top.push(PassageIdx(first + place as u32), score);
        }
    }
}

/// The largest of `scores`, which are not negative.
#[inline]
fn largest(scores: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (chunks, rest) = scores.as_chunks::<8>();
    for chunk in chunks {
        for (lane, &score) in lanes.iter_mut().zip(chunk) {
            *lane = if score > *lane { score } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(0.0, |a, &b| a.max(b))
}

wide! {
    /// `sums[i] += values[i] * factor`.
    pub(super) fn add_scaled_bytes(sums: &mut [f32], values: &[u8], factor: f32) {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += f32::from(value) * factor;
        }
    }
}

wide! {
    /// `sums[i] += values[i] * factor`.
    pub(super) fn add_scaled_floats(sums: &mut [f32], values: &[f32], factor: f32) {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += value * factor;
        }
    }
}
