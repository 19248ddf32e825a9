//! Sparse and dense retrieval as a user runs it: BM25, negatives, teachers, training, sweeps, fusion, suites.

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};

use program::{TINY, kill_when, only_model, refuse, succeed, tiny, words};
use serde_json::Value;

/// What [`TINY`] lacks for representations.
const REPRESENTATIONS: &str = r#"
[encoder]
passage_tokens = 24
query_tokens = 12
[contrast]
per_query = 3
depth = 10
[masking]
block = 32
"#;

/// A folder with the embedded corpus in `data` and a configuration of it as `tiny.toml`.
fn collection(name: &str) -> PathBuf {
    let folder = tiny(name);
    let text = TINY.replace(
        "synth = { passages = 200, queries_per_passage = 2 }",
        "folder = \"data\"",
    );
    fs::write(folder.join("tiny.toml"), text + REPRESENTATIONS).unwrap();
    succeed(
        &folder,
        &words("data synth --out data --passages 200 --queries-per-passage 2"),
    );
    folder
}

fn steps(model: &Path) -> Vec<Value> {
    let text = fs::read_to_string(model.join("steps.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Query, passage and score of every line of a run.
fn lines(path: &Path) -> Vec<(String, String, f64)> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let columns: Vec<&str> = line.split(' ').collect();
            (
                columns[0].into(),
                columns[2].into(),
                columns[4].parse().unwrap(),
            )
        })
        .collect()
}

#[test]
fn negatives_and_teachers_from_files_train_a_model_that_teaches() {
    let folder = collection("teach");
    succeed(
        &folder,
        &words("search --bm25 data --queries data --k 20 --out bm25.trec"),
    );
    succeed(
        &folder,
        &words("mine --run bm25.trec --qrels data/qrels/train.tsv --depth 9 --out negatives.trec"),
    );
    let judged = fs::read_to_string(folder.join("data/qrels/train.tsv")).unwrap();
    for (query, doc, _) in lines(&folder.join("negatives.trec")) {
        assert!(
            !judged.contains(&format!("{query}\t{doc}\t1")),
            "{query} {doc}"
        );
    }
    let teach = "teach --corpus data --queries data --candidates negatives.trec --qrels data/qrels/train.tsv";
    succeed(
        &folder,
        &words(&format!("{teach} --bm25 --out teacher.trec")),
    );
    // The teacher's scores are those of the search where it has them.
    let searched = lines(&folder.join("bm25.trec"));
    let taught = lines(&folder.join("teacher.trec"));
    let mut compared = 0;
    for (query, doc, score) in &taught {
        let same = |line: &&(String, String, f64)| line.0 == *query && line.1 == *doc;
        if let Some((_, _, other)) = searched.iter().find(same) {
            assert!(
                (score - other).abs() < 1e-4,
                "{query} {doc}: {score} {other}"
            );
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");

    let set = "--set retriever=sparse --set objective.task=cl+kd --set contrast.negatives=negatives.trec --set contrast.teacher=teacher.trec --set train.epochs=0.2 --set contrast.lambda_query=0.001 --set contrast.lambda_passage=0.001";
    let train = format!("train --config tiny.toml {set}");
    succeed(&folder, &words(&train));
    let model = only_model(&folder.join("out"));
    let rows = steps(&model);
    for column in [
        "contrastive",
        "distillation",
        "query_terms",
        "passage_terms",
        "dead",
        "pool",
    ] {
        assert!(rows.iter().all(|row| row[column].is_number()), "{column}");
    }
    let model = model.to_str().unwrap();
    succeed(
        &folder,
        &words(&format!("{teach} --model {model} --out again.trec")),
    );
    assert_eq!(lines(&folder.join("again.trec")).len(), taught.len());
    vectors_are_indexed_and_searched(&folder, model);

    // Not every candidate is scored: the remedy is named.
    let kept: Vec<String> = fs::read_to_string(folder.join("teacher.trec"))
        .unwrap()
        .lines()
        .step_by(3)
        .map(|line| line.to_string() + "\n")
        .collect();
    fs::write(folder.join("few.trec"), kept.concat()).unwrap();
    let few = train.replace("teacher.trec", "few.trec");
    refuse(&folder, &words(&few), &["few.trec", "genret teach"]);
    refuse(
        &folder,
        &words("mine --run bm25.trec --qrels data/qrels/test.tsv --depth 0 --out x.trec"),
        &["--depth 0"],
    );
    fs::write(folder.join("other.trec"), "q-none Q0 d9 1 1.0 t\n").unwrap();
    refuse(
        &folder,
        &words("teach --corpus data --queries data --candidates other.trec --bm25 --out x.trec"),
        &["other.trec", "q-none"],
    );
}

#[test]
fn masked_tokens_come_before_representations_and_both_survive_a_kill() {
    let folder = collection("mntp");
    let pretrain = words(
        "train --config tiny.toml --set objective.task=mntp --set train.epochs=0.3 --set sweep.sizes=[]",
    );
    succeed(&folder, &pretrain);
    let model = only_model(&folder.join("out"));
    assert!(steps(&model).last().unwrap()["validation_loss"].is_number());
    fs::rename(&model, folder.join("pretrained")).unwrap();

    for (out, retriever) in [("dense", "dense"), ("sparse", "sparse")] {
        let line = format!(
            "train --config tiny.toml --set retriever={retriever} --set objective.task=cl --set out={out} \
             --set model.size=./pretrained --set tokenizer.path=pretrained/tokenizer.json --set train.epochs=0.5 \
             --set train.micro_batch_size=8 --set contrast.lambda_query=0 --set contrast.lambda_passage=0"
        );
        succeed(&folder, &words(&line));
        let whole = only_model(&folder.join(out));
        let broken = line.replace(&format!("out={out}"), "out=broken");
        let _ = fs::remove_dir_all(folder.join("broken"));
        let rows = || {
            let models = fs::read_dir(folder.join("broken/models"))
                .ok()?
                .next()?
                .ok()?;
            let text = fs::read_to_string(models.path().join("steps.jsonl")).ok()?;
            (text.lines().count() >= 3).then_some(())
        };
        kill_when(program::command(&folder, &words(&broken)), || {
            rows().is_some()
        });
        succeed(&folder, &words(&format!("{broken} --resume")));
        let resumed = only_model(&folder.join("broken"));
        let weights = |model: &Path| fs::read(model.join("model.safetensors")).unwrap();
        assert!(weights(&whole) == weights(&resumed), "{retriever}");
    }
}

#[test]
fn a_sweep_compares_retrievers_at_one_budget() {
    let folder = collection("study");
    let text = fs::read_to_string(folder.join("tiny.toml")).unwrap();
    let text = text
        .replace("batch_size = 16", "batch_size = 16\nflops = 1e9")
        .replace("fractions = [0.5, 1.0]", "retrievers = [\"generative\", \"sparse\", \"dense\"]\nobjectives = [\"cl\", \"kd\", \"cl+kd\"]")
        .replace("beams = [2, 5]", "beams = [2]");
    fs::write(folder.join("study.toml"), text).unwrap();
    let plan = succeed(&folder, &words("sweep study.toml --dry-run"));
    assert!(plan.contains("14 models, 14 cells"), "{plan}");
    succeed(&folder, &words("sweep study.toml"));
    let rows = fs::read_to_string(folder.join("out/runs.jsonl")).unwrap();
    let rows: Vec<Value> = rows
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 14);
    for row in &rows {
        let flops = row["train_flops"].as_f64().unwrap();
        assert!((flops - 1e9).abs() < 0.25e9, "{row}");
        assert!(row["cgl"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["measures"]["test"]["RR@10"].is_number());
    }
    let of = |retriever: &str, objective: &str| {
        let fits = |row: &&Value| row["retriever"] == retriever && row["objective"] == objective;
        rows.iter().filter(fits).count()
    };
    assert_eq!(of("generative", "ngrams"), 2);
    for retriever in ["sparse", "dense"] {
        for objective in ["cl", "kd", "cl+kd"] {
            assert_eq!(of(retriever, objective), 2);
        }
    }
    // Nothing is done again.
    succeed(&folder, &words("sweep study.toml"));
    assert!(succeed(&folder, &words("sweep status study.toml")).contains("14"));
}

#[test]
fn runs_are_fused_and_suites_evaluated() {
    let folder = collection("fuse");
    for (name, b) in [("a", "0.1"), ("b", "0.9")] {
        let line = format!("search --bm25 data --queries data --k 50 --b {b} --out {name}.trec");
        succeed(&folder, &words(&line));
    }
    succeed(
        &folder,
        &words("fuse --run a.trec b.trec --out rrf.trec --depth 10"),
    );
    assert!(
        lines(&folder.join("rrf.trec"))
            .iter()
            .all(|(_, _, score)| *score <= 1.0 / 61.0)
    );
    let tuned = succeed(
        &folder,
        &words(
            "fuse --run a.trec b.trec --method weighted --tune data/qrels/dev.tsv --out tuned.trec",
        ),
    );
    assert!(tuned.contains("--weights"), "{tuned}");
    refuse(
        &folder,
        &words("fuse --run a.trec --out x.trec"),
        &["two or more"],
    );
    refuse(
        &folder,
        &words("fuse --run a.trec b.trec --weights 1 --out x.trec"),
        &["1 numbers for 2 runs"],
    );

    for name in ["suite/one", "suite/group/two", "suite/group/three"] {
        let line = format!(
            "data synth --out {name} --passages 200 --queries-per-passage 1 --seed {}",
            name.len()
        );
        succeed(&folder, &words(&line));
    }
    let table = succeed(
        &folder,
        &words("evaluate --suite suite --bm25 bm25 --measures nDCG@10"),
    );
    assert!(
        table.contains("group") && table.contains("one") && table.contains("mean of 2"),
        "{table}"
    );
    fs::create_dir_all(folder.join("other")).unwrap();
    succeed(
        &folder,
        &words("evaluate --suite suite --bm25 bm25 --runs bm25 --compare --json"),
    );
    let train = "train --config tiny.toml --set retriever=dense --set objective.task=cl --set train.epochs=0.1";
    succeed(&folder, &words(train));
    let model = only_model(&folder.join("out"));
    let model = model.to_str().unwrap();
    let evaluate = format!("evaluate --suite suite --bm25 bm25 --model {model} --measures RR@10");
    succeed(&folder, &words(&evaluate));
    assert!(Path::new(model).join("suite/group/three.trec").exists());
    refuse(
        &folder,
        &words("evaluate --suite suite --runs other"),
        &["not found", "--runs"],
    );
    refuse(
        &folder,
        &words("evaluate --suite data --bm25 x"),
        &["qrels/test.tsv"],
    );
    refuse(&folder, &words("evaluate --run a.trec"), &["--qrels"]);
}

#[test]
fn retrievers_and_tasks_must_fit() {
    let folder = collection("fit");
    let train = |set: &str| format!("train --config tiny.toml {set}");
    refuse(
        &folder,
        &words(&train("--set retriever=sparse")),
        &["retriever", "ngrams"],
    );
    refuse(
        &folder,
        &words(&train("--set objective.task=cl")),
        &["generative", "cl"],
    );
    refuse(
        &folder,
        &words(&train(
            "--set retriever=dense --set objective.task=cl --set contrast.per_query=0",
        )),
        &["per_query"],
    );
    refuse(
        &folder,
        &words(&train(
            "--set retriever=dense --set objective.task=cl --set contrast.per_query=250 --set contrast.depth=250",
        )),
        &["250", "passages"],
    );
    refuse(
        &folder,
        &words(&train(
            "--set retriever=dense --set objective.task=cl --set contrast.negatives=none.trec",
        )),
        &["none.trec"],
    );
    refuse(
        &folder,
        &words(&train(
            "--set objective.task=mntp --set sweep.sizes=[] --set masking.block=1",
        )),
        &["block"],
    );
}

/// `genret encode` and `genret search` with a sparse model that has scored pairs in `again.trec`.
fn vectors_are_indexed_and_searched(folder: &Path, model: &str) {
    let encode = format!("encode --model {model} --corpus data --out vectors.genret");
    succeed(
        folder,
        &words(&format!("{encode} --keep floats --clusters")),
    );
    let search = "search --index vectors.genret --queries data --k 200";
    succeed(
        folder,
        &words(&format!("{search} --model {model} --out sparse.trec")),
    );
    let found = lines(&folder.join("sparse.trec"));
    let mut compared = 0;
    for (query, doc, score) in lines(&folder.join("again.trec")) {
        let same = |line: &&(String, String, f64)| line.0 == query && line.1 == doc;
        if let Some((_, _, other)) = found.iter().find(same) {
            let close = 1e-4 * score.abs().max(1.0);
            assert!(
                (score - other).abs() < close,
                "{query} {doc}: {score} {other}"
            );
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
    let approximate = format!(
        "search --index vectors.genret --queries data --k 10 --model {model} --approximate --promise 0 \
         --query-terms 1000 --measure-accuracy --out near.trec"
    );
    let said = succeed(folder, &words(&approximate));
    let share: f64 = said.split(' ').next().unwrap().parse().unwrap();
    assert!(share > 0.99, "{said}");
    let text = ["search", "--index", "vectors.genret", "--model", model];
    let text = [&text[..], &["--text", "Who was born in the town?"]].concat();
    assert!(!succeed(folder, &text).is_empty());
    refuse(
        folder,
        &words(&format!("{search} --out no.trec")),
        &["--model"],
    );
    fs::write(folder.join("text.genret"), "no index").unwrap();
    let other = format!("search --index text.genret --model {model} --queries data --out no.trec");
    refuse(folder, &words(&other), &["text.genret", "not a"]);
    let graph = format!("{encode} --graph");
    refuse(folder, &words(&graph), &["--graph is for dense models"]);
    assert!(!folder.join("no.trec").exists());
}

#[test]
fn a_bm25_index_is_kept_and_held_to_its_corpus() {
    let folder = collection("bm25-index");
    let search = "search --bm25 data --queries data --k 20";
    succeed(&folder, &words(&format!("{search} --out memory.trec")));
    for out in ["made.trec", "kept.trec"] {
        succeed(
            &folder,
            &words(&format!("{search} --index bm25.genret --out {out}")),
        );
    }
    let alone = "search --index bm25.genret --queries data --k 20 --out alone.trec";
    succeed(&folder, &words(alone));
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for name in ["made.trec", "kept.trec", "alone.trec"] {
        assert_eq!(read("memory.trec"), read(name), "{name}");
    }
    let other = format!("{search} --index bm25.genret --k1 1.2 --out no.trec");
    refuse(
        &folder,
        &words(&other),
        &["bm25.genret", "other parameters"],
    );
    let wrong = format!("{search} --b 2 --out no.trec");
    refuse(&folder, &words(&wrong), &["b must be from 0 to 1"]);
    assert!(!folder.join("no.trec").exists());
}
