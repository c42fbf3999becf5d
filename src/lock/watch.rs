//! Futures that tie work to locks: [`Lost`] waits for the loss, [`WhileHeld`] drops the work on it, and
//! [`WarnBefore`] warns of the deadline.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::{
    sync::futures::Notified,
    time::{Sleep, sleep_until},
};

use crate::{
    claim::Claim,
    host::clock,
    types::error::{Error, LossReason, Result},
};

/// Resolves once a lock is no longer ours: see [`LockGuard::lost`](crate::LockGuard::lost). Of a set it is the
/// first lock that is lost.
#[pin_project]
#[must_use = "futures do nothing unless awaited"]
pub struct Lost<'a> {
    #[pin]
    watch: Watch<'a>,
    /// The other locks of a set.
    others: Vec<Pin<Box<Watch<'a>>>>,
}

impl<'a> Lost<'a> {
    pub(crate) fn new(first: &'a Claim, others: impl Iterator<Item = &'a Claim>) -> Self {
        let watch = |claim| Watch::new(claim, Duration::ZERO);
        Self { watch: watch(first), others: others.map(watch).map(Box::pin).collect() }
    }

    /// Refuses what was done under a lock that is lost at this moment.
    fn check(self: Pin<&Self>) -> Result<()> {
        let this = self.project_ref();
        let others = this.others.iter().map(|watch| watch.claim);
        let mut claims = std::iter::once(this.watch.claim).chain(others);
        claims.try_for_each(|claim| claim.judge().map(drop).map_err(|reason| lost(claim, reason)))
    }

    /// Which lock is lost, and how.
    fn poll_which(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(&'a Claim, LossReason)> {
        let this = self.project();
        let first = this.watch.poll_loss(cx);
        let others = this.others.iter_mut().map(|watch| watch.as_mut().poll_loss(cx));
        // All are polled, lest one that has changed wakes nobody.
        std::iter::once(first).chain(others).fold(Poll::Pending, |found, loss| match found {
            Poll::Pending => loss,
            found @ Poll::Ready(_) => found,
        })
    }
}

impl Future for Lost<'_> {
    type Output = LossReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LossReason> {
        self.poll_which(cx).map(|(_, reason)| reason)
    }
}

impl fmt::Debug for Lost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lost").field(&self.watch.claim.key()).finish()
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
        // The loss first: work must not take one step more under a lock that is gone.
        if let Poll::Ready((claim, reason)) = this.lost.as_mut().poll_which(cx) {
            this.work.set(None);
            return Poll::Ready(Err(lost(claim, reason)));
        }
        let Some(work) = this.work.as_mut().as_pin_mut() else { return Poll::Pending };
        let value = ready!(work.poll(cx));
        this.work.set(None);
        // And afterwards: it may have held the thread past the deadline, where nothing could drop it.
        Poll::Ready(this.lost.as_ref().check().map(|()| value))
    }
}

fn lost(claim: &Claim, reason: LossReason) -> Error {
    Error::Lost { key: claim.key().to_owned(), reason }
}

/// What a release says of the work that was done before: whether the lock was ours to its end.
pub(crate) fn check_work(released: Result<()>) -> Result<()> {
    match released {
        Err(Error::NotHeld { key }) => Err(Error::Lost { key, reason: LossReason::Taken }),
        released => {
            tell_unconfirmed(released);
            Ok(())
        }
    }
}

/// Tells the log of a release that nobody can do anything about.
pub(crate) fn tell_unconfirmed(released: Result<()>) {
    if let Err(error) = released {
        tracing::warn!(key = error.key(), %error, "work done, but release not confirmed");
    }
}

impl<F> fmt::Debug for WhileHeld<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WhileHeld").field(&self.lost.watch.claim.key()).finish()
    }
}

/// Completes some time before the end of a lock: see [`LockGuard::warn_before`](crate::LockGuard::warn_before).
/// Of a set it is the first lock that ends.
#[must_use = "futures do nothing unless awaited"]
pub struct WarnBefore<'a> {
    watches: Vec<Pin<Box<Watch<'a>>>>,
}

impl<'a> WarnBefore<'a> {
    pub(crate) fn new(claims: impl Iterator<Item = &'a Claim>, early: Duration) -> Self {
        Self { watches: claims.map(|claim| Box::pin(Watch::new(claim, early))).collect() }
    }
}

impl Future for WarnBefore<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polls = self.watches.iter_mut().map(|watch| watch.as_mut().poll_early(cx));
        // All are polled, lest one that has changed wakes nobody.
        let due = polls.filter(Poll::is_ready).count();
        if due > 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl fmt::Debug for WarnBefore<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.watches.iter().map(|watch| watch.claim.key());
        f.debug_tuple("WarnBefore").field(&keys.collect::<Vec<_>>()).finish()
    }
}

/// An eye on the deadline of one lock, or on some time before it.
#[pin_project]
pub(super) struct Watch<'a> {
    claim: &'a Claim,
    early: Duration,
    /// Wakes when the claim has changed.
    #[pin]
    changed: Notified<'a>,
    /// Wakes when it is time.
    #[pin]
    timer: Option<Sleep>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(claim: &'a Claim, early: Duration) -> Self {
        Self { claim, early, changed: claim.changed.notified(), timer: None }
    }

    /// Waits for the loss.
    pub(super) fn poll_loss(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<(&'a Claim, LossReason)> {
        loop {
            // What is early by nothing is the deadline itself, of which the claim will say that it is over.
            if let Err(reason) = ready!(self.as_mut().poll_early(cx)) {
                return Poll::Ready((self.claim, reason));
            }
        }
    }

    /// Waits until so little is left, or for the loss.
    fn poll_early(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), LossReason>> {
        let mut this = self.project();
        loop {
            while this.changed.as_mut().poll(cx).is_ready() {
                this.changed.set(this.claim.changed.notified());
            }
            let deadline = match this.claim.fate() {
                Ok(deadline) => deadline,
                Err(reason) => return Poll::Ready(Err(reason)),
            };
            if deadline.saturating_duration_since(clock::now()) <= *this.early {
                return Poll::Ready(Ok(()));
            }
            let due = clock::wake_at(deadline - *this.early);
            match this.timer.as_mut().as_pin_mut() {
                Some(timer) if timer.deadline() == due => {}
                Some(timer) => timer.reset(due),
                None => this.timer.set(Some(sleep_until(due))),
            }
            if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                ready!(timer.poll(cx));
            }
        }
    }
}
