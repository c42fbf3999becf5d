//! What an attempt is told, and why it failed.

use std::{sync::Arc, time::Duration};

use tracing::Span;

use crate::{
    claim::origin::Renewal,
    keeper::outage::Health,
    metrics::Label,
    types::{error::Error, key::Key, token::OwnerToken},
};

/// What is to be locked, and how.
pub(crate) struct LockSpec {
    pub(crate) key: Arc<Key>,
    pub(crate) ttl: Duration,
    /// The owner token that the caller chose.
    pub(crate) owner: Option<OwnerToken>,
    /// What people call who holds it, beside a random owner token.
    pub(crate) holder: Option<Arc<str>>,
    /// Whether a lock that the owner holds already will do.
    pub(crate) joins: bool,
    /// Whether a key that is done ends the waiting.
    pub(crate) once: bool,
    pub(crate) renewal: Option<Renewal>,
    pub(crate) label: Label,
    /// The span that the lock's life belongs to.
    pub(crate) caller: Span,
}

/// How an attempt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskOrder {
    /// All nodes are asked at once: one round trip if nobody else is at it.
    AllAtOnce,
    /// The same, and it is found out whether a majority answers: with an even number of nodes, fewer refusals rule
    /// a majority out.
    Census,
    /// The key's first node is asked, and the others only after its yes: whoever is refused there has torn
    /// nobody's votes apart and has nothing to clean up.
    OneFirst,
}

/// Why an attempt failed, and what it says of the next.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: Error,
    /// It is worth another look soon: the contenders took the votes from one another, and will all give them back, or
    /// another attempt of the owner got what this one will share.
    pub(crate) is_brief: bool,
    /// A majority answered, and nobody is known to have one.
    pub(crate) is_split: bool,
    /// What it says of the nodes.
    pub(crate) health: Health,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let health = Health::from(&error);
        Self { error, is_brief: false, is_split: false, health }
    }
}
