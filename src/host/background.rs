//! The background: the runtime that a manager's own tasks live on.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll},
    thread,
};

use pin_project::pin_project;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::yield_now,
};

use crate::{
    host::sync::lock,
    types::error::{Error, Result},
};

/// Where the tasks of a manager live.
#[derive(Clone, Debug, Default)]
pub(crate) enum Background {
    /// On the runtime of whoever needs them first.
    #[default]
    Callers,
    /// On a thread of their own, which ends with the last clone.
    Dedicated(Arc<Dedicated>),
}

/// A runtime of one thread, once it is needed.
#[derive(Debug, Default)]
pub(crate) struct Dedicated {
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    runtime: Handle,
    /// The thread ends when this is dropped.
    _end: oneshot::Sender<Infallible>,
}

impl Background {
    pub(crate) fn dedicated() -> Self {
        Self::Dedicated(Arc::default())
    }

    /// Refuses to begin what could not go on.
    pub(crate) fn check(&self) -> Result<()> {
        let Self::Dedicated(dedicated) = self else { return Ok(()) };
        dedicated.runtime().map(drop).map_err(|error| {
            Error::config(format!("the dedicated runtime cannot be started: {error}"))
        })
    }

    /// The runtime for a task that begins now, if there is one.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        match self {
            Self::Callers => Handle::try_current().ok(),
            Self::Dedicated(dedicated) => dedicated.runtime().ok(),
        }
    }

    /// Lets a task of the background's begin that was woken just now, before the caller goes on and may block its thread:
    /// on a runtime of the caller's, what a task wakes waits in a slot of its own worker, where no other worker looks for
    /// something to do.
    pub(crate) async fn let_begin(&self) {
        if matches!(self, Self::Callers) {
            yield_now().await;
        }
    }

    /// Has a call that may outlive its caller, and its caller's runtime, set its timers on the background's.
    pub(crate) fn time<F: Future>(&self, call: F) -> Timed<F> {
        let timers = match self {
            Self::Callers => None,
            Self::Dedicated(dedicated) => dedicated.runtime().ok(),
        };
        Timed { timers, call }
    }
}

impl Dedicated {
    /// The runtime, whose thread starts at the first use.
    fn runtime(&self) -> io::Result<Handle> {
        let mut running = lock(&self.running);
        let running = match &mut *running {
            Some(running) => running,
            none => none.insert(Running::start()?),
        };
        Ok(running.runtime.clone())
    }
}

impl Running {
    fn start() -> io::Result<Self> {
        let (end, ended) = oneshot::channel();
        let (started, start) = mpsc::sync_channel(1);
        // Made on its own thread: where it is dropped, if that cannot be started, must not be inside of another.
        let live = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            // Whoever has asked waits for it.
            let _told = started.send(Ok(runtime.handle().clone()));
            let _ended: Result<Infallible, _> = runtime.block_on(ended);
            runtime.shutdown_background();
        };
        drop(thread::Builder::new().name("redlatch".to_owned()).spawn(live)?);
        let runtime = start.recv().unwrap_or_else(|gone| Err(io::Error::other(gone)))?;
        Ok(Self { runtime, _end: end })
    }
}

/// A call whose timers are the background's.
#[pin_project]
pub(crate) struct Timed<F> {
    timers: Option<Handle>,
    #[pin]
    call: F,
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.timers.as_ref().map(Handle::enter);
        this.call.poll(cx)
    }
}
