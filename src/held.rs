//! Futures that tie work to a lock: [`Lost`] waits for the loss, [`WhileHeld`] drops the work on it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tokio::{
    sync::futures::Notified,
    time::{Sleep, sleep_until},
};

use crate::{
    claim::Claim,
    clock,
    error::{Error, LossReason, Result},
};

/// Resolves once a lock is no longer ours: see [`LockGuard::lost`](crate::LockGuard::lost).
#[pin_project]
#[must_use = "futures do nothing unless awaited"]
pub struct Lost<'a> {
    claim: &'a Claim,
    /// Wakes when the claim has changed.
    #[pin]
    changed: Notified<'a>,
    /// Wakes at the deadline.
    #[pin]
    timer: Option<Sleep>,
}

impl<'a> Lost<'a> {
    pub(crate) fn new(claim: &'a Claim) -> Self {
        Self { claim, changed: claim.changed.notified(), timer: None }
    }
}

impl Future for Lost<'_> {
    type Output = LossReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LossReason> {
        let mut this = self.project();
        loop {
            while this.changed.as_mut().poll(cx).is_ready() {
                this.changed.set(this.claim.changed.notified());
            }
            let deadline = match this.claim.judge() {
                Ok(deadline) => clock::wake_at(deadline),
                Err(reason) => return Poll::Ready(reason),
            };
            match this.timer.as_mut().as_pin_mut() {
                Some(timer) if timer.deadline() == deadline => {}
                Some(timer) => timer.reset(deadline),
                None => this.timer.set(Some(sleep_until(deadline))),
            }
            if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                ready!(timer.poll(cx));
            }
        }
    }
}

impl fmt::Debug for Lost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lost").field(&self.claim.key()).finish()
    }
}

/// Runs work as long as a lock is held: see [`LockGuard::while_held`](crate::LockGuard::while_held).
#[pin_project]
#[must_use = "futures do nothing unless awaited"]
pub struct WhileHeld<'a, F> {
    #[pin]
    lost: Lost<'a>,
    /// Dropped at the loss.
    #[pin]
    work: Option<F>,
}

impl<'a, F: Future> WhileHeld<'a, F> {
    pub(crate) const fn new(lost: Lost<'a>, work: F) -> Self {
        Self { lost, work: Some(work) }
    }
}

impl<F: Future> Future for WhileHeld<'_, F> {
    type Output = Result<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let key = this.lost.claim.key();
        // The loss first: work must not take one step more under a lock that is gone.
        if let Poll::Ready(reason) = this.lost.as_mut().poll(cx) {
            this.work.set(None);
            return Poll::Ready(Err(Error::Lost { key: key.to_owned(), reason }));
        }
        match this.work.as_mut().as_pin_mut() {
            Some(work) => work.poll(cx).map(Ok),
            None => Poll::Pending,
        }
    }
}

impl<F> fmt::Debug for WhileHeld<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WhileHeld").field(&self.lost.claim.key()).finish()
    }
}
