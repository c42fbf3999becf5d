//! What a node tells about itself and the user's rights.

/// What a node tells, as far as it lets the user know.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The server, or the masters of a cluster.
    pub(crate) servers: Vec<ServerFacts>,
    /// Why the node did not tell about its servers: the server's words.
    pub(crate) silence: Option<String>,
    /// How often the append-only file is written to disk, or why that is not known; `None` if nobody asked.
    pub(crate) appendfsync: Option<Result<String, String>>,
    pub(crate) rights: Rights,
}

impl Facts {
    pub(crate) const fn is_too_old_to_tell(&self) -> bool {
        matches!(self.rights, Rights::TooOld)
    }
}

/// What one server tells about itself; `None` is what it does not tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerFacts {
    /// Where the server is, if the node has several.
    pub(crate) address: Option<String>,
    /// A random number made at the server's start.
    pub(crate) run_id: Option<String>,
    pub(crate) redis_version: Option<String>,
    pub(crate) valkey_version: Option<String>,
    /// `standalone`, `cluster` or `sentinel`.
    pub(crate) mode: Option<String>,
    /// `master` or `slave`.
    pub(crate) role: Option<String>,
    /// Whom the server replicates.
    pub(crate) master: Option<String>,
    /// How many replicas are attached.
    pub(crate) replicas: Option<u64>,
    /// The memory that it may use, in bytes; zero: all there is.
    pub(crate) maxmemory: Option<u64>,
    pub(crate) maxmemory_policy: Option<String>,
    /// Whether it writes an append-only file.
    pub(crate) aof: Option<bool>,
    /// Of a server of a cluster that was asked alone: whether every slot is its own.
    pub(crate) has_all_slots: Option<bool>,
    pub(crate) clock: Option<Clock>,
}

/// By how many microseconds a server's clock is ahead of ours: something between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    pub(crate) least: i64,
    pub(crate) most: i64,
}

/// The rights that the user lacks.
#[derive(Clone, Debug)]
pub(crate) enum Rights {
    /// The server is of a version that cannot tell.
    TooOld,
    /// The server does not tell, for this reason.
    Unknown(String),
    Missing(Missing),
}

/// What the user may not do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Missing {
    /// Commands that the user may not run.
    pub(crate) commands: Vec<String>,
    /// The sample of a lock's key is out of bounds.
    pub(crate) lock: bool,
    /// The fencing counter beside it is.
    pub(crate) fence: bool,
    /// The channel of its release notices is.
    pub(crate) channel: bool,
}

impl ServerFacts {
    /// Reads what `INFO` says.
    pub(super) fn read(info: &str) -> Self {
        let field = |name: &str| {
            let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.to_owned());
            info.lines().find_map(|line| value(line.trim_end()))
        };
        let number = |name: &str| field(name)?.parse().ok();
        let master = field("master_host").zip(field("master_port"));
        Self {
            address: None,
            run_id: field("run_id"),
            redis_version: field("redis_version"),
            valkey_version: field("valkey_version"),
            mode: field("redis_mode").or_else(|| field("server_mode")),
            role: field("role"),
            master: master.map(|(host, port)| format!("{host}:{port}")),
            replicas: number("connected_slaves"),
            maxmemory: number("maxmemory"),
            maxmemory_policy: field("maxmemory_policy"),
            aof: number("aof_enabled").map(|enabled: u64| enabled != 0),
            has_all_slots: None,
            clock: None,
        }
    }
}

/// Whether the server that says this, to `CLUSTER NODES`, has every slot, and gives none away.
pub(super) fn has_all_slots(nodes: &str) -> bool {
    let fields = |line: &'_ str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let is_own = |line: &Vec<String>| {
        line.get(2).is_some_and(|flags| flags.split(',').any(|flag| flag == "myself"))
    };
    let own = nodes.lines().map(fields).find(is_own);
    own.is_some_and(|line| line.get(8..).is_some_and(|slots| slots == ["0-16383"]))
}

impl Clock {
    /// What the server's clock showed at some moment between two readings of ours.
    pub(super) fn read(server: u64, before: u64, after: u64) -> Self {
        let ahead = |of: u64| {
            server.saturating_sub(of).cast_signed() - of.saturating_sub(server).cast_signed()
        };
        Self { least: ahead(after), most: ahead(before.min(after)) }
    }

    /// By how much this clock is ahead of another at the least; negative if it may be behind.
    pub(crate) const fn ahead_of(self, other: Self) -> i64 {
        self.least.saturating_sub(other.most)
    }
}

impl Missing {
    /// Reads what the script found: names of commands, or what is out of bounds.
    pub(super) fn read(found: Vec<String>) -> Self {
        let mut missing = Self::default();
        for what in found {
            match &*what {
                "lock" => missing.lock = true,
                "fence" => missing.fence = true,
                "channel" => missing.channel = true,
                _ if missing.commands.contains(&what) => {}
                _ => missing.commands.push(what),
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_says_is_read() {
        let info = "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.0.1\r\nserver_mode:standalone\r\n\
            run_id:ab\r\n# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\n\
            connected_slaves:0\r\nmaxmemory:1000\r\nmaxmemory_human:1000B\r\n\
            maxmemory_policy:allkeys-lru\r\naof_enabled:1\r\n";
        let facts = ServerFacts::read(info);
        assert_eq!(facts.valkey_version.as_deref(), Some("8.0.1"));
        assert_eq!(facts.mode.as_deref(), Some("standalone"));
        assert_eq!(facts.master.as_deref(), Some("10.0.0.1:6379"));
        assert_eq!((facts.maxmemory, facts.replicas, facts.aof), (Some(1000), Some(0), Some(true)));
        assert_eq!(facts.maxmemory_policy.as_deref(), Some("allkeys-lru"));
    }

    #[test]
    fn what_info_does_not_say_is_unknown() {
        let facts = ServerFacts::read("garbage\r\nrole\r\nmaxmemory:much\r\n");
        assert!(facts.role.is_none() && facts.maxmemory.is_none() && facts.aof.is_none());
    }

    #[test]
    fn a_server_has_all_slots_where_its_own_line_says_so() {
        let nodes = |own: &str, other: &str| {
            format!(
                "aa 10.0.0.1:6379@16379 master - 0 0 1 connected{other}\n\
                 bb 10.0.0.2:6379@16379,name myself,master - 0 0 2 connected{own}\n"
            )
        };
        assert!(has_all_slots(&nodes(" 0-16383", "")));
        for (own, other) in
            [("", " 0-16383"), (" 0-8191", " 8192-16383"), (" 0-16383 [7->-aa]", ""), ("", "")]
        {
            assert!(!has_all_slots(&nodes(own, other)), "{own:?}");
        }
        assert!(!has_all_slots("garbage"));
    }

    #[test]
    fn a_clock_is_known_to_within_the_round_trip() {
        let clock = Clock::read(5_000, 1_000, 1_600);
        assert_eq!(clock, Clock { least: 3_400, most: 4_000 });
        let behind = Clock::read(1_000, 5_000, 5_600);
        assert_eq!(behind, Clock { least: -4_600, most: -4_000 });
        assert_eq!(clock.ahead_of(behind), 7_400);
    }

    #[test]
    fn a_missing_command_is_named_once() {
        let found = ["SET", "fence", "SET", "DEL"].map(str::to_owned);
        let missing = Missing::read(found.into());
        assert_eq!(missing.commands, ["SET", "DEL"]);
        assert!(missing.fence && !missing.lock && !missing.channel);
    }
}
