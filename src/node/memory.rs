//! The in-process node: the scripts' semantics without a server.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    command::{Answer, Command, Keep, KeyState, Released, Touch, Whose},
    failure::Failure,
    notices::{Notice, OnNotice},
    send_log::SendLog,
};
use crate::{
    host::sync::lock,
    types::{
        attempt_id::AttemptId,
        error::NodeError,
        key::Key,
        token::{Mark, OwnerToken},
        validity::millis,
    },
};

mod client;
mod switch;

pub(super) use self::client::MemoryClient;
#[cfg(feature = "test-util")]
pub(super) use self::switch::Fault;
use self::switch::Switch;

/// What an in-memory node keeps. Expiry follows tokio's clock, so that a test can pause it.
pub(super) struct Store {
    pub(super) name: Arc<str>,
    pub(super) switch: Switch,
    kept: Mutex<Kept>,
    /// By channel, and by a number of their own.
    listeners: Mutex<BTreeMap<(String, u64), Listens>>,
    next_listener: AtomicU64,
}

/// Who is told of a key's releases.
struct Listens {
    node: usize,
    key: Arc<Key>,
    on_notice: OnNotice,
}

/// What a command is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) lock: &'a str,
    /// None: the lock is unfenced.
    pub(crate) fence: Option<&'a str>,
    /// How long the counter is kept from now on, if the command writes it.
    pub(crate) retention: Duration,
    pub(crate) owner: &'a OwnerToken,
    pub(crate) id: AttemptId,
}

impl<'a> Names<'a> {
    fn of(send_log: &'a SendLog, command: Command) -> Self {
        let SendLog { key, owner, id, .. } = send_log;
        let (fence, ttl) = (key.fence.as_ref(), command.ttl().unwrap_or_default());
        let retention = fence.map_or(Duration::ZERO, |fence| fence.kept_for(ttl));
        let fence = fence.map(|fence| &*fence.name);
        Self { lock: &key.lock, fence, retention, owner, id: *id }
    }
}

/// The locks and the fencing counters of one node.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    locks: BTreeMap<String, (OwnerToken, Instant)>,
    fences: BTreeMap<String, (Fence, Instant)>,
    /// The number of locks and fences at which those that have expired are dropped next.
    next_sweep: usize,
}

/// A fencing counter, and the attempt whose lock lies beside it.
#[derive(Clone, Copy, Debug)]
struct Fence {
    counter: u64,
    id: AttemptId,
    state: Attempt,
}

/// How an attempt stands; of a random owner's nothing is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Begun,
    Held,
    Ended,
}

impl Store {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let name = format!("memory:{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self {
            name: name.into(),
            switch: Switch::new(),
            kept: Mutex::default(),
            listeners: Mutex::default(),
            next_listener: AtomicU64::new(0),
        }
    }

    /// Tells `hear` of a key's releases, as long as the returned value lives. Whoever waits for them must look
    /// once more: one may have come before.
    pub(super) fn listen(
        self: &Arc<Self>,
        node: usize,
        key: &Arc<Key>,
        on_notice: &OnNotice,
    ) -> MemorySubscription {
        let id = (key.channel.clone(), self.next_listener.fetch_add(1, Ordering::Relaxed));
        let listens = Listens { node, key: key.clone(), on_notice: on_notice.clone() };
        lock(&self.listeners).insert(id.clone(), listens);
        on_notice(node, key, Notice::Missed);
        MemorySubscription { store: self.clone(), id }
    }

    fn announce(&self, channel: &str, token: u64) {
        let listeners = lock(&self.listeners);
        let everyone = (channel.to_owned(), 0)..=(channel.to_owned(), u64::MAX);
        let told = listeners.range(everyone).map(|(_, listens)| listens);
        let told: Vec<_> = told
            .map(|listens| (listens.on_notice.clone(), listens.node, listens.key.clone()))
            .collect();
        drop(listeners);
        told.iter()
            .for_each(|(on_notice, node, key)| on_notice(*node, key, Notice::Released { token }));
    }

    pub(super) fn ask(
        &self,
        node: usize,
        send_log: &SendLog,
        command: Command,
    ) -> Result<Answer, NodeError> {
        // Rule 7: this lock is the node's lane. A release takes it too, so that a claiming command is carried out before it or
        // not at all.
        let mut kept = lock(&self.kept);
        if command.claims() && !send_log.carry_out(node) {
            return Err(NodeError::new(&self.name, Failure::Withdrawn));
        }
        let answer = kept.answer(Names::of(send_log, command), command, Instant::now());
        drop(kept);
        if let Command::Release { held: Some(token), keep } = command
            && keep.is_none_or(Keep::is_announced)
            && answer == Answer::Released(Released::Deleted)
        {
            self.announce(&send_log.key.channel, token);
        }
        Ok(answer)
    }
}

#[cfg(feature = "test-util")]
impl Store {
    /// Forgets a key of this name.
    pub(super) fn lose(&self, name: &str) {
        let mut kept = lock(&self.kept);
        kept.locks.remove(name);
        kept.fences.remove(name);
    }

    /// Tells all who wait for releases that they may have missed some.
    pub(super) fn doubt(&self) {
        let listeners = lock(&self.listeners);
        let told = listeners.values();
        let told: Vec<_> = told
            .map(|listens| (listens.on_notice.clone(), listens.node, listens.key.clone()))
            .collect();
        drop(listeners);
        told.iter().for_each(|(on_notice, node, key)| on_notice(*node, key, Notice::Missed));
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.name).finish()
    }
}

/// Somebody is told of a key's releases.
pub(crate) struct MemorySubscription {
    store: Arc<Store>,
    id: (String, u64),
}

impl MemorySubscription {
    /// Whether a release is sure to be heard.
    pub(super) fn is_heard(&self) -> bool {
        self.store.switch.is_heard()
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        lock(&self.store.listeners).remove(&self.id);
    }
}

impl Kept {
    /// Carries a command out, at the time that it is `now` on the node's clock.
    pub(crate) fn answer(&mut self, names: Names<'_>, command: Command, now: Instant) -> Answer {
        self.expire(names.lock, names.fence, now);
        match command {
            Command::Acquire { ttl, proposal } => self.acquire(names, ttl, proposal, now),
            Command::Touch { ttl, token, mode } => self.touch(names, ttl, token, mode, now),
            Command::Release { keep, .. } => Answer::Released(self.release(names, keep, now)),
            Command::Inspect => Answer::Seen(self.look(names, now)),
        }
    }

    /// Whether there is a lock at that time.
    #[cfg(test)]
    pub(crate) fn is_held(&self, lock: &str, now: Instant) -> bool {
        self.locks.get(lock).is_some_and(|(_, end)| *end > now)
    }

    /// The locks at that time, and their owners.
    #[cfg(test)]
    pub(crate) fn locks(&self, now: Instant) -> Vec<(String, OwnerToken)> {
        let alive = self.locks.iter().filter(|(_, (_, end))| *end > now);
        alive.map(|(lock, (owner, _))| (lock.clone(), owner.clone())).collect()
    }

    fn acquire(&mut self, names: Names<'_>, ttl: Duration, proposal: u64, now: Instant) -> Answer {
        let Fence { counter, .. } = self.fence(names);
        if self.has_ended(names) {
            return Answer::Ended;
        }
        if self.locks.contains_key(names.lock) {
            let is_again = self.is_this(names) && (counter > 0 || names.fence.is_none());
            return if is_again {
                Answer::Granted { token: counter }
            } else {
                self.refusal(names, now)
            };
        }
        let token = names.fence.map_or(0, |_| proposal.max(counter + 1));
        let fence = Fence { counter: token, id: names.id, state: Attempt::Begun };
        self.take(names, ttl, fence, now + names.retention, now);
        Answer::Granted { token }
    }

    fn touch(
        &mut self,
        names: Names<'_>,
        ttl: Option<Duration>,
        held: u64,
        mode: Touch,
        now: Instant,
    ) -> Answer {
        let ttl = ttl.unwrap_or_default();
        let mut fence = self.fence(names);
        let held_until = match self.locks.get(names.lock) {
            Some((_, end)) if self.is_this(names) => Some(*end),
            _ if self.has_ended(names) => return Answer::Ended,
            None if mode == Touch::Heal => {
                fence = Fence { id: names.id, state: Attempt::Begun, ..fence };
                None
            }
            None => return Answer::Gone,
            Some(_) => return self.refusal(names, now),
        };
        let left = held_until.unwrap_or(now) - now;
        if mode == Touch::Adopt && fence.counter != held {
            return Answer::Ours { token: fence.counter, expires_in: left };
        }
        fence.counter = fence.counter.max(held);
        if fence.counter == held && matches!(mode, Touch::Extend | Touch::Heal) {
            fence.state = Attempt::Held;
        }
        // As the lock's own expiry, the counter's is never shortened.
        let known = names.fence.and_then(|fence| self.fences.get(fence)).map(|(_, end)| *end);
        let counted_until = (now + names.retention).max(known.unwrap_or(now));
        self.take(names, ttl.max(left), fence, counted_until, now);
        match held_until {
            Some(_) => Answer::Ours { token: fence.counter, expires_in: ttl },
            None => Answer::Granted { token: fence.counter },
        }
    }

    fn release(&mut self, names: Names<'_>, keep: Option<Keep>, now: Instant) -> Released {
        let (Fence { counter, .. }, is_this) = (self.fence(names), self.is_this(names));
        let is_done_by_it = self.is_done_by(names);
        match (self.locks.get_mut(names.lock), keep) {
            (Some(_), Some(keep)) if is_done_by_it && keep.mark == Mark::Done => {
                return Released::Deleted;
            }
            (Some(_), _) if !is_this => return Released::NotOurs { counter },
            (Some((value, end)), Some(Keep { time, mark })) => {
                let ends = now + Duration::from_millis(millis(time));
                (*value, *end) = (names.owner.marked(mark), ends);
            }
            (found, _) => drop(found.is_some().then(|| self.locks.remove(names.lock))),
        }
        if let Some((fence, _)) = names.fence.and_then(|fence| self.fences.get_mut(fence))
            && !names.id.is_empty()
        {
            (fence.id, fence.state) = (names.id, Attempt::Ended);
        }
        if is_this { Released::Deleted } else { Released::Gone { counter } }
    }

    fn look(&self, names: Names<'_>, now: Instant) -> KeyState {
        let (found, fence) = (self.locks.get(names.lock), self.fence(names));
        KeyState {
            value: found.map(|(value, _)| value.clone()),
            expires_in: found.map(|(_, end)| *end - now),
            token: fence.counter,
            id: fence.id,
            is_held: !fence.id.is_empty() && fence.state == Attempt::Held,
        }
    }

    fn take(
        &mut self,
        names: Names<'_>,
        ttl: Duration,
        fence: Fence,
        counted_until: Instant,
        now: Instant,
    ) {
        let end = now + Duration::from_millis(millis(ttl));
        self.locks.insert(names.lock.to_owned(), (names.owner.clone(), end));
        if let Some(name) = names.fence {
            self.fences.insert(name.to_owned(), (fence, counted_until));
        }
        if self.fences.len() + self.locks.len() >= self.next_sweep {
            self.fences.retain(|_, (_, end)| *end > now);
            self.locks.retain(|_, (_, end)| *end > now);
            self.next_sweep = 64.max(2 * (self.fences.len() + self.locks.len()));
        }
    }

    /// Whether there is a lock, and it is this very attempt's.
    fn is_this(&self, names: Names<'_>) -> bool {
        let found = self.locks.get(names.lock);
        found.is_some_and(|(value, _)| value == names.owner) && self.fence(names).id == names.id
    }

    /// Whether the key is done, by this very attempt.
    fn is_done_by(&self, names: Names<'_>) -> bool {
        let done = names.owner.marked(Mark::Done);
        let found = self.locks.get(names.lock);
        found.is_some_and(|(value, _)| *value == done) && self.fence(names).id == names.id
    }

    /// Whether this very attempt was released here last.
    fn has_ended(&self, names: Names<'_>) -> bool {
        let fence = self.fence(names);
        fence.id == names.id && !fence.id.is_empty() && fence.state == Attempt::Ended
    }

    /// Whose the lock is instead.
    fn refusal(&self, names: Names<'_>, now: Instant) -> Answer {
        let id = self.fence(names).id.text();
        self.locks.get(names.lock).map_or(Answer::Gone, |(value, end)| Answer::Refused {
            expires_in: Some(*end - now),
            holder: [value.as_str(), " ", &id].concat(),
            name: value.holder().map(str::to_owned),
            whose: match value.mark() {
                _ if value == names.owner => Whose::Owners,
                Some(Mark::Done) => Whose::Nobodys,
                _ => Whose::Anothers,
            },
        })
    }

    fn fence(&self, names: Names<'_>) -> Fence {
        let none = Fence { counter: 0, id: AttemptId::EMPTY, state: Attempt::Begun };
        let found = names.fence.and_then(|fence| self.fences.get(fence));
        found.map_or(none, |(fence, _)| *fence)
    }

    fn expire(&mut self, lock: &str, fence: Option<&str>, now: Instant) {
        if self.locks.get(lock).is_some_and(|(_, end)| *end <= now) {
            self.locks.remove(lock);
        }
        if let Some(fence) = fence
            && self.fences.get(fence).is_some_and(|(_, end)| *end <= now)
        {
            self.fences.remove(fence);
        }
    }
}

#[cfg(test)]
mod tests;
