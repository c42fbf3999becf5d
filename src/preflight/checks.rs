//! The checks of preflight: how bad a failure is, what it can lead to, and what to do.

use crate::preflight::{Finding, Severity};

/// What is checked.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) code: &'static str,
    severity: Severity,
    pub(crate) consequence: &'static str,
    advice: &'static str,
}

impl Check {
    /// That the check failed, at a node or among them.
    pub(crate) fn finding(&'static self, node: Option<&str>, problem: String) -> Finding {
        Finding {
            check: self,
            severity: self.severity,
            node: node.map(str::to_owned),
            problem,
            advice: self.advice.to_owned(),
        }
    }
}

impl Finding {
    pub(crate) fn of_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    pub(crate) fn advising(self, advice: String) -> Self {
        Self { advice, ..self }
    }
}

pub(crate) static SAME_SERVER: Check = Check {
    code: "same-server",
    severity: Severity::Critical,
    consequence: "one server has several votes: if it fails or forgets, the others do not make up for it",
    advice: "name each server once, and use servers that are independent of one another",
};
pub(crate) static NOT_MASTER: Check = Check {
    code: "not-master",
    severity: Severity::Critical,
    consequence: "it refuses to be written to, or forgets what was written, so that it grants no lock that lasts",
    advice: "name the master; for one that Sentinels choose, use a Sentinel pool",
};
pub(crate) static OLD_VERSION: Check = Check {
    code: "old-version",
    severity: Severity::Critical,
    consequence: "scripts can fail there, so that locks are not granted or not released",
    advice: "upgrade to Redis 6.2 or later, or to Valkey",
};
pub(crate) static RIGHTS: Check = Check {
    code: "rights",
    severity: Severity::Critical,
    consequence: "locks cannot be acquired, extended or released there",
    advice: "",
};
pub(crate) static NO_ANSWER: Check = Check {
    code: "no-answer",
    severity: Severity::Critical,
    consequence: "its vote is missing; without a majority no lock can be acquired, extended or released",
    advice: "see that the server runs and can be reached from here, and that user and password are right",
};
pub(crate) static CLUSTER_SERVER: Check = Check {
    code: "cluster-server",
    severity: Severity::Warning,
    consequence: "locks whose slots other servers have are refused",
    advice: "use a cluster pool (feature `cluster`)",
};
pub(crate) static EVICTION: Check = Check {
    code: "eviction",
    severity: Severity::Warning,
    consequence: "when memory is short, locks and fencing counters are dropped, and a second owner is granted a lock",
    advice: "set maxmemory-policy to noeviction",
};
pub(crate) static PERSISTENCE: Check = Check {
    code: "persistence",
    severity: Severity::Warning,
    consequence: "when it restarts it has forgotten its locks and fencing counters, and grants a lock to a second owner",
    advice: "set restart_quarantine on the manager to the longest TTL in use, or set appendonly to yes and appendfsync to \
             always",
};
pub(crate) static REPLICAS: Check = Check {
    code: "replicas",
    severity: Severity::Warning,
    consequence: "a replica that takes its place may not have its last locks yet, and grants them to a second owner",
    advice: "for correctness, use a quorum of independent masters without failover, and let the resource check fencing \
             tokens",
};
pub(crate) static CLOCK: Check = Check {
    code: "clock",
    severity: Severity::Warning,
    consequence: "when a clock is set right, locks end early or late; and fencing tokens can go back where counters are \
                  lost",
    advice: "synchronise the clocks of all machines, with NTP for example",
};
pub(crate) static NOTICE_RIGHTS: Check = Check {
    code: "notice-rights",
    severity: Severity::Warning,
    consequence: "releases are not announced or not heard, so that waiters wait longer",
    advice: "",
};
pub(crate) static FSYNC: Check = Check {
    code: "fsync",
    severity: Severity::Advice,
    consequence: "after a power failure it may have forgotten its last locks, and grants them to a second owner",
    advice: "set appendfsync to always, or restart_quarantine on the manager to the longest TTL in use",
};
pub(crate) static PING_RIGHT: Check = Check {
    code: "ping-right",
    severity: Severity::Advice,
    consequence: "`ping` reports the node as failed, though it serves locks",
    advice: "give the user the right: +ping",
};
pub(crate) static SERVER_UNCHECKED: Check = Check {
    code: "server-unchecked",
    severity: Severity::Unchecked,
    consequence: "what would let locks down there is not noticed here",
    advice: "give a user the right to INFO (+info), or look by hand",
};
pub(crate) static CLOCK_UNCHECKED: Check = Check {
    code: "clock-unchecked",
    severity: Severity::Unchecked,
    consequence: "a clock that is wrong is not noticed here",
    advice: "give a user the right to TIME (+time), or compare the clocks by hand",
};
pub(crate) static FSYNC_UNCHECKED: Check = Check {
    code: "fsync-unchecked",
    severity: Severity::Unchecked,
    consequence: "unless appendfsync is always, locks can be forgotten in a power failure",
    advice: "give a user the right to CONFIG GET (+config|get), look by hand, or set restart_quarantine on the manager",
};
pub(crate) static RIGHTS_UNCHECKED: Check = Check {
    code: "rights-unchecked",
    severity: Severity::Unchecked,
    consequence: "a right that is missing is noticed when it is needed",
    advice: "compare the user's rights (ACL GETUSER) with those in the README",
};
pub(crate) static KEYS_UNCHECKED: Check = Check {
    code: "keys-unchecked",
    severity: Severity::Unchecked,
    consequence: "locks of other keys than the user's cannot be acquired, and their releases not heard of",
    advice: "set the key prefix on the manager, or compare the keys in use with the user's patterns",
};
