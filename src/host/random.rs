//! The one place where randomness comes from, so that a simulation can repeat it.

use rand::Rng;
use uuid::Uuid;

/// A random number in `[0, 1)`.
pub(crate) fn unit() -> f64 {
    #[cfg(test)]
    if let Some(number) = seeded::draw(|generator| generator.random()) {
        return number;
    }
    rand::rng().random()
}

/// A random number below `len`; 0 where there is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "lengths are small, and the product is below one of them"
)]
pub(crate) fn index(len: usize) -> usize {
    (unit() * len as f64) as usize
}

/// 122 random bits from a cryptographically secure generator.
pub(crate) fn uuid() -> Uuid {
    #[cfg(test)]
    if let Some(bytes) = seeded::draw(|generator| generator.random()) {
        return uuid::Builder::from_random_bytes(bytes).into_uuid();
    }
    Uuid::new_v4()
}

/// A generator of this thread's own that gives the same numbers for the same seed.
#[cfg(test)]
pub(crate) mod seeded {
    use std::cell::RefCell;

    use rand::{SeedableRng, rngs::StdRng};

    thread_local! {
        static GENERATOR: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// Takes this thread's randomness from `seed` from now on; `None`: from the system again.
    pub(crate) fn seed(seed: Option<u64>) {
        GENERATOR.set(seed.map(StdRng::seed_from_u64));
    }

    pub(super) fn draw<T>(draw: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
        GENERATOR.with_borrow_mut(|generator| generator.as_mut().map(draw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_randomness() {
        let draw = || {
            seeded::seed(Some(7));
            (unit().to_bits(), uuid())
        };
        assert_eq!(draw(), draw());
        seeded::seed(None);
        assert_ne!(uuid(), uuid());
    }
}
