//! How much memory a batch takes, and which queries are decoded together.
//!
//! For q queries with prompts of at most p tokens, w hypotheses each and t generated tokens a batch takes,
//! beside weights and index,
//! ```text
//! q p prompt_token + q w (t - 1) new_token       keys and values
//! + max(q p, q w) pass_token                     activations of one layer
//! + 8 min(q w, HEAD_ROWS) vocab                  logits and their copy
//! + 2 q w t (96 + 4 t)                           candidates of every step
//! ```
//! bytes, with the model's [`Footprint`]. `benches/decode.rs` compares it with what the system reports.

use super::head::HEAD_ROWS;
use super::options::{Auto, BatchSize, DecodeOptions};
use crate::model::Footprint;

/// Queries of a batch at most, where its size is derived: more make it no faster.
pub const AUTO_QUERIES: usize = 64;

/// Hypotheses of a batch at most, where its size is derived and more than one query would have as many.
pub const AUTO_ROWS: usize = 2048;

/// GiB that a batch may take where nobody says how much.
pub const DEFAULT_GIB: f64 = 2.0;

/// Bytes that decoding `queries` prompts of at most `prompt` tokens takes, by the formula at the head of `decode/memory.rs`.
pub fn batch_bytes(
    footprint: &Footprint,
    options: &DecodeOptions,
    queries: usize,
    prompt: usize,
) -> usize {
    let rows = queries * options.beam_width;
    let new = options.max_new_tokens;
    let cache = queries * prompt * footprint.prompt_token_bytes
        + rows * (new - 1) * footprint.new_token_bytes;
    let pass = (queries * prompt).max(rows) * footprint.pass_token_bytes;
    let logits = 8 * rows.min(HEAD_ROWS) * footprint.vocab;
    cache + pass + logits + 2 * rows * new * (96 + 4 * new)
}

/// Which prompts are decoded together: their numbers, those of like length together, shortest first.
///
/// A given batch size is kept. A derived one is the largest that fits the memory, at most
/// [`AUTO_QUERIES`] and, unless it is one, [`AUTO_ROWS`] hypotheses.
pub fn batches(
    footprint: &Footprint,
    options: &DecodeOptions,
    prompt_tokens: &[usize],
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..prompt_tokens.len()).collect();
    order.sort_by_key(|&i| prompt_tokens[i]);
    let limit = options.queries_per_batch();
    let budget = options.memory_gib.unwrap_or(DEFAULT_GIB) * f64::from(1 << 30);
    let is_auto = options.batch_size == BatchSize::Auto(Auto::Auto);
    let mut batches: Vec<Vec<usize>> = vec![];
    for prompt in order {
        let fits = batches.last().is_some_and(|batch: &Vec<usize>| {
            let bytes = batch_bytes(footprint, options, batch.len() + 1, prompt_tokens[prompt]);
            batch.len() < limit && (!is_auto || bytes as f64 <= budget)
        });
        match batches.last_mut().filter(|_| fits) {
            Some(batch) => batch.push(prompt),
            None => batches.push(vec![prompt]),
        }
    }
    batches
}

impl DecodeOptions {
    /// Queries of a batch at most; less where memory is short.
    pub fn queries_per_batch(&self) -> usize {
        match self.batch_size {
            BatchSize::Queries(queries) => queries,
            BatchSize::Auto(_) => (AUTO_ROWS / self.beam_width).clamp(1, AUTO_QUERIES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOOTPRINT: Footprint = Footprint {
        prompt_token_bytes: 100,
        new_token_bytes: 10,
        pass_token_bytes: 1000,
        vocab: 50,
    };

    fn options(beam_width: usize, batch_size: BatchSize, gib: f64) -> DecodeOptions {
        DecodeOptions {
            beam_width,
            max_new_tokens: 3,
            batch_size,
            memory_gib: Some(gib),
            ..DecodeOptions::default()
        }
    }

    #[test]
    fn bytes_by_hand() {
        let options = options(4, BatchSize::Queries(2), 1.0);
        // 2 queries, prompts of 5: 1000 + 8 rows x 2 x 10, 10 x 1000, 8 x 8 x 50, 2 x 8 x 3 x 108.
        let expected = 1000 + 160 + 10_000 + 3200 + 5184;
        assert_eq!(batch_bytes(&FOOTPRINT, &options, 2, 5), expected);
    }

    #[test]
    fn batches_hold_like_lengths_and_fit() {
        let lengths = [9, 2, 7, 2, 8, 3];
        let given = options(4, BatchSize::Queries(4), 1e-9);
        assert_eq!(
            batches(&FOOTPRINT, &given, &lengths),
            [vec![1, 3, 5, 2], vec![4, 0]]
        );
        let auto = BatchSize::Auto(Auto::Auto);
        let ample = options(4, auto, 1.0);
        assert_eq!(batches(&FOOTPRINT, &ample, &lengths).len(), 1);
        let gib = (batch_bytes(&FOOTPRINT, &ample, 2, 3) + 1) as f64 / f64::from(1 << 30);
        let tight = options(4, auto, gib);
        assert_eq!(
            batches(&FOOTPRINT, &tight, &lengths),
            [vec![1, 3], vec![5], vec![2], vec![4], vec![0]]
        );
        assert_eq!(options(10, auto, 1.0).queries_per_batch(), 64);
        assert_eq!(options(100, auto, 1.0).queries_per_batch(), 20);
        assert_eq!(options(9999, auto, 1.0).queries_per_batch(), 1);
        assert!(batches(&FOOTPRINT, &ample, &[]).is_empty());
    }
}
