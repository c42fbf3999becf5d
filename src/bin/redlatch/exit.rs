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

/// The exit code for a command that could not be started, as shells have it.
pub(crate) fn not_started(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
}

/// The exit code of what was ended by a signal.
pub(crate) fn by_signal(signal: Signal) -> u8 {
    by_raw_signal(signal.as_raw())
}

pub(crate) fn by_raw_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128))
}
