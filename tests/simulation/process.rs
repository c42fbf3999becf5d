//! A simulated process: its tasks run only while it does, and it has a wall clock of its own.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::host::{clock, sync::lock};

#[derive(Debug)]
pub(crate) struct Process {
    pub(super) name: String,
    /// The wall clock at the start of the schedule, in microseconds; and its last reading.
    wall: AtomicU64,
    last: AtomicU64,
    start: Instant,
    is_paused: AtomicBool,
    is_dead: AtomicBool,
    /// When it was paused or resumed last.
    changed: Mutex<Instant>,
    sleepers: Mutex<Vec<Waker>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Process>>> = const { RefCell::new(None) };
    static PANICKED: Cell<bool> = const { Cell::new(false) };
    static SUSPENDED: Cell<Option<Duration>> = const { Cell::new(None) };
}

impl Process {
    pub(super) fn new(name: String, skew_micros: u64) -> Arc<Self> {
        let start = now();
        Arc::new(Self {
            name,
            wall: AtomicU64::new(WALL_MICROS + skew_micros),
            last: AtomicU64::new(0),
            start,
            is_paused: AtomicBool::new(false),
            is_dead: AtomicBool::new(false),
            changed: Mutex::new(start),
            sleepers: Mutex::default(),
        })
    }

    pub(super) fn pause(&self) {
        self.is_paused.store(true, Ordering::Relaxed);
        *lock(&self.changed) = now();
    }

    pub(super) fn resume(&self) {
        self.is_paused.store(false, Ordering::Relaxed);
        *lock(&self.changed) = now();
        lock(&self.sleepers).drain(..).for_each(Waker::wake);
    }

    /// Ends it without a word: none of its tasks runs again.
    pub(super) fn kill(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
    }

    /// Notes that its timers have stood still until now.
    pub(super) fn has_slept(&self) {
        *lock(&self.changed) = now();
    }

    pub(super) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    /// Whether it runs and has done so since `then`.
    pub(super) fn has_run_since(&self, then: Instant) -> bool {
        self.is_running() && *lock(&self.changed) <= then
    }

    /// When it was paused or resumed last.
    pub(super) fn changed(&self) -> Instant {
        *lock(&self.changed)
    }

    pub(super) fn is_running(&self) -> bool {
        !self.is_paused.load(Ordering::Relaxed) && !self.is_dead()
    }

    /// Sets the wall clock back or forth.
    pub(super) fn step_wall_clock(&self, skew_micros: u64) {
        self.wall.store(WALL_MICROS + skew_micros, Ordering::Relaxed);
    }

    /// Runs a future as a part of the process.
    pub(super) fn run<F: Future>(self: &Arc<Self>, future: F) -> InProcess<F> {
        InProcess { process: Some(self.clone()), future: Box::pin(future) }
    }

    /// Does something as a part of the process.
    pub(super) fn enter<T>(self: &Arc<Self>, act: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(self.clone()));
        let result = act();
        CURRENT.set(before);
        result
    }

    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    fn proposal(&self) -> u64 {
        let elapsed = u64::try_from((now() - self.start).as_micros()).unwrap_or(0);
        clock::above(&self.last, self.wall.load(Ordering::Relaxed) + elapsed)
    }
}

/// A future that runs only while its process does.
pub(crate) struct InProcess<F> {
    process: Option<Arc<Process>>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for InProcess<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(process) = self.process.clone() else { return self.future.as_mut().poll(cx) };
        if !process.is_running() {
            lock(&process.sleepers).push(cx.waker().clone());
            return Poll::Pending;
        }
        let polled =
            catch_unwind(AssertUnwindSafe(|| process.enter(|| self.future.as_mut().poll(cx))));
        polled.unwrap_or_else(|panic| {
            PANICKED.set(true);
            resume_unwind(panic)
        })
    }
}

/// Makes a future a part of the process that makes it.
pub(crate) fn in_this_process<F: Future>(future: F) -> InProcess<F> {
    InProcess { process: Process::current(), future: Box::pin(future) }
}

/// The fencing proposal by the wall clock of the process that asks.
pub(crate) fn proposal() -> Option<u64> {
    CURRENT.with_borrow(|current| current.as_ref().map(|process| process.proposal()))
}

/// How long the simulated machines have been suspended.
pub(crate) fn suspended() -> Option<Duration> {
    SUSPENDED.get()
}

/// Sends all clients' machines to sleep for a while in which their timers stand still.
pub(super) fn suspend(time: Option<Duration>) {
    SUSPENDED.set(time.map(|time| SUSPENDED.get().unwrap_or_default() + time));
}

/// Whether a task has panicked since this was asked last.
pub(super) fn take_panic() -> bool {
    PANICKED.replace(false)
}

/// The present in the world: the clients' timers stand still while their machines sleep, all else goes on. It is not
/// the crate's clock that tells, so that this can be found wrong.
pub(super) fn now() -> Instant {
    Instant::now() + SUSPENDED.get().unwrap_or_default()
}

/// What every wall clock shows at the start of a schedule that is not ahead.
pub(super) const WALL_MICROS: u64 = 1_700_000_000_000_000;
