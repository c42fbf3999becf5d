//! Releasing what is dropped, in the order of the drops.

use std::{
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
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
        let settling = Box::pin(self.ledger.settle_apart(claim.clone()));
        // The runtime may end at this very moment, and its timers panic then.
        if catch_unwind(AssertUnwindSafe(|| Begun::begin(self, settling))).is_err() {
            self.send(Work::Release(claim));
        }
    }

    /// Whether what begins here has the timers and the connections of the background task.
    fn is_background_here(&self) -> bool {
        let Some(here) = self.settings.background.runtime() else { return false };
        let is_here = |inbox: &Inbox| inbox.is_open() && inbox.runtime == here.id();
        lock(&self.inbox).as_ref().is_some_and(is_here)
    }
}

/// A release that has begun where its claim was dropped. The background takes it over at its first wake-up: to wake the
/// background at the drop would cost the caller more than the release does.
struct Begun {
    keeper: Arc<Keeper>,
    stage: Mutex<Stage>,
}

enum Stage {
    /// It is being polled.
    Polled,
    /// The same, and it was woken meanwhile.
    Woken,
    /// It waits for its wake-up.
    Waits(Job),
    Over,
}

impl Begun {
    fn begin(keeper: &Arc<Keeper>, mut settling: Job) {
        let begun = Arc::new(Self { keeper: keeper.clone(), stage: Mutex::new(Stage::Polled) });
        let waker = Waker::from(begun.clone());
        // Unconstrained: a task that has used up its budget would be turned away, and the place be lost.
        let poll = pin!(unconstrained(settling.as_mut())).poll(&mut Context::from_waker(&waker));
        let mut stage = lock(&begun.stage);
        match (poll, &*stage) {
            (Poll::Ready(()), _) => *stage = Stage::Over,
            (Poll::Pending, Stage::Woken) => {
                *stage = Stage::Over;
                drop(stage);
                keeper.send(Work::Finish(settling));
            }
            (Poll::Pending, _) => *stage = Stage::Waits(settling),
        }
    }
}

impl Wake for Begun {
    fn wake(self: Arc<Self>) {
        let mut stage = lock(&self.stage);
        match mem::replace(&mut *stage, Stage::Woken) {
            Stage::Polled | Stage::Woken => {}
            Stage::Over => *stage = Stage::Over,
            Stage::Waits(settling) => {
                *stage = Stage::Over;
                drop(stage);
                self.keeper.send(Work::Finish(settling));
            }
        }
    }
}
