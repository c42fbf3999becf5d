//! A vote: what one node has said of a claim, and until when that may be relied on.

use tokio::time::Instant;

use crate::node::Answer;

/// One node's vote for a claim.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vote {
    /// Until when the node's grant may be relied on.
    pub(crate) until: Option<Instant>,
    /// The fencing counter there, as reported while the lock was ours.
    pub(crate) token: Option<u64>,
    /// What we may have raised the counter to since.
    pub(crate) raised: u64,
    /// The node said last that the lock there is not ours.
    refused: Option<Refused>,
    /// How often the key was put back there.
    heals: u32,
    /// How often a release found the owner's lock there, but under another token.
    puzzles: u32,
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

    /// Whether a lock of the owner's under this token, which a release has found, is to be looked at again: it is
    /// this claim's by an answer that has come since, or that may be on its way. The release alone does not tell,
    /// since others may have the same owner token.
    pub(crate) fn may_be_ours(&mut self, token: u64) -> bool {
        self.puzzles += 1;
        self.token.is_none_or(|known| known == token) && self.puzzles <= MOST_PUZZLES
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

const MOST_PUZZLES: u32 = 3;
/// How often one lock is put back on one node: enough for restarts.
const MOST_HEALS: u32 = 16;
