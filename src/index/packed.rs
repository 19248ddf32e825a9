//! The rows of a field: positions in its text, in as many bits as the last position needs.
//!
//! Sixty-four million positions take 26 bits each instead of 32. A row is two reads of neighbouring
//! words, a shift and a mask. Rows that lie outside, or positions that a damaged file moved outside of
//! the text, are found by whoever looks at the text there.

use std::ops::Range;

use crate::section_file::{View, prefetch};

/// Positions, each in the same number of bits, lowest bit first, the first in the lowest bits of the
/// first word; behind them one more word with the number of rows.
pub(super) struct PackedRows {
    words: View<u32>,
    len: u32,
    width: u32,
    mask: u64,
}

/// Bits of a position in a text of `text_len` symbols.
fn width(text_len: usize) -> u32 {
    let last = text_len.saturating_sub(1) as u32;
    (u32::BITS - last.leading_zeros()).max(1)
}

/// Words of `len` rows of `width` bits, the last one included.
fn num_words(len: usize, width: u32) -> usize {
    (len as u64 * u64::from(width)).div_ceil(32) as usize + 1
}

/// Packs positions of a text of `text_len` symbols, in the memory that they lie in.
pub(super) fn pack(mut rows: Vec<u32>, text_len: usize) -> Vec<u32> {
    let (width, len) = (width(text_len), rows.len());
    let (mut bits, mut filled, mut written) = (0u64, 0, 0);
    for row in 0..len {
        bits |= u64::from(rows[row]) << filled;
        filled += width;
        if filled >= 32 {
            // At most as many words as rows were read.
            rows[written] = bits as u32;
            written += 1;
            bits >>= 32;
            filled -= 32;
        }
    }
    rows.truncate(written);
    if filled > 0 {
        rows.push(bits as u32);
    }
    rows.push(len as u32);
    rows
}

impl PackedRows {
    /// The rows in the words that [`pack`] made for a text of `text_len` symbols; `None` if they are not
    /// as many as that.
    pub(super) fn new(words: View<u32>, text_len: usize) -> Option<Self> {
        let (&len, width) = (words.last()?, width(text_len));
        let fits = len as usize <= text_len && words.len() == num_words(len as usize, width);
        fits.then(|| Self {
            words,
            len,
            width,
            mask: (1 << width) - 1,
        })
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no row.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `start..end` where these are rows; no row otherwise.
    #[inline(always)]
    pub(super) fn range(&self, start: u32, end: u32) -> Range<u32> {
        if start <= end && end <= self.len {
            start..end
        } else {
            0..0
        }
    }

    /// The position of a row; some number where there is no such row.
    #[inline(always)]
    pub(super) fn position(&self, row: u32) -> u32 {
        let bit = u64::from(row) * u64::from(self.width);
        let two = self.words.get((bit / 32) as usize..);
        let Some(&[low, high]) = two.and_then(|words| words.first_chunk()) else {
            return u32::MAX;
        };
        let both = u64::from(low) | u64::from(high) << 32;
        (both >> (bit % 32) & self.mask) as u32
    }

    /// The positions of `rows`.
    pub(super) fn positions(&self, rows: Range<u32>) -> impl ExactSizeIterator<Item = u32> {
        rows.map(|row| self.position(row))
    }

    /// Asks the processor to load a row soon.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: u32) {
        let bit = u64::from(row) * u64::from(self.width);
        prefetch(&self.words, (bit / 32) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use rand::RngExt;

    #[test]
    fn three_positions_by_hand() {
        // A text of five symbols has positions of three bits.
        assert_eq!(pack(vec![4, 1, 3], 5), [0b011_001_100, 3]);
        assert_eq!(pack(vec![], 5), [0]);
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let mut rng = stream(1, "packed", &[]);
        for text_len in [
            0,
            1,
            2,
            3,
            255,
            256,
            257,
            65_536,
            1 << 27,
            u32::MAX as usize,
        ] {
            for len in [0, 1, 2, 31, 32, 33, 500] {
                let len = text_len.min(len);
                let mut rows: Vec<u32> = (0..len)
                    .map(|_| rng.random_range(0..text_len as u64) as u32)
                    .collect();
                if let Some(last) = rows.last_mut() {
                    *last = text_len as u32 - 1;
                }
                let packed =
                    PackedRows::new(pack(rows.clone(), text_len).into(), text_len).unwrap();
                assert_eq!(packed.len(), len);
                assert!(packed.positions(packed.range(0, len as u32)).eq(rows));
                assert_eq!(packed.range(0, len as u32 + 1), 0..0);
                let _ = packed.position(u32::MAX);
            }
        }
    }

    #[test]
    fn words_that_do_not_fit_are_refused() {
        for (words, text_len) in [
            (vec![], 5),
            (vec![0], 0),
            (vec![0b100, 2], 5),
            (vec![0, 0, 3], 5),
        ] {
            let fits = PackedRows::new(words.clone().into(), text_len).is_some();
            assert_eq!(fits, words == [0] || words == [0b100, 2], "{words:?}");
        }
        // Eleven rows of four bits need two words.
        assert!(PackedRows::new(vec![0, 11].into(), 11).is_none());
    }
}
