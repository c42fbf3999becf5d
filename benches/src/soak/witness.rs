//! The witness: sees who holds what, and objects if two guards of a key are valid at once or tokens do not grow.
//!
//! A guard once lost stays lost. So if two are valid when one after the other is looked at, they were valid together.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use redlatch::{FencingToken, LockGuard};
use tokio::time::Instant;

#[derive(Default)]
pub struct Witness {
    seats: Mutex<HashMap<String, Seat>>,
    stays: AtomicU64,
    violations: AtomicU64,
}

/// Who holds a key, as far as the witness was told.
struct Seat {
    stay: Stay,
    holder: Holder,
    newest: FencingToken,
}

/// One holder's time with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay(u64);

enum Holder {
    Nobody,
    Guard(Arc<LockGuard>),
    /// A guard that cannot be looked at from outside. Its holder looks whether somebody else took the seat.
    Unseen,
    /// A guard given up without release: nobody else may follow before its validity is over.
    Forgotten {
        until: Instant,
    },
}

impl Holder {
    fn is_valid(&self) -> bool {
        match self {
            Self::Nobody | Self::Unseen => false,
            Self::Guard(guard) => guard.is_valid(),
            Self::Forgotten { until } => Instant::now() < *until,
        }
    }
}

impl Witness {
    /// A lock was taken.
    pub fn enter(&self, guard: &Arc<LockGuard>) -> Stay {
        self.seat(guard, Holder::Guard(guard.clone()))
    }

    /// The lock of a stay has another guard: it was adopted, or taken once more by its owner.
    pub fn take_over(&self, guard: &Arc<LockGuard>, stay: Stay) {
        if let Some(seat) = self.seats().get_mut(guard.key()).filter(|seat| seat.stay == stay) {
            seat.holder = Holder::Guard(guard.clone());
        }
        self.look(guard, stay);
    }

    /// As [`enter`](Self::enter), for a guard that is only lent.
    pub fn enter_unseen(&self, guard: &LockGuard) -> Stay {
        self.seat(guard, Holder::Unseen)
    }

    /// To be called now and then while the lock is held, and at the end.
    pub fn look(&self, guard: &LockGuard, stay: Stay) {
        let seats = self.seats();
        if guard.is_valid() && seats.get(guard.key()).is_none_or(|seat| seat.stay != stay) {
            self.object(&format!("{guard:?} is valid, and another was taken meanwhile"));
        }
    }

    /// The lock is about to be released.
    pub fn leave(&self, guard: Arc<LockGuard>, stay: Stay) -> LockGuard {
        self.vacate(&guard, stay, Holder::Nobody);
        Arc::into_inner(guard).expect("the seat had the only other reference")
    }

    pub fn leave_unseen(&self, guard: &LockGuard, stay: Stay) {
        self.vacate(guard, stay, Holder::Nobody);
    }

    /// The lock is about to be forgotten or handed over.
    pub fn leave_behind(&self, guard: Arc<LockGuard>, stay: Stay) -> LockGuard {
        let until = if guard.is_valid() { guard.valid_until() } else { Instant::now() };
        self.vacate(&guard, stay, Holder::Forgotten { until });
        Arc::into_inner(guard).expect("the seat had the only other reference")
    }

    /// Something that must not be.
    pub fn object(&self, what: &str) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        eprintln!("soak: VIOLATION: {what}");
    }

    pub fn violations(&self) -> u64 {
        self.violations.load(Ordering::Relaxed)
    }

    fn seat(&self, guard: &LockGuard, holder: Holder) -> Stay {
        let stay = Stay(self.stays.fetch_add(1, Ordering::Relaxed));
        let mut seats = self.seats();
        if !guard.is_valid() {
            return stay; // lost again before it got here: it takes no seat
        }
        let newest = guard.fencing_token();
        if let Some(before) = seats.get(guard.key()) {
            if before.holder.is_valid() {
                self.object(&format!("{guard:?} was taken while another is valid"));
            }
            if newest <= before.newest {
                self.object(&format!("{guard:?} was taken after one with token {}", before.newest));
            }
        }
        seats.insert(guard.key().to_owned(), Seat { stay, holder, newest });
        stay
    }

    fn vacate(&self, guard: &LockGuard, stay: Stay, holder: Holder) {
        self.look(guard, stay);
        if let Some(seat) = self.seats().get_mut(guard.key()).filter(|seat| seat.stay == stay) {
            seat.holder = holder;
        }
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<String, Seat>> {
        self.seats.lock().expect("nobody panics with the seats in hand")
    }
}
