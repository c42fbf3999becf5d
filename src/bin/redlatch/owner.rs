//! Holder names: what `redlatch` calls itself, and how others are shown.

use redlatch::{LockStatus, NodeVote, OwnerToken};

use crate::text;

/// What this process is called: `host-pid`.
pub(crate) fn name() -> String {
    let (host, pid) = (rustix::system::uname(), std::process::id());
    fitted(&host.nodename().to_string_lossy(), &format!("-{pid}"))
}

/// A host's name with `end` behind it, so changed and cut that it may be a holder's.
fn fitted(host: &str, end: &str) -> String {
    let mut name = String::new();
    let fits = host.chars().map(|c| if c.is_control() || c == '/' { '_' } else { c });
    for c in fits.take(MOST_CHARACTERS.saturating_sub(end.len())) {
        if name.len() + c.len_utf8() + end.len() > MOST_BYTES {
            break;
        }
        name.push(c);
    }
    name + end
}

/// How a lock stands to whom it is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Held,
    /// Released, and left to nobody for a while.
    Kept,
    /// The same, since what was to be done is done.
    Done,
}

impl Standing {
    pub(crate) fn of(status: &LockStatus) -> Self {
        match () {
            () if status.is_done() => Self::Done,
            () if status.is_kept() => Self::Kept,
            () => Self::Held,
        }
    }

    pub(crate) fn at(vote: &NodeVote) -> Self {
        match () {
            () if vote.is_done() => Self::Done,
            () if vote.is_kept() => Self::Kept,
            () => Self::Held,
        }
    }
}

/// A holder's name, or the first characters of an owner token that has none.
pub(crate) fn shown(holder: Option<&str>, token: &OwnerToken, standing: Standing) -> String {
    let shown = holder.map_or_else(|| text::printable(&token.to_string()), str::to_owned);
    let standing = match standing {
        Standing::Held => "",
        Standing::Kept => " (released)",
        Standing::Done => " (done)",
    };
    format!("{shown}{standing}")
}

const MOST_CHARACTERS: usize = 64;
const MOST_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_called_by_host_and_pid() {
        let name = name();
        assert!(name.ends_with(&format!("-{}", std::process::id())), "{name}");
    }

    #[test]
    fn whatever_a_host_is_called_its_name_is_made_to_fit() {
        assert_eq!(fitted("db1", "-4711"), "db1-4711");
        assert_eq!(fitted("a/b\n", "-4711"), "a_b_-4711");
        assert_eq!(fitted("", "-4711"), "-4711");
        let long = ["x", "ü", "€", "𝄞"].map(|c| fitted(&c.repeat(200), "-4294967295"));
        for name in long {
            assert!(name.len() <= MOST_BYTES && name.chars().count() <= MOST_CHARACTERS, "{name}");
            assert!(name.ends_with("-4294967295"), "{name}");
        }
    }

    #[test]
    fn of_a_holder_without_a_name_eight_characters_are_shown() {
        let token = OwnerToken::random();
        assert_eq!(shown(None, &token, Standing::Held), format!("{}…", &token.as_str()[..8]));
        assert_eq!(shown(Some("db1-4711"), &token, Standing::Kept), "db1-4711 (released)");
    }

    #[test]
    fn a_token_cannot_write_to_the_terminal() {
        let token = OwnerToken::new("\u{1b}[2J").unwrap();
        assert_eq!(shown(None, &token, Standing::Held), "\u{fffd}[2J");
    }
}
