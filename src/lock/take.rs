//! From a request to a guard: what is checked before anything is sent, and what is handed over in the end.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Span;

use crate::{
    acquire::{self, spec::LockSpec},
    claim::origin::Origin,
    keeper::{Keeper, claim_guard::ClaimGuard},
    lock::{guard::LockGuard, options::Options, request::LockRequest},
    metrics,
    types::{error::Result, key::Key},
};

impl LockRequest {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        self.key()?;
        self.options.check(&self.keeper.settings)
    }

    fn key(&self) -> Result<Key> {
        let Keeper { settings, .. } = &*self.keeper;
        self.keeper.key(self.key.clone(), settings.fencing(self.options.unfenced))
    }

    /// Acquires for a caller who waits since then.
    pub(crate) fn acquire_since(
        self,
        began: Instant,
    ) -> impl Future<Output = Result<LockGuard>> + Send {
        self.take(false, Some(began))
    }

    pub(super) async fn take(self, joins: bool, began: Option<Instant>) -> Result<LockGuard> {
        let began = began.unwrap_or_else(Instant::now);
        let spec = self.spec(joins)?;
        let Options { wait_timeout, retry, min_hold, .. } = self.options;
        let limits = acquire::Limits { began, wait_timeout, retry };
        let armed = acquire::acquire(&self.keeper, spec, limits).await?;
        // Whoever gives up while this yields would release a joined lock under those who share it.
        if armed.claim().origin == Origin::Own {
            self.keeper.let_renewal_begin(armed.claim().renewal()).await;
        }
        Ok(Self::hand_over(min_hold, armed))
    }

    /// Hands a lock that was taken to the caller. Only from here on it is kept for its shortest hold: what comes to
    /// nothing before leaves nothing behind.
    pub(super) fn hand_over(min_hold: Duration, armed: ClaimGuard) -> LockGuard {
        armed.claim().keep_for(min_hold);
        LockGuard::new(armed)
    }

    /// Checks everything before anything is sent.
    pub(super) fn spec(&self, joins: bool) -> Result<LockSpec> {
        self.check_spec(joins).inspect_err(metrics::refused)
    }

    fn check_spec(&self, joins: bool) -> Result<LockSpec> {
        let key = Arc::new(self.key()?);
        self.options.check(&self.keeper.settings)?;
        self.keeper.check_runtime()?;
        self.keeper.check_open()?;
        self.keeper.start();
        let (renewal, caller) = (self.options.renewal().cloned(), Span::current());
        let Options { ttl, owner, .. } = &self.options;
        Ok(LockSpec { key, ttl: *ttl, owner: owner.clone(), joins, renewal, caller })
    }
}
