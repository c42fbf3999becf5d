//! The bare commands that a lock needs at the least.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{AsyncConnectionConfig, Client, Cmd, Value, aio::MultiplexedConnection};

use crate::Outcome;

/// One connection to each server, cloned for each command.
#[derive(Clone)]
pub struct Bare(Arc<Shared>);

struct Shared {
    wires: Vec<MultiplexedConnection>,
    /// The hash of the script that releases.
    release: String,
}

impl Bare {
    pub async fn connect(clients: Vec<Client>) -> Outcome<Self> {
        let (mut wires, mut release) = (Vec::new(), String::new());
        // A command that nobody waits for is not skipped: what one of a quorum is late with is done all the same.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        for client in clients {
            let mut wire = client.get_multiplexed_async_connection_with_config(&config).await?;
            let load = redis::cmd("SCRIPT").arg("LOAD").arg(COMPARE_AND_DELETE).to_owned();
            release = load.query_async(&mut wire).await?;
            wires.push(wire);
        }
        Ok(Self(Arc::new(Shared { wires, release })))
    }

    /// Takes the lock. On one server it asks without pause until it has it; on several it asks once.
    pub async fn acquire(&self, key: &str, ttl: Duration) -> Outcome<Held> {
        let token = next_token();
        let mut set = redis::cmd("SET");
        set.arg(key).arg(&token).arg("NX").arg("PX").arg(ttl.as_millis() as u64);
        let held = Held { bare: self.clone(), key: key.to_owned(), token };
        let is_one = self.0.wires.len() == 1;
        let is_held =
            if is_one { self.spin(&set).await? } else { self.ask_all(set, Value::Okay).await };
        if is_held { Ok(held) } else { Err("no majority".into()) }
    }

    async fn spin(&self, set: &Cmd) -> Outcome<bool> {
        while self.ask_one(set).await? != Value::Okay {}
        Ok(true)
    }

    async fn ask_one(&self, cmd: &Cmd) -> Outcome<Value> {
        let mut wire = self.0.wires[0].clone();
        Ok(wire.send_packed_command(cmd).await?)
    }

    /// Asks all servers at once. Returns whether a majority answered `yes`; the rest finish on their own.
    async fn ask_all(&self, cmd: Cmd, yes: Value) -> bool {
        let (cmd, nodes) = (Arc::new(cmd), self.0.wires.len());
        let ask = |mut wire: MultiplexedConnection| {
            let cmd = cmd.clone();
            async move { wire.send_packed_command(&cmd).await }
        };
        let mut calls: FuturesUnordered<_> = self.0.wires.iter().cloned().map(ask).collect();
        let (quorum, mut agreed, mut refused) = (nodes / 2 + 1, 0, 0);
        while agreed < quorum && refused <= nodes - quorum {
            match calls.next().await {
                Some(Ok(value)) if value == yes => agreed += 1,
                Some(_) => refused += 1,
                None => break,
            }
        }
        if !calls.is_empty() {
            tokio::spawn(async move { while calls.next().await.is_some() {} });
        }
        agreed >= quorum
    }
}

pub struct Held {
    bare: Bare,
    key: String,
    token: String,
}

impl Held {
    pub async fn release(self) -> Outcome<()> {
        let mut release = redis::cmd("EVALSHA");
        release.arg(&self.bare.0.release).arg(1).arg(&self.key).arg(&self.token);
        let is_one = self.bare.0.wires.len() == 1;
        let is_released = if is_one {
            self.bare.ask_one(&release).await? == Value::Int(1)
        } else {
            self.bare.ask_all(release, Value::Int(1)).await
        };
        if is_released { Ok(()) } else { Err("the lock was gone".into()) }
    }
}

/// A token that no other process has either.
fn next_token() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:08x}-{:016x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
