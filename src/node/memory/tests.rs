//! What a node in memory does with fencing counters.

use tokio::time::Instant;

use super::*;

/// A lock that is taken and released with a proposal, and the token that came of it.
fn token(kept: &mut Kept, proposal: Duration, now: Instant) -> u64 {
    let owner = OwnerToken::random();
    let id = AttemptId::EMPTY;
    let names =
        Names { lock: "k", fence: Some("{k}:fence"), retention: RETENTION, owner: &owner, id };
    let proposal = u64::try_from(proposal.as_micros()).unwrap();
    let ttl = Duration::from_secs(30);
    let Answer::Granted { token } = kept.answer(names, Command::Acquire { ttl, proposal }, now)
    else {
        panic!("the lock is free");
    };
    let release = Command::Release { held: Some(token), keep: None };
    assert_eq!(kept.answer(names, release, now), Answer::Released(Released::Deleted));
    token
}

/// Two locks of one key, `apart` on the node's clock. The clock of whoever takes the second is `behind`.
fn grows(apart: Duration, behind: Duration) -> bool {
    let (mut kept, now) = (Kept::default(), Instant::now());
    let first = token(&mut kept, TODAY, now);
    let later = (TODAY + apart).checked_sub(behind).unwrap();
    token(&mut kept, later, now + apart) > first
}

#[test]
fn tokens_grow_whatever_the_clocks_say_as_long_as_the_counter_is_kept() {
    for behind in [Duration::ZERO, RETENTION, 5 * RETENTION] {
        assert!(grows(JUST_BEFORE, behind), "{behind:?}");
    }
}

/// The limit of what tokens promise: see `fencing_retention`.
#[test]
fn tokens_grow_over_a_counter_that_has_gone_unless_clocks_differ_by_the_retention() {
    assert!(grows(RETENTION, Duration::ZERO));
    assert!(grows(RETENTION, JUST_BEFORE));
    assert!(!grows(RETENTION, RETENTION), "the same token twice");
    assert!(!grows(RETENTION, RETENTION + MICROSECOND));
    assert!(grows(2 * RETENTION, RETENTION + MICROSECOND), "what counts is the time between");
}

#[test]
fn each_use_keeps_the_counter_anew() {
    let (mut kept, now) = (Kept::default(), Instant::now());
    let mut last = 0;
    for uses in 0..4 {
        let next = token(&mut kept, TODAY, now + uses * (JUST_BEFORE));
        assert!(next > last, "the clock stands still, but the counter is kept");
        last = next;
    }
}

const RETENTION: Duration = Duration::from_secs(60 * 60);
const MICROSECOND: Duration = Duration::from_micros(1);
/// A microsecond less than the retention.
const JUST_BEFORE: Duration = Duration::from_micros(60 * 60 * 1_000_000 - 1);
/// A client's clock.
const TODAY: Duration = Duration::from_secs(1_795_000_000);
