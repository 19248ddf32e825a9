//! The ranking against the formulas, evaluated passage by passage without any index.

use std::collections::BTreeSet;
use std::time::Instant;

use rand::RngExt;

use super::*;
use crate::index::{IndexBuilder, IndexOptions, NgramIndex};
use crate::rng::stream;

fn index(passages: &[Vec<TokenId>], vocab: usize) -> NgramIndex {
    let mut builder = IndexBuilder::new(vocab, 0, "", IndexOptions::default()).unwrap();
    for (i, passage) in passages.iter().enumerate() {
        builder.push(&i.to_string(), &[], passage).unwrap();
    }
    builder.into_index().unwrap()
}

fn places(passage: &[TokenId], ngram: &[TokenId]) -> Vec<usize> {
    (0..passage.len())
        .filter(|&at| passage[at..].starts_with(ngram))
        .collect()
}

/// The formulas of the module's header, literally: (passage, score), best first.
fn brute_force(
    passages: &[Vec<TokenId>],
    ngrams: &[ScoredNgram],
    o: &RankingOptions,
) -> Vec<(u32, f64)> {
    let num_tokens: usize = passages.iter().map(Vec::len).sum();
    let mut weighted: Vec<(Vec<TokenId>, f64, usize)> = vec![];
    for ngram in ngrams.iter().filter(|n| !n.tokens.is_empty()) {
        let count: usize = passages
            .iter()
            .map(|p| places(p, &ngram.tokens).len())
            .sum();
        if count == 0 || count > o.max_count {
            continue;
        }
        let base = (count as f64 + o.smoothing) / (num_tokens as f64 + o.smoothing);
        let p = ngram.log_prob.exp();
        let log_odds = ngram.log_prob + (1.0 - base).ln() - base.ln() - (1.0 - p).ln();
        let weight = log_odds.max(0.0).powf(o.weight_exponent);
        match weighted
            .iter_mut()
            .find(|(tokens, _, _)| *tokens == ngram.tokens)
        {
            Some(known) => known.1 = known.1.max(weight),
            None => weighted.push((ngram.tokens.clone(), weight, count)),
        }
    }
    weighted.retain(|(_, weight, _)| *weight > 0.0);
    weighted.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let score = |passage: &[TokenId], max_count: usize| {
        let mut taken = vec![false; passage.len()];
        let mut credited: BTreeSet<TokenId> = BTreeSet::new();
        let (mut sum, mut best) = (0.0, 0.0);
        for (tokens, weight, _) in weighted.iter().filter(|(_, _, count)| *count <= max_count) {
            let mut first = true;
            for at in places(passage, tokens) {
                let range = at..at + tokens.len();
                if taken[range.clone()].contains(&true) {
                    continue;
                }
                taken[range].fill(true);
                if first {
                    let set: BTreeSet<TokenId> = tokens.iter().copied().collect();
                    let new = set.difference(&credited).count() as f64 / set.len() as f64;
                    let beta = o.repetition_discount;
                    sum += weight
                        * if credited.is_empty() {
                            1.0
                        } else {
                            1.0 - beta + beta * new
                        };
                    best = f64::max(best, *weight);
                    credited.extend(set);
                    first = false;
                }
            }
        }
        (1.0 - o.best_ngram_share) * sum + o.best_ngram_share * best
    };
    let rank = |scored: &mut Vec<(u32, f64)>| {
        scored.retain(|(_, score)| *score > 0.0);
        scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    };
    let mut scored: Vec<(u32, f64)> = (0..)
        .zip(passages)
        .map(|(i, p)| (i, score(p, o.max_rare_count)))
        .collect();
    rank(&mut scored);
    scored.truncate(o.rescored_passages);
    for (i, value) in &mut scored {
        *value = score(&passages[*i as usize], o.max_count);
    }
    rank(&mut scored);
    scored
}

#[test]
fn equals_the_formulas() {
    let plain = RankingOptions::default();
    let variants = [
        plain,
        RankingOptions {
            max_rare_count: 12,
            ..plain
        },
        RankingOptions {
            max_rare_count: 12,
            rescored_passages: 9,
            max_count: 100,
            ..plain
        },
        RankingOptions {
            best_ngram_share: 0.3,
            repetition_discount: 0.5,
            weight_exponent: 1.2,
            smoothing: 1.5,
            ..plain
        },
        RankingOptions {
            repetition_discount: 1.0,
            best_ngram_share: 1.0,
            ..plain
        },
    ];
    let mut compared = 0;
    for seed in 0..60u64 {
        let mut rng = stream(seed, "ranking", &[]);
        let vocab = [2, 5, 30, 200][seed as usize % 4];
        let passages: Vec<Vec<TokenId>> = (0..rng.random_range(1..60))
            .map(|_| {
                let len = rng.random_range(1..90);
                // Squared, so that some tokens are frequent.
                let mut token = || TokenId((rng.random::<f64>().powi(2) * vocab as f64) as u32);
                (0..len).map(|_| token()).collect()
            })
            .collect();
        let mut ngrams: Vec<ScoredNgram> = (0..rng.random_range(0..200))
            .map(|_| {
                let passage = &passages[rng.random_range(0..passages.len())];
                let start = rng.random_range(0..passage.len());
                let len = rng.random_range(0..6).min(passage.len() - start);
                let tokens = passage[start..start + len].to_vec();
                ScoredNgram {
                    tokens,
                    log_prob: -rng.random_range(0.01..9.0),
                }
            })
            .collect();
        ngrams.push(ScoredNgram {
            tokens: vec![TokenId(0); 95],
            log_prob: -0.5,
        });
        let index = index(&passages, vocab);
        for options in &variants {
            let expected = brute_force(&passages, &ngrams, options);
            let ranker = NgramRanker::new(&index, options).unwrap();
            let found = ranker.rank(&ngrams, usize::MAX);
            assert_eq!(found.len(), expected.len());
            for (found, (passage, score)) in found.iter().zip(&expected) {
                let error = (found.score - score).abs() / score;
                assert!(error < 1e-12, "{} {score}", found.score);
                assert_eq!(found.passage, PassageIdx(*passage));
                compared += 1;
            }
            let top = ranker.rank(&ngrams, 3);
            assert_eq!(top[..], found[..found.len().min(3)]);
        }
    }
    assert!(compared > 5000, "{compared}");
}

#[test]
fn evidence_adds_up_and_points_at_the_ngrams() {
    let ids = |s: &str| -> Vec<TokenId> { s.bytes().map(|b| TokenId(b.into())).collect() };
    let passages = [ids("the cat sat on the mat"), ids("a dog sat"), ids("cat")];
    let index = index(&passages, 256);
    let options = RankingOptions::default();
    let ngram = |text: &str, log_prob| ScoredNgram {
        tokens: ids(text),
        log_prob,
    };
    let ngrams = [
        ngram("the ", -1.0),
        ngram("cat", -0.5),
        ngram(" sat", -1.0),
        ngram("bird", -0.1),
    ];
    let ranked = NgramRanker::new(&index, &options)
        .unwrap()
        .rank(&ngrams, 10);
    assert_eq!(
        ranked.iter().map(|r| r.passage.0).collect::<Vec<_>>(),
        [0, 2, 1]
    );
    for hit in &ranked {
        let sum: f64 = hit.evidence.ngrams.iter().map(|n| n.credit).sum();
        assert!((sum - hit.score).abs() < 1e-12);
        for ngram in &hit.evidence.ngrams {
            let weight = options.weight(ngram.log_prob, ngram.count, index.num_tokens());
            assert_eq!(ngram.weight, weight);
            for &at in &ngram.positions {
                let at = at as usize;
                let passage = &passages[hit.passage.index()];
                assert_eq!(passage[at..at + ngram.tokens.len()], ngram.tokens);
            }
        }
    }
    let twice = ranked[0]
        .evidence
        .ngrams
        .iter()
        .find(|n| n.tokens == ids("the "))
        .unwrap();
    assert_eq!(twice.positions, [0, 15]);
}

#[test]
fn extreme_probabilities_have_finite_weights() {
    let options = RankingOptions::default();
    // p = 1/2 has log-odds 0, so the weight is the square of ln((100 - 5) / (5 + 5)).
    let half = options.weight(-std::f64::consts::LN_2, 5, 100);
    assert!((half - 9.5f64.ln().powi(2)).abs() < 1e-12);
    assert_eq!(options.weight(-1.0, 0, 100), 0.0);
    assert_eq!(options.weight(-1.0, 100, 100), 0.0);
    assert_eq!(options.weight(f64::NEG_INFINITY, 5, 100), 0.0);
    assert_eq!(options.weight(f64::NAN, 5, 100), 0.0);
    let certain = options.weight(0.0, 5, 100);
    assert!(certain.is_finite() && certain > half);
    assert_eq!(options.weight(-1e-17, 5, 100), certain);
}

#[test]
fn nothing_generated_gives_nothing() {
    let index = index(&[vec![TokenId(1)]], 3);
    let ranker = NgramRanker::new(&index, &RankingOptions::default()).unwrap();
    assert!(ranker.rank(&[], 10).is_empty());
    let absent = ScoredNgram {
        tokens: vec![TokenId(9)],
        log_prob: -0.1,
    };
    let empty = ScoredNgram {
        tokens: vec![],
        log_prob: -0.1,
    };
    assert!(ranker.rank(&[absent, empty], 10).is_empty());
}

#[test]
fn options_out_of_range_are_refused() {
    let plain = RankingOptions::default();
    for options in [
        RankingOptions {
            smoothing: 0.0,
            ..plain
        },
        RankingOptions {
            weight_exponent: f64::NAN,
            ..plain
        },
        RankingOptions {
            repetition_discount: 1.1,
            ..plain
        },
        RankingOptions {
            best_ngram_share: -0.1,
            ..plain
        },
    ] {
        assert!(options.validate().is_err());
    }
    assert!(toml::from_str::<RankingOptions>("smothing = 5.0").is_err());
}

#[test]
#[ignore = "a measurement; cargo test --release ranking_speed -- --ignored --nocapture"]
fn ranking_speed() {
    let Some(folder) = crate::shared::shared("data/humanqa") else {
        return;
    };
    let corpus = crate::data::Corpus::load(&folder).unwrap();
    let mut words: HashMap<&str, u32> = HashMap::new();
    let passages: Vec<Vec<TokenId>> = corpus
        .passages()
        .iter()
        .map(|passage| {
            let ids = passage.text.split_whitespace().map(|word| {
                let next = words.len() as u32;
                TokenId(*words.entry(word).or_insert(next))
            });
            ids.collect()
        })
        .collect();
    let index = index(&passages, words.len());
    let options = RankingOptions::default();
    let ranker = NgramRanker::new(&index, &options).unwrap();
    let mut times = vec![];
    let mut listed = 0;
    for query in 0..50u64 {
        // A hundred sequences of ten tokens with all their beginnings, like a harvest.
        let mut rng = stream(query, "harvest", &[]);
        let mut ngrams = vec![];
        while ngrams.len() < 1000 {
            let passage = &passages[rng.random_range(0..passages.len())];
            let Some(last) = passage.len().checked_sub(10) else {
                continue;
            };
            let start = rng.random_range(0..=last);
            let mut log_prob = 0.0;
            for len in 1..=10 {
                log_prob -= rng.random_range(0.1..2.0);
                let tokens = passage[start..start + len].to_vec();
                ngrams.push(ScoredNgram { tokens, log_prob });
            }
        }
        let begun = Instant::now();
        listed += ranker.rank(&ngrams, 100).len();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "1,000 n-grams, {} passages: fastest {:.2} ms, median {:.2} ms ({listed} passages listed)",
        passages.len(),
        times[0],
        times[times.len() / 2],
    );
}
