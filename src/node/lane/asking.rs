//! Asking: how a command is put to the server, and how again where that did not do.

use std::sync::Arc;

use redis::Value;

use super::{Shared, Used, batch::Outgoing, held_up::Turn};
use crate::{
    host::sync::lock,
    node::{
        command::{Answer, Command},
        failure::Failure,
        scripts::{Delivery, Encoding, Route, decode, encode},
        send_log::SendLog,
    },
    types::few::Few,
};

impl Shared {
    /// Names the scripts by their hashes, and again by their texts where the server did not know the hash. An unfenced
    /// lock is asked for without a script, and with one if it cannot be had.
    pub(super) async fn ask_until_put_right(
        self: &Arc<Self>,
        items: &[(&SendLog, Command)],
        used: &Used,
    ) -> Result<Few<Result<Answer, Failure>>, Failure> {
        let (turn, mut replies) = (Turn::of(items), Few::new());
        let first = items.iter().map(|item| self.first_encoding(*item));
        let mut open: Few<(usize, Encoding)> = first.enumerate().collect();
        while !open.is_empty() {
            let outgoing = |place: usize| {
                let (at, encoding) = open[place];
                self.outgoing(items[at], encoding)
            };
            let more = self.send(open.len(), outgoing, turn, used).await?;
            if replies.is_empty() {
                // At first all are open, in their order.
                replies = more;
            } else {
                open.iter().zip(more).for_each(|((at, _), reply)| replies[*at] = reply);
            }
            open.retain(|(at, encoding)| {
                let next = encoding.after(replies[*at].as_ref().map_err(Failure::code));
                *encoding = next.unwrap_or(*encoding);
                next.is_some()
            });
        }
        note_releases(items, &replies, used);
        Ok(replies.into_iter().map(|reply| Ok(decode(&reply?)?)).collect())
    }

    /// A release is named by its text until the line's server has run one: if it had to be repeated, what was asked
    /// after it would go before it.
    fn first_encoding(&self, (send_log, command): (&SendLog, Command)) -> Encoding {
        let knows_release = || self.line().is_some_and(|line| line.knows_release());
        match command {
            Command::Acquire { .. } if send_log.key.fence.is_none() => Encoding::Plain,
            Command::Release { .. } if !knows_release() => Encoding::Text,
            _ => Encoding::Hash,
        }
    }

    fn outgoing<'a>(
        &self,
        (send_log, command): (&'a SendLog, Command),
        encoding: Encoding,
    ) -> Outgoing<'a> {
        // Another line may come in between: then one release too many, or too few, is announced.
        let announces = command.claims() || self.line().is_none_or(|line| line.announces());
        let cmd = encode(command, send_log, encoding, self.route(announces));
        Outgoing { cmd, claim: command.claims().then_some((send_log, command)) }
    }

    pub(super) fn route(&self, announces: bool) -> Route {
        let is_cluster = self.source.is_cluster();
        let delivery = if is_cluster { Delivery::AnyTimes } else { Delivery::AtMostOnce };
        Route { delivery, database: self.database.get(), announces }
    }
}

/// Notes that the line's server has run a release, if one is answered.
fn note_releases(items: &[(&SendLog, Command)], replies: &[Result<Value, Failure>], used: &Used) {
    let has_run = |(item, reply): (&(_, Command), &Result<_, _>)| {
        matches!(item.1, Command::Release { .. }) && reply.is_ok()
    };
    if items.iter().zip(replies).any(has_run)
        && let Some(line) = &*lock(used)
        // Each server of a cluster has a memory of its own.
        && !line.is_to_cluster()
    {
        line.has_released();
    }
}
