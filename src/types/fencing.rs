//! Whether locks have fencing counters, and for how long those are kept.

use std::time::Duration;

use crate::types::error::{Error, Result};

/// What is counted for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fencing {
    /// How long a counter outlives the last use of its key; `None`: there is none.
    pub(crate) retention: Option<Duration>,
}

impl Default for Fencing {
    fn default() -> Self {
        Self { retention: Some(RETENTION) }
    }
}

/// Refuses a retention out of range.
pub(crate) fn check_retention(retention: Duration) -> Result<()> {
    if (SHORTEST_RETENTION..=LONGEST_RETENTION).contains(&retention) {
        return Ok(());
    }
    Err(Error::config(format!(
        "`fencing_retention` must be from 1 minute to 30 days, not {retention:?}"
    )))
}

/// How long a counter outlives the last use of its key, unless the caller says otherwise.
pub(crate) const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// In a simulation a day takes seconds.
const SHORTEST_RETENTION: Duration =
    if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(60) };
const LONGEST_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);
