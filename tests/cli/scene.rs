//! What commands under test leave behind for the tests to look at.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::eventually;

/// A directory of facts, the working directory of a command.
#[derive(Debug)]
pub(crate) struct Scene(TempDir);

impl Scene {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    pub(crate) fn of<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.current_dir(self.0.path())
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap_or_default()
    }

    pub(crate) async fn comes_to_have(&self, file: &str) {
        eventually(&format!("there is a {file}"), async || !self.read(file).is_empty()).await;
    }

    /// The time of the last beat that `HEART` wrote to `file`, since 1970.
    pub(crate) fn last_beat(&self, file: &str) -> Duration {
        let text = self.read(file);
        let beat = text.lines().rfind(|line| line.len() == "1234567890123".len());
        Duration::from_millis(beat.expect("it has beaten").parse().expect("a beat is a number"))
    }

    /// Waits until the process that wrote its id to `file` is gone.
    pub(crate) async fn loses(&self, file: &str) {
        let pid = self.read(file).trim().parse().expect("it is a process id");
        let pid = Pid::from_raw(pid).expect("it is not 0");
        eventually("the process is gone", async || test_kill_process(pid) == Err(Errno::SRCH))
            .await;
    }
}

/// Shell code: ignores TERM, writes its process id to `NAME.pid`, and its time to `NAME` until it is killed.
pub(crate) fn heart(name: &str) -> String {
    format!(
        "(trap '' TERM; exec sh -c 'echo $$ > {name}.pid; while :; do date +%s%3N >> {name}; sleep 0.02; done')"
    )
}
