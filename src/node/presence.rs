//! Whether a node is there, as the log tells it: once when it goes, with the cause, and once when it is back.

use std::{
    fmt::Display,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;

use crate::host::{clock, sync::lock};

/// What was last told of a node.
#[derive(Debug)]
pub(super) struct Presence {
    node: Arc<str>,
    away: Mutex<Option<Away>>,
    /// The same in short, for each reply asks.
    is_away: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Away {
    since: Instant,
    how: Absence,
}

/// How a node is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It does not answer: any answer shows that it is back.
    Silent,
    /// It answers that it cannot do its work: only work that was done shows that it is back.
    Unfit,
}

impl Presence {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self { node, away: Mutex::default(), is_away: AtomicBool::new(false) }
    }

    /// Notes that the node has gone.
    pub(super) fn goes(&self, how: Absence, cause: &dyn Display) {
        let mut away = lock(&self.away);
        if away.is_none() {
            *away = Some(Away { since: clock::now(), how });
            self.is_away.store(true, Ordering::Relaxed);
            tracing::warn!(node = %self.node, %cause, "node unreachable");
        }
    }

    /// Notes an answer; `has_worked`: to a command that takes or keeps a lock.
    pub(super) fn answers(&self, has_worked: impl FnOnce() -> bool) {
        if !self.is_away.load(Ordering::Relaxed) {
            return;
        }
        let mut away = lock(&self.away);
        let is_back = |away: &mut Away| away.how == Absence::Silent || has_worked();
        if let Some(Away { since, .. }) = away.take_if(is_back) {
            self.is_away.store(false, Ordering::Relaxed);
            let away = clock::now().saturating_duration_since(since);
            tracing::info!(node = %self.node, ?away, "node reachable again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_away(presence: &Presence) -> bool {
        lock(&presence.away).is_some()
    }

    #[test]
    fn a_silent_node_is_back_with_any_answer() {
        let presence = Presence::new("a:1".into());
        presence.goes(Absence::Silent, &"no answer");
        assert!(is_away(&presence));
        presence.answers(|| false);
        assert!(!is_away(&presence));
    }

    #[test]
    fn an_unfit_node_is_back_when_it_works() {
        let presence = Presence::new("a:1".into());
        presence.goes(Absence::Unfit, &"read only");
        presence.answers(|| false);
        assert!(is_away(&presence));
        presence.answers(|| true);
        assert!(!is_away(&presence));
    }
}
