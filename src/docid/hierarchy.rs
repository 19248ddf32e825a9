//! Hierarchical k-means: passages are divided into clusters, clusters into clusters, until few are left.
//!
//! The code at a position is the cluster; in a cluster that is not divided, the last code numbers its passages (DSI,
//! NCI). Identifiers differ in length, none begins with another, no two are equal.

use rayon::prelude::*;

use super::assign::nearest;
use super::kmeans::{KmeansOptions, kmeans, members};
use super::{Codes, DocidOptions, Suffix, Vectors};
use crate::rng::stream;

/// Codes for every vector. O(depth iterations n codes dims).
pub(super) fn divide(vectors: &Vectors, options: &DocidOptions) -> Codes {
    let mut codes = vec![vec![]; vectors.len()];
    let all: Vec<u32> = (0..vectors.len() as u32).collect();
    for (passage, id) in ids_below(vectors, options, all, &[]) {
        codes[passage as usize] = id;
    }
    Codes {
        codes,
        alphabet: options.codes.max(options.leaf()),
        by_position: true,
        centroids: vec![],
        errors: vec![],
        suffix: Suffix::Last,
    }
}

/// The identifiers of `passages`, which all begin with `prefix`.
fn ids_below(
    vectors: &Vectors,
    options: &DocidOptions,
    passages: Vec<u32>,
    prefix: &[u32],
) -> Vec<(u32, Vec<u32>)> {
    let with = |code: u32| -> Vec<u32> { prefix.iter().copied().chain([code]).collect() };
    if passages.len() <= options.leaf() {
        let numbered = passages.into_iter().zip(0..);
        return numbered
            .map(|(passage, code)| (passage, with(code)))
            .collect();
    }
    let dims = vectors.dims();
    let points: Vec<f32> = passages
        .iter()
        .flat_map(|&passage| vectors.row(passage as usize))
        .copied()
        .collect();
    let place: Vec<u64> = prefix.iter().map(|&code| code.into()).collect();
    let mut rng = stream(options.seed, "hierarchical k-means", &place);
    let kmeans_options = KmeansOptions::new(options.codes, options.iterations);
    let centroids = kmeans(&points, dims, &kmeans_options, &mut rng);
    let codes: Vec<u32> = nearest(&points, &centroids, dims)
        .into_iter()
        .map(|found| found.0)
        .collect();
    let mut clusters = members(&codes, options.codes);
    if clusters.iter().filter(|c| !c.is_empty()).count() == 1 {
        // Vectors that cannot be told apart are dealt out in their order.
        let share = passages.len().div_ceil(options.codes) as u32;
        let all: Vec<u32> = (0..passages.len() as u32).collect();
        clusters = all.chunks(share as usize).map(<[u32]>::to_vec).collect();
    }
    let below: Vec<Vec<(u32, Vec<u32>)>> = clusters
        .into_par_iter()
        .zip(0..options.codes as u32)
        .map(|(cluster, code)| {
            let inside = cluster.iter().map(|&at| passages[at as usize]).collect();
            ids_below(vectors, options, inside, &with(code))
        })
        .collect();
    below.into_iter().flatten().collect()
}
