//! Fencing in an object store: the token lies in the object, and a conditional write replaces exactly the object whose
//! token was compared.
//!
//! A map stands in for the bucket, with the conditional writes of S3: `If-None-Match: *`, and `If-Match` with an ETag
//! that follows from the content.
//!
//! ```text
//! cargo run --example fencing_objects
//! ./scripts/with-redis 5 cargo run --example fencing_objects
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    error::Error,
    hash::{Hash, Hasher},
    time::Duration,
};

use redlatch::FencingToken;
use shared::{Log, manager, nodes};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let nodes = nodes(1)?;
    let log = Log::start("A paused holder meets a fenced object", &nodes);
    let manager = manager(nodes)?;
    let key = format!("fencing_objects:{}", std::process::id());
    let mut bucket = Bucket::default();

    let first = manager.lock(&key).ttl(Duration::from_millis(500)).acquire().await?;
    let old = first.fencing_token();
    let condition = bucket.compare(old)?;
    bucket.put(condition, old, "draft by holder 1")?;
    log.say("holder 1", "writes its draft");
    let stale = bucket.compare(old)?;
    log.say("holder 1", "compares its token for the next write, and falls asleep before it writes");

    let second = manager.lock(&key).acquire().await?;
    let condition = bucket.compare(second.fencing_token())?;
    bucket.put(condition, second.fencing_token(), "report by holder 2")?;
    log.say("holder 2", "gets the expired lock and writes its report");

    sleep(Duration::from_millis(200)).await;
    match bucket.put(stale, old, "report by holder 1") {
        Err(error) => log.say("bucket", format!("turns holder 1 away: {error}")),
        Ok(()) => return Err("the bucket took a stale write".into()),
    }
    match bucket.compare(old) {
        Err(error) => log.say("holder 1", format!("looks again: {error}")),
        Ok(_) => return Err("the stale token passed".into()),
    }
    log.say(
        "bucket",
        format!("still holds: {:?}", bucket.get("report").map(|(content, _)| content)),
    );

    drop(first);
    second.release().await?;
    manager.close().await;
    Ok(())
}

#[derive(Default)]
struct Bucket {
    objects: HashMap<String, String>,
}

enum Condition {
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: etag`
    Unchanged(u64),
}

impl Bucket {
    /// On which condition the holder of this token may write. It fails if a later holder was here.
    fn compare(&self, token: FencingToken) -> Result<Condition, Box<dyn Error>> {
        let Some((content, etag)) = self.get("report") else { return Ok(Condition::Absent) };
        let highest: u64 = content.lines().next().unwrap_or_default().parse()?;
        if token.get() < highest {
            return Err(format!("token {token} is stale, {highest} was here").into());
        }
        Ok(Condition::Unchanged(etag))
    }

    /// Writes the token into the object itself, so that the ETag changes with it.
    fn put(&mut self, on: Condition, token: FencingToken, body: &str) -> Result<(), &'static str> {
        let etag = self.get("report").map(|(_, etag)| etag);
        let is_met = match on {
            Condition::Absent => etag.is_none(),
            Condition::Unchanged(wanted) => etag == Some(wanted),
        };
        if !is_met {
            return Err("412 precondition failed");
        }
        self.objects.insert("report".to_owned(), format!("{token}\n{body}"));
        Ok(())
    }

    fn get(&self, name: &str) -> Option<(&str, u64)> {
        let content = self.objects.get(name)?;
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Some((content, hasher.finish()))
    }
}
