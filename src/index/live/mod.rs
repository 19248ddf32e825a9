//! An index of a corpus that changes: passages are added and deleted without building it anew.
//!
//! A folder of immutable index files (*segments*) and a manifest that names them. Adding writes a
//! segment of the new passages. Deleting writes an index of all deleted passages (the *shadow*),
//! whose counts are subtracted, so that what occurs only in deleted passages is never generated and
//! every count is exact. An n-gram stands at one place per segment; its continuations are the union.
//! Where only one segment has it, nothing is copied, as in a single file. There are at most
//! [`MAX_SEGMENTS`] segments: adding merges the two smallest neighbours when there would be more.
//!
//! A change becomes visible when the manifest is replaced, in one step; a crash before leaves the old
//! index and files that the next writer removes. Readers keep what they opened. One writer at a time
//! holds a lock, which the system releases when the process ends. A merge renumbers the passages.

mod manifest;
#[cfg(test)]
mod tests;
mod writer;

use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hashbrown::HashSet;
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use super::error::IndexError;
use super::ngram::{IndexStats, NgramIndex};
use super::rows::{State, child_of_node};
use super::{
    ContinuationRow, Continuations, Field, Occurrence, PassageSet, SharedRow, SubstringIndex,
};
use crate::types::{PassageIdx, TokenId};
use manifest::{MANIFEST, Manifest};

pub use writer::LiveWriter;

/// Segments of a live index, at most.
pub const MAX_SEGMENTS: usize = 3;
/// Segments and shadow.
const MAX_PARTS: usize = MAX_SEGMENTS + 1;
const SHADOW: usize = MAX_SEGMENTS;
/// Lists with fewer continuations than one in so many tokens of the vocabulary are merged; longer ones
/// are summed by token.
const FEW: usize = 1024;
/// How often opening starts again because a writer replaced the files meanwhile.
const OPEN_TRIES: usize = 20;

/// An index whose passages can be added and deleted; see the [module](super::live).
///
/// Deleted passages keep their ordinal until a merge: they have no tokens and occur nowhere.
#[derive(Clone)]
pub struct LiveIndex {
    segments: Vec<Segment>,
    /// Of the deleted passages; absent where the segments leave them out themselves.
    shadow: Option<NgramIndex>,
    /// The passages that exist; all that are not deleted where there is none.
    subset: Option<PassageSet>,
    num_passages: usize,
    max_ngram_tokens: usize,
    vocab_size: usize,
    tokenizer: Tokenizer,
}

#[derive(Clone)]
struct Segment {
    index: NgramIndex,
    /// Ordinal of its first passage.
    first: usize,
    /// Ordinals inside the segment.
    deleted: HashSet<u32>,
}

#[derive(Clone)]
struct Tokenizer {
    path: PathBuf,
    fingerprint: u64,
    hint: String,
}

/// Where an n-gram stands in a [`LiveIndex`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveState {
    parts: [Option<State>; MAX_PARTS],
    /// The n-gram of `parts` goes on with this token and occurs so often; the parts are asked when it is
    /// used, since a search uses few of the states that it is offered.
    next: Option<(TokenId, u32)>,
}

impl LiveState {
    fn new(parts: [Option<State>; MAX_PARTS]) -> Self {
        Self { parts, next: None }
    }
}

/// Size and shape of a live index.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LiveStats {
    /// Passages that can be found.
    pub num_passages: usize,
    /// Passages that are deleted and still in a segment.
    pub deleted_passages: usize,
    /// The segments.
    pub segments: Vec<IndexStats>,
}

impl LiveIndex {
    /// Opens the bodies of the index at `path`: a folder, or a single file, which cannot change.
    ///
    /// # Errors
    /// [`IndexError`] as for [`NgramIndex::open`], for the manifest or any file it names.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        if !path.is_dir() {
            return Ok(Self::from(NgramIndex::open(path)?));
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let opened = Manifest::read(path).and_then(|manifest| Self::assemble(path, &manifest));
            match opened {
                // A writer has replaced the files that the manifest named a moment ago.
                Err(IndexError::Io {
                    path: file, source, ..
                }) if source.kind() == ErrorKind::NotFound
                    && !file.ends_with(MANIFEST)
                    && tries < OPEN_TRIES => {}
                opened => return opened,
            }
        }
    }

    fn assemble(folder: &Path, manifest: &Manifest) -> Result<Self, IndexError> {
        let path = folder.join(MANIFEST);
        let damaged = |what: &str| IndexError::damaged(&path, what);
        let fingerprint = u64::from_str_radix(&manifest.tokenizer, 16)
            .map_err(|_| damaged("the tokenizer's fingerprint is not hexadecimal"))?;
        if manifest.segments.len() > MAX_SEGMENTS {
            return Err(damaged("too many segments"));
        }
        let open = |file: &str| -> Result<NgramIndex, IndexError> {
            let index = NgramIndex::open(&folder.join(file))?;
            index.check_tokenizer(fingerprint)?;
            let fits = index.vocab_size() == manifest.vocab_size
                && index.max_ngram_tokens() == manifest.options.max_ngram_tokens;
            if fits {
                Ok(index)
            } else {
                Err(damaged("a segment was built with other options"))
            }
        };
        let mut segments = vec![];
        let (mut first, mut num_deleted) = (0, 0);
        for entry in &manifest.segments {
            let index = open(&entry.file)?;
            let increasing = entry.deleted.is_sorted_by(|a, b| a < b);
            let inside = entry
                .deleted
                .last()
                .is_none_or(|&d| (d as usize) < index.num_passages());
            if !(increasing && inside) {
                return Err(damaged(
                    "a list of deleted passages does not fit its segment",
                ));
            }
            let deleted: HashSet<u32> = entry.deleted.iter().copied().collect();
            num_deleted += deleted.len();
            let num_passages = index.num_passages();
            segments.push(Segment {
                index,
                first,
                deleted,
            });
            first += num_passages;
        }
        let shadow = manifest.shadow.as_deref().map(open).transpose()?;
        if shadow.as_ref().map_or(0, |shadow| shadow.num_passages()) != num_deleted {
            return Err(damaged(
                "the index of deleted passages does not fit the segments",
            ));
        }
        Ok(Self {
            segments,
            shadow,
            subset: None,
            num_passages: first,
            max_ngram_tokens: manifest.options.max_ngram_tokens,
            vocab_size: manifest.vocab_size,
            tokenizer: Tokenizer {
                path: folder.into(),
                fingerprint,
                hint: manifest.tokenizer_hint.clone(),
            },
        })
    }

    /// The same index for the n-grams of another field.
    pub fn with_field(&self, field: Field) -> Self {
        let mut other = self.clone();
        for segment in &mut other.segments {
            segment.index = segment.index.with_field(field);
        }
        other.shadow = other.shadow.map(|shadow| shadow.with_field(field));
        other
    }

    /// The same index for the n-grams of the passages in `subset` that are not deleted.
    ///
    /// As [`NgramIndex::restricted_to`], in every segment.
    pub fn restricted_to(&self, subset: &PassageSet) -> Self {
        let mut other = self.clone();
        let mut subset = subset.clone();
        subset.intersect(&self.passages().collect());
        for segment in &mut other.segments {
            let range = segment.first..segment.first + segment.index.num_passages();
            let inner = subset
                .iter_range(range)
                .map(|passage| PassageIdx(passage.0 - segment.first as u32));
            segment.index = segment.index.restricted_to(&inner.collect());
        }
        other.shadow = None;
        other.subset = Some(subset);
        other
    }

    /// Fails unless the index was built with the tokenizer of this fingerprint.
    ///
    /// # Errors
    /// [`IndexError::Tokenizer`], naming both.
    pub fn check_tokenizer(&self, fingerprint: u64) -> Result<(), IndexError> {
        let Tokenizer {
            path,
            fingerprint: expected,
            hint,
        } = &self.tokenizer;
        if fingerprint == *expected {
            return Ok(());
        }
        Err(IndexError::Tokenizer {
            path: path.clone(),
            expected: *expected,
            hint: hint.clone(),
            found: fingerprint,
        })
    }

    /// External id of a passage, deleted or not; empty if there is no such passage.
    pub fn doc_id(&self, passage: PassageIdx) -> &str {
        self.segment_of(passage)
            .map_or("", |(segment, inner)| segment.index.doc_id(inner))
    }

    /// Whether a passage is deleted.
    pub fn is_deleted(&self, passage: PassageIdx) -> bool {
        self.segment_of(passage)
            .is_some_and(|(segment, inner)| segment.deleted.contains(&inner.0))
    }

    /// The passages that are not deleted and inside a restriction, in order.
    pub fn passages(&self) -> impl Iterator<Item = PassageIdx> {
        let inside = |p: &PassageIdx| self.subset.as_ref().is_none_or(|s| s.contains(*p));
        (0..self.num_passages as u32)
            .map(PassageIdx)
            .filter(inside)
            .filter(|&p| !self.is_deleted(p))
    }

    /// Hash of what the index holds and of what is deleted; reads no passages.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for segment in &self.segments {
            hasher.update(&segment.index.fingerprint().to_le_bytes());
            let mut deleted: Vec<u32> = segment.deleted.iter().copied().collect();
            deleted.sort_unstable();
            hasher.update(&(deleted.len() as u64).to_le_bytes());
            for passage in deleted {
                hasher.update(&passage.to_le_bytes());
            }
        }
        if let Some(subset) = &self.subset {
            hasher.update(&subset.fingerprint().to_le_bytes());
        }
        hasher.digest()
    }

    /// Reads all files and compares them with their checksums.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] naming the first difference.
    pub fn verify(&self) -> Result<(), IndexError> {
        let segments = self.segments.iter().map(|segment| &segment.index);
        segments
            .chain(&self.shadow)
            .try_for_each(NgramIndex::verify)
    }

    /// Size and shape.
    pub fn stats(&self) -> LiveStats {
        let deleted_passages = self.segments.iter().map(|s| s.deleted.len()).sum();
        LiveStats {
            num_passages: self.num_passages - deleted_passages,
            deleted_passages,
            segments: self
                .segments
                .iter()
                .map(|segment| segment.index.stats())
                .collect(),
        }
    }

    fn segment_of(&self, passage: PassageIdx) -> Option<(&Segment, PassageIdx)> {
        let after = self
            .segments
            .partition_point(|segment| segment.first <= passage.index());
        let segment = &self.segments[after.checked_sub(1)?];
        let inner = passage.index() - segment.first;
        (inner < segment.index.num_passages()).then_some((segment, PassageIdx(inner as u32)))
    }

    /// The places of an n-gram in the parts.
    fn resolve(&self, state: &LiveState) -> [Option<State>; MAX_PARTS] {
        match state.next {
            None => state.parts,
            Some((token, _)) => self.advance_parts(&state.parts, token),
        }
    }

    fn advance_parts(
        &self,
        parts: &[Option<State>; MAX_PARTS],
        token: TokenId,
    ) -> [Option<State>; MAX_PARTS] {
        std::array::from_fn(|p| self.part(p)?.advance(parts[p]?, token))
    }

    fn part(&self, part: usize) -> Option<&NgramIndex> {
        if part == SHADOW {
            self.shadow.as_ref()
        } else {
            self.segments.get(part).map(|segment| &segment.index)
        }
    }
}

impl From<NgramIndex> for LiveIndex {
    /// The index as the only segment.
    fn from(index: NgramIndex) -> Self {
        let (path, fingerprint, hint) = index.tokenizer();
        let tokenizer = Tokenizer {
            path: path.into(),
            fingerprint,
            hint: hint.into(),
        };
        Self {
            num_passages: index.num_passages(),
            max_ngram_tokens: index.max_ngram_tokens(),
            vocab_size: index.vocab_size(),
            segments: vec![Segment {
                index,
                first: 0,
                deleted: HashSet::new(),
            }],
            shadow: None,
            subset: None,
            tokenizer,
        }
    }
}

/// The only part that has the n-gram.
fn only_part(parts: &[Option<State>; MAX_PARTS]) -> Option<usize> {
    let mut present = (0..MAX_PARTS).filter(|&p| parts[p].is_some());
    let only = present.next()?;
    present.next().is_none().then_some(only)
}

/// The state of a continuation of an n-gram that only one segment has.
fn child_of_only(parent: LiveState, token: TokenId, slot: u32, rows: Range<u32>) -> LiveState {
    let child = |state| child_of_node(state, token, slot, rows.clone());
    LiveState::new(parent.parts.map(|part| part.map(child)))
}

/// The state of a continuation of an n-gram that several parts have.
fn child_of_several(parent: LiveState, token: TokenId, _slot: u32, rows: Range<u32>) -> LiveState {
    LiveState {
        next: Some((token, rows.end - rows.start)),
        ..parent
    }
}

/// Adds the continuations of an n-gram that only segment `p` has.
fn push_only<'i>(
    p: usize,
    row: usize,
    parent: LiveState,
    part: &Continuations<'i, State>,
    out: &mut Continuations<'i, LiveState>,
) {
    if let Some(row) = part.shared_row(row) {
        out.push_shared_row(SharedRow {
            tokens: row.tokens,
            ends: row.ends,
            start: row.start,
            parent,
            first_slot: row.first_slot,
            child: child_of_only,
        });
        return;
    }
    let row = part.row(row);
    for (nth, (&token, count)) in row.tokens.iter().zip(row.counts()).enumerate() {
        let mut parts = [None; MAX_PARTS];
        parts[p] = Some(row.state(nth));
        out.push(token, count as u32, LiveState::new(parts));
    }
    out.end_row();
}

/// Counts by token, all zero between two rows.
struct Sums {
    counts: Vec<u32>,
    /// A bit per token: whether it was counted.
    seen: Vec<u64>,
}

impl Sums {
    fn new(vocab_size: usize) -> Self {
        Self {
            counts: vec![0; vocab_size],
            seen: vec![0; vocab_size.div_ceil(64)],
        }
    }

    /// Adds the continuations of one n-gram that the parts with a row have: the counts of the segments
    /// less that of the shadow.
    fn push_union<'i>(
        &mut self,
        parent: LiveState,
        rows: &[Option<ContinuationRow<'_, State>>; MAX_PARTS],
        out: &mut Continuations<'i, LiveState>,
    ) {
        for row in rows[..SHADOW].iter().flatten() {
            for (token, count) in row.tokens.iter().zip(row.counts()) {
                self.counts[token.index()] += count as u32;
                self.seen[token.index() / 64] |= 1 << (token.0 % 64);
            }
        }
        if let Some(row) = &rows[SHADOW] {
            for (token, count) in row.tokens.iter().zip(row.counts()) {
                let sum = &mut self.counts[token.index()];
                *sum = sum.saturating_sub(count as u32);
            }
        }
        for (word, bits) in (0..).zip(&mut self.seen) {
            let mut left = std::mem::take(bits);
            while left != 0 {
                let token = word * 64 + left.trailing_zeros();
                left &= left - 1;
                let count = std::mem::take(&mut self.counts[token as usize]);
                if count > 0 {
                    out.push_token(TokenId(token), count);
                }
            }
        }
        out.end_made_row(parent, child_of_several);
    }
}

/// As [`Sums::push_union`] without a look at every token: for few continuations.
fn push_few<'i>(
    parent: LiveState,
    rows: &[Option<ContinuationRow<'_, State>>; MAX_PARTS],
    out: &mut Continuations<'i, LiveState>,
) {
    let mut next = [0; MAX_PARTS];
    loop {
        let front = |p: usize| rows[p].as_ref()?.tokens.get(next[p]).copied();
        let Some(token) = (0..MAX_PARTS).filter_map(front).min() else {
            break;
        };
        let (mut count, mut gone) = (0, 0);
        for (p, row) in rows.iter().enumerate() {
            let Some(row) = row else { continue };
            if row.tokens.get(next[p]) == Some(&token) {
                let added = if p == SHADOW { &mut gone } else { &mut count };
                *added += row.count(next[p]);
                next[p] += 1;
            }
        }
        if count > gone {
            out.push_token(token, (count - gone) as u32);
        }
    }
    out.end_made_row(parent, child_of_several);
}

impl SubstringIndex for LiveIndex {
    type State = LiveState;

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn num_tokens(&self) -> usize {
        let all: usize = self
            .segments
            .iter()
            .map(|segment| segment.index.num_tokens())
            .sum();
        all.saturating_sub(self.shadow.as_ref().map_or(0, |shadow| shadow.num_tokens()))
    }

    fn num_passages(&self) -> usize {
        self.num_passages
    }

    fn max_ngram_tokens(&self) -> usize {
        self.max_ngram_tokens
    }

    fn passage_tokens(&self, passage: PassageIdx, out: &mut Vec<TokenId>) {
        match self
            .segment_of(passage)
            .filter(|(s, inner)| !s.deleted.contains(&inner.0))
        {
            Some((segment, inner)) => segment.index.passage_tokens(inner, out),
            None => out.clear(),
        }
    }

    fn root(&self) -> LiveState {
        LiveState::new(std::array::from_fn(|p| self.part(p).map(NgramIndex::root)))
    }

    fn count(&self, state: LiveState) -> usize {
        if let Some((_, count)) = state.next {
            return count as usize;
        }
        let count = |p: usize| Some(self.part(p)?.count(state.parts[p]?));
        let all: usize = (0..SHADOW).filter_map(count).sum();
        all.saturating_sub(count(SHADOW).unwrap_or(0))
    }

    fn advance(&self, state: LiveState, token: TokenId) -> Option<LiveState> {
        let parts = self.resolve(&state);
        let next = LiveState::new(self.advance_parts(&parts, token));
        (self.count(next) > 0).then_some(next)
    }

    fn continuations<'i>(&'i self, states: &[LiveState], out: &mut Continuations<'i, LiveState>) {
        out.clear();
        let resolved: Vec<_> = states.iter().map(|state| self.resolve(state)).collect();
        let mut parts: [Continuations<'i, State>; MAX_PARTS] = Default::default();
        let mut rows = vec![[None; MAX_PARTS]; states.len()];
        let mut asked = vec![];
        for (p, found) in parts.iter_mut().enumerate() {
            let Some(index) = self.part(p) else { continue };
            asked.clear();
            for (rows, state) in rows.iter_mut().zip(&resolved) {
                if let Some(state) = state[p] {
                    rows[p] = Some(asked.len());
                    asked.push(state);
                }
            }
            index.continuations(&asked, found);
        }
        let mut sums = None;
        for (rows, state) in rows.iter().zip(&resolved) {
            let parent = LiveState::new(*state);
            let only = only_part(state).filter(|&p| p != SHADOW);
            if let Some((p, row)) = only.and_then(|p| Some((p, rows[p]?))) {
                push_only(p, row, parent, &parts[p], out);
                continue;
            }
            let rows = std::array::from_fn(|p| rows[p].map(|row| parts[p].row(row)));
            let several: usize = rows.iter().flatten().map(|row| row.tokens.len()).sum();
            if several >= self.vocab_size / FEW {
                let sums = sums.get_or_insert_with(|| Sums::new(self.vocab_size));
                sums.push_union(parent, &rows, out);
            } else {
                push_few(parent, &rows, out);
            }
        }
    }

    fn occurrences(&self, state: LiveState, limit: usize, out: &mut Vec<Occurrence>) {
        out.clear();
        let mut found = vec![];
        for (segment, state) in self.segments.iter().zip(self.resolve(&state)) {
            let Some(state) = state else { continue };
            let wanted = limit - out.len();
            let asked = if segment.deleted.is_empty() || self.shadow.is_none() {
                wanted
            } else {
                usize::MAX
            };
            segment.index.occurrences(state, asked, &mut found);
            let live = found
                .iter()
                .filter(|o| !segment.deleted.contains(&o.passage.0));
            out.extend(live.take(wanted).map(|occurrence| Occurrence {
                passage: PassageIdx(occurrence.passage.0 + segment.first as u32),
                ..*occurrence
            }));
        }
    }
}
