//! A line: one connection to a node, and the queue of what waits on it. Lanes outlive their lines.

use std::{
    fmt,
    future::Future,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use deadpool_redis::redis::{self, Cmd, Pipeline, RedisError, Value};
use tokio::{task::unconstrained, time::timeout};

use super::redis::Wire;

/// One connection of a lane.
pub(crate) struct Line {
    wire: Wire,
    /// The lines before it that came to nothing; forgotten once this one has proved useful.
    failures: AtomicU32,
    /// Commands in a row that got no answer in time.
    timeouts: AtomicU32,
    /// No longer the lane's: only undos of what was sent on it still go out here.
    retired: AtomicBool,
}

impl Line {
    pub(super) const fn new(wire: Wire, failures: u32) -> Self {
        let (failures, timeouts) = (AtomicU32::new(failures), AtomicU32::new(0));
        Self { wire, failures, timeouts, retired: AtomicBool::new(false) }
    }

    /// Sends commands in one write. They take their place in the connection's order at the first poll.
    pub(super) fn send(&self, mut cmds: Vec<Cmd>) -> impl Future<Output = Replies> + Send + use<> {
        let mut wire = self.wire.clone();
        async move {
            if cmds.len() == 1
                && let Some(cmd) = cmds.pop()
            {
                return match wire.send_packed_command(&cmd).await {
                    // The server's own errors belong to the command, not to the connection.
                    Err(error) if error.code().is_none() => Err(error),
                    reply => Ok(vec![reply.and_then(Value::extract_error)]),
                };
            }
            let mut pipeline = Pipeline::with_capacity(cmds.len());
            let count = cmds.len();
            for cmd in cmds {
                pipeline.add_command(cmd);
            }
            let replies = wire.send_packed_commands(&pipeline, 0, count).await?;
            Ok(replies.into_iter().map(Value::extract_error).collect())
        }
    }

    /// Sends an undo that nothing can hold back, and waits until the node has run it or `patience` is over:
    /// the connection must not end before it is on its way. Returns whether there is no more to do here.
    pub(super) async fn undo(&self, undo: &Cmd, patience: Duration) -> bool {
        let mut wire = self.wire.clone();
        let mut is_sent = false;
        let through = async {
            let sent = unconstrained(wire.send_packed_command(undo)).await;
            is_sent = true;
            sent?;
            wire.send_packed_command(&redis::cmd("PING")).await
        };
        // Nothing can be done about a line that is broken: the key there ends with its TTL.
        let _through = timeout(patience, through).await;
        is_sent
    }

    /// Notes a reply; `useful`: from a node that does its work.
    pub(super) fn replied(&self, useful: bool) {
        self.timeouts.store(0, Ordering::Relaxed);
        if useful {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that a command got no answer in time. Returns how many have in a row.
    pub(super) fn timed_out(&self) -> u32 {
        self.timeouts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes the line out of use. Returns how many lines before it came to nothing.
    pub(super) fn retire(&self) -> u32 {
        self.retired.store(true, Ordering::SeqCst);
        self.failures.load(Ordering::Relaxed)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("retired", &self.retired).finish_non_exhaustive()
    }
}

/// The reply to each command, or why the connection gave none.
pub(super) type Replies = Result<Vec<Result<Value, RedisError>>, RedisError>;
