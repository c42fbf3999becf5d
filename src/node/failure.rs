//! Why a node did not answer.

use std::time::Duration;

use redis::{ErrorKind, RedisError};

/// Why a node did not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It has no source: that would be what it wraps, and says, once more.
    #[error("{0}")]
    Redis(RedisError),
    #[error("the lock was released before this could be sent")]
    Withdrawn,
    #[error("a reply of an unknown shape")]
    Shape,
    #[error("not connected yet")]
    NotConnected,
    #[error("not a Redis server: it answered {0:?}")]
    NoRedis(String),
    #[error("the server speaks no TLS here: use its TLS port, or a URL without TLS")]
    SpeaksNoTls,
    #[error("the server speaks TLS here: use a URL with TLS, `rediss://`")]
    WantsTls,
    #[error("a password is given, but the server has none set for the default user")]
    NoPassword,
    #[error("restarted too lately to vote, for another {0:?}")]
    Quarantined(Duration),
    #[error("there is no tokio runtime here")]
    NoRuntime,
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl Failure {
    /// Whether waiting does not mend it, as a password, a right or the type of a key.
    pub(super) fn is_lasting(&self) -> bool {
        let error = match self {
            Self::NoPassword => return true,
            Self::Redis(error) => error,
            _ => return false,
        };
        error.kind() == ErrorKind::AuthenticationFailed
            || error.code().is_some_and(|code| LASTING.contains(&code))
            || error
                .detail()
                .is_some_and(|detail| NOT_ALLOWED.iter().any(|words| detail.contains(words)))
    }

    /// The first word of the server's own error.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Redis(error) => error.code(),
            _ => None,
        }
    }

    /// Whether it was not for the node to answer: nothing was sent.
    pub(super) const fn is_our_own(&self) -> bool {
        matches!(self, Self::Withdrawn | Self::Quarantined(_) | Self::NoRuntime)
    }
}

const LASTING: [&str; 4] = ["WRONGTYPE", "NOPERM", "WRONGPASS", "NOAUTH"];
/// What is said of a missing right inside of a script: by Redis up to 7.0, and by later ones and Valkey.
const NOT_ALLOWED: [&str; 2] = ["user executing the script can't", "ACL failure in script"];

#[cfg(test)]
mod tests {
    use redis::ServerErrorKind;

    use super::*;

    #[test]
    fn a_password_too_many_is_not_mended_by_waiting_but_silence_is() {
        assert!(Failure::NoPassword.is_lasting());
        assert!(!Failure::TimedOut(Duration::from_secs(1)).is_lasting());
    }

    #[test]
    fn a_right_that_a_script_lacks_is_not_mended_by_waiting_whatever_the_words() {
        for (words, is_lasting) in [
            ("The user executing the script can't run this command or subcommand", true),
            ("ACL failure in script: User u has no permissions to run the 'set' command", true),
            ("ACL failure in script: No permissions to access a key", true),
            ("Script attempted to access nonexistent global variable 'x'", false),
        ] {
            let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
            let failure = Failure::Redis((kind, "", words.to_owned()).into());
            assert_eq!(failure.is_lasting(), is_lasting, "{words}");
        }
    }
}
