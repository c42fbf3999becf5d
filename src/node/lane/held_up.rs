//! What waits for a line before it can take its place in the order.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How many releases wait for a line. Until they have taken their places, nothing that claims takes any: what is asked
/// after a drop stays behind the release, also where the connection had to be proved or opened first.
#[derive(Debug, Default)]
pub(super) struct HeldUp(AtomicUsize);

/// One release that waits.
pub(super) struct Waits<'a> {
    held_up: &'a HeldUp,
    changed: &'a Notify,
}

impl HeldUp {
    /// Waits from here on; `changed` is told when the last has gone.
    pub(super) fn enter<'a>(&'a self, changed: &'a Notify) -> Waits<'a> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Waits { held_up: self, changed }
    }

    pub(super) fn is_any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if self.held_up.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.changed.notify_waiters();
        }
    }
}
