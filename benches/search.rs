//! Search: BM25 on a collection, sparse vectors and dense ones at random. One thread, CPU time of the thread.
//!
//! `cargo bench --bench search -- bm25 FOLDER SPLIT K` prints microseconds a query, without and with the words of
//! the queries (for `peers/search_bm25s.py`, which takes turns with it). `-- sparse N [POSTINGS PASSAGES SHARE]` makes N
//! vectors of 120 terms out of 30,522, some topical and some Zipfian, and searches with 200 of 30 terms: exactly,
//! exhaustively, and by clusters at several settings. `-- dense N WIDTH [FOLDER]` compares 32 bits, eight and the graph;
//! with a folder it leaves the vectors there (for `peers/search_hnsw.py`).

#[path = "index/clock.rs"]
mod clock;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use clock::{Clock, cpu_micros};
use genret::data::Dataset;
use genret::retrieve::bm25::{Bm25, Bm25Options};
use genret::retrieve::dense::{DenseBuilder, DenseOptions, DenseSearch, GraphOptions, Numbers};
use genret::retrieve::sparse::{
    Approximation, ClusterOptions, SparseBuilder, SparseIndex, SparseOptions,
};
use genret::rng::stream;
use genret::types::{Hit, SparseVector};
use rand::RngExt;
use rayon::prelude::*;

/// Terms of the vocabulary of random vectors.
const TERMS: f64 = 30_522.0;
const TOPICS: usize = 5000;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    match arguments.first().map(String::as_str) {
        Some("bm25") => bm25(&arguments[1..]),
        Some("sparse") => sparse(&arguments[1..]),
        Some("dense") => dense(&arguments[1..]),
        _ => println!(
            "bm25 FOLDER SPLIT K, sparse N, or dense N WIDTH [FOLDER]; see benches/README.md"
        ),
    }
}

fn argument<T: FromStr>(arguments: &[String], at: usize, default: T) -> T {
    let given = arguments.get(at);
    given.map_or(default, |text| {
        text.parse()
            .ok()
            .expect("a number of the kind in the usage")
    })
}

/// Work done on one thread, and its CPU time per query in microseconds: the least of three.
fn timed<T: Send>(queries: usize, work: impl Fn() -> T + Sync) -> (T, f64) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("one thread starts").install(|| {
        let mut least = f64::INFINITY;
        let mut last = None;
        for _ in 0..3 {
            let begun = cpu_micros(Clock::Thread);
            last = Some(work());
            least = least.min(cpu_micros(Clock::Thread) - begun);
        }
        (last.expect("three times"), least / queries as f64)
    })
}

/// Share of the exact hits that was found.
fn recall(found: &[Vec<Hit>], exact: &[Vec<Hit>]) -> f64 {
    let mut both = 0;
    for (found, exact) in found.iter().zip(exact) {
        let same = |hit: &&Hit| found.iter().any(|f| f.passage == hit.passage);
        both += exact.iter().filter(same).count();
    }
    both as f64 / exact.iter().map(Vec::len).sum::<usize>() as f64
}

fn bm25(arguments: &[String]) {
    let folder = arguments.first().expect("a BEIR folder");
    let split = arguments.get(1).map_or("test", |split| split);
    let k = argument(arguments, 2, 10);
    let dataset = Dataset::open(Path::new(folder)).expect("a BEIR folder");
    let texts: Vec<&str> = dataset
        .qrels(split)
        .expect("the split is there")
        .queries()
        .filter_map(|(id, _)| dataset.find_query(id.as_str()))
        .map(|at| &dataset.queries[at].text[..])
        .collect();
    let bm25 = Bm25::of_corpus(&dataset.corpus, &Bm25Options::default()).expect("defaults");
    let (vectors, words) = timed(texts.len(), || {
        texts
            .iter()
            .map(|text| bm25.query(text))
            .collect::<Vec<_>>()
    });
    let search = || bm25.index().search_all(&vectors, k).expect("its own words");
    let (_, search) = timed(texts.len(), search);
    println!("{search:.2} {:.2}", search + words);
}

/// A term, the low ones more often.
fn zipf(random: &mut impl RngExt, least: f64) -> u32 {
    let share = least + (1.0 - least) * random.random::<f64>();
    (TERMS.powf(share) as u32).saturating_sub(1)
}

/// A vector of `len` terms: half from one topic, a fifth from another, the rest from anywhere.
fn vector(kind: &str, number: usize, len: usize, topics: &[Vec<u32>]) -> SparseVector {
    let mut random = stream(2, kind, &[number as u64]);
    let first = &topics[(TOPICS as f64 * random.random::<f64>().powi(2)) as usize];
    let second = &topics[random.random_range(0..TOPICS)];
    let mut entries = BTreeMap::new();
    while entries.len() < len {
        let of = |topic: &[u32], share: f64| topic[(topic.len() as f64 * share * share) as usize];
        let (term, size) = match random.random_range(0..10) {
            0..=4 => (of(first, random.random()), 1.0f32),
            5..=6 => (of(second, random.random()), 0.8),
            _ => (zipf(&mut random, 0.0), 0.5),
        };
        let weight = size * (-(1.0 - random.random::<f32>()).ln()).min(3.0) * 0.7 + 0.02;
        let entry: &mut f32 = entries.entry(term).or_insert(0.0);
        *entry = entry.max(weight);
    }
    SparseVector::from_entries(entries.into_iter().collect())
}

fn sparse(arguments: &[String]) {
    let count = argument(arguments, 0, 1_000_000);
    let default = ClusterOptions::default();
    let clusters = ClusterOptions {
        postings: argument(arguments, 1, default.postings),
        passages: argument(arguments, 2, default.passages),
        summary_share: argument(arguments, 3, default.summary_share),
    };
    let topics: Vec<Vec<u32>> = (0..TOPICS as u64)
        .map(|topic| {
            let mut random = stream(1, "topic", &[topic]);
            (0..150).map(|_| zipf(&mut random, 0.3)).collect()
        })
        .collect();
    let vectors: Vec<SparseVector> = (0..count)
        .into_par_iter()
        .map(|number| vector("passage", number, 120, &topics))
        .collect();
    let queries: Vec<SparseVector> = (0..200)
        .map(|number| vector("query", number, 30, &topics))
        .collect();
    let path = std::env::temp_dir().join(format!("genret-search-{}", std::process::id()));
    let build = |clusters| {
        let options = SparseOptions {
            clusters,
            ..SparseOptions::default()
        };
        let begun = cpu_micros(Clock::Process);
        let mut builder = SparseBuilder::new(TERMS as usize, options).expect("defaults");
        for (number, vector) in vectors.iter().enumerate() {
            builder.push(&number.to_string(), vector).expect("a vector");
        }
        builder.write(&path).expect("a file");
        let index = SparseIndex::open(&path).expect("just written");
        let bytes = index.stats().file_bytes as f64 / f64::from(1 << 20);
        let secs = (cpu_micros(Clock::Process) - begun) / 1e6;
        println!("built in {secs:.1} s CPU, {bytes:.0} MiB, clusters {clusters:?}");
        index
    };
    let index = build(None);
    println!(
        "rounding of weights {:.5} of their sum",
        index.stats().mean_error
    );
    for k in [10, 100] {
        let (exact, pruned) = timed(queries.len(), || {
            index.search_all(&queries, k).expect("vectors of the index")
        });
        let (all, exhaustive) = timed(queries.len(), || -> Vec<_> {
            let search = |query| index.search_exhaustively(query, k).expect("a vector");
            queries.iter().map(search).collect()
        });
        assert_eq!(exact, all);
        println!("k {k}: exact {pruned:.0} us, exhaustive {exhaustive:.0} us");
    }
    let exact = index
        .search_all(&queries, 10)
        .expect("vectors of the index");
    let index = build(Some(clusters));
    for query_terms in [5, 8, 12, 20] {
        for promise in [0.8, 0.9, 1.0, 1.1, 1.2] {
            let how = Approximation {
                query_terms,
                promise,
            };
            let (found, micros) = timed(queries.len(), || {
                index
                    .search_approximately(&queries, 10, &how)
                    .expect("clusters")
            });
            let share = recall(&found, &exact);
            println!("{query_terms} terms, promise {promise}: {micros:.0} us, {share:.3} found");
        }
    }
    std::fs::remove_file(path).expect("the file was written");
}

fn dense(arguments: &[String]) {
    let (count, width) = (argument(arguments, 0, 100_000), argument(arguments, 1, 384));
    let values = |kind: &str, count: usize| -> Vec<f32> {
        // Around 1,000 centres: a number of the centre and noise as large.
        let number = |random: &mut genret::rng::Stream| random.random::<f32>() - 0.5;
        let rows = (0..count).into_par_iter().flat_map_iter(|row| {
            let mut random = stream(3, kind, &[row as u64]);
            let mut centre = stream(3, "centre", &[random.random_range(0..1000)]);
            (0..width).map(move |_| number(&mut centre) + number(&mut random))
        });
        rows.collect()
    };
    let (passages, queries) = (values("passage", count), values("query", 200));
    if let Some(folder) = arguments.get(2) {
        for (name, values) in [("passages.f32", &passages), ("queries.f32", &queries)] {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            std::fs::write(Path::new(folder).join(name), bytes).expect("a folder");
        }
    }
    let mut exact = vec![];
    for (name, numbers, graph) in [
        ("32 bits", Numbers::Floats, None),
        ("8 bits", Numbers::Bytes, None),
        ("8 bits, best 40 by 32", Numbers::Both, None),
        ("graph", Numbers::Floats, Some(GraphOptions::default())),
    ] {
        let begun = cpu_micros(Clock::Process);
        let options = DenseOptions { numbers, graph };
        let mut builder = DenseBuilder::new(width, options).expect("defaults");
        for (number, vector) in passages.chunks_exact(width).enumerate() {
            builder.push(&number.to_string(), vector).expect("a vector");
        }
        let index = builder.into_index().expect("a sound index");
        let secs = (cpu_micros(Clock::Process) - begun) / 1e6;
        let bytes = index.stats().file_bytes >> 20;
        println!("{name}: built in {secs:.1} s CPU, {bytes} MiB");
        let how = match graph {
            None => vec![DenseSearch::Exact { rescored: 4 }],
            Some(_) => [10, 20, 50, 100, 200, 400]
                .map(|effort| DenseSearch::Graph { effort })
                .to_vec(),
        };
        for how in how {
            let (found, micros) = timed(200, || index.search(&queries, 10, how).expect("queries"));
            if exact.is_empty() {
                exact.clone_from(&found);
            }
            let share = recall(&found, &exact);
            println!("  {how:?}: {:.0} queries/s, {share:.4} found", 1e6 / micros);
        }
    }
}
