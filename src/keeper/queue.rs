//! Queues: this process' waiters for a key stand in a queue, and only its head asks the nodes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    host::sync::lock,
    keeper::outage::{Health, Outage},
    metrics,
    types::key::Key,
};

/// The queues of a manager, one for each key that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<Arc<str>, Queue>,
    closed: bool,
    /// There since the last round, for whatever key, that a majority answered.
    outage: Option<Outage>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Who waits, in the order of arrival.
    waiters: VecDeque<Waiter>,
    next_waiter: u64,
    news: Signals,
    /// The fencing token of the lock that was released last.
    released: Option<u64>,
    /// Somebody of this queue holds the lock.
    holder: Option<LocalHolder>,
    /// The same as the manager's, but only rounds for this key end it: a cluster may be without some of its keys.
    outage: Option<Outage>,
}

impl Signals {
    fn is_worth_a_look(self, seen: Self, wake_on: WakeOn) -> bool {
        let is_notice = self.notices > seen.notices;
        let is_doubt = self.doubts > seen.doubts;
        match wake_on {
            WakeOn::Notices => is_notice,
            WakeOn::Doubts => is_notice || is_doubt,
            WakeOn::Releases => self.releases > seen.releases || is_doubt,
            WakeOn::Recoveries => is_notice || self.recoveries > seen.recoveries,
        }
    }

    pub(crate) const fn has_notice_since(self, seen: Self) -> bool {
        self.notices > seen.notices
    }

    /// The same, with the recoveries of `later`.
    pub(crate) const fn with_recoveries_of(self, later: Self) -> Self {
        Self { recoveries: later.recoveries, ..self }
    }
}

/// A waiter's number, and what wakes it.
#[derive(Debug)]
struct Waiter {
    number: u64,
    wakeup: Arc<Notify>,
}

/// How much was heard of a key so far: whoever keeps a copy can tell whether there is more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    /// Locks that were released.
    releases: u64,
    /// Notices worth a look: one release may be told by several nodes.
    notices: u64,
    /// Reasons to look because something may have been missed.
    doubts: u64,
    /// Connections to nodes that were opened.
    recoveries: u64,
}

/// What a waiter looks again for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeOn {
    /// Notices alone: whoever counts attempts makes none for a mere doubt.
    Notices,
    /// Also the doubt that something was missed.
    Doubts,
    /// As [`Doubts`](Self::Doubts), but what is told again of a release that is known is no news.
    Releases,
    /// Notices, and connections to nodes that were opened.
    Recoveries,
}

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// To be the head of the queue.
    Turn,
    /// Signals that were not seen and is worth a look.
    Signals { seen: Signals, wake_on: WakeOn },
}

/// What is known of the lock's holder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalHolder {
    /// When its lock ends at the latest, if nobody extends it.
    pub(crate) until: Instant,
    /// What had been heard when it took the lock.
    pub(crate) seen: Signals,
}

impl Queues {
    /// Takes a place at the end of the queue for `key`.
    pub(crate) fn stand(self: &Arc<Self>, key: &Key) -> Place {
        let (key, wakeup) = (key.name.clone(), Arc::new(Notify::new()));
        let mut state = lock(&self.state);
        let queue = state.queues.entry(key.clone()).or_default();
        let (waiter, arrival) = (queue.next_waiter, queue.news);
        let is_first = queue.waiters.is_empty();
        queue.next_waiter += 1;
        queue.waiters.push_back(Waiter { number: waiter, wakeup: wakeup.clone() });
        metrics::waiters(1.0);
        drop(state);
        Place { waiting: self.clone(), key, waiter, wakeup, is_first, arrival }
    }

    /// Notes that the lock with this fencing token was released, and wakes the head of the queue: for the first
    /// who tells it, and once more `at_first`, for the node that the head will ask first.
    pub(crate) fn released(&self, key: &str, token: u64, at_first: impl FnOnce() -> bool) {
        let mut state = lock(&self.state);
        let Some(queue) = state.queues.get_mut(key) else { return };
        if queue.released.replace(token) != Some(token) {
            queue.news.releases += 1;
        } else if !at_first() {
            return;
        }
        queue.news.notices += 1;
        queue.wake_head();
    }

    /// Has the head of the queue look once more: something may have been missed.
    pub(crate) fn doubt(&self, key: &str) {
        if let Some(queue) = lock(&self.state).queues.get_mut(key) {
            queue.news.doubts += 1;
            queue.wake_head();
        }
    }

    /// Has the heads of all queues look that wait for a node to come back.
    pub(crate) fn recovered(&self) {
        for queue in lock(&self.state).in_order() {
            queue.news.recoveries += 1;
            queue.wake_head();
        }
    }

    /// Notes what a round for `key` that began then says of the nodes.
    pub(crate) fn note(&self, key: &Key, began: Instant, health: &Health) {
        match health {
            Health::Answering => lock(&self.state).mended(&key.name),
            Health::Out(shortage) => {
                lock(&self.state)
                    .failed(&key.name, Outage { began, shortage: (**shortage).clone() });
            }
            Health::Unfit | Health::Unknown => {}
        }
    }

    /// The outage that lasts, as far as it is known to somebody who wants this key.
    pub(crate) fn outage(&self, key: &Key) -> Option<Outage> {
        lock(&self.state).outage_of(&key.name).cloned()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.state).queues.is_empty()
    }

    /// Sends everybody away: nothing is to be had here any more.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.in_order().into_iter().for_each(|queue| queue.wake_all());
    }
}

impl State {
    /// In the order of the keys, so that what follows can be repeated.
    fn in_order(&mut self) -> Vec<&mut Queue> {
        let mut queues: Vec<_> = self.queues.iter_mut().collect();
        queues.sort_unstable_by_key(|(key, _)| *key);
        queues.into_iter().map(|(_, queue)| queue).collect()
    }

    fn mended(&mut self, key: &str) {
        self.outage = None;
        if let Some(queue) = self.queues.get_mut(key) {
            queue.outage = None;
        }
    }

    /// Notes a round that no majority answered. Whoever waits learns of the first.
    fn failed(&mut self, key: &str, outage: Outage) {
        let is_first = last_longer(&mut self.outage, outage.clone());
        let queue = self.queues.get_mut(key);
        let is_first_here = queue.is_some_and(|queue| {
            let is_first = last_longer(&mut queue.outage, outage);
            if is_first {
                queue.wake_all();
            }
            is_first
        });
        if is_first {
            for queue in self.in_order() {
                // The others look whether it is theirs too. If this key alone is out, they do so once.
                queue.news.doubts += u64::from(is_first_here);
                queue.wake_all();
            }
        }
    }

    fn outage_of(&self, key: &str) -> Option<&Outage> {
        let of_key = self.queues.get(key).and_then(|queue| queue.outage.as_ref());
        of_key.into_iter().chain(&self.outage).min_by_key(|outage| outage.began)
    }

    fn has_happened(&self, event: Event, place: &Place) -> bool {
        let Some(queue) = self.queues.get(&*place.key).filter(|_| !self.closed) else {
            return true;
        };
        match event {
            Event::Turn => queue.head() == Some(place.waiter),
            Event::Signals { seen, wake_on } => queue.news.is_worth_a_look(seen, wake_on),
        }
    }
}

/// Notes that an outage lasts. Returns whether it is new; else it goes on as it began.
fn last_longer(known: &mut Option<Outage>, latest: Outage) -> bool {
    match known {
        Some(known) => {
            known.shortage = latest.shortage;
            false
        }
        None => {
            *known = Some(latest);
            true
        }
    }
}

impl Queue {
    fn wake_all(&self) {
        self.waiters.iter().for_each(|waiter| waiter.wakeup.notify_one());
    }

    fn wake_head(&self) {
        if let Some(head) = self.waiters.front() {
            head.wakeup.notify_one();
        }
    }

    fn head(&self) -> Option<u64> {
        self.waiters.front().map(|head| head.number)
    }
}

/// A place in a queue. Whoever drops it leaves, and the next moves up.
#[derive(Debug)]
pub(crate) struct Place {
    waiting: Arc<Queues>,
    key: Arc<str>,
    waiter: u64,
    wakeup: Arc<Notify>,
    /// Whether the queue was empty before.
    pub(crate) is_first: bool,
    /// What had been heard when the place was taken.
    pub(crate) arrival: Signals,
}

impl Place {
    /// Waits for something to happen, or for an outage to begin or end since that time. Nothing more happens once
    /// the manager is closed.
    pub(crate) async fn wait(&self, event: Event, outage: Option<Instant>) {
        // A wake-up sent before it is listened for is heard all the same.
        while !self.has_happened(event) && self.outage_began() == outage {
            self.wakeup.notified().await;
        }
    }

    /// Whether that has happened, or the manager is closed.
    pub(crate) fn has_happened(&self, event: Event) -> bool {
        lock(&self.waiting.state).has_happened(event, self)
    }

    /// When the outage began that lasts, if there is one.
    pub(crate) fn outage_began(&self) -> Option<Instant> {
        lock(&self.waiting.state).outage_of(&self.key).map(|outage| outage.began)
    }

    /// What was heard so far. Whoever asks before an attempt misses nothing after it.
    pub(crate) fn news(&self) -> Signals {
        self.read(|queue| queue.news).unwrap_or_default()
    }

    /// Tells the next in the queue that the lock was taken, so that it need not ask at once.
    pub(crate) fn leave_to(self, holder: LocalHolder) {
        // The place is left, and the next is woken, when this drops it.
        if let Some(queue) = lock(&self.waiting.state).queues.get_mut(&*self.key)
            && queue.waiters.len() > 1
        {
            queue.holder = Some(holder);
        }
    }

    /// What the one before in this queue left behind, if it took the lock and nothing was heard since.
    pub(crate) fn holder(&self) -> Option<LocalHolder> {
        let is_current =
            |holder: &LocalHolder, queue: &Queue| holder.seen.releases == queue.news.releases;
        let current = |queue: &Queue| queue.holder.filter(|holder| is_current(holder, queue));
        self.read(current).flatten()
    }

    fn read<T>(&self, read: impl FnOnce(&Queue) -> T) -> Option<T> {
        lock(&self.waiting.state).queues.get(&*self.key).map(read)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::waiters(-1.0);
        let mut state = lock(&self.waiting.state);
        let Some(queue) = state.queues.get_mut(&*self.key) else { return };
        let was_head = queue.head() == Some(self.waiter);
        if let Ok(position) =
            queue.waiters.binary_search_by_key(&self.waiter, |waiter| waiter.number)
        {
            queue.waiters.remove(position);
        }
        if queue.waiters.is_empty() {
            state.queues.remove(&*self.key);
        } else if was_head {
            queue.wake_head();
        }
    }
}

#[cfg(test)]
mod tests;
