//! Undoing, on a line out of use, what may still be carried out there.

use std::{future::Future, pin::Pin};

use super::Shared;
use crate::node::{
    command::Command,
    scripts::{Encoding, encode},
    send_log::SendLog,
};

impl Shared {
    /// Sends the releases among `items` down the lines that were retired while something of their claims was
    /// unanswered there: on its own line, and only there, an undo cannot overtake what it undoes. They go as
    /// text, since nobody would hear of an unknown hash.
    pub(super) fn undo_on_retired_lines<'a>(
        &'a self,
        items: &'a [(&SendLog, Command)],
    ) -> Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>> {
        let releases = items.iter().filter(|(_, command)| !command.claims());
        let undos: Vec<_> = releases
            .flat_map(|&(send_log, command)| {
                let lines = send_log.retired_lines(self.index);
                lines.into_iter().map(move |line| (line, send_log, command))
            })
            .collect();
        if undos.is_empty() {
            return None;
        }
        // Boxed, since it is rare and large.
        Some(Box::pin(async move {
            for (line, send_log, command) in undos {
                let route = self.route(line.announces());
                let undo = encode(command, send_log, Encoding::Text, route);
                let undo = { undo }.set_no_response(true).take();
                if line.undo(&undo, self.node_timeout).await {
                    send_log.undone_on(self.index, &line);
                }
            }
        }))
    }
}
