//! Nearest centroids.

use rayon::prelude::*;

/// Points that one thread assigns before it takes others; what a point gets does not depend on it.
const BLOCK: usize = 256;

/// The nearest of `centroids` (`[k, dims]`) for every one of `points` (`[n, dims]`) and the square of its distance;
/// of equally near ones the first.
///
/// O(n k dims) as one matrix product per block of points, on all threads.
pub(super) fn nearest(points: &[f32], centroids: &[f32], dims: usize) -> Vec<(u32, f32)> {
    let halves: Vec<f32> = centroids
        .chunks_exact(dims)
        .map(|c| c.iter().map(|x| x * x).sum::<f32>() / 2.0)
        .collect();
    let blocks: Vec<Vec<(u32, f32)>> = points
        .par_chunks(BLOCK * dims)
        .map_init(Vec::new, |products, block| {
            let rows = block.len() / dims;
            multiply(block, centroids, dims, products);
            (0..rows)
                .map(|row| {
                    let of_row = &products[row * halves.len()..(row + 1) * halves.len()];
                    let mut best = (0, f32::INFINITY);
                    for (nth, (half, product)) in halves.iter().zip(of_row).enumerate() {
                        if half - product < best.1 {
                            best = (nth as u32, half - product);
                        }
                    }
                    let point = &block[row * dims..(row + 1) * dims];
                    let square: f32 = point.iter().map(|x| x * x).sum();
                    (best.0, (square + 2.0 * best.1).max(0.0))
                })
                .collect()
        })
        .collect();
    blocks.into_iter().flatten().collect()
}

/// `points` times the transpose of `centroids`: `[rows, k]`; `out` is replaced.
fn multiply(points: &[f32], centroids: &[f32], dims: usize, out: &mut Vec<f32>) {
    let (rows, k) = (points.len() / dims, centroids.len() / dims);
    out.clear();
    out.resize(rows * k, 0.0);
    // SAFETY: the three matrices have the rows, columns and strides that are given, `out` is written alone.
    unsafe {
        gemm::gemm(
            rows,
            k,
            dims,
            out.as_mut_ptr(),
            1,
            k as isize,
            false,
            points.as_ptr(),
            1,
            dims as isize,
            centroids.as_ptr(),
            dims as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;
    use rand::RngExt;

    #[test]
    fn the_nearest_centroid_is_found() {
        let mut rng = stream(1, "nearest", &[]);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random::<f32>()).collect() };
        for (n, k, dims) in [(1, 1, 1), (700, 1, 3), (513, 65, 17), (1000, 300, 2)] {
            let (points, centroids) = (draw(n * dims), draw(k * dims));
            let found = nearest(&points, &centroids, dims);
            assert_eq!(found.len(), n);
            for (point, (code, square)) in points.chunks_exact(dims).zip(found) {
                let distance = |nth: usize| -> f32 {
                    let centroid = &centroids[nth * dims..(nth + 1) * dims];
                    point
                        .iter()
                        .zip(centroid)
                        .map(|(a, b)| (a - b) * (a - b))
                        .sum()
                };
                let least = (0..k).map(distance).fold(f32::INFINITY, f32::min);
                assert!((distance(code as usize) - least).abs() < 1e-4);
                assert!((square - least).abs() < 1e-4, "{square} {least}");
            }
        }
    }

    #[test]
    fn of_equally_near_ones_the_first() {
        let found = nearest(&[1.0, 2.0], &[3.0, 1.0, 1.0], 1);
        assert_eq!(found, [(1, 0.0), (0, 1.0)]);
    }
}
