//! The program as a user runs it: the whole path, bad input, interruptions.

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::path::Path;

use program::{TINY, command, folder, kill_when, only_model, refuse, succeed, tiny, words};
use serde_json::Value;

/// Rows of a JSON-lines file without what depends on the clock or the memory.
fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            for measured in ["tokens_per_sec", "train_secs", "decode_secs", "peak_bytes"] {
                row.as_object_mut().unwrap().remove(measured);
            }
            row
        })
        .collect()
}

#[test]
fn from_corpus_to_run_with_single_commands() {
    let folder = tiny("path");
    succeed(
        &folder,
        &words("data synth --out data --passages 200 --queries-per-passage 2"),
    );
    let inspected = succeed(&folder, &words("data inspect data"));
    assert!(inspected.contains("200"), "{inspected}");
    succeed(
        &folder,
        &words("tokenizer train --corpus data --vocab 600 --kind bpe --out tokenizer.json"),
    );
    succeed(
        &folder,
        &words("index build --corpus data --tokenizer tokenizer.json --out index.genret"),
    );
    assert!(succeed(&folder, &words("index stats index.genret")).contains("200"));
    succeed(&folder, &words("index verify index.genret"));
    succeed(
        &folder,
        &words("index query index.genret --tokenizer tokenizer.json --text the"),
    );
    let set = [
        "--set",
        "data={folder=\"data\"}",
        "--set",
        "tokenizer.path=tokenizer.json",
    ];
    succeed(
        &folder,
        &[&["train", "--config", "tiny.toml"][..], &set].concat(),
    );
    let model = only_model(&folder.join("out"));
    let model = model.to_str().unwrap();
    let queries = [
        "--queries",
        "data/queries.jsonl",
        "--k",
        "20",
        "--beam",
        "3",
    ];
    let files = ["--out", "run.trec", "--explain", "evidence.jsonl"];
    let decode = ["decode", "--model", model, "--index", "index.genret"];
    succeed(&folder, &[&decode[..], &queries, &files].concat());
    let evaluated = succeed(
        &folder,
        &words("evaluate --qrels data/qrels/test.tsv --run run.trec --measures RR@10,R@100"),
    );
    assert!(evaluated.contains("RR@10"), "{evaluated}");
    let corpus: Vec<Value> = fs::read_to_string(folder.join("data/corpus.jsonl"))
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let evidence = fs::read_to_string(folder.join("evidence.jsonl")).unwrap();
    let mut checked = 0;
    for line in evidence.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        for hit in row["hits"].as_array().unwrap() {
            let passage = corpus.iter().find(|p| p["_id"] == hit["passage"]).unwrap();
            let text = format!(" {}", passage["text"].as_str().unwrap());
            for ngram in hit["ngrams"].as_array().unwrap() {
                let ngram = ngram["text"].as_str().unwrap();
                assert!(text.contains(ngram), "{ngram:?} is not in {text:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "{checked}");
    let answer = succeed(
        &folder,
        &[&decode[..], &["--text", "Who was born in the town?"]].concat(),
    );
    assert!(answer.contains("places"), "{answer}");
    let cgl = succeed(
        &folder,
        &[
            "cgl",
            "--model",
            model,
            "--index",
            "index.genret",
            "--queries",
            "data/queries.jsonl",
            "--qrels",
            "data/qrels/test.tsv",
            "--negatives",
            "8",
            "--spans",
            "2",
            "--limit",
            "5",
            "--out",
            "losses.jsonl",
        ],
    );
    assert!(cgl.contains("8x2"), "{cgl}");
    assert_eq!(
        fs::read_to_string(folder.join("losses.jsonl"))
            .unwrap()
            .lines()
            .count(),
        5
    );
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_killed_training_ends_with_the_same_weights() {
    let whole = tiny("train-whole");
    succeed(&whole, &words("train --config tiny.toml"));
    let expected = only_model(&whole.join("out"));
    let steps = rows(&expected.join("steps.jsonl")).len();
    let broken = tiny("train-broken");
    let model = broken
        .join("out/models")
        .join(expected.file_name().unwrap());
    let mut killed = 0;
    for (attempt, share) in [0.1, 0.4, 0.8].into_iter().enumerate() {
        let enough = (steps as f64 * share) as usize;
        let resume: &[&str] = if attempt == 0 { &[] } else { &["--resume"] };
        let ready = || {
            let lines = fs::read_to_string(model.join("steps.jsonl")).unwrap_or_default();
            lines.lines().count() >= enough && model.join("checkpoint.safetensors").exists()
        };
        let args = [&["train", "--config", "tiny.toml"][..], resume].concat();
        killed += usize::from(kill_when(command(&broken, &args), ready));
    }
    assert!(killed > 0, "every run ended before it could be killed");
    if model.join("checkpoint.safetensors").exists() {
        refuse(&broken, &words("train --config tiny.toml"), &["--resume"]);
    }
    succeed(&broken, &words("train --config tiny.toml --resume"));
    assert_eq!(
        rows(&model.join("steps.jsonl")),
        rows(&expected.join("steps.jsonl"))
    );
    let weights = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&model) == weights(&expected), "weights differ");
    for folder in [whole, broken] {
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_killed_decoding_ends_with_the_same_run() {
    let folder = tiny("decode-killed");
    succeed(&folder, &words("train --config tiny.toml"));
    let model = only_model(&folder.join("out"));
    let args = |out: &'static str, explain: &'static str| -> Vec<String> {
        [
            "decode",
            "--model",
            model.to_str().unwrap(),
            "--index",
            "out/index.genret",
            "--queries",
            "out/data/queries.jsonl",
            "--beam",
            "12",
            "--batch",
            "4",
            "--k",
            "10",
            "--out",
            out,
            "--explain",
            explain,
        ]
        .map(String::from)
        .to_vec()
    };
    let whole = args("whole.trec", "whole.jsonl");
    succeed(&folder, &whole.iter().map(|s| &s[..]).collect::<Vec<_>>());
    let broken = args("broken.trec", "broken.jsonl");
    let broken: Vec<&str> = broken.iter().map(|s| &s[..]).collect();
    let partial = folder.join("broken.trec.partial.json");
    let done = || -> u64 {
        let text = fs::read_to_string(&partial).unwrap_or_default();
        serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|v| v["done"].as_u64())
            .unwrap_or(0)
    };
    let total = fs::read_to_string(folder.join("out/data/queries.jsonl"))
        .unwrap()
        .lines()
        .count() as u64;
    let mut killed = 0;
    for part in [total / 10, total / 3, 2 * total / 3] {
        killed += usize::from(kill_when(command(&folder, &broken), || done() >= part));
    }
    assert!(killed > 0, "every run ended before it could be killed");
    succeed(&folder, &broken);
    for (a, b) in [
        ("whole.trec", "broken.trec"),
        ("whole.jsonl", "broken.jsonl"),
    ] {
        assert!(
            fs::read(folder.join(a)).unwrap() == fs::read(folder.join(b)).unwrap(),
            "{a} differs"
        );
    }
    assert!(!partial.exists());
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_killed_sweep_ends_with_the_same_rows() {
    let whole = tiny("sweep-whole");
    let table = succeed(&whole, &words("sweep tiny.toml"));
    assert!(table.contains("s0.02m"), "{table}");
    let expected = rows(&whole.join("out/runs.jsonl"));
    assert_eq!(expected.len(), 8);
    assert!(whole.join("out/report/cgl/scaling.md").exists());
    // Nothing is left to do, and nothing is done twice.
    succeed(&whole, &words("sweep tiny.toml"));
    assert_eq!(rows(&whole.join("out/runs.jsonl")), expected);
    let broken = tiny("sweep-broken");
    let path = broken.join("out/runs.jsonl");
    let mut killed = 0;
    for done in [1, 3, 6] {
        killed += usize::from(kill_when(command(&broken, &["sweep", "tiny.toml"]), || {
            fs::read_to_string(&path)
                .unwrap_or_default()
                .lines()
                .count()
                >= done
        }));
    }
    assert!(killed > 0, "every run ended before it could be killed");
    succeed(&broken, &words("sweep tiny.toml"));
    assert_eq!(rows(&path), expected);
    let status = succeed(&broken, &words("sweep status tiny.toml"));
    assert_eq!(status.matches("CGL").count(), 8, "{status}");
    for folder in [whole, broken] {
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_dry_run_writes_no_model() {
    let folder = tiny("dry");
    let plan = succeed(&folder, &words("sweep tiny.toml --dry-run"));
    assert!(
        plan.contains("FLOPs") && plan.contains("4 models, 8 cells"),
        "{plan}"
    );
    assert!(!folder.join("out/models").exists());
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn bad_input_is_refused_with_place_and_remedy() {
    let folder = tiny("bad");
    succeed(
        &folder,
        &words("data synth --out data --passages 200 --queries-per-passage 2"),
    );
    let train = ["train", "--config", "tiny.toml", "--set"];
    let with_data = |data: &str| format!("data={{folder=\"{data}\"}}");

    refuse(
        &folder,
        &words("train --config absent.toml"),
        &["absent.toml"],
    );
    refuse(
        &folder,
        &[&train[..], &["train.epoch=2"]].concat(),
        &["epoch"],
    );
    fs::write(
        folder.join("typo.toml"),
        TINY.replace("[train]", "[train]\nepoch = 3"),
    )
    .unwrap();
    refuse(
        &folder,
        &words("train --config typo.toml"),
        &["typo.toml", "line", "epoch"],
    );
    refuse(
        &folder,
        &[&train[..], &[&with_data("nowhere")]].concat(),
        &["nowhere"],
    );
    refuse(
        &folder,
        &words("train --config tiny.toml --device tpu"),
        &["cpu", "cuda"],
    );

    // Copies of the corpus with one fault each.
    let faulty = |name: &str, file: &str, change: &dyn Fn(String) -> String| {
        let copy = folder.join(name);
        fs::create_dir_all(copy.join("qrels")).unwrap();
        for path in [
            "corpus.jsonl",
            "queries.jsonl",
            "qrels/train.tsv",
            "qrels/test.tsv",
            "qrels/dev.tsv",
            "qrels/unseen.tsv",
        ] {
            let text = fs::read_to_string(folder.join("data").join(path)).unwrap();
            let text = if path == file { change(text) } else { text };
            fs::write(copy.join(path), text).unwrap();
        }
    };
    let replace_line = |text: String, line: usize, with: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines[line - 1] = with;
        lines.join("\n") + "\n"
    };
    let cases: [(&str, &str, usize, &str, &str); 5] = [
        (
            "json",
            "corpus.jsonl",
            7,
            "{\"_id\": \"x\", ",
            "corpus.jsonl:7",
        ),
        (
            "empty-passage",
            "corpus.jsonl",
            5,
            "{\"_id\": \"x\", \"title\": \"\", \"text\": \"\"}",
            "corpus.jsonl:5",
        ),
        (
            "empty-query",
            "queries.jsonl",
            3,
            "{\"_id\": \"x\", \"text\": \" \"}",
            "queries.jsonl:3",
        ),
        (
            "dangling",
            "qrels/train.tsv",
            4,
            "q0\tno-such-passage\t1",
            "no-such-passage",
        ),
        ("columns", "qrels/train.tsv", 4, "q0\t1", "train.tsv:4"),
    ];
    for (name, file, line, with, expected) in cases {
        faulty(name, file, &|text| replace_line(text, line, with));
        refuse(
            &folder,
            &[&train[..], &[&with_data(name)]].concat(),
            &[expected],
        );
    }
    assert!(
        !folder.join("out").exists(),
        "nothing is written for bad input"
    );

    // An index of another tokenizer, a truncated index, a damaged model folder.
    succeed(
        &folder,
        &words("tokenizer train --corpus data --vocab 700 --kind bpe --out other.json"),
    );
    succeed(
        &folder,
        &words("index build --corpus data --tokenizer other.json --out other.genret"),
    );
    let no_epochs = [
        "--set",
        "train.epochs=0.01",
        "--set",
        "data={folder=\"data\"}",
    ];
    succeed(
        &folder,
        &[&["train", "--config", "tiny.toml"][..], &no_epochs].concat(),
    );
    let model = only_model(&folder.join("out"));
    let model = model.to_str().unwrap();
    let rest = ["--queries", "data/queries.jsonl", "--out", "run.trec"];
    refuse(
        &folder,
        &[
            &["decode", "--model", model, "--index", "other.genret"][..],
            &rest,
        ]
        .concat(),
        &["tokenizer"],
    );
    let bytes = fs::read(folder.join("out/index.genret")).unwrap();
    fs::write(folder.join("cut.genret"), &bytes[..bytes.len() / 2]).unwrap();
    refuse(
        &folder,
        &[
            &["decode", "--model", model, "--index", "cut.genret"][..],
            &rest,
        ]
        .concat(),
        &["cut.genret", "genret index build"],
    );
    refuse(
        &folder,
        &[
            &["decode", "--model", "data", "--index", "out/index.genret"][..],
            &rest,
        ]
        .concat(),
        &["genret.json"],
    );
    refuse(
        &folder,
        &[
            "decode",
            "--model",
            model,
            "--index",
            "out/index.genret",
            "--text",
            " ",
        ],
        &["empty"],
    );
    fs::write(folder.join("bad.tsv"), "q1\tWho?\nq2\t\n").unwrap();
    refuse(
        &folder,
        &[
            "decode",
            "--model",
            model,
            "--index",
            "out/index.genret",
            "--queries",
            "bad.tsv",
            "--out",
            "run.trec",
        ],
        &["bad.tsv:2"],
    );
    assert!(!folder.join("run.trec").exists());
    // Settings that do not fit what the folder was made with.
    refuse(
        &folder,
        &words("train --config tiny.toml"),
        &["[data]", "out"],
    );
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_command_explains_itself() {
    let folder = folder("help");
    let verbs: [&[&str]; 12] = [
        &[],
        &["data", "synth"],
        &["data", "inspect"],
        &["tokenizer", "train"],
        &["index", "build"],
        &["index", "query"],
        &["train"],
        &["decode"],
        &["evaluate"],
        &["cgl"],
        &["sweep"],
        &["fit"],
    ];
    for verb in verbs {
        let help = succeed(&folder, &[verb, &["--help"]].concat());
        for flag in ["--device", "--seed", "--verbose"] {
            assert!(
                help.contains(flag),
                "genret {} --help lacks {flag}",
                verb.join(" ")
            );
        }
    }
    refuse(&folder, &words("no-such-verb"), &["no-such-verb"]);
    fs::remove_dir_all(&folder).unwrap();
}
