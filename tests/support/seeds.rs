//! Seeded randomness (SplitMix64): the same seed gives the same test.

use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Seeds(u64);

impl Seeds {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A length in `0..end`, to the microsecond.
    pub(crate) fn duration(&mut self, end: Duration) -> Duration {
        let micros = u64::try_from(end.as_micros()).expect("short durations only");
        Duration::from_micros(self.below(micros))
    }
}
