//! How good a ranking is: measures, comparisons of systems, and the contrastive generation loss.
//!
//! The order of a ranking and every edge case follow trec_eval 9: scores count as `f32`, larger
//! first; equal scores by document id, descending by bytes; the rank column means nothing; unjudged
//! documents are not relevant and keep their rank. Means are over all judged queries, and one that
//! the run does not have counts 0 (`trec_eval -c`).
//!
//! Two evaluators differ on ties: ir_measures takes `RR@k` from the MS MARCO script, which sorts
//! equal scores by ascending id, and ranx keeps the order of its input.

use hashbrown::HashMap;
use rayon::prelude::*;

use crate::data::trec::{Qrels, Run, RunLine};
use crate::types::QueryId;

pub mod answer;
pub mod cgl;
pub mod compare;
pub mod fusion;
mod measures;

pub use measures::{Measure, MeasureError};

/// Values of some measures for every judged query.
#[derive(Clone, Debug)]
pub struct Evaluation {
    queries: Vec<QueryId>,
    in_run: Vec<bool>,
    values: Vec<Vec<f64>>,
    num_unjudged: usize,
}

impl Evaluation {
    /// The judged queries, in the order of the judgements.
    pub fn queries(&self) -> &[QueryId] {
        &self.queries
    }

    /// Values of the `measure`-th measure, one per judged query.
    pub fn values(&self, measure: usize) -> &[f64] {
        &self.values[measure]
    }

    /// Mean of every measure over all judged queries (`trec_eval -c`); NaN if there are none.
    pub fn means(&self) -> Vec<f64> {
        let count = self.queries.len() as f64;
        self.values
            .iter()
            .map(|values| values.iter().sum::<f64>() / count)
            .collect()
    }

    /// Mean of every measure over the judged queries that the run has (`trec_eval` without `-c`);
    /// NaN if it has none.
    pub fn means_of_answered(&self) -> Vec<f64> {
        let count = (self.queries.len() - self.num_missing()) as f64;
        let answered = |values: &Vec<f64>| {
            values
                .iter()
                .zip(&self.in_run)
                .filter(|(_, there)| **there)
                .map(|(v, _)| v)
                .sum::<f64>()
        };
        self.values
            .iter()
            .map(|values| answered(values) / count)
            .collect()
    }

    /// Judged queries that the run does not have.
    pub fn num_missing(&self) -> usize {
        self.in_run.iter().filter(|there| !**there).count()
    }

    /// Queries of the run without judgements; they count nowhere.
    pub fn num_unjudged(&self) -> usize {
        self.num_unjudged
    }
}

/// Measures every judged query of a run. Cost: a sort per query.
pub fn evaluate(qrels: &Qrels, run: &Run, measures: &[Measure]) -> Evaluation {
    let judged: Vec<_> = qrels.queries().collect();
    let rows: Vec<(bool, Vec<f64>)> = judged
        .par_iter()
        .map(|(query, judgements)| {
            let ranking = run.ranking(query.as_str());
            let grades: Vec<i32> = judgements.iter().map(|j| j.grade).collect();
            let grade_of: HashMap<&str, i32> = judgements
                .iter()
                .map(|j| (j.doc.as_str(), j.grade))
                .collect();
            let ranked: Vec<i32> = trec_order(ranking.unwrap_or_default())
                .iter()
                .map(|hit| grade_of.get(hit.doc.as_str()).copied().unwrap_or(0))
                .collect();
            let values = measures.iter().map(|m| m.value(&ranked, &grades)).collect();
            (ranking.is_some(), values)
        })
        .collect();
    let column = |measure: usize| rows.iter().map(|(_, values)| values[measure]).collect();
    Evaluation {
        queries: judged.iter().map(|(query, _)| (*query).clone()).collect(),
        in_run: rows.iter().map(|(there, _)| *there).collect(),
        values: (0..measures.len()).map(column).collect(),
        num_unjudged: run
            .queries()
            .filter(|(query, _)| qrels.judgements(query.as_str()).is_none())
            .count(),
    }
}

/// The lines of a ranking in the order in which trec_eval 9 sees them.
pub fn trec_order(ranking: &[RunLine]) -> Vec<&RunLine> {
    // Adding zero makes the two zeros equal, as they are in C.
    let score = |line: &RunLine| line.score as f32 + 0.0;
    let mut lines: Vec<&RunLine> = ranking.iter().collect();
    lines.sort_by(|a, b| {
        let by_score = score(b).total_cmp(&score(a));
        by_score.then_with(|| b.doc.as_str().as_bytes().cmp(a.doc.as_str().as_bytes()))
    });
    lines
}
