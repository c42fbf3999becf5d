//! The chaos: what befalls the servers.

use std::{
    fmt,
    time::{Duration, Instant},
};

use redlatch_bench::{Outcome, servers::Server};
use tokio::time::sleep;

use crate::{dice::Dice, worker::LONGEST_TTL};

/// Never more than two servers are stopped or down at a time, so that a majority is always there.
pub struct Chaos {
    servers: Vec<Server>,
    dice: Dice,
    down: Option<Down>,
    stops: usize,
    restarts: usize,
    cuts: usize,
    flushes: usize,
}

/// A killed server, and when it may come back: once no lock lives any more of which it knew. Earlier, a lock that it
/// voted for could be granted a second time, which no quorum can prevent.
struct Down {
    index: usize,
    until: Instant,
}

impl Chaos {
    pub fn new(servers: Vec<Server>) -> Self {
        let dice = Dice::new(usize::from(u16::MAX));
        Self { servers, dice, down: None, stops: 0, restarts: 0, cuts: 0, flushes: 0 }
    }

    /// Does harm for so long; afterwards all servers are up. To be polled on the main thread, since it starts servers.
    pub async fn rage(&mut self, length: Duration) -> Outcome<()> {
        let began = Instant::now();
        while began.elapsed() < length {
            sleep(self.dice.millis(50, 600)).await;
            match self.dice.below(10) {
                0..4 => self.stop().await?,
                4..7 => self.cut().await?,
                7..9 => self.flush()?,
                _ if self.down.is_none() => self.kill()?,
                _ => {}
            }
            self.revive(Instant::now())?;
        }
        if let Some(down) = &self.down {
            sleep(down.until.saturating_duration_since(Instant::now())).await;
            self.revive(Instant::now())?;
        }
        Ok(())
    }

    /// Stops one server or two for a while: shorter and longer than the node timeout and the shorter TTLs.
    async fn stop(&mut self) -> Outcome<()> {
        let most = if self.down.is_some() { 1 } else { 2 };
        let (count, length) = (1 + self.dice.below(most), self.dice.millis(20, 1_500));
        self.stops += count;
        let first = self.dice.below(self.servers.len());
        let stopped: Vec<_> = self.some(first, count).map(Server::stop).collect::<Outcome<_>>()?;
        sleep(length).await;
        drop(stopped);
        Ok(())
    }

    /// Cuts all connections of some servers, again and again.
    async fn cut(&mut self) -> Outcome<()> {
        let count = 1 + self.dice.below(self.servers.len());
        for _ in 0..=self.dice.below(5) {
            for kind in ["normal", "pubsub"] {
                self.tell(count, &["CLIENT", "KILL", "TYPE", kind])?;
            }
            self.cuts += count;
            sleep(self.dice.millis(1, 40)).await;
        }
        Ok(())
    }

    /// Has some servers forget the scripts.
    fn flush(&mut self) -> Outcome<()> {
        let count = 1 + self.dice.below(self.servers.len());
        self.flushes += count;
        self.tell(count, &["SCRIPT", "FLUSH"])
    }

    fn kill(&mut self) -> Outcome<()> {
        let index = self.dice.below(self.servers.len());
        self.servers[index].kill()?;
        self.down = Some(Down { index, until: Instant::now() + LONGEST_TTL + MARGIN });
        Ok(())
    }

    fn revive(&mut self, now: Instant) -> Outcome<()> {
        if let Some(down) = self.down.take_if(|down| down.until <= now) {
            self.servers[down.index].revive()?;
            self.restarts += 1;
        }
        Ok(())
    }

    /// Sends a command to so many servers that are up, or to all of them.
    fn tell(&mut self, count: usize, command: &[&str]) -> Outcome<()> {
        let first = self.dice.below(self.servers.len());
        for server in self.some(first, count) {
            let client = redis::Client::open(server.url())?;
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
            redis::cmd(command[0]).arg(&command[1..]).query::<redis::Value>(&mut connection)?;
        }
        Ok(())
    }

    /// So many of the servers that are up, one after the other from the `first` on.
    fn some(&self, first: usize, count: usize) -> impl Iterator<Item = &Server> {
        let down = self.down.as_ref().map(|down| down.index);
        let all = self.servers.iter().enumerate();
        let up = all.filter(move |(index, _)| Some(*index) != down).map(|(_, server)| server);
        let count = count.min(up.clone().count());
        up.cycle().skip(first).take(count)
    }
}

impl fmt::Display for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stops, restarts, cuts, flushes, .. } = self;
        write!(f, "{stops} stops, {restarts} restarts empty, ")?;
        write!(f, "{cuts} times all connections of a server cut, {flushes} script flushes")
    }
}

/// The clients' drift allowance and then some.
const MARGIN: Duration = Duration::from_secs(1);
