//! Sweeps on several processes and on a cluster end with the rows of one process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("genret-sweep-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tiny.toml"), TINY).unwrap();
    folder
}

fn command(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_genret"));
    command
        .current_dir(folder)
        .args(line.split_whitespace())
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn succeed(folder: &Path, line: &str) -> String {
    let output = command(folder, line).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "genret {line}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn wait_for(what: &str, secs: u64, ready: impl Fn() -> bool) {
    let started = Instant::now();
    while !ready() {
        assert!(
            started.elapsed() < Duration::from_secs(secs),
            "{what} never came"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Rows of the table without what depends on the clock.
fn rows(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("out/runs.jsonl")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            for timing in ["train_secs", "decode_secs"] {
                row.as_object_mut().unwrap().remove(timing);
            }
            row
        })
        .collect()
}

/// Steps of every model so far.
fn steps(folder: &Path) -> Vec<usize> {
    let Ok(models) = fs::read_dir(folder.join("out/models")) else {
        return vec![];
    };
    let count = |path: PathBuf| fs::read_to_string(path).map_or(0, |text| text.lines().count());
    let mut all: Vec<usize> = models
        .map(|m| count(m.unwrap().path().join("steps.jsonl")))
        .collect();
    all.sort_unstable();
    all
}

/// Process ids of the workers, from their claims.
fn workers(folder: &Path) -> Vec<u64> {
    let Ok(claims) = fs::read_dir(folder.join("out/claims")) else {
        return vec![];
    };
    let pid = |path: PathBuf| -> Option<u64> {
        let beat: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        beat["owner"]["pid"].as_u64()
    };
    claims
        .map(|c| c.unwrap())
        .filter(|c| !c.file_name().to_string_lossy().starts_with('.'))
        .filter_map(|c| pid(c.path()))
        .collect()
}

fn signal(name: &str, pid: u64) {
    let status = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

fn quiet(mut command: Command) -> Child {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

const TINY: &str = r#"
name = "tiny"
out = "out"
seed = 3
[data]
synth = { passages = 200, queries_per_passage = 2 }
[tokenizer]
vocab = 600
[objective.span]
draws = 2
words = 4
[train]
batch_size = 16
learning_rate = 5e-3
checkpoint_every_secs = 1e9
epochs = 12
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

/// The rows of one process.
fn expected(name: &str, set: &str) -> Vec<Value> {
    let folder = folder(name);
    succeed(&folder, &format!("sweep tiny.toml{set}"));
    let rows = rows(&folder);
    assert_eq!(rows.len(), 8);
    fs::remove_dir_all(&folder).unwrap();
    rows
}

#[test]
fn workers_killed_and_asked_to_stop_end_with_the_rows_of_one_process() {
    let expected = expected("one", "");
    let folder = folder("workers");

    // A worker that is killed is started again.
    let mut sweep = quiet(command(&folder, "sweep tiny.toml --workers 2"));
    wait_for("a worker", 120, || !workers(&folder).is_empty());
    signal("-KILL", workers(&folder)[0]);
    wait_for("a row", 120, || folder.join("out/rows").exists());

    // A sweep that is asked to stop has its workers save their state, and says so by its exit code.
    let running = sweep.try_wait().unwrap().is_none();
    if running {
        signal("-TERM", u64::from(sweep.id()));
    }
    let code = sweep.wait().unwrap().code();
    assert!(
        code == Some(75) || (code == Some(0) && !running),
        "{code:?}"
    );
    assert!(workers(&folder).is_empty());

    let status = succeed(&folder, "sweep status tiny.toml");
    assert!(status.contains("of 8 cells"), "{status}");
    succeed(
        &folder,
        "sweep tiny.toml --workers 3 --set executor.memory_gb=1",
    );
    assert_eq!(rows(&folder), expected);
    let status = succeed(&folder, "sweep status tiny.toml");
    assert!(status.contains("8 done of 8 cells"), "{status}");
    reads_of_a_finished_sweep(&folder);
    fs::remove_dir_all(&folder).unwrap();
}

fn reads_of_a_finished_sweep(folder: &Path) {
    let view = succeed(folder, "sweep watch tiny.toml --once");
    assert!(
        view.contains("\u{2588}") && view.matches(" done").count() >= 4,
        "{view}"
    );

    succeed(
        folder,
        "sweep export tiny.toml --csv steps.csv --tensorboard board",
    );
    let table = fs::read_to_string(folder.join("steps.csv")).unwrap();
    assert_eq!(
        table.lines().count(),
        1 + steps(folder).iter().sum::<usize>()
    );
    assert_eq!(fs::read_dir(folder.join("board")).unwrap().count(), 4);

    // Four models are too few for any law of two inputs, and the answer says so.
    let plan = succeed(folder, "sweep plan tiny.toml --budget 1e12 --queries 100");
    assert!(plan.contains("n > k"), "{plan}");
    let design = succeed(folder, "sweep plan tiny.toml --design --noise 0.02");
    assert!(
        design.contains("the whole grid: 4 models") && design.contains("undetermined"),
        "{design}"
    );
    let refused = command(folder, "sweep plan tiny.toml").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--budget"));

    let laws = succeed(folder, "sweep fit tiny.toml");
    assert!(laws.contains("no law") && !laws.contains(".png"), "{laws}");
    assert!(folder.join("out/report/sweep.md").exists());
    let pictures = succeed(folder, "sweep plot tiny.toml");
    for picture in pictures.lines() {
        let path = folder.join(picture);
        assert!(
            path.exists() && path.with_extension("svg").exists(),
            "{picture}"
        );
    }
}

#[test]
fn two_sweeps_of_one_folder_share_the_work() {
    let expected = expected("alone", "");
    let folder = folder("together");
    // The data are made by one, then both go to work.
    succeed(&folder, "sweep tiny.toml --dry-run");
    let mut both = [(); 2].map(|()| quiet(command(&folder, "sweep tiny.toml")));
    for sweep in &mut both {
        assert!(sweep.wait().unwrap().success());
    }
    assert_eq!(rows(&folder), expected);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_training_that_is_asked_to_stop_goes_on_where_it_was() {
    let folder = folder("train");
    let train = "train --config tiny.toml --set model.size=s0.02m --set train.epochs=15";
    let mut run = quiet(command(&folder, train));
    wait_for("a step", 120, || steps(&folder).last() > Some(&3));
    signal("-USR1", u64::from(run.id()));
    assert_eq!(run.wait().unwrap().code(), Some(75));
    let done = *steps(&folder).last().unwrap();
    assert!(done > 3);
    succeed(&folder, &format!("{train} --resume"));
    assert!(*steps(&folder).last().unwrap() > done);
    fs::remove_dir_all(&folder).unwrap();
}

/// Whether a Slurm cluster answers.
fn slurm() -> bool {
    let answer = Command::new("timeout")
        .args(["5", "sinfo", "-h", "-o", "%t"])
        .output();
    answer.is_ok_and(|a| {
        let states = String::from_utf8_lossy(&a.stdout).to_string();
        ["idle", "mix", "alloc"].iter().any(|s| states.contains(s))
    })
}

fn slurm_says(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

#[test]
fn a_slurm_array_with_a_task_queued_again_ends_with_the_same_rows() {
    if !slurm() {
        println!(
            "skipped: no Slurm cluster answers; start one with tests/slurm/start.sh --install"
        );
        return;
    }
    let set = " --set train.epochs=30";
    let expected = expected("before-slurm", set);
    let folder = folder("slurm");
    let options = "--set executor.slurm.cpus=1 --set executor.slurm.time=\"0:10:00\" \
                   --set executor.slurm.memory_gb=1";
    let scripts = succeed(
        &folder,
        &format!("sweep tiny.toml --executor slurm --dry-run{set} {options}"),
    );
    assert!(scripts.contains("#SBATCH --array=0-3\n"), "{scripts}");
    let said = succeed(
        &folder,
        &format!("sweep tiny.toml --executor slurm{set} {options}"),
    );
    let number = |word: &str| {
        let line = said.lines().find(|l| l.starts_with(word)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .trim_end_matches(',')
            .to_string()
    };
    let (array, fit) = (number("array"), number("fit"));
    wait_for("training", 120, || {
        steps(&folder).last().is_some_and(|steps| *steps > 20)
    });
    let running = slurm_says(&format!("squeue -h -t R -j {array} -o %i"));
    let task = running.lines().next().expect("a task runs").to_string();
    slurm_says(&format!("scontrol requeue {task}"));
    wait_for("the task in the queue again", 60, || {
        slurm_says(&format!("squeue -h -j {task} -o %T")) == "PENDING"
    });
    let report = folder.join("out/report/cgl/scaling.md");
    wait_for("the fit", 600, || {
        std::thread::sleep(Duration::from_secs(1));
        // Slurm lets a task rest for two minutes before it runs again; a running one is left alone.
        slurm_says(&format!("scontrol update JobId={task} StartTime=now"));
        slurm_says(&format!("squeue -h -j {array},{fit} -o %i")).is_empty()
    });
    let logs = slurm_says(&format!(
        "cat {}",
        folder.join(format!("out/slurm/fit-{fit}.log")).display()
    ));
    assert!(report.exists(), "{logs}");
    assert_eq!(rows(&folder), expected);
    let log = folder.join(format!("out/slurm/task-{task}.log"));
    let log = fs::read_to_string(log).unwrap();
    assert!(
        log.contains("DUE TO JOB REQUEUE") && log.contains("stopped as asked"),
        "{log}"
    );
    fs::remove_dir_all(&folder).unwrap();
}
