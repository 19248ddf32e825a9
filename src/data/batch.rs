//! Length-bucketed batches: rows of similar length together, so that little is padded.
//!
//! Items are shuffled, cut into pools of `POOL_BATCHES` batches, sorted by length within the pool
//! and cut into batches, whose order is shuffled again. O(n log n).

use rand::seq::SliceRandom;

use crate::rng;

/// Batches per pool: enough that a batch's lengths are nearly equal, few enough that the batches
/// of an epoch are not always the same.
const POOL_BATCHES: usize = 64;

/// Batches of `rows` items each for one epoch; every item is in exactly one, and only the last
/// batch may be smaller.
///
/// `lengths[i]` is the length of item i in tokens. Equal arguments give equal batches; another
/// epoch gives others. `rows` of 0 counts as 1.
pub fn batches(lengths: &[usize], rows: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let rows = rows.max(1);
    let mut rng = rng::stream(seed, "batch", &[epoch]);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(&mut rng);
    let whole = order.len() / rows * rows;
    let rest = order.split_off(whole);
    for pool in order.chunks_mut(rows * POOL_BATCHES) {
        pool.sort_by_key(|&item| lengths[item]);
    }
    let mut batches: Vec<Vec<usize>> = order.chunks(rows).map(<[usize]>::to_vec).collect();
    batches.shuffle(&mut rng);
    if !rest.is_empty() {
        batches.push(rest);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn every_item_once_in_batches_of_fixed_size() {
        for (n, rows) in [(0, 4), (1, 4), (4, 4), (1003, 16), (5, 0)] {
            let lengths: Vec<usize> = (0..n).map(|i| i % 37).collect();
            let all = batches(&lengths, rows, 1, 0);
            let mut items: Vec<usize> = all.concat();
            items.sort_unstable();
            assert_eq!(items, (0..n).collect::<Vec<_>>());
            let full = all.len().saturating_sub(1);
            assert!(all[..full].iter().all(|batch| batch.len() == rows.max(1)));
        }
    }

    #[test]
    fn batches_repeat_by_seed_and_epoch() {
        let lengths: Vec<usize> = (0..500).map(|i| i % 23).collect();
        assert_eq!(batches(&lengths, 8, 1, 0), batches(&lengths, 8, 1, 0));
        assert_ne!(batches(&lengths, 8, 1, 0), batches(&lengths, 8, 1, 1));
        assert_ne!(batches(&lengths, 8, 1, 0), batches(&lengths, 8, 2, 0));
    }

    #[test]
    fn little_is_padded() {
        let mut rng = rng::stream(9, "test", &[]);
        let lengths: Vec<usize> = (0..10_000).map(|_| rng.random_range(10..100)).collect();
        let real: usize = lengths.iter().sum();
        let padded: usize = batches(&lengths, 32, 1, 0)
            .iter()
            .map(|batch| batch.len() * batch.iter().map(|&i| lengths[i]).max().unwrap())
            .sum();
        assert!(
            (padded as f64) < 1.03 * real as f64,
            "{padded} against {real}"
        );
    }
}
