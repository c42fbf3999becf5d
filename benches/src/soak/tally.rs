//! What the workers met with.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use redlatch::Error;

#[derive(Default)]
pub struct Tally {
    pub acquisitions: Count,
    pub contended: Count,
    pub unavailable: Count,
    /// A majority agreed, but too late.
    pub expired: Count,
    pub cancelled: Count,
    pub losses: Count,
}

impl Tally {
    /// Counts an error under its last cause; false if there is no reason to meet with it.
    pub fn count(&self, error: &Error) -> bool {
        match error {
            Error::AlreadyHeld { .. } => self.contended.add(),
            Error::Unavailable { .. } => self.unavailable.add(),
            Error::ValidityExpired { .. } => self.expired.add(),
            Error::Lost { .. } | Error::NotHeld { .. } => self.losses.add(),
            Error::WaitTimeout { source, .. } | Error::RetriesExhausted { source, .. } => {
                return self.count(source);
            }
            _ => return false,
        }
        true
    }
}

#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load(Ordering::Relaxed).fmt(f)
    }
}
