//! A leader, as others see it.

use crate::{
    inspect::{LockStatus, NodeVote},
    types::token::FencingToken,
};

/// Who leads: see [`Election::leader`](super::Election::leader).
///
/// ```
/// # use redlatch::LockManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let election = LockManager::in_memory().election("scheduler").holder("db1");
/// let _guard = election.campaign().await?;
/// assert_eq!(election.leader().await?.and_then(|leader| leader.name().map(str::to_owned)).as_deref(), Some("db1"));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    name: Option<String>,
    term: FencingToken,
}

impl Leader {
    /// A leader of whom no more is known than that it has resigned.
    pub(super) const fn past(term: FencingToken) -> Self {
        Self { name: None, term }
    }

    pub(super) fn of(status: &LockStatus) -> Option<Self> {
        let owner = status.owner_token().filter(|_| !status.is_kept() && !status.is_done())?;
        let is_its = |vote: &&NodeVote| vote.owner_token() == Some(owner);
        let its = status.votes().iter().filter(is_its);
        let mut tokens: Vec<_> = its.filter_map(NodeVote::fencing_token).collect();
        tokens.sort_unstable();
        let quorum = status.votes().len() / 2 + 1;
        let count = |token| tokens.iter().filter(|other| **other == token).count();
        // A majority has its very token. Where some of that is out of reach, another node may be ahead of it, and none that
        // was renewed is behind.
        let agreed = tokens.iter().copied().find(|token| count(*token) >= quorum);
        let term = agreed.or_else(|| tokens.first().copied())?;
        Some(Self { name: status.holder().map(str::to_owned), term })
    }

    /// Returns the leader's [name](super::Election::holder), if it campaigned under one. Of a leader that resigned before it
    /// was looked at, only the term is known.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the leader's term: the fencing token of its lock, which grows from leader to leader.
    #[must_use]
    pub const fn term(&self) -> FencingToken {
        self.term
    }
}
