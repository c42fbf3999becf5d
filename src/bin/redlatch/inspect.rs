//! `redlatch inspect`: who holds a lock.

use std::fmt::{self, Display};

use redlatch::{LockManager, LockStatus, NodeVote};
use serde::Serialize;

use crate::{
    args::Options,
    exit,
    failure::Failure,
    output,
    owner::{self, Standing},
    text::{chain, held, millis, printable},
};

/// Looks, and returns the exit code.
pub(crate) async fn inspect(
    key: &str,
    manager: &LockManager,
    options: &Options,
) -> Result<u8, Failure> {
    let lock = Lock::new(key, &manager.inspect(key).await?);
    output::answer(&lock, options);
    Ok(if lock.held { 0 } else { exit::FREE })
}

/// A lock as it can be shown.
#[derive(Debug, Serialize)]
pub(crate) struct Lock {
    key: String,
    held: bool,
    held_by: Option<String>,
    expires_in_ms: Option<u64>,
    fencing_token: Option<u64>,
    votes: Vec<Vote>,
}

/// What one server has of it.
#[derive(Debug, Serialize)]
struct Vote {
    node: String,
    held_by: Option<String>,
    expires_in_ms: Option<u64>,
    fencing_token: Option<u64>,
    error: Option<String>,
}

impl Lock {
    pub(crate) fn new(key: &str, status: &LockStatus) -> Self {
        let shown = |token| owner::shown(status.holder(), token, Standing::of(status));
        Self {
            key: key.to_owned(),
            held: status.is_held(),
            held_by: status.owner_token().map(shown),
            expires_in_ms: status.expires_in().map(millis),
            fencing_token: status.fencing_token().filter(|_| status.is_held()).map(u64::from),
            votes: status.votes().iter().map(Vote::new).collect(),
        }
    }
}

impl Vote {
    fn new(vote: &NodeVote) -> Self {
        let shown = |token| owner::shown(vote.holder(), token, Standing::at(vote));
        Self {
            node: vote.node().to_owned(),
            held_by: vote.owner_token().map(shown),
            expires_in_ms: vote.expires_in().map(millis),
            fencing_token: vote.fencing_token().map(u64::from),
            error: vote.error().map(|error| chain(error)),
        }
    }
}

impl Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = printable(&self.key);
        match &self.held_by {
            Some(holder) => write!(f, "{key} is {}", held(holder, self.expires_in_ms))?,
            None if self.votes.iter().any(|vote| vote.held_by.is_some()) => {
                write!(f, "{key} is held by nobody, but not free on every node")?;
            }
            None => write!(f, "{key} is held by nobody")?,
        }
        if let Some(token) = self.fencing_token {
            write!(f, ", fencing token {token}")?;
        }
        let width = self.votes.iter().map(|vote| vote.node.len()).max().unwrap_or_default();
        self.votes.iter().try_for_each(|vote| write!(f, "\n  {:width$}  {vote}", vote.node))
    }
}

impl Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.error, &self.held_by) {
            (Some(error), _) => f.write_str(error)?,
            (None, Some(holder)) => f.write_str(&held(holder, self.expires_in_ms))?,
            (None, None) => f.write_str("free")?,
        }
        self.fencing_token.map_or(Ok(()), |token| write!(f, ", fencing counter {token}"))
    }
}
