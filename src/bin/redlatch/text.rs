//! How things are put for people.

use std::{error::Error, time::Duration};

/// Text from elsewhere, without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    printable(&text)
}

/// `850 ms`, `12 s`, `2m 5s`.
pub(crate) fn span(length: Duration) -> String {
    match length.as_millis() {
        ms @ 0..1_000 => format!("{ms} ms"),
        ms @ 1_000..100_000 => format!("{} s", ms / 1_000),
        _ => humantime::format_duration(Duration::from_secs(length.as_secs())).to_string(),
    }
}

/// `held by db1-4711 for another 12 s`.
pub(crate) fn held(by: &str, expires_in_ms: Option<u64>) -> String {
    match expires_in_ms.map(Duration::from_millis).map(span) {
        Some(left) => format!("held by {by} for another {left}"),
        None => format!("held by {by} without an end"),
    }
}

pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        let spans = [850, 12_345, 125_000].map(|ms| span(Duration::from_millis(ms)));
        assert_eq!(spans, ["850 ms", "12 s", "2m 5s"]);
    }
}
