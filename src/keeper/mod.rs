//! The keeper: what all clones of a manager share, and what goes on behind their callers' backs.

pub(crate) mod claim_guard;
pub(crate) mod extend;
pub(crate) mod grant;
pub(crate) mod ledger;
pub(crate) mod observers;
pub(crate) mod outage;
pub(crate) mod queue;
pub(crate) mod quorum;
mod release;
mod renewal;
mod task;
mod tell;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    runtime::{self, Handle},
    sync::mpsc,
};

use self::{
    ledger::Ledger,
    queue::Queues,
    quorum::Quorum,
    task::{Presence, run},
};
use crate::{
    claim::{Claim, Release, origin::Renewal},
    host::{sync::lock, tasks},
    node::Node,
    types::{
        error::{Error, LossReason, Result},
        fencing::Fencing,
        key::Key,
        settings::Settings,
    },
};

/// What all clones of a manager, its requests and its guards share.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) settings: Settings,
    pub(crate) quorum: Arc<Quorum>,
    pub(crate) ledger: Arc<Ledger>,
    /// Who waits for what in this process.
    pub(crate) queues: Arc<Queues>,
    inbox: Mutex<Option<Inbox>>,
    /// The runtimes that the manager was used on, as far as they are not known to have ended.
    runtimes: Mutex<Vec<Handle>>,
    /// The log knows that locks are dropped after the runtime has ended.
    has_told_late: AtomicBool,
}

/// The way to the background task.
#[derive(Debug)]
struct Inbox {
    sender: mpsc::UnboundedSender<Work>,
    /// Where the task runs.
    runtime: runtime::Id,
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
        let queues = Arc::<Queues>::default();
        let quorum = Quorum::new(nodes, &settings, &queues);
        let ledger = Ledger::new(quorum.clone(), queues.clone(), &settings);
        let (inbox, runtimes, has_told_late) = Default::default();
        Self { settings, quorum, ledger, queues, inbox, runtimes, has_told_late }
    }

    /// Names what a lock is kept under, unless some node cannot keep it.
    pub(crate) fn key(&self, name: String, fencing: Fencing) -> Result<Key> {
        let key = Key::new(&self.settings.key_prefix, name, fencing)?;
        if !key.keeps_to_one_slot() && self.quorum.has_cluster() {
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
    pub(crate) fn check_runtime(&self) -> Result<()> {
        match Handle::try_current() {
            Ok(_) => self.settings.background.check(),
            Err(_) => Err(Error::config("locks need a tokio runtime, and there is none here")),
        }
    }

    /// Has a lock renewed and its loss told.
    pub(crate) fn watch(self: &Arc<Self>, claim: &Arc<Claim>) {
        if claim.renewal().is_some() {
            self.send(Work::Watch(claim.clone()));
        }
    }

    /// Lets the background see a lock that it is to renew.
    pub(crate) async fn let_renewal_begin(&self, renewal: Option<&Renewal>) {
        if renewal.is_some() {
            self.settings.background.let_begin().await;
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
        for claim in ledger.open().iter().filter(|claim| !claim.send_log.is_withdrawn()) {
            claim.lose(LossReason::Closed);
            tell::tell_loss(claim, None);
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
        if let Some(runtime) = self.settings.background.runtime() {
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
        if inbox.as_ref().is_some_and(Inbox::is_open) {
            return;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for left_over in self.left_over() {
            // The receiver is alive: it is two lines above.
            let _sent = sender.send(left_over);
        }
        *inbox = Some(Inbox { sender, runtime: runtime.id() });
        self.has_told_late.store(false, Ordering::Relaxed);
        // Unlocked first: a runtime that is ending drops the task, and so its presence, at once.
        drop(inbox);
        let presence = Presence {
            inbox: receiver,
            keeper: Arc::downgrade(self),
            quorum: self.quorum.clone(),
            ledger: self.ledger.clone(),
            runtime: runtime.id(),
            _background: self.settings.background.clone(),
        };
        tasks::spawn(runtime, run(presence));
    }

    /// Goes on elsewhere, if the manager was used on another runtime than the one that has ended. Returns whether it
    /// does.
    fn move_from(self: &Arc<Self>, ended: runtime::Id) -> bool {
        let mut runtimes = lock(&self.runtimes);
        runtimes.retain(|runtime| runtime.id() != ended);
        let others = runtimes.clone();
        drop(runtimes);
        others.iter().for_each(|runtime| self.start_on(runtime));
        self.is_running()
    }

    fn is_running(&self) -> bool {
        lock(&self.inbox).as_ref().is_some_and(Inbox::is_open)
    }

    pub(crate) fn send(self: &Arc<Self>, work: Work) {
        let Err(work) = self.deliver(work) else { return };
        // A task that starts anew finds the claims in the ledger; anything else is delivered again.
        self.start();
        let is_known = self.is_running() && !matches!(work, Work::Finish(_));
        if !is_known && let Err(Work::Release(claim)) = self.deliver(work) {
            self.tell_late(&claim);
        }
    }

    /// Tells the log of the first lock that is dropped where there is no runtime any more.
    fn tell_late(&self, claim: &Claim) {
        let is_new = claim.was_held() && claim.with_release(Release::strand) == Some(true);
        if is_new && !self.has_told_late.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                key = claim.key(),
                "dropped after the runtime had ended, so that its TTL ends this lock, and others dropped from here on; \
                 await LockManager::close() before the runtime ends"
            );
        }
    }

    fn deliver(&self, work: Work) -> Result<(), Work> {
        match &*lock(&self.inbox) {
            Some(inbox) => inbox.sender.send(work).map_err(|returned| returned.0),
            None => Err(work),
        }
    }

    /// What a task that starts anew has to do.
    fn left_over(&self) -> Vec<Work> {
        let work = |claim: Arc<Claim>| match claim.send_log.is_withdrawn() {
            true => Some(Work::Release(claim)),
            false if claim.renewal().is_some() && claim.was_held() => Some(Work::Watch(claim)),
            false => None,
        };
        self.ledger.open().into_iter().filter_map(work).collect()
    }
}

impl Inbox {
    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}
