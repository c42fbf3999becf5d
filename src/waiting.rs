//! Waiting: this process' waiters for a key stand in a queue, and only its head asks the nodes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use tokio::{sync::Notify, time::Instant};

use crate::{key::Key, metrics, sync::lock};

/// The queues of a manager, one for each key that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<Arc<str>, Queue>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    /// Who waits, in the order of arrival.
    seats: VecDeque<Seat>,
    next_seat: u64,
    news: News,
    /// The fencing token of the lock that was released last.
    released: Option<u64>,
    /// Somebody of this queue holds the lock.
    holder: Option<Holder>,
}

impl News {
    pub(crate) const fn has_notice_since(self, seen: Self) -> bool {
        self.notices > seen.notices
    }
}

/// A waiter's number, and what wakes it.
#[derive(Debug)]
struct Seat {
    number: u64,
    bell: Arc<Notify>,
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
    /// As [`Doubts`](Self::Doubts), but what is told again of a release that is known is no news.
    Releases,
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
    pub(crate) fn stand(self: &Arc<Self>, key: &Key) -> Place {
        let (key, bell) = (key.name.clone(), Arc::new(Notify::new()));
        let mut state = lock(&self.state);
        let queue = state.queues.entry(key.clone()).or_default();
        let (seat, arrival) = (queue.next_seat, queue.news);
        let is_first = queue.seats.is_empty();
        queue.next_seat += 1;
        queue.seats.push_back(Seat { number: seat, bell: bell.clone() });
        metrics::waiters(1.0);
        drop(state);
        Place { waiting: self.clone(), key, seat, bell, is_first, arrival }
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

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.state).queues.is_empty()
    }

    /// Sends everybody away: nothing is to be had here any more.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        // In the order of the keys, so that what follows can be repeated.
        let mut queues: Vec<_> = state.queues.iter().collect();
        queues.sort_unstable_by_key(|(key, _)| *key);
        for seat in queues.into_iter().flat_map(|(_, queue)| &queue.seats) {
            seat.bell.notify_one();
        }
    }
}

impl Queue {
    fn wake_head(&self) {
        if let Some(head) = self.seats.front() {
            head.bell.notify_one();
        }
    }

    fn head(&self) -> Option<u64> {
        self.seats.front().map(|head| head.number)
    }
}

/// A place in a queue. Whoever drops it leaves, and the next moves up.
#[derive(Debug)]
pub(crate) struct Place {
    waiting: Arc<Waiting>,
    key: Arc<str>,
    seat: u64,
    bell: Arc<Notify>,
    /// Whether the queue was empty before.
    pub(crate) is_first: bool,
    /// What had been heard when the place was taken.
    pub(crate) arrival: News,
}

impl Place {
    /// Waits until this is the head of the queue, or the manager is closed.
    pub(crate) async fn is_head(&self) {
        self.until(|queue| queue.head() == Some(self.seat)).await;
    }

    /// Waits until there is news that was not `seen` and is worth a look, or the manager is closed.
    pub(crate) async fn news_since(&self, seen: News, heed: Heed) {
        let is_news = |queue: &Queue| {
            let News { releases, notices, doubts } = queue.news;
            match heed {
                Heed::Notices => notices > seen.notices,
                Heed::Doubts => notices > seen.notices || doubts > seen.doubts,
                Heed::Releases => releases > seen.releases || doubts > seen.doubts,
            }
        };
        self.until(is_news).await;
    }

    /// What was heard so far. Whoever asks before an attempt misses nothing after it.
    pub(crate) fn news(&self) -> News {
        self.read(|queue| queue.news).unwrap_or_default()
    }

    /// Tells the next in the queue that the lock was taken, so that it need not ask at once.
    pub(crate) fn leave_to(self, holder: Holder) {
        // The place is left, and the next is woken, when this drops it.
        if let Some(queue) = lock(&self.waiting.state).queues.get_mut(&*self.key)
            && queue.seats.len() > 1
        {
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
        lock(&self.waiting.state).queues.get(&*self.key).map(read)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::waiters(-1.0);
        let mut state = lock(&self.waiting.state);
        let Some(queue) = state.queues.get_mut(&*self.key) else { return };
        let was_head = queue.head() == Some(self.seat);
        if let Ok(position) = queue.seats.binary_search_by_key(&self.seat, |seat| seat.number) {
            queue.seats.remove(position);
        }
        if queue.seats.is_empty() {
            state.queues.remove(&*self.key);
        } else if was_head {
            queue.wake_head();
        }
    }
}
