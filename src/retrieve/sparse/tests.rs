use std::fs;

use rand::RngExt;

use super::*;
use crate::rng::stream;
use crate::types::{Hit, PassageIdx, Score, sort_hits};

/// A random vector whose terms follow a power law.
fn vector(random: &mut impl RngExt, num_terms: usize, len: usize) -> SparseVector {
    let entries = (0..len).map(|_| {
        let term = (num_terms as f64).powf(random.random::<f64>()) as u32 - 1;
        (term, 0.01 + random.random::<f32>())
    });
    SparseVector::from_entries(entries.collect())
}

fn build(vectors: &[SparseVector], num_terms: usize, options: SparseOptions) -> SparseIndex {
    let mut builder = SparseBuilder::new(num_terms, options).unwrap();
    for (i, vector) in vectors.iter().enumerate() {
        builder.push(&format!("d{i}"), vector).unwrap();
    }
    builder.into_index().unwrap()
}

fn options(precision: Precision, block_passages: usize) -> SparseOptions {
    SparseOptions {
        precision,
        block_passages,
        clusters: None,
    }
}

/// Every passage scored by itself.
fn brute_force(index: &SparseIndex, query: &SparseVector, k: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = (0..index.num_passages() as u32)
        .map(|p| Hit {
            passage: PassageIdx(p),
            score: Score::new(index.score(query, PassageIdx(p)).unwrap()).unwrap(),
        })
        .filter(|hit| hit.score.get() > 0.0)
        .collect();
    sort_hits(&mut hits);
    hits.truncate(k);
    hits
}

#[test]
fn a_hand_case() {
    let vector = |terms: &[u32], weights: &[f32]| SparseVector {
        terms: terms.into(),
        weights: weights.into(),
    };
    let passages = [
        vector(&[0, 2], &[1.0, 2.0]),
        vector(&[1], &[3.0]),
        vector(&[], &[]),
        vector(&[0, 1, 99_999], &[1.0, 0.5, 4.0]),
    ];
    let index = build(&passages, 100_000, options(Precision::Floats, 8));
    let hits = index.search(&vector(&[0, 1], &[2.0, 4.0]), 3).unwrap();
    let found: Vec<(u32, f32)> = hits.iter().map(|h| (h.passage.0, h.score.get())).collect();
    assert_eq!(found, [(1, 12.0), (3, 4.0), (0, 2.0)]);
    assert_eq!(index.doc_id(PassageIdx(3)), "d3");
    assert_eq!(index.doc_id(PassageIdx(4)), "");
    let found = index.search(&vector(&[99_999], &[0.5]), 3).unwrap();
    assert_eq!((found[0].passage.0, found[0].score.get()), (3, 2.0));
    assert!(index.search(&vector(&[50], &[1.0]), 3).unwrap().is_empty());
    assert!(index.search(&vector(&[], &[]), 3).unwrap().is_empty());
    assert!(index.search(&vector(&[0], &[1.0]), 0).unwrap().is_empty());
    let stats = index.stats();
    assert_eq!(
        (stats.num_postings, stats.used_terms, stats.longest_list),
        (6, 4, 2)
    );
    assert_eq!((stats.mean_error, stats.largest_error), (0.0, 0.0));
}

#[test]
fn pruning_changes_nothing() {
    for (case, &count) in [0, 1, 7, 8, 9, 63, 64, 65, 511, 513, 1500]
        .iter()
        .enumerate()
    {
        let mut random = stream(7, "sparse", &[case as u64]);
        for num_terms in [1, 30, 2000, 100_000] {
            let vectors: Vec<_> = (0..count)
                .map(|_| {
                    let len = random.random_range(0..40);
                    vector(&mut random, num_terms, len)
                })
                .collect();
            for precision in [Precision::Bytes, Precision::Floats] {
                for block in [8, 64] {
                    let index = build(&vectors, num_terms, options(precision, block));
                    for len in [1, 3, 12, 150] {
                        let query = vector(&mut random, num_terms, len);
                        for k in [1, 10, 2000] {
                            let expected = brute_force(&index, &query, k);
                            assert_eq!(index.search(&query, k).unwrap(), expected);
                            assert_eq!(index.search_exhaustively(&query, k).unwrap(), expected);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn scores_are_dot_products() {
    let mut random = stream(1, "sparse", &[]);
    let vectors: Vec<_> = (0..300).map(|_| vector(&mut random, 500, 30)).collect();
    let query = vector(&mut random, 500, 20);
    let exact = build(&vectors, 500, options(Precision::Floats, 64));
    let rounded = build(&vectors, 500, SparseOptions::default());
    let total: f32 = query.weights.iter().sum();
    let loss = rounded.stats().largest_error;
    assert!(
        loss > 0.0 && loss <= 0.5 / 255.0 + 1e-6 || loss < 1.0 / 255.0,
        "{loss}"
    );
    for (passage, vector) in vectors.iter().enumerate() {
        let expected = query.dot(vector) as f32;
        let passage = PassageIdx(passage as u32);
        let score = exact.score(&query, passage).unwrap();
        assert!((score - expected).abs() <= 1e-5 * expected.max(1.0));
        let score = rounded.score(&query, passage).unwrap();
        // Every weight is off by at most the loss, times the largest weight, about one here.
        assert!((score - expected).abs() <= total * loss * 1.1 * 3.0);
    }
}

#[test]
fn ties_are_in_passage_order_and_threads_change_nothing() {
    let vectors: Vec<_> = (0..1000)
        .map(|i| SparseVector {
            terms: vec![i % 3, 5],
            weights: vec![1.0, 1.0],
        })
        .collect();
    let index = build(&vectors, 6, SparseOptions::default());
    let query = SparseVector {
        terms: vec![1, 5],
        weights: vec![1.0, 1.0],
    };
    let hits = index.search(&query, 5).unwrap();
    let order: Vec<u32> = hits.iter().map(|h| h.passage.0).collect();
    assert_eq!(order, [1, 4, 7, 10, 13]);
    let queries = vec![query; 50];
    let alone = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let one = alone.install(|| index.search_all(&queries, 400).unwrap());
    assert_eq!(one, index.search_all(&queries, 400).unwrap());
    assert!(one.iter().all(|hits| hits[..5] == one[0][..5]));
}

#[test]
fn wrong_vectors_are_refused() {
    let mut builder = SparseBuilder::new(10, SparseOptions::default()).unwrap();
    let mut refused = |terms: &[u32], weights: &[f32]| {
        let vector = SparseVector {
            terms: terms.into(),
            weights: weights.into(),
        };
        builder.push("p", &vector).unwrap_err().to_string()
    };
    assert!(refused(&[1], &[]).contains("1 terms but 0 weights"));
    assert!(refused(&[3, 3], &[1.0, 1.0]).contains("term 3 after 3"));
    assert!(refused(&[10], &[1.0]).contains("the index has 10 terms"));
    for weight in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        assert!(refused(&[1], &[weight]).contains("weight"));
    }
    assert!(SparseBuilder::new(10, options(Precision::Bytes, 48)).is_err());
}

#[test]
fn files_are_checked() {
    let mut random = stream(3, "sparse", &[]);
    let vectors: Vec<_> = (0..200).map(|_| vector(&mut random, 300, 20)).collect();
    let path = std::env::temp_dir().join(format!("genret-sparse-{}", std::process::id()));
    let options = SparseOptions {
        clusters: Some(ClusterOptions {
            passages: 4,
            ..ClusterOptions::default()
        }),
        ..options(Precision::Bytes, 8)
    };
    let mut builder = SparseBuilder::new(300, options).unwrap();
    for (i, vector) in vectors.iter().enumerate() {
        builder.push(&format!("d{i}"), vector).unwrap();
    }
    builder.write(&path).unwrap();
    let index = SparseIndex::open(&path).unwrap();
    index.verify().unwrap();
    let memory = build(&vectors, 300, options);
    assert_eq!(index.fingerprint(), memory.fingerprint());
    let queries: Vec<_> = (0..20).map(|_| vector(&mut random, 300, 15)).collect();
    let expected = memory.search_all(&queries, 10).unwrap();
    assert_eq!(index.search_all(&queries, 10).unwrap(), expected);
    drop(index);
    let good = fs::read(&path).unwrap();
    // Any byte may be wrong and any end missing: an error or other hits, never a panic.
    for case in 0..300 {
        let mut bytes = good.clone();
        if case % 10 == 0 {
            bytes.truncate(random.random_range(0..good.len()));
        } else {
            let at = random.random_range(0..good.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(index) = SparseIndex::open(&path) {
            assert!(index.verify().is_err());
            for query in &queries {
                let _ = index.search(query, 10);
                let _ = index.search_exhaustively(query, 10);
                let how = Approximation::default();
                let _ = index.search_approximately(std::slice::from_ref(query), 10, &how);
                let _ = index.score(query, PassageIdx(5));
            }
        }
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn clusters_find_most_and_everything_when_asked() {
    let mut random = stream(9, "sparse", &[]);
    let vectors: Vec<_> = (0..2000).map(|_| vector(&mut random, 400, 30)).collect();
    let queries: Vec<_> = (0..50).map(|_| vector(&mut random, 400, 12)).collect();
    for precision in [Precision::Bytes, Precision::Floats] {
        let clusters = |postings| SparseOptions {
            clusters: Some(ClusterOptions {
                postings,
                ..ClusterOptions::default()
            }),
            ..options(precision, 64)
        };
        let index = build(&vectors, 400, clusters(2000));
        let exact = index.search_all(&queries, 10).unwrap();
        let found = |index: &SparseIndex, promise| {
            let how = Approximation {
                query_terms: 12,
                promise,
            };
            let found = index.search_approximately(&queries, 10, &how).unwrap();
            let mut both = 0;
            for (found, exact) in found.iter().zip(&exact) {
                let same = |hit: &&Hit| found.iter().any(|f| f.passage == hit.passage);
                both += exact.iter().filter(same).count();
            }
            both
        };
        // All lists, all clusters: nothing is missed but what ties in rounding.
        assert!(found(&index, 0.0) >= 498, "{}", found(&index, 0.0));
        assert!(found(&index, 0.8) >= 450, "{}", found(&index, 0.8));
        let cut = build(&vectors, 400, clusters(50));
        assert!(found(&cut, 0.8) < found(&index, 0.0));
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let again = alone.install(|| build(&vectors, 400, clusters(2000)));
        assert_eq!(again.fingerprint(), index.fingerprint());
    }
    let without = build(&vectors, 400, SparseOptions::default());
    let error = without.search_approximately(&queries, 10, &Approximation::default());
    assert!(error.unwrap_err().to_string().contains("no clusters"));
}
