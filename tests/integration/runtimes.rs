//! One manager and many runtimes: one after the other, at once, or none at all.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, LazyLock, OnceLock};
use std::thread::{scope, spawn};
use std::time::Duration;

use redlatch::{Error, LockGuard, LockManager, LockTicket, Retry};
use tokio::runtime::{Builder, Runtime};

use crate::support::{
    BOUND, Events, Proxy, Record, Site, Trace, eventually, everywhere, everywhere_outside, millis,
    outside_of_a_runtime, secs, within,
};

everywhere_outside!(
    a_manager_works_on_runtime_after_runtime,
    a_manager_works_on_runtimes_of_both_kinds,
    a_manager_works_on_two_runtimes_at_once,
    a_manager_outlives_the_runtime_it_was_first_used_on,
    a_guard_is_used_on_a_runtime_after_its_own,
    a_guard_dropped_on_a_later_runtime_is_released,
    a_guard_dropped_between_runtimes_is_released_on_the_next,
    a_renewed_lock_is_renewed_again_on_the_next_runtime,
    a_closed_manager_stays_closed_on_the_next_runtime,
    a_ticket_is_adopted_on_the_next_runtime,
    acquiring_outside_of_a_runtime_is_refused,
    extending_outside_of_a_runtime_is_refused,
    releasing_outside_of_a_runtime_is_refused_and_done_in_the_background,
    adopting_outside_of_a_runtime_is_refused,
    inspecting_outside_of_a_runtime_is_refused,
    pinging_outside_of_a_runtime_is_no_panic,
    closing_outside_of_a_runtime_counts_what_is_left,
    a_refusal_outside_of_a_runtime_spoils_nothing,
    a_guard_tells_of_itself_outside_of_a_runtime,
    futures_never_awaited_do_nothing,
    locks_dropped_as_the_runtime_ends_are_counted_in_one_warning,
    locks_dropped_after_the_runtime_has_ended_are_warned_of_once,
    a_manager_that_was_closed_leaves_nothing_to_warn_of,
);

everywhere!(renewal_goes_on_when_the_runtime_of_the_first_use_ends);

static IN_MEMORY: LazyLock<LockManager> = LazyLock::new(LockManager::in_memory);
static ON_A_SERVER: OnceLock<LockManager> = OnceLock::new();

#[test]
fn a_manager_in_a_static_works_on_runtime_after_runtime() {
    for round in 0..5 {
        runtime().block_on(assert_lives(&IN_MEMORY, &format!("static{round}")));
    }
}

#[test]
fn a_manager_of_a_server_in_a_static_works_on_runtime_after_runtime() {
    let site = Site::servers(1);
    for _ in 0..5 {
        let manager = ON_A_SERVER.get_or_init(|| site.manager());
        runtime().block_on(assert_whole_life(&site, manager));
    }
    assert!(site.lock_keys().is_empty());
}

fn a_manager_works_on_runtime_after_runtime(site: Site) {
    let manager = site.manager();
    for _ in 0..5 {
        runtime().block_on(assert_whole_life(&site, &manager));
    }
    runtime().block_on(site.empties("k"));
}

fn a_manager_works_on_runtimes_of_both_kinds(site: Site) {
    let manager = site.manager();
    for n in 0..4 {
        let runtime = if n % 2 == 0 { threaded() } else { runtime() };
        runtime.block_on(assert_whole_life(&site, &manager));
    }
}

fn a_manager_works_on_two_runtimes_at_once(site: Site) {
    let (manager, inside) = (site.manager(), AtomicBool::new(false));
    let (entries, start) = (AtomicU32::new(0), Barrier::new(2));
    scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                runtime().block_on(enter_often(&manager, &inside, &entries));
            });
        }
    });
    assert_eq!(entries.load(Ordering::SeqCst), 2 * 20);
}

async fn enter_often(manager: &LockManager, inside: &AtomicBool, entries: &AtomicU32) {
    for _ in 0..20 {
        // The runtime that the connection lived on may end at any moment.
        let retry = Retry::jittered(millis(0), millis(10));
        let request = manager.lock("k").ttl(secs(600)).retry(retry);
        let guard = within(request.acquire()).await.unwrap();
        assert!(!inside.swap(true, Ordering::SeqCst), "two holders at once");
        entries.fetch_add(1, Ordering::SeqCst);
        assert!(inside.swap(false, Ordering::SeqCst), "two holders at once");
        // The other runtime may take the answer with it, but not the release.
        let released = within(guard.release()).await;
        assert!(released.is_ok() || released.is_err_and(|error| error.is_not_held()));
    }
}

fn a_manager_outlives_the_runtime_it_was_first_used_on(site: Site) {
    let manager = site.manager();
    let (first, second) = (threaded(), runtime());
    let guard = first.block_on(locked(&manager));
    second.block_on(async {
        assert!(manager.lock("k").try_acquire().await.unwrap_err().is_contended());
        first.shutdown_background();
        within(guard.extend(secs(900))).await.unwrap();
        within(guard.release()).await.unwrap();
        assert_whole_life(&site, &manager).await;
    });
}

fn a_guard_is_used_on_a_runtime_after_its_own(site: Site) {
    let manager = site.manager();
    let guard = runtime().block_on(locked(&manager));
    runtime().block_on(async {
        within(guard.extend(secs(900))).await.unwrap();
        assert_eq!(guard.while_held(async { 42 }).await.unwrap(), 42);
    });
    runtime().block_on(async {
        within(guard.release()).await.unwrap();
        site.empties("k").await;
    });
}

fn a_guard_dropped_on_a_later_runtime_is_released(site: Site) {
    let manager = site.manager();
    let guard = runtime().block_on(locked(&manager));
    runtime().block_on(async {
        drop(guard);
        site.empties("k").await;
    });
}

fn a_guard_dropped_between_runtimes_is_released_on_the_next(site: Site) {
    let manager = site.manager();
    drop(runtime().block_on(locked(&manager)));
    runtime().block_on(async {
        manager.lock("other").await.unwrap().release().await.unwrap();
        site.empties("k").await;
    });
}

fn a_renewed_lock_is_renewed_again_on_the_next_runtime(site: Site) {
    let (manager, events) = (site.manager(), Events::default());
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = runtime().block_on(async {
        let guard = request.auto_renew_every(millis(5)).await.unwrap();
        events.more_renewals(1).await;
        guard
    });
    runtime().block_on(async {
        manager.lock("other").await.unwrap().release().await.unwrap();
        events.more_renewals(3).await;
        assert!(guard.is_valid() && events.losses().is_empty());
        within(guard.release()).await.unwrap();
    });
}

fn a_closed_manager_stays_closed_on_the_next_runtime(site: Site) {
    let manager = site.manager();
    runtime().block_on(async {
        drop(locked(&manager).await);
        assert_eq!(manager.close().await, 0);
    });
    let error = runtime().block_on(manager.lock("k").acquire()).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
}

fn a_ticket_is_adopted_on_the_next_runtime(site: Site) {
    let manager = site.manager();
    let ticket = runtime().block_on(locked(&manager)).into_ticket();
    runtime().block_on(async {
        let guard = within(manager.adopt(ticket)).await.unwrap();
        within(guard.release()).await.unwrap();
    });
}

fn acquiring_outside_of_a_runtime_is_refused(site: Site) {
    let manager = site.manager();
    let request = || manager.lock("k").wait_timeout(secs(1));
    assert_no_runtime(outside_of_a_runtime(request().acquire()).unwrap_err());
    assert_no_runtime(outside_of_a_runtime(request().into_future()).unwrap_err());
    assert_no_runtime(outside_of_a_runtime(request().try_acquire()).unwrap_err());
    assert_no_runtime(outside_of_a_runtime(request().acquire_or_extend()).unwrap_err());
    assert_no_runtime(outside_of_a_runtime(request().run(async |_| ())).unwrap_err());
    assert!(site.lock_keys().is_empty());
}

fn extending_outside_of_a_runtime_is_refused(site: Site) {
    let (manager, runtime) = (site.manager(), runtime());
    let guard = runtime.block_on(locked(&manager));
    assert_no_runtime(outside_of_a_runtime(guard.extend(secs(900))).unwrap_err());
    assert_no_runtime(outside_of_a_runtime(guard.try_extend(secs(900))).unwrap_err());
    assert!(guard.is_valid());
    runtime.block_on(guard.release()).expect("it is still ours");
}

fn releasing_outside_of_a_runtime_is_refused_and_done_in_the_background(site: Site) {
    let manager = site.manager();
    let runtime = threaded();
    let guard = runtime.block_on(locked(&manager));
    assert_no_runtime(outside_of_a_runtime(guard.release()).unwrap_err());
    runtime.block_on(site.empties("k"));
}

fn adopting_outside_of_a_runtime_is_refused(site: Site) {
    let (manager, runtime) = (site.manager(), runtime());
    let ticket: LockTicket = runtime.block_on(locked(&manager)).into_ticket();
    assert_no_runtime(outside_of_a_runtime(manager.adopt(ticket.clone())).unwrap_err());
    drop(runtime.block_on(manager.adopt(ticket)).expect("the ticket is still good"));
}

fn inspecting_outside_of_a_runtime_is_refused(site: Site) {
    let manager = site.manager();
    assert_no_runtime(outside_of_a_runtime(manager.inspect("k")).unwrap_err());
    let _guard = runtime().block_on(locked(&manager));
    assert_no_runtime(outside_of_a_runtime(manager.inspect("k")).unwrap_err());
}

fn pinging_outside_of_a_runtime_is_no_panic(site: Site) {
    let manager = site.manager();
    let health = outside_of_a_runtime(manager.ping());
    assert!(site.is_memory() || health.iter().all(|node| node.round_trip().is_err()));
    let health = runtime().block_on(manager.ping());
    assert!(health.iter().all(|node| node.round_trip().is_ok()), "{health:?}");
    let again = outside_of_a_runtime(manager.ping());
    assert_eq!(again.len(), health.len());
}

fn closing_outside_of_a_runtime_counts_what_is_left(site: Site) {
    let manager = site.manager();
    assert_eq!(outside_of_a_runtime(site.manager().close()), 0);
    let runtime = runtime();
    let guard = runtime.block_on(locked(&manager));
    assert_eq!(outside_of_a_runtime(manager.close()), 1);
    assert!(!guard.is_valid());
    runtime.block_on(guard.release()).expect("it may still be released");
}

fn a_refusal_outside_of_a_runtime_spoils_nothing(site: Site) {
    let manager = site.manager();
    for _ in 0..3 {
        outside_of_a_runtime(manager.lock("k").acquire()).unwrap_err();
        runtime().block_on(assert_whole_life(&site, &manager));
    }
    assert_eq!(runtime().block_on(manager.close()), 0);
}

fn a_guard_tells_of_itself_outside_of_a_runtime(site: Site) {
    let (manager, runtime) = (site.manager(), runtime());
    let guard = runtime.block_on(locked(&manager));
    assert!(guard.is_valid() && guard.remaining() > secs(300));
    assert_eq!((guard.key(), guard.ttl()), ("k", secs(600)));
    assert!(format!("{guard:?}{:?}", guard.lost()).contains('k'));
    spawn(move || drop(guard)).join().expect("a drop does not panic");
}

fn futures_never_awaited_do_nothing(site: Site) {
    let manager = site.manager();
    drop(manager.lock("k").acquire());
    drop(manager.lock("k").run(async |_| ()));
    drop((manager.inspect("k"), manager.ping(), manager.close()));
    runtime().block_on(assert_whole_life(&site, &manager));
}

/// What is left of a release there has the timers of the runtime that ends.
#[test]
fn a_lock_is_renewed_after_the_runtime_of_an_unfinished_release_has_ended() {
    let site = Site::servers(3);
    let (first, second, manager) = (threaded(), threaded(), site.manager());
    let dropped = first.block_on(manager.lock("dropped").ttl(secs(600)).acquire()).unwrap();
    let renewed = manager.lock("renewed").ttl(secs(20)).auto_renew_every(millis(50));
    let renewed = second.block_on(renewed.acquire()).unwrap();
    first.block_on(site.fills("dropped"));
    site.all()[2].kill();
    first.block_on(async { drop(dropped) });
    drop(first);
    let end = renewed.valid_until();
    second
        .block_on(eventually("it is renewed", async || renewed.valid_until() > end + millis(300)));
    second.block_on(async { drop(renewed) });
}

fn locks_dropped_as_the_runtime_ends_are_counted_in_one_warning(site: Site) {
    let (trace, runtime) = (Trace::start(), runtime());
    runtime.block_on(async {
        let manager = site.manager();
        let _guards = many_locked(&manager, 7).await;
        let _other = site.manager().lock("held by another manager").await.unwrap();
    });
    drop(runtime);
    let warnings = warnings(&trace);
    if site.is_memory() {
        // Nodes in memory have released them by the time that the drop is over.
        return assert!(warnings.is_empty(), "{warnings:?}");
    }
    let many = warnings.iter().filter(|warning| warning.fields["message"].contains("7 locks"));
    let [warning] = many.collect::<Vec<_>>()[..] else { panic!("one warning: {warnings:?}") };
    assert!(warning.fields["message"].contains("close()"), "{warning:?}");
    let keys = &warning.fields["keys"];
    assert!(keys.contains("k0") && keys.contains("k4") && !keys.contains("k5"), "{keys}");
    assert_eq!(warnings.len(), 2, "one for each manager: {warnings:?}");
}

fn locks_dropped_after_the_runtime_has_ended_are_warned_of_once(site: Site) {
    let (trace, manager) = (Trace::start(), site.manager());
    for round in 1..3 {
        let guards = runtime().block_on(many_locked(&manager, 7));
        drop(guards);
        let warnings = warnings(&trace);
        assert_eq!(warnings.len(), round, "{warnings:?}");
        assert!(warnings[0].fields["message"].contains("close()"), "{warnings:?}");
        // The next runtime releases them.
        runtime().block_on(async {
            manager.lock("other").await.unwrap().release().await.unwrap();
            site.empties("k6").await;
        });
    }
}

fn a_manager_that_was_closed_leaves_nothing_to_warn_of(site: Site) {
    let trace = Trace::start();
    runtime().block_on(async {
        let manager = site.manager();
        drop(many_locked(&manager, 7).await);
        assert_eq!(within(manager.close()).await, 0);
    });
    assert!(warnings(&trace).is_empty(), "{}", trace.text());
}

async fn many_locked(manager: &LockManager, count: usize) -> Vec<LockGuard> {
    let mut guards = Vec::new();
    for n in 0..count {
        guards.push(manager.lock(format!("k{n}")).ttl(secs(600)).await.unwrap());
    }
    guards
}

fn warnings(trace: &Trace) -> Vec<Record> {
    trace.events().into_iter().filter(|event| event.level == "WARN").collect()
}

#[test]
fn a_runtime_that_ends_while_connecting_leaves_the_manager_usable() {
    let site = Site::servers(1);
    let manager = site.manager();
    for _ in 0..3 {
        site.all()[0].pause();
        runtime().block_on(async {
            let acquire = manager.lock("k").ttl(secs(600)).try_acquire();
            tokio::time::timeout(millis(20), acquire).await.unwrap_err();
        });
        site.all()[0].resume();
        runtime().block_on(assert_whole_life(&site, &manager));
    }
}

#[test]
fn a_runtime_that_ends_during_an_acquire_leaves_the_manager_usable() {
    let site = Site::servers(1);
    let proxy = Proxy::start(&site.all()[0]);
    let manager = LockManager::single(proxy.url()).node_timeout(secs(10)).build().unwrap();
    for _ in 0..3 {
        runtime().block_on(async {
            manager.ping().await;
            proxy.swallow_replies();
            let acquire = manager.lock("k").ttl(millis(500)).try_acquire();
            tokio::time::timeout(millis(20), acquire).await.unwrap_err();
        });
        proxy.heal();
        runtime().block_on(assert_whole_life(&site, &manager));
    }
}

#[test]
fn a_waiter_outlives_the_runtime_of_the_one_before_it() {
    let site = Site::servers(1);
    let manager = Arc::new(site.manager());
    let (first, second) = (runtime(), runtime());
    let guard = second.block_on(locked(&manager));
    let ahead = first.spawn(manager.lock("k").acquire());
    first.block_on(async { tokio::time::sleep(millis(20)).await });
    let behind = second.spawn(manager.lock("k").acquire());
    first.shutdown_background();
    second.block_on(async {
        guard.release().await.unwrap();
        drop(within(behind).await.unwrap().unwrap());
    });
    assert!(ahead.is_finished());
}

#[test]
fn locks_on_many_runtimes_are_all_released_by_the_last() {
    let site = Site::servers(1);
    let manager = site.manager();
    for n in 0..10 {
        let request = manager.lock(format!("k{n}")).ttl(secs(600));
        drop(runtime().block_on(request.acquire()).unwrap());
    }
    runtime().block_on(async {
        manager.lock("last").await.unwrap().release().await.unwrap();
        eventually("all are gone", async || site.lock_keys().is_empty()).await;
        assert_eq!(manager.close().await, 0);
    });
}

/// A runtime of one thread, this one.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

/// A runtime that goes on while this thread does something else.
fn threaded() -> Runtime {
    let builder = &mut Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime can be made")
}

async fn locked(manager: &LockManager) -> LockGuard {
    within(manager.lock("k").ttl(secs(600)).acquire()).await.unwrap()
}

/// Takes, extends and releases a lock, until every server has heard of it: nothing goes on once a runtime has ended.
async fn assert_whole_life(site: &Site, manager: &LockManager) {
    assert_lives(manager, "k").await;
    site.empties_of("k").await;
}

async fn assert_lives(manager: &LockManager, key: &str) {
    let guard = within(manager.lock(key).ttl(secs(600)).acquire()).await.unwrap();
    within(guard.extend(secs(900))).await.unwrap();
    assert!(manager.lock(key).try_acquire().await.unwrap_err().is_contended());
    within(guard.release()).await.unwrap();
}

fn assert_no_runtime(error: Error) {
    assert!(error.is_config() && error.to_string().contains("runtime"), "{error:?}");
}

/// Runs on threads of its own: the test's runtime is the third.
async fn renewal_goes_on_when_the_runtime_of_the_first_use_ends(site: Site) {
    let manager = site.manager();
    let (first, second) = (threaded(), threaded());
    let once = manager.clone();
    let used = first.spawn(async move { once.lock("x").await?.release().await });
    used.await.unwrap().unwrap();
    let run = second.spawn(manager.lock("k").ttl(secs(2)).run(async |guard| {
        let start = tokio::time::Instant::now();
        while guard.valid_until() < start + secs(5) {
            tokio::time::sleep(millis(20)).await;
        }
    }));
    tokio::time::sleep(millis(100)).await;
    first.shutdown_background();
    within(run).await.unwrap().expect("it was renewed throughout");
    second.shutdown_background();
}

#[test]
fn a_release_reaches_every_server_although_its_runtime_has_ended() {
    let site = Site::servers(3);
    let manager = site.manager();
    let guard = threaded().block_on(async {
        let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
        eventually("every server has it", async || site.lock_keys().len() == 3).await;
        guard
    });
    site.all()[2].pause();
    threaded().block_on(within(guard.release())).unwrap();
    site.all()[2].resume();
    threaded().block_on(async {
        manager.lock("other").await.unwrap().release().await.unwrap();
        site.empties_of("k").await;
    });
}

#[test]
fn a_runtime_that_ends_while_lanes_connect_ends() {
    let (ended, rounds) = channel();
    spawn(move || {
        for round in 0..100 {
            let mut builder = Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).enable_all().build().unwrap();
            for _ in 0..2 {
                runtime.spawn(connect_in_vain());
            }
            std::thread::sleep(Duration::from_micros(300 + 37 * round % 1500));
            drop(runtime);
            ended.send(()).unwrap();
        }
    });
    for _ in 0..100 {
        rounds.recv_timeout(BOUND).expect("the runtime ends");
    }
}

async fn connect_in_vain() {
    loop {
        let manager = LockManager::single("redis://127.0.0.1:1").build().unwrap();
        manager.lock("k").try_acquire().await.unwrap_err();
    }
}
