//! What happens while a command is run, for people and as JSON.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use serde::Serialize;

use crate::text::{held, printable, span};

/// An event; in JSON its name is in `event`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The lock is somebody else's.
    Waiting { key: String, held_by: String, expires_in_ms: Option<u64> },
    /// The lock is ours. `waited`: we have said that we were waiting.
    Acquired {
        key: String,
        owner: String,
        fencing_token: u64,
        #[serde(skip)]
        waited: bool,
    },
    /// The lock was not to be had.
    NotAcquired {
        key: String,
        held_by: Option<String>,
        expires_in_ms: Option<u64>,
        message: String,
    },
    /// The command has succeeded lately, and is to do so once.
    Done { key: String, forgotten_in_ms: Option<u64> },
    /// A signal ended the waiting.
    Interrupted { key: String, signal: i32 },
    /// A renewal failed after one that worked.
    RenewalFailed { key: String, remaining_ms: u64, message: String },
    /// A renewal worked after one that failed.
    Renewed { key: String },
    /// The command is told to end, because the lock has ended or is about to.
    Ending { key: String, reason: Reason, remaining_ms: u64 },
    /// The command and all of its group has ended. `remaining_ms`: what is left of the lock.
    Ended { key: String, remaining_ms: u64 },
    /// The lock was renewed after the command had been told to end.
    RenewedTooLate { key: String },
    /// The command has left something running in its group, which is told to end.
    EndingLeftovers { key: String },
    /// What was sent KILL is there all the same.
    NotKilled { key: String },
    /// The command was stopped because it wants the terminal, which is somebody else's now.
    NeedsTerminal { key: String },
    /// Somebody wanted to suspend the command.
    NotSuspended { key: String },
    /// The command has ended by itself, and the lock is released.
    Released { key: String, exit_code: u8 },
    /// The command has ended by itself, but the servers did not confirm the release.
    NotReleased { key: String, message: String },
    /// The lock had ended before the command did.
    Unprotected { key: String },
    /// Something else went wrong.
    Failed { message: String, exit_code: u8 },
}

/// Why a command is told to end.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reason {
    /// The lock ends soon and could not be renewed.
    NotRenewed,
    /// The lock has ended unnoticed, as when the machine was suspended.
    Expired,
    /// Its key is gone or another's.
    Taken,
}

impl Event {
    pub(crate) const fn failed(message: String, exit_code: u8) -> Self {
        Self::Failed { message, exit_code }
    }

    /// What `--quiet` spares people.
    pub(crate) const fn is_progress(&self) -> bool {
        matches!(
            self,
            Self::Waiting { .. }
                | Self::Acquired { .. }
                | Self::NotAcquired { .. }
                | Self::Done { .. }
                | Self::Interrupted { .. }
                | Self::Released { .. }
        )
    }

    /// What only programs want to know.
    pub(crate) const fn is_routine(&self) -> bool {
        matches!(self, Self::Acquired { waited: false, .. } | Self::Released { .. })
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { key, held_by, expires_in_ms } => {
                write!(f, "waiting for {}, {}", printable(key), held(held_by, *expires_in_ms))
            }
            Self::Acquired { key, fencing_token, .. } => {
                write!(f, "acquired {}, fencing token {fencing_token}", printable(key))
            }
            Self::NotAcquired { key, held_by: Some(holder), expires_in_ms, .. } => {
                write!(f, "did not acquire {}, {}", printable(key), held(holder, *expires_in_ms))
            }
            Self::NotAcquired { message, .. } => f.write_str(message),
            Self::Done { key, forgotten_in_ms } => {
                let left = forgotten_in_ms.map(for_another).unwrap_or_default();
                write!(
                    f,
                    "{} is done already, and that is remembered for another {left}",
                    printable(key)
                )
            }
            Self::Interrupted { key, signal } => {
                write!(f, "gave up waiting for {} on signal {signal}", printable(key))
            }
            Self::RenewalFailed { key, remaining_ms, message } => {
                let left = for_another(*remaining_ms);
                write!(
                    f,
                    "{} was not renewed and is held for another {left}: {message}",
                    printable(key)
                )
            }
            Self::Renewed { key } => write!(f, "{} was renewed again", printable(key)),
            Self::Failed { message, .. } => f.write_str(message),
            event => event.fmt_end(f),
        }
    }
}

impl Event {
    /// How it ends.
    fn fmt_end(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ending { key, reason, remaining_ms } => {
                let key = printable(key);
                match reason {
                    Reason::NotRenewed => {
                        let left = for_another(*remaining_ms);
                        write!(f, "ending the command: {key} could not be renewed and is lost in {left}")
                    }
                    Reason::Expired => write!(f, "ending the command: {key} has expired"),
                    Reason::Taken => write!(f, "ending the command: {key} was taken away"),
                }
            }
            Self::Ended { remaining_ms: 0, .. } => f.write_str("the command has ended after the loss of the lock"),
            Self::Ended { remaining_ms, .. } => {
                write!(f, "the command has ended {} before the lock", for_another(*remaining_ms))
            }
            Self::RenewedTooLate { key } => {
                write!(f, "{} was renewed after all, when the command had been told to end", printable(key))
            }
            Self::EndingLeftovers { .. } => f.write_str("ending what the command has left running"),
            Self::NotKilled { .. } => f.write_str("something of the command is still there after KILL"),
            Self::NeedsTerminal { .. } => {
                f.write_str("the command waits for the terminal: bring it to the foreground, or give it another input")
            }
            Self::NotSuspended { .. } => f.write_str("a command that holds a lock cannot be suspended"),
            Self::NotReleased { key, message } => {
                write!(f, "{} may not be released before its TTL is over: {message}", printable(key))
            }
            Self::Unprotected { key } => {
                write!(f, "{} was lost before the command had ended: its end was not protected", printable(key))
            }
            Self::Released { key, .. } => write!(f, "released {}", printable(key)),
            // The others come before the end, and are put above.
            _ => Ok(()),
        }
    }
}

fn for_another(ms: u64) -> String {
    span(Duration::from_millis(ms))
}
