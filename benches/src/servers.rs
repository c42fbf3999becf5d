//! `redis-server` processes of the benchmark's own.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::Outcome;

/// One server on a free loopback port, without persistence. It is killed when dropped, and when this process ends.
pub struct Server {
    port: u16,
    child: Child,
    stopped: AtomicBool,
}

impl Server {
    /// Starts a server. The server ends with the thread that started it, which is to be the main thread.
    pub fn start() -> Outcome<Self> {
        for _ in 0..20 {
            let port = next_port();
            let server = Self { port, child: launch(port)?, stopped: AtomicBool::new(false) };
            if server.answers() {
                return Ok(server);
            }
        }
        Err("no redis-server came up".into())
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Stops the process in its tracks, until the returned value is dropped.
    pub fn stop(&self) -> Outcome<Stopped<'_>> {
        kill_process(self.pid(), Signal::STOP)?;
        waitpid(Some(self.pid()), WaitOptions::UNTRACED)?;
        self.stopped.store(true, Ordering::Relaxed);
        Ok(Stopped(self))
    }

    /// Kills the process, and with it all that it remembers.
    pub fn kill(&mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts a killed server again, empty, on its old port. To be called on the main thread, as [`start`](Self::start).
    pub fn revive(&mut self) -> Outcome<()> {
        self.child = launch(self.port)?;
        if self.answers() { Ok(()) } else { Err("a killed redis-server did not come back".into()) }
    }

    /// Waits until the server answers; false if it is not there or another has its port.
    fn answers(&self) -> bool {
        let own = format!("process_id:{}\r\n", self.child.id());
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(info) = info(&self.url()) {
                return info.contains(&own);
            }
            sleep(Duration::from_millis(5));
        }
        false
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too. If it has ended before, that is fine as well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A server that hangs.
pub struct Stopped<'a>(&'a Server);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // It fails only if the server has ended.
        let _ = kill_process(self.0.pid(), Signal::CONT);
        self.0.stopped.store(false, Ordering::Relaxed);
    }
}

fn launch(port: u16) -> Outcome<Child> {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    end_with_this_process(&mut command);
    command.spawn().map_err(|error| format!("redis-server does not start: {error}").into())
}

/// Has the kernel kill the server, should this process be killed itself.
#[cfg(target_os = "linux")]
fn end_with_this_process(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    use rustix::process::{getppid, set_parent_process_death_signal};

    let parent = rustix::process::getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before.
        if getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: between fork and exec it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

#[cfg(not(target_os = "linux"))]
fn end_with_this_process(_: &mut Command) {}

fn info(url: &str) -> redis::RedisResult<String> {
    let client = redis::Client::open(url)?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
    redis::cmd("INFO").arg("server").query(&mut connection)
}

/// The next free port below those that systems hand out to outgoing connections.
fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + (std::process::id() * 61 + step) % 20_000;
        let port = u16::try_from(port).expect("it is below 30,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
