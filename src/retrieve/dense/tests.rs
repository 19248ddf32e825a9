use std::fs;

use rand::RngExt;

use super::*;
use crate::rng::stream;
use crate::types::{Hit, PassageIdx, Score, sort_hits};

/// Vectors around a few centres, in [-1, 1] more or less.
fn vectors(name: &str, count: usize, width: usize) -> Vec<f32> {
    let mut random = stream(5, name, &[count as u64, width as u64]);
    let mut centres = stream(5, "centres", &[width as u64]);
    let centres: Vec<f32> = (0..20 * width)
        .map(|_| centres.random::<f32>() - 0.5)
        .collect();
    let mut all = vec![];
    for _ in 0..count {
        let centre = random.random_range(0..20usize);
        let centre = &centres[centre * width..][..width];
        all.extend(centre.iter().map(|c| c + random.random::<f32>() - 0.5));
    }
    all
}

fn build(values: &[f32], width: usize, options: DenseOptions) -> DenseIndex {
    let mut builder = DenseBuilder::new(width, options).unwrap();
    for (i, vector) in values.chunks_exact(width).enumerate() {
        builder.push(&format!("d{i}"), vector).unwrap();
    }
    builder.into_index().unwrap()
}

fn brute_force(values: &[f32], query: &[f32], k: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = values
        .chunks_exact(query.len())
        .enumerate()
        .map(|(passage, row)| {
            let score: f64 = row.iter().zip(query).map(|(a, b)| f64::from(a * b)).sum();
            Hit {
                passage: PassageIdx(passage as u32),
                score: Score::new(score as f32).unwrap(),
            }
        })
        .collect();
    sort_hits(&mut hits);
    hits.truncate(k);
    hits
}

/// The share of `expected` that is in `found`.
fn recall(found: &[Vec<Hit>], expected: &[Vec<Hit>]) -> f64 {
    let mut both = 0;
    for (found, expected) in found.iter().zip(expected) {
        both += expected
            .iter()
            .filter(|hit| found.iter().any(|f| f.passage == hit.passage))
            .count();
    }
    both as f64 / expected.iter().map(Vec::len).sum::<usize>() as f64
}

const EXACT: DenseSearch = DenseSearch::Exact { rescored: 4 };

#[test]
fn a_hand_case() {
    let values = [1.0, 0.0, 0.5, -2.0, 0.0, 3.0];
    for numbers in [Numbers::Floats, Numbers::Bytes, Numbers::Both] {
        let options = DenseOptions {
            numbers,
            graph: None,
        };
        let index = build(&values, 2, options);
        let hits = index.search(&[2.0, 1.0, 0.0, -1.0], 2, EXACT).unwrap();
        let found = |hits: &[Hit]| -> Vec<u32> { hits.iter().map(|h| h.passage.0).collect() };
        assert_eq!((found(&hits[0]), found(&hits[1])), (vec![2, 0], vec![1, 0]));
        assert!((hits[0][0].score.get() - 3.0).abs() < 0.03);
        assert_eq!(index.doc_id(PassageIdx(2)), "d2");
    }
}

#[test]
fn equals_brute_force() {
    for count in [0, 1, 2, 63, 64, 65, 511, 513] {
        for width in [1, 7, 16, 33, 100] {
            let values = vectors("passages", count, width);
            let index = build(&values, width, DenseOptions::default());
            for num_queries in [0, 1, 4, 5, 37] {
                let queries = vectors("queries", num_queries, width);
                let found = index.search(&queries, 10, EXACT).unwrap();
                assert_eq!(found.len(), num_queries);
                for (query, found) in queries.chunks_exact(width).zip(&found) {
                    let expected = brute_force(&values, query, 10);
                    assert_eq!(found.len(), expected.len());
                    for (a, b) in found.iter().zip(&expected) {
                        assert!((a.score.get() - b.score.get()).abs() < 1e-4);
                    }
                }
            }
        }
    }
}

#[test]
fn bytes_lose_little_and_rescoring_less() {
    let values = vectors("passages", 2000, 96);
    let queries = vectors("queries", 50, 96);
    let exact = build(&values, 96, DenseOptions::default());
    let exact = exact.search(&queries, 10, EXACT).unwrap();
    let mut recalls = vec![];
    for numbers in [Numbers::Bytes, Numbers::Both] {
        let options = DenseOptions {
            numbers,
            graph: None,
        };
        let index = build(&values, 96, options);
        assert!(index.stats().mean_error > 0.0 && index.stats().mean_error < 0.01);
        recalls.push(recall(&index.search(&queries, 10, EXACT).unwrap(), &exact));
    }
    assert!(recalls[0] > 0.95, "{recalls:?}");
    assert!(recalls[1] > 0.999, "{recalls:?}");
}

#[test]
fn the_graph_finds_most_and_threads_change_nothing() {
    let values = vectors("passages", 3000, 24);
    let queries = vectors("queries", 100, 24);
    let options = DenseOptions {
        numbers: Numbers::Floats,
        graph: Some(GraphOptions::default()),
    };
    let index = build(&values, 24, options);
    let exact = index.search(&queries, 10, EXACT).unwrap();
    let search = |effort| {
        index
            .search(&queries, 10, DenseSearch::Graph { effort })
            .unwrap()
    };
    let (few, many) = (recall(&search(10), &exact), recall(&search(200), &exact));
    assert!(many > 0.98 && many >= few, "{few} {many}");
    let alone = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    alone.install(|| {
        assert_eq!(
            build(&values, 24, options).fingerprint(),
            index.fingerprint()
        );
        assert_eq!(index.search(&queries, 10, EXACT).unwrap(), exact);
    });
    for small in [0, 1, 2, 3] {
        let index = build(&values[..small * 24], 24, options);
        let found = index
            .search(&queries[..24], 5, DenseSearch::Graph { effort: 5 })
            .unwrap();
        assert_eq!(found[0].len(), small);
    }
}

#[test]
fn wrong_input_is_refused() {
    let mut builder = DenseBuilder::new(2, DenseOptions::default()).unwrap();
    assert!(builder.push("a", &[1.0]).is_err());
    assert!(builder.push("a", &[1.0, f32::NAN]).is_err());
    assert!(DenseBuilder::new(0, DenseOptions::default()).is_err());
    let graph = |links, numbers| DenseOptions {
        numbers,
        graph: Some(GraphOptions { links, effort: 10 }),
    };
    assert!(DenseBuilder::new(2, graph(1, Numbers::Floats)).is_err());
    assert!(DenseBuilder::new(2, graph(8, Numbers::Bytes)).is_err());
    let index = build(&[1.0, 2.0], 2, DenseOptions::default());
    assert!(index.search(&[1.0], 1, EXACT).is_err());
    assert!(index.search(&[1.0, f32::INFINITY], 1, EXACT).is_err());
    let graph = DenseSearch::Graph { effort: 10 };
    assert!(index.search(&[1.0, 1.0], 1, graph).is_err());
}

#[test]
fn files_are_checked() {
    let values = vectors("passages", 200, 8);
    let options = DenseOptions {
        numbers: Numbers::Both,
        graph: Some(GraphOptions {
            links: 4,
            effort: 20,
        }),
    };
    let path = std::env::temp_dir().join(format!("genret-dense-{}", std::process::id()));
    let mut builder = DenseBuilder::new(8, options).unwrap();
    for (i, vector) in values.chunks_exact(8).enumerate() {
        builder.push(&format!("d{i}"), vector).unwrap();
    }
    builder.write(&path).unwrap();
    let index = DenseIndex::open(&path).unwrap();
    index.verify().unwrap();
    assert_eq!(
        index.fingerprint(),
        build(&values, 8, options).fingerprint()
    );
    let queries = vectors("queries", 5, 8);
    drop(index);
    let good = fs::read(&path).unwrap();
    let mut random = stream(3, "dense", &[]);
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
        if let Ok(index) = DenseIndex::open(&path) {
            assert!(index.verify().is_err());
            for how in [EXACT, DenseSearch::Graph { effort: 10 }] {
                let _ = index.search(&queries, 10, how);
            }
        }
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn copies_do_not_cut_the_graph() {
    let mut values = vectors("passages", 3000, 24);
    let first = values[..24].to_vec();
    for copy in (0..3000).step_by(10) {
        values[copy * 24..(copy + 1) * 24].copy_from_slice(&first);
    }
    let queries = vectors("queries", 100, 24);
    let options = DenseOptions {
        numbers: Numbers::Floats,
        graph: Some(GraphOptions::default()),
    };
    let index = build(&values, 24, options);
    let exact = index.search(&queries, 10, EXACT).unwrap();
    let how = DenseSearch::Graph { effort: 200 };
    let found = index.search(&queries, 10, how).unwrap();
    assert!(recall(&found, &exact) > 0.95);
}
