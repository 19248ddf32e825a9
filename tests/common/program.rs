//! The program as a user runs it, in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An empty folder for one test.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("genret-cli-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The program with arguments, in `folder`.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_genret"));
    command.current_dir(folder).args(args).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn genret(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().unwrap()
}

/// The arguments of a command line without quoting.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs a command that must succeed; its stdout.
#[track_caller]
pub fn succeed(folder: &Path, args: &[&str]) -> String {
    let output = genret(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "genret {}: {stderr}",
        args.join(" ")
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must end with exit code 2 and a message that contains every one of `words`.
#[track_caller]
pub fn refuse(folder: &Path, args: &[&str], words: &[&str]) {
    let output = genret(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(2),
        "genret {}: {stderr}",
        args.join(" ")
    );
    for word in words {
        assert!(
            stderr.contains(word),
            "genret {}: no {word:?} in: {stderr}",
            args.join(" ")
        );
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// Runs a command and kills it as soon as `ready` holds; true if it was still running then.
pub fn kill_when(mut command: Command, ready: impl Fn() -> bool) -> bool {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !ready() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "the moment to kill never came"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// A configuration that trains in seconds.
pub const TINY: &str = r#"
name = "tiny"
out = "out"
seed = 3
[data]
synth = { passages = 200, queries_per_passage = 2 }
[tokenizer]
vocab = 600
[model]
size = "s0.02m"
[objective.span]
draws = 2
words = 4
[train]
batch_size = 16
learning_rate = 5e-3
checkpoint_every_secs = 0.0
validate_every = 10
[decode]
max_new_tokens = 4
[evaluate]
splits = ["test", "unseen"]
queries = 12
cgl_queries = 4
cgl_negatives = 16
cgl_spans = 2
[sweep]
sizes = ["s0.01m", "s0.02m"]
fractions = [0.5, 1.0]
beams = [2, 5]
"#;

/// A folder with [`TINY`] as `tiny.toml`.
pub fn tiny(name: &str) -> PathBuf {
    let folder = folder(name);
    fs::write(folder.join("tiny.toml"), TINY).unwrap();
    folder
}

/// The one model in the folder `out`.
pub fn only_model(out: &Path) -> PathBuf {
    let mut models: Vec<_> = fs::read_dir(out.join("models"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(models.len(), 1);
    models.pop().unwrap()
}
