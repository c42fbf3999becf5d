//! What can go wrong before a command runs, or without one.

use std::fmt::{self, Display};

use redlatch::Error;

use crate::{exit, text};

/// Why something was not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for cannot work.
    Usage(String),
    /// The lock or the servers are not as they would have to be.
    Lock(Error),
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Lock(Error::Config { .. }) => exit::USAGE,
            Self::Lock(Error::NotHeld { .. } | Error::Lost { .. } | Error::Closed) => exit::LOST,
            Self::Lock(error) if error.is_contended() => exit::HELD,
            // Also servers too slow for the TTL.
            Self::Lock(_) => exit::UNAVAILABLE,
        }
    }
}

impl Failure {
    /// The lock that it is about, if it is about one.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Usage(_) => None,
            Self::Lock(error) => error.key(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lock(error)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(message),
            Self::Lock(error) => f.write_str(&text::chain(error)),
        }
    }
}
