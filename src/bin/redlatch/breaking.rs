//! `redlatch break`: taking a lock away from its holder.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use redlatch::{LockManager, LockStatus, LockTicket};
use serde::Serialize;

use crate::{
    args::Options,
    ask, exit,
    failure::Failure,
    inspect::Lock,
    output,
    owner::{self, Standing},
    text::printable,
};

/// Breaks the lock that is seen, and returns the exit code.
pub(crate) async fn break_lock(
    key: &str,
    is_sure: bool,
    manager: &LockManager,
    options: &Options,
) -> Result<u8, Failure> {
    let status = manager.inspect(key).await?;
    let outcome = match status.ticket(key, TTL) {
        None => Outcome::NotHeld,
        Some(_) if !is_sure && !is_wanted(key, &status)? => Outcome::Declined,
        Some(ticket) => take_away(ticket, manager).await?,
    };
    let shown = |token| owner::shown(status.holder(), token, Standing::of(&status));
    let held_by = status.owner_token().map(shown);
    output::answer(&Report { key: key.to_owned(), outcome, held_by }, options);
    Ok(outcome.code())
}

fn is_wanted(key: &str, status: &LockStatus) -> Result<bool, Failure> {
    let lock = Lock::new(key, status);
    ask::confirm(&format!("{lock}\nBreak it? {CONSEQUENCE}"))
}

/// Takes the lock over and releases it. Nobody can have acquired it in between.
async fn take_away(ticket: LockTicket, manager: &LockManager) -> Result<Outcome, Failure> {
    let (key, owner) = (ticket.key().to_owned(), ticket.owner_token().clone());
    match manager.adopt(ticket).await {
        Ok(guard) => match guard.release().await {
            Err(error) if !error.is_not_held() => Err(error.into()),
            _ => Ok(Outcome::Broken),
        },
        Err(error) if error.is_not_held() => {
            let seen = manager.inspect(key.clone()).await?.ticket(key, TTL);
            let is_there = seen.is_some_and(|seen| *seen.owner_token() == owner);
            Ok(if is_there { Outcome::Unbreakable } else { Outcome::Gone })
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Serialize)]
struct Report {
    key: String,
    outcome: Outcome,
    held_by: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Broken,
    /// Somebody said no.
    Declined,
    NotHeld,
    /// It ended before it could be broken.
    Gone,
    /// The nodes do not agree on which lock it is.
    Unbreakable,
}

impl Outcome {
    const fn code(self) -> u8 {
        match self {
            Self::Broken => 0,
            Self::NotHeld | Self::Gone => exit::FREE,
            Self::Declined | Self::Unbreakable => exit::HELD,
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, holder) = (printable(&self.key), self.held_by.as_deref().unwrap_or("nobody"));
        match self.outcome {
            Outcome::Broken => write!(f, "broke {key}, held by {holder}"),
            Outcome::Declined => write!(f, "left {key} as it was"),
            Outcome::NotHeld => write!(f, "{key} is held by nobody"),
            Outcome::Gone => {
                write!(f, "{key} is not held by {holder} any more; nothing was broken")
            }
            Outcome::Unbreakable => write!(
                f,
                "{key} cannot be broken: on too few nodes do its holder {holder} and the fencing counter agree. \
                 Wait for its end, or delete the key on each node"
            ),
        }
    }
}

/// What becomes of the holder. Nothing tells for sure which of the two it is.
const CONSEQUENCE: &str = "If `redlatch run` holds it, its command is ended at its next renewal. Any other holder goes on, and may not notice.";

/// For as long as the lock lives on, if it cannot be released after it was taken over.
const TTL: Duration = Duration::from_secs(5);
