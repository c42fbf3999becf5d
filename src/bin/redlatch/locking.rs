//! Acquiring the lock that a command is to run under.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use redlatch::{LockAnyRequest, LockGuard, LockManager, LockRequest, Once, RenewalEvent};
use rustix::process::Signal;
use tokio::select;

use crate::{
    args::Run, event::Event, failure::Failure, owner, progress::Progress, reporter::Reporter,
    signals::Signals, text,
};

/// Acquires the lock, and tells who is in the way meanwhile. `None`: a signal came first, and nothing is held.
pub(crate) async fn acquire(
    run: &Run,
    manager: &LockManager,
    signals: &mut Signals,
    reporter: &Reporter,
) -> Result<LockGuard, Stop> {
    let progress = Progress::new(manager, run.locks(), reporter);
    let guard = select! {
        biased;
        signal = signals.next() => return Err(Stop::Signal(signal)),
        guard = wait(run, request(run, manager, reporter)?) => guard??,
        never = progress.tell() => match never {},
    };
    let owner = owner::name();
    let (key, fencing_token) = (guard.key().to_owned(), guard.fencing_token().get());
    reporter.say(&Event::Acquired { key, owner, fencing_token, waited: progress.has_told() });
    Ok(guard)
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum Stop {
    Signal(Signal),
    Failure(Failure),
    /// The command is to run once, and runs elsewhere.
    Running,
    /// It has run, and for so long that is remembered.
    Done {
        forgotten_in: Option<Duration>,
    },
}

impl<T: Into<Failure>> From<T> for Stop {
    fn from(failure: T) -> Self {
        Self::Failure(failure.into())
    }
}

/// A lock that is renewed at least twice before its grace time.
fn request(run: &Run, manager: &LockManager, reporter: &Reporter) -> Result<Wanted, Failure> {
    let (grace, most) = (run.grace(), run.ttl / 10 * 9);
    if grace.is_zero() || grace > most {
        let message = format!(
            "--grace must be more than zero and at most nine tenths of the TTL, {most:?}, not {grace:?}"
        );
        return Err(Failure::Usage(message));
    }
    let interval = (run.ttl / 3).min(run.ttl.saturating_sub(grace) / 2);
    let (reporter, failing) = (reporter.clone(), AtomicBool::new(false));
    let on_renewal = move |event: &RenewalEvent| {
        if let Some(event) = news(event, &failing) {
            reporter.say(&event);
        }
    };
    // The two kinds of requests have these setters in common, and no trait.
    macro_rules! told {
        ($request:expr) => {
            $request
                .ttl(run.ttl)
                .holder(owner::name())
                .min_hold(run.min_hold.unwrap_or_default())
                .auto_renew_every(interval)
                .on_renewal(on_renewal)
        };
    }
    Ok(match run.permits {
        None => Wanted::Lock(told!(manager.lock(&run.key))),
        Some(permits) => Wanted::Permit(told!(manager.semaphore(&run.key, permits))),
    })
}

/// What is asked for: one lock, or one of so many permits.
enum Wanted {
    Lock(LockRequest),
    Permit(LockAnyRequest),
}

async fn wait(run: &Run, wanted: Wanted) -> redlatch::Result<Result<LockGuard, Stop>> {
    match (wanted, run.once, run.wait) {
        (Wanted::Lock(request), Some(keep), _) => return once(run, request, keep).await,
        (Wanted::Lock(request), ..) if run.no_wait => request.try_acquire().await,
        (Wanted::Lock(request), _, Some(longest)) => request.wait_timeout(longest).await,
        (Wanted::Lock(request), ..) => request.await,
        (Wanted::Permit(request), ..) if run.no_wait => request.try_acquire().await,
        (Wanted::Permit(request), _, Some(longest)) => request.wait_timeout(longest).await,
        (Wanted::Permit(request), ..) => request.await,
    }
    .map(Ok)
}

/// Takes the lock unless the command runs elsewhere, which is waited for if that is wished, or is done.
async fn once(
    run: &Run,
    request: LockRequest,
    keep: Duration,
) -> redlatch::Result<Result<LockGuard, Stop>> {
    let request = match run.wait {
        Some(longest) => request.wait_timeout(longest),
        None => request,
    };
    Ok(match request.acquire_once(keep).await? {
        Once::Ran(guard) => Ok(guard),
        Once::Done { retry_after, .. } => Err(Stop::Done { forgotten_in: retry_after }),
        _ => Err(Stop::Running),
    })
}

/// What is new in a renewal: that renewals begin to fail, or to work again.
fn news(event: &RenewalEvent, failing: &AtomicBool) -> Option<Event> {
    match event {
        RenewalEvent::Renewed { key, .. } => {
            let was_failing = failing.swap(false, Ordering::Relaxed);
            was_failing.then(|| Event::Renewed { key: key.clone() })
        }
        RenewalEvent::Failed { key, error, remaining, .. } => {
            let was_failing = failing.swap(true, Ordering::Relaxed);
            let (remaining_ms, message) = (text::millis(*remaining), text::chain(error));
            (!was_failing).then(|| Event::RenewalFailed { key: key.clone(), remaining_ms, message })
        }
        _ => None,
    }
}
