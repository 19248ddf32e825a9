//! `genret search`: rankings by BM25 or by an index of vectors.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use hashbrown::HashSet;

use super::encoding::TextEncoder;
use super::progress::Progress;
use super::shared::Shared;
use super::table::say;
use crate::data::{self, Corpus};
use crate::model::{Role, Vectors};
use crate::retrieve::bm25::{Bm25, Bm25Options, Stemmer, StopWords};
use crate::retrieve::dense::{DenseIndex, DenseSearch};
use crate::retrieve::sparse::{Approximation, Precision, SparseIndex};
use crate::retrieve::{Retriever, VectorError, run_of};
use crate::types::{Hit, PassageIdx, Query, QueryId};

/// Queries between two updates of the progress bar.
const WINDOW: usize = 1024;

/// Ranks passages by BM25, or by the vectors of an index.
#[derive(Args, Debug)]
pub struct SearchArgs {
    /// Rank by BM25 over this corpus: a BEIR folder or MS MARCO table.
    #[arg(long, value_name = "CORPUS")]
    bm25: Option<PathBuf>,
    /// The index; with --bm25 it is made where it is not there yet.
    #[arg(long)]
    index: Option<PathBuf>,
    /// The model that made the index, a folder; not for BM25.
    #[arg(long, conflicts_with = "bm25")]
    model: Option<PathBuf>,
    /// Search approximately, where the index was made for it.
    #[arg(long, conflicts_with = "bm25")]
    approximate: bool,
    /// Dense, with --approximate: passages in hand while the graph is walked; more find more [default: 100].
    #[arg(long, value_name = "PASSAGES", requires = "approximate")]
    effort: Option<usize>,
    /// Sparse, with --approximate: terms of a query whose lists are gone through, the heaviest [default: 10].
    #[arg(long, value_name = "TERMS", requires = "approximate")]
    query_terms: Option<usize>,
    /// Sparse, with --approximate: share of the k-th best score that a cluster must promise; less finds more and
    /// takes longer [default: 1].
    #[arg(long, value_name = "SHARE", requires = "approximate")]
    promise: Option<f32>,
    /// Dense, of an index that keeps both: how many times k passages are ranked again by all bits.
    #[arg(long, value_name = "TIMES", default_value_t = 4)]
    rescored: usize,
    /// With --approximate: also search exactly, and say how much of the exact ranking was found.
    #[arg(long, requires = "approximate")]
    measure_accuracy: bool,
    /// The queries: BEIR queries.jsonl or `id<TAB>text` lines.
    #[arg(long, conflicts_with = "text")]
    queries: Option<PathBuf>,
    /// One query, answered on the terminal.
    #[arg(long)]
    text: Option<String>,
    /// Passages per query.
    #[arg(long, default_value_t = 100)]
    k: usize,
    /// The TREC run file to write.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Name of the system in the run file [default: genret-bm25, genret-sparse, genret-dense].
    #[arg(long)]
    tag: Option<String>,
    /// BM25: how slowly more occurrences of a word stop counting, 0 or more [default: 0.9].
    #[arg(long, requires = "bm25")]
    k1: Option<f64>,
    /// BM25: how much longer passages lose, from 0 to 1 [default: 0.4].
    #[arg(long, requires = "bm25")]
    b: Option<f64>,
    /// BM25: what becomes of a word's ending [default: english].
    #[arg(long, value_enum, requires = "bm25")]
    stemmer: Option<StemmerName>,
    /// BM25: words that are not counted [default: english].
    #[arg(long, value_enum, requires = "bm25")]
    stop_words: Option<StopWordsName>,
    /// BM25: keep weights in eight bits instead of 32; a quarter of the postings' bytes.
    #[arg(long, requires = "bm25")]
    quantised: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum StemmerName {
    /// It stays.
    None,
    /// Snowball's stemmer for English.
    English,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum StopWordsName {
    /// Every word counts.
    None,
    /// The 33 English words of Lucene and bm25s.
    English,
}

/// What answers queries.
enum Searcher {
    Bm25(Bm25),
    Sparse(SparseIndex, Box<TextEncoder>, Option<Approximation>),
    Dense(DenseIndex, Box<TextEncoder>, DenseSearch),
}

impl Searcher {
    fn open(args: &SearchArgs, shared: &Shared) -> Result<Self> {
        if let Some(corpus) = &args.bm25 {
            return Ok(Self::Bm25(bm25(args, corpus)?));
        }
        let Some(path) = &args.index else {
            bail!("nothing to search: give --bm25 CORPUS or --index INDEX");
        };
        let (made_by, index) = match SparseIndex::open(path) {
            Ok(index) => (index.model().unwrap_or_default(), Ok(index)),
            Err(VectorError::NotAnIndex { .. }) => {
                let index = DenseIndex::open(path)?;
                (index.model(), Err(index))
            }
            Err(error) => return Err(error.into()),
        };
        let Some(folder) = &args.model else {
            let Ok(index) = index else {
                bail!(
                    "{}: give the model that made it with --model",
                    path.display()
                );
            };
            return Ok(Self::Bm25(Bm25::from_index(index)?));
        };
        let encoder = Box::new(TextEncoder::open(folder, None, shared)?);
        if encoder.identity() != made_by {
            bail!(
                "{}: another model than {} made it; give that one with --model, or make the index again \
                 with `genret encode`",
                path.display(),
                folder.display()
            );
        }
        Ok(match index {
            Ok(index) => Self::Sparse(index, encoder, approximation(args)),
            Err(index) => Self::Dense(index, encoder, how(args)),
        })
    }

    fn tag(&self) -> &str {
        match self {
            Self::Bm25(bm25) => bm25.tag(),
            Self::Sparse(..) => "genret-sparse",
            Self::Dense(..) => "genret-dense",
        }
    }

    fn doc_id(&self, passage: PassageIdx) -> &str {
        match self {
            Self::Bm25(bm25) => bm25.index().doc_id(passage),
            Self::Sparse(index, ..) => index.doc_id(passage),
            Self::Dense(index, ..) => index.doc_id(passage),
        }
    }

    fn search(
        &self,
        queries: &[Query],
        k: usize,
        accuracy: &mut Accuracy,
    ) -> Result<Vec<Vec<Hit>>> {
        let encode = |encoder: &TextEncoder| -> Result<Vectors> {
            let texts: Vec<&str> = queries.iter().map(|query| &query.text[..]).collect();
            encoder.encode(&texts, Role::Query, &mut |_| {})
        };
        Ok(match self {
            Self::Bm25(bm25) => bm25.search(queries, k)?,
            Self::Sparse(index, encoder, how) => match (encode(encoder)?, how) {
                (Vectors::Sparse(queries), None) => index.search_all(&queries, k)?,
                (Vectors::Sparse(queries), Some(how)) => {
                    let hits = index.search_approximately(&queries, k, how)?;
                    if accuracy.wanted {
                        accuracy.add(&hits, &index.search_all(&queries, k)?);
                    }
                    hits
                }
                (Vectors::Dense { .. }, _) => bail!("the model is dense, but the index is sparse"),
            },
            Self::Dense(index, encoder, how) => match encode(encoder)? {
                Vectors::Dense { values, .. } => {
                    let hits = index.search(&values, k, *how)?;
                    if accuracy.wanted {
                        let exact = DenseSearch::Exact { rescored: 0 };
                        accuracy.add(&hits, &index.search(&values, k, exact)?);
                    }
                    hits
                }
                Vectors::Sparse(_) => bail!("the model is sparse, but the index is dense"),
            },
        })
    }
}

fn approximation(args: &SearchArgs) -> Option<Approximation> {
    let default = Approximation::default();
    args.approximate.then(|| Approximation {
        query_terms: args.query_terms.unwrap_or(default.query_terms),
        promise: args.promise.unwrap_or(default.promise),
    })
}

fn how(args: &SearchArgs) -> DenseSearch {
    if args.approximate {
        DenseSearch::Graph {
            effort: args.effort.unwrap_or(100),
        }
    } else {
        DenseSearch::Exact {
            rescored: args.rescored,
        }
    }
}

/// How much of the exact rankings was found.
#[derive(Default)]
struct Accuracy {
    wanted: bool,
    found: usize,
    of: usize,
}

impl Accuracy {
    fn add(&mut self, found: &[Vec<Hit>], exact: &[Vec<Hit>]) {
        for (found, exact) in found.iter().zip(exact) {
            let passages: HashSet<PassageIdx> = found.iter().map(|hit| hit.passage).collect();
            let both = exact.iter().filter(|hit| passages.contains(&hit.passage));
            self.found += both.count();
            self.of += exact.len();
        }
    }
}

pub(super) fn run(args: &SearchArgs, shared: &Shared) -> Result<()> {
    if args.k == 0 {
        bail!("--k 0: ask for at least one passage");
    }
    if let Some(text) = &args.text {
        return answer_on_terminal(args, text, shared);
    }
    let Some(queries) = &args.queries else {
        bail!("nothing to answer: give --queries FILE or --text TEXT");
    };
    let Some(out) = &args.out else {
        bail!("--queries needs --out RUN for the ranking");
    };
    let queries = data::load_queries(queries)?;
    let searcher = Searcher::open(args, shared)?;
    let mut progress = Progress::new("searching", queries.len() as u64);
    let mut hits = Vec::with_capacity(queries.len());
    let mut accuracy = Accuracy {
        wanted: args.measure_accuracy,
        ..Accuracy::default()
    };
    for window in queries.chunks(WINDOW) {
        hits.extend(searcher.search(window, args.k, &mut accuracy)?);
        progress.at(hits.len() as u64, "");
    }
    progress.finish();
    let tag = args.tag.as_deref().unwrap_or_else(|| searcher.tag());
    let run = run_of(tag, &queries, &hits, |passage| searcher.doc_id(passage))?;
    run.write(out)?;
    if accuracy.wanted {
        let share = accuracy.found as f64 / accuracy.of.max(1) as f64;
        say!("{share:.4} of the exact best {} found", args.k);
    }
    eprintln!("{} queries, run in {}", queries.len(), out.display());
    Ok(())
}

fn answer_on_terminal(args: &SearchArgs, text: &str, shared: &Shared) -> Result<()> {
    if text.trim().is_empty() {
        bail!("--text is empty: nothing to answer");
    }
    if args.out.is_some() {
        bail!("--out has no meaning with --text");
    }
    let searcher = Searcher::open(args, shared)?;
    let query = Query {
        id: QueryId::from("text"),
        text: text.into(),
    };
    let hits = searcher
        .search(&[query], args.k.min(10), &mut Accuracy::default())?
        .remove(0);
    if hits.is_empty() {
        say!("no passage has anything in common with the query");
    }
    for (rank, hit) in hits.iter().enumerate() {
        let id = searcher.doc_id(hit.passage);
        say!("{:>3}  {:<24} {:>9.4}", rank + 1, id, hit.score.get());
    }
    Ok(())
}

/// BM25 over `corpus`: in memory, or by the index file, which is made where it is not there.
fn bm25(args: &SearchArgs, corpus: &Path) -> Result<Bm25> {
    let default = Bm25Options::default();
    let options = Bm25Options {
        k1: args.k1.unwrap_or(default.k1),
        b: args.b.unwrap_or(default.b),
        stemmer: match args.stemmer {
            None => default.stemmer,
            Some(StemmerName::None) => Stemmer::None,
            Some(StemmerName::English) => Stemmer::English,
        },
        stop_words: match args.stop_words {
            None => default.stop_words,
            Some(StopWordsName::None) => StopWords::None,
            Some(StopWordsName::English) => StopWords::English,
        },
        precision: if args.quantised {
            Precision::Bytes
        } else {
            Precision::Floats
        },
    };
    let corpus = Corpus::load(corpus)?;
    let Some(path) = &args.index else {
        return Ok(Bm25::of_corpus(&corpus, &options)?);
    };
    if !path.exists() {
        Bm25::write(&corpus, &options, path)?;
    }
    let bm25 = Bm25::open(path).with_context(|| "opening the index of --index")?;
    if !bm25.is_of(&corpus, &options) {
        bail!(
            "{}: made from another corpus or with other parameters; remove it, or choose another --index",
            path.display()
        );
    }
    Ok(bm25)
}
