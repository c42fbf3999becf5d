//! What can be seen of locks and nodes without touching them.

use std::time::Duration;

use futures_util::future::join_all;

use crate::{
    keeper::Keeper,
    node::{Answer, Command, KeyState, SendLog, tally::Shortage},
    types::{
        attempt_id::AttemptId,
        error::{NodeError, Result},
        key::Key,
        ticket::LockTicket,
        token::{FencingToken, Mark, OwnerToken},
    },
};

/// Who holds a lock and for how long, as a majority of nodes saw it: see [`LockManager::inspect`](crate::LockManager::inspect).
///
/// It is advisory: by the time you read it, it may have changed.
#[derive(Clone, Debug)]
pub struct LockStatus {
    holder: Option<Holder>,
    votes: Vec<NodeVote>,
}

#[derive(Clone, Debug)]
struct Holder {
    /// What lies under the key.
    value: OwnerToken,
    owner_token: OwnerToken,
    expires_in: Option<Duration>,
    fencing_token: Option<FencingToken>,
}

impl Holder {
    fn is_left_as(&self, mark: Mark) -> bool {
        self.value.mark() == Some(mark)
    }
}

impl LockStatus {
    /// Whether one owner holds the lock on a majority of nodes.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.holder.is_some()
    }

    /// Whether the lock was released, but its key is kept for nobody until the [shortest hold](crate::LockRequest::min_hold)
    /// is over. It counts as held, and its owner token is that of who had it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.is_left_as(Mark::Kept))
    }

    /// Whether what was to be done under the lock is [done](crate::LockGuard::complete), and its key is left for nobody until
    /// that is forgotten. It counts as held, and its owner token is that of who has done it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// manager.lock("nightly").await?.complete(Duration::from_secs(3600)).await?;
    /// assert!(manager.inspect("nightly").await?.is_done());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.is_left_as(Mark::Done))
    }

    /// Returns the holder's owner token.
    #[must_use]
    pub fn owner_token(&self) -> Option<&OwnerToken> {
        self.holder.as_ref().map(|holder| &holder.owner_token)
    }

    /// Returns the holder's [name](crate::LockRequest::holder), if the lock was taken under one.
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::in_memory();
    /// let _guard = manager.lock("nightly").holder("db1").await?;
    /// assert_eq!(manager.inspect("nightly").await?.holder(), Some("db1"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.owner_token().and_then(OwnerToken::holder)
    }

    /// Returns how long the holder has a majority if it does not extend; `None` also for a key without expiry.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        self.holder.as_ref().and_then(|holder| holder.expires_in)
    }

    /// Returns the holder's fencing token. An unfenced lock, or one of another library, has none: beside it stands the
    /// token of the last fenced holder, if there was one lately and this manager is not unfenced.
    #[must_use]
    pub fn fencing_token(&self) -> Option<FencingToken> {
        self.holder.as_ref().and_then(|holder| holder.fencing_token)
    }

    /// The ticket by which the lock is taken away from its holder, or from nobody. It is for the command alone: it
    /// proves what was seen under the key, whoever wrote that.
    #[doc(hidden)]
    #[must_use]
    pub fn ticket(&self, key: impl Into<String>, ttl: Duration) -> Option<LockTicket> {
        let Holder { value, fencing_token, .. } = self.holder.as_ref()?;
        // A lock of another library has no token, and is named by the counter it lies beside.
        let token = fencing_token.unwrap_or(FencingToken::new(0));
        Some(LockTicket::new(key, value.clone(), token, ttl))
    }

    /// Returns what each node said, in the order in which the manager was given them.
    #[must_use]
    pub fn votes(&self) -> &[NodeVote] {
        &self.votes
    }
}

/// What one node said of a lock.
#[derive(Clone, Debug)]
pub struct NodeVote {
    node: String,
    seen: Result<KeyState, NodeError>,
    /// The owner token in the value that was seen.
    owner_token: Option<OwnerToken>,
}

impl NodeVote {
    fn new(node: String, seen: Result<KeyState, NodeError>) -> Self {
        let value = seen.as_ref().ok().and_then(|seen| seen.value.as_ref());
        let owner_token = value.map(|value| value.left_by().unwrap_or_else(|| value.clone()));
        Self { node, seen, owner_token }
    }

    /// Returns the node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Returns the owner token under the key there; `None` if there is none, or the node did not answer.
    #[must_use]
    pub fn owner_token(&self) -> Option<&OwnerToken> {
        self.owner_token.as_ref()
    }

    /// Returns the name of the holder there, if the lock was taken under one: see [`LockRequest::holder`](crate::LockRequest::holder).
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.owner_token().and_then(OwnerToken::holder)
    }

    /// Whether the lock was released there, but its key is kept for nobody.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.value().and_then(OwnerToken::mark) == Some(Mark::Kept)
    }

    /// Whether the key is left there because what was to be done under the lock is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.value().and_then(OwnerToken::mark) == Some(Mark::Done)
    }

    fn value(&self) -> Option<&OwnerToken> {
        self.seen.as_ref().ok().and_then(|seen| seen.value.as_ref())
    }

    /// Returns how long the key lives there; `None` also for a key without expiry.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        self.seen.as_ref().ok().and_then(|seen| seen.expires_in)
    }

    /// Returns the fencing counter there: the highest token that the node knows of, or `None` if it knows none.
    #[must_use]
    pub fn fencing_token(&self) -> Option<FencingToken> {
        let token = self.seen.as_ref().ok().map(|seen| seen.token).filter(|token| *token > 0);
        token.map(FencingToken::new)
    }

    /// Returns why the node did not answer, if it did not.
    #[must_use]
    pub fn error(&self) -> Option<&NodeError> {
        self.seen.as_ref().err()
    }
}

/// How a node is: see [`LockManager::ping`](crate::LockManager::ping).
#[derive(Clone, Debug)]
pub struct NodeHealth {
    name: String,
    round_trip: Result<Duration, NodeError>,
}

impl NodeHealth {
    /// Returns the node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how long a `PING` took, connecting included.
    ///
    /// # Errors
    ///
    /// Why the node did not answer within the node timeout.
    pub const fn round_trip(&self) -> Result<Duration, &NodeError> {
        match &self.round_trip {
            Ok(round_trip) => Ok(*round_trip),
            Err(error) => Err(error),
        }
    }
}

/// Asks every node what it knows of a key.
pub(crate) async fn inspect(keeper: &Keeper, key: String) -> Result<LockStatus> {
    inspect_key(keeper, keeper.key(key, keeper.settings.fencing(keeper.settings.unfenced))?).await
}

/// The same, of a key that is fenced or not.
pub(crate) async fn inspect_key(keeper: &Keeper, key: Key) -> Result<LockStatus> {
    keeper.check_runtime()?;
    let (nodes, quorum) = (&keeper.quorum, keeper.quorum.needed());
    let send_log = SendLog::new(key.into(), OwnerToken::found(b""), AttemptId::EMPTY, nodes.len());
    let vote = async |node: usize| {
        let seen = match nodes.client(node).ask(&send_log, Command::Inspect).await {
            Ok(Answer::Seen(sighting)) => Ok(sighting),
            Ok(_) => Err(nodes.node(node).odd_answer()),
            Err(error) => Err(error),
        };
        NodeVote::new(nodes.node(node).name().to_owned(), seen)
    };
    let votes = join_all((0..nodes.len()).map(vote)).await;
    let errors: Vec<NodeError> = votes.iter().filter_map(|vote| vote.error().cloned()).collect();
    let reached = votes.len() - errors.len();
    if reached < quorum {
        let shortage = Shortage { needed: quorum, reached, errors, unheard: 0 };
        return Err(shortage.error(&send_log.key.name));
    }
    Ok(LockStatus { holder: holder(&votes, quorum), votes })
}

/// Pings every node.
pub(crate) async fn ping(keeper: &Keeper) -> Vec<NodeHealth> {
    let nodes = &keeper.quorum;
    let health = async |node: usize| {
        let round_trip = nodes.client(node).ping().await;
        NodeHealth { name: nodes.node(node).name().to_owned(), round_trip }
    };
    join_all((0..nodes.len()).map(health)).await
}

/// Who holds the lock on a majority of nodes.
fn holder(votes: &[NodeVote], quorum: usize) -> Option<Holder> {
    let of = |value: &OwnerToken| -> Vec<&NodeVote> {
        votes.iter().filter(|vote| vote.value() == Some(value)).collect()
    };
    let values = votes.iter().filter_map(NodeVote::value);
    let (value, held) =
        values.map(|value| (value, of(value))).find(|(_, held)| held.len() >= quorum)?;
    let mut ends: Vec<Option<Duration>> = held.iter().map(|vote| vote.expires_in()).collect();
    // A key without expiry outlives the others.
    ends.sort_unstable_by_key(|end| std::cmp::Reverse(end.unwrap_or(Duration::MAX)));
    let tokens: Vec<FencingToken> = held.iter().filter_map(|vote| vote.fencing_token()).collect();
    let agreed = tokens.iter().find(|token| tokens.iter().filter(|t| t == token).count() >= quorum);
    Some(Holder {
        owner_token: value.left_by().unwrap_or_else(|| value.clone()),
        value: value.clone(),
        expires_in: ends[quorum - 1],
        fencing_token: agreed.copied().or_else(|| tokens.iter().max().copied()),
    })
}
