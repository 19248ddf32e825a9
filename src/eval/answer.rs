//! AnswerMatch@k: whether an answer string stands in one of the first k passages (the rule of dense
//! passage retrieval, Karpukhin et al. 2020).
//!
//! Texts are put into Unicode form NFD and cut into tokens: runs of letters, digits and marks, and
//! every other visible character alone; tokens are compared in lower case. An answer matches where
//! its tokens follow one another in the passage text; the title does not count. Means are over the
//! queries that have answers.

use hashbrown::HashMap;
use rayon::prelude::*;
use tokenizers::NormalizedString;
use tokenizers::utils::SysRegex;

use super::trec_order;
use crate::data::trec::Run;
use crate::types::{DocId, QueryId};

/// A run names a passage that the corpus does not have.
#[derive(Debug, thiserror::Error)]
#[error("passage {:?}, ranked for query {:?}, is not in the corpus; name the corpus that was searched", doc.as_str(), query.as_str())]
pub struct UnknownPassage {
    /// The query.
    pub query: QueryId,
    /// The passage.
    pub doc: DocId,
}

/// Cuts texts into comparable tokens.
pub struct Words {
    pattern: SysRegex,
}

impl Default for Words {
    fn default() -> Self {
        let pattern = SysRegex::new(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]");
        Self {
            pattern: pattern.expect("the pattern is fixed and valid"),
        }
    }
}

impl Words {
    /// The tokens of `text`, each with a line feed before it, and one at the end: token sequences
    /// contain one another exactly if these strings do.
    fn line_up(&self, text: &str) -> String {
        let mut text = NormalizedString::from(text);
        let text = text.nfd().get();
        let mut words = String::with_capacity(text.len() + 2);
        for (start, end) in self.pattern.find_iter(text) {
            words.push('\n');
            words.push_str(&text[start..end].to_lowercase());
        }
        words.push('\n');
        words
    }

    /// Whether one of `answers` stands in `text`. An answer without tokens stands nowhere.
    pub fn found(&self, answers: &[String], text: &str) -> bool {
        let text = self.line_up(text);
        answers
            .iter()
            .map(|answer| self.line_up(answer))
            .any(|answer| holds(&text, &answer))
    }
}

fn holds(text: &str, answer: &str) -> bool {
    answer.len() > 1 && text.contains(answer)
}

/// For each cutoff the values (0 or 1) of every query of `answers`, in that order; a query that the
/// run does not have counts 0. `text` gives the text of a passage. Each passage is tokenised once.
///
/// # Errors
/// A ranked passage without a text.
pub fn answer_match<'a>(
    run: &Run,
    answers: &[(QueryId, Vec<String>)],
    text: impl Fn(&str) -> Option<&'a str>,
    cutoffs: &[usize],
) -> Result<Vec<Vec<f64>>, UnknownPassage> {
    let depth = cutoffs.iter().copied().max().unwrap_or(0);
    let words = Words::default();
    let mut texts: Vec<&str> = vec![];
    let mut place: HashMap<&DocId, usize> = HashMap::new();
    let mut rankings: Vec<Vec<usize>> = vec![];
    for (query, _) in answers {
        let mut ranking = vec![];
        let lines = run.ranking(query.as_str()).unwrap_or_default();
        for line in trec_order(lines).into_iter().take(depth) {
            let at = match place.get(&line.doc) {
                Some(&at) => at,
                None => {
                    let unknown = || UnknownPassage {
                        query: query.clone(),
                        doc: line.doc.clone(),
                    };
                    texts.push(text(line.doc.as_str()).ok_or_else(unknown)?);
                    place.insert(&line.doc, texts.len() - 1);
                    texts.len() - 1
                }
            };
            ranking.push(at);
        }
        rankings.push(ranking);
    }
    let texts: Vec<String> = texts.par_iter().map(|text| words.line_up(text)).collect();
    let first: Vec<Option<usize>> = answers
        .par_iter()
        .zip(&rankings)
        .map(|((_, answers), ranking)| {
            let answers: Vec<String> = answers.iter().map(|a| words.line_up(a)).collect();
            ranking
                .iter()
                .position(|&at| answers.iter().any(|a| holds(&texts[at], a)))
        })
        .collect();
    let value =
        |cutoff: usize, at: &Option<usize>| at.map_or(0.0, |i| f64::from(u8::from(i < cutoff)));
    Ok(cutoffs
        .iter()
        .map(|&k| first.iter().map(|at| value(k, at)).collect())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_match_whole_tokens_in_sequence() {
        let words = Words::default();
        let found = |answer: &str, text: &str| words.found(&[answer.into()], text);
        assert!(found(
            "October 1973",
            "... in OCTOBER, no: in october 1973."
        ));
        assert!(!found("October 1973", "October, 1973"));
        assert!(found("$12", "nearly $12 a barrel") && found("$ 12", "nearly $12 a barrel"));
        assert!(!found("12", "in 1212"));
        assert!(found("Caf\u{e9}", "the cafe\u{301} there") && !found("cafe", "caf\u{e9}"));
        assert!(found("U.S.", "the u.s. army") && !found("U.S.", "the US army"));
        assert!(!found(" ", "anything") && !found("", "anything"));
    }

    #[test]
    fn values_at_cutoffs() {
        let mut run = Run::new("t");
        let ranking = [("p1", 3.0), ("p2", 2.0), ("p3", 1.0)];
        run.push("q1".into(), ranking.map(|(d, s)| (d.into(), s)))
            .unwrap();
        let answers = [
            ("q1".into(), vec!["no".into(), "blue".into()]),
            ("q2".into(), vec!["x".into()]),
        ];
        let text = |id: &str| match id {
            "p1" => Some("red"),
            "p2" => Some("Light Blue!"),
            "p3" => Some("x"),
            _ => None,
        };
        let values = answer_match(&run, &answers, text, &[1, 2, 3]).unwrap();
        assert_eq!(values, [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]);
        let error = answer_match(&run, &answers, |_| None, &[1])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"p1\"") && error.contains("\"q1\""),
            "{error}"
        );
    }
}
