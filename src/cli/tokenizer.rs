//! `genret tokenizer`: train a vocabulary, look at the tokens of a text.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::shared::Shared;
use crate::cli::table::say;
use crate::data::Corpus;
use crate::tokenizer::{Tokenizer, TokenizerKind, TrainOptions};

/// Verbs of `genret tokenizer`.
#[derive(Subcommand, Debug)]
pub enum TokenizerCommand {
    /// Train a tokenizer on the titles and texts of a corpus.
    Train(TrainArgs),
    /// Show the tokens of a text, one `id<TAB>token` per line.
    Encode(EncodeArgs),
}

/// Flags of `genret tokenizer train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    /// Corpus: a BEIR folder or an MS MARCO TSV (plain, .gz or .zst).
    #[arg(long)]
    corpus: PathBuf,
    /// Size of the vocabulary in tokens, special tokens and bytes included.
    #[arg(long)]
    vocab: usize,
    /// Family: byte-level BPE or Unigram with byte fallback.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Read all texts in lower case, and a first word as any other: for sparse and dense models.
    #[arg(long)]
    lowercase: bool,
    /// File to write, usually named tokenizer.json.
    #[arg(long)]
    out: PathBuf,
}

/// Flags of `genret tokenizer encode`.
#[derive(Args, Debug)]
pub struct EncodeArgs {
    /// The tokenizer.json, or the folder that holds it.
    #[arg(long)]
    tokenizer: PathBuf,
    /// The text to encode; no special tokens are added.
    #[arg(long)]
    text: String,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Kind {
    Bpe,
    Unigram,
}

/// Runs a verb of `genret tokenizer`.
///
/// # Errors
/// Those of the corpus and of the tokenizer, with the file they concern.
pub fn run(command: &TokenizerCommand, shared: &Shared) -> anyhow::Result<()> {
    match command {
        TokenizerCommand::Train(args) => train(args, shared),
        TokenizerCommand::Encode(args) => encode(args),
    }
}

fn train(args: &TrainArgs, _shared: &Shared) -> anyhow::Result<()> {
    let corpus = Corpus::load(&args.corpus)?;
    // The leading space is the one that indexing puts before every field.
    let texts: Vec<String> = corpus
        .passages()
        .iter()
        .flat_map(|passage| [&passage.title, &passage.text])
        .filter(|text| !text.is_empty())
        .map(|text| format!(" {text}"))
        .collect();
    let kind = match args.kind {
        Kind::Bpe => TokenizerKind::Bpe,
        Kind::Unigram => TokenizerKind::Unigram,
    };
    let tokenizer = Tokenizer::train(
        &texts,
        TrainOptions {
            kind,
            vocab: args.vocab,
            lowercase: args.lowercase,
        },
    )
    .with_context(|| format!("corpus {}", args.corpus.display()))?;
    tokenizer.save(&args.out)?;
    eprintln!(
        "{}: {} tokens from {} passages, fingerprint {:016x}",
        args.out.display(),
        tokenizer.vocab_size(),
        corpus.len(),
        tokenizer.fingerprint()
    );
    Ok(())
}

fn encode(args: &EncodeArgs) -> anyhow::Result<()> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    for token in tokenizer.encode(&args.text)? {
        say!(
            "{}\t{}",
            token.0,
            tokenizer.id_to_token(token).unwrap_or_default()
        );
    }
    Ok(())
}
