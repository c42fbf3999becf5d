//! How a release stands: which nodes have answered it, and what that comes to.

use crate::{
    metrics::{self, Label},
    node::{Released, tally::Shortage},
    types::{
        error::{Error, NodeError, Result},
        few::Few,
        validity::quorum,
    },
};

/// A release under way.
#[derive(Debug)]
pub(crate) struct Release {
    nodes: Few<NodeRelease>,
    /// Whether the lock was valid when its release began.
    was_valid: bool,
    /// Its fencing token, if it was ever held.
    token: Option<u64>,
    /// It leaves the key as done. Then a node counts only if it has said that it does: nothing is concluded.
    is_done: bool,
    /// What went wrong at each node last.
    errors: Vec<(usize, NodeError)>,
    /// Every node was asked at least once, and answered or failed.
    is_pass_over: bool,
    warned: bool,
    is_stranded: bool,
    /// A majority of the nodes that were asked has answered.
    is_confirmed: bool,
}

/// How a release stands at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeRelease {
    Pending,
    /// Asked in vain: it may be deleted there, now or later, and the node may have lost its memory.
    Unanswered,
    Deleted,
    NotOurs,
    /// It cannot hold the key.
    NotAsked,
}

impl Release {
    /// Begins a release on the nodes of which `may_hold` says that they may hold the key.
    pub(crate) fn new(
        may_hold: impl Iterator<Item = bool>,
        was_valid: bool,
        token: Option<u64>,
        is_done: bool,
    ) -> Self {
        let settled = |may_hold| {
            if may_hold { NodeRelease::Pending } else { NodeRelease::NotAsked }
        };
        let nodes = may_hold.map(settled).collect();
        Self {
            nodes,
            was_valid,
            token,
            is_done,
            errors: Vec::new(),
            is_pass_over: false,
            warned: false,
            is_stranded: false,
            is_confirmed: false,
        }
    }

    /// The nodes that may still hold the key.
    pub(crate) fn open(&mut self) -> Few<usize> {
        let is_open = |&node: &usize| {
            matches!(self.nodes[node], NodeRelease::Pending | NodeRelease::Unanswered)
        };
        (0..self.nodes.len()).filter(is_open).collect()
    }

    /// Notes a node's answer; `is_in_time`: it came before the end of the lock's validity; `has_memory`: the connection on
    /// which the node granted the lock still stands.
    pub(crate) fn note(
        &mut self,
        node: usize,
        answer: Result<Released, NodeError>,
        is_in_time: bool,
        has_memory: bool,
    ) {
        // A deletion is one, whatever a repeated release is told later.
        if self.nodes[node] == NodeRelease::Deleted {
            return;
        }
        self.errors.retain(|(other, _)| *other != node);
        self.nodes[node] = match answer {
            Ok(Released::Deleted) => NodeRelease::Deleted,
            Ok(Released::Gone { counter }) if self.was_deleted_at(node, counter, has_memory) => {
                NodeRelease::Deleted
            }
            // The release before, which went unanswered, let the next one in.
            Ok(Released::NotOurs { counter })
                if is_in_time && self.was_deleted_at(node, counter, has_memory) =>
            {
                NodeRelease::Deleted
            }
            Ok(_) => NodeRelease::NotOurs,
            Err(error) => {
                self.errors.push((node, error));
                NodeRelease::Unanswered
            }
        };
    }

    /// Whether a key that is gone was deleted by an earlier release, which went unanswered: nothing else ends a
    /// valid lock, unless the node has lost its memory, and then it has lost its counter as well. Where there is none, a
    /// connection that stands tells that the node has not restarted.
    fn was_deleted_at(&self, node: usize, counter: u64, has_memory: bool) -> bool {
        let was_asked = self.nodes[node] == NodeRelease::Unanswered;
        let has_memory = match self.token {
            Some(0) => has_memory,
            token => token.is_some_and(|token| counter >= token),
        };
        self.was_valid && was_asked && has_memory && !self.is_done
    }

    /// Notes that a majority of the nodes that were asked has answered. Returns whether that is new.
    pub(crate) const fn confirm(&mut self) -> bool {
        !std::mem::replace(&mut self.is_confirmed, true)
    }

    pub(crate) const fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// Notes that every node was asked, and answered or failed.
    pub(crate) const fn end_pass(&mut self) {
        self.is_pass_over = true;
    }

    /// What the release of `key` came to, as soon as the answers tell.
    pub(crate) fn verdict(&self, key: &str) -> Option<Result<()>> {
        let (nodes, quorum) = (self.nodes.len(), quorum(self.nodes.len()));
        let deleted = self.count(NodeRelease::Deleted);
        let answered = deleted + self.count(NodeRelease::NotOurs);
        let not_ours = answered - deleted + self.count(NodeRelease::NotAsked);
        let not_held = || Err(Error::NotHeld { key: key.to_owned() });
        if deleted >= quorum {
            return Some(Ok(()));
        }
        if not_ours > nodes - quorum {
            return Some(not_held());
        }
        // Some node will not tell. A majority has answered, so that the deadline decides.
        (self.is_pass_over && answered >= quorum && !self.is_done)
            .then(|| if self.was_valid { Ok(()) } else { not_held() })
    }

    /// That no majority has answered, and why.
    pub(crate) fn unavailable(&self, key: &str) -> Error {
        Shortage {
            needed: quorum(self.nodes.len()),
            // Of those that must have marked it, the others are none.
            reached: self.count(NodeRelease::Deleted)
                + if self.is_done { 0 } else { self.count(NodeRelease::NotOurs) },
            errors: self.errors.iter().map(|(_, error)| error.clone()).collect(),
            unheard: 0,
        }
        .error(key)
    }

    /// Notes that nothing goes on with it. Returns whether that is new, and left something undone.
    pub(crate) const fn strand(&mut self) -> bool {
        !self.is_confirmed && !std::mem::replace(&mut self.is_stranded, true)
    }

    /// Tells the log, once, that nobody could be reached to release `key`.
    pub(crate) fn warn(&mut self, key: &str, label: Label) {
        if !std::mem::replace(&mut self.warned, true) {
            let error = self.errors.first().map(|(_, error)| error as &dyn std::error::Error);
            // What never was a lock is in nobody's way.
            if self.token.is_some() {
                metrics::release_failed(label);
            }
            tracing::warn!(
                key,
                label,
                error,
                "release not confirmed; it is tried until the TTL has ended the lock"
            );
        }
    }

    fn count(&self, wanted: NodeRelease) -> usize {
        self.nodes.iter().filter(|node| **node == wanted).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(asked: [bool; 3], was_valid: bool) -> Release {
        Release::new(asked.into_iter(), was_valid, Some(7), false)
    }

    fn failed() -> Result<Released, NodeError> {
        Err(NodeError::new(&"a:1".into(), std::io::Error::other("no route")))
    }

    #[test]
    fn a_majority_of_deletions_is_a_release() {
        let mut release = release([true; 3], true);
        release.note(0, Ok(Released::Deleted), true, true);
        assert!(release.verdict("k").is_none());
        release.note(2, Ok(Released::Deleted), true, true);
        assert!(release.verdict("k").unwrap().is_ok());
        assert_eq!(release.open()[..], [1]);
    }

    #[test]
    fn a_majority_without_the_key_is_not_held() {
        let mut release = release([true, true, false], true);
        release.note(0, Ok(Released::Gone { counter: 0 }), true, true);
        assert!(release.verdict("k").unwrap().unwrap_err().is_not_held());
    }

    #[test]
    fn a_deletion_stays_one_when_a_repeated_release_finds_nothing() {
        let mut release = release([true; 3], true);
        release.note(0, Ok(Released::Deleted), true, true);
        release.note(0, Ok(Released::Gone { counter: 0 }), true, true);
        release.note(0, failed(), true, true);
        release.note(1, Ok(Released::Deleted), true, true);
        assert!(release.verdict("k").unwrap().is_ok());
    }

    #[test]
    fn a_split_majority_goes_by_the_deadline() {
        for was_valid in [true, false] {
            let mut release = release([true; 3], was_valid);
            release.note(0, Ok(Released::Deleted), true, true);
            release.note(1, Ok(Released::Gone { counter: 0 }), true, true);
            release.note(2, failed(), true, true);
            assert!(release.verdict("k").is_none());
            release.end_pass();
            assert_eq!(release.verdict("k").unwrap().is_ok(), was_valid);
        }
    }

    #[test]
    fn a_key_is_done_only_where_a_majority_has_said_so() {
        let mut release = Release::new([true; 3].into_iter(), true, Some(7), true);
        release.note(0, Ok(Released::Deleted), true, true);
        release.note(1, failed(), true, true);
        release.note(1, Ok(Released::Gone { counter: 7 }), true, true);
        release.note(2, failed(), true, true);
        release.end_pass();
        assert!(release.verdict("k").is_none(), "the third may have marked it or not");
        release.note(2, Ok(Released::NotOurs { counter: 8 }), true, true);
        assert!(release.verdict("k").unwrap().unwrap_err().is_not_held());
    }

    #[test]
    fn a_key_gone_beside_its_counter_was_deleted_by_the_unanswered_release() {
        let mut release = release([true; 3], true);
        for node in 0..2 {
            release.note(node, failed(), true, true);
            release.note(node, Ok(Released::Gone { counter: 7 }), true, true);
        }
        assert!(release.verdict("k").unwrap().is_ok());
    }

    #[test]
    fn a_key_gone_with_its_counter_was_lost_with_the_nodes_memory() {
        let mut release = release([true; 3], true);
        for node in 0..2 {
            release.note(node, failed(), true, true);
            release.note(node, Ok(Released::Gone { counter: 0 }), true, true);
        }
        assert!(release.verdict("k").unwrap().unwrap_err().is_not_held());
    }

    #[test]
    fn a_node_that_was_never_asked_has_not_answered() {
        let mut release = release([true, true, false], true);
        release.note(0, Ok(Released::Deleted), true, true);
        release.note(1, failed(), true, true);
        release.end_pass();
        assert!(release.verdict("k").is_none());
    }

    #[test]
    fn without_a_majority_it_is_unavailable() {
        let mut release = release([true; 3], true);
        release.note(0, Ok(Released::Deleted), true, true);
        (1..3).for_each(|node| release.note(node, failed(), true, true));
        release.end_pass();
        assert!(release.verdict("k").is_none());
        let error = release.unavailable("k");
        assert!(matches!(error, Error::Unavailable { needed: 2, reached: 1, .. }), "{error:?}");
    }

    fn refused(counter: u64) -> Result<Released, NodeError> {
        Ok(Released::NotOurs { counter })
    }

    #[test]
    fn the_next_owner_shows_that_an_unanswered_release_deleted_the_key() {
        for (counter, is_in_time, is_ours) in [(8, true, true), (8, false, false), (6, true, false)]
        {
            let mut release = release([true; 3], true);
            for node in 0..2 {
                release.note(node, failed(), true, true);
                release.note(node, refused(counter), is_in_time, true);
            }
            assert_eq!(release.verdict("k").unwrap().is_ok(), is_ours, "{counter}");
        }
    }

    #[test]
    fn another_owner_at_the_first_answer_is_no_release() {
        let mut release = release([true; 3], true);
        (0..2).for_each(|node| release.note(node, refused(8), true, true));
        assert!(release.verdict("k").unwrap().unwrap_err().is_not_held());
    }
}
