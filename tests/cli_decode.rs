//! `genret decode` as a user runs it: every way to ask, filters, streaming, search error, query generation.

#[path = "common/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use program::{command, folder, genret, kill_when, only_model, refuse, succeed, tiny, words};
use serde_json::Value;

/// The arguments of a decoding with the one model of `folder/out`, and more.
fn decode<'a>(model: &'a str, more: &'a str) -> Vec<&'a str> {
    let start = ["decode", "--model", model, "--index", "out/index.genret"];
    [&start[..], &words(more)].concat()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

/// Query to its (passage, score) pairs.
fn ranking(run: &str) -> BTreeMap<String, Vec<(String, f64)>> {
    let mut ranking: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    for line in run.lines() {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let hit = (columns[2].to_string(), columns[4].parse().unwrap());
        ranking.entry(columns[0].to_string()).or_default().push(hit);
    }
    ranking
}

const QUERIES: &str = "--queries out/data/queries.jsonl --k 20";

#[test]
fn one_model_answers_in_every_way() {
    let folder = tiny("decode-ways");
    succeed(&folder, &words("train --config tiny.toml"));
    let model = only_model(&folder.join("out"));
    let model = model.to_str().unwrap();
    let run = |more: &str, threads: &str| {
        let more = format!("{QUERIES} {more}");
        let mut command = command(&folder, &decode(model, &more));
        command.env("RAYON_NUM_THREADS", threads);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{more}: {stderr}");
    };

    // One thread and two, one query at a time and many.
    run("--beam 6 --out one.trec --explain one.jsonl", "1");
    run("--beam 6 --out two.trec --explain two.jsonl", "2");
    assert!(
        read(&folder, "one.trec") == read(&folder, "two.trec"),
        "threads change the run"
    );
    assert!(read(&folder, "one.jsonl") == read(&folder, "two.jsonl"));
    run("--beam 6 --batch 1 --out alone.trec", "2");
    let (together, alone) = (
        ranking(&read(&folder, "one.trec")),
        ranking(&read(&folder, "alone.trec")),
    );
    assert_eq!(together.len(), alone.len());
    for (query, together) in &together {
        let alone = &alone[query];
        let ids =
            |hits: &[(String, f64)]| -> Vec<String> { hits.iter().map(|h| h.0.clone()).collect() };
        assert_eq!(ids(together), ids(alone), "query {query}");
        for (a, b) in together.iter().zip(alone) {
            assert!(
                (a.1 - b.1).abs() <= 1e-5 * a.1,
                "query {query}: {a:?} {b:?}"
            );
        }
    }

    // Every other passage only.
    let corpus = json_lines(&read(&folder, "out/data/corpus.jsonl"));
    let kept: Vec<&str> = corpus
        .iter()
        .step_by(2)
        .map(|p| p["_id"].as_str().unwrap())
        .collect();
    fs::write(folder.join("ids.txt"), kept.join("\n")).unwrap();
    run(
        "--beam 6 --filter ids.txt --out some.trec --explain some.jsonl",
        "2",
    );
    let mut hits = 0;
    for line in json_lines(&read(&folder, "some.jsonl")) {
        for hit in line["hits"].as_array().unwrap() {
            hits += 1;
            assert!(kept.contains(&hit["passage"].as_str().unwrap()));
            for ngram in hit["ngrams"].as_array().unwrap() {
                let ngram = ngram["text"].as_str().unwrap();
                let of_kept = corpus
                    .iter()
                    .filter(|p| kept.contains(&p["_id"].as_str().unwrap()));
                let mut texts = of_kept.map(|p| format!(" {}", p["text"].as_str().unwrap()));
                assert!(texts.any(|text| text.contains(ngram)), "{ngram:?}");
            }
        }
    }
    assert!(hits > 100, "{hits}");
    fs::write(folder.join("wrong.txt"), "no-such-passage\n").unwrap();
    let wrong = format!("{QUERIES} --filter wrong.txt --out x.trec");
    refuse(
        &folder,
        &decode(model, &wrong),
        &["wrong.txt", "no-such-passage"],
    );

    // N-grams that begin with a word.
    run(
        "--beam 6 --prefix the --min-new-tokens 2 --out the.trec --explain the.jsonl",
        "2",
    );
    let mut ngrams = 0;
    for line in json_lines(&read(&folder, "the.jsonl")) {
        for hit in line["hits"].as_array().unwrap() {
            for ngram in hit["ngrams"].as_array().unwrap() {
                assert!(ngram["text"].as_str().unwrap().starts_with(" the"));
                assert!(ngram["tokens"].as_array().unwrap().len() >= 2);
                ngrams += 1;
            }
        }
    }
    assert!(ngrams > 100, "{ngrams}");
    let absent = format!("{QUERIES} --prefix zzzqx --out x.trec");
    refuse(
        &folder,
        &decode(model, &absent),
        &["zzzqx", "does not occur"],
    );

    // Groups and the other options run and give rankings of their own.
    run(
        "--beam 6 --groups 3 --diversity-penalty 1 --out groups.trec",
        "2",
    );
    run(
        "--beam 6 --length-penalty 1 --normalise allowed --out allowed.trec",
        "2",
    );
    for name in ["groups.trec", "allowed.trec"] {
        assert!(read(&folder, name) != read(&folder, "one.trec"), "{name}");
    }

    streaming(&folder, model, &together);
    search_error(&folder, model);

    for (more, word) in [
        (
            "--queries out/data/queries.jsonl --beam 1,4 --out x.trec",
            "--oracle",
        ),
        (
            "--queries out/data/queries.jsonl --beam 0 --out x.trec",
            "beam",
        ),
        (
            "--queries out/data/queries.jsonl --beam 5 --groups 2 --out x.trec",
            "multiple",
        ),
        (
            "--queries out/data/queries.jsonl --stop soon --out x.trec",
            "early",
        ),
        (
            "--queries out/data/queries.jsonl --batch none --out x.trec",
            "auto",
        ),
        (
            "--queries out/data/queries.jsonl --memory 0 --out x.trec",
            "memory",
        ),
        ("--queries out/data/queries.jsonl", "--out"),
        ("", "--stream"),
        ("--task queries --corpus out/data --out x", "objective.task"),
    ] {
        refuse(&folder, &decode(model, more), &[word]);
    }
    assert!(!folder.join("x.trec").exists() && !folder.join("x").exists());
    fs::remove_dir_all(&folder).unwrap();
}

/// Queries as lines: answers in their order, those of the run file; faults are lines too.
fn streaming(folder: &Path, model: &str, expected: &BTreeMap<String, Vec<(String, f64)>>) {
    let queries = json_lines(&read(folder, "out/data/queries.jsonl"));
    let mut child = command(folder, &decode(model, "--stream --beam 6 --k 20 --explain"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for query in queries.iter().take(5) {
        let line = serde_json::json!({ "id": query["_id"], "text": query["text"] });
        writeln!(stdin, "{line}").unwrap();
    }
    writeln!(stdin, "{{\"id\": 7}}\n\nWho built the bridge?").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = json_lines(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(lines.len(), 7);
    for (line, query) in lines.iter().zip(queries.iter().take(5)) {
        assert_eq!(line["query"], query["_id"]);
        let hits = line["hits"].as_array().unwrap();
        let expected = &expected[query["_id"].as_str().unwrap()];
        assert_eq!(hits.len(), expected.len());
        for (hit, (id, score)) in hits.iter().zip(expected) {
            assert_eq!(hit["passage"].as_str().unwrap(), id);
            assert!((hit["score"].as_f64().unwrap() - score).abs() <= 1e-4 * score);
            assert!(!hit["ngrams"].as_array().unwrap().is_empty());
        }
    }
    assert_eq!(lines[5]["line"], 6);
    assert!(
        lines[5]["error"].as_str().unwrap().contains("id"),
        "{}",
        lines[5]
    );
    assert_eq!(lines[6]["query"], "8");
}

/// Wider beams lose less, and one as wide as the corpus loses nothing.
fn search_error(folder: &Path, model: &str) {
    let first: Vec<String> = read(folder, "out/data/queries.jsonl")
        .lines()
        .take(6)
        .map(String::from)
        .collect();
    fs::write(folder.join("few.jsonl"), first.join("\n")).unwrap();
    let more = "--queries few.jsonl --oracle --beam 1,8,100000 --max-new-tokens 3 --json";
    let errors: Vec<Value> = serde_json::from_str(&succeed(folder, &decode(model, more))).unwrap();
    let of =
        |name: &str| -> Vec<f64> { errors.iter().map(|e| e[name].as_f64().unwrap()).collect() };
    assert_eq!(of("beam"), [1.0, 8.0, 100_000.0]);
    assert_eq!(of("queries"), [6.0; 3]);
    for name in [
        "lost_first",
        "lost_passage",
        "lost_ngram",
        "regret_log_prob",
        "regret_score",
        "regret_score_share",
    ] {
        let values = of(name);
        assert!(values[2].abs() < 1e-4, "{name}: {values:?}");
        assert!(values.iter().all(|v| *v >= -1e-9), "{name}: {values:?}");
    }
    assert!(of("regret_log_prob")[0] >= of("regret_log_prob")[1]);
    assert!(of("regret_score")[0] > 0.0);
    let more = "--queries few.jsonl --oracle --beam 4 --max-new-tokens 2 --out few.trec";
    let table = succeed(folder, &decode(model, more));
    assert!(table.contains("regret"), "{table}");
    assert!(folder.join("few.trec").exists());
}

#[test]
fn a_sweep_records_search_error() {
    let folder = tiny("decode-sweep");
    let set = "evaluate.search_error=true evaluate.cgl_queries=2 decode.max_new_tokens=2 sweep.sizes=[\"s0.01m\"] sweep.fractions=[1.0]";
    let set: Vec<&str> = set.split(' ').flat_map(|s| ["--set", s]).collect();
    succeed(&folder, &[&["sweep", "tiny.toml"][..], &set].concat());
    let rows = json_lines(&read(&folder, "out/runs.jsonl"));
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["search_error"]["beam"], row["beam"]);
        assert_eq!(row["search_error"]["queries"], 2);
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn queries_are_written_for_passages() {
    let folder = tiny("decode-queries");
    let train = [
        "train",
        "--config",
        "tiny.toml",
        "--set",
        "objective.task=queries",
        "--set",
        "sweep.sizes=[]",
    ];
    refuse(&folder, &train[..5], &["objective.task"]);
    succeed(&folder, &train);
    let model = only_model(&folder.join("out"));
    let model = model.to_str().unwrap();
    let write = |out: &str, more: &str| {
        let more = format!(
            "--task queries --corpus out/data --per-passage 3 --max-new-tokens 12 --out {out} {more}"
        );
        let args = [&["decode", "--model", model][..], &words(&more)].concat();
        args.into_iter().map(String::from).collect::<Vec<_>>()
    };
    let run = |out: &str, more: &str| {
        let args = write(out, more);
        succeed(&folder, &args.iter().map(|a| &a[..]).collect::<Vec<_>>());
        read(&folder, &format!("{out}/queries.jsonl"))
    };
    let drawn = run("drawn", "--seed 1");
    assert!(drawn == run("again", "--seed 1"));
    // Another batch rounds otherwise, which all but never changes a draw.
    let whole = run("whole", "--seed 1 --batch 1");
    let texts = |queries: &str| -> Vec<(Value, Value)> {
        let rows = json_lines(queries).into_iter();
        rows.map(|q| (q["_id"].clone(), q["text"].clone()))
            .collect()
    };
    let (drawn_texts, whole_texts) = (texts(&drawn), texts(&whole));
    let same = drawn_texts
        .iter()
        .filter(|q| whole_texts.contains(q))
        .count();
    assert!(
        same * 100 >= drawn_texts.len() * 99,
        "{same} of {}",
        drawn_texts.len()
    );
    assert!(drawn != run("other", "--seed 2"));
    assert!(drawn != run("cold", "--seed 1 --temperature 0.5 --top-p 0.9"));
    let likeliest = run("likeliest", "--method beam --beam 4 --length-penalty 1");
    // Leaving early tells only where a penalty may yet make a longer query better.
    let early = "--method beam --beam 4 --stop early";
    let plain = run("plain", "--method beam --beam 4");
    assert!(plain == run("early", early));
    assert!(likeliest != run("earlier", &format!("{early} --length-penalty 1")));
    let passages: Vec<Value> = json_lines(&read(&folder, "out/data/corpus.jsonl"));
    for (queries, out) in [(&drawn, "drawn"), (&likeliest, "likeliest")] {
        let queries = json_lines(queries);
        let qrels = read(&folder, &format!("{out}/qrels/train.tsv"));
        assert_eq!(qrels.lines().count(), queries.len() + 1);
        let mut per_passage: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (query, line) in queries.iter().zip(qrels.lines().skip(1)) {
            let columns: Vec<&str> = line.split('\t').collect();
            assert_eq!(
                (columns[0], columns[2]),
                (query["_id"].as_str().unwrap(), "1")
            );
            per_passage
                .entry(columns[1])
                .or_default()
                .push(query["text"].as_str().unwrap());
        }
        assert!(
            per_passage.len() * 10 >= passages.len() * 9,
            "{}",
            per_passage.len()
        );
        for (passage, mut texts) in per_passage {
            assert!(passages.iter().any(|p| p["_id"] == passage));
            assert!(texts.len() <= 3);
            let given = texts.len();
            texts.sort_unstable();
            texts.dedup();
            assert_eq!(texts.len(), given, "{passage} has a query twice");
        }
    }
    // With its corpus the folder is a collection.
    fs::copy(
        folder.join("out/data/corpus.jsonl"),
        folder.join("drawn/corpus.jsonl"),
    )
    .unwrap();
    succeed(&folder, &words("data inspect drawn"));

    // Killed and begun again, it ends with the same files.
    let args = write("broken", "--seed 1 --batch 1");
    let args: Vec<&str> = args.iter().map(|a| &a[..]).collect();
    let partial = folder.join("broken/queries.jsonl.partial.json");
    let done = || -> u64 {
        let state = fs::read_to_string(&partial).unwrap_or_default();
        let state = serde_json::from_str::<Value>(&state).ok();
        state.and_then(|v| v["done"].as_u64()).unwrap_or(0)
    };
    let mut killed = 0;
    for part in [20, 90] {
        killed += usize::from(kill_when(command(&folder, &args), || done() >= part));
    }
    assert!(killed > 0, "every run ended before it could be killed");
    let output = genret(&folder, &args);
    assert!(String::from_utf8_lossy(&output.stderr).contains("continuing after"));
    assert!(read(&folder, "broken/queries.jsonl") == whole);
    assert!(read(&folder, "broken/qrels/train.tsv") == read(&folder, "whole/qrels/train.tsv"));
    refuse(&folder, &args, &["holds queries already"]);
    // Such a model does not retrieve.
    let retrieve = format!("{QUERIES} --out x.trec");
    refuse(&folder, &decode(model, &retrieve), &["--task queries"]);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn filters_and_prefixes_do_not_belong_to_query_generation() {
    let folder = folder("decode-misuse");
    let base = "decode --model m --task queries --corpus c --out o";
    for (more, word) in [
        ("--filter ids.txt", "--filter"),
        ("--prefix the", "--prefix"),
        ("--per-passage 0", "per-passage"),
        ("--temperature 0", "temperature"),
        ("--top-p 0", "top-p"),
    ] {
        refuse(&folder, &words(&format!("{base} {more}")), &[word]);
    }
    refuse(
        &folder,
        &words("decode --model m --task queries"),
        &["--corpus"],
    );
    fs::remove_dir_all(&folder).unwrap();
}
