//! Queries that a model wrote for passages (doc2query, Nogueira et al. 2019), as `genret decode --task queries` leaves
//! them: training data, and identifiers of the passages beside title and text (MINDER, Li et al. 2023).

use std::path::Path;

use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::dataset::{check, split_files};
use super::example::{PassageTokens, field_tokens};
use super::trec::Qrels;
use super::{Corpus, DataError, load_queries};
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::types::PassageIdx;

/// The split whose judgements say which passage a query was written for.
const SPLIT: &str = "train";

/// Pseudo-queries of a corpus, by passage, those of one passage in file order.
#[derive(Clone, Debug)]
pub struct PseudoQueries {
    texts: Vec<(PassageIdx, String)>,
}

impl PseudoQueries {
    /// Reads `queries.jsonl` and `qrels/train.tsv` of `folder`, written for `corpus`.
    ///
    /// # Errors
    /// Those of the files; [`DataError::NoPseudoQueries`]; a judgement of a query or passage that is not there, with its
    /// line; [`DataError::Unjudged`].
    pub fn load(folder: &Path, corpus: &Corpus) -> Result<Self, DataError> {
        let mut splits = split_files(folder)?.into_iter();
        let found = splits.find(|(split, _)| split == SPLIT);
        let (_, path) = found.ok_or_else(|| DataError::NoPseudoQueries {
            folder: folder.to_owned(),
        })?;
        let qrels = Qrels::load(&path)?;
        let queries = load_queries(folder)?;
        let find = super::corpus::index_queries(&queries);
        check(&qrels, &|id| find.contains_key(id), corpus, folder)?;
        let mut texts = vec![];
        for query in queries {
            let before = texts.len();
            for doc in qrels.relevant(query.id.as_str()) {
                let passage = corpus.find(doc.as_str());
                let passage = passage.expect("every judged passage was looked up");
                texts.push((passage, query.text.clone()));
            }
            if texts.len() == before {
                return Err(DataError::Unjudged {
                    path,
                    query: query.id.to_string(),
                });
            }
        }
        texts.sort_by_key(|(passage, _)| *passage);
        Ok(Self { texts })
    }

    /// Every query with its passage, by passage.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (PassageIdx, &str)> {
        self.texts
            .iter()
            .map(|(passage, text)| (*passage, &text[..]))
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// False: a file without queries does not load.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The query with number `at` of [`iter`](Self::iter), below [`len`](Self::len).
    pub fn get(&self, at: usize) -> (PassageIdx, &str) {
        let (passage, text) = &self.texts[at];
        (*passage, text)
    }

    /// The queries of one passage, in file order.
    pub fn of(&self, passage: PassageIdx) -> impl Iterator<Item = &str> {
        let first = self.texts.partition_point(|(p, _)| *p < passage);
        let texts = self.texts[first..].iter();
        texts
            .take_while(move |(p, _)| *p == passage)
            .map(|(_, text)| &text[..])
    }

    /// Puts the tokens of the queries into the passages from number `first` on.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode_into(
        &self,
        tokenizer: &Tokenizer,
        first: usize,
        passages: &mut [PassageTokens],
    ) -> Result<(), TokenizerError> {
        passages
            .par_iter_mut()
            .enumerate()
            .try_for_each(|(at, tokens)| {
                let queries = self.of(PassageIdx((first + at) as u32));
                tokens.queries = queries
                    .map(|query| field_tokens(tokenizer, query))
                    .collect::<Result<_, _>>()?;
                Ok(())
            })
    }

    /// Hash of all queries and their passages.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for (passage, text) in &self.texts {
            hasher.update(&passage.0.to_le_bytes());
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Passage;
    use std::fs;

    #[test]
    fn queries_are_those_of_their_passages() {
        let folder = std::env::temp_dir().join(format!("genret-pseudo-{}", std::process::id()));
        fs::create_dir_all(folder.join("qrels")).unwrap();
        let passage = |id: &str| Passage {
            id: id.into(),
            title: String::new(),
            text: format!("text of {id}"),
        };
        let corpus = Corpus::from_passages(["a", "b", "c"].map(passage).to_vec()).unwrap();
        let write = |queries: &str, qrels: &str| {
            fs::write(folder.join("queries.tsv"), queries).unwrap();
            fs::write(folder.join("qrels/train.tsv"), qrels).unwrap();
            PseudoQueries::load(&folder, &corpus)
        };
        let queries = "q1\tsecond\nq2\tfirst\nq3\tthird\n";
        let pseudo = write(queries, "q1\tc\t1\nq2\ta\t1\nq3\tc\t1\n").unwrap();
        let of = |p: u32| -> Vec<&str> { pseudo.of(PassageIdx(p)).collect() };
        assert_eq!(
            [of(0), of(1), of(2)],
            [vec!["first"], vec![], vec!["second", "third"]]
        );
        let all: Vec<_> = pseudo.iter().map(|(p, text)| (p.0, text)).collect();
        assert_eq!(all, [(0, "first"), (2, "second"), (2, "third")]);
        assert_eq!(pseudo.get(1), (PassageIdx(2), "second"));

        let said = |queries: &str, qrels: &str| write(queries, qrels).unwrap_err().to_string();
        let other = said(queries, "q1\tc\t1\nq2\tx\t1\n");
        assert!(other.contains("train.tsv:2: passage \"x\""), "{other}");
        let gone = said("q1\tsecond\n", "q1\tc\t1\nq2\ta\t1\n");
        assert!(gone.contains("train.tsv:2: query \"q2\""), "{gone}");
        let unjudged = said(queries, "q1\tc\t1\nq3\tc\t1\n");
        assert!(
            unjudged.contains("train.tsv: no passage for query \"q2\""),
            "{unjudged}"
        );
        fs::remove_file(folder.join("qrels/train.tsv")).unwrap();
        let none = PseudoQueries::load(&folder, &corpus)
            .unwrap_err()
            .to_string();
        assert!(none.contains("genret decode --task queries"), "{none}");
        fs::remove_dir_all(folder).unwrap();
    }
}
