//! The world: servers, clients and workers, and the course of a schedule.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    chaos::Chaos,
    client::{Client, Worker},
    dice::Dice,
    oracle::Oracle,
    plan::{Kind, Plan},
    process::{self, Process},
    server::Server,
    trace::{Trace, Tracing},
};
use crate::{
    host::{random, sync::lock},
    types::validity::quorum,
};

/// What everybody in a schedule shares.
pub(crate) struct Setting {
    pub(super) plan: Plan,
    pub(super) dice: Dice,
    pub(super) trace: Arc<Trace>,
    pub(super) oracle: Oracle,
    /// Whether things may break at this time.
    breaks: AtomicBool,
    /// No new turns begin.
    is_over: AtomicBool,
    gives_up: AtomicBool,
    given_up: Notify,
    errands: Mutex<JoinSet<()>>,
    waiters: Mutex<BTreeMap<u64, Waiter>>,
}

/// Somebody waits for a lock.
struct Waiter {
    key: String,
    process: Arc<Process>,
    since: Instant,
}

/// What came of a schedule.
pub(super) struct Outcome {
    pub(super) failure: Option<String>,
    pub(super) trace: Vec<String>,
    pub(super) checked: u64,
}

/// Runs the schedule of a kind that a seed gives.
pub(super) fn run(kind: Kind, seed: u64, tracing: Tracing) -> Outcome {
    random::seeded::seed(Some(seed));
    process::suspend(Some(Duration::ZERO));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    let setting = runtime.block_on(async {
        let setting = Setting::new(kind, seed, tracing);
        tokio::select! {
            biased;
            () = setting.oracle.failed.notified() => {}
            over = timeout(LONGEST, World::new(setting.clone()).course()) => {
                setting.oracle.check(over.is_ok(), || "the schedule does not end".into());
            }
        }
        setting
    });
    let failure = setting.oracle.failure();
    // What ends with the runtime is not judged any more.
    drop(runtime);
    let has_panicked = process::take_panic();
    process::suspend(None);
    random::seeded::seed(None);
    Outcome {
        failure: failure.or_else(|| has_panicked.then(|| "a task panicked".into())),
        trace: setting.trace.lines(),
        checked: setting.oracle.checked(),
    }
}

impl Setting {
    fn new(kind: Kind, seed: u64, tracing: Tracing) -> Arc<Self> {
        let dice = Dice::new(seed);
        let plan = Plan::new(kind, &dice);
        let trace = Arc::new(Trace::start(tracing));
        trace.note("plan", format!("seed {seed}: {plan:?}"));
        Arc::new(Self {
            oracle: Oracle::new(plan.clone(), trace.clone()),
            plan,
            dice,
            trace,
            breaks: AtomicBool::new(kind.breaks()),
            is_over: AtomicBool::new(false),
            gives_up: AtomicBool::new(false),
            given_up: Notify::new(),
            errands: Mutex::default(),
            waiters: Mutex::default(),
        })
    }

    fn may_break(&self, percent: u64) -> bool {
        self.breaks.load(Ordering::Relaxed) && self.dice.chance(percent)
    }

    /// How long a message takes.
    pub(super) fn delay(&self) -> Duration {
        if self.may_break(1) {
            return self.dice.millis(50..900);
        }
        self.dice.millis(0..self.plan.slowness)
    }

    pub(super) fn connect_delay(&self) -> Duration {
        if self.may_break(10) {
            return self.dice.millis(50..900);
        }
        self.dice.millis(0..self.plan.slowness)
    }

    pub(super) fn is_refused(&self) -> bool {
        self.may_break(5)
    }

    pub(super) fn are_notices_lost(&self) -> bool {
        self.may_break(20)
    }

    /// Whether workers shall begin nothing new.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Whether time will end a lock before the schedule ends.
    pub(super) fn can_wait_for_loss(&self) -> bool {
        !matches!(self.plan.kind, Kind::Leftovers | Kind::Calm)
    }

    /// Resolves when nobody shall wait for a lock any longer.
    pub(super) async fn gives_up(&self) {
        let given_up = self.given_up.notified();
        if !self.gives_up.load(Ordering::Relaxed) {
            given_up.await;
        }
    }

    /// Starts what is no worker's own, such as the adoption of a lock.
    pub(super) fn starts(&self, errand: impl Future<Output = ()> + Send + 'static) {
        drop(lock(&self.errands).spawn(errand));
    }

    /// Waits until all errands have ended, and those that they began.
    async fn errands_end(&self) {
        loop {
            let mut errands = std::mem::take(&mut *lock(&self.errands));
            if errands.is_empty() {
                return;
            }
            while errands.join_next().await.is_some() {}
        }
    }

    /// Enters a waiter in the oracle's list, until the returned value is dropped.
    pub(super) fn waits(self: &Arc<Self>, key: &str, process: &Arc<Process>) -> Waits {
        let number = self.dice.next();
        let waiter =
            Waiter { key: key.to_owned(), process: process.clone(), since: Instant::now() };
        lock(&self.waiters).insert(number, waiter);
        Waits { setting: self.clone(), number }
    }

    /// The processes whose waiters have waited for a key since before `then`.
    fn waiting_since(&self, key: &str, then: Instant) -> Vec<String> {
        let waiters = lock(&self.waiters);
        let mut waiting = waiters.values().filter(|waiter| {
            waiter.key == key && waiter.since <= then && waiter.process.has_run_since(then)
        });
        waiting.by_ref().map(|waiter| waiter.process.name.clone()).collect()
    }
}

/// A waiter's entry.
pub(super) struct Waits {
    setting: Arc<Setting>,
    number: u64,
}

impl Drop for Waits {
    fn drop(&mut self) {
        lock(&self.setting.waiters).remove(&self.number);
    }
}

pub(super) struct World {
    pub(super) setting: Arc<Setting>,
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) clients: Vec<Arc<Client>>,
}

impl World {
    fn new(setting: Arc<Setting>) -> Self {
        let (plan, dice) = (&setting.plan, &setting.dice);
        let server = |number| Server::new(format!("n{number}"), setting.clone(), plan.rate(dice));
        let servers: Vec<_> = (0..plan.nodes).map(server).collect();
        if plan.counters_ahead {
            servers.iter().for_each(|server| server.count_ahead());
        }
        let client = |number: usize| {
            let skew = dice.from(0..plan.skew + 1);
            let name = char::from(b'A' + u8::try_from(number).expect("few processes"));
            Client::new(Process::new(name.to_string(), skew), servers.clone())
        };
        let clients = (0..plan.processes).map(client).collect();
        Self { setting, servers, clients }
    }

    async fn course(self) {
        let mut workers = self.start_workers();
        let world = Arc::new(self);
        let watch = tokio::spawn(world.clone().watch());
        if world.setting.plan.kind.breaks() {
            Chaos::new(world.clone()).rage().await;
            world.setting.breaks.store(false, Ordering::Relaxed);
            world.setting.is_over.store(true, Ordering::Relaxed);
            world.setting.trace.note("chaos", "is over");
        }
        let all_done = async {
            while workers.join_next().await.is_some() {}
            world.setting.errands_end().await;
        };
        let mut all_done = std::pin::pin!(all_done);
        // Those who died never end, and what they hold nobody gets: give up in the end.
        if timeout(PATIENCE, all_done.as_mut()).await.is_err() {
            world.setting.gives_up.store(true, Ordering::Relaxed);
            world.setting.given_up.notify_waiters();
            world.setting.is_over.store(true, Ordering::Relaxed);
            let is_alive = world.clients.iter().all(|client| !client.process.is_dead());
            let ended = timeout(PATIENCE, all_done).await;
            world.setting.oracle.check(ended.is_ok() || !is_alive, || "workers do not end".into());
        }
        watch.abort();
        world.close().await;
    }

    fn start_workers(&self) -> JoinSet<()> {
        let mut workers = JoinSet::new();
        for (client, place) in self.clients.iter().zip(0..) {
            for number in 0..self.setting.plan.workers {
                workers.spawn(client.process.run(self.worker(place, number).work()));
            }
        }
        workers
    }

    pub(super) fn worker(&self, client: usize, number: usize) -> Worker {
        let (setting, clients) = (self.setting.clone(), self.clients.clone());
        Worker { setting, clients, client, number }
    }

    /// Looks for waiters that sleep while their key is free.
    async fn watch(self: Arc<Self>) {
        let mut free_since: BTreeMap<&str, (usize, Instant)> = BTreeMap::new();
        loop {
            sleep(Duration::from_millis(100)).await;
            let now = Instant::now();
            for key in &self.setting.plan.keys {
                let free = self.servers.iter().filter(|server| server.is_free(key)).count();
                let breaks = self.setting.breaks.load(Ordering::Relaxed);
                if free < quorum(self.servers.len()) || breaks {
                    free_since.remove(&**key);
                    continue;
                }
                let acquired = self.setting.oracle.acquisitions(key);
                let (known, since) = *free_since.entry(key).or_insert((acquired, now));
                if acquired != known {
                    free_since.insert(key, (acquired, now));
                    continue;
                }
                if now - since > LONGEST_SLEEP {
                    let asleep = self.setting.waiting_since(key, now - LONGEST_SLEEP);
                    self.setting.oracle.check(asleep.is_empty(), || {
                        format!("{key} is free, and {asleep:?} sleep")
                    });
                }
            }
            self.setting.oracle.exclusion();
        }
    }

    /// Closes all that lives, and looks what is left.
    async fn close(&self) {
        let oracle = &self.setting.oracle;
        sleep(Duration::from_secs(10)).await;
        for client in self.clients.iter().filter(|client| !client.process.is_dead()) {
            let manager = client.manager();
            let left = client.process.run(manager.close()).await;
            let name = &client.process.name;
            oracle.check(left == 0, || format!("{name}: {left} claims left at the end"));
            let is_idle = manager.keeper().queues.is_empty();
            oracle.check(is_idle, || format!("{name}: queues left at the end"));
        }
        for server in &self.servers {
            oracle.left_behind(&server.name, server.locks());
        }
        oracle.exclusion();
    }
}

/// How long a waiter may sleep while its key is free.
///
/// A leftover on the key's first node refuses two looks, each about two seconds after the other.
const LONGEST_SLEEP: Duration = Duration::from_secs(8);
/// How long the workers may take to end their turns once nothing breaks any more.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any schedule.
const LONGEST: Duration = Duration::from_secs(600);
