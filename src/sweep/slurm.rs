//! A sweep as an array of Slurm tasks, one per model, with a job that fits and draws after them.
//!
//! A task runs `genret sweep work` on its model. Shortly before the time limit Slurm signals the batch shell, which
//! passes the signal on; the program saves its state and ends with its own exit code, and the shell
//! has the task queued again. A task that is preempted, cancelled with a requeue or dies with its node is
//! queued again by Slurm itself (`--requeue`). Either way its next life goes on from the checkpoint.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::SweepError;
use crate::atomic_file;
use crate::config::{FitAfter, SlurmOptions};

/// What the scripts call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The program.
    pub program: PathBuf,
    /// The configuration that the tasks read: a copy, so that the original may be edited meanwhile.
    pub config: PathBuf,
    /// Further arguments of every call: `--set` and the shared flags.
    pub arguments: Vec<String>,
    /// The working directory, to which the configuration's paths are relative.
    pub directory: PathBuf,
    /// Exit code of a task that was asked to stop and saved its state.
    pub stopped_code: u8,
}

/// The two scripts of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Scripts {
    /// One task per model.
    pub array: String,
    /// Fit and pictures.
    pub fit: String,
}

/// The scripts for the models of `ids`, the largest of which needs `memory_bytes`; they and their logs lie in
/// `folder`.
pub fn scripts(
    name: &str,
    ids: &[String],
    memory_bytes: f64,
    options: &SlurmOptions,
    call: &Call,
    folder: &Path,
) -> Scripts {
    let memory = options.memory_gb.map_or(1.25 * memory_bytes, |gb| 1e9 * gb);
    let together = options
        .max_running
        .map_or(String::new(), |most| format!("%{most}"));
    let mut array = head(name, options, call);
    let mut option = |text: String| {
        let _ = writeln!(array, "#SBATCH {text}");
    };
    option(format!("--array=0-{}{together}", ids.len().max(1) - 1));
    option(format!(
        "--output={}",
        folder.join("task-%A_%a.log").display()
    ));
    option(format!("--cpus-per-task={}", options.cpus));
    if options.gpus > 0 {
        option(format!("--gres=gpu:{}", options.gpus));
    }
    option(format!("--mem={}M", (memory / 1_048_576.0).ceil()));
    option(format!("--time={}", options.time));
    option("--requeue".into());
    option("--open-mode=append".into());
    option(format!("--signal=B:USR1@{}", options.signal_secs));
    let _ = write!(
        array,
        r#"
{setup}models=({models})
task="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
export RAYON_NUM_THREADS={cpus}
{command} &
child=$!
# The shell gets the signals; the program saves its state on them.
trap 'kill -USR1 "$child" 2>/dev/null' USR1 TERM
while :; do
  wait "$child"
  code=$?
  kill -0 "$child" 2>/dev/null || break
done
# A wait that a signal cut short says nothing of the child: ask again.
if [ "$code" -eq 138 ] || [ "$code" -eq 143 ]; then
  wait "$child" 2>/dev/null
  again=$?
  if [ "$again" -ne 127 ]; then code=$again; fi
fi
if [ "$code" -eq {stopped} ]; then
  scontrol requeue "$task"
fi
exit "$code"
"#,
        setup = setup(options),
        models = ids.join(" "),
        cpus = options.cpus,
        stopped = call.stopped_code,
        command = command(call, "work").replace(
            " work ",
            " work --model \"${models[$SLURM_ARRAY_TASK_ID]}\" --task \"$task\" "
        ),
    );
    let mut fit = head(&format!("{name}-fit"), options, call);
    let _ = write!(
        fit,
        "#SBATCH --output={}\n\n{}exec {}\n",
        folder.join("fit-%j.log").display(),
        setup(options),
        command(call, "report")
    );
    Scripts { array, fit }
}

fn head(name: &str, options: &SlurmOptions, call: &Call) -> String {
    let mut text = format!("#!/bin/bash\n#SBATCH --job-name={}\n", word(name));
    let _ = writeln!(text, "#SBATCH --chdir={}", call.directory.display());
    for (flag, value) in [
        ("partition", &options.partition),
        ("account", &options.account),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "#SBATCH --{flag}={value}");
        }
    }
    for option in &options.options {
        let _ = writeln!(text, "#SBATCH {option}");
    }
    text
}

fn setup(options: &SlurmOptions) -> String {
    options
        .setup
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}

/// A job's name: letters, digits, dots and dashes.
fn word(name: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    name.chars().map(safe).collect()
}

fn command(call: &Call, verb: &str) -> String {
    let mut text = format!(
        "{} sweep {verb} ",
        quoted(&call.program.display().to_string())
    );
    text += &quoted(&call.config.display().to_string());
    for argument in &call.arguments {
        text += " ";
        text += &quoted(argument);
    }
    text
}

/// A word of a shell command line.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What was submitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// Number of the array job.
    pub array: String,
    /// Number of the fit job.
    pub fit: String,
}

/// Writes the scripts into `folder` and submits them, the fit after the array.
///
/// # Errors
/// Slurm's commands are absent, or refuse a job. An array whose fit was refused is cancelled.
pub fn submit(
    scripts: &Scripts,
    options: &SlurmOptions,
    folder: &Path,
) -> Result<Submitted, SweepError> {
    fs::create_dir_all(folder).map_err(SweepError::io(folder))?;
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        atomic_file::write(&path, |file| file.write_all(text.as_bytes()))
            .map_err(SweepError::io(&path))?;
        Ok::<_, SweepError>(path)
    };
    let array = put("array.sh", &scripts.array)?;
    let fit = put("fit.sh", &scripts.fit)?;
    let array = sbatch(&[], &array)?;
    let after = match options.fit_after {
        FitAfter::Ok => "afterok",
        FitAfter::Any => "afterany",
    };
    let after = format!("--dependency={after}:{array}");
    match sbatch(&[&after, "--kill-on-invalid-dep=yes"], &fit) {
        Ok(fit) => Ok(Submitted { array, fit }),
        Err(error) => {
            // The first error is the one that matters.
            let _ = Command::new("scancel").arg(&array).status();
            Err(error)
        }
    }
}

/// Number of the submitted job.
fn sbatch(arguments: &[&str], script: &Path) -> Result<String, SweepError> {
    let output = Command::new("sbatch")
        .arg("--parsable")
        .args(arguments)
        .arg(script)
        .output()
        .map_err(|source| SweepError::Start {
            program: "sbatch".into(),
            source,
            remedy: "; submit from a machine of the cluster, or use --executor local",
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `NUMBER` or `NUMBER;CLUSTER`
    let number = text
        .trim()
        .split(';')
        .next()
        .unwrap_or_default()
        .to_string();
    if output.status.success() && !number.is_empty() {
        return Ok(number);
    }
    Err(SweepError::Refused {
        command: format!("sbatch {} {}", arguments.join(" "), script.display()),
        message: String::from_utf8_lossy(&output.stderr).trim().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call {
            program: "/opt/my tools/genret".into(),
            config: "out/slurm/config.toml".into(),
            arguments: vec!["--set".into(), "sweep.beams=[1, 4]".into()],
            directory: "/home/me".into(),
            stopped_code: 75,
        }
    }

    #[test]
    fn scripts_say_what_was_asked() {
        let options = SlurmOptions {
            partition: Some("gpu".into()),
            gpus: 1,
            max_running: Some(3),
            options: vec!["--qos=long".into()],
            setup: vec!["module load gcc".into()],
            ..SlurmOptions::default()
        };
        let ids = ["aa".to_string(), "bb".into()];
        let made = scripts(
            "my sweep",
            &ids,
            4e9,
            &options,
            &call(),
            Path::new("o/slurm"),
        );
        for part in [
            "#SBATCH --job-name=my-sweep\n",
            "#SBATCH --chdir=/home/me\n",
            "#SBATCH --partition=gpu\n",
            "#SBATCH --qos=long\n",
            "#SBATCH --array=0-1%3\n",
            "#SBATCH --gres=gpu:1\n",
            "#SBATCH --mem=4769M\n",
            "#SBATCH --requeue\n",
            "#SBATCH --signal=B:USR1@120\n",
            "module load gcc\nmodels=(aa bb)\n",
            "'/opt/my tools/genret' sweep work --model \"${models[$SLURM_ARRAY_TASK_ID]}\" --task \"$task\" \
             out/slurm/config.toml --set 'sweep.beams=[1, 4]' &\n",
            "if [ \"$code\" -eq 75 ]",
        ] {
            assert!(
                made.array.contains(part),
                "{part} missing in\n{}",
                made.array
            );
        }
        assert!(made.fit.ends_with(
            "exec '/opt/my tools/genret' sweep report out/slurm/config.toml --set 'sweep.beams=[1, 4]'\n"
        ));
        assert!(!made.fit.contains("--array") && made.fit.contains("--partition=gpu"));
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("a/b-1.toml"), "a/b-1.toml");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
