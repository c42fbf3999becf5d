//! The end of a claim: what its release deletes, where, and how it is told from other locks.

use std::mem;

use tracing::Span;

use super::{Claim, Release, State, hold::Held, vote::Vote};
use crate::{
    clock,
    error::{LossReason, NodeError, Result},
    metrics,
    node::{Answer, Command},
    offer::Undo,
    sync::lock,
};

impl Claim {
    /// Ends everything but the release: from here on nothing else is sent.
    pub(crate) fn withdraw(&self) {
        self.trail.withdraw();
        let mut state = lock(&self.state);
        if state.release.is_none() {
            let was_held = state.held.is_some();
            let lost = state.judge(clock::now());
            // A closed manager does not shorten what its nodes have granted.
            let is_valid = was_held && matches!(lost, None | Some(LossReason::Closed));
            if let Undo::GrantedSince(proposal) = self.undo {
                // Later claims propose more, so that this release, however late it arrives, takes no lock of
                // theirs for its own.
                state.highest = proposal.max(clock::proposal());
            }
            let may_hold = |node| self.must_release(node, was_held, &state.votes[node]);
            let asked = (0..state.votes.len()).map(may_hold);
            let token = state.held.as_ref().map_or(0, |held| held.token);
            state.release = Some(Release::new(asked, is_valid, token));
            if let Some(Held { since, min_hold, .. }) = state.held {
                metrics::let_go(clock::now().saturating_duration_since(since));
                state.kept_until = is_valid.then(|| since + min_hold);
            }
        }
        let span = mem::replace(&mut state.span, Span::none());
        drop(state);
        drop(span);
    }

    /// Whether a node may hold a key that this claim must delete.
    fn must_release(&self, node: usize, was_held: bool, vote: &Vote) -> bool {
        let is_ours = was_held || self.undo != Undo::Nothing;
        let is_clear = vote.is_refusal() && self.trail.is_answered(node);
        // A lock that was taken over may also lie where this claim never got through.
        let may_hold = self.trail.may_hold(node) || self.undo == Undo::Nothing;
        is_ours && !is_clear && may_hold
    }

    /// The command that releases the lock or undoes the attempt at a node. A failed attempt announces nothing,
    /// since nobody waits for it.
    pub(crate) fn release_command(&self, node: usize) -> Command {
        let state = lock(&self.state);
        let held = state.held.as_ref().map(|held| held.token);
        let kept = state.kept_until.map(|until| until.saturating_duration_since(clock::now()));
        let tokens = self.tokens_at(&state, node, held);
        Command::Release { held, tokens, keep: kept.filter(|kept| !kept.is_zero()) }
    }

    /// The fencing counters with which the key at a node is this claim's, if the owner token does not say it.
    fn tokens_at(&self, state: &State, node: usize, held: Option<u64>) -> Option<(u64, u64)> {
        let vote = &state.votes[node];
        match (self.undo, vote.token) {
            (Undo::Everything, _) => None,
            (_, Some(token)) => {
                let held = held.unwrap_or(token);
                Some((token.min(held), token.max(held).max(vote.raised)))
            }
            (Undo::GrantedSince(proposal), None) => {
                Some((proposal, state.highest.min(state.spared_from - 1)))
            }
            (Undo::Nothing, None) => {
                // A counter that is behind is that of a grant which was not raised. One that is ahead may be
                // another lock's of this owner, once this one has ended.
                let (token, until) =
                    state.held.as_ref().map(|held| (held.token, held.valid_until))?;
                Some((0, if clock::now() < until { u64::MAX } else { token }))
            }
        }
    }

    /// Spares what a later claim of the same owner is granted from `proposal` on. Returns the nodes that it
    /// must not ask at all, since an undo may reach them behind its back.
    pub(crate) fn spare_from(&self, proposal: u64) -> Vec<usize> {
        let mut state = lock(&self.state);
        state.spared_from = state.spared_from.min(proposal);
        let Some(release) = &mut state.release else { return Vec::new() };
        let open = release.open();
        let is_unsafe =
            |node: &usize| release.has_failed_at(*node) || self.trail.is_on_retired_line(*node);
        open.into_iter().filter(is_unsafe).collect()
    }

    /// Whether its release leaves the key in place for now.
    pub(crate) fn is_kept(&self) -> bool {
        lock(&self.state).kept_until.is_some_and(|until| clock::now() < until)
    }

    /// The nodes that may still hold the key, once the claim is withdrawn.
    pub(crate) fn to_release(&self) -> Vec<usize> {
        self.with_release(Release::open).unwrap_or_default()
    }

    /// Notes a node's answer to the release. Returns whether it was an answer, with which the node is settled.
    pub(crate) fn note_release(&self, node: usize, answer: Result<Answer, NodeError>) -> bool {
        let mut state = lock(&self.state);
        // The grant was above all that could be foreseen, beside a counter that was ahead of our clock. Once it is
        // known, it is released by its very token.
        if let (Ok(Answer::Ours { token, .. }), Undo::GrantedSince(_)) = (&answer, self.undo)
            && state.votes[node].may_be_ours(*token)
        {
            return false;
        }
        let (is_answer, now) = (answer.is_ok(), clock::now());
        let is_in_time = state.held.as_ref().is_some_and(|held| now < held.valid_until);
        if let Some(release) = &mut state.release {
            release.note(node, answer, is_in_time);
        }
        is_answer
    }
}
