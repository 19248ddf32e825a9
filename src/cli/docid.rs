//! `genret docid`: make and describe identifiers of passages.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::shared::Shared;
use super::table::{print, say, table};
use crate::data::Corpus;
use crate::docid::{self, DocidOptions, Docids, Method, Report, Resolve};
use crate::index::PassageSet;
use crate::tokenizer::Tokenizer;
use crate::types::PassageIdx;

/// Verbs of `genret docid`.
#[derive(Subcommand, Debug)]
pub enum DocidCommand {
    /// Make an identifier for every passage of a corpus.
    Build(BuildArgs),
    /// Delete the identifiers of passages: no model writes them any more. Others keep theirs.
    Delete(DeleteArgs),
    /// Show what the identifiers of a file are like.
    Stats(StatsArgs),
    /// Read a whole file and compare it with its checksums.
    Verify(VerifyArgs),
}

/// Flags of `genret docid build`.
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// Corpus: a BEIR folder or an MS MARCO TSV (plain, .gz or .zst).
    #[arg(long)]
    corpus: PathBuf,
    /// Where identifiers come from.
    #[arg(long, value_enum)]
    method: MethodName,
    /// File to write; an old one is replaced when the new one is complete.
    #[arg(long)]
    out: PathBuf,
    /// Codes of an identifier (rq, random) [default: 4].
    #[arg(long)]
    levels: Option<usize>,
    /// Codes to choose from at each position (rq, random), clusters of a cluster (kmeans) [default: 64].
    #[arg(long)]
    codes: Option<usize>,
    /// Passages of the largest cluster that is not divided (kmeans) [default: that of --codes].
    #[arg(long)]
    leaf: Option<usize>,
    /// Words of an identifier at most (title) [default: 12].
    #[arg(long)]
    words: Option<usize>,
    /// A matrix with a row per passage in the order of the corpus, .npy or .safetensors (rq, kmeans) [default: TF-IDF
    /// of the passages' words, projected at random].
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
    /// Numbers of a vector that is made of a passage's words [default: 256].
    #[arg(long)]
    dims: Option<usize>,
    /// Rounds of k-means [default: 20].
    #[arg(long)]
    iterations: Option<usize>,
    /// The tokenizer.json of the models that will write titles, or the folder that holds it (title).
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Passages with the same identifier: number them by a further code, or let them share it.
    #[arg(long, value_enum, default_value_t = ResolveName::Suffix)]
    resolve: ResolveName,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Flags of `genret docid delete`.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// A file made by `genret docid build`.
    docids: PathBuf,
    /// File with the ids of the passages to delete, one per line.
    #[arg(long)]
    ids: PathBuf,
}

/// Flags of `genret docid stats`.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// A file made by `genret docid build`.
    docids: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Flags of `genret docid verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// A file made by `genret docid build`.
    docids: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum MethodName {
    /// Residual quantisation of the passages' vectors.
    Rq,
    /// Hierarchical k-means of the passages' vectors.
    Kmeans,
    /// One token per passage.
    Atomic,
    /// The title, or the first words where there is none.
    Title,
    /// Random codes of the shape of rq: the control.
    Random,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum ResolveName {
    /// Number them.
    Suffix,
    /// Let them share it.
    None,
}

/// Runs a verb of `genret docid`.
///
/// # Errors
/// Those of corpus, vectors, tokenizer and file, with what they concern.
pub(super) fn run(command: &DocidCommand, shared: &Shared) -> Result<()> {
    match command {
        DocidCommand::Build(args) => build(args, shared),
        DocidCommand::Delete(args) => delete(args),
        DocidCommand::Stats(args) => stats(args),
        DocidCommand::Verify(args) => {
            Docids::open(&args.docids)?
                .file()
                .verify()
                .map_err(docid::DocidError::from)?;
            say!("{}: sound", args.docids.display());
            Ok(())
        }
    }
}

fn build(args: &BuildArgs, shared: &Shared) -> Result<()> {
    let options = options(args, shared)?;
    let tokenizer = match (&args.tokenizer, options.method) {
        (Some(path), _) => Some(Tokenizer::load(path)?),
        (None, Method::Title) => bail!("--method title needs --tokenizer FILE, that of the model"),
        (None, _) => None,
    };
    let corpus = Corpus::load(&args.corpus)?;
    let told = &mut |what: &str| eprintln!("{what}");
    let begun = Instant::now();
    let made = docid::make(&corpus, &options, tokenizer.as_ref(), told)?;
    made.write(&args.out, &corpus)?;
    eprintln!("made in {:.1} s", begun.elapsed().as_secs_f64());
    describe(made.report(), &args.out, args.json)
}

/// The options of the command line; a flag that the method does not read is refused.
fn options(args: &BuildArgs, shared: &Shared) -> Result<DocidOptions> {
    use MethodName::{Atomic, Kmeans, Random, Rq, Title};
    let method = args.method;
    for (flag, given, readers) in [
        ("--levels", args.levels.is_some(), &[Rq, Random][..]),
        (
            "--codes",
            args.codes.is_some(),
            &[Rq, Random, Kmeans, Title],
        ),
        ("--leaf", args.leaf.is_some(), &[Kmeans]),
        ("--words", args.words.is_some(), &[Title]),
        ("--vectors", args.vectors.is_some(), &[Rq, Kmeans]),
        ("--dims", args.dims.is_some(), &[Rq, Kmeans]),
        ("--iterations", args.iterations.is_some(), &[Rq, Kmeans]),
        ("--tokenizer", args.tokenizer.is_some(), &[Title]),
    ] {
        if given && !readers.contains(&method) {
            let names: Vec<String> = readers
                .iter()
                .filter_map(|m| m.to_possible_value())
                .map(|v| v.get_name().to_string())
                .collect();
            bail!("{flag} belongs to --method {}", names.join(" or "));
        }
    }
    if args.vectors.is_some() && args.dims.is_some() {
        bail!("--dims belongs to vectors that are made, and --vectors gives others");
    }
    let default = DocidOptions::default();
    let options = DocidOptions {
        method: match method {
            Rq => Method::Rq,
            Kmeans => Method::Kmeans,
            Atomic => Method::Atomic,
            Title => Method::Title,
            Random => Method::Random,
        },
        levels: args.levels.unwrap_or(default.levels),
        codes: args.codes.unwrap_or(default.codes),
        leaf: args.leaf.unwrap_or(default.leaf),
        words: args.words.unwrap_or(default.words),
        vectors: args.vectors.clone(),
        dims: args.dims.unwrap_or(default.dims),
        iterations: args.iterations.unwrap_or(default.iterations),
        resolve: match args.resolve {
            ResolveName::Suffix => Resolve::Suffix,
            ResolveName::None => Resolve::None,
        },
        seed: shared.seed.unwrap_or(default.seed),
    };
    options.check()?;
    Ok(options)
}

fn delete(args: &DeleteArgs) -> Result<()> {
    let docids = Docids::open(&args.docids)?;
    let places = docids.file().doc_ids().zip((0..).map(PassageIdx));
    docids.delete(&PassageSet::read_listed(&args.ids, places)?)?;
    let trie = Docids::open(&args.docids)?;
    let trie = trie.file().trie();
    eprintln!(
        "{}: {} of {} passages have an identifier",
        args.docids.display(),
        trie.num_identified(),
        trie.num_passages()
    );
    Ok(())
}

fn stats(args: &StatsArgs) -> Result<()> {
    let docids = Docids::open(&args.docids)?;
    let trie = docids.file().trie();
    let deleted = trie.num_passages() - trie.num_identified();
    if deleted > 0 {
        eprintln!("{deleted} passages were deleted; figures as they were before");
    }
    describe(&docids.notes().report, &args.docids, args.json)?;
    if !args.json {
        let name = |part: &str| format!("  {part}");
        let parts = docids.file().parts();
        let rows: Vec<Vec<String>> = parts
            .map(|(part, bytes)| vec![name(part), bytes.to_string()])
            .collect();
        print(&table(&rows, 1))?;
    }
    Ok(())
}

/// Prints what identifiers are like.
fn describe(report: &Report, path: &Path, json: bool) -> Result<()> {
    let bytes = std::fs::metadata(path)?.len();
    if json {
        let mut value = serde_json::to_value(report)?;
        value["file_bytes"] = bytes.into();
        say!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    say!("passages           {}", report.passages);
    say!("identifiers        {}", report.ids);
    say!(
        "collisions         {} passages share {} identifiers before they are numbered, at most {} one",
        report.collided_passages,
        report.shared_ids,
        report.largest_collision
    );
    say!(
        "tokens             {:.2} on average, {} to {}",
        report.depth_mean,
        report.depth_min,
        report.depth_max
    );
    say!(
        "size               {bytes} bytes, {:.1} per passage",
        bytes as f64 / report.passages as f64
    );
    let head = [
        "position",
        "passages",
        "codes used",
        "entropy bits",
        "variance left",
    ];
    let mut rows: Vec<Vec<String>> = vec![head.map(String::from).to_vec()];
    rows.extend((1..).zip(&report.levels).map(|(position, level)| {
        vec![
            format!("{position}"),
            level.passages.to_string(),
            format!("{} of {}", level.used, report.alphabet),
            format!("{:.3}", level.entropy_bits),
            level
                .error
                .map_or(String::new(), |error| format!("{error:.4}")),
        ]
    }));
    print(&table(&rows, 0))
}
