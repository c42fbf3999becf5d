//! The switch for the faults of a node in memory: whether and when it answers.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{node::failure::Failure, types::error::NodeError};

/// How a node in memory fares.
#[derive(Debug)]
pub(in crate::node) struct Switch(watch::Sender<Fault>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "test-util"), expect(dead_code, reason = "tests alone ask for faults"))]
pub(in crate::node) enum Fault {
    None,
    Down,
    Hung,
    Late(Duration),
}

impl Switch {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Fault::None))
    }

    #[cfg(feature = "test-util")]
    pub(in crate::node) fn set(&self, fault: Fault) {
        self.0.send_replace(fault);
    }

    pub(in crate::node) fn get(&self) -> Fault {
        *self.0.borrow()
    }

    /// Whether the node can be asked without connecting first.
    pub(in crate::node) fn is_up(&self) -> bool {
        self.get() != Fault::Down
    }

    /// Whether the node says when a key is released.
    pub(super) fn is_heard(&self) -> bool {
        !self.get().is_out()
    }

    /// Carries something out, if the node is there, and answers when it does.
    pub(super) async fn pass<T>(
        &self,
        node: &Arc<str>,
        node_timeout: Duration,
        carry_out: impl FnOnce() -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        match self.get() {
            // Nothing is awaited: a release takes its place when it is first polled.
            Fault::None => carry_out(),
            // Boxed, so that calls to other nodes need no room for it.
            _ => Box::pin(self.fail(node, node_timeout, carry_out)).await,
        }
    }

    async fn fail<T>(
        &self,
        node: &Arc<str>,
        node_timeout: Duration,
        carry_out: impl FnOnce() -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let silent = || NodeError::new(node, Failure::TimedOut(node_timeout));
        if self.get() == Fault::Hung {
            let answers = self.comes(|fault| fault != Fault::Hung);
            timeout(node_timeout, answers).await.map_err(|_elapsed| silent())?;
        }
        match self.get() {
            Fault::None | Fault::Hung => carry_out(),
            Fault::Down => {
                let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
                Err(NodeError::new(node, Failure::Redis(refused.into())))
            }
            Fault::Late(by) => {
                let answer = carry_out();
                sleep(by.min(node_timeout)).await;
                if by < node_timeout { answer } else { Err(silent()) }
            }
        }
    }

    /// Waits until the node has gone and is back.
    pub(super) async fn comes_back(&self) {
        self.comes(Fault::is_out).await;
        self.comes(|fault| !fault.is_out()).await;
    }

    async fn comes(&self, is_so: fn(Fault) -> bool) {
        // It cannot fail: the sender is in our hands.
        let mut fault = self.0.subscribe();
        let _seen = fault.wait_for(|fault| is_so(*fault)).await;
    }
}

impl Fault {
    const fn is_out(self) -> bool {
        matches!(self, Self::Down | Self::Hung)
    }
}
