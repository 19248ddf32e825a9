//! Residual quantisation: the nearest of K centroids, then the nearest to what that leaves, M times.

use rayon::prelude::*;

use super::assign::nearest;
use super::kmeans::{KmeansOptions, kmeans};
use super::{Codes, DocidOptions, Suffix, Vectors};
use crate::rng::stream;

/// Codes of `options.levels` positions for every vector. O(levels iterations n codes dims).
pub(super) fn quantise(
    vectors: Vectors,
    options: &DocidOptions,
    told: &mut dyn FnMut(&str),
) -> Codes {
    let (dims, n) = (vectors.dims(), vectors.len());
    let kmeans_options = KmeansOptions::new(options.codes, options.iterations);
    let variance = variance(&vectors);
    let mut residuals = vectors.into_values();
    let mut codes = vec![Vec::with_capacity(options.levels); n];
    let (mut centroids, mut errors) = (vec![], vec![]);
    for level in 0..options.levels {
        told(&format!(
            "codes at position {} of {}",
            level + 1,
            options.levels
        ));
        let mut rng = stream(options.seed, "residual quantisation", &[level as u64]);
        let of_level = kmeans(&residuals, dims, &kmeans_options, &mut rng);
        let found = nearest(&residuals, &of_level, dims);
        residuals
            .par_chunks_exact_mut(dims)
            .zip(&found)
            .for_each(|(residual, (code, _))| {
                let at = *code as usize * dims;
                for (x, c) in residual.iter_mut().zip(&of_level[at..at + dims]) {
                    *x -= c;
                }
            });
        for (codes, (code, _)) in codes.iter_mut().zip(found) {
            codes.push(code);
        }
        let left = sum_of_squares(&residuals, dims);
        errors.push(if variance > 0.0 { left / variance } else { 0.0 });
        centroids.extend(of_level);
    }
    Codes {
        codes,
        alphabet: options.codes,
        by_position: true,
        centroids,
        errors,
        suffix: Suffix::Last,
    }
}

/// Sum of the squared distances to the mean.
fn variance(vectors: &Vectors) -> f64 {
    let dims = vectors.dims();
    let mut mean = vec![0f64; dims];
    for vector in vectors.rows() {
        for (mean, x) in mean.iter_mut().zip(vector) {
            *mean += f64::from(*x) / vectors.len() as f64;
        }
    }
    let square = |vector: &[f32]| -> f64 {
        let differences = vector.iter().zip(&mean).map(|(x, m)| f64::from(*x) - m);
        differences.map(|d| d * d).sum()
    };
    vectors.rows().map(square).sum()
}

fn sum_of_squares(values: &[f32], dims: usize) -> f64 {
    let sums: Vec<f64> = values
        .par_chunks(4096 * dims)
        .map(|chunk| chunk.iter().map(|x| f64::from(*x) * f64::from(*x)).sum())
        .collect();
    sums.iter().sum()
}
