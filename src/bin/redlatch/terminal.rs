//! The terminal, which one process group at a time can read.

use std::{
    fs::File,
    io::{IsTerminal, stdin, stdout},
};

use nix::sys::signal::{SigSet, Signal};
use rustix::{
    process::{Pid, getpgrp},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// This process' terminal, if it has one. Taken back when dropped.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: Option<File>,
    lent_to: Option<Pid>,
}

impl Terminal {
    pub(crate) fn open() -> Self {
        // Who is not in the foreground is stopped for moving it, unless the signal is blocked. A command does not
        // inherit that: the standard library starts it with no signal blocked.
        let mut unwanted = SigSet::empty();
        unwanted.add(Signal::SIGTTOU);
        let is_blocked = unwanted.thread_block().is_ok();
        let tty = File::options().read(true).write(true).open("/dev/tty");
        Self { tty: tty.ok().filter(|_| is_blocked), lent_to: None }
    }

    /// Whether a command would expect to be alone with the terminal. In a pipeline others may need it more.
    pub(crate) fn is_interactive() -> bool {
        stdin().is_terminal() && stdout().is_terminal()
    }

    /// Gives the terminal to a process group, if it is ours to give. Returns whether the group has it now.
    pub(crate) fn lend(&mut self, group: Pid) -> bool {
        let Some(tty) = &self.tty else { return false };
        match tcgetpgrp(tty) {
            Ok(foreground) if foreground == group => true,
            Ok(foreground) if foreground == getpgrp() && tcsetpgrp(tty, group).is_ok() => {
                self.lent_to = Some(group);
                true
            }
            _ => false,
        }
    }

    /// Takes the terminal back, unless somebody else has it by now.
    pub(crate) fn take_back(&mut self) {
        if let (Some(tty), Some(group)) = (&self.tty, self.lent_to.take())
            && tcgetpgrp(tty) == Ok(group)
        {
            let _done = tcsetpgrp(tty, getpgrp());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}
