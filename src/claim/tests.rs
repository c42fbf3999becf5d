//! What the answers of the nodes come to.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::advance;

use super::*;
use crate::types::{
    attempt_id::AttemptId, error::NodeError, fencing::Fencing, key::Key, token::OwnerToken,
};

/// What may be locked on three nodes, with a drift of a second.
fn claim(id: AttemptId) -> Claim {
    let key = Key::new("", "k".to_owned(), Fencing::default()).unwrap();
    let send_log = SendLog::new(Arc::new(key), OwnerToken::random(), id, 3);
    let offer = Offer::new(Origin::Own, None, None);
    Claim::new(1, send_log, ClockDrift::new(0.0, SECOND), offer)
}

/// A claim that the first two nodes have granted under the fencing token 7.
fn granted(id: AttemptId) -> Claim {
    let claim = claim(id);
    assert!(grants(&claim, 0) && grants(&claim, 1));
    claim
}

/// The same, held.
fn held(id: AttemptId) -> Claim {
    let claim = granted(id);
    assert!(claim.hold(7, TTL, Span::none()));
    claim
}

fn grants(claim: &Claim, node: usize) -> bool {
    claim.note(node, clock::now(), TTL, &Answer::Granted { token: 7 })
}

fn says_ours(claim: &Claim, node: usize, token: u64) -> bool {
    let ours = Answer::Ours { token, expires_in: TTL };
    claim.note(node, clock::now(), TTL, &ours)
}

fn refuses(claim: &Claim, node: usize) {
    assert!(!claim.note(node, clock::now(), TTL, &Answer::Gone));
}

fn failed(words: &'static str) -> Shortage {
    let node = NodeError::new(&"a:1".into(), std::io::Error::other(words));
    Shortage { needed: 2, reached: 0, errors: vec![node], unheard: 0 }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_valid_for_as_long_as_a_majority_supports_it() {
    let (claim, start) = (claim(ALONE), clock::now());
    for node in 0..3 {
        assert!(grants(&claim, node));
        advance(SECOND).await;
    }
    assert!(claim.hold(7, TTL, Span::none()));
    assert_eq!(claim.judge(), Ok(start + SECOND + VALID));
    assert_eq!((claim.fencing_token(), claim.ttl()), (FencingToken::new(7), TTL));
}

#[tokio::test(start_paused = true)]
async fn one_vote_of_three_is_no_lock() {
    let claim = claim(ALONE);
    assert!(grants(&claim, 0));
    assert!(!claim.hold(7, TTL, Span::none()) && !claim.was_held());
    assert_eq!(claim.judge(), Err(LossReason::Expired));
    assert!(claim.valid_until().is_none() && !claim.is_taken() && !claim.stop());
}

#[tokio::test(start_paused = true)]
async fn votes_whose_time_is_over_are_no_lock() {
    let claim = granted(ALONE);
    advance(VALID).await;
    assert!(!claim.hold(7, TTL, Span::none()));
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_is_lost_moves_the_deadline_back() {
    let (claim, start) = (held(ALONE), clock::now());
    for node in [1, 2] {
        advance(SECOND).await;
        assert!(says_ours(&claim, node, 7));
    }
    assert_eq!(claim.valid_until(), Some(start + SECOND + VALID));
    refuses(&claim, 2);
    assert_eq!(claim.valid_until(), Some(start + VALID));
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_a_lock_is_taken_for_ever() {
    let claim = held(ALONE);
    refuses(&claim, 1);
    assert!(claim.is_taken());
    assert!(!says_ours(&claim, 1, 7) && !says_ours(&claim, 2, 7));
    claim.lose(LossReason::Closed);
    assert_eq!(claim.judge(), Err(LossReason::Taken));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_end_revives_nothing() {
    let claim = held(ALONE);
    advance(VALID).await;
    assert!(!says_ours(&claim, 0, 7) && !says_ours(&claim, 1, 7));
    assert_eq!(claim.judge(), Err(LossReason::Expired));
    assert!(!claim.is_taken());
}

#[tokio::test(start_paused = true)]
async fn whoever_watches_is_woken_when_the_deadline_moves_or_the_lock_is_lost() {
    let claim = held(ALONE);
    let is_woken_by = |act: &dyn Fn()| {
        let mut changed = std::pin::pin!(claim.changed.notified());
        assert!(changed.as_mut().now_or_never().is_none());
        act();
        changed.now_or_never().is_some()
    };
    assert!(!is_woken_by(&|| assert!(says_ours(&claim, 0, 7))), "the other supports no more");
    advance(SECOND).await;
    assert!(!is_woken_by(&|| assert!(says_ours(&claim, 0, 7))), "the other supports no more");
    assert!(is_woken_by(&|| assert!(says_ours(&claim, 1, 7))));
    assert!(is_woken_by(&|| refuses(&claim, 0)));
    assert!(!is_woken_by(&|| assert!(!says_ours(&claim, 0, 7))), "it is lost already");
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_lost_for_the_first_reason() {
    let claim = held(ALONE);
    let mut changed = std::pin::pin!(claim.changed.notified());
    assert!(changed.as_mut().now_or_never().is_none());
    claim.lose(LossReason::Closed);
    assert!(changed.now_or_never().is_some());
    claim.lose(LossReason::Taken);
    assert_eq!(claim.judge(), Err(LossReason::Closed));
    assert_eq!(claim.take_untold_loss(), Some(LossReason::Closed));
    assert_eq!(claim.take_untold_loss(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_not_shared_counts_beside_any_counter() {
    assert!(says_ours(&claim(ALONE), 0, 8));
    assert!(says_ours(&held(ALONE), 2, 8));
}

#[tokio::test(start_paused = true)]
async fn a_shared_lock_counts_beside_its_very_token_alone() {
    let id = AttemptId::random();
    assert!(says_ours(&claim(id), 0, 8), "no token is agreed on yet");
    let held = held(id);
    assert!(says_ours(&held, 2, 7));
    assert!(!says_ours(&held, 2, 8), "another lock was there since");
    assert!(held.judge().is_ok());
    assert!(!says_ours(&held, 0, 8));
    assert!(held.is_taken(), "one node of three is left");
}

#[tokio::test(start_paused = true)]
async fn votes_beside_another_counter_are_none_once_a_shared_lock_is_held() {
    let claim = claim(AttemptId::random());
    assert!(grants(&claim, 0) && says_ours(&claim, 1, 8));
    assert!(!claim.hold(7, TTL, Span::none()));
    assert!(grants(&claim, 2));
    assert!(claim.hold(7, TTL, Span::none()));
}

#[tokio::test(start_paused = true)]
async fn a_shared_lock_that_one_node_knows_as_released_is_lost() {
    let claim = held(AttemptId::random());
    assert!(says_ours(&claim, 2, 7));
    assert!(!claim.note(0, clock::now(), TTL, &Answer::Ended));
    assert!(claim.is_taken());
}

#[tokio::test(start_paused = true)]
async fn no_node_keeps_a_key_longer_than_the_last_ttl_by_a_slow_clock() {
    let (claim, start) = (claim(ALONE), clock::now());
    assert_eq!(claim.ends(), start);
    advance(SECOND).await;
    claim.expect_until(TTL);
    assert_eq!(claim.ends(), start + SECOND + TTL + SECOND);
    claim.expect_until(2 * SECOND);
    assert_eq!(claim.ends(), start + SECOND + TTL + SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_extended_by_its_ttl_and_no_further_than_its_longest_hold() {
    let claim = held(ALONE);
    let next = |now| claim.next_extension(now).map(|it| (it.ttl, it.is_last));
    claim.set_ttl(2 * TTL);
    assert_eq!(next(clock::now()), Some((2 * TTL, false)));
    claim.set_ttl(TTL);
    let mut renewal = Renewal::new();
    renewal.max_hold = Some(TTL + 5 * SECOND);
    claim.renew_by(renewal);
    claim.renew_by(Renewal::new());
    advance(8 * SECOND).await;
    assert_eq!(next(clock::now()), Some((7 * SECOND, true)));
    claim.begin_hold(clock::now());
    assert_eq!(next(clock::now()), Some((TTL, false)));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_renewal_is_new_once() {
    let claim = held(ALONE);
    assert!(!claim.is_stopped());
    assert!(claim.stop() && claim.is_stopped());
    assert!(!claim.stop() && claim.is_stopped());
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_known_until_a_renewal_succeeds() {
    let claim = held(ALONE);
    assert!(claim.failed().is_none() && claim.last_warning().is_none());
    assert!(claim.note_failed(failed("no route")) && claim.failed().is_some());
    assert!(!claim.note_failed(failed("no route")), "it is known");
    claim.renewed();
    assert!(claim.failed().is_none() && claim.last_warning().is_none());
    assert!(claim.note_failed(failed("no route")));
}

#[tokio::test(start_paused = true)]
async fn that_renewals_fail_is_told_once_more_at_the_alarm() {
    let (claim, start) = (held(ALONE), clock::now());
    assert_eq!(claim.alarm(), Some(start + 8 * SECOND));
    assert!(claim.note_failed(failed("no route")));
    advance(8 * SECOND).await;
    assert!(claim.last_warning().is_some());
    assert!(claim.last_warning().is_none());
    assert!(!claim.note_failed(failed("no route")));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_at_the_alarm_is_told() {
    let claim = held(ALONE);
    assert!(claim.note_failed(failed("no route")));
    advance(SECOND / 2).await;
    assert!(!claim.note_failed(failed("no route")));
    advance(15 * SECOND / 2).await;
    assert!(claim.note_failed(failed("no route")));
    assert!(claim.last_warning().is_none(), "it was told");
}

#[tokio::test(start_paused = true)]
async fn an_extension_carries_the_fencing_token_and_lengthens_the_life_of_the_key() {
    let (claim, start) = (held(ALONE), clock::now());
    let Command::Touch { ttl, token, mode } = claim.touch(TTL, Touch::Heal) else {
        panic!("a touch");
    };
    assert_eq!((ttl, token, mode), (Some(TTL), 7, Touch::Heal));
    assert_eq!(claim.ends(), start + TTL + SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_put_back_where_it_is_gone_from_until_that_is_in_vain() {
    let claim = held(ALONE);
    assert!(grants(&claim, 2) && claim.heal_where_gone().is_empty());
    let mut heals = 0;
    loop {
        refuses(&claim, 2);
        if claim.heal_where_gone() != [2] {
            break;
        }
        claim.healed(2);
        heals += 1;
        assert!(heals < 100, "without end");
    }
    assert!(heals > 1);
}

/// The id of an owner token that is used once.
const ALONE: AttemptId = AttemptId::EMPTY;
const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(10);
const VALID: Duration = Duration::from_secs(9);
