//! The end of a claim: what its release deletes, where, and how it is told from other locks.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    time::Duration,
};

use tracing::Span;

use super::{Claim, Release, vote::Vote};
use crate::{
    claim::origin::Origin,
    host::{clock, sync::lock},
    metrics,
    node::{Answer, Command, Keep, Released},
    types::{
        error::{LossReason, NodeError, Result},
        few::Few,
        token::Mark,
    },
};

impl Claim {
    /// Ends everything but the release: from here on nothing else is sent.
    pub(crate) fn withdraw(&self) {
        // Rule 7: the flag is set before votes and send log are read, and `SendLog::begin` reads it under the lock under
        // which it notes a command. So a command is either seen below or never sent.
        self.send_log.withdraw();
        let mut state = lock(&self.state);
        if state.release.is_none() {
            let was_held = state.held.is_some();
            let lost = state.judge(clock::now());
            // A closed manager does not shorten what its nodes have granted.
            let is_valid = was_held && matches!(lost, None | Some(LossReason::Closed));
            let may_hold = |node| self.must_release(node, was_held, &state.votes[node]);
            let asked: Few<bool> = (0..state.votes.len()).map(may_hold).collect();
            let token = state.held.as_ref().map(|held| held.token);
            let now = clock::now();
            state.kept_until = state.held.as_ref().and_then(|held| held.left(is_valid, now));
            if let Some(held) = &mut state.held {
                held.is_let_go = lost.is_none();
                metrics::let_go(self.label, now.saturating_duration_since(held.since));
            }
            let is_done = matches!(state.kept_until, Some((_, Mark::Done)));
            state.release = Some(Release::new(asked.into_iter(), is_valid, token, is_done));
        }
        let span = mem::replace(&mut state.span, Span::none());
        drop(state);
        drop(span);
        self.changed.notify_waiters();
    }

    /// Ends everything, the release too: the lock stays. That it is held may still be marked.
    pub(crate) fn forget(&self) {
        self.send_log.forget();
        self.withdraw();
    }

    /// Whether a node may hold a key that this claim must delete.
    ///
    /// Rule 3: a node is left out only if it said no, and nothing that was sent there is unanswered or was overlapped.
    /// Silence may mean a key. A lock that was not adopted yet is another guard's, and is not released.
    fn must_release(&self, node: usize, was_held: bool, vote: &Vote) -> bool {
        let is_ours = was_held || self.origin == Origin::Own;
        let is_clear = vote.is_refusal() && self.send_log.is_answered(node);
        // A lock that was taken over may also lie where this claim never got through.
        let may_hold = self.send_log.may_hold(node) || self.origin == Origin::Adopted;
        is_ours && !is_clear && may_hold
    }

    /// The command that releases the lock or undoes the attempt at a node. A failed attempt announces nothing,
    /// since nobody waits for it.
    ///
    /// It may arrive at any later time, when the owner has other locks: owner and attempt say which one is meant.
    pub(crate) fn release_command(&self) -> Command {
        let state = lock(&self.state);
        let held = state.held.as_ref().map(|held| self.release_number(held.token));
        let keep = state.kept_until.map(|(until, mark)| {
            let time = until.saturating_duration_since(clock::now());
            Keep { time, mark }
        });
        Command::Release { held, keep: keep.filter(|keep| !keep.time.is_zero()) }
    }

    /// What tells the release of this lock from others of its key: the fencing token, or a hash of its owner where there is
    /// none.
    fn release_number(&self, token: u64) -> u64 {
        if token > 0 {
            return token;
        }
        let mut hasher = DefaultHasher::new();
        self.send_log.owner.hash(&mut hasher);
        hasher.finish()
    }

    /// The same, of a lock that was held.
    pub(crate) fn released_as(&self) -> Option<u64> {
        self.held(|held| held.token).map(|token| self.release_number(token))
    }

    /// Whether its release leaves the key in place for now, and nobody is told.
    pub(crate) fn is_kept(&self) -> bool {
        let kept_until = lock(&self.state).kept_until;
        kept_until.is_some_and(|(until, mark)| mark == Mark::Kept && clock::now() < until)
    }

    /// Has the release leave the key as done, unless the lock is lost by then.
    pub(crate) fn done_for(&self, keep: Duration) {
        if let Some(held) = &mut lock(&self.state).held {
            held.done_for = Some(keep);
        }
    }

    /// Whether its release leaves the key as done.
    pub(crate) fn is_done(&self) -> bool {
        matches!(lock(&self.state).kept_until, Some((_, Mark::Done)))
    }

    /// The nodes that may still hold the key, once the claim is withdrawn.
    pub(crate) fn to_release(&self) -> Few<usize> {
        self.with_release(Release::open).unwrap_or_default()
    }

    /// Notes a node's answer to the release. Returns whether it was an answer, with which the node is settled.
    pub(crate) fn note_release(&self, node: usize, answer: Result<Answer, NodeError>) -> bool {
        let mut state = lock(&self.state);
        let (is_answer, now) = (answer.is_ok(), clock::now());
        let is_in_time = state.held.as_ref().is_some_and(|held| now < held.valid_until);
        let released = answer.map(|answer| match answer {
            Answer::Released(released) => released,
            _ => Released::NotOurs { counter: 0 },
        });
        if let Some(release) = &mut state.release {
            let has_memory = self.send_log.is_connected(node);
            release.note(node, released, is_in_time, has_memory);
        }
        is_answer
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use tokio::time::advance;

    use super::*;
    use crate::{
        LockManager, Node,
        claim::origin::Offer,
        keeper::quorum::Quorum,
        node::SendLog,
        types::{
            attempt_id::AttemptId, fencing::Fencing, key::Key, token::OwnerToken,
            validity::ClockDrift,
        },
    };

    /// Three nodes in memory.
    fn quorum() -> Arc<Quorum> {
        let manager = LockManager::quorum([(); 3].map(|()| Node::in_memory())).build().unwrap();
        manager.keeper().quorum.clone()
    }

    fn claim(origin: Origin) -> Claim {
        let key = Key::new("", "k".to_owned(), Fencing::default()).unwrap();
        let send_log = SendLog::new(Arc::new(key), OwnerToken::random(), AttemptId::EMPTY, 3);
        let drift = ClockDrift::new(0.0, SECOND);
        Claim::new(1, send_log, drift, Offer::new(origin, None, None))
    }

    async fn ask(quorum: &Quorum, claim: &Claim, node: usize) {
        let acquire = Command::Acquire { ttl: TTL, proposal: 7 };
        let answer = quorum.client(node).ask(&claim.send_log, acquire).await.unwrap();
        claim.note(node, clock::now(), TTL, &answer);
    }

    /// A claim for which two of the nodes have voted.
    async fn granted(quorum: &Quorum, origin: Origin) -> Claim {
        let claim = claim(origin);
        ask(quorum, &claim, 0).await;
        ask(quorum, &claim, 1).await;
        claim
    }

    /// The same, held.
    async fn held(quorum: &Quorum, origin: Origin) -> Claim {
        let claim = granted(quorum, origin).await;
        assert!(claim.hold(7, TTL, Span::none()));
        claim
    }

    /// With which fencing token a node is told that the lock was held, and for how long it is kept.
    fn told(claim: &Claim) -> (Option<u64>, Option<Duration>) {
        let Command::Release { held, keep } = claim.release_command() else { panic!("a release") };
        (held, keep.map(|keep| keep.time))
    }

    fn silence() -> Result<Answer, NodeError> {
        Err(NodeError::new(&"a:1".into(), io::Error::other("no answer")))
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_released_where_it_was_asked_for_and_not_refused() {
        let quorum = quorum();
        ask(&quorum, &claim(Origin::Own), 1).await;
        let claim = granted(&quorum, Origin::Own).await;
        assert!(claim.to_release().is_empty(), "not before it is withdrawn");
        claim.withdraw();
        assert_eq!(claim.to_release()[..], [0], "the second has refused, the third was not asked");
        assert_eq!(told(&claim), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_is_another_guards_is_released_everywhere_once_it_is_held() {
        let quorum = quorum();
        let adopting = granted(&quorum, Origin::Adopted).await;
        adopting.withdraw();
        assert!(adopting.to_release().is_empty());
        let adopted = held(&self::quorum(), Origin::Adopted).await;
        adopted.withdraw();
        assert_eq!(adopted.to_release()[..], [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_withdrawn_once() {
        let claim = held(&quorum(), Origin::Own).await;
        claim.withdraw();
        assert!(claim.note_release(0, Ok(Answer::Released(Released::Deleted))));
        claim.withdraw();
        assert_eq!(claim.to_release()[..], [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_kept_until_it_was_held_for_so_long() {
        for (loss, is_kept) in
            [(None, true), (Some(LossReason::Closed), true), (Some(LossReason::Taken), false)]
        {
            let claim = held(&quorum(), Origin::Own).await;
            claim.keep_for(5 * SECOND);
            advance(SECOND).await;
            claim.begin_hold(clock::now());
            advance(SECOND).await;
            loss.into_iter().for_each(|reason| claim.lose(reason));
            assert!(!claim.is_kept(), "it is not released yet");
            claim.withdraw();
            assert_eq!(claim.is_kept(), is_kept, "{loss:?}");
            assert_eq!(told(&claim).1, is_kept.then_some(4 * SECOND), "{loss:?}");
            advance(4 * SECOND).await;
            assert!(!claim.is_kept());
            assert_eq!(told(&claim).1, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_owner_shows_what_a_silent_release_did_only_while_the_lock_is_valid() {
        let another = || Ok(Answer::Released(Released::NotOurs { counter: 8 }));
        for (late, is_released) in [(Duration::ZERO, true), (VALID, false)] {
            let claim = held(&quorum(), Origin::Own).await;
            claim.withdraw();
            for node in [0, 1] {
                assert!(!claim.note_release(node, silence()));
            }
            advance(late).await;
            for node in [0, 1] {
                assert!(claim.note_release(node, another()));
            }
            let verdict = claim.with_release(|release| release.verdict("k")).flatten();
            assert_eq!(verdict.is_some_and(|verdict| verdict.is_ok()), is_released, "{late:?}");
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const TTL: Duration = Duration::from_secs(10);
    const VALID: Duration = Duration::from_secs(9);
}
