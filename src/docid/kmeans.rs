//! Clusters of points: k-means (Lloyd 1982) seeded by greedy k-means++ (Arthur and Vassilvitskii 2007), by
//! mini-batches (Sculley 2010) where there are many points.
//!
//! Distances are found on all threads, and every centroid sums its points in their order: the result does not depend
//! on the number of threads.

use hashbrown::HashSet;
use rand::RngExt;
use rayon::prelude::*;

use super::assign::nearest;
use crate::rng::Stream;

/// Points that take part in a round; with more, every round draws that many.
const BATCH_POINTS: usize = 1 << 17;
/// Points per cluster among which k-means++ chooses.
const SEEDS_PER_CLUSTER: usize = 16;

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
    for _ in 0..options.iterations {
        let drawn = (n > options.batch).then(|| draw(points, dims, options.batch, rng));
        let batch = drawn.as_deref().unwrap_or(points);
        let found = nearest(batch, &centroids, dims);
        let codes: Vec<u32> = found.iter().map(|f| f.0).collect();
        if drawn.is_none() {
            if codes == before {
                break;
            }
            counts.fill(0.0);
        }
        let members = members(&codes, options.clusters);
        let far = farthest(&found, members.iter().filter(|m| m.is_empty()).count());
        let mut far = far.into_iter();
        let replaced: Vec<Option<u32>> = (members.iter().zip(&counts))
            .map(|(m, count)| (m.is_empty() && *count == 0.0).then(|| far.next())?)
            .collect();
        centroids
            .par_chunks_exact_mut(dims)
            .zip(&members)
            .zip(&mut counts)
            .zip(&replaced)
            .for_each(|(((centroid, members), count), replaced)| {
                let point = |at: u32| &batch[at as usize * dims..(at as usize + 1) * dims];
                if let Some(at) = *replaced {
                    centroid.copy_from_slice(point(at));
                    return;
                }
                let more = members.len() as f64;
                if more == 0.0 {
                    return;
                }
                let mut sum = vec![0f64; dims];
                for &at in members {
                    for (sum, x) in sum.iter_mut().zip(point(at)) {
                        *sum += f64::from(*x);
                    }
                }
                // The mean of all points that the cluster has had.
                for (old, sum) in centroid.iter_mut().zip(&sum) {
                    *old = ((f64::from(*old) * *count + sum) / (*count + more)) as f32;
                }
                *count += more;
            });
        before = codes;
    }
    centroids
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

/// The `limit` points that are farthest from their centroids, farthest first, none at a centroid itself.
fn farthest(found: &[(u32, f32)], limit: usize) -> Vec<u32> {
    if limit == 0 {
        return vec![];
    }
    let mut order: Vec<u32> = (0..found.len() as u32)
        .filter(|&at| found[at as usize].1 > 0.0)
        .collect();
    order.sort_by(|&a, &b| found[b as usize].1.total_cmp(&found[a as usize].1));
    order.truncate(limit);
    order
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
