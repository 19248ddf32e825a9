//! Measures against the recorded output of trec_eval 9.0.8, pytrec_eval and ir_measures.

#[path = "common/shared.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use genret::data::trec::{Qrels, Run};
use genret::eval::{Evaluation, Measure, evaluate, trec_order};
use serde_json::Value;

/// The folder of fixtures, if this machine has it.
fn fixtures() -> Option<PathBuf> {
    shared::shared("fixtures/eval")
}

fn cases(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> = entries
        .filter(|path| path.join("expected.json").exists())
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                path,
            )
        })
        .collect();
    cases.sort();
    assert_eq!(cases.len(), 21);
    cases
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A name of trec_eval as a measure, with relevance level `level`, and `depth` results kept.
///
/// `None` for what genret does not have and what has no equal where only `depth` results are kept.
fn measure(trec_eval: &str, level: i32, depth: usize) -> Option<Measure> {
    let (name, cutoff) = match trec_eval.rsplit_once(['_', '@']) {
        Some((name, k)) if k.parse::<usize>().is_ok() => (name, k.parse().ok()),
        _ => (trec_eval, None),
    };
    let name = match (name, cutoff) {
        ("map" | "map_cut", _) => "AP",
        ("recip_rank" | "mrr", _) => "RR",
        ("Rprec", None) if depth == usize::MAX => "Rprec",
        // With fewer results kept, trec_eval's nDCG without a cutoff still has the whole ideal ranking.
        ("ndcg", None) if depth == usize::MAX => "nDCG",
        ("ndcg_cut", _) => "nDCG",
        ("P", Some(_)) => "P",
        ("recall", Some(_)) => "R",
        ("success", Some(_)) => "Success",
        _ => return None,
    };
    let deeper = cutoff.is_some_and(|k| k > depth);
    if deeper && matches!(name, "P" | "R" | "Success" | "nDCG") {
        return None;
    }
    let level = if level == 1 || name == "nDCG" {
        String::new()
    } else {
        format!("(rel={level})")
    };
    let cutoff = match cutoff.unwrap_or(usize::MAX).min(depth) {
        usize::MAX => String::new(),
        k => format!("@{k}"),
    };
    Some(format!("{name}{level}{cutoff}").parse().unwrap())
}

/// A measured file pair, all wanted measures at once.
struct Measured {
    measures: Vec<Measure>,
    evaluation: Evaluation,
}

impl Measured {
    fn new(qrels: &Qrels, run: &Run, measures: impl IntoIterator<Item = Measure>) -> Self {
        let mut measures: Vec<Measure> = measures.into_iter().collect();
        measures.sort_by_key(Measure::to_string);
        measures.dedup();
        let evaluation = evaluate(qrels, run, &measures);
        Self {
            measures,
            evaluation,
        }
    }

    fn place(&self, measure: Measure) -> usize {
        self.measures.iter().position(|m| *m == measure).unwrap()
    }

    fn value(&self, measure: Measure, query: &str) -> f64 {
        let at = self
            .evaluation
            .queries()
            .iter()
            .position(|q| q.as_str() == query)
            .unwrap();
        self.evaluation.values(self.place(measure))[at]
    }
}

fn load(case: &Path) -> (Qrels, Run) {
    (
        Qrels::load(&case.join("qrels.txt")).unwrap(),
        Run::load(&case.join("run.txt")).unwrap(),
    )
}

fn assert_close(got: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (got - expected).abs() <= tolerance,
        "{what}: got {got}, expected {expected}"
    );
}

fn numbers(object: &Value) -> BTreeMap<&str, f64> {
    let members = object.as_object().unwrap().iter();
    members
        .filter_map(|(name, v)| Some((&name[..], v.as_f64()?)))
        .collect()
}

#[test]
fn pytrec_eval_per_query_means_and_order() {
    let Some(folder) = fixtures() else { return };
    let mut compared = 0;
    for (name, case) in cases(&folder) {
        let expected = &json(&case.join("expected.json"))["pytrec_eval"];
        let Some(per_query) = expected["per_query"].as_object() else {
            continue;
        };
        let (qrels, run) = load(&case);
        let judged = numbers(&expected["mean_judged"]);
        let ours = |name: &str| measure(name, 1, usize::MAX);
        let measured = Measured::new(&qrels, &run, judged.keys().filter_map(|n| ours(n)));
        let rr10 = ours("mrr@10").unwrap();
        for (query, values) in per_query {
            for (trec_eval, value) in numbers(values) {
                if let Some(measure) = ours(trec_eval) {
                    let what = format!("{name} {query} {trec_eval}");
                    assert_close(measured.value(measure, query), value, 1e-9, &what);
                    compared += 1;
                }
            }
            let value = expected["mrr@10_per_query"][query].as_f64().unwrap();
            assert_close(
                measured.value(rr10, query),
                value,
                1e-9,
                &format!("{name} {query} RR@10"),
            );
        }
        let means = measured.evaluation.means();
        let answered = measured.evaluation.means_of_answered();
        for (kind, means) in [("mean_judged", means), ("mean_common", answered)] {
            for (trec_eval, value) in numbers(&expected[kind]) {
                if let Some(measure) = ours(trec_eval) {
                    let what = format!("{name} {kind} {trec_eval}");
                    assert_close(means[measured.place(measure)], value, 1e-9, &what);
                    compared += 1;
                }
            }
        }
        for (query, order) in expected["order"].as_object().unwrap() {
            let lines = trec_order(run.ranking(query).unwrap_or_default());
            let ids: Vec<&str> = lines
                .iter()
                .take(20)
                .map(|line| line.doc.as_str())
                .collect();
            assert_eq!(Value::from(ids), *order, "{name} {query}");
        }
    }
    println!("{compared} values equal pytrec_eval");
    assert!(compared > 9000, "{compared}");
}

#[test]
fn trec_eval_with_its_options() {
    let Some(folder) = fixtures() else { return };
    let mut compared = 0;
    for (name, case) in cases(&folder) {
        let expected = &json(&case.join("expected.json"))["trec_eval_9.0.8"];
        for (options, output) in expected.as_object().unwrap() {
            let (level, depth) = match &options[..] {
                "plain" | "complete(-c)" => (1, usize::MAX),
                "relevance_level_2(-l 2)" => (2, usize::MAX),
                "top10(-M 10)" => (1, 10),
                "judged_only(-J)" => continue,
                other => panic!("{name}: unknown options {other}"),
            };
            let Some(all) = output["values"].get("all").filter(|_| output["exit"] == 0) else {
                continue;
            };
            let (qrels, run) = load(&case);
            let ours = |name: &str| measure(name, level, depth);
            let names = numbers(all);
            let measured = Measured::new(&qrels, &run, names.keys().filter_map(|n| ours(n)));
            // The recorded runs with -M are with -c too.
            let means = if options == "plain" || level == 2 {
                measured.evaluation.means_of_answered()
            } else {
                measured.evaluation.means()
            };
            for (query, values) in output["values"].as_object().unwrap() {
                for (trec_eval, value) in numbers(values) {
                    let Some(measure) = ours(trec_eval) else {
                        continue;
                    };
                    let got = match &query[..] {
                        "all" => means[measured.place(measure)],
                        query => measured.value(measure, query),
                    };
                    let what = format!("{name} {options} {query} {trec_eval} = {measure}");
                    assert_close(got, value, 0.5001e-4, &what);
                    compared += 1;
                }
            }
        }
    }
    println!("{compared} values equal trec_eval 9.0.8");
    assert!(compared > 20_000, "{compared}");
}

#[test]
fn ir_measures_where_ties_do_not_matter() {
    let Some(folder) = fixtures() else { return };
    let mut compared = 0;
    for (name, case) in cases(&folder) {
        let expected = &json(&case.join("expected.json"))["ir_measures"];
        let Some(aggregate) = expected["aggregate"].as_object() else {
            continue;
        };
        // Its RR@k takes equal scores in ascending order of the ids.
        let ties = ["03", "10", "13"].iter().any(|case| name.starts_with(case));
        let same = |measure: &str| !(ties && measure.starts_with("RR") && measure.contains('@'));
        let (qrels, run) = load(&case);
        let names = aggregate.keys().map(|n| n.parse().unwrap());
        let measured = Measured::new(&qrels, &run, names);
        let means = measured.evaluation.means();
        for (measure, value) in numbers(&expected["aggregate"]) {
            if same(measure) {
                let got = means[measured.place(measure.parse().unwrap())];
                assert_close(got, value, 1e-9, &format!("{name} {measure}"));
                compared += 1;
            }
        }
        for (query, values) in expected["per_query"].as_object().unwrap() {
            for (measure, value) in numbers(values) {
                if same(measure) {
                    let got = measured.value(measure.parse().unwrap(), query);
                    assert_close(got, value, 1e-9, &format!("{name} {query} {measure}"));
                    compared += 1;
                }
            }
        }
    }
    println!("{compared} values equal ir_measures");
    assert!(compared > 4000, "{compared}");
}

#[test]
fn what_trec_eval_refuses() {
    let Some(folder) = fixtures() else { return };
    let run = Run::load(&folder.join("15_duplicate_doc_in_run/run.txt"))
        .unwrap_err()
        .to_string();
    assert!(
        run.contains("run.txt:2:") && run.contains("line 1"),
        "{run}"
    );
    let qrels = Qrels::load(&folder.join("16_duplicate_judgement/qrels.txt")).unwrap_err();
    let qrels = qrels.to_string();
    assert!(
        qrels.contains("qrels.txt:2:") && qrels.contains("line 1"),
        "{qrels}"
    );
    let measures = ["AP", "RR@10", "nDCG@10", "R@10"].map(|m| m.parse().unwrap());
    let (qrels, run) = load(&folder.join("17_no_common_query"));
    let evaluation = evaluate(&qrels, &run, &measures);
    assert_eq!(evaluation.means(), [0.0; 4]);
    assert_eq!(
        (evaluation.num_missing(), evaluation.num_unjudged()),
        (1, 1)
    );
    let (qrels, run) = load(&folder.join("18_only_negative_judgements"));
    let evaluation = evaluate(&qrels, &run, &measures);
    for i in 0..measures.len() {
        assert_eq!(evaluation.values(i)[0], 0.0);
        assert_eq!(evaluation.values(i)[1], 1.0);
    }
}

#[test]
fn trec_eval_test_data() {
    let Some(folder) = fixtures() else { return };
    let folder = folder.join("trec_eval-own");
    let mut compared = 0;
    for (output, qrels, run, level, depth) in [
        ("out.test", "qrels.test", "results.test", 1, usize::MAX),
        ("out.test.a", "qrels.test", "results.test", 1, usize::MAX),
        ("out.test.aq", "qrels.test", "results.test", 1, usize::MAX),
        ("out.test.aqc", "qrels.test", "results.trunc", 1, usize::MAX),
        ("out.test.aqcM", "qrels.test", "results.trunc", 1, 100),
        (
            "out.test.aql",
            "qrels.rel_level",
            "results.test",
            2,
            usize::MAX,
        ),
    ] {
        let qrels = Qrels::load(&folder.join(qrels)).unwrap();
        let run = Run::load(&folder.join(run)).unwrap();
        let text = fs::read_to_string(folder.join(output)).unwrap();
        let rows: Vec<(Measure, &str, f64)> = text
            .lines()
            .filter_map(|line| {
                let mut columns = line.split_whitespace();
                let measure = measure(columns.next()?, level, depth)?;
                Some((measure, columns.next()?, columns.next()?.parse().unwrap()))
            })
            .collect();
        let measured = Measured::new(&qrels, &run, rows.iter().map(|row| row.0));
        let means = if output.contains("aqc") {
            measured.evaluation.means()
        } else {
            measured.evaluation.means_of_answered()
        };
        for (measure, query, value) in rows {
            let got = match query {
                "all" => means[measured.place(measure)],
                query => measured.value(measure, query),
            };
            assert_close(
                got,
                value,
                0.5001e-4,
                &format!("{output} {query} {measure}"),
            );
            compared += 1;
        }
    }
    println!("{compared} values equal trec_eval's own tests");
    assert!(compared > 500, "{compared}");
}
