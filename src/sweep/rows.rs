//! The rows of a sweep: one file per cell, safe for many writers, collected into one table.
//!
//! `rows/MODEL-SETTINGS-beamW.json` is written whole by whoever finished the cell: two writers of one cell write
//! the same row, and none ever touches another's file. `runs.jsonl` is the table of all of them, written
//! anew from the files by one process at a time; it is an export and may be late, never wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{CellRow, SweepError};
use crate::atomic_file;
use crate::config::Config;
use crate::experiment::{ExperimentError, read_json};
use crate::record;

/// What tells one row from another.
type Key = (String, String, u64);

fn key(row: &CellRow) -> Key {
    (row.model.clone(), row.settings.clone(), row.beam)
}

fn folder(out: &Path) -> PathBuf {
    out.join("rows")
}

/// All rows of the experiment's folder, whatever settings they were measured with: those of `runs.jsonl` in its
/// order, then those that are not in it yet.
///
/// # Errors
/// A damaged row, or one that a later version of genret wrote.
pub fn read_rows(config: &Config) -> Result<Vec<CellRow>, SweepError> {
    let table = config.out.join("runs.jsonl");
    let mut rows: Vec<CellRow> = record::read(&table)?;
    check_schema(&table, &rows)?;
    let mut place: BTreeMap<Key, usize> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        place.insert(key(row), index);
    }
    for path in row_files(&folder(&config.out))? {
        let row: CellRow = read_json(&path)?;
        check_schema(&path, std::slice::from_ref(&row))?;
        match place.get(&key(&row)) {
            Some(&index) => rows[index] = row,
            None => {
                place.insert(key(&row), rows.len());
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

fn check_schema(path: &Path, rows: &[CellRow]) -> Result<(), SweepError> {
    match rows.iter().find(|row| row.schema > record::SCHEMA) {
        Some(row) => Err(ExperimentError::Later {
            path: path.into(),
            found: row.schema,
        }
        .into()),
        None => Ok(()),
    }
}

fn row_files(folder: &Path) -> Result<Vec<PathBuf>, SweepError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(SweepError::io(folder))?,
    };
    let mut paths = vec![];
    for entry in entries {
        let path = entry.map_err(SweepError::io(folder))?.path();
        let hidden = path
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The file of the row of one cell.
pub(super) fn row_path(out: &Path, model: &str, settings: &str, beam: u64) -> PathBuf {
    folder(out).join(format!("{model}-{settings}-beam{beam}.json"))
}

/// Writes the file of one row.
pub(super) fn write_row(out: &Path, row: &CellRow) -> Result<(), SweepError> {
    let folder = folder(out);
    fs::create_dir_all(&folder).map_err(SweepError::io(&folder))?;
    let path = row_path(out, &row.model, &row.settings, row.beam);
    atomic_file::write(&path, |file| Ok(serde_json::to_writer(file, row)?))
        .map_err(SweepError::io(&path))
}

/// Writes `runs.jsonl` from everything there is, the rows of the `cells` (model and beam width) in their order
/// behind all others; returns those.
pub fn collect(config: &Config, cells: &[(String, u64)]) -> Result<Vec<CellRow>, SweepError> {
    let settings = config.decode_settings();
    let known: BTreeSet<&(String, u64)> = cells.iter().collect();
    let (mut ours, mut all) = (BTreeMap::new(), vec![]);
    for row in read_rows(config)? {
        let cell = (row.model.clone(), row.beam);
        if row.settings == settings && known.contains(&cell) {
            ours.insert(cell, row);
        } else {
            all.push(row);
        }
    }
    let ours: Vec<CellRow> = cells.iter().filter_map(|cell| ours.remove(cell)).collect();
    all.extend(ours.iter().cloned());
    let path = config.out.join("runs.jsonl");
    atomic_file::write(&path, |file| {
        for row in &all {
            serde_json::to_writer(&mut *file, row)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    })
    .map_err(SweepError::io(&path))?;
    Ok(ours)
}
