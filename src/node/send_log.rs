//! A send log: where a claim's commands went, and whether more may follow.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, Ordering},
};

use super::{command::Command, lane::line::Line};
use crate::{
    host::sync::lock,
    types::{attempt_id::AttemptId, few::Few, key::Key, token::OwnerToken},
};

/// What a claim has sent to one node.
#[derive(Debug, Default)]
struct Sent {
    /// The lines on which claiming commands are unanswered, and how many.
    unanswered: Few<(Arc<Line>, usize)>,
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
pub(crate) struct SendLog {
    pub(crate) key: Arc<Key>,
    pub(crate) owner: OwnerToken,
    pub(crate) id: AttemptId,
    withdrawn: AtomicBool,
    /// The lock stays, and nobody is about to release it.
    forgotten: AtomicBool,
    sent: Few<Mutex<Sent>>,
}

impl SendLog {
    pub(crate) fn new(key: Arc<Key>, owner: OwnerToken, id: AttemptId, nodes: usize) -> Self {
        let sent = (0..nodes).map(|_| Mutex::default()).collect();
        let (withdrawn, forgotten) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { key, owner, id, withdrawn, forgotten, sent }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.sent.len()
    }

    /// From now on nothing but releases goes out: whatever was not queued at a node yet never will be.
    pub(crate) fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::SeqCst);
    }

    /// From now on nothing goes out but what marks the lock as held, so that its owner may join it.
    pub(crate) fn forget(&self) {
        self.forgotten.store(true, Ordering::SeqCst);
        self.withdraw();
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

    /// Whether the connection on which the node last answered still stands, so that the node has its memory. One to many
    /// servers does not tell.
    pub(crate) fn is_connected(&self, node: usize) -> bool {
        let answered = lock(&self.sent[node]).answered.as_ref().and_then(Weak::upgrade);
        answered.is_some_and(|line| !line.is_retired() && !line.is_to_cluster())
    }

    /// Whether the connection on which the node last answered has broken since: it may have lost its memory.
    pub(crate) fn is_cut_off(&self, node: usize) -> bool {
        let answered = lock(&self.sent[node]).answered.clone();
        answered.is_some_and(|line| line.upgrade().is_none_or(|line| line.is_retired()))
    }

    /// Notes that a claiming command is about to be queued on a line, unless the send log was withdrawn.
    ///
    /// It is noted before that is asked: whoever withdraws and then looks cannot miss it.
    pub(super) fn begin(&self, node: usize, line: &Arc<Line>, command: Command) -> bool {
        let mut sent = lock(&self.sent[node]);
        let may_follow = command.marks() && self.forgotten.load(Ordering::SeqCst);
        if self.is_withdrawn() && !may_follow {
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

    /// Notes a claiming command to a node that answers at once, unless the send log was withdrawn.
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

    /// Keeps no line any longer, since nothing more is to be undone.
    pub(crate) fn let_lines_go(&self) {
        self.sent.iter().for_each(|sent| lock(sent).unanswered.clear());
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
    use std::time::Duration;

    use redis::{RedisConnectionInfo, aio::MultiplexedConnection};
    use tokio::io::duplex;

    use super::*;
    use crate::{
        node::{command::Touch, lane::transport::Transport},
        types::fencing::Fencing,
    };

    const ACQUIRE: Command = Command::Acquire { ttl: Duration::from_secs(1), proposal: 1 };

    fn send_log() -> SendLog {
        let key = Key::new("", "k".to_owned(), Fencing::default()).unwrap();
        SendLog::new(key.into(), OwnerToken::random(), AttemptId::EMPTY, 1)
    }

    async fn line() -> Arc<Line> {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (ours, _theirs) = duplex(64);
        let (connection, _driver) = MultiplexedConnection::new(&info, ours).await.unwrap();
        Arc::new(Line::new(Transport::Server(connection), 0, None))
    }

    #[tokio::test]
    async fn a_grant_that_the_release_may_have_overtaken_is_undone_on_its_own_line() {
        let (send_log, line) = (send_log(), line().await);
        assert!(send_log.begin(0, &line, ACQUIRE));
        line.retire();
        send_log.withdraw();
        send_log.end(0, &line, End::CarriedOut);
        assert_eq!(send_log.retired_lines(0).len(), 1);
        send_log.undone_on(0, &line);
        assert_eq!(send_log.retired_lines(0).len(), 0);
    }

    #[tokio::test]
    async fn what_was_answered_before_the_withdrawal_needs_no_undo_of_its_own() {
        let (send_log, line) = (send_log(), line().await);
        assert!(send_log.begin(0, &line, ACQUIRE));
        line.retire();
        send_log.end(0, &line, End::CarriedOut);
        send_log.withdraw();
        assert_eq!(send_log.retired_lines(0).len(), 0);
        assert!(send_log.may_hold(0));
    }

    #[tokio::test]
    async fn what_was_never_carried_out_needs_no_undo() {
        let (send_log, line) = (send_log(), line().await);
        assert!(send_log.begin(0, &line, ACQUIRE));
        send_log.withdraw();
        line.retire();
        send_log.end(0, &line, End::Void);
        assert_eq!(send_log.retired_lines(0).len(), 0);
        assert!(!send_log.may_hold(0));
    }
    const MARK: Command = Command::Touch { ttl: None, token: 1, mode: Touch::Extend };

    #[tokio::test]
    async fn nothing_but_the_mark_of_a_lock_follows_when_it_is_forgotten() {
        let (send_log, line) = (send_log(), line().await);
        let ttl = Some(Duration::from_secs(1));
        let renew = |mode| Command::Touch { ttl, token: 1, mode };
        send_log.forget();
        assert!(send_log.begin(0, &line, MARK));
        for command in [ACQUIRE, renew(Touch::Extend), renew(Touch::Heal)] {
            assert!(!send_log.begin(0, &line, command), "{command:?}");
        }
    }

    #[tokio::test]
    async fn no_mark_follows_a_release() {
        let (send_log, line) = (send_log(), line().await);
        send_log.withdraw();
        assert!(!send_log.begin(0, &line, MARK));
    }
}
