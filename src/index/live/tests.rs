//! The live index against the naive twin, through additions, deletions, merges and crashes.

use std::fs;
use std::path::{Path, PathBuf};

use rand::RngExt;

use crate::index::tests::naive_index::NaiveIndex;
use crate::index::tests::{Passages, compare, passages, queries_of, temporary, tokens_of};
use crate::index::{
    Continuations, Field, IndexBuilder, IndexError, IndexOptions, LiveIndex, LiveWriter,
    PassageSet, SubstringIndex,
};
use crate::rng::stream;
use crate::types::{PassageIdx, TokenId};

/// Passages with the number in their id, as title and body.
type Numbered = Vec<(usize, (Vec<TokenId>, Vec<TokenId>))>;

const VOCAB: usize = 9;
const OPTIONS: IndexOptions = IndexOptions {
    max_ngram_tokens: 12,
    min_node_count: 6,
};

fn folder(name: &str) -> PathBuf {
    let folder = temporary(name);
    let _ = fs::remove_dir_all(&folder);
    folder
}

fn create(folder: &Path) -> LiveWriter {
    LiveWriter::create(folder, VOCAB, 7, "tokenizer.json", OPTIONS).unwrap()
}

fn add(writer: &mut LiveWriter, passages: &Passages, first: usize) -> Result<(), IndexError> {
    let mut builder: IndexBuilder = writer.builder()?;
    for (i, (title, body)) in passages.iter().enumerate() {
        let (id, queries) = (format!("p{}", first + i), queries_of(body));
        builder.push_with_queries(&id, title, body, &queries)?;
    }
    writer.add(builder)
}

/// Deletes the passages with these ids, which are there.
fn delete(writer: &mut LiveWriter, ids: &[String]) {
    let index = writer.index().unwrap();
    let wanted = |passage: &PassageIdx| ids.iter().any(|id| id == index.doc_id(*passage));
    let passages: PassageSet = index.passages().filter(wanted).collect();
    assert_eq!(passages.len(), ids.len());
    writer.delete(&passages).unwrap();
}

/// Compares with a naive index in which deleted passages are empty.
fn check(index: &LiveIndex, live: &Numbered, seed: u64) {
    let ids: Vec<&str> = index.passages().map(|p| index.doc_id(p)).collect();
    let expected: Vec<String> = live
        .iter()
        .map(|(number, _)| format!("p{number}"))
        .collect();
    assert_eq!(ids, expected);
    for field in Field::ALL {
        let mut tokens = vec![vec![]; index.num_passages()];
        for (p, (_, passage)) in index.passages().zip(live) {
            tokens[p.index()] = tokens_of(passage, field);
        }
        let naive = NaiveIndex::new(field, VOCAB, OPTIONS.max_ngram_tokens, tokens);
        compare(&index.with_field(field), &naive, seed, 6);
    }
}

#[test]
fn equals_the_naive_index_through_all_changes() {
    for seed in 0..12 {
        let folder = folder(&format!("live-{seed}"));
        let mut rng = stream(seed, "live", &[]);
        let mut writer = create(&folder);
        let mut live: Numbered = vec![];
        let mut added = 0;
        check(&writer.index().unwrap(), &live, seed);
        for step in 0..10 {
            match rng.random_range(0..10) {
                0..5 => {
                    let size = rng.random_range(1..300);
                    let new = passages(seed * 100 + step, size, 12, VOCAB as u32, 0);
                    add(&mut writer, &new, added).unwrap();
                    live.extend((added..).zip(new));
                    added = live.last().map_or(0, |(number, _)| number + 1);
                }
                5..9 => {
                    let mut ids = vec![];
                    let share = rng.random_range(0.0..0.7);
                    live.retain(|(number, _)| {
                        let goes = rng.random_bool(share);
                        if goes {
                            ids.push(format!("p{number}"));
                        }
                        !goes
                    });
                    delete(&mut writer, &ids);
                }
                _ => {
                    writer.merge().unwrap();
                    assert_eq!(writer.index().unwrap().stats().deleted_passages, 0);
                }
            }
            let index = LiveIndex::open(&folder).unwrap();
            index.verify().unwrap();
            assert!(index.stats().segments.len() <= super::MAX_SEGMENTS);
            check(&index, &live, seed);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn what_only_deleted_passages_say_is_gone() {
    let folder = folder("gone");
    let mut writer = create(&folder);
    let tokens = |ids: &[u32]| -> Vec<TokenId> { ids.iter().map(|&t| TokenId(t)).collect() };
    let corpus: Passages = vec![(vec![], tokens(&[1, 2, 3])), (vec![], tokens(&[1, 2, 4]))];
    add(&mut writer, &corpus, 0).unwrap();
    let before = LiveIndex::open(&folder).unwrap();
    delete(&mut writer, &["p1".into()]);
    let after = LiveIndex::open(&folder).unwrap();
    assert_eq!(
        before.ngram_count(&tokens(&[1, 2])),
        2,
        "a reader keeps what it opened"
    );
    assert_eq!(after.ngram_count(&tokens(&[1, 2])), 1);
    assert_eq!(after.ngram_count(&tokens(&[4])), 0);
    assert_eq!(after.num_tokens(), 3);
    assert!(after.is_deleted(PassageIdx(1)));
    let state = after.find(&tokens(&[1, 2])).unwrap();
    let mut out = Continuations::new();
    after.continuations(&[state], &mut out);
    assert_eq!(out.row(0).tokens, [TokenId(3)]);
    // The id is free again.
    add(&mut writer, &vec![corpus[1].clone()], 1).unwrap();
    assert_eq!(
        LiveIndex::open(&folder)
            .unwrap()
            .ngram_count(&tokens(&[1, 2])),
        2
    );
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn wrong_changes_are_refused_and_change_nothing() {
    let folder = folder("refused");
    let mut writer = create(&folder);
    let corpus = passages(1, 100, 9, VOCAB as u32, 0);
    add(&mut writer, &corpus, 0).unwrap();
    let manifest = fs::read(folder.join("index.json")).unwrap();
    assert!(matches!(
        add(&mut writer, &corpus, 3),
        Err(IndexError::DuplicateId { .. })
    ));
    assert!(matches!(
        LiveWriter::open(&folder),
        Err(IndexError::Locked { .. })
    ));
    let again = LiveWriter::create(&folder, VOCAB, 7, "", OPTIONS);
    assert!(matches!(again, Err(IndexError::Locked { .. })));
    drop(writer);
    let again = LiveWriter::create(&folder, VOCAB, 7, "", OPTIONS);
    assert!(matches!(again, Err(IndexError::Exists { .. })));
    drop(again);
    assert!(LiveWriter::open(&folder).is_ok());
    assert_eq!(fs::read(folder.join("index.json")).unwrap(), manifest);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_crash_leaves_the_old_index() {
    let folder = folder("crash");
    let mut writer = create(&folder);
    add(&mut writer, &passages(1, 100, 9, VOCAB as u32, 0), 0).unwrap();
    drop(writer);
    let before = LiveIndex::open(&folder).unwrap().num_tokens();
    // A writer died after the files of the next generation, before its manifest.
    for left in ["segment-2.idx", ".segment-2.idx.tmp-1", "deleted-2.idx"] {
        fs::write(folder.join(left), b"half").unwrap();
    }
    assert_eq!(LiveIndex::open(&folder).unwrap().num_tokens(), before);
    let mut writer = LiveWriter::open(&folder).unwrap();
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["index.json", "lock", "segment-1.idx"]);
    delete(&mut writer, &["p0".into()]);
    assert!(LiveIndex::open(&folder).unwrap().num_tokens() < before);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_damaged_manifest_is_refused() {
    let folder = folder("damaged");
    let mut writer = create(&folder);
    add(&mut writer, &passages(1, 100, 9, VOCAB as u32, 0), 0).unwrap();
    delete(&mut writer, &["p0".into()]);
    drop(writer);
    let path = folder.join("index.json");
    let text = fs::read_to_string(&path).unwrap();
    let open = |text: &str| {
        fs::write(&path, text).unwrap();
        LiveIndex::open(&folder)
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(open(&text), None);
    assert!(
        open(&text.replace("\"generation\": 2", "\"generation\": 3"))
            .unwrap()
            .contains("checksum")
    );
    assert!(
        open(&text.replace("\"format\": 1", "\"format\": 2"))
            .unwrap()
            .contains("format 2")
    );
    assert!(
        open(&text[..text.len() / 2])
            .unwrap()
            .contains("not a manifest")
    );
    fs::remove_dir_all(&folder).unwrap();
}

/// Step `step` of a history of changes: to the writer, if there is one, and to the list of what lives.
fn change(step: u64, writer: Option<&mut LiveWriter>, live: &mut Numbered) {
    let mut rng = stream(step, "history", &[]);
    if step % 7 == 6 {
        if let Some(writer) = writer {
            writer.merge().unwrap();
        }
    } else if step % 3 == 2 {
        let goes: Vec<usize> = live.iter().map(|(number, _)| *number).collect();
        let goes: Vec<usize> = goes.into_iter().filter(|_| rng.random_bool(0.3)).collect();
        let ids: Vec<String> = goes.iter().map(|number| format!("p{number}")).collect();
        if let Some(writer) = writer {
            delete(writer, &ids);
        }
        live.retain(|(number, _)| !goes.contains(number));
    } else {
        let new = passages(step, rng.random_range(1..200), 12, VOCAB as u32, 0);
        let first = step as usize * 1000;
        if let Some(writer) = writer {
            add(writer, &new, first).unwrap();
        }
        live.extend((first..).zip(new));
    }
}

/// Not a test: the process that `a_writer_killed_at_any_moment` kills.
#[test]
#[ignore = "started and killed by another test"]
fn writes_until_killed() {
    let Some(folder) = std::env::var_os("GENRET_TEST_KILL") else {
        return;
    };
    let mut writer = LiveWriter::open(Path::new(&folder)).unwrap();
    let mut live = vec![];
    let done = super::Manifest::read(Path::new(&folder))
        .unwrap()
        .generation;
    (0..done).for_each(|step| change(step, None, &mut live));
    for step in done.. {
        change(step, Some(&mut writer), &mut live);
    }
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_whole_number_of_changes() {
    let folder = folder("killed");
    drop(create(&folder));
    let mut rng = stream(0, "kill", &[]);
    let mut generations = vec![];
    for round in 0..40 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "index::live::tests::writes_until_killed",
                "--ignored",
            ])
            .env("GENRET_TEST_KILL", &folder)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(
            rng.random_range(2_000..60_000),
        ));
        child.kill().unwrap();
        child.wait().unwrap();
        let index = LiveIndex::open(&folder).unwrap();
        index.verify().unwrap();
        let generation = super::Manifest::read(&folder).unwrap().generation;
        let mut live = vec![];
        (0..generation).for_each(|step| change(step, None, &mut live));
        if round % 4 == 0 {
            check(&index, &live, round);
        } else {
            let ids: Vec<&str> = index.passages().map(|p| index.doc_id(p)).collect();
            let expected: Vec<String> = live.iter().map(|(n, _)| format!("p{n}")).collect();
            assert_eq!(ids, expected);
        }
        generations.push(generation);
    }
    assert!(generations.last() > generations.first(), "{generations:?}");
    fs::remove_dir_all(&folder).unwrap();
}

/// Lists that are short for the vocabulary are merged, not summed.
#[test]
fn equals_the_naive_index_in_a_large_vocabulary() {
    let vocab = 70_000;
    let folder = folder("large-vocabulary");
    let mut writer = LiveWriter::create(&folder, vocab, 7, "", OPTIONS).unwrap();
    let mut bodies = vec![];
    for part in 0..3 {
        let passages = passages(part, 300, 12, 30, vocab as u32 - 30);
        add(&mut writer, &passages, bodies.len()).unwrap();
        bodies.extend(passages.into_iter().map(|(_, body)| body));
    }
    let ids: Vec<String> = (0..bodies.len())
        .step_by(3)
        .map(|p| format!("p{p}"))
        .collect();
    delete(&mut writer, &ids);
    bodies.iter_mut().step_by(3).for_each(Vec::clear);
    let naive = NaiveIndex::new(Field::Body, vocab, OPTIONS.max_ngram_tokens, bodies);
    compare(&writer.index().unwrap(), &naive, 3, 20);
    fs::remove_dir_all(&folder).unwrap();
}
