//! Owner tokens prove ownership to Redis; fencing tokens prove to a resource who came later.

use std::fmt;

use crate::{
    host::random,
    types::{
        error::{Error, Result},
        holder::is_name,
    },
};

/// A per-key number that grows strictly from holder to holder.
///
/// Give it to the resource that the lock protects, and let the resource refuse a number lower than the
/// highest it has seen: then even a holder that does not know yet that it lost the lock can do no harm
/// (Kleppmann, "How to do distributed locking", 2016).
///
/// ```
/// use redlatch::FencingToken;
///
/// let (older, newer) = (FencingToken::new(33), FencingToken::new(34));
/// assert!(older < newer);
/// assert_eq!(newer.get(), 34);
/// assert_eq!(newer.to_string(), "34");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct FencingToken(u64);

impl FencingToken {
    /// Wraps a number, such as one that a resource has stored.
    #[must_use]
    pub const fn new(token: u64) -> Self {
        Self(token)
    }

    /// The token of an unfenced lock: 0, lower than that of every fenced one.
    ///
    /// It orders nothing: all unfenced locks have it.
    pub const NONE: Self = Self(0);

    /// Whether this is the token of an unfenced lock.
    ///
    /// ```
    /// use redlatch::FencingToken;
    ///
    /// assert!(FencingToken::NONE.is_none());
    /// assert!(FencingToken::NONE < FencingToken::new(1));
    /// ```
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The value stored under a lock's key, by which its owner proves that the lock is its own.
///
/// Every acquire uses a fresh random one unless the request names another. It is a secret of sorts: who
/// knows it can release the lock. `Debug` and `Display` therefore show its first 8 characters only, behind the name of
/// its [holder](crate::LockRequest::holder) if it was taken under one.
///
/// ```
/// use redlatch::OwnerToken;
///
/// let token = OwnerToken::new("deploy-host-7/4711")?;
/// assert_eq!(token.as_str(), "deploy-host-7/4711");
/// assert_eq!(token.to_string(), "deploy-h…");
/// assert_ne!(OwnerToken::random(), OwnerToken::random());
/// # Ok::<(), redlatch::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct OwnerToken(std::sync::Arc<str>);

impl OwnerToken {
    /// Creates a token of 122 random bits from a cryptographically secure generator.
    #[must_use]
    pub fn random() -> Self {
        let mut hex = [0; uuid::fmt::Simple::LENGTH];
        Self((&*random::uuid().simple().encode_lower(&mut hex)).into())
    }

    /// The same, under the name of who holds: `{name}/`, U+0001, and the random token. By the U+0001 in the middle it is
    /// told from every token that somebody has chosen.
    pub(crate) fn named(holder: &str) -> Self {
        Self([holder, BEHIND_NAME, Self::random().as_str()].concat().into())
    }

    /// Whether it has the form of those that are made here, so that hardly anybody has chosen it.
    pub(crate) fn looks_random(&self) -> bool {
        is_random(&self.0) || self.name_and_secret().is_some()
    }

    /// The name of who holds the lock, or has left it for nobody, if it was taken under one. Nothing else is taken apart.
    pub(crate) fn holder(&self) -> Option<&str> {
        self.name_and_secret().map(|(name, _)| name)
    }

    fn name_and_secret(&self) -> Option<(&str, &str)> {
        let owner = self.0.trim_start_matches(MARK);
        let (name, secret) = owner.split_once(BEHIND_NAME)?;
        (is_name(name) && is_random(secret)).then_some((name, secret))
    }

    /// Wraps a token of the caller's choice, 1 to 256 bytes that do not begin with U+0001.
    ///
    /// Two guards with one owner token share one lock, so it must name its owner uniquely.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the token is empty or longer than 256 bytes, or begins with U+0001, which marks a key that
    /// is left in place for nobody.
    pub fn new(token: impl Into<String>) -> Result<Self> {
        let token = token.into();
        if !(1..=256).contains(&token.len()) {
            let length = token.len();
            return Err(Error::config(format!(
                "an owner token must have 1 to 256 bytes, not {length}"
            )));
        }
        if token.starts_with(MARK) {
            return Err(Error::config("an owner token must not begin with U+0001"));
        }
        Ok(Self(token.into()))
    }

    /// Returns the whole token. Keep it out of logs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A value found under a key, whoever wrote it: any length, bytes that are no UTF-8 replaced.
    pub(crate) fn found(value: &[u8]) -> Self {
        Self(String::from_utf8_lossy(value).into())
    }

    /// The value of a key that this owner has released, but that is left in place under this mark, for nobody.
    ///
    /// No owner token begins with the mark. So the value differs from every owner's, and each command that compares the
    /// two refuses the key by itself: nobody can extend, adopt, take over or release it.
    pub(crate) fn marked(&self, mark: Mark) -> Self {
        Self([mark.text(), &*self.0].concat().into())
    }

    /// The mark in front of a value that was found, if there is one.
    pub(crate) fn mark(&self) -> Option<Mark> {
        [Mark::Done, Mark::Kept].into_iter().find(|mark| self.0.starts_with(mark.text()))
    }

    /// Who left a key with this value for nobody, if it was.
    pub(crate) fn left_by(&self) -> Option<Self> {
        self.0.starts_with(MARK).then(|| Self(self.0.trim_start_matches(MARK).into()))
    }
}

fn is_random(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == uuid::fmt::Simple::LENGTH && text.bytes().all(is_hex)
}

/// As what a key is left in place for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Until the shortest hold is over.
    Kept,
    /// What was to be done under the lock is done.
    Done,
}

impl Mark {
    /// What stands in front of the owner token. The scripts know it, too.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Kept => "\u{1}",
            Self::Done => "\u{1}\u{1}",
        }
    }
}

/// What marks are made of.
const MARK: char = '\u{1}';
/// What stands between a holder's name and the secret. The scripts know it, too.
const BEHIND_NAME: &str = "/\u{1}";

impl fmt::Display for OwnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = match self.name_and_secret() {
            Some((name, secret)) => {
                write!(f, "{name}/")?;
                secret
            }
            None => &self.0,
        };
        let shown = secret.char_indices().nth(8).map_or(secret.len(), |(end, _)| end);
        f.write_str(&secret[..shown])?;
        if shown < secret.len() { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Debug for OwnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerToken({self})")
    }
}

impl TryFrom<String> for OwnerToken {
    type Error = Error;

    fn try_from(token: String) -> Result<Self> {
        Self::new(token)
    }
}

impl From<OwnerToken> for String {
    fn from(token: OwnerToken) -> Self {
        token.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_tokens_are_32_hex_digits() {
        let token = OwnerToken::random();
        assert_eq!(token.as_str().len(), 32);
        assert!(token.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert!(token.looks_random());
        assert!(!OwnerToken::new("worker-7").unwrap().looks_random());
    }

    #[test]
    fn only_the_first_eight_characters_are_shown() {
        let token = OwnerToken::new("äöüäöüäöüäöü").unwrap();
        assert_eq!(token.to_string(), "äöüäöüäö…");
        assert_eq!(format!("{token:?}"), "OwnerToken(äöüäöüäö…)");
        assert_eq!(OwnerToken::new("short").unwrap().to_string(), "short");
    }

    #[test]
    fn a_named_token_shows_its_holder_and_eight_characters_of_the_secret() {
        let token = OwnerToken::named("db1-4711");
        let (name, secret) = token.as_str().split_once("/\u{1}").unwrap();
        assert_eq!((name, token.holder()), ("db1-4711", Some("db1-4711")));
        assert!(token.looks_random());
        assert_eq!(token.to_string(), format!("db1-4711/{}…", &secret[..8]));
        assert!(!format!("{token:?}").contains(&secret[..9]));
        assert_eq!(token.marked(Mark::Kept).holder(), Some("db1-4711"));
        assert_eq!(OwnerToken::new(token.as_str()).unwrap(), token, "it is a token like others");
        assert!(OwnerToken::named(&"ü".repeat(64)).as_str().len() <= 256);
    }

    #[test]
    fn other_tokens_have_no_holder() {
        let secret = OwnerToken::random();
        let secret = secret.as_str();
        let others = [
            secret.to_owned(),
            format!("a/{secret}"),
            format!("a\u{1}{secret}"),
            format!("/\u{1}{secret}"),
            format!("a/b/\u{1}{secret}"),
            format!("a/\u{1}{secret}0"),
            format!("a/\u{1}{}", secret.to_uppercase().replace(char::is_numeric, "A")),
            format!("{}/\u{1}{secret}", "x".repeat(65)),
        ];
        for other in others {
            let token = OwnerToken::new(other).unwrap();
            assert_eq!(token.holder(), None, "{:?}", token.as_str());
        }
    }

    #[test]
    fn tokens_have_1_to_256_bytes() {
        assert!(OwnerToken::new("").unwrap_err().is_config());
        assert!(OwnerToken::new("x".repeat(256)).is_ok());
        assert!(OwnerToken::new("x".repeat(257)).unwrap_err().is_config());
    }

    #[test]
    fn no_token_begins_with_the_mark_of_kept_keys() {
        for mark in [Mark::Kept, Mark::Done] {
            let left = OwnerToken::new("us").unwrap().marked(mark);
            assert!(OwnerToken::new(left.as_str()).unwrap_err().is_config());
            assert_eq!((left.mark(), left.left_by()), (Some(mark), OwnerToken::new("us").ok()));
        }
        assert_eq!(OwnerToken::new("us").unwrap().left_by(), None);
    }
}
