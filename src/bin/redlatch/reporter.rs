//! What is said on the standard error.

use std::{
    io::Write,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use crate::event::Event;

/// Writes events on a thread of its own: a terminal or a pipe that takes nothing must not hold a renewal up.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    lines: Sender<String>,
    json: bool,
    quiet: bool,
}

/// The end of the writing.
#[derive(Debug)]
pub(crate) struct Flushed(Receiver<()>);

impl Reporter {
    pub(crate) fn start(json: bool, quiet: bool) -> (Self, Flushed) {
        let (lines, received) = channel();
        let (done, flushed) = channel();
        // Without a thread nothing is said; everything else works.
        let _started = thread::Builder::new().name("stderr".to_owned()).spawn(move || {
            write(&received);
            drop(done);
        });
        (Self { lines, json, quiet }, Flushed(flushed))
    }

    pub(crate) fn say(&self, event: &Event) {
        let is_unwanted = self.quiet && event.is_progress() || !self.json && event.is_routine();
        if is_unwanted {
            return;
        }
        let line = match self.json {
            true => serde_json::to_string(event).unwrap_or_else(|error| error.to_string()),
            false => format!("redlatch: {event}"),
        };
        // The thread ends when the standard error is closed; then nobody listens.
        let _sent = self.lines.send(line);
    }
}

impl Flushed {
    /// Waits until all is written, but not for ever.
    pub(crate) fn wait(self) {
        let _ended = self.0.recv_timeout(LONGEST_FLUSH);
    }
}

fn write(lines: &Receiver<String>) {
    for mut line in lines {
        // In one write, since the command may write there too.
        line.push('\n');
        if std::io::stderr().write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

const LONGEST_FLUSH: Duration = Duration::from_secs(1);
