use std::fs;

use super::*;
use crate::data::Dataset;
use crate::data::trec::Run;
use crate::eval::evaluate;
use crate::shared::shared;
use crate::types::{DocId, Passage, QueryId};

fn corpus(texts: &[(&str, &str)]) -> Corpus {
    let passages = texts.iter().enumerate().map(|(i, (title, text))| Passage {
        id: DocId::from(&format!("d{i}")[..]),
        title: (*title).into(),
        text: (*text).into(),
    });
    Corpus::from_passages(passages.collect()).unwrap()
}

fn query(text: &str) -> Query {
    Query {
        id: QueryId::from("q"),
        text: text.into(),
    }
}

/// Lucene's formula as it stands.
fn formula(n: f64, df: f64, tf: f64, length: f64, mean: f64, k1: f64, b: f64) -> f64 {
    (1.0 + (n - df + 0.5) / (df + 0.5)).ln() * tf / (tf + k1 * (1.0 - b + b * length / mean))
}

#[test]
fn hand_cases() {
    // Lengths without stop words: 4, 2 and 3; the mean is 3.
    let corpus = corpus(&[
        ("Red fox", "the red hen"),
        ("", "a blue hen"),
        ("", "green green frogs"),
    ]);
    let bm25 = Bm25::of_corpus(&corpus, &Bm25Options::default()).unwrap();
    let search = |text: &str| -> Vec<(u32, f64)> {
        let hits = bm25.search(&[query(text)], 10).unwrap();
        let pair = |hit: &Hit| (hit.passage.0, f64::from(hit.score.get()));
        hits[0].iter().map(pair).collect()
    };
    let close = |found: &[(u32, f64)], expected: &[(u32, f64)]| {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (a, b) in found.iter().zip(expected) {
            assert!(
                a.0 == b.0 && (a.1 - b.1).abs() < 1e-6,
                "{found:?} {expected:?}"
            );
        }
    };
    let term = |df, tf, length| formula(3.0, df, tf, length, 3.0, 0.9, 0.4);
    // ln(1 + 2.5 / 1.5) = 0.980829; 2 / (2 + 0.9 * (0.6 + 0.4 * 4 / 3)) = 0.662252.
    close(&search("red"), &[(0, 0.980_829_25 * 0.662_251_66)]);
    close(&search("Red?"), &[(0, term(1.0, 2.0, 4.0))]);
    let hens = [(1, term(2.0, 1.0, 2.0)), (0, term(2.0, 1.0, 4.0))];
    close(&search("the hens"), &hens);
    close(&search("hen hen"), &hens.map(|(p, s)| (p, 2.0 * s)));
    close(
        &search("frog fox unheard"),
        &[(2, term(1.0, 1.0, 3.0)), (0, term(1.0, 1.0, 4.0))],
    );
    close(&search("the"), &[]);
    let score = |passage| f64::from(bm25.score("red", PassageIdx(passage)));
    assert!((score(0) - term(1.0, 2.0, 4.0)).abs() < 1e-6);
    assert_eq!((score(1), score(3)), (0.0, 0.0));
    assert_eq!(
        bm25.rank("hen", 1),
        bm25.search(&[query("hen")], 1).unwrap()[0]
    );
}

#[test]
fn files_keep_everything() {
    let corpus = corpus(&[("Red fox", "the red hen"), ("", "a blue hen")]);
    let options = Bm25Options {
        precision: Precision::Bytes,
        stemmer: Stemmer::None,
        ..Bm25Options::default()
    };
    let path = std::env::temp_dir().join(format!("genret-bm25-{}", std::process::id()));
    Bm25::write(&corpus, &options, &path).unwrap();
    let (file, memory) = (
        Bm25::open(&path).unwrap(),
        Bm25::of_corpus(&corpus, &options).unwrap(),
    );
    fs::remove_file(&path).unwrap();
    assert!(file.is_of(&corpus, &options));
    assert!(!file.is_of(&corpus, &Bm25Options::default()));
    let queries = [query("red hen"), query("blue")];
    assert_eq!(
        file.search(&queries, 5).unwrap(),
        memory.search(&queries, 5).unwrap()
    );
    assert_eq!(file.index().doc_id(PassageIdx(1)), "d1");
    for (k1, b) in [(-1.0, 0.4), (f64::NAN, 0.4), (0.9, 1.5), (0.9, f64::NAN)] {
        let wrong = Bm25Options { k1, b, ..options };
        assert!(Bm25::of_corpus(&corpus, &wrong).is_err());
    }
}

/// nDCG@10 of every row of bm25s in the collection's README, and what it should be.
fn rows(name: &str) -> Option<Vec<(String, String, f64)>> {
    let readme = fs::read_to_string(shared(&format!("data/{name}"))?.join("README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let system = cells.get(1)?.strip_prefix("bm25s ")?;
        Some((
            system.to_string(),
            cells[2].to_string(),
            cells[3].parse().unwrap(),
        ))
    });
    Some(rows.collect())
}

fn options_of(row: &str) -> Bm25Options {
    let value = |name: &str| {
        let part = row.split(' ').find_map(|part| part.strip_prefix(name));
        part.and_then(|part| part.strip_prefix('=')).unwrap()
    };
    Bm25Options {
        k1: value("k1").parse().unwrap(),
        b: value("b").parse().unwrap(),
        stemmer: match value("stem") {
            "snowball-en" => Stemmer::English,
            _ => Stemmer::None,
        },
        stop_words: match value("stop") {
            "en" => StopWords::English,
            _ => StopWords::None,
        },
        precision: Precision::Floats,
    }
}

#[test]
fn reference_figures_of_every_collection() {
    for (name, expected_rows) in [
        ("humanqa", 12),
        ("medquad-liveqa", 12),
        ("scifact", 8),
        ("squad-open", 12),
    ] {
        let Some(rows) = rows(name) else { return };
        assert_eq!(rows.len(), expected_rows, "{name}");
        let dataset = Dataset::open(&shared(&format!("data/{name}")).unwrap()).unwrap();
        let mut systems: Vec<&str> = rows.iter().map(|(system, ..)| &system[..]).collect();
        systems.dedup();
        for (at, system) in systems.iter().enumerate() {
            let mut settings = vec![options_of(system)];
            if at == 0 {
                settings.push(Bm25Options {
                    precision: Precision::Bytes,
                    ..settings[0]
                });
            }
            for options in settings {
                let bm25 = Bm25::of_corpus(&dataset.corpus, &options).unwrap();
                for (_, split, expected) in rows.iter().filter(|(s, ..)| s == *system) {
                    let qrels = dataset.qrels(split).unwrap();
                    let queries: Vec<Query> = qrels
                        .queries()
                        .map(|(id, _)| {
                            dataset.queries[dataset.find_query(id.as_str()).unwrap()].clone()
                        })
                        .collect();
                    let mut run = Run::new("bm25");
                    for (query, hits) in queries.iter().zip(bm25.search(&queries, 100).unwrap()) {
                        let docs = hits.iter().map(|hit| {
                            let id = bm25.index().doc_id(hit.passage);
                            (DocId::from(id), hit.score.get())
                        });
                        run.push(query.id.clone(), docs).unwrap();
                    }
                    run.separate_ties();
                    let found = evaluate(qrels, &run, &["nDCG@10".parse().unwrap()]).means()[0];
                    println!("{name} {split} {options:?}: {found:.4}, expected {expected}");
                    assert!((found - expected).abs() <= 0.002);
                }
            }
        }
    }
}
