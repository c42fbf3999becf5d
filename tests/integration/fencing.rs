//! Fencing tokens: from holder to holder they only grow.

use std::pin::pin;
use std::sync::{Arc, Mutex};

use redlatch::{FencingToken, LockManager, OwnerToken, Retry};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{
    Seeds, Server, Site, eventually, everywhere, millis, on_servers, secs, within,
};

everywhere!(
    tokens_grow_from_holder_to_holder,
    tokens_grow_in_the_order_of_contending_holders,
    extending_keeps_the_token,
    tokens_grow_across_an_abandoned_lock,
    a_token_is_not_zero,
);

on_servers!(
    a_majority_of_counters_says_exactly_the_token,
    counters_far_ahead_of_the_clock_are_exceeded,
    tokens_grow_although_all_counters_are_lost,
    a_renewed_lock_keeps_its_token,
);

async fn tokens_grow_from_holder_to_holder(site: Site) {
    let managers = [site.manager(), site.manager()];
    let mut last = FencingToken::new(0);
    for n in 0..20 {
        let guard = managers[n % 2].lock("k").acquire().await.unwrap();
        assert!(guard.fencing_token() > last);
        last = guard.fencing_token();
        guard.release().await.unwrap();
    }
}

async fn tokens_grow_in_the_order_of_contending_holders(site: Site) {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        tasks.spawn(note_tokens(site.manager(), Arc::clone(&tokens)));
    }
    within(tasks.join_all()).await;
    let tokens = tokens.lock().unwrap();
    assert_eq!(tokens.len(), 4 * 15);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

async fn note_tokens(manager: LockManager, tokens: Arc<Mutex<Vec<FencingToken>>>) {
    for _ in 0..15 {
        let request = manager.lock("k").retry(Retry::jittered(millis(0), millis(10)));
        let guard = request.acquire().await.unwrap();
        tokens.lock().unwrap().push(guard.fencing_token());
        guard.release().await.unwrap();
    }
}

async fn extending_keeps_the_token(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let token = guard.fencing_token();
    guard.extend(secs(60)).await.unwrap();
    assert_eq!(guard.fencing_token(), token);
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.fencing_token(), Some(token));
}

async fn tokens_grow_across_an_abandoned_lock(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(500)).await.unwrap();
    let token = guard.fencing_token();
    guard.forget();
    let next = within(site.manager().lock("k").acquire()).await.unwrap();
    assert!(next.fencing_token() > token);
}

async fn a_token_is_not_zero(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    assert!(guard.fencing_token().get() > 0);
    assert_eq!(u64::from(guard.fencing_token()), guard.fencing_token().get());
    assert_eq!(guard.fencing_token().to_string(), guard.fencing_token().get().to_string());
}

async fn a_majority_of_counters_says_exactly_the_token(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    assert_exact(&site, guard.fencing_token());
}

async fn counters_far_ahead_of_the_clock_are_exceeded(site: Site) {
    preset(&site, &vec![AHEAD; site.all().len()]);
    let guard = site.manager().lock("k").await.unwrap();
    assert!(guard.fencing_token().get() > AHEAD);
    assert_exact(&site, guard.fencing_token());
}

async fn tokens_grow_although_all_counters_are_lost(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let token = guard.fencing_token();
    guard.release().await.unwrap();
    site.all().iter().for_each(Server::restart);
    let next = within(site.manager().lock("k").acquire()).await.unwrap();
    assert!(next.fencing_token() > token, "the clock takes over");
}

async fn a_renewed_lock_keeps_its_token(site: Site) {
    let request = site.manager().lock("k").auto_renew_every(millis(10));
    let guard = request.await.unwrap();
    let (token, first) = (guard.fencing_token(), guard.valid_until());
    eventually("it is renewed", async || guard.valid_until() > first).await;
    assert_eq!(guard.fencing_token(), token);
    assert_exact(&site, token);
}

#[tokio::test]
async fn counters_that_differ_are_brought_to_one_token() {
    let site = Site::servers(3);
    let mut seeds = Seeds::new(1);
    for _ in 0..60 {
        let counters: Vec<u64> = (0..3).map(|_| AHEAD + seeds.below(10)).collect();
        assert_token_exceeds_the_majority(&site, &counters).await;
    }
}

#[tokio::test]
async fn counters_that_differ_on_five_servers_are_brought_to_one_token() {
    let site = Site::servers(5);
    let mut seeds = Seeds::new(2);
    for _ in 0..60 {
        let base = AHEAD + seeds.below(1 << 40);
        let counters: Vec<u64> = (0..5).map(|_| base + seeds.below(4)).collect();
        assert_token_exceeds_the_majority(&site, &counters).await;
    }
}

/// Any earlier token was reported by a majority, so none exceeds the middle counter.
async fn assert_token_exceeds_the_majority(site: &Site, counters: &[u64]) {
    preset(site, counters);
    let guard = site.manager().lock("k").acquire().await.unwrap();
    let mut sorted = counters.to_vec();
    sorted.sort_unstable();
    let middle = sorted[counters.len() / 2];
    assert!(guard.fencing_token().get() > middle, "{counters:?}: {guard:?}");
    assert_exact(site, guard.fencing_token());
    guard.release().await.unwrap();
    site.empties("k").await;
}

#[tokio::test]
async fn tokens_grow_although_a_minority_forgets_its_counter() {
    let site = Site::servers(3);
    preset(&site, &[AHEAD; 3]);
    let mut last = FencingToken::new(AHEAD);
    for n in 0..30 {
        let guard = site.manager().lock("k").acquire().await.unwrap();
        assert!(guard.fencing_token() > last);
        last = guard.fencing_token();
        guard.release().await.unwrap();
        site.empties("k").await;
        assert_exact(&site, last);
        let agreeing = site.all().iter().filter(|s| s.counter("{k}:fence") == Some(last.get()));
        if agreeing.count() == 3 {
            site.all()[n % 3].del("{k}:fence");
        }
    }
}

#[tokio::test]
async fn tokens_grow_over_alternating_majorities() {
    let site = Site::servers(3);
    preset(&site, &[AHEAD, AHEAD + 5, AHEAD + 9]);
    let mut last = FencingToken::new(AHEAD + 5);
    for n in 0..30 {
        let away = &site.all()[n % 3];
        assert!(away.foreign_lock("k", "foreign", secs(600)));
        let guard = within(site.manager().lock("k").acquire()).await.unwrap();
        assert!(guard.fencing_token() > last, "round {n}");
        last = guard.fencing_token();
        assert_exact(&site, last);
        guard.release().await.unwrap();
        away.del("k");
        site.empties("k").await;
    }
}

#[tokio::test]
async fn tokens_grow_over_majorities_that_alternate_in_silence() {
    let site = Site::servers(3);
    let manager = site.builder().node_timeout(millis(300)).build().unwrap();
    preset(&site, &[AHEAD; 3]);
    let mut last = FencingToken::new(AHEAD);
    for n in 0..9 {
        let away = &site.all()[n % 3];
        away.pause();
        let guard = within(manager.lock("k").ttl(secs(600)).acquire()).await.unwrap();
        assert!(guard.fencing_token() > last, "round {n}");
        last = guard.fencing_token();
        guard.release().await.unwrap();
        away.resume();
        site.empties("k").await;
    }
}

#[tokio::test]
async fn tokens_grow_although_locks_vanish_under_their_holders() {
    let site = Site::servers(3);
    let managers = [site.manager(), site.manager(), site.manager()];
    let mut seeds = Seeds::new(3);
    preset(&site, &[AHEAD, AHEAD + 1, AHEAD + 2]);
    let (mut last, mut forgotten) = (FencingToken::new(AHEAD + 1), Vec::new());
    for round in 0..150 {
        let spared = usize::try_from(seeds.below(4)).unwrap();
        let victims = site.all().iter().enumerate().filter(|(n, _)| *n != spared);
        victims.for_each(|(_, server)| server.del("k"));
        let guard = within(managers[round % 3].lock("k").ttl(secs(600)).acquire()).await.unwrap();
        assert!(guard.fencing_token() > last, "round {round}");
        // Else the straggler of this round may take what the next one frees.
        eventually("all have a lock", async || site.lock_keys().len() == 3).await;
        last = guard.fencing_token();
        forgotten.push(guard);
    }
    assert_eq!(forgotten.len(), 150);
}

#[tokio::test]
async fn tokens_grow_although_renewals_of_old_holders_go_on() {
    let site = Site::servers(3);
    let managers = [site.manager(), site.manager(), site.manager()];
    let mut seeds = Seeds::new(4);
    preset(&site, &[AHEAD, AHEAD + 3, AHEAD + 3]);
    let (mut last, mut old) = (FencingToken::new(AHEAD + 3), Vec::new());
    for round in 0..40 {
        let retry = Retry::jittered(millis(1), millis(5)).max_retries(u32::MAX);
        let request = managers[round % 3].lock("k").ttl(secs(600)).retry(retry);
        let acquire = request.auto_renew_every(millis(2)).acquire();
        let guard = within(while_keys_vanish(&site, &mut seeds, acquire)).await.unwrap();
        assert!(guard.fencing_token() > last, "round {round}");
        last = guard.fencing_token();
        old.push(guard);
    }
}

/// Awaits `future` while the key vanishes from one server after the other.
async fn while_keys_vanish<F: Future>(site: &Site, seeds: &mut Seeds, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Ok(output) = timeout(millis(3), &mut future).await {
            return output;
        }
        let victim = usize::try_from(seeds.below(3)).unwrap();
        site.all()[victim].del("k");
        site.all()[(victim + 1) % 3].del("k");
    }
}

#[tokio::test]
async fn a_shared_owner_keeps_the_token_only_while_the_lock_is_unbroken() {
    let site = Site::servers(3);
    let owner = OwnerToken::new("worker-7").unwrap();
    let request = || site.manager().lock("k").owner(owner.clone());
    let first = request().acquire_or_extend().await.unwrap();
    site.delete("k", &owner).await;
    let second = request().acquire_or_extend().await.unwrap();
    assert!(second.fencing_token() > first.fencing_token());
}

/// Sets the counter of `k` on each server; zero stands for none.
fn preset(site: &Site, counters: &[u64]) {
    for (server, counter) in site.all().iter().zip(counters) {
        server.command(&["SET", "{k}:fence", &counter.to_string(), "PX", "86400000"]);
    }
}

/// A majority of the counters is exactly the token.
fn assert_exact(site: &Site, token: FencingToken) {
    let counters: Vec<_> = site.all().iter().map(|s| s.counter("{k}:fence")).collect();
    let exact = counters.iter().filter(|counter| **counter == Some(token.get()));
    assert!(exact.count() > site.all().len() / 2, "{counters:?}, token {token:?}");
}

/// Microseconds since 1970 far in the future, still exact as a double.
const AHEAD: u64 = 4_000_000_000_000_000;
