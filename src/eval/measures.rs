//! Retrieval measures by the names of ir_measures, with the definitions of trec_eval.
//!
//! | name | value for one query |
//! |---|---|
//! | `RR`, `RR@k` | 1 / rank of the first relevant document, 0 if there is none (in the first k) |
//! | `AP`, `AP@k` | mean over the relevant documents of the precision at their rank, 0 for those not found |
//! | `nDCG`, `nDCG@k` | sum of grade / log2(rank + 1), divided by the same of the ideal ranking |
//! | `R@k` | share of the relevant documents that is in the first k |
//! | `P@k` | share of the first k that is relevant; a shorter list is filled with what is not |
//! | `Success@k` | 1 if a relevant document is in the first k |
//! | `Rprec` | precision at the number of relevant documents |
//!
//! Relevant is a grade of 1 or more, or of `n` or more with `(rel=n)`, as in `AP(rel=2)@100`. The
//! gain of nDCG is the grade itself (0 for negative grades), whatever counts as relevant. A query
//! without relevant documents has the value 0.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a measure.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MeasureError {
    /// No measure has this name.
    #[error(
        "unknown measure {0:?}; expected RR, AP, nDCG (each alone or with @k), R@k, P@k, Success@k, Rprec, such as RR@10 or AP(rel=2)@100"
    )]
    Unknown(String),
    /// The measure is defined at a cutoff only.
    #[error("measure {0} needs a cutoff, such as {0}@10")]
    NeedsCutoff(&'static str),
    /// The measure has no cutoff.
    #[error("measure {0} has no cutoff; write {0}")]
    NoCutoff(&'static str),
    /// The cutoff is not a positive integer.
    #[error("cutoff {found:?} in measure {measure:?}: expected an integer of at least 1")]
    Cutoff {
        /// The text.
        measure: String,
        /// What follows the `@`.
        found: String,
    },
    /// The parameter is not understood.
    #[error(
        "parameter {found:?} in measure {measure:?}: expected (rel=n) with n of at least 1, and not for nDCG"
    )]
    Parameter {
        /// The text.
        measure: String,
        /// What stands between the parentheses.
        found: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    ReciprocalRank,
    AveragePrecision,
    Ndcg,
    Recall,
    Precision,
    Success,
    RPrecision,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::ReciprocalRank,
        Kind::AveragePrecision,
        Kind::Ndcg,
        Kind::Recall,
        Kind::Precision,
        Kind::Success,
        Kind::RPrecision,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::ReciprocalRank => "RR",
            Kind::AveragePrecision => "AP",
            Kind::Ndcg => "nDCG",
            Kind::Recall => "R",
            Kind::Precision => "P",
            Kind::Success => "Success",
            Kind::RPrecision => "Rprec",
        }
    }
}

/// A measure of one ranking; parse it from its name, print it to get the name back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Measure {
    kind: Kind,
    /// Least grade that counts as relevant.
    relevance: i32,
    cutoff: Option<usize>,
}

impl Measure {
    /// The value for one query.
    ///
    /// `ranked` are the grades of the documents found, best first, 0 for unjudged ones; `judged` are
    /// the grades of all judged documents in any order.
    pub fn value(&self, ranked: &[i32], judged: &[i32]) -> f64 {
        let depth = self.cutoff.unwrap_or(usize::MAX);
        let first = &ranked[..ranked.len().min(depth)];
        let relevant = |grade: &&i32| **grade >= self.relevance;
        let num_relevant = judged.iter().filter(relevant).count();
        if num_relevant == 0 && self.kind != Kind::Ndcg {
            return 0.0;
        }
        let found = |grades: &[i32]| grades.iter().filter(relevant).count() as f64;
        match self.kind {
            Kind::ReciprocalRank => {
                let rank = first.iter().position(|grade| relevant(&grade));
                rank.map_or(0.0, |i| 1.0 / (i + 1) as f64)
            }
            Kind::AveragePrecision => {
                let (mut hits, mut sum) = (0, 0.0);
                for (i, grade) in first.iter().enumerate() {
                    if relevant(&grade) {
                        hits += 1;
                        sum += f64::from(hits) / (i + 1) as f64;
                    }
                }
                sum / num_relevant as f64
            }
            Kind::Ndcg => {
                let mut ideal: Vec<i32> = judged.iter().copied().filter(|&g| g > 0).collect();
                ideal.sort_unstable_by(|a, b| b.cmp(a));
                let best = gain(&ideal[..ideal.len().min(depth)]);
                if best == 0.0 { 0.0 } else { gain(first) / best }
            }
            Kind::Recall => found(first) / num_relevant as f64,
            Kind::Precision => found(first) / depth as f64,
            Kind::Success => f64::from(u8::from(found(first) > 0.0)),
            Kind::RPrecision => {
                found(&ranked[..ranked.len().min(num_relevant)]) / num_relevant as f64
            }
        }
    }
}

/// Discounted cumulative gain of grades, best rank first.
fn gain(grades: &[i32]) -> f64 {
    let gains = grades.iter().enumerate().filter(|(_, grade)| **grade > 0);
    // The sum of nothing is -0.0, which would be printed as such.
    gains
        .map(|(i, grade)| f64::from(*grade) / ((i + 2) as f64).log2())
        .sum::<f64>()
        + 0.0
}

impl FromStr for Measure {
    type Err = MeasureError;

    fn from_str(text: &str) -> Result<Self, MeasureError> {
        let unknown = || MeasureError::Unknown(text.into());
        let (head, cutoff) = match text.split_once('@') {
            Some((head, cutoff)) => (head, Some(cutoff)),
            None => (text, None),
        };
        let (name, parameter) = match head.split_once('(') {
            Some((name, rest)) => (name, Some(rest.strip_suffix(')').ok_or_else(unknown)?)),
            None => (head, None),
        };
        // The short names with an M for the mean are as common as those without.
        let name = match name {
            "MRR" => "RR",
            "MAP" => "AP",
            "NDCG" | "ndcg" => "nDCG",
            name => name,
        };
        let kind = *Kind::ALL
            .iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(unknown)?;
        let cutoff = cutoff
            .map(|found| match found.parse() {
                Ok(k) if k >= 1 => Ok(k),
                _ => Err(MeasureError::Cutoff {
                    measure: text.into(),
                    found: found.into(),
                }),
            })
            .transpose()?;
        match (kind, cutoff) {
            (Kind::Recall | Kind::Precision | Kind::Success, None) => {
                return Err(MeasureError::NeedsCutoff(kind.name()));
            }
            (Kind::RPrecision, Some(_)) => return Err(MeasureError::NoCutoff(kind.name())),
            _ => {}
        }
        let relevance = match parameter {
            None => 1,
            Some(found) => found
                .strip_prefix("rel=")
                .and_then(|n| n.parse().ok())
                .filter(|n| *n >= 1 && kind != Kind::Ndcg)
                .ok_or_else(|| MeasureError::Parameter {
                    measure: text.into(),
                    found: found.into(),
                })?,
        };
        Ok(Self {
            kind,
            relevance,
            cutoff,
        })
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.relevance != 1 {
            write!(f, "(rel={})", self.relevance)?;
        }
        match self.cutoff {
            Some(k) => write!(f, "@{k}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(measure: &str, ranked: &[i32], judged: &[i32]) -> f64 {
        measure.parse::<Measure>().unwrap().value(ranked, judged)
    }

    #[test]
    fn values_a_person_can_check() {
        // Relevant at ranks 2 (grade 1) and 4 (grade 3); one more relevant document is not found.
        let (ranked, judged) = ([0, 1, -1, 3], [3, 1, 1, 0, -1]);
        let v = |measure| value(measure, &ranked, &judged);
        assert_eq!(v("RR"), 0.5);
        assert_eq!(v("RR@1"), 0.0);
        assert_eq!(v("RR(rel=2)@10"), 0.25);
        assert_eq!(v("AP"), (0.5 + 0.5) / 3.0);
        assert_eq!(v("AP@2"), 0.5 / 3.0);
        assert_eq!(v("R@3"), 1.0 / 3.0);
        assert_eq!(v("R(rel=2)@10"), 1.0);
        assert_eq!(v("P@10"), 0.2);
        assert_eq!((v("Success@1"), v("Success@2")), (0.0, 1.0));
        assert_eq!(v("Rprec"), 1.0 / 3.0);
        let log = f64::log2;
        let ideal = 3.0 + 1.0 / log(3.0) + 1.0 / log(4.0);
        assert!((v("nDCG") - (1.0 / log(3.0) + 3.0 / log(5.0)) / ideal).abs() < 1e-15);
        assert!((v("nDCG@2") - (1.0 / log(3.0)) / (3.0 + 1.0 / log(3.0))).abs() < 1e-15);
    }

    #[test]
    fn queries_without_relevant_documents_have_zero() {
        for measure in [
            "RR",
            "AP",
            "nDCG",
            "nDCG@10",
            "R@10",
            "P@10",
            "Success@10",
            "Rprec",
        ] {
            assert_eq!(value(measure, &[0, -1], &[-1, 0]), 0.0);
            assert_eq!(value(measure, &[], &[1]).to_string(), "0");
        }
    }

    #[test]
    fn names_read_back() {
        for name in [
            "RR",
            "RR@10",
            "AP(rel=2)@100",
            "nDCG@10",
            "R@1000",
            "P(rel=3)@5",
            "Rprec",
        ] {
            assert_eq!(name.parse::<Measure>().unwrap().to_string(), name);
        }
        assert_eq!("MRR@10".parse::<Measure>().unwrap().to_string(), "RR@10");
        let error = |name: &str| name.parse::<Measure>().unwrap_err();
        assert_eq!(
            error("recip_rank"),
            MeasureError::Unknown("recip_rank".into())
        );
        assert_eq!(error("R"), MeasureError::NeedsCutoff("R"));
        assert_eq!(error("Rprec@3"), MeasureError::NoCutoff("Rprec"));
        for name in ["RR@0", "RR@x", "RR@", "RR@-1"] {
            assert!(matches!(error(name), MeasureError::Cutoff { .. }), "{name}");
        }
        for name in ["nDCG(rel=2)@10", "AP(rel=0)", "AP(x)", "AP()"] {
            assert!(
                matches!(error(name), MeasureError::Parameter { .. }),
                "{name}"
            );
        }
        assert!(matches!(error("AP(rel=2"), MeasureError::Unknown(_)));
    }
}
