//! Who works on which model: claims in a folder that many machines may share.
//!
//! A claim is a file that comes into being with its whole content by one hard link, which exactly one of
//! many succeeds in on local and network file systems alike; nothing is ever locked. Its owner writes it
//! anew every few seconds with a higher count and with what it is doing. A claim is taken over when its owner is
//! known to be dead (a process of this machine that is gone, an earlier life of the same cluster task), or when the
//! count has stood still for `stale_secs` by the clock of whoever waits, so that no two clocks are compared.
//! The one who takes over moves the file away first, which again only one succeeds in. An owner that finds
//! its claim in other hands stops. Even a double owner does no harm to results: rows are written whole and
//! are the same.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::SweepError;
use crate::atomic_file;

/// A process, so that no other is mistaken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Name of the machine, with the namespace of process ids where there are several.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// When the process started, in the machine's own count; 0 where it does not say.
    pub started: u64,
    /// The cluster's name of the task, which outlives the process when the task is queued again.
    pub task: Option<String>,
}

impl Owner {
    /// This process; `task` is the cluster's name of it, if there is one.
    pub fn this_process(task: Option<String>) -> Self {
        let pid = std::process::id();
        // Where these files are absent, claims of dead processes are found by their silence.
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            host: format!("{} {}", name.trim(), namespace.display()),
            pid,
            started: start_of(pid).unwrap_or(0),
            task,
        }
    }

    /// Whether that process is known to have ended.
    fn is_dead(&self, me: &Owner) -> bool {
        if self.task.is_some() && self.task == me.task {
            return *self != *me;
        }
        let comparable = self.host == me.host && self.started != 0 && me.started != 0;
        comparable && start_of(self.pid) != Some(self.started)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.host.split(' ').next().unwrap_or_default();
        match &self.task {
            Some(task) => write!(f, "{host} task {task}"),
            None => write!(f, "{host} process {}", self.pid),
        }
    }
}

/// When process `pid` of this machine started, in clock ticks since it was switched on.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything; the 22nd is the start.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // A zombie has ended, though nobody has asked how.
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// What an owner is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Doing {
    /// `training`, `contrastive loss` or `decoding`.
    pub stage: String,
    /// Beam width, in decoding.
    pub beam: Option<u64>,
    /// Parts of the stage that are done.
    pub done: u64,
    /// Parts of the stage.
    pub of: u64,
    /// Parts that were done when this process began with the stage.
    pub from: u64,
    /// Seconds since then.
    pub secs: f64,
}

impl Doing {
    /// Seconds until the stage is done, at its pace so far.
    pub fn secs_left(&self) -> Option<f64> {
        let done = self.done.checked_sub(self.from).filter(|d| *d > 0)?;
        Some(self.secs / done as f64 * self.of.saturating_sub(self.done) as f64)
    }
}

/// The content of a claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Who has the model.
    pub owner: Owner,
    /// Grows with every sign of life.
    pub count: u64,
    /// What the owner is doing.
    pub doing: Doing,
}

/// The claims of one folder, as one process sees them.
pub struct Claims {
    folder: PathBuf,
    owner: Owner,
    stale: Duration,
    /// What was last read of the claims of others, and when it was first read so.
    seen: BTreeMap<String, (String, Instant)>,
}

impl Claims {
    /// The claims below `out`.
    pub fn new(out: &Path, owner: Owner, stale_secs: f64) -> Self {
        Self {
            folder: out.join("claims"),
            owner,
            stale: Duration::from_secs_f64(stale_secs),
            seen: BTreeMap::new(),
        }
    }

    /// Takes `model` unless somebody alive has it.
    pub fn take(&mut self, model: &str) -> Result<Option<Claim>, SweepError> {
        fs::create_dir_all(&self.folder).map_err(SweepError::io(&self.folder))?;
        let path = self.folder.join(model);
        let beat = Beat {
            owner: self.owner.clone(),
            count: 0,
            doing: Doing::default(),
        };
        if !create_whole(&path, &text(&beat)).map_err(SweepError::io(&path))? {
            let Some(found) = read(&path).map_err(SweepError::io(&path))? else {
                return Ok(None); // It was just given back: the next round takes it.
            };
            if !self.is_abandoned(model, &found) {
                return Ok(None);
            }
            if !take_away(&path, &found).map_err(SweepError::io(&path))?
                || !create_whole(&path, &text(&beat)).map_err(SweepError::io(&path))?
            {
                return Ok(None);
            }
        }
        self.seen.remove(model);
        let every = (self.stale / 10).min(Duration::from_secs(5));
        Ok(Some(Claim::keep(path, model, beat, every)))
    }

    /// Whether whoever wrote `found` is dead or has been silent for too long.
    fn is_abandoned(&mut self, model: &str, found: &str) -> bool {
        if let Ok(beat) = serde_json::from_str::<Beat>(found)
            && beat.owner.is_dead(&self.owner)
        {
            return true;
        }
        let now = Instant::now();
        match self.seen.get(model) {
            Some((last, since)) if last == found => now.duration_since(*since) >= self.stale,
            _ => {
                self.seen.insert(model.into(), (found.into(), now));
                false
            }
        }
    }
}

fn text(beat: &Beat) -> String {
    serde_json::to_string(beat).expect("a claim holds numbers and text only")
}

/// The text of a file, `None` if it does not exist.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// A name beside `path` that nobody else uses.
fn beside(path: &Path, what: &str) -> PathBuf {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}-{}-{nanos:x}", std::process::id()))
}

/// Creates `path` with its content unless it exists; true if it was created.
fn create_whole(path: &Path, content: &str) -> io::Result<bool> {
    let own = beside(path, "new");
    fs::write(&own, content)?;
    let linked = fs::hard_link(&own, path);
    // The answer to a link may be lost on a network; the number of links tells what happened.
    let created = fs::metadata(&own).map(|m| m.nlink() == 2);
    fs::remove_file(&own)?;
    match linked {
        Ok(()) => Ok(true),
        Err(_) if created.as_ref().is_ok_and(|yes| *yes) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// Moves a claim away if it still is what was `found`; true if this call did it.
fn take_away(path: &Path, found: &str) -> io::Result<bool> {
    let aside = beside(path, "old");
    match fs::rename(path, &aside) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    }
    let same = fs::read_to_string(&aside)? == found;
    if !same {
        // Its owner came back to life between the two: it keeps the claim, unless it is free again.
        match fs::hard_link(&aside, path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    fs::remove_file(&aside)?;
    Ok(same)
}

/// A model that this process has; dropping it gives it back.
pub struct Claim {
    path: PathBuf,
    model: String,
    shared: Arc<Mutex<State>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    beat: Beat,
    stage_began: Instant,
    lost_to: Option<String>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic elsewhere leaves plain numbers that are still true.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claim {
    /// Keeps the claim at `path` alive until it is dropped.
    fn keep(path: PathBuf, model: &str, beat: Beat, every: Duration) -> Self {
        let shared = Arc::new(Mutex::new(State {
            beat,
            stage_began: Instant::now(),
            lost_to: None,
        }));
        let (stop, stopped) = channel();
        let (state, file) = (Arc::clone(&shared), path.clone());
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                if !beat_once(&file, &state) {
                    break;
                }
            }
        });
        Self {
            path,
            model: model.into(),
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Says how far a stage is.
    pub fn tell(&self, stage: &str, beam: Option<u64>, done: u64, of: u64) {
        let mut state = lock(&self.shared);
        let new = state.beat.doing.stage != stage || state.beat.doing.beam != beam;
        if new {
            state.stage_began = Instant::now();
        }
        let secs = state.stage_began.elapsed().as_secs_f64();
        let from = if new { done } else { state.beat.doing.from };
        state.beat.doing = Doing {
            stage: stage.into(),
            beam,
            done,
            of,
            from,
            secs,
        };
    }

    /// An error if the claim was taken over.
    pub fn check(&self) -> Result<(), SweepError> {
        match &lock(&self.shared).lost_to {
            Some(by) => Err(SweepError::TakenOver {
                model: self.model.clone(),
                by: by.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Writes a sign of life; false if the claim is in other hands.
fn beat_once(path: &Path, state: &Mutex<State>) -> bool {
    let mine = lock(state).beat.owner.clone();
    // A file system that fails for a while is no reason to stop: silence is judged by the others.
    let Ok(found) = read(path) else { return true };
    let holder = found.and_then(|text| serde_json::from_str::<Beat>(&text).ok());
    match holder {
        Some(beat) if beat.owner == mine => {}
        other => {
            let by = other.map_or("nobody".into(), |beat| beat.owner.to_string());
            lock(state).lost_to = Some(by);
            return false;
        }
    }
    let content = {
        let mut state = lock(state);
        state.beat.count += 1;
        text(&state.beat)
    };
    let _ = atomic_file::write(path, |file| io::Write::write_all(file, content.as_bytes()));
    true
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the heart-beat ends as silence, which the others judge.
            let _ = thread.join();
        }
        if lock(&self.shared).lost_to.is_none() {
            // A claim that cannot be removed is found abandoned by the next process.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// All claims below `out` with the seconds since their last sign of life, by the clocks of this machine and of
/// the file system.
pub fn read_claims(out: &Path) -> Result<BTreeMap<String, (Beat, f64)>, SweepError> {
    let folder = out.join("claims");
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.map_err(SweepError::io(&folder))?,
    };
    let mut claims = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(SweepError::io(&folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        // A claim may be given back while the folder is read.
        let Some(content) = read(&entry.path()).map_err(SweepError::io(&entry.path()))? else {
            continue;
        };
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .map(|t| t.elapsed().map_or(0.0, |age| age.as_secs_f64()));
        if let (Ok(beat), Ok(age)) = (serde_json::from_str(&content), age) {
            claims.insert(name, (beat, age));
        }
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("genret-claims-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn somebody(host: &str, task: Option<&str>) -> Owner {
        Owner {
            host: host.into(),
            pid: 7,
            started: 11,
            task: task.map(String::from),
        }
    }

    #[test]
    fn one_of_many_gets_a_model_and_gives_it_back() {
        let out = folder("many");
        let takers = 16;
        let held: Vec<Option<Claim>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..takers)
                .map(|i| {
                    let out = &out;
                    scope.spawn(move || {
                        let owner = somebody(&format!("host{i}"), None);
                        Claims::new(out, owner, 60.0).take("m").unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(held.iter().flatten().count(), 1);
        assert_eq!(read_claims(&out).unwrap().len(), 1);
        drop(held);
        assert!(read_claims(&out).unwrap().is_empty());
        assert_eq!(fs::read_dir(out.join("claims")).unwrap().count(), 0);
        fs::remove_dir_all(&out).unwrap();
    }

    #[test]
    fn silence_is_taken_over_once_and_the_old_owner_learns_of_it() {
        let out = folder("silence");
        let mut first = Claims::new(&out, somebody("a", None), 1e6);
        let held = first.take("m").unwrap().unwrap();
        let mut second = Claims::new(&out, somebody("b", None), 0.05);
        assert!(second.take("m").unwrap().is_none());
        std::thread::sleep(Duration::from_millis(80));
        let taken = second.take("m").unwrap().expect("it was silent for long");
        // The first owner's next sign of life finds the claim in other hands.
        assert!(!beat_once(&held.path, &held.shared));
        let error = held.check().unwrap_err().to_string();
        assert!(error.contains("taken over by b process 7"), "{error}");
        drop(held);
        assert!(taken.check().is_ok() && read_claims(&out).unwrap().contains_key("m"));
        drop(taken);
        fs::remove_dir_all(&out).unwrap();
    }

    #[test]
    fn signs_of_life_keep_a_claim() {
        let out = folder("life");
        let held = Claims::new(&out, somebody("a", None), 1.0)
            .take("m")
            .unwrap()
            .unwrap();
        held.tell("training", None, 3, 9);
        let mut other = Claims::new(&out, somebody("b", None), 1.0);
        for _ in 0..20 {
            assert!(other.take("m").unwrap().is_none());
            std::thread::sleep(Duration::from_millis(100));
        }
        let (beat, _) = &read_claims(&out).unwrap()["m"];
        assert!(beat.count > 3 && beat.doing.stage == "training" && beat.doing.done == 3);
        drop(held);
        fs::remove_dir_all(&out).unwrap();
    }

    #[test]
    fn the_dead_are_known_at_once() {
        let out = folder("dead");
        let me = Owner::this_process(None);
        let mut gone = me.clone();
        gone.started += 1;
        assert!(gone.is_dead(&me) && !me.is_dead(&me));
        let elsewhere = somebody("elsewhere", None);
        assert!(!elsewhere.is_dead(&me));
        // The same task, queued again, on another machine.
        let task = somebody("elsewhere", Some("12_3"));
        let mut again = me.clone();
        again.task = Some("12_3".into());
        assert!(task.is_dead(&again));
        again.task = Some("12_4".into());
        assert!(!task.is_dead(&again));
        std::mem::forget(Claims::new(&out, gone, 1e6).take("m").unwrap());
        assert!(Claims::new(&out, me, 1e6).take("m").unwrap().is_some());
        fs::remove_dir_all(&out).unwrap();
    }
}
