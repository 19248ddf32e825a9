//! Sorts all positions of a text by the tokens that follow them.
//!
//! Buckets by first token (counting sort), then each bucket on its own thread: sort by the next eight
//! bytes of tokens at once, go on inside the runs of equal keys. Comparison ends at a separator and
//! after `depth` tokens; what is equal up to there stays in text order. O(n log n) comparisons and
//! O(n * depth) at worst (a corpus of copies); memory is four bytes per token for the result and
//! sixteen per position of the buckets being sorted.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use crate::section_file::{Plain, prefetch};

/// Positions whose text is requested before it is read.
const AHEAD: usize = 16;
/// Runs whose text is requested before they are sorted.
const RUNS_AHEAD: usize = 8;

/// A token as stored in the text: two or four bytes. The largest value is the separator.
pub(super) trait Symbol: Plain + Ord {
    /// Stands between fields.
    const SEPARATOR: Self;
    /// Symbols in one sort key.
    const PER_KEY: usize = 8 / size_of::<Self>();

    /// The symbol of a token below the separator.
    fn new(token: u32) -> Self;
    /// The token, or the separator's value.
    fn value(self) -> u32;

    /// The symbols from `text[position]` as one number in text order, separators after the first.
    /// Positions up to `PER_KEY` before the end of `text`.
    #[inline(always)]
    fn key(text: &[Self], position: usize) -> u64 {
        let mut key = 0;
        let mut ended = false;
        for &symbol in &text[position..position + Self::PER_KEY] {
            let value = if ended { Self::SEPARATOR } else { symbol }.value();
            ended |= symbol == Self::SEPARATOR;
            key = key << (8 * size_of::<Self>()) | u64::from(value);
        }
        key
    }
}

impl Symbol for u16 {
    const SEPARATOR: Self = Self::MAX;

    #[inline(always)]
    fn new(token: u32) -> Self {
        token as Self
    }

    #[inline(always)]
    fn value(self) -> u32 {
        self.into()
    }
}

impl Symbol for u32 {
    const SEPARATOR: Self = Self::MAX;

    #[inline(always)]
    fn new(token: u32) -> Self {
        token
    }

    #[inline(always)]
    fn value(self) -> u32 {
        self
    }
}

/// The positions of all tokens of `text`, separators left out, ordered by their first `depth` tokens.
///
/// `text` ends with at least `PER_KEY` separators and is shorter than 2^32; its tokens are below
/// `vocab_size`. `sorted` is told from time to time, by any thread, how many more are in their place.
pub(super) fn sort_suffixes<T: Symbol>(
    text: &[T],
    vocab_size: usize,
    depth: usize,
    sorted: &(dyn Fn(usize) + Sync),
) -> Vec<u32> {
    let (mut suffixes, starts) = bucket_by_first(text, vocab_size);
    let mut buckets: Vec<&mut [u32]> = Vec::with_capacity(vocab_size);
    let mut rest = &mut suffixes[..];
    for token in 0..vocab_size {
        let (bucket, others) = rest.split_at_mut((starts[token + 1] - starts[token]) as usize);
        rest = others;
        if bucket.len() > 1 {
            buckets.push(bucket);
        }
    }
    // Largest first, so that no thread is left with a large one at the end.
    buckets.sort_by_key(|bucket| std::cmp::Reverse(bucket.len()));
    buckets.into_par_iter().with_max_len(1).for_each(|bucket| {
        let mut buffers = Buffers {
            keyed: Vec::with_capacity(bucket.len()),
            runs: vec![],
        };
        sort_bucket(text, bucket, 1, depth, &mut buffers);
        sorted(bucket.len());
    });
    suffixes
}

/// Positions by first token, in text order inside a bucket, and where each bucket starts.
fn bucket_by_first<T: Symbol>(text: &[T], vocab_size: usize) -> (Vec<u32>, Vec<u32>) {
    let chunk = text
        .len()
        .div_ceil(rayon::current_num_threads())
        .max(1 << 16);
    // counts[chunk][token], then the place of the chunk's first position in the token's bucket.
    let mut places: Vec<Vec<u32>> = text
        .par_chunks(chunk)
        .map(|chunk| {
            let mut counts = vec![0u32; vocab_size];
            for &symbol in chunk {
                if let Some(count) = counts.get_mut(symbol.value() as usize) {
                    *count += 1;
                }
            }
            counts
        })
        .collect();
    let mut starts = Vec::with_capacity(vocab_size + 1);
    let mut next = 0;
    for token in 0..vocab_size {
        starts.push(next);
        for chunk in &mut places {
            next += std::mem::replace(&mut chunk[token], next);
        }
    }
    starts.push(next);
    let suffixes: Vec<AtomicU32> = (0..next)
        .into_par_iter()
        .map(|_| AtomicU32::new(0))
        .collect();
    text.par_chunks(chunk)
        .zip(&mut places)
        .enumerate()
        .for_each(|(number, (symbols, places))| {
            for (position, &symbol) in (number * chunk..).zip(symbols) {
                if let Some(place) = places.get_mut(symbol.value() as usize) {
                    suffixes[*place as usize].store(position as u32, Ordering::Relaxed);
                    *place += 1;
                }
            }
        });
    (
        suffixes.into_iter().map(AtomicU32::into_inner).collect(),
        starts,
    )
}

/// Memory that the sorting of one bucket uses again and again.
struct Buffers {
    /// Key and position of what is being sorted.
    keyed: Vec<u128>,
    /// Runs of equal keys in the buckets being sorted, one bucket's behind those of the one around it.
    runs: Vec<(u32, u32)>,
}

/// Sorts positions that share their first `from` tokens.
fn sort_bucket<T: Symbol>(
    text: &[T],
    bucket: &mut [u32],
    from: usize,
    depth: usize,
    buffers: &mut Buffers,
) {
    let keyed = &mut buffers.keyed;
    keyed.clear();
    for (i, &position) in bucket.iter().enumerate() {
        if let Some(&later) = bucket.get(i + AHEAD) {
            prefetch(text, later as usize + from);
        }
        let key = T::key(text, position as usize + from);
        // The position breaks ties, so that equal n-grams stay in text order.
        keyed.push(u128::from(key) << 32 | u128::from(position));
    }
    keyed.sort_unstable();
    for (position, &key) in bucket.iter_mut().zip(keyed.iter()) {
        *position = key as u32;
    }
    let next = from + T::PER_KEY;
    if next >= depth {
        return;
    }
    let first_run = buffers.runs.len();
    let mut start = 0;
    for run in keyed.chunk_by(|a, b| a >> 32 == b >> 32) {
        let ended = (run[0] >> 32) as u32 & T::SEPARATOR.value() == T::SEPARATOR.value();
        if run.len() > 1 && !ended {
            buffers.runs.push((start, start + run.len() as u32));
        }
        start += run.len() as u32;
    }
    let end_run = buffers.runs.len();
    // Most runs are of two or three: their text is requested while those before them are sorted.
    let mut requested = first_run;
    for number in first_run..end_run {
        while requested < end_run.min(number + RUNS_AHEAD) {
            let (start, end) = buffers.runs[requested];
            let run = &bucket[start as usize..end as usize];
            for &position in &run[..run.len().min(AHEAD)] {
                prefetch(text, position as usize + next);
            }
            requested += 1;
        }
        let (start, end) = buffers.runs[number];
        let run = &mut bucket[start as usize..end as usize];
        sort_bucket(text, run, next, depth, buffers);
    }
    buffers.runs.truncate(first_run);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use rand::RngExt;

    fn naive(text: &[u32], depth: usize) -> Vec<u32> {
        let ngram = |p: u32| -> Vec<u32> {
            let rest = &text[p as usize..];
            rest.iter()
                .take_while(|&&t| t != u32::MAX)
                .take(depth)
                .copied()
                .collect()
        };
        let mut positions: Vec<u32> = (0..text.len() as u32)
            .filter(|&p| text[p as usize] != u32::MAX)
            .collect();
        // A field that ends sorts behind one that goes on.
        let key = |p: u32| {
            let mut ngram = ngram(p);
            ngram.resize(depth, u32::MAX);
            (ngram, p)
        };
        positions.sort_by_key(|&p| key(p));
        positions
    }

    #[test]
    fn sorts_like_comparing_token_by_token() {
        for (seed, vocab, len) in [
            (0, 1, 70),
            (1, 2, 300),
            (2, 3, 1000),
            (3, 200, 700),
            (4, 2, 0),
        ] {
            let mut rng = stream(seed, "suffix", &[]);
            let mut text: Vec<u32> = (0..len)
                .map(|_| {
                    if rng.random_range(0..20) == 0 {
                        u32::MAX
                    } else {
                        rng.random_range(0..vocab)
                    }
                })
                .collect();
            text.extend([u32::MAX; 4]);
            let narrow: Vec<u16> = text.iter().map(|&t| t as u16).collect();
            // A depth of a multiple of the key's symbols plus one is sorted to exactly that depth.
            for depth in [5, 9, 33] {
                let expected = naive(&text, depth);
                assert_eq!(
                    sort_suffixes(&text, vocab as usize, depth, &|_| {}),
                    expected
                );
                assert_eq!(
                    sort_suffixes(&narrow, vocab as usize, depth, &|_| {}),
                    expected
                );
            }
        }
    }
}
