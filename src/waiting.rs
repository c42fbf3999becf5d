//! Waiting: this process' waiters for a key stand in a queue, and only its head asks the nodes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::{sync::Notify, time::Instant};

use crate::sync::lock;

/// The queues of a manager, one for each key that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queues: BTreeMap<String, Queue>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    /// Who waits, by the order of arrival, and what wakes them.
    seats: BTreeMap<u64, Arc<Notify>>,
    next_seat: u64,
    news: News,
    /// The fencing token of the lock that was released last.
    released: Option<u64>,
    /// Somebody of this queue holds the lock.
    holder: Option<Holder>,
}

/// How much was heard of a key so far: whoever keeps a copy can tell whether there is more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News {
    /// Locks that were released.
    releases: u64,
    /// Notices worth a look: one release may be told by several nodes.
    notices: u64,
    /// Reasons to look because something may have been missed.
    doubts: u64,
}

/// What a waiter looks again for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heed {
    /// Notices alone: whoever counts attempts makes none for a mere doubt.
    Notices,
    /// Also the doubt that something was missed.
    Doubts,
}

/// What is known of the lock's holder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    /// When its lock ends at the latest, if nobody extends it.
    pub(crate) until: Instant,
    /// What had been heard when it took the lock.
    pub(crate) seen: News,
}

impl Waiting {
    /// Takes a place at the end of the queue for `key`.
    pub(crate) fn stand(self: &Arc<Self>, key: &str) -> Place {
        let mut state = lock(&self.state);
        let queue = state.queues.entry(key.to_owned()).or_default();
        let seat = queue.next_seat;
        queue.next_seat += 1;
        let bell = Arc::new(Notify::new());
        queue.seats.insert(seat, bell.clone());
        Place { waiting: self.clone(), key: key.to_owned(), seat, bell }
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

    /// Sends everybody away: nothing is to be had here any more.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        for bell in state.queues.values().flat_map(|queue| queue.seats.values()) {
            bell.notify_one();
        }
    }
}

impl Queue {
    fn wake_head(&self) {
        if let Some((_, bell)) = self.seats.first_key_value() {
            bell.notify_one();
        }
    }

    fn head(&self) -> Option<u64> {
        self.seats.first_key_value().map(|(seat, _)| *seat)
    }
}

/// A place in a queue. Whoever drops it leaves, and the next moves up.
#[derive(Debug)]
pub(crate) struct Place {
    waiting: Arc<Waiting>,
    key: String,
    seat: u64,
    bell: Arc<Notify>,
}

impl Place {
    /// Waits until this is the head of the queue, or the manager is closed.
    pub(crate) async fn is_head(&self) {
        self.until(|queue| queue.head() == Some(self.seat)).await;
    }

    /// Waits until there is news that was not `seen` and is worth a look, or the manager is closed.
    pub(crate) async fn news_since(&self, seen: News, heed: Heed) {
        let is_news = |queue: &Queue| {
            let has_doubts = queue.news.doubts > seen.doubts;
            queue.news.notices > seen.notices || heed == Heed::Doubts && has_doubts
        };
        self.until(is_news).await;
    }

    /// What was heard so far. Whoever asks before an attempt misses nothing after it.
    pub(crate) fn news(&self) -> News {
        self.read(|queue| queue.news).unwrap_or_default()
    }

    /// Tells the next in the queue that the lock was taken, so that it need not ask at once.
    pub(crate) fn leave_to(self, holder: Holder) {
        if let Some(queue) = lock(&self.waiting.state).queues.get_mut(&self.key) {
            queue.holder = Some(holder);
        }
    }

    /// What the one before in this queue left behind, if it took the lock and nothing was heard since.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let is_current =
            |holder: &Holder, queue: &Queue| holder.seen.releases == queue.news.releases;
        let current = |queue: &Queue| queue.holder.filter(|holder| is_current(holder, queue));
        self.read(current).flatten()
    }

    async fn until(&self, condition: impl Fn(&Queue) -> bool) {
        loop {
            let is_closed = lock(&self.waiting.state).closed;
            if is_closed || self.read(&condition).unwrap_or(true) {
                return;
            }
            // A bell rung before this is heard all the same.
            self.bell.notified().await;
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Queue) -> T) -> Option<T> {
        lock(&self.waiting.state).queues.get(&self.key).map(read)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.waiting.state);
        let Some(queue) = state.queues.get_mut(&self.key) else { return };
        let was_head = queue.head() == Some(self.seat);
        queue.seats.remove(&self.seat);
        if queue.seats.is_empty() {
            state.queues.remove(&self.key);
        } else if was_head {
            queue.wake_head();
        }
    }
}
