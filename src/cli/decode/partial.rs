//! Files that grow batch by batch and outlive an interruption.
//!
//! While work goes on each file is `NAME.partial`, and `FIRST.partial.json` says how many items are done and how many
//! bytes of each file they take. What was begun with other settings, or is not whole, is begun again.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::experiment::{read_json, write_json};

/// Output files of one run.
pub(super) struct Partial {
    paths: Vec<PathBuf>,
    files: Vec<File>,
    state_path: PathBuf,
    state: State,
}

#[derive(Serialize, Deserialize)]
struct State {
    /// Hash of everything that decides the result.
    identity: String,
    /// Items done.
    done: usize,
    /// Bytes of each file they take.
    bytes: Vec<u64>,
}

impl Partial {
    /// Opens what is left of a run with the same `identity`, or begins one. `what` names the items.
    pub(super) fn open(paths: &[&Path], identity: String, what: &str) -> Result<Self> {
        let state_path = beside(paths[0], ".partial.json");
        let is_whole = |state: &State| {
            let whole = |(path, bytes): (&&Path, &u64)| {
                let file = fs::metadata(beside(path, ".partial"));
                file.is_ok_and(|file| file.len() >= *bytes)
            };
            state.identity == identity
                && state.bytes.len() == paths.len()
                && paths.iter().zip(&state.bytes).all(whole)
        };
        let kept = if state_path.exists() {
            Some(read_json::<State>(&state_path)?).filter(is_whole)
        } else {
            None
        };
        let state = kept.unwrap_or_else(|| State {
            identity,
            done: 0,
            bytes: vec![0; paths.len()],
        });
        if state.done > 0 {
            eprintln!("continuing after {} {what}", state.done);
        }
        let open = |(path, bytes): (&&Path, &u64)| -> Result<File> {
            let path = beside(path, ".partial");
            let mut options = OpenOptions::new();
            let file = options.create(true).truncate(false).write(true).open(&path);
            let mut file = file.with_context(|| format!("opening {}", path.display()))?;
            file.set_len(*bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let files = paths.iter().zip(&state.bytes).map(open);
        Ok(Self {
            files: files.collect::<Result<_>>()?,
            paths: paths.iter().map(|p| p.to_path_buf()).collect(),
            state_path,
            state,
        })
    }

    /// Items that are done.
    pub(super) fn done(&self) -> usize {
        self.state.done
    }

    /// Adds what `items` more items gave, one text per file, and makes it last.
    pub(super) fn add(&mut self, items: usize, texts: &[Vec<u8>]) -> Result<()> {
        for ((file, text), bytes) in self.files.iter_mut().zip(texts).zip(&mut self.state.bytes) {
            file.write_all(text)?;
            file.sync_data()?;
            *bytes = file.stream_position()?;
        }
        self.state.done += items;
        Ok(write_json(&self.state_path, &self.state)?)
    }

    /// Gives the files their names. The first one last: where it is, the others are.
    pub(super) fn finish(self) -> Result<()> {
        for path in self.paths.iter().rev() {
            fs::rename(beside(path, ".partial"), path)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        if self.state_path.exists() {
            fs::remove_file(&self.state_path)?;
        }
        Ok(())
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
