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
    command::{Answer, Command, Sighting, Touch, Trail},
    failure::Failure,
    notices::{Hear, Notice},
    script::FENCE_TTL,
};
use crate::{error::NodeError, key::Key, sync::lock, token::OwnerToken, validity::millis};

/// What an in-memory node keeps. Expiry follows tokio's clock, so that a test can pause it.
pub(super) struct Store {
    pub(super) name: Arc<str>,
    kept: Mutex<Kept>,
    /// By channel, and by a number of their own.
    listeners: Mutex<BTreeMap<(String, u64), Listens>>,
    next_listener: AtomicU64,
}

/// Who is told of a key's releases.
struct Listens {
    node: usize,
    key: Arc<Key>,
    hear: Hear,
}

/// What a command is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) lock: &'a str,
    pub(crate) fence: &'a str,
    pub(crate) owner: &'a OwnerToken,
}

impl<'a> From<&'a Trail> for Names<'a> {
    fn from(trail: &'a Trail) -> Self {
        Self { lock: &trail.key.lock, fence: &trail.key.fence, owner: &trail.owner }
    }
}

/// The locks and the fencing counters of one node.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    locks: BTreeMap<String, (OwnerToken, Instant)>,
    fences: BTreeMap<String, (u64, Instant)>,
    /// The number of fences at which those that have expired are dropped next.
    next_sweep: usize,
}

impl Store {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let name = format!("memory:{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self {
            name: name.into(),
            kept: Mutex::default(),
            listeners: Mutex::default(),
            next_listener: AtomicU64::new(0),
        }
    }

    /// Tells `hear` of a key's releases, as long as the returned value lives. Whoever waits for them must look
    /// once more: one may have come before.
    pub(super) fn listen(self: &Arc<Self>, node: usize, key: &Arc<Key>, hear: &Hear) -> Listener {
        let id = (key.channel.clone(), self.next_listener.fetch_add(1, Ordering::Relaxed));
        let listens = Listens { node, key: key.clone(), hear: hear.clone() };
        lock(&self.listeners).insert(id.clone(), listens);
        hear(node, key, Notice::Missed);
        Listener { store: self.clone(), id }
    }

    fn announce(&self, channel: &str, token: u64) {
        let listeners = lock(&self.listeners);
        let everyone = (channel.to_owned(), 0)..=(channel.to_owned(), u64::MAX);
        let told = listeners.range(everyone).map(|(_, listens)| listens);
        let told: Vec<_> =
            told.map(|listens| (listens.hear.clone(), listens.node, listens.key.clone())).collect();
        drop(listeners);
        told.iter().for_each(|(hear, node, key)| hear(*node, key, Notice::Released { token }));
    }

    pub(super) fn ask(
        &self,
        node: usize,
        trail: &Trail,
        command: Command,
    ) -> Result<Answer, NodeError> {
        let mut kept = lock(&self.kept);
        if command.claims() && !trail.carry_out(node) {
            return Err(NodeError::new(&self.name, Failure::Withdrawn));
        }
        let answer = kept.answer(Names::from(trail), command, Instant::now());
        drop(kept);
        if let (Command::Release { held: Some(token), keep: None, .. }, Answer::Deleted) =
            (command, &answer)
        {
            self.announce(&trail.key.channel, token);
        }
        Ok(answer)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.name).finish()
    }
}

/// Somebody is told of a key's releases.
pub(crate) struct Listener {
    store: Arc<Store>,
    id: (String, u64),
}

impl Drop for Listener {
    fn drop(&mut self) {
        lock(&self.store.listeners).remove(&self.id);
    }
}

impl Kept {
    /// Carries a command out, at the time that it is `now` on the node's clock.
    pub(crate) fn answer(&mut self, names: Names<'_>, command: Command, now: Instant) -> Answer {
        let Names { lock, fence, .. } = names;
        self.expire(lock, fence, now);
        match command {
            Command::Acquire { ttl, proposal } => self.acquire(names, ttl, proposal, now),
            Command::Touch { ttl, token, mode } => self.touch(names, ttl, token, mode, now),
            Command::Release { tokens, keep, .. } => self.release(names, tokens, keep, now),
            Command::Inspect => {
                let found = self.locks.get(lock);
                Answer::Seen(Sighting {
                    value: found.map(|(owner, _)| owner.clone()),
                    expires_in: found.map(|(_, end)| *end - now),
                    token: self.token(fence),
                })
            }
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
        let token = self.token(names.fence);
        match self.locks.get(names.lock) {
            None => {
                let token = proposal.max(token + 1);
                self.take(names, ttl, token, now);
                Answer::Granted { token }
            }
            Some((owner, end)) if *owner == *names.owner => {
                Answer::Ours { token, expires_in: *end - now }
            }
            Some(_) => self.refusal(names.lock, now),
        }
    }

    fn touch(
        &mut self,
        names: Names<'_>,
        ttl: Option<Duration>,
        held: u64,
        mode: Touch,
        now: Instant,
    ) -> Answer {
        let token = self.token(names.fence);
        let ttl = ttl.unwrap_or_default();
        let held_until = match self.locks.get(names.lock) {
            Some((owner, end)) if *owner == *names.owner => Some(*end),
            None if mode == Touch::Heal => None,
            _ => return self.refusal(names.lock, now),
        };
        let end = held_until.unwrap_or(now);
        if mode == Touch::Adopt && token != held {
            return Answer::Ours { token, expires_in: end - now };
        }
        let token = token.max(held);
        self.take(names, ttl.max(end - now), token, now);
        match held_until {
            Some(_) => Answer::Ours { token, expires_in: ttl },
            None => Answer::Granted { token },
        }
    }

    fn release(
        &mut self,
        names: Names<'_>,
        tokens: Option<(u64, u64)>,
        keep: Option<Duration>,
        now: Instant,
    ) -> Answer {
        let (lowest, highest) = tokens.unwrap_or((0, u64::MAX));
        let is_this = (lowest..=highest).contains(&self.token(names.fence));
        let found = self.locks.get_mut(names.lock);
        match (found, keep) {
            (Some((owner, _)), _) if *owner == names.owner.kept() => Answer::Deleted,
            (Some((owner, end)), Some(keep)) if owner == names.owner && is_this => {
                (*owner, *end) = (names.owner.kept(), now + Duration::from_millis(millis(keep)));
                Answer::Deleted
            }
            (Some((owner, _)), None) if owner == names.owner && is_this => {
                self.locks.remove(names.lock);
                Answer::Deleted
            }
            (Some((owner, end)), _) if owner == names.owner => {
                let expires_in = *end - now;
                Answer::Ours { token: self.token(names.fence), expires_in }
            }
            _ => match self.refusal(names.lock, now) {
                Answer::Gone => Answer::GoneBeside { token: self.token(names.fence) },
                Answer::Refused { expires_in, .. } => {
                    Answer::Refused { expires_in, holder: self.token(names.fence).to_string() }
                }
                other => other,
            },
        }
    }

    fn take(&mut self, names: Names<'_>, ttl: Duration, token: u64, now: Instant) {
        let end = now + Duration::from_millis(millis(ttl));
        self.locks.insert(names.lock.to_owned(), (names.owner.clone(), end));
        self.fences.insert(names.fence.to_owned(), (token, now + FENCE_TTL));
        if self.fences.len() >= self.next_sweep {
            self.fences.retain(|_, (_, end)| *end > now);
            self.locks.retain(|_, (_, end)| *end > now);
            self.next_sweep = 64.max(2 * self.fences.len());
        }
    }

    /// Why the lock is not the owner's: another's, or gone.
    fn refusal(&self, lock: &str, now: Instant) -> Answer {
        self.locks.get(lock).map_or(Answer::Gone, |(owner, end)| Answer::Refused {
            expires_in: Some(*end - now),
            holder: owner.as_str().to_owned(),
        })
    }

    fn token(&self, fence: &str) -> u64 {
        self.fences.get(fence).map_or(0, |(token, _)| *token)
    }

    fn expire(&mut self, lock: &str, fence: &str, now: Instant) {
        if self.locks.get(lock).is_some_and(|(_, end)| *end <= now) {
            self.locks.remove(lock);
        }
        if self.fences.get(fence).is_some_and(|(_, end)| *end <= now) {
            self.fences.remove(fence);
        }
    }
}
