//! The signals that are passed on.

use std::{fs, future::poll_fn, io, task::Poll};

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// Signals that are caught, as long as the process lives.
#[derive(Debug)]
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    pub(crate) fn catch(signals: &[Signal]) -> io::Result<Self> {
        let mut caught = Self(Vec::new());
        caught.also_catch(signals)?;
        Ok(caught)
    }

    /// Catches these too, except those that this process was started to ignore, as by `nohup`.
    pub(crate) fn also_catch(&mut self, signals: &[Signal]) -> io::Result<()> {
        let ignored = ignored();
        for signal in signals.iter().filter(|signal| !is_in(ignored, **signal)) {
            let stream = unix::signal(SignalKind::from_raw(signal.as_raw()))?;
            self.0.push((*signal, stream));
        }
        Ok(())
    }

    /// Waits for the next one. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|cx| {
            for (signal, stream) in &mut self.0 {
                if stream.poll_recv(cx).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// One bit for each signal that this process ignores, as far as the system tells.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn is_in(mask: u64, signal: Signal) -> bool {
    mask & (1 << (signal.as_raw() - 1)) != 0
}

/// What asks a command to end, or tells it something.
pub(crate) const PASSED_ON: &[Signal] =
    &[Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// What would suspend us.
pub(crate) const SUSPENDING: &[Signal] = &[Signal::TSTP];
