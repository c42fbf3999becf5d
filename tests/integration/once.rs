//! Once: work that runs under a lock, and is remembered as done.

use std::io;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use futures_util::future::join_all;
use redlatch::{Error, LockGuard, LockRequest, LossReason, Once, OwnerToken, Retry};
use tokio::sync::oneshot;

use crate::support::{
    Events, Server, Site, eventually, everywhere, millis, on_servers, secs, within,
};

everywhere!(
    work_that_succeeded_does_not_run_again,
    work_that_failed_runs_again,
    work_that_runs_elsewhere_is_not_waited_for,
    whoever_waits_learns_that_it_is_done,
    whoever_waits_gets_what_has_failed,
    running_is_the_answer_when_the_wait_is_over,
    of_many_that_start_together_one_runs_it,
    a_done_key_is_nobodys,
    a_done_lock_ends_for_all_who_shared_it,
    what_is_done_is_forgotten_after_its_time,
    unfenced_work_runs_once_too,
    what_is_lost_is_not_done,
    work_whose_lock_is_taken_is_lost_and_not_done,
    what_cannot_be_remembered_for_so_long_is_refused,
    a_complete_that_is_dropped_goes_on,
    work_that_is_dropped_is_not_done,
);

on_servers!(a_renewal_leaves_what_is_done_alone, a_majority_decides_what_is_done);

/// A day.
const KEEP: std::time::Duration = std::time::Duration::from_secs(86_400);

type Outcome = redlatch::Result<Once<u32, io::Error>>;

async fn succeed(request: LockRequest) -> Outcome {
    within(request.run_once(KEEP, async |_| Ok(42))).await
}

#[track_caller]
fn assert_ran(outcome: &Outcome) {
    assert!(matches!(outcome, Ok(Once::Ran(42))), "{outcome:?}");
}

#[track_caller]
fn assert_done(outcome: &Outcome) {
    let Ok(Once::Done { retry_after: Some(left), .. }) = outcome else { panic!("{outcome:?}") };
    assert!(*left > KEEP / 2 && *left <= KEEP, "{left:?}");
}

async fn work_that_succeeded_does_not_run_again(site: Site) {
    assert_ran(&succeed(site.manager().lock("k").holder("db1")).await);
    assert_done(&succeed(site.manager().lock("k")).await);
    assert_done(&succeed(site.manager().lock("k").wait_timeout(secs(600))).await);
    let status = site.manager().inspect("k").await.unwrap();
    assert!(status.is_done() && status.is_held() && !status.is_kept(), "{status:?}");
    assert_eq!(status.holder(), Some("db1"));
    let error = site.manager().lock("k").try_acquire().await.unwrap_err();
    let Error::AlreadyHeld { is_done: true, holder, .. } = &error else { panic!("{error:?}") };
    assert!(holder.as_deref() == Some("db1") && error.to_string() == "lock \"k\" is done");
}

async fn work_that_failed_runs_again(site: Site) {
    let manager = site.manager();
    let fails = async |_: &LockGuard| Err::<u32, _>(io::Error::other("no"));
    // Also where a shortest hold was asked for.
    let request = manager.lock("k").ttl(secs(600)).min_hold(secs(600));
    let outcome = within(request.run_once(KEEP, fails)).await;
    assert!(matches!(outcome, Ok(Once::Failed(_))), "{outcome:?}");
    assert_ran(&succeed(site.manager().lock("k")).await);
}

async fn work_that_runs_elsewhere_is_not_waited_for(site: Site) {
    let request = site.manager().lock("k").ttl(secs(600)).holder("db1");
    let outcome = request.run_once(KEEP, async |_| {
        let Once::Running { retry_after: Some(left), holder, .. } =
            succeed(site.manager().lock("k")).await.unwrap()
        else {
            panic!("it runs")
        };
        assert!(left > secs(300) && holder.as_deref() == Some("db1"), "{left:?}, {holder:?}");
        Ok(42)
    });
    assert_ran(&within(outcome).await);
}

/// Work that is told when to end, and tells that it has begun.
fn told(
    begun: oneshot::Sender<()>,
    end: oneshot::Receiver<io::Result<u32>>,
) -> impl AsyncFnOnce(&LockGuard) -> io::Result<u32> {
    async move |_| {
        begun.send(()).unwrap();
        end.await.unwrap()
    }
}

/// Somebody runs it until `result` is told, and two others wait for that meanwhile.
async fn two_wait(site: &Site, result: io::Result<u32>) -> (Outcome, [Outcome; 2]) {
    let ((begun, has_begun), (end, ends)) = (oneshot::channel(), oneshot::channel());
    let runs = site.manager().lock("k").ttl(secs(600)).run_once(KEEP, told(begun, ends));
    let waits = async {
        has_begun.await.unwrap();
        let (one, two) = (site.manager(), site.manager());
        let wait = |manager: &redlatch::LockManager| {
            succeed(manager.lock("k").ttl(secs(600)).wait_timeout(secs(600)))
        };
        let ending = async {
            // Both have looked in vain by then, or look for the first time: it is all the same to them.
            tokio::time::sleep(millis(50)).await;
            end.send(result).unwrap();
        };
        let (one, two, ()) = tokio::join!(wait(&one), wait(&two), ending);
        [one, two]
    };
    within(async { tokio::join!(runs, waits) }).await
}

async fn whoever_waits_learns_that_it_is_done(site: Site) {
    let (ran, [one, two]) = two_wait(&site, Ok(42)).await;
    assert_ran(&ran);
    assert_done(&one);
    assert_done(&two);
}

async fn whoever_waits_gets_what_has_failed(site: Site) {
    let (failed, outcomes) = two_wait(&site, Err(io::Error::other("no"))).await;
    assert!(matches!(failed, Ok(Once::Failed(_))), "{failed:?}");
    let ran = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Once::Ran(42)))).count();
    let done = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Once::Done { .. }))).count();
    assert_eq!((ran, done), (1, 1), "{outcomes:?}");
}

async fn running_is_the_answer_when_the_wait_is_over(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    for retry in [Retry::default(), Retry::never()] {
        let request = site.manager().lock("k").wait_timeout(millis(50)).retry(retry);
        let outcome = succeed(request).await;
        assert!(matches!(outcome, Ok(Once::Running { .. })), "{outcome:?}");
    }
}

async fn of_many_that_start_together_one_runs_it(site: Site) {
    let managers: Vec<_> = (0..6).map(|_| site.manager()).collect();
    for round in 0..10 {
        let (key, count) = (format!("k{round}"), AtomicU32::new(0));
        let outcomes = join_all(managers.iter().map(|manager| {
            manager.lock(&key).run_once(KEEP, async |_| {
                count.fetch_add(1, Ordering::SeqCst);
                Ok::<_, io::Error>(42)
            })
        }));
        let outcomes = within(outcomes).await;
        assert_eq!(count.load(Ordering::SeqCst), 1, "{outcomes:?}");
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_done(&succeed(managers[0].lock(&key)).await);
    }
}

/// Neither who has done it nor anybody else gets it, by whatever way.
async fn a_done_key_is_nobodys(site: Site) {
    let us = OwnerToken::new("us").unwrap();
    let request = || site.manager().lock("k").owner(us.clone()).ttl(secs(30));
    let guard = request().await.unwrap();
    let ticket = request().acquire_or_extend().await.unwrap().into_ticket();
    guard.complete(KEEP).await.unwrap();
    let joined = request().retry(Retry::never()).acquire_or_extend().await;
    assert!(joined.unwrap_err().is_contended());
    assert!(request().try_acquire().await.unwrap_err().is_contended());
    assert!(site.manager().adopt(ticket).await.unwrap_err().is_not_held());
    assert!(OwnerToken::new("\u{1}\u{1}us").unwrap_err().is_config());
    assert_done(&succeed(site.manager().lock("k")).await);
}

async fn a_done_lock_ends_for_all_who_shared_it(site: Site) {
    let (us, manager) = (OwnerToken::new("us").unwrap(), site.manager());
    let request = || manager.lock("k").owner(us.clone()).ttl(secs(600));
    let first = request().acquire_or_extend().await.unwrap();
    let second = request().acquire_or_extend().await.unwrap();
    let third = request().acquire_or_extend().await.unwrap();
    first.complete(KEEP).await.unwrap();
    assert!(third.release().await.unwrap_err().is_not_held(), "it ended before");
    assert!(second.extend(secs(600)).await.unwrap_err().is_not_held());
    drop(second);
    assert_eq!(manager.close().await, 0);
    assert_done(&succeed(site.manager().lock("k")).await);
}

async fn what_is_done_is_forgotten_after_its_time(site: Site) {
    let manager = site.manager();
    manager.lock("k").ttl(secs(600)).await.unwrap().complete(millis(300)).await.unwrap();
    let next = within(site.manager().lock("k").acquire()).await.unwrap();
    next.release().await.unwrap();
    site.empties("k").await;
}

async fn unfenced_work_runs_once_too(site: Site) {
    assert_ran(&succeed(site.manager().lock("k").unfenced()).await);
    assert_done(&succeed(site.manager().lock("k").unfenced()).await);
    assert_done(&succeed(site.manager().lock("k")).await);
}

async fn what_is_lost_is_not_done(site: Site) {
    let guard = site.manager().lock("k").ttl(millis(50)).await.unwrap();
    within(guard.lost()).await;
    assert!(guard.complete(KEEP).await.unwrap_err().is_not_held());
    assert_ran(&succeed(site.manager().lock("k").wait_timeout(secs(600))).await);
}

async fn work_whose_lock_is_taken_is_lost_and_not_done(site: Site) {
    // Of a random owner nothing is told while it is held, so that nobody notices before the end.
    let request = site.manager().lock("k").ttl(secs(600));
    let outcome = within(request.run_once(KEEP, async |guard| {
        site.seize("k", guard.owner_token()).await;
        Ok::<_, io::Error>(42)
    }))
    .await;
    let taken = matches!(outcome, Err(Error::Lost { reason: LossReason::Taken, .. }));
    assert!(taken, "{outcome:?}");
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.owner_token().map(OwnerToken::as_str), Some("another-owner"), "{status:?}");
    let outcome = succeed(site.manager().lock("k")).await;
    assert!(matches!(outcome, Ok(Once::Running { .. })), "{outcome:?}");
}

async fn what_cannot_be_remembered_for_so_long_is_refused(site: Site) {
    for keep in [secs(0), secs(30 * 86_400 + 1)] {
        let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
        let error = guard.complete(keep).await.unwrap_err();
        assert!(error.is_config() && error.to_string().contains("`keep`"), "{error}");
        site.empties("k").await;
        let work = async |_: &LockGuard| -> io::Result<u32> { panic!("it must not run") };
        let error = site.manager().lock("k").run_once(keep, work).await.unwrap_err();
        assert!(error.is_config(), "{error}");
    }
    let guard = site.manager().lock("k").await.unwrap();
    guard.complete(secs(30 * 86_400)).await.unwrap();
}

async fn a_complete_that_is_dropped_goes_on(site: Site) {
    let manager = site.manager();
    let mut completing = Box::pin(manager.lock("k").ttl(secs(600)).await.unwrap().complete(KEEP));
    crate::support::poll_times(1, &mut completing).await;
    drop(completing);
    assert_eq!(manager.close().await, 0);
    assert_done(&succeed(site.manager().lock("k")).await);
}

async fn work_that_is_dropped_is_not_done(site: Site) {
    let manager = site.manager();
    let work = async |_: &LockGuard| -> io::Result<u32> { std::future::pending().await };
    let mut running = Box::pin(manager.lock("k").ttl(secs(600)).run_once(KEEP, work));
    tokio::select! {
        outcome = &mut running => panic!("{outcome:?}"),
        () = eventually("it runs", async || {
            manager.inspect("k").await.unwrap().is_held()
        }) => {}
    }
    drop(running);
    assert_ran(&succeed(manager.lock("k").wait_timeout(secs(600))).await);
}

/// What another has done, on a node that a guard has lost, is not put back.
async fn a_renewal_leaves_what_is_done_alone(site: Site) {
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(600)).auto_renew_every(millis(20));
    let guard = request.on_renewal(events.listener()).await.unwrap();
    site.fills("k").await;
    let mark = "\u{1}\u{1}another";
    let server = &site.all()[0];
    server.command(&["SET", "k", mark, "PX", "600000"]);
    if site.all().len() == 1 {
        assert_eq!(within(guard.lost()).await, LossReason::Taken);
    } else {
        events.more_renewals(3).await;
    }
    assert_eq!(server.get("k").as_deref(), Some(mark));
    drop(guard.release().await);
    assert_eq!(server.get("k").as_deref(), Some(mark));
}

async fn a_majority_decides_what_is_done(site: Site) {
    let mark = |server: &Server| {
        server.command(&["SET", "k", "\u{1}\u{1}another", "PX", "86400000"]);
    };
    let (servers, count) = (site.all(), Arc::new(AtomicU32::new(0)));
    let work = async |_: &LockGuard| {
        count.fetch_add(1, Ordering::SeqCst);
        Err::<u32, _>(io::Error::other("no"))
    };
    let minority = servers.len() / 2;
    servers[..minority].iter().for_each(mark);
    let outcome = within(site.manager().lock("k").run_once(KEEP, work)).await;
    assert!(matches!(outcome, Ok(Once::Failed(_))), "{outcome:?}");
    mark(&servers[minority]);
    assert_done(&succeed(site.manager().lock("k")).await);
    assert_done(&succeed(site.manager().lock("k").wait_timeout(secs(600))).await);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_month_later_it_runs_again() {
    let site = Site::memory(3);
    let month = secs(30 * 86_400);
    let run = || site.manager().lock("k").run_once(month, async |_| Ok::<_, io::Error>(42));
    assert!(matches!(run().await, Ok(Once::Ran(42))));
    tokio::time::advance(secs(30 * 86_400 - 1)).await;
    assert!(matches!(run().await, Ok(Once::Done { .. })));
    tokio::time::advance(secs(2)).await;
    assert!(matches!(run().await, Ok(Once::Ran(42))));
}

/// Work is renewed while it runs.
#[tokio::test(start_paused = true)]
async fn work_that_takes_longer_than_the_ttl_is_done() {
    let site = Site::memory(3);
    let request = site.manager().lock("k").ttl(secs(2));
    let ran = request.run_once(KEEP, async |_| {
        tokio::time::sleep(secs(60)).await;
        Ok::<_, io::Error>(42)
    });
    assert!(matches!(ran.await, Ok(Once::Ran(42))));
}
