//! A hundred waiters on one key, in four processes' worth of managers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redlatch::LockManager;
use tokio::task::JoinSet;

use crate::support::LASTING;

/// Those who wait, and what became of them.
pub(crate) struct Crowd {
    waiters: JoinSet<redlatch::Result<()>>,
    holders: Arc<AtomicUsize>,
}

impl Crowd {
    /// Has them wait for the key.
    pub(crate) fn before(key: &str, manager: impl Fn() -> LockManager) -> Self {
        let (mut waiters, holders) = (JoinSet::new(), Arc::<AtomicUsize>::default());
        for _ in 0..4 {
            let manager = manager();
            for _ in 0..25 {
                let request = manager.lock(key).ttl(LASTING);
                waiters.spawn(hold_once(request, holders.clone()));
            }
        }
        Self { waiters, holders }
    }

    /// Waits until each of them has held the lock.
    pub(crate) async fn all_served(mut self) {
        let mut served = 0;
        while let Some(waiter) = self.waiters.join_next().await {
            waiter.expect("a waiter does not panic").expect("every waiter gets the lock");
            served += 1;
        }
        assert_eq!((served, self.holders.load(Ordering::SeqCst)), (100, 0));
    }
}

async fn hold_once(
    request: redlatch::LockRequest,
    holders: Arc<AtomicUsize>,
) -> redlatch::Result<()> {
    let guard = request.acquire().await?;
    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock at once");
    tokio::task::yield_now().await;
    holders.fetch_sub(1, Ordering::SeqCst);
    guard.release().await
}
