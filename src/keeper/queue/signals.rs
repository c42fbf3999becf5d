//! Signals: what was heard of a key, and what is worth a look.

use tokio::time::Instant;

/// How much was heard of a key so far: whoever keeps a copy can tell whether there is more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    /// Locks that were released.
    pub(super) releases: u64,
    /// Notices worth a look: one release may be told by several nodes.
    pub(super) notices: u64,
    /// Reasons to look because something may have been missed.
    pub(super) doubts: u64,
    /// Connections to nodes that were opened.
    pub(super) recoveries: u64,
}

impl Signals {
    pub(super) fn is_worth_a_look(self, seen: Self, wake_on: WakeOn) -> bool {
        let is_notice = self.notices > seen.notices;
        let is_doubt = self.doubts > seen.doubts;
        match wake_on {
            WakeOn::Notices => is_notice,
            WakeOn::Doubts => is_notice || is_doubt,
            WakeOn::Releases => self.releases > seen.releases || is_doubt,
            WakeOn::Recoveries => is_notice || self.recoveries > seen.recoveries,
        }
    }

    pub(crate) const fn has_notice_since(self, seen: Self) -> bool {
        self.notices > seen.notices
    }

    /// The same, with the recoveries of `later`.
    pub(crate) const fn with_recoveries_of(self, later: Self) -> Self {
        Self { recoveries: later.recoveries, ..self }
    }
}

/// What a waiter looks again for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeOn {
    /// Notices alone: whoever counts attempts makes none for a mere doubt.
    Notices,
    /// Also the doubt that something was missed.
    Doubts,
    /// As [`Doubts`](Self::Doubts), but what is told again of a release that is known is no news.
    Releases,
    /// Notices, and connections to nodes that were opened.
    Recoveries,
}

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// To be the head of the queue.
    Turn,
    /// Signals that were not seen and is worth a look.
    Signals { seen: Signals, wake_on: WakeOn },
}

/// What is known of the lock's holder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalHolder {
    /// When its lock ends at the latest, if nobody extends it.
    pub(crate) until: Instant,
    /// What had been heard when it took the lock.
    pub(crate) seen: Signals,
}
