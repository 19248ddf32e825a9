//! The passages that are indexed, and the n-grams that are asked for.

use std::fs;
use std::path::{Path, PathBuf};

use genret::data::Corpus;
use genret::data::example::corpus_tokens;
use genret::index::{IndexBuilder, IndexOptions};
use genret::rng::stream;
use genret::tokenizer::{Tokenizer, TokenizerKind, TrainOptions};
use genret::types::TokenId;
use rand::RngExt;

/// The longest n-gram asked for.
pub const MAX_LEN: usize = 10;
/// Tokens of the vocabulary.
pub const VOCAB: usize = 32_000;

pub type Passages = Vec<Vec<TokenId>>;

/// The bodies of the passages of all `folders`, by a tokenizer trained on them; from `cache` if it exists.
pub fn passages(folders: &[PathBuf], cache: Option<&Path>) -> Passages {
    if let Some(cache) = cache.filter(|cache| cache.exists()) {
        return read(cache);
    }
    let corpora: Vec<Corpus> = folders
        .iter()
        .map(|folder| Corpus::load(folder).expect("the collection is sound"))
        .collect();
    let passages = || corpora.iter().flat_map(|corpus| corpus.passages());
    let kind = TokenizerKind::Bpe;
    // Every third passage of a large corpus says enough about its words.
    let step = if passages().count() > 200_000 { 3 } else { 1 };
    let texts: Vec<&str> = passages().step_by(step).map(|p| p.text.as_str()).collect();
    let tokenizer = Tokenizer::train(
        &texts,
        TrainOptions {
            kind,
            vocab: VOCAB,
            lowercase: false,
        },
    )
    .expect("the collection has enough words");
    let tokens: Passages = corpora
        .iter()
        .flat_map(|corpus| {
            corpus_tokens(&tokenizer, corpus.passages()).expect("texts are tokenised")
        })
        .map(|tokens| tokens.body)
        .collect();
    if let Some(cache) = cache {
        let words = tokens.iter().flat_map(|passage| {
            std::iter::once(passage.len() as u32).chain(passage.iter().map(|token| token.0))
        });
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        fs::write(cache, bytes).expect("the tokens can be kept");
    }
    tokens
}

fn read(cache: &Path) -> Passages {
    let bytes = fs::read(cache).expect("the kept tokens can be read");
    let mut words = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
    let mut passages = vec![];
    while let Some(len) = words.next() {
        passages.push(words.by_ref().take(len as usize).map(TokenId).collect());
    }
    passages
}

/// Writes the index of `passages`.
pub fn build(passages: &[Vec<TokenId>], options: IndexOptions, path: &Path) {
    let mut builder = IndexBuilder::new(VOCAB, 0, "", options).expect("the options are valid");
    for passage in passages {
        builder.push("", &[], passage).expect("no passage is empty");
    }
    builder.write(path).expect("the index can be written");
}

/// N-grams of one length from random places, each with the token that follows it there.
pub type Beam = Vec<(Vec<TokenId>, TokenId)>;

/// Per length from 0 `count` n-grams.
pub fn sample(passages: &Passages, count: usize) -> Vec<Beam> {
    (0..=MAX_LEN)
        .map(|len| {
            let mut rng = stream(1, "bench beams", &[len as u64]);
            let mut beam = vec![];
            while beam.len() < count {
                let passage = &passages[rng.random_range(0..passages.len())];
                let start = rng.random_range(0..passage.len());
                if let Some(&next) = passage.get(start + len) {
                    beam.push((passage[start..start + len].to_vec(), next));
                }
            }
            beam
        })
        .collect()
}
