//! What holds for every input: keys, TTLs, settings, retry policies and URLs that nobody thought of.

use std::time::Duration;

use proptest::prelude::*;
use redlatch::{ClockDrift, Error, FencingToken, LockManager, LockTicket, Node, OwnerToken, Retry};

use crate::support::{everything_said, millis, secs};

proptest! {
    #[test]
    fn a_key_of_1_to_512_bytes_excludes_itself_and_others_are_refused(
        key in prop_oneof![text(0..20), text(120..520), "[a{}:]{0,8}", "[ -~]{505,520}"],
        prefix in prop_oneof![Just(String::new()), text(0..20)],
    ) {
        let manager = LockManager::single(Node::in_memory()).key_prefix(prefix).build().unwrap();
        on_a_paused_clock(async {
            let taken = manager.lock(&key).try_acquire().await;
            if !(1..=512).contains(&key.len()) {
                prop_assert!(taken.unwrap_err().is_config());
                prop_assert!(manager.inspect(&key).await.unwrap_err().is_config());
                return Ok(());
            }
            let guard = taken.unwrap();
            prop_assert_eq!(guard.key(), &key);
            let error = manager.lock(&key).try_acquire().await.unwrap_err();
            prop_assert!(matches!(error, Error::AlreadyHeld { .. }), "{error:?}");
            prop_assert_eq!(error.key(), Some(&*key));
            let first = guard.fencing_token();
            guard.release().await.unwrap();
            prop_assert!(manager.lock(&key).try_acquire().await.unwrap().fencing_token() > first);
            Ok(())
        })?;
    }

    #[test]
    fn two_keys_do_not_exclude_each_other(one in text(1..20), other in text(1..20)) {
        prop_assume!(one != other);
        let manager = LockManager::in_memory();
        on_a_paused_clock(async {
            let guards = [manager.lock(one).try_acquire().await, manager.lock(other).try_acquire().await];
            prop_assert!(guards.iter().all(Result::is_ok), "{guards:?}");
            Ok(())
        })?;
    }

    #[test]
    fn a_lock_is_valid_for_some_time_up_to_its_ttl_whatever_that_is(
        ttl in duration(), next in duration(), factor in factor(), floor in duration(),
    ) {
        let drift = ClockDrift::new(factor, floor);
        let built = LockManager::single(Node::in_memory()).ttl(ttl).clock_drift(drift).build();
        let Some(manager) = done_or_refused(built)? else { return Ok(()) };
        on_a_paused_clock(async {
            let guard = manager.lock("k").acquire().await.unwrap();
            prop_assert!(!guard.remaining().is_zero() && guard.remaining() <= ttl);
            prop_assert_eq!(guard.ttl(), ttl);
            let (before, extended) = (guard.remaining(), guard.extend(next).await);
            if done_or_refused(extended)?.is_some() {
                prop_assert!(guard.remaining() >= before && guard.remaining() <= next.max(ttl));
            }
            guard.release().await.unwrap();
            Ok(())
        })?;
    }

    #[test]
    fn every_end_of_a_request_takes_any_ttl_and_interval_or_refuses_it(
        ttl in duration(), every in duration(),
    ) {
        let manager = LockManager::in_memory();
        on_a_paused_clock(async {
            let request = || manager.lock("k").ttl(ttl).auto_renew_every(every);
            let is_fit = done_or_refused(request().try_acquire().await)?.is_some();
            let acquired = request().acquire().await.map(drop);
            prop_assert_eq!(done_or_refused(acquired)?.is_some(), is_fit);
            let joined = request().acquire_or_extend().await.map(drop);
            prop_assert_eq!(done_or_refused(joined)?.is_some(), is_fit);
            let ran = request().run(async |guard| guard.is_valid()).await;
            prop_assert_eq!(done_or_refused(ran)?, is_fit.then_some(true));
            let ticket = LockTicket::new("k", OwnerToken::random(), FencingToken::new(1), ttl);
            let error = manager.adopt(ticket).await.unwrap_err();
            prop_assert!(error.is_config() || error.is_not_held(), "{error:?}");
            Ok(())
        })?;
    }

    #[test]
    fn any_timeouts_are_refused_or_do_no_harm(
        node_timeout in duration(), release_timeout in duration(), patience in duration(),
    ) {
        let built = LockManager::single(Node::in_memory())
            .node_timeout(node_timeout)
            .release_timeout(release_timeout)
            .outage_patience(patience)
            .build();
        let Some(manager) = done_or_refused(built)? else {
            prop_assert!(node_timeout.is_zero() || release_timeout.is_zero());
            return Ok(());
        };
        on_a_paused_clock(async {
            let guard = manager.lock("k").acquire().await.unwrap();
            guard.extend(secs(60)).await.unwrap();
            guard.release().await.unwrap();
            prop_assert!(manager.ping().await.iter().all(|node| node.round_trip().is_ok()));
            prop_assert!(!manager.inspect("k").await.unwrap().is_held());
            drop(manager.lock("k").acquire().await.unwrap());
            prop_assert_eq!(manager.close().await, 0);
            Ok(())
        })?;
    }

    #[test]
    fn a_waiter_with_any_policy_gets_the_lock_or_says_why_not(
        retry in retry(), patience in proptest::option::of(duration()),
    ) {
        let manager = LockManager::in_memory();
        on_a_paused_clock(async {
            manager.lock("k").ttl(millis(300)).acquire().await.unwrap().forget();
            let request = manager.lock("k").retry(retry);
            let request = match patience {
                Some(patience) => request.wait_timeout(patience),
                None => request,
            };
            match request.acquire().await {
                Ok(guard) => prop_assert!(guard.is_valid()),
                Err(error) => prop_assert!(error.is_contended(), "{error:?}"),
            }
            Ok(())
        })?;
    }

    #[test]
    fn any_text_is_a_url_or_refused(url in url()) {
        let opened = Node::open(&url);
        let heard = Node::in_memory().with_notices(&url);
        prop_assert_eq!(opened.is_ok(), heard.is_ok());
        if let Some(node) = done_or_refused(opened)? {
            LockManager::single(node).build().unwrap();
        }
    }

    #[test]
    fn a_password_is_never_repeated(
        scheme in scheme(), user in text(0..12), before in "[a-z0-9%:]{0,4}", rest in text(0..24),
    ) {
        // The path to a socket has no place for a password: whatever stands there is its name.
        let user = if scheme.contains("unix") { user.replace('/', "") } else { user };
        let urls = [
            format!("{scheme}{user}:{before}{PASSWORD}@{rest}"),
            format!("{scheme}:{before}{PASSWORD}@localhost{rest}"),
            format!("{scheme}/run/redis.sock?user={user}&pass={before}{PASSWORD}&{rest}"),
            format!("{scheme}localhost/{rest}?pass={PASSWORD}"),
        ];
        for url in urls {
            let said = match Node::open(&url) {
                Ok(node) => format!("{node:?} {} {:?}", node.name(), LockManager::single(node.clone())),
                Err(error) => everything_said(&error),
            };
            prop_assert!(!said.to_lowercase().contains(PASSWORD), "{url:?} said {said}");
        }
    }

    #[test]
    fn an_owner_token_of_1_to_256_bytes_is_good(token in prop_oneof![text(0..20), text(60..260), "[ -~]{250,260}"]) {
        let owner = done_or_refused(OwnerToken::new(&token))?;
        prop_assert_eq!(owner.is_some(), (1..=256).contains(&token.len()));
        if let Some(owner) = owner {
            prop_assert_eq!(owner.as_str(), &token);
            let said = format!("{owner} {owner:?}");
            prop_assert!(token.chars().count() <= 8 || !said.contains(&token), "{said}");
        }
    }
}

/// Runs it on a clock that stands still while anything is to be done, so that no machine is too slow.
fn on_a_paused_clock(
    fact: impl Future<Output = Result<(), TestCaseError>>,
) -> Result<(), TestCaseError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(fact)
}

/// What was made, or nothing if it was refused with `Error::Config`.
fn done_or_refused<T>(result: redlatch::Result<T>) -> Result<Option<T>, TestCaseError> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) => {
            prop_assert!(matches!(error, Error::Config { .. }) && error.is_config(), "{error:?}");
            Ok(None)
        }
    }
}

fn text(length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), length).prop_map(String::from_iter)
}

/// Any length of time, more often one near the limits.
fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        any::<Duration>(),
        (0..5_000_000u64).prop_map(Duration::from_nanos),
        (0..90_000_000u64).prop_map(millis),
        (86_399_999_000..86_400_001_000u64).prop_map(Duration::from_micros),
        (999_999_998..1_000_000_000u32).prop_map(|nanos| Duration::new(u64::MAX, nanos)),
    ]
}

fn factor() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), 0.0..1.0f64, Just(0.01)]
}

fn retry() -> impl Strategy<Value = Retry> {
    let delays = prop_oneof![
        (duration(), duration()).prop_map(|(min, jitter)| Retry::jittered(min, jitter)),
        (duration(), any::<f64>(), duration())
            .prop_map(|(base, factor, most)| Retry::exponential(base, factor, most)),
        duration().prop_map(|delay| Retry::from_fn(move |_| delay)),
    ];
    let jitter = proptest::option::of(duration());
    let limit = proptest::option::of(0..20u32);
    (delays, jitter, limit).prop_map(|(mut retry, jitter, limit)| {
        if let Some(jitter) = jitter {
            retry = retry.with_jitter(jitter);
        }
        if let Some(limit) = limit {
            retry = retry.max_retries(limit);
        }
        retry
    })
}

fn url() -> impl Strategy<Value = String> {
    let parts = (scheme(), text(0..20), "[a-z0-9.:@/?#%=&\\[\\]-]{0,40}");
    prop_oneof![
        text(0..40),
        parts.prop_map(|(scheme, any, likely)| format!("{scheme}{likely}{any}")),
        (scheme(), "[a-z0-9.:@/?#%=&\\[\\]-]{0,40}").prop_map(|(scheme, rest)| scheme + &rest),
        (scheme(), "[a-z]{1,5}(:[0-9]{1,5})?(/[0-9]{1,2})?(\\?protocol=(resp2|resp3))?")
            .prop_map(|(scheme, rest)| scheme + &rest),
    ]
}

fn scheme() -> impl Strategy<Value = String> {
    prop_oneof![proptest::sample::select(SCHEMES).prop_map(str::to_owned), "[a-z+:/]{0,9}"]
}

const SCHEMES: &[&str] =
    &["redis://", "rediss://", "redis+unix://", "unix://", "valkey://", "valkeys://"];
const PASSWORD: &str = "hunter2hunter2";
