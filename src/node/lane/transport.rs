//! The transport: the connection itself, to one server or to a cluster of them.

use std::time::Duration;

use redis::{
    Cmd, ErrorKind, Pipeline, RedisError, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd, from_redis_value,
};

use crate::types::few::Few;

#[cfg(feature = "cluster")]
use redis::cluster_async::ClusterConnection;

/// A connection that any number of callers may use at a time.
#[derive(Clone)]
pub(in crate::node) enum Transport {
    Server(MultiplexedConnection),
    #[cfg(feature = "cluster")]
    Cluster(ClusterConnection),
    #[cfg(test)]
    Simulated(crate::simulation::Wire),
}

impl Transport {
    /// Sends one command; it takes its place in the order at the first poll.
    pub(in crate::node) async fn send_one(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Server(server) => server.send_packed_command(cmd).await,
            #[cfg(test)]
            Self::Simulated(server) => server.send_packed_command(cmd).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.req_packed_command(cmd).await,
        }
    }

    /// Sends commands, in one write where they all go to one server.
    pub(in crate::node) async fn send_all(&mut self, cmds: Few<Cmd>) -> Replies {
        match self {
            Self::Server(server) => pipe(server, cmds).await,
            #[cfg(test)]
            Self::Simulated(server) => pipe(server, cmds).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => spread(cluster, &cmds).await,
        }
    }

    /// How long the server has been up at least. It tells the difference of two readings of its clock in whole
    /// seconds, which is almost a second too much if it came up late in one.
    pub(in crate::node) async fn uptime(&mut self) -> Result<Duration, RedisError> {
        let reply = self.send_one(cmd("INFO").arg("server")).await?.extract_error()?;
        let info: String = from_redis_value(reply)?;
        let uptime = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:"));
        let seconds = uptime.and_then(|seconds| seconds.trim().parse().ok());
        let unknown = (ErrorKind::UnexpectedReturnType, "the server does not tell its uptime");
        let at_least = |seconds: u64| Duration::from_secs(seconds.saturating_sub(1));
        seconds.map(at_least).ok_or_else(|| unknown.into())
    }

    /// How long it may be silent and still be thought alive.
    pub(in crate::node) const fn longest_silence(&self) -> Option<Duration> {
        match self {
            Self::Server(_) => Some(LONGEST_SILENCE),
            #[cfg(test)]
            Self::Simulated(_) => Some(crate::simulation::LONGEST_SILENCE),
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => None,
        }
    }

    /// The number of the database that the connection is about.
    pub(in crate::node) fn database(&self) -> i64 {
        match self {
            Self::Server(server) => server.get_db(),
            #[cfg(test)]
            Self::Simulated(server) => server.get_db(),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }

    pub(in crate::node) const fn is_to_cluster(&self) -> bool {
        match self {
            Self::Server(_) => false,
            #[cfg(test)]
            Self::Simulated(_) => false,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => true,
        }
    }
}

async fn pipe(server: &mut MultiplexedConnection, cmds: Few<Cmd>) -> Replies {
    let (count, mut pipeline) = (cmds.len(), Pipeline::with_capacity(cmds.len()));
    for cmd in cmds {
        pipeline.add_command(cmd);
    }
    let replies = server.send_packed_commands(&pipeline, 0, count).await?;
    Ok(replies.into_iter().map(Value::extract_error).collect())
}

/// Sends commands whose keys lie on different servers: a cluster's pipeline must keep to one slot. Each fares
/// for itself; the connection has failed if none of them got a reply.
#[cfg(feature = "cluster")]
async fn spread(cluster: &ClusterConnection, cmds: &[Cmd]) -> Replies {
    let send = async |cmd| {
        let mut cluster = cluster.clone();
        cluster.req_packed_command(cmd).await.and_then(Value::extract_error)
    };
    let replies = futures_util::future::join_all(cmds.iter().map(send)).await;
    let is_silence =
        |reply: &&Result<_, RedisError>| reply.as_ref().is_err_and(|error| error.code().is_none());
    match replies.iter().find(is_silence) {
        Some(Err(error)) if replies.iter().all(|reply| is_silence(&reply)) => Err(error.clone()),
        _ => Ok(replies.into()),
    }
}

const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// The reply to each command, or why the connection gave none.
pub(in crate::node) type Replies = Result<Few<Result<Value, RedisError>>, RedisError>;
