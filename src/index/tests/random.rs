//! 100,000 random n-grams, each counted by looking at every position.

use std::collections::BTreeMap;

use rand::RngExt;

use super::{Passages, build, passages};
use crate::index::{Continuations, LiveIndex, PassageSet, SubstringIndex};
use crate::rng::stream;
use crate::types::{PassageIdx, TokenId};

/// Occurrences of `ngram` and of every token behind it, in the bodies of the passages of `subset`.
fn scan(
    passages: &Passages,
    subset: Option<&PassageSet>,
    ngram: &[TokenId],
) -> (usize, BTreeMap<TokenId, usize>) {
    let (mut count, mut next) = (0, BTreeMap::new());
    for (passage, (_, body)) in passages.iter().enumerate() {
        if subset.is_some_and(|set| !set.contains(PassageIdx(passage as u32))) {
            continue;
        }
        for start in (0..body.len()).filter(|&start| body[start..].starts_with(ngram)) {
            count += 1;
            if let Some(&token) = body.get(start + ngram.len()) {
                *next.entry(token).or_default() += 1;
            }
        }
    }
    (count, next)
}

#[test]
fn a_hundred_thousand_random_ngrams_have_the_counts_of_a_scan() {
    // Alphabet, tokens, mean passage length; the second of two equal halves repeats the first.
    let shapes = [
        (1, 90, 12),
        (3, 500, 30),
        (20, 600, 1),
        (300, 700, 200),
        (6, 400, 60),
    ];
    for (seed, (alphabet, tokens, mean_len)) in (0..).zip(shapes) {
        let mut corpus = passages(seed, tokens, mean_len, alphabet, 0);
        corpus.extend(corpus.clone());
        let vocab = alphabet as usize + 1;
        let subset: PassageSet = (0..corpus.len() as u32)
            .filter(|p| p % 3 != 1)
            .map(PassageIdx)
            .collect();
        let whole = LiveIndex::from(build(&corpus, vocab, 12, 5));
        let filtered = whole.restricted_to(&subset);
        let mut rng = stream(seed, "random n-grams", &[]);
        let mut out = Continuations::new();
        for number in 0..20_000 {
            let len = rng.random_range(0..=10);
            // Half from the text, some of them with one token changed.
            let body = &corpus[rng.random_range(0..corpus.len())].1;
            let start = rng.random_range(0..body.len());
            let mut ngram = body[start..(start + len).min(body.len())].to_vec();
            if number % 2 == 0 && !ngram.is_empty() {
                let at = rng.random_range(0..ngram.len());
                ngram[at] = TokenId(rng.random_range(0..vocab as u32));
            }
            for (index, subset) in [(&whole, None), (&filtered, Some(&subset))] {
                let (count, next) = scan(&corpus, subset, &ngram);
                let state = index.find(&ngram).filter(|&state| index.count(state) > 0);
                assert_eq!(
                    state.map_or(0, |state| index.count(state)),
                    count,
                    "{ngram:?}"
                );
                let Some(state) = state else { continue };
                index.continuations(&[state], &mut out);
                let row = out.row(0);
                let found = row.tokens.iter().copied().zip(row.counts());
                assert!(found.eq(next), "{ngram:?}");
            }
        }
    }
}
