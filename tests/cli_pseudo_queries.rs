//! Pseudo-queries from end to end: written by one model, learned as prompts and as identifiers by others.

#[path = "common/program.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use program::{only_model, refuse, succeed, tiny, words};
use serde_json::Value;

const PSEUDO: &str = "--set data.pseudo_queries=more";
const DOCIDS: &str =
    "--set docids.levels=2 --set docids.codes=8 --set docids.dims=32 --set docids.method=rq";

fn json_lines(folder: &Path, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(name)).unwrap();
    let lines = text.lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Trains a model of the tiny configuration with changes; its folder.
fn train(folder: &Path, changes: &str) -> PathBuf {
    let _ = fs::remove_dir_all(folder.join("out/models"));
    let line = format!("train --config tiny.toml --set sweep.sizes=[] {changes}");
    succeed(folder, &words(&line));
    let model = only_model(&folder.join("out"));
    let kept = folder.join(format!("model-{}", model.file_name().unwrap().display()));
    fs::rename(model, &kept).unwrap();
    kept
}

/// Per passage its pseudo-queries.
fn pseudo_queries(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let queries: BTreeMap<String, String> = json_lines(folder, "more/queries.jsonl")
        .iter()
        .map(|q| (text(&q["_id"]), text(&q["text"])))
        .collect();
    let qrels = fs::read_to_string(folder.join("more/qrels/train.tsv")).unwrap();
    let mut of: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in qrels.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let passage = of.entry(columns[1].into()).or_default();
        passage.push(queries[columns[0]].clone());
    }
    of
}

#[test]
fn a_generator_s_queries_are_training_data_and_identifiers() {
    let folder = tiny("pseudo");
    let generator = train(&folder, "--set objective.task=queries");
    let write = format!(
        "decode --task queries --model {} --corpus out/data --per-passage 3 --max-new-tokens 8 --out more",
        generator.display()
    );
    succeed(&folder, &words(&write));
    let of_passage = pseudo_queries(&folder);

    // DSI-QG: queries of passages learn to find their identifiers.
    let examples = |model: &Path| -> u64 {
        let record = fs::read_to_string(model.join("genret.json")).unwrap();
        let record: Value = serde_json::from_str(&record).unwrap();
        record["spec"]["num_examples"].as_u64().unwrap()
    };
    let task = format!("--set objective.task=docids {DOCIDS}");
    let without = train(&folder, &task);
    let with = train(
        &folder,
        &format!("{task} {PSEUDO} --set objective.docids.pseudo=1"),
    );
    let written: usize = of_passage.values().map(Vec::len).sum();
    assert_eq!(examples(&with), examples(&without) + written as u64);

    // One model of all views.
    let views = format!(
        "--set objective.task=views --set objective.views.title=1 --set objective.views.queries=2 \
         --set objective.views.docid=0.5 --set objective.pseudo=0.5 {DOCIDS} {PSEUDO}"
    );
    let model = train(&folder, &views);
    let ngrams = train(&folder, "");
    let index = fs::read_dir(folder.join("out")).unwrap().find_map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        name.starts_with("index-queries-").then_some(name)
    });
    let index = format!("out/{}", index.unwrap());
    let build = "index build --corpus out/data --tokenizer out/tokenizer.json --pseudo-queries more --out own.genret";
    succeed(&folder, &words(build));
    let bytes = |name: &str| fs::read(folder.join(name)).unwrap();
    let stats = |name: &str| -> Value {
        let line = format!("index stats {name} --json");
        serde_json::from_str(&succeed(&folder, &words(&line))).unwrap()
    };
    let fields = |name: &str| stats(name)["segments"][0]["fields"].clone();
    assert_eq!(fields("own.genret"), fields(&index));
    assert_eq!(fields("own.genret").as_array().unwrap().len(), 3);
    assert_eq!(fields("out/index.genret").as_array().unwrap().len(), 2);
    assert!(succeed(&folder, &words("index verify own.genret")).contains("sound"));
    let shown = succeed(&folder, &words("index stats own.genret"));
    assert!(shown.contains("tokens in queries"), "{shown}");

    let decode = |model: &Path, out: &str, more: &str| {
        format!(
            "decode --model {} --queries out/data --beam 10 --max-new-tokens 4 --k 5 --out {out}.trec --explain {out}.jsonl {more}",
            model.display()
        )
    };
    let docids = "--docids out/docids-rq.genret";
    let hits = |out: &str| -> Vec<Value> {
        let lines = json_lines(&folder, &format!("{out}.jsonl")).into_iter();
        lines
            .flat_map(|line| line["hits"].as_array().unwrap().clone())
            .collect()
    };
    let all = format!("--views body,title=2,queries=0.5,docid=3 {docids}");
    for (out, more, expected) in [
        ("body", "", "body"),
        ("queries", "--views queries", "queries"),
        ("both", docids, "body docid"),
        ("all", &all[..], "body title queries docid"),
    ] {
        let more = format!("--index {index} {more}");
        succeed(&folder, &words(&decode(&model, out, &more)));
        let mut views = BTreeSet::new();
        for hit in hits(out) {
            let mut sum = 0.0;
            for ngram in hit["ngrams"].as_array().unwrap() {
                let view = ngram["view"].as_str().unwrap();
                views.insert(view.to_string());
                sum += ngram["credit"].as_f64().unwrap();
                // A piece of a letter reads back as something else.
                let whole = !ngram["text"].as_str().unwrap().contains('\u{fffd}');
                if view == "queries" && whole {
                    // Inside one pseudo-query of the passage, as running text.
                    let text = ngram["text"].as_str().unwrap();
                    let queries = &of_passage[hit["passage"].as_str().unwrap()];
                    let inside = queries.iter().any(|q| format!(" {q}").contains(text));
                    assert!(inside, "{text:?} in {queries:?}");
                }
            }
            let score = hit["score"].as_f64().unwrap();
            assert!((sum - score).abs() < 1e-3 * score.max(1.0), "{sum} {score}");
        }
        // What is written of identifiers may weigh nothing.
        let expected: Vec<&str> = expected.split(' ').collect();
        let known = views.iter().all(|view| expected.contains(&&view[..]));
        assert!(known && views.contains(expected[0]), "{out}: {views:?}");
    }
    // Identifiers alone, of the same model.
    let alone = decode(&model, "docid", docids).replace("--max-new-tokens 4", "");
    succeed(&folder, &words(&alone));
    let docid = bytes("docid.trec");
    assert!(String::from_utf8_lossy(&docid).contains("genret-docid"));

    // Only passages of a list, in all views.
    let few: Vec<&String> = of_passage.keys().take(20).collect();
    let list = few.iter().map(|id| format!("{id}\n"));
    fs::write(folder.join("few"), list.collect::<String>()).unwrap();
    let all = format!("--index {index} --views body,title,queries,docid {docids}");
    succeed(
        &folder,
        &words(&decode(&model, "few", &format!("{all} --filter few"))),
    );
    let found = hits("few");
    assert!(!found.is_empty());
    assert!(
        found
            .iter()
            .all(|hit| few.iter().any(|id| hit["passage"] == **id))
    );

    // A live index: the second half of the corpus comes later, some of it goes again.
    let corpus = fs::read_to_string(folder.join("out/data/corpus.jsonl")).unwrap();
    let lines: Vec<&str> = corpus.lines().collect();
    let queries = json_lines(&folder, "more/queries.jsonl");
    for (name, part) in [("first", &lines[..100]), ("second", &lines[100..])] {
        fs::create_dir_all(folder.join(name).join("qrels")).unwrap();
        fs::write(folder.join(name).join("corpus.jsonl"), part.join("\n")).unwrap();
        let ids: BTreeSet<String> = part
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|passage| passage["_id"].as_str().unwrap().into())
            .collect();
        let passage_of = |q: &Value| -> String {
            let id = q["_id"].as_str().unwrap();
            id.rsplit_once("-q").unwrap().0.into()
        };
        let own = queries.iter().filter(|q| ids.contains(&passage_of(q)));
        let (mut texts, mut qrels) = (String::new(), String::new());
        for query in own {
            texts += &format!("{query}\n");
            qrels += &format!(
                "{}\t{}\t1\n",
                query["_id"].as_str().unwrap(),
                passage_of(query)
            );
        }
        fs::write(folder.join(name).join("queries.jsonl"), texts).unwrap();
        fs::write(folder.join(name).join("qrels/train.tsv"), qrels).unwrap();
    }
    let tokenizer = "--tokenizer out/tokenizer.json";
    let live =
        format!("index build --live --out live --corpus first {tokenizer} --pseudo-queries first");
    succeed(&folder, &words(&live));
    let add = format!("index add live --corpus second {tokenizer} --pseudo-queries second");
    succeed(&folder, &words(&add));
    let ask = |index: &str, text: &str| -> Value {
        let line = format!("index query {index} {tokenizer} --field queries --limit 1000 --json");
        let args = [&words(&line)[..], &["--text", text]].concat();
        serde_json::from_str(&succeed(&folder, &args)).unwrap()
    };
    let text = &of_passage.values().next().unwrap()[0];
    let word = text.split(' ').next().unwrap();
    assert_eq!(ask("live", word), ask("own.genret", word));
    assert_eq!(ask("live", ""), ask("own.genret", ""));
    succeed(&folder, &words("index delete live --ids few"));
    let left = ask("live", "")["count"].as_u64().unwrap();
    assert!(left < ask("own.genret", "")["count"].as_u64().unwrap());
    succeed(&folder, &words("index merge live"));
    assert_eq!(ask("live", "")["count"], left);
    let places = ask("live", word)["passages"].as_array().unwrap().clone();
    assert!(
        places
            .iter()
            .all(|p| few.iter().all(|id| p["passage"] != **id))
    );
    let rest = format!("--index live --views body,title,queries,docid {docids}");
    succeed(&folder, &words(&decode(&model, "rest", &rest)));
    let found = hits("rest");
    assert!(!found.is_empty());
    assert!(
        found
            .iter()
            .all(|hit| few.iter().all(|id| hit["passage"] != **id))
    );

    // What does not go together.
    let refused = |model: &Path, more: &str, said: &[&str]| {
        refuse(&folder, &words(&decode(model, "x", more)), said);
        assert!(!folder.join("x.trec").exists() && !folder.join("x.trec.partial").exists());
    };
    let plain = "--index out/index.genret";
    refused(
        &model,
        &format!("{plain} --views queries"),
        &["--pseudo-queries"],
    );
    refused(
        &model,
        &format!("--index {index} --views docid"),
        &["--docids"],
    );
    refused(
        &model,
        &format!("--index {index} --views text"),
        &["body, title, queries and docid"],
    );
    refused(
        &ngrams,
        &format!("--index {index} --views queries"),
        &["not learned view queries", "body"],
    );
    refused(
        &ngrams,
        &format!("--index {index} {docids}"),
        &["not learned view docid"],
    );
    refused(
        &with,
        &format!("--index {index}"),
        &["--docids in place of --index"],
    );
    refused(&model, &format!("{docids} --views queries"), &["--index"]);
    refused(
        &model,
        &format!("--index {index} --views title --oracle"),
        &["--oracle"],
    );
    for (changes, said) in [
        (
            "objective.task=docids objective.docids.pseudo=1",
            "data.pseudo_queries",
        ),
        ("objective.pseudo=1", "data.pseudo_queries"),
        (
            "objective.task=views objective.views.queries=1",
            "data.pseudo_queries",
        ),
        (
            "objective.task=views ranking.views.docid=1",
            "objective.views.docid",
        ),
        ("ranking.views.queries=1", "objective.task = \"views\""),
        ("data.pseudo_queries=first", "first"),
        ("data.pseudo_queries=nowhere", "nowhere"),
    ] {
        let set = changes.split(' ').map(|change| format!(" --set {change}"));
        let line = format!(
            "train --config tiny.toml --set sweep.sizes=[] --set out=bad{}",
            set.collect::<String>()
        );
        if said == "first" {
            // Queries of half of the corpus are no fault; those of passages that are not there are.
            fs::write(folder.join("first/qrels/train.tsv"), "a\tb\t1\n").unwrap();
        }
        refuse(&folder, &words(&line), &[said]);
        assert!(!folder.join("bad/models").exists());
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_sweep_ranks_by_several_views() {
    let folder = tiny("views-sweep");
    let line = "sweep tiny.toml --set objective.task=views --set objective.views.title=1 --set objective.views.docid=1 \
                --set ranking.views.title=1 --set ranking.views.docid=2 --set sweep.sizes=[\"s0.01m\"] --set sweep.fractions=[1.0]";
    succeed(&folder, &words(&format!("{line} {DOCIDS}")));
    let rows = json_lines(&folder, "out/runs.jsonl");
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["objective"], "views-rq");
        assert!(row["measures"]["unseen"]["RR@10"].is_number(), "{row}");
        assert!(row["cgl"].as_f64().unwrap() > 0.0);
    }
    fs::remove_dir_all(folder).unwrap();
}
