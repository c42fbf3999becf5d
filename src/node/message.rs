//! The message that tells of a release, and the database that it is about.

use std::{fmt, sync::OnceLock};

use redis::{RedisWrite, ToRedisArgs, ToSingleRedisArg};

/// What is published when a lock is released. Channels know no databases, so that it has to name its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) token: u64,
    pub(super) database: Option<i64>,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.database {
            Some(database) => write!(f, "{} {database}", self.token),
            None => write!(f, "{}", self.token),
        }
    }
}

impl ToRedisArgs for Message {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

impl ToSingleRedisArg for Message {}

impl Message {
    /// Reads what was heard. Anybody may publish: what is no message of ours is `None`.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let payload = str::from_utf8(payload).ok()?;
        let (token, database) = match payload.split_once(' ') {
            Some((token, database)) => (token, Some(database.parse().ok()?)),
            None => (payload, None),
        };
        Some(Self { token: token.parse().ok()?, database })
    }
}

/// The database in which a node's locks are. Of a pool it is known once it has given a connection.
#[derive(Debug, Default)]
pub(super) struct Database(OnceLock<i64>);

impl Database {
    pub(super) fn found(&self, database: i64) {
        // The connections of a node all lead to the same.
        self.0.get_or_init(|| database);
    }

    pub(super) fn get(&self) -> Option<i64> {
        self.0.get().copied()
    }

    /// Whether a message is certainly about a lock of another one.
    pub(super) fn is_foreign(&self, message: Message) -> bool {
        self.get().zip(message.database).is_some_and(|(own, other)| own != other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_message_of_ours_is_not_read() {
        for payload in
            ["", " ", "-1", "7 ", " 7", "7 of 9", "7 1 2", "seven", "18446744073709551616"]
        {
            assert_eq!(Message::read(payload.as_bytes()), None, "{payload:?}");
        }
        assert_eq!(Message::read(b"\xff"), None);
    }

    #[test]
    fn a_message_is_foreign_if_both_databases_are_known_and_differ() {
        let (database, of) = (Database::default(), |database| Message { token: 7, database });
        assert!(!database.is_foreign(of(Some(3))), "a pool may not have told yet");
        database.found(0);
        assert!(database.is_foreign(of(Some(3))));
        assert!(!database.is_foreign(of(Some(0))) && !database.is_foreign(of(None)));
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(token: u64, database: Option<i64>) {
            let message = Message { token, database };
            prop_assert_eq!(Message::read(message.to_string().as_bytes()), Some(message));
        }
    }
}
