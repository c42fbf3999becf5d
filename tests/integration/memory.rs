//! Nodes in memory on a paused clock: long lives pass at once, to the millisecond.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redlatch::{ClockDrift, Error, FencingToken, LockManager, LossReason, OwnerToken};
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::{Events, Seen, Site, millis, secs};

/// Tests each fact on one node and on three, on a paused clock.
macro_rules! paused {
    ($($fact:ident),+ $(,)?) => {$(
        mod $fact {
            use crate::support::Site;

            #[tokio::test(start_paused = true)]
            async fn on_one_node() {
                super::$fact(Site::memory(1)).await;
            }

            #[tokio::test(start_paused = true)]
            async fn on_three_nodes() {
                super::$fact(Site::memory(3)).await;
            }
        }
    )+};
}

paused!(
    acquiring_takes_no_time,
    a_lock_expires_after_exactly_its_ttl,
    an_extended_lock_expires_after_exactly_its_new_ttl,
    validity_is_the_ttl_less_the_drift,
    an_extend_counts_from_now,
    remaining_runs_down_to_zero,
    lost_resolves_at_the_end_of_the_validity,
    lost_follows_an_extend,
    a_refused_extend_wakes_those_who_wait_for_the_loss_at_once,
    work_is_dropped_at_the_end_of_the_validity,
    work_done_in_time_is_returned,
    a_watchdog_keeps_a_lock_for_a_day,
    a_watchdog_renews_every_third_of_the_ttl,
    a_watchdog_renews_as_often_as_wished,
    an_interval_too_long_for_a_shorter_ttl_gives_way_to_a_third_of_it,
    a_renewed_lock_excludes_others_for_a_day,
    a_waiter_gets_the_lock_when_its_ttl_is_over,
    a_waiter_gets_the_lock_when_it_is_released,
    waiters_are_served_in_the_order_of_their_arrival,
    a_wait_timeout_is_kept,
    a_wait_timeout_counts_the_time_in_the_queue,
    fencing_tokens_grow_over_months,
    run_renews_for_an_hour,
    run_drops_the_work_when_the_lock_is_taken,
    an_expired_lock_is_not_extended,
    an_expired_lock_is_not_released,
    a_ticket_lives_as_long_as_its_key,
    contenders_take_turns_for_hours,
    a_lost_callback_comes_at_the_end_of_the_validity,
    a_dropped_lock_is_free_at_once,
    a_set_that_waited_is_as_new_as_its_last_lock,
    a_set_that_hardly_waited_is_not_extended,
    a_set_that_loses_a_lock_again_and_again_gives_up,
);

async fn acquiring_takes_no_time(site: Site) {
    let (manager, start) = (site.manager(), Instant::now());
    let guard = manager.lock("k").acquire().await.unwrap();
    guard.extend(secs(60)).await.unwrap();
    guard.release().await.unwrap();
    manager.lock("k").run(async |_| ()).await.unwrap();
    assert_eq!(Instant::now(), start);
}

async fn a_lock_expires_after_exactly_its_ttl(site: Site) {
    let start = Instant::now();
    site.manager().lock("k").ttl(millis(12_345)).await.unwrap().forget();
    sleep_until(start + millis(12_344)).await;
    let status = site.manager().inspect("k").await.unwrap();
    assert_eq!(status.expires_in(), Some(millis(1)));
    assert!(site.manager().lock("k").try_acquire().await.unwrap_err().is_contended());
    sleep_until(start + millis(12_345)).await;
    assert!(!site.manager().inspect("k").await.unwrap().is_held());
    site.manager().lock("k").try_acquire().await.unwrap().forget();
}

async fn an_extended_lock_expires_after_exactly_its_new_ttl(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(10)).await.unwrap();
    sleep(secs(7)).await;
    let extended = Instant::now();
    guard.extend(secs(20)).await.unwrap();
    guard.forget();
    sleep_until(extended + millis(19_999)).await;
    assert!(site.manager().inspect("k").await.unwrap().is_held());
    sleep_until(extended + secs(20)).await;
    assert!(!site.manager().inspect("k").await.unwrap().is_held());
}

async fn validity_is_the_ttl_less_the_drift(site: Site) {
    for (ttl, drift, valid) in [
        (secs(10), ClockDrift::default(), millis(9_898)),
        (secs(10), ClockDrift::new(0.0, Duration::ZERO), secs(10)),
        (secs(10), ClockDrift::new(0.5, secs(1)), secs(4)),
        (millis(3), ClockDrift::default(), Duration::from_micros(970)),
    ] {
        let manager = site.builder().clock_drift(drift).build().unwrap();
        let start = Instant::now();
        let guard = manager.lock("k").ttl(ttl).await.unwrap();
        assert_eq!(guard.valid_until() - start, valid, "{ttl:?} {drift:?}");
        assert_eq!(guard.remaining(), valid);
        guard.release().await.unwrap();
    }
}

async fn an_extend_counts_from_now(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(10)).await.unwrap();
    for _ in 0..5 {
        sleep(secs(5)).await;
        guard.extend(secs(10)).await.unwrap();
        assert_eq!(guard.valid_until(), Instant::now() + millis(9_898));
        assert_eq!(guard.ttl(), secs(10));
    }
}

async fn remaining_runs_down_to_zero(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(10)).await.unwrap();
    sleep(millis(9_000)).await;
    assert_eq!(guard.remaining(), millis(898));
    sleep(millis(897)).await;
    assert!(guard.is_valid());
    sleep(millis(1)).await;
    assert!(!guard.is_valid());
    assert_eq!(guard.remaining(), Duration::ZERO);
}

async fn lost_resolves_at_the_end_of_the_validity(site: Site) {
    for ttl in [millis(10), millis(999), secs(10), secs(3600), secs(86_400)] {
        let guard = site.manager().lock("k").ttl(ttl).await.unwrap();
        let until = guard.valid_until();
        assert_eq!(guard.lost().await, LossReason::Expired);
        assert_at(until);
        assert!(!guard.is_valid());
        drop(guard);
        sleep(secs(1)).await;
    }
}

async fn lost_follows_an_extend(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(10)).await.unwrap();
    let lost = async { (guard.lost().await, Instant::now()) };
    let extend = async {
        sleep(secs(9)).await;
        guard.extend(secs(100)).await.unwrap();
        guard.valid_until()
    };
    let ((reason, at), until) = tokio::join!(lost, extend);
    assert_eq!(reason, LossReason::Expired);
    assert!(at >= until && at - until <= SLACK, "{:?}", at - until);
}

async fn a_refused_extend_wakes_those_who_wait_for_the_loss_at_once(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let refuse = async {
        sleep(millis(1)).await;
        site.delete("k", guard.owner_token()).await;
        guard.extend(secs(600)).await.unwrap_err();
        Instant::now()
    };
    let lost = async { (guard.lost().await, Instant::now()) };
    let work = async { (guard.while_held(sleep(secs(600))).await, Instant::now()) };
    let warning = async {
        guard.warn_before(secs(1)).await;
        Instant::now()
    };
    let (refused, (reason, lost), (work, ended), warned) =
        tokio::join!(refuse, lost, work, warning);
    assert!(reason == LossReason::Taken && work.unwrap_err().is_lost());
    assert_eq!((lost, ended, warned), (refused, refused, refused));
}

async fn work_is_dropped_at_the_end_of_the_validity(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(10)).await.unwrap();
    let steps = AtomicU32::new(0);
    let work = async {
        loop {
            sleep(secs(1)).await;
            steps.fetch_add(1, Ordering::SeqCst);
        }
    };
    let error = guard.while_held(work).await.unwrap_err();
    assert!(matches!(error, Error::Lost { reason: LossReason::Expired, .. }), "{error:?}");
    assert_at(guard.valid_until());
    assert_eq!(steps.load(Ordering::SeqCst), 9);
}

async fn work_done_in_time_is_returned(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(10)).await.unwrap();
    let work = async {
        sleep(millis(9_890)).await;
        42
    };
    assert_eq!(guard.while_held(work).await.unwrap(), 42);
}

async fn a_watchdog_keeps_a_lock_for_a_day(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(30)).auto_renew().await.unwrap();
    let token = guard.fencing_token();
    let day = sleep(secs(86_400));
    guard.while_held(day).await.unwrap();
    assert!(guard.is_valid() && guard.fencing_token() == token);
    guard.release().await.expect("it was ours all the time");
}

async fn a_watchdog_renews_every_third_of_the_ttl(site: Site) {
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(30)).auto_renew();
    let _guard = request.on_renewal(events.listener()).await.unwrap();
    sleep(secs(3600)).await;
    // Every 10 s, up to a tenth earlier.
    let renewals = events.renewals();
    assert!((360..=401).contains(&renewals), "{renewals}");
    assert!(events.losses().is_empty() && events.failures() == 0);
}

async fn a_watchdog_renews_as_often_as_wished(site: Site) {
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(30)).auto_renew_every(secs(24));
    let _guard = request.on_renewal(events.listener()).await.unwrap();
    sleep(secs(3600)).await;
    let renewals = events.renewals();
    assert!((149..=167).contains(&renewals), "{renewals}");
}

async fn an_interval_too_long_for_a_shorter_ttl_gives_way_to_a_third_of_it(site: Site) {
    let events = Events::default();
    let request = site.manager().lock("k").ttl(secs(30)).auto_renew_every(secs(20));
    let guard = request.on_renewal(events.listener()).await.unwrap();
    guard.extend(secs(21)).await.unwrap();
    sleep(secs(3600)).await;
    assert!(guard.is_valid());
    // Every 7 s; 20 s would leave less than a second for a renewal that is late.
    let renewals = events.renewals();
    assert!(renewals > 500, "{renewals}");
}

async fn a_renewed_lock_excludes_others_for_a_day(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(30)).auto_renew().await.unwrap();
    let other = site.manager();
    for _ in 0..24 * 6 {
        sleep(secs(600)).await;
        assert!(guard.is_valid());
        assert!(other.lock("k").try_acquire().await.unwrap_err().is_contended());
    }
}

async fn a_waiter_gets_the_lock_when_its_ttl_is_over(site: Site) {
    let start = Instant::now();
    site.manager().lock("k").ttl(secs(100)).await.unwrap().forget();
    let _guard = site.manager().lock("k").acquire().await.unwrap();
    let waited = start.elapsed();
    assert!(waited >= secs(100) && waited < secs(101), "{waited:?}");
}

async fn a_waiter_gets_the_lock_when_it_is_released(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let release = async {
        sleep(secs(100)).await;
        guard.release().await.unwrap();
        Instant::now()
    };
    let waiter = site.manager();
    let wait = async {
        let guard = waiter.lock("k").acquire().await.unwrap();
        (guard, Instant::now())
    };
    let (released, (_guard, taken)) = tokio::join!(release, wait);
    // The nodes in memory of another manager announce nothing: there is the safety look.
    assert!(taken - released <= secs(3), "{:?}", taken - released);
}

async fn waiters_are_served_in_the_order_of_their_arrival(site: Site) {
    let manager = site.manager();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
    let mut waiters = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (request, order) = (manager.lock("k"), Arc::clone(&order));
        waiters.spawn(async move {
            let guard = request.acquire().await.unwrap();
            order.lock().unwrap().push(n);
            guard.release().await.unwrap();
        });
        sleep(millis(10)).await;
    }
    guard.release().await.unwrap();
    waiters.join_all().await;
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

async fn a_wait_timeout_is_kept(site: Site) {
    let _guard = site.manager().lock("k").ttl(secs(3600)).await.unwrap();
    for timeout in [millis(1), millis(777), secs(5), secs(600)] {
        let start = Instant::now();
        let request = site.manager().lock("k").wait_timeout(timeout);
        let error = request.acquire().await.unwrap_err();
        let Error::WaitTimeout { waited, .. } = error else {
            panic!("{error:?}");
        };
        assert!(start.elapsed() >= timeout && start.elapsed() <= timeout + SLACK);
        assert!(waited >= timeout && waited <= timeout + SLACK, "{waited:?}");
    }
}

async fn a_wait_timeout_counts_the_time_in_the_queue(site: Site) {
    let manager = site.manager();
    let _guard = manager.lock("k").ttl(secs(3600)).await.unwrap();
    let first = manager.lock("k").wait_timeout(secs(60)).acquire();
    let second = async {
        sleep(secs(1)).await;
        let start = Instant::now();
        let error = manager.lock("k").wait_timeout(secs(10)).acquire().await.unwrap_err();
        (error, start.elapsed())
    };
    let (first, (second, elapsed)) = tokio::join!(first, second);
    assert!(first.unwrap_err().is_timeout() && second.is_timeout());
    assert!(elapsed >= secs(10) && elapsed <= secs(10) + SLACK, "{elapsed:?}");
}

async fn fencing_tokens_grow_over_months(site: Site) {
    let manager = site.manager();
    let mut last = FencingToken::new(0);
    for days in [0, 1, 29, 31, 365] {
        sleep(secs(days * 86_400)).await;
        let guard = manager.lock("k").await.unwrap();
        assert!(guard.fencing_token() > last);
        last = guard.fencing_token();
        guard.release().await.unwrap();
    }
}

async fn run_renews_for_an_hour(site: Site) {
    let start = Instant::now();
    let work = async |guard: &redlatch::LockGuard| {
        sleep(secs(3600)).await;
        guard.is_valid()
    };
    assert!(site.manager().lock("k").ttl(secs(1)).run(work).await.unwrap());
    assert_eq!(start.elapsed(), secs(3600));
    assert!(!site.manager().inspect("k").await.unwrap().is_held());
}

async fn run_drops_the_work_when_the_lock_is_taken(site: Site) {
    let owner = OwnerToken::random();
    let request = site.manager().lock("k").ttl(secs(30)).owner(owner.clone());
    let work = async |_: &redlatch::LockGuard| {
        sleep(secs(60)).await;
        site.seize("k", &owner).await;
        sleep(secs(86_400)).await;
    };
    let start = Instant::now();
    let error = request.run(work).await.unwrap_err();
    assert!(matches!(error, Error::Lost { reason: LossReason::Taken, .. }), "{error:?}");
    assert!(start.elapsed() < secs(60 + 11), "the next renewal finds it out");
}

async fn an_expired_lock_is_not_extended(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(10)).await.unwrap();
    sleep(secs(10)).await;
    assert!(guard.extend(secs(10)).await.unwrap_err().is_not_held());
    assert!(!site.manager().inspect("k").await.unwrap().is_held());
}

async fn an_expired_lock_is_not_released(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(10)).await.unwrap();
    sleep(secs(10)).await;
    let other = site.manager().lock("k").ttl(secs(10)).try_acquire().await.unwrap();
    assert!(guard.release().await.unwrap_err().is_not_held());
    assert!(other.is_valid());
    other.release().await.unwrap();
}

async fn a_ticket_lives_as_long_as_its_key(site: Site) {
    let ticket = || async { site.manager().lock("k").ttl(secs(10)).await.unwrap().into_ticket() };
    let early = ticket().await;
    sleep(millis(9_999)).await;
    let guard = site.manager().adopt(early).await.unwrap();
    assert_eq!(guard.valid_until(), Instant::now() + millis(9_898));
    guard.release().await.unwrap();
    let late = ticket().await;
    sleep(secs(10)).await;
    assert!(site.manager().adopt(late).await.unwrap_err().is_not_held());
}

async fn contenders_take_turns_for_hours(site: Site) {
    let inside = Arc::new(AtomicU32::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..5 {
        tasks.spawn(work_for_hours(site.manager(), Arc::clone(&inside), secs(60 + n)));
    }
    let turns: u32 = tasks.join_all().await.iter().sum();
    assert!(turns > 150, "{turns} turns of about a minute in three hours");
}

/// Takes the lock again and again for three hours, each time for `length`, and counts.
async fn work_for_hours(manager: LockManager, inside: Arc<AtomicU32>, length: Duration) -> u32 {
    let (end, mut turns) = (Instant::now() + secs(3 * 3600), 0);
    while Instant::now() < end {
        let guard = manager.lock("k").ttl(secs(10)).auto_renew().acquire().await.unwrap();
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders at once");
        sleep(length).await;
        assert!(guard.is_valid());
        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1, "two holders at once");
        guard.release().await.unwrap();
        turns += 1;
    }
    turns
}

async fn a_lost_callback_comes_at_the_end_of_the_validity(site: Site) {
    let heard = Arc::new(std::sync::Mutex::new(None));
    let hearing = Arc::clone(&heard);
    let owner = OwnerToken::random();
    let request = site.manager().lock("k").ttl(secs(10)).owner(owner.clone());
    let request = request.auto_renew_every(secs(8)).on_renewal(move |event| {
        if let redlatch::RenewalEvent::Lost { reason, .. } = event {
            *hearing.lock().unwrap() = Some((*reason, Instant::now()));
        }
    });
    let guard = request.await.unwrap();
    site.delete("k", &owner).await;
    let reason = guard.lost().await;
    sleep(secs(10)).await;
    let (told, at) = heard.lock().unwrap().expect("it was told");
    assert_eq!(told, reason);
    assert!(at <= guard.valid_until() + SLACK, "never late");
}

async fn a_dropped_lock_is_free_at_once(site: Site) {
    let manager = site.manager();
    let start = Instant::now();
    drop(manager.lock("k").ttl(secs(600)).await.unwrap());
    assert_eq!(manager.close().await, 0);
    site.manager().lock("k").try_acquire().await.unwrap().forget();
    assert_eq!(Instant::now(), start);
}

async fn a_set_that_waited_is_as_new_as_its_last_lock(site: Site) {
    site.manager().lock("b").ttl(secs(10)).await.unwrap().forget();
    let set = site.manager().lock_all(["a", "b"]).ttl(secs(60)).await.unwrap();
    assert!(set.remaining() > secs(59), "{:?}", set.remaining());
}

/// The first lock is as good as it was.
async fn a_set_that_hardly_waited_is_not_extended(site: Site) {
    site.manager().lock("b").ttl(secs(2)).await.unwrap().forget();
    let set = site.manager().lock_all(["a", "b"]).ttl(secs(60)).await.unwrap();
    assert!(set.remaining() < secs(58), "{:?}", set.remaining());
}

/// It begins anew three times.
async fn a_set_that_loses_a_lock_again_and_again_gives_up(site: Site) {
    let owner = OwnerToken::random();
    let _other = site.manager().lock("b").ttl(secs(80_000)).await.unwrap();
    let request = site.manager().lock_all(["a", "b"]).owner(owner.clone()).ttl(secs(30));
    let (waiting, mut losses) = (tokio::spawn(request.acquire()), 0);
    while !waiting.is_finished() {
        sleep(secs(1)).await;
        if site.holder("a").await.is_some() {
            site.delete("a", &owner).await;
            losses += 1;
            assert!(losses < 10, "it goes on for ever");
        }
    }
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_not_held() && error.key() == Some("a"), "{error:?}");
    assert_eq!(losses, 4);
}

#[tokio::test(start_paused = true)]
async fn events_tell_the_deadline_to_the_millisecond() {
    let (site, events) = (Site::memory(3), Events::default());
    let request = site.manager().lock("k").ttl(secs(10)).on_renewal(events.listener());
    let guard = request.auto_renew_every(secs(5)).await.unwrap();
    sleep(millis(5_001)).await;
    let [Seen::Renewed { valid_until, .. }] = events.all()[..] else {
        panic!("{:?}", events.all());
    };
    assert_eq!(valid_until, guard.valid_until());
}

/// It is this time now, to tokio's millisecond.
fn assert_at(time: Instant) {
    let now = Instant::now();
    assert!(now >= time && now - time <= SLACK, "{:?} late", now - time);
}

/// Tokio's timers are as fine as a millisecond, and round up.
const SLACK: Duration = millis(2);
