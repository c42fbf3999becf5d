//! Questions on the terminal.

use std::io::{IsTerminal, Write, stderr, stdin};

use crate::failure::Failure;

/// Asks for a yes. Without a terminal there is nobody to ask.
pub(crate) fn confirm(question: &str) -> Result<bool, Failure> {
    if !stdin().is_terminal() {
        let message = "not broken: there is no terminal to ask on, so confirm with --yes";
        return Err(Failure::Usage(message.to_owned()));
    }
    let mut answer = String::new();
    let asked = write!(stderr(), "{question} [y/N] ").and_then(|()| stdin().read_line(&mut answer));
    Ok(asked.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
