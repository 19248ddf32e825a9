//! What a configuration names, opened or made: data, tokenizer, index, examples, models.
//!
//! Everything lands in the configuration's `out` folder and is made once: the embedded corpus in
//! `data/`, `tokenizer.json`, `index.genret`, a folder per trained model in `models/`. A rerun
//! finds what is there and refuses what was made from other settings.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::config::{self, Config, ConfigError, Task};
use crate::data::example::{
    Example, ExampleError, ExampleMaker, PassageTokens, SpanOptions, Template, corpus_tokens,
    nested_subset,
};
use crate::data::trec::TrecError;
use crate::data::{Corpus, DataError, Dataset, Pair, synth};
use crate::decode::cgl::ContrastiveCase;
use crate::index::{IndexBuilder, IndexError, IndexOptions, LiveIndex, NgramIndex, SubstringIndex};
use crate::model::{ModelError, ModelOptions, hub};
use crate::record::{self, RecordError};
use crate::retrieve::RetrieveError;
use crate::tokenizer::{self, Tokenizer, TokenizerError};
use crate::train::{ExampleSource, Progress, TrainError, TrainRun};
use crate::types::{Passage, Query};

/// Version of genret and the commit it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("GENRET_COMMIT"));

/// Why an experiment cannot be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Passages, queries or judgements.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Judgements or runs.
    #[error(transparent)]
    Trec(#[from] TrecError),
    /// The embedded corpus.
    #[error(transparent)]
    Synth(#[from] synth::SynthError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Training examples.
    #[error(transparent)]
    Example(#[from] ExampleError),
    /// The n-gram index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A model or its files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Decoding and ranking.
    #[error(transparent)]
    Retrieve(#[from] RetrieveError),
    /// Rows of results.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file of the experiment could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the experiment is not what was written.
    #[error("{}: {message}; remove it, it will be made again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A later version of genret wrote the file.
    #[error("{}: written with layout {found}, this version knows {}; use a later genret", path.display(), record::SCHEMA)]
    Later {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// A folder that does not hold a model.
    #[error("{} holds neither genret.json nor config.json nor adapter_config.json: expected a folder that `genret train` finished, or a Hugging Face checkpoint", path.display())]
    NotAModel {
        /// The folder.
        path: PathBuf,
    },
    /// The checkpoint that a model starts from is not what it was.
    #[error(
        "checkpoint `{checkpoint}` has changed since training began: put it back, or train again in another `out`"
    )]
    OtherStart {
        /// Folder or name.
        checkpoint: String,
    },
    /// The folder was made with other settings.
    #[error("{} was made with other settings of {what}; choose another `out` or remove the folder", path.display())]
    OtherSettings {
        /// The folder.
        path: PathBuf,
        /// Which settings.
        what: &'static str,
    },
    /// A split without queries.
    #[error("split `{split}` has no queries with relevant passages")]
    EmptySplit {
        /// The split.
        split: String,
    },
    /// A passage that its tokens do not give back.
    #[error(
        "passage `{doc}` of the index does not read back from its tokens: its text is not what was indexed; rebuild with `genret index build`"
    )]
    NotReversible {
        /// The passage.
        doc: String,
    },
}

/// A configuration with its data, tokenizer and index opened.
pub struct Experiment {
    /// The configuration.
    pub config: Config,
    /// Passages, queries and judgements.
    pub dataset: Dataset,
    /// The tokenizer of models and index.
    pub tokenizer: Tokenizer,
    /// All n-grams of the passages' bodies.
    pub index: NgramIndex,
    passages: Vec<PassageTokens>,
    collection: u64,
}

mod cases;
mod trained;

pub use cases::{CaseOptions, contrastive_cases};
pub use trained::{ModelRecord, ModelSpec, OpenedModel, Start, TrainedModel};

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
                    };
                    Tokenizer::train(&texts, options)?.save(&tokenizer_path)?;
                }
            }
        }
        let tokenizer = Tokenizer::load(&tokenizer_path)?;
        told("tokenising passages");
        let passages = corpus_tokens(&tokenizer, dataset.corpus.passages())?;
        let index_path = out.join("index.genret");
        if !index_path.exists() {
            told("building the n-gram index");
            let hint = tokenizer_path.display().to_string();
            let fingerprint = tokenizer.fingerprint();
            let options = IndexOptions::default();
            let mut builder =
                IndexBuilder::new(tokenizer.vocab_size(), fingerprint, &hint, options)?;
            for (passage, tokens) in dataset.corpus.passages().iter().zip(&passages) {
                builder.push(passage.id.as_str(), &tokens.title, &tokens.body)?;
            }
            builder.write(&index_path)?;
        }
        let index = NgramIndex::open(&index_path)?;
        index.check_tokenizer(tokenizer.fingerprint())?;
        Ok(Self {
            config,
            dataset,
            tokenizer,
            index,
            passages,
            collection: prepared.collection,
        })
    }

    /// The prompts of the experiment.
    pub fn template(&self) -> &Template {
        &self.config.objective.template
    }

    /// Everything that makes a model of shape `options` trained on `fraction` of the pairs that
    /// `data.fraction` leaves.
    pub fn model_spec(
        &self,
        options: &ModelOptions,
        fraction: f64,
        seed: u64,
    ) -> Result<ModelSpec, ExperimentError> {
        let data = &self.config.data;
        let fraction = fraction * data.fraction;
        let pairs = self.pairs(fraction)?;
        let objective = self.config.objective.clone();
        let source = self.source(&pairs, seed)?;
        let (model, start, lora) = ModelSpec::resolve(options, self.tokenizer.vocab_size())?;
        Ok(ModelSpec {
            model,
            start,
            lora,
            collection: self.collection,
            tokenizer: self.tokenizer.fingerprint(),
            split: data.train.clone(),
            fraction,
            subset_seed: self.config.seed,
            num_pairs: pairs.len(),
            num_examples: source.len(),
            validation: (data.validation.clone(), data.validation_queries),
            objective,
            train: self.config.train.clone(),
            seed,
        })
    }

    /// Tokens of prompt and target of a typical training example: the means over some pairs.
    pub fn typical_example(&self) -> Result<(usize, usize), ExperimentError> {
        let pairs = self.pairs(self.config.data.fraction)?;
        let some = &pairs[..pairs.len().min(200)];
        let examples = self.source(some, 0)?.epoch(0)?;
        let mean = |len: fn(&Example) -> usize| {
            examples
                .iter()
                .map(len)
                .sum::<usize>()
                .div_ceil(examples.len())
        };
        Ok((mean(|e| e.prompt.len()), mean(|e| e.target.len())))
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
            TrainRun::discard_checkpoint(&folder)?;
            return Ok(trained);
        }
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        let pairs = self.pairs(spec.fraction)?;
        let validation = self.validation()?;
        let (counts, cost) = (spec.model.counts(), spec.training_cost());
        let (model, summary) = TrainRun {
            source: &self.source(&pairs, spec.seed)?,
            validation: &validation,
            options: &spec.train,
            seed: spec.seed,
            flops: &|prompt, target| counts.train(prompt, target, cost),
            peak_flops: config.peak_flops,
            replicas,
            folder: &folder,
            progress,
        }
        .run(spec.begin(&device.clone().autodiff())?)?;
        let trained = TrainedModel::save(model.valid(), spec, summary, &self.tokenizer, &folder)?;
        TrainRun::discard_checkpoint(&folder)?;
        Ok(trained)
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

    /// The cases of the contrastive generation loss, the same for every model of the experiment.
    pub fn contrastive_cases(&self) -> Result<Vec<ContrastiveCase>, ExperimentError> {
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
        contrastive_cases(
            corpus,
            &self.passages,
            &self.tokenizer,
            &queries,
            qrels,
            &options,
        )
    }

    /// That share of the training pairs, with their place among all pairs, by which their spans are drawn: a pair has the
    /// same spans in every fraction.
    fn pairs(&self, fraction: f64) -> Result<Vec<(u64, Pair)>, ExperimentError> {
        let split = &self.config.data.train;
        let pairs = self.dataset.pairs(split)?;
        if pairs.is_empty() {
            return Err(ExperimentError::EmptySplit {
                split: split.clone(),
            });
        }
        // The subset depends on the configuration's seed alone, so that all models of a fraction
        // see the same pairs.
        let chosen = nested_subset(self.config.seed, pairs.len(), fraction);
        Ok(chosen.into_iter().map(|i| (i as u64, pairs[i])).collect())
    }

    fn source<'a>(
        &'a self,
        pairs: &[(u64, Pair)],
        seed: u64,
    ) -> Result<PairSource<'a>, ExperimentError> {
        let objective = &self.config.objective;
        let maker = ExampleMaker::new(
            &self.tokenizer,
            objective.template.clone(),
            objective.span.clone(),
        )?;
        let titles = pairs
            .iter()
            .filter(|(_, p)| objective.titles && !self.passages[p.passage.index()].title.is_empty())
            .count();
        let len = match objective.task {
            Task::Ngrams => pairs.len() * objective.span.draws + titles,
            Task::Queries => pairs.len(),
        };
        Ok(PairSource {
            experiment: self,
            len,
            pairs: pairs.to_vec(),
            maker,
            seed,
        })
    }

    fn validation(&self) -> Result<Vec<Example>, ExperimentError> {
        let data = &self.config.data;
        if data.validation.is_empty() {
            return Ok(vec![]);
        }
        let pairs = self.dataset.pairs(&data.validation)?;
        let share = (data.validation_queries as f64 / pairs.len().max(1) as f64).min(1.0);
        let chosen: Vec<(u64, Pair)> = nested_subset(self.config.seed, pairs.len(), share)
            .into_iter()
            .map(|i| (i as u64, pairs[i]))
            .collect();
        Ok(self.source(&chosen, self.config.seed)?.epoch(0)?)
    }
}

/// Training examples of (query, passage) pairs.
struct PairSource<'a> {
    experiment: &'a Experiment,
    pairs: Vec<(u64, Pair)>,
    len: usize,
    maker: ExampleMaker<'a>,
    seed: u64,
}

impl ExampleSource for PairSource<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn epoch(&self, epoch: u64) -> Result<Vec<Example>, ExampleError> {
        let experiment = self.experiment;
        let corpus = &experiment.dataset.corpus;
        let of_pair = |(place, pair): &(u64, Pair)| {
            let query = &experiment.dataset.queries[pair.query].text;
            let tokens = &experiment.passages[pair.passage.index()];
            if experiment.config.objective.task == Task::Queries {
                return Ok(vec![self.maker.query(query, tokens)?]);
            }
            let passage = corpus.passage(pair.passage);
            let mut examples = self
                .maker
                .ngram(query, passage, tokens, self.seed, epoch, *place)?;
            if experiment.config.objective.titles {
                examples.extend(self.maker.title(query, tokens)?);
            }
            Ok(examples)
        };
        let examples: Result<Vec<Vec<Example>>, ExampleError> =
            self.pairs.par_iter().map(of_pair).collect();
        Ok(examples?.into_iter().flatten().collect())
    }
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
