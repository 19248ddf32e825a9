//! Running what a sweep lacks: in this process, in worker processes, on a cluster.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{RunArgs, WorkArgs, report, row};
use crate::cli::progress::Progress;
use crate::cli::shared::Shared;
use crate::cli::stop::{STOPPED, Stop};
use crate::cli::table::{self, say};
use crate::cli::train::load_config;
use crate::config::{Config, ExecutorKind};
use crate::experiment::Experiment;
use crate::machine;
use crate::model;
use crate::sweep::{self, Claims, Event, Owner, Plan, SweepError, WorkerEvent, Workers, slurm};

/// FLOPs per second that a small model reaches in training on this many processor threads; only for
/// the time estimate of a plan.
fn assumed_flops_per_sec() -> f64 {
    3e10 * std::thread::available_parallelism().map_or(1, |n| n.get()) as f64
}

pub(super) fn sweep(path: &Path, args: &RunArgs, shared: &Shared) -> Result<()> {
    let config = load_config(path, &args.set, shared)?;
    if config.sweep.sizes.is_empty() {
        bail!(
            "{}: [sweep] names no sizes, such as sizes = [\"s0.3m\", \"s1m\"]",
            path.display()
        );
    }
    let kind = args.executor.unwrap_or(config.executor.kind);
    let count = args.workers.unwrap_or(config.executor.workers);
    if count == 0 {
        bail!("--workers 0 does nothing: expected at least 1");
    }
    let device = model::open_device(&shared.device)?;
    let experiment = Experiment::open(config, &mut |what| eprintln!("{what}"))?;
    let plan = sweep::plan(&experiment)?;
    let config = &experiment.config;
    let chosen = unfinished(config, &plan)?;
    if args.dry_run {
        print_plan(&plan, &experiment)?;
        return match kind {
            ExecutorKind::Local => Ok(()),
            ExecutorKind::Slurm if chosen.is_empty() => Ok(say!("\nnothing is missing")),
            ExecutorKind::Slurm => {
                let call = call(config, &args.set, shared)?;
                let (scripts, folder) = slurm_scripts(config, &plan, &chosen, &call)?;
                for (name, text) in [("array.sh", &scripts.array), ("fit.sh", &scripts.fit)] {
                    say!("\n# {}\n{text}", folder.join(name).display());
                }
                Ok(())
            }
        };
    }
    eprintln!("ranking by BM25");
    sweep::baseline(&experiment)?;
    // A copy, so that the original may be edited while others work by it.
    let copy = config.out.join("config.toml");
    fs::copy(path, &copy).with_context(|| format!("copying {}", path.display()))?;
    plan.to_saved(&experiment)?.save(&config.out)?;
    if kind == ExecutorKind::Slurm && !chosen.is_empty() {
        return submit(config, &plan, &chosen, &call(config, &args.set, shared)?);
    }
    let stop = Stop::listen()?;
    if count > 1 && !chosen.is_empty() {
        workers(config, &plan, &chosen, count, &args.set, shared, &stop)?;
        let rows = sweep::collect(&experiment.config, &plan.cells())?;
        return report::write(&experiment.config, &rows, sweep::Output::All);
    }
    let all: Vec<usize> = (0..plan.models.len()).collect();
    let rows = in_process(&experiment, &plan, &all, &device, None, &stop)?;
    report::write(&experiment.config, &rows, sweep::Output::All)
}

/// One model, as an executor asks for it.
pub(super) fn work(args: &WorkArgs, shared: &Shared) -> Result<()> {
    let config = args.config.load(shared)?;
    let device = model::open_device(&shared.device)?;
    let stop = Stop::listen()?;
    let experiment = Experiment::open(config, &mut |_| ())?;
    let plan = sweep::plan(&experiment)?;
    let place = plan.models.iter().position(|m| m.id() == args.model);
    let place = place.ok_or_else(|| SweepError::NoSuchModel {
        model: args.model.clone(),
        out: experiment.config.out.clone(),
    })?;
    in_process(
        &experiment,
        &plan,
        &[place],
        &device,
        args.task.clone(),
        &stop,
    )?;
    Ok(())
}

fn in_process(
    experiment: &Experiment,
    plan: &Plan,
    chosen: &[usize],
    device: &burn::tensor::Device,
    task: Option<String>,
    stop: &Stop,
) -> Result<Vec<sweep::CellRow>> {
    let config = &experiment.config;
    let owner = Owner::this_process(task);
    let mut claims = Claims::new(&config.out, owner, config.executor.stale_secs);
    let mut display = Display { plan, bar: None };
    let rows = sweep::run(
        experiment,
        plan,
        chosen,
        device,
        &mut claims,
        &mut |event| {
            display.show(event);
            stop.asked()
        },
    )?;
    display.close();
    Ok(rows)
}

/// Places of the models that lack a cell.
fn unfinished(config: &Config, plan: &Plan) -> Result<Vec<usize>> {
    let missing = sweep::missing(config, plan)?;
    Ok((0..missing.len())
        .filter(|&place| !missing[place].is_empty())
        .collect())
}

/// Arguments that make another process read the same configuration.
fn arguments(set: &[String], shared: &Shared) -> Vec<String> {
    let mut all = vec![];
    for change in set {
        all.extend(["--set".to_string(), change.clone()]);
    }
    all.extend(["--device".to_string(), shared.device.clone()]);
    if let Some(seed) = shared.seed {
        all.extend(["--seed".to_string(), seed.to_string()]);
    }
    all
}

fn workers(
    config: &Config,
    plan: &Plan,
    chosen: &[usize],
    count: usize,
    set: &[String],
    shared: &Shared,
    stop: &Stop,
) -> Result<()> {
    let program = std::env::current_exe().context("finding the program itself")?;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = (cores / count.min(chosen.len())).max(1);
    let memory_bytes = match config.executor.memory_gb {
        Some(gb) => 1e9 * gb,
        None => machine::available_bytes().unwrap_or_else(|| {
            eprintln!("this machine does not say how much memory it has: set executor.memory_gb");
            f64::INFINITY
        }),
    };
    let logs = config.out.join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
    eprintln!(
        "{} models on at most {count} workers of {threads} threads, {:.1} GB; logs in {}",
        chosen.len(),
        memory_bytes / 1e9,
        logs.display()
    );
    let copy = config.out.join("config.toml");
    let mut launch = |id: &str| {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(logs.join(format!("{id}.log")))?;
        let mut command = Command::new(&program);
        let words: Vec<OsString> = ["sweep", "work", "--model", id].map(OsString::from).into();
        command
            .args(words)
            .arg(&copy)
            .args(arguments(set, shared))
            .env("RAYON_NUM_THREADS", threads.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    };
    let mut pool = Workers {
        count,
        memory_bytes,
        stopped_code: i32::from(STOPPED),
        launch: &mut launch,
    };
    let mut said = Instant::now();
    let mut done = 0;
    sweep::run_workers(config, plan, chosen, &mut pool, &mut |event| {
        let name = |place: usize| {
            let model = &plan.models[place];
            let spec = &model.spec;
            format!(
                "{} on {} of the data, seed {}",
                model.name(),
                spec.fraction,
                spec.seed
            )
        };
        match event {
            WorkerEvent::Began(place) => eprintln!("began  {}", name(place)),
            WorkerEvent::Ended(place, None) => {
                done += 1;
                eprintln!("done   {} ({done} of {})", name(place), chosen.len());
            }
            WorkerEvent::Ended(place, Some(message)) => {
                eprintln!("ended  {}: {message}", name(place));
            }
            WorkerEvent::Tick => {
                if said.elapsed() > Duration::from_secs(15) {
                    said = Instant::now();
                    say_claims(config, plan);
                }
            }
        }
        stop.asked()
    })?;
    Ok(())
}

/// What the workers are doing, on stderr; what cannot be read is no reason to stop.
fn say_claims(config: &Config, plan: &Plan) {
    let Ok(claims) = sweep::read_claims(&config.out) else {
        return;
    };
    for model in &plan.models {
        if let Some((beat, _)) = claims.get(&model.id()) {
            let doing = &beat.doing;
            let beam = doing.beam.map_or(String::new(), |b| format!(", beam {b}"));
            eprintln!(
                "       {} on {} of the data: {}{beam}, {}/{}",
                model.name(),
                model.spec.fraction,
                doing.stage,
                doing.done,
                doing.of
            );
        }
    }
}

/// How the cluster's scripts call this program.
fn call(config: &Config, set: &[String], shared: &Shared) -> Result<slurm::Call> {
    Ok(slurm::Call {
        program: std::env::current_exe().context("finding the program itself")?,
        config: config.out.join("config.toml"),
        arguments: arguments(set, shared),
        directory: std::env::current_dir().context("finding the working directory")?,
        stopped_code: STOPPED,
    })
}

fn slurm_scripts(
    config: &Config,
    plan: &Plan,
    chosen: &[usize],
    call: &slurm::Call,
) -> Result<(slurm::Scripts, std::path::PathBuf)> {
    let ids: Vec<String> = chosen.iter().map(|&i| plan.models[i].id()).collect();
    let memory = (chosen.iter())
        .map(|&i| plan.models[i].memory_bytes)
        .fold(0.0, f64::max);
    let folder = std::path::absolute(config.out.join("slurm"))
        .with_context(|| format!("finding {}", config.out.display()))?;
    let options = &config.executor.slurm;
    let scripts = slurm::scripts(&config.name, &ids, memory, options, call, &folder);
    Ok((scripts, folder))
}

fn submit(config: &Config, plan: &Plan, chosen: &[usize], call: &slurm::Call) -> Result<()> {
    let (scripts, folder) = slurm_scripts(config, plan, chosen, call)?;
    let jobs = slurm::submit(&scripts, &config.executor.slurm, &folder)?;
    say!("array     {} of {} tasks", jobs.array, chosen.len());
    say!("fit       {}, after the array", jobs.fit);
    say!("scripts   {}", folder.display());
    say!("state     genret sweep status {}", call.config.display());
    Ok(())
}

fn print_plan(plan: &Plan, experiment: &Experiment) -> Result<()> {
    let evaluate = &experiment.config.evaluate;
    let mut rows = vec![row([
        &"size",
        &"learns",
        &"fraction",
        &"seed",
        &"parameters",
        &"embedding",
        &"examples",
        &"tokens",
        &"FLOPs",
        &"MB",
        &"beams",
    ])];
    let mut queries = 0;
    for split in &evaluate.splits {
        queries += experiment.queries(split)?.len();
    }
    let (mut flops, mut cells) = (0.0, 0);
    for model in &plan.models {
        let spec = &model.spec;
        let beams: Vec<String> = model.cells.iter().map(|c| c.beam.to_string()).collect();
        rows.push(row([
            &model.size,
            &match spec.variant() {
                name if name.is_empty() => spec.objective.task.name().to_string(),
                name => name,
            },
            &spec.fraction,
            &spec.seed,
            &spec.model.params_non_embedding(),
            &spec.model.params_embedding(),
            &spec.num_examples,
            &format!("{:.3e}", model.tokens),
            &format!("{:.3e}", model.train_flops),
            &format!("{:.0}", model.memory_bytes / 1e6),
            &beams.join(" "),
        ]));
        let decode: f64 = model.cells.iter().map(|c| c.decode_flops).sum();
        flops += model.train_flops + model.measure_flops + decode * queries as f64;
        cells += model.cells.len();
    }
    table::print(&table::table(&rows, 2))?;
    say!(
        "{} models, {cells} cells, {flops:.2e} FLOPs in training, measuring and decoding: about {:.0} minutes at {:.0} GFLOP/s",
        plan.models.len(),
        flops / assumed_flops_per_sec() / 60.0,
        assumed_flops_per_sec() / 1e9,
    );
    Ok(())
}

/// Progress of a sweep on stderr.
struct Display<'a> {
    plan: &'a Plan,
    bar: Option<(String, Progress)>,
}

impl Display<'_> {
    fn show(&mut self, event: Event) {
        match event {
            Event::Model(place) => {
                self.close();
                let model = &self.plan.models[place];
                eprintln!(
                    "model {} of {}: {} on {} of the data, seed {}",
                    place + 1,
                    self.plan.models.len(),
                    model.name(),
                    model.spec.fraction,
                    model.spec.seed
                );
            }
            Event::Trained(p) => {
                let remark = format!("loss {:.3}, {:.0} tokens/s", p.loss, p.tokens_per_sec);
                self.at("  training".into(), p.step, p.steps, &remark);
            }
            Event::Represented(done, of) => {
                self.at("  representing passages".into(), done as u64, of as u64, "");
            }
            Event::Measured(done, of) => {
                self.at("  contrastive loss".into(), done as u64, of as u64, "");
            }
            Event::Decoded(beam, done, of) => {
                self.at(
                    format!("  decoding, beam {beam}"),
                    done as u64,
                    of as u64,
                    "",
                );
            }
            Event::Waiting(models) => {
                self.close();
                self.at(
                    format!("waiting for {models} models of other processes"),
                    0,
                    models as u64,
                    "",
                );
            }
            Event::Cell(row) => {
                self.close();
                let measures: Vec<String> = row
                    .measures
                    .iter()
                    .flat_map(|(split, m)| {
                        m.iter().map(move |(k, v)| format!("{split} {k} {v:.3}"))
                    })
                    .collect();
                eprintln!(
                    "  beam {:>4}: CGL {:.3}, {}",
                    row.beam,
                    row.cgl,
                    measures.join(", ")
                );
            }
        }
    }

    fn at(&mut self, label: String, done: u64, of: u64, remark: &str) {
        if self.bar.as_ref().is_none_or(|(l, _)| *l != label) {
            self.close();
            self.bar = Some((label.clone(), Progress::new(&label, of)));
        }
        if let Some((_, bar)) = &mut self.bar {
            bar.at(done, remark);
        }
    }

    fn close(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
    }
}
