//! What can go wrong: one error for the crate, one for a node.

use std::{
    error::Error as StdError,
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a lock could not be acquired, extended, released or relied on.
///
/// Held, unreachable, too late, lost and misconfigured are different things here and stay so:
/// decide with the `is_..` methods, which look through [`RetriesExhausted`](Self::RetriesExhausted) and
/// [`WaitTimeout`](Self::WaitTimeout) where that helps.
///
/// ```
/// # use redlatch::LockManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let manager = LockManager::in_memory();
/// let _guard = manager.lock("nightly").acquire().await?;
/// match manager.lock("nightly").try_acquire().await {
///     Ok(_guard) => println!("ours"),
///     Err(error) if error.is_contended() => println!("somebody else is at it"),
///     Err(error) if error.is_unavailable() => println!("too few nodes answered: {error}"),
///     Err(error) => return Err(error),
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another owner holds the lock: the refusals alone rule a majority out.
    #[error("lock {key:?} is {}", Standing { is_done: *is_done, holder: holder.as_deref() })]
    #[non_exhaustive]
    AlreadyHeld {
        /// The lock's key.
        key: String,
        /// What is left of the holder's TTL, if it has one: the longest that a crashed holder can stand in the way.
        retry_after: Option<Duration>,
        /// The [name](crate::LockRequest::holder) of that holder, if the lock was taken under one. On several nodes, which
        /// may tell of several holders, it is the one that `retry_after` is about.
        holder: Option<String>,
        /// Whether nobody holds it, because what was to be done under it is [done](crate::LockGuard::complete), and for
        /// how long that is remembered is what `retry_after` says.
        is_done: bool,
    },
    /// The lock is not ours, or no longer: it has expired, or is another owner's.
    #[error("lock {key:?} is not held: it has expired or is another owner's")]
    #[non_exhaustive]
    NotHeld {
        /// The lock's key.
        key: String,
    },
    /// The retry policy allowed no further attempt.
    #[error("gave up lock {key:?} after {}", Count(*attempts, "attempt"))]
    #[non_exhaustive]
    RetriesExhausted {
        /// The lock's key.
        key: String,
        /// The attempts made, the first included.
        attempts: u32,
        /// Why the last attempt failed.
        source: Box<Self>,
    },
    /// The wait timeout passed.
    #[error("gave up lock {key:?} after waiting {waited:?}, with {}", Count(*attempts, "attempt"))]
    #[non_exhaustive]
    WaitTimeout {
        /// The lock's key.
        key: String,
        /// The attempts made, at least one.
        attempts: u32,
        /// The time since the acquire began.
        waited: Duration,
        /// Why the last attempt failed.
        source: Box<Self>,
    },
    /// A majority agreed, but so late that nothing usable was left of the TTL.
    #[error("lock {key:?} was granted too late: {elapsed:?} passed of a TTL of {ttl:?}")]
    #[non_exhaustive]
    ValidityExpired {
        /// The lock's key.
        key: String,
        /// The TTL asked for.
        ttl: Duration,
        /// The time that the round took.
        elapsed: Duration,
    },
    /// Too few nodes answered usefully, and the refusals among them do not rule a majority out.
    #[error(
        "lock {key:?} is unavailable: {} must agree, {}",
        Count(*needed, "node"),
        Heard { reached: *reached, unheard: *unheard, nodes }
    )]
    #[non_exhaustive]
    Unavailable {
        /// The lock's key.
        key: String,
        /// The quorum: more than half of the configured nodes.
        needed: usize,
        /// The nodes that are known to have granted or refused.
        reached: usize,
        /// What went wrong at others.
        nodes: Vec<NodeError>,
        /// The nodes that were not waited for, since they could not have turned the result.
        unheard: usize,
    },
    /// The lock was lost while it protected something.
    #[error("lock {key:?} was lost: {reason}")]
    #[non_exhaustive]
    Lost {
        /// The lock's key.
        key: String,
        /// How it was lost.
        reason: LossReason,
    },
    /// A setting that cannot work; nothing was sent.
    #[error("invalid setting: {message}")]
    #[non_exhaustive]
    Config {
        /// The setting and what is wrong with it.
        message: String,
    },
    /// The manager was closed.
    #[error("the lock manager is closed")]
    Closed,
}

impl Error {
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::Config { message: message.into() }
    }

    /// Returns the key of the lock that the error is about, where it is about one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::AlreadyHeld { key, .. }
            | Self::NotHeld { key }
            | Self::RetriesExhausted { key, .. }
            | Self::WaitTimeout { key, .. }
            | Self::ValidityExpired { key, .. }
            | Self::Unavailable { key, .. }
            | Self::Lost { key, .. } => Some(key),
            Self::Config { .. } | Self::Closed => None,
        }
    }

    /// Returns what went wrong at each node, if the error is [`Unavailable`](Self::Unavailable) or was caused by it.
    #[must_use]
    pub fn node_errors(&self) -> &[NodeError] {
        match self.last_cause() {
            Self::Unavailable { nodes, .. } => nodes,
            _ => &[],
        }
    }

    /// Whether another owner holds the lock, also as the last cause of giving up.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        matches!(self.last_cause(), Self::AlreadyHeld { .. })
    }

    /// Whether it is of no use to try again.
    pub(crate) const fn is_final(&self) -> bool {
        matches!(self, Self::Closed | Self::Config { .. })
    }

    /// Whether the key is done, also as the last cause of giving up.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.last_cause(), Self::AlreadyHeld { is_done: true, .. })
    }

    /// Whether a majority agreed too late, also as the last cause of giving up.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self.last_cause(), Self::ValidityExpired { .. })
    }

    /// Whether the lock was not ours any more.
    #[must_use]
    pub const fn is_not_held(&self) -> bool {
        matches!(self, Self::NotHeld { .. })
    }

    /// Whether the lock was lost while work depended on it.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// Whether too few nodes answered, also as the last cause of giving up.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self.last_cause(), Self::Unavailable { .. })
    }

    /// Whether the wait timeout passed.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::WaitTimeout { .. })
    }

    /// Whether a setting was refused.
    #[must_use]
    pub const fn is_config(&self) -> bool {
        matches!(self, Self::Config { .. })
    }

    /// The error itself, or what made an acquire give up in the end.
    fn last_cause(&self) -> &Self {
        match self {
            Self::RetriesExhausted { source, .. } | Self::WaitTimeout { source, .. } => {
                source.last_cause()
            }
            error => error,
        }
    }
}

/// Why a lock is not to be had, and who holds it, as far as that is known.
struct Standing<'a> {
    is_done: bool,
    holder: Option<&'a str>,
}

impl Display for Standing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.holder {
            _ if self.is_done => f.write_str("done"),
            Some(name) => write!(f, "held by {name:?}"),
            None => f.write_str("held by another owner"),
        }
    }
}

/// So many of something: one is not called many.
struct Count<N>(N, &'static str);

impl<N: Display + PartialEq + From<u8>> Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, noun) = self;
        let plural = if *number == N::from(1) { "" } else { "s" };
        write!(f, "{number} {noun}{plural}")
    }
}

/// What the nodes said. One that was not waited for may be well, so that nobody is said to have failed to answer then.
struct Heard<'a> {
    reached: usize,
    unheard: usize,
    nodes: &'a [NodeError],
}

impl Display for Heard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reached, unheard, nodes } = *self;
        match (reached, unheard) {
            (0, 1..) => write!(f, "{} failed", nodes.len())?,
            (reached, 1..) => write!(f, "at least {reached} answered usefully")?,
            (reached, 0) => write!(f, "{reached} answered usefully")?,
        }
        write!(f, "{}", Causes(nodes))?;
        match unheard {
            0 => Ok(()),
            1 => f.write_str(", 1 was not waited for"),
            unheard => write!(f, ", {unheard} were not waited for"),
        }
    }
}

/// Lists the nodes' errors: they are many, so that `source` cannot.
struct Causes<'a>(&'a [NodeError]);

impl Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            f.write_str(if position == 0 { " (" } else { "; " })?;
            write!(f, "{}: {}", error.node, error.cause)?;
        }
        f.write_str(if self.0.is_empty() { "" } else { ")" })
    }
}

/// How a lock was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// Its validity ran out before it was extended.
    Expired,
    /// The key is gone from, or another owner's on, so many nodes that no majority is left.
    Taken,
    /// The manager was closed.
    Closed,
    /// Its guard let go of it while it was valid: released, dropped, forgotten or made into a ticket. Only a
    /// [`Loss`](crate::Loss), which outlives the guard, tells of this.
    Released,
}

impl Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "its validity ran out",
            Self::Taken => "it was taken away on a majority of nodes",
            Self::Closed => "the lock manager was closed",
            Self::Released => "its guard let go of it",
        })
    }
}

/// What went wrong at one node; [`source`](StdError::source) has the server's or the pool's words, and says each
/// cause once.
#[derive(Clone)]
pub struct NodeError {
    node: Arc<str>,
    cause: Arc<dyn StdError + Send + Sync>,
    is_lasting: bool,
}

impl NodeError {
    pub(crate) fn new(node: &Arc<str>, cause: impl StdError + Send + Sync + 'static) -> Self {
        Self { node: node.clone(), cause: Arc::new(cause), is_lasting: false }
    }

    /// The same, as one that is not mended by waiting.
    pub(crate) const fn lasting(mut self) -> Self {
        self.is_lasting = true;
        self
    }

    /// Whether waiting does not mend it: somebody has to.
    pub(crate) const fn is_lasting(&self) -> bool {
        self.is_lasting
    }

    /// Returns the node's name: `host:port`, or the path of its socket.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl fmt::Debug for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeError").field("node", &self.node).field("cause", &self.cause).finish()
    }
}

impl Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} failed", self.node)
    }
}

impl StdError for NodeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> Error {
        of_nodes(2, 1, 0)
    }

    fn of_nodes(needed: usize, reached: usize, unheard: usize) -> Error {
        let down = NodeError::new(&"a:1".into(), std::io::Error::other("no route"));
        Error::Unavailable { key: "k".into(), needed, reached, nodes: vec![down], unheard }
    }

    fn given_up(source: Error) -> Error {
        let source = Box::new(source);
        let exhausted = Error::RetriesExhausted { key: "k".into(), attempts: 3, source };
        let (waited, source) = (Duration::from_secs(1), Box::new(exhausted));
        Error::WaitTimeout { key: "k".into(), attempts: 3, waited, source }
    }

    #[test]
    fn predicates_look_through_to_the_last_cause() {
        let error = given_up(unavailable());
        assert!(error.is_unavailable() && error.is_timeout() && !error.is_contended());
        assert_eq!(error.node_errors()[0].node(), "a:1");
        let held =
            Error::AlreadyHeld { key: "k".into(), retry_after: None, holder: None, is_done: false };
        assert!(given_up(held).is_contended());
    }

    #[test]
    fn a_refusal_names_the_holder_if_it_has_a_name() {
        let held = |holder: Option<&str>| {
            let holder = holder.map(str::to_owned);
            Error::AlreadyHeld { key: "k".into(), retry_after: None, holder, is_done: false }
                .to_string()
        };
        assert_eq!(held(Some("db1-4711")), "lock \"k\" is held by \"db1-4711\"");
        assert_eq!(held(None), "lock \"k\" is held by another owner");
    }

    #[test]
    fn messages_name_the_key_and_the_nodes() {
        let message = unavailable().to_string();
        assert_eq!(
            message,
            "lock \"k\" is unavailable: 2 nodes must agree, 1 answered usefully (a:1: no route)"
        );
        assert_eq!(given_up(unavailable()).key(), Some("k"));
    }

    #[test]
    fn messages_count_in_english() {
        let one = of_nodes(1, 0, 0).to_string();
        assert!(one.contains("1 node must agree, 0 answered usefully (a:1: no route)"), "{one}");
        let source = Box::new(unavailable());
        let once = Error::RetriesExhausted { key: "k".into(), attempts: 1, source };
        assert_eq!(once.to_string(), "gave up lock \"k\" after 1 attempt");
        let twice = given_up(unavailable()).to_string();
        assert!(twice.ends_with("after waiting 1s, with 3 attempts"), "{twice}");
    }

    #[test]
    fn messages_do_not_count_out_nodes_that_were_not_waited_for() {
        let none = of_nodes(2, 0, 2).to_string();
        assert!(none.ends_with("1 failed (a:1: no route), 2 were not waited for"), "{none}");
        let some = of_nodes(2, 1, 1).to_string();
        let tail = "at least 1 answered usefully (a:1: no route), 1 was not waited for";
        assert!(some.ends_with(tail), "{some}");
    }
}
