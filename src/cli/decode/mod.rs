//! `genret decode`: queries in, rankings out; or passages in, queries out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use hashbrown::HashMap;
use xxhash_rust::xxh3::xxh3_64;

use super::shared::Shared;
use super::table::say;
use crate::config::{Task, hash};
use crate::data;
use crate::data::example::{View, ViewWeights};
use crate::decode::{BatchSize, DecodeOptions, Normalise, SampleOptions, Stop};
use crate::experiment::OpenedModel;
use crate::index::{LiveIndex, PassageSet, SubstringIndex, Trie};
use crate::machine;
use crate::model::{self, Model};
use crate::retrieve::docid::DocidRetriever;
use crate::retrieve::generative::{Answer, Generative};
use crate::retrieve::multi_view::{DocidView, MultiView};
use crate::retrieve::ranking::RankingOptions;
use crate::tokenizer::Tokenizer;
use crate::types::{DocId, PassageIdx, Query, QueryId};

pub(super) mod docids;
mod evidence;
mod oracle;
mod partial;
mod queries;
mod run_file;
mod stream;

/// Generates n-grams for queries and ranks passages by them; or writes queries for passages.
#[derive(Args, Debug)]
pub struct DecodeArgs {
    /// A folder written by `genret train`.
    #[arg(long)]
    model: PathBuf,
    /// What is generated.
    #[arg(long, value_enum, default_value_t = TaskName::Ngrams)]
    task: TaskName,
    /// An index written by `genret index build`: a file, or the folder of a live index.
    #[arg(long)]
    index: Option<PathBuf>,
    /// The identifiers that the model has learned, in place of an index or beside it: a file written by `genret docid build`.
    #[arg(long, value_name = "FILE")]
    docids: Option<PathBuf>,
    /// The queries: BEIR queries.jsonl or `id<TAB>text` lines.
    #[arg(long, conflicts_with_all = ["text", "stream"])]
    queries: Option<PathBuf>,
    /// One query, answered on the terminal with the n-grams that led to each passage.
    #[arg(long, conflicts_with = "stream")]
    text: Option<String>,
    /// Answer queries from stdin, a line each, a text or {"id", "text"}, as JSON lines on stdout.
    #[arg(long, conflicts_with_all = ["out", "oracle"])]
    stream: bool,
    /// Hypotheses kept per query and step; with --oracle a list such as 1,4,16.
    #[arg(long, value_delimiter = ',', default_value = "10")]
    beam: Vec<usize>,
    /// Tokens of the longest n-gram or query [default: 10; 32 with --task queries].
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Tokens of the shortest n-gram or query.
    #[arg(long, default_value_t = 1)]
    min_new_tokens: usize,
    /// A sequence of n tokens scores its log-probability divided by n to this power.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    length_penalty: f64,
    /// When a query with as many complete sequences as --beam is done; tells only with --length-penalty, of sequences that
    /// end: identifiers, and queries by --method beam.
    #[arg(long, value_enum, default_value_t = StopName::Exact)]
    stop: StopName,
    /// Over which tokens probabilities sum to one.
    #[arg(long, value_enum, default_value_t = NormaliseName::Full)]
    normalise: NormaliseName,
    /// Groups of hypotheses that avoid each other's tokens (diverse beam search).
    #[arg(long, default_value_t = 1)]
    groups: usize,
    /// Nats that a token loses for every earlier group that chose it at the same step.
    #[arg(long, default_value_t = 0.0)]
    diversity_penalty: f64,
    /// A text of the corpus that every n-gram begins with; may be repeated.
    #[arg(long, value_name = "TEXT")]
    prefix: Vec<String>,
    /// What is generated of a passage, each by a prompt of its own, and how much it counts in the sum of scores:
    /// body, title, queries, docid, such as body,title=0.5; the model must have learned them [default: body; with --docids
    /// docid too].
    #[arg(long, value_name = "LIST")]
    views: Option<ViewWeights>,
    /// Only these passages: a file with one passage id a line.
    #[arg(long, value_name = "FILE")]
    filter: Option<PathBuf>,
    /// Queries decoded together: a number, or `auto` for what the memory allows.
    #[arg(long, default_value = "auto")]
    batch: BatchSize,
    /// GiB that a batch may take beside the weights [default: half of what the machine has free].
    #[arg(long, value_name = "GIB")]
    memory: Option<f64>,
    /// Passages per query.
    #[arg(long, default_value_t = 100)]
    k: usize,
    /// The TREC run file to write; with --task queries a folder.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Also write the evidence of every hit, one JSON line per query; with --stream put it into the answers.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    explain: Option<PathBuf>,
    /// Compare each beam width with exhaustive search; for small corpora.
    #[arg(long)]
    oracle: bool,
    /// Print the comparison of --oracle as JSON.
    #[arg(long, requires = "oracle")]
    json: bool,
    /// Name of the system in the run file [default: genret-ngram, genret-docid, or genret-views with both].
    #[arg(long)]
    tag: Option<String>,
    /// With --task queries: the passages, a BEIR folder or MS MARCO table.
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// With --task queries: different queries per passage, at most.
    #[arg(long, default_value_t = 5)]
    per_passage: usize,
    /// With --task queries: draw them at random, or take the likeliest.
    #[arg(long, value_enum, default_value_t = Method::Sample)]
    method: Method,
    /// Of drawn queries: logits are divided by it.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Of drawn queries: only so many of the likeliest tokens are drawn; 0 for all.
    #[arg(long, default_value_t = 10)]
    top_k: usize,
    /// Of drawn queries: only the likeliest tokens that together have this probability are drawn.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum TaskName {
    /// N-grams for queries: retrieval.
    Ngrams,
    /// Queries for passages.
    Queries,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum NormaliseName {
    /// All of the vocabulary.
    Full,
    /// The tokens that the index allows.
    Allowed,
    /// None: logits are summed. Of models that learned to rank identifiers so.
    None,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum StopName {
    /// When no sequence that goes on can become better, however long it gets.
    Exact,
    /// When none that goes on is better at its present length, as transformers' generate.
    Early,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    /// Draw.
    Sample,
    /// The likeliest, by beam search.
    Beam,
}

impl DecodeArgs {
    /// Name of the system in the run file.
    fn tag(&self) -> &str {
        let usual = match (&self.docids, &self.index) {
            (Some(_), Some(_)) => "genret-views",
            (Some(_), None) => "genret-docid",
            (None, _) => "genret-ngram",
        };
        self.tag.as_deref().unwrap_or(usual)
    }

    /// How much each view counts.
    fn ranked_views(&self) -> ViewWeights {
        self.views.unwrap_or_else(|| ViewWeights {
            docid: f64::from(u8::from(self.docids.is_some())),
            ..ViewWeights::default()
        })
    }

    /// Fails unless the model has learned all `views` and what they are written of is given.
    fn check_views(&self, views: ViewWeights, model: &OpenedModel) -> Result<()> {
        let learned = model.objective.learned();
        if let Some((view, _)) = views.iter().find(|(view, _)| learned.of(*view) == 0.0) {
            let learned: Vec<&str> = learned.iter().map(|(view, _)| view.name()).collect();
            bail!(
                "{}: the model has not learned view {}, but {}: name what it has learned with --views, or train one with \
                 objective.task = \"views\"",
                self.model.display(),
                view.name(),
                learned.join(", ")
            );
        }
        if (views.docid > 0.0) != self.docids.is_some() {
            bail!("--views docid and --docids FILE go together: give both or neither");
        }
        if self.oracle && views != ViewWeights::default() {
            bail!("--oracle compares n-grams of texts: leave out --views and --docids");
        }
        Ok(())
    }
}

/// Everything that answers queries.
struct Session {
    model: OpenedModel,
    tokenizer: Tokenizer,
    index: LiveIndex,
    /// The same index by the fields whose n-grams are generated.
    fields: Vec<(View, LiveIndex)>,
    docids: Option<SessionDocids>,
    options: DecodeOptions,
    ranking: RankingOptions,
}

/// Identifiers beside an index.
struct SessionDocids {
    /// Of the passages that the index has.
    trie: Trie,
    /// Per passage of the trie that of the index.
    passages: Vec<Option<PassageIdx>>,
    fingerprint: u64,
}

pub(super) fn run(args: &DecodeArgs, shared: &Shared) -> Result<()> {
    if args.normalise == NormaliseName::None && (args.docids.is_none() || args.index.is_some()) {
        bail!(
            "--normalise none sums logits of identifiers, with --docids alone; n-grams and views are weighed by their probabilities"
        );
    }
    if args.task == TaskName::Queries {
        return queries::run(args, shared);
    }
    if args.beam.len() != 1 && !(args.oracle && args.out.is_none()) {
        bail!("--beam takes one width; a list only with --oracle and without --out");
    }
    if args.k == 0 {
        bail!("--k 0: ask for at least one passage");
    }
    if let (Some(path), None) = (&args.docids, &args.index) {
        return docids::run(path, args, shared);
    }
    let reads = [args.queries.is_some(), args.text.is_some(), args.stream];
    if !reads.contains(&true) {
        bail!("nothing to answer: give --queries FILE, --text TEXT or --stream");
    }
    if args
        .text
        .as_ref()
        .is_some_and(|text| text.trim().is_empty())
    {
        bail!("--text is empty: nothing to answer");
    }
    let options = options(args, 10)?;
    if args.stream {
        return stream::run(&Session::open(args, options, shared)?, args);
    }
    if let Some(text) = &args.text {
        let session = Session::open(args, options, shared)?;
        return answer_on_terminal(&session, text, args.k.min(10));
    }
    if args.out.is_none() && !args.oracle {
        bail!("--queries needs --out RUN for the ranking, or --oracle");
    }
    if args.explain.as_deref() == Some(Path::new("-")) {
        bail!("--explain needs a file, such as --explain evidence.jsonl");
    }
    let path = args.queries.as_ref().expect("one of the three was given");
    let queries = data::load_queries(path)?;
    let session = Session::open(args, options, shared)?;
    if let Some(out) = &args.out {
        write_run(&session, &queries, out, args, shared)?;
    }
    if args.oracle {
        oracle::report(&session, &queries, args)?;
    }
    Ok(())
}

/// The options of the command line, checked.
fn options(args: &DecodeArgs, max_new_tokens: usize) -> Result<DecodeOptions> {
    let mut widest = args.beam.clone();
    widest.sort_unstable();
    let options = DecodeOptions {
        beam_width: widest.pop().context("--beam is empty")?,
        max_new_tokens: args.max_new_tokens.unwrap_or(max_new_tokens),
        min_new_tokens: args.min_new_tokens,
        length_penalty: args.length_penalty,
        stop: match args.stop {
            StopName::Exact => Stop::Exact,
            StopName::Early => Stop::Early,
        },
        normalise: match args.normalise {
            NormaliseName::Full => Normalise::Full,
            NormaliseName::Allowed => Normalise::Allowed,
            NormaliseName::None => Normalise::None,
        },
        groups: args.groups,
        diversity_penalty: args.diversity_penalty,
        prefixes: args.prefix.clone(),
        batch_size: args.batch,
        // Never nothing: one query at a time always runs.
        memory_gib: args.memory.or_else(|| {
            let half = machine::available_bytes()? / 2.0;
            Some((half / f64::from(1 << 30)).max(1e-3))
        }),
    };
    options.check().map_err(anyhow::Error::msg)?;
    if args.beam.contains(&0) {
        bail!("--beam 0: a beam is at least 1 wide");
    }
    Ok(options)
}

impl Session {
    fn open(args: &DecodeArgs, options: DecodeOptions, shared: &Shared) -> Result<Self> {
        let device = model::open_device(&shared.device)?;
        let path = args.index.as_ref();
        let mut index = LiveIndex::open(path.context("--index FILE is missing")?)?;
        if let Some(path) = &args.filter {
            index = index.restricted_to(&PassageSet::read(path, &index)?);
        }
        let model = OpenedModel::open(&args.model, &device)?;
        if model.objective.task == Task::Queries {
            bail!(
                "{}: the model was trained to write queries; use it with --task queries",
                args.model.display()
            );
        }
        if model.objective.learned().of_texts() == 0.0 && args.docids.is_none() {
            bail!(
                "{}: the model was trained to write identifiers; use it with --docids in place of --index",
                args.model.display()
            );
        }
        let tokenizer = model.tokenizer()?;
        index.check_tokenizer(tokenizer.fingerprint())?;
        let ranking = RankingOptions {
            views: args.ranked_views(),
            ..RankingOptions::default()
        };
        ranking.validate()?;
        let views = ranking.views;
        args.check_views(views, &model)?;
        let fields = views
            .fields()
            .map(|(view, field, _)| (view, index.with_field(field)));
        let fields: Vec<(View, LiveIndex)> = fields.collect();
        if let Some((view, _)) = fields.iter().find(|(_, field)| field.num_tokens() == 0) {
            let (path, name) = (
                args.index.as_ref().context("--index is missing")?,
                view.name(),
            );
            bail!(
                "{}: nothing is indexed of view {name}{}",
                path.display(),
                match view {
                    View::Queries => ": build the index with --pseudo-queries",
                    _ => "; leave it out of --views",
                }
            );
        }
        let docids = match &args.docids {
            Some(path) => Some(SessionDocids::open(path, &model, &tokenizer, &index)?),
            None => None,
        };
        Ok(Self {
            model,
            tokenizer,
            fields,
            docids,
            index,
            options,
            ranking,
        })
    }

    fn retriever(&self) -> Generative<'_, Model, LiveIndex> {
        Generative {
            model: &self.model.model,
            index: &self.index,
            tokenizer: &self.tokenizer,
            template: &self.model.objective.template,
            decode: &self.options,
            ranking: &self.ranking,
            view: View::Ngram,
        }
    }

    /// All views together.
    fn views(&self) -> MultiView<'_, Model, LiveIndex> {
        let weights = self.ranking.views;
        let fields = self.fields.iter().map(|(view, index)| {
            let generative = Generative {
                index,
                view: *view,
                ..self.retriever()
            };
            (generative, weights.of(*view))
        });
        let docids = self.docids.as_ref().map(|docids| DocidView {
            retriever: DocidRetriever::new(
                &self.model.model,
                &docids.trie,
                &self.tokenizer,
                &self.model.objective.template,
                &self.options,
            ),
            weight: weights.docid,
            passages: Some(&docids.passages),
            ranking: &self.ranking,
        });
        MultiView::new(fields.collect(), docids)
    }

    /// Hash of all that is searched, and how much each view counts.
    fn searched(&self) -> u64 {
        let docids = self.docids.as_ref().map(|docids| docids.fingerprint);
        let all = hash(&(self.index.fingerprint(), docids, self.ranking.views));
        xxh3_64(all.as_bytes())
    }
}

impl SessionDocids {
    /// The identifiers of `path` whose passages `index` has.
    fn open(
        path: &Path,
        model: &OpenedModel,
        tokenizer: &Tokenizer,
        index: &LiveIndex,
    ) -> Result<Self> {
        let (docids, trie) = docids::open(path, model, tokenizer)?;
        let known: HashMap<&str, PassageIdx> =
            index.passages().map(|p| (index.doc_id(p), p)).collect();
        let passages: Vec<Option<PassageIdx>> = (docids.file().doc_ids())
            .map(|id| known.get(id).copied())
            .collect();
        let both: PassageSet = (0..)
            .map(PassageIdx)
            .zip(&passages)
            .filter_map(|(docid, passage)| passage.map(|_| docid))
            .collect();
        if both.is_empty() {
            bail!(
                "{}: identifiers of other passages than the index has; give those of the same corpus",
                path.display()
            );
        }
        Ok(Self {
            trie: trie.restricted_to(&both),
            passages,
            fingerprint: docids.file().fingerprint(),
        })
    }
}

/// The run file of n-grams, with their evidence.
fn write_run(
    session: &Session,
    queries: &[Query],
    out: &Path,
    args: &DecodeArgs,
    shared: &Shared,
) -> Result<()> {
    let (index, retriever) = (&session.index, session.views());
    let origin = run_file::Origin {
        model: &session.model.identity,
        corpus: session.searched(),
        options: &session.options,
        window: retriever.window(),
    };
    run_file::write(&origin, queries, out, args, shared, &mut |window| {
        let answers = retriever.answer(window, args.k)?;
        let ranking = |answer: &Answer| run_file::Ranking {
            docs: answer
                .hits
                .iter()
                .map(|hit| (DocId::from(index.doc_id(hit.passage)), hit.score.get()))
                .collect(),
            hits: match args.explain {
                Some(_) => evidence::hits(answer, index, &session.tokenizer, true),
                None => vec![],
            },
        };
        Ok(answers.iter().map(ranking).collect())
    })
}

/// How queries are drawn; `None` for the likeliest.
fn sampling(args: &DecodeArgs, shared: &Shared) -> Result<Option<SampleOptions>> {
    let options = SampleOptions {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: shared.seed.unwrap_or(0),
    };
    options.check().map_err(anyhow::Error::msg)?;
    Ok((args.method == Method::Sample).then_some(options))
}

fn answer_on_terminal(session: &Session, text: &str, k: usize) -> Result<()> {
    let query = Query {
        id: QueryId::from("text"),
        text: text.into(),
    };
    let answers = session.views().answer(&[query], k)?;
    let answer = &answers[0];
    if answer.hits.is_empty() {
        say!("no passage: no generated n-gram tells any apart");
    }
    for (rank, (hit, evidence)) in answer.hits.iter().zip(&answer.evidence).enumerate() {
        let id = session.index.doc_id(hit.passage);
        say!("{:>3}  {:<24} {:>9.2}", rank + 1, id, hit.score.get());
        for ngram in evidence.ngrams.iter().take(5) {
            say!(
                "       {:>8.2}  in {:>4} places  {:<7}  {:?}",
                ngram.credit,
                ngram.count,
                ngram.view.name(),
                session.tokenizer.decode(&ngram.tokens).trim()
            );
        }
    }
    Ok(())
}
