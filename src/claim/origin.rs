//! What a claim is made with, beside key and owner: whose lock it is about, and how it is renewed once it is held.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    host::{clock, random},
    metrics::Label,
    types::event::RenewalEvent,
};

/// What a claim is made with.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) origin: Origin,
    pub(crate) renewal: Option<Renewal>,
    pub(crate) label: Label,
}

impl Offer {
    pub(crate) const fn new(origin: Origin, renewal: Option<Renewal>, label: Label) -> Self {
        Self { origin, renewal, label }
    }
}

/// Whose lock a claim is about until it is held: that says what must be undone if it never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The claim's own: whatever it may have taken is given back.
    Own,
    /// Another guard's: nothing is given back before it is adopted.
    Adopted,
}

/// The wish to be renewed.
#[derive(Clone)]
pub(crate) struct Renewal {
    /// How often; `None`: each third of the TTL.
    pub(crate) every: Option<Duration>,
    /// How long the lock may be held by being renewed.
    pub(crate) max_hold: Option<Duration>,
    pub(crate) on_event: Option<OnRenewal>,
    /// By how much of its last tenth an interval is shortened, so that locks taken together spread out.
    lead: f64,
}

/// What is called at each event of a renewed lock.
pub(crate) type OnRenewal = Arc<dyn Fn(&RenewalEvent) + Send + Sync>;

impl Renewal {
    pub(crate) fn new() -> Self {
        Self { every: None, max_hold: None, on_event: None, lead: random::unit() }
    }

    /// When a lock of this TTL that was just extended is renewed next.
    pub(crate) fn next(&self, ttl: Duration) -> Instant {
        // The TTL may be another than the one for which the interval was checked.
        let every = self.every.filter(|every| *every <= longest_interval(ttl));
        let interval = every.unwrap_or(ttl / 3);
        clock::now() + interval - (interval / 10).mul_f64(self.lead)
    }
}

/// The longest interval at which a lock of this TTL may be renewed: a renewal that comes late, or has to be
/// repeated, needs the rest.
pub(crate) fn longest_interval(ttl: Duration) -> Duration {
    ttl.saturating_mul(4) / 5
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { every, max_hold, .. } = self;
        f.debug_struct("Renewal")
            .field("every", every)
            .field("max_hold", max_hold)
            .finish_non_exhaustive()
    }
}
