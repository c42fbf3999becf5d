//! A manager's way to a node, whether that is a Redis or this process' memory.

use std::{convert::Infallible, fmt, future::pending, sync::Arc, time::Duration};

use tokio::task::coop::consume_budget;

use super::{
    Kind, Node,
    command::{Answer, Command},
    facts::Facts,
    lane::{Lane, Recovered},
    memory::{self, Store},
    message::Database,
    notices::{self, Ear, Hear},
    survey::Questions,
    trail::Trail,
};
use crate::types::{error::NodeError, key::Key, settings::Settings};

/// A manager's way to one node.
pub(crate) struct Link {
    index: usize,
    way: Way,
}

enum Way {
    Redis(Lane, Option<Ear>),
    Memory(Arc<Store>, Hear),
}

/// Somebody listens for the releases of a key at one node.
pub(crate) enum Listening {
    Redis(notices::Listening),
    Memory { _listener: memory::Listener },
}

impl Node {
    /// Opens a manager's way to the node; `hear` is told of the notices that it asks for.
    pub(crate) fn link(
        &self,
        index: usize,
        settings: &Settings,
        hear: Hear,
        recovered: Recovered,
    ) -> Link {
        let way = match &self.kind {
            Kind::Memory(store) => Way::Memory(store.clone(), hear),
            Kind::Redis(source) => {
                let (name, database) = (|| self.name.clone(), Arc::<Database>::default());
                let (source_of, known) = (source.clone(), database.clone());
                let lane = Lane::new(name(), index, source_of, known, settings, recovered);
                let from_url = Some(source).filter(|source| source.is_url());
                let ear = self.notices.as_ref().or(from_url).map(|source| {
                    Ear::new(name(), index, source.clone(), database, settings, hear)
                });
                Way::Redis(lane, ear)
            }
        };
        Link { index, way }
    }
}

impl Link {
    /// Asks one thing. The call takes its place in the order of the lane when it is first polled.
    pub(crate) async fn ask(&self, trail: &Trail, command: Command) -> Result<Answer, NodeError> {
        match &self.way {
            Way::Redis(lane, _) => match lane.ask(&[(trail, command)]).await.pop() {
                Some(answer) => answer,
                None => unreachable!("a lane gives one answer for one question"),
            },
            Way::Memory(store, _) => {
                let answer = store.ask(self.index, trail, command);
                // It never waits, but its callers must not keep others from running.
                consume_budget().await;
                answer
            }
        }
    }

    /// Asks many things in one piece.
    pub(crate) async fn ask_all(
        &self,
        items: &[(&Trail, Command)],
    ) -> Vec<Result<Answer, NodeError>> {
        match &self.way {
            Way::Redis(lane, _) => lane.ask(items).await,
            Way::Memory(store, _) => items
                .iter()
                .map(|(trail, command)| store.ask(self.index, trail, *command))
                .collect(),
        }
    }

    pub(crate) async fn ping(&self) -> Result<Duration, NodeError> {
        match &self.way {
            Way::Redis(lane, _) => lane.ping().await,
            Way::Memory(..) => Ok(Duration::ZERO),
        }
    }

    /// Asks the node about itself and the user's rights. A node in memory has nothing to tell.
    pub(crate) async fn survey(
        &self,
        questions: &Questions<'_>,
    ) -> Option<Result<Facts, NodeError>> {
        match &self.way {
            Way::Redis(lane, _) => Some(questions.ask(lane).await),
            Way::Memory(..) => None,
        }
    }

    /// Listens for the releases of a key, if this node lets anybody hear of them.
    pub(crate) fn listen(&self, key: &Arc<Key>) -> Option<Listening> {
        match &self.way {
            Way::Redis(_, ear) => ear.as_ref().map(|ear| Listening::Redis(ear.listen(key))),
            Way::Memory(store, hear) => {
                let listener = store.listen(self.index, key, hear);
                Some(Listening::Memory { _listener: listener })
            }
        }
    }

    /// Hears of no more releases.
    pub(crate) fn hear_no_more(&self) {
        match &self.way {
            Way::Redis(_, ear) => ear.iter().for_each(Ear::end),
            Way::Memory(..) => {}
        }
    }

    /// Opens a connection whenever there is none and it is time for the next, as long as this is awaited.
    pub(crate) async fn mend(&self) -> Infallible {
        match &self.way {
            Way::Redis(lane, _) => lane.mend().await,
            Way::Memory(..) => pending().await,
        }
    }

    /// Whether the node can be asked without connecting first.
    pub(crate) fn is_up(&self) -> bool {
        match &self.way {
            Way::Redis(lane, _) => lane.is_up(),
            Way::Memory(..) => true,
        }
    }
}

impl Listening {
    /// Whether a release is sure to be heard, as far as the connection stands.
    pub(crate) fn is_heard(&self) -> bool {
        match self {
            Self::Redis(listening) => listening.is_heard(),
            Self::Memory { .. } => true,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.index).finish()
    }
}
