//! From a request to a guard: what is checked before anything is sent, and what is handed over in the end.

use std::{future::Future, mem::take, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Span;

use crate::{
    acquire::{self, any::AnyOf, spec::LockSpec},
    claim::origin::Origin,
    keeper::{Keeper, claim_guard::ClaimGuard},
    lock::{guard::LockGuard, options::Options, request::LockRequest, watch::check_work},
    metrics,
    types::{error::Result, key::Key},
};

impl LockRequest {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        key(&self.keeper, &self.options, self.key.clone())?;
        self.options.check(&self.keeper.settings)
    }

    /// Acquires for a caller who waits since then.
    pub(crate) fn acquire_since(
        self,
        began: Instant,
    ) -> impl Future<Output = Result<LockGuard>> + Send {
        self.take(false, Some(began))
    }

    pub(super) async fn take(mut self, joins: bool, began: Option<Instant>) -> Result<LockGuard> {
        let began = began.unwrap_or_else(Instant::now);
        let spec = self.spec(joins)?;
        wait(&self.keeper, self.options, spec, None, began).await
    }

    /// Checks everything before anything is sent. The request has no key afterwards.
    pub(super) fn spec(&mut self, joins: bool) -> Result<LockSpec> {
        let key = key(&self.keeper, &self.options, take(&mut self.key));
        spec(&self.keeper, &self.options, key, joins)
    }
}

/// Names what a lock is kept under.
pub(super) fn key(keeper: &Keeper, options: &Options, name: String) -> Result<Arc<Key>> {
    keeper.key(name, keeper.settings.fencing(options.unfenced)).map(Arc::new)
}

/// Says how the lock of a key is to be taken, unless something about that cannot work.
pub(super) fn spec(
    keeper: &Arc<Keeper>,
    options: &Options,
    key: Result<Arc<Key>>,
    joins: bool,
) -> Result<LockSpec> {
    let check = || {
        let key = key?;
        options.check(&keeper.settings)?;
        keeper.check_runtime()?;
        keeper.check_open()?;
        keeper.start();
        let (renewal, caller) = (options.renewal().cloned(), Span::current());
        let Options { ttl, label, owner, holder, .. } = options;
        let (ttl, label, owner, holder) = (*ttl, *label, owner.clone(), holder.clone());
        Ok(LockSpec { key, ttl, owner, holder, joins, once: false, renewal, label, caller })
    };
    check().inspect_err(|error| metrics::refused(options.label, error))
}

/// Waits for a lock, or for any of several, since then.
pub(super) async fn wait(
    keeper: &Arc<Keeper>,
    options: Options,
    spec: LockSpec,
    any: Option<AnyOf>,
    began: Instant,
) -> Result<LockGuard> {
    let Options { wait_timeout, retry, min_hold, .. } = options;
    let limits = acquire::Limits { began, wait_timeout, retry };
    let armed = acquire::acquire(keeper, spec, any, limits).await?;
    // Whoever gives up while this yields would release a joined lock under those who share it.
    if armed.claim().origin == Origin::Own {
        keeper.let_renewal_begin(armed.claim().renewal()).await;
    }
    Ok(hand_over(min_hold, armed))
}

/// Hands a lock that was taken to the caller. Only from here on it is kept for its shortest hold: what comes to
/// nothing before leaves nothing behind.
pub(super) fn hand_over(min_hold: Duration, armed: ClaimGuard) -> LockGuard {
    armed.claim().keep_for(min_hold);
    LockGuard::new(armed)
}

/// Runs `work` under a lock that is renewed, and releases it.
pub(super) async fn run<T>(guard: LockGuard, work: impl AsyncFnOnce(&LockGuard) -> T) -> Result<T> {
    let value = guard.while_held(work(&guard)).await?;
    check_work(guard.release().await)?;
    Ok(value)
}
