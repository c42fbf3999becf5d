//! The network between processes and servers: ordered connections that delay, stall, swallow and break.

use std::{
    collections::VecDeque,
    fmt, io,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisResult,
    aio::{AsyncPushSender, MultiplexedConnection},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    process::{Process, in_this_process},
    resp::{Word, take_command},
    server::{Server, claimed_by, released_by},
};
use crate::host::sync::lock;

/// A client's end of a connection. As in production, its driver ends with the last clone.
#[derive(Clone)]
pub(crate) struct Wire {
    connection: MultiplexedConnection,
    _driver: Arc<Driver>,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Deref for Wire {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.connection
    }
}

impl DerefMut for Wire {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.connection
    }
}

impl Server {
    pub(crate) async fn connect(self: &Arc<Self>, queue_size: usize) -> RedisResult<Wire> {
        let config = config().set_pipeline_buffer_size(queue_size);
        let info = RedisConnectionInfo::default();
        let (connection, driver) = self.open(info, config).await?;
        Ok(Wire { connection, _driver: Arc::new(Driver(driver)) })
    }

    pub(crate) async fn connect_for_pushes(
        self: &Arc<Self>,
        hear: impl AsyncPushSender,
    ) -> RedisResult<MultiplexedConnection> {
        let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        let (connection, _driver) = self.open(info, config().set_push_sender(hear)).await?;
        Ok(connection)
    }

    async fn open(
        self: &Arc<Self>,
        info: RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> RedisResult<(MultiplexedConnection, JoinHandle<()>)> {
        let setting = &self.setting;
        sleep(setting.connect_delay()).await;
        if lock(&self.state).is_down || setting.is_refused() {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        }
        let (ours, theirs) = duplex(LARGE);
        let seat = Seat { server: self.clone(), conn: Conn::new(self) };
        tokio::spawn(serve(seat, theirs));
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&info, ours, config).await?;
        Ok((connection, tokio::spawn(in_this_process(driver))))
    }
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
}

/// A server's end of a connection.
pub(super) struct Conn {
    pub(super) id: u64,
    pub(super) process: Option<Arc<Process>>,
    server: Arc<Server>,
    poke: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Commands on their way, and when they arrive.
    inbound: VecDeque<(Instant, Vec<Vec<u8>>)>,
    /// Replies on their way.
    outbound: VecDeque<(Instant, Vec<u8>)>,
    last_in: Option<Instant>,
    last_out: Option<Instant>,
    is_cut: bool,
    swallows_requests: bool,
    swallows_replies: bool,
    /// Nothing passes before this.
    stalled_until: Option<Instant>,
}

impl Conn {
    fn new(server: &Arc<Server>) -> Arc<Self> {
        let mut state = lock(&server.state);
        state.next_conn += 1;
        let conn = Arc::new(Self {
            id: state.next_conn,
            process: Process::current(),
            server: server.clone(),
            poke: Notify::new(),
            state: Mutex::default(),
        });
        state.conns.insert(conn.id, conn.clone());
        conn
    }

    pub(super) fn poke(&self) {
        self.poke.notify_one();
    }

    /// Breaks it. The first `arrived` commands on their way have arrived before.
    pub(super) fn cut(self: &Arc<Self>, arrived: usize) {
        for _ in 0..arrived {
            let Some((_, words)) = lock(&self.state).inbound.pop_front() else { break };
            let _lost_reply = self.server.run(self, &words);
        }
        let mut state = lock(&self.state);
        state.is_cut = true;
        state.inbound.drain(..).for_each(|(_, words)| self.lose(&words));
        state.outbound.clear();
        drop(state);
        self.poke();
    }

    /// Notes a command that is lost. A lock that has arrived while the release behind it is lost is left to its TTL where
    /// the client has asked on another connection too, before, and was told that there is nothing.
    fn lose(&self, words: &[Vec<u8>]) {
        let (server, oracle) = (&self.server.name, &self.server.setting.oracle);
        let released = released_by(words);
        if let Some(owner) = released.filter(|owner| oracle.is_released_beside(server, self, owner))
        {
            oracle.exempt(&owner);
        }
    }

    pub(super) fn on_their_way(&self) -> usize {
        lock(&self.state).inbound.len()
    }

    /// Lets requests or replies vanish from now on: a half-open connection.
    pub(super) fn swallow(&self, requests: bool, replies: bool) {
        let mut state = lock(&self.state);
        state.swallows_requests |= requests;
        state.swallows_replies |= replies;
        if requests {
            state.inbound.drain(..).for_each(|(_, words)| self.lose(&words));
        }
    }

    /// Holds all up for a while.
    pub(super) fn stall(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = lock(&self.state);
        state.stalled_until = state.stalled_until.max(Some(until));
        drop(state);
        self.poke();
    }

    /// Sends a reply or a push on its way.
    pub(super) fn reply(&self, word: &Word) {
        let mut bytes = Vec::new();
        word.write(&mut bytes);
        let at = Instant::now() + self.server.setting.delay();
        let mut state = lock(&self.state);
        let at = Some(at).max(state.last_out).unwrap_or(at);
        state.last_out = Some(at);
        state.outbound.push_back((at, bytes));
        drop(state);
        self.poke();
    }

    /// Takes what was received on its way to the server.
    fn receive(&self, received: &mut Vec<u8>) {
        while let Some(words) = take_command(received) {
            if let (Some(owner), Some(process)) = (claimed_by(&words), &self.process) {
                self.server.setting.oracle.sent(&owner, process);
            }
            let at = Instant::now() + self.server.setting.delay();
            let mut state = lock(&self.state);
            if state.swallows_requests {
                self.lose(&words);
                continue;
            }
            let at = Some(at).max(state.last_in).unwrap_or(at);
            state.last_in = Some(at);
            state.inbound.push_back((at, words));
        }
    }

    /// The next thing that is due, or when.
    fn next(&self) -> Next {
        let is_hung = lock(&self.server.state).is_hung;
        let (mut state, now) = (lock(&self.state), Instant::now());
        if state.is_cut {
            return Next::Over;
        }
        let stalled = state.stalled_until.filter(|until| *until > now);
        let due = |at: Option<&Instant>| at.map(|at| Some(*at).max(stalled).unwrap_or(*at));
        let inbound = due(state.inbound.front().map(|(at, _)| at)).filter(|_| !is_hung);
        let outbound = due(state.outbound.front().map(|(at, _)| at));
        if outbound.is_some_and(|at| at <= now) {
            let (_, bytes) = state.outbound.pop_front().expect("it was there");
            return if state.swallows_replies { Next::At(now) } else { Next::Reply(bytes) };
        }
        if inbound.is_some_and(|at| at <= now) {
            return Next::Command(state.inbound.pop_front().expect("it was there").1);
        }
        match [inbound, outbound].into_iter().flatten().min() {
            Some(at) => Next::At(at),
            None if state.inbound.is_empty() => Next::Nothing,
            None => Next::Blocked,
        }
    }
}

impl fmt::Display for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.process.as_ref().map_or("-", |process| &*process.name);
        write!(f, "[{process} c{}]", self.id)
    }
}

enum Next {
    Over,
    Command(Vec<Vec<u8>>),
    Reply(Vec<u8>),
    At(Instant),
    /// Commands wait for the server to go on.
    Blocked,
    Nothing,
}

/// A connection's place at its server. It ends with the schedule too: the two hold each other.
struct Seat {
    server: Arc<Server>,
    conn: Arc<Conn>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.server.forget(self.conn.id);
    }
}

/// Tends a server's end of a connection until it breaks or the client has gone and been served.
async fn serve(seat: Seat, mut stream: DuplexStream) {
    let Seat { server, conn } = &seat;
    let mut received = Vec::new();
    let mut has_ended = false;
    loop {
        let until = match conn.next() {
            Next::Over => break,
            Next::Nothing if has_ended => break,
            Next::Command(words) => {
                let reply = server.run(conn, &words);
                conn.reply(&reply);
                continue;
            }
            Next::Reply(bytes) => {
                // A client that has gone misses nothing.
                let _written = stream.write_all(&bytes).await;
                continue;
            }
            Next::At(at) => Some(at),
            Next::Blocked | Next::Nothing => None,
        };
        tokio::select! {
            biased;
            () = conn.poke.notified() => {}
            read = stream.read_buf(&mut received), if !has_ended => {
                has_ended = read.is_ok_and(|count| count == 0);
                conn.receive(&mut received);
            }
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
        }
    }
}

/// How long a connection is silent before it is doubted: less than in life, so that it happens often.
pub(crate) const LONGEST_SILENCE: Duration = Duration::from_millis(400);

const LARGE: usize = 1 << 20;
