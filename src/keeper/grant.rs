//! Holding: what turns a claim with enough votes into a held lock.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Span;

use crate::{
    claim::Claim,
    host::clock,
    keeper::Keeper,
    node::{
        Answer,
        round::{Reply, Round},
    },
    types::error::{Error, NodeError, Result},
};

/// What a lock is held on.
pub(crate) struct Grant {
    pub(crate) token: u64,
    pub(crate) ttl: Duration,
    /// When its votes began to be asked for.
    pub(crate) began: Instant,
}

/// Makes a held lock of a claim for which a majority has voted, and has it watched.
pub(crate) fn hold(
    keeper: &Arc<Keeper>,
    claim: &Arc<Claim>,
    Grant { token, ttl, began }: Grant,
    caller: &Span,
) -> Result<()> {
    let (key, label) = (claim.key(), claim.label);
    let span = tracing::debug_span!(parent: caller, "hold", key, fencing_token = token, label);
    if !claim.hold(token, ttl, span) {
        let (key, elapsed) = (claim.key().to_owned(), clock::now() - began);
        return Err(Error::ValidityExpired { key, ttl, elapsed });
    }
    // Asked once the lock is held: either `close` sees it, or this sees that the manager is closed.
    keeper.check_open()?;
    keeper.watch(claim);
    Ok(())
}

/// The answers to an attempt. Those that come when the lock is held are noted all the same, since they tell where it
/// lies.
pub(crate) struct VoteRound {
    pub(crate) round: Round<Result<Answer, NodeError>>,
    keeper: Arc<Keeper>,
    claim: Arc<Claim>,
    ttl: Duration,
}

impl VoteRound {
    pub(crate) fn new(
        keeper: Arc<Keeper>,
        claim: Arc<Claim>,
        ttl: Duration,
        until: Option<Instant>,
    ) -> Self {
        Self { round: Round::until(until), keeper, claim, ttl }
    }
}

impl Drop for VoteRound {
    fn drop(&mut self) {
        // Owner and attempt alone tell what a claim that was never held must release.
        if self.claim.was_held() && !self.round.is_over() {
            let round = std::mem::replace(&mut self.round, Round::new());
            self.keeper.finish(see_through(round, self.claim.clone(), self.ttl));
        }
    }
}

/// Notes the late answers of a round that is decided.
pub(crate) async fn see_through(
    round: Round<Result<Answer, NodeError>>,
    claim: Arc<Claim>,
    ttl: Duration,
) {
    let mut round = round.unbound();
    while let Some(Reply { node, sent, answer }) = round.next().await {
        if let Ok(answer) = answer {
            claim.note(node, sent, ttl, &answer);
        }
    }
}
