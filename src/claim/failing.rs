//! Failing: why the renewals of a lock fail, and when that is told again.

use std::{collections::BTreeSet, error::Error as _, time::Duration};

use tokio::time::Instant;

use crate::{node::tally::Shortage, types::error::NodeError};

/// The renewals that have failed since one succeeded.
#[derive(Debug)]
pub(super) struct Failing {
    last: Shortage,
    /// What went wrong so far, node by node, in words.
    causes: BTreeSet<String>,
    /// When it is told again, if nothing new happens.
    next: Instant,
    pause: Duration,
    is_end_told: bool,
}

impl Failing {
    pub(super) fn new(first: Shortage, now: Instant) -> Self {
        let causes = BTreeSet::new();
        Self { last: first, causes, next: now, pause: FIRST_PAUSE, is_end_told: false }
    }

    pub(super) fn last(&self) -> Shortage {
        self.last.clone()
    }

    /// Notes one more failure. Returns whether it is to be told: what is new at once, what is known now and then.
    pub(super) fn note(&mut self, failed: Shortage, now: Instant, is_near_end: bool) -> bool {
        let known = self.causes.len();
        if known < MOST_CAUSES {
            self.causes.extend(failed.errors.iter().map(cause));
        }
        let is_new = self.causes.len() > known;
        self.last = failed;
        let is_due = self.is_due(now, is_near_end);
        if is_new || is_due {
            self.next = now + self.pause;
            self.pause *= 2;
        }
        is_new || is_due
    }

    /// Whether it is time to tell what is known: at doubling intervals, and once near the end.
    pub(super) fn is_due(&mut self, now: Instant, is_near_end: bool) -> bool {
        let was_told = std::mem::replace(&mut self.is_end_told, is_near_end);
        if is_near_end { !was_told } else { now >= self.next }
    }
}

fn cause(error: &NodeError) -> String {
    let words = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{}: {words}", error.node())
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// What says something else each time is not told each time.
const MOST_CAUSES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(words: &'static str) -> Shortage {
        let node = NodeError::new(&"a:1".into(), std::io::Error::other(words));
        Shortage { needed: 1, reached: 0, errors: vec![node], unheard: 0 }
    }

    /// The tenths of a second after the first failure at which something is told, of failures each tenth of a second.
    fn told(tenths: u32, words: impl Fn(u32) -> &'static str, end: u32) -> Vec<u32> {
        let start = Instant::now();
        let mut failing = Failing::new(failed(words(0)), start);
        let mut note = |&tenth: &u32| {
            let now = start + Duration::from_millis(100) * tenth;
            failing.note(failed(words(tenth)), now, tenth >= end)
        };
        (0..tenths).filter(|tenth| note(tenth)).collect()
    }

    #[test]
    fn what_is_known_is_told_at_doubling_intervals() {
        assert_eq!(told(400, |_| "no route", 999), [0, 10, 30, 70, 150, 310]);
    }

    #[test]
    fn a_new_cause_is_told_at_once_and_an_old_one_is_not_new() {
        let words = |tenth| if tenth % 2 == 1 { "loading" } else { "no route" };
        assert_eq!(told(12, words, 999), [0, 1]);
        assert_eq!(
            told(30, |tenth| if tenth < 5 { "loading" } else { "no route" }, 999),
            [0, 5, 25]
        );
    }

    #[test]
    fn the_end_is_told_once() {
        assert_eq!(told(100, |_| "no route", 20), [0, 10, 20]);
    }

    #[test]
    fn causes_without_end_are_not_told_each_time() {
        let words = |tenth: u32| -> &'static str { format!("for another {tenth}").leak() };
        let told = told(400, words, 999);
        assert!(told.len() < 25, "{told:?}");
    }
}
