//! A real `redis-server` process, started and ended by the test that owns it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redlatch::deadpool_redis::redis::{self, FromRedisValue, Value};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

use super::drive::BOUND;

/// One server on a free loopback port, without persistence, killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    args: Vec<String>,
    dir: TempDir,
    child: Mutex<Child>,
    side: Mutex<Option<Side>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments; `{dir}` in one stands for the server's own directory.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let home = dir.path().to_str().expect("the directory's name is UTF-8");
        let args: Vec<String> = args.iter().map(|arg| arg.replace("{dir}", home)).collect();
        let deadline = Instant::now() + BOUND;
        loop {
            let port = next_port();
            let mut child = launch(port, &args, &dir);
            if answers(port, &mut child) {
                let (child, side) = (Mutex::new(child), Mutex::new(None));
                return Self { port, args, dir, child, side };
            }
            end(&mut child);
            assert!(Instant::now() < deadline, "no redis-server came up: {}", log(&dir));
        }
    }

    /// Starts a server that has failed to save its data, and takes no writes for that.
    pub(crate) fn start_unable_to_save() -> Self {
        let server = Self::start_with(&["--dbfilename", "taken"]);
        std::fs::create_dir(server.path("taken")).expect("a directory can be made");
        server.command(&["CONFIG", "SET", "save", "3600 1000000"]);
        server.command(&["BGSAVE"]);
        let deadline = Instant::now() + BOUND;
        while !server.query::<String>(&["INFO", "persistence"]).contains(SAVING_FAILED) {
            assert!(Instant::now() < deadline, "it has saved: {}", log(&server.dir));
            sleep(Duration::from_millis(3));
        }
        server
    }

    /// Starts a Sentinel with this configuration.
    pub(crate) fn start_sentinel(config: &str) -> Self {
        Self::start_with(&[SENTINEL, config])
    }

    /// Starts `n` servers.
    pub(crate) fn group(n: usize) -> Vec<Self> {
        std::thread::scope(|scope| {
            let starts: Vec<_> = (0..n).map(|_| scope.spawn(Self::start)).collect();
            let started = starts.into_iter().map(|start| start.join());
            started.map(|server| server.expect("the server starts")).collect()
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as the crate names the node.
    pub(crate) fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.name())
    }

    /// The path of a file in the server's own directory.
    pub(crate) fn path(&self, file: &str) -> String {
        self.dir.path().join(file).display().to_string()
    }

    /// Stops the process in its tracks; returns once it has stopped.
    pub(crate) fn pause(&self) {
        let pid = self.pid();
        kill_process(pid, Signal::STOP).expect("the server can be stopped");
        waitpid(Some(pid), WaitOptions::UNTRACED).expect("the server stops");
    }

    pub(crate) fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("the server can continue");
    }

    /// Kills the process; everything it knew is gone.
    pub(crate) fn kill(&self) {
        end(&mut self.child.lock().unwrap_or_else(PoisonError::into_inner));
        *self.side() = None;
    }

    /// Starts the server again on its port, empty.
    pub(crate) fn restart(&self) {
        self.kill();
        let deadline = Instant::now() + BOUND;
        loop {
            let mut child = launch(self.port, &self.args, &self.dir);
            if answers(self.port, &mut child) {
                *self.child.lock().unwrap_or_else(PoisonError::into_inner) = child;
                return;
            }
            end(&mut child);
            assert!(Instant::now() < deadline, "no restart: {}", log(&self.dir));
        }
    }

    /// Runs a command on the test's own connection and expects it to succeed.
    pub(crate) fn query<T: FromRedisValue>(&self, args: &[&str]) -> T {
        self.try_query(args).unwrap_or_else(|error| panic!("{args:?} on {}: {error}", self.name()))
    }

    pub(crate) fn try_query<T: FromRedisValue>(&self, args: &[&str]) -> redis::RedisResult<T> {
        let mut side = self.side();
        if side.is_none() {
            *side = Some(Side(connect(self.port, BOUND)?));
        }
        let connection = side.as_mut().expect("the connection was just made");
        let result = request(args).query(&mut connection.0);
        if result.as_ref().is_err_and(redis::RedisError::is_unrecoverable_error) {
            *side = None;
        }
        result
    }

    /// The version of Redis, or that which a Valkey stands in for.
    pub(crate) fn version(&self) -> (u32, u32) {
        let info: String = self.query(&["INFO", "server"]);
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        let mut numbers = version.expect("it tells its version").trim().split('.');
        let mut number = || numbers.next().and_then(|number| number.parse().ok());
        number().zip(number()).expect("a version begins with two numbers")
    }

    /// Whether the server lacks what came with a later version: then it says that the test is skipped, and why.
    pub(crate) fn lacks(&self, what: &str, since: (u32, u32)) -> bool {
        let ((major, minor), name) = (self.version(), std::thread::current());
        let is_older = (major, minor) < since;
        if is_older {
            let name = name.name().unwrap_or("a test");
            let since = format!("new in {}.{}", since.0, since.1);
            skipped(&format!("skipped: {name}: Redis {major}.{minor} lacks {what}, {since}"));
        }
        is_older
    }

    pub(crate) fn command(&self, args: &[&str]) -> Value {
        self.query(args)
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.query(&["GET", key])
    }

    pub(crate) fn del(&self, key: &str) {
        self.command(&["DEL", key]);
    }

    /// What is left of a key's life; `None` for a key that is not there or never expires.
    pub(crate) fn pttl(&self, key: &str) -> Option<Duration> {
        let millis: i64 = self.query(&["PTTL", key]);
        u64::try_from(millis).ok().map(Duration::from_millis)
    }

    /// Takes a key as another library's client does: `SET key value NX PX ttl`.
    pub(crate) fn foreign_lock(&self, key: &str, owner: &str, ttl: Duration) -> bool {
        let ttl = ttl.as_millis().to_string();
        let reply: Option<String> = self.query(&["SET", key, owner, "NX", "PX", &ttl]);
        reply.is_some()
    }

    /// Every key that is not a fencing counter.
    pub(crate) fn lock_keys(&self) -> Vec<String> {
        let keys: Vec<String> = self.query(&["KEYS", "*"]);
        keys.into_iter().filter(|key| !key.ends_with(":fence")).collect()
    }

    /// Every key and what it holds, as `DUMP` writes it.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let keys: Vec<String> = self.query(&["KEYS", "*"]);
        let dump = |key: String| (key.clone(), self.query(&["DUMP", &key]));
        keys.into_iter().map(dump).collect()
    }

    /// The fencing counter in `key`.
    pub(crate) fn counter(&self, key: &str) -> Option<u64> {
        let text = self.get(key)?;
        let digits = text.split(' ').next().unwrap_or_default();
        Some(digits.parse().expect("a counter begins with a plain number"))
    }

    /// Commands served since the last [`reset_calls`](Self::reset_calls), by name, also those sent by scripts.
    pub(crate) fn all_calls(&self) -> BTreeMap<String, u64> {
        let info: String = self.query(&["INFO", "commandstats"]);
        info.lines().filter_map(parse_calls).collect()
    }

    pub(crate) fn calls(&self, command: &str) -> u64 {
        self.all_calls().get(command).copied().unwrap_or_default()
    }

    /// Scripts run so far.
    pub(crate) fn scripts(&self) -> u64 {
        self.calls("eval") + self.calls("evalsha")
    }

    pub(crate) fn reset_calls(&self) {
        self.command(&["CONFIG", "RESETSTAT"]);
    }

    /// Makes a user of the given rules and returns the URL that logs in as it.
    pub(crate) fn user(&self, name: &str, password: &str, rules: &[&str]) -> String {
        let secret = format!(">{password}");
        let mut args = vec!["ACL", "SETUSER", name, "reset", "on", &secret];
        args.extend(rules);
        self.command(&args);
        format!("redis://{name}:{password}@{}", self.name())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn side(&self) -> std::sync::MutexGuard<'_, Option<Side>> {
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(self.child.get_mut().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The test's own connection.
struct Side(redis::Connection);

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Side")
    }
}

/// The next port to try: below the range of outgoing connections, and from elsewhere in each process.
fn next_port() -> u16 {
    loop {
        let seed = u64::from(std::process::id()) * 61;
        let step = u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + (seed + step) % 22_000;
        let port = u16::try_from(port).expect("ports fit");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn launch(port: u16, args: &[String], dir: &TempDir) -> Child {
    let log = File::create(dir.path().join("log")).expect("the log can be made");
    // Another server can be tested: its path, in this variable.
    let server = std::env::var_os("REDLATCH_TEST_SERVER");
    let mut command = Command::new(server.unwrap_or_else(|| "redis-server".into()));
    let args = match args {
        // A Sentinel wants a file, which it also writes to.
        [first, config] if first == SENTINEL => {
            let file = dir.path().join("sentinel.conf");
            std::fs::write(&file, config).expect("the configuration can be written");
            command.arg(file).arg(SENTINEL);
            &[]
        }
        args => args,
    };
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(["--loglevel", "warning"])
        .args(args)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stderr(log.try_clone().expect("the log can be shared"))
        .stdout(log)
        .spawn()
        .expect("these tests need `redis-server` on the PATH: install Redis (see scripts/test)")
}

/// Prints the reason, and keeps it for `scripts/test`: the runner does not show what a test prints that passes.
fn skipped(reason: &str) {
    writeln!(std::io::stdout(), "{reason}").expect("it can be printed");
    if let Some(path) = std::env::var_os("REDLATCH_TEST_SKIPPED") {
        let mut file = File::options().append(true).open(path).expect("the file can be opened");
        file.write_all(format!("{reason}\n").as_bytes()).expect("the file can be written");
    }
}

/// Waits until the server on `port` is the process just launched; false if that has ended.
fn answers(port: u16, child: &mut Child) -> bool {
    let deadline = Instant::now() + BOUND;
    let own = format!("process_id:{}\r\n", child.id());
    while Instant::now() < deadline {
        let gone = child.try_wait().expect("the process can be asked").is_some();
        if gone {
            return false;
        }
        let info = connect(port, Duration::from_secs(1))
            .and_then(|mut side| request(&["INFO", "server"]).query::<String>(&mut side));
        if info.is_ok_and(|info| info.contains(&own)) {
            return true;
        }
        sleep(Duration::from_millis(3));
    }
    false
}

fn connect(port: u16, patience: Duration) -> redis::RedisResult<redis::Connection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let connection = client.get_connection_with_timeout(patience)?;
    connection.set_read_timeout(Some(patience))?;
    Ok(connection)
}

fn request(args: &[&str]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    for arg in args {
        command.arg(arg);
    }
    command
}

fn end(child: &mut Child) {
    // Either the process is killed or it had ended before; both are fine.
    drop(child.kill());
    drop(child.wait());
}

fn log(dir: &TempDir) -> String {
    std::fs::read_to_string(dir.path().join("log")).unwrap_or_default()
}

/// `cmdstat_evalsha:calls=5,usec=..` is five calls of `evalsha`.
fn parse_calls(line: &str) -> Option<(String, u64)> {
    let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
    let (calls, _) = rest.split_once(',')?;
    Some((name.to_owned(), calls.parse().ok()?))
}

const SAVING_FAILED: &str = "rdb_last_bgsave_status:err";
const SENTINEL: &str = "--sentinel";

static NEXT: AtomicU16 = AtomicU16::new(0);
