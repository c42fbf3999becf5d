//! Preflight: what would let locks down, found before they are relied on.

mod among;
mod checks;
mod findings;
mod rights;
mod site;

use std::{error::Error, fmt};

use futures_util::future::join_all;

use self::{
    checks::Check,
    findings::judge,
    site::{Site, Surveyed},
};
use crate::{
    keeper::Keeper,
    node::Questions,
    types::{key::Key, settings::Settings},
};

/// What was found about the nodes of a manager: see [`LockManager::preflight`](crate::LockManager::preflight).
///
/// | [`check`](Finding::check) | severity | what was found |
/// |---|---|---|
/// | `same-server` | critical | two nodes are one server (the same run id) |
/// | `not-master` | critical* | the node is a replica, or a Sentinel |
/// | `old-version` | critical* | the server is older than Redis 6.2 |
/// | `rights` | critical* | the user may not run a command that locks need, or not on keys of the prefix |
/// | `no-answer` | critical* | the node does not serve, with its error |
/// | `cluster-server` | warning | the node is one server of a cluster, and not known to have all slots |
/// | `eviction` | warning | `maxmemory` is set, with another policy than `noeviction`: all evict keys with expiries, as all of ours are |
/// | `persistence` | warning; advice on a single node | no append-only file and no `restart_quarantine` |
/// | `replicas` | warning; advice for a cluster or under Sentinel | a failover to a replica can lose locks |
/// | `clock` | warning | a clock is more than a second apart from ours or another node's |
/// | `notice-rights` | warning | the user may not announce or hear releases, so that waiters wait longer |
/// | `fsync` | advice | a quorum node's `appendfsync` is not `always`, and there is no `restart_quarantine` |
/// | `ping-right` | advice | the user may not `PING` |
/// | `server-unchecked` | unchecked | `INFO` is refused or lacks something |
/// | `clock-unchecked` | unchecked | neither `TIME` nor `INFO` tells the server's clock |
/// | `fsync-unchecked` | unchecked | the append-only file is on, but `CONFIG GET appendfsync` is refused |
/// | `rights-unchecked` | unchecked | the server does not tell rights |
/// | `keys-unchecked` | unchecked | the user may use some keys or channels only, and there is no key prefix to go by |
///
/// \* A warning while the nodes where nothing is critical are a majority: locks work there.
///
/// That a server older than Redis 7 cannot tell rights is no finding, but one of the [`notes`](Self::notes).
///
/// Rights to keys are judged by the key `redlatch-preflight` behind the manager's prefix. Nodes in memory have
/// no findings. Nothing found is no proof that locks exclude: the resource must still check fencing tokens.
///
/// ```
/// # use redlatch::{LockManager, Severity};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
/// let preflight = LockManager::in_memory().preflight().await;
/// for finding in preflight.findings() {
///     eprintln!("{}: {}; {}", finding.severity(), finding.problem(), finding.advice());
/// }
/// assert!(preflight.worst() < Some(Severity::Warning), "{preflight}");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Preflight {
    findings: Vec<Finding>,
    notes: Vec<String>,
}

impl Preflight {
    /// Returns what was found, the worst first.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Returns what could not be checked, and that for a reason that nobody need mend: that a server older than Redis 7
    /// cannot tell rights.
    ///
    /// ```
    /// # use redlatch::LockManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> redlatch::Result<()> {
    /// assert!(LockManager::in_memory().preflight().await.notes().is_empty());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the highest severity, if anything was found.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.first().map(Finding::severity)
    }

    /// Whether there is nothing to warn of: no [`Warning`](Severity::Warning) and nothing
    /// [`Critical`](Severity::Critical).
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.worst() < Some(Severity::Warning)
    }
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.findings.is_empty() {
            f.write_str("nothing found")?;
        }
        for (position, finding) in self.findings.iter().enumerate() {
            f.write_str(if position == 0 { "" } else { "\n" })?;
            finding.fmt(f)?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}

/// One thing that was found, and what to do about it.
#[derive(Clone, Debug)]
pub struct Finding {
    pub(crate) check: &'static Check,
    pub(crate) severity: Severity,
    pub(crate) node: Option<String>,
    pub(crate) problem: String,
    pub(crate) advice: String,
}

impl Finding {
    /// Returns how bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.severity
    }

    /// Returns the code of the check, such as `same-server`: it stays the same from version to version.
    #[must_use]
    pub const fn check(&self) -> &str {
        self.check.code
    }

    /// Returns the name of the node, if it is about one.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Returns what was found.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Returns what can happen.
    #[must_use]
    pub const fn consequence(&self) -> &str {
        self.check.consequence
    }

    /// Returns what to do.
    #[must_use]
    pub fn advice(&self) -> &str {
        &self.advice
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity)?;
        if let Some(node) = &self.node {
            write!(f, "{node}: ")?;
        }
        writeln!(f, "{} [{}]", self.problem, self.check())?;
        writeln!(f, "    what can happen: {}", self.consequence())?;
        write!(f, "    what to do: {}", self.advice)
    }
}

/// How bad a [`Finding`] is; the worse, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// It could not be checked.
    Unchecked,
    /// It could be better.
    Advice,
    /// Locks work, but under some circumstances they do not exclude.
    Warning,
    /// Locks do not work, or do not exclude.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchecked => "unchecked",
            Self::Advice => "advice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// Asks all nodes at once, and judges what they tell.
pub(crate) async fn run(keeper: &Keeper) -> Preflight {
    let (quorum, settings) = (&keeper.quorum, &keeper.settings);
    let sample = sample(settings);
    let is_quorum = quorum.len() > 1;
    let has_quarantine = settings.restart_quarantine.is_some();
    let survey = async |at: usize| {
        let node = quorum.node(at);
        let asks_for_fsync = is_quorum && !has_quarantine;
        let questions =
            Questions { sample: &sample, hears: node.hears_as_it_asks(), asks_for_fsync };
        let facts = quorum.client(at).survey(&questions).await.map(|facts| {
            facts.map_err(|error| error.source().map(ToString::to_string).unwrap_or_default())
        });
        Surveyed { name: node.name().to_owned(), fails_over: node.fails_over(), facts }
    };
    let nodes = join_all((0..quorum.len()).map(survey)).await;
    let key_prefix = settings.key_prefix.clone();
    let fencing = settings.fencing(settings.unfenced);
    let site = Site { nodes, has_quarantine, key_prefix, fencing };
    Preflight { findings: judge(&site), notes: rights::notes(&site) }
}

#[expect(clippy::expect_used, reason = "only the length of the name could be wrong")]
fn sample(settings: &Settings) -> Key {
    let (name, fencing) = ("redlatch-preflight".to_owned(), settings.fencing(settings.unfenced));
    Key::new(&settings.key_prefix, name, fencing).expect("the name is neither empty nor long")
}
