//! The keeper: what a manager knows of its claims, and the one background task that releases and renews them.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    time::sleep,
};

use crate::{
    armed::Armed,
    claim::{Claim, Offer},
    clock,
    error::{Error, LossReason, NodeError, Result},
    key::Key,
    node::{Answer, Command, Hear, Link, Listening, Node, Notice, Trail},
    release::Release,
    renewal::{self, Schedule},
    retry::below,
    round::Round,
    settings::Settings,
    sync::lock,
    token::OwnerToken,
    validity::quorum,
    waiting::Waiting,
};

/// What all clones of a manager, its requests and its guards share.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) settings: Settings,
    pub(crate) ledger: Arc<Ledger>,
    inbox: Mutex<Option<mpsc::UnboundedSender<Work>>>,
}

/// Every claim that is not settled yet, and the ways to the nodes.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) links: Box<[Link]>,
    pub(crate) nodes: Box<[Node]>,
    release_timeout: Duration,
    claims: Mutex<BTreeMap<u64, Arc<Claim>>>,
    next_id: AtomicU64,
    closed: AtomicBool,
    /// Notified when a claim is settled after the manager was closed.
    changed: Notify,
    /// Who waits for what in this process.
    pub(crate) waiting: Arc<Waiting>,
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

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Keeper {
    pub(crate) fn new(nodes: Vec<Node>, settings: Settings) -> Self {
        let ledger = Arc::new_cyclic(|ledger| {
            let timeout = settings.node_timeout;
            let hear = hear_for(ledger.clone());
            let link = |(index, node): (usize, &Node)| node.link(index, timeout, hear.clone());
            Ledger {
                links: nodes.iter().enumerate().map(link).collect(),
                nodes: nodes.into(),
                release_timeout: settings.release_timeout,
                claims: Mutex::default(),
                next_id: AtomicU64::new(0),
                closed: AtomicBool::new(false),
                changed: Notify::new(),
                waiting: Arc::default(),
            }
        });
        Self { settings, ledger, inbox: Mutex::default() }
    }

    pub(crate) fn quorum(&self) -> usize {
        quorum(self.ledger.links.len())
    }

    /// Enters a claim into the ledger. From here on it is settled whatever becomes of its caller.
    pub(crate) fn arm(
        self: &Arc<Self>,
        key: Arc<Key>,
        owner: OwnerToken,
        offer: Offer,
    ) -> Result<Armed> {
        let ledger = &self.ledger;
        let id = ledger.next_id.fetch_add(1, Ordering::Relaxed);
        let trail = Trail::new(key, owner, ledger.links.len());
        let claim = Arc::new(Claim::new(id, trail, self.settings.clock_drift, offer));
        lock(&ledger.claims).insert(id, claim.clone());
        let armed = Armed::new(claim, self.clone());
        // Asked after the entry: either `close` sees the claim, or this sees that the manager is closed.
        self.check_open()?;
        Ok(armed)
    }

    /// Refuses work that begins after `close`.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.ledger.closed.load(Ordering::SeqCst) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Refuses to wait for a node where tokio cannot wake anybody.
    pub(crate) fn check_runtime() -> Result<()> {
        match Handle::try_current() {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::config("locks need a tokio runtime, and there is none here")),
        }
    }

    /// Has a lock renewed and its loss told.
    pub(crate) fn watch(&self, claim: &Arc<Claim>) {
        if claim.renewal.is_some() {
            self.send(Work::Watch(claim.clone()));
        }
    }

    /// Sees a round through whose result is certain already: its late answers are noted in the claim.
    pub(crate) fn finish(&self, job: impl Future<Output = ()> + Send + 'static) {
        self.send(Work::Finish(Box::pin(job)));
    }

    /// Refuses new work, ends every live guard, and waits for the releases. Returns how many claims are left.
    pub(crate) async fn close(&self) -> usize {
        let ledger = &self.ledger;
        ledger.closed.store(true, Ordering::SeqCst);
        ledger.waiting.close();
        let claims: Vec<_> = lock(&ledger.claims).values().cloned().collect();
        for claim in claims {
            claim.lose(LossReason::Closed);
            renewal::tell_loss(&claim);
        }
        if Handle::try_current().is_ok() && !lock(&ledger.claims).is_empty() {
            self.start();
            let drained = tokio::time::timeout(self.settings.release_timeout, ledger.drained());
            // Whether they all made it is counted next.
            let _drained = drained.await;
        }
        lock(&ledger.claims).len()
    }

    /// Makes sure that the background task runs: from the first use on, and again when the runtime it lived on
    /// has ended. Without any runtime, what is to do stays in the ledger for the next start.
    pub(crate) fn start(&self) {
        let mut inbox = lock(&self.inbox);
        if inbox.as_ref().is_some_and(|inbox| !inbox.is_closed()) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (sender, receiver) = mpsc::unbounded_channel();
            for left_over in self.ledger.left_over() {
                // The receiver is alive: it is two lines above.
                let _sent = sender.send(left_over);
            }
            runtime.spawn(run(self.ledger.clone(), receiver));
            *inbox = Some(sender);
        }
    }

    pub(crate) fn send(&self, work: Work) {
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
}

impl Work {
    fn key(&self) -> Option<&str> {
        match self {
            Self::Release(claim) | Self::Watch(claim) => Some(claim.key()),
            Self::Finish(_) => None,
        }
    }
}

impl Ledger {
    /// The claim of this id, if it was not withdrawn.
    pub(crate) fn get_live(&self, id: u64) -> Option<Arc<Claim>> {
        let claim = lock(&self.claims).get(&id).cloned();
        claim.filter(|claim| !claim.trail.is_withdrawn())
    }

    /// Asks a node something about a claim. The call belongs to nobody, so that it can outlive its caller.
    pub(crate) fn ask(
        self: &Arc<Self>,
        node: usize,
        claim: &Arc<Claim>,
        command: Command,
    ) -> impl Future<Output = Result<Answer, NodeError>> + Send + use<> {
        let (ledger, claim) = (self.clone(), claim.clone());
        async move { ledger.links[node].ask(&claim.trail, command).await }
    }

    /// The nodes in an order that is the key's own: the same in every process, another for most other keys.
    /// Those that cannot be reached at this moment come last.
    pub(crate) fn order_of(&self, key: &Key) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        let rank = |&node: &usize| (!self.links[node].is_up(), key.rank(self.nodes[node].name()));
        order.sort_by_cached_key(rank);
        order
    }

    /// Listens for the releases of a key at every node, as long as the returned value lives.
    pub(crate) fn listen(&self, key: &Arc<Key>) -> Hearing {
        let listening = self.links.iter().filter_map(|link| link.listen(key)).collect();
        Hearing { listening, needed: quorum(self.links.len()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Takes a claim that is settled off the ledger, once, and lets the next waiter in.
    pub(crate) fn strike(&self, claim: &Claim) {
        if lock(&self.claims).remove(&claim.id).is_none() {
            return;
        }
        if claim.was_held() {
            self.waiting.released(claim.key(), claim.fencing_token().get(), || false);
        }
        if self.is_closed() {
            self.changed.notify_waiters();
        }
    }

    /// What a task that starts anew has to do.
    fn left_over(&self) -> Vec<Work> {
        let work = |claim: &Arc<Claim>| match claim.trail.is_withdrawn() {
            true => Some(Work::Release(claim.clone())),
            false if claim.renewal.is_some() && claim.was_held() => {
                Some(Work::Watch(claim.clone()))
            }
            false => None,
        };
        lock(&self.claims).values().filter_map(work).collect()
    }

    /// Waits until every claim is settled.
    async fn drained(&self) {
        loop {
            let changed = self.changed.notified();
            if lock(&self.claims).is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Releases a withdrawn claim everywhere it may hold the key, again and again until every such node has
    /// answered or the TTL is over. Once a majority of them has answered the claim counts as settled.
    pub(crate) async fn settle(self: Arc<Self>, claim: Arc<Claim>) {
        let (began, give_up) = (clock::now(), claim.ends());
        let command = claim.release_command();
        let enough = claim.to_release().len().min(quorum(self.links.len()));
        let mut answered = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let (mut round, sent) = (Round::new(), clock::now());
            for node in claim.to_release() {
                round.push(node, sent, self.ask(node, &claim, command));
            }
            while let Some(reply) = round.next().await {
                answered += usize::from(reply.answer.is_ok());
                claim.note_release(reply.node, reply.answer);
                if answered >= enough {
                    self.strike(&claim);
                }
            }
            claim.with_release(Release::end_pass);
            if claim.to_release().is_empty() || clock::now() >= give_up {
                break;
            }
            if answered < enough && clock::now() - began >= self.release_timeout {
                claim.with_release(|release| release.warn(claim.key()));
            }
            sleep(pause + below(pause)).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        self.strike(&claim);
    }
}

/// Somebody listens for the releases of a key.
pub(crate) struct Hearing {
    listening: Vec<Listening>,
    needed: usize,
}

impl Hearing {
    /// Whether a release is sure to be heard: it reaches a majority, and a majority is listened to.
    pub(crate) fn is_sure(&self) -> bool {
        let heard = self.listening.iter().filter(|listening| listening.is_heard());
        heard.count() >= self.needed
    }
}

/// Passes the nodes' notices on to those who wait.
fn hear_for(ledger: Weak<Ledger>) -> Hear {
    Arc::new(move |node, key, notice| {
        let Some(ledger) = ledger.upgrade() else { return };
        match notice {
            Notice::Missed => ledger.waiting.doubt(&key.name),
            Notice::Released { token } => {
                let is_first = || ledger.order_of(key).first() == Some(&node);
                ledger.waiting.released(&key.name, token, is_first);
            }
        }
    })
}

/// The background task. It ends when the manager and all its guards are gone and everything is released.
async fn run(ledger: Arc<Ledger>, mut inbox: mpsc::UnboundedReceiver<Work>) {
    let mut jobs: FuturesUnordered<Job> = FuturesUnordered::new();
    let mut schedule = Schedule::new(ledger.clone());
    let mut is_open = true;
    while is_open || !jobs.is_empty() {
        tokio::select! {
            biased;
            // First, since it is never busy for long: a flood of releases must not hold renewals up.
            batch = schedule.next() => jobs.push(batch),
            work = inbox.recv(), if is_open => match work {
                Some(Work::Release(claim)) => jobs.push(Box::pin(ledger.clone().settle(claim))),
                Some(Work::Watch(claim)) => schedule.watch(&claim),
                Some(Work::Finish(job)) => jobs.push(job),
                None => is_open = false,
            },
            Some(()) = jobs.next(), if !jobs.is_empty() => {}
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
