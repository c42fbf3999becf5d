//! Watching over a command and its lock.

use std::{pin::pin, time::Duration};

use redlatch::{LockGuard, LossReason};
use rustix::process::Signal;
use tokio::{
    select,
    time::{Instant, sleep},
};

use crate::{
    child::{Change, Child},
    event::{Event, Reason},
    reporter::Reporter,
    signals::Signals,
    terminal::Terminal,
    text,
};

/// A command that runs under a lock.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    pub(crate) guard: &'a LockGuard,
    pub(crate) child: Child,
    pub(crate) grace: Duration,
    pub(crate) terminal: Terminal,
    pub(crate) reporter: &'a Reporter,
    /// The command was stopped because it wants the terminal.
    pub(crate) needs_terminal: bool,
}

/// How it came out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// The command ended by itself.
    Exited { code: u8 },
    /// It was ended, because the lock was about to be lost.
    Lost,
}

impl Watch<'_> {
    /// Watches until nothing of the command is left. Signals are passed on, also of those that handle jobs.
    pub(crate) async fn over(mut self, signals: &mut Signals) -> Outcome {
        if Terminal::is_interactive() {
            self.lend_terminal();
        }
        let guard = self.guard;
        let (mut lost, mut ending) = (pin!(guard.lost()), pin!(guard.warn_before(self.grace)));
        let reason = loop {
            select! {
                biased;
                change = self.child.change() => match change {
                    Change::Exited { code } => return self.exited(code).await,
                    Change::Stopped { signal } => self.stopped(signal),
                },
                reason = &mut lost => break match reason {
                    LossReason::Taken => Reason::Taken,
                    _ => Reason::Expired,
                },
                () = &mut ending => break Reason::NotRenewed,
                signal = signals.next() => self.pass_on(signal),
                // Nothing tells that we are in the foreground by now.
                () = sleep(LOOK_EVERY), if self.needs_terminal => self.lend_terminal(),
            }
        };
        self.end(reason).await;
        Outcome::Lost
    }

    /// Ends what the command has left running: nothing protects it any longer.
    async fn exited(mut self, code: u8) -> Outcome {
        self.terminal.take_back();
        if self.child.is_there() {
            self.reporter.say(&Event::EndingLeftovers { key: self.key() });
            self.end_group().await;
        }
        Outcome::Exited { code }
    }

    async fn end(mut self, reason: Reason) {
        let (key, known) = (self.key(), self.guard.valid_until());
        let remaining_ms = text::millis(self.guard.remaining());
        self.reporter.say(&Event::Ending { key: key.clone(), reason, remaining_ms });
        self.end_group().await;
        self.terminal.take_back();
        let remaining_ms = text::millis(self.guard.remaining());
        self.reporter.say(&Event::Ended { key: key.clone(), remaining_ms });
        if self.guard.is_valid() && self.guard.valid_until() > known {
            self.reporter.say(&Event::RenewedTooLate { key });
        }
    }

    /// Ends the whole group, in time for it to be gone before the lock is.
    async fn end_group(&self) {
        let last = self.guard.valid_until().checked_sub(reserve(self.grace));
        let now = Instant::now();
        // What was taken away may be somebody else's by now.
        let farewell = if self.guard.is_valid() { self.grace } else { reserve(self.grace) };
        let kill_at = last.map_or(now, |last| last.min(now + farewell));
        if !self.child.end(kill_at).await {
            self.reporter.say(&Event::NotKilled { key: self.key() });
        }
    }

    fn pass_on(&mut self, signal: Signal) {
        match signal {
            // To stop would be to leave the command without anybody who ends it in time.
            Signal::TSTP => self.reporter.say(&Event::NotSuspended { key: self.key() }),
            signal => self.child.signal(signal),
        }
    }

    fn stopped(&mut self, signal: i32) {
        if signal == Signal::TSTP.as_raw() {
            self.child.signal(Signal::CONT);
            self.reporter.say(&Event::NotSuspended { key: self.key() });
        } else if [Signal::TTIN, Signal::TTOU].map(Signal::as_raw).contains(&signal) {
            self.needs_terminal = true;
            self.lend_terminal();
            if self.needs_terminal {
                self.reporter.say(&Event::NeedsTerminal { key: self.key() });
            }
        }
    }

    /// Gives the command the terminal, if we have it, and lets it go on if it was stopped for want of it.
    fn lend_terminal(&mut self) {
        if self.terminal.lend(self.child.group()) {
            self.child.signal(Signal::CONT);
            self.needs_terminal = false;
        }
    }

    fn key(&self) -> String {
        self.guard.key().to_owned()
    }
}

/// How long before the lock's end what has not ended is killed.
fn reserve(grace: Duration) -> Duration {
    (grace / 4).min(Duration::from_secs(1))
}

/// How often to look whether there is a terminal to give.
const LOOK_EVERY: Duration = Duration::from_millis(200);
