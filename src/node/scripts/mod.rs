//! The commands as Lua scripts, and their replies as answers.

use std::{sync::LazyLock, time::Duration};

use redis::{Cmd, ErrorKind, RedisError, Script, Value};

use super::{
    command::{Answer, Command, Keep, KeyState, Released, Touch, Whose},
    message::Message,
    send_log::SendLog,
};
use crate::types::{
    attempt_id::AttemptId, holder::is_name, key::Key, token::OwnerToken, validity::millis,
};

/// How a command is put to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// By its hash: short, but the server may not know it (`NOSCRIPT`).
    Hash,
    /// By its text.
    Text,
    /// Not at all: a plain `SET`, which takes an unfenced lock if that is free, but does not tell whose it is if not.
    Plain,
}

impl Encoding {
    /// How the command is put again, if the reply asks for it.
    pub(super) fn after(self, reply: Result<&Value, Option<&str>>) -> Option<Self> {
        match (self, reply) {
            // Another's: the script tells whose, also where memory is too short for a lock.
            (Self::Plain, Ok(Value::Nil) | Err(Some("OOM"))) => Some(Self::Hash),
            (Self::Hash, Err(Some("NOSCRIPT"))) => Some(Self::Text),
            _ => None,
        }
    }
}

/// How often a command may reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    AtMostOnce,
    /// The connection sends it again by itself if the reply is lost.
    AnyTimes,
}

/// What a command must know of the connection that it goes down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) delivery: Delivery,
    /// The database that it leads to, as far as that is known.
    pub(super) database: Option<i64>,
    /// The user may announce releases, as far as that is known.
    pub(super) announces: bool,
}

/// The `EVALSHA` or `EVAL` that asks `command` about the send log's key, owner and attempt.
pub(super) fn encode(
    command: Command,
    send_log: &SendLog,
    encoding: Encoding,
    route: Route,
) -> Cmd {
    if encoding == Encoding::Plain
        && let Command::Acquire { ttl, .. } = command
    {
        return set(send_log, ttl);
    }
    let (script, text) = match command {
        Command::Acquire { .. } => (&ACQUIRE, ACQUIRE_TEXT),
        Command::Touch { .. } => (&TOUCH, TOUCH_TEXT),
        Command::Release { .. } => (&RELEASE, RELEASE_TEXT),
        Command::Inspect => (&INSPECT, INSPECT_TEXT),
    };
    let (name, script) = match encoding {
        Encoding::Hash => ("EVALSHA", script.get_hash()),
        Encoding::Text | Encoding::Plain => ("EVAL", text),
    };
    // Sized for all that follows: a command that grows step by step costs more than all the rest.
    let Key { lock, fence, channel, .. } = &*send_log.key;
    let keys = lock.len() + send_log.key.fence_name().len() + channel.len();
    let size = name.len() + script.len() + keys + send_log.owner.as_str().len() + MOST_OF_NUMBERS;
    let mut cmd = Cmd::with_capacity(MOST_ARGUMENTS, size);
    cmd.arg(name).arg(script).arg(1 + usize::from(fence.is_some())).arg(lock);
    cmd.arg(fence.as_ref().map(|fence| &fence.name));
    let kept_for = |ttl| fence.as_ref().map_or(0, |fence| millis(fence.kept_for(ttl)));
    let (owner, id) = (send_log.owner.as_str(), send_log.id.text());
    match command {
        Command::Acquire { ttl, proposal } => {
            cmd.arg(owner).arg(millis(ttl)).arg(proposal).arg(kept_for(ttl)).arg(id);
        }
        Command::Touch { ttl, token, mode } => {
            cmd.arg(owner).arg(ttl.map_or(0, millis)).arg(token);
            cmd.arg(kept_for(ttl.unwrap_or_default()));
            cmd.arg(id).arg(text_of(mode));
        }
        Command::Release { held, keep } => {
            let message = held.and_then(|token| notice(token, keep, route));
            let channel = if message.is_some() { send_log.key.channel.as_str() } else { "" };
            let again = held.is_some() && route.delivery == Delivery::AnyTimes;
            cmd.arg(owner).arg(id).arg(channel).arg(fence.as_ref().and(held).unwrap_or_default());
            cmd.arg(keep.map_or(0, |keep| millis(keep.time)));
            match message {
                Some(message) => cmd.arg(message),
                None => cmd.arg(""),
            };
            cmd.arg(if again { "again" } else { "" }).arg(keep.map(|keep| keep.mark.text()));
        }
        Command::Inspect => {}
    }
    cmd
}

const fn text_of(mode: Touch) -> &'static str {
    match mode {
        Touch::Raise => "raise",
        Touch::Extend => "extend",
        Touch::Heal => "heal",
        Touch::Adopt => "adopt",
    }
}

/// What a release announces. For a lock that was never held, and for what is kept, nobody is woken.
fn notice(token: u64, keep: Option<Keep>, route: Route) -> Option<Message> {
    let tells = route.announces && keep.is_none_or(Keep::is_announced);
    tells.then_some(Message { token, database: route.database })
}

fn set(send_log: &SendLog, ttl: Duration) -> Cmd {
    let (lock, owner) = (&send_log.key.lock, send_log.owner.as_str());
    let mut cmd = Cmd::with_capacity(MOST_ARGUMENTS, lock.len() + owner.len() + MOST_OF_NUMBERS);
    cmd.arg("SET").arg(lock).arg(owner).arg("NX").arg("PX").arg(millis(ttl));
    cmd
}

/// Reads a reply.
pub(super) fn decode(reply: &Value) -> Result<Answer, RedisError> {
    let answer = match reply {
        Value::Okay => Some(Answer::Granted { token: 0 }),
        Value::Int(_) => number(reply).map(|token| Answer::Granted { token }),
        Value::Array(fields) => match fields.as_slice() {
            [Value::Int(1), token] => number(token).map(|token| Answer::Granted { token }),
            [Value::Int(2), token, pttl] => ours(token, pttl),
            [Value::Int(code @ (0 | 6 | 7)), Value::Int(pttl), holder] => {
                refused(*code, *pttl, holder, None)
            }
            [Value::Int(code @ (0 | 6 | 7)), Value::Int(pttl), holder, name] => {
                refused(*code, *pttl, holder, Some(name))
            }
            [Value::Int(-1)] => Some(Answer::Gone),
            [Value::Int(-2)] => Some(Answer::Ended),
            [Value::Int(3 | UNANNOUNCED)] => Some(Answer::Released(Released::Deleted)),
            [Value::Int(-1), counter] => released(counter, |counter| Released::Gone { counter }),
            [Value::Int(-3), counter] => released(counter, |counter| Released::NotOurs { counter }),
            [Value::Int(4), rest @ ..] => seen(rest),
            _ => None,
        },
        _ => None,
    };
    answer.ok_or_else(|| {
        (ErrorKind::UnexpectedReturnType, "a script's reply of an unknown shape").into()
    })
}

/// Whether the reply says that the user may not announce releases.
pub(super) fn is_unannounced(reply: &Value) -> bool {
    matches!(reply, Value::Array(fields) if matches!(**fields, [Value::Int(UNANNOUNCED)]))
}

fn ours(token: &Value, pttl: &Value) -> Option<Answer> {
    // A key without expiry (somebody's PERSIST) or about to go counts as having nothing left.
    let Value::Int(pttl) = pttl else { return None };
    let expires_in = Duration::from_millis(u64::try_from(*pttl).unwrap_or(0));
    Some(Answer::Ours { token: number(token)?, expires_in })
}

fn refused(code: i64, pttl: i64, holder: &Value, name: Option<&Value>) -> Option<Answer> {
    let expires_in = u64::try_from(pttl).ok().map(Duration::from_millis);
    let holder = String::from_utf8_lossy(bytes(holder)?).into_owned();
    // Whoever else writes values of this form need not keep to what a name may be.
    let name = name.and_then(bytes).and_then(|name| str::from_utf8(name).ok());
    let name = name.filter(|name| is_name(name)).map(str::to_owned);
    let whose = match code {
        6 => Whose::Owners,
        7 => Whose::Nobodys,
        _ => Whose::Anothers,
    };
    Some(Answer::Refused { expires_in, holder, name, whose })
}

fn released(counter: &Value, how: impl FnOnce(u64) -> Released) -> Option<Answer> {
    number(counter).map(how).map(Answer::Released)
}

fn seen(fields: &[Value]) -> Option<Answer> {
    let [value, Value::Int(pttl), token, id, letter] = fields else { return None };
    let value = OwnerToken::found(bytes(value)?);
    Some(Answer::Seen(KeyState {
        value: Some(value).filter(|_| *pttl != NO_SUCH_KEY),
        expires_in: u64::try_from(*pttl).ok().map(Duration::from_millis),
        token: number(token)?,
        id: AttemptId::found(std::str::from_utf8(bytes(id)?).ok()?)?,
        is_held: bytes(letter)? == b"h",
    }))
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// How the script that releases says that it could not announce that.
const UNANNOUNCED: i64 = 5;
const MOST_ARGUMENTS: usize = 13;
/// The bytes that the numbers, words and id of any command take at most.
const MOST_OF_NUMBERS: usize = 112;
/// What `PTTL` says of a key that does not exist.
const NO_SUCH_KEY: i64 = -2;

/// The text and the hash of the scripts: acquire, touch, release and inspect.
#[cfg(test)]
pub(crate) fn scripts() -> [(&'static str, &'static str); 4] {
    [
        (ACQUIRE_TEXT, ACQUIRE.get_hash()),
        (TOUCH_TEXT, TOUCH.get_hash()),
        (RELEASE_TEXT, RELEASE.get_hash()),
        (INSPECT_TEXT, INSPECT.get_hash()),
    ]
}

const ACQUIRE_TEXT: &str = include_str!("acquire.lua");
const TOUCH_TEXT: &str = include_str!("touch.lua");
const RELEASE_TEXT: &str = include_str!("release.lua");
const INSPECT_TEXT: &str = include_str!("inspect.lua");

static ACQUIRE: LazyLock<Script> = LazyLock::new(|| Script::new(ACQUIRE_TEXT));
static TOUCH: LazyLock<Script> = LazyLock::new(|| Script::new(TOUCH_TEXT));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(RELEASE_TEXT));
static INSPECT: LazyLock<Script> = LazyLock::new(|| Script::new(INSPECT_TEXT));

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use redis::PushKind;

    use super::*;
    use crate::types::{fencing::Fencing, key::Key};

    fn int(number: i64) -> Value {
        Value::Int(number)
    }

    #[test]
    fn replies_of_a_wrong_shape_are_errors_not_panics() {
        let wrong = [
            Value::Nil,
            int(-1),
            Value::Array(vec![]),
            Value::Array(vec![int(1), int(-5), int(1)]),
            Value::Array(vec![int(0), Value::Nil, Value::Nil]),
            Value::Array(vec![int(9)]),
        ];
        for reply in wrong {
            assert!(decode(&reply).is_err(), "{reply:?}");
        }
    }

    #[test]
    fn a_holder_without_expiry_is_refused_without_a_time() {
        let reply = Value::Array(vec![int(0), int(-1), Value::BulkString(b"ab".to_vec())]);
        let (holder, name) = ("ab".into(), None);
        let whose = Whose::Anothers;
        let refused = Answer::Refused { expires_in: None, holder, name, whose };
        assert_eq!(decode(&reply).unwrap(), refused);
    }

    #[test]
    fn a_refusal_tells_what_may_be_a_holders_name_and_nothing_else() {
        let told = |name: &[u8]| {
            let text = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
            let reply = Value::Array(vec![int(0), int(5), text(b"ab"), text(name)]);
            let Ok(Answer::Refused { name, .. }) = decode(&reply) else { panic!("a refusal") };
            name
        };
        assert_eq!(told(b"db1-4711").as_deref(), Some("db1-4711"));
        for wrong in [&b""[..], b"\xff", b"a\x1b[2J", "a\u{85}".as_bytes(), &[b'x'; 65]] {
            assert_eq!(told(wrong), None, "{wrong:?}");
        }
    }

    /// Redis 6 with `lua-replicate-commands no` refuses to write after what differs from server to server, unless
    /// the script says first that its writes be replicated.
    #[test]
    fn no_script_writes_after_what_differs_from_server_to_server_without_saying_so_first() {
        for (text, _) in scripts() {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("--"));
            let code: Vec<_> = code.collect();
            // What a script returns at once it does not write after.
            let differs = |line: &&str| !line.contains("return ") && has_one_of(line, &RANDOM);
            let Some(at) = code.iter().position(differs) else { continue };
            let (before, after) = code.split_at(at);
            let says_so = before.iter().any(|line| line.contains("redis.replicate_commands()"));
            let writes = after.iter().any(|line| has_one_of(line, &WRITING));
            assert!(says_so || !writes, "{text}");
        }
    }

    fn has_one_of(line: &str, words: &[&str]) -> bool {
        words.iter().any(|word| line.contains(word))
    }

    const RANDOM: [&str; 3] = ["'PTTL'", "'TTL'", "'TIME'"];
    const WRITING: [&str; 5] = ["'SET'", "'DEL'", "'PEXPIRE'", "'INCR", "'PUBLISH'"];

    #[test]
    fn a_release_names_its_database_and_its_channel_if_it_may() {
        let key = Arc::new(Key::new("", "k".into(), Fencing::default()).unwrap());
        let send_log = SendLog::new(key, OwnerToken::random(), AttemptId::EMPTY, 1);
        let release = |announces, database| {
            let route = Route { delivery: Delivery::AtMostOnce, database, announces };
            let command = Command::Release { held: Some(7), keep: None };
            let cmd = encode(command, &send_log, Encoding::Hash, route);
            let text = String::from_utf8(cmd.get_packed_command()).unwrap();
            let words: Vec<_> = text.split("\r\n").skip(2).step_by(2).map(str::to_owned).collect();
            [7, 8, 10].map(|at| words[at].clone())
        };
        assert_eq!(release(true, Some(3)), ["{k}:released", "7", "7 3"]);
        assert_eq!(release(true, None), ["{k}:released", "7", "7"]);
        assert_eq!(release(false, Some(3)), ["", "7", ""]);
    }

    /// A reply of any shape, more often one that looks like a script's.
    fn reply() -> impl Strategy<Value = Value> {
        let number = prop_oneof![-5..8i64, any::<i64>()];
        let scalar = prop_oneof![
            4 => number.prop_map(Value::Int),
            2 => any::<Vec<u8>>().prop_map(Value::BulkString),
            1 => any::<String>().prop_map(Value::SimpleString),
            1 => any::<f64>().prop_map(Value::Double),
            1 => any::<bool>().prop_map(Value::Boolean),
            1 => any::<Vec<u8>>().prop_map(Value::BigNumber),
            1 => Just(Value::Nil),
            1 => Just(Value::Okay),
        ];
        scalar.prop_recursive(3, 24, 5, |inner| {
            let list = proptest::collection::vec(inner.clone(), 0..6);
            let pairs = proptest::collection::vec((inner.clone(), inner), 0..3);
            prop_oneof![
                6 => list.clone().prop_map(Value::Array),
                1 => list.clone().prop_map(Value::Set),
                1 => pairs.prop_map(Value::Map),
                1 => list.prop_map(|data| Value::Push { kind: PushKind::Message, data }),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_reply_of_any_shape_is_an_answer_or_an_error(reply in reply()) {
            let starts_with = match &reply {
                Value::Array(fields) => fields.first(),
                _ => None,
            };
            match decode(&reply) {
                // What took the lock.
                Ok(Answer::Granted { .. }) if matches!(reply, Value::Okay | Value::Int(_)) => {}
                Ok(_) => prop_assert!(matches!(starts_with, Some(Value::Int(-3..=7)))),
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::UnexpectedReturnType),
            }
        }

        #[test]
        fn what_a_node_says_of_a_lock_is_read_whatever_the_numbers(
            pttl: i64, token: i64, holder: Vec<u8>,
        ) {
            let bulk = Value::BulkString(holder.clone());
            let expires_in = u64::try_from(pttl).ok().map(Duration::from_millis);
            let refused = Value::Array(vec![int(0), int(pttl), bulk.clone()]);
            let holder = String::from_utf8_lossy(&holder).into_owned();
            let (name, whose) = (None, Whose::Anothers);
            prop_assert_eq!(
                decode(&refused).unwrap(),
                Answer::Refused { expires_in, holder, name, whose }
            );
            let granted = decode(&Value::Array(vec![int(1), int(token)])).ok();
            prop_assert_eq!(granted, u64::try_from(token).ok().map(|token| Answer::Granted { token }));
            let ours = decode(&Value::Array(vec![int(2), int(token), int(pttl)]));
            prop_assert_eq!(ours.is_ok(), token >= 0);
            let [id, letter] = [&b"a1"[..], b"h"].map(|text| Value::BulkString(text.to_vec()));
            let seen = decode(&Value::Array(vec![int(4), bulk, int(pttl), int(token), id, letter]));
            prop_assert_eq!(seen.is_ok(), token >= 0);
        }
    }
}
