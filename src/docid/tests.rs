//! Identifiers of small corpora, on properties that a person can check.

use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::index::PassageSet;
use crate::types::{Passage, TokenId};

fn passage(id: usize, title: &str, text: &str) -> Passage {
    Passage {
        id: format!("d{id}")[..].into(),
        title: title.into(),
        text: text.into(),
    }
}

/// `n` passages about one of `topics` topics each, in words of the topic.
fn corpus(n: usize, topics: usize) -> Corpus {
    let mut rng = stream(2, "docid test", &[]);
    let passages = (0..n).map(|i| {
        let topic = i % topics;
        let words: Vec<String> = (0..30)
            .map(|_| format!("topic{topic}word{}", rng.random_range(0..20)))
            .collect();
        passage(i, &format!("Title {}", i / 2), &words.join(" "))
    });
    Corpus::from_passages(passages.collect()).unwrap()
}

fn options(method: Method) -> DocidOptions {
    DocidOptions {
        method,
        levels: 3,
        codes: 8,
        dims: 64,
        ..DocidOptions::default()
    }
}

fn made(corpus: &Corpus, options: &DocidOptions) -> Made {
    make(corpus, options, Some(&Tokenizer::bytes()), &mut |_| ()).unwrap()
}

const METHODS: [Method; 5] = [
    Method::Rq,
    Method::Kmeans,
    Method::Atomic,
    Method::Title,
    Method::Random,
];

#[test]
fn every_method_gives_every_passage_an_identifier_of_its_own() {
    let corpus = corpus(300, 5);
    for method in METHODS {
        let made = made(&corpus, &options(method));
        let ids: Vec<_> = made.trie.ids().into_iter().flatten().collect();
        assert_eq!(ids.len(), 300, "{method:?}");
        let different: BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), 300, "{method:?}");
        // None begins with another: what is decoded is complete where it ends.
        let sorted: Vec<_> = different.into_iter().collect();
        assert!(
            sorted.windows(2).all(|p| !p[1].starts_with(p[0])),
            "{method:?}"
        );
        let report = made.report();
        assert_eq!((report.passages, report.ids), (300, 300));
        assert_eq!(report.levels.len(), report.depth_max);
        assert_eq!(report.levels[0].passages, 300);
    }
}

#[test]
fn passages_that_share_an_identifier_are_counted_and_numbered() {
    // Titles come twice each; the bytes of " Title 7" and an end, or a number before it.
    let corpus = corpus(300, 5);
    let mut options = options(Method::Title);
    let numbered = made(&corpus, &options);
    let report = numbered.report();
    let counted = (
        report.ids_unresolved,
        report.collided_passages,
        report.largest_collision,
    );
    assert_eq!(counted, (150, 300, 2));
    let ids = numbered.trie.ids();
    let text = |tokens: &[u32]| -> Vec<TokenId> {
        let bytes = b" Title 7".iter().map(|&b| u32::from(b));
        bytes.chain(tokens.iter().copied()).map(TokenId).collect()
    };
    assert_eq!(ids[14].as_ref().unwrap(), &text(&[257, 256]));
    assert_eq!(ids[15].as_ref().unwrap(), &text(&[258, 256]));
    options.resolve = Resolve::None;
    let shared = made(&corpus, &options);
    assert_eq!(shared.trie.num_ids(), 150);
    assert_eq!(shared.trie.ids()[15].as_ref().unwrap(), &text(&[256]));
    assert!(shared.trie.shared().next().unwrap().len() == 2);
    // 300 passages share 8 identifiers: numbers up to 300 in base 2 take digits of their own positions.
    let random = DocidOptions {
        levels: 3,
        codes: 2,
        ..options.clone()
    };
    let random = DocidOptions {
        method: Method::Random,
        resolve: Resolve::Suffix,
        ..random
    };
    let made = made(&corpus, &random);
    assert_eq!(made.trie.num_ids(), 300);
    let largest = made.report().largest_collision;
    let digits = (largest as f64).log2().ceil() as usize;
    assert_eq!(made.report().depth_max, 3 + digits);
    let positions = made.trie.ids().into_iter().flatten();
    assert!(
        positions
            .flatten()
            .all(|token| token.0 < 2 * (3 + digits as u32))
    );
}

#[test]
fn codes_of_a_passage_are_those_of_its_topic() {
    let corpus = corpus(300, 5);
    for method in [Method::Rq, Method::Kmeans] {
        let of = DocidOptions {
            codes: 5,
            ..options(method)
        };
        let ids: Vec<_> = made(&corpus, &of)
            .trie
            .ids()
            .into_iter()
            .flatten()
            .collect();
        let first = |i: usize| ids[i][0];
        // The first code is the topic, in some order.
        assert!((0..300).all(|i| first(i) == first(i % 5)), "{method:?}");
        let codes: BTreeSet<_> = (0..5).map(first).collect();
        assert_eq!(codes.len(), 5, "{method:?}");
    }
}

#[test]
fn what_quantisation_leaves_falls_from_level_to_level() {
    let corpus = corpus(400, 7);
    let made = made(&corpus, &options(Method::Rq));
    let levels = &made.report().levels[..3];
    let errors: Vec<f64> = levels.iter().map(|l| l.error.unwrap()).collect();
    assert!(errors[0] < 0.6, "{errors:?}");
    assert!(
        errors.windows(2).all(|pair| pair[1] < pair[0]),
        "{errors:?}"
    );
    // What the report says is left is the distance to the sum of the centroids.
    let vectors = Vectors::of_words(corpus.passages(), 64, 0);
    let mean: Vec<f64> = (0..64)
        .map(|i| vectors.rows().map(|v| f64::from(v[i])).sum::<f64>() / 400.0)
        .collect();
    let (mut left, mut all) = (0.0, 0.0);
    for (vector, id) in vectors.rows().zip(made.trie.ids()) {
        for (i, x) in vector.iter().enumerate() {
            let of_code = |t: &TokenId| f64::from(made.centroids[t.index() * 64 + i]);
            let sum: f64 = id.iter().flatten().take(3).map(of_code).sum();
            left += (f64::from(*x) - sum).powi(2);
            all += (f64::from(*x) - mean[i]).powi(2);
        }
    }
    assert!(
        (errors[2] - left / all).abs() < 1e-5,
        "{} {}",
        errors[2],
        left / all
    );
}

#[test]
fn codes_of_chance_have_nearly_all_bits() {
    let of = DocidOptions {
        levels: 2,
        codes: 16,
        ..options(Method::Random)
    };
    let made = made(&corpus(3000, 5), &of);
    for level in &made.report().levels[..2] {
        assert_eq!(level.used, 16);
        assert!(level.entropy_bits > 3.99 && level.entropy_bits <= 4.0);
    }
}

#[test]
fn clusters_are_divided_until_they_are_small() {
    let corpus = corpus(300, 5);
    let of = DocidOptions {
        codes: 4,
        leaf: 10,
        ..options(Method::Kmeans)
    };
    let made = made(&corpus, &of);
    assert!(made.report().depth_max >= 4 && made.report().depth_min >= 2);
    // Equal passages end as well, numbered.
    let same = (0..100).map(|i| passage(i, "", "one and the same"));
    let same = Corpus::from_passages(same.collect()).unwrap();
    let made = self::made(&same, &of);
    assert_eq!((made.trie.num_ids(), made.report().depth_max), (100, 3));
}

#[test]
fn threads_change_nothing() {
    let corpus = corpus(500, 9);
    for method in METHODS {
        let ids = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let made = || made(&corpus, &options(method));
            let made = pool.build().unwrap().install(made);
            (made.trie.ids(), made.centroids)
        };
        assert_eq!(ids(1), ids(2), "{method:?}");
    }
}

#[test]
fn a_file_stands_behind_the_vocabulary_of_a_tokenizer() {
    let corpus = corpus(200, 5);
    let folder = std::env::temp_dir().join(format!("genret-docid-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("docids");
    let tokenizer = Tokenizer::bytes();
    for method in METHODS {
        let made = made(&corpus, &options(method));
        made.write(&path, &corpus).unwrap();
        let docids = Docids::open(&path).unwrap();
        docids.file().verify().unwrap();
        docids.check_corpus(&corpus).unwrap();
        assert!(docids.check_corpus(&self::corpus(200, 4)).is_err());
        assert_eq!(docids.doc_id(PassageIdx(7)), "d7");
        assert_eq!(docids.notes().report, *made.report());
        let trie = docids.trie(&tokenizer).unwrap();
        assert_eq!(docids.vocab_size(&tokenizer), trie.vocab_size());
        let first = trie.ids()[0].as_ref().unwrap()[0];
        assert_eq!(first.index() < 256, method == Method::Title);
        let centroids = docids.centroids();
        assert_eq!(centroids.is_some(), method == Method::Rq);
        if let Some((numbers, dims)) = centroids {
            assert_eq!((numbers.len(), dims), (3 * 8 * 64, 64));
        }
    }
    let docids = Docids::open(&path).unwrap();
    let (before, identity) = (
        docids.trie(&tokenizer).unwrap().ids(),
        docids.notes().identity,
    );
    let deleted: PassageSet = [3, 199].map(PassageIdx).into_iter().collect();
    docids.delete(&deleted).unwrap();
    let docids = Docids::open(&path).unwrap();
    docids.file().verify().unwrap();
    let trie = docids.trie(&tokenizer).unwrap();
    assert_eq!(
        (trie.num_identified(), docids.notes().identity),
        (198, identity)
    );
    for (passage, (before, after)) in (0..).zip(before.iter().zip(trie.ids())) {
        assert_eq!(after.is_none(), deleted.contains(PassageIdx(passage)));
        assert!(after.is_none() || after == *before);
    }
    let made = made(&corpus, &options(Method::Title));
    made.write(&path, &corpus).unwrap();
    let docids = Docids::open(&path).unwrap();
    let train = crate::tokenizer::TrainOptions {
        kind: crate::tokenizer::TokenizerKind::Bpe,
        vocab: 300,
        lowercase: false,
    };
    let other = Tokenizer::train(&[" some other text", " some"], train).unwrap();
    let error = docids.trie(&other).err().unwrap();
    assert!(
        error.to_string().contains("`genret docid build`"),
        "{error}"
    );
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn options_are_checked() {
    let zero = DocidOptions {
        levels: 0,
        ..DocidOptions::default()
    };
    let said = zero.check().unwrap_err().to_string();
    assert!(
        said.contains("levels = 0 must be between 1 and 256"),
        "{said}"
    );
    let titles = options(Method::Title);
    let error = make(&corpus(4, 2), &titles, None, &mut |_| ()).err();
    assert!(matches!(error, Some(DocidError::NoTokenizer)));
    assert!(toml::from_str::<DocidOptions>("level = 3").is_err());
}
