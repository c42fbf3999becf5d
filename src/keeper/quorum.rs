//! The quorum: the nodes that vote, and the ways to them.

use std::{
    convert::Infallible,
    future::{Future, pending},
    sync::{Arc, Weak},
};

use futures_util::future::join_all;

use super::queue::Queues;
use crate::{
    claim::Claim,
    host::background::{Background, Timed},
    node::{Answer, Command, Node, NodeClient, NodeSubscription, Notice, OnNotice, Recovered},
    types::{error::NodeError, key::Key, settings::Settings, validity::quorum},
};

/// The nodes of a manager.
#[derive(Debug)]
pub(crate) struct Quorum {
    clients: Box<[NodeClient]>,
    nodes: Box<[Node]>,
    background: Background,
}

impl Quorum {
    pub(crate) fn new(nodes: Vec<Node>, settings: &Settings, queues: &Arc<Queues>) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let on_notice = on_notice_for(weak.clone(), queues.clone());
            let waiting = queues.clone();
            let recovered: Recovered = Arc::new(move || waiting.recovered());
            let link = |(index, node): (usize, &Node)| {
                node.link(index, settings, on_notice.clone(), recovered.clone())
            };
            let clients = nodes.iter().enumerate().map(link).collect();
            Self { clients, nodes: nodes.into(), background: settings.background.clone() }
        })
    }

    pub(crate) const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes are a majority.
    pub(crate) const fn needed(&self) -> usize {
        quorum(self.nodes.len())
    }

    pub(crate) fn client(&self, node: usize) -> &NodeClient {
        &self.clients[node]
    }

    pub(crate) fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    pub(crate) fn has_cluster(&self) -> bool {
        self.nodes.iter().any(Node::is_cluster)
    }

    /// Hears of no more releases.
    pub(crate) fn hear_no_more(&self) {
        self.clients.iter().for_each(NodeClient::hear_no_more);
    }

    /// Asks a node something about a claim. The call belongs to nobody, so that it can outlive its caller.
    pub(crate) fn ask(
        self: &Arc<Self>,
        node: usize,
        claim: &Arc<Claim>,
        command: Command,
    ) -> impl Future<Output = Result<Answer, NodeError>> + Send + use<> {
        let (quorum, claim) = (self.clone(), claim.clone());
        let call = async move { quorum.client(node).ask(&claim.send_log, command).await };
        self.time(call)
    }

    /// A call whose timers are those of the background's runtime, whichever runtime polls it.
    pub(crate) fn time<F: Future>(&self, call: F) -> Timed<F> {
        self.background.time(call)
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
        self.clients.iter().filter(|client| client.is_up()).count() >= self.needed()
    }

    /// Opens connections to the nodes that have none as soon as it is time for the next, as long as this is awaited.
    pub(crate) async fn mend(&self) -> Infallible {
        join_all(self.clients.iter().map(NodeClient::mend)).await;
        pending().await
    }

    /// Listens for the releases of these keys at every node, as long as the returned value lives.
    pub(crate) fn listen(&self, keys: &[Arc<Key>]) -> Subscriptions {
        let listen = |key| self.clients.iter().filter_map(|client| client.listen(key)).collect();
        Subscriptions { listening: keys.iter().map(listen).collect(), needed: self.needed() }
    }
}

/// Somebody listens for the releases of one key or several.
pub(crate) struct Subscriptions {
    /// At each node, for each key.
    listening: Vec<Vec<NodeSubscription>>,
    needed: usize,
}

impl Subscriptions {
    /// Whether a release of any of the keys is sure to be heard: it reaches a majority, and a majority is listened to.
    pub(crate) fn is_sure(&self) -> bool {
        let is_heard = |nodes: &Vec<NodeSubscription>| {
            nodes.iter().filter(|node| node.is_heard()).count() >= self.needed
        };
        self.listening.iter().all(is_heard)
    }
}

/// Passes the nodes' notices on to those who wait.
fn on_notice_for(quorum: Weak<Quorum>, queues: Arc<Queues>) -> OnNotice {
    Arc::new(move |node, key, notice| match notice {
        Notice::Missed => queues.doubt(&key.name),
        Notice::Released { token } => {
            let first =
                || quorum.upgrade().and_then(|quorum| quorum.order_of(key).first().copied());
            queues.released(&key.name, token, || first() == Some(node));
        }
    })
}
