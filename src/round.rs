//! A round: one command to each of several nodes, and their answers as they come.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::Instant;

/// One node's answer to a command of a round.
pub(crate) struct Reply<T> {
    pub(crate) node: usize,
    /// When the round sent the command, at the latest.
    pub(crate) sent: Instant,
    pub(crate) answer: T,
}

/// The calls of a round. All of them are polled once before any answer is looked at: a command takes its
/// place in its lane at the first poll, so that none is forgotten when the round is decided early.
pub(crate) struct Round<T> {
    calls: Vec<Call<T>>,
    replies: VecDeque<Reply<T>>,
}

struct Call<T> {
    node: usize,
    sent: Instant,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl<T> Round<T> {
    /// Creates a round of about so many calls.
    pub(crate) fn new(calls: usize) -> Self {
        Self { calls: Vec::with_capacity(calls), replies: VecDeque::new() }
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
        self.calls.is_empty() && self.replies.is_empty()
    }

    /// The next answer, or `None` if all were taken.
    ///
    /// Dropping the future loses nothing: the answers stay in the round.
    pub(crate) async fn next(&mut self) -> Option<Reply<T>> {
        poll_fn(|cx| match self.poll_calls(cx) {
            None if !self.calls.is_empty() => Poll::Pending,
            reply => Poll::Ready(reply),
        })
        .await
    }

    /// Polls every call, and returns the next answer, if there is one.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> Option<Reply<T>> {
        let mut next = self.replies.pop_front();
        let replies = &mut self.replies;
        self.calls.retain_mut(|call| match call.future.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                let reply = Reply { node: call.node, sent: call.sent, answer };
                match next {
                    None => next = Some(reply),
                    Some(_) => replies.push_back(reply),
                }
                false
            }
        });
        next
    }
}
