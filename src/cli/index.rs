//! `genret index`: build, describe, ask and check an n-gram index.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::progress::Progress;
use super::shared::Shared;
use crate::data::Corpus;
use crate::data::example::corpus_tokens;
use crate::index::{
    Continuations, Field, IndexBuilder, IndexOptions, NgramIndex, Occurrence, SubstringIndex,
};
use crate::tokenizer::Tokenizer;
use crate::types::TokenId;

/// Passages tokenised between two updates of the progress bar.
const CHUNK_PASSAGES: usize = 4096;

/// Verbs of `genret index`.
#[derive(Subcommand, Debug)]
pub enum IndexCommand {
    /// Build the index of a corpus.
    Build(BuildArgs),
    /// Show size and shape of an index.
    Stats(StatsArgs),
    /// Show how often a text occurs, what follows it and where it is.
    Query(QueryArgs),
    /// Read a whole index and compare it with its checksums.
    Verify(VerifyArgs),
}

/// Flags of `genret index build`.
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// Corpus: a BEIR folder or an MS MARCO TSV (plain, .gz or .zst).
    #[arg(long)]
    corpus: PathBuf,
    /// The tokenizer.json of the models that will use the index, or the folder that holds it.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Index file to write; an old one is replaced when the new one is complete.
    #[arg(long)]
    out: PathBuf,
    /// The longest n-gram that can be generated or counted, in tokens, up to 65,535 [default: 64].
    #[arg(long, value_name = "TOKENS", default_value_t = IndexOptions::default().max_ngram_tokens, hide_default_value = true)]
    max_ngram: usize,
    /// N-grams with at least this many occurrences get a list of their continuations in the file;
    /// lower is faster and larger [default: 512].
    #[arg(long, value_name = "COUNT", default_value_t = IndexOptions::default().min_node_count, hide_default_value = true)]
    min_node_count: usize,
}

/// Flags of `genret index stats`.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// The index.
    index: PathBuf,
    /// Write JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `genret index query`.
#[derive(Args, Debug)]
pub struct QueryArgs {
    /// The index.
    index: PathBuf,
    /// The text to look for, matched token by token as inside running text; empty for any token.
    #[arg(long)]
    text: String,
    /// The tokenizer.json the index was built with, or the folder that holds it.
    #[arg(long)]
    tokenizer: PathBuf,
    /// The field to look in [default: body].
    #[arg(long, value_enum, default_value_t = FieldArg::Body, hide_default_value = true)]
    field: FieldArg,
    /// Continuations (by count) and places (by passage) to show, at most [default: 10].
    #[arg(long, default_value_t = 10, hide_default_value = true)]
    limit: usize,
    /// Write JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `genret index verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The index.
    index: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum FieldArg {
    Body,
    Title,
}

/// Runs a verb of `genret index`.
///
/// # Errors
/// Those of corpus, tokenizer and index, with the file they concern.
pub(super) fn run(command: &IndexCommand, _shared: &Shared) -> Result<()> {
    match command {
        IndexCommand::Build(args) => build(args),
        IndexCommand::Stats(args) => stats(args),
        IndexCommand::Query(args) => query(args),
        IndexCommand::Verify(args) => verify(args),
    }
}

fn build(args: &BuildArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let options = IndexOptions {
        max_ngram_tokens: args.max_ngram,
        min_node_count: args.min_node_count,
    };
    let hint = args.tokenizer.display().to_string();
    let mut builder = IndexBuilder::new(
        tokenizer.vocab_size(),
        tokenizer.fingerprint(),
        &hint,
        options,
    )?;
    let corpus = Corpus::load(&args.corpus)?;
    let mut progress = Progress::new("tokenising", corpus.len() as u64);
    for chunk in corpus.passages().chunks(CHUNK_PASSAGES) {
        for (passage, tokens) in chunk.iter().zip(corpus_tokens(&tokenizer, chunk)?) {
            builder
                .push(passage.id.as_str(), &tokens.title, &tokens.body)
                .with_context(|| format!("corpus {}", args.corpus.display()))?;
        }
        progress.at(builder.num_passages() as u64, "passages");
    }
    progress.finish();
    eprintln!("sorting the n-grams of {} passages", builder.num_passages());
    builder.write(&args.out)?;
    let stats = NgramIndex::open(&args.out)?.stats();
    eprintln!("{}: {} bytes", args.out.display(), stats.file_bytes);
    Ok(())
}

fn stats(args: &StatsArgs) -> Result<()> {
    let stats = NgramIndex::open(&args.index)?.stats();
    if args.json {
        return print_json(&stats);
    }
    println!("passages           {}", stats.num_passages);
    for field in &stats.fields {
        let name = match field.field {
            Field::Body => "body ",
            Field::Title => "title",
        };
        println!(
            "tokens in {name}    {} ({} distinct)",
            field.num_tokens, field.distinct_tokens
        );
        println!(
            "lists of {name}     {} ({} entries)",
            field.nodes, field.stored_continuations
        );
    }
    println!("vocabulary         {}", stats.vocab_size);
    println!("longest n-gram     {} tokens", stats.max_ngram_tokens);
    println!("listed from        {} occurrences", stats.min_node_count);
    println!(
        "tokenizer          {} ({})",
        stats.tokenizer, stats.tokenizer_hint
    );
    println!("file               {} bytes", stats.file_bytes);
    if let Some(bits) = stats.bits_per_token {
        println!("bits per token     {bits:.2}");
    }
    Ok(())
}

/// Answer of `genret index query`.
#[derive(Serialize)]
struct Answer<'a> {
    text: &'a str,
    tokens: &'a [TokenId],
    count: usize,
    continuations: Vec<Continuation>,
    passages: Vec<Place<'a>>,
}

#[derive(Serialize)]
struct Continuation {
    token: TokenId,
    text: String,
    count: usize,
}

#[derive(Serialize)]
struct Place<'a> {
    passage: &'a str,
    position: u32,
    /// The n-gram with the tokens around it.
    context: String,
}

fn query(args: &QueryArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let index = NgramIndex::open(&args.index)?;
    index.check_tokenizer(tokenizer.fingerprint())?;
    let index = index.with_field(match args.field {
        FieldArg::Body => Field::Body,
        FieldArg::Title => Field::Title,
    });
    // The leading space is the one that indexing puts before every field.
    let tokens = match args.text.trim_start() {
        "" => vec![],
        text => tokenizer.encode(&format!(" {text}"))?,
    };
    let answer = answer(&index, &tokenizer, &args.text, &tokens, args.limit);
    if args.json {
        return print_json(&answer);
    }
    println!("{} occurrences of {} tokens", answer.count, tokens.len());
    for next in &answer.continuations {
        println!("  followed by {:?} {} times", next.text, next.count);
    }
    for place in &answer.passages {
        println!(
            "  {} at token {}: {}",
            place.passage, place.position, place.context
        );
    }
    Ok(())
}

fn answer<'a>(
    index: &'a NgramIndex,
    tokenizer: &Tokenizer,
    text: &'a str,
    tokens: &'a [TokenId],
    limit: usize,
) -> Answer<'a> {
    let mut answer = Answer {
        text,
        tokens,
        count: 0,
        continuations: vec![],
        passages: vec![],
    };
    let Some(state) = index.find(tokens) else {
        return answer;
    };
    answer.count = index.count(state);
    let mut rows = Continuations::new();
    index.continuations(&[state], &mut rows);
    let row = rows.row(0);
    let mut order: Vec<usize> = (0..row.tokens.len()).collect();
    order.sort_by_key(|&nth| std::cmp::Reverse(row.count(nth)));
    answer.continuations = order
        .into_iter()
        .take(limit)
        .map(|nth| Continuation {
            token: row.tokens[nth],
            text: tokenizer.decode(&[row.tokens[nth]]),
            count: row.count(nth),
        })
        .collect();
    let mut occurrences: Vec<Occurrence> = vec![];
    index.occurrences(state, limit, &mut occurrences);
    let mut passage = vec![];
    for occurrence in occurrences {
        const AROUND: usize = 8;
        index.passage_tokens(occurrence.passage, &mut passage);
        let start = (occurrence.position as usize)
            .saturating_sub(AROUND)
            .min(passage.len());
        let end = (occurrence.position as usize + tokens.len() + AROUND).min(passage.len());
        answer.passages.push(Place {
            passage: index.doc_id(occurrence.passage),
            position: occurrence.position,
            context: tokenizer.decode(&passage[start..end]),
        });
    }
    answer
}

fn verify(args: &VerifyArgs) -> Result<()> {
    NgramIndex::open(&args.index)?.verify()?;
    println!("{}: sound", args.index.display());
    Ok(())
}

fn print_json(value: &impl Serialize) -> Result<()> {
    println!(
        "{}",
        serde_json::to_string_pretty(value).context("writing JSON")?
    );
    Ok(())
}
