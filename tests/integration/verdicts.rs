//! Held, unreachable and too late are told apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redlatch::{ClockDrift, Error, LockManager, LockManagerBuilder, Retry};

use crate::support::{Proxy, Server, Site, eventually, millis, on_servers, secs, within};

on_servers!(
    a_grant_that_comes_too_late_is_told_as_such,
    a_grant_that_comes_too_late_leaves_nothing_behind,
    acquire_gives_up_after_rounds_in_a_row_that_came_too_late,
    retries_used_up_by_late_rounds_are_told_as_such,
    late_nodes_that_hurry_up_are_fine,
    the_time_of_the_round_is_taken_off_the_validity,
    the_time_of_an_extend_is_taken_off_the_validity,
);

#[tokio::test]
async fn held_by_a_majority_beside_a_dead_node_is_held() {
    for dead in 0..3 {
        let site = site_of(&places(3, dead, &[Dead], Held));
        let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
        assert_held(&error);
        let request = site.manager().lock("k").wait_timeout(millis(50));
        let error = within(request.acquire()).await.unwrap_err();
        assert!(error.is_timeout() && error.is_contended() && !error.is_unavailable());
    }
}

#[tokio::test]
async fn held_by_a_majority_beside_a_silent_node_is_held() {
    for silent in 0..3 {
        let site = site_of(&places(3, silent, &[Silent], Held));
        let builder = site.builder().node_timeout(secs(3600));
        let manager = builder.build().unwrap();
        let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
        assert_held(&error);
    }
}

#[tokio::test]
async fn held_by_a_minority_beside_a_dead_node_is_unavailable() {
    for turn in 0..3 {
        let site = site_of(&places(3, turn, &[Dead, Held], Free));
        let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
        assert_unavailable(&site, &error, turn, (2, 2));
        eventually("the free node is free again", async || {
            site.all()[(turn + 2) % 3].lock_keys().is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn held_by_a_minority_beside_a_silent_node_is_unavailable() {
    let site = site_of(&[Silent, Held, Free]);
    let manager = site.builder().node_timeout(millis(500)).build().unwrap();
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert_unavailable(&site, &error, 0, (2, 2));
}

#[tokio::test]
async fn held_by_one_of_three_with_the_others_dead_is_unavailable() {
    let site = site_of(&[Dead, Dead, Held]);
    let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { needed: 2, reached: 0..=1, .. }), "{error:?}");
    assert_eq!(error.node_errors().len(), 2);
}

#[tokio::test]
async fn three_of_five_held_beside_two_dead_nodes_is_held() {
    let site = site_of(&[Dead, Held, Held, Dead, Held]);
    assert_held(&within(site.manager().lock("k").try_acquire()).await.unwrap_err());
}

#[tokio::test]
async fn two_of_five_held_beside_two_dead_nodes_is_unavailable() {
    let site = site_of(&[Held, Dead, Free, Held, Dead]);
    let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { needed: 3, reached: 2..=3, .. }), "{error:?}");
    assert_eq!(error.node_errors().len(), 2);
}

#[tokio::test]
async fn two_of_five_held_beside_three_dead_nodes_is_unavailable() {
    let site = site_of(&[Dead, Held, Held, Dead, Dead]);
    let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { needed: 3, reached: 0..=2, .. }), "{error:?}");
}

#[tokio::test]
async fn two_of_five_held_beside_one_dead_node_is_free() {
    let site = site_of(&[Held, Held, Free, Free, Free]);
    drop(within(site.manager().lock("k").try_acquire()).await.unwrap());
    let site = site_of(&[Held, Dead, Free, Free, Free]);
    drop(within(site.manager().lock("k").try_acquire()).await.unwrap());
}

#[tokio::test]
async fn two_of_four_are_no_majority() {
    let site = site_of(&[Held, Held, Free, Free]);
    assert_held(&within(site.manager().lock("k").try_acquire()).await.unwrap_err());
    let site = site_of(&[Dead, Dead, Free, Free]);
    let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { needed: 3, .. }), "{error:?}");
    let site = site_of(&[Dead, Free, Free, Free]);
    drop(within(site.manager().lock("k").try_acquire()).await.unwrap());
}

#[tokio::test]
async fn the_wait_goes_on_while_a_majority_answers() {
    let site = site_of(&[Dead, Held, Free]);
    let manager = site.builder().outage_patience(Duration::ZERO).build().unwrap();
    let (rounds, retry) = counted();
    let waiting = tokio::spawn(manager.lock("k").retry(retry).acquire());
    eventually("it makes some rounds", async || rounds.load(Ordering::SeqCst) > 3).await;
    site.all()[1].del("k");
    drop(within(waiting).await.unwrap().expect("the holder is gone"));
}

#[tokio::test]
async fn retry_after_is_no_later_than_when_a_majority_can_be_free() {
    for (nodes, at_most) in [
        (&[Until(100)][..], 100),
        (&[Until(1000), Until(100), Free][..], 100),
        (&[Until(100), Until(1000), Until(500)][..], 500),
        (&[Until(1000), Until(100), Dead][..], 1000),
        (&[Until(100), Until(200), Until(300), Free, Free][..], 100),
        (&[Until(500), Until(400), Until(300), Until(200), Until(100)][..], 300),
    ] {
        let site = site_of(nodes);
        let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
        let Error::AlreadyHeld { retry_after: Some(left), .. } = error else {
            panic!("{nodes:?}: {error:?}");
        };
        assert!(!left.is_zero() && left <= secs(at_most), "{nodes:?}: {left:?}");
    }
}

async fn a_grant_that_comes_too_late_is_told_as_such(site: Site) {
    let (_proxies, manager) = slow(&site, 300);
    let error = within(manager.lock("k").ttl(millis(100)).try_acquire()).await.unwrap_err();
    let Error::ValidityExpired { key, ttl, elapsed, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((key.as_str(), *ttl), ("k", millis(100)));
    assert!(*elapsed >= millis(300), "{elapsed:?}");
    assert!(error.key() == Some("k") && error.node_errors().is_empty());
    assert!(![error.is_contended(), error.is_unavailable(), error.is_timeout()].contains(&true));
    assert!(![error.is_not_held(), error.is_lost(), error.is_config()].contains(&true));
}

async fn a_grant_that_comes_too_late_leaves_nothing_behind(site: Site) {
    // Held until the drift allowance eats up what the delay has left; the key itself lives on.
    let (_proxies, builder) = slow_builder(&site, 300);
    let drift = ClockDrift::new(0.0, millis(599_900));
    let manager = builder.ttl(secs(600)).clock_drift(drift).build().unwrap();
    let error = within(manager.lock("k").try_acquire()).await.unwrap_err();
    assert!(matches!(error, Error::ValidityExpired { .. }), "{error:?}");
    site.empties("k").await;
}

async fn acquire_gives_up_after_rounds_in_a_row_that_came_too_late(site: Site) {
    let (_proxies, builder) = slow_builder(&site, 60);
    let manager = builder.build().unwrap();
    let (pauses, retry) = counted();
    let request = manager.lock("k").ttl(millis(40)).retry(retry);
    let error = within(request.acquire()).await.unwrap_err();
    assert!(matches!(error, Error::ValidityExpired { .. }), "{error:?}");
    assert_eq!(pauses.load(Ordering::SeqCst), 2, "two pauses between three rounds");
}

async fn retries_used_up_by_late_rounds_are_told_as_such(site: Site) {
    let (_proxies, manager) = slow(&site, 60);
    let retry = Retry::jittered(millis(1), millis(1)).max_retries(1);
    let request = manager.lock("k").ttl(millis(40)).retry(retry);
    let error = within(request.acquire()).await.unwrap_err();
    let Error::RetriesExhausted { attempts: 2, source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(**source, Error::ValidityExpired { .. }), "{source:?}");
    assert!(!error.is_contended() && !error.is_unavailable());
}

async fn late_nodes_that_hurry_up_are_fine(site: Site) {
    let (proxies, manager) = slow(&site, 300);
    within(manager.lock("k").ttl(millis(100)).try_acquire()).await.unwrap_err();
    proxies.iter().for_each(Proxy::heal);
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    within(guard.release()).await.unwrap();
}

async fn the_time_of_the_round_is_taken_off_the_validity(site: Site) {
    let (_proxies, builder) = slow_builder(&site, 300);
    let manager = builder.clock_drift(NO_DRIFT).build().unwrap();
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    assert!(guard.remaining() + millis(300) <= secs(60), "{guard:?}");
}

async fn the_time_of_an_extend_is_taken_off_the_validity(site: Site) {
    let (proxies, builder) = slow_builder(&site, 0);
    let manager = builder.clock_drift(NO_DRIFT).build().unwrap();
    let guard = within(manager.lock("k").ttl(secs(60)).acquire()).await.unwrap();
    proxies.iter().for_each(|proxy| proxy.delay_replies(millis(300)));
    within(guard.extend(secs(600))).await.unwrap();
    assert!(guard.remaining() + millis(300) <= secs(600), "{guard:?}");
}

#[tokio::test]
async fn a_late_minority_does_no_harm() {
    let site = Site::servers(3);
    let slow = Proxy::start(&site.all()[0]);
    slow.delay_replies(secs(3600));
    let urls = [slow.url(), site.all()[1].url(), site.all()[2].url()];
    let manager = LockManager::quorum(urls).node_timeout(secs(3600)).build().unwrap();
    let guard = within(manager.lock("k").ttl(secs(60)).try_acquire()).await.unwrap();
    assert!(guard.is_valid());
    within(guard.release()).await.unwrap();
}

#[tokio::test]
async fn a_dead_server_is_not_blamed_for_anothers_lock() {
    let site = site_of(&[Held]);
    assert_held(&site.manager().lock("k").try_acquire().await.unwrap_err());
    site.all()[0].kill();
    let error = within(site.manager().lock("k").try_acquire()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    site.all().iter().for_each(Server::restart);
    drop(within(site.manager().lock("k").try_acquire()).await.unwrap());
}

/// How a node stands before a test.
#[derive(Clone, Copy, Debug)]
enum State {
    Free,
    /// The key is another owner's.
    Held,
    /// The key is another owner's for so many seconds.
    Until(u64),
    Dead,
    Silent,
}

use State::{Dead, Free, Held, Silent, Until};

/// Servers in these states.
fn site_of(states: &[State]) -> Site {
    let site = Site::servers(states.len());
    for (server, state) in site.all().iter().zip(states) {
        match state {
            Free => {}
            Held => assert!(server.foreign_lock("k", "another", secs(600))),
            Until(end) => assert!(server.foreign_lock("k", "another", secs(*end))),
            Dead => server.kill(),
            Silent => server.pause(),
        }
    }
    site
}

/// States of `n` nodes: from the place `first` on these, one after the other, and `rest` elsewhere.
fn places(n: usize, first: usize, some: &[State], rest: State) -> Vec<State> {
    let mut all = vec![rest; n];
    for (step, state) in some.iter().enumerate() {
        all[(first + step) % n] = *state;
    }
    all
}

fn assert_held(error: &Error) {
    assert!(matches!(error, Error::AlreadyHeld { .. }), "{error:?}");
    assert!(error.is_contended() && !error.is_unavailable() && error.node_errors().is_empty());
}

/// `Unavailable` for lack of this one server.
fn assert_unavailable(site: &Site, error: &Error, lacking: usize, figures: (usize, usize)) {
    let Error::Unavailable { needed, reached, nodes, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!((*needed, *reached), figures, "{error:?}");
    let blamed: Vec<_> = nodes.iter().map(redlatch::NodeError::node).collect();
    assert_eq!(blamed, [site.all()[lacking].name()]);
    assert!(error.is_unavailable() && !error.is_contended());
}

/// A manager whose servers answer so many milliseconds late.
fn slow(site: &Site, delay: u64) -> (Vec<Proxy>, LockManager) {
    let (proxies, builder) = slow_builder(site, delay);
    (proxies, builder.build().unwrap())
}

fn slow_builder(site: &Site, delay: u64) -> (Vec<Proxy>, LockManagerBuilder) {
    let proxies: Vec<_> = site.all().iter().map(Proxy::start).collect();
    proxies.iter().for_each(|proxy| proxy.delay_replies(millis(delay)));
    let builder = LockManager::quorum(proxies.iter().map(Proxy::url));
    (proxies, builder.node_timeout(secs(20)).release_timeout(secs(20)))
}

/// A policy of short pauses, and their number.
fn counted() -> (Arc<AtomicU32>, Retry) {
    let pauses = Arc::new(AtomicU32::new(0));
    let counting = Arc::clone(&pauses);
    let retry = Retry::from_fn(move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        millis(1)
    });
    (pauses, retry.max_retries(u32::MAX))
}

const NO_DRIFT: ClockDrift = ClockDrift::new(0.0, Duration::ZERO);
