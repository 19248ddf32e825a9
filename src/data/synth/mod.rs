//! The built-in corpus: an encyclopaedia of an invented world, with questions, of any size.
//!
//! A `World` of people, places, works and events is drawn from a seed, every entity
//! gets one passage of 60 to 100 words, and every passage some questions it answers. The world is
//! consistent (a person's town has its own passage and may name the person), entities and classes
//! follow power laws, and regions have names, products and tastes of their own. A small model can
//! learn the phrases, a larger one the commoner regions and the long tail of their habits, and any
//! model can copy names: room for laws in size and in data.
//!
//! Splits: 8 % of the passages are `unseen`, asked about in no other split; of the other questions
//! 5 % are `dev`, 10 % `test`. The questions of these three use phrasings that no `train` question
//! has. Equal options give equal files on any number of threads; a million
//! passages take 40 seconds of one core and 370 MB.

mod facts;
mod grammar;
mod lexicon;
mod names;
mod world;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use hashbrown::HashSet;
use rand::RngExt;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::Serialize;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use self::facts::{Kind, describe};
use self::grammar::{Asked, Grammar};
use self::world::{Entity, World};
use crate::atomic_file;
use crate::data::example::nested_subset;
use crate::rng;

/// Part of the passages whose questions are kept for the `unseen` split.
const UNSEEN: f64 = 0.08;
/// Parts of the questions on the other passages.
const DEV: f64 = 0.05;
const TEST: f64 = 0.10;

/// Passages rendered at a time: enough for every thread, little in memory.
const CHUNK: usize = 4096;

/// Why the corpus could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A number is out of range.
    #[error("{name} = {value} is out of range: expected {expected}")]
    OutOfRange {
        /// The option.
        name: &'static str,
        /// Its value.
        value: usize,
        /// What is accepted.
        expected: &'static str,
    },
    /// The folder holds something already.
    #[error("{path} exists and is not empty; remove it or choose another folder")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Size and seed of the corpus.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SynthOptions {
    /// Number of passages, 200 to 5 million.
    pub passages: usize,
    /// Questions per passage, 1 to 16; a passage that states few facts may have fewer.
    pub queries_per_passage: usize,
    /// Seed of the world and of everything said about it.
    pub seed: u64,
}

impl Default for SynthOptions {
    fn default() -> Self {
        Self {
            passages: 10_000,
            queries_per_passage: 4,
            seed: 0,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SynthCounts {
    /// Passages.
    pub passages: usize,
    /// Questions by split: train, dev, test, unseen.
    pub queries: [usize; 4],
}

/// A set of questions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Split {
    Train,
    Dev,
    Test,
    Unseen,
}

impl Split {
    const ALL: [Split; 4] = [Split::Train, Split::Dev, Split::Test, Split::Unseen];

    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Dev => "dev",
            Split::Test => "test",
            Split::Unseen => "unseen",
        }
    }
}

/// A finished passage with more questions than wanted, in case some are asked elsewhere already.
struct Page {
    title: String,
    text: String,
    kind: Kind,
    region: String,
    /// Splits of the questions wanted, training first.
    wanted: Vec<Split>,
    training: Vec<Asked>,
    held_out: Vec<Asked>,
}

/// Writes the corpus to `out` in BEIR layout: `corpus.jsonl`, `queries.jsonl`,
/// `qrels/{train,dev,test,unseen}.tsv`.
///
/// The folder appears complete or not at all. `progress` is told the number of passages written.
///
/// # Errors
/// [`SynthError`], with nothing left behind.
pub fn generate(
    options: SynthOptions,
    out: &Path,
    progress: &mut dyn FnMut(usize),
) -> Result<SynthCounts, SynthError> {
    check(
        "passages",
        options.passages,
        200..=5_000_000,
        "200 to 5000000",
    )?;
    check(
        "queries per passage",
        options.queries_per_passage,
        1..=16,
        "1 to 16",
    )?;
    let write_error = |path: &Path, source| SynthError::Write {
        path: path.to_path_buf(),
        source,
    };
    if out.exists() {
        let mut entries = fs::read_dir(out).map_err(|source| write_error(out, source))?;
        if entries.next().is_some() {
            return Err(SynthError::NotEmpty {
                path: out.to_path_buf(),
            });
        }
    }
    let name = out.file_name().ok_or_else(|| {
        write_error(
            out,
            io::Error::new(io::ErrorKind::InvalidInput, "the path names no folder"),
        )
    })?;
    let temporary = out.with_file_name(format!(
        ".{}.tmp-{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    let result = write_folder(options, &temporary, progress).and_then(|counts| {
        fs::rename(&temporary, out)?;
        atomic_file::sync_folder(out)?;
        Ok(counts)
    });
    result.map_err(|source| {
        // The error that matters is the first one.
        let _ = fs::remove_dir_all(&temporary);
        write_error(out, source)
    })
}

fn check(
    name: &'static str,
    value: usize,
    range: std::ops::RangeInclusive<usize>,
    expected: &'static str,
) -> Result<(), SynthError> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(SynthError::OutOfRange {
            name,
            value,
            expected,
        })
    }
}

fn write_folder(
    options: SynthOptions,
    folder: &Path,
    progress: &mut dyn FnMut(usize),
) -> io::Result<SynthCounts> {
    fs::create_dir_all(folder.join("qrels"))?;
    let create = |name: &str| -> io::Result<BufWriter<File>> {
        Ok(BufWriter::with_capacity(
            1 << 20,
            File::create(folder.join(name))?,
        ))
    };
    let mut corpus = create("corpus.jsonl")?;
    let mut queries = create("queries.jsonl")?;
    let mut qrels = Vec::new();
    for split in Split::ALL {
        let mut file = create(&format!("qrels/{}.tsv", split.name()))?;
        writeln!(file, "query-id\tcorpus-id\tscore")?;
        qrels.push(file);
    }
    let mut counts = SynthCounts::default();
    each_page(options, &mut |page| {
        let id = format!("d{}", counts.passages);
        counts.passages += 1;
        write_line(
            &mut corpus,
            &PassageLine {
                _id: &id,
                title: &page.title,
                text: &page.text,
                metadata: PassageMetadata {
                    kind: page.kind.name(),
                    region: &page.region,
                },
            },
        )?;
        for (split, asked) in &page.questions {
            let query_id = format!("q{}", counts.queries.iter().sum::<usize>());
            counts.queries[*split as usize] += 1;
            let metadata = QueryMetadata {
                answers: [&asked.answer],
                kind: page.kind.name(),
                fact: asked.fact,
            };
            write_line(
                &mut queries,
                &QueryLine {
                    _id: &query_id,
                    text: &asked.text,
                    metadata,
                },
            )?;
            writeln!(qrels[*split as usize], "{query_id}\t{id}\t1")?;
        }
        progress(counts.passages);
        Ok(())
    })?;
    for file in qrels.into_iter().chain([corpus, queries]) {
        file.into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
    }
    Ok(counts)
}

#[derive(Serialize)]
struct PassageLine<'a> {
    _id: &'a str,
    title: &'a str,
    text: &'a str,
    metadata: PassageMetadata<'a>,
}

#[derive(Serialize)]
struct PassageMetadata<'a> {
    kind: &'a str,
    region: &'a str,
}

#[derive(Serialize)]
struct QueryLine<'a> {
    _id: &'a str,
    text: &'a str,
    metadata: QueryMetadata<'a>,
}

#[derive(Serialize)]
struct QueryMetadata<'a> {
    answers: [&'a str; 1],
    /// Kind of the passage.
    kind: &'a str,
    /// Fact of the template file that is asked for.
    fact: &'a str,
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// A passage with its final questions.
struct Finished {
    title: String,
    text: String,
    kind: Kind,
    region: String,
    questions: Vec<(Split, Asked)>,
}

/// Calls `visit` with every passage in the corpus's order.
fn each_page(
    options: SynthOptions,
    visit: &mut dyn FnMut(Finished) -> io::Result<()>,
) -> io::Result<()> {
    let world = World::new(options.seed, options.passages);
    let grammars: Vec<Grammar> = Kind::ALL
        .iter()
        .map(|kind| Grammar::parse(kind.templates()))
        .collect();
    let mut order: Vec<Entity> = world.entities();
    order.shuffle(&mut rng::stream(options.seed, "synth-order", &[]));
    let unseen = nested_subset(options.seed, order.len(), UNSEEN);
    let mut asked_before: HashSet<u64> = HashSet::new();
    for (chunk, start) in order.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        let pages: Vec<Page> = chunk
            .par_iter()
            .enumerate()
            .map(|(i, &entity)| {
                let unseen = unseen.binary_search(&(start + i)).is_ok();
                page(&world, &grammars, options, entity, unseen)
            })
            .collect();
        for page in pages {
            visit(page.finish(&mut asked_before))?;
        }
    }
    Ok(())
}

fn page(
    world: &World,
    grammars: &[Grammar],
    options: SynthOptions,
    entity: Entity,
    unseen: bool,
) -> Page {
    let described = describe(world, options.seed, entity);
    let (slots, mut rng) = (described.slots, described.rng);
    let grammar = &grammars[described.kind as usize];
    let body = grammar.passage(&slots, &mut rng);
    let count = options.queries_per_passage;
    let mut wanted: Vec<Split> = if unseen {
        vec![Split::Unseen; count]
    } else {
        // The first question is for training, so the others are held out a little more often.
        let first = usize::from(count > 1);
        let scale = count as f64 / (count - first) as f64;
        let mut draw = || match rng.random::<f64>() {
            u if u < DEV * scale => Split::Dev,
            u if u < (DEV + TEST) * scale => Split::Test,
            _ => Split::Train,
        };
        let mut wanted = vec![Split::Train; first];
        wanted.extend((first..count).map(|_| draw()));
        wanted
    };
    wanted.sort_by_key(|split| *split as usize);
    let for_training = wanted
        .iter()
        .filter(|split| **split == Split::Train)
        .count();
    let mut ask = |held_out: bool, count: usize| match count {
        0 => Vec::new(),
        count => grammar.questions(&body, &slots, held_out, count + 3, &mut rng),
    };
    Page {
        training: ask(false, for_training),
        held_out: ask(true, count - for_training),
        title: names::capital(described.title),
        text: body.text,
        kind: described.kind,
        region: slots.get("region").unwrap_or_default().to_owned(),
        wanted,
    }
}

impl Page {
    /// Gives every wanted split a question that no passage before has asked.
    fn finish(self, asked_before: &mut HashSet<u64>) -> Finished {
        let mut fresh =
            |asked: &Asked| asked_before.insert(xxh3_64(asked.text.to_lowercase().as_bytes()));
        let (mut training, mut held_out) = (self.training.into_iter(), self.held_out.into_iter());
        let mut questions = Vec::with_capacity(self.wanted.len());
        for split in self.wanted {
            let pool = if split == Split::Train {
                &mut training
            } else {
                &mut held_out
            };
            if let Some(asked) = pool.find(&mut fresh) {
                questions.push((split, asked));
            }
        }
        Finished {
            title: self.title,
            text: self.text,
            kind: self.kind,
            region: self.region,
            questions,
        }
    }
}

#[cfg(test)]
mod tests;
