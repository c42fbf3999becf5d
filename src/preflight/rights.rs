//! What the rights that a user lacks come to.

use super::{
    Finding,
    checks::{KEYS_UNCHECKED, NOTICE_RIGHTS, PING_RIGHT, RIGHTS, RIGHTS_UNCHECKED},
    site::{Site, Surveyed},
};
use crate::{
    node::{Missing, Rights},
    types::key::Key,
};

/// What is wrong with the rights of the user at a node.
pub(crate) fn judge(site: &Site, node: &str, rights: &Rights) -> Vec<Finding> {
    let node = Some(node);
    let missing = match rights {
        Rights::Missing(missing) => missing,
        Rights::TooOld => return Vec::new(),
        Rights::Unknown(why) => {
            return vec![RIGHTS_UNCHECKED.finding(node, format!("rights are not told: {why}"))];
        }
    };
    // Without a prefix nobody knows which keys there will be, and the sample says nothing of them.
    let is_sampled = !site.key_prefix.is_empty();
    let patterns = Patterns::new(site);
    let mut findings = Vec::new();
    let commands = missing.which(|command| !NOTICES.contains(&command) && command != "PING");
    if !commands.is_empty() || missing.keys(is_sampled) {
        let keys = missing.keys(is_sampled).then_some(&*patterns.keys);
        let finding = RIGHTS.finding(node, lack(&commands, keys.and(Some("keys"))));
        findings.push(finding.advising(grant(&commands, keys)));
    }
    let commands = missing.which(|command| NOTICES.contains(&command));
    let channels = (missing.channel && is_sampled).then_some(&*patterns.channels);
    if channels.is_some() || !commands.is_empty() && !missing.channel {
        let finding = NOTICE_RIGHTS.finding(node, lack(&commands, channels.and(Some("channels"))));
        findings.push(finding.advising(grant(&commands, channels)));
    }
    if !missing.which(|command| command == "PING").is_empty() {
        findings.push(PING_RIGHT.finding(node, "the user may not run PING".to_owned()));
    }
    if !is_sampled && (missing.lock || missing.channel) {
        let problem =
            "the user may use some keys or channels only, and the manager has no key prefix";
        findings.push(KEYS_UNCHECKED.finding(node, problem.to_owned()));
    }
    findings
}

/// What could not be checked at all, for a reason that nobody need mend.
pub(crate) fn notes(site: &Site) -> Vec<String> {
    let told = |node: &Surveyed| {
        let is_too_old = matches!(&node.facts, Some(Ok(facts)) if facts.is_too_old_to_tell());
        let note =
            || format!("{}: rights are not told: the server is older than Redis 7", node.name);
        is_too_old.then(note)
    };
    site.nodes.iter().filter_map(told).collect()
}

impl Missing {
    fn which(&self, is_meant: impl Fn(&str) -> bool) -> Vec<&str> {
        self.commands.iter().map(String::as_str).filter(|command| is_meant(command)).collect()
    }

    /// Whether the keys that there will be are out of bounds. If the sample of a lock is not, its fencing counter
    /// must not be either, whatever the prefix.
    const fn keys(&self, is_sampled: bool) -> bool {
        self.fence && !self.lock || self.lock && is_sampled
    }
}

/// The patterns of all that a manager with this prefix uses, as `ACL SETUSER` wants them.
struct Patterns {
    keys: String,
    channels: String,
}

impl Patterns {
    fn new(site: &Site) -> Self {
        let all = Key::new(&site.key_prefix, "*".to_owned(), site.fencing);
        let [fence, channel, lock] = all.map_or_else(
            |_| Default::default(),
            |key| {
                let fence = key.fence.map_or_else(String::new, |fence| format!(" ~{}", fence.name));
                [fence, key.channel, key.lock]
            },
        );
        Self { keys: format!("~{lock}{fence}"), channels: format!("&{lock}:released &{channel}") }
    }
}

/// That the user may not run these commands, nor use the things that locks need.
fn lack(commands: &[&str], things: Option<&str>) -> String {
    let commands = (!commands.is_empty()).then(|| format!("run {}", commands.join(", ")));
    let things = things.map(|things| format!("use the {things} of locks"));
    let lacks: Vec<String> = commands.into_iter().chain(things).collect();
    format!("the user may not {}", lacks.join(", nor "))
}

fn grant(commands: &[&str], patterns: Option<&str>) -> String {
    let commands = commands.iter().map(|command| format!("+{}", command.to_lowercase()));
    let rules: Vec<String> = commands.chain(patterns.map(str::to_owned)).collect();
    format!("give the user the rights, with ACL SETUSER: {}", rules.join(" "))
}

const NOTICES: &[&str] = &["PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"];
