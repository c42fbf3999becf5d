//! The ledger: every claim that is not settled yet, and the ways to the nodes.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Future, pending},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::Notify, time::sleep};

use crate::{
    claim::{Claim, Release},
    host::{background::Background, clock, sync::lock},
    keeper::queue::Queues,
    node::{
        Answer, Command, Node, NodeClient, NodeSubscription, Notice, OnNotice, Recovered,
        round::Round,
    },
    types::{
        attempt_id::AttemptId, error::NodeError, key::Key, retry::below, settings::Settings,
        token::OwnerToken, validity::quorum,
    },
};

/// What a manager, its guards and its background task know in common.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) clients: Box<[NodeClient]>,
    pub(crate) nodes: Box<[Node]>,
    release_timeout: Duration,
    background: Background,
    claims: Mutex<BTreeMap<u64, Arc<Claim>>>,
    next_id: AtomicU64,
    is_closed: AtomicBool,
    /// Notified when a claim is settled after the manager was closed.
    changed: Notify,
    /// Who waits for what in this process.
    pub(crate) waiting: Arc<Queues>,
}

impl Ledger {
    pub(crate) fn new(nodes: Vec<Node>, settings: &Settings) -> Arc<Self> {
        Arc::new_cyclic(|ledger| {
            let on_notice = on_notice_for(ledger.clone());
            let recovered = recovered_for(ledger.clone());
            let link = |(index, node): (usize, &Node)| {
                node.link(index, settings, on_notice.clone(), recovered.clone())
            };
            Self {
                clients: nodes.iter().enumerate().map(link).collect(),
                nodes: nodes.into(),
                release_timeout: settings.release_timeout,
                background: settings.background.clone(),
                claims: Mutex::default(),
                next_id: AtomicU64::new(0),
                is_closed: AtomicBool::new(false),
                changed: Notify::new(),
                waiting: Arc::default(),
            }
        })
    }

    pub(crate) fn quorum(&self) -> usize {
        quorum(self.clients.len())
    }

    /// The number of the next claim to be entered.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, claim: Arc<Claim>) {
        lock(&self.claims).insert(claim.id, claim);
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.waiting.close();
        // Nobody waits any more.
        self.clients.iter().for_each(NodeClient::hear_no_more);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// The claims that are not settled.
    pub(crate) fn open(&self) -> Vec<Arc<Claim>> {
        lock(&self.claims).values().cloned().collect()
    }

    /// How many claims no majority of nodes has released yet.
    pub(crate) fn unreleased(&self) -> usize {
        let is_unreleased = |claim: &&Arc<Claim>| {
            claim.with_release(|release| !release.is_confirmed()) != Some(false)
        };
        lock(&self.claims).values().filter(is_unreleased).count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.claims).is_empty()
    }

    /// The claim of this id, if it was not withdrawn.
    pub(crate) fn get_live(&self, id: u64) -> Option<Arc<Claim>> {
        let claim = lock(&self.claims).get(&id).cloned();
        claim.filter(|claim| !claim.send_log.is_withdrawn())
    }

    /// Asks a node something about a claim. The call belongs to nobody, so that it can outlive its caller.
    pub(crate) fn ask(
        self: &Arc<Self>,
        node: usize,
        claim: &Arc<Claim>,
        command: Command,
    ) -> impl Future<Output = Result<Answer, NodeError>> + Send + use<> {
        let (ledger, claim) = (self.clone(), claim.clone());
        self.background
            .time(async move { ledger.clients[node].ask(&claim.send_log, command).await })
    }

    /// The nodes in an order that is the key's own: the same in every process, another for most other keys.
    /// Those that cannot be reached at this moment come last.
    pub(crate) fn order_of(&self, key: &Key) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        let rank = |&node: &usize| (!self.clients[node].is_up(), key.rank(self.nodes[node].name()));
        order.sort_by_cached_key(rank);
        order
    }

    /// Whether a majority of nodes can be asked without connecting first.
    pub(crate) fn is_majority_up(&self) -> bool {
        self.clients.iter().filter(|link| link.is_up()).count() >= self.quorum()
    }

    /// Opens connections to the nodes that have none as soon as it is time for the next, as long as this is awaited.
    pub(crate) async fn mend(&self) -> Infallible {
        join_all(self.clients.iter().map(NodeClient::mend)).await;
        pending().await
    }

    /// Listens for the releases of a key at every node, as long as the returned value lives.
    pub(crate) fn listen(&self, key: &Arc<Key>) -> Subscriptions {
        let listening = self.clients.iter().filter_map(|link| link.listen(key)).collect();
        Subscriptions { listening, needed: self.quorum() }
    }

    /// Takes a claim that is settled off the ledger.
    pub(crate) fn strike(&self, claim: &Claim) {
        let was_there = lock(&self.claims).remove(&claim.id).is_some();
        if was_there && self.is_closed() {
            self.changed.notify_waiters();
        }
    }

    /// Notes that a majority has released a claim, once, and lets the next waiter in.
    fn confirm(&self, claim: &Claim) {
        let is_first = claim.with_release(Release::confirm).unwrap_or(false);
        if is_first && claim.was_held() && !claim.is_kept() {
            self.waiting.released(claim.key(), claim.fencing_token().get(), || false);
        }
    }

    /// Whether a lock is being released here, so that nobody must share it: it is about to end for all.
    pub(crate) fn is_being_released(&self, key: &Key, owner: &OwnerToken, id: AttemptId) -> bool {
        lock(&self.claims).values().any(|claim| {
            let send_log = &claim.send_log;
            let is_same =
                send_log.key.name == key.name && send_log.owner == *owner && send_log.id == id;
            is_same && send_log.is_withdrawn()
        })
    }

    /// Waits until every claim is settled.
    pub(crate) async fn drained(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Tells the log, in one line, of the locks that were dropped and that nobody goes on to release. Each is told of
    /// once.
    pub(crate) fn tell_stranded(&self) {
        let is_new = |claim: &Arc<Claim>| {
            claim.was_held() && claim.with_release(Release::strand) == Some(true)
        };
        let stranded: Vec<_> = self.open().into_iter().filter(is_new).collect();
        let count = stranded.len();
        if count == 0 {
            return;
        }
        let keys: Vec<_> = stranded.iter().take(MOST_NAMED).map(|claim| claim.key()).collect();
        let locks = if count == 1 { "lock was" } else { "locks were" };
        tracing::warn!(
            ?keys,
            "{count} {locks} dropped but not released before the runtime ended; await LockManager::close() before it ends"
        );
    }

    /// Releases a withdrawn claim, on the background's time.
    pub(crate) fn settle_apart(
        self: &Arc<Self>,
        claim: Arc<Claim>,
    ) -> impl Future<Output = ()> + Send + use<> {
        self.background.time(self.clone().settle(claim))
    }

    /// Releases a withdrawn claim everywhere it may hold the key, again and again until every such node has
    /// answered or the TTL is over. Once a majority of them has answered the claim counts as settled.
    pub(crate) async fn settle(self: Arc<Self>, claim: Arc<Claim>) {
        let (began, give_up) = (clock::now(), claim.ends());
        let enough = claim.to_release().len().min(self.quorum());
        let mut answered = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let (mut round, sent) = (Round::new(), clock::now());
            for node in claim.to_release() {
                round.push(node, sent, self.ask(node, &claim, claim.release_command()));
            }
            while let Some(reply) = round.next().await {
                answered += usize::from(claim.note_release(reply.node, reply.answer));
                if answered >= enough {
                    self.confirm(&claim);
                }
            }
            claim.with_release(Release::end_pass);
            if answered >= enough {
                // Every node was asked. What a minority still owes is no reason to wait.
                self.strike(&claim);
            }
            if claim.to_release().is_empty() || clock::now() >= give_up {
                break;
            }
            if answered < enough && clock::now() - began >= self.release_timeout {
                claim.with_release(|release| release.warn(claim.key()));
            }
            sleep(pause + below(pause)).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        if answered < enough && claim.was_held() {
            claim.with_release(|release| release.warn(claim.key()));
        }
        self.confirm(&claim);
        self.strike(&claim);
    }
}

/// Somebody listens for the releases of a key.
pub(crate) struct Subscriptions {
    listening: Vec<NodeSubscription>,
    needed: usize,
}

impl Subscriptions {
    /// Whether a release is sure to be heard: it reaches a majority, and a majority is listened to.
    pub(crate) fn is_sure(&self) -> bool {
        let heard = self.listening.iter().filter(|listening| listening.is_heard());
        heard.count() >= self.needed
    }
}

/// Passes the nodes' notices on to those who wait.
fn on_notice_for(ledger: Weak<Ledger>) -> OnNotice {
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

/// Has those look who wait for a node to come back.
fn recovered_for(ledger: Weak<Ledger>) -> Recovered {
    Arc::new(move || {
        if let Some(ledger) = ledger.upgrade() {
            ledger.waiting.recovered();
        }
    })
}

/// How many keys a line names.
const MOST_NAMED: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
