//! Seeded chance (SplitMix64): the same seed gives the same schedule.

use std::{ops::Range, sync::Mutex, time::Duration};

use crate::host::sync::lock;

#[derive(Debug)]
pub(super) struct Dice(Mutex<u64>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }

    pub(super) fn next(&self) -> u64 {
        let mut state = lock(&self.0);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn from(&self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    pub(super) fn index(&self, len: usize) -> usize {
        usize::try_from(self.from(0..len as u64)).expect("an index is small")
    }

    pub(super) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// Whether something comes true that does so `percent` times in a hundred.
    pub(super) fn chance(&self, percent: u64) -> bool {
        self.from(0..100) < percent
    }

    /// A time in whole milliseconds, as tokio's timers count.
    pub(super) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.from(range))
    }
}
