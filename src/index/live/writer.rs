//! Changing a live index.

use std::fs::{self, File, TryLockError};
use std::ops::Range;
use std::path::{Path, PathBuf};

use hashbrown::HashSet;

use super::manifest::{FORMAT, MANIFEST, Manifest, SegmentEntry};
use super::{LiveIndex, MAX_SEGMENTS};
use crate::index::{
    Field, IndexBuilder, IndexError, IndexOptions, NgramIndex, PassageSet, SEPARATOR,
    SubstringIndex,
};
use crate::types::{PassageIdx, TokenId};

/// Name of the file that is locked.
const LOCK: &str = "lock";

/// The one process that may change a live index. Dropping it ends that.
pub struct LiveWriter {
    folder: PathBuf,
    manifest: Manifest,
    fingerprint: u64,
    /// Held, never read: the system unlocks the file when it is closed.
    _lock: File,
}

impl LiveWriter {
    /// A new, empty live index in `folder`, which is made.
    ///
    /// # Errors
    /// [`IndexError::Exists`] if there is one already; parameters as for [`IndexBuilder::new`].
    pub fn create(
        folder: &Path,
        vocab_size: usize,
        fingerprint: u64,
        tokenizer_hint: &str,
        options: IndexOptions,
    ) -> Result<Self, IndexError> {
        let manifest = Manifest {
            format: FORMAT,
            generation: 0,
            vocab_size,
            tokenizer: format!("{fingerprint:016x}"),
            tokenizer_hint: tokenizer_hint.into(),
            options,
            segments: vec![],
            shadow: None,
        };
        manifest.builder(fingerprint)?;
        fs::create_dir_all(folder).map_err(|e| IndexError::io(folder, "write", e))?;
        let lock = lock(folder)?;
        if folder.join(MANIFEST).exists() {
            return Err(IndexError::Exists {
                path: folder.into(),
            });
        }
        manifest.write(folder)?;
        Ok(Self {
            folder: folder.into(),
            manifest,
            fingerprint,
            _lock: lock,
        })
    }

    /// Takes the lock of the live index in `folder` and removes what a crash has left.
    ///
    /// # Errors
    /// [`IndexError::Locked`] if another process changes the index, [`IndexError::NotLive`] if it is a
    /// single file.
    pub fn open(folder: &Path) -> Result<Self, IndexError> {
        if folder.is_file() {
            return Err(IndexError::NotLive {
                path: folder.into(),
            });
        }
        // Without a manifest there is nothing to lock, and no lock file is left behind.
        Manifest::read(folder)?;
        let lock = lock(folder)?;
        let manifest = Manifest::read(folder)?;
        let index = LiveIndex::assemble(folder, &manifest)?;
        let fingerprint = index.tokenizer.fingerprint;
        let writer = Self {
            folder: folder.into(),
            manifest,
            fingerprint,
            _lock: lock,
        };
        writer.remove_unnamed();
        Ok(writer)
    }

    /// An empty builder for passages to [`add`](Self::add).
    ///
    /// # Errors
    /// None for a sound index.
    pub fn builder(&self) -> Result<IndexBuilder, IndexError> {
        self.manifest.builder(self.fingerprint)
    }

    /// The index as it is now.
    ///
    /// # Errors
    /// As [`LiveIndex::open`].
    pub fn index(&self) -> Result<LiveIndex, IndexError> {
        LiveIndex::assemble(&self.folder, &self.manifest)
    }

    /// Adds the passages of a [`builder`](Self::builder), in order, behind the others.
    ///
    /// # Errors
    /// [`IndexError::DuplicateId`] if a passage with the same id is there or comes twice.
    pub fn add(&mut self, builder: IndexBuilder) -> Result<(), IndexError> {
        self.add_showing(builder, &|_| {})
    }

    /// As [`add`](Self::add), with the progress of [`IndexBuilder::write_showing`].
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_showing(
        &mut self,
        builder: IndexBuilder,
        sorted: &(dyn Fn(usize) + Sync),
    ) -> Result<(), IndexError> {
        self.check_ids(&builder)?;
        if builder.num_passages() == 0 {
            return Ok(());
        }
        let mut next = self.manifest.clone();
        next.generation += 1;
        let file = format!("segment-{}.idx", next.generation);
        builder.write_showing(&self.folder.join(&file), sorted)?;
        next.segments.push(SegmentEntry {
            file,
            deleted: vec![],
        });
        self.commit(next)
    }

    /// Fails if an id of `builder` is there or comes twice.
    fn check_ids(&self, builder: &IndexBuilder) -> Result<(), IndexError> {
        let duplicate = |id: &str| IndexError::DuplicateId {
            path: self.folder.clone(),
            id: id.into(),
        };
        let mut new: HashSet<&str> = HashSet::new();
        if let Some(id) = builder.ids().find(|&id| !new.insert(id)) {
            return Err(duplicate(id));
        }
        let index = self.index()?;
        let mut there = index.passages().map(|passage| index.doc_id(passage));
        there
            .find(|id| new.contains(id))
            .map_or(Ok(()), |id| Err(duplicate(id)))
    }

    /// Deletes `passages`; those that are not there are left out.
    ///
    /// # Errors
    /// [`IndexError::Io`] if the folder cannot be written; nothing is deleted then.
    pub fn delete(&mut self, passages: &PassageSet) -> Result<(), IndexError> {
        let index = self.index()?;
        let mut next = self.manifest.clone();
        for (entry, segment) in next.segments.iter_mut().zip(&index.segments) {
            let range = segment.first..segment.first + segment.index.num_passages();
            let inner = passages
                .iter_range(range)
                .map(|passage| passage.0 - segment.first as u32);
            entry.deleted.extend(inner);
            entry.deleted.sort_unstable();
            entry.deleted.dedup();
        }
        next.generation += 1;
        self.commit(next)
    }

    /// Makes one segment of all, without the deleted passages.
    ///
    /// # Errors
    /// [`IndexError::TooLarge`] if one index cannot hold them.
    pub fn merge(&mut self) -> Result<(), IndexError> {
        let mut next = self.manifest.clone();
        next.generation += 1;
        self.merge_range(&mut next, 0..self.manifest.segments.len())?;
        self.commit(next)
    }

    /// Writes what `next` lacks, then makes it the manifest.
    fn commit(&mut self, mut next: Manifest) -> Result<(), IndexError> {
        if next.segments.len() > MAX_SEGMENTS {
            let sizes: Vec<usize> = next
                .segments
                .iter()
                .map(|entry| Ok(self.segment(entry)?.num_tokens()))
                .collect::<Result<_, IndexError>>()?;
            let pairs = sizes.windows(2).map(|pair| pair[0] + pair[1]);
            let smallest = (0..)
                .zip(pairs)
                .min_by_key(|&(_, size)| size)
                .map_or(0, |(at, _)| at);
            self.merge_range(&mut next, smallest..smallest + 2)?;
        }
        next.shadow = None;
        let mut shadow = self.builder()?;
        for entry in &next.segments {
            copy_passages(
                &self.segment(entry)?,
                entry.deleted.iter().copied(),
                &mut shadow,
            )?;
        }
        if shadow.num_passages() > 0 {
            let file = format!("deleted-{}.idx", next.generation);
            shadow.write(&self.folder.join(&file))?;
            next.shadow = Some(file);
        }
        next.write(&self.folder)?;
        self.manifest = next;
        self.remove_unnamed();
        Ok(())
    }

    /// Replaces neighbouring segments by one with their live passages.
    fn merge_range(&self, next: &mut Manifest, range: Range<usize>) -> Result<(), IndexError> {
        let mut builder = self.builder()?;
        for entry in &next.segments[range.clone()] {
            let segment = self.segment(entry)?;
            let deleted: HashSet<u32> = entry.deleted.iter().copied().collect();
            let live = (0..segment.num_passages() as u32).filter(|p| !deleted.contains(p));
            copy_passages(&segment, live, &mut builder)?;
        }
        let mut merged = vec![];
        if builder.num_passages() > 0 {
            let file = format!("segment-{}-merged.idx", next.generation);
            builder.write(&self.folder.join(&file))?;
            merged.push(SegmentEntry {
                file,
                deleted: vec![],
            });
        }
        next.segments.splice(range, merged);
        Ok(())
    }

    fn segment(&self, entry: &SegmentEntry) -> Result<NgramIndex, IndexError> {
        NgramIndex::open(&self.folder.join(&entry.file))
    }

    /// Removes index files that the manifest does not name. What cannot be removed is in nobody's
    /// way; the next writer tries again.
    fn remove_unnamed(&self) {
        let Ok(files) = fs::read_dir(&self.folder) else {
            return;
        };
        for file in files.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let ours = name.contains(".idx") && !self.manifest.files().any(|named| *named == name);
            if ours {
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

/// Adds passages of `from`, all fields, to `to`.
fn copy_passages(
    from: &NgramIndex,
    passages: impl Iterator<Item = u32>,
    to: &mut IndexBuilder,
) -> Result<(), IndexError> {
    let fields = Field::ALL.map(|field| from.with_field(field));
    for passage in passages.map(PassageIdx) {
        let [body, title, queries] = fields.each_ref().map(|field| {
            let mut tokens = vec![];
            field.passage_tokens(passage, &mut tokens);
            tokens
        });
        let queries = queries.split(|token| *token == SEPARATOR);
        let queries: Vec<_> = queries.map(<[TokenId]>::to_vec).collect();
        to.push_with_queries(from.doc_id(passage), &title, &body, &queries)?;
    }
    Ok(())
}

/// Locks a live index for writing.
fn lock(folder: &Path) -> Result<File, IndexError> {
    let path = folder.join(LOCK);
    let failed = |e| IndexError::io(&path, "lock", e);
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(IndexError::Locked {
            path: folder.into(),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}
