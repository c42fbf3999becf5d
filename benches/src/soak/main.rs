//! The soak: managers lock a few dozen keys on a quorum of five servers, while those are stopped, killed, cut off and
//! robbed of their scripts. It prints one table, and fails if two guards of one key were valid at once, if a fencing
//! token did not grow, or if a lock's key is left at the end. `scripts/soak` builds and runs it.

mod chaos;
mod dice;
mod leftovers;
mod tally;
mod witness;
mod worker;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use redlatch::LockManager;
use redlatch_bench::{Outcome, servers::Server};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{chaos::Chaos, tally::Tally, witness::Witness, worker::Worker};

fn main() -> ExitCode {
    let seconds = match std::env::args().nth(1).map(|seconds| seconds.parse()) {
        None => 600,
        Some(Ok(seconds)) => seconds,
        Some(Err(_not_a_number)) => {
            eprintln!("usage: soak [SECONDS]");
            return ExitCode::from(64);
        }
    };
    soak(Duration::from_secs(seconds)).unwrap_or_else(|error| {
        eprintln!("soak: {error}");
        ExitCode::FAILURE
    })
}

/// Runs the soak. The servers belong to this thread: they end with it, however it ends.
fn soak(length: Duration) -> Outcome<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    let servers = (0..NODES).map(|_| Server::start()).collect::<Outcome<Vec<_>>>()?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            code = play(length, servers) => code,
            _ = interrupted.recv() => Ok(ExitCode::from(130)),
            _ = terminated.recv() => Ok(ExitCode::from(143)),
        }
    })
}

async fn play(length: Duration, servers: Vec<Server>) -> Outcome<ExitCode> {
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    let managers = (0..MANAGERS).map(|_| manager(&urls)).collect::<redlatch::Result<Vec<_>>>()?;
    for manager in &managers {
        manager.ping().await; // connects, so that the memory at the start is that of a process at work
    }
    let (witness, tally) = (Arc::new(Witness::default()), Arc::new(Tally::default()));
    let (began, memory) = (Instant::now(), resident());
    let workers = set_to_work(&managers, began + length, &witness, &tally);
    let mut chaos = Chaos::new(servers);
    chaos.rage(length).await?;
    settle(workers, &witness).await;
    let unreleased = close(&managers).await;
    sleep(worker::LONGEST_FORGOTTEN * 2).await;
    let left = leftovers::count(&urls)?;
    let violations = witness.violations();
    let rows = [
        ("seconds", length.as_secs().to_string()),
        ("acquisitions", tally.acquisitions.to_string()),
        ("contended", tally.contended.to_string()),
        ("unavailable", tally.unavailable.to_string()),
        ("too late to be valid", tally.expired.to_string()),
        ("cancelled", tally.cancelled.to_string()),
        ("losses", tally.losses.to_string()),
        ("faults", chaos.to_string()),
        ("violations", violations.to_string()),
        ("unreleased at close", unreleased.to_string()),
        ("keys left", left.to_string()),
        ("memory at start", memory),
        ("memory at end", resident()),
    ];
    println!("| figure | value |\n|---|---|");
    for (figure, value) in rows {
        println!("| {figure} | {value} |");
    }
    Ok(if violations == 0 && left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn manager(urls: &[String]) -> redlatch::Result<LockManager> {
    LockManager::quorum(urls).key_prefix(PREFIX).node_timeout(NODE_TIMEOUT).build()
}

fn set_to_work(
    managers: &[LockManager],
    until: Instant,
    witness: &Arc<Witness>,
    tally: &Arc<Tally>,
) -> JoinSet<()> {
    let mut workers = JoinSet::new();
    for number in 0..MANAGERS * TASKS {
        let worker = Worker::new(number, managers.to_vec(), witness.clone(), tally.clone());
        workers.spawn(worker.work(until));
    }
    workers
}

/// Waits for the workers to end. One that hangs or panics is a violation too: no wait of theirs is without limit.
async fn settle(mut workers: JoinSet<()>, witness: &Witness) {
    let all = async {
        while let Some(end) = workers.join_next().await {
            if let Err(error) = end {
                witness.object(&format!("a worker panicked: {error}"));
            }
        }
    };
    if timeout(Duration::from_secs(60), all).await.is_err() {
        witness.object(&format!("{} workers hang", workers.len()));
        workers.abort_all();
    }
}

/// Closes all managers; returns how many locks they could not release in time.
async fn close(managers: &[LockManager]) -> usize {
    let mut unreleased = 0;
    for manager in managers {
        unreleased += manager.close().await;
    }
    unreleased
}

/// What this process has in memory.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    size.map_or_else(|| "unknown".to_owned(), |size| size.trim().to_owned())
}

const NODES: usize = 5;
const MANAGERS: usize = 4;
/// Per manager.
const TASKS: usize = 16;
const NODE_TIMEOUT: Duration = Duration::from_millis(200);
pub const PREFIX: &str = "soak:";
