//! What happened in a schedule: when, who, what.

use std::{fmt::Display, sync::Mutex, time::Duration};

use super::process::now;
use crate::host::sync::lock;

/// Whether a schedule's trace is written down: that takes longer than all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracing {
    On,
    Off,
}

#[derive(Debug)]
pub(super) struct Trace {
    tracing: Tracing,
    start: tokio::time::Instant,
    lines: Mutex<Vec<String>>,
}

impl Trace {
    pub(super) fn start(tracing: Tracing) -> Self {
        Self { tracing, start: now(), lines: Mutex::default() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        now() - self.start
    }

    pub(super) fn note(&self, who: impl Display, what: impl Display) {
        if self.tracing == Tracing::Off {
            return;
        }
        let at = self.elapsed().as_secs_f64() * 1e3;
        lock(&self.lines).push(format!("{at:>12.3} ms  {who:<9} {what}"));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }
}
