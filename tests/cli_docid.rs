//! Identifiers through the program: made, learned, written, measured.

#[path = "common/program.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod program;

use std::fs;
use std::path::Path;

use program::{TINY, folder, kill_when, only_model, refuse, succeed, words};
use serde_json::Value;

fn json(folder: &Path, line: &str) -> Value {
    serde_json::from_str(&succeed(folder, &words(line))).unwrap()
}

#[test]
fn identifiers_are_made_and_described() {
    let folder = folder("docid-build");
    succeed(
        &folder,
        &words("data synth --out c --passages 200 --queries-per-passage 1"),
    );
    let tokenizer = "tokenizer train --corpus c --vocab 600 --kind bpe --out tokenizer.json";
    succeed(&folder, &words(tokenizer));
    for (method, more) in [
        ("rq", "--levels 3 --codes 8"),
        ("rq", "--levels 3 --codes 8 --resolve none --seed 4"),
        ("kmeans", "--codes 5"),
        ("atomic", ""),
        ("title", "--tokenizer tokenizer.json"),
        ("random", "--levels 2 --codes 8"),
    ] {
        let build = format!("docid build --corpus c --method {method} --out ids --json {more}");
        let report = json(&folder, &build);
        let file = fs::read(folder.join("ids")).unwrap();
        assert_eq!(report["passages"], 200, "{report}");
        assert_eq!(report["file_bytes"], file.len() as u64);
        if !more.contains("none") {
            assert_eq!(report["ids"], 200, "{method}");
        }
        let levels = report["levels"].as_array().unwrap();
        if method == "rq" {
            let left: Vec<f64> = levels.iter().filter_map(|l| l["error"].as_f64()).collect();
            assert!(
                left.len() == 3 && left.is_sorted_by(|a, b| a > b),
                "{left:?}"
            );
        }
        // The same file on another number of threads.
        let mut again = program::command(&folder, &words(&build));
        assert!(
            again
                .env("RAYON_NUM_THREADS", "1")
                .output()
                .unwrap()
                .status
                .success()
        );
        assert_eq!(fs::read(folder.join("ids")).unwrap(), file, "{method}");
        assert_eq!(json(&folder, "docid stats ids --json"), report);
        assert!(succeed(&folder, &words("docid verify ids")).contains("sound"));
        let table = succeed(&folder, &words("docid stats ids"));
        assert!(
            table.contains("entropy bits") && table.contains("codes"),
            "{table}"
        );
    }
    // Vectors of one's own: two clusters, one code tells them apart.
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (200, 2), }";
    npy.extend(format!("{header:<117}\n").into_bytes());
    let number = |i: usize| if i % 4 < 2 { 5.0f32 } else { -5.0 };
    npy.extend((0..400).flat_map(|i| number(i).to_le_bytes()));
    fs::write(folder.join("v.npy"), npy).unwrap();
    let build =
        "docid build --corpus c --method rq --levels 1 --codes 2 --out ids --json --vectors v.npy";
    let report = json(&folder, build);
    assert_eq!(report["levels"][0]["error"], 0.0);
    assert_eq!(report["largest_collision"], 100);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn bad_input_is_refused_with_place_and_remedy() {
    let folder = folder("docid-bad");
    succeed(
        &folder,
        &words("data synth --out c --passages 200 --queries-per-passage 1"),
    );
    fs::write(folder.join("text"), "hello\n").unwrap();
    let refused = |line: &str, said: &[&str]| {
        let line = format!("docid {line}");
        refuse(&folder, &words(&line), said);
        assert!(!folder.join("x").exists(), "{line}");
    };
    let build = |rest: &str| format!("build --out x --corpus c --method {rest}");
    refused("build --out x --corpus nowhere --method rq", &["nowhere"]);
    refused(
        &build("rq --levels 0"),
        &["levels = 0", "between 1 and 256"],
    );
    refused(&build("rq --codes 1"), &["codes = 1"]);
    refused(&build("magic"), &["magic", "rq"]);
    refused(&build("title"), &["--tokenizer"]);
    refused(&build("atomic --levels 3"), &["--levels", "rq or random"]);
    refused(
        &build("rq --vectors none.npy"),
        &["none.npy", "cannot read"],
    );
    refused(
        &build("rq --vectors text"),
        &["text", ".safetensors", "a row per passage"],
    );
    refused("stats text", &["text", "`genret docid build`"]);
    refused("verify none", &["none"]);
    let line = "docid build --out ids --corpus c --method rq --levels 2 --codes 4";
    succeed(&folder, &words(line));
    let mut bytes = fs::read(folder.join("ids")).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(folder.join("ids"), &bytes).unwrap();
    refuse(
        &folder,
        &words("docid verify ids"),
        &["ids", "damaged", "`genret docid build`"],
    );
    fs::remove_dir_all(folder).unwrap();
}

/// A configuration whose models write identifiers.
fn config(folder: &Path, sweep: bool) {
    let text = TINY
        .replace("[objective.span]", "[objective]\ntask = \"docids\"\n[docids]\nlevels = 2\ncodes = 8\ndims = 32\n[objective.span]")
        .replace("sizes = [\"s0.01m\", \"s0.02m\"]", if sweep { "sizes = [\"s0.01m\"]" } else { "sizes = []" })
        .replace("fractions = [0.5, 1.0]", "fractions = [1.0]")
        .replace("beams = [2, 5]", "beams = [20, 60]");
    fs::write(folder.join("docids.toml"), text).unwrap();
}

#[test]
fn a_model_learns_and_writes_identifiers() {
    let folder = folder("docid-train");
    config(&folder, false);
    succeed(
        &folder,
        &words("train --config docids.toml --set train.epochs=2.0"),
    );
    let model = only_model(&folder.join("out"));
    let model = model.to_str().unwrap();
    let decode =
        |more: &str| format!("decode --model {model} --docids out/docids-rq.genret {more}");
    let queries = "--queries out/data --beam 20 --k 10 --out run.trec --explain why.jsonl";
    succeed(&folder, &words(&decode(queries)));
    let run = fs::read_to_string(folder.join("run.trec")).unwrap();
    assert!(
        run.lines().count() > 1000 && run.contains("genret-docid"),
        "{run}"
    );
    let why = fs::read_to_string(folder.join("why.jsonl")).unwrap();
    let first: Value = serde_json::from_str(why.lines().next().unwrap()).unwrap();
    let hit = &first["hits"][0];
    assert!(
        hit["tokens"].as_array().unwrap().len() >= 2 && hit["shared_by"] == 1,
        "{hit}"
    );
    let text = succeed(
        &folder,
        &[&words(&decode("--text"))[..], &["who wrote it?"]].concat(),
    );
    assert_eq!(text.lines().count(), 10, "{text}");
    // Only passages of a list.
    let ids: Vec<String> = run
        .lines()
        .take(3)
        .map(|line| line.split(' ').nth(2).unwrap().to_string())
        .collect();
    fs::write(folder.join("few"), ids.join("\n")).unwrap();
    let few = "--queries out/data --beam 20 --k 10 --out few.trec --filter few";
    succeed(&folder, &words(&decode(few)));
    let run = fs::read_to_string(folder.join("few.trec")).unwrap();
    assert!(
        run.lines()
            .all(|line| ids.iter().any(|id| line.split(' ').nth(2) == Some(id)))
    );
    // What is deleted is not written any more; the others are found as before.
    fs::copy(folder.join("out/docids-rq.genret"), folder.join("less")).unwrap();
    succeed(&folder, &words("docid delete less --ids few"));
    let rest = format!(
        "decode --model {model} --docids less --queries out/data --beam 20 --k 10 --out rest.trec"
    );
    succeed(&folder, &words(&rest));
    let run = fs::read_to_string(folder.join("rest.trec")).unwrap();
    assert!(
        run.lines()
            .all(|line| ids.iter().all(|id| line.split(' ').nth(2) != Some(id)))
    );
    let cgl = format!(
        "cgl --model {model} --docids out/docids-rq.genret --queries out/data --qrels out/data/qrels/test.tsv \
         --negatives 20 --limit 5 --json"
    );
    let said = succeed(&folder, &words(&cgl));
    assert!(said.contains("@20x1"), "{said}");
    refuse(
        &folder,
        &words(&cgl.replace("out/docids-rq.genret", "less")),
        &["less", "deleted"],
    );
    // Wrong together.
    let index = format!("decode --model {model} --index out/none --queries out/data --out x");
    refuse(&folder, &words(&index), &["out/none"]);
    let other = "docid build --corpus out/data --method random --levels 2 --codes 8 --out other";
    succeed(&folder, &words(other));
    let wrong = format!("decode --model {model} --docids other --queries out/data --out x");
    refuse(&folder, &words(&wrong), &["other", "docids-rq.genret"]);
    refuse(
        &folder,
        &words(&decode("--queries out/data --out x --oracle")),
        &["--oracle", "n-grams"],
    );
    assert!(!folder.join("x").exists());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_sweep_has_a_random_control() {
    let folder = folder("docid-sweep");
    config(&folder, true);
    succeed(&folder, &words("sweep docids.toml --set train.flops=1e10"));
    let rows = fs::read_to_string(folder.join("out/runs.jsonl")).unwrap();
    let rows: Vec<Value> = rows
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let mut objectives: Vec<&str> = rows
        .iter()
        .filter_map(|r| r["objective"].as_str())
        .collect();
    objectives.sort_unstable();
    let expected = ["docids-random", "docids-random", "docids-rq", "docids-rq"];
    assert_eq!(objectives, expected);
    for row in &rows {
        assert!(row["measures"]["unseen"]["RR@10"].is_number(), "{row}");
        assert_eq!(row["pairs"], rows[0]["pairs"]);
        // Passages and queries differ in length: the budget counts the mixture.
        let flops = row["train_flops"].as_f64().unwrap();
        assert!((flops - 1e10).abs() < 0.02e10, "{row}");
    }
    fs::remove_dir_all(folder).unwrap();
}

/// Models that write identifiers learn to rank by prefixes; both families; alone, resumed, and in a sweep.
#[test]
fn prefixes_are_ranked_by_models_that_write_identifiers() {
    let folder = folder("docid-prefixes");
    config(&folder, false);
    let objective = "--set objective.task=prefixes --set objective.prefixes.lengths=[1] --set objective.prefixes.decay=0.5 \
                     --set contrast.per_query=2 --set contrast.depth=20 --set decode.normalise=none";
    let alone = format!("train --config docids.toml {objective}");
    refuse(&folder, &words(&alone), &["docids", "model.size"]);
    for family in ["llama", "t5"] {
        let out = format!("out-{family}");
        let first =
            format!("train --config docids.toml --set model.family={family} --set out={out}");
        succeed(&folder, &words(&format!("{first} --set train.epochs=3.0")));
        let learned = only_model(&folder.join(&out));
        let learned = learned.strip_prefix(&folder).unwrap().display().to_string();
        let goes_on = format!(
            "docids.toml {objective} --set tokenizer.path={learned}/tokenizer.json --set model.family={family}"
        );
        let train = format!("train --config {goes_on} --set model.size=./{learned}");
        succeed(
            &folder,
            &words(&format!("{train} --set out=whole-{family}")),
        );
        let whole = only_model(&folder.join(format!("whole-{family}")));
        let rows = fs::read_to_string(whole.join("steps.jsonl")).unwrap();
        let rows: Vec<Value> = rows
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let loss = |row: &Value| row["loss"].as_f64().unwrap();
        let third = rows.len() / 3;
        let mean = |rows: &[Value]| rows.iter().map(loss).sum::<f64>() / rows.len() as f64;
        // The second half has whole identifiers too; within the first the loss falls.
        assert!(mean(&rows[..third / 2]) > mean(&rows[third..rows.len() / 2]));
        assert!(rows[rows.len() - 1]["validation_loss"].is_number());

        let broken = format!("{train} --set out=broken-{family}");
        let begun = || {
            let model = fs::read_dir(folder.join(format!("broken-{family}/models")));
            let model = model.ok()?.next()?.ok()?.path();
            let text = fs::read_to_string(model.join("steps.jsonl")).ok()?;
            (text.lines().count() >= 3).then_some(())
        };
        kill_when(program::command(&folder, &words(&broken)), || {
            begun().is_some()
        });
        succeed(&folder, &words(&format!("{broken} --resume")));
        let resumed = only_model(&folder.join(format!("broken-{family}")));
        let weights = |model: &Path| fs::read(model.join("model.safetensors")).unwrap();
        assert!(weights(&whole) == weights(&resumed), "{family}");

        let decode = format!(
            "decode --model {} --docids whole-{family}/docids-rq.genret --queries out-{family}/data --beam 20 --k 10 \
             --normalise none --out {family}.trec",
            whole.display()
        );
        succeed(&folder, &words(&decode));
        let run = fs::read_to_string(folder.join(format!("{family}.trec"))).unwrap();
        assert!(run.lines().count() > 1000, "{run}");

        let sweep =
            format!("sweep {goes_on} --set sweep.sizes=[\"./{learned}\"] --set out=sweep-{family}");
        succeed(&folder, &words(&sweep));
        let rows = fs::read_to_string(folder.join(format!("sweep-{family}/runs.jsonl"))).unwrap();
        assert_eq!(rows.lines().count(), 2, "{rows}");
        assert!(
            rows.contains("prefixes-rq") && !rows.contains("random"),
            "{rows}"
        );
    }
    for (changes, said) in [
        ("--set decode.normalise=full", "log-probs"),
        ("--set objective.prefixes.decay=1.0", "prefixes of 1"),
        ("--set objective.prefixes.lengths=[3,2]", "increase"),
        (
            "--set train.gradient_checkpointing=true",
            "micro_batch_size",
        ),
        ("--set docids.method=random", "random"),
    ] {
        let learned = only_model(&folder.join("out-llama"));
        let line = format!(
            "train --config docids.toml {objective} --set model.size={} --set tokenizer.path={}/tokenizer.json --set out=refused {changes}",
            learned.display(),
            learned.display()
        );
        refuse(&folder, &words(&line), &[said]);
        assert!(!folder.join("refused/models").exists(), "{changes}");
    }
    fs::remove_dir_all(folder).unwrap();
}
