//! A collection as experiments need it: corpus, queries, and judgements by split.

use std::fs;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use xxhash_rust::xxh3::Xxh3;

use super::corpus::{index_queries, resolve_queries};
use super::reader::ReadError;
use super::trec::Qrels;
use super::{Corpus, DataError, load_queries};
use crate::types::{PassageIdx, Query, QueryId};

/// A query and a passage that is relevant to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    /// Ordinal of the query in [`Dataset::queries`].
    pub query: usize,
    /// The passage.
    pub passage: PassageIdx,
}

/// Corpus, queries and judgements that name only what is there.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The passages.
    pub corpus: Corpus,
    /// The queries of all splits, in file order.
    pub queries: Vec<Query>,
    folder: PathBuf,
    find: HashMap<QueryId, usize>,
    splits: Vec<(String, Qrels)>,
}

impl Dataset {
    /// Reads a BEIR folder: the corpus, the queries, and every `qrels/SPLIT.tsv`.
    ///
    /// # Errors
    /// Those of the files; a judgement of a query or passage that is not there, with its line.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let corpus = Corpus::load(folder)?;
        let queries = load_queries(folder)?;
        let find = index_queries(&queries);
        let mut splits = vec![];
        for (split, file) in split_files(folder)? {
            let qrels = Qrels::load(&file)?;
            check(&qrels, &|id| find.contains_key(id), &corpus, folder)?;
            splits.push((split, qrels));
        }
        Ok(Self {
            corpus,
            queries,
            folder: folder.into(),
            find,
            splits,
        })
    }

    /// Hash of everything read: passages, queries and judgements. Equal collections have equal
    /// fingerprints, however their files are compressed. Reads all of it.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = Xxh3::with_seed(self.corpus.fingerprint());
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        for query in &self.queries {
            add(query.id.as_str());
            add(&query.text);
        }
        for (split, qrels) in &self.splits {
            add(split);
            for row in qrels.rows() {
                add(row.query.as_str());
                add(row.judgement.doc.as_str());
                add(&row.judgement.grade.to_string());
            }
        }
        hasher.digest()
    }

    /// Names of the splits, sorted.
    pub fn splits(&self) -> impl Iterator<Item = &str> {
        self.splits.iter().map(|(name, _)| &name[..])
    }

    /// The judgements of a split.
    ///
    /// # Errors
    /// [`DataError::NoSplit`].
    pub fn qrels(&self, split: &str) -> Result<&Qrels, DataError> {
        let found = self.splits.iter().find(|(name, _)| name == split);
        found.map(|(_, qrels)| qrels).ok_or_else(|| {
            let known: Vec<&str> = self.splits().collect();
            DataError::NoSplit {
                path: self.folder.join("qrels"),
                split: split.into(),
                known: if known.is_empty() {
                    "none".into()
                } else {
                    known.join(", ")
                },
            }
        })
    }

    /// Every judgement of `split` with a grade of 1 or more, in file order.
    ///
    /// # Errors
    /// [`DataError::NoSplit`].
    pub fn pairs(&self, split: &str) -> Result<Vec<Pair>, DataError> {
        let relevant = self
            .qrels(split)?
            .rows()
            .filter(|row| row.judgement.grade >= 1);
        Ok(relevant
            .map(|row| Pair {
                query: self.find[row.query],
                passage: self
                    .corpus
                    .find(row.judgement.doc.as_str())
                    .expect("every judged passage was looked up when the folder was opened"),
            })
            .collect())
    }

    /// Ordinal of the query with external id `id`.
    pub fn find_query(&self, id: &str) -> Option<usize> {
        self.find.get(id).copied()
    }
}

/// The qrels files of a folder by split, sorted by split; none if there is no `qrels` folder.
pub(super) fn split_files(folder: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let folder = folder.join("qrels");
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let failed = |source| ReadError::Io {
        path: folder.clone(),
        line: 0,
        source,
    };
    let mut files = vec![];
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let stem = [".tsv", ".tsv.gz", ".tsv.zst"]
            .iter()
            .find_map(|e| name.strip_suffix(e));
        if let Some(split) = stem.filter(|split| !split.is_empty() && !split.starts_with('.')) {
            files.push((split.to_string(), path));
        }
    }
    // Sorting puts the plain file before its compressed copy, which is then left out.
    files.sort();
    files.dedup_by(|later, first| later.0 == first.0);
    Ok(files)
}

/// Checks that every judged query and passage is there.
pub(super) fn check(
    qrels: &Qrels,
    has_query: &dyn Fn(&str) -> bool,
    corpus: &Corpus,
    folder: &Path,
) -> Result<(), DataError> {
    dangling(
        qrels,
        has_query,
        &|id| corpus.find(id).is_some(),
        folder,
        Err,
    )
}

/// Hands every judgement of an absent query or passage to `take`.
pub(super) fn dangling(
    qrels: &Qrels,
    has_query: &dyn Fn(&str) -> bool,
    has_passage: &dyn Fn(&str) -> bool,
    folder: &Path,
    mut take: impl FnMut(DataError) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for row in qrels.rows() {
        let (query, doc) = (row.query.as_str(), row.judgement.doc.as_str());
        let missing = |what, id: &str, within| DataError::Dangling {
            path: qrels.path().into(),
            line: row.line,
            what,
            id: id.into(),
            within,
        };
        if !has_query(query) {
            take(missing("query", query, resolve_queries(folder)?))?;
        }
        if !has_passage(doc) {
            take(missing("passage", doc, folder.into()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, qrels: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("genret-set-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("qrels")).unwrap();
        let corpus = "{\"_id\":\"d0\",\"text\":\"x\"}\n{\"_id\":\"d1\",\"text\":\"y\"}\n";
        fs::write(path.join("corpus.jsonl"), corpus).unwrap();
        fs::write(path.join("queries.tsv"), "q0\tx ?\nq1\ty ?\n").unwrap();
        fs::write(path.join("qrels/train.tsv"), qrels).unwrap();
        fs::write(path.join("qrels/README"), "no split").unwrap();
        path
    }

    #[test]
    fn pairs_are_the_relevant_judgements_in_file_order() {
        let header = "query-id\tcorpus-id\tscore\n";
        let rows = "q1\td1\t1\nq0\td0\t2\nq1\td0\t1\nq0\td1\t0\n";
        let path = folder("pairs", &format!("{header}{rows}"));
        fs::copy(path.join("qrels/train.tsv"), path.join("qrels/dev.tsv")).unwrap();
        let set = Dataset::open(&path).unwrap();
        assert!(set.splits().eq(["dev", "train"]));
        let pairs: Vec<_> = set
            .pairs("train")
            .unwrap()
            .iter()
            .map(|p| (p.query, p.passage.0))
            .collect();
        assert_eq!(pairs, [(1, 1), (0, 0), (1, 0)]);
        assert_eq!(set.find_query("q1"), Some(1));
        assert_eq!(set.qrels("dev").unwrap().len(), 2);
        let error = set.pairs("test").unwrap_err().to_string();
        assert!(error.contains("\"test\"; there are dev, train"), "{error}");
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn judgements_of_absent_rows_are_refused() {
        for (name, row, what) in [
            ("query", "q9\td0\t1", "query \"q9\""),
            ("doc", "q1\td9\t0", "passage \"d9\""),
        ] {
            let path = folder(name, &format!("q0\td0\t1\n\n{row}\n"));
            let error = Dataset::open(&path).unwrap_err().to_string();
            assert!(
                error.contains("train.tsv:3:") && error.contains(what),
                "{error}"
            );
            fs::remove_dir_all(&path).unwrap();
        }
    }

    #[test]
    fn shipped_collections_have_the_counts_of_their_readmes() {
        let Some(folder) = crate::shared::shared("data/scifact") else {
            return;
        };
        let set = Dataset::open(&folder).unwrap();
        assert_eq!((set.corpus.len(), set.queries.len()), (5183, 1109));
        let count = |split| {
            (
                set.qrels(split).unwrap().len(),
                set.pairs(split).unwrap().len(),
            )
        };
        assert_eq!(
            [count("dev"), count("test"), count("train")],
            [(73, 89), (300, 339), (736, 830)]
        );
    }
}
