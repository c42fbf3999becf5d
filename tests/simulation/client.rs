//! The clients: workers that take locks in every way the crate offers, and end them in every way.

use std::{
    future::Future,
    pin::Pin,
    slice::from_ref,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    oracle::Lock,
    plan::{Kind, SEMAPHORE},
    process::{Process, now},
    server::Server,
    world::Setting,
};
use crate::{
    LockGuard, LockManager, LockRequest, Node, OwnerToken, Result, Retry, host::sync::lock,
};

/// A process and its manager.
pub(super) struct Client {
    pub(super) process: Arc<Process>,
    manager: Mutex<LockManager>,
    servers: Vec<Arc<Server>>,
}

impl Client {
    pub(super) fn new(process: Arc<Process>, servers: Vec<Arc<Server>>) -> Arc<Self> {
        let manager = Mutex::new(build(&servers));
        Arc::new(Self { process, manager, servers })
    }

    pub(super) fn manager(&self) -> LockManager {
        lock(&self.manager).clone()
    }

    /// Drops the manager, while its guards and calls may go on, and builds another.
    pub(super) fn replace_manager(&self) -> LockManager {
        std::mem::replace(&mut lock(&self.manager), build(&self.servers))
    }
}

fn build(servers: &[Arc<Server>]) -> LockManager {
    let nodes = servers.iter().map(|server| Node::simulated(server.clone()));
    let plan = &servers[0].setting.plan;
    let builder = LockManager::quorum(nodes).fencing_retention(plan.retention);
    let builder = if plan.unfenced { builder.unfenced() } else { builder };
    let builder = match plan.kind.quarantine() {
        // The waiters stay until the nodes vote again.
        Some(max_ttl) => {
            builder.ttl(max_ttl).restart_quarantine(max_ttl).outage_patience(Duration::MAX)
        }
        None => builder,
    };
    builder.build().expect("the settings are right")
}

/// One task of a client that takes locks one after the other.
pub(super) struct Worker {
    pub(super) setting: Arc<Setting>,
    pub(super) clients: Vec<Arc<Client>>,
    /// Which of the clients it belongs to.
    pub(super) client: usize,
    pub(super) number: usize,
}

/// How a worker asks for a lock.
#[derive(Clone, Copy, Debug)]
enum Way {
    Acquire,
    AcquireWithin,
    AcquireRetrying,
    TryAcquire,
    AcquireOrExtend,
    Run,
    RunOnce,
}

impl Worker {
    pub(super) async fn work(self) {
        let dice = &self.setting.dice;
        for _ in 0..self.setting.plan.rounds {
            sleep(dice.millis(0..300)).await;
            if self.setting.is_over() {
                return;
            }
            Box::pin(self.turn()).await;
        }
    }

    /// Comes for one lock, at once.
    pub(super) async fn visit(self) {
        Box::pin(self.turn()).await;
    }

    pub(super) fn me(&self) -> &Arc<Client> {
        &self.clients[self.client]
    }

    pub(super) fn note(&self, what: impl std::fmt::Display) {
        let name = &self.me().process.name;
        self.setting.trace.note(format_args!("{name}.{}", self.number), what);
    }

    /// Takes a lock once.
    async fn turn(&self) {
        let (setting, dice) = (&self.setting, &self.setting.dice);
        if setting.plan.keys.len() > 1 && dice.chance(10) {
            return self.turn_for_all().await;
        }
        if setting.plan.kind == Kind::Slots && dice.chance(80) {
            return self.turn_for_any().await;
        }
        let key = dice.pick(&setting.plan.keys).clone();
        let way = self.way();
        let (request, is_chosen) = self.request(&key, way);
        let joins = is_chosen && matches!(way, Way::AcquireOrExtend);
        let began = now();
        let cancelled = if dice.chance(25) { dice.millis(0..120) } else { FOREVER };
        if matches!(way, Way::RunOnce) {
            return Box::pin(self.run_once(&key, request, cancelled)).await;
        }
        if matches!(way, Way::Run) {
            let held = Mutex::new(None);
            let work = async |guard: &LockGuard| {
                *lock(&held) = Some(Lock::of(guard));
                setting.oracle.acquired(&self.me().process, guard, began, joins);
                sleep(dice.millis(0..200)).await;
                setting.oracle.ends(guard);
            };
            let outcome = self.within(from_ref(&key), cancelled, request.run(work)).await;
            if let Some(held) = lock(&held).take() {
                // Also where it was cancelled, or lost.
                setting.oracle.gives_up(held);
            }
            return self.tell(outcome.map(|outcome| outcome.map(drop)));
        }
        let asked: Pin<Box<dyn Future<Output = Result<LockGuard>> + Send>> =
            ask(way, request, dice);
        let outcome = self.within(from_ref(&key), cancelled, asked).await;
        match outcome {
            Some(Ok(guard)) => {
                setting.oracle.acquired(&self.me().process, &guard, began, joins);
                self.hold(guard).await;
            }
            outcome => self.tell(outcome.map(|outcome| outcome.map(drop))),
        }
    }

    fn way(&self) -> Way {
        let (setting, dice) = (&self.setting, &self.setting.dice);
        let ways =
            [Way::Acquire, Way::Acquire, Way::Acquire, Way::AcquireWithin, Way::AcquireRetrying];
        match dice.from(0..10) {
            0 => Way::TryAcquire,
            1 => Way::AcquireOrExtend,
            2 => Way::Run,
            3..=8 if setting.plan.kind.completes() => Way::RunOnce,
            3..=6 if setting.plan.kind.shares() => Way::AcquireOrExtend,
            _ => *dice.pick(&ways),
        }
    }

    /// A request for a key, and whether its owner token is chosen.
    fn request(&self, key: &str, way: Way) -> (LockRequest, bool) {
        let (setting, dice) = (&self.setting, &self.setting.dice);
        let ttl = setting.plan.ttl(dice);
        let mut request = self.me().manager().lock(key).ttl(ttl);
        if dice.chance(30) {
            request = request.auto_renew();
        }
        if dice.chance(10) {
            request = request.min_hold(dice.millis(0..600));
        }
        let wishes = matches!(way, Way::AcquireOrExtend) || dice.chance(10);
        let wishes = wishes || setting.plan.kind.shares() && dice.chance(60);
        let is_chosen = wishes && setting.plan.owners;
        if is_chosen {
            request = request.owner(self.owner());
        }
        self.note(format_args!(
            "{way:?} {key} ttl {ttl:?}{}",
            if is_chosen { ", own token" } else { "" }
        ));
        (request, is_chosen)
    }

    /// Takes a slot of the semaphore, whichever is free.
    async fn turn_for_any(&self) {
        let (setting, dice) = (&self.setting, &self.setting.dice);
        let ttl = setting.plan.ttl(dice);
        let mut request =
            self.me().manager().semaphore(SEMAPHORE, setting.plan.keys.len()).ttl(ttl);
        if dice.chance(30) {
            request = request.auto_renew();
        }
        if dice.chance(10) {
            request = request.min_hold(dice.millis(0..600));
        }
        let (choice, began) = (dice.from(0..10), now());
        self.note(format_args!("a slot, ttl {ttl:?}, {choice}"));
        let asked: Pin<Box<dyn Future<Output = Result<LockGuard>> + Send>> = match choice {
            0 | 1 => Box::pin(request.try_acquire()),
            2 => Box::pin(request.wait_timeout(dice.millis(0..2_000)).acquire()),
            3 => Box::pin(request.retry(retry(dice)).acquire()),
            _ => Box::pin(request.acquire()),
        };
        let cancelled = if dice.chance(25) { dice.millis(0..120) } else { FOREVER };
        match self.within(&setting.plan.keys, cancelled, asked).await {
            Some(Ok(guard)) => {
                setting.oracle.acquired(&self.me().process, &guard, began, false);
                self.hold(guard).await;
            }
            outcome => self.tell(outcome.map(|outcome| outcome.map(drop))),
        }
    }

    /// Takes the locks of all the keys, and holds each by itself.
    async fn turn_for_all(&self) {
        let (setting, dice) = (&self.setting, &self.setting.dice);
        let ttl = setting.plan.ttl(dice);
        let request = self.me().manager().lock_all(setting.plan.keys.iter().cloned()).ttl(ttl);
        self.note(format_args!("all keys, ttl {ttl:?}"));
        let began = now();
        let cancelled = if dice.chance(25) { dice.millis(0..120) } else { FOREVER };
        // Which key it waits for is its own affair, so that it is not noted as waiting.
        let outcome = tokio::select! {
            biased;
            outcome = Box::pin(request.acquire()) => Some(outcome),
            () = sleep(cancelled) => None,
            () = setting.gives_up() => None,
        };
        match outcome {
            Some(Ok(set)) => {
                let guards = set.into_guards();
                for guard in &guards {
                    setting.oracle.acquired(&self.me().process, guard, began, false);
                }
                join_all(guards.into_iter().map(|guard| self.hold(guard))).await;
            }
            outcome => self.tell(outcome.map(|outcome| outcome.map(drop))),
        }
    }

    pub(super) fn tell(&self, outcome: Option<Result<()>>) {
        match outcome {
            Some(Ok(())) => self.note("done"),
            Some(Err(error)) => {
                if !self.setting.plan.kind.breaks() {
                    // Whoever waits for less than a round trip has no answer.
                    let is_short = error.is_timeout();
                    let is_odd = error.is_unavailable() && !is_short || error.is_config();
                    self.setting.oracle.check(!is_odd, || format!("without any fault: {error}"));
                }
                self.note(format_args!("got nothing: {error}"));
            }
            None => self.note("cancelled"),
        }
    }

    /// Waits for one of the locks, unless cancelled or all is over.
    pub(super) async fn within<T>(
        &self,
        keys: &[String],
        cancelled: Duration,
        asked: impl Future<Output = T>,
    ) -> Option<T> {
        let waits = |key: &String| self.setting.waits(key, &self.me().process);
        let _waiters: Vec<_> = keys.iter().map(waits).collect();
        tokio::select! {
            biased;
            outcome = asked => Some(outcome),
            () = sleep(cancelled) => None,
            () = self.setting.gives_up() => None,
        }
    }

    /// The owner token that this worker chooses when it chooses.
    fn owner(&self) -> OwnerToken {
        if self.setting.plan.kind.shares() {
            return OwnerToken::new("chosen-by-all").expect("it is short");
        }
        // Two workers of a process share one.
        let name = format!("chosen-{}.{}", self.me().process.name, self.number / 2);
        OwnerToken::new(name).expect("it is short")
    }
}

/// A policy with a limit.
fn retry(dice: &super::dice::Dice) -> Retry {
    let retry = Retry::jittered(dice.millis(0..30), dice.millis(0..60));
    retry.max_retries(u32::try_from(dice.from(0..8)).expect("it is small"))
}

fn ask(
    way: Way,
    request: LockRequest,
    dice: &super::dice::Dice,
) -> Pin<Box<dyn Future<Output = Result<LockGuard>> + Send>> {
    match way {
        Way::Acquire | Way::Run | Way::RunOnce => Box::pin(request.acquire()),
        Way::AcquireWithin => Box::pin(request.wait_timeout(dice.millis(0..2_000)).acquire()),
        Way::AcquireRetrying => Box::pin(request.retry(retry(dice)).acquire()),
        Way::TryAcquire => Box::pin(request.try_acquire()),
        Way::AcquireOrExtend => Box::pin(request.acquire_or_extend()),
    }
}

pub(super) const FOREVER: Duration = Duration::from_secs(100_000);
