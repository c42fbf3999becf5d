//! Any of several locks, and semaphores: as many as there are, taken where they are free.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redlatch::{Error, LockGuard, LockManager, Node, Retry};
use tokio::task::{JoinSet, yield_now};

use crate::support::{
    LASTING, Server, Site, eventually, everywhere, millis, on_servers, poll_times, secs, within,
};

everywhere!(
    the_one_that_is_free_is_taken,
    those_of_one_manager_take_different_ones,
    whoever_finds_all_taken_is_told_which_ends_first,
    a_semaphore_and_a_lock_on_its_slot_exclude_each_other,
    there_are_never_more_guards_than_permits,
    the_release_of_any_wakes_whoever_waits,
    those_who_wait_are_served_in_the_order_of_arrival,
    whoever_gives_up_leaves_nothing_behind,
    a_wait_timeout_tells_which_ends_first,
    retries_used_up_tell_which_ends_first,
    work_runs_under_a_permit_that_is_renewed,
    a_permit_is_kept_for_its_shortest_hold,
    an_unfenced_permit_has_no_token,
    tokens_of_a_slot_grow,
    a_closed_manager_gives_no_permits,
    what_cannot_work_is_refused,
    a_key_that_is_named_twice_counts_once,
);

on_servers!(
    where_this_manager_holds_the_others_one_round_trip_takes_a_permit,
    whoever_waits_for_permits_costs_next_to_nothing,
    a_slot_that_is_no_lock_is_passed_over,
    an_outage_is_told,
);

/// Locks that other managers hold.
async fn hold(site: &Site, keys: &[(&str, u64)]) -> Vec<LockGuard> {
    let mut guards = Vec::new();
    for (key, ttl) in keys {
        guards.push(site.manager().lock(*key).ttl(secs(*ttl)).await.unwrap());
    }
    guards
}

async fn the_one_that_is_free_is_taken(site: Site) {
    let _held = hold(&site, &[("a", 600), ("b", 600), ("d", 600)]).await;
    let guard = site.manager().lock_any(["a", "b", "c", "d"]).try_acquire().await.unwrap();
    assert_eq!(guard.key(), "c");
    guard.release().await.unwrap();
    let guard = within(site.manager().lock_any(["a", "b", "c", "d"]).acquire()).await.unwrap();
    assert_eq!(guard.key(), "c");
}

async fn those_of_one_manager_take_different_ones(site: Site) {
    let manager = site.manager();
    let mut slots = BTreeSet::new();
    let mut guards = Vec::new();
    for _ in 0..8 {
        let guard = within(manager.semaphore("s", 8).acquire()).await.unwrap();
        slots.insert(guard.key().to_owned());
        guards.push(guard);
    }
    assert_eq!(slots, (0..8).map(|slot| format!("s#{slot}")).collect());
    assert!(manager.semaphore("s", 8).try_acquire().await.unwrap_err().is_contended());
}

async fn whoever_finds_all_taken_is_told_which_ends_first(site: Site) {
    let _held = hold(&site, &[("a", 900), ("b", 300), ("c", 600)]).await;
    for manager in [site.manager(), site.manager()] {
        let error = manager.lock_any(["c", "b", "a"]).try_acquire().await.unwrap_err();
        let Error::AlreadyHeld { key, retry_after, .. } = error else { panic!("{error:?}") };
        assert_eq!(key, "b");
        assert!(retry_after.is_some_and(|end| end > secs(200) && end <= secs(300)));
    }
}

async fn a_semaphore_and_a_lock_on_its_slot_exclude_each_other(site: Site) {
    let guard = site.manager().semaphore("s", 1).try_acquire().await.unwrap();
    assert_eq!(guard.key(), "s#0");
    assert!(site.manager().lock("s#0").try_acquire().await.unwrap_err().is_contended());
}

async fn there_are_never_more_guards_than_permits(site: Site) {
    const PERMITS: usize = 3;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for manager in [site.manager(), site.manager()] {
        for _ in 0..20 {
            let (manager, now, most) = (manager.clone(), now.clone(), most.clone());
            tasks.spawn(async move {
                let permit = within(manager.semaphore("s", PERMITS).acquire()).await.unwrap();
                let holders = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(holders, Ordering::SeqCst);
                for _ in 0..20 {
                    yield_now().await;
                }
                now.fetch_sub(1, Ordering::SeqCst);
                permit.release().await.unwrap();
            });
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= PERMITS);
}

/// A request that only a notice wakes: a policy with a limit makes no looks of its own.
fn sleepy(manager: &LockManager) -> redlatch::LockAnyRequest {
    let retry = Retry::jittered(secs(500), millis(0)).max_retries(1_000);
    manager.semaphore("s", 3).ttl(LASTING).retry(retry)
}

async fn the_release_of_any_wakes_whoever_waits(site: Site) {
    let holder = site.manager();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(sleepy(&holder).await.unwrap());
    }
    let waiter = site.manager();
    for index in [1, 2, 0] {
        let waits = tokio::spawn(sleepy(&waiter).acquire());
        assert!(sleepy(&waiter).try_acquire().await.unwrap_err().is_contended());
        eventually("whoever waits listens", async || {
            let listens = |server: &Server| {
                ["{s#0}", "{s#1}", "{s#2}"].iter().all(|slot| {
                    let channel = format!("{slot}:released");
                    let (_, count): (String, u64) = server.query(&["PUBSUB", "NUMSUB", &channel]);
                    count > 0
                })
            };
            site.all().iter().all(listens)
        })
        .await;
        let released = held.remove(index.min(held.len() - 1));
        let slot = released.key().to_owned();
        released.release().await.unwrap();
        let guard = within(waits).await.unwrap().unwrap();
        assert_eq!(guard.key(), slot);
        held.push(guard);
    }
}

async fn those_who_wait_are_served_in_the_order_of_arrival(site: Site) {
    let manager = site.manager();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(sleepy(&manager).await.unwrap());
    }
    let (told, mut served) = tokio::sync::mpsc::unbounded_channel();
    for position in 0..6 {
        let (request, told) = (sleepy(&manager), told.clone());
        tokio::spawn(async move {
            let guard = request.acquire().await.unwrap();
            told.send((position, guard)).unwrap();
        });
        yield_now().await;
    }
    for expected in 0..6 {
        held.remove(0).release().await.unwrap();
        let (position, guard) = within(served.recv()).await.unwrap();
        assert_eq!(position, expected);
        held.push(guard);
    }
}

async fn whoever_gives_up_leaves_nothing_behind(site: Site) {
    let _held = hold(&site, &[("s#0", 600)]).await;
    let manager = site.manager();
    for polls in 0..8 {
        drop(poll_times(polls, manager.semaphore("s", 3).ttl(LASTING).acquire()).await);
        drop(poll_times(polls, manager.semaphore("s", 3).ttl(LASTING).try_acquire()).await);
    }
    assert_eq!(within(manager.close()).await, 0);
    for slot in ["s#1", "s#2"] {
        let watcher = site.manager();
        eventually("the slot is free", async || {
            !watcher.inspect(slot).await.expect("the nodes answer").is_held()
        })
        .await;
    }
}

async fn a_wait_timeout_tells_which_ends_first(site: Site) {
    let _held = hold(&site, &[("a", 600), ("b", 300)]).await;
    let request = site.manager().lock_any(["a", "b"]).wait_timeout(millis(100));
    let error = within(request.acquire()).await.unwrap_err();
    assert!(error.is_timeout() && error.is_contended(), "{error:?}");
    assert_eq!(error.key(), Some("b"));
}

async fn retries_used_up_tell_which_ends_first(site: Site) {
    let _held = hold(&site, &[("a", 600), ("b", 300)]).await;
    let retry = Retry::jittered(millis(1), millis(1)).max_retries(2);
    let error = within(site.manager().lock_any(["a", "b"]).retry(retry).acquire()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::RetriesExhausted { attempts: 3, .. }), "{error:?}");
    assert_eq!(error.key(), Some("b"));
}

async fn work_runs_under_a_permit_that_is_renewed(site: Site) {
    let request = site.manager().semaphore("s", 2).ttl(secs(2));
    let slot = request.run(async |permit| {
        let start = tokio::time::Instant::now();
        eventually("it was renewed", async || permit.valid_until() > start + secs(2)).await;
        permit.key().to_owned()
    });
    let slot = within(slot).await.unwrap();
    site.empties(&slot).await;
}

async fn a_permit_is_kept_for_its_shortest_hold(site: Site) {
    let manager = site.manager();
    let guard = manager.semaphore("s", 1).min_hold(secs(600)).try_acquire().await.unwrap();
    guard.release().await.unwrap();
    assert!(manager.semaphore("s", 1).try_acquire().await.unwrap_err().is_contended());
}

async fn an_unfenced_permit_has_no_token(site: Site) {
    let manager = site.manager();
    let permits = [(); 2].map(|()| manager.semaphore("s", 2).unfenced());
    for permit in permits {
        let guard = permit.try_acquire().await.unwrap();
        assert!(guard.fencing_token().is_none());
        guard.forget();
    }
    assert!(manager.semaphore("s", 2).unfenced().try_acquire().await.unwrap_err().is_contended());
}

async fn tokens_of_a_slot_grow(site: Site) {
    let mut last = None;
    for manager in [site.manager(), site.manager(), site.manager()] {
        let guard = manager.semaphore("s", 1).try_acquire().await.unwrap();
        assert!(last < Some(guard.fencing_token()));
        last = Some(guard.fencing_token());
        guard.release().await.unwrap();
    }
}

async fn a_closed_manager_gives_no_permits(site: Site) {
    let manager = site.manager();
    let held = [manager.semaphore("s", 2).await.unwrap(), manager.semaphore("s", 2).await.unwrap()];
    let waits = tokio::spawn(manager.semaphore("s", 2).acquire());
    yield_now().await;
    drop(held);
    assert_eq!(within(manager.close()).await, 0);
    match within(waits).await.unwrap() {
        // It was faster than the end.
        Ok(guard) => assert!(!guard.is_valid()),
        Err(error) => assert!(matches!(error, Error::Closed), "{error:?}"),
    }
    let late = manager.semaphore("s", 2).try_acquire().await;
    assert!(matches!(late, Err(Error::Closed)));
}

async fn what_cannot_work_is_refused(site: Site) {
    let manager = site.manager();
    for permits in [0, 1025, usize::MAX] {
        let error = manager.semaphore("s", permits).await.unwrap_err();
        assert!(error.is_config() && error.to_string().contains("permits"), "{error}");
    }
    let nothing: [&str; 0] = [];
    assert!(manager.lock_any(nothing).try_acquire().await.unwrap_err().is_config());
    assert!(manager.lock_any(["a", ""]).await.unwrap_err().is_config());
    assert!(manager.semaphore("s".repeat(511), 1).await.unwrap_err().is_config());
    assert!(manager.lock_any(["a"]).ttl(secs(0)).await.unwrap_err().is_config());
    assert!(site.lock_keys().is_empty());
}

async fn a_key_that_is_named_twice_counts_once(site: Site) {
    let manager = site.manager();
    let _guard = manager.lock_any(["a", "a"]).await.unwrap();
    assert!(manager.lock_any(["a", "a"]).try_acquire().await.unwrap_err().is_contended());
}

async fn where_this_manager_holds_the_others_one_round_trip_takes_a_permit(site: Site) {
    let manager = site.manager();
    site.learns_the_scripts().await;
    drop(manager.ping().await);
    let scripts = || site.all().iter().map(Server::scripts).sum::<u64>();
    let before = scripts();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(manager.semaphore("s", 8).await.unwrap());
    }
    let needed = 8 * site.all().len() as u64;
    eventually("all servers have answered", async || scripts() - before >= needed).await;
    assert_eq!(scripts() - before, needed);
}

async fn whoever_waits_for_permits_costs_next_to_nothing(site: Site) {
    let _held = hold(&site, &[("s#0", 600), ("s#1", 600), ("s#2", 600)]).await;
    let manager = site.manager();
    drop(manager.ping().await);
    let scripts = || site.all().iter().map(Server::scripts).sum::<u64>();
    let (before, began) = (scripts(), tokio::time::Instant::now());
    let waits: Vec<_> =
        (0..50).map(|_| tokio::spawn(manager.semaphore("s", 3).ttl(LASTING).acquire())).collect();
    tokio::time::sleep(secs(4)).await;
    // The head of the queue looks at first, when it is sure to hear of releases, and then about every two seconds.
    let looks = began.elapsed().as_secs() + 4;
    let most = looks * 4 * site.all().len() as u64;
    let cost = scripts() - before;
    assert!(cost > 0 && cost <= most, "{cost} of at most {most}");
    waits.iter().for_each(|wait| wait.abort());
}

async fn a_slot_that_is_no_lock_is_passed_over(site: Site) {
    for server in site.all() {
        server.command(&["RPUSH", "s#1", "a list"]);
    }
    let manager = site.manager();
    let held = [manager.semaphore("s", 3).await.unwrap(), manager.semaphore("s", 3).await.unwrap()];
    assert!(held.iter().all(|guard| guard.key() != "s#1"));
    assert!(manager.semaphore("s", 3).try_acquire().await.unwrap_err().is_contended());
    let waits = manager.semaphore("s", 3).wait_timeout(millis(100)).acquire();
    assert!(within(waits).await.unwrap_err().is_contended());
}

#[tokio::test]
async fn with_one_of_two_nodes_down_it_is_an_outage_though_the_other_has_all_slots_held() {
    let node = Node::in_memory();
    let other = LockManager::single(node.clone()).build().unwrap();
    let _held = [other.lock("s#0").ttl(secs(600)).await, other.lock("s#1").ttl(secs(300)).await];
    let down = Node::open("redis://127.0.0.1:1").unwrap();
    let builder = LockManager::quorum([node, down]).outage_patience(secs(0));
    let manager = builder.retry(Retry::jittered(millis(1), millis(5))).build().unwrap();
    let error = within(manager.semaphore("s", 2).acquire()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
}

async fn an_outage_is_told(site: Site) {
    let manager = site.builder().node_timeout(millis(50)).outage_patience(secs(0)).build().unwrap();
    site.all().iter().for_each(Server::pause);
    let error = within(manager.semaphore("s", 3).acquire()).await.unwrap_err();
    let tried = within(manager.semaphore("s", 3).try_acquire()).await.unwrap_err();
    site.all().iter().for_each(Server::resume);
    assert!(error.is_unavailable() && tried.is_unavailable(), "{error:?} {tried:?}");
}
