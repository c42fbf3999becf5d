//! The command under test, and what it says.

use std::ffi::OsStr;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::support::{Server, within};

/// The command on these servers, as patient as a loaded machine needs it.
pub(crate) fn redlatch(servers: &[Server], args: &[&str]) -> Command {
    redlatch_within("10s", servers, args)
}

/// The command on these servers, with the given node timeout.
pub(crate) fn redlatch_within(timeout: &str, servers: &[Server], args: &[&str]) -> Command {
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    let mut command = bare(&["--node-timeout", timeout]);
    command.env("REDLATCH_NODES", urls.join(",")).args(args);
    command
}

/// The command without any servers.
pub(crate) fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redlatch"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn is_ours(variable: &OsStr) -> bool {
    variable.to_string_lossy().starts_with("REDLATCH_")
}

/// How a command ended, and all that it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command to its end.
pub(crate) async fn run(mut command: Command) -> Ended {
    Running::start(&mut command).end().await
}

/// Runs the command on these servers to its end.
pub(crate) async fn on(servers: &[Server], args: &[&str]) -> Ended {
    run(redlatch(servers, args)).await
}

/// A command that is running.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    err: Lines<BufReader<ChildStderr>>,
    said: Vec<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the command starts");
        let err = child.stderr.take().expect("its standard error is piped");
        Self { child, err: BufReader::new(err).lines(), said: Vec::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it is running")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().expect("it fits")).expect("it is not 0");
        kill_process(pid, signal).expect("it can be signalled");
    }

    /// Waits until it says a line with these words.
    pub(crate) async fn says(&mut self, words: &str) -> String {
        loop {
            let line = within(self.err.next_line()).await.expect("it can be read");
            let line = line.unwrap_or_else(|| panic!("{words:?} is not in {:#?}", self.said));
            self.said.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Waits until it tells of this event, in JSON.
    pub(crate) async fn tells(&mut self, event: &str) -> Value {
        let line = self.says(&format!("{{\"event\":\"{event}\"")).await;
        serde_json::from_str(&line).expect("it is JSON")
    }

    pub(crate) async fn end(mut self) -> Ended {
        let mut out = String::new();
        let mut stdout = self.child.stdout.take().expect("its standard output is piped");
        // Both at once: neither may fill up.
        let (read, rest) = within(async {
            tokio::join!(stdout.read_to_string(&mut out), async {
                let mut rest = Vec::new();
                while let Some(line) = self.err.next_line().await.expect("it can be read") {
                    rest.push(line);
                }
                rest
            })
        })
        .await;
        read.expect("it is UTF-8");
        self.said.extend(rest);
        let status = within(self.child.wait()).await.expect("it ends");
        let code = status.code().unwrap_or_else(|| panic!("it was killed: {status}"));
        Ended { code, out, err: self.said.join("\n") }
    }
}

impl Ended {
    /// The standard output as JSON, one value a line.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
    }

    #[track_caller]
    pub(crate) fn is(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn says(&self, words: &str) -> &Self {
        assert!(self.err.contains(words), "{words:?} is not in {self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn prints(&self, words: &str) -> &Self {
        assert!(self.out.contains(words), "{words:?} is not in {self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn is_silent(&self) -> &Self {
        assert!(self.out.is_empty() && self.err.is_empty(), "{self:?}");
        self
    }
}
