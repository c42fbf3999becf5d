//! What waits before it can take its place in the order.

use std::{pin::pin, sync::Mutex, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{
    host::sync::lock,
    node::{command::Command, send_log::SendLog},
};

/// How a call stands to the order of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A release: what is asked after it must not go before it.
    Release,
    /// An acquire, which lets releases go first that came before it and wait.
    Acquire,
    /// Anything else, which neither waits nor is waited for: renewals must not depend on anybody's future.
    Any,
}

/// The releases that wait for a line, or for room on it. Until they have taken their places no acquire takes any: what
/// is asked after a drop stays behind it, also where the connection had to be proved or opened first.
///
/// It is the future of the release that gives the place back, and somebody may leave that unpolled. So nobody waits for
/// long.
#[derive(Debug)]
pub(super) struct HeldUp {
    patience: Duration,
    /// How many there are, and since when the first of them waits.
    waiting: Mutex<(usize, Option<Instant>)>,
    changed: Notify,
}

/// One release that waits.
pub(super) struct Waits<'a>(&'a HeldUp);

impl HeldUp {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, waiting: Mutex::default(), changed: Notify::new() }
    }

    /// Waits from here on.
    pub(super) fn enter(&self) -> Waits<'_> {
        let mut waiting = lock(&self.waiting);
        waiting.0 += 1;
        waiting.1.get_or_insert_with(Instant::now);
        Waits(self)
    }

    /// Whether there is one for which an acquire waits.
    fn is_any(&self) -> bool {
        let (count, since) = *lock(&self.waiting);
        count > 0 && since.is_some_and(|since| since.elapsed() < self.patience)
    }

    /// Waits until there is none.
    pub(super) async fn passed(&self) {
        while self.is_any() {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_any() {
                // Whether it was woken or has lost its patience is asked next.
                let _woken = timeout(self.patience, changed).await;
            }
        }
    }
}

impl Turn {
    pub(super) fn of(items: &[(&SendLog, Command)]) -> Self {
        let are = |kind: fn(&Command) -> bool| items.iter().all(|(_, command)| kind(command));
        if are(|command| matches!(command, Command::Release { .. })) {
            Self::Release
        } else if are(|command| matches!(command, Command::Acquire { .. })) {
            Self::Acquire
        } else {
            Self::Any
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.0.waiting);
        waiting.0 -= 1;
        if waiting.0 > 0 {
            return;
        }
        waiting.1 = None;
        drop(waiting);
        self.0.changed.notify_waiters();
    }
}
