//! A line: one connection to a node, and the queue of what waits on it. Lanes outlive their lines.

use std::{
    fmt,
    future::Future,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, Value};
use smallvec::smallvec;
use tokio::{
    task::unconstrained,
    time::{Instant, timeout},
};

use super::transport::{Replies, Transport};
use crate::{
    host::{clock, sync::lock},
    types::few::Few,
};

/// One connection of a lane.
pub(crate) struct Line {
    wire: Transport,
    /// Until then the node, which has restarted, must not vote.
    quarantined_until: Option<Instant>,
    /// The lines before it that came to nothing; forgotten once this one has proved useful.
    failures: AtomicU32,
    /// Commands in a row that got no answer in time.
    timeouts: AtomicU32,
    /// When something was last heard on it.
    heard: Mutex<Instant>,
    /// The user may announce releases, as far as that is known.
    announces: AtomicBool,
    /// The server has run a release that came down this line, so that it knows the script.
    knows_release: AtomicBool,
    /// No longer the lane's: only undos of what was sent on it still go out here.
    retired: AtomicBool,
}

impl Line {
    pub(in crate::node) fn new(
        wire: Transport,
        failures: u32,
        quarantined_until: Option<Instant>,
    ) -> Self {
        let (failures, timeouts) = (AtomicU32::new(failures), AtomicU32::new(0));
        let (heard, announces) = (Mutex::new(clock::now()), AtomicBool::new(true));
        let [knows_release, retired] = [false; 2].map(AtomicBool::new);
        Self {
            wire,
            quarantined_until,
            failures,
            timeouts,
            heard,
            announces,
            knows_release,
            retired,
        }
    }

    /// How long the node must not vote yet.
    pub(in crate::node) fn quarantine(&self) -> Option<Duration> {
        let left = self.quarantined_until?.checked_duration_since(Instant::now());
        left.filter(|left| !left.is_zero())
    }

    /// Sends commands in one write. They take their place in the connection's order at the first poll.
    pub(in crate::node) fn send(
        &self,
        mut cmds: Few<Cmd>,
    ) -> impl Future<Output = Replies> + Send + use<> {
        let mut wire = self.wire.clone();
        async move {
            if cmds.len() == 1
                && let Some(cmd) = cmds.pop()
            {
                return match wire.send_one(&cmd).await {
                    // The server's own errors belong to the command, not to the connection.
                    Err(error) if error.code().is_none() => Err(error),
                    reply => Ok(smallvec![reply.and_then(Value::extract_error)]),
                };
            }
            // Boxed, since it is large and rarer than one command.
            Box::pin(wire.send_all(cmds)).await
        }
    }

    /// Whether this is a way to many servers, each of which may fail by itself.
    pub(in crate::node) const fn is_to_cluster(&self) -> bool {
        self.wire.is_to_cluster()
    }

    /// Whether nothing was heard on it for so long that it may have died without a word: whatever lies between
    /// forgets connections that are idle. A cluster's connection is many, of which no one proof would tell.
    pub(in crate::node) fn is_doubtful(&self) -> bool {
        let longest = self.wire.longest_silence();
        longest.is_some_and(|longest| {
            clock::now().saturating_duration_since(*lock(&self.heard)) > longest
        })
    }

    /// Whether the line is alive: asks the server for a sign, and waits for it or the end of the line.
    pub(in crate::node) async fn proves(&self) -> bool {
        let mut wire = self.wire.clone();
        let reply = wire.send_one(&redis::cmd("PING")).await;
        // An error of the server's is a sign too.
        let is_alive = reply.map_or_else(|error| error.code().is_some(), |_| true);
        if is_alive {
            self.replied(false);
        }
        is_alive && !self.is_retired()
    }

    /// Sends an undo that nothing can hold back, and waits until the node has run it or `patience` is over:
    /// the connection must not end before it is on its way. Returns whether there is no more to do here.
    pub(in crate::node) async fn undo(&self, undo: &Cmd, patience: Duration) -> bool {
        let mut wire = self.wire.clone();
        let mut is_sent = false;
        let through = async {
            let sent = unconstrained(wire.send_one(undo)).await;
            is_sent = true;
            sent?;
            wire.send_one(&redis::cmd("PING")).await
        };
        // Nothing can be done about a line that is broken: the key there ends with its TTL.
        let _through = timeout(patience, through).await;
        is_sent
    }

    /// Notes a reply; `useful`: from a node that does its work.
    pub(in crate::node) fn replied(&self, useful: bool) {
        self.timeouts.store(0, Ordering::Relaxed);
        *lock(&self.heard) = clock::now();
        if useful {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that a command got no answer in time. Returns how many have in a row.
    pub(in crate::node) fn timed_out(&self) -> u32 {
        self.timeouts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many lines before it came to nothing.
    pub(in crate::node) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether a release is to be announced here.
    pub(in crate::node) fn announces(&self) -> bool {
        self.announces.load(Ordering::Relaxed)
    }

    /// Notes that the user may not announce releases: each further try would only be one more line in the
    /// server's log of refusals.
    pub(in crate::node) fn announces_no_more(&self) {
        self.announces.store(false, Ordering::Relaxed);
    }

    /// Whether the server knows the script that releases, as far as that is known.
    pub(in crate::node) fn knows_release(&self) -> bool {
        self.knows_release.load(Ordering::Relaxed)
    }

    /// Notes that the server has run a release.
    pub(in crate::node) fn has_released(&self) {
        self.knows_release.store(true, Ordering::Relaxed);
    }

    /// Takes the line out of use. Returns how many lines before it came to nothing.
    pub(in crate::node) fn retire(&self) -> u32 {
        self.retired.store(true, Ordering::SeqCst);
        self.failures()
    }

    pub(in crate::node) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("retired", &self.retired).finish_non_exhaustive()
    }
}
