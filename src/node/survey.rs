//! Asking a node about itself and about what its user may do. Nothing is written there.

use std::collections::HashMap;

use deadpool_redis::redis::{Cmd, FromRedisValue, Value, cmd, from_redis_value};

use super::{
    facts::{Clock, Facts, Missing, Rights, ServerFacts},
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
    /// Asks them all at once, within the node timeout.
    pub(super) async fn ask(&self, lane: &Lane) -> Result<Facts, NodeError> {
        let start = wall_micros();
        let is_cluster = lane.is_to_cluster();
        let asked = lane.query(&self.commands(is_cluster)).await;
        let read = asked.and_then(|replies| self.read(replies.into_vec(), start, wall_micros()));
        let facts = read.map_err(|failure| lane.error(failure))?;
        let of_many = || Err("the servers of a cluster are not asked one by one".to_owned());
        let appendfsync = facts.appendfsync.map(|one| if is_cluster { of_many() } else { one });
        Ok(Facts { appendfsync, ..facts })
    }

    /// A cluster is asked only what its client can ask of all its masters, or of any.
    fn commands(&self, is_cluster: bool) -> Vec<Cmd> {
        let mut commands = vec![self.rights(), cmd("INFO")];
        if !is_cluster {
            commands.push(cmd("TIME"));
        }
        if self.asks_for_fsync && !is_cluster {
            commands.push(cmd("CONFIG").arg("GET").arg("appendfsync").take());
        }
        commands
    }

    fn rights(&self) -> Cmd {
        let Key { lock, channel, .. } = self.sample;
        let fence = self.sample.fence_name();
        let hears = if self.hears { "subscribe" } else { "" };
        cmd("EVAL").arg(RIGHTS).arg(0).arg(lock).arg(fence).arg(channel).arg(hears).take()
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
        Ok(Value::Nil) => Ok(Rights::Unknown(TOO_OLD_TO_TELL.to_owned())),
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

const RIGHTS: &str = include_str!("scripts/rights.lua");
const TOO_OLD_TO_TELL: &str = "the server is older than Redis 7";
