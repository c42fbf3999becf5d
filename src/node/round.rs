//! A round: one command to each of several nodes, and their answers as they come.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, timeout_at};

use crate::types::few::Few;

/// One node's answer to a command of a round.
pub(crate) struct Reply<T> {
    pub(crate) node: usize,
    /// When the round sent the command, at the latest.
    pub(crate) sent: Instant,
    pub(crate) answer: T,
}

/// The calls of a round. All of them are polled before an answer is looked at: a command takes its place in its
/// lane at the first poll, so that as few as possible are left when the round is decided early.
///
/// They are few, so that each wake-up polls them all. `FuturesUnordered` would poll those alone that were woken, but has
/// its task run once more each time it finds them all pending, which wakes another thread of the runtime.
pub(crate) struct Round<T> {
    calls: Few<Call<T>>,
    /// In the order in which they came.
    replies: VecDeque<Reply<T>>,
    /// Until then the answers are waited for.
    until: Option<Instant>,
    is_cut: bool,
}

struct Call<T> {
    node: usize,
    sent: Instant,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl<T> Round<T> {
    pub(crate) fn new() -> Self {
        Self::until(None)
    }

    /// A round whose answers are waited for until then, if at all so long.
    pub(crate) fn until(until: Option<Instant>) -> Self {
        let (calls, replies) = (Few::new(), VecDeque::new());
        Self { calls, replies, until, is_cut: false }
    }

    /// The same round, waited for to its end.
    pub(crate) fn unbound(self) -> Self {
        Self { until: None, ..self }
    }

    /// Whether the time was over before all answers had come.
    pub(crate) const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Adds a call whose clock started at `sent`, before the first byte.
    pub(crate) fn push(
        &mut self,
        node: usize,
        sent: Instant,
        call: impl Future<Output = T> + Send + 'static,
    ) {
        self.calls.push(Call { node, sent, future: Box::pin(call) });
    }

    /// Whether every answer was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.len() == 0
    }

    /// The answers that were not taken yet.
    pub(crate) fn len(&self) -> usize {
        self.calls.len() + self.replies.len()
    }

    /// The next answer, or `None` if all were taken or the time is over.
    ///
    /// Dropping the future loses nothing: the answers stay in the round.
    pub(crate) async fn next(&mut self) -> Option<Reply<T>> {
        let Some(until) = self.until else { return self.next_of_all().await };
        // Sends before it looks at the time.
        let reply = timeout_at(until, self.next_of_all()).await;
        self.is_cut |= reply.is_err();
        reply.ok().flatten()
    }

    async fn next_of_all(&mut self) -> Option<Reply<T>> {
        poll_fn(|cx| {
            let Self { calls, replies, .. } = self;
            let mut first = replies.pop_front();
            calls.retain(|call| match call.poll(cx) {
                Poll::Ready(reply) if first.is_none() => {
                    first = Some(reply);
                    false
                }
                Poll::Ready(reply) => {
                    replies.push_back(reply);
                    false
                }
                Poll::Pending => true,
            });
            match first {
                None if !self.calls.is_empty() => Poll::Pending,
                reply => Poll::Ready(reply),
            }
        })
        .await
    }
}

impl<T> Call<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reply<T>> {
        let (node, sent) = (self.node, self.sent);
        self.future.as_mut().poll(cx).map(|answer| Reply { node, sent, answer })
    }
}
