//! Exit codes: those of sysexits.h, and those of shells.

use std::io;

use rustix::process::Signal;

/// Nobody holds the lock.
pub(crate) const FREE: u8 = 1;
pub(crate) const USAGE: u8 = 64;
pub(crate) const UNAVAILABLE: u8 = 69;
pub(crate) const LOST: u8 = 70;
pub(crate) const OS_ERROR: u8 = 71;
pub(crate) const HELD: u8 = 75;
pub(crate) const CONFIG: u8 = 78;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// What shells add to the number of a signal.
const SIGNALLED: u8 = 128;

/// Each exit code and what it means: the help shows it, and the README has the same table.
const MEANINGS: &[(u8, &str)] = &[
    (0, "done; run exits as the command does, also with any of these"),
    (FREE, "inspect, break: nobody holds the lock, or not any more"),
    (USAGE, "an option, URL or key cannot work, or nobody is there to ask; nothing was done"),
    (UNAVAILABLE, "too few servers answered"),
    (
        LOST,
        "run: the lock was lost before the command had ended; one that was still running was ended",
    ),
    (OS_ERROR, "the operating system refused something"),
    (HELD, "run: somebody else holds the lock; break: it cannot be broken, or you said no"),
    (CONFIG, "doctor: something critical was found"),
    (NOT_EXECUTABLE, "run: the command cannot be executed"),
    (NOT_FOUND, "run: the command was not found"),
    (SIGNALLED, "run: signal n ended the command, or the waiting for the lock"),
];

/// The table as the help has it.
pub(crate) fn help() -> String {
    let lines = MEANINGS.iter().map(|(code, meaning)| format!("  {:<7}{meaning}", shown(*code)));
    ["Exit codes:".to_owned()].into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}

fn shown(code: u8) -> String {
    if code == SIGNALLED { "128+n".to_owned() } else { code.to_string() }
}

/// The exit code for a command that could not be started, as shells have it.
pub(crate) fn not_started(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
}

/// The exit code of what was ended by a signal.
pub(crate) fn by_signal(signal: Signal) -> u8 {
    by_raw_signal(signal.as_raw())
}

pub(crate) fn by_raw_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(SIGNALLED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_table_of_the_help() {
        let readme = include_str!("../../../README.md");
        let (_, table) = readme.split_once("| exit code | |\n|---|---|\n").unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let known =
            MEANINGS.iter().map(|(code, meaning)| format!("| {} | {meaning} |", shown(*code)));
        assert_eq!(rows.collect::<Vec<_>>(), known.collect::<Vec<_>>());
    }
}
