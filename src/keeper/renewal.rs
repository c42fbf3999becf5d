//! Renewing: which lock is due when, and the batches in which they are extended.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::Instrument;

use crate::{
    claim::{Claim, Extension},
    host::clock,
    keeper::{
        Job,
        ledger::Ledger,
        quorum::Quorum,
        tell::{tell, tell_failed, tell_loss, tell_stop},
    },
    metrics,
    node::{
        Answer, Command, Touch,
        round::{Reply, Round},
        tally::Tally,
    },
    types::{error::NodeError, event::RenewalEvent},
};

/// The watched locks in one heap: each stands in it twice, for its next renewal and for its deadline, and once more
/// while its renewals fail.
pub(crate) struct Schedule {
    quorum: Arc<Quorum>,
    ledger: Arc<Ledger>,
    due: BinaryHeap<Reverse<Due>>,
    /// The size of the heap at which the entries of locks that are gone are dropped next.
    next_sweep: usize,
    /// What comes back from the batches.
    returns: (mpsc::UnboundedSender<BatchEvent>, mpsc::UnboundedReceiver<BatchEvent>),
    /// Batches under way.
    batches: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Duty {
    Renew,
    /// Tell, shortly before the end, that renewal fails.
    Alarm,
    Deadline,
}

/// When, for which claim, what.
type Due = (Instant, u64, Duty);

/// What a batch tells the schedule.
enum BatchEvent {
    /// These locks are due again.
    Due(Vec<Due>),
    /// Every lock of a batch has been told of.
    Over,
}

impl Schedule {
    pub(crate) fn new(quorum: Arc<Quorum>, ledger: Arc<Ledger>) -> Self {
        let due = BinaryHeap::new();
        Self {
            quorum,
            ledger,
            due,
            next_sweep: SMALLEST_SWEEP,
            returns: mpsc::unbounded_channel(),
            batches: 0,
        }
    }

    pub(crate) fn watch(&mut self, claim: &Arc<Claim>) {
        let Ok(valid_until) = claim.judge() else { return tell_loss(claim, Some(NOT_RUN)) };
        if let Some(next) = next_renewal(claim) {
            self.due.push(Reverse((next, claim.id, Duty::Renew)));
        }
        self.due.push(Reverse((valid_until, claim.id, Duty::Deadline)));
        if self.due.len() >= self.next_sweep {
            let ledger = &self.ledger;
            self.due.retain(|Reverse((_, id, _))| ledger.get_live(*id).is_some());
            self.next_sweep = SMALLEST_SWEEP.max(2 * self.due.len());
        }
    }

    /// Waits for the next batch of renewals, and judges the deadlines that pass meanwhile.
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Job {
        loop {
            let now = clock::now();
            if let Some(items) = self.take_due(now) {
                self.batches += 1;
                return Box::pin(renew(self.quorum.clone(), items, now, self.returns.0.clone()));
            }
            let next = self.due.peek().map(|Reverse((at, ..))| *at);
            tokio::select! {
                biased;
                Some(returned) = self.returns.1.recv() => match returned {
                    BatchEvent::Over => self.batches -= 1,
                    BatchEvent::Due(due) => self.due.extend(due.into_iter().map(Reverse)),
                },
                () = sleep_until(next.map_or_else(Instant::now, clock::wake_at)), if next.is_some() => {}
            }
        }
    }

    /// Takes what is due by now, or so soon that it may go along; deadlines are judged on the way.
    fn take_due(&mut self, now: Instant) -> Option<Vec<Renewing>> {
        let mut batch = Vec::new();
        let mut too_much = Vec::new();
        while let Some(Reverse((at, id, duty))) = self.due.peek().copied() {
            let is_due = match duty {
                Duty::Alarm | Duty::Deadline => at <= now,
                Duty::Renew => at <= if batch.is_empty() { now } else { now + QUANTUM },
            };
            if !is_due || batch.len() >= LARGEST_BATCH {
                break;
            }
            self.due.pop();
            let Some(claim) = self.ledger.get_live(id) else { continue };
            match (claim.judge(), duty) {
                (Err(_), Duty::Renew) => tell_loss(&claim, Some(NOT_RUN)),
                (Err(_), _) => tell_loss(&claim, (!claim.is_stopped()).then_some(NOT_ANSWERED)),
                (Ok(until), Duty::Deadline) => self.due.push(Reverse((until, id, duty))),
                (Ok(until), Duty::Alarm) => {
                    self.due.extend(alarm(&claim, now, until).map(Reverse));
                }
                (Ok(_), Duty::Renew) if self.batches >= MOST_BATCHES => {
                    too_much.push(Reverse((now + QUANTUM, id, duty)));
                }
                (Ok(until), Duty::Renew) => match claim.next_extension(now) {
                    Some(extension) => batch.push(Renewing::new(claim, extension)),
                    None => tell_stop(&claim, until),
                },
            }
        }
        self.due.extend(too_much);
        (!batch.is_empty()).then_some(batch)
    }
}

/// Extends locks that were `due` with one pipeline for each node, and puts back the keys that a minority has lost.
async fn renew(
    nodes: Arc<Quorum>,
    items: Vec<Renewing>,
    due: Instant,
    back: mpsc::UnboundedSender<BatchEvent>,
) {
    let (first, locks) = (&items[0].claim, items.len());
    let span = tracing::debug_span!("renew", key = first.key(), locks, label = first.label);
    let mut batch = Batch::new(nodes, items, due, back);
    async {
        while let Some(reply) = batch.round.next().await {
            batch.note(reply);
        }
        batch.conclude(|_| true);
        batch.heal().await;
    }
    .instrument(span)
    .await;
}

/// Locks that are renewed together.
struct Batch {
    nodes: Arc<Quorum>,
    quorum: usize,
    items: Vec<Renewing>,
    /// The locks that were not told of yet.
    open: usize,
    round: Round<Vec<Result<Answer, NodeError>>>,
    back: mpsc::UnboundedSender<BatchEvent>,
}

struct Renewing {
    claim: Arc<Claim>,
    extension: Extension,
    /// The deadline before this renewal: what is put back must be sent before it.
    deadline: Option<Instant>,
    confirmed: usize,
    tally: Tally,
    is_told: bool,
}

impl Batch {
    /// The extensions count from when they were due, so that none carries a lock beyond its longest hold.
    fn new(
        nodes: Arc<Quorum>,
        items: Vec<Renewing>,
        due: Instant,
        back: mpsc::UnboundedSender<BatchEvent>,
    ) -> Self {
        let mut round = Round::new();
        let touch = |item: &Renewing| (item.claim.clone(), item.touch(Touch::Extend));
        let touches: Arc<[_]> = items.iter().map(touch).collect();
        for node in 0..nodes.len() {
            let (nodes, touches) = (nodes.clone(), touches.clone());
            round.push(node, due, async move {
                let trailed = touches.iter().map(|(claim, touch)| (&claim.send_log, *touch));
                nodes.client(node).ask_all(&trailed.collect::<Vec<_>>()).await.into_vec()
            });
        }
        let open = items.len();
        Self { quorum: nodes.needed(), nodes, items, open, round, back }
    }

    fn note(&mut self, reply: Reply<Vec<Result<Answer, NodeError>>>) {
        for (item, answer) in self.items.iter_mut().zip(reply.answer) {
            if let Some(answer) = item.tally.note(reply.node, answer) {
                let is_ours = item.note(reply.node, reply.sent, &answer);
                item.confirmed += usize::from(is_ours);
            }
        }
        let quorum = self.quorum;
        self.conclude(|item| item.confirmed >= quorum || item.claim.judge().is_err());
    }

    /// Tells how it went for each lock that is `certain` and was not told of yet.
    fn conclude(&mut self, certain: impl Fn(&Renewing) -> bool) {
        if self.open == 0 {
            return;
        }
        let mut due = Vec::new();
        for item in self.items.iter_mut().filter(|item| !item.is_told && certain(item)) {
            item.is_told = true;
            self.open -= 1;
            due.extend(item.conclude(self.quorum));
        }
        // The schedule is gone only if the whole task is.
        let _sent = self.back.send(BatchEvent::Due(due));
        if self.open == 0 {
            let _sent = self.back.send(BatchEvent::Over);
        }
    }

    /// Puts keys back on the minority of nodes that lost them, while a majority holds.
    async fn heal(self) {
        let (mut round, Self { nodes, quorum, items, .. }) = (Round::new(), self);
        for (place, item) in items.iter().enumerate() {
            // Rule 5: the deadline of before the round. After it, whoever found the lock ended may have taken it elsewhere, and
            // a key put back would be in its way.
            let is_in_time = item.deadline.is_some_and(|deadline| clock::now() < deadline);
            if item.confirmed < quorum || !is_in_time || item.claim.judge().is_err() {
                continue;
            }
            for node in item.claim.heal_where_gone() {
                let heal = item.touch(Touch::Heal);
                tracing::debug!(
                    key = item.claim.key(),
                    node = nodes.node(node).name(),
                    "lock put back"
                );
                let call = nodes.ask(node, &item.claim, heal);
                round.push(node, clock::now(), async move { (place, call.await) });
            }
        }
        while let Some(Reply { node, sent, answer: (place, answer) }) = round.next().await {
            let item = &items[place];
            // A node in quarantine has not put it back.
            if answer.is_ok_and(|answer| item.note(node, sent, &answer)) {
                item.claim.healed(node);
            }
        }
    }
}

impl Renewing {
    fn new(claim: Arc<Claim>, extension: Extension) -> Self {
        let (deadline, tally) = (claim.valid_until(), Tally::new(claim.send_log.nodes()));
        Self { claim, extension, deadline, confirmed: 0, tally, is_told: false }
    }

    fn touch(&self, mode: Touch) -> Command {
        self.claim.touch(self.extension.ttl, mode)
    }

    /// Notes a node's answer. Returns whether it was a yes.
    fn note(&self, node: usize, sent: Instant, answer: &Answer) -> bool {
        self.claim.note(node, sent, self.extension.ttl, answer)
    }

    /// Tells how the renewal went. Returns when the lock is due again, if it is still held, and when it must be
    /// judged, if its deadline has moved forward.
    fn conclude(&self, quorum: usize) -> Vec<Due> {
        let claim = &self.claim;
        if claim.send_log.is_withdrawn() {
            return Vec::new();
        }
        let Ok(until) = claim.judge() else {
            tell_loss(claim, Some(NOT_ANSWERED));
            return Vec::new();
        };
        let is_earlier = self.deadline.is_some_and(|deadline| until < deadline);
        let judge = is_earlier.then_some((until, claim.id, Duty::Deadline));
        let is_first_failure = self.confirmed < quorum && claim.failed().is_none();
        let renew = self.tell(until, quorum).map(|next| (next, claim.id, Duty::Renew));
        let alarm = claim.alarm().filter(|_| is_first_failure);
        let alarm = alarm.map(|alarm| (alarm, claim.id, Duty::Alarm));
        judge.into_iter().chain(renew).chain(alarm).collect()
    }

    /// Tells the owner how the renewal went. Returns when the next is due, if there is to be one.
    fn tell(&self, until: Instant, quorum: usize) -> Option<Instant> {
        let claim = &self.claim;
        if self.confirmed >= quorum {
            let valid_until = clock::to_tokio(until);
            claim.renewed();
            let margin = self.deadline.map(|old| old.saturating_duration_since(clock::now()));
            metrics::renewed(claim.label, margin.unwrap_or_default());
            tell(claim, || RenewalEvent::Renewed { key: claim.key().to_owned(), valid_until });
            if self.extension.is_last {
                tell_stop(claim, until);
                return None;
            }
            return next_renewal(claim);
        }
        metrics::renewal_failed(claim.label);
        let failed = self.tally.shortage();
        let remaining = until.saturating_duration_since(clock::now());
        if claim.note_failed(failed.clone()) {
            tell_failed(claim, failed, remaining);
        }
        // Never so soon again that the last of the TTL sees hundreds of attempts.
        let pause = (remaining / 10).max(claim.ttl() / 50).clamp(SHORTEST_PAUSE, LONGEST_NAP);
        Some(clock::now() + pause)
    }
}

/// Tells that the renewals fail, if they still do, shortly before the lock ends. Returns when to look again, if it was
/// extended meanwhile.
fn alarm(claim: &Claim, now: Instant, until: Instant) -> Option<Due> {
    let alarm = claim.alarm()?;
    if alarm > now {
        return claim.failed().map(|_| (alarm, claim.id, Duty::Alarm));
    }
    if let Some(failed) = claim.last_warning() {
        tell_failed(claim, failed, until.saturating_duration_since(now));
    }
    None
}

fn next_renewal(claim: &Claim) -> Option<Instant> {
    claim.renewal().map(|renewal| renewal.next(claim.ttl()))
}

/// Why a lock has expired that was to be renewed, if no renewal has failed.
const NOT_RUN: &str =
    "it was due to be renewed, but the background did not run: its runtime may be blocked";
const NOT_ANSWERED: &str = "its renewal was not answered in time";
/// What is due within this time goes along.
const QUANTUM: Duration = Duration::from_millis(20);
const LARGEST_BATCH: usize = 256;
/// Batches under way at one time, so that renewals leave room for acquires.
const MOST_BATCHES: usize = 8;
const LONGEST_NAP: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const SMALLEST_SWEEP: usize = 64;

#[cfg(test)]
mod tests;
