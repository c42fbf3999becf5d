//! Who comes when.

/// The places of so many contenders in a round: they follow one another, and each is first in its turn.
pub fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (round + place) % count)
}

#[cfg(test)]
mod tests {
    use super::turns;

    #[test]
    fn the_first_of_a_round_is_the_last_of_the_next() {
        let order = |round| turns(round, 3).collect::<Vec<_>>();
        assert_eq!([order(0), order(1), order(5)], [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    }
}
