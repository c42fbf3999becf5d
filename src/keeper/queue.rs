//! Queues: this process' waiters for a key stand in a queue, and only its head asks the nodes.

mod place;
mod signals;

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
};

use tokio::{sync::Notify, time::Instant};

pub(crate) use self::{
    place::Place,
    signals::{Event, LocalHolder, Signals, WakeOn},
};
use crate::{
    host::sync::lock,
    keeper::{
        observers::{Hearing, Observers},
        outage::{Health, Outage},
    },
    types::key::{Key, LONGEST_KEY},
};

/// The queues of a manager, one for each key that somebody waits for, and for each group of keys of which any will do.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    state: Mutex<State>,
    observers: Observers,
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<Arc<str>, Queue>,
    /// The names of the groups' queues, by each key of the group.
    groups: HashMap<Arc<str>, Vec<Arc<str>>>,
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
    /// The lock that was released last: its key, for a group, and its fencing token.
    released: Option<(Option<Arc<str>>, u64)>,
    /// The key of a group that was released, and that nobody has tried since.
    freed: Option<Arc<str>>,
    /// The keys of a group.
    group: Box<[Arc<str>]>,
    /// Somebody of this queue holds the lock.
    holder: Option<LocalHolder>,
    /// The same as the manager's, but only rounds for this key end it: a cluster may be without some of its keys.
    outage: Option<Outage>,
}

/// A waiter's number, and what wakes it.
#[derive(Debug)]
struct Waiter {
    number: u64,
    wakeup: Arc<Notify>,
}

impl Queues {
    /// Takes a place at the end of the queue of those who want the one key, or any of the several: see [`queue_name`].
    pub(crate) fn stand(self: &Arc<Self>, name: &Arc<str>, keys: &[Arc<Key>]) -> Place {
        let (name, wakeup) = (name.clone(), Arc::new(Notify::new()));
        let mut state = lock(&self.state);
        let queue = state.join(&name, keys);
        let (waiter, arrival) = (queue.next_waiter, queue.news);
        let is_first = queue.waiters.is_empty();
        queue.next_waiter += 1;
        queue.waiters.push_back(Waiter { number: waiter, wakeup: wakeup.clone() });
        drop(state);
        Place { waiting: self.clone(), queue: name, waiter, wakeup, is_first, arrival }
    }

    /// Hears of a key's releases without standing in its queue, as long as the returned value lives.
    pub(crate) fn observe(&self, key: &Key) -> Arc<Hearing> {
        self.observers.observe(&key.name)
    }

    /// Notes that the lock with this fencing token was released, and wakes the head of the queue: for the first
    /// who tells it, and once more `at_first`, for the node that the head will ask first.
    pub(crate) fn released(&self, key: &str, token: u64, at_first: impl Fn() -> bool) {
        self.observers.tell(key, Some(token));
        lock(&self.state).each_about(key, |queue, slot| {
            let release = Some((slot.cloned(), token));
            if queue.released != release {
                queue.news.releases += 1;
                (queue.released, queue.freed) = (release, slot.cloned());
            } else if !at_first() {
                return;
            }
            queue.news.notices += 1;
            queue.wake_head();
        });
    }

    /// Has the head of the queue look once more: something may have been missed.
    pub(crate) fn doubt(&self, key: &str) {
        self.observers.tell(key, None);
        lock(&self.state).each_about(key, |queue, _| {
            queue.news.doubts += 1;
            queue.wake_head();
        });
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

    /// The outage that lasts, as far as it is known to somebody in this queue.
    pub(crate) fn outage(&self, queue: &str) -> Option<Outage> {
        lock(&self.state).outage_of(queue).cloned()
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
        drop(state);
        self.observers.tell_all();
    }
}

impl State {
    /// In the order of the keys, so that what follows can be repeated.
    fn in_order(&mut self) -> Vec<&mut Queue> {
        let mut queues: Vec<_> = self.queues.iter_mut().collect();
        queues.sort_unstable_by_key(|(key, _)| *key);
        queues.into_iter().map(|(_, queue)| queue).collect()
    }

    /// The queue of this name, and that of its group if it is a new one.
    fn join(&mut self, name: &Arc<str>, keys: &[Arc<Key>]) -> &mut Queue {
        let Self { queues, groups, .. } = self;
        queues.entry(name.clone()).or_insert_with(|| {
            let group = if keys.len() > 1 { keys } else { &[] };
            for key in group {
                groups.entry(key.name.clone()).or_default().push(name.clone());
            }
            Queue { group: group.iter().map(|key| key.name.clone()).collect(), ..Queue::default() }
        })
    }

    /// Removes a queue that nobody stands in.
    fn remove(&mut self, name: &Arc<str>) {
        for key in self.queues.remove(name).into_iter().flat_map(|queue| queue.group) {
            if let Entry::Occupied(mut groups) = self.groups.entry(key) {
                groups.get_mut().retain(|group| group != name);
                if groups.get().is_empty() {
                    groups.remove();
                }
            }
        }
    }

    /// Goes through the queues of those who want this key: alone, or as one of a group, of which it is told then.
    fn each_about(&mut self, key: &str, mut each: impl FnMut(&mut Queue, Option<&Arc<str>>)) {
        if let Some(queue) = self.queues.get_mut(key) {
            each(queue, None);
        }
        let Some((key, groups)) = self.groups.get_key_value(key) else { return };
        for group in groups {
            if let Some(queue) = self.queues.get_mut(group) {
                each(queue, Some(key));
            }
        }
    }

    fn mended(&mut self, key: &str) {
        self.outage = None;
        self.each_about(key, |queue, _| queue.outage = None);
    }

    /// Notes a round that no majority answered. Whoever waits learns of the first.
    fn failed(&mut self, key: &str, outage: Outage) {
        let is_first = last_longer(&mut self.outage, outage.clone());
        let mut is_first_here = false;
        self.each_about(key, |queue, _| {
            if last_longer(&mut queue.outage, outage.clone()) {
                is_first_here = true;
                queue.wake_all();
            }
        });
        if is_first {
            for queue in self.in_order() {
                // The others look whether it is theirs too. If this key alone is out, they do so once.
                queue.news.doubts += u64::from(is_first_here);
                queue.wake_all();
            }
        }
    }

    fn outage_of(&self, queue: &str) -> Option<&Outage> {
        let of_queue = self.queues.get(queue).and_then(|queue| queue.outage.as_ref());
        of_queue.into_iter().chain(&self.outage).min_by_key(|outage| outage.began)
    }

    fn has_happened(&self, event: Event, place: &Place) -> bool {
        let Some(queue) = self.queues.get(&*place.queue).filter(|_| !self.closed) else {
            return true;
        };
        match event {
            Event::Turn => queue.head() == Some(place.waiter),
            Event::Signals { seen, wake_on } => queue.news.is_worth_a_look(seen, wake_on),
        }
    }
}

/// The name of the queue for the one key, or for any of the several. That of a group is longer than any key.
pub(crate) fn queue_name(keys: &[Arc<Key>]) -> Arc<str> {
    if let [key] = keys {
        return key.name.clone();
    }
    let mut hasher = DefaultHasher::new();
    keys.iter().for_each(|key| key.name.hash(&mut hasher));
    format!("any of {:x} {:>width$}", hasher.finish(), keys.len(), width = LONGEST_KEY).into()
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

#[cfg(test)]
mod tests;
