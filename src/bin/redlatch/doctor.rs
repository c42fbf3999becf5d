//! `redlatch doctor`: what would let locks down.

use std::fmt::{self, Display};

use redlatch::{Finding, LockManager, Severity};
use serde::Serialize;

use crate::{args::Options, exit, output, text::printable};

/// Looks, and returns the exit code.
pub(crate) async fn doctor(manager: &LockManager, options: &Options) -> u8 {
    let preflight = manager.preflight().await;
    let findings = preflight.findings();
    for finding in findings {
        output::answer(&Shown::new(finding), options);
    }
    if findings.is_empty() && !options.json {
        output::answer(&"nothing found", options);
    }
    if !options.json {
        let notes = preflight.notes().iter();
        notes.for_each(|note| output::answer(&format!("note: {}", printable(note)), options));
    }
    let critical = || findings.iter().filter(|finding| finding.severity() == Severity::Critical);
    // That a node does not answer is critical only where too few others serve.
    match critical().any(|finding| finding.check() == "no-answer") {
        true => exit::UNAVAILABLE,
        false if critical().next().is_some() => exit::CONFIG,
        false => 0,
    }
}

/// A finding as it can be shown.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    severity: String,
    check: &'a str,
    node: Option<&'a str>,
    problem: &'a str,
    consequence: &'a str,
    advice: &'a str,
    #[serde(skip)]
    text: String,
}

impl<'a> Shown<'a> {
    fn new(finding: &'a Finding) -> Self {
        let lines: Vec<_> = finding.to_string().lines().map(printable).collect();
        Self {
            severity: finding.severity().to_string(),
            check: finding.check(),
            node: finding.node(),
            problem: finding.problem(),
            consequence: finding.consequence(),
            advice: finding.advice(),
            text: lines.join("\n"),
        }
    }
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
