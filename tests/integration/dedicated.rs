//! A manager with a runtime of its own works for programs that block theirs, or only block on it.

use std::{sync::Barrier, thread, time::Duration};

use redlatch::{LockGuard, LockManager, LockRequest, LossReason};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::support::{
    BOUND, Events, Server, Site, everywhere_outside, millis, outside_of_a_runtime, secs, within,
};

everywhere_outside!(
    a_lock_is_renewed_while_no_runtime_runs,
    a_guard_dropped_outside_of_a_runtime_is_released,
    a_lock_is_renewed_while_every_worker_is_blocked,
    run_keeps_the_lock_of_work_that_blocks,
    a_set_is_renewed_while_no_runtime_runs,
    a_manager_works_on_runtime_after_runtime,
    a_waiter_hears_of_a_release,
    a_guard_outlives_its_manager,
    what_is_dropped_last_is_released,
    acquiring_outside_of_a_runtime_is_refused,
    close_waits_for_what_was_dropped,
);

fn a_lock_is_renewed_while_no_runtime_runs(site: Site) {
    let (manager, runtime) = (dedicated(&site), runtime());
    let guard = runtime.block_on(renewed(&manager, "k").acquire()).unwrap();
    blocks_until_renewed(|| guard.valid_until());
    assert!(guard.is_valid());
    runtime.block_on(guard.release()).expect("it is ours");
}

fn a_guard_dropped_outside_of_a_runtime_is_released(site: Site) {
    let manager = dedicated(&site);
    let guard = runtime().block_on(locked(&manager));
    drop(guard);
    runtime().block_on(site.empties("k"));
}

fn a_lock_is_renewed_while_every_worker_is_blocked(site: Site) {
    let (manager, workers) = (dedicated(&site), 2);
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap();
    let blocked = std::sync::Arc::new(Barrier::new(workers));
    let held = (0..workers).map(|n| {
        let (request, blocked) = (renewed(&manager, &format!("k{n}")), blocked.clone());
        runtime.spawn(async move {
            let guard = request.acquire().await.unwrap();
            blocked.wait();
            blocks_until_renewed(|| guard.valid_until());
            blocked.wait();
            guard.is_valid()
        })
    });
    for held in held.collect::<Vec<_>>() {
        assert!(runtime.block_on(within(held)).unwrap());
    }
}

fn run_keeps_the_lock_of_work_that_blocks(site: Site) {
    let run = renewed(&dedicated(&site), "k").run(async |guard| {
        blocks_until_renewed(|| guard.valid_until());
        42
    });
    assert_eq!(runtime().block_on(run).unwrap(), 42);
}

fn a_set_is_renewed_while_no_runtime_runs(site: Site) {
    let (manager, runtime) = (dedicated(&site), runtime());
    let set = manager.lock_all(["a", "b"]).ttl(TTL).auto_renew_every(INTERVAL).acquire();
    let set = runtime.block_on(set).unwrap();
    blocks_until_renewed(|| set.valid_until());
    drop(set);
    runtime.block_on(async {
        site.empties("a").await;
        site.empties("b").await;
    });
}

fn a_manager_works_on_runtime_after_runtime(site: Site) {
    let manager = dedicated(&site);
    let guard = runtime().block_on(locked(&manager));
    for _ in 0..3 {
        runtime().block_on(async {
            let other = within(manager.lock("other").ttl(secs(600)).acquire()).await.unwrap();
            within(other.extend(secs(900))).await.unwrap();
            assert!(manager.lock("k").try_acquire().await.unwrap_err().is_contended());
            within(other.release()).await.unwrap();
        });
    }
    runtime().block_on(guard.release()).expect("it is ours");
}

fn a_waiter_hears_of_a_release(site: Site) {
    let (manager, holder) = (dedicated(&site), dedicated(&site));
    let guard = runtime().block_on(locked(&holder));
    let waiter = thread::spawn(move || runtime().block_on(locked(&manager)));
    thread::sleep(millis(20));
    drop(guard);
    drop(waiter.join().expect("it gets the lock"));
}

fn a_guard_outlives_its_manager(site: Site) {
    let runtime = runtime();
    let (events, manager) = (Events::default(), dedicated(&site));
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = runtime.block_on(request.auto_renew_every(millis(5)).acquire()).unwrap();
    drop(manager);
    let renewals = events.renewals();
    blocks_until("it is renewed", || events.renewals() > renewals + 3);
    runtime.block_on(guard.release()).expect("it is ours");
}

fn what_is_dropped_last_is_released(site: Site) {
    for _ in 0..10 {
        let guard = runtime().block_on(async {
            let manager = dedicated(&site);
            locked(&manager).await
        });
        drop(guard);
        runtime().block_on(site.empties("k"));
    }
}

fn acquiring_outside_of_a_runtime_is_refused(site: Site) {
    let manager = dedicated(&site);
    let error = outside_of_a_runtime(manager.lock("k").acquire()).unwrap_err();
    assert!(error.is_config() && error.to_string().contains("runtime"), "{error:?}");
}

fn close_waits_for_what_was_dropped(site: Site) {
    let manager = dedicated(&site);
    let runtime = runtime();
    drop(runtime.block_on(locked(&manager)));
    assert_eq!(runtime.block_on(within(manager.close())), 0);
    assert!(site.all().len() == 3 || site.lock_keys().is_empty());
}

/// What its caller left under way keeps no time that ends with the caller's runtime.
#[test]
fn a_release_goes_on_after_the_callers_runtime_has_ended() {
    let site = Site::servers(1);
    let builder = site.builder().node_timeout(millis(200)).release_timeout(millis(100));
    let manager = builder.dedicated_runtime().build().unwrap();
    for _ in 0..3 {
        let runtime = runtime();
        let guard = runtime.block_on(locked(&manager));
        site.all().iter().for_each(Server::pause);
        runtime.block_on(guard.release()).unwrap_err();
        drop(runtime);
        thread::sleep(millis(500));
        site.all().iter().for_each(Server::resume);
        self::runtime().block_on(site.empties("k"));
    }
}

#[test]
fn a_loss_is_noticed_while_the_servers_are_silent() {
    let site = Site::servers(1);
    let (manager, events) = (dedicated(&site), Events::default());
    let request = manager.lock("k").ttl(secs(1)).auto_renew().on_renewal(events.listener());
    let guard = runtime().block_on(request.acquire()).unwrap();
    site.all()[0].pause();
    blocks_until("it is lost", || events.losses() == [LossReason::Expired]);
    assert!(!guard.is_valid());
    site.all()[0].resume();
}

/// In a process of its own, since other tests have such threads too.
#[cfg(target_os = "linux")]
#[test]
fn one_thread_a_manager_comes_and_goes() {
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", "dedicated::threads_are_counted", "--ignored"]);
    assert!(alone.status().unwrap().success());
}

/// The thread ends with all that may need it, however often it is made.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "the test above runs it"]
fn threads_are_counted() {
    let site = Site::servers(1);
    assert_eq!(threads(), 0);
    for _ in 0..5 {
        let builder = site.builder().dedicated_runtime();
        let manager = builder.build().unwrap();
        assert_eq!(threads(), 0, "none before the first use");
        let guards: Vec<_> = (0..3).map(|_| runtime().block_on(take_any(&manager))).collect();
        assert_eq!(threads(), 1);
        drop(manager);
        assert_eq!(threads(), 1, "guards need it");
        drop(guards);
        blocks_until("the thread ends", || threads() == 0);
        assert!(site.lock_keys().is_empty(), "but not before all is released");
    }
}

#[cfg(target_os = "linux")]
async fn take_any(manager: &LockManager) -> LockGuard {
    let key = redlatch::OwnerToken::random();
    within(manager.lock(key.as_str()).ttl(secs(600)).auto_renew().acquire()).await.unwrap()
}

/// The threads of this process that managers have started.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this is Linux");
    let names = tasks.flatten().flat_map(|task| std::fs::read_to_string(task.path().join("comm")));
    names.filter(|name| name.trim() == "redlatch").count()
}

fn dedicated(site: &Site) -> LockManager {
    site.builder().dedicated_runtime().build().expect("the settings are valid")
}

/// A runtime of one thread, this one, which nobody drives but in `block_on`.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

/// A lock that is renewed often, and that no busy machine loses between two renewals.
fn renewed(manager: &LockManager, key: &str) -> LockRequest {
    manager.lock(key).ttl(TTL).auto_renew_every(INTERVAL)
}

/// Blocks the thread until the deadline has moved a few times.
fn blocks_until_renewed(valid_until: impl Fn() -> Instant) {
    let first = valid_until();
    blocks_until("it is renewed", || valid_until() > first + 3 * INTERVAL);
}

const TTL: Duration = secs(20);
const INTERVAL: Duration = millis(50);

async fn locked(manager: &LockManager) -> LockGuard {
    within(manager.lock("k").ttl(secs(600)).acquire()).await.unwrap()
}

/// Holds this thread until `condition` is true.
fn blocks_until(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < BOUND, "never came true: {what}");
        thread::sleep(millis(5));
    }
}
