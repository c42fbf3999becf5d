//! Acquiring: attempt after attempt, with the right pause between them, until it succeeds or must give up.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::Instrument;

use crate::{
    armed::Armed,
    attempt::{Opening, Refusal, Wish, attempt},
    clock,
    error::{Error, Result},
    keeper::Keeper,
    ledger::Hearing,
    metrics::Acquiring,
    retry::{Retry, below},
    waiting::{Heed, Holder, News, Place},
};

/// How long and how often to try.
pub(crate) struct Limits {
    pub(crate) wait_timeout: Option<Duration>,
    pub(crate) retry: Retry,
}

/// Takes the lock, waiting for it in the local queue. Dropping the future leaves no lock behind.
pub(crate) async fn acquire(keeper: &Arc<Keeper>, wish: Wish, limits: Limits) -> Result<Armed> {
    let mut acquire = Acquire {
        deadline: limits.wait_timeout.and_then(|wait| Instant::now().checked_add(wait)),
        record: Acquiring::begin(),
        keeper,
        wish,
        limits,
        tries: Tries::default(),
        hearing: None,
    };
    let result = acquire.run().await;
    acquire.record.end(result.as_ref().err());
    result
}

struct Acquire<'a> {
    keeper: &'a Arc<Keeper>,
    wish: Wish,
    limits: Limits,
    record: Acquiring,
    deadline: Option<Instant>,
    tries: Tries,
    /// There once it has to wait.
    hearing: Option<Hearing>,
}

/// What came of the attempts so far.
#[derive(Default)]
struct Tries {
    /// Rounds in a row in which no majority answered.
    outages: u32,
    /// Rounds in a row that took too long.
    late: u32,
    /// The looks in vain since a release was heard of, or since the contenders took the votes from one another;
    /// `None` once it has become quiet.
    stir: Option<u32>,
    last: Option<Error>,
    /// It stood behind another, so that there are contenders.
    has_queued: bool,
}

impl Acquire<'_> {
    async fn run(&mut self) -> Result<Armed> {
        let mut pause = None;
        // Who does not wait does not queue, and an owner who may hold the lock must not queue behind those
        // who wait for it.
        if self.wish.joins || !self.limits.retry.allows_another(1) {
            match self.attempt().await {
                Ok(armed) => return Ok(armed),
                Err(refusal) => pause = Some(self.pause_after(refusal)?),
            }
        }
        let place = self.keeper.ledger.waiting.stand(&self.wish.key);
        let mut seen = place.arrival;
        if !place.is_first {
            if self.until_deadline(pin!(place.is_head())).await.is_some() {
                self.sit_out(&place).await;
            }
            (seen, pause) = (place.news(), None);
        }
        loop {
            if let Some(pause) = pause {
                let is_limited = self.limits.retry.is_limited();
                let heed = if is_limited { Heed::Notices } else { Heed::Doubts };
                if !self.sleep(&place, seen, heed, pause).await {
                    return Err(self.timed_out());
                }
                seen = place.news();
            }
            match self.bounded_attempt().await? {
                Ok(armed) => {
                    place.leave_to(Holder { until: armed.claim().ends(), seen });
                    return Ok(armed);
                }
                Err(refusal) => pause = Some(self.pause_after(refusal)?),
            }
        }
    }

    /// Waits while the one before in the queue holds the lock: there is no use in asking.
    async fn sit_out(&mut self, place: &Place) {
        let Some(holder) = place.holder() else { return };
        self.tries.has_queued = true;
        self.listen();
        let look = clock::to_tokio(holder.until).min(Instant::now() + SAFETY_LOOK);
        self.sleep(place, holder.seen, Heed::Releases, look).await;
    }

    /// Sleeps until there is news, or `until`. Returns false if the deadline came first.
    async fn sleep(&mut self, place: &Place, seen: News, heed: Heed, until: Instant) -> bool {
        let woken = pin!(async {
            tokio::select! {
                biased;
                () = place.news_since(seen, heed) => {}
                () = sleep_until(until) => {}
            }
        });
        let is_in_time = self.until_deadline(woken).await.is_some();
        if place.news().has_notice_since(seen) {
            self.tries.stir = Some(0);
        }
        is_in_time
    }

    fn listen(&mut self) {
        let (ledger, key) = (&self.keeper.ledger, &self.wish.key);
        self.hearing.get_or_insert_with(|| ledger.listen(key));
    }

    /// Makes an attempt that ends at the deadline, unless it is the first: one is always seen through.
    async fn bounded_attempt(&mut self) -> Result<Result<Armed, Refusal>> {
        self.keeper.check_open()?;
        let Some(deadline) = self.deadline.filter(|_| self.record.attempts > 0) else {
            return Ok(self.attempt().await);
        };
        match timeout_at(deadline, self.attempt()).await {
            Ok(outcome) => Ok(outcome),
            Err(_elapsed) => Err(self.timed_out()),
        }
    }

    async fn attempt(&self) -> Result<Armed, Refusal> {
        let number = self.record.attempts + 1;
        let opening = match number {
            // Too few are known to answer: whether that is an outage, all must tell.
            _ if !self.keeper.ledger.is_majority_up() => Opening::AllAtOnce,
            1 if !self.tries.has_queued => Opening::AllAtOnce,
            // Now and then again, so that a dead client's leftover on the first node blocks nobody.
            number if number % 3 == 0 => Opening::AllAtOnce,
            _ => Opening::OneFirst,
        };
        let span = tracing::debug_span!("acquire", key = &*self.wish.key.name, attempt = number);
        // Boxed, so that those who only wait take little room.
        Box::pin(attempt(self.keeper, &self.wish, opening).instrument(span)).await
    }

    /// Notes why an attempt failed. Returns when to look again, or the error if it was the last attempt.
    fn pause_after(&mut self, Refusal { error, is_split, is_hearsay }: Refusal) -> Result<Instant> {
        let tries = &mut self.tries;
        self.record.attempts = self.record.attempts.saturating_add(1);
        let attempts = self.record.attempts;
        let is_outage =
            matches!(&error, Error::Unavailable { reached, needed, .. } if reached < needed);
        let is_late = matches!(error, Error::ValidityExpired { .. });
        tries.outages = match is_outage {
            true => tries.outages + 1,
            // One node's refusal does not say whether the others answer.
            false if is_hearsay => tries.outages,
            false => 0,
        };
        tries.late = if is_late { tries.late + 1 } else { 0 };
        tries.stir = if is_split { Some(tries.stir.unwrap_or(0)) } else { tries.stir };
        tracing::debug!(key = &*self.wish.key.name, attempt = attempts, %error, "attempt failed");
        if matches!(error, Error::Closed | Error::Config { .. }) {
            return Err(error);
        }
        if !self.limits.retry.allows_another(attempts) {
            let key = self.wish.key.name.to_string();
            return Err(Error::RetriesExhausted { key, attempts, source: Box::new(error) });
        }
        if tries.outages.max(tries.late) >= self.keeper.settings.outage_retries.max(1) {
            return Err(error);
        }
        let free_in = match error {
            Error::AlreadyHeld { retry_after, .. } => retry_after,
            _ => None,
        };
        let is_contended = error.is_contended();
        tries.last = Some(error);
        if is_contended {
            self.listen();
        }
        Ok(Instant::now() + self.pause(free_in, is_contended))
    }

    /// How long to sleep if no notice comes.
    fn pause(&mut self, free_in: Option<Duration>, is_contended: bool) -> Duration {
        let retry = &self.limits.retry;
        let delay = retry.delay(self.record.attempts).min(LONGEST_PAUSE);
        let is_heard = self.hearing.as_ref().is_some_and(Hearing::is_sure);
        let follows_delay = retry.is_limited() || !is_contended;
        let stirred = if follows_delay { None } else { self.stirred() };
        let pause = match stirred {
            Some(stirred) => stirred,
            None if is_heard && !follows_delay => SAFETY_LOOK + below(SAFETY_JITTER),
            None => delay,
        };
        let expiry = free_in.map(|free_in| free_in + EXPIRED + below(EXPIRY_JITTER));
        pause.min(expiry.unwrap_or(pause))
    }

    /// The pause after a look in vain while others are at it: the next may be refused by a claim that comes to
    /// nothing, of whose end nobody hears. Full jitter, from about two round trips on, growing.
    fn stirred(&mut self) -> Option<Duration> {
        let looks = self.tries.stir?;
        let most = FIRST_STIR.saturating_mul(2_u32.saturating_pow(looks));
        self.tries.stir = Some(looks + 1).filter(|_| most < SAFETY_LOOK);
        Some(SHORTEST_STIR + below(most.min(SAFETY_LOOK)))
    }

    /// Awaits `event` until the deadline. `None`: the deadline came first.
    async fn until_deadline<F: Future>(&self, event: F) -> Option<F::Output> {
        match self.deadline {
            // An event that is there already would win against a deadline that is over.
            Some(deadline) if deadline <= Instant::now() => None,
            Some(deadline) => timeout_at(deadline, event).await.ok(),
            None => Some(event.await),
        }
    }

    #[expect(clippy::expect_used, reason = "a deadline ends no acquire before its first attempt")]
    fn timed_out(&mut self) -> Error {
        Error::WaitTimeout {
            key: self.wish.key.name.to_string(),
            attempts: self.record.attempts,
            waited: self.record.began.elapsed(),
            source: Box::new(self.tries.last.take().expect("an attempt was made and failed")),
        }
    }
}

/// How long to trust that nothing has happened unheard.
const SAFETY_LOOK: Duration = Duration::from_millis(1_800);
const SAFETY_JITTER: Duration = Duration::from_millis(400);
/// Redis counts in whole milliseconds.
const EXPIRED: Duration = Duration::from_millis(1);
const EXPIRY_JITTER: Duration = Duration::from_millis(5);
const SHORTEST_STIR: Duration = Duration::from_millis(1);
const FIRST_STIR: Duration = Duration::from_millis(2);
/// A timer set for later than this would overflow; nobody waits so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
