//! Making a trie: identifiers are sorted, equal ones become one row, shared prefixes get lists.

use rayon::prelude::*;

use super::super::nodes::{NodeTables, run_end};
use super::{Code, MIN_NODE_ROWS, Shape, Trie, TrieError};
use crate::types::TokenId;

/// Collects the identifiers of passages, in passage order.
///
/// Costs the codes in memory twice and 16 bytes per passage; sorting takes all threads.
pub struct TrieBuilder {
    input: Input,
    alphabet: u32,
    stride: u32,
    /// Per passage the end of its codes.
    ends: Vec<u64>,
}

enum Input {
    Byte(Vec<u8>),
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

impl TrieBuilder {
    /// Identifiers of codes below `alphabet`. The token of a code is `code + stride * position`: 0 for text, the
    /// alphabet for codes that mean something else at every position.
    ///
    /// # Errors
    /// [`TrieError::Alphabet`] for an alphabet of 0 or beyond 32 bits.
    pub fn new(alphabet: usize, stride: usize) -> Result<Self, TrieError> {
        let input = match alphabet {
            1..=0x100 => Input::Byte(vec![]),
            0x101..=0x1_0000 => Input::Narrow(vec![]),
            0x1_0001..=0xffff_ffff => Input::Wide(vec![]),
            found => return Err(TrieError::Alphabet { found }),
        };
        Ok(Self {
            input,
            alphabet: alphabet as u32,
            stride: u32::try_from(stride).unwrap_or(u32::MAX),
            ends: vec![],
        })
    }

    /// Adds the identifier of the next passage; an empty one if it has none.
    ///
    /// # Errors
    /// [`TrieError::CodeOutOfRange`] for a code outside the alphabet.
    pub fn push(&mut self, codes: &[u32]) -> Result<(), TrieError> {
        if let Some(&code) = codes.iter().find(|code| **code >= self.alphabet) {
            return Err(TrieError::CodeOutOfRange {
                index: self.ends.len(),
                code,
                alphabet: self.alphabet,
            });
        }
        let before = self.ends.last().copied().unwrap_or(0);
        match &mut self.input {
            Input::Byte(all) => all.extend(codes.iter().map(|&c| u8::of(c))),
            Input::Narrow(all) => all.extend(codes.iter().map(|&c| u16::of(c))),
            Input::Wide(all) => all.extend(codes),
        }
        self.ends.push(before + codes.len() as u64);
        Ok(())
    }

    /// The trie of what was pushed.
    ///
    /// # Errors
    /// [`TrieError::TooLarge`] beyond 2^32 - 2 passages, tokens, or codes of unequal length.
    pub fn finish(self) -> Result<Trie, TrieError> {
        let passages = self.ends.len();
        let too_large = |what| TrieError::TooLarge { what };
        let starts = || std::iter::once(0).chain(self.ends.iter().copied());
        let lengths = || starts().zip(&self.ends).map(|(start, end)| end - start);
        let longest = lengths().max().unwrap_or(0);
        let shortest = lengths().filter(|len| *len > 0).min().unwrap_or(0);
        let total = self.ends.last().copied().unwrap_or(0);
        let limit = u64::from(u32::MAX) - 1;
        if shortest < longest && total > limit {
            return Err(too_large("codes"));
        }
        if passages as u64 > limit {
            return Err(too_large("passages"));
        }
        let places = longest.saturating_sub(1).checked_mul(self.stride.into());
        let vocab_size = places.and_then(|p| p.checked_add(self.alphabet.into()));
        let vocab_size = vocab_size.filter(|v| *v <= limit);
        let shape = Shape {
            vocab_size: vocab_size.ok_or_else(|| too_large("tokens"))? as u32,
            shift: 0,
            stride: self.stride,
            longest: longest as u32,
            rows: 0,
            passages: passages as u32,
        };
        Ok(match &self.input {
            Input::Byte(all) => sorted(all, &self.ends).into_trie(shape),
            Input::Narrow(all) => sorted(all, &self.ends).into_trie(shape),
            Input::Wide(all) => sorted(all, &self.ends).into_trie(shape),
        })
    }
}

/// The identifiers as sorted rows.
fn sorted<T: Code>(codes: &[T], ends: &[u64]) -> Rows<T> {
    let of = |passage: u32| {
        let start = match passage {
            0 => 0,
            _ => ends[passage as usize - 1],
        };
        &codes[start as usize..ends[passage as usize] as usize]
    };
    // The first eight bytes decide nearly all comparisons without a look at the codes.
    let bits = 8 * size_of::<T>();
    let head = |codes: &[T]| {
        (0..64 / bits).fold(0u64, |head, i| {
            let code = codes.get(i).map_or(0, |code| u64::from(code.value()));
            head << bits | code
        })
    };
    let mut order: Vec<(u64, u32)> = (0..ends.len() as u32)
        .into_par_iter()
        .filter(|&passage| !of(passage).is_empty())
        .map(|passage| (head(of(passage)), passage))
        .collect();
    order.par_sort_unstable_by(|a, b| {
        a.0.cmp(&b.0)
            .then_with(|| of(a.1).cmp(of(b.1)))
            .then(a.1.cmp(&b.1))
    });
    let mut rows = Rows::default();
    rows.codes.reserve_exact(codes.len());
    rows.members.reserve_exact(order.len());
    for run in order.chunk_by(|a, b| a.0 == b.0 && of(a.1) == of(b.1)) {
        rows.codes.extend_from_slice(of(run[0].1));
        rows.ends.push(rows.codes.len() as u64);
        rows.members.extend(run.iter().map(|(_, passage)| passage));
        rows.member_ends.push(rows.members.len() as u32);
    }
    rows
}

/// Sorted identifiers that are being collected.
pub(super) struct Rows<T> {
    codes: Vec<T>,
    ends: Vec<u64>,
    members: Vec<u32>,
    member_ends: Vec<u32>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self {
            codes: vec![],
            ends: vec![],
            members: vec![],
            member_ends: vec![],
        }
    }
}

impl<T: Code> Rows<T> {
    /// Adds an identifier that is greater than those before; one that is not comes of a damaged file, and is left out.
    pub(super) fn push(&mut self, codes: &[T], members: &[u32]) {
        let start = match self.ends.len() {
            0 | 1 => 0,
            rows => self.ends[rows - 2] as usize,
        };
        if !self.ends.is_empty() && self.codes[start..] >= *codes {
            return;
        }
        self.codes.extend_from_slice(codes);
        self.ends.push(self.codes.len() as u64);
        self.members.extend(members);
        self.member_ends.push(self.members.len() as u32);
    }

    /// The trie of the rows; `shape` counts neither them nor their lengths.
    pub(super) fn into_trie(mut self, shape: Shape) -> Trie {
        let mut shape = Shape {
            rows: self.ends.len() as u32,
            ..shape
        };
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let lengths = starts.zip(&self.ends).map(|(start, end)| end - start);
        let (least, most) = lengths.fold((u64::MAX, 0), |(least, most), len| {
            (least.min(len), most.max(len))
        });
        shape.longest = most as u32;
        let mut starts: Vec<u32> = vec![];
        if least < most {
            starts.push(0);
            starts.extend(self.ends.iter().map(|&end| end as u32));
        }
        if self.members.len() == self.ends.len() {
            self.member_ends.clear();
        }
        let tables = self.lists(&shape);
        let codes = T::wrap(self.codes);
        Trie::from_parts(shape, codes, starts, tables, self.members, self.member_ends)
    }

    /// The lists of the root and of all prefixes of enough rows, level by level.
    fn lists(&self, shape: &Shape) -> NodeTables {
        let mut tables = NodeTables::default();
        let mut level = vec![(0u32, shape.rows)];
        let mut depth = 0;
        while !level.is_empty() {
            let lists: Vec<Vec<(u32, u32)>> = level
                .par_iter()
                .map(|&(start, end)| self.split(start, end, depth))
                .collect();
            let mut next = vec![];
            for (&(start, end), list) in level.iter().zip(&lists) {
                // An identifier that ends here is the first of its rows, and in no list.
                let mut before =
                    start + u32::from(start < end && self.code(start, depth).is_none());
                tables.start_node(before);
                for &(code, end) in list {
                    let wide = end - before >= MIN_NODE_ROWS;
                    if wide {
                        next.push((before, end));
                    }
                    let token = shape.shift + shape.stride * depth + code;
                    tables.push(TokenId(token), end, wide);
                    before = end;
                }
            }
            level = next;
            depth += 1;
        }
        tables.finish(shape.rows);
        tables
    }

    /// The distinct codes at `depth` of some rows, each with the end of its rows.
    fn split(&self, start: u32, end: u32, depth: u32) -> Vec<(u32, u32)> {
        let mut list = vec![];
        let mut row = start;
        if row < end && self.code(row, depth).is_none() {
            row += 1;
        }
        while row < end {
            let code = self.code(row, depth);
            let len = (end - row) as usize;
            let run = run_end(len, 0, |at| self.code(row + at as u32, depth) == code);
            row += run as u32;
            list.push((code.map_or(0, T::value), row));
        }
        list
    }

    fn code(&self, row: u32, depth: u32) -> Option<T> {
        let row = row as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        let at = start + u64::from(depth);
        (at < self.ends[row]).then(|| self.codes[at as usize])
    }
}
