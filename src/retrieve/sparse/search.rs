//! Exact search: short lists term by term, long ones block by block.

use std::ops::Range;

use rayon::prelude::*;

use super::file::{Weights, WeightsOf};
use super::{SparseIndex, VectorError, Weight, check};
use crate::retrieve::TopK;
use crate::retrieve::simd::{chunk_maxima, wide};
use crate::types::{Hit, PassageIdx, SparseVector};

/// Passages whose scores are added up together: 128 KiB, a multiple of every block.
const WINDOW: usize = 1 << 15;
/// With less than this share of the threshold left to add, few passages are near it.
const FEW: f32 = 0.6;
/// Postings for which a passage is rather looked up.
const LOOKUP: usize = 16;
/// Lists with fewer postings than this for each block are short.
const SHORT: usize = 64;
/// Blocks scored before the first cut of the others.
const FIRST_ROUND: usize = 4;
/// If more than this share of the blocks is left after the first rounds, term by term is faster.
const MOST_BLOCKS: usize = 4;

/// Fewer postings than this are added rather than thought about.
const WORTH: usize = 256;
/// Scores whose largest tells whether one of them is near the threshold.
const CHUNK: usize = 32;

/// Memory that searches use again.
#[derive(Default)]
pub(super) struct Scratch {
    bounds: Vec<f32>,
    keys: Vec<u64>,
    scores: Vec<f32>,
    work: Work,
}

/// What finding the best of a window takes.
#[derive(Default)]
struct Work {
    maxima: Vec<f32>,
    sorted: Vec<f32>,
    near: Vec<u32>,
}

/// A term of a query in this index.
struct Term {
    term: u32,
    /// What a step of its weights adds to the score.
    step: f32,
    /// The most that it adds.
    most: f32,
    postings: Range<usize>,
    /// Its first block entry, if it has any.
    entries: Option<usize>,
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
        let mut scratch = Scratch::default();
        Ok(match &self.weights {
            Weights::Bytes(of) => self.by_term(of, &terms, k, None, &mut scratch),
            Weights::Floats(of) => self.by_term(of, &terms, k, None, &mut scratch),
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
        Ok(match &self.weights {
            Weights::Bytes(of) => self.score_one(of, &terms, passage),
            Weights::Floats(of) => self.score_one(of, &terms, passage),
        })
    }

    fn search_with(&self, query: &SparseVector, k: usize, scratch: &mut Scratch) -> Vec<Hit> {
        let terms = self.terms(query);
        match &self.weights {
            Weights::Bytes(of) => self.prune(of, &terms, k, scratch),
            Weights::Floats(of) => self.prune(of, &terms, k, scratch),
        }
    }

    /// The query's terms that occur, from the one that can add most down.
    fn terms(&self, query: &SparseVector) -> Vec<Term> {
        let mut terms: Vec<Term> = query
            .iter()
            .filter_map(|(term, weight)| {
                let at = term as usize;
                let range = |starts: &[u64]| starts[at] as usize..starts[at + 1] as usize;
                let (postings, entries) = (range(&self.first_posting), range(&self.first_entry));
                let step = weight * self.scales[at];
                (!postings.is_empty()).then(|| Term {
                    term,
                    step,
                    most: step * self.largest[at],
                    postings,
                    entries: (!entries.is_empty()).then_some(entries.start),
                })
            })
            .collect();
        terms.sort_unstable_by(|a, b| b.most.total_cmp(&a.most).then(a.term.cmp(&b.term)));
        terms
    }

    fn prune<W: Weight>(
        &self,
        of: &WeightsOf<W>,
        terms: &[Term],
        k: usize,
        scratch: &mut Scratch,
    ) -> Vec<Hit> {
        let postings: usize = terms.iter().map(|term| term.postings.len()).sum();
        if postings < SHORT * self.num_blocks() {
            return self.by_term(of, terms, k, Some(0.0), scratch);
        }
        let Scratch {
            bounds,
            keys,
            scores,
            work,
        } = scratch;
        self.add_bounds(of, terms, bounds);
        keys.clear();
        let of_block = |(block, &bound): (usize, &f32)| {
            (bound > 0.0).then(|| u64::from(bound.to_bits()) << 32 | u64::from(!(block as u32)))
        };
        keys.extend(bounds.iter().enumerate().filter_map(of_block));
        let bound = |key: u64| f32::from_bits((key >> 32) as u32);
        let mut top = TopK::new(k);
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
                self.score_block(of, terms, !(key as u32), scores, work, &mut top);
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
            if kept * MOST_BLOCKS > self.num_blocks() {
                return self.by_term(of, terms, k, Some(threshold.max(0.0)), scratch);
            }
        }
        top.into_hits()
    }

    /// Adds up the terms, a window of passages at a time. `least` is a score that k passages are known
    /// to reach; `None` to add every posting.
    fn by_term<W: Weight>(
        &self,
        of: &WeightsOf<W>,
        terms: &[Term],
        k: usize,
        least: Option<f32>,
        scratch: &mut Scratch,
    ) -> Vec<Hit> {
        // What the terms from each one on can add, and what rounding can.
        let mut rest = vec![0.0f32; terms.len() + 1];
        for (at, term) in terms.iter().enumerate().rev() {
            rest[at] = rest[at + 1] + term.most;
        }
        let rounding = rest[0] * f32::EPSILON * terms.len() as f32;
        for rest in &mut rest {
            *rest += rounding;
        }
        let mut top = TopK::new(k);
        let exhaustive = least.is_none();
        let mut least = least.unwrap_or(0.0);
        let Scratch { scores, work, .. } = scratch;
        scores.resize(WINDOW, 0.0);
        let mut starts: Vec<usize> = terms.iter().map(|term| term.postings.start).collect();
        let mut ranges = vec![0..0; terms.len()];
        for first in (0..self.num_passages()).step_by(WINDOW) {
            let end = (first + WINDOW).min(self.num_passages());
            for ((term, start), range) in terms.iter().zip(&mut starts).zip(&mut ranges) {
                *range = *start..self.posting_at(term, *start, end);
                *start = range.end;
            }
            let scores = &mut scores[..end - first];
            scores.fill(0.0);
            least = least.max(top.threshold());
            let mut left: usize = ranges.iter().map(Range::len).sum();
            let mut added = 0;
            let mut looked = exhaustive;
            work.near.clear();
            while added < terms.len() {
                // Whether few enough passages are near the threshold to look the rest of them up.
                if !looked && rest[added] < least * FEW && left > WORTH {
                    looked = true;
                    let within = (least - rest[added]).max(f32::MIN_POSITIVE);
                    work.maxima.clear();
                    chunk_maxima(scores, CHUNK, &mut work.maxima);
                    let chunks = work.maxima.iter().filter(|&&max| max >= within).count();
                    if chunks * LOOKUP * (terms.len() - added) < left {
                        collect_chunks(scores, CHUNK, &work.maxima, within, &mut work.near);
                        break;
                    }
                }
                let range = ranges[added].clone();
                left -= range.len();
                self.add(of, range, terms[added].step, first, scores);
                added += 1;
            }
            if added == terms.len() {
                offer(scores, first as u32, least, &mut top, work);
                continue;
            }
            let near = &mut work.near;
            for at in added..terms.len() {
                if near.is_empty() {
                    break;
                }
                let (range, step) = (ranges[at].clone(), terms[at].step);
                if near.len() * LOOKUP > range.len() {
                    self.add(of, range, step, first, scores);
                } else {
                    self.look_up(of, range, step, first, near, scores);
                }
                near.retain(|&place| scores[place as usize] + rest[at + 1] >= least);
            }
            for &place in &*near {
                let score = scores[place as usize];
                if score >= least && score >= top.threshold() {
                    top.push(PassageIdx(first as u32 + place), score);
                }
            }
            top.settle();
        }
        top.into_hits()
    }

    /// The first posting of `term` from `start` on whose passage is `passage` or later, where that is
    /// a multiple of a block or the number of passages.
    fn posting_at(&self, term: &Term, start: usize, passage: usize) -> usize {
        if passage == self.num_passages() {
            return term.postings.end;
        }
        match term.entries {
            Some(entries) => {
                let block = passage / self.header.block_passages as usize;
                let end = self.entry_ends[entries + block - 1] as usize;
                (term.postings.start + end).clamp(start, term.postings.end)
            }
            None => {
                let list = &self.passages[start..term.postings.end];
                start + list.partition_point(|&p| (p as usize) < passage)
            }
        }
    }

    /// Adds the postings of `range`, of passages from `first` on, to their scores.
    fn add<W: Weight>(
        &self,
        of: &WeightsOf<W>,
        range: Range<usize>,
        step: f32,
        first: usize,
        scores: &mut [f32],
    ) {
        let postings = self.passages[range.clone()].iter();
        for (&passage, &weight) in postings.zip(&of.postings[range]) {
            if let Some(score) = scores.get_mut((passage as usize).wrapping_sub(first)) {
                *score += weight.into() * step;
            }
        }
    }

    /// Adds the postings of `range` to the scores of the passages `near`, which rise.
    fn look_up<W: Weight>(
        &self,
        of: &WeightsOf<W>,
        range: Range<usize>,
        step: f32,
        first: usize,
        near: &[u32],
        scores: &mut [f32],
    ) {
        let passages = &self.passages[range.clone()];
        let weights = &of.postings[range];
        let mut at = 0;
        for &place in near {
            let passage = first as u32 + place;
            // Doubling steps, then halving.
            let mut stride = 1;
            while at + stride < passages.len() && passages[at + stride] < passage {
                at += stride;
                stride *= 2;
            }
            let end = (at + stride + 1).min(passages.len());
            at += passages[at..end].partition_point(|&p| p < passage);
            match passages.get(at) {
                Some(&p) if p == passage => {
                    scores[place as usize] += weights[at].into() * step;
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// The most that the terms add up to in each block.
    fn add_bounds<W: Weight>(&self, of: &WeightsOf<W>, terms: &[Term], bounds: &mut Vec<f32>) {
        bounds.clear();
        bounds.resize(self.num_blocks(), 0.0);
        let shift = self.header.block_passages.trailing_zeros();
        for term in terms {
            if let Some(entries) = term.entries {
                let maxima = &of.block_maxima[entries..entries + bounds.len()];
                W::add_scaled(bounds, maxima, term.step);
                continue;
            }
            let postings = self.passages[term.postings.clone()].iter();
            let mut postings = postings.zip(&of.postings[term.postings.clone()]).peekable();
            while let Some((&passage, &weight)) = postings.next() {
                let block = passage >> shift;
                let mut max = weight;
                while let Some((_, &weight)) = postings.next_if(|(p, _)| **p >> shift == block) {
                    max = if weight > max { weight } else { max };
                }
                if let Some(bound) = bounds.get_mut(block as usize) {
                    *bound += max.into() * term.step;
                }
            }
        }
    }

    /// The postings of `term` in `block`.
    #[inline(always)]
    fn postings_in(&self, term: &Term, block: usize) -> Range<usize> {
        let size = self.header.block_passages as usize;
        match term.entries {
            Some(entries) => {
                let start = match block {
                    0 => 0,
                    _ => self.entry_ends[entries + block - 1],
                };
                let end = self.entry_ends[entries + block];
                let range =
                    term.postings.start + start as usize..term.postings.start + end as usize;
                if range.start <= range.end && range.end <= term.postings.end {
                    range
                } else {
                    0..0
                }
            }
            None => {
                let list = &self.passages[term.postings.clone()];
                let start = list.partition_point(|&p| (p as usize) < block * size);
                let len = list[start..].partition_point(|&p| (p as usize) < (block + 1) * size);
                let start = term.postings.start + start;
                start..start + len
            }
        }
    }

    fn score_block<W: Weight>(
        &self,
        of: &WeightsOf<W>,
        terms: &[Term],
        block: u32,
        scores: &mut Vec<f32>,
        work: &mut Work,
        top: &mut TopK,
    ) {
        let size = self.header.block_passages as usize;
        let first = block as usize * size;
        scores.clear();
        scores.resize(size.min(self.num_passages() - first), 0.0);
        for term in terms {
            let range = self.postings_in(term, block as usize);
            self.add(of, range, term.step, first, scores);
        }
        offer(scores, first as u32, 0.0, top, work);
    }

    fn score_one<W: Weight>(&self, of: &WeightsOf<W>, terms: &[Term], passage: PassageIdx) -> f32 {
        let mut score = 0.0;
        for term in terms {
            let list = &self.passages[term.postings.clone()];
            if let Ok(at) = list.binary_search(&passage.0) {
                score += of.postings[term.postings.start + at].into() * term.step;
            }
        }
        score
    }
}

/// Offers the scores of passages from `first` on that are above zero and at least `least` to `top`.
fn offer(scores: &[f32], first: u32, least: f32, top: &mut TopK, work: &mut Work) {
    // Chunks short enough that there are several for each of the k.
    let chunk = scores.len() / top.k().clamp(1, scores.len()) / 4;
    let chunk = (chunk / 16 * 16).clamp(16, 64);
    work.maxima.clear();
    chunk_maxima(scores, chunk, &mut work.maxima);
    let mut least = least.max(top.threshold()).max(f32::MIN_POSITIVE);
    if (1..work.maxima.len()).contains(&top.k()) {
        // As many passages as this reach the k-th best chunk.
        work.sorted.clear();
        work.sorted
            .extend(work.maxima.iter().filter(|&&max| max >= least));
        if work.sorted.len() >= top.k() {
            let by_score = |a: &f32, b: &f32| b.total_cmp(a);
            let (_, &mut kth, _) = work.sorted.select_nth_unstable_by(top.k() - 1, by_score);
            least = kth;
        }
    }
    work.near.clear();
    collect_chunks(scores, chunk, &work.maxima, least, &mut work.near);
    for &place in &work.near {
        let score = scores[place as usize];
        if score >= top.threshold() {
            top.push(PassageIdx(first + place), score);
        }
    }
    top.settle();
}

/// Appends the places of the scores of at least `least`, by the largest score of each chunk.
fn collect_chunks(scores: &[f32], chunk: usize, maxima: &[f32], least: f32, places: &mut Vec<u32>) {
    for (at, (scores, &max)) in scores.chunks(chunk).zip(maxima).enumerate() {
        if max < least {
            continue;
        }
        for (place, &score) in scores.iter().enumerate() {
            if score >= least {
                places.push((at * chunk + place) as u32);
            }
        }
    }
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
