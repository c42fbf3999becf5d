//! The loss signal that goes into other tasks, and outlives its guard.

use std::time::Duration;

use futures_util::FutureExt;
use redlatch::{LockGuard, LockManager, Loss, LossReason};
use tokio::time::Instant;

use crate::support::{Site, everywhere, millis, poll_times, secs, within};

everywhere!(
    a_guard_that_goes_while_valid_has_released,
    a_dropped_guard_wakes_all_clones,
    a_lock_that_is_gone_wakes_all_clones,
    the_first_reason_stays,
    a_closed_manager_is_the_reason,
    who_never_waited_learns_the_reason,
    an_adopted_lock_has_a_signal_of_its_own,
    waiting_for_a_loss_takes_no_task,
);

async fn a_guard_that_goes_while_valid_has_released(site: Site) {
    let manager = site.manager();
    let ends: [fn(LockGuard); 3] = [drop, LockGuard::forget, |guard| drop(guard.into_ticket())];
    for (n, end) in ends.into_iter().enumerate() {
        let guard = manager.lock(n.to_string()).await.unwrap();
        let loss = guard.loss();
        assert_eq!((loss.reason(), loss.clone().now_or_never()), (None, None));
        end(guard);
        assert_eq!(loss.reason(), Some(LossReason::Released), "{n}");
        assert_eq!(loss.now_or_never(), Some(LossReason::Released), "{n}");
    }
    let guard = manager.lock("k").await.unwrap();
    let loss = guard.loss();
    guard.release().await.unwrap();
    assert_eq!(within(loss).await, LossReason::Released);
}

async fn a_dropped_guard_wakes_all_clones(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let waiting = spawned(&guard.loss()).await;
    drop(guard);
    all_tell(waiting, LossReason::Released).await;
}

async fn a_lock_that_is_gone_wakes_all_clones(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let waiting = spawned(&guard.loss()).await;
    site.delete("k", guard.owner_token()).await;
    guard.extend(secs(600)).await.unwrap_err();
    all_tell(waiting, LossReason::Taken).await;
}

async fn the_first_reason_stays(site: Site) {
    let manager = site.manager();
    let guard = manager.lock("a").ttl(millis(300)).await.unwrap();
    let loss = guard.loss();
    assert_eq!(within(loss.clone()).await, LossReason::Expired);
    assert!(!guard.is_valid());
    drop(guard);
    assert_eq!(loss.reason(), Some(LossReason::Expired));
    let guard = manager.lock("b").ttl(millis(300)).await.unwrap();
    let (loss, until) = (guard.loss(), guard.valid_until());
    drop(guard);
    tokio::time::sleep_until(until + millis(5)).await;
    assert_eq!(loss.reason(), Some(LossReason::Released), "not expired");
    manager.close().await;
    assert_eq!(loss.now_or_never(), Some(LossReason::Released));
}

async fn a_closed_manager_is_the_reason(site: Site) {
    let manager = site.builder().release_timeout(millis(50)).build().unwrap();
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    let waiting = spawned(&guard.loss()).await;
    let loss = guard.loss();
    within(manager.close()).await;
    all_tell(waiting, LossReason::Closed).await;
    drop(guard);
    assert_eq!(loss.reason(), Some(LossReason::Closed));
}

async fn who_never_waited_learns_the_reason(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(300)).await.unwrap();
    let loss = guard.loss();
    tokio::time::sleep_until(guard.valid_until()).await;
    assert_eq!(loss.reason(), Some(LossReason::Expired));
}

async fn an_adopted_lock_has_a_signal_of_its_own(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let before = guard.loss();
    let adopted = site.manager().adopt(guard.into_ticket()).await.unwrap();
    assert_eq!(before.reason(), Some(LossReason::Released));
    assert_eq!(adopted.loss().reason(), None);
}

async fn waiting_for_a_loss_takes_no_task(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut waiting: Vec<_> = (0..100).map(|_| guard.loss()).collect();
    for loss in &mut waiting {
        assert!(poll_times(1, loss).await.is_none());
    }
    assert!(tasks() <= before, "{} tasks, {before} before", tasks());
    drop(guard);
    for loss in waiting {
        assert_eq!(within(loss).await, LossReason::Released);
    }
}

/// Not a moment late, and not early, though nobody answers: on the clock that a test has paused.
#[tokio::test(start_paused = true)]
async fn a_loss_is_heard_of_at_the_deadline_to_the_millisecond() {
    let guard = LockManager::in_memory().lock("k").ttl(secs(10)).await.unwrap();
    let (until, loss) = (guard.valid_until(), guard.loss());
    let worker = tokio::spawn(async move { (loss.await, Instant::now()) });
    tokio::time::sleep(secs(5)).await;
    guard.extend(secs(20)).await.unwrap();
    let moved = guard.valid_until();
    assert!(moved > until && guard.loss().reason().is_none());
    let (reason, at) = within(worker).await.unwrap();
    assert_eq!(reason, LossReason::Expired);
    assert!(at >= moved && at <= moved + Duration::from_millis(1), "{at:?}, not {moved:?}");
}

/// And at once when the guard goes: no time passes on a paused clock, though timers look now and then.
#[tokio::test(start_paused = true)]
async fn a_guard_that_goes_is_heard_of_at_once() {
    let manager = LockManager::in_memory();
    let ends: [fn(LockGuard); 3] = [drop, LockGuard::forget, |guard| drop(guard.into_ticket())];
    for (n, end) in ends.into_iter().enumerate() {
        let guard = manager.lock(n.to_string()).ttl(secs(600)).await.unwrap();
        let (waiting, start) = (spawned(&guard.loss()).await, Instant::now());
        end(guard);
        all_tell(waiting, LossReason::Released).await;
        assert_eq!(start.elapsed(), Duration::ZERO, "{n}");
    }
}

/// Tasks that wait for clones of a signal, each of which has been polled.
async fn spawned(loss: &Loss) -> Vec<tokio::task::JoinHandle<LossReason>> {
    let tasks = (0..20).map(|_| tokio::spawn(loss.clone())).collect();
    tokio::task::yield_now().await;
    tasks
}

async fn all_tell(tasks: Vec<tokio::task::JoinHandle<LossReason>>, reason: LossReason) {
    for task in tasks {
        assert_eq!(within(task).await.unwrap(), reason);
    }
}
