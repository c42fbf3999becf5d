//! Releasing what is dropped, in the order of the drops.

use std::{
    cell::RefCell,
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread,
};

use tokio::{runtime, task::unconstrained};

use super::{Inbox, Job, Keeper, Work};
use crate::{claim::Claim, host::sync::lock};

impl Keeper {
    /// Sends the release of a withdrawn claim on its way, and has the background see it through.
    ///
    /// A command takes its place in the order of its lane when it is first polled. So the release is polled once where
    /// the claim is dropped, and whatever the manager asks a node after that comes behind it. If it were left to the
    /// background, the caller's next attempt would overtake it, and be refused by the caller's own lock.
    pub(super) fn release(self: &Arc<Self>, claim: Arc<Claim>) {
        let background = self.background_here().filter(|_| !thread::panicking());
        let begin = |runtime| {
            let settling = Box::pin(self.ledger.settle_apart(claim.clone()));
            // The runtime may end at this very moment, and its timers panic then.
            catch_unwind(AssertUnwindSafe(|| Begun::begin(self, runtime, settling))).is_ok()
        };
        if !background.is_some_and(begin) {
            self.send(Work::Release(claim));
        }
    }

    /// The runtime of the background task, if what begins here has its timers and its connections.
    fn background_here(&self) -> Option<runtime::Id> {
        let here = self.settings.background.runtime()?.id();
        self.is_running_on(here).then_some(here)
    }

    fn is_running_on(&self, runtime: runtime::Id) -> bool {
        let is_there = |inbox: &Inbox| inbox.is_open() && inbox.runtime == runtime;
        lock(&self.inbox).as_ref().is_some_and(is_there)
    }
}

/// A release that has begun where its claim was dropped. The background takes it over at its first wake-up: to wake the
/// background at the drop would cost the caller more than the release does.
struct Begun {
    keeper: Arc<Keeper>,
    /// Where its timers are.
    runtime: runtime::Id,
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
    fn begin(keeper: &Arc<Keeper>, runtime: runtime::Id, mut settling: Job) {
        let (keeper, stage) = (keeper.clone(), Mutex::new(Stage::Polled));
        let begun = Arc::new(Self { keeper, runtime, stage });
        let waker = Waker::from(begun.clone());
        // Unconstrained: a task that has used up its budget would be turned away, and the place be lost.
        let poll = pin!(unconstrained(settling.as_mut())).poll(&mut Context::from_waker(&waker));
        let mut stage = lock(&begun.stage);
        match (poll, &*stage) {
            (Poll::Ready(()), _) => *stage = Stage::Over,
            (Poll::Pending, Stage::Woken) => {
                *stage = Stage::Over;
                drop(stage);
                begun.hand_over(settling);
            }
            (Poll::Pending, _) => *stage = Stage::Waits(settling),
        }
    }

    /// Gives the rest to the background. If that has left the runtime, it has found the claim in the ledger and begins
    /// anew: timers of a runtime that has ended panic on every other.
    fn hand_over(&self, settling: Job) {
        if !self.keeper.is_running_on(self.runtime) {
            drop_in_turn(settling);
        } else if let Err(Work::Finish(settling)) = self.keeper.deliver(Work::Finish(settling)) {
            drop_in_turn(settling);
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
                self.hand_over(settling);
            }
        }
    }
}

/// Drops a job. Its end may wake the next, which is dropped too: one after the other, and not one inside of the other,
/// which thousands of them would overflow the stack by.
fn drop_in_turn(job: Job) {
    thread_local! {
        static DROPPED: RefCell<Option<Vec<Job>>> = const { RefCell::new(None) };
    }
    let is_nested = DROPPED.with_borrow_mut(|dropped| match dropped {
        Some(dropped) => {
            dropped.push(job);
            true
        }
        none => {
            *none = Some(vec![job]);
            false
        }
    });
    if is_nested {
        return;
    }
    while let Some(job) = DROPPED.with_borrow_mut(|dropped| dropped.as_mut().and_then(Vec::pop)) {
        drop(job);
    }
    DROPPED.with_borrow_mut(|dropped| *dropped = None);
}
