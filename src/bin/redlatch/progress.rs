//! Telling those who wait who is in the way.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use redlatch::{LockManager, LockStatus};
use tokio::time::{Instant, sleep};

use crate::{
    event::Event,
    owner::{self, Standing},
    reporter::Reporter,
    text,
};

/// Tells who holds a lock, once for each holder and rarely again.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    manager: &'a LockManager,
    keys: Vec<String>,
    reporter: &'a Reporter,
    has_told: AtomicBool,
}

impl<'a> Progress<'a> {
    pub(crate) const fn new(
        manager: &'a LockManager,
        keys: Vec<String>,
        reporter: &'a Reporter,
    ) -> Self {
        Self { manager, keys, reporter, has_told: AtomicBool::new(false) }
    }

    pub(crate) fn has_told(&self) -> bool {
        self.has_told.load(Ordering::Relaxed)
    }

    /// Looks and tells until it is dropped.
    pub(crate) async fn tell(&self) -> Infallible {
        let mut last: Option<(String, Instant)> = None;
        sleep(PATIENCE).await;
        loop {
            if let Some((key, (held_by, expires_in_ms))) = self.first_to_end().await {
                let is_known = last
                    .as_ref()
                    .is_some_and(|(known, told)| *known == held_by && told.elapsed() < REMINDER);
                if !is_known {
                    last = Some((held_by.clone(), Instant::now()));
                    self.has_told.store(true, Ordering::Relaxed);
                    self.reporter.say(&Event::Waiting { key, held_by, expires_in_ms });
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The lock that ends first, and its holder. Of servers that do not answer the acquire tells.
    async fn first_to_end(&self) -> Option<(String, (String, Option<u64>))> {
        let look = async |key: &String| {
            let status = self.manager.inspect(key).await.ok()?;
            Some((key.clone(), holder(&status)?))
        };
        let held = join_all(self.keys.iter().map(look)).await.into_iter().flatten();
        held.min_by_key(|(_, (_, expires_in_ms))| expires_in_ms.unwrap_or(u64::MAX))
    }
}

/// Who holds a lock, as far as it may be shown, and for how long.
pub(crate) fn holder(status: &LockStatus) -> Option<(String, Option<u64>)> {
    let held_by = owner::shown(status.holder(), status.owner_token()?, Standing::of(status));
    Some((held_by, status.expires_in().map(text::millis)))
}

/// How long to wait in silence.
const PATIENCE: Duration = Duration::from_millis(300);

const LOOK_EVERY: Duration = Duration::from_secs(3);

/// When to tell of the same holder again.
const REMINDER: Duration = Duration::from_secs(60);
