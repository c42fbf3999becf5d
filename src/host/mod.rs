//! The host: clock, randomness, tasks and mutexes, the seams at which the simulation takes over.

pub(crate) mod background;
pub(crate) mod clock;
pub(crate) mod random;
pub(crate) mod sync;
pub(crate) mod tasks;
