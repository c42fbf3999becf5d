//! The wire format, as a server reads and writes it.

use crate::node::{Answer, Released, Whose};

/// Takes the first whole command from what was received.
pub(super) fn take_command(received: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let mut at = 0;
    let count = number(received, &mut at, b'*')?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let len = number(received, &mut at, b'$')?;
        words.push(received.get(at..at + len)?.to_vec());
        at += len + 2;
    }
    (at <= received.len()).then(|| drop(received.drain(..at)))?;
    Some(words)
}

fn number(bytes: &[u8], at: &mut usize, mark: u8) -> Option<usize> {
    let rest = bytes.get(*at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    assert_eq!(rest[0], mark, "a command is an array of bulk strings");
    *at += end + 2;
    str::from_utf8(&rest[1..end]).ok()?.parse().ok()
}

/// What a server says.
#[derive(Clone, Debug)]
pub(super) enum Word {
    Ok,
    Nothing,
    Text(String),
    Number(i64),
    Error(String),
    Map(Vec<Self>),
    Push(Vec<Self>),
    List(Vec<Self>),
}

impl Word {
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Ok => to.extend(b"+OK\r\n"),
            Self::Nothing => to.extend(b"$-1\r\n"),
            Self::Text(text) => to.extend(format!("${}\r\n{text}\r\n", text.len()).bytes()),
            Self::Number(number) => to.extend(format!(":{number}\r\n").bytes()),
            Self::Error(error) => to.extend(format!("-{error}\r\n").bytes()),
            Self::Map(words) => write_all(b'%', words.len() / 2, words, to),
            Self::Push(words) => write_all(b'>', words.len(), words, to),
            Self::List(words) => write_all(b'*', words.len(), words, to),
        }
    }
}

fn write_all(mark: u8, count: usize, words: &[Word], to: &mut Vec<u8>) {
    to.push(mark);
    to.extend(format!("{count}\r\n").bytes());
    words.iter().for_each(|word| word.write(to));
}

/// A script's answer as the scripts write it.
impl From<&Answer> for Word {
    fn from(answer: &Answer) -> Self {
        let pttl = |time: Option<std::time::Duration>, none| {
            Self::Number(time.map_or(none, |time| int(time.as_millis())))
        };
        Self::List(match answer {
            Answer::Granted { token } => vec![Self::Number(1), Self::Number(int(*token))],
            Answer::Ours { token, expires_in } => {
                vec![Self::Number(2), Self::Number(int(*token)), pttl(Some(*expires_in), 0)]
            }
            Answer::Refused { expires_in, holder, name, whose } => {
                let code = match whose {
                    Whose::Anothers => 0,
                    Whose::Owners => 6,
                    Whose::Nobodys => 7,
                };
                let texts = [Some(holder), name.as_ref()].into_iter().flatten().cloned();
                let mut words = vec![Self::Number(code), pttl(*expires_in, -1)];
                words.extend(texts.map(Self::Text));
                words
            }
            Answer::Gone => vec![Self::Number(-1)],
            Answer::Ended => vec![Self::Number(-2)],
            Answer::Released(Released::Deleted) => vec![Self::Number(3)],
            Answer::Released(Released::Gone { counter }) => {
                vec![Self::Number(-1), Self::Number(int(*counter))]
            }
            Answer::Released(Released::NotOurs { counter }) => {
                vec![Self::Number(-3), Self::Number(int(*counter))]
            }
            Answer::Seen(seen) => {
                let owner = seen.value.as_ref().map(|owner| owner.as_str().to_owned());
                let owner = Self::Text(owner.unwrap_or_default());
                vec![
                    Self::Number(4),
                    owner,
                    pttl(seen.expires_in, -2),
                    Self::Number(int(seen.token)),
                    Self::Text(seen.id.text()),
                    Self::Text(if seen.is_held { "h" } else { "" }.into()),
                ]
            }
        })
    }
}

fn int(number: impl TryInto<i64>) -> i64 {
    number.try_into().ok().expect("numbers here are small")
}
