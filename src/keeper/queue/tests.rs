//! Who is woken, by what, and who holds the lock of a queue.

use std::{io, time::Duration};

use futures_util::FutureExt;
use tokio::task::unconstrained;

use super::*;
use crate::{
    node::tally::Shortage,
    types::{error::NodeError, fencing::Fencing},
};

fn key(name: &str) -> [Arc<Key>; 1] {
    [Key::new("", name.to_owned(), Fencing::default()).unwrap().into()]
}

fn stand(queues: &Arc<Queues>, keys: &[Arc<Key>]) -> Place {
    queues.stand(&queue_name(keys), keys)
}

fn waiting() -> Arc<Queues> {
    Arc::default()
}

fn out(needed: usize) -> Health {
    let errors = vec![NodeError::new(&"a:1".into(), io::Error::other("no route"))];
    Health::Out(Box::new(Shortage { needed, reached: 0, errors, unheard: 0 }))
}

/// For which of the four it is worth a look what was heard since.
fn heeded(place: &Place, seen: Signals) -> [bool; 4] {
    [WakeOn::Notices, WakeOn::Doubts, WakeOn::Releases, WakeOn::Recoveries]
        .map(|wake_on| place.has_happened(Event::Signals { seen, wake_on }))
}

#[test]
fn only_the_first_finds_the_queue_empty_and_has_the_turn() {
    let (waiting, key) = (waiting(), key("k"));
    let places = [(); 3].map(|()| stand(&waiting, &key));
    assert_eq!(places.each_ref().map(|place| place.is_first), [true, false, false]);
    let turns = places.each_ref().map(|place| place.has_happened(Event::Turn));
    assert_eq!(turns, [true, false, false]);
    let elsewhere = stand(&waiting, &self::key("other"));
    assert!(elsewhere.is_first && elsewhere.has_happened(Event::Turn));
}

#[test]
fn the_turn_passes_in_the_order_of_arrival_whoever_leaves() {
    let (waiting, key) = (waiting(), key("k"));
    let [first, second, third, fourth] = [(); 4].map(|()| stand(&waiting, &key));
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
    let places = [stand(&waiting, &key), stand(&waiting, &key)];
    assert!(!waiting.is_empty());
    drop(places);
    assert!(waiting.is_empty());
}

#[test]
fn the_next_is_woken_when_the_head_leaves() {
    let (waiting, key) = (waiting(), key("k"));
    let (first, second) = (stand(&waiting, &key), stand(&waiting, &key));
    let mut turn = Box::pin(unconstrained(second.wait(Event::Turn, None)));
    assert!((&mut turn).now_or_never().is_none());
    drop(first);
    assert!((&mut turn).now_or_never().is_some());
}

#[test]
fn a_release_is_news_once_and_once_more_at_the_first_node() {
    let (waiting, key) = (waiting(), key("k"));
    let place = stand(&waiting, &key);
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
    let place = stand(&waiting, &key);
    let seen = place.news();
    waiting.doubt("k");
    assert_eq!(heeded(&place, seen), [false, true, true, false]);
    assert!(!place.news().has_notice_since(seen));
    assert_eq!(heeded(&place, place.news()), [false; 4]);
}

#[test]
fn a_node_that_is_back_is_news_for_those_who_wait_for_one() {
    let (waiting, key) = (waiting(), key("k"));
    let (place, elsewhere) = (stand(&waiting, &key), stand(&waiting, &self::key("other")));
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
    let tell: [fn(&Queues); 3] = [
        |waiting| waiting.released("k", 7, || false),
        |waiting| waiting.doubt("k"),
        Queues::recovered,
    ];
    for (tell, wake_on) in tell.iter().zip([WakeOn::Notices, WakeOn::Doubts, WakeOn::Recoveries]) {
        let place = stand(&waiting, &key);
        let news = Event::Signals { seen: place.news(), wake_on };
        let mut wait = Box::pin(unconstrained(place.wait(news, None)));
        assert!((&mut wait).now_or_never().is_none());
        tell(&waiting);
        assert!((&mut wait).now_or_never().is_some(), "{wake_on:?}");
    }
}

#[test]
fn an_outage_begins_with_its_first_round_and_tells_the_last() {
    let (waiting, key, start) = (waiting(), key("k"), Instant::now());
    let place = stand(&waiting, &key);
    assert!(waiting.outage("k").is_none() && place.outage_began().is_none());
    waiting.note(&key[0], start, &out(2));
    waiting.note(&key[0], start + SECOND, &out(3));
    waiting.note(&key[0], start + SECOND, &Health::Unknown);
    let outage = waiting.outage("k").unwrap();
    assert_eq!((outage.began, outage.shortage.needed), (start, 3));
    assert_eq!(place.outage_began(), Some(start));
    waiting.note(&key[0], start + 2 * SECOND, &Health::Answering);
    assert!(waiting.outage("k").is_none() && place.outage_began().is_none());
}

#[test]
fn an_outage_goes_for_all_keys_and_ends_only_for_those_that_are_answered() {
    let (waiting, out_of, answered) = (waiting(), key("out"), key("answered"));
    let (here, there, start) =
        (stand(&waiting, &out_of), stand(&waiting, &answered), Instant::now());
    waiting.note(&out_of[0], start, &out(2));
    assert_eq!(there.outage_began(), Some(start));
    waiting.note(&answered[0], start + SECOND, &Health::Answering);
    assert_eq!((here.outage_began(), there.outage_began()), (Some(start), None));
}

#[test]
fn whoever_waits_learns_of_an_outage_once() {
    let (waiting, key, start) = (waiting(), key("k"), Instant::now());
    let (_head, second) = (stand(&waiting, &key), stand(&waiting, &key));
    let elsewhere = stand(&waiting, &self::key("other"));
    let seen = elsewhere.news();
    let mut turn = Box::pin(unconstrained(second.wait(Event::Turn, None)));
    let news = Event::Signals { seen, wake_on: WakeOn::Notices };
    let mut other = Box::pin(unconstrained(elsewhere.wait(news, None)));
    assert!((&mut turn).now_or_never().is_none() && (&mut other).now_or_never().is_none());
    waiting.note(&key[0], start, &out(2));
    assert!((&mut turn).now_or_never().is_some() && (&mut other).now_or_never().is_some());
    // They look whether it is theirs too, for which there is one reason.
    assert_eq!(heeded(&elsewhere, seen), [false, true, true, false]);
    let seen = elsewhere.news();
    waiting.note(&key[0], start + SECOND, &out(2));
    assert_eq!(heeded(&elsewhere, seen), [false; 4]);
}

#[test]
fn an_outage_of_a_key_that_nobody_waits_for_is_no_reason_to_look() {
    let (waiting, start) = (waiting(), Instant::now());
    let place = stand(&waiting, &key("k"));
    let seen = place.news();
    waiting.note(&key("other")[0], start, &out(2));
    assert_eq!((place.news(), place.outage_began()), (seen, Some(start)));
}

#[test]
fn whoever_takes_the_lock_tells_the_next_until_it_is_released() {
    let (waiting, key) = (waiting(), key("k"));
    let (first, second) = (stand(&waiting, &key), stand(&waiting, &key));
    let holder = LocalHolder { until: Instant::now(), seen: first.news() };
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
    let only = stand(&waiting, &key);
    let holder = LocalHolder { until: Instant::now(), seen: only.news() };
    only.leave_to(holder);
    assert!(waiting.is_empty());
}

#[test]
fn everything_has_happened_once_it_is_closed() {
    let (waiting, key) = (waiting(), key("k"));
    let (head, second) = (stand(&waiting, &key), stand(&waiting, &key));
    let news = Event::Signals { seen: head.news(), wake_on: WakeOn::Notices };
    let mut waits = [(&head, news), (&second, Event::Turn)]
        .map(|(place, event)| Box::pin(unconstrained(place.wait(event, None))));
    assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
    waiting.close();
    assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_some()));
}

const SECOND: Duration = Duration::from_secs(1);
