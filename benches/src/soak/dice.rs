//! Chance (SplitMix64).

use std::time::Duration;

pub struct Dice(u64);

impl Dice {
    /// Dice of their own for each number; different ones in each process.
    pub fn new(number: usize) -> Self {
        Self((u64::from(std::process::id()) << 32) ^ number as u64)
    }

    /// A number in `0..end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    /// A time between the two, in milliseconds and to the microsecond.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1_000 + self.next() % ((to - from) * 1_000))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
