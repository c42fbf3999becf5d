//! The examples do what they show, in memory and on real servers.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use crate::support::{Server, Site, within};

/// Runs each example in memory, on one server and on three, and looks for what it must say.
macro_rules! examples {
    ($($name:ident: $words:expr;)+) => {$(
        mod $name {
            use crate::support::Site;

            #[tokio::test]
            async fn runs_in_memory() {
                super::assert_says(stringify!($name), None, $words).await;
            }

            #[tokio::test]
            async fn runs_on_one_server() {
                super::assert_says(stringify!($name), Some(Site::servers(1)), $words).await;
            }

            #[tokio::test]
            async fn runs_on_three_servers() {
                super::assert_says(stringify!($name), Some(Site::servers(3)), $words).await;
            }
        }
    )+};
}

examples! {
    quickstart: &["Alice", "Bob", "done: the second token is higher"];
    quorum: &["acquired, fencing token", "held by anybody: false"];
    critical_section: &["returned 42", "page 1", "stopped: its validity ran out"];
    watchdog: &["renewed, valid for", "held by anybody: false"];
    worker: &["works on page 2", "stops: its guard let go of it"];
    cancellation: &["is cancelled: its validity ran out", "3 of 3 workers have stopped"];
    blocking: &["step 3 is done, the lock is valid", "locks left unreleased: 0"];
    fencing: &["turns holder 1 away", "is stale", "report by holder 2"];
    fencing_sql: &["writes its draft: 1 row", "wakes up and writes: 0 rows", "report by holder 2"];
    fencing_objects: &["turns holder 1 away: 412", "is stale", "report by holder 2"];
    fencing_http: &["wakes up, PUT /report: 412", "without a token, PUT /report: 428"];
}

#[cfg(feature = "metrics")]
examples! {
    metrics: &["redlatch_acquire_seconds_count{outcome=\"acquired\"} 9", "redlatch_losses_total"];
}

/// The example succeeds, says all these words, uses the servers, and leaves none of its locks held.
async fn assert_says(name: &str, site: Option<Site>, words: &[&str]) {
    let servers = site.as_ref().map_or(&[][..], Site::all);
    let output = within(run(name, servers)).await;
    for word in words {
        assert!(output.contains(word), "{word:?} is not in {output}");
    }
    for server in servers {
        assert!(output.contains(&server.name()), "it was not used: {output}");
    }
    // A majority has released them; the process may end before the last server hears of it.
    let left: Vec<_> = servers.iter().filter(|server| !server.lock_keys().is_empty()).collect();
    assert!(left.len() <= servers.len() / 2, "{left:?}");
}

/// What the example prints.
async fn run(name: &str, servers: &[Server]) -> String {
    let mut command = Command::new(binary(name));
    command.env_remove("REDLATCH_NODES").stdin(Stdio::null()).kill_on_drop(true);
    if !servers.is_empty() {
        let urls: Vec<_> = servers.iter().map(Server::url).collect();
        command.env("REDLATCH_NODES", urls.join(","));
    }
    let output = command.output().await.expect("the example can be started");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} ended with {}: {out}{err}", output.status);
    out.into_owned()
}

/// Where cargo has put the example: `target/debug/examples/NAME`, beside the `deps` of this test.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path is known");
    let target = test.ancestors().nth(2).expect("the test lies in target/PROFILE/deps");
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let path = target.join("examples").join(file);
    assert!(path.is_file(), "the example is not built: run `cargo build --examples` first");
    path
}
