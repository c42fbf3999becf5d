//! Holder names: what people call who holds a lock. A name proves nothing, and is no secret.

use super::error::{Error, Result};

/// Refuses a name that cannot stand in an owner token, or not on a line of a log.
pub(crate) fn check(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    // Not repeated: it may be long, or write to a terminal.
    Err(Error::config(format!(
        "a holder's name must have 1 to {MOST_CHARACTERS} characters, at most {MOST_BYTES} bytes, and neither a control \
         character nor a slash"
    )))
}

pub(crate) fn is_name(text: &str) -> bool {
    (1..=MOST_BYTES).contains(&text.len())
        && text.chars().count() <= MOST_CHARACTERS
        && !text.contains(|c: char| c == '/' || c.is_control())
}

const MOST_CHARACTERS: usize = 64;
const MOST_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_64_characters_and_128_bytes() {
        for good in ["a", "pod 7", "db1.example-4711", "Zürich", &"x".repeat(64), &"ü".repeat(64)]
        {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", &"x".repeat(65), &"€".repeat(43), "a/b", "a\nb", "a\u{1}", "a\u{85}b"] {
            assert!(check(bad).unwrap_err().is_config(), "{bad}");
        }
    }
}
