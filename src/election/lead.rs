//! Leading: campaigning again and again, and working while elected.

use std::{ops::ControlFlow, time::Duration};

use tokio::time::sleep;

use super::Election;
use crate::{
    lock::{guard::LockGuard, watch::tell_unconfirmed},
    types::{
        error::{Error, Result},
        retry::below,
    },
};

impl Election {
    /// Campaigns, runs `work` while elected, and campaigns again when that is over: for ever, through outages of any length,
    /// until `work` says [`Break`](ControlFlow::Break).
    ///
    /// `work` is called anew for each term. When the lock is lost it is dropped at its current await, as by
    /// [`while_held`](LockGuard::while_held); work that blocks its thread cannot be, and only the term, checked by the
    /// resource, keeps it from doing harm. [`Continue`](ControlFlow::Continue) resigns and campaigns again,
    /// `Break(value)` resigns and returns the value. Between two campaigns it pauses for a moment, with jitter, so that others
    /// have their turn, and longer while campaigns fail, up to a second.
    ///
    /// The [retry policy](Self::retry) bounds each campaign, not the whole.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, so is `work`, and the lock is released in the background: it resigns.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for settings that cannot work, and [`Error::Closed`] once the manager is closed; nothing else.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use redlatch::LockManager;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let manager = LockManager::in_memory();
    /// let election = manager.election("scheduler").holder("db1");
    /// let leading = tokio::spawn(async move {
    ///     election
    ///         .lead(async move |guard| {
    ///             println!("leading in term {}", guard.fencing_token());
    ///             ControlFlow::Break("done") // or work for ever
    ///         })
    ///         .await
    /// });
    /// assert_eq!(leading.await??, "done");
    /// # Ok(()) }
    /// ```
    pub async fn lead<T>(
        &self,
        mut work: impl AsyncFnMut(&LockGuard) -> ControlFlow<T>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            match self.campaign().await {
                Ok(guard) => {
                    failures = 0;
                    match guard.while_held(work(&guard)).await {
                        Ok(ControlFlow::Break(value)) => {
                            tell_unconfirmed(guard.release().await);
                            return Ok(value);
                        }
                        Ok(ControlFlow::Continue(())) => tell_unconfirmed(guard.release().await),
                        Err(error) => {
                            tracing::debug!(key = &*self.name, %error, "no longer leading");
                        }
                    }
                }
                Err(error @ (Error::Config { .. } | Error::Closed)) => return Err(error),
                Err(error) => {
                    tracing::debug!(key = &*self.name, %error, "not elected");
                    failures = u32::saturating_add(failures, 1);
                }
            }
            sleep(pause_after(failures)).await;
        }
    }
}

/// The pause before the next campaign, after so many in a row that failed. Half of it is jitter.
fn pause_after(failures: u32) -> Duration {
    let half = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE) / 2;
    half + below(half)
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second_and_never_vanish() {
        for failures in [0, 1, 5, u32::MAX] {
            let pause = pause_after(failures);
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{pause:?}");
        }
    }
}
