//! A lock's key and the names that follow from it: its fencing counter and its release channel.

use std::{sync::Arc, time::Duration};

use crate::types::{
    error::{Error, Result},
    fencing::Fencing,
};

/// A key as the caller gave it, and the three names under which Redis knows it.
#[derive(Debug)]
pub(crate) struct Key {
    /// As the caller gave it.
    pub(crate) name: Arc<str>,
    /// Prefix + key: holds the owner token.
    pub(crate) lock: String,
    /// The fencing counter, if there is one.
    pub(crate) fence: Option<Fence>,
    /// The channel on which releases are announced.
    pub(crate) channel: String,
}

/// A lock's fencing counter.
#[derive(Debug)]
pub(crate) struct Fence {
    /// In the lock's cluster slot.
    pub(crate) name: String,
    /// How long it outlives its last use.
    retention: Duration,
}

impl Fence {
    /// How long it is kept from a use on that gives the lock this TTL: never less than twice that.
    pub(crate) fn kept_for(&self, ttl: Duration) -> Duration {
        self.retention.max(2 * ttl)
    }

    /// How old an attempt may be when it is granted. Once a counter has gone, nothing but the clock keeps a token above
    /// those of before: a proposal that was paused on its way for longer than the counter lived would be below them.
    pub(crate) fn longest_attempt(&self) -> Duration {
        self.retention / 10
    }
}

/// How many bytes a key may have.
pub(crate) const LONGEST_KEY: usize = 512;

impl Key {
    pub(crate) fn new(prefix: &str, name: String, fencing: Fencing) -> Result<Self> {
        if !(1..=LONGEST_KEY).contains(&name.len()) {
            return Err(Error::config(format!(
                "a key must have 1 to {LONGEST_KEY} bytes, not {}",
                name.len()
            )));
        }
        let lock = [prefix, &name].concat();
        if let Some(counted) = counted_by(&lock) {
            return Err(Error::config(format!(
                "`{lock}` cannot be locked: it is the name of the fencing counter of `{counted}`"
            )));
        }
        let channel = beside(&lock, RELEASED);
        let fence =
            fencing.retention.map(|retention| Fence { name: beside(&lock, FENCE), retention });
        Ok(Self { name: name.into(), lock, fence, channel })
    }

    /// The name of the fencing counter; empty if there is none.
    pub(crate) fn fence_name(&self) -> &str {
        self.fence.as_ref().map_or("", |fence| &fence.name)
    }

    /// A number by which the nodes are ordered for this key: FNV-1a, since every process must come to the same.
    pub(crate) fn rank(&self, node: &str) -> u64 {
        let bytes = node.bytes().chain(self.lock.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// Whether the fencing counter shares the key's cluster slot, as it does for all but a few odd keys.
    pub(crate) fn keeps_to_one_slot(&self) -> bool {
        let shares = |fence: &Fence| hashed_part(&self.lock) == hashed_part(&fence.name);
        self.fence.as_ref().is_none_or(shares)
    }
}

/// The lock whose fencing counter has this name, if that is what it looks like: the two would get into each other's
/// way. Whether there ever is such a lock nobody knows.
fn counted_by(name: &str) -> Option<&str> {
    let counted = name.strip_suffix(FENCE)?;
    let inner = || counted.strip_prefix('{')?.strip_suffix('}').filter(|inner| !inner.is_empty());
    let untagged = inner().filter(|inner| hash_tag(inner).is_none());
    untagged.or_else(|| hash_tag(counted).map(|_| counted))
}

/// A name in the lock's cluster slot, wherever that is possible.
fn beside(lock: &str, suffix: &str) -> String {
    let (open, close) = if hash_tag(lock).is_some() { ("", "") } else { ("{", "}") };
    [open, lock, close, suffix].concat()
}

/// The part between the first `{` and the first `}` behind it, if there is one and it is not empty.
/// See "Hash tags" in the Redis cluster specification.
fn hash_tag(key: &str) -> Option<&str> {
    let (_, behind) = key.split_once('{')?;
    let (tag, _) = behind.split_once('}')?;
    Some(tag).filter(|tag| !tag.is_empty())
}

fn hashed_part(key: &str) -> &str {
    hash_tag(key).unwrap_or(key)
}

const FENCE: &str = ":fence";
const RELEASED: &str = ":released";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: String) -> Result<Key> {
        Key::new("", name, Fencing::default())
    }

    fn key(name: &str) -> Key {
        named(name.to_owned()).unwrap()
    }

    #[test]
    fn names_follow_from_prefix_and_key() {
        let key = Key::new("app:", "job".to_owned(), Fencing::default()).unwrap();
        assert_eq!(
            [&*key.name, &*key.lock, key.fence_name(), &*key.channel],
            ["job", "app:job", "{app:job}:fence", "{app:job}:released"]
        );
    }

    #[test]
    fn a_valid_hash_tag_is_kept() {
        assert_eq!(key("a{b}c").fence_name(), "a{b}c:fence");
        assert_eq!(key("}{a}").fence_name(), "}{a}:fence");
    }

    #[test]
    fn helper_keys_keep_to_the_slot_wherever_that_is_possible() {
        for name in ["a", "a{b}c", "a{b", "{", "{a}{b}", "}{a}", "{{a}}", "user:42", "é"] {
            assert!(key(name).keeps_to_one_slot(), "{name}");
        }
        for name in ["a}b", "{}", "{}{a}", "}"] {
            assert!(!key(name).keeps_to_one_slot(), "{name}");
        }
    }

    #[cfg(feature = "cluster")]
    proptest::proptest! {
        #[test]
        fn what_keeps_to_one_slot_does_so_by_the_clients_own_count(
            prefix in "[{}ab]{0,4}", name in "[{}ab]{1,8}|.{1,20}",
        ) {
            use redis::cluster_routing::Slot;
            let key = Key::new(&prefix, name, Fencing::default()).unwrap();
            let is_one_slot = Slot::for_key(&key.lock) == Slot::for_key(key.fence_name());
            let is_odd = hash_tag(&key.lock).is_none() && key.lock.contains('}');
            proptest::prop_assert_eq!(key.keeps_to_one_slot(), !is_odd);
            proptest::prop_assert!(is_one_slot || is_odd);
        }
    }

    #[test]
    fn the_name_of_a_fencing_counter_is_refused() {
        for (prefix, name) in [
            ("", "{k}:fence"),
            ("app:", "{k}:fence"),
            ("{app}:", "k:fence"),
            ("{app}", ":fence"),
            ("", "a{b}c:fence"),
            ("", "{{k}:fence}:fence"),
            ("", "{}}:fence"),
            ("", "{a}b}:fence"),
            ("", "{a{b}:fence"),
        ] {
            let error = Key::new(prefix, name.to_owned(), Fencing::default()).unwrap_err();
            assert!(error.is_config() && error.to_string().contains(":fence"), "{error}");
        }
    }

    #[test]
    fn what_only_resembles_a_fencing_counter_is_a_key() {
        for name in
            ["k:fence", ":fence", "{k}:fences", "{k}:fence:", "{}:fence", "{:fence", "{}{a}}:fence"]
        {
            assert_eq!(&*key(name).name, name);
        }
    }

    #[test]
    fn an_error_names_the_lock_that_is_in_the_way() {
        for (name, counted) in [("{k}:fence", "`k`"), ("a{b}c:fence", "`a{b}c`")] {
            let error = Key::new("", name.to_owned(), Fencing::default()).unwrap_err().to_string();
            assert!(error.ends_with(counted), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_lock_is_anothers_counter(one in names(), other in names()) {
            if let (Ok(one), Ok(other)) = (named(one), named(other)) {
                prop_assert!(one.lock != other.fence_name() && other.lock != one.fence_name());
                // By the rule, `k` and `{k}` have one counter between them: their tokens grow all the same.
                let are_bare_and_braced = one.lock == format!("{{{}}}", other.lock)
                    || other.lock == format!("{{{}}}", one.lock);
                prop_assert!(one.lock == other.lock || one.fence_name() != other.fence_name() || are_bare_and_braced);
            }
        }

        #[test]
        fn only_names_of_counters_are_refused(name in names()) {
            let is_counter_of = |lock: &str| {
                let (open, close) = if hash_tag(lock).is_some() { ("", "") } else { ("{", "}") };
                !lock.is_empty() && name == format!("{open}{lock}{close}:fence")
            };
            // The name of its lock is a part of it.
            let ends: Vec<_> = (0..=name.len()).filter(|&at| name.is_char_boundary(at)).collect();
            let parts = ends.iter().flat_map(|&from| {
                ends.iter().filter(move |&&to| to >= from).map(move |&to| (from, to))
            });
            let is_counter = { parts }.any(|(from, to)| is_counter_of(&name[from..to]));
            prop_assert_eq!(named(name).is_err(), is_counter);
        }
    }

    /// Names that are likely to get into each other's way.
    fn names() -> impl Strategy<Value = String> {
        let ends = prop_oneof![Just(""), Just(":fence"), Just("}:fence"), Just(":fence}:fence")];
        ("[{}a]{0,5}", ends)
            .prop_map(|(start, end)| format!("{start}{end}"))
            .prop_filter("a key is not empty", |name| !name.is_empty())
    }

    #[test]
    fn keys_have_1_to_512_bytes() {
        assert!(Key::new("p", String::new(), Fencing::default()).unwrap_err().is_config());
        assert!(Key::new("p", "x".repeat(512), Fencing::default()).is_ok());
        assert!(Key::new("p", "x".repeat(513), Fencing::default()).unwrap_err().is_config());
    }
}
