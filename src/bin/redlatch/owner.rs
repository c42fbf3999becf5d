//! Owner tokens by which people recognise a holder, and that are secrets all the same.

use redlatch::{OwnerToken, Result};

use crate::text;

/// A token for this process: `host-pid-` and what nobody can guess.
pub(crate) fn new() -> Result<OwnerToken> {
    let (host, pid) = (rustix::system::uname(), std::process::id());
    let host: String = host.nodename().to_string_lossy().chars().take(LONGEST_HOST).collect();
    OwnerToken::new(format!("{host}-{pid}-{}", OwnerToken::random().as_str()))
}

/// What may be shown of a token: host and process id if it is one of ours, else its first characters.
pub(crate) fn shown(token: &OwnerToken) -> String {
    text::printable(name(token.as_str()).unwrap_or(&token.to_string()))
}

/// The same of who holds a lock, or has released it and left it to nobody for a while.
pub(crate) fn shown_as(token: &OwnerToken, is_kept: bool) -> String {
    format!("{}{}", shown(token), if is_kept { " (released)" } else { "" })
}

/// `db1-4711` of `db1-4711-0f3c..`.
fn name(token: &str) -> Option<&str> {
    let (name, random) = token.rsplit_once('-')?;
    let (host, pid) = name.rsplit_once('-')?;
    let is_ours = !host.is_empty()
        && !pid.is_empty()
        && pid.bytes().all(|byte| byte.is_ascii_digit())
        && random.len() == RANDOM
        && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then_some(name)
}

/// Characters, of up to four bytes: a token has at most 256 bytes.
const LONGEST_HOST: usize = 50;

/// The digits of a random token.
const RANDOM: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_shown_by_host_and_pid_only() {
        let (token, pid) = (new().unwrap(), std::process::id());
        let shown = shown(&token);
        assert!(shown.ends_with(&format!("-{pid}")), "{shown}");
        assert_eq!(token.as_str().len(), shown.len() + 1 + RANDOM);
    }

    #[test]
    fn of_other_tokens_eight_characters_are_shown() {
        for token in [OwnerToken::random(), OwnerToken::new("deploy-77-secretsecret").unwrap()] {
            assert_eq!(shown(&token), format!("{}…", &token.as_str()[..8]));
        }
    }

    #[test]
    fn a_token_cannot_write_to_the_terminal() {
        let token = OwnerToken::new("\u{1b}[2J").unwrap();
        assert_eq!(shown(&token), "\u{fffd}[2J");
    }
}
