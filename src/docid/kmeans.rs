//! Clusters of points: k-means (Lloyd 1982) seeded by greedy k-means++ (Arthur and Vassilvitskii 2007), by
//! mini-batches (Sculley 2010) where there are many points.
//!
//! Clusters of next to nothing divide large ones until three quarters of the rounds are over.
//!
//! Distances are found on all threads, and every centroid sums its points in their order: the result does not depend
//! on the number of threads.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashSet;
use rand::RngExt;
use rayon::prelude::*;

use super::assign::nearest;
use crate::rng::Stream;

/// Points that take part in a round; with more, every round draws that many.
const BATCH_POINTS: usize = 1 << 17;
/// Points per cluster among which k-means++ chooses.
const SEEDS_PER_CLUSTER: usize = 16;
/// How far a new centroid stands from that of the cluster it divides, on the way to one of its points.
const SPLIT: f32 = 0.1;

/// How clusters are sought.
pub(super) struct KmeansOptions {
    pub(super) clusters: usize,
    pub(super) iterations: usize,
    /// Points of a round.
    pub(super) batch: usize,
}

impl KmeansOptions {
    pub(super) fn new(clusters: usize, iterations: usize) -> Self {
        Self {
            clusters,
            iterations,
            batch: BATCH_POINTS,
        }
    }
}

/// Centroids `[clusters, dims]` of `points` `[n, dims]`. With fewer different points than clusters, some are equal.
///
/// O(iterations min(n, batch) clusters dims); ends earlier when nothing changes any more.
pub(super) fn kmeans(
    points: &[f32],
    dims: usize,
    options: &KmeansOptions,
    rng: &mut Stream,
) -> Vec<f32> {
    let n = points.len() / dims;
    let sample = draw(
        points,
        dims,
        (SEEDS_PER_CLUSTER * options.clusters).max(1024),
        rng,
    );
    let mut centroids = seeds(&sample, dims, options.clusters, rng);
    let mut counts = vec![0f64; options.clusters];
    let mut before: Vec<u32> = vec![];
    let mut best = (f64::INFINITY, centroids.clone());
    for round in 0..options.iterations {
        let drawn = (n > options.batch).then(|| draw(points, dims, options.batch, rng));
        let batch = drawn.as_deref().unwrap_or(points);
        let found = nearest(batch, &centroids, dims);
        let codes: Vec<u32> = found.iter().map(|f| f.0).collect();
        if drawn.is_none() {
            if codes == before {
                break;
            }
            best = best.min_by_error(&found, &centroids);
            counts.fill(0.0);
        }
        let members = members(&codes, options.clusters);
        move_to_means(batch, dims, &mut centroids, &mut counts, &members);
        if 4 * round < 3 * options.iterations {
            for (small, large) in unequal(&members) {
                let at = members[large][rng.random_range(0..members[large].len())] as usize;
                for i in 0..dims {
                    let from = centroids[large * dims + i];
                    let towards = batch[at * dims + i] - from;
                    centroids[small * dims + i] = from + SPLIT * towards;
                }
                counts[small] = 0.0;
            }
        }
        before = codes;
    }
    if n > options.batch {
        return centroids;
    }
    let found = nearest(points, &centroids, dims);
    best.min_by_error(&found, &centroids).1
}

/// Centroids with the sum of squared distances to them.
trait ByError {
    fn min_by_error(self, found: &[(u32, f32)], centroids: &[f32]) -> Self;
}

impl ByError for (f64, Vec<f32>) {
    fn min_by_error(self, found: &[(u32, f32)], centroids: &[f32]) -> Self {
        let error: f64 = found.iter().map(|f| f64::from(f.1)).sum();
        if error < self.0 {
            (error, centroids.to_vec())
        } else {
            self
        }
    }
}

/// Moves every centroid to the mean of all points that it has had: `counts` of them, and its `members` of `batch`.
fn move_to_means(
    batch: &[f32],
    dims: usize,
    centroids: &mut [f32],
    counts: &mut [f64],
    members: &[Vec<u32>],
) {
    let all = centroids
        .par_chunks_exact_mut(dims)
        .zip(counts)
        .zip(members);
    all.for_each(|((centroid, count), members)| {
        if members.is_empty() {
            return;
        }
        let mut sum = vec![0f64; dims];
        for &at in members {
            let point = &batch[at as usize * dims..(at as usize + 1) * dims];
            for (sum, x) in sum.iter_mut().zip(point) {
                *sum += f64::from(*x);
            }
        }
        let more = members.len() as f64;
        for (old, sum) in centroid.iter_mut().zip(&sum) {
            *old = ((f64::from(*old) * *count + sum) / (*count + more)) as f32;
        }
        *count += more;
    });
}

/// Clusters of next to nothing, each with a large one that it is to share: among points of many dimensions of which
/// none are near each other, the centroid with the smallest norm is the nearest to nearly all, and the others keep
/// the one point that they began with.
fn unequal(members: &[Vec<u32>]) -> Vec<(usize, usize)> {
    let clusters = members.len();
    let share = members.iter().map(Vec::len).sum::<usize>() / clusters;
    let small = (0..clusters).filter(|&c| members[c].len() * 16 <= share);
    let mut large: BinaryHeap<(usize, Reverse<usize>, usize)> = (0..clusters)
        .filter(|&c| members[c].len() > 2 * share.max(1))
        .map(|c| (members[c].len(), Reverse(c), 1))
        .collect();
    let mut pairs = vec![];
    for small in small {
        let Some((part, Reverse(cluster), parts)) = large.pop() else {
            break;
        };
        if part <= 2 * share.max(1) {
            break;
        }
        pairs.push((small, cluster));
        let part = members[cluster].len() / (parts + 1);
        large.push((part, Reverse(cluster), parts + 1));
    }
    pairs
}

/// `limit` different points in their order, or all if there are not more.
fn draw(points: &[f32], dims: usize, limit: usize, rng: &mut Stream) -> Vec<f32> {
    let n = points.len() / dims;
    if n <= limit {
        return points.to_vec();
    }
    // Floyd's sample: every set equally likely, without a list of all.
    let mut chosen = HashSet::with_capacity(limit);
    for last in n - limit..n {
        let at = rng.random_range(0..=last);
        if !chosen.insert(at) {
            chosen.insert(last);
        }
    }
    let mut chosen: Vec<usize> = chosen.into_iter().collect();
    chosen.sort_unstable();
    let rows = chosen.into_iter();
    rows.flat_map(|at| &points[at * dims..(at + 1) * dims])
        .copied()
        .collect()
}

/// k-means++: each next centroid is a point drawn by the square of its distance to the nearest so far; of several
/// drawn, the one that leaves the smallest sum of squares.
fn seeds(points: &[f32], dims: usize, clusters: usize, rng: &mut Stream) -> Vec<f32> {
    let n = points.len() / dims;
    let point = |at: usize| &points[at * dims..(at + 1) * dims];
    let candidates = 2 + (clusters as f64).ln() as usize;
    let mut centroids = Vec::with_capacity(clusters * dims);
    centroids.extend(point(rng.random_range(0..n)));
    let mut squares = nearer(points, &centroids, &vec![f32::INFINITY; n]);
    for _ in 1..clusters {
        let total = sum(&squares);
        let drawn: Vec<usize> = (0..candidates)
            .map(|_| {
                let mut left = rng.random::<f64>() * total;
                let drawn = squares.iter().position(|&square| {
                    left -= f64::from(square);
                    left < 0.0
                });
                // All points are centroids already, or rounding took the last one.
                drawn.unwrap_or_else(|| rng.random_range(0..n))
            })
            .collect();
        let left = drawn.iter().map(|&at| nearer(points, point(at), &squares));
        let left: Vec<Vec<f32>> = left.collect();
        let best = (0..candidates).min_by(|&a, &b| sum(&left[a]).total_cmp(&sum(&left[b])));
        let best = best.expect("there are at least two");
        centroids.extend(point(drawn[best]));
        squares.clone_from(&left[best]);
    }
    centroids
}

/// Per point the square of its distance to `centroid`, or that of `squares` if it is less.
fn nearer(points: &[f32], centroid: &[f32], squares: &[f32]) -> Vec<f32> {
    squares
        .par_iter()
        .zip(points.par_chunks_exact(centroid.len()))
        .with_min_len(512)
        .map(|(square, point)| square.min(distance(point, centroid)))
        .collect()
}

/// The square of the distance, eight sums at a time.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let (a_parts, a_rest) = a.as_chunks::<8>();
    let (b_parts, b_rest) = b.as_chunks::<8>();
    let mut sums = [0f32; 8];
    for (a, b) in a_parts.iter().zip(b_parts) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += (a - b) * (a - b);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b));
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}

fn sum(squares: &[f32]) -> f64 {
    squares.iter().map(|&square| f64::from(square)).sum()
}

/// The points of each cluster, increasing.
pub(super) fn members(codes: &[u32], clusters: usize) -> Vec<Vec<u32>> {
    let mut members = vec![vec![]; clusters];
    for (at, &code) in (0..).zip(codes) {
        members[code as usize].push(at);
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    /// `n` points around each of `k` corners of a cube, and which corner each is of.
    fn planted(k: usize, n: usize, dims: usize) -> (Vec<f32>, Vec<u32>) {
        let mut rng = stream(9, "planted", &[]);
        let corners: Vec<f32> = (0..k * dims).map(|_| rng.random::<f32>() * 10.0).collect();
        let mut points = vec![];
        let mut of = vec![];
        for _ in 0..n {
            for corner in 0..k {
                of.push(corner as u32);
                let at = &corners[corner * dims..(corner + 1) * dims];
                points.extend(at.iter().map(|x| x + rng.random::<f32>() * 0.1));
            }
        }
        (points, of)
    }

    #[test]
    fn planted_clusters_are_found() {
        for (batch, iterations) in [(1 << 17, 30), (200, 30)] {
            let (points, of) = planted(12, 100, 8);
            let options = KmeansOptions {
                clusters: 12,
                iterations,
                batch,
            };
            let centroids = kmeans(&points, 8, &options, &mut stream(1, "kmeans", &[]));
            let found = nearest(&points, &centroids, 8);
            // Points share a cluster if and only if they share a corner.
            let mut codes = [None; 12];
            for (corner, (code, square)) in of.iter().zip(&found) {
                assert_eq!(*codes[*corner as usize].get_or_insert(*code), *code);
                assert!(*square < 0.2, "{square}");
            }
            let different: HashSet<_> = codes.iter().flatten().collect();
            assert_eq!(different.len(), 12);
        }
    }

    #[test]
    fn points_far_from_each_other_are_divided_too() {
        // Directions of chance, of all lengths: k-means++ alone gives one cluster with nearly all of them.
        let mut rng = stream(2, "sphere", &[]);
        let (n, dims, clusters) = (4000, 128, 32);
        let points: Vec<f32> = (0..n)
            .flat_map(|at| {
                let length = 0.2 + 0.8 * at as f32 / n as f32;
                let point: Vec<f32> = (0..dims).map(|_| rng.random::<f32>() - 0.5).collect();
                let norm = point.iter().map(|x| x * x).sum::<f32>().sqrt();
                point.into_iter().map(move |x| x / norm * length)
            })
            .collect();
        for batch in [1 << 17, 2000] {
            let options = KmeansOptions {
                clusters,
                iterations: 20,
                batch,
            };
            let centroids = kmeans(&points, dims, &options, &mut stream(1, "kmeans", &[]));
            let codes: Vec<u32> = nearest(&points, &centroids, dims)
                .iter()
                .map(|f| f.0)
                .collect();
            let largest = members(&codes, clusters).iter().map(Vec::len).max();
            assert!(largest < Some(n / 4), "{largest:?}");
        }
    }

    #[test]
    fn threads_change_nothing() {
        let (points, _) = planted(7, 300, 5);
        let run = |threads: usize, batch: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let options = KmeansOptions {
                clusters: 20,
                iterations: 6,
                batch,
            };
            let run = || kmeans(&points, 5, &options, &mut stream(1, "kmeans", &[]));
            pool.build().unwrap().install(run)
        };
        assert_eq!(run(1, 1 << 17), run(2, 1 << 17));
        assert_eq!(run(1, 500), run(2, 500));
    }

    #[test]
    fn few_points_and_equal_ones() {
        let options = KmeansOptions::new(4, 10);
        let mut rng = stream(1, "kmeans", &[]);
        assert_eq!(kmeans(&[2.0, 3.0], 2, &options, &mut rng).len(), 8);
        let equal = kmeans(&[5.0; 60], 2, &options, &mut rng);
        assert!(equal.iter().all(|x| *x == 5.0));
        // As many clusters as points: each its own.
        let points = [1.0, 2.0, 8.0, 9.0];
        let mut found = kmeans(&points, 1, &options, &mut rng);
        found.sort_by(f32::total_cmp);
        assert_eq!(found, points);
    }
}
