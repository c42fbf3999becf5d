//! The lane: the one ordered way to a node, from the first connect to the replacement of a dead line.
//!
//! Everything a manager says to a node goes down its lane in the order in which the calls were first
//! polled, so that a release can never overtake the acquire it undoes.

mod asking;
mod batch;
mod held_up;
pub(in crate::node) mod line;
mod opening;
mod replies;
mod state;
pub(in crate::node) mod transport;
mod undo;

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use redis::{Cmd, Value};
use smallvec::smallvec;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    task::{coop::consume_budget, unconstrained},
    time::{Instant, sleep_until, timeout},
};

use super::{
    command::{Answer, Command},
    failure::Failure,
    lane::{
        batch::{Batch, Fate, Outgoing},
        held_up::{HeldUp, Turn},
        line::Line,
        state::{State, Step},
        transport::Replies,
    },
    message::Database,
    presence::{Absence, Presence},
    send_log::{End, SendLog},
    source::Source,
    stranger::Stranger,
};
use crate::{
    host::{background::Background, sync::lock},
    metrics,
    types::{error::NodeError, few::Few, settings::Settings},
};

/// Is called when there is a connection again. It is called under no lock and must not block.
pub(crate) type Recovered = Arc<dyn Fn() + Send + Sync>;

/// The lane to one Redis node.
pub(crate) struct Lane {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    /// The node's place in the manager.
    index: usize,
    source: Source,
    database: Arc<Database>,
    node_timeout: Duration,
    /// How long after its restart the node does not vote.
    quarantine: Option<Duration>,
    background: Background,
    state: Mutex<State>,
    changed: Notify,
    presence: Presence,
    stranger: Stranger,
    recovered: Recovered,
    /// The commands that may be under way.
    room: Semaphore,
    held_up: HeldUp,
}

impl Lane {
    pub(super) fn new(
        name: Arc<str>,
        index: usize,
        source: Source,
        database: Arc<Database>,
        settings: &Settings,
        recovered: Recovered,
    ) -> Self {
        let (since, cause) = (Instant::now(), Failure::NotConnected);
        let state = Mutex::new(State::Down { failures: 0, since, cause });
        let (changed, room) = (Notify::new(), Semaphore::new(source.room()));
        let (node_timeout, quarantine) = (settings.node_timeout, settings.restart_quarantine);
        let presence = Presence::new(name.clone());
        let background = settings.background.clone();
        let shared = Shared {
            name,
            index,
            source,
            database,
            node_timeout,
            quarantine,
            background,
            state,
            changed,
            presence,
            stranger: Stranger::default(),
            recovered,
            room,
            held_up: HeldUp::new(settings.node_timeout / 4),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Asks things in one write and within the node timeout, connecting included; each has its own result.
    pub(super) async fn ask(
        &self,
        items: &[(&SendLog, Command)],
    ) -> Few<Result<Answer, NodeError>> {
        let (lane, used, began) = (&self.shared, Used::default(), Instant::now());
        let answers = {
            let asked = pin!(lane.ask_until_put_right(items, &used));
            lane.bounded(&used, asked).await
        };
        let took = began.elapsed();
        // After the answer, so that no line is missed that was given up meanwhile.
        if let Some(undone) = lane.undo_on_retired_lines(items) {
            undone.await;
        }
        if answers.is_err() {
            // Failing fast must not keep a caller that tries again and again from yielding.
            consume_budget().await;
        }
        let answers = answers.unwrap_or_else(|failure| smallvec![Err(failure); items.len()]);
        let is_failure = |answer: &&Result<_, Failure>| {
            answer.as_ref().is_err_and(|failure| !failure.is_our_own())
        };
        let failures = answers.iter().filter(is_failure).count();
        metrics::asked(&lane.name, took, answers.iter().any(Result::is_ok), failures);
        let named = |answer: Result<_, _>| answer.map_err(|failure| lane.error(failure));
        answers.into_iter().map(named).collect()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(*lock(&self.shared.state), State::Up(_) | State::Proving)
    }

    /// Opens a line whenever there is none and the back-off is over, for those who wait for the node to come back.
    pub(super) async fn mend(&self) -> Infallible {
        let lane = &self.shared;
        loop {
            let mut changed = pin!(lane.changed.notified());
            changed.as_mut().enable();
            let due = lock(&lane.state).opens_at();
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => lane.reopen(),
            }
        }
    }

    /// The time that a `PING` takes, connecting included.
    pub(super) async fn ping(&self) -> Result<Duration, NodeError> {
        let start = Instant::now();
        let pong = self.query(&[redis::cmd("PING")]).await;
        let pong = pong.and_then(|mut replies| replies.pop().unwrap_or(Err(Failure::Shape)));
        pong.map(|_| start.elapsed()).map_err(|failure| self.error(failure))
    }

    /// Asks what is about no lock, in one write and within the node timeout, connecting included.
    pub(super) async fn query(&self, cmds: &[Cmd]) -> Result<Few<Result<Value, Failure>>, Failure> {
        let (lane, used) = (&self.shared, Used::default());
        Handle::try_current().map_err(|_| Failure::NoRuntime)?;
        let outgoing = |at: usize| Outgoing { cmd: cmds[at].clone(), claim: None };
        lane.bounded(&used, pin!(lane.send(cmds.len(), outgoing, Turn::Any, &used))).await
    }

    pub(super) fn error(&self, failure: Failure) -> NodeError {
        self.shared.error(failure)
    }

    pub(super) fn is_to_cluster(&self) -> bool {
        self.shared.source.is_cluster()
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lane").field(&self.shared.name).finish()
    }
}

impl Shared {
    /// Bounds `work` by the node timeout, and replaces a line that has timed out too often.
    async fn bounded<T>(
        &self,
        used: &Used,
        work: Pin<&mut impl Future<Output = Result<T, Failure>>>,
    ) -> Result<T, Failure> {
        if let Ok(result) = timeout(self.node_timeout, work).await {
            return result;
        }
        let failure = Failure::TimedOut(self.node_timeout);
        if let Some(line) = lock(used).take()
            && line.timed_out() >= TIMEOUTS_TO_REPLACE
        {
            // One silent server of a cluster is no reason to keep away from the others.
            let blame = if line.is_to_cluster() { Blame::Connection } else { Blame::Node };
            if self.retire(&line, blame, failure.clone()) && blame == Blame::Node {
                self.presence.goes(Absence::Silent, &failure);
            }
        }
        Err(failure)
    }

    fn line(&self) -> Option<Arc<Line>> {
        match &*lock(&self.state) {
            State::Up(line) => Some(line.clone()),
            State::Down { .. } | State::Connecting { .. } | State::Proving => None,
        }
    }

    /// Queues commands on the line, opening one if there is none, and waits for their replies.
    async fn send<'a>(
        self: &Arc<Self>,
        count: usize,
        outgoing: impl Fn(usize) -> Outgoing<'a> + Send + Sync,
        turn: Turn,
        used: &Used,
    ) -> Result<Few<Result<Value, Failure>>, Failure> {
        if turn == Turn::Acquire {
            self.held_up.passed().await;
        }
        let (mut began_connecting, mut place) = (false, None);
        let _room = match self.room.try_acquire() {
            Ok(room) => Some(room),
            Err(_) => {
                place = (turn == Turn::Release).then(|| self.held_up.enter());
                self.room.acquire().await.ok()
            }
        };
        // Not boxed: this is the one large part of a call, and every call has it.
        let mut sending = pin!(None);
        let mut batch = loop {
            // Made before the lane is locked: others wait for it.
            let mut outgoing: Few<_> = (0..count).map(&outgoing).collect();
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let queue = poll_fn(|cx| {
                let outgoing = std::mem::take(&mut outgoing);
                let queued = self.queue(outgoing, &mut began_connecting, |line, cmds| {
                    // A task that has used up its budget would be turned away, and its place be lost.
                    sending.set(Some(unconstrained(line.send(cmds))));
                    poll_some(sending.as_mut(), cx)
                });
                Poll::Ready(queued)
            });
            match queue.await? {
                Some(batch) => break batch,
                None if turn == Turn::Release => {
                    place.get_or_insert_with(|| self.held_up.enter());
                    changed.await;
                }
                None => changed.await,
            }
        };
        drop(place);
        *lock(used) = Some(batch.line.clone());
        let replies = match batch.early.take() {
            Some(replies) => replies,
            None => poll_fn(|cx| poll_some(sending.as_mut(), cx)).await,
        };
        self.deliver(&batch, replies)
    }

    /// Queues the commands on the line by `post`. `None`: wait for the lane to change.
    ///
    /// The lane stays locked meanwhile, so that what a send log may still send is queued before its release.
    fn queue<'a>(
        self: &Arc<Self>,
        outgoing: Few<Outgoing<'a>>,
        began_connecting: &mut bool,
        post: impl FnOnce(&Line, Few<Cmd>) -> Poll<Replies>,
    ) -> Result<Option<Batch<'a>>, Failure> {
        let mut state = lock(&self.state);
        let line = match state.step(*began_connecting)? {
            Step::Use(line) => line,
            Step::Wait => return Ok(None),
            Step::Connect(failures, doubted) => {
                *began_connecting = true;
                // Unlocked first: a runtime that is ending drops the task, and so its result, at once.
                drop(state);
                self.connect(failures, doubted);
                return Ok(None);
            }
        };
        // Rules 2, 3 and 7: the send log is asked, and the command noted there, before the poll that queues it, all under
        // the lane's lock. A withdrawal before that forbids the command; a release after it stands behind it.
        let mut fates = Few::with_capacity(outgoing.len());
        let mut cmds = Few::with_capacity(outgoing.len());
        let quarantine = line.quarantine();
        let is_withheld =
            |(send_log, command): (&SendLog, _)| !send_log.begin(self.index, &line, command);
        for Outgoing { cmd, claim } in outgoing {
            let grants = claim.is_some_and(|(_, command)| command.grants());
            if let Some(left) = quarantine.filter(|_| grants) {
                fates.push(Fate::Quarantined(left));
            } else if claim.is_some_and(is_withheld) {
                fates.push(Fate::Withheld);
            } else {
                fates.push(Fate::Queued(claim.map(|(send_log, _)| send_log)));
                cmds.push(cmd);
            }
        }
        if cmds.is_empty() {
            return Err(fates.first().and_then(Fate::failure).unwrap_or(Failure::Withdrawn));
        }
        let early = match post(&line, cmds) {
            Poll::Ready(Err(error)) if error.is_unrecoverable_error() => None,
            Poll::Ready(replies) => Some(Some(replies)),
            Poll::Pending => Some(None),
        };
        if let Some(early) = early {
            return Ok(Some(Batch { line, early, fates }));
        }
        // The connection had ended while nothing was under way: another may be tried. Rule 3: what ends at its first poll
        // never entered the connection's queue, so that it needs no release. (Only a driver on another thread that takes
        // it, writes it and fails, all during this poll, could do otherwise; then the TTL ends it.)
        let claims = fates.iter().filter_map(Fate::claim);
        claims.for_each(|send_log| send_log.end(self.index, &line, End::Void));
        let failures = line.retire();
        *state = State::Down { failures, since: Instant::now(), cause: Failure::NotConnected };
        drop(state);
        self.changed.notify_waiters();
        Ok(None)
    }

    /// Takes a line out of use. The next call opens another. Returns whether the line was in use.
    fn retire(&self, line: &Arc<Line>, blame: Blame, cause: Failure) -> bool {
        let failures = line.retire().saturating_add(u32::from(blame == Blame::Node));
        let mut state = lock(&self.state);
        let is_current = matches!(&*state, State::Up(current) if Arc::ptr_eq(current, line));
        if is_current {
            tracing::debug!(node = %self.name, %cause, "connection given up");
            *state = State::Down { failures, since: Instant::now(), cause };
        }
        is_current
    }

    fn error(&self, failure: Failure) -> NodeError {
        let is_lasting = failure.is_lasting();
        let error = NodeError::new(&self.name, failure);
        if is_lasting { error.lasting() } else { error }
    }
}

/// The line that a call used, for judging it when the call has timed out.
type Used = Mutex<Option<Arc<Line>>>;

/// Whose fault it is that a line is given up; after the node's own, the next waits for a back-off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blame {
    Connection,
    Node,
}

fn poll_some<F: Future>(future: Pin<&mut Option<F>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    future.as_pin_mut().map_or(Poll::Pending, |future| future.poll(cx))
}

const TIMEOUTS_TO_REPLACE: u32 = 3;
