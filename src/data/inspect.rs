//! What is in a collection, and everything that is wrong with it.
//!
//! Where loading stops at the first fault, this goes on and lists them. Lengths count words between
//! white space; where words are compared they are runs of letters and digits in lower case.

use std::collections::BTreeMap;
use std::path::Path;

use hashbrown::{HashMap, HashSet};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::DataError;
use super::corpus::{
    UniqueIds, duplicate, resolve, resolve_queries, visit_passages, visit_queries,
};
use super::dataset::{dangling, split_files};
use super::trec::Qrels;
use crate::types::{DocId, Passage, Query, QueryId};

/// Split whose passages count as seen in training.
const TRAIN: &str = "train";

/// Distribution of text lengths in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// Arithmetic mean.
    pub mean: f64,
    /// Lower median.
    pub median: usize,
    /// The least length that 95 % of the texts do not exceed.
    pub p95: usize,
    /// The longest.
    pub max: usize,
}

/// One split of the judgements.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitSummary {
    /// Name of the qrels file without ending.
    pub name: String,
    /// Judged queries.
    pub queries: usize,
    /// Queries without a relevant passage.
    pub queries_without_relevant: usize,
    /// Judgements by grade.
    pub grades: BTreeMap<i32, usize>,
    /// Distinct relevant passages.
    pub relevant_passages: usize,
    /// Those that are relevant to no query of `train`; absent for `train` itself and without it.
    pub unseen_passages: Option<usize>,
    /// Queries whose relevant passages are all unseen; absent as above.
    pub unseen_queries: Option<usize>,
    /// Mean over relevant pairs of the share of the query's words that the passage has.
    pub word_overlap: Option<f64>,
    /// Queries whose text, but for case and punctuation, is also in another split.
    pub query_texts_in: BTreeMap<String, usize>,
}

/// A collection described.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Passages that could be read.
    pub passages: usize,
    /// Passages with a title.
    pub titles: usize,
    /// Passages whose title and text equal those of an earlier one.
    pub duplicate_passages: usize,
    /// Lengths of passages, title and text.
    pub passage_words: Option<Lengths>,
    /// Queries that could be read.
    pub queries: usize,
    /// Lengths of queries.
    pub query_words: Option<Lengths>,
    /// The splits, sorted by name.
    pub splits: Vec<SplitSummary>,
    /// Number of faults that keep the collection from loading.
    pub num_errors: usize,
    /// The first of them.
    pub errors: Vec<String>,
    /// What loads and may still surprise.
    pub remarks: Vec<String>,
}

struct Faults {
    count: usize,
    first: Vec<String>,
    limit: usize,
}

impl Faults {
    fn add(&mut self, error: DataError) {
        self.count += 1;
        if self.first.len() < self.limit {
            self.first.push(error.to_string());
        }
    }

    fn note(&mut self, result: Result<(), DataError>) {
        if let Err(error) = result {
            self.add(error);
        }
    }
}

/// Rows that could be read, by id.
struct Rows<I, R> {
    rows: Vec<R>,
    ids: UniqueIds<I>,
}

/// Describes the BEIR or MS MARCO folder; keeps the messages of the first `limit` faults. Reads
/// everything once; memory is that of the collection.
///
/// # Errors
/// A folder without a corpus; whatever else is wrong becomes part of the result.
pub fn inspect(folder: &Path, limit: usize) -> Result<Inspection, DataError> {
    let expected = "corpus.jsonl nor collection.tsv";
    if !folder.is_dir() {
        return Err(DataError::NotACollection {
            path: folder.into(),
            expected,
        });
    }
    let file = resolve(folder, ["corpus.jsonl", "collection.tsv"], expected)?;
    let mut faults = Faults {
        count: 0,
        first: vec![],
        limit,
    };
    let mut remarks = vec![];

    let mut passages: Rows<DocId, Passage> = Rows {
        rows: vec![],
        ids: UniqueIds::default(),
    };
    let walked = visit_passages(&file, |line, passage| {
        match passage {
            Ok(passage) => match passages.ids.claim(passage.id.clone(), line) {
                Ok(()) => passages.rows.push(passage),
                Err(first) => {
                    faults.add(duplicate(
                        &file,
                        line,
                        first,
                        "passage",
                        passage.id.as_str(),
                    ));
                }
            },
            Err(error) => faults.add(error),
        }
        Ok(())
    });
    faults.note(walked);

    let mut queries: Rows<QueryId, Query> = Rows {
        rows: vec![],
        ids: UniqueIds::default(),
    };
    match resolve_queries(folder) {
        Ok(file) => {
            let walked = visit_queries(&file, |line, query: Result<Query, DataError>| {
                match query {
                    Ok(query) => match queries.ids.claim(query.id.clone(), line) {
                        Ok(()) => queries.rows.push(query),
                        Err(first) => {
                            faults.add(duplicate(&file, line, first, "query", query.id.as_str()));
                        }
                    },
                    Err(error) => faults.add(error),
                }
                Ok(())
            });
            faults.note(walked);
        }
        Err(error) => faults.add(error),
    }

    let mut qrels = vec![];
    for (split, file) in split_files(folder)? {
        match Qrels::load(&file) {
            Ok(judged) => {
                let has_query = |id: &str| queries.ids.find.contains_key(id);
                let has_passage = |id: &str| passages.ids.find.contains_key(id);
                let walked = dangling(&judged, &has_query, &has_passage, folder, |error| {
                    faults.add(error);
                    Ok(())
                });
                faults.note(walked);
                qrels.push((split, judged));
            }
            Err(error) => faults.add(error.into()),
        }
    }
    if qrels.is_empty() {
        remarks.push("no qrels: nothing to train on or to measure".into());
    }

    let ids = passages.rows.iter().map(|p| p.id.as_str());
    let blank = ids
        .chain(queries.rows.iter().map(|q| q.id.as_str()))
        .filter(has_blank)
        .count();
    if blank > 0 {
        remarks.push(format!(
            "{blank} ids hold white space; run files cannot name them"
        ));
    }
    let mut texts = HashSet::new();
    let duplicates = passages
        .rows
        .iter()
        .filter(|p| !texts.insert((xxh3_128(p.title.as_bytes()), xxh3_128(p.text.as_bytes()))));
    let duplicate_passages = duplicates.count();
    if duplicate_passages > 0 {
        remarks.push(format!(
            "{duplicate_passages} passages repeat an earlier one word for word: a search cannot tell them apart"
        ));
    }
    let splits = summarise(&qrels, &passages, &queries);
    for split in &splits {
        for (other, count) in &split.query_texts_in {
            if split.name < *other {
                remarks.push(format!(
                    "{count} query texts of {} are also in {other}",
                    split.name
                ));
            }
        }
        if split.queries_without_relevant > 0 {
            remarks.push(format!(
                "{} queries of {} have no relevant passage: every measure is 0 for them",
                split.queries_without_relevant, split.name
            ));
        }
    }
    Ok(Inspection {
        passages: passages.rows.len(),
        titles: passages.rows.iter().filter(|p| !p.title.is_empty()).count(),
        duplicate_passages,
        passage_words: lengths(
            passages
                .rows
                .iter()
                .map(|p| num_words(&p.title) + num_words(&p.text)),
        ),
        queries: queries.rows.len(),
        query_words: lengths(queries.rows.iter().map(|q| num_words(&q.text))),
        splits,
        num_errors: faults.count,
        errors: faults.first,
        remarks,
    })
}

fn has_blank(id: &&str) -> bool {
    id.contains(char::is_whitespace)
}

fn summarise(
    qrels: &[(String, Qrels)],
    passages: &Rows<DocId, Passage>,
    queries: &Rows<QueryId, Query>,
) -> Vec<SplitSummary> {
    let train = qrels
        .iter()
        .find(|(name, _)| name == TRAIN)
        .map(|(_, q)| relevant(q));
    let texts: Vec<HashSet<String>> = qrels
        .iter()
        .map(|(_, judged)| {
            let found = judged
                .queries()
                .filter_map(|(id, _)| queries.ids.find.get(id));
            found
                .map(|&i| words(&queries.rows[i].text).join(" "))
                .collect()
        })
        .collect();
    let mut bags: HashMap<&DocId, HashSet<String>> = HashMap::new();
    let mut splits = vec![];
    for (at, (name, judged)) in qrels.iter().enumerate() {
        let mut grades = BTreeMap::new();
        let (mut overlap, mut pairs) = (0.0, 0);
        for row in judged.rows() {
            *grades.entry(row.judgement.grade).or_insert(0) += 1;
            let query = queries.ids.find.get(row.query);
            let doc = passages.ids.find.get(&row.judgement.doc);
            if let (1.., Some(&query), Some(&doc)) = (row.judgement.grade, query, doc) {
                let passage = &passages.rows[doc];
                let bag = bags.entry(&passage.id).or_insert_with(|| {
                    words(&passage.title)
                        .into_iter()
                        .chain(words(&passage.text))
                        .collect()
                });
                let asked: HashSet<String> = words(&queries.rows[query].text).into_iter().collect();
                if !asked.is_empty() {
                    let found = asked.iter().filter(|word| bag.contains(*word)).count();
                    overlap += found as f64 / asked.len() as f64;
                    pairs += 1;
                }
            }
        }
        let own = relevant(judged);
        let compare = train.as_ref().filter(|_| name != TRAIN);
        let unseen_queries = compare.map(|seen| {
            let unseen = judged.queries().filter(|(_, judgements)| {
                let mut relevant = judgements.iter().filter(|j| j.grade >= 1).peekable();
                relevant.peek().is_some() && relevant.all(|j| !seen.contains(&j.doc))
            });
            unseen.count()
        });
        let shared = |other: usize| texts[at].intersection(&texts[other]).count();
        splits.push(SplitSummary {
            name: name.clone(),
            queries: judged.len(),
            queries_without_relevant: judged
                .queries()
                .filter(|(_, judgements)| judgements.iter().all(|j| j.grade < 1))
                .count(),
            grades,
            relevant_passages: own.len(),
            unseen_passages: compare.map(|seen| own.difference(seen).count()),
            unseen_queries,
            word_overlap: (pairs > 0).then(|| overlap / f64::from(pairs)),
            query_texts_in: (0..qrels.len())
                .filter(|&other| other != at && shared(other) > 0)
                .map(|other| (qrels[other].0.clone(), shared(other)))
                .collect(),
        });
    }
    splits
}

/// The passages that are relevant to some query.
fn relevant(qrels: &Qrels) -> HashSet<DocId> {
    let rows = qrels.rows().filter(|row| row.judgement.grade >= 1);
    rows.map(|row| row.judgement.doc.clone()).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Words between white space.
fn num_words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn lengths(counts: impl Iterator<Item = usize>) -> Option<Lengths> {
    let mut counts: Vec<usize> = counts.collect();
    counts.sort_unstable();
    let last = counts.len().checked_sub(1)?;
    Some(Lengths {
        mean: counts.iter().sum::<usize>() as f64 / counts.len() as f64,
        median: counts[last / 2],
        p95: counts[(counts.len() * 95).div_ceil(100) - 1],
        max: counts[last],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lengths_of_one_to_a_hundred() {
        let found = lengths(1..=100).unwrap();
        assert_eq!(
            found,
            Lengths {
                mean: 50.5,
                median: 50,
                p95: 95,
                max: 100
            }
        );
        assert_eq!(lengths(0..0), None);
    }

    #[test]
    fn everything_wrong_is_listed() {
        let path = std::env::temp_dir().join(format!("genret-inspect-{}", std::process::id()));
        fs::create_dir_all(path.join("qrels")).unwrap();
        let corpus = r#"{"_id":"a","text":"Red apple, red pear"}
{"_id":"b c","title":"t","text":"Green plum"}
{"_id":"d","title":"t","text":"Green plum"}
{"_id":"a","text":"again"}
{"_id":"e"
{"_id":"f","text":""}
"#;
        fs::write(
            path.join("corpus.jsonl"),
            [corpus.as_bytes(), b"\xff\n"].concat(),
        )
        .unwrap();
        let queries =
            "{\"_id\":\"q1\",\"text\":\"red PLUM?\"}\n{\"_id\":\"q2\",\"text\":\"Red plum\"}\n";
        fs::write(path.join("queries.jsonl"), queries).unwrap();
        fs::write(path.join("qrels/train.tsv"), "q1\ta\t1\nq1\tx\t1\n").unwrap();
        fs::write(path.join("qrels/test.tsv"), "q2\td\t2\nq3\td\t0\n").unwrap();
        fs::write(path.join("qrels/dev.tsv"), "q2\td\tx\n").unwrap();
        let found = inspect(&path, 5).unwrap();
        fs::remove_dir_all(&path).unwrap();
        // Repeated id, broken JSON, empty text, bad byte, bad grade; unknown q3; unknown x.
        assert_eq!((found.num_errors, found.errors.len()), (7, 5));
        assert_eq!(
            (found.passages, found.titles, found.duplicate_passages),
            (3, 2, 1)
        );
        let [test, train] = &found.splits[..] else {
            panic!("{:?}", found.splits)
        };
        assert_eq!(train.word_overlap, Some(0.5));
        assert_eq!(
            (train.unseen_passages, test.unseen_passages),
            (None, Some(1))
        );
        assert_eq!(
            (test.unseen_queries, test.queries_without_relevant),
            (Some(1), 1)
        );
        assert_eq!(test.query_texts_in["train"], 1);
        assert_eq!(found.remarks.len(), 4, "{:?}", found.remarks);
    }
}
