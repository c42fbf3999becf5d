//! What is asked of a node about a lock, and what it may answer.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    host::sync::lock,
    types::{attempt_id::AttemptId, key::Key, token::OwnerToken},
};

use super::lane::connection::Line;

/// One thing asked of a node about one [`Trail`]'s key, owner and attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// Take the lock if it is free, proposing a fencing token.
    Acquire { ttl: Duration, proposal: u64 },
    /// Raise the fencing counter to `token`, and give the lock at least `ttl` to live if one is named.
    Touch { ttl: Option<Duration>, token: u64, mode: Touch },
    /// Delete the lock if it is the attempt's, and note that the attempt has ended. If it was held, announce it with
    /// its fencing token. `keep`: keep it for nobody for so long instead.
    Release { held: Option<u64>, keep: Option<Duration> },
    /// Look who holds the lock.
    Inspect,
}

impl Command {
    /// Whether the command may leave a key behind, so that it must not follow its claim's release.
    pub(crate) const fn claims(self) -> bool {
        matches!(self, Self::Acquire { .. } | Self::Touch { .. })
    }

    /// Whether the command is a vote for a lock that the node does not have.
    pub(crate) const fn grants(self) -> bool {
        matches!(self, Self::Acquire { .. } | Self::Touch { mode: Touch::Heal, .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// For an attempt that has votes: it may come to nothing yet.
    Raise,
    /// For a lock that is held. Never create a key.
    Extend,
    /// The same, and put the key back where it is gone.
    Heal,
    /// For a lock that another guard holds or held. Change nothing unless the counter is at the very token.
    Adopt,
}

/// A node's answer: the first five to what claims, the others to a release and to a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The lock was free and is the attempt's now, under this fencing token.
    Granted {
        token: u64,
    },
    /// The lock was the attempt's before, and this is the fencing counter.
    Ours {
        token: u64,
        expires_in: Duration,
    },
    /// The lock is another's; `holder` tells locks apart. `is_owners`: that of another attempt of the same owner.
    Refused {
        expires_in: Option<Duration>,
        holder: String,
        is_owners: bool,
    },
    /// There is no lock.
    Gone,
    /// The attempt's lock was released, by whoever shared it.
    Ended,
    Released(Released),
    Seen(Sighting),
}

/// What a release found at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// The lock, which is deleted now, or kept for nobody.
    Deleted,
    /// No lock, beside this fencing counter.
    Gone { counter: u64 },
    /// Another lock, beside this fencing counter.
    NotOurs { counter: u64 },
}

/// Who held a lock at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// What lies under the key: an owner token, or one that left it for nobody.
    pub(crate) value: Option<OwnerToken>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) token: u64,
    /// The attempt beside the counter.
    pub(crate) id: AttemptId,
    /// Whether it has become a lock that is held, under this very token.
    pub(crate) is_held: bool,
}

/// What a claim has sent to one node.
#[derive(Debug, Default)]
struct Sent {
    /// The lines on which claiming commands are unanswered, and how many.
    unanswered: Vec<(Arc<Line>, usize)>,
    /// The line that answered last. It may be gone: who was held must not keep connections open.
    answered: Option<Weak<Line>>,
    /// A claiming command was carried out, so that a key may be there.
    may_hold: bool,
    /// A claiming command was queued while another was unanswered. Then nobody knows which was carried out
    /// last: one whose script was unknown goes again, behind the other.
    overlapped: bool,
}

/// A key, an owner token and an attempt on their way: where commands about them went, and whether more may follow.
#[derive(Debug)]
pub(crate) struct Trail {
    pub(crate) key: Arc<Key>,
    pub(crate) owner: OwnerToken,
    pub(crate) id: AttemptId,
    withdrawn: AtomicBool,
    sent: Box<[Mutex<Sent>]>,
}

impl Trail {
    pub(crate) fn new(key: Arc<Key>, owner: OwnerToken, id: AttemptId, nodes: usize) -> Self {
        let sent = (0..nodes).map(|_| Mutex::default()).collect();
        Self { key, owner, id, withdrawn: AtomicBool::new(false), sent }
    }

    pub(crate) const fn nodes(&self) -> usize {
        self.sent.len()
    }

    /// From now on nothing but releases goes out: whatever was not queued at a node yet never will be.
    pub(crate) fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::SeqCst)
    }

    /// Whether the node may hold the key: something was carried out there or is unanswered.
    pub(crate) fn may_hold(&self, node: usize) -> bool {
        let sent = lock(&self.sent[node]);
        sent.may_hold || !sent.unanswered.is_empty()
    }

    /// Whether nothing sent to the node is unanswered, and the last answer tells how the key stands there.
    pub(crate) fn is_answered(&self, node: usize) -> bool {
        let sent = lock(&self.sent[node]);
        sent.unanswered.is_empty() && !sent.overlapped
    }

    /// Whether the connection on which the node last answered has broken since: it may have lost its memory.
    pub(crate) fn is_cut_off(&self, node: usize) -> bool {
        let answered = lock(&self.sent[node]).answered.clone();
        answered.is_some_and(|line| line.upgrade().is_none_or(|line| line.is_retired()))
    }

    /// Notes that a claiming command is about to be queued on a line, unless the trail was withdrawn.
    ///
    /// It is noted before that is asked: whoever withdraws and then looks cannot miss it.
    pub(super) fn begin(&self, node: usize, line: &Arc<Line>) -> bool {
        let mut sent = lock(&self.sent[node]);
        if self.is_withdrawn() {
            return false;
        }
        sent.overlapped |= !sent.unanswered.is_empty();
        match sent.unanswered.iter_mut().find(|(known, _)| Arc::ptr_eq(known, line)) {
            Some((_, count)) => *count += 1,
            None => sent.unanswered.push((line.clone(), 1)),
        }
        true
    }

    /// Notes how a command that had begun ended.
    ///
    /// What ends after the withdrawal on a line out of use may have been carried out after the release, which took
    /// the new line. That it is answered does not make up for it: it stays noted until it is undone on its own line.
    pub(super) fn end(&self, node: usize, line: &Arc<Line>, how: End) {
        let mut sent = lock(&self.sent[node]);
        let may_be_behind = self.is_withdrawn() && line.is_retired() && how != End::Void;
        if !may_be_behind
            && let Some(place) =
                sent.unanswered.iter().position(|(known, _)| Arc::ptr_eq(known, line))
        {
            sent.unanswered[place].1 -= 1;
            if sent.unanswered[place].1 == 0 {
                sent.unanswered.swap_remove(place);
            }
        }
        sent.may_hold |= how != End::Void;
        if how == End::CarriedOut {
            sent.answered = Some(Arc::downgrade(line));
        }
    }

    /// Notes a claiming command to a node that answers at once, unless the trail was withdrawn.
    pub(super) fn carry_out(&self, node: usize) -> bool {
        let mut sent = lock(&self.sent[node]);
        let may = !self.is_withdrawn();
        sent.may_hold |= may;
        may
    }

    /// The lines out of use on which something is still unanswered.
    pub(super) fn retired_lines(&self, node: usize) -> Vec<Arc<Line>> {
        let sent = lock(&self.sent[node]);
        let lines = sent.unanswered.iter().map(|(line, _)| line);
        lines.filter(|line| line.is_retired()).cloned().collect()
    }

    /// Notes that an undo is queued on a line behind all that is unanswered there.
    pub(super) fn undone_on(&self, node: usize, line: &Arc<Line>) {
        let mut sent = lock(&self.sent[node]);
        sent.may_hold = true;
        sent.unanswered.retain(|(known, _)| !Arc::ptr_eq(known, line));
    }
}

/// How a claiming command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The node ran it.
    CarriedOut,
    /// It failed in the end, but may have been run on the way there.
    Doubtful,
    /// The node refused to run it, or it was never sent: it left nothing behind.
    Void,
}

#[cfg(test)]
mod tests {
    use deadpool_redis::redis::{RedisConnectionInfo, aio::MultiplexedConnection};
    use tokio::io::duplex;

    use super::*;
    use crate::node::lane::wire::Wire;

    fn trail() -> Trail {
        let key = Key::new("", "k".to_owned()).unwrap();
        Trail::new(key.into(), OwnerToken::random(), AttemptId::EMPTY, 1)
    }

    async fn line() -> Arc<Line> {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (ours, _theirs) = duplex(64);
        let (connection, _driver) = MultiplexedConnection::new(&info, ours).await.unwrap();
        Arc::new(Line::new(Wire::Server(connection), 0, None))
    }

    #[tokio::test]
    async fn a_grant_that_the_release_may_have_overtaken_is_undone_on_its_own_line() {
        let (trail, line) = (trail(), line().await);
        assert!(trail.begin(0, &line));
        line.retire();
        trail.withdraw();
        trail.end(0, &line, End::CarriedOut);
        assert_eq!(trail.retired_lines(0).len(), 1);
        trail.undone_on(0, &line);
        assert_eq!(trail.retired_lines(0).len(), 0);
    }

    #[tokio::test]
    async fn what_was_answered_before_the_withdrawal_needs_no_undo_of_its_own() {
        let (trail, line) = (trail(), line().await);
        assert!(trail.begin(0, &line));
        line.retire();
        trail.end(0, &line, End::CarriedOut);
        trail.withdraw();
        assert_eq!(trail.retired_lines(0).len(), 0);
        assert!(trail.may_hold(0));
    }

    #[tokio::test]
    async fn what_was_never_carried_out_needs_no_undo() {
        let (trail, line) = (trail(), line().await);
        assert!(trail.begin(0, &line));
        trail.withdraw();
        line.retire();
        trail.end(0, &line, End::Void);
        assert_eq!(trail.retired_lines(0).len(), 0);
        assert!(!trail.may_hold(0));
    }
}
