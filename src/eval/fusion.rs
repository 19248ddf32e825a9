//! One ranking from several: reciprocal ranks (Cormack, Clarke and Buettcher 2009) or weighted scores.

use hashbrown::{HashMap, HashSet};
use rayon::prelude::*;

use super::{Measure, evaluate, trec_order};
use crate::data::trec::{Qrels, Run, RunLine, TrecError};
use crate::types::{DocId, QueryId};

/// How rankings become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fusion {
    /// Sum over runs of weight / (k + rank), ranks from 1; a run without the document adds nothing.
    ReciprocalRank {
        /// Larger values make ranks more alike; 60 in the paper.
        k: f64,
    },
    /// Sum over runs of weight times score; a document that a run lacks has the lowest score of the run's ranking.
    Scores(Normalisation),
}

/// What is done to the scores of a ranking before they are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalisation {
    /// Nothing.
    None,
    /// The lowest becomes 0, the highest 1; all become 0 where they are equal.
    MinMax,
    /// Mean 0 and standard deviation 1; all become 0 where they are equal.
    Standard,
}

impl Normalisation {
    fn apply(self, scores: &mut [f64]) {
        let count = scores.len() as f64;
        let (shift, scale) = match self {
            Self::None => return,
            Self::MinMax => {
                let low = scores.iter().copied().fold(f64::INFINITY, f64::min);
                let high = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                (low, high - low)
            }
            Self::Standard => {
                let mean = scores.iter().sum::<f64>() / count;
                let squares: f64 = scores.iter().map(|s| (s - mean).powi(2)).sum();
                (mean, (squares / count).sqrt())
            }
        };
        for score in scores {
            *score = match scale > 0.0 {
                true => (*score - shift) / scale,
                false => 0.0,
            };
        }
    }
}

/// The first `depth` documents of every query that some run has, by the sum over runs; equal sums in the order in
/// which the runs name the documents. `weights` holds one number per run.
///
/// # Errors
/// [`TrecError::Ranking`] where scores overflow.
///
/// # Panics
/// With another number of weights than of runs.
pub fn fuse(
    runs: &[&Run],
    weights: &[f64],
    method: Fusion,
    depth: usize,
    tag: &str,
) -> Result<Run, TrecError> {
    assert_eq!(runs.len(), weights.len());
    let mut seen = HashSet::new();
    let queries = runs.iter().flat_map(|run| run.queries());
    let queries: Vec<&QueryId> = queries
        .map(|(query, _)| query)
        .filter(|query| seen.insert(*query))
        .collect();
    let rankings: Vec<Vec<(DocId, f64)>> = queries
        .par_iter()
        .map(|query| {
            let of_run = |run: &&Run| run.ranking(query.as_str()).unwrap_or_default().to_vec();
            let rankings: Vec<Vec<RunLine>> = runs.iter().map(of_run).collect();
            fuse_rankings(&rankings, weights, method, depth)
        })
        .collect();
    let mut fused = Run::new(tag);
    for (query, ranking) in queries.into_iter().zip(rankings) {
        fused.push(query.clone(), ranking)?;
    }
    Ok(fused)
}

fn fuse_rankings(
    rankings: &[Vec<RunLine>],
    weights: &[f64],
    method: Fusion,
    depth: usize,
) -> Vec<(DocId, f64)> {
    let credits: Vec<(Vec<(&DocId, f64)>, f64)> = rankings
        .iter()
        .map(|ranking| credits(ranking, method))
        .collect();
    let mut places: HashMap<&DocId, usize> = HashMap::new();
    let mut sums: Vec<(&DocId, f64)> = vec![];
    // Every document begins with what the runs give to those they lack.
    let lacked: f64 = (credits.iter().zip(weights))
        .map(|((_, lacked), w)| w * lacked)
        .sum();
    for ((given, lacked_here), weight) in credits.iter().zip(weights) {
        for (doc, credit) in given {
            let place = *places.entry(doc).or_insert_with(|| {
                sums.push((doc, lacked));
                sums.len() - 1
            });
            sums[place].1 += weight * (credit - lacked_here);
        }
    }
    sums.sort_by(|a, b| b.1.total_cmp(&a.1));
    sums.truncate(depth);
    sums.into_iter()
        .map(|(doc, sum)| (doc.clone(), sum))
        .collect()
}

/// What a ranking gives to its documents, best first, and to those it lacks.
fn credits(ranking: &[RunLine], method: Fusion) -> (Vec<(&DocId, f64)>, f64) {
    let lines = trec_order(ranking);
    let docs = lines.iter().map(|line| &line.doc);
    match method {
        Fusion::ReciprocalRank { k } => {
            let ranks = (1..).map(|rank| (k + f64::from(rank)).recip());
            (docs.zip(ranks).collect(), 0.0)
        }
        Fusion::Scores(normalisation) => {
            let mut scores: Vec<f64> = lines.iter().map(|line| line.score).collect();
            normalisation.apply(&mut scores);
            let lowest = scores.last().copied().unwrap_or(0.0);
            (docs.zip(scores).collect(), lowest)
        }
    }
}

/// The weight of `second` (that of `first` is 1 minus it), of 0, 1/steps, ..., 1, whose fusion has the largest mean of
/// `measure`, and that mean; the smallest of equals.
///
/// # Errors
/// Those of [`fuse`].
pub fn best_weight(
    [first, second]: [&Run; 2],
    qrels: &Qrels,
    measure: Measure,
    method: Fusion,
    steps: usize,
    depth: usize,
) -> Result<(f64, f64), TrecError> {
    let mut best = (0.0, f64::NEG_INFINITY);
    for step in 0..=steps {
        let weight = step as f64 / steps as f64;
        let fused = fuse(
            &[first, second],
            &[1.0 - weight, weight],
            method,
            depth,
            "fused",
        )?;
        let mean = evaluate(qrels, &fused, &[measure]).means()[0];
        if mean > best.1 {
            best = (weight, mean);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &[(&str, &[(&str, f64)])]) -> Run {
        let mut run = Run::new("t");
        for (query, ranking) in lines {
            let ranking = ranking
                .iter()
                .map(|(doc, score)| (DocId::from(*doc), *score));
            run.push(QueryId::from(*query), ranking).unwrap();
        }
        run
    }

    fn ranking(run: &Run, query: &str) -> Vec<(String, f64)> {
        let lines = run.ranking(query).unwrap();
        lines
            .iter()
            .map(|l| (l.doc.to_string(), (l.score * 1e6).round() / 1e6))
            .collect()
    }

    fn runs() -> [Run; 2] {
        [
            run(&[("q", &[("a", 9.0), ("b", 5.0), ("c", 1.0)])]),
            run(&[("q", &[("b", 0.5), ("d", 0.25)]), ("r", &[("a", 1.0)])]),
        ]
    }

    #[test]
    fn reciprocal_ranks_by_hand() {
        let [first, second] = runs();
        let method = Fusion::ReciprocalRank { k: 1.0 };
        let fused = fuse(&[&first, &second], &[1.0, 1.0], method, 3, "f").unwrap();
        // b: 1/3 + 1/2; a: 1/2; d: 1/3, c: 1/4
        let expected = [("b", 0.833333), ("a", 0.5), ("d", 0.333333)];
        assert_eq!(
            ranking(&fused, "q"),
            expected.map(|(d, s)| (d.to_string(), s))
        );
        assert_eq!(ranking(&fused, "r"), [("a".to_string(), 0.5)]);
    }

    #[test]
    fn weighted_scores_by_hand() {
        let [first, second] = runs();
        let fused = |normalisation| {
            let method = Fusion::Scores(normalisation);
            ranking(
                &fuse(&[&first, &second], &[0.5, 2.0], method, 9, "f").unwrap(),
                "q",
            )
        };
        let expected = |lines: [(&str, f64); 4]| lines.map(|(d, s)| (d.to_string(), s));
        // first 1, 0.5, 0 and 0 for d; second b 1, others 0
        assert_eq!(
            fused(Normalisation::MinMax),
            expected([("b", 2.25), ("a", 0.5), ("c", 0.0), ("d", 0.0)])
        );
        // d has 1 of the first run, a and c have 0.25 of the second
        assert_eq!(
            fused(Normalisation::None),
            expected([("a", 5.0), ("b", 3.5), ("c", 1.0), ("d", 1.0)])
        );
        // first: mean 5, deviation sqrt(32/3); second: b 1, d -1 and so a and c
        let z = 4.0 / (32.0f64 / 3.0).sqrt() / 2.0;
        let round = |x: f64| (x * 1e6).round() / 1e6;
        assert_eq!(
            fused(Normalisation::Standard),
            expected([
                ("b", 2.0),
                ("a", round(z - 2.0)),
                ("c", round(-z - 2.0)),
                ("d", round(-z - 2.0))
            ])
        );
    }

    #[test]
    fn equal_scores_become_zero() {
        for normalisation in [Normalisation::MinMax, Normalisation::Standard] {
            let mut scores = [3.0, 3.0];
            normalisation.apply(&mut scores);
            assert_eq!(scores, [0.0, 0.0]);
        }
    }

    #[test]
    fn the_best_weight_is_found() {
        let path = std::env::temp_dir().join(format!("genret-fusion-{}", std::process::id()));
        std::fs::write(&path, "q 0 a 1\nr 0 a 1\n").unwrap();
        let qrels = Qrels::load(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let [first, second] = runs();
        let measure: Measure = "RR@10".parse().unwrap();
        let method = Fusion::Scores(Normalisation::MinMax);
        let (weight, mean) =
            best_weight([&first, &second], &qrels, measure, method, 10, 10).unwrap();
        // The first run ranks a first for q; with any weight the second finds it for r.
        assert_eq!((weight, mean), (0.0, 1.0));
        let (weight, _) = best_weight([&second, &first], &qrels, measure, method, 10, 10).unwrap();
        // 1 - w times 1 for b in the second run, w times 0.5 in the first, against w for a.
        assert_eq!(weight, 0.7);
    }
}
