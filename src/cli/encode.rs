//! `genret encode`: an index of the vectors of a corpus.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::encoding::TextEncoder;
use super::progress::Progress;
use super::shared::Shared;
use super::table::say;
use crate::data::Corpus;
use crate::docid;
use crate::model::{Role, Vectors};
use crate::retrieve::dense::{DenseBuilder, DenseOptions, GraphOptions, Numbers};
use crate::retrieve::sparse::{ClusterOptions, Precision, SparseBuilder, SparseOptions};
use crate::types::Passage;

/// Passages whose vectors are made together.
const WINDOW: usize = 4096;

/// Represents a corpus by a trained sparse or dense model, and writes an index to search with it.
#[derive(Args, Debug)]
pub struct EncodeArgs {
    /// A sparse or dense model, a folder written by `genret train`.
    #[arg(long)]
    model: PathBuf,
    /// The passages: a BEIR folder or MS MARCO table.
    #[arg(long)]
    corpus: PathBuf,
    /// The index to write; an old one is replaced when the new one is complete. Of a dense model a name that ends in .npy
    /// gives the vectors alone, such as `genret docid build --vectors` reads.
    #[arg(long)]
    out: PathBuf,
    /// Tokens of a passage that are read, at most [default: as many as in training].
    #[arg(long, value_name = "TOKENS")]
    passage_tokens: Option<NonZeroUsize>,
    /// What is kept of weights and numbers [default: bytes of sparse vectors, floats of dense ones].
    #[arg(long, value_enum)]
    keep: Option<Keep>,
    /// Sparse: also divide the heaviest postings of each term into clusters for approximate search, so many of a
    /// term [default: 2000]; several times the time and bytes.
    #[arg(long, value_name = "POSTINGS", num_args = 0..=1, default_missing_value = "2000")]
    clusters: Option<usize>,
    /// Dense: also build a graph for approximate search, with this many links of a node [default: 16].
    #[arg(long, value_name = "LINKS", num_args = 0..=1, default_missing_value = "16")]
    graph: Option<usize>,
    /// Dense: nodes in hand while the graph is built; more find better neighbours and take longer [default: 200].
    #[arg(long, value_name = "NODES", requires = "graph")]
    graph_effort: Option<usize>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    /// All 32 bits.
    Floats,
    /// Eight bits with a scale per term or vector.
    Bytes,
    /// Dense: eight bits to rank with and all bits to rank the best again.
    Both,
}

/// The index that is being made.
enum Builder {
    Sparse(SparseBuilder),
    Dense(DenseBuilder),
    /// Numbers of a vector, and all vectors.
    Matrix(usize, Vec<f32>),
}

pub(super) fn run(args: &EncodeArgs, shared: &Shared) -> Result<()> {
    let encoder = TextEncoder::open(&args.model, args.passage_tokens, shared)?;
    let corpus = Corpus::load(&args.corpus)?;
    let mut builder = None;
    let mut progress = Progress::new("representing passages", corpus.len() as u64);
    let mut done = 0;
    for passages in corpus.passages().chunks(WINDOW) {
        let texts: Vec<String> = passages.iter().map(Passage::full_text).collect();
        let vectors = encoder.encode(&texts, Role::Passage, &mut |of_these| {
            progress.at((done + of_these) as u64, "");
        })?;
        if builder.is_none() {
            builder = Some(Builder::new(args, &encoder, &vectors)?);
        }
        if let Some(builder) = &mut builder {
            builder.push(passages, &vectors)?;
        }
        done += passages.len();
    }
    progress.finish();
    let builder = builder.expect("a corpus has passages");
    builder.write(encoder.identity(), &args.out)?;
    let bytes = std::fs::metadata(&args.out)?.len();
    say!("passages  {}", corpus.len());
    say!("written   {} ({bytes} bytes)", args.out.display());
    Ok(())
}

impl Builder {
    fn new(args: &EncodeArgs, encoder: &TextEncoder, vectors: &Vectors) -> Result<Self> {
        let matrix = args.out.extension().is_some_and(|e| e == "npy");
        if matrix && (args.keep.is_some() || args.graph.is_some()) {
            bail!(
                "--keep and --graph are of indexes; a .npy file holds all numbers of the vectors"
            );
        }
        Ok(match vectors {
            Vectors::Sparse(_) if matrix => {
                bail!("a .npy file holds vectors of a dense model; this one is sparse");
            }
            Vectors::Dense { width, .. } if matrix => Self::Matrix(*width, vec![]),
            Vectors::Sparse(_) => {
                if args.graph.is_some() {
                    bail!("--graph is for dense models; this one is sparse");
                }
                let options = SparseOptions {
                    precision: match args.keep {
                        None | Some(Keep::Bytes) => Precision::Bytes,
                        Some(Keep::Floats) => Precision::Floats,
                        Some(Keep::Both) => bail!("--keep both is for dense models"),
                    },
                    clusters: args.clusters.map(|postings| ClusterOptions {
                        postings,
                        ..ClusterOptions::default()
                    }),
                    ..SparseOptions::default()
                };
                Self::Sparse(SparseBuilder::new(encoder.width(), options)?)
            }
            Vectors::Dense { width, .. } => {
                if args.clusters.is_some() {
                    bail!("--clusters is for sparse models; this one is dense");
                }
                let default = GraphOptions::default();
                let options = DenseOptions {
                    numbers: match args.keep {
                        None | Some(Keep::Floats) => Numbers::Floats,
                        Some(Keep::Bytes) => Numbers::Bytes,
                        Some(Keep::Both) => Numbers::Both,
                    },
                    graph: args.graph.map(|links| GraphOptions {
                        links,
                        effort: args.graph_effort.unwrap_or(default.effort),
                    }),
                };
                Self::Dense(DenseBuilder::new(*width, options)?)
            }
        })
    }

    fn push(&mut self, passages: &[Passage], vectors: &Vectors) -> Result<()> {
        let ids = passages.iter().map(|passage| passage.id.as_str());
        match (self, vectors) {
            (Self::Sparse(builder), Vectors::Sparse(vectors)) => {
                for (id, vector) in ids.zip(vectors) {
                    builder.push(id, vector)?;
                }
            }
            (Self::Dense(builder), Vectors::Dense { width, values }) => {
                for (id, vector) in ids.zip(values.chunks_exact(*width)) {
                    builder.push(id, vector)?;
                }
            }
            (Self::Matrix(_, all), Vectors::Dense { values, .. }) => all.extend(values),
            _ => unreachable!("a model makes vectors of one kind"),
        }
        Ok(())
    }

    fn write(self, model: &str, path: &Path) -> Result<()> {
        match self {
            Self::Sparse(builder) => builder.of_model(model).write(path)?,
            Self::Dense(builder) => builder.of_model(model).write(path)?,
            Self::Matrix(width, values) => docid::write_matrix(path, width, &values)?,
        }
        Ok(())
    }
}
