//! Releasing what is dropped, in the order of the drops.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
};

use tokio::task::unconstrained;

use super::{Inbox, Job, Keeper, Work};
use crate::{claim::Claim, host::sync::lock};

impl Keeper {
    /// Sends the release of a withdrawn claim on its way, and has the background see it through.
    ///
    /// A command takes its place in the order of its lane when it is first polled. So the release is polled once where
    /// the claim is dropped, and whatever the manager asks a node after that comes behind it. If it were left to the
    /// background, the caller's next attempt would overtake it, and be refused by the caller's own lock.
    pub(super) fn release(self: &Arc<Self>, claim: Arc<Claim>) {
        if thread::panicking() || !self.is_background_here() {
            return self.send(Work::Release(claim));
        }
        let mut settling: Job = Box::pin(self.ledger.settle_apart(claim.clone()));
        // Unconstrained: a task that has used up its budget would be turned away, and the place be lost.
        let begin = || {
            let mut context = Context::from_waker(Waker::noop());
            pin!(unconstrained(settling.as_mut())).poll(&mut context)
        };
        match catch_unwind(AssertUnwindSafe(begin)) {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => self.send(Work::Finish(settling)),
            // The runtime ends at this very moment, and its timers with it.
            Err(_panic) => self.send(Work::Release(claim)),
        }
    }

    /// Whether what begins here has the timers and the connections of the background task.
    fn is_background_here(&self) -> bool {
        let Some(here) = self.settings.background.runtime() else { return false };
        let is_here = |inbox: &Inbox| inbox.is_open() && inbox.runtime == here.id();
        lock(&self.inbox).as_ref().is_some_and(is_here)
    }
}
