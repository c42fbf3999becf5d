//! The background task of a manager, which releases and renews.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
};

use futures_util::{
    FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::{runtime, sync::mpsc};

use super::{Job, Keeper, Work, ledger::Ledger, quorum::Quorum, renewal::Schedule};
use crate::host::background::Background;

/// The background task's presence on a runtime. If that ends before the manager, the task moves on.
pub(super) struct Presence {
    pub(super) inbox: mpsc::UnboundedReceiver<Work>,
    pub(super) keeper: Weak<Keeper>,
    pub(super) quorum: Arc<Quorum>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) runtime: runtime::Id,
    /// It lasts as long as the task.
    pub(super) _background: Background,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.inbox.close();
        let goes_on = self.keeper.upgrade().is_some_and(|keeper| keeper.move_from(self.runtime));
        if !goes_on {
            self.ledger.tell_stranded();
        }
    }
}

/// The background task. It ends when the manager and all its guards are gone and everything is released.
pub(super) async fn run(mut presence: Presence) {
    let ledger = presence.ledger.clone();
    // A panic in one, as of a timer whose runtime has ended, is no end of the others.
    let mut jobs = FuturesUnordered::new();
    let guarded = |job: Job| AssertUnwindSafe(job).catch_unwind();
    let mut schedule = Schedule::new(presence.quorum.clone(), ledger.clone());
    let mut is_open = true;
    while is_open || !jobs.is_empty() {
        tokio::select! {
            biased;
            // First, since it is never busy for long: a flood of releases must not hold renewals up.
            batch = schedule.next() => jobs.push(guarded(batch)),
            work = presence.inbox.recv(), if is_open => match work {
                Some(Work::Release(claim)) => jobs.push(guarded(Box::pin(ledger.clone().settle(claim)))),
                Some(Work::Watch(claim)) => schedule.watch(&claim),
                Some(Work::Finish(job)) => jobs.push(guarded(job)),
                None => is_open = false,
            },
            Some(_ended) = jobs.next(), if !jobs.is_empty() => {}
        }
    }
}
