//! Attempt ids: what tells the locks of one chosen owner apart.

use std::fmt;

use crate::host::random;

/// Tells one attempt of an owner, and the lock that it became, from all others of the same owner.
///
/// A chosen owner token may be used for many locks, one after the other and by several processes at once, so that the
/// value of a key does not say whose it is: an undo that comes late would delete another attempt's vote. Therefore each
/// attempt writes a fresh id beside the fencing counter where it is granted, and what is sent for it later touches only
/// keys beside that id. A random owner token is used for one attempt, and has the empty id, which equals no other: if
/// somebody chooses its text, neither can touch the other's lock.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub(crate) struct AttemptId(u64);

impl AttemptId {
    /// That of an owner token which is used once.
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn random() -> Self {
        // The second half is never zero: it begins with the UUID's variant.
        Self(random::uuid().as_u64_pair().1)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Reads what a node tells.
    pub(crate) fn found(text: &str) -> Option<Self> {
        let id = if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 16).ok() };
        id.map(Self)
    }

    /// As it stands beside the counter.
    pub(crate) fn text(self) -> String {
        if self.is_empty() { String::new() } else { format!("{:x}", self.0) }
    }
}

/// It proves ownership together with the owner token, and is kept out of logs like that.
impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "AttemptId(empty)" } else { "AttemptId(..)" })
    }
}

#[cfg(feature = "serde")]
impl TryFrom<String> for AttemptId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::found(&text).ok_or("an attempt id has at most 16 hexadecimal digits")
    }
}

#[cfg(feature = "serde")]
impl From<AttemptId> for String {
    fn from(id: AttemptId) -> Self {
        id.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_16_hex_digits_and_is_read_back() {
        let id = AttemptId::random();
        assert_eq!(id.text().len(), 16);
        assert_eq!(AttemptId::found(&id.text()), Some(id));
        assert_ne!(id, AttemptId::random());
        assert_eq!(AttemptId::found(""), Some(AttemptId::EMPTY));
        assert_eq!(AttemptId::found("12h"), None);
        assert!(!format!("{id:?}").contains(&id.text()));
    }
}
