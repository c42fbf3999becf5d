//! A manager's way to a node in memory.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{task::coop::consume_budget, time::Instant};

use super::{MemorySubscription, Store};
use crate::{
    node::{
        command::{Answer, Command},
        lane::Recovered,
        notices::OnNotice,
        send_log::SendLog,
    },
    types::{error::NodeError, few::Few, key::Key},
};

pub(in crate::node) struct MemoryClient {
    pub(in crate::node) index: usize,
    pub(in crate::node) store: Arc<Store>,
    pub(in crate::node) node_timeout: Duration,
    pub(in crate::node) on_notice: OnNotice,
    /// Called when the node has gone and is back.
    pub(in crate::node) recovered: Recovered,
}

impl MemoryClient {
    pub(in crate::node) async fn ask(
        &self,
        send_log: &SendLog,
        command: Command,
    ) -> Result<Answer, NodeError> {
        let answer = self.pass(|| self.store.ask(self.index, send_log, command)).await;
        // It hardly ever waits, but its callers must not keep others from running.
        consume_budget().await;
        answer
    }

    pub(in crate::node) async fn ask_all(
        &self,
        items: &[(&SendLog, Command)],
    ) -> Few<Result<Answer, NodeError>> {
        let carry_out = || {
            let ask = |(send_log, command): &(&SendLog, Command)| {
                self.store.ask(self.index, send_log, *command)
            };
            Ok(items.iter().map(ask).collect())
        };
        let all_fail = |error: NodeError| items.iter().map(|_| Err(error.clone())).collect();
        self.pass(carry_out).await.unwrap_or_else(all_fail)
    }

    pub(in crate::node) async fn ping(&self) -> Result<Duration, NodeError> {
        let sent = Instant::now();
        self.pass(|| Ok(())).await.map(|()| sent.elapsed())
    }

    pub(in crate::node) fn listen(&self, key: &Arc<Key>) -> MemorySubscription {
        self.store.listen(self.index, key, &self.on_notice)
    }

    pub(in crate::node) async fn mend(&self) -> Infallible {
        loop {
            self.store.switch.comes_back().await;
            (self.recovered)();
        }
    }

    async fn pass<T>(
        &self,
        carry_out: impl FnOnce() -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        self.store.switch.pass(&self.store.name, self.node_timeout, carry_out).await
    }
}
