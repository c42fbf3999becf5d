//! Why a node did not answer.

use std::time::Duration;

use deadpool_redis::redis::RedisError;

/// Why a node did not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("the lock was released before this could be sent")]
    Withdrawn,
    #[error("a reply of an unknown shape")]
    Shape,
    #[error("not connected yet")]
    NotConnected,
    #[error("restarted too lately to vote, for another {0:?}")]
    Quarantined(Duration),
    #[error("an earlier attempt of the same owner token is not undone yet")]
    OwedUndo,
    #[error("there is no tokio runtime here")]
    NoRuntime,
}
