//! What a configuration names, opened or made: data, tokenizer, index, examples, models.
//!
//! Everything lands in the configuration's `out` folder and is made once: the embedded corpus in
//! `data/`, `tokenizer.json`, `index.genret` (`index-queries-HASH.genret` with pseudo-queries), a folder per trained model
//! in `models/`. A rerun
//! finds what is there and refuses what was made from other settings.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::config::{self, Config, ObjectiveOptions, RetrieverKind, Task};
use crate::data::example::{
    Example, PassageTokens, SpanOptions, Template, corpus_tokens, nested_subset,
};
use crate::data::{Corpus, Dataset, Pair, PseudoQueries, synth};
use crate::decode::cgl::ContrastiveCase;
use crate::docid::{DocidOptions, Method};
use crate::index::{IndexBuilder, IndexOptions, LiveIndex, NgramIndex, SubstringIndex};
use crate::model::{EncoderOptions, Model, ModelOptions, hub};
use crate::retrieve::RetrieveError;
use crate::retrieve::bm25::{Bm25, Bm25Options};
use crate::tokenizer::{self, Tokenizer};
use crate::train::{
    ContrastOptions, Contrastive, Generation, GroupSource, Masked, Objective, Prefixes, Progress,
    TrainRun, TrainSummary, discard_checkpoint,
};
use crate::types::{Passage, Query};

use texts::{Texts, some_of};

/// Version of genret and the commit it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("GENRET_COMMIT"));

/// A configuration with its data, tokenizer and index opened.
pub struct Experiment {
    /// The configuration.
    pub config: Config,
    /// Passages, queries and judgements.
    pub dataset: Dataset,
    /// The tokenizer of models and index.
    pub tokenizer: Tokenizer,
    index: Option<NgramIndex>,
    passages: Vec<PassageTokens>,
    collection: u64,
    bm25: OnceLock<Bm25>,
    texts: Mutex<Option<Texts>>,
    docids: BTreeMap<Method, DocidSet>,
    pseudo_queries: Option<PseudoQueries>,
}

mod cases;
mod docids;
mod error;
mod examples;
mod groups;
mod represented;
mod texts;
mod trained;

pub use cases::{CaseOptions, contrastive_cases, docid_cases};
pub use docids::{DocidSet, DocidSpec};
pub use error::ExperimentError;
pub use represented::{Found, Represented};
pub use trained::{
    ModelRecord, ModelSpec, OpenedModel, PrefixRanking, Representation, Start, TrainedModel,
};

/// What was prepared from which settings, in `prepared.json`.
#[derive(PartialEq, Serialize, Deserialize)]
struct Prepared {
    data: String,
    tokenizer: String,
    collection: u64,
}

impl Experiment {
    /// Opens `config`, making what its folder lacks; `told` hears what is being made.
    pub fn open(config: Config, told: &mut dyn FnMut(&str)) -> Result<Self, ExperimentError> {
        let out = &config.out;
        let data_folder = match (&config.data.folder, &config.data.synth) {
            (Some(folder), _) => folder.clone(),
            (None, Some(options)) => {
                let folder = out.join("data");
                if !folder.exists() {
                    fs::create_dir_all(out).map_err(io_error(out))?;
                    told("writing the embedded corpus");
                    synth::generate(*options, &folder, &mut |_| ())?;
                }
                folder
            }
            (None, None) => unreachable!("the configuration was checked"),
        };
        told("reading passages and queries");
        let dataset = Dataset::open(&data_folder)?;
        let prepared = Prepared {
            data: config::hash(&(&config.data.folder, &config.data.synth)),
            tokenizer: config::hash(&config.tokenizer),
            collection: dataset.fingerprint(),
        };
        let prepared_path = out.join("prepared.json");
        if prepared_path.exists() {
            let found: Prepared = read_json(&prepared_path)?;
            for (what, same) in [
                ("[data]", found.data == prepared.data),
                ("[tokenizer]", found.tokenizer == prepared.tokenizer),
                (
                    "the collection itself",
                    found.collection == prepared.collection,
                ),
            ] {
                if !same {
                    return Err(ExperimentError::OtherSettings {
                        path: out.clone(),
                        what,
                    });
                }
            }
        } else {
            // Only what is made from here on depends on it.
            fs::create_dir_all(out).map_err(io_error(out))?;
            write_json(&prepared_path, &prepared)?;
        }
        let tokenizer_path = out.join("tokenizer.json");
        if !tokenizer_path.exists() {
            match &config.tokenizer.path {
                Some(path) if path.extension().is_some_and(|e| e == "json") => {
                    Tokenizer::load(path)?.save(&tokenizer_path)?;
                }
                Some(checkpoint) => {
                    let folder = hub::folder(&checkpoint.to_string_lossy())?;
                    Tokenizer::load(&folder.join("tokenizer.json"))?.save(&tokenizer_path)?;
                }
                None => {
                    told("training the tokenizer");
                    let texts: Vec<String> = dataset
                        .corpus
                        .passages()
                        .iter()
                        .map(|p| format!(" {} {}", p.title, p.text))
                        .collect();
                    let options = tokenizer::TrainOptions {
                        kind: config.tokenizer.kind,
                        vocab: config.tokenizer.vocab,
                        lowercase: config.tokenizer.lowercase,
                    };
                    Tokenizer::train(&texts, options)?.save(&tokenizer_path)?;
                }
            }
        }
        let tokenizer = Tokenizer::load(&tokenizer_path)?;
        told("tokenising passages");
        let mut passages = corpus_tokens(&tokenizer, dataset.corpus.passages())?;
        let pseudo_queries = config.data.pseudo_queries.as_ref();
        let pseudo_queries =
            pseudo_queries.map(|folder| PseudoQueries::load(folder, &dataset.corpus));
        let pseudo_queries = pseudo_queries.transpose()?;
        if let Some(queries) = &pseudo_queries {
            queries.encode_into(&tokenizer, 0, &mut passages)?;
        }
        let index = match config.needs_ngram_index() {
            true => {
                let path = index_path(out, pseudo_queries.as_ref());
                let corpus = &dataset.corpus;
                Some(ngram_index(&path, &tokenizer, corpus, &passages, told)?)
            }
            false => None,
        };
        let mut docids = BTreeMap::new();
        for method in config.docid_methods() {
            let options = DocidOptions {
                method,
                ..config.docids.clone()
            };
            let corpus = &dataset.corpus;
            let set = DocidSet::open(out, &options, corpus, &tokenizer, told)?;
            docids.insert(method, set);
        }
        Ok(Self {
            docids,
            pseudo_queries,
            config,
            dataset,
            tokenizer,
            index,
            passages,
            collection: prepared.collection,
            bm25: OnceLock::new(),
            texts: Mutex::new(None),
        })
    }

    /// All n-grams of the passages' bodies.
    ///
    /// # Panics
    /// Where no model of the configuration writes n-grams ([`Config::needs_ngram_index`]).
    pub fn index(&self) -> &NgramIndex {
        let index = self.index.as_ref();
        index.expect("only generative models look up n-grams")
    }

    /// The prompts of the experiment.
    pub fn template(&self) -> &Template {
        &self.config.objective.template
    }

    /// Everything that makes a model of shape `options` that finds passages as `retriever` and learns `task` on
    /// `fraction` of the pairs that `data.fraction` leaves.
    pub fn model_spec(
        &self,
        options: &ModelOptions,
        (retriever, task): (RetrieverKind, Task),
        fraction: f64,
        seed: u64,
    ) -> Result<ModelSpec, ExperimentError> {
        let method = self.config.docids.method;
        self.model_spec_of(options, (retriever, task), method, fraction, seed)
    }

    /// As [`model_spec`](Self::model_spec); `method` says which identifiers a model of docids writes.
    pub fn model_spec_of(
        &self,
        options: &ModelOptions,
        (retriever, task): (RetrieverKind, Task),
        method: Method,
        fraction: f64,
        seed: u64,
    ) -> Result<ModelSpec, ExperimentError> {
        let data = &self.config.data;
        let fraction = fraction * data.fraction;
        let pairs = self.pairs(fraction)?;
        let objective = ObjectiveOptions {
            task,
            ..self.config.objective.clone()
        };
        let representation = match (self.config.encoder_of(retriever), task.loss()) {
            (Some(encoder), Some(_)) => Some(self.representation(retriever, task, encoder)?),
            _ => None,
        };
        let masking = (task == Task::Mntp).then(|| self.config.masking.clone());
        let docids = self.config.learned_by(task).docid > 0.0;
        let docids = docids.then(|| self.docids(method));
        let prefixes = docids.filter(|_| task == Task::Prefixes);
        let prefixes = prefixes.map(|set| self.prefix_ranking(set)).transpose()?;
        let num_examples = match (&representation, &masking, &prefixes) {
            (Some(_), _, _) | (_, _, Some(_)) => pairs.len(),
            (_, Some(masking), _) => self.blocks(masking)?.train.len(),
            _ => self.source(&pairs, task, method, seed)?.len(),
        };
        let pseudo_queries = self.pseudo_queries.as_ref();
        let pseudo_queries = pseudo_queries.filter(|_| objective.needs_pseudo_queries());
        let vocab_size = match docids {
            Some(set) => set.vocab_size,
            None => self.tokenizer.vocab_size(),
        };
        let (model, start, lora) = ModelSpec::resolve(options, vocab_size)?;
        if let (Some(set), Some(_)) = (docids, &prefixes)
            && !set.is_learned_by(start.as_ref())?
        {
            return Err(ExperimentError::NotLearned {
                method: method.name(),
            });
        }
        if let Some(representation) = &representation {
            representation.encoder.validate(model.family())?;
        }
        let mut spec = ModelSpec {
            model,
            start,
            lora,
            collection: self.collection,
            tokenizer: self.tokenizer.fingerprint(),
            split: data.train.clone(),
            fraction,
            subset_seed: self.config.seed,
            num_pairs: pairs.len(),
            num_examples,
            validation: (data.validation.clone(), data.validation_queries),
            objective,
            docids: docids.map(|set| set.spec.clone()),
            pseudo_queries: pseudo_queries.map(PseudoQueries::fingerprint),
            masking,
            representation,
            prefixes,
            train: self.config.train.clone(),
            seed,
        };
        if let Some(budget) = spec.train.flops {
            let (_, flops) = self.typical(&spec)?;
            spec.train.epochs = budget / (flops * spec.num_examples as f64);
        }
        Ok(spec)
    }

    fn representation(
        &self,
        retriever: RetrieverKind,
        task: Task,
        encoder: EncoderOptions,
    ) -> Result<Representation, ExperimentError> {
        let contrast = self.config.contrast.clone();
        Ok(Representation {
            files: contrast_files(&contrast, task != Task::Cl)?,
            retriever,
            encoder,
            contrast,
        })
    }

    fn prefix_ranking(&self, set: &DocidSet) -> Result<PrefixRanking, ExperimentError> {
        let given = &self.config.contrast;
        let contrast = ContrastOptions {
            negatives: given.negatives.clone(),
            per_query: given.per_query,
            depth: given.depth,
            teacher: given.teacher.clone(),
            teacher_scale: given.teacher_scale,
            ..ContrastOptions::default()
        };
        let lengths = (self.config.objective.prefixes).lengths_of(set.trie.longest());
        Ok(PrefixRanking {
            lengths: lengths.map_err(ExperimentError::Prefixes)?,
            files: contrast_files(&contrast, true)?,
            contrast,
        })
    }

    /// Tokens and training FLOPs of a typical example of `spec`.
    pub fn typical(&self, spec: &ModelSpec) -> Result<(f64, f64), ExperimentError> {
        let split = &self.config.data.train;
        match spec.grouping() {
            Some(grouping) => {
                // Hard negatives, and passages that have many queries, are longer than the mean passage.
                let pairs = some_of(&self.pairs(self.config.data.fraction)?);
                let groups = self.groups(&pairs, split, &grouping, spec.seed, false)?;
                let (mut tokens, mut flops) = (0.0, 0.0);
                for group in groups.epoch(0)? {
                    let query = group.query.len();
                    let passages = group.passages.iter().map(|&p| groups.passage(p).len());
                    if spec.prefixes.is_some() {
                        for id in passages {
                            tokens += (query + id) as f64;
                            flops += spec.generation_flops(query, id);
                        }
                        continue;
                    }
                    for length in passages.chain([query]) {
                        tokens += length as f64;
                        flops += spec.text_flops(length);
                    }
                }
                let count = pairs.len() as f64;
                Ok((tokens / count, flops / count))
            }
            None if spec.masking.is_some() => {
                let masking = &self.config.masking;
                let tokens = masking.block;
                let masked = (masking.selected * tokens as f64).round() as usize;
                Ok((tokens as f64, spec.block_flops(tokens, masked)))
            }
            None => {
                let examples = self.some_examples(spec)?;
                let of = |e: &Example| spec.generation_flops(e.prompt.len(), e.target.len());
                let tokens: usize = (examples.iter())
                    .map(|e| e.prompt.len() + e.target.len())
                    .sum();
                let flops: f64 = examples.iter().map(of).sum();
                let count = examples.len() as f64;
                Ok((tokens as f64 / count, flops / count))
            }
        }
    }

    /// BM25 over the passages, made when it is first asked for.
    pub fn bm25(&self) -> Result<&Bm25, ExperimentError> {
        if let Some(bm25) = self.bm25.get() {
            return Ok(bm25);
        }
        let made = Bm25::of_corpus(&self.dataset.corpus, &Bm25Options::default());
        let made = made.map_err(RetrieveError::from)?;
        Ok(self.bm25.get_or_init(|| made))
    }

    /// Where the index of n-grams lies, if there is one.
    pub fn index_path(&self) -> PathBuf {
        index_path(&self.config.out, self.pseudo_queries.as_ref())
    }

    /// Tokens of prompt and target of a typical example of what a generative model learns: the means over some.
    pub fn typical_example(&self, spec: &ModelSpec) -> Result<(usize, usize), ExperimentError> {
        let examples = self.some_examples(spec)?;
        let mean = |len: fn(&Example) -> usize| {
            let sum: usize = examples.iter().map(len).sum();
            sum.div_ceil(examples.len())
        };
        Ok((mean(|e| e.prompt.len()), mean(|e| e.target.len())))
    }

    /// Examples of what a generative model learns, mixed as an epoch is.
    fn some_examples(&self, spec: &ModelSpec) -> Result<Vec<Example>, ExperimentError> {
        let pairs = self.pairs(self.config.data.fraction)?;
        let (some, task) = match spec.objective.task {
            // Some pairs beside all passages and pseudo-queries would be another mixture.
            task @ (Task::Views | Task::Docids) => (pairs, task),
            // Identifiers are as long whatever is learned of them.
            Task::Prefixes => (some_of(&pairs), Task::Docids),
            Task::Queries => (some_of(&pairs), Task::Queries),
            _ => (some_of(&pairs), Task::Ngrams),
        };
        Ok(self.source(&some, task, spec.docid_method(), 0)?.epoch(0)?)
    }

    /// Where the model of `spec` lies or will lie.
    pub fn model_folder(&self, spec: &ModelSpec) -> PathBuf {
        self.config.out.join("models").join(config::hash(spec))
    }

    /// Trains the model of `spec` on `devices`, the first of which holds it, or opens it if its folder is
    /// finished.
    pub fn train(
        &self,
        spec: &ModelSpec,
        devices: &[Device],
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<TrainedModel, ExperimentError> {
        let (device, replicas) = devices.split_first().expect("a device is always named");
        let (config, folder) = (&self.config, self.model_folder(spec));
        if TrainedModel::is_in(&folder) {
            let trained = TrainedModel::open(&folder, device)?;
            discard_checkpoint(&folder)?;
            return Ok(trained);
        }
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        let mut model = spec.begin(&device.clone().autodiff())?;
        if let Some(docids) = &spec.docids
            && let set = self.docids(docids.options.method)
            && let Some((centroids, dims)) = set.docids.centroids()
            && !set.is_learned_by(spec.start.as_ref())?
        {
            let first = self.tokenizer.vocab_size();
            model = model.with_token_vectors(first, centroids, dims, spec.seed);
        }
        let pairs = self.pairs(spec.fraction)?;
        let validation = self.validation_pairs()?;
        let (task, seed) = (spec.objective.task, spec.seed);
        let groups = |pairs: &[(u64, Pair)], split: &str, seed, known| {
            let grouping = spec.grouping().expect("the task learns from groups");
            self.groups(pairs, split, &grouping, seed, known)
        };
        let (train_split, validation_split) = (&config.data.train, &config.data.validation);
        let (model, summary) = match (&spec.representation, &spec.masking, &spec.prefixes) {
            (None, Some(masking), _) => {
                let blocks = self.blocks(masking)?;
                let objective = Masked {
                    blocks: &blocks.train,
                    masker: &blocks.masker,
                    validation: &blocks.validation,
                    seed,
                    flops: &|tokens, masked| spec.block_flops(tokens, masked),
                };
                self.run(spec, &objective, replicas, &folder, model, progress)?
            }
            (None, None, Some(prefixes)) => {
                let validation = groups(&validation, validation_split, config.seed, true)?;
                let objective = Prefixes {
                    source: &groups(&pairs, train_split, seed, false)?,
                    validation: &validation.epoch(0)?,
                    options: &spec.objective.prefixes,
                    lengths: &prefixes.lengths,
                    teacher_scale: prefixes.contrast.teacher_scale,
                    flops: &|prompt, id| spec.generation_flops(prompt, id),
                };
                self.run(spec, &objective, replicas, &folder, model, progress)?
            }
            (None, None, None) => {
                let method = spec.docid_method();
                let validation = self.validation_source(&validation, task, method)?;
                let validation = validation.epoch(0)?;
                let objective = Generation {
                    source: &*self.source(&pairs, task, method, seed)?,
                    validation: &validation,
                    flops: &|prompt, target| spec.generation_flops(prompt, target),
                };
                self.run(spec, &objective, replicas, &folder, model, progress)?
            }
            (Some(representation), _, _) => {
                model.check_both_ways(&representation.encoder)?;
                let validation = groups(&validation, validation_split, config.seed, true)?;
                let objective = Contrastive {
                    source: &groups(&pairs, train_split, seed, false)?,
                    validation: &validation.epoch(0)?,
                    encoder: &representation.encoder,
                    options: &representation.contrast,
                    loss: task.loss().expect("representations are learned by a loss"),
                    seed,
                    flops: &|tokens| spec.text_flops(tokens),
                };
                self.run(spec, &objective, replicas, &folder, model, progress)?
            }
        };
        let trained = TrainedModel::save(model.valid(), spec, summary, &self.tokenizer, &folder)?;
        discard_checkpoint(&folder)?;
        Ok(trained)
    }

    fn run(
        &self,
        spec: &ModelSpec,
        objective: &impl Objective,
        replicas: &[Device],
        folder: &Path,
        model: Model,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(Model, TrainSummary), ExperimentError> {
        let mut run = TrainRun {
            objective,
            options: &spec.train,
            seed: spec.seed,
            peak_flops: self.config.peak_flops,
            replicas,
            folder,
            progress,
        };
        Ok(run.run(model)?)
    }

    /// The queries of `split` that are decoded and measured: those with a relevant passage, at most
    /// `evaluate.queries` of them, chosen by the seed.
    pub fn queries(&self, split: &str) -> Result<Vec<Query>, ExperimentError> {
        let qrels = self.dataset.qrels(split)?;
        let judged: Vec<&Query> = self
            .dataset
            .queries
            .iter()
            .filter(|q| qrels.relevant(q.id.as_str()).next().is_some())
            .collect();
        if judged.is_empty() {
            return Err(ExperimentError::EmptySplit {
                split: split.into(),
            });
        }
        let share = (self.config.evaluate.queries as f64 / judged.len() as f64).min(1.0);
        let chosen = nested_subset(self.config.seed, judged.len(), share);
        Ok(chosen.into_iter().map(|i| judged[i].clone()).collect())
    }

    /// The cases of the contrastive generation loss, the same for every model of the experiment: with other spans for
    /// models of docids, whose spans are identifiers, and the same queries, passages and negatives. A model of several
    /// views is measured on spans of texts if it has learned those.
    pub fn contrastive_cases(
        &self,
        spec: &ModelSpec,
    ) -> Result<Vec<ContrastiveCase>, ExperimentError> {
        let options = &self.config.evaluate;
        let split = &options.splits[0];
        let qrels = self.dataset.qrels(split)?;
        let mut queries = self.queries(split)?;
        queries.truncate(options.cgl_queries);
        let options = CaseOptions {
            seed: self.config.seed,
            negatives: options.cgl_negatives,
            span: SpanOptions {
                draws: options.cgl_spans,
                ..self.config.objective.span.clone()
            },
            template: self.template(),
        };
        let corpus = &self.dataset.corpus;
        if let Some(docids) = &spec.docids
            && spec.objective.learned().body == 0.0
        {
            let ids = &self.docids(docids.options.method).ids;
            let find = |doc: &str| corpus.find(doc);
            return docid_cases(ids, &find, &self.tokenizer, &queries, qrels, &options);
        }
        contrastive_cases(
            corpus,
            &self.passages,
            &self.tokenizer,
            &queries,
            qrels,
            &options,
        )
    }
}

/// Hashes of the files that negatives and, where one is distilled, a teacher's scores come from.
fn contrast_files(
    contrast: &ContrastOptions,
    distilled: bool,
) -> Result<Vec<u64>, ExperimentError> {
    let teacher = contrast.teacher_file().filter(|_| distilled);
    let files = [contrast.negatives_file(), teacher].into_iter().flatten();
    let hash = |path: &Path| {
        let bytes = fs::read(path).map_err(io_error(path))?;
        Ok(xxhash_rust::xxh3::xxh3_64(&bytes))
    };
    files.map(hash).collect()
}

/// Where the index of n-grams lies, of the passages or of them and their pseudo-queries.
fn index_path(out: &Path, pseudo_queries: Option<&PseudoQueries>) -> PathBuf {
    out.join(match pseudo_queries {
        Some(queries) => format!("index-queries-{:016x}.genret", queries.fingerprint()),
        None => "index.genret".into(),
    })
}

/// The index of all n-grams of the passages, built at `path` if it is not there.
fn ngram_index(
    path: &Path,
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    passages: &[PassageTokens],
    told: &mut dyn FnMut(&str),
) -> Result<NgramIndex, ExperimentError> {
    if !path.exists() {
        told("building the n-gram index");
        let hint = path.with_file_name("tokenizer.json").display().to_string();
        let (vocab, fingerprint) = (tokenizer.vocab_size(), tokenizer.fingerprint());
        let mut builder = IndexBuilder::new(vocab, fingerprint, &hint, IndexOptions::default())?;
        for (passage, tokens) in corpus.passages().iter().zip(passages) {
            let (id, queries) = (passage.id.as_str(), &tokens.queries);
            builder.push_with_queries(id, &tokens.title, &tokens.body, queries)?;
        }
        builder.write(path)?;
    }
    let index = NgramIndex::open(path)?;
    index.check_tokenizer(tokenizer.fingerprint())?;
    Ok(index)
}

/// The passages of an index, read back from their tokens, for what needs words as well.
///
/// # Errors
/// [`ExperimentError::NotReversible`] for a passage whose text would be tokenised otherwise.
pub fn corpus_of_index(
    index: &LiveIndex,
    tokenizer: &Tokenizer,
) -> Result<(Corpus, Vec<PassageTokens>), ExperimentError> {
    let mut tokens = vec![];
    let mut indexed = vec![];
    let passages = index.passages().map(|passage| {
        index.passage_tokens(passage, &mut tokens);
        indexed.push(tokens.clone());
        // A field is tokenised after one space.
        let text = tokenizer.decode(&tokens);
        Passage {
            id: index.doc_id(passage).into(),
            title: String::new(),
            text: text.strip_prefix(' ').unwrap_or(&text).into(),
        }
    });
    let corpus = Corpus::from_passages(passages.collect())?;
    let passages = corpus_tokens(tokenizer, corpus.passages())?;
    let differs = indexed
        .iter()
        .zip(&passages)
        .position(|(a, b)| *a != b.body);
    match differs {
        Some(at) => Err(ExperimentError::NotReversible {
            doc: corpus.passages()[at].id.to_string(),
        }),
        None => Ok((corpus, passages)),
    }
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> ExperimentError {
    let path = path.to_path_buf();
    move |source| ExperimentError::Io { path, source }
}

/// Reads a JSON file of the experiment.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ExperimentError> {
    let text = fs::read_to_string(path).map_err(io_error(path))?;
    serde_json::from_str(&text).map_err(|e| ExperimentError::Damaged {
        path: path.into(),
        message: e.to_string(),
    })
}

/// Writes a JSON file of the experiment.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ExperimentError> {
    atomic_file::write(path, |w| Ok(serde_json::to_writer_pretty(w, value)?))
        .map_err(io_error(path))
}
