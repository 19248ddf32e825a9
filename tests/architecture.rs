//! The direction of imports, checked on the source text.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Path from `src` and text, without tests: files of that name, and the end of others.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    sources(&root, &mut found);
    found
        .into_iter()
        .filter(|path| {
            !path.ends_with("tests.rs") && !path.components().any(|c| c.as_os_str() == "tests")
        })
        .map(|path| {
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/");
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap().to_string();
            (name, text)
        })
        .collect()
}

/// Modules in order: each uses only those that stand before it. Modules of one line do not use
/// each other.
const ORDER: [&[&str]; 11] = [
    &["types"],
    &["rng", "atomic_file", "section_file", "allocator", "machine"],
    &[
        "tokenizer",
        "index",
        "data/reader",
        "data/trec",
        "record",
        "sweep/flops",
    ],
    &["data", "eval"],
    &["model", "scaling", "docid"],
    &["decode", "train"],
    &["retrieve"],
    &["config"],
    &["plot"],
    &["experiment"],
    &["sweep"],
];

/// The position in `ORDER` of a path such as `data/trec`, by its longest known prefix.
fn layer(path: &str) -> Option<usize> {
    ORDER
        .iter()
        .enumerate()
        .flat_map(|(i, names)| names.iter().map(move |n| (i, *n)))
        .filter(|(_, n)| path == *n || path.starts_with(&format!("{n}/")))
        .max_by_key(|(_, n)| n.len())
        .map(|(i, _)| i)
}

fn module_of(file: &str) -> &str {
    file.trim_end_matches(".rs").trim_end_matches("/mod")
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let mut wrong = vec![];
    for (file, text) in files() {
        let module = module_of(&file);
        let Some(own) = layer(module) else { continue };
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for used in line.split("crate::").skip(1) {
                let path: String = used
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
                    .collect();
                let path = path.replace("::", "/");
                let top = |p: &str| p.split('/').next().unwrap().to_string();
                if top(&path) == top(module) {
                    continue;
                }
                if let Some(other) = layer(&path)
                    && other >= own
                {
                    wrong.push(format!("src/{file} uses {path}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_needs_no_tensors_has_none() {
    for (file, text) in files() {
        let free = [
            "index/",
            "docid/",
            "section_file/",
            "retrieve/bm25/",
            "retrieve/dense/",
            "retrieve/sparse/",
            "data/",
            "eval/",
            "scaling/",
            "plot/",
            "types",
            "tokenizer",
            "record",
        ];
        if free.iter().any(|f| file.starts_with(f)) {
            assert!(
                !text.contains("burn::") && !text.contains("genret_kernels"),
                "src/{file}"
            );
        }
    }
}

#[test]
fn only_the_command_line_talks_to_the_terminal_and_the_environment() {
    for (file, text) in files() {
        if file.starts_with("cli/") || file == "main.rs" || file == "build.rs" {
            continue;
        }
        for word in ["println!", "print!(", "env::var", "env::args"] {
            let found = text
                .lines()
                .filter(|l| !l.trim_start().starts_with("//"))
                .any(|l| l.contains(word) && !(word == "println!" && l.contains("eprintln!")));
            assert!(!found, "src/{file} contains {word}");
        }
    }
}

#[test]
fn files_stay_readable() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![];
    for folder in ["src", "kernels/src", "tests"] {
        sources(&root.join(folder), &mut found);
    }
    for path in found {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(
            lines <= 800,
            "{} has {lines} lines; split it",
            path.display()
        );
    }
}
