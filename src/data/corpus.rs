//! A corpus in memory, and queries.

use std::hash::Hash;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use xxhash_rust::xxh3::Xxh3;

use super::reader::locate;
use super::{DataError, beir, msmarco};
use crate::types::{DocId, Passage, PassageIdx, Query, QueryId};

/// The passages of a collection in file order, found by ordinal or by id.
#[derive(Clone, Debug)]
pub struct Corpus {
    passages: Vec<Passage>,
    find: HashMap<DocId, usize>,
}

impl Corpus {
    /// Reads a BEIR folder or `corpus.jsonl`, or an MS MARCO folder or `collection.tsv`; plain, .gz
    /// or .zst. A file whose name ends in `.jsonl` is BEIR, any other a table.
    ///
    /// # Errors
    /// With file and line: malformed rows, ids or texts that are missing or blank, ids that repeat;
    /// a file without passages.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let file = resolve(
            path,
            ["corpus.jsonl", "collection.tsv"],
            "corpus.jsonl nor collection.tsv",
        )?;
        let mut passages = vec![];
        let mut ids = UniqueIds::default();
        visit_passages(&file, |line, passage| {
            let passage = passage?;
            ids.claim(passage.id.clone(), line)
                .map_err(|first| duplicate(&file, line, first, "passage", passage.id.as_str()))?;
            passages.push(passage);
            Ok(())
        })?;
        Self::build(&file, passages, ids)
    }

    /// A corpus of the given passages, in their order.
    ///
    /// # Errors
    /// As for [`Corpus::load`]; "lines" count the passages from 1.
    pub fn from_passages(passages: Vec<Passage>) -> Result<Self, DataError> {
        let path = Path::new("passages");
        let mut ids = UniqueIds::default();
        for (i, passage) in passages.iter().enumerate() {
            let id = passage.id.as_str();
            for (what, text) in [("id", id), ("text", &passage.text)] {
                if text.trim().is_empty() {
                    return Err(DataError::EmptyField {
                        path: path.into(),
                        line: i + 1,
                        what: format!("{what} of passage {id:?}"),
                        how: "empty",
                        remedy: "every passage needs one",
                    });
                }
            }
            ids.claim(passage.id.clone(), i + 1)
                .map_err(|first| duplicate(path, i + 1, first, "passage", id))?;
        }
        Self::build(path, passages, ids)
    }

    fn build(
        path: &Path,
        passages: Vec<Passage>,
        ids: UniqueIds<DocId>,
    ) -> Result<Self, DataError> {
        if passages.is_empty() {
            return Err(DataError::Empty {
                path: path.into(),
                expected: "passages",
            });
        }
        if u32::try_from(passages.len()).is_err() {
            return Err(DataError::TooLarge { path: path.into() });
        }
        Ok(Self {
            passages,
            find: ids.find,
        })
    }

    /// All passages, in file order.
    pub fn passages(&self) -> &[Passage] {
        &self.passages
    }

    /// The passage at `index`.
    ///
    /// # Panics
    /// If `index` is of another corpus and out of range.
    pub fn passage(&self, index: PassageIdx) -> &Passage {
        &self.passages[index.index()]
    }

    /// Number of passages.
    pub fn len(&self) -> usize {
        self.passages.len()
    }

    /// False: a corpus without passages does not load.
    pub fn is_empty(&self) -> bool {
        self.passages.is_empty()
    }

    /// The passage with external id `id`.
    pub fn find(&self, id: &str) -> Option<PassageIdx> {
        self.find.get(id).map(|&i| PassageIdx(i as u32))
    }

    /// Hash of every id, title and text in order: equal corpora have equal fingerprints, however
    /// their files are written or compressed. Reads the whole corpus.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for passage in &self.passages {
            for part in [passage.id.as_str(), &passage.title, &passage.text] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        hasher.digest()
    }
}

/// Reads a BEIR `queries.jsonl`, or a table `qid<TAB>text`, or either from a folder; plain, .gz or
/// .zst; in file order.
///
/// # Errors
/// With file and line: malformed rows, ids or texts that are missing or blank, ids that repeat; a
/// file without queries.
pub fn load_queries(path: &Path) -> Result<Vec<Query>, DataError> {
    let file = resolve_queries(path)?;
    let mut queries = vec![];
    let mut ids = UniqueIds::default();
    visit_queries(&file, |line, query: Result<Query, DataError>| {
        let query = query?;
        ids.claim(query.id.clone(), line)
            .map_err(|first| duplicate(&file, line, first, "query", query.id.as_str()))?;
        queries.push(query);
        Ok(())
    })?;
    if queries.is_empty() {
        return Err(DataError::Empty {
            path: file,
            expected: "queries",
        });
    }
    Ok(queries)
}

/// The query file that `path` means: itself, or the one in the folder.
pub(super) fn resolve_queries(path: &Path) -> Result<PathBuf, DataError> {
    resolve(
        path,
        ["queries.jsonl", "queries.tsv"],
        "queries.jsonl nor queries.tsv",
    )
}

/// `path`, or the first of `names` in it if it is a folder.
pub(super) fn resolve(
    path: &Path,
    names: [&str; 2],
    expected: &'static str,
) -> Result<PathBuf, DataError> {
    if !path.is_dir() {
        // A file that is not there is reported where it is opened.
        return Ok(locate(path).unwrap_or_else(|| path.into()));
    }
    names
        .iter()
        .find_map(|name| locate(&path.join(name)))
        .ok_or_else(|| DataError::NotACollection {
            path: path.into(),
            expected,
        })
}

/// Whether the name says JSON lines, whatever the compression.
fn is_jsonl(path: &Path) -> bool {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let name = name
        .strip_suffix(".gz")
        .or(name.strip_suffix(".zst"))
        .unwrap_or(&name);
    name.ends_with(".jsonl") || name.ends_with(".json")
}

/// Hands over the passages of a file, or what is wrong with their lines.
pub(super) fn visit_passages(
    file: &Path,
    take: impl FnMut(usize, Result<Passage, DataError>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    if is_jsonl(file) {
        beir::passages(file, take)
    } else {
        msmarco::passages(file, take)
    }
}

/// Hands over the queries of a file, or what is wrong with their lines.
pub(super) fn visit_queries(
    file: &Path,
    take: impl FnMut(usize, Result<Query, DataError>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    if is_jsonl(file) {
        beir::queries(file, take)
    } else {
        msmarco::queries(file, take)
    }
}

/// Ids seen so far, with their ordinals and lines.
pub(super) struct UniqueIds<I> {
    pub(super) find: HashMap<I, usize>,
    lines: Vec<usize>,
}

impl<I> Default for UniqueIds<I> {
    fn default() -> Self {
        Self {
            find: HashMap::new(),
            lines: vec![],
        }
    }
}

impl<I: Hash + Eq> UniqueIds<I> {
    /// Gives `id` the next ordinal.
    ///
    /// # Errors
    /// The line it was first seen in.
    pub(super) fn claim(&mut self, id: I, line: usize) -> Result<(), usize> {
        match self.find.entry(id) {
            Entry::Occupied(entry) => Err(self.lines[*entry.get()]),
            Entry::Vacant(entry) => {
                entry.insert(self.lines.len());
                self.lines.push(line);
                Ok(())
            }
        }
    }
}

pub(super) fn duplicate(
    path: &Path,
    line: usize,
    first: usize,
    what: &'static str,
    id: &str,
) -> DataError {
    DataError::Duplicate {
        path: path.into(),
        line,
        first,
        what,
        id: id.into(),
    }
}

/// Ordinals of queries by id.
pub(super) fn index_queries(queries: &[Query]) -> HashMap<QueryId, usize> {
    queries
        .iter()
        .enumerate()
        .map(|(i, query)| (query.id.clone(), i))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("genret-{}-{name}", std::process::id()));
            fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn corpus(name: &str, text: &str) -> Result<Corpus, DataError> {
        Corpus::load(&File::new(name, text.as_bytes()).0)
    }

    fn queries(name: &str, text: &str) -> Result<Vec<Query>, DataError> {
        load_queries(&File::new(name, text.as_bytes()).0)
    }

    #[test]
    fn beir_and_msmarco_give_the_same_passages() {
        let json = r#"{"_id":"a","text":"caf\u00e9  \"x\"","metadata":{"any":[1]},"other":null}
{"title":"T","_id":"b","text":"two"}
{"_id":"c","title":null,"text":" three"}"#;
        let beir = corpus("same.jsonl", json).unwrap();
        assert_eq!(beir.len(), 3);
        assert_eq!(beir.passages()[0].text, "caf\u{e9}  \"x\"");
        assert_eq!(beir.passage(PassageIdx(1)).title, "T");
        assert_eq!(beir.find("c"), Some(PassageIdx(2)));
        assert_eq!(beir.find("d"), None);
        let table = corpus("same.tsv", "a\tcaf\u{e9}  \"x\"\nb\ttwo\nc\t three\n").unwrap();
        assert_ne!(table.fingerprint(), beir.fingerprint());
        let mut passages = beir.passages().to_vec();
        assert_eq!(
            Corpus::from_passages(passages.clone())
                .unwrap()
                .fingerprint(),
            beir.fingerprint()
        );
        passages[1].title.clear();
        assert_eq!(
            Corpus::from_passages(passages).unwrap().fingerprint(),
            table.fingerprint()
        );
    }

    #[test]
    fn faults_are_named_with_their_lines() {
        let good = "{\"_id\":\"a\",\"text\":\"x\"}\n";
        let cases = [
            ("{\"_id\":\"a\",\"text\":\"y\"}", "again, first in line 1"),
            ("{\"text\":\"y\"}", "\"_id\" of the passage is missing"),
            (
                "{\"_id\":\"\",\"text\":\"y\"}",
                "\"_id\" of the passage is empty",
            ),
            ("{\"_id\":5,\"text\":\"y\"}", "invalid type: integer `5`"),
            (
                "{\"_id\":\"b\",\"title\":\"t\",\"text\":\" \"}",
                "text of passage \"b\" is empty",
            ),
            ("{\"_id\":\"b\"}", "text of passage \"b\" is missing"),
            ("{\"_id\":\"b\",", "column 11"),
            ("[]", "expected an object"),
        ];
        for (i, (line, expected)) in cases.iter().enumerate() {
            let text = format!("{good}\n{line}\n{good}");
            let message = corpus(&format!("fault-{i}.jsonl"), &text)
                .unwrap_err()
                .to_string();
            assert!(
                message.contains(".jsonl:3:") && message.contains(expected),
                "{message}"
            );
        }
        let table = corpus("fault.tsv", "1\tx\n2\ty\tz\n")
            .unwrap_err()
            .to_string();
        assert!(
            table.contains(":2: expected 2 columns") && table.contains("found 3"),
            "{table}"
        );
        let empty = queries("fault-q.tsv", "1\tx\n2\t \n")
            .unwrap_err()
            .to_string();
        assert!(
            empty.contains(":2: text of query \"2\" is empty"),
            "{empty}"
        );
        let twice = queries("fault-q.jsonl", &good.repeat(2))
            .unwrap_err()
            .to_string();
        assert!(
            twice.contains(":2: query \"a\" appears again, first in line 1"),
            "{twice}"
        );
        assert!(
            corpus("none.jsonl", "\n")
                .unwrap_err()
                .to_string()
                .contains("found none")
        );
        let missing = Corpus::load(Path::new("absent/corpus.jsonl"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("corpus.jsonl.gz"), "{missing}");
        let folder = Corpus::load(&std::env::temp_dir()).unwrap_err().to_string();
        assert!(folder.contains("collection.tsv"), "{folder}");
    }

    #[test]
    fn a_bad_byte_is_found_in_compressed_files_too() {
        let bytes = zstd::encode_all(&b"1\tx\n2\t\xff\n"[..], 1).unwrap();
        let file = File::new("bytes.tsv.zst", &bytes);
        let message = Corpus::load(&file.0).unwrap_err().to_string();
        assert!(message.contains(":2: expected UTF-8"), "{message}");
    }
}
