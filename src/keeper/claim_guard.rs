//! A claim guard: dropping it has the keeper release the claim. That is why nothing is left behind.

use std::{future::poll_fn, sync::Arc, task::Poll};

use crate::{
    claim::{Claim, origin::Offer},
    keeper::{Job, Keeper},
    node::SendLog,
    types::{attempt_id::AttemptId, error::Result, key::Key, token::OwnerToken},
};

/// A claim that is released when dropped, unless one of its methods has ended it.
#[derive(Debug)]
pub(crate) struct ClaimGuard {
    claim: Option<Arc<Claim>>,
    keeper: Arc<Keeper>,
}

impl Keeper {
    /// Enters a claim into the ledger. From here on it is settled whatever becomes of its caller.
    pub(crate) fn arm(
        self: &Arc<Self>,
        key: Arc<Key>,
        owner: OwnerToken,
        id: AttemptId,
        offer: Offer,
    ) -> Result<ClaimGuard> {
        let send_log = SendLog::new(key, owner, id, self.quorum.len());
        let drift = self.settings.clock_drift;
        let claim = Arc::new(Claim::new(self.ledger.next_id(), send_log, drift, offer));
        self.ledger.enter(claim.clone());
        let armed = ClaimGuard { claim: Some(claim), keeper: self.clone() };
        // Asked after the entry: either `close` sees the claim, or this sees that the manager is closed.
        self.check_open()?;
        Ok(armed)
    }
}

impl ClaimGuard {
    #[expect(
        clippy::expect_used,
        reason = "only the methods that consume the guard take the claim"
    )]
    pub(crate) const fn claim(&self) -> &Arc<Claim> {
        self.claim.as_ref().expect("an armed claim is there until it is disarmed")
    }

    pub(crate) const fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// Gives the claim up without releasing it: from here on, the TTL or somebody else ends it.
    pub(crate) fn disarm(mut self) {
        if let Some(claim) = self.claim.take() {
            claim.forget();
            self.keeper.ledger.strike(&claim);
        }
    }

    /// Releases the lock, as long as the release timeout allows; after that the keeper goes on.
    ///
    /// If this future is dropped, the keeper releases the lock.
    pub(crate) async fn release(mut self) -> Result<()> {
        let claim = self.claim().clone();
        claim.withdraw();
        let mut settling: Job = Box::pin(self.keeper.ledger.settle_apart(claim.clone()));
        let mut is_over = false;
        let unavailable = || claim.with_release(|release| release.unavailable(claim.key()));
        let certain = poll_fn(|cx| {
            is_over = settling.as_mut().poll(cx).is_ready();
            match claim.with_release(|release| release.verdict(claim.key())).flatten() {
                None if !is_over => Poll::Pending,
                verdict => Poll::Ready(verdict),
            }
        });
        let timeout = self.keeper.settings.release_timeout;
        let verdict = tokio::time::timeout(timeout, certain).await.ok().flatten();
        let result = verdict.or_else(|| unavailable().map(Err)).unwrap_or(Ok(()));
        self.claim = None;
        if !is_over {
            self.keeper.finish(settling);
        }
        result
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        // Rules 1, 7 and 8: from the withdrawal on no claiming command can follow. What no node can hold leaves the
        // ledger; everything else is released, and stays in the ledger until it is.
        claim.withdraw();
        if claim.to_release().is_empty() {
            self.keeper.ledger.strike(&claim);
        } else {
            self.keeper.release(claim);
        }
    }
}
