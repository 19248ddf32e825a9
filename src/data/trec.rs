//! Relevance judgements (qrels) and rankings (runs) in the formats of TREC and BEIR.
//!
//! A qrels file has four columns (query, iteration, document, grade) separated by white space, or is
//! a BEIR table of three columns (query, document, grade) separated by tabs, with or without its
//! header. A run has six columns (query, `Q0`, document, rank, score, tag); as for trec_eval the
//! iteration, `Q0` and rank columns mean nothing and the tag may hold blanks.
//!
//! Trec_eval orders by score, not by rank or line, and equal scores by document id, descending. A
//! ranking with ties in another order therefore changes when it is evaluated, unless
//! [`Run::separate_ties`] is called before it is saved. Without that call scores are written as they
//! are and read back as the same numbers.

use std::io::Write;
use std::path::{Path, PathBuf};

use hashbrown::{HashMap, HashSet};

use crate::atomic_file;
use crate::data::reader::{LineReader, ReadError};
use crate::types::{DocId, QueryId};

/// Why judgements or a run could not be read, built or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrecError {
    /// The file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A line has another number of columns.
    #[error("{}:{line}: expected {expected}, found {found} columns", path.display())]
    Columns {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The columns of this format.
        expected: &'static str,
        /// Number of columns.
        found: usize,
    },
    /// A grade or score is not a number.
    #[error("{}:{line}: expected {expected}, found {found:?}", path.display())]
    Number {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What kind of number.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A line of JSON that is not a score.
    #[error("{}:{line}: {message}; expected {{\"query\": id, \"doc\": id, \"score\": number}}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A document is judged or ranked twice for one query.
    #[error("{}:{line}: document {:?} appears again for query {:?}, first in line {first}; remove one of the lines", path.display(), doc.as_str(), query.as_str())]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// Line of the repetition, from 1.
        line: usize,
        /// Line of the first appearance.
        first: usize,
        /// The query.
        query: QueryId,
        /// The document.
        doc: DocId,
    },
    /// A file without judgements.
    #[error("{}: expected judgements, found none", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A ranking given to [`Run::push`] is not one.
    #[error("ranking of query {:?}: {message}", query.as_str())]
    Ranking {
        /// The query.
        query: QueryId,
        /// What is wrong with it.
        message: String,
    },
    /// An id or tag that a run file cannot hold.
    #[error(
        "{what} {text:?} is empty or holds white space, which separates the columns of a run file; rename it"
    )]
    Blank {
        /// Which kind of name.
        what: &'static str,
        /// The name.
        text: String,
    },
    /// The run could not be written; an old file is untouched.
    #[error("{}: writing failed: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The grade of one document for one query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// The document.
    pub doc: DocId,
    /// 1 or more is relevant; 0 and negative grades are not.
    pub grade: i32,
}

/// One line of a qrels file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QrelsRow<'a> {
    /// Line, from 1.
    pub line: usize,
    /// The query.
    pub query: &'a QueryId,
    /// The document and its grade.
    pub judgement: &'a Judgement,
}

/// Judgements by query; queries and documents in file order.
#[derive(Clone, Debug)]
pub struct Qrels {
    path: PathBuf,
    queries: Vec<(QueryId, Vec<Judgement>)>,
    find: HashMap<QueryId, usize>,
    /// Line, query, place among the query's judgements.
    rows: Vec<(usize, usize, usize)>,
}

/// Column layout of a qrels file.
#[derive(Clone, Copy)]
enum QrelsFormat {
    Trec,
    Beir,
}

impl Qrels {
    /// Reads TREC or BEIR judgements, plain, .gz or .zst; the first line tells which.
    ///
    /// # Errors
    /// Wrong columns, grades that are not integers, a document judged twice for a query, no rows.
    pub fn load(path: &Path) -> Result<Self, TrecError> {
        let mut reader = LineReader::open(path)?;
        let path = reader.path().to_owned();
        let mut qrels = Qrels {
            path: path.clone(),
            queries: vec![],
            find: HashMap::new(),
            rows: vec![],
        };
        let mut names = HashSet::new();
        let mut seen: HashMap<(usize, DocId), usize> = HashMap::new();
        let mut format = None;
        while let Some((line, text)) = reader.next_line()? {
            let columns: Vec<&str> = match format {
                Some(QrelsFormat::Beir) => text.split('\t').map(str::trim).collect(),
                Some(QrelsFormat::Trec) => text.split_ascii_whitespace().collect(),
                None if text.split('\t').count() == 3 => {
                    format = Some(QrelsFormat::Beir);
                    if is_header(text) {
                        continue;
                    }
                    text.split('\t').map(str::trim).collect()
                }
                None => {
                    format = Some(QrelsFormat::Trec);
                    text.split_ascii_whitespace().collect()
                }
            };
            let (query, doc, grade) = match (format, &columns[..]) {
                (Some(QrelsFormat::Beir), &[query, doc, grade])
                    if !query.is_empty() && !doc.is_empty() =>
                {
                    (query, doc, grade)
                }
                (Some(QrelsFormat::Trec), &[query, _, doc, grade]) => (query, doc, grade),
                (format, columns) => {
                    let expected = match format {
                        Some(QrelsFormat::Beir) => {
                            "3 columns (query, document, grade) between tabs, none empty"
                        }
                        _ => "4 columns (query, iteration, document, grade)",
                    };
                    return Err(TrecError::Columns {
                        path,
                        line,
                        expected,
                        found: columns.len(),
                    });
                }
            };
            let grade = grade.parse().map_err(|_| TrecError::Number {
                path: path.clone(),
                line,
                expected: "an integer grade",
                found: grade.into(),
            })?;
            let at = match qrels.find.get(query) {
                Some(&at) => at,
                None => {
                    let id = QueryId::from(query);
                    qrels.find.insert(id.clone(), qrels.queries.len());
                    qrels.queries.push((id, vec![]));
                    qrels.queries.len() - 1
                }
            };
            let doc = intern(&mut names, doc);
            let (id, judgements) = &mut qrels.queries[at];
            if let Some(first) = seen.insert((at, doc.clone()), line) {
                return Err(TrecError::Duplicate {
                    path,
                    line,
                    first,
                    query: id.clone(),
                    doc,
                });
            }
            qrels.rows.push((line, at, judgements.len()));
            judgements.push(Judgement { doc, grade });
        }
        if qrels.rows.is_empty() {
            return Err(TrecError::Empty { path });
        }
        Ok(qrels)
    }

    /// The file the judgements come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of judged queries.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// False: a file without judgements does not load.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// The judged queries with their judgements, in file order of first appearance.
    pub fn queries(&self) -> impl Iterator<Item = (&QueryId, &[Judgement])> {
        self.queries
            .iter()
            .map(|(id, judgements)| (id, &judgements[..]))
    }

    /// The judgements of `query`, in file order; `None` if it has none.
    pub fn judgements(&self, query: &str) -> Option<&[Judgement]> {
        self.find.get(query).map(|&at| &self.queries[at].1[..])
    }

    /// The documents with a grade of 1 or more for `query`, in file order; none if it is not judged.
    pub fn relevant(&self, query: &str) -> impl Iterator<Item = &DocId> {
        let judgements = self.judgements(query).unwrap_or_default();
        judgements.iter().filter(|j| j.grade >= 1).map(|j| &j.doc)
    }

    /// The judgements of the given queries alone, in file order; unknown queries add nothing.
    pub fn restricted_to<'a>(&self, queries: impl IntoIterator<Item = &'a QueryId>) -> Self {
        let chosen: HashSet<&QueryId> = queries.into_iter().collect();
        let mut kept = Self {
            queries: vec![],
            find: HashMap::new(),
            rows: vec![],
            path: self.path.clone(),
        };
        let mut moved = vec![None; self.queries.len()];
        for (at, (id, judgements)) in self.queries.iter().enumerate() {
            if chosen.contains(id) {
                moved[at] = Some(kept.queries.len());
                kept.find.insert(id.clone(), kept.queries.len());
                kept.queries.push((id.clone(), judgements.clone()));
            }
        }
        let rows = self.rows.iter();
        kept.rows = rows
            .filter_map(|&(line, at, place)| Some((line, moved[at]?, place)))
            .collect();
        kept
    }

    /// Every judgement in file order.
    pub fn rows(&self) -> impl Iterator<Item = QrelsRow<'_>> {
        self.rows.iter().map(|&(line, query, place)| {
            let (id, judgements) = &self.queries[query];
            QrelsRow {
                line,
                query: id,
                judgement: &judgements[place],
            }
        })
    }
}

/// Whether the first line of a table of three columns names them.
fn is_header(text: &str) -> bool {
    let first = text.trim_start().to_ascii_lowercase();
    let last = text.rsplit('\t').next().unwrap_or(text).trim();
    (first.starts_with("query") || first.starts_with("qid")) && last.parse::<f64>().is_err()
}

/// One copy of every id, however often it appears.
fn intern(names: &mut HashSet<DocId>, id: &str) -> DocId {
    names.get_or_insert_with(id, |id| DocId::from(id)).clone()
}

/// One document of a ranking.
#[derive(Clone, PartialEq, Debug)]
pub struct RunLine {
    /// The document.
    pub doc: DocId,
    /// Its score: finite, larger is better.
    pub score: f64,
}

/// Rankings by query; queries and lines in the order of the file or of [`Run::push`].
#[derive(Clone, Debug, Default)]
pub struct Run {
    tag: String,
    queries: Vec<(QueryId, Vec<RunLine>)>,
    find: HashMap<QueryId, usize>,
}

/// A score as JSON.
#[derive(serde::Deserialize)]
struct ScoreRow {
    #[serde(alias = "query_id", alias = "query-id", alias = "qid")]
    query: String,
    #[serde(alias = "doc_id", alias = "corpus-id", alias = "docid", alias = "pid")]
    doc: String,
    score: f64,
}

impl Run {
    /// A run without rankings; `tag` names the system.
    pub fn new(tag: &str) -> Self {
        Self {
            tag: tag.into(),
            ..Self::default()
        }
    }

    /// Reads a TREC run, plain, .gz or .zst. The tag is that of the first line. A file without
    /// lines is a run without rankings. A line may also be a JSON object with `query`, `doc` and `score`.
    ///
    /// # Errors
    /// Fewer than six columns, scores that are not finite, a document twice for a query.
    pub fn load(path: &Path) -> Result<Self, TrecError> {
        let mut reader = LineReader::open(path)?;
        let path = reader.path().to_owned();
        let mut run = Self::default();
        let mut names = HashSet::new();
        let mut lines: Vec<Vec<usize>> = vec![];
        while let Some((line, text)) = reader.next_line()? {
            let object: ScoreRow;
            let (query, doc, number, tag) = if text.trim_start().starts_with('{') {
                let parsed = serde_json::from_str(text).map_err(|e| e.to_string());
                object = parsed.map_err(|message| TrecError::Json {
                    path: path.clone(),
                    line,
                    message,
                })?;
                (&*object.query, &*object.doc, object.score, "jsonl")
            } else {
                let mut columns = text.split_ascii_whitespace();
                let mut next = || columns.next();
                let (Some(query), Some(_), Some(doc), Some(_), Some(score), Some(tag)) =
                    (next(), next(), next(), next(), next(), next())
                else {
                    return Err(TrecError::Columns {
                        path,
                        line,
                        expected: "6 columns (query, Q0, document, rank, score, tag)",
                        found: text.split_ascii_whitespace().count(),
                    });
                };
                let number: f64 = score.parse().unwrap_or(f64::NAN);
                if !number.is_finite() {
                    return Err(TrecError::Number {
                        path,
                        line,
                        expected: "a finite score",
                        found: score.into(),
                    });
                }
                (query, doc, number, tag)
            };
            if run.queries.is_empty() {
                run.tag = tag.into();
            }
            let at = match run.find.get(query) {
                Some(&at) => at,
                None => {
                    lines.push(vec![]);
                    run.add_query(QueryId::from(query))
                }
            };
            run.queries[at].1.push(RunLine {
                doc: intern(&mut names, doc),
                score: number,
            });
            lines[at].push(line);
        }
        for ((query, ranking), lines) in run.queries.iter().zip(&lines) {
            let mut seen = HashMap::with_capacity(ranking.len());
            for (hit, &line) in ranking.iter().zip(lines) {
                if let Some(first) = seen.insert(&hit.doc, line) {
                    let (query, doc) = (query.clone(), hit.doc.clone());
                    return Err(TrecError::Duplicate {
                        path,
                        line,
                        first,
                        query,
                        doc,
                    });
                }
            }
        }
        Ok(run)
    }

    fn add_query(&mut self, id: QueryId) -> usize {
        self.find.insert(id.clone(), self.queries.len());
        self.queries.push((id, vec![]));
        self.queries.len() - 1
    }

    /// Adds the ranking of a query, best first, as documents with their scores; it may be empty.
    ///
    /// # Errors
    /// A query that is there already, scores that rise or are not finite, a document twice.
    pub fn push<S: Into<f64>>(
        &mut self,
        query: QueryId,
        ranking: impl IntoIterator<Item = (DocId, S)>,
    ) -> Result<(), TrecError> {
        let ranking: Vec<RunLine> = ranking
            .into_iter()
            .map(|(doc, score)| RunLine {
                doc,
                score: score.into(),
            })
            .collect();
        let fault = if self.find.contains_key(&query) {
            Some("the run has one already".into())
        } else if let Some(hit) = ranking.iter().find(|hit| !hit.score.is_finite()) {
            Some(format!(
                "document {:?} has the score {}; expected a finite one",
                hit.doc.as_str(),
                hit.score
            ))
        } else if let Some(pair) = ranking.windows(2).find(|p| p[0].score < p[1].score) {
            let doc = pair[1].doc.as_str();
            Some(format!(
                "the score rises at document {doc:?}; expected the best first"
            ))
        } else {
            let mut seen = HashSet::with_capacity(ranking.len());
            let twice = ranking.iter().find(|hit| !seen.insert(&hit.doc));
            twice.map(|hit| format!("document {:?} appears twice", hit.doc.as_str()))
        };
        if let Some(message) = fault {
            return Err(TrecError::Ranking { query, message });
        }
        let at = self.add_query(query);
        self.queries[at].1 = ranking;
        Ok(())
    }

    /// The run without hits whose id is that of the query, which BEIR does not count.
    pub fn without_own_ids(mut self) -> Self {
        for (query, ranking) in &mut self.queries {
            ranking.retain(|hit| hit.doc.as_str() != query.as_str());
        }
        self
    }

    /// Name of the system.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether the run has no rankings.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// The queries with their lines, in the order they came.
    pub fn queries(&self) -> impl Iterator<Item = (&QueryId, &[RunLine])> {
        self.queries.iter().map(|(id, ranking)| (id, &ranking[..]))
    }

    /// The lines of `query` in the order they came; `None` if the run does not have it.
    pub fn ranking(&self, query: &str) -> Option<&[RunLine]> {
        self.find.get(query).map(|&at| &self.queries[at].1[..])
    }

    /// Lowers scores that are equal as `f32` to the score before by the least `f32` step, so that
    /// every evaluator, whatever its rule for ties, sees the documents in the present order.
    ///
    /// Lines are first sorted by score; equal scores keep their order. Scores become `f32` values.
    pub fn separate_ties(&mut self) {
        for (_, ranking) in &mut self.queries {
            ranking.sort_by(|a, b| b.score.total_cmp(&a.score));
            let mut last = f32::INFINITY;
            for hit in ranking {
                last = (hit.score as f32)
                    .clamp(f32::MIN, f32::MAX)
                    .min(last.next_down());
                hit.score = f64::from(last);
            }
        }
    }

    /// Writes the run, lines of a query by falling score (equal scores in the order they came),
    /// ranks from 1, scores as the shortest decimals that read back as the same number. The file is
    /// complete or not there.
    ///
    /// # Errors
    /// Ids or a tag with white space; what the system says.
    pub fn write(&self, path: &Path) -> Result<(), TrecError> {
        self.check_ids()?;
        atomic_file::write(path, |file| self.write_to(file)).map_err(|source| TrecError::Write {
            path: path.into(),
            source,
        })
    }

    /// Fails on ids or a tag that a run file cannot hold.
    ///
    /// # Errors
    /// [`TrecError::Blank`] for what is empty or holds white space.
    pub fn check_ids(&self) -> Result<(), TrecError> {
        let check = |what, text: &str| {
            if text.is_empty() || text.contains(char::is_whitespace) {
                return Err(TrecError::Blank {
                    what,
                    text: text.into(),
                });
            }
            Ok(())
        };
        check("run tag", &self.tag)?;
        for (query, ranking) in &self.queries {
            check("query id", query.as_str())?;
            ranking
                .iter()
                .try_for_each(|hit| check("document id", hit.doc.as_str()))?;
        }
        Ok(())
    }

    /// Writes the lines of [`Self::write`] to `out`, ids unchecked (see [`Self::check_ids`]).
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        for (query, ranking) in &self.queries {
            let mut ranking: Vec<&RunLine> = ranking.iter().collect();
            ranking.sort_by(|a, b| b.score.total_cmp(&a.score));
            for (i, RunLine { doc, score }) in ranking.into_iter().enumerate() {
                writeln!(out, "{query} Q0 {doc} {} {score} {}", i + 1, self.tag)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file<T>(name: &str, text: &str, f: impl FnOnce(&Path) -> T) -> T {
        let path = std::env::temp_dir().join(format!("genret-trec-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let result = f(&path);
        std::fs::remove_file(&path).unwrap();
        result
    }

    #[test]
    fn scores_as_json_are_a_run() {
        let text = "{\"query\": \"q\", \"doc\": \"a\", \"score\": 1.5}\n{\"query-id\": \"q\", \"corpus-id\": \"b\", \"score\": 2}\n";
        let run = with_file("jsonl", text, |path| Run::load(path).unwrap());
        let docs: Vec<_> = run
            .ranking("q")
            .unwrap()
            .iter()
            .map(|l| (l.doc.as_str(), l.score))
            .collect();
        assert_eq!(docs, [("a", 1.5), ("b", 2.0)]);
        let message = with_file("json-bad", "{\"query\": \"q\"}\n", |path| {
            Run::load(path).unwrap_err().to_string()
        });
        assert!(message.contains(":1: missing field `doc`"), "{message}");
    }

    fn qrels_error(text: &str) -> String {
        let name = format!("qrels-{}", text.len());
        with_file(&name, text, |path| {
            Qrels::load(path).unwrap_err().to_string()
        })
    }

    fn run_error(text: &str) -> String {
        let name = format!("run-{}", text.len());
        with_file(&name, text, |path| Run::load(path).unwrap_err().to_string())
    }

    #[test]
    fn trec_and_beir_judgements_are_the_same() {
        let trec = "q2 0 d1 1\nq1\t7\t d9  -1\n\nq2 0 d3 0\n";
        let beir = "query-id\tcorpus-id\tscore\nq2\td1\t1\nq1\td9\t-1\nq2\td3\t0\r\n";
        let headless = beir.split_once('\n').unwrap().1;
        for (name, text, first) in [("a", trec, 1), ("b", beir, 2), ("c", headless, 1)] {
            let qrels = with_file(name, text, |path| Qrels::load(path).unwrap());
            let ids: Vec<_> = qrels
                .queries()
                .map(|(id, j)| (id.as_str(), j.len()))
                .collect();
            assert_eq!(ids, [("q2", 2), ("q1", 1)]);
            assert_eq!(qrels.judgements("q1").unwrap()[0].grade, -1);
            assert_eq!(qrels.judgements("q3"), None);
            let docs: Vec<_> = qrels.rows().map(|r| r.judgement.doc.as_str()).collect();
            assert_eq!(docs, ["d1", "d9", "d3"]);
            assert_eq!(qrels.rows().next().unwrap().line, first);
        }
    }

    #[test]
    fn faulty_judgements_are_refused_with_their_line() {
        let twice = qrels_error("q1 0 d1 1\nq1 0 d2 1\nq1 0 d1 0\n");
        assert!(twice.contains(":3:") && twice.contains("line 1"), "{twice}");
        let columns = qrels_error("q1 0 d1 1\nq1 d2 1\n");
        assert!(
            columns.contains(":2:") && columns.contains("found 3"),
            "{columns}"
        );
        let grade = qrels_error("query-id\tcorpus-id\tscore\nq1\td1\t1.5\n");
        assert!(
            grade.contains(":2:") && grade.contains("\"1.5\""),
            "{grade}"
        );
        assert!(qrels_error("\n").contains("found none"));
        assert!(qrels_error("q\td\tx\n").contains(":1: expected an integer"));
    }

    #[test]
    fn faulty_runs_are_refused_with_their_line() {
        let twice = run_error("q Q0 a 1 2 t\nq Q0 b 2 1 t\nq Q0 a 3 0 t\n");
        assert!(twice.contains(":3:") && twice.contains("line 1"), "{twice}");
        assert!(run_error("q Q0 a 1 2\n").contains("found 5"));
        assert!(run_error("q Q0 a 1 x t\n").contains("\"x\""));
        assert!(run_error("q Q0 a 1 NaN t\n").contains("finite"));
    }

    #[test]
    fn judgements_can_be_restricted_to_queries() {
        let text = "q1 0 a 1\nq2 0 b 1\nq3 0 c 0\nq1 0 d 2\nq3 0 e 1\n";
        let qrels = with_file("part", text, |path| Qrels::load(path).unwrap());
        let part = qrels.restricted_to([&"q3".into(), &"q1".into(), &"q9".into()]);
        assert!(part.queries().map(|(q, _)| q.as_str()).eq(["q1", "q3"]));
        assert!(part.rows().map(|r| r.line).eq([1, 3, 4, 5]));
        assert!(part.relevant("q3").map(DocId::as_str).eq(["e"]));
        assert_eq!(part.relevant("q2").count(), 0);
    }

    fn line(doc: &str, score: f64) -> (DocId, f64) {
        (doc.into(), score)
    }

    #[test]
    fn a_run_reads_back_as_it_was_written() {
        let scores = [1e30, 0.1 + 0.2, f64::from(0.1f32), 0.1, 5e-324, -0.0, -1e-7];
        let lines: Vec<_> = scores
            .iter()
            .enumerate()
            .map(|(i, s)| line(&format!("d{i}"), *s))
            .collect();
        let mut run = Run::new("tag");
        run.push("q1".into(), lines.clone()).unwrap();
        run.push("q0".into(), [(DocId::from("\u{e9}"), 0.1f32)])
            .unwrap();
        let back = with_file("back", "", |path| {
            run.write(path).unwrap();
            Run::load(path).unwrap()
        });
        assert_eq!(back.tag(), "tag");
        assert!(
            back.ranking("q1")
                .unwrap()
                .iter()
                .map(|l| (l.doc.clone(), l.score))
                .eq(lines)
        );
        assert_eq!(back.ranking("q0").unwrap()[0].score as f32, 0.1);
        assert_eq!(
            back.queries().map(|(q, _)| q.as_str()).collect::<Vec<_>>(),
            ["q1", "q0"]
        );
    }

    #[test]
    fn rankings_that_are_none_are_refused() {
        let mut run = Run::new("a tag");
        run.push("q".into(), Vec::<(DocId, f64)>::new()).unwrap();
        let mut message =
            |query: &str, lines| run.push(query.into(), lines).unwrap_err().to_string();
        assert!(message("q", vec![]).contains("already"));
        assert!(message("p", vec![line("a", 1.0), line("b", 2.0)]).contains("rises"));
        assert!(message("p", vec![line("a", 1.0), line("a", 1.0)]).contains("twice"));
        assert!(message("p", vec![line("a", f64::NAN)]).contains("NaN"));
        let error = run.write(Path::new("unused")).unwrap_err().to_string();
        assert!(error.contains("\"a tag\""), "{error}");
    }

    #[test]
    fn separated_ties_fall_strictly_and_keep_the_order() {
        let next = f64::from(1.0f32.next_down());
        let mut run = Run::new("t");
        let docs = ["a", "b", "c", "d", "e"];
        let scores = [1.0, 1.0, next, 0.5, 0.5];
        run.push("q".into(), docs.iter().zip(scores).map(|(d, s)| line(d, s)))
            .unwrap();
        run.separate_ties();
        let ranking = run.ranking("q").unwrap();
        assert!(ranking.iter().map(|l| l.doc.as_str()).eq(docs));
        assert!(
            ranking
                .windows(2)
                .all(|p| (p[0].score as f32) > (p[1].score as f32))
        );
        assert_eq!(ranking[1].score, next);
        assert!((ranking[4].score - 0.5).abs() < 1e-7);
    }
}
