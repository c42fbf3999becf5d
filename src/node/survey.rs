//! Asking a node about itself and about what its user may do. Nothing is written there.

use std::collections::HashMap;

use redis::{Cmd, FromRedisValue, Value, cmd, from_redis_value};

use super::{
    facts::{Clock, Facts, Missing, Rights, ServerFacts, has_all_slots},
    failure::Failure,
    lane::Lane,
};
use crate::{
    host::clock::wall_micros,
    types::{error::NodeError, key::Key},
};

/// What is asked of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Questions<'a> {
    /// A key as a lock's would be.
    pub(crate) sample: &'a Key,
    /// Whether notices are heard as the same user.
    pub(crate) hears: bool,
    /// Whether it matters how safely the node keeps what it stored.
    pub(crate) asks_for_fsync: bool,
}

impl Questions<'_> {
    /// Asks them all at once, within the node timeout, and then what only some nodes must be asked.
    pub(super) async fn ask(&self, lane: &Lane) -> Result<Facts, NodeError> {
        self.facts(lane).await.map_err(|failure| lane.error(failure))
    }

    async fn facts(&self, lane: &Lane) -> Result<Facts, Failure> {
        let start = wall_micros();
        let is_cluster = lane.is_to_cluster();
        let mut replies = lane.query(&self.commands(is_cluster)).await?.into_vec();
        let end = wall_micros();
        if let Some(rights) = replies.first_mut()
            && let Err(refusal) = rights
            && is_about_keys(refusal)
        {
            let are_forbidden = refusal.code() == Some("NOPERM");
            *rights = self.rights_without_keys(lane, are_forbidden).await;
        }
        let mut facts = self.read(replies, start, end)?;
        if is_cluster {
            let of_many = || Err("the servers of a cluster are not asked one by one".to_owned());
            facts.appendfsync = facts.appendfsync.map(|_| of_many());
        } else if let [server] = &mut facts.servers[..]
            && server.mode.as_deref() == Some("cluster")
        {
            let nodes = one(lane, cmd("CLUSTER").arg("NODES").take()).await;
            server.has_all_slots =
                nodes.and_then(read).ok().map(|nodes: String| has_all_slots(&nodes));
        }
        Ok(facts)
    }

    /// Keys that may not be named in a command may be in what the script is told.
    async fn rights_without_keys(
        &self,
        lane: &Lane,
        are_forbidden: bool,
    ) -> Result<Value, Failure> {
        match one(lane, self.rights(&[])).await {
            // It cannot tell more, or takes no script without keys.
            Ok(Value::Nil) | Err(_) if are_forbidden => {
                let what = ["lock", "fence"].map(|what| Value::SimpleString(what.to_owned()));
                Ok(Value::Array(what.into()))
            }
            reply => reply,
        }
    }

    /// A cluster is asked only what its client can ask of all its masters, or of any.
    fn commands(&self, is_cluster: bool) -> Vec<Cmd> {
        let Key { lock, .. } = self.sample;
        let fence = self.sample.fence_name();
        let keys = [&**lock, fence];
        // Named, as those of locks are: some services refuse a script without keys.
        let keys = if fence.is_empty() { &keys[..1] } else { &keys };
        let mut commands = vec![self.rights(keys), cmd("INFO")];
        if !is_cluster {
            commands.push(cmd("TIME"));
        }
        if self.asks_for_fsync && !is_cluster {
            commands.push(cmd("CONFIG").arg("GET").arg("appendfsync").take());
        }
        commands
    }

    fn rights(&self, keys: &[&str]) -> Cmd {
        let Key { lock, channel, .. } = self.sample;
        let fence = self.sample.fence_name();
        let hears = if self.hears { "subscribe" } else { "" };
        let mut eval = cmd("EVAL").arg(RIGHTS).arg(keys.len()).arg(keys).take();
        eval.arg(lock).arg(fence).arg(channel).arg(hears).take()
    }

    fn read(
        &self,
        replies: Vec<Result<Value, Failure>>,
        start: u64,
        end: u64,
    ) -> Result<Facts, Failure> {
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Err(Failure::Shape));
        let (rights, info) = (read_rights(next())?, next());
        let (mut servers, silence) = match info.and_then(|info| read_servers(info, start, end)) {
            Ok(servers) => (servers, None),
            Err(failure) => (vec![ServerFacts::default()], Some(failure.to_string())),
        };
        if let ([server], Ok((seconds, micros))) =
            (&mut servers[..], next().and_then(read::<(u64, u64)>))
        {
            let time = seconds.saturating_mul(1_000_000).saturating_add(micros);
            server.clock = Some(Clock::read(time, start, end));
        }
        let appendfsync = self.asks_for_fsync.then(|| {
            // A list of pairs, or a map.
            let settings = next().and_then(read::<HashMap<String, String>>);
            let setting = settings.map(|mut settings| settings.remove("appendfsync"));
            setting
                .and_then(|found| found.ok_or(Failure::Shape))
                .map_err(|failure| failure.to_string())
        });
        Ok(Facts { servers, silence, appendfsync, rights })
    }
}

/// A cluster answers with what each of its masters says.
fn read_servers(info: Value, start: u64, end: u64) -> Result<Vec<ServerFacts>, Failure> {
    let server = |info: Value| {
        let info: String = read(info)?;
        let time = info.lines().find_map(|line| line.strip_prefix("server_time_usec:"));
        let time = time.and_then(|time| time.trim().parse().ok());
        let clock = time.map(|time| Clock::read(time, start, end));
        Ok::<_, Failure>(ServerFacts { clock, ..ServerFacts::read(&info) })
    };
    let Value::Map(infos) = info else { return Ok(vec![server(info)?]) };
    let servers = infos
        .into_iter()
        .map(|(address, info)| Ok(ServerFacts { address: Some(read(address)?), ..server(info)? }));
    servers.collect()
}

/// Reads what the script says of the user's rights. A node that cannot run scripts now is of no use.
fn read_rights(reply: Result<Value, Failure>) -> Result<Rights, Failure> {
    match reply {
        Ok(Value::Nil) => Ok(Rights::TooOld),
        Ok(found) => Ok(Rights::Missing(Missing::read(read(found)?))),
        Err(Failure::Redis(error)) if error.code() == Some("NOPERM") => {
            Ok(Rights::Missing(Missing::read(vec!["EVAL".to_owned()])))
        }
        Err(Failure::Redis(error)) if error.code() == Some("ERR") => {
            Ok(Rights::Unknown(error.to_string()))
        }
        Err(failure) => Err(failure),
    }
}

fn read<T: FromRedisValue>(reply: Value) -> Result<T, Failure> {
    from_redis_value(reply).map_err(|error| Failure::Redis(error.into()))
}

async fn one(lane: &Lane, command: Cmd) -> Result<Value, Failure> {
    lane.query(&[command]).await?.pop().unwrap_or(Err(Failure::Shape))
}

/// Whether the command was refused for its keys: the user may not use them, or another server of a cluster has them.
fn is_about_keys(refusal: &Failure) -> bool {
    let Failure::Redis(error) = refusal else { return false };
    match error.code() {
        Some("NOPERM") => {
            let words = error.detail().unwrap_or_default();
            // A user may be called `key`.
            words.contains("key") && !words.contains("run the")
        }
        code => code.is_some_and(|code| ELSEWHERE.contains(&code)),
    }
}

const ELSEWHERE: [&str; 5] = ["MOVED", "ASK", "TRYAGAIN", "CROSSSLOT", "CLUSTERDOWN"];
const RIGHTS: &str = include_str!("scripts/rights.lua");
