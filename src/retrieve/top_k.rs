//! The best k of a stream of scored passages.

use crate::types::{Hit, PassageIdx, Score};

/// The largest k that is kept in a heap.
const HEAP: usize = 32;

/// Keeps the best `k` hits pushed to it: larger scores first, equal ones in passage order.
///
/// Few are kept in a heap, whose threshold is always the latest; many in a buffer of twice `k` that is
/// cut by selection whenever it is full, so that a push costs O(1) on average. Scores are never NaN.
#[derive(Clone, Debug)]
pub struct TopK {
    k: usize,
    capacity: usize,
    keys: Vec<u64>,
    threshold: f32,
}

impl TopK {
    /// Of the best `k`.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            capacity: k.saturating_mul(2),
            keys: vec![],
            threshold: if k == 0 {
                f32::INFINITY
            } else {
                f32::NEG_INFINITY
            },
        }
    }

    /// How many are kept.
    pub fn k(&self) -> usize {
        self.k
    }

    /// What cannot be among the best has a score below this. It rises as the buffer is cut.
    #[inline]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Considers a passage; call it only where `score` is at least the threshold.
    #[inline]
    pub fn push(&mut self, passage: PassageIdx, score: f32) {
        let key = key(score) << 32 | u64::from(!passage.0);
        if self.k <= HEAP {
            return self.push_to_heap(key);
        }
        self.keys.push(key);
        if self.keys.len() == self.capacity {
            self.settle();
        }
    }

    /// A heap of at most k keys, the least at its root.
    fn push_to_heap(&mut self, key: u64) {
        if self.keys.len() < self.k {
            self.keys.push(key);
            if self.keys.len() == self.k {
                // Sorted is a heap.
                self.keys.sort_unstable();
                self.threshold = score(self.keys[0] >> 32);
            }
            return;
        }
        if self.keys.first().is_none_or(|&least| key < least) {
            return;
        }
        let mut at = 0;
        loop {
            let mut child = 2 * at + 1;
            if child >= self.k {
                break;
            }
            if child + 1 < self.k && self.keys[child + 1] < self.keys[child] {
                child += 1;
            }
            if self.keys[child] >= key {
                break;
            }
            self.keys[at] = self.keys[child];
            at = child;
        }
        self.keys[at] = key;
        self.threshold = score(self.keys[0] >> 32);
    }

    /// Raises the threshold to the k-th best score so far.
    pub fn settle(&mut self) {
        if self.k <= HEAP || self.keys.len() < self.k {
            return;
        }
        self.keys
            .select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
        self.keys.truncate(self.k);
        self.threshold = score(self.keys[self.k - 1] >> 32);
    }

    /// The best, in order.
    pub fn into_hits(mut self) -> Vec<Hit> {
        self.settle();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.keys.truncate(self.k);
        self.keys
            .iter()
            .map(|&key| Hit {
                passage: PassageIdx(!(key as u32)),
                score: Score::new(score(key >> 32)).expect("NaN is never pushed"),
            })
            .collect()
    }
}

/// An integer that orders as the score does.
#[inline]
fn key(score: f32) -> u64 {
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    };
    u64::from(ordered)
}

fn score(key: u64) -> f32 {
    let key = key as u32;
    f32::from_bits(if key >> 31 == 1 { key ^ 1 << 31 } else { !key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::sort_hits;

    #[test]
    fn equals_sorting_everything() {
        // Scores with many ties, negative ones and both zeros among them.
        let all: Vec<Hit> = (0..1000u32)
            .map(|i| Hit {
                passage: PassageIdx(i.wrapping_mul(7919) % 1000),
                score: Score::new((i * i % 37) as f32 * 0.5 - 4.0).unwrap(),
            })
            .collect();
        for k in [0, 1, 2, 10, 16, 32, 33, 999, 1000, 1001] {
            let mut top = TopK::new(k);
            for hit in &all {
                if hit.score.get() >= top.threshold() {
                    top.push(hit.passage, hit.score.get());
                }
            }
            let mut expected = all.clone();
            sort_hits(&mut expected);
            expected.truncate(k);
            assert_eq!(top.into_hits(), expected, "{k}");
        }
    }
}
