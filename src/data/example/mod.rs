//! Training examples: which tokens a model is asked to write for a query.
//!
//! An example is a prompt and a target. The n-gram view's targets are spans of a relevant passage,
//! sampled where the passage resembles the query (SEAL, Bevilacqua et al. 2022): every start in the
//! passage is weighted by the softmax over its similarity to the query's windows, see
//! [`SpanOptions`]. A target is always a slice of [`PassageTokens`], the tokens that the index is
//! built from, so what a model learns to write is what constrained decoding can find.
//!
//! Cost of one (query, passage) pair: query words x passage words bit-parallel comparisons of about
//! 20 steps each, 30 microseconds for a question and 100 words.

mod group;
mod span;
mod view;

use std::ops::Range;

use rand::seq::IndexedRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

pub use self::group::Group;
pub use self::span::{SpanOptions, SpanSampler, SpanWeights};
pub use self::view::{View, ViewWeights};
use crate::rng;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::types::{Passage, TokenId};

/// Why examples could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExampleError {
    /// A number in the configuration makes no sense.
    #[error("{name} = {value} is out of range: expected {expected}")]
    OutOfRange {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// A prompt template has no place for what is read, or several.
    #[error("the prompt template {template:?} of view {view} must contain {place} exactly once")]
    Template {
        /// The view.
        view: &'static str,
        /// The template as given.
        template: String,
        /// What stands for the query or passage.
        place: &'static str,
    },
    /// A query is to be written, and the tokenizer has no token that ends it.
    #[error(
        "the tokenizer has no end token (such as </s>), which ends a generated query: use one that has"
    )]
    NoEnd,
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Tokens of a passage by field: what the index holds, targets are cut from and the metric scores.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PassageTokens {
    /// Tokens of the title, empty if there is none.
    pub title: Vec<TokenId>,
    /// Tokens of the text.
    pub body: Vec<TokenId>,
    /// Half-open byte range of the text per body token.
    pub body_offsets: Vec<(u32, u32)>,
    /// Tokens of its pseudo-queries; none where they are not used.
    pub queries: Vec<Vec<TokenId>>,
}

impl PassageTokens {
    /// The body tokens that cover the bytes `span` of the text: a range of [`Self::body`].
    ///
    /// A token that covers only the white space before the span is left out; one that holds both
    /// the white space and the beginning of the span is in.
    pub fn slice(&self, span: &Range<usize>) -> Range<usize> {
        let (start, end) = (span.start as u32, span.end as u32);
        let first = self
            .body_offsets
            .partition_point(|&(_, token_end)| token_end <= start);
        let past = self
            .body_offsets
            .partition_point(|&(token_start, _)| token_start < end);
        first..past.max(first)
    }
}

/// The tokens of the text of a field, encoded after one space, as inside running text.
///
/// # Errors
/// [`TokenizerError::Encode`].
pub fn field_tokens(tokenizer: &Tokenizer, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
    tokenizer.encode(&format!(" {text}"))
}

/// The tokens of `passage`, each field encoded after one space, as inside running text.
///
/// # Errors
/// [`TokenizerError::Encode`].
pub fn passage_tokens(
    tokenizer: &Tokenizer,
    passage: &Passage,
) -> Result<PassageTokens, TokenizerError> {
    let title = if passage.title.is_empty() {
        Vec::new()
    } else {
        field_tokens(tokenizer, &passage.title)?
    };
    let body = tokenizer.encode_with_offsets(&format!(" {}", passage.text))?;
    let unshift = |offset: u32| offset.saturating_sub(1);
    Ok(PassageTokens {
        title,
        queries: vec![],
        body: body.tokens,
        body_offsets: body
            .offsets
            .iter()
            .map(|&(s, e)| (unshift(s), unshift(e)))
            .collect(),
    })
}

/// [`passage_tokens`] of every passage, on all threads, in order; without pseudo-queries.
///
/// # Errors
/// [`TokenizerError::Encode`] of the first passage that fails.
pub fn corpus_tokens(
    tokenizer: &Tokenizer,
    passages: &[Passage],
) -> Result<Vec<PassageTokens>, TokenizerError> {
    passages
        .par_iter()
        .map(|passage| passage_tokens(tokenizer, passage))
        .collect()
}

/// Prompts by view. `{query}` stands for the query, `{passage}` for title and text of the passage whose query is
/// to be written; the view is named, so that one model can serve several.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Template {
    /// Prompt of [`View::Ngram`].
    pub ngram: String,
    /// Prompt of [`View::Title`].
    pub title: String,
    /// Prompt of a passage for which queries are written.
    pub query: String,
    /// Prompt of [`View::Queries`].
    #[serde(skip_serializing_if = "is_pseudo_query")]
    pub pseudo_query: String,
    /// Prompt of [`View::Docid`].
    #[serde(skip_serializing_if = "is_docid")]
    pub docid: String,
    /// Prompt of a passage whose own identifier is written.
    #[serde(skip_serializing_if = "is_own_docid")]
    pub own_docid: String,
    /// Tokens of the passage that this prompt holds, at most.
    pub passage_tokens: usize,
    /// Put the tokenizer's begin token first, where it has one.
    pub bos: bool,
    /// Put the tokenizer's end token last, where it has one (encoder-decoders expect it).
    pub eos: bool,
}

const PSEUDO_QUERY: &str = "{query} => query:";
const DOCID: &str = "{query} => docid:";
const OWN_DOCID: &str = "{passage} => docid:";

// What nobody changed is not written: records of before it was there stay as they are.
fn is_pseudo_query(template: &str) -> bool {
    template == PSEUDO_QUERY
}

fn is_docid(template: &str) -> bool {
    template == DOCID
}

fn is_own_docid(template: &str) -> bool {
    template == OWN_DOCID
}

/// Stands for the query in a prompt.
const QUERY: &str = "{query}";
/// Stands for the passage in a prompt.
const PASSAGE: &str = "{passage}";

impl Default for Template {
    fn default() -> Self {
        Self {
            ngram: "{query} => span:".to_owned(),
            title: "{query} => title:".to_owned(),
            query: "{passage} => query:".to_owned(),
            pseudo_query: PSEUDO_QUERY.to_owned(),
            docid: DOCID.to_owned(),
            own_docid: OWN_DOCID.to_owned(),
            passage_tokens: 128,
            bos: true,
            eos: false,
        }
    }
}

impl Template {
    /// Checks that every template has one place for what is read, and that some of a passage is.
    ///
    /// # Errors
    /// [`ExampleError::Template`], [`ExampleError::OutOfRange`].
    pub fn validate(&self) -> Result<(), ExampleError> {
        for (view, template, place) in [
            ("ngram", &self.ngram, QUERY),
            ("title", &self.title, QUERY),
            ("query", &self.query, PASSAGE),
            ("pseudo_query", &self.pseudo_query, QUERY),
            ("docid", &self.docid, QUERY),
            ("own_docid", &self.own_docid, PASSAGE),
        ] {
            if template.matches(place).count() != 1 {
                return Err(ExampleError::Template {
                    view,
                    template: template.clone(),
                    place,
                });
            }
        }
        if self.passage_tokens == 0 {
            return Err(ExampleError::OutOfRange {
                name: "template.passage_tokens",
                value: "0".into(),
                expected: "at least 1",
            });
        }
        Ok(())
    }

    /// The prompt for queries of a passage: the first `passage_tokens` tokens of title and text in their place.
    /// The same in training and decoding.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn passage_prompt(
        &self,
        tokenizer: &Tokenizer,
        passage: &PassageTokens,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        self.prompt_of_passage(&self.query, tokenizer, passage)
    }

    /// As [`passage_prompt`](Self::passage_prompt), for the passage's own identifier.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn own_docid_prompt(
        &self,
        tokenizer: &Tokenizer,
        passage: &PassageTokens,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        self.prompt_of_passage(&self.own_docid, tokenizer, passage)
    }

    fn prompt_of_passage(
        &self,
        template: &str,
        tokenizer: &Tokenizer,
        passage: &PassageTokens,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        let (before, after) = template.split_once(PASSAGE).unwrap_or((template, ""));
        let read = passage.title.iter().chain(&passage.body).copied();
        let mut prompt: Vec<TokenId> = tokenizer.bos().filter(|_| self.bos).into_iter().collect();
        prompt.extend(tokenizer.encode(before)?);
        prompt.extend(read.take(self.passage_tokens));
        prompt.extend(tokenizer.encode(after)?);
        prompt.extend(tokenizer.eos().filter(|_| self.eos));
        Ok(prompt)
    }

    /// The prompt's tokens: the same in training, decoding and the metric.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        view: View,
        query: &str,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        let template = match view {
            View::Ngram => &self.ngram,
            View::Title => &self.title,
            View::Queries => &self.pseudo_query,
            View::Docid => &self.docid,
        };
        let text = tokenizer.encode(&template.replacen(QUERY, query, 1))?;
        let bos = tokenizer.bos().filter(|_| self.bos);
        let eos = tokenizer.eos().filter(|_| self.eos);
        Ok(bos.into_iter().chain(text).chain(eos).collect())
    }
}

/// What a model reads and what it is asked to write after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Example {
    /// The prompt, never scored.
    pub prompt: Vec<TokenId>,
    /// The target; every token is scored.
    pub target: Vec<TokenId>,
}

/// Makes examples from (query, passage) pairs.
#[derive(Clone, Debug)]
pub struct ExampleMaker<'a> {
    tokenizer: &'a Tokenizer,
    template: Template,
    sampler: SpanSampler,
}

impl<'a> ExampleMaker<'a> {
    /// A maker with the given prompts and span options.
    ///
    /// # Errors
    /// [`ExampleError::Template`] and [`ExampleError::OutOfRange`].
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: Template,
        options: SpanOptions,
    ) -> Result<Self, ExampleError> {
        template.validate()?;
        Ok(Self {
            tokenizer,
            template,
            sampler: SpanSampler::new(options)?,
        })
    }

    /// The prompts.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// The span sampler.
    pub fn sampler(&self) -> &SpanSampler {
        &self.sampler
    }

    /// `draws` n-gram examples of the pair number `pair`; the draw depends on
    /// (`seed`, `epoch`, `pair`) and nothing else.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn ngram(
        &self,
        query: &str,
        passage: &Passage,
        tokens: &PassageTokens,
        seed: u64,
        epoch: u64,
        pair: u64,
    ) -> Result<Vec<Example>, ExampleError> {
        let prompt = self.template.prompt(self.tokenizer, View::Ngram, query)?;
        let targets = self.spans(query, passage, tokens, seed, epoch, pair);
        Ok(targets
            .into_iter()
            .map(|slice| Example {
                prompt: prompt.clone(),
                target: tokens.body[slice].to_vec(),
            })
            .collect())
    }

    /// The `draws` spans of [`Self::ngram`], as ranges of the passage's body tokens.
    pub fn spans(
        &self,
        query: &str,
        passage: &Passage,
        tokens: &PassageTokens,
        seed: u64,
        epoch: u64,
        pair: u64,
    ) -> Vec<Range<usize>> {
        let weights = self.sampler.weights(query, &passage.text);
        let mut rng = rng::stream(seed, "span", &[epoch, pair]);
        self.sampler
            .draw(&weights, &mut rng, self.sampler.options().draws)
            .iter()
            .map(|span| tokens.slice(span))
            .collect()
    }

    /// The title example of a pair; `None` where the passage has no title.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn title(
        &self,
        query: &str,
        tokens: &PassageTokens,
    ) -> Result<Option<Example>, ExampleError> {
        if tokens.title.is_empty() {
            return Ok(None);
        }
        let prompt = self.template.prompt(self.tokenizer, View::Title, query)?;
        Ok(Some(Example {
            prompt,
            target: tokens.title.clone(),
        }))
    }

    /// The example that has a pseudo-query of the passage of a pair written, drawn by (`seed`, `epoch`, `pair`); `None`
    /// where it has none.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn pseudo_query(
        &self,
        query: &str,
        tokens: &PassageTokens,
        seed: u64,
        epoch: u64,
        pair: u64,
    ) -> Result<Option<Example>, ExampleError> {
        let mut rng = rng::stream(seed, "pseudo-query", &[epoch, pair]);
        let Some(target) = tokens.queries.choose(&mut rng) else {
            return Ok(None);
        };
        Ok(Some(Example {
            prompt: (self.template).prompt(self.tokenizer, View::Queries, query)?,
            target: target.clone(),
        }))
    }

    /// The example that has the identifier `id` written for a query.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn docid(&self, query: &str, id: &[TokenId]) -> Result<Example, ExampleError> {
        Ok(Example {
            prompt: self.template.prompt(self.tokenizer, View::Docid, query)?,
            target: id.to_vec(),
        })
    }

    /// The example that has the identifier `id` written for its own passage.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn own_docid(
        &self,
        tokens: &PassageTokens,
        id: &[TokenId],
    ) -> Result<Example, ExampleError> {
        Ok(Example {
            prompt: self.template.own_docid_prompt(self.tokenizer, tokens)?,
            target: id.to_vec(),
        })
    }

    /// The example that has `query` written for a passage; the end token is its last target.
    ///
    /// # Errors
    /// [`ExampleError::NoEnd`], [`TokenizerError::Encode`].
    pub fn query(&self, query: &str, tokens: &PassageTokens) -> Result<Example, ExampleError> {
        let end = self.tokenizer.eos().ok_or(ExampleError::NoEnd)?;
        let mut target = self.tokenizer.encode(&format!(" {query}"))?;
        target.push(end);
        Ok(Example {
            prompt: self.template.passage_prompt(self.tokenizer, tokens)?,
            target,
        })
    }
}

/// `round(fraction * n)` of the items 0 to n - 1, in increasing order; for one seed a smaller
/// fraction's items are all among a larger one's.
///
/// Items are ranked by a hash of (seed, item), so the choice does not depend on n either.
/// `fraction` is clamped to 0 ..= 1.
pub fn nested_subset(seed: u64, n: usize, fraction: f64) -> Vec<usize> {
    let wanted = (fraction.clamp(0.0, 1.0) * n as f64).round() as usize;
    let rank = |item: usize| {
        let mut hasher = Xxh3::with_seed(seed);
        hasher.update(b"subset");
        hasher.update(&(item as u64).to_le_bytes());
        (hasher.digest(), item)
    };
    let mut ranked: Vec<(u64, usize)> = (0..n).map(rank).collect();
    if wanted < n {
        ranked.select_nth_unstable(wanted);
        ranked.truncate(wanted);
    }
    let mut items: Vec<usize> = ranked.into_iter().map(|(_, item)| item).collect();
    items.sort_unstable();
    items
}

#[cfg(test)]
mod tests {
    use super::span::word_ranges;
    use super::*;

    fn passage(text: &str) -> Passage {
        Passage {
            id: "p".into(),
            title: "The Title".into(),
            text: text.into(),
        }
    }

    #[test]
    fn targets_are_slices_of_the_passage() {
        let text = "Velmora (1412\u{2013}1467) was a  composer; she wrote caf\u{e9} songs, and 300 odes for the river guild of Tarn.";
        let passage = passage(text);
        let bpe = Tokenizer::train(
            &[format!(" {text}"), format!(" {text}")],
            crate::tokenizer::TrainOptions {
                kind: crate::tokenizer::TokenizerKind::Bpe,
                vocab: 300,
                lowercase: false,
            },
        )
        .unwrap();
        for tokenizer in [Tokenizer::bytes(), bpe] {
            let tokens = passage_tokens(&tokenizer, &passage).unwrap();
            assert_eq!(tokenizer.decode(&tokens.body), format!(" {text}"));
            assert_eq!(tokenizer.decode(&tokens.title), " The Title");
            for (i, range) in word_ranges(text).iter().enumerate() {
                let end = word_ranges(text)[(i + 3).min(word_ranges(text).len() - 1)].end;
                let slice = tokens.slice(&(range.start..end));
                let decoded = tokenizer.decode(&tokens.body[slice]);
                assert_eq!(decoded.trim_start(), &text[range.start..end]);
            }
            let maker =
                ExampleMaker::new(&tokenizer, Template::default(), SpanOptions::default()).unwrap();
            let draw = |epoch| {
                maker
                    .ngram("Who wrote songs?", &passage, &tokens, 7, epoch, 3)
                    .unwrap()
            };
            let examples = draw(0);
            assert_eq!(examples.len(), 10);
            assert_eq!(examples, draw(0));
            assert_ne!(examples, draw(1));
            for example in &examples {
                assert!(
                    tokens
                        .body
                        .windows(example.target.len())
                        .any(|w| w == example.target)
                );
                assert!(
                    tokenizer
                        .decode(&example.prompt)
                        .ends_with("Who wrote songs? => span:")
                );
            }
            assert_eq!(
                maker.title("q", &tokens).unwrap().unwrap().target,
                tokens.title
            );
            let Some(end) = tokenizer.eos() else {
                let error = maker.query("q", &tokens).unwrap_err();
                assert!(matches!(error, ExampleError::NoEnd));
                continue;
            };
            let example = maker.query("Who wrote songs?", &tokens).unwrap();
            let (last, written) = example.target.split_last().unwrap();
            assert_eq!(
                (*last, &tokenizer.decode(written)[..]),
                (end, " Who wrote songs?")
            );
            let read = tokenizer.decode(&example.prompt);
            assert!(read.contains(" The Title Velmora (1412"), "{read}");
            assert!(read.ends_with(" => query:"), "{read}");
        }
    }

    #[test]
    fn subsets_are_nested() {
        let larger = nested_subset(4, 1000, 0.4);
        let smaller = nested_subset(4, 1000, 0.2);
        assert_eq!((smaller.len(), larger.len()), (200, 400));
        assert!(
            smaller
                .iter()
                .all(|item| larger.binary_search(item).is_ok())
        );
        assert!(smaller.is_sorted() && larger.is_sorted());
        assert_ne!(smaller, nested_subset(5, 1000, 0.2));
        assert_eq!(nested_subset(1, 5, 1.0), [0, 1, 2, 3, 4]);
        assert!(nested_subset(1, 5, 0.0).is_empty() && nested_subset(1, 0, 1.0).is_empty());
    }

    #[test]
    fn options_are_checked() {
        let zero = SpanOptions {
            draws: 0,
            ..SpanOptions::default()
        };
        assert!(
            SpanSampler::new(zero)
                .unwrap_err()
                .to_string()
                .contains("draws = 0")
        );
        let cold = SpanOptions {
            temperature: 0.0,
            ..SpanOptions::default()
        };
        assert!(SpanSampler::new(cold).is_err());
        let template = Template {
            ngram: "no place".to_owned(),
            ..Template::default()
        };
        assert!(
            template
                .validate()
                .unwrap_err()
                .to_string()
                .contains("{query}")
        );
        assert!(toml::from_str::<SpanOptions>("draw = 3").is_err());
        assert_eq!(
            toml::from_str::<SpanOptions>("draws = 3").unwrap().words,
            10
        );
    }
}
