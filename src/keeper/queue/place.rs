//! A place in a queue.

use std::sync::Arc;

use tokio::{sync::Notify, time::Instant};

use super::{Event, LocalHolder, Queue, Queues, Signals};
use crate::host::sync::lock;

/// A place in a queue. Whoever drops it leaves, and the next moves up.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) waiting: Arc<Queues>,
    /// Its name.
    pub(super) queue: Arc<str>,
    pub(super) waiter: u64,
    pub(super) wakeup: Arc<Notify>,
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
        lock(&self.waiting.state).outage_of(&self.queue).map(|outage| outage.began)
    }

    /// What was heard so far. Whoever asks before an attempt misses nothing after it.
    pub(crate) fn news(&self) -> Signals {
        self.read(|queue| queue.news).unwrap_or_default()
    }

    /// Tells the next in the queue that the lock was taken, so that it need not ask at once.
    pub(crate) fn leave_to(self, holder: LocalHolder) {
        // The place is left, and the next is woken, when this drops it.
        if let Some(queue) = lock(&self.waiting.state).queues.get_mut(&*self.queue)
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

    /// Takes the key of the group that was released last, unless somebody has taken the hint before.
    pub(crate) fn take_freed(&self) -> Option<Arc<str>> {
        lock(&self.waiting.state).queues.get_mut(&*self.queue)?.freed.take()
    }

    fn read<T>(&self, read: impl FnOnce(&Queue) -> T) -> Option<T> {
        lock(&self.waiting.state).queues.get(&*self.queue).map(read)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.waiting.state);
        let Some(queue) = state.queues.get_mut(&*self.queue) else { return };
        let was_head = queue.head() == Some(self.waiter);
        if let Ok(position) =
            queue.waiters.binary_search_by_key(&self.waiter, |waiter| waiter.number)
        {
            queue.waiters.remove(position);
        }
        if queue.waiters.is_empty() {
            state.remove(&self.queue);
        } else if was_head {
            queue.wake_head();
        }
    }
}
