//! Undoing, on a line out of use, what may still be carried out there.

use std::future::Future;

use super::Shared;
use crate::node::{
    command::Command,
    scripts::{Spelling, encode},
    trail::Trail,
};

impl Shared {
    /// Sends the releases among `items` down the lines that were retired while something of their claims was
    /// unanswered there: on its own line, and only there, an undo cannot overtake what it undoes. They go as
    /// text, since nobody would hear of an unknown hash.
    pub(super) fn undo_on_retired_lines<'a>(
        &'a self,
        items: &'a [(&Trail, Command)],
    ) -> Option<impl Future<Output = ()> + use<'a>> {
        let releases = items.iter().filter(|(_, command)| !command.claims());
        let undos: Vec<_> = releases
            .flat_map(|&(trail, command)| {
                let lines = trail.retired_lines(self.index);
                lines.into_iter().map(move |line| (line, trail, command))
            })
            .collect();
        if undos.is_empty() {
            return None;
        }
        Some(async move {
            for (line, trail, command) in undos {
                let passage = self.passage(line.announces());
                let undo = encode(command, trail, Spelling::Text, passage);
                let undo = { undo }.set_no_response(true).take();
                if line.undo(&undo, self.node_timeout).await {
                    trail.undone_on(self.index, &line);
                }
            }
        })
    }
}
