//! What is said on the standard output.

use std::{fmt::Display, io::Write};

use serde::Serialize;

use crate::args::Options;

/// Writes an answer, for people or as one line of JSON. A reader that has gone away is no error.
pub(crate) fn answer(answer: &(impl Display + Serialize), options: &Options) {
    let text = match options.json {
        true => serde_json::to_string(answer).unwrap_or_else(|error| error.to_string()),
        false => answer.to_string(),
    };
    let _written = writeln!(std::io::stdout(), "{text}");
}
