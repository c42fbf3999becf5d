//! Waiting: this process' waiters for a key stand in a queue, and only its head asks the nodes.

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
pub(crate) struct Waiting {
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
    seats: VecDeque<Seat>,
    next_seat: u64,
    news: News,
    /// The fencing token of the lock that was released last.
    released: Option<u64>,
    /// Somebody of this queue holds the lock.
    holder: Option<Holder>,
    /// The same as the manager's, but only rounds for this key end it: a cluster may be without some of its keys.
    outage: Option<Outage>,
}

impl News {
    fn is_worth_a_look(self, seen: Self, heed: Heed) -> bool {
        let is_notice = self.notices > seen.notices;
        let is_doubt = self.doubts > seen.doubts;
        match heed {
            Heed::Notices => is_notice,
            Heed::Doubts => is_notice || is_doubt,
            Heed::Releases => self.releases > seen.releases || is_doubt,
            Heed::Recoveries => is_notice || self.recoveries > seen.recoveries,
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
struct Seat {
    number: u64,
    bell: Arc<Notify>,
}

/// How much was heard of a key so far: whoever keeps a copy can tell whether there is more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
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
pub(crate) enum Heed {
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
    /// News that was not seen and is worth a look.
    News { seen: News, heed: Heed },
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
            Event::Turn => queue.head() == Some(place.seat),
            Event::News { seen, heed } => queue.news.is_worth_a_look(seen, heed),
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
        self.seats.iter().for_each(|seat| seat.bell.notify_one());
    }

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
    /// Waits for something to happen, or for an outage to begin or end since that time. Nothing more happens once
    /// the manager is closed.
    pub(crate) async fn wait(&self, event: Event, outage: Option<Instant>) {
        // A bell rung before it is listened for is heard all the same.
        while !self.has_happened(event) && self.outage_began() == outage {
            self.bell.notified().await;
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

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use futures_util::FutureExt;
    use tokio::task::unconstrained;

    use super::*;
    use crate::{node::tally::Shortage, types::error::NodeError};

    fn key(name: &str) -> Key {
        Key::new("", name.to_owned()).unwrap()
    }

    fn waiting() -> Arc<Waiting> {
        Arc::default()
    }

    fn out(needed: usize) -> Health {
        let errors = vec![NodeError::new(&"a:1".into(), io::Error::other("no route"))];
        Health::Out(Box::new(Shortage { needed, reached: 0, errors, unheard: 0 }))
    }

    /// For which of the four it is worth a look what was heard since.
    fn heeded(place: &Place, seen: News) -> [bool; 4] {
        [Heed::Notices, Heed::Doubts, Heed::Releases, Heed::Recoveries]
            .map(|heed| place.has_happened(Event::News { seen, heed }))
    }

    #[test]
    fn only_the_first_finds_the_queue_empty_and_has_the_turn() {
        let (waiting, key) = (waiting(), key("k"));
        let places = [(); 3].map(|()| waiting.stand(&key));
        assert_eq!(places.each_ref().map(|place| place.is_first), [true, false, false]);
        let turns = places.each_ref().map(|place| place.has_happened(Event::Turn));
        assert_eq!(turns, [true, false, false]);
        let elsewhere = waiting.stand(&self::key("other"));
        assert!(elsewhere.is_first && elsewhere.has_happened(Event::Turn));
    }

    #[test]
    fn the_turn_passes_in_the_order_of_arrival_whoever_leaves() {
        let (waiting, key) = (waiting(), key("k"));
        let [first, second, third, fourth] = [(); 4].map(|()| waiting.stand(&key));
        drop(second);
        assert!(first.has_happened(Event::Turn) && !third.has_happened(Event::Turn));
        drop(first);
        assert!(third.has_happened(Event::Turn) && !fourth.has_happened(Event::Turn));
        drop(third);
        assert!(fourth.has_happened(Event::Turn));
    }

    #[test]
    fn a_queue_goes_with_its_last() {
        let (waiting, key) = (waiting(), key("k"));
        let places = [waiting.stand(&key), waiting.stand(&key)];
        assert!(!waiting.is_empty());
        drop(places);
        assert!(waiting.is_empty());
    }

    #[test]
    fn the_next_is_woken_when_the_head_leaves() {
        let (waiting, key) = (waiting(), key("k"));
        let (first, second) = (waiting.stand(&key), waiting.stand(&key));
        let mut turn = Box::pin(unconstrained(second.wait(Event::Turn, None)));
        assert!((&mut turn).now_or_never().is_none());
        drop(first);
        assert!((&mut turn).now_or_never().is_some());
    }

    #[test]
    fn a_release_is_news_once_and_once_more_at_the_first_node() {
        let (waiting, key) = (waiting(), key("k"));
        let place = waiting.stand(&key);
        let seen = place.news();
        waiting.released("other", 7, || true);
        assert_eq!(place.news(), seen);
        waiting.released("k", 7, || false);
        assert_eq!(heeded(&place, seen), [true; 4]);
        assert!(place.news().has_notice_since(seen) && !seen.has_notice_since(seen));
        let seen = place.news();
        waiting.released("k", 7, || false);
        assert_eq!(heeded(&place, seen), [false; 4]);
        waiting.released("k", 7, || true);
        assert_eq!(heeded(&place, seen), [true, true, false, true]);
        let seen = place.news();
        waiting.released("k", 8, || false);
        assert_eq!(heeded(&place, seen), [true; 4]);
    }

    #[test]
    fn a_doubt_is_no_notice() {
        let (waiting, key) = (waiting(), key("k"));
        let place = waiting.stand(&key);
        let seen = place.news();
        waiting.doubt("k");
        assert_eq!(heeded(&place, seen), [false, true, true, false]);
        assert!(!place.news().has_notice_since(seen));
        assert_eq!(heeded(&place, place.news()), [false; 4]);
    }

    #[test]
    fn a_node_that_is_back_is_news_for_those_who_wait_for_one() {
        let (waiting, key) = (waiting(), key("k"));
        let (place, elsewhere) = (waiting.stand(&key), waiting.stand(&self::key("other")));
        let seen = place.news();
        waiting.recovered();
        assert_eq!(heeded(&place, seen), [false, false, false, true]);
        assert_eq!(heeded(&elsewhere, seen), [false, false, false, true]);
        let known = seen.with_recoveries_of(place.news());
        assert_eq!(heeded(&place, known), [false; 4]);
    }

    #[test]
    fn news_wakes_the_head() {
        let (waiting, key) = (waiting(), key("k"));
        let tell: [fn(&Waiting); 3] = [
            |waiting| waiting.released("k", 7, || false),
            |waiting| waiting.doubt("k"),
            Waiting::recovered,
        ];
        for (tell, heed) in tell.iter().zip([Heed::Notices, Heed::Doubts, Heed::Recoveries]) {
            let place = waiting.stand(&key);
            let news = Event::News { seen: place.news(), heed };
            let mut wait = Box::pin(unconstrained(place.wait(news, None)));
            assert!((&mut wait).now_or_never().is_none());
            tell(&waiting);
            assert!((&mut wait).now_or_never().is_some(), "{heed:?}");
        }
    }

    #[test]
    fn an_outage_begins_with_its_first_round_and_tells_the_last() {
        let (waiting, key, start) = (waiting(), key("k"), Instant::now());
        let place = waiting.stand(&key);
        assert!(waiting.outage(&key).is_none() && place.outage_began().is_none());
        waiting.note(&key, start, &out(2));
        waiting.note(&key, start + SECOND, &out(3));
        waiting.note(&key, start + SECOND, &Health::Unknown);
        let outage = waiting.outage(&key).unwrap();
        assert_eq!((outage.began, outage.shortage.needed), (start, 3));
        assert_eq!(place.outage_began(), Some(start));
        waiting.note(&key, start + 2 * SECOND, &Health::Answering);
        assert!(waiting.outage(&key).is_none() && place.outage_began().is_none());
    }

    #[test]
    fn an_outage_goes_for_all_keys_and_ends_only_for_those_that_are_answered() {
        let (waiting, out_of, answered) = (waiting(), key("out"), key("answered"));
        let (here, there, start) =
            (waiting.stand(&out_of), waiting.stand(&answered), Instant::now());
        waiting.note(&out_of, start, &out(2));
        assert_eq!(there.outage_began(), Some(start));
        waiting.note(&answered, start + SECOND, &Health::Answering);
        assert_eq!((here.outage_began(), there.outage_began()), (Some(start), None));
    }

    #[test]
    fn whoever_waits_learns_of_an_outage_once() {
        let (waiting, key, start) = (waiting(), key("k"), Instant::now());
        let (_head, second) = (waiting.stand(&key), waiting.stand(&key));
        let elsewhere = waiting.stand(&self::key("other"));
        let seen = elsewhere.news();
        let mut turn = Box::pin(unconstrained(second.wait(Event::Turn, None)));
        let news = Event::News { seen, heed: Heed::Notices };
        let mut other = Box::pin(unconstrained(elsewhere.wait(news, None)));
        assert!((&mut turn).now_or_never().is_none() && (&mut other).now_or_never().is_none());
        waiting.note(&key, start, &out(2));
        assert!((&mut turn).now_or_never().is_some() && (&mut other).now_or_never().is_some());
        // They look whether it is theirs too, for which there is one reason.
        assert_eq!(heeded(&elsewhere, seen), [false, true, true, false]);
        let seen = elsewhere.news();
        waiting.note(&key, start + SECOND, &out(2));
        assert_eq!(heeded(&elsewhere, seen), [false; 4]);
    }

    #[test]
    fn an_outage_of_a_key_that_nobody_waits_for_is_no_reason_to_look() {
        let (waiting, start) = (waiting(), Instant::now());
        let place = waiting.stand(&key("k"));
        let seen = place.news();
        waiting.note(&key("other"), start, &out(2));
        assert_eq!((place.news(), place.outage_began()), (seen, Some(start)));
    }

    #[test]
    fn whoever_takes_the_lock_tells_the_next_until_it_is_released() {
        let (waiting, key) = (waiting(), key("k"));
        let (first, second) = (waiting.stand(&key), waiting.stand(&key));
        let holder = Holder { until: Instant::now(), seen: first.news() };
        assert!(second.holder().is_none());
        first.leave_to(holder);
        assert_eq!(second.holder().map(|holder| holder.until), Some(holder.until));
        waiting.doubt("k");
        assert!(second.holder().is_some());
        waiting.released("k", 7, || false);
        assert!(second.holder().is_none());
    }

    #[test]
    fn nobody_is_left_to_be_told_who_took_the_lock() {
        let (waiting, key) = (waiting(), key("k"));
        let only = waiting.stand(&key);
        let holder = Holder { until: Instant::now(), seen: only.news() };
        only.leave_to(holder);
        assert!(waiting.is_empty());
    }

    #[test]
    fn everything_has_happened_once_it_is_closed() {
        let (waiting, key) = (waiting(), key("k"));
        let (head, second) = (waiting.stand(&key), waiting.stand(&key));
        let news = Event::News { seen: head.news(), heed: Heed::Notices };
        let mut waits = [(&head, news), (&second, Event::Turn)]
            .map(|(place, event)| Box::pin(unconstrained(place.wait(event, None))));
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        waiting.close();
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_some()));
    }

    const SECOND: Duration = Duration::from_secs(1);
}
