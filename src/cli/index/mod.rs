//! `genret index`: build, change, describe, ask and check an n-gram index.

mod query;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::progress::Progress;
use super::shared::Shared;
use super::table::say;
use crate::data::example::corpus_tokens;
use crate::data::{Corpus, PseudoQueries};
use crate::index::{
    Field, IndexBuilder, IndexError, IndexOptions, IndexStats, LiveIndex, LiveWriter, PassageSet,
};
use crate::machine;
use crate::tokenizer::Tokenizer;

/// Passages tokenised between two updates of the progress bar.
const CHUNK_PASSAGES: usize = 4096;

/// Verbs of `genret index`.
#[derive(Subcommand, Debug)]
pub enum IndexCommand {
    /// Build the index of a corpus.
    Build(BuildArgs),
    /// Add the passages of a corpus to a live index.
    Add(AddArgs),
    /// Delete passages of a live index.
    Delete(DeleteArgs),
    /// Make one file of a live index again, without the deleted passages.
    Merge(MergeArgs),
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
    /// Queries of the passages as a third field beside text and title: a folder that `genret decode --task queries`
    /// wrote for the corpus.
    #[arg(long, value_name = "FOLDER")]
    pseudo_queries: Option<PathBuf>,
    /// Index file to write; an old one is replaced when the new one is complete.
    #[arg(long)]
    out: PathBuf,
    /// Make a folder, whose passages can be added and deleted later, instead of a single file.
    #[arg(long)]
    live: bool,
    /// The longest n-gram that can be generated or counted, in tokens, up to 65,535 [default: 64].
    #[arg(long, value_name = "TOKENS", default_value_t = IndexOptions::default().max_ngram_tokens, hide_default_value = true)]
    max_ngram: usize,
    /// N-grams with at least this many occurrences get a list of their continuations in the file;
    /// lower is faster and larger [default: 256].
    #[arg(long, value_name = "COUNT", default_value_t = IndexOptions::default().min_node_count, hide_default_value = true)]
    min_node_count: usize,
}

/// Flags of `genret index add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// The index, a folder made by `genret index build --live`.
    index: PathBuf,
    /// Corpus of the new passages: a BEIR folder or an MS MARCO TSV (plain, .gz or .zst).
    #[arg(long)]
    corpus: PathBuf,
    /// The tokenizer.json the index was built with, or the folder that holds it.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Queries of the new passages: a folder that `genret decode --task queries` wrote for their corpus.
    #[arg(long, value_name = "FOLDER")]
    pseudo_queries: Option<PathBuf>,
}

/// Flags of `genret index delete`.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// The index, a folder made by `genret index build --live`.
    index: PathBuf,
    /// File with the ids of the passages to delete, one per line.
    #[arg(long)]
    ids: PathBuf,
}

/// Flags of `genret index merge`.
#[derive(Args, Debug)]
pub struct MergeArgs {
    /// The index, a folder made by `genret index build --live`.
    index: PathBuf,
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
    Queries,
}

/// Runs a verb of `genret index`.
///
/// # Errors
/// Those of corpus, tokenizer and index, with the file they concern.
pub(super) fn run(command: &IndexCommand, _shared: &Shared) -> Result<()> {
    match command {
        IndexCommand::Build(args) => build(args),
        IndexCommand::Add(args) => add(args),
        IndexCommand::Delete(args) => delete(args),
        IndexCommand::Merge(args) => merge(args),
        IndexCommand::Stats(args) => stats(args),
        IndexCommand::Query(args) => query::run(args),
        IndexCommand::Verify(args) => verify(args),
    }
}

fn build(args: &BuildArgs) -> Result<()> {
    if args.live && LiveIndex::open(&args.out).is_ok() {
        return Err(IndexError::Exists {
            path: args.out.clone(),
        }
        .into());
    }
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let options = IndexOptions {
        max_ngram_tokens: args.max_ngram,
        min_node_count: args.min_node_count,
    };
    let hint = args.tokenizer.display().to_string();
    let (vocab, fingerprint) = (tokenizer.vocab_size(), tokenizer.fingerprint());
    let begun = Instant::now();
    // Everything that can fail for want of good input comes before a folder is made.
    let builder = IndexBuilder::new(vocab, fingerprint, &hint, options)?;
    let queries = args.pseudo_queries.as_deref();
    let builder = push_corpus(builder, &tokenizer, &args.corpus, queries)?;
    if args.live {
        let mut writer = LiveWriter::create(&args.out, vocab, fingerprint, &hint, options)?;
        sorting(builder, |builder, sorted| {
            writer.add_showing(builder, sorted)
        })?;
    } else {
        sorting(builder, |builder, sorted| {
            builder.write_showing(&args.out, sorted)
        })?;
    }
    eprint!("built in {:.1} s", begun.elapsed().as_secs_f64());
    match machine::peak_bytes() {
        Some(bytes) => eprintln!(", {} MB of memory at most, corpus included", bytes >> 20),
        None => eprintln!(),
    }
    summary(&args.out)
}

/// Runs what sorts the n-grams of `builder` and shows how far it is.
fn sorting(
    builder: IndexBuilder,
    run: impl FnOnce(IndexBuilder, &(dyn Fn(usize) + Sync)) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let total = builder.num_tokens() as u64;
    let progress = Mutex::new((0, Progress::new("sorting", total)));
    let result = run(builder, &|more| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.0 += more as u64;
        let (done, progress) = &mut *progress;
        progress.at(*done, "tokens");
    });
    let (_, progress) = progress
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    progress.finish();
    result
}

/// Tokenises a corpus, and the pseudo-queries of a folder, into `builder`.
fn push_corpus(
    mut builder: IndexBuilder,
    tokenizer: &Tokenizer,
    path: &Path,
    pseudo_queries: Option<&Path>,
) -> Result<IndexBuilder> {
    let corpus = Corpus::load(path)?;
    let pseudo_queries = pseudo_queries.map(|folder| PseudoQueries::load(folder, &corpus));
    let pseudo_queries = pseudo_queries.transpose()?;
    let mut progress = Progress::new("tokenising", corpus.len() as u64);
    for chunk in corpus.passages().chunks(CHUNK_PASSAGES) {
        let mut encoded = corpus_tokens(tokenizer, chunk)?;
        if let Some(queries) = &pseudo_queries {
            queries.encode_into(tokenizer, builder.num_passages(), &mut encoded)?;
        }
        for (passage, tokens) in chunk.iter().zip(encoded) {
            let (id, queries) = (passage.id.as_str(), &tokens.queries);
            builder
                .push_with_queries(id, &tokens.title, &tokens.body, queries)
                .with_context(|| format!("corpus {}", path.display()))?;
        }
        progress.at(builder.num_passages() as u64, "passages");
    }
    progress.finish();
    Ok(builder)
}

fn add(args: &AddArgs) -> Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let mut writer = LiveWriter::open(&args.index)?;
    writer.index()?.check_tokenizer(tokenizer.fingerprint())?;
    let queries = args.pseudo_queries.as_deref();
    let builder = push_corpus(writer.builder()?, &tokenizer, &args.corpus, queries)?;
    sorting(builder, |builder, sorted| {
        writer.add_showing(builder, sorted)
    })?;
    summary(&args.index)
}

fn delete(args: &DeleteArgs) -> Result<()> {
    let mut writer = LiveWriter::open(&args.index)?;
    let passages = PassageSet::read(&args.ids, &writer.index()?)?;
    writer.delete(&passages)?;
    summary(&args.index)
}

fn merge(args: &MergeArgs) -> Result<()> {
    LiveWriter::open(&args.index)?.merge()?;
    summary(&args.index)
}

fn summary(path: &Path) -> Result<()> {
    let stats = LiveIndex::open(path)?.stats();
    eprintln!(
        "{}: {} passages, {} deleted, {} bytes in {} file(s)",
        path.display(),
        stats.num_passages,
        stats.deleted_passages,
        stats
            .segments
            .iter()
            .map(|segment| segment.file_bytes)
            .sum::<usize>(),
        stats.segments.len(),
    );
    Ok(())
}

fn stats(args: &StatsArgs) -> Result<()> {
    let stats = LiveIndex::open(&args.index)?.stats();
    if args.json {
        return print_json(&stats);
    }
    say!(
        "passages           {} ({} deleted)",
        stats.num_passages,
        stats.deleted_passages
    );
    for (number, segment) in stats.segments.iter().enumerate() {
        say!("file {} of {}", number + 1, stats.segments.len());
        print_segment(segment)?;
    }
    Ok(())
}

fn print_segment(stats: &IndexStats) -> Result<()> {
    say!("  passages         {}", stats.num_passages);
    for field in &stats.fields {
        let name = field.field.name();
        say!(
            "  tokens in {name:<7}{} ({} distinct)",
            field.num_tokens,
            field.distinct_tokens
        );
        say!(
            "  lists of {name:<8}{} ({} entries)",
            field.nodes,
            field.stored_continuations
        );
    }
    say!("  vocabulary       {}", stats.vocab_size);
    say!("  longest n-gram   {} tokens", stats.max_ngram_tokens);
    say!("  listed from      {} occurrences", stats.min_node_count);
    say!(
        "  tokenizer        {} ({})",
        stats.tokenizer,
        stats.tokenizer_hint
    );
    say!("  size             {} bytes", stats.file_bytes);
    if let Some(bits) = stats.bits_per_token {
        say!("  bits per token   {bits:.2}");
    }
    for part in &stats.parts {
        let field = part.field.map_or("", Field::name);
        say!("    {:<17} {field:<7} {} bytes", part.name, part.bytes);
    }
    Ok(())
}

fn verify(args: &VerifyArgs) -> Result<()> {
    LiveIndex::open(&args.index)?.verify()?;
    say!("{}: sound", args.index.display());
    Ok(())
}

fn print_json(value: &impl Serialize) -> Result<()> {
    say!(
        "{}",
        serde_json::to_string_pretty(value).context("writing JSON")?
    );
    Ok(())
}
