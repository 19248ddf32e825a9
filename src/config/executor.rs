//! Where the models of a sweep are trained and measured, as a configuration file writes it.

use serde::{Deserialize, Serialize};

/// Where the models of a sweep are trained and measured. Nothing here changes a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorOptions {
    /// On this machine, or as an array of Slurm tasks.
    pub kind: ExecutorKind,
    /// Worker processes of a local run; 1 works in the process itself. The machine's threads are
    /// divided among them.
    pub workers: usize,
    /// Memory that the workers of a local run may use together, in GB (1e9 bytes); by default what the
    /// machine says is available.
    pub memory_gb: Option<f64>,
    /// Seconds without a sign of life after which a model on another machine is taken up again.
    pub stale_secs: f64,
    /// The array job.
    pub slurm: SlurmOptions,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        Self {
            kind: ExecutorKind::Local,
            workers: 1,
            memory_gb: None,
            stale_secs: 120.0,
            slurm: SlurmOptions::default(),
        }
    }
}

/// The kinds of executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorKind {
    /// Processes on this machine.
    Local,
    /// An array of Slurm tasks, one per model, and a job that fits and draws after them.
    Slurm,
}

impl std::str::FromStr for ExecutorKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Local),
            "slurm" => Ok(Self::Slurm),
            _ => Err(format!("`{text}` is no executor; expected local or slurm")),
        }
    }
}

/// What an array job asks of Slurm for each of its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmOptions {
    /// Partition; by default the cluster's.
    pub partition: Option<String>,
    /// Account that is charged; by default the user's.
    pub account: Option<String>,
    /// Time limit of a task, as sbatch writes it; a task that reaches it is queued again and goes on.
    pub time: String,
    /// Processor cores of a task, also its number of threads.
    pub cpus: usize,
    /// GPUs of a task; 0 asks for none.
    pub gpus: usize,
    /// Memory of a task in GB (1e9 bytes); by default 1.25 times the estimate for the largest model.
    pub memory_gb: Option<f64>,
    /// Tasks that run at the same time; by default as many as the cluster allows.
    pub max_running: Option<usize>,
    /// Seconds before the time limit at which a task saves its state and is queued again.
    pub signal_secs: u64,
    /// When the laws are fitted: after all tasks succeeded, or after all ended.
    pub fit_after: FitAfter,
    /// Further `#SBATCH` options of tasks and fit, such as `--qos=long`.
    pub options: Vec<String>,
    /// Shell lines that tasks and fit run first, such as `module load gcc`.
    pub setup: Vec<String>,
}

impl Default for SlurmOptions {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            time: "24:00:00".into(),
            cpus: 4,
            gpus: 0,
            memory_gb: None,
            max_running: None,
            signal_secs: 120,
            fit_after: FitAfter::Ok,
            options: vec![],
            setup: vec![],
        }
    }
}

/// What the fit of an array job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FitAfter {
    /// All tasks succeeded (`afterok`); it is cancelled when one has failed.
    Ok,
    /// All tasks ended (`afterany`): the laws of what is there.
    Any,
}

impl ExecutorOptions {
    /// Says what is wrong with the options, if anything.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("executor.workers", self.workers),
            ("executor.slurm.cpus", self.slurm.cpus),
            (
                "executor.slurm.max_running",
                self.slurm.max_running.unwrap_or(1),
            ),
        ] {
            if value == 0 {
                return Err(format!("{name} = 0 must be at least 1"));
            }
        }
        for (name, value) in [
            ("executor.memory_gb", self.memory_gb.unwrap_or(1.0)),
            ("executor.stale_secs", self.stale_secs),
            (
                "executor.slurm.memory_gb",
                self.slurm.memory_gb.unwrap_or(1.0),
            ),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(format!("{name} = {value} must be positive"));
            }
        }
        let slurm = &self.slurm;
        let words = slurm.partition.iter().chain(&slurm.account);
        for text in words.chain([&slurm.time]).chain(&slurm.options) {
            if text.is_empty() || text.contains(['\n', '\r']) {
                return Err(format!(
                    "executor.slurm: {text:?} must be one line that is not empty"
                ));
            }
        }
        match slurm.options.iter().find(|o| !o.starts_with('-')) {
            Some(option) => Err(format!(
                "executor.slurm.options: `{option}` is no option of sbatch, such as --qos=long"
            )),
            None => Ok(()),
        }
    }
}
