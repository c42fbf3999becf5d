//! What a manager was built with.

use std::{sync::Arc, time::Duration};

use crate::{
    host::background::Background,
    types::{
        error::{Error, Result},
        fencing::{Fencing, RETENTION, check_retention},
        holder,
        retry::Retry,
        validity::{ClockDrift, LONGEST_TTL, check_ttl},
    },
};

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) key_prefix: String,
    pub(crate) ttl: Duration,
    pub(crate) retry: Retry,
    pub(crate) clock_drift: ClockDrift,
    pub(crate) node_timeout: Duration,
    pub(crate) release_timeout: Duration,
    /// `None`: as long as the caller of an acquire waits, if that has a bound.
    pub(crate) outage_patience: Option<Duration>,
    /// The longest TTL of any lock, for which a restarted node does not vote.
    pub(crate) restart_quarantine: Option<Duration>,
    /// How long a fencing counter outlives the last use of its key.
    pub(crate) fencing_retention: Duration,
    /// Whether locks have no fencing counters, unless the request needs one.
    pub(crate) unfenced: bool,
    /// What people call who holds the locks, unless the request says otherwise.
    pub(crate) holder: Option<Arc<str>>,
    pub(crate) background: Background,
}

impl Settings {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        self.clock_drift.check()?;
        if let Some(max_ttl) = self.restart_quarantine {
            check_ttl(max_ttl, self.clock_drift)?;
        }
        self.check_ttl(self.ttl)?;
        check_retention(self.fencing_retention)?;
        self.holder.as_deref().map_or(Ok(()), holder::check)?;
        let timeouts = [("node", self.node_timeout), ("release", self.release_timeout)];
        for (name, timeout) in timeouts {
            if timeout.is_zero() {
                return Err(Error::config(format!("the {name} timeout must be more than zero")));
            }
        }
        Ok(())
    }

    /// What is counted for a lock.
    pub(crate) fn fencing(&self, is_unfenced: bool) -> Fencing {
        Fencing { retention: (!is_unfenced).then_some(self.fencing_retention) }
    }

    /// Refuses a TTL out of range, or longer than a restarted node would wait.
    pub(crate) fn check_ttl(&self, ttl: Duration) -> Result<()> {
        check_ttl(ttl, self.clock_drift)?;
        match self.restart_quarantine {
            Some(max_ttl) if ttl > max_ttl => Err(Error::config(format!(
                "the TTL must not be longer than the restart quarantine of {max_ttl:?}, as {ttl:?} is"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses to keep a key for longer than any lock may live.
    pub(crate) fn check_min_hold(&self, min_hold: Duration) -> Result<()> {
        let longest = self.restart_quarantine.unwrap_or(LONGEST_TTL);
        if min_hold <= longest {
            return Ok(());
        }
        Err(Error::config(format!(
            "`min_hold` must not be longer than {longest:?}, as {min_hold:?} is"
        )))
    }
}

/// Refuses to remember for so long that something is done.
pub(crate) fn check_keep(keep: Duration) -> Result<()> {
    if (SHORTEST_KEEP..=LONGEST_KEEP).contains(&keep) {
        return Ok(());
    }
    Err(Error::config(format!("`keep` must be from 1 ms to 30 days, not {keep:?}")))
}

const SHORTEST_KEEP: Duration = Duration::from_millis(1);
const LONGEST_KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl Default for Settings {
    fn default() -> Self {
        Self {
            key_prefix: String::new(),
            ttl: Duration::from_secs(30),
            retry: Retry::default(),
            clock_drift: ClockDrift::default(),
            node_timeout: Duration::from_millis(500),
            release_timeout: Duration::from_secs(5),
            outage_patience: None,
            restart_quarantine: None,
            fencing_retention: RETENTION,
            unfenced: false,
            holder: None,
            background: Background::default(),
        }
    }
}
