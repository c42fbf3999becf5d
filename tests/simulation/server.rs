//! A simulated server: what Redis does with the crate's commands, and how it fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    network::Conn,
    oracle::Oracle,
    process::{WALL_MICROS, now},
    resp::Word,
    world::Setting,
};
use crate::{
    host::sync::lock,
    node::{Answer, Command, Keep, Kept, Names, Released, Touch, scripts},
    types::{
        attempt_id::AttemptId,
        fencing::Fencing,
        key::Key,
        token::{Mark, OwnerToken},
    },
};

pub(crate) struct Server {
    pub(crate) name: String,
    pub(super) setting: Arc<Setting>,
    /// How fast its clock runs.
    rate: f64,
    start: Instant,
    /// How far into a second its wall clock was at the start.
    phase: Duration,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) is_down: bool,
    pub(super) is_hung: bool,
    /// When it was started again, by its own clock.
    restarted: Option<Instant>,
    kept: Kept,
    /// The hashes of the scripts that it was told.
    known: BTreeSet<String>,
    pub(super) conns: BTreeMap<u64, Arc<Conn>>,
    pub(super) next_conn: u64,
    /// By channel, and by connection.
    subscribers: BTreeSet<(String, u64)>,
}

/// What was asked about a lock.
struct Call {
    /// The hash of the script; none of a plain `SET`.
    script: Option<&'static str>,
    lock: String,
    fence: Option<String>,
    retention: Duration,
    owner: OwnerToken,
    id: AttemptId,
    channel: String,
    message: String,
    command: Command,
}

impl Server {
    pub(super) fn new(name: String, setting: Arc<Setting>, rate: f64) -> Arc<Self> {
        let phase = setting.dice.millis(0..1_000);
        Arc::new(Self { name, setting, rate, start: now(), phase, state: Mutex::default() })
    }

    fn oracle(&self) -> &Oracle {
        &self.setting.oracle
    }

    fn now(&self) -> Instant {
        self.start + (now() - self.start).mul_f64(self.rate)
    }

    /// Its uptime as Redis tells it: the difference of two readings in whole seconds, which is almost a second
    /// too much if it came up late in one.
    fn uptime_in_seconds(&self) -> u64 {
        let reading = |at: Instant| (at - self.start + self.phase).as_secs();
        let restarted = lock(&self.state).restarted;
        restarted.map_or(A_LONG_TIME, |restarted| reading(self.now()) - reading(restarted))
    }

    /// Leaves fencing counters that are ahead of all wall clocks, as a clock that was wrong once does.
    pub(super) fn count_ahead(&self) {
        let owner = OwnerToken::random();
        for key in &self.setting.plan.keys {
            let key = Key::new("", key.clone(), Fencing::default()).expect("it is valid");
            let fence = key.fence.as_ref().map(|fence| &*fence.name);
            let (lock_name, retention) = (&*key.lock, Duration::from_secs(86_400));
            let names =
                Names { lock: lock_name, fence, retention, owner: &owner, id: AttemptId::EMPTY };
            let proposal = AN_HOUR_AHEAD + self.setting.dice.from(0..4);
            let acquire = Command::Acquire { ttl: Duration::from_secs(1), proposal };
            for command in [acquire, Command::Release { held: None, keep: None }] {
                lock(&self.state).kept.answer(names, command, self.now());
            }
        }
    }

    /// Runs one command of a connection.
    pub(super) fn run(&self, conn: &Arc<Conn>, words: &[Vec<u8>]) -> Word {
        let text = |at: usize| String::from_utf8_lossy(&words[at]).into_owned();
        match &*text(0).to_uppercase() {
            "CLIENT" => Word::Ok,
            "INFO" => Word::Text(format!("uptime_in_seconds:{}\r\n", self.uptime_in_seconds())),
            "PING" => Word::Text("PONG".into()),
            "HELLO" => Word::Map(vec![Word::Text("proto".into()), Word::Number(3)]),
            "SUBSCRIBE" => {
                lock(&self.state).subscribers.insert((text(1), conn.id));
                Word::Push(vec![
                    Word::Text("subscribe".into()),
                    Word::Text(text(1)),
                    Word::Number(1),
                ])
            }
            "UNSUBSCRIBE" => {
                lock(&self.state).subscribers.remove(&(text(1), conn.id));
                let kind = Word::Text("unsubscribe".into());
                Word::Push(vec![kind, Word::Text(text(1)), Word::Number(0)])
            }
            "EVAL" | "EVALSHA" | "SET" => self.call(conn, words),
            other => unreachable!("{other} is not used by the crate"),
        }
    }

    fn call(&self, conn: &Arc<Conn>, words: &[Vec<u8>]) -> Word {
        let Some(call) = read(words) else { unreachable!("no command of ours: {words:?}") };
        let mut state = lock(&self.state);
        if words[0].eq_ignore_ascii_case(b"EVAL") {
            state.known.extend(call.script.map(str::to_owned));
        } else if call.script.is_some_and(|hash| !state.known.contains(hash)) {
            self.setting.trace.note(&self.name, format_args!("{conn} {call} NOSCRIPT"));
            return Word::Error("NOSCRIPT No matching script".into());
        }
        let Call { lock: name, fence, retention, owner, id, .. } = &call;
        let (fence, retention) = (fence.as_deref(), *retention);
        let names = Names { lock: name, fence, retention, owner, id: *id };
        let answer = state.kept.answer(names, call.command, self.now());
        drop(state);
        let told = Told(&answer);
        self.setting.trace.note(&self.name, format_args!("{conn} {call} -> {told}"));
        self.oracle().ran(&self.name, conn, &call.owner, call.command, &answer);
        let attempt = (call.owner.as_str().to_owned(), call.id);
        self.oracle().voted(&self.name, &call.lock, attempt, call.command, &answer);
        if let Command::Release { held: Some(_), keep } = call.command
            && keep.is_none_or(Keep::is_announced)
            && answer == Answer::Released(Released::Deleted)
        {
            self.publish(&call.channel, &call.message);
        }
        match (&answer, call.script) {
            (_, Some(_)) => Word::from(&answer),
            (Answer::Granted { .. }, None) => Word::Ok,
            (_, None) => Word::Nothing,
        }
    }

    fn publish(&self, channel: &str, message: &str) {
        let state = lock(&self.state);
        let subscribers: Vec<_> = state
            .subscribers
            .iter()
            .filter(|(subscribed, _)| subscribed == channel)
            .filter_map(|(_, id)| state.conns.get(id).cloned())
            .collect();
        drop(state);
        let words = ["message", channel, message].map(|word| Word::Text(word.to_owned()));
        for conn in subscribers {
            if !self.setting.are_notices_lost() {
                conn.reply(&Word::Push(words.to_vec()));
            }
        }
    }

    /// The locks that have not expired, and their owners.
    pub(super) fn locks(&self) -> Vec<(String, OwnerToken)> {
        lock(&self.state).kept.locks(self.now())
    }

    /// Whether it would answer about a key now, and has none.
    pub(super) fn is_free(&self, key: &str) -> bool {
        let state = lock(&self.state);
        let is_reachable = !state.is_down && !state.is_hung;
        is_reachable && !state.kept.is_held(key, self.now())
    }

    pub(super) fn hang(&self, is_hung: bool) {
        lock(&self.state).is_hung = is_hung;
        self.poke_all();
    }

    /// Crashes: every connection breaks, and with `amnesia` all that was kept is lost.
    pub(super) fn crash(&self, amnesia: bool) {
        let conns: Vec<_> = lock(&self.state).conns.values().cloned().collect();
        conns.iter().for_each(|conn| conn.cut(0));
        let mut state = lock(&self.state);
        state.is_down = true;
        state.is_hung = false;
        state.known.clear();
        state.subscribers.clear();
        if amnesia {
            state.kept = Kept::default();
        }
    }

    pub(super) fn forget_scripts(&self) {
        lock(&self.state).known.clear();
    }

    pub(super) fn start(&self) {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.is_down, false) {
            state.restarted = Some(self.now());
        }
    }

    pub(super) fn conns(&self) -> Vec<Arc<Conn>> {
        lock(&self.state).conns.values().cloned().collect()
    }

    pub(super) fn forget(&self, conn: u64) {
        let mut state = lock(&self.state);
        state.conns.remove(&conn);
        state.subscribers.retain(|(_, id)| *id != conn);
    }

    fn poke_all(&self) {
        self.conns().iter().for_each(|conn| conn.poke());
    }
}

/// Whether a command may leave a lock behind, and whose.
pub(super) fn claimed_by(words: &[Vec<u8>]) -> Option<OwnerToken> {
    let call = read(words)?;
    call.command.claims().then_some(call.owner)
}

/// Whose lock a command releases.
pub(super) fn released_by(words: &[Vec<u8>]) -> Option<OwnerToken> {
    let call = read(words)?;
    matches!(call.command, Command::Release { .. }).then_some(call.owner)
}

/// Reads a command of the crate's about a lock.
fn read(words: &[Vec<u8>]) -> Option<Call> {
    match &*words[0].to_ascii_uppercase() {
        b"SET" => read_set(words),
        b"EVAL" | b"EVALSHA" => read_script(words),
        _ => None,
    }
}

fn read_set(words: &[Vec<u8>]) -> Option<Call> {
    let ttl = Duration::from_millis(text(words, 5)?.parse().ok()?);
    Some(Call {
        script: None,
        lock: text(words, 1)?,
        fence: None,
        retention: Duration::ZERO,
        owner: OwnerToken::found(&words[2]),
        id: AttemptId::EMPTY,
        channel: String::new(),
        message: String::new(),
        command: Command::Acquire { ttl, proposal: 0 },
    })
}

fn read_script(words: &[Vec<u8>]) -> Option<Call> {
    let (name, keys) = (text(words, 1)?, text(words, 2)?.parse::<usize>().ok()?);
    let script = scripts().into_iter().position(|(text, hash)| name == text || name == hash)?;
    // The arguments come behind the keys.
    let text_of = |at: usize| text(words, 3 + keys + at);
    let number = |at: usize| text_of(at)?.parse::<u64>().ok();
    let time = |at: usize| number(at).map(Duration::from_millis);
    let (mut channel, mut message, mut id) = Default::default();
    let command = match script {
        0 => {
            id = text_of(4)?;
            Command::Acquire { ttl: time(1)?, proposal: number(2)? }
        }
        1 => {
            id = text_of(4)?;
            let mode = match &*text_of(5)? {
                "raise" => Touch::Raise,
                "heal" => Touch::Heal,
                "adopt" => Touch::Adopt,
                _ => Touch::Extend,
            };
            Command::Touch { ttl: time(1).filter(|ttl| !ttl.is_zero()), token: number(2)?, mode }
        }
        2 => {
            (id, channel, message) = (text_of(1)?, text_of(2)?, text_of(5)?);
            let held = number(3).filter(|_| !channel.is_empty());
            let mark = [Mark::Kept, Mark::Done]
                .into_iter()
                .find(|mark| text_of(7).is_some_and(|text| text == mark.text()));
            let time = time(4).filter(|time| !time.is_zero());
            Command::Release { held, keep: time.zip(mark).map(|(time, mark)| Keep { time, mark }) }
        }
        _ => Command::Inspect,
    };
    let fence = (keys > 1).then(|| text(words, 4)).flatten();
    let retention = time(3).filter(|_| command.claims()).unwrap_or_default();
    let owner = OwnerToken::found(words.get(3 + keys).map_or(b"", |word| word));
    let (script, lock, id) = (Some(scripts()[script].1), text(words, 3)?, AttemptId::found(&id)?);
    Some(Call { script, lock, fence, retention, owner, id, channel, message, command })
}

fn text(words: &[Vec<u8>], at: usize) -> Option<String> {
    words.get(at).map(|word| String::from_utf8_lossy(word).into_owned())
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lock, owner) = (&self.lock, &self.owner);
        let id = self.id.text().get(..4).map(|id| format!("/{id}")).unwrap_or_default();
        match self.command {
            Command::Acquire { ttl, proposal } => {
                write!(f, "acquire {lock} {owner}{id} ttl {ttl:?} p {}", short(proposal))
            }
            Command::Touch { ttl, token, mode } => {
                write!(f, "touch {lock} {owner}{id} ttl {ttl:?} T {} {mode:?}", short(token))
            }
            Command::Release { held, .. } => {
                write!(f, "release {lock} {owner}{id} held {:?}", held.map(short))
            }
            Command::Inspect => write!(f, "inspect {lock}"),
        }
    }
}

/// An answer as the trace shows it.
struct Told<'a>(&'a Answer);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Answer::Granted { token } => write!(f, "granted {}", short(*token)),
            Answer::Ours { token, expires_in } => {
                write!(f, "ours {} {expires_in:?}", short(*token))
            }
            Answer::Refused { expires_in, holder, .. } => {
                write!(f, "refused {} {expires_in:?}", OwnerToken::found(holder.as_bytes()))
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// A fencing token without the digits that are the same all day.
pub(super) fn short(token: u64) -> u64 {
    token % 10_000_000_000
}

const AN_HOUR_AHEAD: u64 = WALL_MICROS + 3_600_000_000;
/// In seconds.
const A_LONG_TIME: u64 = 1_000_000;
