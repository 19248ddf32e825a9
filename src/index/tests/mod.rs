//! The index against its naive twin, and against damaged files.

#[path = "../../../tests/common/naive_index.rs"]
pub(in crate::index) mod naive_index;

mod fuzz;
mod random;

use std::fs;
use std::path::{Path, PathBuf};

use naive_index::{NaiveIndex, NaiveState};
use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Continuations, Csr, Field, IndexBuilder, IndexError, IndexOptions, NgramIndex, Occurrence,
    PassageSet, SEPARATOR, State, SubstringIndex,
};
use crate::rng::stream;
use crate::section_file::Bytes;
use crate::types::{PassageIdx, TokenId};

/// Titles and bodies.
pub(in crate::index) type Passages = Vec<(Vec<TokenId>, Vec<TokenId>)>;

/// Random passages with about `tokens` body tokens of an alphabet of `alphabet`, `offset` added.
pub(in crate::index) fn passages(
    seed: u64,
    tokens: usize,
    mean_len: usize,
    alphabet: u32,
    offset: u32,
) -> Passages {
    let mut rng = stream(seed, "passages", &[tokens as u64, u64::from(alphabet)]);
    let mut passages = vec![];
    let mut left = tokens;
    while left > 0 {
        let len = rng.random_range(1..=2 * mean_len).min(left);
        left -= len;
        let mut draw = |len| -> Vec<TokenId> {
            (0..len)
                .map(|_| TokenId(offset + rng.random_range(0..alphabet)))
                .collect()
        };
        let body = draw(len);
        let title_len = len % 3;
        passages.push((draw(title_len), body));
    }
    passages
}

/// Pseudo-queries of a passage: pieces of its body, backwards.
pub(in crate::index) fn queries_of(body: &[TokenId]) -> Vec<Vec<TokenId>> {
    let backwards: Vec<TokenId> = body.iter().rev().copied().collect();
    let pieces = backwards.chunks(1 + body.len() % 7);
    pieces
        .take(body.len() % 4)
        .map(<[TokenId]>::to_vec)
        .collect()
}

/// The tokens of one field of a passage.
pub(in crate::index) fn tokens_of(
    (title, body): &(Vec<TokenId>, Vec<TokenId>),
    field: Field,
) -> Vec<TokenId> {
    match field {
        Field::Title => title.clone(),
        Field::Body => body.clone(),
        Field::Queries => queries_of(body).join(&SEPARATOR),
    }
}

fn build(passages: &Passages, vocab: usize, max: usize, min_node: usize) -> NgramIndex {
    builder(passages, vocab, max, min_node)
        .into_index()
        .unwrap()
}

pub(in crate::index) fn builder(
    passages: &Passages,
    vocab: usize,
    max: usize,
    min_node: usize,
) -> IndexBuilder {
    let options = IndexOptions {
        max_ngram_tokens: max,
        min_node_count: min_node,
    };
    let mut builder = IndexBuilder::new(vocab, 7, "tokenizer.json", options).unwrap();
    for (i, (title, body)) in passages.iter().enumerate() {
        let id = format!("d{i}");
        let queries = queries_of(body);
        builder
            .push_with_queries(&id, title, body, &queries)
            .unwrap();
    }
    builder
}

pub(in crate::index) fn naive(
    passages: &Passages,
    field: Field,
    vocab: usize,
    max: usize,
) -> NaiveIndex {
    let tokens = passages.iter().map(|passage| tokens_of(passage, field));
    NaiveIndex::new(field, vocab, max, tokens.collect())
}

/// Walks both indexes from the root along the same n-grams and compares everything they say.
pub(in crate::index) fn compare<I: SubstringIndex>(
    index: &I,
    naive: &NaiveIndex,
    seed: u64,
    per_level: usize,
) {
    let mut rng = stream(seed, "walk", &[]);
    assert_eq!(index.num_tokens(), naive.num_tokens());
    assert_eq!(index.num_passages(), naive.num_passages());
    let mut level: Vec<(I::State, NaiveState)> = vec![(index.root(), naive.root())];
    let mut found = Continuations::default();
    let mut expected = Continuations::default();
    let (mut here, mut there, mut csr) = (vec![], vec![], Csr::default());
    for _depth in 0..=naive.max_ngram_tokens() {
        let (ours, theirs): (Vec<I::State>, Vec<NaiveState>) = level.iter().copied().unzip();
        index.continuations(&ours, &mut found);
        naive.continuations(&theirs, &mut expected);
        assert_eq!(found.len(), level.len());
        found.copy_to(&mut csr);
        let mut next = vec![];
        for (i, &(state, naive_state)) in level.iter().enumerate() {
            let ngram = naive.ngram(naive_state).to_vec();
            assert_eq!(index.count(state), naive.count(naive_state), "{ngram:?}");
            assert_eq!(
                index.find(&ngram).map(|s| index.count(s)),
                Some(index.count(state))
            );
            let limit = rng.random_range(0..=index.count(state) + 1);
            index.occurrences(state, limit, &mut here);
            naive.occurrences(naive_state, limit, &mut there);
            assert_eq!(here, there, "{ngram:?}");

            let (row, naive_row) = (found.row(i), expected.row(i));
            assert_eq!(row.tokens, naive_row.tokens, "{ngram:?}");
            assert!(row.counts().eq(naive_row.counts()), "{ngram:?}");
            let start = i.checked_sub(1).map_or(0, |before| csr.ends[before]) as usize;
            let copied = start..csr.ends[i] as usize;
            assert_eq!(row.tokens, &csr.tokens[copied.clone()]);
            let counts = csr.counts[copied].iter();
            assert!(row.counts().eq(counts.map(|&count| count as usize)));
            for (nth, &token) in row.tokens.iter().enumerate() {
                let child = row.state(nth);
                assert_eq!(row.count(nth), naive_row.count(nth), "{ngram:?} {token:?}");
                assert_eq!(index.count(child), row.count(nth));
                let advanced = index.advance(state, token).unwrap();
                assert_eq!(index.count(advanced), row.count(nth));
                // Both ways of arriving go on to the same n-gram.
                let state = if rng.random() { child } else { advanced };
                next.push((state, naive_row.state(nth)));
            }
            for token in 0..index.vocab_size().min(9) as u32 + 2 {
                let place = row.tokens.binary_search(&TokenId(token)).ok();
                assert_eq!(row.find(TokenId(token)), place);
                let present = place.is_some();
                assert_eq!(index.advance(state, TokenId(token)).is_some(), present);
            }
        }
        while next.len() > per_level {
            next.swap_remove(rng.random_range(0..next.len()));
        }
        level = next;
    }
    assert!(
        level.is_empty(),
        "nothing is longer than the longest n-gram"
    );
    let mut ours = vec![];
    let mut theirs = vec![];
    for p in (0..naive.num_passages() as u32).map(PassageIdx) {
        index.passage_tokens(p, &mut ours);
        naive.passage_tokens(p, &mut theirs);
        assert_eq!(ours, theirs);
    }
}

#[test]
fn equals_the_naive_index() {
    let sizes = [0, 1, 2, 63, 64, 65, 511, 512, 513, 1500];
    for (seed, &size) in (0..).zip(&sizes) {
        for (alphabet, mean_len) in [(1, 20), (2, 9), (5, 70), (300, 30)] {
            for (max, min_node) in [(1, 1), (4, 2), (7, 64), (40, 3), (64, 256)] {
                let corpus = passages(seed, size, mean_len, alphabet, 0);
                let vocab = alphabet as usize + 1;
                let index = build(&corpus, vocab, max, min_node);
                for field in Field::ALL {
                    let naive = naive(&corpus, field, vocab, max);
                    compare(&index.with_field(field), &naive, seed, 4);
                }
            }
        }
    }
}

#[test]
fn equals_the_naive_index_in_large_vocabularies() {
    // Around the largest vocabulary whose tokens take two bytes.
    for vocab in [65_534, 65_535, 65_536, 200_000] {
        let corpus = passages(vocab, 700, 20, 3, vocab as u32 - 3);
        let index = build(&corpus, vocab as usize, 9, 8);
        compare(
            &index,
            &naive(&corpus, Field::Body, vocab as usize, 9),
            vocab,
            20,
        );
    }
}

#[test]
fn copies_of_a_passage_have_equal_ngrams_to_the_end() {
    let one = passages(3, 100, 100, 4, 0).remove(0);
    let corpus: Passages = vec![one.clone(); 5];
    for min_node in [2, 6] {
        let index = build(&corpus, 4, 1000, min_node);
        let state = index.find(&one.1).unwrap();
        assert_eq!(index.count(state), 5);
        let mut found = vec![];
        index.occurrences(state, 9, &mut found);
        let expected: Vec<Occurrence> = (0..5)
            .map(|p| Occurrence {
                passage: PassageIdx(p),
                position: 0,
                field: Field::Body,
            })
            .collect();
        assert_eq!(found, expected);
        let mut out = Continuations::default();
        index.continuations(&[state], &mut out);
        assert!(out.row(0).tokens.is_empty());
    }
}

#[test]
fn reused_buffers_and_batches_change_nothing() {
    let corpus = passages(9, 3000, 40, 6, 0);
    let index = build(&corpus, 6, 20, 30);
    let mut out = Continuations::default();
    index.continuations(&[index.root()], &mut out);
    let mut states: Vec<State> = (0..6).map(|nth| out.row(0).state(nth)).collect();
    for _ in 0..4 {
        index.continuations(&states, &mut out);
        states = out
            .iter()
            .flat_map(|row| (0..row.tokens.len()).map(move |n| row.state(n)))
            .collect();
    }
    assert!(states.len() > 1000);
    index.continuations(&states, &mut out);
    let mut alone = Continuations::new();
    for (row, &state) in out.iter().zip(&states) {
        index.continuations(&[state], &mut alone);
        let single = alone.row(0);
        assert_eq!(row.tokens, single.tokens);
        for nth in 0..row.tokens.len() {
            assert_eq!(
                (row.count(nth), row.state(nth)),
                (single.count(nth), single.state(nth))
            );
        }
    }
}

#[test]
fn masks_and_best_continuations_are_those_of_the_rows() {
    let corpus = passages(9, 3000, 40, 70, 0);
    let index = build(&corpus, 77, 20, 30);
    let mut out = Continuations::default();
    index.continuations(&[index.root()], &mut out);
    let states: Vec<State> = (0..40).map(|nth| out.row(0).state(nth)).collect();
    index.continuations(&states, &mut out);
    let mut masks = vec![7];
    out.mask_rows(77, &mut masks);
    assert_eq!(masks.len(), 40 * 3);
    let mut rng = stream(1, "logits", &[]);
    let mut best = vec![];
    for (row, mask) in out.iter().zip(masks.chunks(3)) {
        for token in 0..96 {
            let allowed = row.tokens.contains(&TokenId(token));
            assert_eq!(mask[token as usize / 32] >> (token % 32) & 1 == 1, allowed);
        }
        // Few different values, so that there are ties.
        let logits: Vec<f32> = (0..77).map(|_| rng.random_range(-3..9) as f32).collect();
        for limit in [0, 1, 2, 5, 31, 32, 33, 100] {
            for least in [f32::NEG_INFINITY, 2.0, 100.0] {
                let logit = |nth: u32| logits[row.tokens[nth as usize].index()];
                let mut expected: Vec<u32> = (0..row.tokens.len() as u32)
                    .filter(|&nth| logit(nth) > least)
                    .collect();
                expected.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)));
                expected.truncate(limit);
                row.best(&logits, least, limit, &mut best);
                assert_eq!(best, expected);
            }
        }
    }
    Continuations::<State>::new().mask_rows(77, &mut masks);
    assert!(masks.is_empty());
}

#[test]
fn pseudo_queries_are_texts_of_their_own() {
    let ids =
        |text: &str| -> Vec<TokenId> { text.bytes().map(|b| TokenId(u32::from(b))).collect() };
    let mut builder = IndexBuilder::new(128, 0, "", IndexOptions::default()).unwrap();
    let queries = [ids("abc"), vec![], ids("cab")];
    builder
        .push_with_queries("0", &ids("t"), &ids("xyz"), &queries)
        .unwrap();
    builder.push("1", &[], &ids("abcab")).unwrap();
    builder
        .push_with_queries("2", &[], &ids("x"), &queries[2..])
        .unwrap();
    assert_eq!(builder.num_tokens(), 1 + 3 + 3 + 3 + 5 + 1 + 3);
    let index = builder.into_index().unwrap().with_field(Field::Queries);
    let count = |text: &str| index.ngram_count(&ids(text));
    assert_eq!((index.num_tokens(), count("")), (9, 9));
    assert_eq!((count("ab"), count("abc"), count("ca")), (3, 1, 2));
    // Neither from one query to the next, nor to another passage, title or body.
    assert_eq!(
        [count("abcc"), count("cc"), count("abca"), count("bc")],
        [0, 0, 0, 1]
    );
    assert_eq!([count("t"), count("x"), count("bcab")], [0; 3]);
    let mut found = vec![];
    index.occurrences(index.find(&ids("ab")).unwrap(), 9, &mut found);
    let place = |o: &Occurrence| (o.passage.0, o.position, o.field);
    let places: Vec<_> = found.iter().map(place).collect();
    let field = Field::Queries;
    assert_eq!(places, [(0, 0, field), (0, 5, field), (2, 1, field)]);
    let mut tokens = vec![];
    index.passage_tokens(PassageIdx(0), &mut tokens);
    assert_eq!(tokens, [ids("abc"), ids("cab")].join(&SEPARATOR));
    assert_eq!(index.stats().fields[2].num_tokens, 9);
    let error = IndexBuilder::new(5, 0, "", IndexOptions::default())
        .unwrap()
        .push_with_queries("far", &[], &[TokenId(1)], &[vec![TokenId(5)]]);
    assert!(matches!(
        error,
        Err(IndexError::TokenOutOfRange { token: 5, .. })
    ));
}

#[test]
fn wrong_input_is_refused() {
    let options = IndexOptions::default();
    let mut builder = IndexBuilder::new(10, 0, "", options).unwrap();
    let error = builder.push("empty", &[TokenId(1)], &[]).unwrap_err();
    assert!(
        matches!(error, IndexError::EmptyPassage { index: 0, .. }),
        "{error}"
    );
    let error = builder.push("far", &[], &[TokenId(10)]).unwrap_err();
    assert!(
        matches!(error, IndexError::TokenOutOfRange { token: 10, .. }),
        "{error}"
    );
    for options in [
        IndexOptions {
            max_ngram_tokens: 0,
            ..options
        },
        IndexOptions {
            max_ngram_tokens: 65_536,
            ..options
        },
        IndexOptions {
            min_node_count: 0,
            ..options
        },
    ] {
        assert!(IndexBuilder::new(10, 0, "", options).is_err());
    }
}

pub(in crate::index) fn temporary(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("genret-index-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

#[test]
fn a_file_says_what_memory_says_and_does_not_depend_on_threads() {
    let corpus = passages(5, 2000, 50, 50, 0);
    let path = temporary("one.idx");
    builder(&corpus, 50, 64, 16).write(&path).unwrap();
    let index = NgramIndex::open(&path).unwrap();
    index.verify().unwrap();
    compare(&index, &naive(&corpus, Field::Body, 50, 64), 1, 10);
    assert_eq!(index.stats().num_passages, corpus.len());
    for p in 0..corpus.len() as u32 {
        assert_eq!(index.doc_id(PassageIdx(p)), format!("d{p}"));
    }
    index.check_tokenizer(7).unwrap();
    let message = index.check_tokenizer(8).unwrap_err().to_string();
    assert!(message.contains("0000000000000007") && message.contains("0000000000000008"));

    let image = fs::read(&path).unwrap();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(5)
        .build()
        .unwrap();
    pool.install(|| builder(&corpus, 50, 64, 16).write(&path).unwrap());
    assert!(image == fs::read(&path).unwrap());
    fs::remove_file(&path).unwrap();
}

fn open_bytes(bytes: &[u8]) -> Result<NgramIndex, IndexError> {
    NgramIndex::from_bytes(Path::new("x.idx"), Bytes::owned(bytes))
}

#[test]
fn other_files_are_refused_with_the_reason() {
    let path = temporary("two.idx");
    builder(&passages(5, 200, 20, 9, 0), 9, 8, 4)
        .write(&path)
        .unwrap();
    let image = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(open_bytes(&image).is_ok());
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = image.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        open_bytes(&image).err().expect("the change is noticed")
    };
    assert!(matches!(
        open_bytes(b"{\"a\": 1}"),
        Err(IndexError::NotAnIndex { .. })
    ));
    assert!(matches!(
        open_bytes(b""),
        Err(IndexError::NotAnIndex { .. })
    ));
    assert!(matches!(
        changed(8, &3u32.to_ne_bytes()),
        IndexError::Version { found: 3, .. }
    ));
    let mut order = image[12..16].to_vec();
    order.reverse();
    assert!(matches!(changed(12, &order), IndexError::ByteOrder { .. }));
    assert!(matches!(changed(24, b"x"), IndexError::Damaged { .. }));
    for len in [image.len() - 1, image.len() / 2, 100, 60, 9] {
        let error = open_bytes(&image[..len]).err().expect("a cut is noticed");
        assert!(matches!(error, IndexError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("genret index build"));
    }
    assert!(matches!(
        NgramIndex::open(Path::new("/nowhere/at/all")),
        Err(IndexError::Io { action: "open", .. })
    ));
}

/// The file that is kept in `tests/data` for this version of the format.
fn kept() -> IndexBuilder {
    let options = IndexOptions {
        max_ngram_tokens: 8,
        min_node_count: 4,
    };
    let mut builder = IndexBuilder::new(9, 7, "tokenizer.json", options).unwrap();
    for (i, (title, body)) in passages(1, 300, 20, 9, 0).iter().enumerate() {
        builder.push(&format!("d{i}"), title, body).unwrap();
    }
    builder
}

#[test]
fn the_format_is_that_of_version_two() {
    // If this fails, old files are read wrongly: raise the version, or undo the change.
    let path = temporary("format.idx");
    kept().write(&path).unwrap();
    let image = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    if cfg!(target_endian = "little") {
        assert_eq!(xxh3_64(&image), 12_407_717_628_018_969_230);
    }
}

/// A file of version 2, kept since that version, opens and says what it said; one of version 1 is
/// refused with what to do.
#[test]
fn kept_files_of_all_versions_open_or_are_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let refused = |error: IndexError| {
        let version = matches!(error, IndexError::Version { found: 1, .. });
        assert!(
            version || matches!(error, IndexError::ByteOrder { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("genret index build"));
    };
    refused(
        NgramIndex::open(&folder.join("index-v1.idx"))
            .err()
            .unwrap(),
    );
    match NgramIndex::open(&folder.join("index-v2.idx")) {
        Ok(index) => {
            index.verify().unwrap();
            let corpus = passages(1, 300, 20, 9, 0);
            for field in [Field::Body, Field::Title] {
                let naive = naive(&corpus, field, 9, 8);
                compare(&index.with_field(field), &naive, 1, 20);
            }
            let none = NaiveIndex::new(Field::Queries, 9, 8, vec![vec![]; corpus.len()]);
            compare(&index.with_field(Field::Queries), &none, 1, 20);
            assert_eq!(index.stats().fields.len(), 2);
        }
        Err(error) => refused(error),
    }
}

/// Lists with more rows than two bytes count, beside lists with fewer.
#[test]
fn equals_the_naive_index_where_lists_are_long() {
    let corpus = passages(2, 150_000, 60, 2, 0);
    let index = build(&corpus, 3, 3, 1000);
    compare(&index, &naive(&corpus, Field::Body, 3, 3), 1, 4);
    let odd: PassageSet = (0..corpus.len() as u32)
        .filter(|p| p % 2 == 1)
        .map(PassageIdx)
        .collect();
    let kept = index.restricted_to(&odd);
    let passages = corpus.iter().enumerate().map(|(p, passage)| match p % 2 {
        1 => passage.clone(),
        _ => Default::default(),
    });
    compare(&kept, &naive(&passages.collect(), Field::Body, 3, 3), 1, 4);
}

/// Asks an index everything, for its own sake: answers may be wrong, but tokens stay in the
/// vocabulary and nothing panics.
fn exercise(index: &NgramIndex, seed: u64) {
    let mut rng = stream(seed, "exercise", &[]);
    let mut occurrences = vec![];
    let mut tokens = vec![];
    for field in Field::ALL {
        let index = index.with_field(field);
        let mut out = Continuations::default();
        let mut states = vec![index.root()];
        for _ in 0..8 {
            index.continuations(&states, &mut out);
            let mut next = vec![];
            for row in out.iter() {
                assert!(row.tokens.iter().all(|t| t.index() < index.vocab_size()));
                assert!(row.tokens.is_sorted());
                next.extend((0..row.tokens.len()).map(|nth| row.state(nth)));
            }
            for &state in &states {
                let _ = index.count(state);
                index.occurrences(state, 20, &mut occurrences);
                for token in 0..4 {
                    next.extend(index.advance(state, TokenId(token)));
                }
            }
            while next.len() > 12 {
                next.swap_remove(rng.random_range(0..next.len()));
            }
            states = next;
        }
        for p in 0..12 {
            index.passage_tokens(PassageIdx(p), &mut tokens);
            let known = |t: &TokenId| *t == SEPARATOR || t.index() < index.vocab_size();
            assert!(tokens.iter().all(known));
            let _ = index.doc_id(PassageIdx(p));
        }
        let _ = index.stats();
    }
}

#[test]
fn damaged_files_never_panic() {
    let path = temporary("three.idx");
    for (vocab, rounds) in [(12u32, 1500), (70_000, 500)] {
        builder(&passages(6, 600, 30, 12, vocab - 12), vocab as usize, 9, 4)
            .write(&path)
            .unwrap();
        let image = fs::read(&path).unwrap();
        let sections = u32::from_ne_bytes(image[52..56].try_into().unwrap()) as usize;
        let header = 64 + sections * 32;
        let mut noticed = 0;
        for round in 0..rounds {
            let mut rng = stream(round, "damage", &[u64::from(vocab)]);
            let mut image = image.clone();
            for _ in 0..rng.random_range(1..40) {
                let at = rng.random_range(0..image.len());
                image[at] = match rng.random_range(0..3) {
                    0 => image[at] ^ 1 << rng.random_range(0..8),
                    1 => 0xff,
                    _ => rng.random(),
                };
            }
            if rng.random_range(0..8) == 0 {
                image.truncate(rng.random_range(0..image.len()));
            }
            // Half of the time the header's checksum is made right again, so that every check
            // behind it is reached.
            if rng.random() && image.len() > header + 8 {
                let sum = xxh3_64(&image[..header]);
                image[header..header + 8].copy_from_slice(&sum.to_ne_bytes());
            }
            match open_bytes(&image) {
                Err(_) => noticed += 1,
                Ok(index) => {
                    noticed += usize::from(index.verify().is_err());
                    exercise(&index, round);
                    let odd = (0..40).filter(|p| p % 2 == 1).map(PassageIdx).collect();
                    exercise(&index.restricted_to(&odd), round);
                }
            }
        }
        assert!(noticed > rounds as usize * 9 / 10, "{noticed} of {rounds}");
    }
    fs::remove_file(&path).unwrap();
}
