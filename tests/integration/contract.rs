//! What the compiler can promise: every public type goes to any thread, and every future too.

use std::fmt::Debug;
use std::future::{Future, IntoFuture};

use redlatch::{
    ClockDrift, Election, Error, FencingToken, Leader, LeaderWatch, LockGuard, LockManager,
    LockManagerBuilder, LockRequest, LockStatus, LockTicket, Loss, LossReason, Lost, Node,
    NodeError, NodeHealth, NodeVote, OwnerToken, RenewalEvent, Retry, WhileHeld,
};

use crate::support::{Site, everywhere, secs};

everywhere!(
    every_future_can_be_spawned,
    a_run_can_be_spawned,
    a_request_can_be_awaited_in_a_spawned_task,
    a_guard_can_be_shared_between_tasks,
);

#[test]
fn every_public_type_goes_anywhere() {
    fn check<T: Send + Sync + Debug + 'static>() {}
    check::<Node>();
    check::<LockManager>();
    check::<LockManagerBuilder>();
    check::<LockRequest>();
    check::<LockGuard>();
    check::<Lost<'static>>();
    check::<WhileHeld<'static, std::future::Ready<()>>>();
    check::<FencingToken>();
    check::<OwnerToken>();
    check::<LockTicket>();
    check::<LockStatus>();
    check::<NodeVote>();
    check::<NodeHealth>();
    check::<NodeError>();
    check::<ClockDrift>();
    check::<Retry>();
    check::<RenewalEvent>();
    check::<LossReason>();
    check::<Loss>();
    check::<Election>();
    check::<Leader>();
    check::<LeaderWatch>();
    check::<Error>();
}

#[test]
fn a_loss_is_a_future_that_can_be_moved() {
    fn check<T: Future<Output = LossReason> + Unpin>() {}
    check::<Loss>();
}

#[test]
fn small_types_have_what_values_have() {
    fn copy<T: Copy + PartialEq>() {}
    fn clone<T: Clone>() {}
    fn key<T: Clone + Eq + std::hash::Hash>() {}
    fn number<T: Copy + Ord + std::hash::Hash + std::fmt::Display + Into<u64>>() {}
    copy::<ClockDrift>();
    copy::<LossReason>();
    clone::<Node>();
    clone::<LockManager>();
    clone::<Retry>();
    clone::<LockTicket>();
    clone::<Loss>();
    key::<OwnerToken>();
    number::<FencingToken>();
}

#[test]
fn errors_are_errors() {
    fn check<T: std::error::Error + Send + Sync + 'static>() {}
    check::<Error>();
    check::<NodeError>();
    fn boxed(error: Error) -> Box<dyn std::error::Error + Send + Sync> {
        error.into()
    }
    assert_eq!(boxed(Error::Closed).to_string(), "the lock manager is closed");
}

async fn every_future_can_be_spawned(site: Site) {
    let manager = site.manager();
    spawned(manager.lock("a").acquire()).await.unwrap().forget();
    spawned(manager.lock("b").try_acquire()).await.unwrap().forget();
    spawned(manager.lock("c").acquire_or_extend()).await.unwrap().forget();
    let guard = spawned(manager.lock("d").ttl(secs(60)).into_future()).await.unwrap();
    sendable(guard.extend(secs(60))).await.unwrap();
    sendable(guard.try_extend(secs(60))).await.unwrap();
    drop(sendable(guard.lost()));
    sendable(guard.while_held(async {})).await.unwrap();
    sendable(manager.inspect("d")).await.unwrap();
    sendable(manager.ping()).await;
    let guard = sendable(manager.adopt(guard.into_ticket())).await.unwrap();
    spawned(guard.release()).await.unwrap();
    sendable(manager.close()).await;
}

async fn a_run_can_be_spawned(site: Site) {
    let request = site.manager().lock("k");
    let work = async |guard: &LockGuard| {
        tokio::task::yield_now().await;
        guard.fencing_token()
    };
    let run = async move { request.run(work).await };
    assert!(spawned(run).await.unwrap().get() > 0);
    let owned = String::from("owned");
    let run = site.manager().lock("k").run(async move |_| owned.len());
    assert_eq!(spawned(run).await.unwrap(), 5);
}

async fn a_request_can_be_awaited_in_a_spawned_task(site: Site) {
    let request = site.manager().lock("k");
    let guard = spawned(async move { request.await }).await.unwrap();
    assert!(guard.is_valid());
}

async fn a_guard_can_be_shared_between_tasks(site: Site) {
    let guard = std::sync::Arc::new(site.manager().lock("k").ttl(secs(60)).await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let guard = std::sync::Arc::clone(&guard);
        tasks.spawn(async move { guard.extend(secs(600)).await.map(|()| guard.is_valid()) });
    }
    for extended in tasks.join_all().await {
        assert!(extended.unwrap());
    }
    assert!(guard.remaining() > secs(300));
}

async fn spawned<F>(future: F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future).await.expect("no panic")
}

fn sendable<F: Future + Send>(future: F) -> F {
    future
}
