//! Watching who leads.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{Election, Leader};
use crate::{
    keeper::{observers::Hearing, quorum::Subscriptions},
    types::{
        error::{Error, Result},
        retry::below,
        token::FencingToken,
    },
};

/// Tells of each change of leader: see [`Election::observe`](super::Election::observe).
///
/// It looks each third of the TTL, or when the leader's time is over, and at once when it hears that a leader has resigned.
/// Terms only grow. A vacancy between two leaders may be skipped, a leader is not: of one that resigned before it was looked
/// at, the [name](Leader::name) is unknown.
pub struct LeaderWatch {
    election: Election,
    /// There once somebody has asked.
    listening: Option<Listening>,
    /// What is to be told next.
    changes: VecDeque<Option<Leader>>,
    told: Option<Leader>,
    /// The highest term that was seen or heard of.
    term: FencingToken,
    /// When to look next; `None`: now.
    next: Option<Instant>,
    /// The looks in a row that found nobody, or no majority.
    in_vain: u32,
}

struct Listening {
    hearing: Arc<Hearing>,
    _subscriptions: Subscriptions,
}

impl LeaderWatch {
    pub(super) fn new(election: Election) -> Self {
        Self {
            election,
            listening: None,
            changes: VecDeque::new(),
            told: None,
            term: FencingToken::NONE,
            next: None,
            in_vain: 0,
        }
    }

    /// Returns who leads, as far as was told last.
    #[must_use]
    pub fn current(&self) -> Option<Leader> {
        self.told.clone()
    }

    /// Waits for another state than that which was told last: another leader, or none. The first call gives the present leader,
    /// or waits for one.
    ///
    /// It waits through outages of any length.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a name that cannot be a key, [`Error::Closed`] once the manager is closed.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// let manager = LockManager::single("redis://127.0.0.1").build()?;
    /// let mut watch = manager.election("scheduler").observe();
    /// loop {
    ///     match watch.changed().await? {
    ///         Some(leader) => println!("{:?} leads in term {}", leader.name(), leader.term()),
    ///         None => println!("nobody leads"),
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn changed(&mut self) -> Result<Option<Leader>> {
        self.listen()?;
        loop {
            if let Some(change) = self.changes.pop_front() {
                self.told.clone_from(&change);
                return Ok(change);
            }
            self.rest().await;
            // Before it is looked: what is heard meanwhile is worth another look.
            self.hear();
            match self.election.look().await {
                Ok(seen) => self.note(seen),
                Err(error @ (Error::Config { .. } | Error::Closed)) => return Err(error),
                Err(error) => {
                    tracing::debug!(key = &*self.election.name, %error, "could not see who leads");
                    self.look_soon();
                }
            }
        }
    }

    fn listen(&mut self) -> Result<()> {
        if self.listening.is_some() {
            return Ok(());
        }
        let Election { keeper, name, .. } = &self.election;
        let key = Arc::new(keeper.key(name.clone(), keeper.settings.fencing(false))?);
        keeper.check_runtime()?;
        keeper.check_open()?;
        keeper.start();
        let hearing = keeper.queues.observe(&key);
        self.listening = Some(Listening {
            hearing,
            _subscriptions: keeper.quorum.listen(std::slice::from_ref(&key)),
        });
        Ok(())
    }

    /// Waits until it is time to look, or something is heard.
    async fn rest(&self) {
        let (Some(next), Some(listening)) = (self.next, &self.listening) else { return };
        tokio::select! {
            biased;
            () = listening.hearing.wait() => {}
            () = sleep_until(next) => {}
        }
    }

    /// Takes note of leaders that have resigned, also of those that nobody has looked at meanwhile.
    fn hear(&mut self) {
        let Some(listening) = &self.listening else { return };
        let mut released = listening.hearing.take().released;
        released.sort_unstable();
        for term in released.into_iter().map(FencingToken::new) {
            // What came before the first look is the past.
            let is_term = term.get() <= HIGHEST_TERM;
            if is_term && term > self.term && !self.term.is_none() {
                self.term = term;
                self.changes.push_back(Some(Leader::past(term)));
            }
        }
    }

    fn note(&mut self, seen: Option<(Leader, Option<Duration>)>) {
        let known = self.changes.back().unwrap_or(&self.told).as_ref().map(Leader::term);
        let Some((leader, expires_in)) = seen else {
            if known.is_some() {
                self.changes.push_back(None);
                self.in_vain = 0;
            }
            return self.look_soon();
        };
        let third = self.election.options.ttl / 3;
        let until_end = expires_in.unwrap_or(third).saturating_add(EXPIRED);
        self.in_vain = 0;
        self.next = Some(Instant::now() + third.min(until_end));
        // A lower one is the view of nodes that were behind.
        if leader.term() >= self.term && known != Some(leader.term()) {
            self.term = leader.term();
            self.changes.push_back(Some(leader));
        }
    }

    /// Looks again after a pause that grows to a third of the TTL: somebody may be elected at this moment.
    fn look_soon(&mut self) {
        let growth = 2_u32.saturating_pow(self.in_vain);
        let third = self.election.options.ttl / 3;
        let pause = FIRST_PAUSE.saturating_mul(growth).min(third).max(SHORTEST_PAUSE);
        self.in_vain = self.in_vain.saturating_add(1);
        self.next = Some(Instant::now() + pause - below(pause / 4));
    }
}

impl fmt::Debug for LeaderWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderWatch")
            .field("name", &self.election.name)
            .field("current", &self.told)
            .finish_non_exhaustive()
    }
}

/// What is released under a higher number is an unfenced lock of somebody who does not know of the election.
const HIGHEST_TERM: u64 = 9_000_000_000_000_000;
/// Redis counts in whole milliseconds, and those who wait are as quick.
const EXPIRED: Duration = Duration::from_millis(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const FIRST_PAUSE: Duration = Duration::from_millis(8);
