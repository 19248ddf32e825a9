//! Training: the library's trainers, fed and post-processed so that runs repeat exactly.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use rayon::prelude::*;
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer,
};

use super::{BOS, EOS, PAD, TokenizerError, TokenizerKind, UNK};

/// Characters that Unigram training leaves to the byte fallback make up at most this part of the
/// text (SentencePiece's `character_coverage`).
const CHARACTER_COVERAGE: f64 = 0.9995;

/// A tokenizer without vocabulary.
pub(super) fn skeleton(kind: TokenizerKind, lowercase: bool) -> Value {
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": lowercase, "trim_offsets": true, "use_regex": true
    });
    let metaspace = json!({
        "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true
    });
    let lower = lowercase.then(|| json!({"type": "Lowercase"}));
    match kind {
        TokenizerKind::Bpe => json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": lower, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": false, "vocab": {}, "merges": []
            }
        }),
        TokenizerKind::Unigram => {
            let usual = [
                json!({"type": "NFKC"}),
                json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
            ];
            let normalizers: Vec<Value> = lower.into_iter().chain(usual).collect();
            json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
                "normalizer": {"type": "Sequence", "normalizers": normalizers},
                "pre_tokenizer": metaspace, "post_processor": null,
                "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace, {"type": "Fuse"}]},
                "model": {"type": "Unigram", "unk_id": null, "byte_fallback": false, "vocab": []}
            })
        }
    }
}

/// What Hugging Face callers that ask for special tokens get: `<s>` before every text.
pub(super) fn begin_processor() -> Value {
    let bos = |type_id: u8| json!({"SpecialToken": {"id": BOS, "type_id": type_id}});
    let text = |id: &str, type_id: u8| json!({"Sequence": {"id": id, "type_id": type_id}});
    json!({
        "type": "TemplateProcessing",
        "single": [bos(0), text("A", 0)],
        "pair": [bos(0), text("A", 0), bos(1), text("B", 1)],
        "special_tokens": {BOS: {"id": BOS, "ids": [1], "tokens": [BOS]}}
    })
}

fn special_tokens(names: &[&str]) -> Vec<AddedToken> {
    names
        .iter()
        .map(|&name| AddedToken::from(name, true))
        .collect()
}

pub(super) fn train_bpe<S: AsRef<str> + Sync>(
    inner: &mut tokenizers::Tokenizer,
    texts: &[S],
    vocab: usize,
) -> Result<(), TokenizerError> {
    let specials = special_tokens(&[PAD, BOS, EOS]);
    let least = specials.len() + 256;
    if vocab < least {
        return Err(TokenizerError::VocabTooSmall { vocab, least });
    }
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab)
        .min_frequency(2)
        .special_tokens(specials)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    inner
        .train(
            &mut TrainerWrapper::from(trainer),
            texts.iter().map(AsRef::as_ref),
        )
        .map_err(train_error)?;
    Ok(())
}

/// Counts words, trains on the sorted list, then puts what the library orders by hash into order.
pub(super) fn train_unigram<S: AsRef<str> + Sync>(
    inner: &mut tokenizers::Tokenizer,
    texts: &[S],
    vocab: usize,
) -> Result<(), TokenizerError> {
    let names = [PAD, BOS, EOS, UNK];
    let words = covered(count_words(inner, texts)?);
    let characters: BTreeSet<char> = words.iter().flat_map(|(word, _)| word.chars()).collect();
    let least = names.len() + 256 + characters.len() + 1;
    if vocab < least {
        return Err(TokenizerError::VocabTooSmall { vocab, least });
    }
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .vocab_size((vocab - 256) as u32)
        .special_tokens(special_tokens(&names))
        .unk_token(Some(UNK.to_owned()))
        .build()
        .map_err(|error| TokenizerError::Train {
            reason: error.to_string(),
        })?;
    let one_thread = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|error| TokenizerError::Train {
            reason: error.to_string(),
        })?;
    let mut model = Unigram::default();
    one_thread
        .install(|| trainer.do_train(words, &mut model))
        .map_err(train_error)?;

    let mut pieces: Vec<(String, f64)> = model.iter().skip(names.len()).cloned().collect();
    order_pieces(&mut pieces);
    let bytes = (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0));
    let specials = names.iter().map(|&name| (name.to_owned(), 0.0));
    let vocabulary = specials.chain(bytes).chain(pieces).collect();
    inner.with_model(Unigram::from(vocabulary, Some(names.len() - 1), true).map_err(train_error)?);
    inner
        .add_special_tokens(special_tokens(&names))
        .map_err(train_error)?;
    Ok(())
}

/// Words of the pre-tokenizer with their counts, sorted.
fn count_words<S: AsRef<str> + Sync>(
    inner: &tokenizers::Tokenizer,
    texts: &[S],
) -> Result<Vec<(String, u32)>, TokenizerError> {
    let count_chunk = |chunk: &[S]| -> Result<HashMap<String, u32>, tokenizers::Error> {
        let mut counts = HashMap::new();
        for text in chunk {
            let mut normalized = NormalizedString::from(text.as_ref());
            if let Some(normalizer) = inner.get_normalizer() {
                normalizer.normalize(&mut normalized)?;
            }
            let mut split = PreTokenizedString::from(normalized);
            if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut split)?;
            }
            for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                *counts.entry_ref(word).or_insert(0) += 1;
            }
        }
        Ok(counts)
    };
    let chunks: Result<Vec<_>, _> = texts.par_chunks(4096).map(count_chunk).collect();
    let mut counts: HashMap<String, u32> = HashMap::new();
    for chunk in chunks.map_err(train_error)? {
        for (word, count) in chunk {
            *counts.entry(word).or_insert(0) += count;
        }
    }
    let mut words: Vec<_> = counts.into_iter().collect();
    words.sort_unstable();
    Ok(words)
}

/// The words that consist of the commonest characters only (see [`CHARACTER_COVERAGE`]).
fn covered(words: Vec<(String, u32)>) -> Vec<(String, u32)> {
    let mut counts: BTreeMap<char, u64> = BTreeMap::new();
    for (word, count) in &words {
        for character in word.chars() {
            *counts.entry(character).or_insert(0) += u64::from(*count);
        }
    }
    let total: u64 = counts.values().sum();
    let mut by_count: Vec<(char, u64)> = counts.into_iter().collect();
    by_count.sort_by_key(|&(character, count)| (std::cmp::Reverse(count), character));
    let mut seen = 0u64;
    let kept: BTreeSet<char> = by_count
        .into_iter()
        .take_while(|&(_, count)| {
            let wanted = (seen as f64) < CHARACTER_COVERAGE * total as f64;
            seen += count;
            wanted
        })
        .map(|(character, _)| character)
        .collect();
    words
        .into_iter()
        .filter(|(word, _)| word.chars().all(|c| kept.contains(&c)))
        .collect()
}

/// Sorts by score and piece, after giving the library's penalty scores out anew.
///
/// A character that lost its piece in training comes back with the least score plus 1e-4 times its
/// rank in a hash set's order; here the rank is that of its code point.
fn order_pieces(pieces: &mut [(String, f64)]) {
    const STEP: f64 = 1e-4;
    let least = pieces
        .iter()
        .map(|(_, score)| *score)
        .fold(f64::INFINITY, f64::min);
    let mut grid = Vec::new();
    let mut penalty = 0.0;
    while grid.len() <= pieces.len() {
        grid.push((least + penalty).to_bits());
        penalty += STEP;
    }
    let on_grid: hashbrown::HashSet<u64> = grid.into_iter().collect();
    let mut places: Vec<usize> = (0..pieces.len())
        .filter(|&i| {
            let mut characters = pieces[i].0.chars();
            characters.next().is_some()
                && characters.next().is_none()
                && on_grid.contains(&pieces[i].1.to_bits())
        })
        .collect();
    let mut scores: Vec<f64> = places.iter().map(|&i| pieces[i].1).collect();
    scores.sort_by(f64::total_cmp);
    places.sort_by(|&a, &b| pieces[a].0.cmp(&pieces[b].0));
    for (place, score) in places.into_iter().zip(scores) {
        pieces[place].1 = score;
    }
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
}

fn train_error(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Train {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalty_scores_follow_the_code_point() {
        let piece = |text: &str, score: f64| (text.to_owned(), score);
        let mut pieces = vec![
            piece("ab", -1.0),
            piece("z", -5.0),
            piece("y", -5.0 + 1e-4),
            piece("cd", -5.0),
        ];
        order_pieces(&mut pieces);
        let names: Vec<&str> = pieces.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(names, ["ab", "z", "cd", "y"]);
    }
}
