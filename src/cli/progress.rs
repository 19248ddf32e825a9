//! Progress on stderr: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far a task is.
pub struct Progress {
    bar: ProgressBar,
    label: String,
    total: u64,
    started: Instant,
    printed: Instant,
}

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

impl Progress {
    /// A task of `total` parts.
    pub fn new(label: &str, total: u64) -> Self {
        let bar = ProgressBar::new(total);
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed} left {eta}");
        bar.set_style(style.expect("the template is fixed and valid"));
        bar.set_message(label.to_string());
        let now = Instant::now();
        Self {
            bar,
            label: label.into(),
            total,
            started: now,
            printed: now,
        }
    }

    /// `done` parts are done; `remark` says how it goes.
    pub fn at(&mut self, done: u64, remark: &str) {
        self.bar.set_position(done);
        if self.bar.is_hidden() {
            if self.printed.elapsed() >= LINE_EVERY && done < self.total {
                self.printed = Instant::now();
                let left = self.started.elapsed().as_secs_f64() / done.max(1) as f64
                    * (self.total - done) as f64;
                eprintln!(
                    "{}: {done}/{} {remark}, {left:.0} s left",
                    self.label, self.total
                );
            }
        } else {
            self.bar.set_message(format!("{} {remark}", self.label));
        }
    }

    /// The task is done.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
