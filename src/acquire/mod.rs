//! Acquiring: attempt after attempt, with the right pause between them, until it succeeds or must give up.

pub(crate) mod any;
pub(crate) mod attempt;
mod election;
mod fencing;
pub(crate) mod spec;
pub(crate) mod take_over;

use std::{pin::pin, slice::from_ref, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{Instrument, Span};

use crate::{
    acquire::{
        any::{AnyOf, Tactics},
        attempt::attempt,
        spec::{AskOrder, LockSpec, Refusal},
    },
    host::clock,
    keeper::{
        Keeper,
        claim_guard::ClaimGuard,
        outage::{Health, pause_after_rounds},
        queue::{Event, LocalHolder, Place, Signals, WakeOn, queue_name},
        quorum::Subscriptions,
    },
    metrics::{Acquiring, Waiting},
    types::{
        error::{Error, Result},
        key::Key,
        retry::{Retry, below},
    },
};

/// How long and how often to try.
pub(crate) struct Limits {
    /// When the caller began to wait.
    pub(crate) began: Instant,
    pub(crate) wait_timeout: Option<Duration>,
    pub(crate) retry: Retry,
}

/// Takes the lock, waiting for it in the local queue. Dropping the future leaves no lock behind.
///
/// With `any` it takes any of these keys, of which that of the `spec` is one.
pub(crate) async fn acquire(
    keeper: &Arc<Keeper>,
    spec: LockSpec,
    any: Option<AnyOf>,
    limits: Limits,
) -> Result<ClaimGuard> {
    let mut acquire = Acquire {
        deadline: limits.wait_timeout.and_then(|wait| limits.began.checked_add(wait)),
        record: Acquiring::begin(spec.label),
        queue: queue_name(any.as_ref().map_or_else(|| from_ref(&spec.key), AnyOf::keys)),
        keeper,
        spec,
        any,
        limits,
        tries: Tries::default(),
        subscriptions: None,
    };
    let result = acquire.run().await;
    acquire.record.end(result.as_ref().err());
    result
}

/// The span of one attempt.
pub(crate) fn attempt_span(spec: &LockSpec, attempt: u32) -> Span {
    tracing::debug_span!("acquire", key = &*spec.key.name, attempt, label = spec.label)
}

struct Acquire<'a> {
    keeper: &'a Arc<Keeper>,
    /// Of several keys that would do, it has the one that was tried last.
    spec: LockSpec,
    any: Option<AnyOf>,
    /// The name of the queue in which it stands or may come to stand.
    queue: Arc<str>,
    limits: Limits,
    record: Acquiring,
    deadline: Option<Instant>,
    tries: Tries,
    /// There once it has to wait.
    subscriptions: Option<Subscriptions>,
}

/// What came of the attempts so far.
#[derive(Default)]
struct Tries {
    /// Rounds in a row that no majority answered.
    outages: u32,
    /// Rounds in a row that took too long.
    late: u32,
    /// The looks in vain since a release was heard of, or since the contenders took the votes from one another;
    /// `None` once it has become quiet.
    contention: Option<u32>,
    last: Option<Error>,
    /// It stood behind others, so that an attempt of theirs may have told what this one's first would.
    has_stood: bool,
    /// When it was known last how the nodes are, and not one of them alone.
    asked_all: Option<Instant>,
}

/// How to rest before the next attempt.
struct Pause {
    until: Instant,
    wake_on: WakeOn,
}

impl Acquire<'_> {
    async fn run(&mut self) -> Result<ClaimGuard> {
        let mut pause = None;
        // Who does not wait does not queue, and an owner who may hold the lock must not queue behind those
        // who wait for it.
        if self.spec.joins || !self.limits.retry.allows_another(1) {
            match self.attempt(None).await? {
                Ok(armed) => return Ok(armed),
                Err(refusal) => pause = Some(self.pause_after(refusal)?),
            }
        }
        let _waiting = Waiting::begin(self.spec.label);
        let place = self.keeper.queues.stand(&self.queue, self.keys());
        let mut seen = place.arrival;
        if !place.is_first {
            self.stand(&place).await?;
            (seen, pause) = (place.news(), None);
        }
        loop {
            if let Some(pause) = pause {
                self.sleep(&place, seen, &pause).await?;
                seen = place.news();
            }
            match self.attempt(Some(&place)).await? {
                Ok(armed) => {
                    // Others of several keys may be free.
                    if self.keys().len() == 1 {
                        place.leave_to(LocalHolder { until: armed.claim().ends(), seen });
                    }
                    return Ok(armed);
                }
                Err(refusal) => pause = Some(self.pause_after(refusal)?),
            }
        }
    }

    /// Waits behind others, until it is the head of the queue or its time is over: then it looks all the same.
    async fn stand(&mut self, place: &Place) -> Result<()> {
        self.tries.has_stood = true;
        while !place.has_happened(Event::Turn) {
            let turn = self.rest(place, Event::Turn, None);
            let is_in_time = self.until_deadline(pin!(turn)).await.is_some();
            if !is_in_time {
                return if self.tries.last.is_some() { Err(self.timed_out()) } else { Ok(()) };
            }
            self.check_patience()?;
        }
        // Of a lock of its own owner it may be a holder at once.
        if !self.spec.joins {
            self.wait_behind(place).await;
        }
        self.check_patience()
    }

    /// Waits while the one before in the queue holds the lock: there is no use in asking.
    async fn wait_behind(&mut self, place: &Place) {
        let Some(holder) = place.holder() else { return };
        self.tries.asked_all = Some(Instant::now());
        self.listen();
        let look = clock::to_tokio(holder.until).min(Instant::now() + SAFETY_LOOK);
        let news = Event::Signals { seen: holder.seen, wake_on: WakeOn::Releases };
        let _in_time = self.until_deadline(pin!(self.rest(place, news, Some(look)))).await;
        self.contention_since(place, holder.seen);
    }

    /// Sleeps until there is news, or for the pause. Fails if a limit came first.
    async fn sleep(&mut self, place: &Place, seen: Signals, pause: &Pause) -> Result<()> {
        let Pause { wake_on, until } = *pause;
        let seen = match wake_on {
            // What came back before the attempt was over has been tried.
            WakeOn::Recoveries => seen.with_recoveries_of(place.news()),
            _ => seen,
        };
        let rest = self.rest(place, Event::Signals { seen, wake_on }, Some(until));
        let is_in_time = self.until_deadline(pin!(rest)).await.is_some();
        self.contention_since(place, seen);
        if is_in_time { self.check_patience() } else { Err(self.timed_out()) }
    }

    /// Waits for something to happen, until then at the most, or until it is time to despair of an outage.
    async fn rest(&self, place: &Place, event: Event, until: Option<Instant>) {
        loop {
            let outage = place.outage_began();
            let despair = outage.and_then(|began| self.despair(began));
            let end = until.into_iter().chain(despair).min();
            let hopes = matches!(event, Event::Signals { wake_on: WakeOn::Recoveries, .. });
            tokio::select! {
                biased;
                () = place.wait(event, outage) => if place.has_happened(event) { return },
                () = sleep_until(end.unwrap_or(self.limits.began)), if end.is_some() => return,
                never = self.keeper.quorum.mend(), if hopes => match never {},
            }
        }
    }

    fn contention_since(&mut self, place: &Place, seen: Signals) {
        if place.news().has_notice_since(seen) {
            self.tries.contention = Some(0);
        }
    }

    fn keys(&self) -> &[Arc<Key>] {
        self.any.as_ref().map_or_else(|| from_ref(&self.spec.key), AnyOf::keys)
    }

    fn listen(&mut self) {
        if self.subscriptions.is_none() {
            self.subscriptions = Some(self.keeper.quorum.listen(self.keys()));
        }
    }

    /// Makes an attempt that ends in time.
    async fn attempt(&mut self, place: Option<&Place>) -> Result<Result<ClaimGuard, Refusal>> {
        self.keeper.check_open()?;
        let (number, ask_order) = (self.record.attempts + 1, self.ask_order());
        if ask_order == AskOrder::Census {
            self.tries.asked_all = Some(Instant::now());
        }
        let until = self.attempt_ends();
        // Boxed, so that those who only wait take little room.
        let Some(any) = &self.any else {
            let span = attempt_span(&self.spec, number);
            let attempt = attempt(self.keeper, &self.spec, ask_order, until).instrument(span);
            return Ok(Box::pin(attempt).await);
        };
        let tactics =
            Tactics { number, ask_order, until, freed: place.and_then(Place::take_freed) };
        Ok(Box::pin(any.attempt(self.keeper, &mut self.spec, tactics)).await)
    }

    fn ask_order(&self) -> AskOrder {
        let Keeper { quorum, queues, .. } = &**self.keeper;
        let is_recent = |asked: Instant| asked.elapsed() < HEARSAY;
        match self.record.attempts + 1 {
            // Too few are known to answer: whether that is an outage, all must tell.
            _ if !quorum.is_majority_up() => AskOrder::Census,
            _ if queues.outage(&self.queue).is_some() => AskOrder::Census,
            // Also where one node alone was heard of late: it does not know how the others are. But not right after a
            // release: those who wait in other processes look now too, and would take the votes from one another.
            _ if self.tries.contention.is_none()
                && !self.tries.asked_all.is_some_and(is_recent) =>
            {
                AskOrder::Census
            }
            // Now and then again, so that a dead client's leftover on the first node blocks nobody.
            number if number % 3 == 0 => AskOrder::Census,
            _ => AskOrder::OneFirst,
        }
    }

    /// When the next attempt ends at the latest. One is always sent: a caller who does not wait at all sees it
    /// through, and whose time was over before looks for a moment.
    fn attempt_ends(&self) -> Option<Instant> {
        let is_first = self.record.attempts == 0;
        let last_look = self.limits.wait_timeout.unwrap_or_default().min(LAST_LOOK);
        let deadline = match self.deadline {
            Some(_) if is_first && last_look.is_zero() => None,
            Some(deadline) if is_first => Some(deadline.max(Instant::now() + last_look)),
            deadline => deadline,
        };
        let waiting = &self.keeper.queues;
        let outage = waiting.outage(&self.queue).filter(|_| !is_first || self.tries.has_stood);
        let despair = outage.and_then(|outage| self.despair(outage.began));
        deadline.into_iter().chain(despair).min()
    }

    /// When the patience with an outage that began then is over. `None`: never.
    fn despair(&self, began: Instant) -> Option<Instant> {
        let patience = match self.keeper.settings.outage_patience {
            None if self.limits.wait_timeout.is_some() => return None,
            patience => patience.unwrap_or(OUTAGE_PATIENCE),
        };
        began.max(self.limits.began).checked_add(patience)
    }

    /// Fails if the outage has outlasted the patience, with what the last round came to.
    fn check_patience(&self) -> Result<()> {
        let key = &self.spec.key;
        let is_over = |began| self.despair(began).is_some_and(|end| end <= Instant::now());
        match self.keeper.queues.outage(&self.queue) {
            Some(outage) if is_over(outage.began) => Err(outage.shortage.error(&key.name)),
            _ => Ok(()),
        }
    }

    /// Notes why an attempt failed. Returns how to rest before the next, or the error if it was the last.
    fn pause_after(&mut self, refusal: Refusal) -> Result<Pause> {
        let is_unfit = matches!(refusal.health, Health::Unfit);
        let is_out = refusal.health.is_out();
        let error = self.note(refusal);
        let attempts = self.record.attempts;
        if error.is_final() || self.spec.once && error.is_done() {
            return Err(error);
        }
        if !self.limits.retry.allows_another(attempts) {
            let key = self.spec.key.name.to_string();
            return Err(Error::RetriesExhausted { key, attempts, source: Box::new(error) });
        }
        if is_unfit || self.tries.late >= MOST_LATE {
            return Err(error);
        }
        self.check_patience()?;
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            // What was cut short tells less than what was heard before.
            self.tries.last.get_or_insert(error);
            return Err(self.timed_out());
        }
        let free_in = match error {
            Error::AlreadyHeld { retry_after, .. } => retry_after,
            _ => None,
        };
        let is_contended = error.is_contended();
        self.tries.last = Some(error);
        if is_contended {
            self.listen();
        }
        let is_limited = self.limits.retry.is_limited();
        let (pause, wake_on) = match (is_out, is_limited) {
            (true, true) => (self.delay(), WakeOn::Recoveries),
            (true, false) => (pause_after_rounds(self.tries.outages), WakeOn::Recoveries),
            (false, true) => (self.pause(free_in, is_contended), WakeOn::Notices),
            (false, false) => (self.pause(free_in, is_contended), WakeOn::Doubts),
        };
        Ok(Pause { until: Instant::now() + pause, wake_on })
    }

    /// Counts an attempt that failed. Returns why: that one node has the lock held by another does not hide that the
    /// others do not answer.
    fn note(&mut self, Refusal { error, is_brief, health, .. }: Refusal) -> Error {
        let (record, tries) = (&mut self.record, &mut self.tries);
        record.attempts = record.attempts.saturating_add(1);
        tries.outages = match &health {
            Health::Out(_) => tries.outages.saturating_add(1),
            // One node's refusal does not say whether the others answer.
            Health::Unknown => tries.outages,
            Health::Answering | Health::Unfit => 0,
        };
        let is_late = matches!(error, Error::ValidityExpired { .. });
        tries.late = if is_late { tries.late + 1 } else { 0 };
        tries.contention =
            if is_brief { Some(tries.contention.unwrap_or(0)) } else { tries.contention };
        let (key, attempt) = (&*self.spec.key.name, record.attempts);
        tracing::debug!(key, attempt, %error, "attempt failed");
        match health {
            Health::Out(shortage) => shortage.error(key),
            _ => error,
        }
    }

    /// The delay that the policy names.
    fn delay(&self) -> Duration {
        self.limits.retry.delay(self.record.attempts).min(LONGEST_PAUSE)
    }

    /// How long to sleep if no notice comes.
    fn pause(&mut self, free_in: Option<Duration>, is_contended: bool) -> Duration {
        let delay = self.delay();
        let is_heard = self.subscriptions.as_ref().is_some_and(Subscriptions::is_sure);
        let follows_delay = self.limits.retry.is_limited() || !is_contended;
        let contended_pause = if follows_delay { None } else { self.contended_pause() };
        let pause = match contended_pause {
            Some(contended_pause) => contended_pause,
            None if is_heard && !follows_delay => SAFETY_LOOK + below(SAFETY_JITTER),
            None => delay,
        };
        let expiry = free_in.map(|free_in| free_in + EXPIRED + below(EXPIRY_JITTER));
        pause.min(expiry.unwrap_or(pause))
    }

    /// The pause after a look in vain while others are at it: the next may be refused by a claim that comes to
    /// nothing, of whose end nobody hears. Full jitter, from about two round trips on, growing.
    fn contended_pause(&mut self) -> Option<Duration> {
        let looks = self.tries.contention?;
        let most = FIRST_CONTENTION.saturating_mul(2_u32.saturating_pow(looks));
        self.tries.contention = Some(looks + 1).filter(|_| most < SAFETY_LOOK);
        Some(SHORTEST_CONTENTION + below(most.min(SAFETY_LOOK)))
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
            key: self.spec.key.name.to_string(),
            attempts: self.record.attempts,
            waited: self.limits.began.elapsed(),
            source: Box::new(self.tries.last.take().expect("an attempt was made and failed")),
        }
    }
}

/// How long to put up with an outage, where neither the manager nor the caller says.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(5);
/// Rounds in a row that took longer than the TTL allows before it is given up.
const MOST_LATE: u32 = 3;
/// How long somebody looks whose time was over while others were in the way.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// How long one node's word is taken for all.
const HEARSAY: Duration = Duration::from_secs(1);
/// How long to trust that nothing has happened unheard.
const SAFETY_LOOK: Duration = Duration::from_millis(1_800);
const SAFETY_JITTER: Duration = Duration::from_millis(400);
/// Redis counts in whole milliseconds.
const EXPIRED: Duration = Duration::from_millis(1);
const EXPIRY_JITTER: Duration = Duration::from_millis(5);
const SHORTEST_CONTENTION: Duration = Duration::from_millis(1);
const FIRST_CONTENTION: Duration = Duration::from_millis(2);
/// A timer set for later than this would overflow; nobody waits so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
