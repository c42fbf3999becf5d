//! Waiting for conditions and driving futures step by step.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, advance, pause, resume, sleep, timeout};

/// Longest anything may take; far beyond what a loaded machine needs.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// The TTL of locks whose release is looked for: within [`BOUND`], none of them is gone because it has expired.
pub(crate) const LASTING: Duration = Duration::from_secs(20 * BOUND.as_secs());

/// Waits until `condition` is true; fails the test when it is not within [`BOUND`].
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < BOUND, "never came true: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Moves tokio's clock on: to the crate so much time has passed, to the servers none.
pub(crate) async fn let_pass(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

/// Awaits `future`; fails the test when it does not end within [`BOUND`].
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(BOUND, future).await.expect("the future must end in bounded time")
}

/// Polls `future` at most `polls` times, each time it is woken, and drops it then.
pub(crate) async fn poll_times<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut done = 0;
    poll_fn(|context| {
        if done == polls {
            return Poll::Ready(None);
        }
        done += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if done == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Lets time pass more finely than tokio's millisecond timer, without blocking the other tasks.
pub(crate) async fn spin(length: Duration) {
    let start = std::time::Instant::now();
    while start.elapsed() < length {
        tokio::task::yield_now().await;
    }
}

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
