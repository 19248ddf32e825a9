//! A trie beside a set of sequences, and its file under damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rand::RngExt;

use super::super::tests::temporary;
use super::*;
use crate::rng::{Stream, stream};
use crate::section_file::Bytes;

/// What identifiers are drawn from: so many passages, lengths, an alphabet, codes that prefer few.
struct Draw {
    passages: usize,
    lengths: std::ops::RangeInclusive<usize>,
    alphabet: u32,
    stride: bool,
}

fn draw(rng: &mut Stream, of: &Draw) -> Vec<Vec<u32>> {
    let mut id = || -> Vec<u32> {
        let len = rng.random_range(of.lengths.clone());
        // Squares prefer small codes, so that prefixes are shared.
        let mut code = || {
            let x: f64 = rng.random();
            (x * x * f64::from(of.alphabet)) as u32
        };
        (0..len).map(|_| code()).collect()
    };
    (0..of.passages).map(|_| id()).collect()
}

fn build(ids: &[Vec<u32>], of: &Draw) -> Trie {
    let alphabet = of.alphabet as usize;
    let stride = if of.stride { alphabet } else { 0 };
    let mut builder = TrieBuilder::new(alphabet, stride).unwrap();
    ids.iter().for_each(|id| builder.push(id).unwrap());
    builder.finish().unwrap()
}

fn tokens(id: &[u32], of: &Draw, shift: u32) -> Vec<TokenId> {
    let stride = if of.stride { of.alphabet } else { 0 };
    (0..)
        .zip(id)
        .map(|(at, code)| TokenId(shift + stride * at + code))
        .collect()
}

/// Every prefix of `trie` has the continuations, counts, ends and passages that the identifiers say.
fn compare(trie: &Trie, ids: &[Option<Vec<TokenId>>]) {
    let mut passages: BTreeMap<Vec<TokenId>, Vec<PassageIdx>> = BTreeMap::new();
    for (passage, id) in (0..).zip(ids) {
        if let Some(id) = id {
            passages
                .entry(id.clone())
                .or_default()
                .push(PassageIdx(passage));
        }
    }
    assert_eq!(trie.num_ids(), passages.len());
    let mut follows: BTreeMap<Vec<TokenId>, BTreeMap<TokenId, usize>> = BTreeMap::new();
    for id in passages.keys() {
        for at in 0..id.len() {
            *follows
                .entry(id[..at].to_vec())
                .or_default()
                .entry(id[at])
                .or_default() += 1;
        }
    }
    let mut level = vec![(vec![], trie.root())];
    let mut visited = BTreeSet::new();
    let mut out = Continuations::new();
    while !level.is_empty() {
        let states: Vec<TrieState> = level.iter().map(|l| l.1).collect();
        trie.continuations(&states, &mut out);
        assert_eq!(out.len(), states.len());
        let mut next = vec![];
        for ((prefix, state), row) in level.iter().zip(out.iter()) {
            let expected = follows.get(prefix);
            let found: BTreeMap<TokenId, usize> = (0..row.tokens.len())
                .map(|nth| (row.tokens[nth], row.count(nth)))
                .collect();
            assert!(row.tokens.is_sorted());
            assert_eq!(
                Some(&found),
                expected.or(Some(&BTreeMap::new())),
                "{prefix:?}"
            );
            let (complete, longer) = trie.is_complete(*state);
            assert_eq!(complete, passages.contains_key(prefix), "{prefix:?}");
            assert_eq!(complete && longer, complete && expected.is_some());
            let here: Vec<PassageIdx> = trie.passages_at(*state).collect();
            assert_eq!(&here, passages.get(prefix).unwrap_or(&vec![]));
            assert_eq!(state.depth(), prefix.len());
            visited.insert(prefix.clone());
            for nth in 0..row.tokens.len() {
                let mut longer = prefix.clone();
                longer.push(row.tokens[nth]);
                next.push((longer, row.state(nth)));
            }
        }
        level = next;
    }
    assert!(passages.keys().all(|id| visited.contains(id)));
    assert_eq!(trie.ids(), ids);
    let shared: Vec<Vec<u32>> = trie.shared().map(<[u32]>::to_vec).collect();
    let expected: Vec<Vec<u32>> = passages
        .values()
        .filter(|p| p.len() > 1)
        .map(|p| p.iter().map(|p| p.0).collect())
        .collect();
    assert_eq!(shared, expected);
}

/// The shapes that every test runs through.
fn shapes() -> Vec<Draw> {
    let mut shapes = vec![];
    for passages in [0, 1, 7, 8, 9, 700] {
        for lengths in [1..=1, 4..=4, 0..=3, 1..=9] {
            for alphabet in [1, 2, 9, 256, 257, 70_000] {
                for stride in [false, true] {
                    shapes.push(Draw {
                        passages,
                        lengths: lengths.clone(),
                        alphabet,
                        stride,
                    });
                }
            }
        }
    }
    shapes
}

#[test]
fn a_trie_equals_a_set_of_sequences() {
    for (place, of) in (0..).zip(shapes()) {
        let ids = draw(&mut stream(3, "trie", &[place]), &of);
        let trie = build(&ids, &of);
        let some = |id: &Vec<u32>, shift| (!id.is_empty()).then(|| tokens(id, &of, shift));
        let expected: Vec<_> = ids.iter().map(|id| some(id, 0)).collect();
        compare(&trie, &expected);
        let shifted: Vec<_> = ids.iter().map(|id| some(id, 1000)).collect();
        compare(&trie.shifted(1000).unwrap(), &shifted);
        let greatest = expected.iter().flatten().flatten().max();
        assert!(greatest.is_none_or(|token| token.index() < trie.vocab_size()));
    }
}

#[test]
fn a_filtered_trie_is_that_of_its_passages() {
    for (place, of) in (0..).zip(shapes()) {
        let mut rng = stream(4, "trie", &[place]);
        let ids = draw(&mut rng, &of);
        let trie = build(&ids, &of);
        for share in [0.0, 0.1, 0.9] {
            let subset: PassageSet = (0..of.passages as u32)
                .map(PassageIdx)
                .filter(|_| rng.random::<f64>() < share)
                .collect();
            let inside = |(passage, id): (usize, &Vec<u32>)| {
                let kept = subset.contains(PassageIdx(passage as u32)) && !id.is_empty();
                kept.then(|| tokens(id, &of, 0))
            };
            let expected: Vec<_> = ids.iter().enumerate().map(inside).collect();
            compare(&trie.restricted_to(&subset), &expected);
        }
    }
}

#[test]
fn the_trie_does_not_depend_on_threads() {
    let of = Draw {
        passages: 5000,
        lengths: 0..=6,
        alphabet: 5,
        stride: true,
    };
    let ids = draw(&mut stream(5, "trie", &[]), &of);
    let image = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| image(&ids, &of))
    };
    assert_eq!(image(1), image(2));
}

/// The bytes of the file.
fn image(ids: &[Vec<u32>], of: &Draw) -> Vec<u8> {
    let names: Vec<String> = (0..ids.len()).map(|i| format!("d{i}")).collect();
    let path = temporary(&format!("trie-{:?}.ids", std::thread::current().id()));
    let names = names.iter().map(String::as_str);
    TrieFile::write(
        &path,
        &build(ids, of),
        names,
        77,
        "{\"a\": 1}",
        &[1.5, -2.0],
    )
    .unwrap();
    let image = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    image
}

fn open(image: &[u8]) -> Result<TrieFile, TrieError> {
    TrieFile::from_bytes(Path::new("a.ids"), Bytes::owned(image))
}

#[test]
fn a_file_gives_back_what_was_written() {
    for of in shapes() {
        let ids = draw(&mut stream(6, "trie", &[]), &of);
        let file = open(&image(&ids, &of)).unwrap();
        file.verify().unwrap();
        let some = |id: &Vec<u32>| (!id.is_empty()).then(|| tokens(id, &of, 0));
        compare(file.trie(), &ids.iter().map(some).collect::<Vec<_>>());
        assert_eq!((file.corpus(), file.notes()), (77, "{\"a\": 1}"));
        assert_eq!(file.numbers(), [1.5, -2.0]);
        let names = (0..ids.len()).map(|i| format!("d{i}"));
        assert!(file.doc_ids().eq(names));
        assert_eq!(file.doc_id(PassageIdx(u32::MAX)), "");
    }
}

/// Opening or verifying refuses `image`, saying what to do; asking it, if it opens, does not panic.
fn refused(image: &[u8]) -> Result<(), String> {
    let said = match open(image) {
        Err(error) => error,
        Ok(file) => {
            let trie = file.trie();
            let odd = (0..40).filter(|p| p % 2 == 1).map(PassageIdx).collect();
            for trie in [
                trie.clone(),
                trie.restricted_to(&odd),
                trie.shifted(9).unwrap(),
            ] {
                let mut level = vec![trie.root()];
                let mut out = Continuations::new();
                for _ in 0..12 {
                    trie.continuations(&level, &mut out);
                    let states = out.iter().flat_map(|row| {
                        (0..row.tokens.len().min(3)).map(move |nth| row.state(nth))
                    });
                    level = states.take(50).collect();
                    for &state in &level {
                        trie.is_complete(state);
                        trie.passages_at(state).count();
                    }
                    for row in out.iter() {
                        assert!(row.tokens.iter().all(|t| t.index() < trie.vocab_size()));
                    }
                }
                trie.ids();
            }
            file.doc_ids().count();
            file.verify().err().ok_or("the damage goes unnoticed")?
        }
    };
    if said.to_string().contains("`genret docid build`") {
        Ok(())
    } else {
        Err(format!("no remedy: {said}"))
    }
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    for (lengths, stride) in [(3..=3, true), (0..=5, false)] {
        let of = Draw {
            passages: 150,
            lengths,
            alphabet: 4,
            stride,
        };
        let image = image(&draw(&mut stream(7, "trie", &[]), &of), &of);
        for at in 0..image.len() {
            let mut image = image.clone();
            image[at] ^= 1 << (at % 8);
            refused(&image).unwrap_or_else(|e| panic!("byte {at}: {e}"));
        }
        for len in 0..image.len() {
            refused(&image[..len]).unwrap_or_else(|e| panic!("{len} bytes: {e}"));
        }
        let mut longer = image.clone();
        longer.resize(image.len() + 64, 0);
        refused(&longer).unwrap();
    }
}

#[test]
fn what_cannot_be_an_identifier_is_refused() {
    let none = TrieBuilder::new(0, 0).err();
    assert!(matches!(none, Some(TrieError::Alphabet { found: 0 })));
    let mut builder = TrieBuilder::new(5, 5).unwrap();
    let error = builder.push(&[1, 5]).unwrap_err();
    assert!(matches!(error, TrieError::CodeOutOfRange { code: 5, .. }));
    let mut builder = TrieBuilder::new(1 << 30, 1 << 30).unwrap();
    builder.push(&[1; 9]).unwrap();
    assert!(matches!(builder.finish(), Err(TrieError::TooLarge { .. })));
}
