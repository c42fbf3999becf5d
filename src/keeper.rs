//! The keeper: the one background task of a manager, which releases and renews.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    runtime::{self, Handle},
    sync::mpsc,
};

use crate::{
    claim::Claim,
    error::{Error, LossReason, Result},
    key::Key,
    ledger::Ledger,
    node::Node,
    renewal::{self, Schedule},
    settings::Settings,
    sync::lock,
    tasks,
};

/// What all clones of a manager, its requests and its guards share.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) settings: Settings,
    pub(crate) ledger: Arc<Ledger>,
    inbox: Mutex<Option<mpsc::UnboundedSender<Work>>>,
    /// The runtimes that the manager was used on, as far as they are not known to have ended.
    runtimes: Mutex<Vec<Handle>>,
}

/// What the background task is asked to do.
pub(crate) enum Work {
    /// Release a claim, or undo it.
    Release(Arc<Claim>),
    /// Watch over a lock: renew it, and tell of its loss.
    Watch(Arc<Claim>),
    /// See something through that its caller does not wait for any more.
    Finish(Job),
}

/// Work that belongs to nobody any more.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Keeper {
    pub(crate) fn new(nodes: Vec<Node>, settings: Settings) -> Self {
        let ledger = Ledger::new(nodes, &settings);
        Self { settings, ledger, inbox: Mutex::default(), runtimes: Mutex::default() }
    }

    /// Names what a lock is kept under, unless some node cannot keep it.
    pub(crate) fn key(&self, name: String) -> Result<Key> {
        let key = Key::new(&self.settings.key_prefix, name)?;
        if !key.keeps_to_one_slot() && self.ledger.nodes.iter().any(Node::is_cluster) {
            return Err(Error::config(format!(
                "no fencing counter can share the cluster slot of `{}`: a `}}` needs a `{{` and something between them before it",
                key.lock
            )));
        }
        Ok(key)
    }

    /// Refuses work that begins after `close`.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.ledger.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Refuses to wait for a node where tokio cannot wake anybody.
    pub(crate) fn check_runtime() -> Result<()> {
        match Handle::try_current() {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::config("locks need a tokio runtime, and there is none here")),
        }
    }

    /// Has a lock renewed and its loss told.
    pub(crate) fn watch(self: &Arc<Self>, claim: &Arc<Claim>) {
        if claim.renewal().is_some() {
            self.send(Work::Watch(claim.clone()));
        }
    }

    /// Sees a round through whose result is certain already: its late answers are noted in the claim.
    pub(crate) fn finish(self: &Arc<Self>, job: impl Future<Output = ()> + Send + 'static) {
        self.send(Work::Finish(Box::pin(job)));
    }

    /// Refuses new work, ends every live guard, and waits for the releases. Returns how many claims are left.
    pub(crate) async fn close(self: &Arc<Self>) -> usize {
        let ledger = &self.ledger;
        ledger.close();
        for claim in ledger.open().iter().filter(|claim| !claim.trail.is_withdrawn()) {
            claim.lose(LossReason::Closed);
            renewal::tell_loss(claim, None);
        }
        if Handle::try_current().is_ok() && !ledger.is_empty() {
            self.start();
            let drained = tokio::time::timeout(self.settings.release_timeout, ledger.drained());
            // Whether they all made it is counted next.
            let _drained = drained.await;
        }
        ledger.unreleased()
    }

    /// Makes sure that the background task runs: from the first use on, and again when the runtime it lived on
    /// has ended. Without any runtime, what is to do stays in the ledger for the next start.
    pub(crate) fn start(self: &Arc<Self>) {
        if let Ok(runtime) = Handle::try_current() {
            let mut runtimes = lock(&self.runtimes);
            if runtimes.iter().all(|known| known.id() != runtime.id()) {
                runtimes.push(runtime.clone());
            }
            drop(runtimes);
            self.start_on(&runtime);
        }
    }

    fn start_on(self: &Arc<Self>, runtime: &Handle) {
        let mut inbox = lock(&self.inbox);
        if inbox.as_ref().is_some_and(|inbox| !inbox.is_closed()) {
            return;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for left_over in self.left_over() {
            // The receiver is alive: it is two lines above.
            let _sent = sender.send(left_over);
        }
        *inbox = Some(sender);
        // Unlocked first: a runtime that is ending drops the task, and so its presence, at once.
        drop(inbox);
        let keeper = Arc::downgrade(self);
        let presence = Presence { inbox: receiver, keeper, runtime: runtime.id() };
        tasks::spawn(runtime, run(presence, self.ledger.clone()));
    }

    /// Goes on elsewhere, if the manager was used on another runtime than the one that has ended.
    fn move_from(self: &Arc<Self>, ended: runtime::Id) {
        let mut runtimes = lock(&self.runtimes);
        runtimes.retain(|runtime| runtime.id() != ended);
        let others = runtimes.clone();
        drop(runtimes);
        others.iter().for_each(|runtime| self.start_on(runtime));
    }

    pub(crate) fn send(self: &Arc<Self>, work: Work) {
        let Err(work) = self.deliver(work) else { return };
        // A task that starts anew finds the claims in the ledger; anything else is delivered again.
        self.start();
        let is_running = lock(&self.inbox).as_ref().is_some_and(|inbox| !inbox.is_closed());
        let is_known = is_running && !matches!(work, Work::Finish(_));
        let key = work.key().map(str::to_owned);
        if !is_known && self.deliver(work).is_err() {
            tracing::warn!(key, "the runtime has ended: the lock is left to its TTL");
        }
    }

    fn deliver(&self, work: Work) -> Result<(), Work> {
        match &*lock(&self.inbox) {
            Some(inbox) => inbox.send(work).map_err(|returned| returned.0),
            None => Err(work),
        }
    }

    /// What a task that starts anew has to do.
    fn left_over(&self) -> Vec<Work> {
        let work = |claim: Arc<Claim>| match claim.trail.is_withdrawn() {
            true => Some(Work::Release(claim)),
            false if claim.renewal().is_some() && claim.was_held() => Some(Work::Watch(claim)),
            false => None,
        };
        self.ledger.open().into_iter().filter_map(work).collect()
    }
}

impl Work {
    fn key(&self) -> Option<&str> {
        match self {
            Self::Release(claim) | Self::Watch(claim) => Some(claim.key()),
            Self::Finish(_) => None,
        }
    }
}

/// The background task's presence on a runtime. If that ends before the manager, the task moves on.
struct Presence {
    inbox: mpsc::UnboundedReceiver<Work>,
    keeper: Weak<Keeper>,
    runtime: runtime::Id,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.inbox.close();
        if let Some(keeper) = self.keeper.upgrade() {
            keeper.move_from(self.runtime);
        }
    }
}

/// The background task. It ends when the manager and all its guards are gone and everything is released.
async fn run(mut presence: Presence, ledger: Arc<Ledger>) {
    let mut jobs: FuturesUnordered<Job> = FuturesUnordered::new();
    let mut schedule = Schedule::new(ledger.clone());
    let mut is_open = true;
    while is_open || !jobs.is_empty() {
        tokio::select! {
            biased;
            // First, since it is never busy for long: a flood of releases must not hold renewals up.
            batch = schedule.next() => jobs.push(batch),
            work = presence.inbox.recv(), if is_open => match work {
                Some(Work::Release(claim)) => jobs.push(Box::pin(ledger.clone().settle(claim))),
                Some(Work::Watch(claim)) => schedule.watch(&claim),
                Some(Work::Finish(job)) => jobs.push(job),
                None => is_open = false,
            },
            Some(()) = jobs.next(), if !jobs.is_empty() => {}
        }
    }
}
