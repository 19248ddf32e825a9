//! Text to token ids and back, by the Hugging Face `tokenizers` library.
//!
//! Any `tokenizer.json` loads, and its ids equal the library's because the library computes them.
//! Training offers byte-level BPE (Sennrich et al. 2016; GPT-2's bytes and pre-tokenizer) and
//! Unigram (Kudo 2018) with byte fallback, so that no text is unknown to either. Training repeats
//! exactly: equal texts give an equal file on any number of threads.
//!
//! Special tokens are added by [`Tokenizer::encode_framed`] alone; whoever builds a prompt places them.

mod training;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};
use thiserror::Error;
use tokenizers::{ModelWrapper, PostProcessor, TruncationDirection};
use xxhash_rust::xxh3::Xxh3;

use self::training::{begin_processor, skeleton, train_bpe, train_unigram};
use crate::types::TokenId;

/// The file of a model folder whose sibling names the special tokens.
const FILE_NAME: &str = "tokenizer.json";
const CONFIG_NAME: &str = "tokenizer_config.json";

const PAD: &str = "<pad>";
const BOS: &str = "<s>";
const EOS: &str = "</s>";
const UNK: &str = "<unk>";

/// Names a special token goes by where no `tokenizer_config.json` says so, most specific first.
const PAD_NAMES: [&str; 4] = [PAD, "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>"];
const BOS_NAMES: [&str; 4] = [BOS, "<|begin_of_text|>", "[CLS]", "<|endoftext|>"];
const EOS_NAMES: [&str; 5] = [
    EOS,
    "<|end_of_text|>",
    "<|eot_id|>",
    "[SEP]",
    "<|endoftext|>",
];

/// Why a tokenizer could not be loaded, trained, saved or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file could not be read.
    #[error(
        "cannot read the tokenizer {path}: {source}; give a Hugging Face tokenizer.json or make one with `genret tokenizer train`"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a tokenizer.
    #[error(
        "{origin} is not a tokenizer: {reason}; expected the tokenizer.json of the Hugging Face tokenizers library"
    )]
    Parse {
        /// The file, or what the text came from.
        origin: String,
        /// What the library said.
        reason: String,
    },
    /// The file could not be written.
    #[error("cannot write the tokenizer {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The library refused a text.
    #[error("the tokenizer failed on the text starting {start:?}: {reason}")]
    Encode {
        /// The first characters of the text.
        start: String,
        /// What the library said.
        reason: String,
    },
    /// The vocabulary asked for does not hold the alphabet.
    #[error(
        "a vocabulary of {vocab} tokens is too small: special tokens, bytes and characters need {least}; ask for at least {least}"
    )]
    VocabTooSmall {
        /// Size asked for.
        vocab: usize,
        /// Least size possible.
        least: usize,
    },
    /// The library failed in training.
    #[error("training the tokenizer failed: {reason}")]
    Train {
        /// What the library said.
        reason: String,
    },
    /// There was nothing to train on.
    #[error("no text to train the tokenizer on; the corpus is empty")]
    NoText,
}

/// The family of a trained tokenizer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// Byte-level byte-pair encoding, GPT-2 style.
    Bpe,
    /// Unigram language model over NFKC text with `U+2581` for spaces, T5 style, with byte fallback.
    Unigram,
}

/// What to train.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrainOptions {
    /// Family.
    pub kind: TokenizerKind,
    /// Size of the vocabulary with special tokens and bytes, in tokens. A corpus with few distinct
    /// words may give a smaller one.
    pub vocab: usize,
    /// Whether a text is read in lower case and as if a space stood before it: a word is the same tokens wherever it
    /// stands, as matching of words wants it. What is decoded is in lower case.
    pub lowercase: bool,
}

/// A tokenizer of the `tokenizers` library with its special tokens known.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pad: Option<TokenId>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    fingerprint: u64,
}

/// Token ids of a text with the bytes of the text each token stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Encoded {
    /// The ids.
    pub tokens: Vec<TokenId>,
    /// Half-open byte range of the text per token; whether a leading space belongs to it is up to
    /// the tokenizer.
    pub offsets: Vec<(u32, u32)>,
}

impl Tokenizer {
    /// The tokenizer in `path`, a `tokenizer.json` or a folder that holds one.
    ///
    /// If the file is named `tokenizer.json` and a `tokenizer_config.json` lies beside it, that one
    /// says which tokens begin, end and pad. Truncation and padding set in the file are switched
    /// off: a passage is never cut silently.
    ///
    /// # Errors
    /// [`TokenizerError::Read`] and [`TokenizerError::Parse`].
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let path = if path.is_dir() {
            path.join(FILE_NAME)
        } else {
            path.to_path_buf()
        };
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| TokenizerError::Read {
                path: path.to_path_buf(),
                source,
            })
        };
        let mut tokenizer = Self::parse(&read(&path)?, &path.display().to_string())?;
        let config = path.with_file_name(CONFIG_NAME);
        if path.file_name().is_some_and(|name| name == FILE_NAME) && config.is_file() {
            let parsed: Value =
                serde_json::from_str(&read(&config)?).map_err(|error| TokenizerError::Parse {
                    origin: config.display().to_string(),
                    reason: error.to_string(),
                })?;
            let named = |key: &str| {
                let entry = parsed.get(key)?;
                entry.as_str().or_else(|| entry.get("content")?.as_str())
            };
            for (key, role) in [
                ("pad_token", &mut tokenizer.pad),
                ("bos_token", &mut tokenizer.bos),
                ("eos_token", &mut tokenizer.eos),
            ] {
                if let Some(name) = named(key) {
                    let id =
                        tokenizer
                            .inner
                            .token_to_id(name)
                            .ok_or_else(|| TokenizerError::Parse {
                                origin: config.display().to_string(),
                                reason: format!(
                                    "its {key} {name:?} is not in the vocabulary of {FILE_NAME}"
                                ),
                            })?;
                    *role = Some(TokenId(id));
                }
            }
        }
        Ok(tokenizer)
    }

    /// The tokenizer written in `json`, the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError::Parse`].
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        Self::parse(json, "the given text")
    }

    /// The 256-token tokenizer whose token `b` is the byte `b`; it has no special tokens.
    pub fn bytes() -> Self {
        let vocab: BTreeMap<String, u32> = (0..=255u8)
            .map(|byte| (byte_char(byte).to_string(), u32::from(byte)))
            .collect();
        let mut json = skeleton(TokenizerKind::Bpe, false);
        json["pre_tokenizer"]["use_regex"] = json!(false);
        json["post_processor"] = Value::Null;
        json["model"]["vocab"] = json!(vocab);
        Self::parse(&json.to_string(), "the byte tokenizer")
            .expect("the literal above is a valid tokenizer")
    }

    /// Trains a tokenizer on `texts`.
    ///
    /// Ids 0, 1, 2 are `<pad>`, `<s>`, `</s>`, and for Unigram 3 is `<unk>`. Equal texts in any
    /// order give an equal tokenizer. Unigram runs on one thread, because its sums of floats depend
    /// on how they are split; about a minute for 3 million words (25,000 passages).
    ///
    /// # Errors
    /// [`TokenizerError::NoText`], [`TokenizerError::VocabTooSmall`], [`TokenizerError::Train`].
    pub fn train<S: AsRef<str> + Sync>(
        texts: &[S],
        options: TrainOptions,
    ) -> Result<Self, TokenizerError> {
        if texts.iter().all(|text| text.as_ref().trim().is_empty()) {
            return Err(TokenizerError::NoText);
        }
        let skeleton = skeleton(options.kind, options.lowercase).to_string();
        let mut inner = parse_inner(&skeleton, "the training skeleton")?;
        match options.kind {
            TokenizerKind::Bpe => train_bpe(&mut inner, texts, options.vocab)?,
            TokenizerKind::Unigram => train_unigram(&mut inner, texts, options.vocab)?,
        }
        let mut json = to_json(&inner);
        json["post_processor"] = begin_processor();
        Self::parse(&json.to_string(), "the trained tokenizer")
    }

    /// Writes the tokenizer to `path`, complete or not at all.
    ///
    /// A file named `tokenizer.json` gets its `tokenizer_config.json` with the special tokens, so
    /// that the folder loads in Hugging Face transformers.
    ///
    /// # Errors
    /// [`TokenizerError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), TokenizerError> {
        let write = |path: &Path, value: &Value| {
            crate::atomic_file::write(path, |out| writeln!(out, "{value:#}")).map_err(|source| {
                TokenizerError::Write {
                    path: path.to_path_buf(),
                    source,
                }
            })
        };
        if path.file_name().is_some_and(|name| name == FILE_NAME) {
            let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
            for (key, role) in [
                ("pad_token", self.pad),
                ("bos_token", self.bos),
                ("eos_token", self.eos),
            ] {
                if let Some(name) = role.and_then(|id| self.id_to_token(id)) {
                    config[key] = json!(name);
                }
            }
            write(&path.with_file_name(CONFIG_NAME), &config)?;
        }
        write(path, &to_json(&self.inner))
    }

    /// The ids of `text`, without special tokens around it.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| encode_error(text, error.to_string()))?;
        Ok(encoding.get_ids().iter().map(|&id| TokenId(id)).collect())
    }

    /// The ids of a text that stands alone, `limit` at most: the text is cut, and what the tokenizer's template puts
    /// before and after it is kept. With `close` the end token is last, where the tokenizer has one.
    ///
    /// The text is encoded as it is given, without a space before it.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode_framed(
        &self,
        text: &str,
        limit: usize,
        close: bool,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        let failed = |error: tokenizers::Error| encode_error(text, error.to_string());
        let mut encoding = self.inner.encode_fast(text, false).map_err(failed)?;
        let template = self.inner.get_post_processor();
        let added = template.map_or(0, |template| template.added_tokens(false));
        encoding.truncate(limit.saturating_sub(added), 0, TruncationDirection::Right);
        encoding.take_overflowing();
        let framed = self.inner.post_process(encoding, None, true);
        let framed = framed.map_err(failed)?;
        let mut tokens: Vec<TokenId> = framed.get_ids().iter().map(|&id| TokenId(id)).collect();
        tokens.truncate(limit);
        if let Some(eos) = self.eos.filter(|_| close && limit > 0)
            && tokens.last() != Some(&eos)
        {
            tokens.truncate(limit - 1);
            tokens.push(eos);
        }
        Ok(tokens)
    }

    /// The ids of `text` with the byte range of each, without special tokens around it.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode_with_offsets(&self, text: &str) -> Result<Encoded, TokenizerError> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|error| encode_error(text, error.to_string()))?;
        Ok(Encoded {
            tokens: encoding.get_ids().iter().map(|&id| TokenId(id)).collect(),
            offsets: encoding
                .get_offsets()
                .iter()
                .map(|&(s, e)| (s as u32, e as u32))
                .collect(),
        })
    }

    /// [`Self::encode`] of every text, on all threads, in order.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] of the first text that fails.
    pub fn encode_batch<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
    ) -> Result<Vec<Vec<TokenId>>, TokenizerError> {
        texts
            .par_iter()
            .map(|text| self.encode(text.as_ref()))
            .collect()
    }

    /// The text of `tokens`, special tokens left out.
    ///
    /// Bytes that are not UTF-8 become U+FFFD, ids outside the vocabulary nothing. Should the
    /// tokenizer's own decoder fail, the tokens' strings are joined as they are.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
        self.inner.decode(&ids, true).unwrap_or_else(|_| {
            tokens
                .iter()
                .filter_map(|&id| self.id_to_token(id))
                .collect()
        })
    }

    /// Number of ids, special and added tokens included: every id is below it.
    pub fn vocab_size(&self) -> usize {
        let added = self.inner.get_added_tokens_decoder();
        let past_added = added.keys().max().map_or(0, |&id| id as usize + 1);
        self.inner.get_vocab_size(true).max(past_added)
    }

    /// The token that pads, if there is one.
    pub fn pad(&self) -> Option<TokenId> {
        self.pad
    }

    /// The token that begins a sequence, if there is one.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// The token that ends a sequence, if there is one.
    pub fn eos(&self) -> Option<TokenId> {
        self.eos
    }

    /// The string of a token as the vocabulary writes it.
    pub fn id_to_token(&self, id: TokenId) -> Option<String> {
        self.inner.id_to_token(id.0)
    }

    /// The id of a token as the vocabulary writes it.
    pub fn token_to_id(&self, token: &str) -> Option<TokenId> {
        self.inner.token_to_id(token).map(TokenId)
    }

    /// XXH3 of the tokenizer's JSON with sorted keys: equal for equal tokenizers, however their
    /// files are laid out. The special tokens' roles do not enter.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn parse(json: &str, origin: &str) -> Result<Self, TokenizerError> {
        let mut inner = parse_inner(json, origin)?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| TokenizerError::Parse {
                origin: origin.to_owned(),
                reason: error.to_string(),
            })?;
        if let ModelWrapper::BPE(model) = inner.get_model()
            && model.dropout.is_some_and(|rate| rate > 0.0)
        {
            return Err(TokenizerError::Parse {
                origin: origin.to_owned(),
                reason: "its BPE dropout makes ids random; set \"dropout\" to null".to_owned(),
            });
        }
        let find = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| inner.token_to_id(name))
                .map(TokenId)
        };
        let (pad, bos, eos) = (find(&PAD_NAMES), find(&BOS_NAMES), find(&EOS_NAMES));
        let mut hasher = Xxh3::new();
        hash_canonical(&to_json(&inner), &mut hasher);
        Ok(Self {
            inner,
            pad,
            bos,
            eos,
            fingerprint: hasher.digest(),
        })
    }
}

fn parse_inner(json: &str, origin: &str) -> Result<tokenizers::Tokenizer, TokenizerError> {
    json.parse()
        .map_err(|error: tokenizers::Error| TokenizerError::Parse {
            origin: origin.to_owned(),
            reason: error.to_string(),
        })
}

fn to_json(inner: &tokenizers::Tokenizer) -> Value {
    serde_json::to_value(inner).expect("every tokenizer has a JSON form")
}

fn encode_error(text: &str, reason: String) -> TokenizerError {
    TokenizerError::Encode {
        start: text.chars().take(60).collect(),
        reason,
    }
}

/// Feeds `value` to `hasher` unambiguously and independent of the order of object keys.
fn hash_canonical(value: &Value, hasher: &mut Xxh3) {
    match value {
        Value::Object(map) => {
            hasher.update(b"{");
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            for (key, value) in entries {
                hasher.update(&(key.len() as u64).to_le_bytes());
                hasher.update(key.as_bytes());
                hash_canonical(value, hasher);
            }
            hasher.update(b"}");
        }
        Value::Array(items) => {
            hasher.update(b"[");
            items.iter().for_each(|item| hash_canonical(item, hasher));
            hasher.update(b"]");
        }
        leaf => {
            let text = leaf.to_string();
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
}

/// The printable character that byte-level BPE writes for a byte (GPT-2's table): the byte's own
/// character where it is printable and not a space, else the next free one from U+0100.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        char::from(byte)
    } else {
        let rank = (0..byte).filter(|&b| !printable(b)).count() as u32;
        char::from_u32(0x100 + rank).expect("0x100 to 0x143 are characters")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Vec<String> {
        let words = [
            "river",
            "rivers",
            "town",
            "towns",
            "the",
            "of",
            "Velmora",
            "stone",
            "bridge",
            "caf\u{e9}",
        ];
        (0..400)
            .map(|i| {
                (0..12)
                    .map(|j| words[(i * 7 + j * j + i * j) % words.len()])
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    }

    fn train(kind: TokenizerKind, vocab: usize) -> Tokenizer {
        Tokenizer::train(
            &texts(),
            TrainOptions {
                kind,
                vocab,
                lowercase: false,
            },
        )
        .unwrap()
    }

    #[test]
    fn ids_equal_those_of_the_reference_library() {
        let Some(folder) = crate::shared::shared("fixtures/hf-parity/tokenizers") else {
            return;
        };
        let mut strings = 0;
        for name in ["bpe-gpt2-style", "bpe-llama3-style", "unigram-t5-style"] {
            let tokenizer = Tokenizer::load(&folder.join(name)).unwrap();
            let expected: Value = serde_json::from_str(
                &fs::read_to_string(folder.join(name).join("expected.json")).unwrap(),
            )
            .unwrap();
            assert_eq!(
                tokenizer.vocab_size() as u64,
                expected["vocab_size"].as_u64().unwrap()
            );
            for case in expected["strings"].as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                let ids: Vec<TokenId> =
                    serde_json::from_value(case["ids_no_special"].clone()).unwrap();
                assert_eq!(tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
                assert_eq!(tokenizer.encode_with_offsets(text).unwrap().tokens, ids);
                assert_eq!(
                    tokenizer.decode(&ids),
                    case["decoded_skip_special"].as_str().unwrap(),
                    "{name}"
                );
                let framed: Vec<TokenId> = serde_json::from_value(case["ids"].clone()).unwrap();
                let limit = framed.len();
                assert_eq!(tokenizer.encode_framed(text, limit, false).unwrap(), framed);
                strings += 1;
            }
        }
        assert_eq!(strings, 3 * 71);
    }

    #[test]
    fn in_lower_case_a_word_is_the_same_tokens_wherever_it_stands() {
        for (kind, vocab) in [(TokenizerKind::Bpe, 320), (TokenizerKind::Unigram, 310)] {
            let options = TrainOptions {
                kind,
                vocab,
                lowercase: true,
            };
            let tokenizer = Tokenizer::train(&texts(), options).unwrap();
            let alone = tokenizer.encode("velmora").unwrap();
            for text in ["Velmora", " VELMORA"] {
                assert_eq!(tokenizer.encode(text).unwrap(), alone, "{kind:?} {text}");
            }
            let inside = tokenizer.encode("the Velmora").unwrap();
            assert!(inside.ends_with(&alone), "{kind:?}");
            assert_eq!(tokenizer.decode(&alone).trim(), "velmora");
        }
    }

    #[test]
    fn a_byte_is_its_own_token() {
        let tokenizer = Tokenizer::bytes();
        assert_eq!(tokenizer.vocab_size(), 256);
        assert_eq!(
            (tokenizer.pad(), tokenizer.bos(), tokenizer.eos()),
            (None, None, None)
        );
        let text = "a b\n\u{e9}\u{0}";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(
            ids.iter().map(|id| id.0 as u8).collect::<Vec<_>>(),
            text.as_bytes()
        );
        assert_eq!(tokenizer.decode(&ids), text);
    }

    #[test]
    fn training_repeats_exactly_and_round_trips() {
        for (kind, vocab) in [(TokenizerKind::Bpe, 320), (TokenizerKind::Unigram, 310)] {
            let first = train(kind, vocab);
            assert!(first.vocab_size() <= vocab, "{kind:?}");
            for _ in 0..3 {
                let again = train(kind, vocab);
                assert_eq!(to_json(&first.inner), to_json(&again.inner), "{kind:?}");
                assert_eq!(first.fingerprint(), again.fingerprint());
            }
            assert_eq!(
                [first.pad(), first.bos(), first.eos()],
                [0, 1, 2].map(|id| Some(TokenId(id)))
            );
            for text in ["the towns of Velmora", "unseen Zq \u{6c34} caf\u{e9}"] {
                let ids = first.encode(text).unwrap();
                assert_eq!(first.decode(&ids), text, "{kind:?}");
                assert!(
                    ids.iter()
                        .all(|id| id.index() < first.vocab_size() && id.0 > 3)
                );
            }
        }
        assert_ne!(
            train(TokenizerKind::Bpe, 270).fingerprint(),
            train(TokenizerKind::Bpe, 265).fingerprint()
        );
    }

    #[test]
    fn a_text_alone_is_cut_inside_its_frame() {
        let frame = |tokenizer: &Tokenizer, text: &str, limit, close| -> Vec<u32> {
            let tokens = tokenizer.encode_framed(text, limit, close).unwrap();
            tokens.iter().map(|token| token.0).collect()
        };
        let bytes = Tokenizer::bytes();
        assert_eq!(frame(&bytes, "abc", 2, true), [97, 98]);
        assert!(frame(&bytes, "abc", 0, true).is_empty());
        assert!(frame(&bytes, "", 4, true).is_empty());
        // A template that begins texts with 1; 2 ends them where that is asked for.
        let begun = train(TokenizerKind::Bpe, 260);
        let text: Vec<u32> = begun.encode("xyz").unwrap().iter().map(|t| t.0).collect();
        assert_eq!(frame(&begun, "xyz", 9, false), [&[1], &text[..]].concat());
        assert_eq!(
            frame(&begun, "xyz", 9, true),
            [&[1], &text[..], &[2]].concat()
        );
        assert_eq!(frame(&begun, "xyz", 3, false), [1, text[0], text[1]]);
        assert_eq!(frame(&begun, "xyz", 3, true), [1, text[0], 2]);
        assert_eq!(frame(&begun, "xyz", 1, false), [1]);
        let Some(folder) = crate::shared::shared("fixtures/hf-parity/tokenizers") else {
            return;
        };
        // This one's template ends texts itself.
        let ended = Tokenizer::load(&folder.join("unigram-t5-style")).unwrap();
        let end = ended.eos().unwrap().0;
        for close in [false, true] {
            let tokens = frame(&ended, "The river and its bridge", 3, close);
            assert_eq!((tokens.len(), tokens[2]), (3, end));
        }
    }

    #[test]
    fn a_saved_tokenizer_is_the_same() {
        let folder = std::env::temp_dir().join(format!("genret-tokenizer-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let tokenizer = train(TokenizerKind::Bpe, 300);
        tokenizer.save(&folder.join(FILE_NAME)).unwrap();
        let loaded = Tokenizer::load(&folder).unwrap();
        assert_eq!(loaded.fingerprint(), tokenizer.fingerprint());
        assert_eq!(
            (loaded.pad(), loaded.bos(), loaded.eos()),
            (tokenizer.pad(), tokenizer.bos(), tokenizer.eos())
        );
        fs::write(
            folder.join(CONFIG_NAME),
            r#"{"eos_token": {"content": "<stop>"}}"#,
        )
        .unwrap();
        let error = Tokenizer::load(&folder).unwrap_err().to_string();
        assert!(
            error.contains("<stop>") && error.contains(CONFIG_NAME),
            "{error}"
        );
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = Tokenizer::load(Path::new("/no/such/tokenizer.json"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/no/such/tokenizer.json") && error.contains("genret tokenizer train"),
            "{error}"
        );
        assert!(
            Tokenizer::from_json("{}")
                .unwrap_err()
                .to_string()
                .contains("tokenizer.json")
        );
        let options = TrainOptions {
            kind: TokenizerKind::Bpe,
            vocab: 100,
            lowercase: false,
        };
        let error = Tokenizer::train(&texts(), options).unwrap_err();
        assert!(matches!(
            error,
            TokenizerError::VocabTooSmall { least: 259, .. }
        ));
        assert!(matches!(
            Tokenizer::train(&["  "], options),
            Err(TokenizerError::NoText)
        ));
        let mut json = skeleton(TokenizerKind::Bpe, false);
        json["model"]["dropout"] = json!(0.1);
        assert!(
            Tokenizer::from_json(&json.to_string())
                .unwrap_err()
                .to_string()
                .contains("dropout")
        );
    }
}
