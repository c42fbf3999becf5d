//! A manager's way to a node, whether that is a Redis or this process' memory.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use super::{
    Kind, Node,
    command::{Answer, Command},
    facts::Facts,
    lane::{Lane, Recovered},
    memory::{self, MemoryClient},
    message::Database,
    notices::{self, OnNotice, Subscriber},
    send_log::SendLog,
    survey::Questions,
};
use crate::types::{error::NodeError, few::Few, key::Key, settings::Settings};

/// A manager's way to one node.
pub(crate) struct NodeClient {
    index: usize,
    backend: Backend,
}

enum Backend {
    Redis(Lane, Option<Subscriber>),
    Memory(MemoryClient),
}

/// Somebody listens for the releases of a key at one node.
pub(crate) enum NodeSubscription {
    Redis(notices::Subscription),
    Memory(memory::MemorySubscription),
}

impl Node {
    /// Opens a manager's way to the node; `hear` is told of the notices that it asks for.
    pub(crate) fn link(
        &self,
        index: usize,
        settings: &Settings,
        on_notice: OnNotice,
        recovered: Recovered,
    ) -> NodeClient {
        let backend = match &self.kind {
            Kind::Memory(store) => {
                let (store, node_timeout) = (store.clone(), settings.node_timeout);
                let client = MemoryClient { index, store, node_timeout, on_notice, recovered };
                Backend::Memory(client)
            }
            Kind::Redis(source) => {
                let (name, database) = (|| self.name.clone(), Arc::<Database>::default());
                let (source_of, known) = (source.clone(), database.clone());
                let lane = Lane::new(name(), index, source_of, known, settings, recovered);
                let own = Some(source).filter(|source| source.can_hear());
                let subscriber = self.notices.as_ref().or(own).map(|source| {
                    Subscriber::new(name(), index, source.clone(), database, settings, on_notice)
                });
                Backend::Redis(lane, subscriber)
            }
        };
        NodeClient { index, backend }
    }
}

impl NodeClient {
    /// Asks one thing. The call takes its place in the order of the lane when it is first polled.
    pub(crate) async fn ask(
        &self,
        send_log: &SendLog,
        command: Command,
    ) -> Result<Answer, NodeError> {
        match &self.backend {
            Backend::Redis(lane, _) => match lane.ask(&[(send_log, command)]).await.pop() {
                Some(answer) => answer,
                None => unreachable!("a lane gives one answer for one question"),
            },
            Backend::Memory(client) => client.ask(send_log, command).await,
        }
    }

    /// Asks many things in one piece.
    pub(crate) async fn ask_all(
        &self,
        items: &[(&SendLog, Command)],
    ) -> Few<Result<Answer, NodeError>> {
        match &self.backend {
            Backend::Redis(lane, _) => lane.ask(items).await,
            Backend::Memory(client) => client.ask_all(items).await,
        }
    }

    pub(crate) async fn ping(&self) -> Result<Duration, NodeError> {
        match &self.backend {
            Backend::Redis(lane, _) => lane.ping().await,
            Backend::Memory(client) => client.ping().await,
        }
    }

    /// Asks the node about itself and the user's rights. A node in memory has nothing to tell.
    pub(crate) async fn survey(
        &self,
        questions: &Questions<'_>,
    ) -> Option<Result<Facts, NodeError>> {
        match &self.backend {
            Backend::Redis(lane, _) => Some(questions.ask(lane).await),
            Backend::Memory(..) => None,
        }
    }

    /// Listens for the releases of a key, if this node lets anybody hear of them.
    pub(crate) fn listen(&self, key: &Arc<Key>) -> Option<NodeSubscription> {
        match &self.backend {
            Backend::Redis(_, subscriber) => subscriber
                .as_ref()
                .map(|subscriber| NodeSubscription::Redis(subscriber.listen(key))),
            Backend::Memory(client) => Some(NodeSubscription::Memory(client.listen(key))),
        }
    }

    /// Hears of no more releases.
    pub(crate) fn hear_no_more(&self) {
        match &self.backend {
            Backend::Redis(_, subscriber) => subscriber.iter().for_each(Subscriber::end),
            Backend::Memory(..) => {}
        }
    }

    /// Opens a connection whenever there is none and it is time for the next, as long as this is awaited.
    pub(crate) async fn mend(&self) -> Infallible {
        match &self.backend {
            Backend::Redis(lane, _) => lane.mend().await,
            Backend::Memory(client) => client.mend().await,
        }
    }

    /// Whether the node can be asked without connecting first.
    pub(crate) fn is_up(&self) -> bool {
        match &self.backend {
            Backend::Redis(lane, _) => lane.is_up(),
            Backend::Memory(client) => client.store.switch.is_up(),
        }
    }
}

impl NodeSubscription {
    /// Whether a release is sure to be heard, as far as the connection stands.
    pub(crate) fn is_heard(&self) -> bool {
        match self {
            Self::Redis(listening) => listening.is_heard(),
            Self::Memory(listening) => listening.is_heard(),
        }
    }
}

impl fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeClient").field(&self.index).finish()
    }
}
