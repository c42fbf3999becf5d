//! What is asked of a node about a lock, and what it may answer.

use std::time::Duration;

use crate::types::{
    attempt_id::AttemptId,
    token::{Mark, OwnerToken},
};

/// One thing asked of a node about one [`SendLog`](super::SendLog)'s key, owner and attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// Take the lock if it is free, proposing a fencing token.
    Acquire { ttl: Duration, proposal: u64 },
    /// Raise the fencing counter to `token`, and give the lock at least `ttl` to live if one is named.
    Touch { ttl: Option<Duration>, token: u64, mode: Touch },
    /// Delete the lock if it is the attempt's, and note that the attempt has ended. If it was held, announce it with
    /// its fencing token, or another number where it has none. `keep`: keep it for nobody instead.
    Release { held: Option<u64>, keep: Option<Keep> },
    /// Look who holds the lock.
    Inspect,
}

impl Command {
    /// Whether the command may leave a key behind, so that it must not follow its claim's release.
    pub(crate) const fn claims(self) -> bool {
        matches!(self, Self::Acquire { .. } | Self::Touch { .. })
    }

    /// How long the lock is to live from now on, if the command says so.
    pub(crate) const fn ttl(self) -> Option<Duration> {
        match self {
            Self::Acquire { ttl, .. } => Some(ttl),
            Self::Touch { ttl, .. } => ttl,
            Self::Release { .. } | Self::Inspect => None,
        }
    }

    /// Whether the command is a vote for a lock that the node does not have.
    pub(crate) const fn grants(self) -> bool {
        matches!(self, Self::Acquire { .. } | Self::Touch { mode: Touch::Heal, .. })
    }

    /// Whether the command does no more than mark a lock as held, so that it may follow when its guard has forgotten it.
    pub(crate) const fn marks(self) -> bool {
        matches!(self, Self::Touch { ttl: None, mode: Touch::Extend, .. })
    }
}

/// For how long a release leaves the key, for nobody, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) time: Duration,
    pub(crate) mark: Mark,
}

impl Keep {
    /// Whether those who wait are told: some of them wait for just this.
    pub(crate) fn is_announced(self) -> bool {
        self.mark == Mark::Done
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// For an attempt that has votes: it may come to nothing yet.
    Raise,
    /// For a lock that is held. Never create a key.
    Extend,
    /// The same, and put the key back where it is gone.
    Heal,
    /// For a lock that another guard holds or held. Change nothing unless the counter is at the very token.
    Adopt,
}

/// A node's answer: the first five to what claims, the others to a release and to a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The lock was free and is the attempt's now, under this fencing token.
    Granted {
        token: u64,
    },
    /// The lock was the attempt's before, and this is the fencing counter.
    Ours {
        token: u64,
        expires_in: Duration,
    },
    /// The lock is another's; `holder` tells locks apart, `name` is what its holder is called, if it has told.
    Refused {
        expires_in: Option<Duration>,
        holder: String,
        name: Option<String>,
        whose: Whose,
    },
    /// There is no lock.
    Gone,
    /// The attempt's lock was released, by whoever shared it.
    Ended,
    Released(Released),
    Seen(KeyState),
}

/// Whose a lock is that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Another owner's.
    Anothers,
    /// That of another attempt of the same owner.
    Owners,
    /// Nobody's: the key is done.
    Nobodys,
}

/// What a release found at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// The lock, which is deleted now, or kept for nobody.
    Deleted,
    /// No lock, beside this fencing counter.
    Gone { counter: u64 },
    /// Another lock, beside this fencing counter.
    NotOurs { counter: u64 },
}

/// Who held a lock at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyState {
    /// What lies under the key: an owner token, or one that left it for nobody.
    pub(crate) value: Option<OwnerToken>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) token: u64,
    /// The attempt beside the counter.
    pub(crate) id: AttemptId,
    /// Whether it has become a lock that is held, under this very token.
    pub(crate) is_held: bool,
}
