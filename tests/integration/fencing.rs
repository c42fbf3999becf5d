//! Fencing tokens: from holder to holder they only grow.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    tokens_grow_over_an_unfenced_lock,
);

on_servers!(
    a_majority_of_counters_says_exactly_the_token,
    counters_far_ahead_of_the_clock_are_exceeded,
    tokens_grow_although_all_counters_are_lost,
    a_renewed_lock_keeps_its_token,
    counters_ahead_of_the_clock_are_kept_over_an_unfenced_lock,
    a_counter_is_kept_for_the_retention_from_each_use_on,
    a_counter_is_kept_for_a_day_by_default,
    a_counter_is_kept_for_twice_a_long_ttl,
    the_mark_of_a_chosen_owners_lock_shortens_no_counters_life,
    a_counter_of_no_use_is_left_as_it_is,
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

async fn tokens_grow_over_an_unfenced_lock(site: Site) {
    let (fenced, unfenced) = (site.manager(), site.builder().unfenced().build().unwrap());
    let mut last = FencingToken::NONE;
    for _ in 0..5 {
        let guard = fenced.lock("k").acquire().await.unwrap();
        assert!(guard.fencing_token() > last);
        last = guard.fencing_token();
        guard.release().await.unwrap();
        let guard = unfenced.lock("k").acquire().await.unwrap();
        assert!(guard.fencing_token() < last);
        guard.release().await.unwrap();
    }
}

async fn counters_ahead_of_the_clock_are_kept_over_an_unfenced_lock(site: Site) {
    preset(&site, &vec![AHEAD; site.all().len()]);
    let fenced = site.manager().lock("k").await.unwrap();
    let token = fenced.fencing_token();
    fenced.release().await.unwrap();
    let unfenced = site.manager().lock("k").unfenced().await.unwrap();
    unfenced.extend(secs(60)).await.unwrap();
    unfenced.release().await.unwrap();
    let next = site.manager().lock("k").await.unwrap();
    assert!(next.fencing_token() > token, "{next:?} after {token:?}");
}

async fn a_counter_is_kept_for_the_retention_from_each_use_on(site: Site) {
    let retention = secs(3_600);
    let manager = site.builder().fencing_retention(retention).build().unwrap();
    let guard = manager.lock("k").await.unwrap();
    are_kept_for(&site, retention).await;
    age(&site);
    guard.extend(secs(600)).await.unwrap();
    are_kept_for(&site, retention).await;
    guard.release().await.unwrap();
    let _renewed = manager.lock("k").auto_renew_every(millis(20)).await.unwrap();
    site.fills("k").await;
    age(&site);
    are_kept_for(&site, retention).await;
}

async fn a_counter_is_kept_for_a_day_by_default(site: Site) {
    let _guard = site.manager().lock("k").await.unwrap();
    are_kept_for(&site, DAY).await;
}

async fn a_counter_is_kept_for_twice_a_long_ttl(site: Site) {
    let guard = site.manager().lock("k").ttl(20 * HOUR).await.unwrap();
    are_kept_for(&site, 40 * HOUR).await;
    age(&site);
    guard.extend(23 * HOUR).await.unwrap();
    are_kept_for(&site, 46 * HOUR).await;
}

/// The mark is written without a TTL of its own.
async fn the_mark_of_a_chosen_owners_lock_shortens_no_counters_life(site: Site) {
    let owner = OwnerToken::new("worker-7").unwrap();
    let _guard = site.manager().lock("k").owner(owner).ttl(20 * HOUR).await.unwrap();
    eventually("it is marked as held", async || {
        let marked = |server: &Server| server.get("{k}:fence").is_some_and(|f| f.ends_with('h'));
        site.all().iter().all(marked)
    })
    .await;
    are_kept_for(&site, 40 * HOUR).await;
}

/// An acquire takes the lock before it looks at the counter, and gives it back where that is of no use.
async fn a_counter_of_no_use_is_left_as_it_is(site: Site) {
    let command = |args: &[&str]| site.all().iter().for_each(|s| drop(s.command(args)));
    for write in [
        &["SET", "{k}:fence", "garbage"][..],
        &["SET", "{k}:fence", "7 of 9"],
        &["SET", "{k}:fence", ""],
        &["SET", "{k}:fence", "9000000000000001"],
        &["SET", "{k}:fence", "99999999999999999999"],
        &["HSET", "{k}:fence", "field", "7"],
    ] {
        command(&["DEL", "{k}:fence"]);
        command(write);
        command(&["PEXPIRE", "{k}:fence", "100000"]);
        let before: Vec<_> = site.all().iter().map(Server::contents).collect();
        let manager = site.manager();
        let error = within(manager.lock("k").ttl(secs(600)).try_acquire()).await.unwrap_err();
        assert!(error.is_unavailable(), "{write:?}: {error:?}");
        assert_eq!(within(manager.close()).await, 0);
        let after: Vec<_> = site.all().iter().map(Server::contents).collect();
        assert_eq!(after, before, "{write:?}");
        let left = |server: &Server| server.pttl("{k}:fence");
        assert!(site.all().iter().all(|s| left(s).is_some_and(|left| left <= secs(100))));
    }
}

#[tokio::test]
async fn a_raise_shortens_no_counters_life() {
    let site = Site::servers(3);
    preset(&site, &[AHEAD, AHEAD + 5, AHEAD + 9]);
    let guard = site.manager().lock("k").ttl(20 * HOUR).await.unwrap();
    assert_exact(&site, guard.fencing_token());
    are_kept_for(&site, 40 * HOUR).await;
}

/// The key lives as long as before, and without its counter nobody could release it.
#[tokio::test]
async fn a_shorter_extend_shortens_no_counters_life() {
    let site = Site::servers(3);
    let owner = OwnerToken::new("us").unwrap();
    let guard = site.manager().lock("k").owner(owner).ttl(20 * HOUR).await.unwrap();
    are_kept_for(&site, 40 * HOUR).await;
    guard.extend(secs(10)).await.unwrap();
    are_kept_for(&site, 40 * HOUR).await;
}

/// Every server keeps the counter for so long from now on.
async fn are_kept_for(site: &Site, retention: Duration) {
    let is_kept = |server: &Server| {
        let left = server.pttl("{k}:fence");
        left.is_some_and(|left| left <= retention && retention < left + secs(10))
    };
    eventually("the counters are kept for the retention", async || site.all().iter().all(is_kept))
        .await;
}

/// Has the counters end sooner than any retention lets them.
fn age(site: &Site) {
    site.all().iter().for_each(|s| drop(s.command(&["PEXPIRE", "{k}:fence", "50000"])));
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

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Microseconds since 1970 far in the future, still exact as a double.
const AHEAD: u64 = 4_000_000_000_000_000;
