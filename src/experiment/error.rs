//! Why an experiment cannot be opened or run.

use std::path::PathBuf;

use crate::config::ConfigError;
use crate::data::example::ExampleError;
use crate::data::masking::MaskingError;
use crate::data::trec::TrecError;
use crate::data::{DataError, synth};
use crate::docid::DocidError;
use crate::index::IndexError;
use crate::model::ModelError;
use crate::record::{self, RecordError};
use crate::retrieve::RetrieveError;
use crate::tokenizer::TokenizerError;
use crate::train::TrainError;

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
    /// Masked blocks.
    #[error(transparent)]
    Masking(#[from] MaskingError),
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
    /// A run of a teacher that does not tell what is to be learned.
    #[error(
        "{}: no scores for query `{query}` of {what}: score them with `genret teach`, or lower contrast.per_query",
        path.display()
    )]
    Unscored {
        /// The run.
        path: PathBuf,
        /// The query.
        query: String,
        /// Which passages lack a score.
        what: &'static str,
    },
    /// A corpus that is smaller than what a query is to be compared with.
    #[error(
        "contrast.per_query = {wanted}: the corpus has {corpus} passages, too few for as many negatives"
    )]
    FewPassages {
        /// Negatives per query.
        wanted: usize,
        /// Passages of the corpus.
        corpus: usize,
    },
    /// A model that was not trained to represent texts.
    #[error(
        "{} was not trained to represent texts: expected a sparse or dense model, trained with objective.task = \"cl\", \"kd\" or \"cl+kd\"",
        path.display()
    )]
    NoEncoder {
        /// Its folder.
        path: PathBuf,
    },
    /// Prefixes are ranked by a model that knows no identifiers, or others.
    #[error(
        "objective.task = \"prefixes\" goes on from a model that writes the same identifiers ({method}): train one with objective.task = \"docids\" and the same [data], [tokenizer] and [docids], and give its folder as model.size (of a sweep in sweep.sizes), its tokenizer.json as tokenizer.path"
    )]
    NotLearned {
        /// How the identifiers are made.
        method: &'static str,
    },
    /// Lengths of prefixes that do not fit the identifiers.
    #[error("objective.prefixes: {0}")]
    Prefixes(String),
    /// Identifiers of passages.
    #[error(transparent)]
    Docid(#[from] DocidError),
    /// A passage that its tokens do not give back.
    #[error(
        "passage `{doc}` of the index does not read back from its tokens: its text is not what was indexed; rebuild with `genret index build`"
    )]
    NotReversible {
        /// The passage.
        doc: String,
    },
}
