//! A command in a process group of its own.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::Command,
    sync::mpsc::{Sender, channel},
    thread,
    time::Duration,
};

use redlatch::LockGuard;
use rustix::{
    io::Errno,
    process::{
        Pid, Signal, WaitOptions, WaitStatus, kill_process_group, test_kill_process_group, wait,
    },
};
use tokio::{
    signal::unix::{self, SignalKind},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, sleep},
};

use crate::exit;

/// A command and all that it has started, as far as it has stayed in its process group.
#[derive(Debug)]
pub(crate) struct Child {
    group: Pid,
    changes: UnboundedReceiver<Change>,
}

/// What has become of the command.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Stopped { signal: i32 },
    Exited { code: u8 },
}

impl Child {
    /// Starts a command that finds the lock in its environment, and the servers only if they are to be handed on:
    /// their URLs may hold passwords.
    pub(crate) fn start(
        command: &[OsString],
        guard: &LockGuard,
        nodes: Option<&str>,
    ) -> io::Result<Self> {
        let [program, arguments @ ..] = command else { return Err(io::ErrorKind::NotFound.into()) };
        adopt_orphans();
        // Whoever started us may ignore this signal; then nobody could hear how a child ended.
        let _caught = unix::signal(SignalKind::child())?;
        let (changes, wait_for) = watch()?;
        let mut command = Command::new(program);
        match nodes {
            Some(nodes) => command.env("REDLATCH_NODES", nodes),
            None => command.env_remove("REDLATCH_NODES"),
        };
        let child = command
            .args(arguments)
            .env("REDLATCH_KEY", guard.key())
            .env("REDLATCH_FENCING_TOKEN", guard.fencing_token().to_string())
            .process_group(0)
            .spawn()?;
        let group = Pid::from_child(&child);
        // The thread waits for this and nothing else.
        let _sent = wait_for.send(group);
        Ok(Self { group, changes })
    }

    pub(crate) const fn group(&self) -> Pid {
        self.group
    }

    /// Waits until the command stops or ends. Dropping the future loses nothing.
    pub(crate) async fn change(&mut self) -> Change {
        // The thread tells of the end before it ends itself.
        self.changes.recv().await.unwrap_or(Change::Exited { code: exit::OS_ERROR })
    }

    /// Sends a signal to the whole group. One that has ended already needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        let _sent = kill_process_group(self.group, signal);
    }

    /// Whether anything of the group is left.
    pub(crate) fn is_there(&self) -> bool {
        test_kill_process_group(self.group) != Err(Errno::SRCH)
    }

    /// Tells the group to end, and kills at `kill_at` what has not. Returns whether all has ended.
    pub(crate) async fn end(&self, kill_at: Instant) -> bool {
        self.signal(Signal::TERM);
        // What is stopped hears of nothing else.
        self.signal(Signal::CONT);
        if self.is_gone_by(kill_at).await {
            return true;
        }
        self.signal(Signal::KILL);
        self.is_gone_by(Instant::now() + LONGEST_DEATH).await
    }

    async fn is_gone_by(&self, end: Instant) -> bool {
        while self.is_there() {
            let Some(left) =
                end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return false;
            };
            sleep(left.min(LOOK_EVERY)).await;
        }
        true
    }
}

/// Has what the command leaves behind become our child when its parent ends. Then it is reaped at once, and is not
/// taken for alive, whatever the first process of a container does.
fn adopt_orphans() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _adopted = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Starts the thread that waits for children. It must be there before the command is.
fn watch() -> io::Result<(UnboundedReceiver<Change>, Sender<Pid>)> {
    let (tell, changes) = unbounded_channel();
    let (wait_for, started) = channel();
    thread::Builder::new().name("children".to_owned()).spawn(move || {
        if let Ok(command) = started.recv() {
            reap(command, &tell);
        }
    })?;
    Ok((changes, wait_for))
}

/// Waits for all children, and tells of one.
fn reap(command: Pid, tell: &UnboundedSender<Change>) {
    loop {
        match wait(WaitOptions::UNTRACED) {
            Ok(Some((pid, status))) if pid == command => {
                if let Some(change) = change(status) {
                    // First what ended before the command did and was not waited for: it is not left running.
                    while let (Change::Exited { .. }, Ok(Some(_))) =
                        (change, wait(WaitOptions::NOHANG))
                    {}
                    // Nobody listens any more if the command had to be ended.
                    let _told = tell.send(change);
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn change(status: WaitStatus) -> Option<Change> {
    let exited = status.exit_status().and_then(|code| u8::try_from(code).ok());
    let killed = status.terminating_signal().map(exit::by_raw_signal);
    let stopped = status.stopping_signal().map(|signal| Change::Stopped { signal });
    exited.or(killed).map(|code| Change::Exited { code }).or(stopped)
}

/// How often to look whether a group is gone.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long what was killed may take to be gone.
const LONGEST_DEATH: Duration = Duration::from_secs(1);
