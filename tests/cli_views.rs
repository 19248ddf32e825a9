//! Texts and titles ranked together, through the program.

#[path = "common/program.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod program;

use std::collections::BTreeSet;
use std::fs;

use program::{only_model, refuse, succeed, tiny, words};
use serde_json::Value;

#[test]
fn titles_are_generated_where_a_model_has_learned_them() {
    let folder = tiny("views");
    succeed(
        &folder,
        &words("train --config tiny.toml --set objective.titles=true"),
    );
    let model = only_model(&folder.join("out"));
    let decode = |out: &str, more: &str| {
        format!(
            "decode --model {} --index out/index.genret --queries out/data --beam 10 --max-new-tokens 5 --k 5 --out {out}.trec \
             --explain {out}.jsonl {more}",
            model.display()
        )
    };
    let evidence = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let fields = |lines: &[Value]| -> BTreeSet<String> {
        let hits = lines
            .iter()
            .flat_map(|line| line["hits"].as_array().unwrap());
        let ngrams = hits.flat_map(|hit| hit["ngrams"].as_array().unwrap());
        ngrams
            .map(|ngram| ngram["view"].as_str().unwrap().to_string())
            .collect()
    };
    succeed(&folder, &words(&decode("text", "")));
    assert!(fields(&evidence("text.jsonl")).iter().eq(["body"]));
    succeed(&folder, &words(&decode("both", "--views body,title=2.0")));
    let both = evidence("both.jsonl");
    assert!(fields(&both).iter().eq(["body", "title"]));
    // A score is the sum of what its evidence was credited with.
    for hit in both
        .iter()
        .flat_map(|line| line["hits"].as_array().unwrap())
    {
        let ngrams = hit["ngrams"].as_array().unwrap().iter();
        let sum: f64 = ngrams.map(|ngram| ngram["credit"].as_f64().unwrap()).sum();
        let score = hit["score"].as_f64().unwrap();
        assert!((sum - score).abs() < 1e-3 * score.max(1.0), "{sum} {score}");
    }
    fs::remove_dir_all(folder.join("out/models")).unwrap();
    refuse(
        &folder,
        &words("train --config tiny.toml --set ranking.views.title=1.0"),
        &["ranking.views", "objective.titles"],
    );
    fs::remove_dir_all(folder).unwrap();
}
