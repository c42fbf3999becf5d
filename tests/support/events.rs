//! What a watchdog reports, kept for the test to look at.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redlatch::{LossReason, RenewalEvent};
use tokio::time::Instant;

use super::drive::eventually;

/// One event, copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Renewed { key: String, valid_until: Instant },
    Failed { key: String, nodes: Vec<String>, remaining: Duration },
    Stopped { key: String, valid_until: Instant },
    Lost { key: String, reason: LossReason },
}

/// Collects the events of one guard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<Seen>>>);

impl Events {
    /// The callback for `on_renewal`.
    pub(crate) fn listener(&self) -> impl Fn(&RenewalEvent) + Send + Sync + 'static {
        let events = self.clone();
        move |event| events.lock().push(copy(event))
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    pub(crate) fn renewals(&self) -> usize {
        self.count(|event| matches!(event, Seen::Renewed { .. }))
    }

    pub(crate) fn failures(&self) -> usize {
        self.count(|event| matches!(event, Seen::Failed { .. }))
    }

    pub(crate) fn losses(&self) -> Vec<LossReason> {
        let all = self.all().into_iter();
        all.filter_map(|event| match event {
            Seen::Lost { reason, .. } => Some(reason),
            _ => None,
        })
        .collect()
    }

    /// Waits for this many more renewals.
    pub(crate) async fn more_renewals(&self, more: usize) {
        let enough = self.renewals() + more;
        eventually("more renewals", async || self.renewals() >= enough).await;
    }

    fn count(&self, matching: impl Fn(&Seen) -> bool) -> usize {
        self.lock().iter().filter(|event| matching(event)).count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn copy(event: &RenewalEvent) -> Seen {
    match event {
        RenewalEvent::Renewed { key, valid_until, .. } => {
            Seen::Renewed { key: key.to_string(), valid_until: *valid_until }
        }
        RenewalEvent::Failed { key, error, remaining, .. } => Seen::Failed {
            key: key.to_string(),
            nodes: error.node_errors().iter().map(|node| node.node().to_owned()).collect(),
            remaining: *remaining,
        },
        RenewalEvent::Stopped { key, valid_until, .. } => {
            Seen::Stopped { key: key.to_string(), valid_until: *valid_until }
        }
        RenewalEvent::Lost { key, reason, .. } => {
            Seen::Lost { key: key.to_string(), reason: *reason }
        }
        other => panic!("an unknown event: {other:?}"),
    }
}
