//! A drop is in order: what its manager asks after it comes behind the release, without a wait.

use futures_util::future::join_all;
use redlatch::{LockGuard, LockManager};

use crate::support::{Server, Site, everywhere, millis, on_servers, poll_times, secs};

everywhere!(
    a_dropped_lock_can_be_taken_at_once,
    a_lock_dropped_on_a_blocking_thread_can_be_taken_at_once,
    a_lock_dropped_in_another_task_can_be_taken_at_once,
    a_hundred_locks_dropped_at_once_can_be_taken_at_once,
    a_dropped_set_can_be_taken_at_once,
    a_lock_dropped_while_it_is_renewed_can_be_taken_at_once,
    an_acquire_given_up_is_in_nobodys_way,
);

on_servers!(
    the_first_lock_dropped_on_a_fresh_server_can_be_taken_at_once,
    a_dropped_lock_costs_what_a_released_one_costs,
    a_lock_dropped_beside_a_dedicated_runtime_can_be_taken_at_once,
);

/// The same where the background and the caller run side by side.
mod on_many_threads {
    use super::Site;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_dropped_lock_can_be_taken_at_once() {
        super::a_dropped_lock_can_be_taken_at_once(Site::servers(1)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_dropped_lock_of_a_quorum_can_be_taken_at_once() {
        super::a_dropped_lock_can_be_taken_at_once(Site::servers(3)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_hundred_locks_dropped_at_once_can_be_taken_at_once() {
        super::a_hundred_locks_dropped_at_once_can_be_taken_at_once(Site::servers(3)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_lock_dropped_while_it_is_renewed_can_be_taken_at_once() {
        super::a_lock_dropped_while_it_is_renewed_can_be_taken_at_once(Site::servers(3)).await;
    }
}

async fn taken_at_once(manager: &LockManager, key: &str) -> LockGuard {
    manager.lock(key).ttl(secs(600)).try_acquire().await.unwrap()
}

async fn a_dropped_lock_can_be_taken_at_once(site: Site) {
    let manager = site.manager();
    for _ in 0..10_000 {
        drop(taken_at_once(&manager, "k").await);
    }
}

async fn a_lock_dropped_on_a_blocking_thread_can_be_taken_at_once(site: Site) {
    let manager = site.manager();
    for _ in 0..1_000 {
        let guard = taken_at_once(&manager, "k").await;
        tokio::task::spawn_blocking(move || drop(guard)).await.unwrap();
    }
}

async fn a_lock_dropped_in_another_task_can_be_taken_at_once(site: Site) {
    let manager = site.manager();
    for _ in 0..1_000 {
        let guard = taken_at_once(&manager, "k").await;
        tokio::spawn(async move { drop(guard) }).await.unwrap();
    }
}

async fn a_hundred_locks_dropped_at_once_can_be_taken_at_once(site: Site) {
    let manager = site.manager();
    let keys: Vec<_> = (0..100).map(|number| format!("k{number}")).collect();
    for _ in 0..10 {
        drop(join_all(keys.iter().map(|key| taken_at_once(&manager, key))).await);
    }
}

async fn a_dropped_set_can_be_taken_at_once(site: Site) {
    let manager = site.manager();
    for _ in 0..100 {
        let set = manager.lock_all(["a", "b", "c"]).ttl(secs(600)).try_acquire().await.unwrap();
        drop(set);
        drop(taken_at_once(&manager, "c").await);
    }
}

async fn a_lock_dropped_while_it_is_renewed_can_be_taken_at_once(site: Site) {
    let manager = site.manager();
    for hold in 0..100 {
        let lock = manager.lock("k").ttl(millis(60_000)).auto_renew_every(millis(2));
        let guard = lock.try_acquire().await.unwrap();
        tokio::time::sleep(millis(hold % 7)).await;
        drop(guard);
    }
}

/// What an attempt has taken on a minority is given back before the next asks.
async fn an_acquire_given_up_is_in_nobodys_way(site: Site) {
    let manager = site.manager();
    for polls in 1..20 {
        let acquire = manager.lock("k").ttl(secs(600)).try_acquire();
        poll_times(polls, acquire).await;
        drop(taken_at_once(&manager, "k").await);
    }
}

async fn the_first_lock_dropped_on_a_fresh_server_can_be_taken_at_once(site: Site) {
    for _ in 0..20 {
        let manager = site.manager();
        let guard = taken_at_once(&manager, "k").await;
        for server in site.all() {
            server.command(&["SCRIPT", "FLUSH"]);
        }
        drop(guard);
        drop(taken_at_once(&manager, "k").await);
    }
}

async fn a_dropped_lock_costs_what_a_released_one_costs(site: Site) {
    let manager = site.manager();
    drop(taken_at_once(&manager, "k").await);
    site.empties_of("k").await;
    site.all().iter().for_each(Server::reset_calls);
    for _ in 0..100 {
        drop(taken_at_once(&manager, "k").await);
    }
    site.empties_of("k").await;
    for server in site.all() {
        assert_eq!(server.scripts(), 200);
    }
}

async fn a_lock_dropped_beside_a_dedicated_runtime_can_be_taken_at_once(site: Site) {
    let manager = site.builder().dedicated_runtime().build().unwrap();
    for _ in 0..1_000 {
        let guard = taken_at_once(&manager, "k").await;
        std::thread::spawn(move || drop(guard)).join().unwrap();
        drop(taken_at_once(&manager, "k").await);
    }
}
