//! Signals that ask a long run to save its state and end.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGTERM, SIGUSR1};

/// Exit code of a run that was asked to stop and did: its state is saved, the same command goes on.
/// The number is EX_TEMPFAIL of sysexits.h.
pub const STOPPED: u8 = 75;

/// Whether SIGTERM or SIGUSR1 has come since [`Stop::listen`].
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on the two signals no longer end the process but are remembered.
    pub fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGUSR1] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .context("listening for signals")?;
        }
        Ok(Self(flag))
    }

    /// A break once a signal has come.
    pub fn asked(&self) -> ControlFlow<()> {
        if self.0.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}
