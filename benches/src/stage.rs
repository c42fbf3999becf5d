//! What the scenarios play on: one server, five servers, and a view of what they do.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::{Outcome, calls::Calls, servers::Server};

pub struct Stage {
    quick: bool,
    pub one: Group,
    pub five: Group,
}

impl Stage {
    pub fn new(quick: bool) -> Outcome<Self> {
        Ok(Self { quick, one: Group::start(1)?, five: Group::start(5)? })
    }

    pub async fn connect(&mut self) -> Outcome<()> {
        self.one.connect().await?;
        self.five.connect().await
    }

    /// Empties all servers.
    pub async fn clear(&self) -> Outcome<()> {
        self.one.clear().await?;
        self.five.clear().await
    }

    /// One value for a full run, another for a quick one.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Servers that make up one lock: one of them, or a quorum.
pub struct Group {
    pub servers: Vec<Server>,
    /// The benchmark's own connections.
    desks: Vec<MultiplexedConnection>,
}

impl Group {
    fn start(count: usize) -> Outcome<Self> {
        let servers = (0..count).map(|_| Server::start()).collect::<Outcome<_>>()?;
        Ok(Self { servers, desks: Vec::new() })
    }

    async fn connect(&mut self) -> Outcome<()> {
        for server in &self.servers {
            let client = redis::Client::open(server.url())?;
            self.desks.push(client.get_multiplexed_async_connection().await?);
        }
        Ok(())
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    /// What the servers have executed so far, those that hang left out.
    pub async fn calls(&self) -> Outcome<Calls> {
        let mut calls = Calls::default();
        for mut desk in self.awake() {
            let info: String =
                redis::cmd("INFO").arg("commandstats").query_async(&mut desk).await?;
            calls.add(&Calls::parse(&info));
        }
        Ok(calls)
    }

    /// The CPU time that the servers have taken so far, those that hang left out.
    pub async fn cpu_time(&self) -> Outcome<Duration> {
        let mut taken = Duration::ZERO;
        for mut desk in self.awake() {
            let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut desk).await?;
            taken += parse_cpu_time(&info).ok_or("a server does not tell its CPU time")?;
        }
        Ok(taken)
    }

    /// Waits until one owner's keys are all released. Returns how many stay locked.
    pub async fn settle(&self, owner: &str) -> Outcome<usize> {
        let begin = Instant::now();
        loop {
            let locked = self.locked(owner).await?;
            if locked == 0 || begin.elapsed() >= PATIENCE {
                return Ok(locked);
            }
            // What a lap leaves to the background counts as its time: a pause would make it longer than it is.
            if begin.elapsed() >= WITHOUT_PAUSE {
                sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// How many keys of an owner there are that are no fencing counters. The owner is what stands before the first
    /// colon, mostly a contender's name.
    pub async fn locked(&self, owner: &str) -> Outcome<usize> {
        let is_owners = |key: &&String| key.split(':').next() == Some(owner);
        let mut locked = 0;
        for mut desk in self.awake() {
            locked += locked_keys(&mut desk).await?.iter().filter(is_owners).count();
        }
        Ok(locked)
    }

    async fn clear(&self) -> Outcome<()> {
        for mut desk in self.awake() {
            redis::cmd("FLUSHALL").exec_async(&mut desk).await?;
        }
        Ok(())
    }

    fn awake(&self) -> impl Iterator<Item = MultiplexedConnection> {
        let desks = self.servers.iter().zip(&self.desks);
        desks.filter(|(server, _)| !server.is_stopped()).map(|(_, desk)| desk.clone())
    }
}

fn parse_cpu_time(info: &str) -> Option<Duration> {
    let seconds = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name))?;
        Duration::try_from_secs_f64(value.trim().parse().ok()?).ok()
    };
    Some(seconds("used_cpu_sys:")? + seconds("used_cpu_user:")?)
}

async fn locked_keys(desk: &mut MultiplexedConnection) -> Outcome<Vec<String>> {
    let (mut cursor, mut locked) = (0_u64, Vec::new());
    loop {
        let scan = redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(1_000).to_owned();
        let (next, keys): (u64, Vec<String>) = scan.query_async(desk).await?;
        locked.extend(keys.into_iter().filter(|key| !key.ends_with(":fence")));
        if next == 0 {
            return Ok(locked);
        }
        cursor = next;
    }
}

/// How long releases in the background may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long they mostly take at the most.
const WITHOUT_PAUSE: Duration = Duration::from_millis(20);
