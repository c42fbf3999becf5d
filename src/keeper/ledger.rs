//! The ledger: every claim that is not settled yet, and how it is settled.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

use crate::{
    claim::{Claim, Release},
    host::{clock, sync::lock},
    keeper::{queue::Queues, quorum::Quorum},
    node::round::Round,
    types::{attempt_id::AttemptId, key::Key, retry::below, settings::Settings, token::OwnerToken},
};

/// The claims of a manager that are not settled yet.
#[derive(Debug)]
pub(crate) struct Ledger {
    quorum: Arc<Quorum>,
    queues: Arc<Queues>,
    release_timeout: Duration,
    claims: Mutex<BTreeMap<u64, Arc<Claim>>>,
    next_id: AtomicU64,
    is_closed: AtomicBool,
    /// Notified when a claim is settled after the manager was closed.
    changed: Notify,
}

impl Ledger {
    pub(crate) fn new(quorum: Arc<Quorum>, queues: Arc<Queues>, settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            quorum,
            queues,
            release_timeout: settings.release_timeout,
            claims: Mutex::default(),
            next_id: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            changed: Notify::new(),
        })
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
        self.queues.close();
        // Nobody waits any more.
        self.quorum.hear_no_more();
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

    /// Takes a claim that is settled off the ledger.
    pub(crate) fn strike(&self, claim: &Claim) {
        let was_there = lock(&self.claims).remove(&claim.id).is_some();
        // Nobody asks for it any more, and whoever still watches it must not keep connections open.
        claim.send_log.let_lines_go();
        if was_there && self.is_closed() {
            self.changed.notify_waiters();
        }
    }

    /// Notes that a majority has released a claim, once, and lets the next waiter in.
    fn confirm(&self, claim: &Claim) {
        let is_first = claim.with_release(Release::confirm).unwrap_or(false);
        if is_first
            && !claim.is_kept()
            && let Some(release) = claim.released_as()
        {
            self.queues.released(claim.key(), release, || false);
        }
    }

    /// Which of these sorted keys are held here, or about to be.
    pub(crate) fn held_here(&self, keys: &[Arc<Key>]) -> Vec<bool> {
        let mut held = vec![false; keys.len()];
        for claim in lock(&self.claims).values().filter(|claim| !claim.send_log.is_withdrawn()) {
            if let Ok(index) = keys.binary_search_by(|key| (*key.name).cmp(claim.key())) {
                held[index] = true;
            }
        }
        held
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
        self.quorum.time(self.clone().settle(claim))
    }

    /// Releases a withdrawn claim everywhere it may hold the key, again and again until every such node has
    /// answered or the TTL is over. Once a majority of them has answered the claim counts as settled.
    pub(crate) async fn settle(self: Arc<Self>, claim: Arc<Claim>) {
        let (began, give_up) = (clock::now(), claim.ends());
        let enough = claim.to_release().len().min(self.quorum.needed());
        let mut answered = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let (mut round, sent) = (Round::new(), clock::now());
            for node in claim.to_release() {
                round.push(node, sent, self.quorum.ask(node, &claim, claim.release_command()));
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
                claim.with_release(|release| release.warn(claim.key(), claim.label));
            }
            sleep(pause + below(pause)).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        if answered < enough && claim.was_held() {
            claim.with_release(|release| release.warn(claim.key(), claim.label));
        }
        self.confirm(&claim);
        self.strike(&claim);
    }
}

/// How many keys a line names.
const MOST_NAMED: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
