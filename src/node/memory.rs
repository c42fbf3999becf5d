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
    lane::Failure,
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

#[derive(Debug, Default)]
struct Kept {
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
        let answer = kept.answer(trail, command);
        drop(kept);
        if let (Command::Release { held: Some(token), .. }, Answer::Deleted) = (command, &answer) {
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
    fn answer(&mut self, trail: &Trail, command: Command) -> Answer {
        let (now, lock, fence, owner) =
            (Instant::now(), &*trail.key.lock, &*trail.key.fence, &trail.owner);
        self.expire(lock, fence, now);
        match command {
            Command::Acquire { ttl, proposal } => self.acquire(trail, ttl, proposal, now),
            Command::Touch { ttl, token, mode } => self.touch(trail, ttl, token, mode, now),
            Command::Release { tokens, .. } => {
                let (lowest, highest) = tokens.unwrap_or((0, u64::MAX));
                let is_this = (lowest..=highest).contains(&self.token(fence));
                if self.locks.get(lock).is_some_and(|(holder, _)| holder == owner) && is_this {
                    self.locks.remove(lock);
                    return Answer::Deleted;
                }
                self.refusal(lock, now)
            }
            Command::Inspect => {
                let found = self.locks.get(lock);
                Answer::Seen(Sighting {
                    owner: found.map(|(owner, _)| owner.clone()),
                    expires_in: found.map(|(_, end)| *end - now),
                    token: self.token(fence),
                })
            }
        }
    }

    fn acquire(&mut self, trail: &Trail, ttl: Duration, proposal: u64, now: Instant) -> Answer {
        let token = self.token(&trail.key.fence);
        match self.locks.get(&trail.key.lock) {
            None => {
                let token = proposal.max(token + 1);
                self.take(trail, ttl, token, now);
                Answer::Granted { token }
            }
            Some((owner, end)) if *owner == trail.owner => {
                Answer::Ours { token, expires_in: *end - now }
            }
            Some(_) => self.refusal(&trail.key.lock, now),
        }
    }

    fn touch(
        &mut self,
        trail: &Trail,
        ttl: Option<Duration>,
        held: u64,
        mode: Touch,
        now: Instant,
    ) -> Answer {
        let token = self.token(&trail.key.fence);
        let ttl = ttl.unwrap_or_default();
        let end = match self.locks.get(&trail.key.lock) {
            Some((owner, end)) if *owner == trail.owner => *end,
            None if mode == Touch::Heal => now,
            _ => return self.refusal(&trail.key.lock, now),
        };
        if mode == Touch::Adopt && token != held {
            return Answer::Ours { token, expires_in: end - now };
        }
        let token = token.max(held);
        self.take(trail, ttl.max(end - now), token, now);
        Answer::Ours { token, expires_in: ttl }
    }

    fn take(&mut self, trail: &Trail, ttl: Duration, token: u64, now: Instant) {
        let end = now + Duration::from_millis(millis(ttl));
        self.locks.insert(trail.key.lock.clone(), (trail.owner.clone(), end));
        self.fences.insert(trail.key.fence.clone(), (token, now + FENCE_TTL));
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
