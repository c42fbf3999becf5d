//! Fencing in SQL: the statement that writes also compares the fencing token.
//!
//! SQLite stands in for the database, so that it runs anywhere; the statement is the same in PostgreSQL.
//!
//! ```text
//! cargo run --example fencing_sql
//! ./scripts/with-redis 5 cargo run --example fencing_sql
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

mod shared;

use std::{error::Error, time::Duration};

use redlatch::FencingToken;
use rusqlite::{Connection, params};
use shared::{Log, manager, nodes};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let nodes = nodes(1)?;
    let log = Log::start("A paused holder meets a fenced table", &nodes);
    let manager = manager(nodes)?;
    let key = format!("fencing_sql:{}", std::process::id());
    let reports = Reports::open()?;

    let first = manager.lock(&key).ttl(Duration::from_millis(500)).acquire().await?;
    let rows = reports.save(first.fencing_token(), "draft by holder 1")?;
    log.say("holder 1", format!("writes its draft: {rows} row, and falls asleep"));

    let second = manager.lock(&key).acquire().await?;
    let rows = reports.save(second.fencing_token(), "report by holder 2")?;
    log.say("holder 2", format!("gets the expired lock and writes its report: {rows} row"));

    sleep(Duration::from_millis(200)).await;
    let rows = reports.save(first.fencing_token(), "report by holder 1")?;
    log.say("holder 1", format!("wakes up and writes: {rows} rows, so a later holder was here"));
    if rows > 0 {
        return Err("the table took a stale write".into());
    }
    log.say("table", format!("still holds: {:?}", reports.body()?));

    drop(first);
    second.release().await?;
    manager.close().await;
    Ok(())
}

struct Reports(Connection);

impl Reports {
    fn open() -> rusqlite::Result<Self> {
        let db = Connection::open_in_memory()?;
        let table = "CREATE TABLE reports (id TEXT PRIMARY KEY, body TEXT NOT NULL, fencing_token BIGINT NOT NULL)";
        db.execute(table, [])?;
        Ok(Self(db))
    }

    /// Writes the report, be it the first write or a later one. Returns the rows written: none if a later holder
    /// was here.
    fn save(&self, token: FencingToken, body: &str) -> Result<usize, Box<dyn Error>> {
        let token = i64::try_from(token.get())?;
        Ok(self.0.execute(SAVE, params![token, body])?)
    }

    fn body(&self) -> rusqlite::Result<String> {
        self.0.query_row("SELECT body FROM reports", [], |row| row.get(0))
    }
}

const SAVE: &str = "
    INSERT INTO reports (id, body, fencing_token) VALUES ('q3', ?2, ?1)
    ON CONFLICT (id) DO UPDATE
       SET body = excluded.body, fencing_token = excluded.fencing_token
     WHERE reports.fencing_token <= excluded.fencing_token";
