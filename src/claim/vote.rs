//! A vote: what one node has said of a claim, and until when that may be relied on.

use tokio::time::Instant;

use crate::node::Answer;

/// One node's vote for a claim.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vote {
    /// Until when the node's grant may be relied on.
    pub(crate) until: Option<Instant>,
    /// The fencing counter there, as reported while the lock was ours.
    token: Option<u64>,
    /// The node said last that the lock there is not ours.
    refused: Option<Refused>,
    /// How often the key was put back there.
    heals: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// There is no key at all.
    Gone,
    /// It is another's.
    Taken,
}

impl Vote {
    /// Notes that the lock is ours there until then, under this token. An earlier grant stays.
    pub(crate) fn grant(&mut self, token: u64, until: Instant) {
        self.token = Some(token);
        self.refused = None;
        self.until = self.until.max(Some(until));
    }

    /// Notes that the lock is not ours there.
    pub(crate) fn refuse(&mut self, answer: &Answer) {
        let is_gone = *answer == Answer::Gone;
        self.refused = Some(if is_gone { Refused::Gone } else { Refused::Taken });
        (self.token, self.until) = (None, None);
    }

    /// Notes that the lock is ours there, but is not to be relied on.
    pub(crate) const fn discount(&mut self) {
        (self.refused, self.until) = (None, None);
    }

    /// Relies on the node only if its counter is at this very token.
    pub(crate) fn count_beside(&mut self, token: u64) {
        if self.token != Some(token) {
            self.until = None;
        }
    }

    /// Whether the node said last that the lock there is not ours.
    pub(crate) const fn is_refusal(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether the key is to be put back there; from here on it may be. A node that drops it again and again, or
    /// somebody who deletes it there, has the last word.
    pub(crate) fn heal(&mut self) -> bool {
        let may_heal = self.refused == Some(Refused::Gone) && self.heals < MOST_HEALS;
        if may_heal {
            self.refused = None;
        }
        may_heal
    }

    /// Notes that the key was put back there.
    pub(crate) const fn healed(&mut self) {
        self.heals += 1;
    }
}

/// How often one lock is put back on one node: enough for restarts.
const MOST_HEALS: u32 = 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::Whose;

    fn taken() -> Answer {
        let (holder, name) = ("another".to_owned(), None);
        Answer::Refused { expires_in: None, holder, name, whose: Whose::Anothers }
    }

    #[test]
    fn a_key_that_is_gone_is_put_back_and_one_of_anothers_is_not() {
        let mut vote = Vote::default();
        assert!(!vote.heal(), "nothing was refused");
        vote.refuse(&taken());
        assert!(!vote.heal(), "it is another's");
        vote.refuse(&Answer::Gone);
        assert!(vote.heal());
        assert!(!vote.heal(), "it is on its way");
    }

    #[test]
    fn a_key_that_goes_again_and_again_is_given_up() {
        let mut vote = Vote::default();
        let mut heals = 0;
        vote.refuse(&Answer::Gone);
        while vote.heal() {
            heals += 1;
            vote.healed();
            vote.refuse(&Answer::Gone);
            assert!(heals <= MOST_HEALS);
        }
        assert_eq!(heals, MOST_HEALS);
    }

    #[test]
    fn a_refusal_takes_the_grant_back_until_there_is_another() {
        let (mut vote, now) = (Vote::default(), Instant::now());
        vote.grant(7, now);
        vote.refuse(&Answer::Gone);
        assert!(vote.is_refusal() && vote.until.is_none() && vote.token.is_none());
        vote.grant(8, now);
        assert!(!vote.is_refusal() && vote.until == Some(now) && vote.token == Some(8));
    }

    #[test]
    fn an_earlier_grant_does_not_shorten_a_later_one() {
        let (mut vote, now) = (Vote::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        vote.grant(7, later);
        vote.grant(7, now);
        assert_eq!(vote.until, Some(later));
    }
}
