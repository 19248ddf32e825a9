//! Several views of a passage against the formulas, written without any index.

#[path = "common/table_model.rs"]
mod table_model;

use std::collections::{BTreeMap, BTreeSet};

use genret::data::example::{Template, View};
use genret::decode::DecodeOptions;
use genret::index::{IndexBuilder, IndexOptions, NgramIndex, Trie, TrieBuilder};
use genret::retrieve::docid::DocidRetriever;
use genret::retrieve::generative::Generative;
use genret::retrieve::multi_view::{DocidView, MultiView};
use genret::retrieve::ranking::RankingOptions;
use genret::tokenizer::{Tokenizer, TokenizerKind, TrainOptions};
use genret::types::{PassageIdx, Query, TokenId};
use table_model::{TableModel, random_passages};

const PASSAGES: usize = 7;
const LONGEST: usize = 3;
const ALPHABET: u32 = 9;

/// The texts of a passage by view.
type Texts = BTreeMap<&'static str, Vec<Vec<Vec<TokenId>>>>;

fn tokenizer() -> Tokenizer {
    let options = TrainOptions {
        kind: TokenizerKind::Bpe,
        vocab: 300,
        lowercase: false,
    };
    Tokenizer::train(&[" who wrote which song when"], options).unwrap()
}

/// Random texts: one body per passage, a title or none, up to three pseudo-queries.
fn texts(seed: u64) -> Texts {
    let draw = |what: u64, n, longest| random_passages(8 * seed + what, n, longest, ALPHABET);
    let one = |texts: Vec<Vec<TokenId>>| texts.into_iter().map(|text| vec![text]).collect();
    let mut titles: Vec<Vec<Vec<TokenId>>> = one(draw(1, PASSAGES, 3));
    titles[2].clear();
    let pool = draw(2, 3 * PASSAGES, 4);
    let queries = (0..PASSAGES).map(|p| pool[3 * p..3 * p + p % 4].to_vec());
    [
        ("body", one(draw(0, PASSAGES, 12))),
        ("title", titles),
        ("queries", queries.collect()),
    ]
    .into()
}

fn index(texts: &Texts, vocab: usize) -> NgramIndex {
    let mut builder = IndexBuilder::new(vocab, 0, "", IndexOptions::default()).unwrap();
    let fields = texts["title"].iter().zip(&texts["body"]);
    for (p, ((title, body), queries)) in fields.zip(&texts["queries"]).enumerate() {
        let (title, body) = (title.concat(), &body[0]);
        builder
            .push_with_queries(&p.to_string(), &title, body, queries)
            .unwrap();
    }
    builder.into_index().unwrap()
}

/// Identifiers of two codes; passages 1 and 4 share one. The codes stand behind the vocabulary.
fn identifiers(vocab: usize) -> (Trie, Vec<Vec<TokenId>>) {
    let codes = [[0, 1], [1, 1], [0, 0], [2, 1], [1, 1], [2, 2], [1, 0]];
    let mut builder = TrieBuilder::new(6, 0).unwrap();
    for [first, second] in codes {
        builder.push(&[first, 3 + second]).unwrap();
    }
    let token = |code: u32| TokenId(vocab as u32 + code);
    let ids = codes.map(|[first, second]| vec![token(first), token(3 + second)]);
    let trie = builder.finish().unwrap().shifted(vocab as u32).unwrap();
    (trie, ids.to_vec())
}

fn weight(log_prob: f64, count: usize, num_tokens: usize, o: &RankingOptions) -> f64 {
    let base = (count as f64 + o.smoothing) / (num_tokens as f64 + o.smoothing);
    let p = log_prob.exp();
    let log_odds = log_prob + (1.0 - base).ln() - base.ln() - (1.0 - p).ln();
    log_odds.max(0.0).powf(o.weight_exponent)
}

fn places(text: &[TokenId], ngram: &[TokenId]) -> Vec<usize> {
    let starts = 0..text.len();
    starts.filter(|&at| text[at..].starts_with(ngram)).collect()
}

/// What the n-grams of one field give each passage, every n-gram scored by the model.
fn field_scores(
    field: &[Vec<Vec<TokenId>>],
    log_prob: &dyn Fn(&[TokenId]) -> f64,
    o: &RankingOptions,
) -> Vec<f64> {
    let all = || field.iter().flatten();
    let num_tokens: usize = all().map(Vec::len).sum();
    let ngrams: BTreeSet<&[TokenId]> = all()
        .flat_map(|text| (1..=LONGEST).flat_map(move |len| text.windows(len)))
        .collect();
    let weighted = ngrams.into_iter().map(|ngram| {
        let count = all().map(|text| places(text, ngram).len()).sum();
        (ngram, count, weight(log_prob(ngram), count, num_tokens, o))
    });
    let mut weighted: Vec<(&[TokenId], usize, f64)> = weighted.filter(|w| w.2 > 0.0).collect();
    weighted.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(b.0)));
    let score = |texts: &Vec<Vec<TokenId>>| {
        let mut taken: Vec<Vec<bool>> = texts.iter().map(|text| vec![false; text.len()]).collect();
        let mut credited = BTreeSet::new();
        let (mut sum, mut nominated) = (0.0, false);
        for (ngram, count, weight) in &weighted {
            let mut first = true;
            for (text, taken) in texts.iter().zip(&mut taken) {
                for at in places(text, ngram) {
                    nominated |= *count <= o.max_rare_count;
                    let range = at..at + ngram.len();
                    if taken[range.clone()].contains(&true) {
                        continue;
                    }
                    taken[range].fill(true);
                    if std::mem::take(&mut first) {
                        let distinct: BTreeSet<TokenId> = ngram.iter().copied().collect();
                        let new = distinct.difference(&credited).count() as f64;
                        let share = new / distinct.len() as f64;
                        let novelty = match credited.is_empty() {
                            true => 1.0,
                            false => 1.0 - o.repetition_discount + o.repetition_discount * share,
                        };
                        sum += weight * novelty;
                        credited.extend(distinct);
                    }
                }
            }
        }
        if nominated { sum } else { 0.0 }
    };
    field.iter().map(score).collect()
}

#[test]
fn a_score_is_the_sum_over_the_views_of_what_every_ngram_gives() {
    let tokenizer = tokenizer();
    // The texts have few of the tokenizer's tokens, and the model gives out no others.
    let vocab = ALPHABET as usize;
    let (trie, ids) = identifiers(vocab);
    let template = Template::default();
    let decode = DecodeOptions {
        beam_width: 2000,
        max_new_tokens: LONGEST,
        // Random tokens are improbable together: by their means they weigh something.
        length_penalty: 1.0,
        ..DecodeOptions::default()
    };
    // The n-gram index has the passages of the identifiers, in another order.
    let order: Vec<Option<PassageIdx>> = (0..PASSAGES)
        .map(|p| Some(PassageIdx((PASSAGES - 1 - p) as u32)))
        .collect();
    let query = Query {
        id: "q".into(),
        text: "who wrote which song".into(),
    };
    let (mut ranked, mut seen) = (0, BTreeSet::new());
    for seed in 0..24 {
        let texts = texts(seed);
        let index = index(&texts, vocab);
        let model = TableModel {
            vocab: vocab + 6,
            seed,
        };
        for (list, max_rare_count) in [
            ("body,title,queries,docid", 1500),
            ("body,title=2.5,queries=0.5,docid=3", 1),
            ("queries", 1500),
            ("queries,title", 2),
            ("queries=2,docid", 1500),
            ("docid=0.5", 1500),
        ] {
            let ranking = RankingOptions {
                views: list.parse().unwrap(),
                max_rare_count,
                smoothing: 0.01,
                ..RankingOptions::default()
            };
            let views = ranking.views;
            let fields: Vec<(View, NgramIndex, f64)> = views
                .fields()
                .map(|(view, field, weight)| (view, index.with_field(field), weight))
                .collect();
            let generative = fields.iter().map(|(view, index, weight)| {
                let generative = Generative {
                    model: &model,
                    index,
                    tokenizer: &tokenizer,
                    template: &template,
                    decode: &decode,
                    ranking: &ranking,
                    view: *view,
                };
                (generative, *weight)
            });
            let docids = (views.docid > 0.0).then(|| DocidView {
                retriever: DocidRetriever::new(&model, &trie, &tokenizer, &template, &decode),
                weight: views.docid,
                passages: Some(&order),
                ranking: &ranking,
            });
            let retriever = MultiView::new(generative.collect(), docids);
            let answer = &retriever
                .answer(std::slice::from_ref(&query), PASSAGES)
                .unwrap()[0];

            let mut expected = [0.0; PASSAGES];
            for (view, weight_of_view) in views.iter() {
                let prompt = template.prompt(&tokenizer, view, &query.text).unwrap();
                let log_prob =
                    |tokens: &[TokenId]| model.log_prob(&prompt, tokens) / tokens.len() as f64;
                let scores = match view {
                    View::Docid => ids
                        .iter()
                        .rev()
                        .map(|id| {
                            let count = ids.iter().filter(|other| *other == id).count();
                            weight(log_prob(id), count, PASSAGES, &ranking)
                        })
                        .collect(),
                    _ => field_scores(&texts[view.name()], &log_prob, &ranking),
                };
                for (sum, score) in expected.iter_mut().zip(scores) {
                    *sum += weight_of_view * score;
                }
            }
            let mut found = [0.0; PASSAGES];
            for hit in &answer.hits {
                found[hit.passage.index()] = f64::from(hit.score.get());
            }
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-4 * (1.0 + expected),
                    "seed {seed}, {list}: {found} {expected}"
                );
            }
            ranked += answer.hits.len();
            // What led to a hit adds up to its score, and stands where it is said to stand.
            for (hit, evidence) in answer.hits.iter().zip(&answer.evidence) {
                let sum: f64 = evidence.ngrams.iter().map(|n| n.credit).sum();
                assert!((sum - f64::from(hit.score.get())).abs() <= 1e-4 * (1.0 + sum));
                for ngram in &evidence.ngrams {
                    assert!(views.of(ngram.view) > 0.0, "{list}");
                    seen.insert(ngram.view.name());
                    if ngram.view == View::Docid {
                        assert_eq!(ngram.tokens, ids[PASSAGES - 1 - hit.passage.index()]);
                        continue;
                    }
                    let texts = &texts[ngram.view.name()][hit.passage.index()];
                    // One place more between two texts.
                    let mut start = 0;
                    let mut all = vec![];
                    for text in texts {
                        all.extend(places(text, &ngram.tokens).iter().map(|at| start + at));
                        start += text.len() + 1;
                    }
                    assert!(!ngram.positions.is_empty());
                    assert!(
                        ngram
                            .positions
                            .iter()
                            .all(|&at| all.contains(&(at as usize)))
                    );
                }
            }
        }
    }
    assert!(ranked > 100 && seen.len() == 4, "{ranked} {seen:?}");
}
