//! What the replies on a line tell: of the line, of the node, and of each command.

use std::sync::Arc;

use redis::{RedisError, Value};

use super::{
    Blame, Shared,
    batch::{Batch, Fate},
    line::Line,
    transport::Replies,
};
use crate::{
    node::{failure::Failure, presence::Absence, scripts::is_unannounced, send_log::End},
    types::few::Few,
};

impl Shared {
    /// Learns from the replies how the line is, and gives each command its own.
    pub(super) fn deliver(
        &self,
        batch: &Batch<'_>,
        replies: Replies,
    ) -> Result<Few<Result<Value, Failure>>, Failure> {
        // Rule 3: what a broken connection has carried out nobody knows. Its commands stay unanswered in their send logs, so
        // that the node is asked to release them.
        let replies = replies.inspect_err(|error| {
            if error.is_unrecoverable_error() {
                self.retire(&batch.line, Blame::Connection, error.clone().into());
            }
        })?;
        // A cluster's connection finds the new primary itself.
        let may_be_demoted = !batch.line.is_to_cluster();
        let is_demoted = |reply: &&Result<_, RedisError>| {
            may_be_demoted
                && reply.as_ref().is_err_and(|error| DEMOTED.contains(&error.code().unwrap_or("")))
        };
        let demoted = replies.iter().find(is_demoted);
        batch.line.replied(demoted.is_none());
        if replies.iter().flatten().any(is_unannounced) {
            tracing::debug!(node = %self.name, "the user may not announce releases");
            batch.line.announces_no_more();
        }
        if let Some(Err(error)) = demoted {
            self.retire(&batch.line, Blame::Node, error.clone().into());
        }
        self.note_presence(batch, &replies);
        let mut replies = replies.into_iter();
        Ok(batch.fates.iter().map(|fate| self.open(*fate, &batch.line, &mut replies)).collect())
    }

    /// Learns from the replies whether the node is there and does its work. Of a cluster they tell nothing: each
    /// is one server's.
    fn note_presence(&self, batch: &Batch<'_>, replies: &[Result<Value, RedisError>]) {
        if batch.line.is_to_cluster() {
            return self.presence.answers(|| true);
        }
        let errors = replies.iter().filter_map(|reply| reply.as_ref().err());
        let unfit = { errors }.find(|error| UNFIT.contains(&error.code().unwrap_or("")));
        if let Some(error) = unfit {
            return self.presence.goes(Absence::Unfit, error);
        }
        self.presence.answers(|| {
            let queued = batch.fates.iter().filter(|fate| fate.failure().is_none());
            queued.zip(replies).any(|(fate, reply)| fate.claim().is_some() && reply.is_ok())
        });
    }

    fn open(
        &self,
        fate: Fate<'_>,
        line: &Arc<Line>,
        replies: &mut impl Iterator<Item = Result<Value, RedisError>>,
    ) -> Result<Value, Failure> {
        let Fate::Queued(claim) = fate else {
            return Err(fate.failure().unwrap_or(Failure::Withdrawn));
        };
        let reply = replies.next().ok_or(Failure::Shape)?;
        if let Some(send_log) = claim {
            let how = match &reply {
                Ok(_) => End::CarriedOut,
                // The last reply is not all: a cluster's connection may have sent the command before.
                Err(_) if line.is_to_cluster() => End::Doubtful,
                // A script that fails has not written anything yet.
                Err(_) => End::Void,
            };
            send_log.end(self.index, line, how);
        }
        Ok(reply?)
    }
}

/// What a server says that is the primary no more, or not yet sure of it: the next connection may find another.
const DEMOTED: [&str; 3] = ["READONLY", "NOREPLICAS", "MASTERDOWN"];
/// What a server says that cannot do its work at this time, whatever the lock.
const UNFIT: [&str; 8] =
    ["READONLY", "NOREPLICAS", "MASTERDOWN", "LOADING", "BUSY", "CLUSTERDOWN", "MISCONF", "OOM"];
