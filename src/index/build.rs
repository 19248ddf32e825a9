//! From tokenised passages to an index.

use std::path::Path;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::IndexError;
use super::file::{self, Header, Kind, Section};
use super::ngram::NgramIndex;
use super::nodes::{NodeTables, ShortEnds, build_nodes};
use super::packed::pack;
use super::suffix::{Symbol, sort_suffixes};
use super::{BLOCK_TOKENS, Field};
use crate::atomic_file;
use crate::section_file::{Bytes, IdList, as_bytes};
use crate::types::TokenId;

/// Separators at the end of a text, so that a sort key can be read at every token.
const END_SEPARATORS: usize = 8;
/// N-grams longer than this have no stored lists: they seldom have many continuations, and a corpus
/// of copies would have a list for each of its n-grams.
const MAX_NODE_DEPTH: usize = 16;
/// Positions are 32-bit, with room for the end separators.
const MAX_TOKENS: u64 = u32::MAX as u64 - 1024;

/// Size and speed of an index; the answers do not depend on it up to `max_ngram_tokens`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexOptions {
    /// The longest n-gram that can be generated or counted, in tokens; 1 to 65,535, default 64.
    pub max_ngram_tokens: usize,
    /// N-grams that occur at least this often have their continuations listed in the file; default
    /// 256. Lower is faster and larger.
    pub min_node_count: usize,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            max_ngram_tokens: 64,
            min_node_count: 256,
        }
    }
}

/// Collects passages in corpus order, then builds the index.
///
/// Memory is two bytes per token while collecting (four for vocabularies above 65,535 tokens), about
/// eight in all while building.
pub struct IndexBuilder {
    vocab_size: usize,
    fingerprint: u64,
    tokenizer_hint: String,
    options: IndexOptions,
    texts: Texts,
    num_tokens: usize,
    ids: IdList,
}

/// The texts of the fields, as [`Field::ALL`].
enum Texts {
    Narrow([Text<u16>; 3]),
    Wide([Text<u32>; 3]),
}

#[derive(Default)]
struct Text<T> {
    symbols: Vec<T>,
    starts: Vec<u32>,
}

/// Everything of one field that goes into the file.
struct FieldParts<T> {
    field: Field,
    text: Text<T>,
    suffixes: Vec<u32>,
    blocks: Vec<u32>,
    tables: NodeTables,
    ends: ShortEnds,
}

impl IndexBuilder {
    /// A builder for passages tokenised by the tokenizer with this vocabulary and fingerprint.
    ///
    /// `tokenizer_hint` says where that tokenizer is, for messages only.
    ///
    /// # Errors
    /// [`IndexError::Option`] and [`IndexError::TooLarge`] for a parameter out of range.
    pub fn new(
        vocab_size: usize,
        fingerprint: u64,
        tokenizer_hint: &str,
        options: IndexOptions,
    ) -> Result<Self, IndexError> {
        if !(1..=u16::MAX as usize).contains(&options.max_ngram_tokens) {
            return Err(IndexError::Option {
                name: "max_ngram_tokens",
                range: "between 1 and 65535",
                found: options.max_ngram_tokens,
            });
        }
        if !(1..=u32::MAX as usize).contains(&options.min_node_count) {
            return Err(IndexError::Option {
                name: "min_node_count",
                range: "between 1 and 4294967295",
                found: options.min_node_count,
            });
        }
        if vocab_size > MAX_TOKENS as usize {
            return Err(IndexError::TooLarge {
                what: "vocabulary entries",
                limit: MAX_TOKENS,
            });
        }
        let texts = if vocab_size <= u16::SEPARATOR as usize {
            Texts::Narrow(Default::default())
        } else {
            Texts::Wide(Default::default())
        };
        Ok(Self {
            vocab_size,
            fingerprint,
            tokenizer_hint: tokenizer_hint.into(),
            options,
            texts,
            num_tokens: 0,
            ids: IdList::default(),
        })
    }

    /// Passages so far.
    pub fn num_passages(&self) -> usize {
        self.ids.ends.len()
    }

    /// Tokens of all fields so far.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// The external ids so far, in order.
    pub(in crate::index) fn ids(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ids.ends.iter().map(move |&end| {
            let range = std::mem::replace(&mut start, end as usize)..end as usize;
            std::str::from_utf8(&self.ids.bytes[range]).expect("ids were pushed as strings")
        })
    }

    /// Adds the next passage: its external id and the tokens of its fields. The title may be empty.
    ///
    /// # Errors
    /// [`IndexError::EmptyPassage`], [`IndexError::TokenOutOfRange`], [`IndexError::TooLarge`]; the
    /// builder is then as before.
    pub fn push(
        &mut self,
        id: &str,
        title: &[TokenId],
        body: &[TokenId],
    ) -> Result<(), IndexError> {
        self.push_with_queries(id, title, body, &[])
    }

    /// As [`push`](Self::push), with queries that the passage might answer; empty ones are left out.
    ///
    /// # Errors
    /// As of [`push`](Self::push).
    pub fn push_with_queries(
        &mut self,
        id: &str,
        title: &[TokenId],
        body: &[TokenId],
        queries: &[Vec<TokenId>],
    ) -> Result<(), IndexError> {
        let index = self.num_passages();
        if body.is_empty() {
            return Err(IndexError::EmptyPassage {
                index,
                id: id.into(),
            });
        }
        if let Some(token) = body
            .iter()
            .chain(title)
            .chain(queries.iter().flatten())
            .find(|t| t.index() >= self.vocab_size)
        {
            return Err(IndexError::TokenOutOfRange {
                index,
                id: id.into(),
                token: token.0,
                vocab_size: self.vocab_size,
            });
        }
        match &mut self.texts {
            Texts::Narrow(texts) => push_passage(texts, title, body, queries)?,
            Texts::Wide(texts) => push_passage(texts, title, body, queries)?,
        }
        self.num_tokens += [title, body]
            .into_iter()
            .chain(queries.iter().map(Vec::as_slice))
            .map(<[TokenId]>::len)
            .sum::<usize>();
        self.ids.push(id);
        Ok(())
    }

    /// Builds the index and writes it to `path`, which is complete or untouched afterwards.
    ///
    /// Uses all threads of the current rayon pool; the file does not depend on their number.
    ///
    /// # Errors
    /// [`IndexError::Io`] if `path` cannot be written.
    pub fn write(self, path: &Path) -> Result<(), IndexError> {
        self.write_showing(path, &|_| {})
    }

    /// As [`write`](Self::write); `sorted` is told from time to time, by any thread, how many more of
    /// the [`num_tokens`](Self::num_tokens) are in their place.
    ///
    /// # Errors
    /// [`IndexError::Io`] if `path` cannot be written.
    pub fn write_showing(
        self,
        path: &Path,
        sorted: &(dyn Fn(usize) + Sync),
    ) -> Result<(), IndexError> {
        self.build(sorted, |header, sections| {
            atomic_file::write(path, |out| file::write(out, header, sections))
                .map_err(|e| IndexError::io(path, "write", e))
        })
    }

    /// Builds the index in memory.
    pub fn into_index(self) -> Result<NgramIndex, IndexError> {
        let path = PathBuf::from("(memory)");
        let mut image = vec![];
        self.build(&|_| {}, |header, sections| {
            file::write(&mut image, header, sections).map_err(|e| IndexError::io(&path, "write", e))
        })?;
        NgramIndex::from_bytes(&path, Bytes::owned(&image))
    }

    fn build(
        self,
        sorted: &(dyn Fn(usize) + Sync),
        write: impl FnOnce(&Header, &[Section<'_>]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let (bytes, passages) = (self.symbol_bytes(), self.num_passages());
        let header = Header {
            fingerprint: self.fingerprint,
            vocab_size: self.vocab_size as u32,
            symbol_bytes: bytes as u32,
            max_ngram_tokens: self.options.max_ngram_tokens as u32,
            min_node_count: self.options.min_node_count as u32,
            passages: passages as u32,
        };
        let globals = [
            Section {
                kind: Kind::IdEnds,
                field: None,
                bytes: as_bytes(&self.ids.ends),
            },
            Section {
                kind: Kind::IdBytes,
                field: None,
                bytes: &self.ids.bytes,
            },
            Section {
                kind: Kind::TokenizerHint,
                field: None,
                bytes: self.tokenizer_hint.as_bytes(),
            },
        ];
        match self.texts {
            Texts::Narrow(texts) => {
                let parts = build_fields(texts, self.vocab_size, &self.options, sorted);
                write(&header, &sections(&parts, globals))
            }
            Texts::Wide(texts) => {
                let parts = build_fields(texts, self.vocab_size, &self.options, sorted);
                write(&header, &sections(&parts, globals))
            }
        }
    }

    fn symbol_bytes(&self) -> usize {
        match self.texts {
            Texts::Narrow(_) => 2,
            Texts::Wide(_) => 4,
        }
    }
}

fn push_passage<T: Symbol>(
    fields: &mut [Text<T>; 3],
    title: &[TokenId],
    body: &[TokenId],
    queries: &[Vec<TokenId>],
) -> Result<(), IndexError> {
    let queries: Vec<&[TokenId]> = queries
        .iter()
        .map(Vec::as_slice)
        .filter(|query| !query.is_empty())
        .collect();
    let passage: [&[&[TokenId]]; 3] = [&[body], &[title], &queries];
    let longer = |(field, texts): (&Text<T>, &&[&[TokenId]])| {
        let added: usize = texts.iter().map(|text| text.len() + 1).sum();
        field.symbols.len() + added.max(1)
    };
    let longest = fields.iter().zip(&passage).map(longer).max();
    if longest.is_some_and(|longest| longest as u64 > MAX_TOKENS) {
        return Err(IndexError::TooLarge {
            what: "tokens",
            limit: MAX_TOKENS,
        });
    }
    for (field, texts) in fields.iter_mut().zip(passage) {
        field.starts.push(field.symbols.len() as u32);
        for (number, text) in texts.iter().enumerate() {
            if number > 0 {
                field.symbols.push(T::SEPARATOR);
            }
            field
                .symbols
                .extend(text.iter().map(|token| T::new(token.0)));
        }
        field.symbols.push(T::SEPARATOR);
    }
    Ok(())
}

fn build_fields<T: Symbol>(
    texts: [Text<T>; 3],
    vocab_size: usize,
    options: &IndexOptions,
    sorted: &(dyn Fn(usize) + Sync),
) -> Vec<FieldParts<T>> {
    // Without pseudo-queries each passage has a separator there, and the file has no such field.
    let present = |(field, text): &(Field, Text<T>)| {
        *field != Field::Queries || text.symbols.len() > text.starts.len()
    };
    let fields = Field::ALL.into_iter().zip(texts).filter(present);
    let parts = fields.map(|(field, mut text)| {
        text.starts.push(text.symbols.len() as u32);
        text.symbols.extend([T::SEPARATOR; END_SEPARATORS]);
        text.symbols.shrink_to_fit();
        let suffixes = sort_suffixes(&text.symbols, vocab_size, options.max_ngram_tokens, sorted);
        let mut tables = build_nodes(
            &text.symbols,
            &suffixes,
            options.min_node_count,
            options.max_ngram_tokens.min(MAX_NODE_DEPTH),
        );
        let ends = ShortEnds::new(&tables);
        (tables.nodes, tables.ends) = (vec![], vec![]);
        let suffixes = pack(suffixes, text.symbols.len());
        let blocks = blocks(&text.starts);
        FieldParts {
            field,
            text,
            suffixes,
            blocks,
            tables,
            ends,
        }
    });
    parts.collect()
}

/// The passage at every 64th position.
fn blocks(starts: &[u32]) -> Vec<u32> {
    let end = starts[starts.len() - 1];
    let mut passage = 0;
    (0..end)
        .step_by(BLOCK_TOKENS)
        .map(|position| {
            while starts[passage + 1] <= position {
                passage += 1;
            }
            passage as u32
        })
        .collect()
}

fn sections<'a, T: Symbol>(
    fields: &'a [FieldParts<T>],
    globals: [Section<'a>; 3],
) -> Vec<Section<'a>> {
    let of_field = |parts: &'a FieldParts<T>| {
        let tables = &parts.tables;
        [
            (Kind::Text, as_bytes(&parts.text.symbols)),
            (Kind::Suffixes, as_bytes(&parts.suffixes)),
            (Kind::Starts, as_bytes(&parts.text.starts)),
            (Kind::Blocks, as_bytes(&parts.blocks)),
            (Kind::Nodes, as_bytes(&parts.ends.nodes)),
            (Kind::SlotTokens, as_bytes(&tables.tokens)),
            (Kind::FarEnds, as_bytes(&parts.ends.far)),
            (Kind::NearEnds, as_bytes(&parts.ends.near)),
            (Kind::SlotIsNode, as_bytes(&tables.is_node)),
            (Kind::NodesBefore, as_bytes(&tables.nodes_before)),
        ]
        .map(|(kind, bytes)| Section {
            kind,
            field: Some(parts.field),
            bytes,
        })
    };
    fields.iter().flat_map(of_field).chain(globals).collect()
}
