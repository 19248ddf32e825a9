//! Which files an index consists of.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::atomic_file;
use crate::index::{IndexBuilder, IndexError, IndexOptions};

/// The only version so far.
pub(super) const FORMAT: u32 = 1;
/// Name of the manifest in its folder.
pub(super) const MANIFEST: &str = "index.json";

/// The file that says what an index consists of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) generation: u64,
    pub(super) vocab_size: usize,
    /// Fingerprint, hexadecimal.
    pub(super) tokenizer: String,
    pub(super) tokenizer_hint: String,
    pub(super) options: IndexOptions,
    pub(super) segments: Vec<SegmentEntry>,
    pub(super) shadow: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SegmentEntry {
    pub(super) file: String,
    /// Increasing.
    pub(super) deleted: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    checksum: String,
    manifest: Manifest,
}

impl Manifest {
    pub(super) fn read(folder: &Path) -> Result<Self, IndexError> {
        let path = folder.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|e| IndexError::io(&path, "open", e))?;
        let format = |text: &str| -> Option<u64> {
            let value: serde_json::Value = serde_json::from_str(text).ok()?;
            value["manifest"]["format"].as_u64()
        };
        if let Some(found) = format(&text).filter(|&found| found != u64::from(FORMAT)) {
            let found = found.min(u64::from(u32::MAX)) as u32;
            return Err(IndexError::Version {
                path,
                found,
                expected: FORMAT,
            });
        }
        let sealed: Sealed = serde_json::from_str(&text)
            .map_err(|e| IndexError::damaged(&path, format!("not a manifest: {e}")))?;
        if sealed.checksum != sealed.manifest.checksum() {
            return Err(IndexError::damaged(
                &path,
                "the manifest does not match its checksum",
            ));
        }
        Ok(sealed.manifest)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), IndexError> {
        let path = folder.join(MANIFEST);
        let sealed = Sealed {
            checksum: self.checksum(),
            manifest: self.clone(),
        };
        atomic_file::write(&path, |out| {
            serde_json::to_writer_pretty(&mut *out, &sealed)?;
            out.write_all(b"\n")
        })
        .map_err(|e| IndexError::io(&path, "write", e))
    }

    fn checksum(&self) -> String {
        let json = serde_json::to_vec(self).expect("a manifest has only strings and numbers");
        format!("{:016x}", xxh3_64(&json))
    }

    pub(super) fn builder(&self, fingerprint: u64) -> Result<IndexBuilder, IndexError> {
        IndexBuilder::new(
            self.vocab_size,
            fingerprint,
            &self.tokenizer_hint,
            self.options,
        )
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &String> {
        self.segments
            .iter()
            .map(|segment| &segment.file)
            .chain(&self.shadow)
    }
}
