//! The commands that servers have executed.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::contender::Kind;

/// How often which command was executed, those that scripts call included.
#[derive(Clone, Debug, Default)]
pub struct Calls(BTreeMap<String, u64>);

impl Calls {
    /// Reads what `INFO commandstats` answers, leaving out what only this benchmark asks.
    pub fn parse(info: &str) -> Self {
        let calls = info.lines().filter_map(parse_line);
        Self(calls.filter(|(name, _)| !OURS.contains(&name.as_str())).collect())
    }

    pub fn add(&mut self, other: &Self) {
        for (name, calls) in &other.0 {
            *self.0.entry(name.clone()).or_default() += calls;
        }
    }

    /// What has come since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |name: &String| earlier.0.get(name).copied().unwrap_or_default();
        let more =
            |(name, calls): (&String, &u64)| (name.clone(), calls.saturating_sub(before(name)));
        Self(self.0.iter().map(more).collect())
    }

    /// How many commands clients sent, the ones that scripts called not counted.
    pub fn sent(&self, kind: Kind) -> u64 {
        self.0.iter().filter(|(name, _)| is_sent(kind, name)).map(|(_, calls)| calls).sum()
    }

    /// The commands per operation: those that clients sent, and in brackets those that scripts called.
    pub fn per(&self, operations: u64, kind: Kind) -> String {
        let each = |calls: u64| calls as f64 / operations.max(1) as f64;
        let list = |sent: bool| {
            let calls = self.0.iter().filter(|(name, _)| is_sent(kind, name) == sent);
            let calls = calls.filter(|(_, calls)| each(**calls) >= 0.005);
            let list: Vec<_> =
                calls.map(|(name, calls)| format!("{name} {:.2}", each(*calls))).collect();
            list.join(", ")
        };
        let (mut text, in_scripts) = (list(true), list(false));
        if !in_scripts.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(text, " [{in_scripts}]");
        }
        if text.is_empty() { "none".to_owned() } else { text.replace('|', " ") }
    }
}

/// Whether clients send the command themselves. One that this does not know counts as sent.
fn is_sent(kind: Kind, name: &str) -> bool {
    kind.sends(name) || !IN_SCRIPTS.contains(&name)
}

/// `cmdstat_evalsha:calls=5,usec=..` is five calls of `evalsha`.
fn parse_line(line: &str) -> Option<(String, u64)> {
    let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
    let (calls, _) = rest.split_once(',')?;
    Some((name.to_owned(), calls.parse().ok()?))
}

/// What only the benchmark's own connections send.
const OURS: [&str; 4] = ["info", "flushall", "dbsize", "scan"];

/// What lock libraries do inside of scripts, unless the contender is known to send it.
const IN_SCRIPTS: [&str; 13] = [
    "set", "get", "del", "exists", "incr", "incrby", "expire", "pexpire", "pttl", "publish",
    "setex", "psetex", "unlink",
];
