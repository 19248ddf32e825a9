//! Rows of JSON lines: one per training step, one per finished cell of a sweep.
//!
//! A row is a flat JSON object. Files are append-only; a line that was cut by a crash is dropped
//! when the file is next opened for writing, and is never counted as a row.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the row layout; a reader refuses rows of a later one.
pub const SCHEMA: u32 = 1;

/// Why rows could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not a row of the expected kind.
    #[error("{}:{line}: {message}; remove the line, or the file to start again", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was wrong with it.
        message: String,
    },
}

/// The rows of `path`; none if the file does not exist. A last line without an end is ignored.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, RecordError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(source) => {
            return Err(RecordError::Io {
                path: path.into(),
                source,
            });
        }
    };
    let mut reader = BufReader::new(file);
    let mut rows = vec![];
    let mut text = String::new();
    for line in 1.. {
        text.clear();
        let read = reader
            .read_line(&mut text)
            .map_err(|source| RecordError::Io {
                path: path.into(),
                source,
            })?;
        if read == 0 || !text.ends_with('\n') {
            break;
        }
        rows.push(serde_json::from_str(&text).map_err(|e| RecordError::Row {
            path: path.into(),
            line,
            message: e.to_string(),
        })?);
    }
    Ok(rows)
}

/// Appends rows to a file, each with one write.
pub struct RowWriter {
    file: File,
    path: PathBuf,
}

impl RowWriter {
    /// Opens `path` for appending after its first `keep` rows; whatever follows is cut off.
    pub fn open(path: &Path, keep: usize) -> Result<Self, RecordError> {
        let io_error = |source| RecordError::Io {
            path: path.into(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)
            .map_err(io_error)?;
        let mut reader = BufReader::new(&file);
        let (mut end, mut text) = (0, vec![]);
        for _ in 0..keep {
            text.clear();
            let read = reader.read_until(b'\n', &mut text).map_err(io_error)?;
            if read == 0 || !text.ends_with(b"\n") {
                break;
            }
            end += read as u64;
        }
        file.set_len(end).map_err(io_error)?;
        Ok(Self {
            file,
            path: path.into(),
        })
    }

    /// Appends one row.
    pub fn write(&mut self, row: &impl Serialize) -> Result<(), RecordError> {
        let mut line = serde_json::to_vec(row).expect("rows hold numbers and text only");
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| RecordError::Io {
                path: self.path.clone(),
                source,
            })
    }

    /// Waits until everything appended is on the disk.
    pub fn sync(&self) -> Result<(), RecordError> {
        self.file.sync_data().map_err(|source| RecordError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// One optimiser update.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub struct StepRow {
    /// Updates done, from 1.
    pub step: u64,
    /// Mean loss of the step's target tokens, in nats.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Examples seen so far.
    pub examples_seen: u64,
    /// Tokens seen so far, prompts and targets.
    pub tokens_seen: u64,
    /// Training FLOPs so far.
    pub flops: f64,
    /// Mean loss per target token on the validation examples, on steps that measured it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_loss: Option<f64>,
    /// Tokens per second of this step.
    pub tokens_per_sec: f64,
    /// FLOP/s of this step, as a share of what the devices can do at their best, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub utilisation: Option<f64>,
    /// The most memory that the process has held so far, in bytes, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_bytes: Option<u64>,
    /// What the representations of the step looked like, where some are learned.
    #[serde(flatten)]
    pub representations: Option<Representations>,
}

/// What the representations of a training step looked like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
pub struct Representations {
    /// Passages that every query of the step was compared with.
    pub pool: u64,
    /// The contrastive part of the loss, in nats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub contrastive: Option<f64>,
    /// The distilled part of the loss.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub distillation: Option<f64>,
    /// The regulariser's part of the loss.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub regulariser: Option<f64>,
    /// Mean active terms of the queries.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub query_terms: Option<f64>,
    /// Mean active terms of the passages.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub passage_terms: Option<f64>,
    /// Share of queries and passages without any active term.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dead: Option<f64>,
    /// Terms that are active in every passage.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub always_on: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_is_dropped_and_rows_can_be_kept() {
        let path = std::env::temp_dir().join(format!("genret-rows-{}", std::process::id()));
        std::fs::write(&path, "1\n2\n3\n4").unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [1, 2, 3]);
        let mut writer = RowWriter::open(&path, 2).unwrap();
        writer.write(&9).unwrap();
        writer.sync().unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [1, 2, 9]);
        let mut writer = RowWriter::open(&path, usize::MAX).unwrap();
        writer.write(&8).unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [1, 2, 9, 8]);
        std::fs::write(&path, "1\nx\n").unwrap();
        let message = read::<u32>(&path).unwrap_err().to_string();
        assert!(message.contains(":2:"), "{message}");
        std::fs::remove_file(&path).unwrap();
    }
}
