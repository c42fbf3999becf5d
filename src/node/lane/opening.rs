//! Opening a line, or proving that the one there is still lives.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    Shared,
    line::Line,
    state::{State, Step},
};
use crate::host::{sync::lock, tasks};
use crate::node::{failure::Failure, presence::Absence};

impl Shared {
    /// Opens a line if there is none and the back-off is over.
    pub(super) fn reopen(self: &Arc<Self>) {
        let step = lock(&self.state).step(false);
        if let Ok(Step::Connect(failures, doubted)) = step {
            self.connect(failures, doubted);
        }
    }

    /// Opens a line, unless the doubted one proves alive, on the background's runtime, which may be that of whoever
    /// asks. If that runtime ends, so does the line, and the next call opens another on its own.
    pub(super) fn connect(self: &Arc<Self>, failures: u32, doubted: Option<Arc<Line>>) {
        let mut opening = Opening { lane: self.clone(), failures, doubted, opened: None };
        let Some(runtime) = self.background.runtime() else {
            opening.opened = Some(Err(Failure::NoRuntime));
            return;
        };
        tasks::spawn(&runtime, async move {
            let (lane, doubted) = (opening.lane.clone(), opening.doubted.clone());
            let patience = lane.source.patience(lane.node_timeout);
            let opened = timeout(patience, lane.prove_or_open(doubted, failures)).await;
            opening.opened = Some(opened.unwrap_or_else(|_| Err(Failure::TimedOut(patience))));
            drop(opening);
        });
    }

    /// Has the doubted line prove that it is alive. If it does not soon, another is opened beside it, and the
    /// first to answer is used: a server that is merely slow keeps its line, and a dead line costs a part of the
    /// node timeout. Nothing of a lock's goes out before: what must not be overtaken cannot be.
    async fn prove_or_open(
        &self,
        doubted: Option<Arc<Line>>,
        failures: u32,
    ) -> Result<Arc<Line>, Failure> {
        let Some(doubted) = doubted else { return self.open_line(failures).await.map(Arc::new) };
        let soon = LONGEST_PROOF.min(self.node_timeout / 4);
        let mut proof = pin!(doubted.proves());
        match timeout(soon, &mut proof).await {
            Ok(true) => return Ok(doubted.clone()),
            Ok(false) => return self.open_line(failures).await.map(Arc::new),
            Err(_elapsed) => {}
        }
        tokio::select! {
            biased;
            true = &mut proof => Ok(doubted.clone()),
            opened = self.open_line(failures) => opened.map(Arc::new),
        }
    }

    async fn open_line(&self, failures: u32) -> Result<Line, Failure> {
        let mut wire = self.source.connect(&self.stranger, self.node_timeout).await?;
        self.database.found(wire.database());
        let quarantined_until = match self.quarantine {
            Some(length) => {
                let uptime = wire.uptime().await?;
                // From the answer on: when the server read its uptime nobody knows.
                length.checked_sub(uptime).map(|left| Instant::now() + left)
            }
            None => None,
        };
        Ok(Line::new(wire, failures, quarantined_until))
    }
}

/// A connect under way. Its end tells the lane, also if the runtime ends first.
struct Opening {
    lane: Arc<Shared>,
    failures: u32,
    /// The line that is given up unless it proves alive.
    doubted: Option<Arc<Line>>,
    opened: Option<Result<Arc<Line>, Failure>>,
}

impl Opening {
    /// Takes the doubted line out of use, unless it is the one that is used from now on. What is unanswered on
    /// it is undone there, and nothing can be queued on it meanwhile.
    fn give_up_doubted(&self, used: Option<&Arc<Line>>) {
        let doubted = self.doubted.iter();
        let given_up =
            { doubted }.find(|doubted| used.is_none_or(|used| !Arc::ptr_eq(doubted, used)));
        if let Some(line) = given_up {
            tracing::debug!(node = %self.lane.name, "connection died in silence");
            line.retire();
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let since = Instant::now();
        let state = match self.opened.take() {
            Some(Ok(line)) => {
                self.give_up_doubted(Some(&line));
                State::Up(line)
            }
            Some(Err(cause)) => {
                self.give_up_doubted(None);
                tracing::debug!(node = %self.lane.name, %cause, "connecting failed");
                self.lane.presence.goes(Absence::Silent, &cause);
                State::Down { failures: self.failures.saturating_add(1), since, cause }
            }
            // Nothing is known of it: the next call asks on its own runtime.
            None => match self.doubted.take().filter(|line| !line.is_retired()) {
                Some(line) => State::Up(line),
                None => State::Down { failures: 0, since, cause: Failure::NotConnected },
            },
        };
        let is_up = matches!(state, State::Up(_));
        *lock(&self.lane.state) = state;
        self.lane.changed.notify_waiters();
        if is_up {
            (self.lane.recovered)();
        }
    }
}

/// How long a line that is doubted may take to prove alive before another is opened beside it; with a shorter
/// node timeout a quarter of that, which leaves time to connect and to ask.
const LONGEST_PROOF: Duration = Duration::from_secs(1);
