//! Fencing: a holder that slept through the end of its lock is turned away by the resource itself.
//!
//! No lock with a TTL can stop a paused process from writing late; the resource can, if it remembers the
//! highest fencing token it has seen (Kleppmann, "How to do distributed locking", 2016).
//!
//! ```text
//! cargo run --example fencing
//! ./scripts/with-redis 5 cargo run --example fencing
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::{error::Error, fs, io, path::PathBuf, time::Duration};

use redlatch::FencingToken;
use shared::{Log, manager, nodes};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let nodes = nodes(1)?;
    let log = Log::start("A paused holder meets a fenced file", &nodes);
    let manager = manager(nodes)?;
    let key = format!("fencing:{}", std::process::id());
    let dir = tempfile::tempdir()?;
    let mut file = FencedFile { path: dir.path().join("report.txt") };

    let first = manager.lock(&key).ttl(Duration::from_millis(500)).acquire().await?;
    log.say(
        "holder 1",
        format!("has the lock for 500 ms, fencing token {}", first.fencing_token()),
    );
    file.write(first.fencing_token(), "draft by holder 1")?;
    log.say(
        "holder 1",
        "writes its draft, and falls asleep: a long garbage collection, a closed laptop",
    );

    let second = manager.lock(&key).acquire().await?;
    log.say("holder 2", format!("gets the expired lock, fencing token {}", second.fencing_token()));
    file.write(second.fencing_token(), "report by holder 2")?;
    log.say("holder 2", "writes its report");

    sleep(Duration::from_millis(300)).await;
    log.say("holder 1", "wakes up, takes the lock for its own still, and writes");
    match file.write(first.fencing_token(), "report by holder 1") {
        Err(error) => log.say("file", format!("turns holder 1 away: {error}")),
        Ok(()) => return Err("the file took a stale write".into()),
    }
    log.say("file", format!("still holds: {:?}", file.read()?.1));

    let (late, in_time) = (first.release().await, second.release().await);
    log.say("holder 1", format!("releases: {late:?}"));
    log.say("holder 2", format!("releases: {in_time:?}"));
    manager.close().await;
    Ok(())
}

/// A file that keeps the highest fencing token it has seen in its first line.
///
/// `&mut self` makes check and write one step here. A real resource does both in one transaction.
struct FencedFile {
    path: PathBuf,
}

impl FencedFile {
    /// Writes, unless somebody with a higher token has written before.
    fn write(&mut self, token: FencingToken, text: &str) -> io::Result<()> {
        let highest = self.read()?.0;
        if token < highest {
            return Err(io::Error::other(format!("token {token} is stale, {highest} was here")));
        }
        let next = self.path.with_extension("next");
        fs::write(&next, format!("{token}\n{text}"))?;
        fs::rename(&next, &self.path)
    }

    fn read(&self) -> io::Result<(FencingToken, String)> {
        if !self.path.exists() {
            return Ok((FencingToken::new(0), String::new()));
        }
        let content = fs::read_to_string(&self.path)?;
        let (token, text) = content.split_once('\n').unwrap_or(("0", &content));
        let token = token.parse().map_err(io::Error::other)?;
        Ok((FencingToken::new(token), text.to_owned()))
    }
}
