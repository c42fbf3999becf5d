//! A faulty network in front of a server.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use super::server::Server;

/// Forwards bytes to a server and back, until told otherwise.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    upstream: u16,
    faults: Mutex<Faults>,
    sockets: Mutex<Vec<TcpStream>>,
    /// Connections accepted so far.
    accepted: AtomicUsize,
    /// The connections up to this one pass nothing any more.
    forgotten: AtomicUsize,
    /// Requests lost so far.
    swallowed: AtomicUsize,
    /// Requests kept so far.
    held: AtomicUsize,
    ended: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    swallow_requests: bool,
    hold_requests: bool,
    swallow_replies: bool,
    hold_replies: bool,
    hang_up_at_client: bool,
    refuse_scripts: Option<&'static str>,
    reply_delay: Duration,
    handshake_delay: Duration,
}

impl Proxy {
    pub(crate) fn start(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is found");
        let port = listener.local_addr().expect("it is bound").port();
        let upstream = server.port();
        let shared = Arc::new(Shared { upstream, ..Shared::default() });
        let accepting = Arc::clone(&shared);
        spawn(move || accept(&listener, &accepting));
        Self { port, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Lets requests through and loses every reply from now on.
    pub(crate) fn swallow_replies(&self) {
        self.shared.faults().swallow_replies = true;
    }

    /// Loses every request from now on.
    pub(crate) fn swallow_requests(&self) {
        self.shared.faults().swallow_requests = true;
    }

    /// How often something was lost by [`swallow_requests`](Self::swallow_requests).
    pub(crate) fn swallowed_requests(&self) -> usize {
        self.shared.swallowed.load(Ordering::SeqCst)
    }

    /// Keeps every request from now on until [`heal`](Self::heal); then they go on in their order.
    pub(crate) fn hold_requests(&self) {
        self.shared.faults().hold_requests = true;
    }

    /// How often something was kept by [`hold_requests`](Self::hold_requests).
    pub(crate) fn held_requests(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Lets requests through and keeps every reply until [`heal`](Self::heal).
    pub(crate) fn hold_replies(&self) {
        self.shared.faults().hold_replies = true;
    }

    /// Lets replies through again, also those that were kept, whatever becomes of requests.
    pub(crate) fn pass_replies(&self) {
        self.shared.faults().hold_replies = false;
    }

    /// Answers every script with this error from now on, as a server does that cannot work at this time. Nothing else may
    /// be under way.
    pub(crate) fn refuse_scripts(&self, error: &'static str) {
        self.shared.faults().refuse_scripts = Some(error);
    }

    /// Lets each reply through this much later.
    pub(crate) fn delay_replies(&self, delay: Duration) {
        self.shared.faults().reply_delay = delay;
    }

    /// Lets the first reply on each connection through this much later, or once healed.
    pub(crate) fn delay_handshakes(&self, delay: Duration) {
        self.shared.faults().handshake_delay = delay;
    }

    /// Hangs up on whoever sends `CLIENT`, as proxies do that do not know it.
    pub(crate) fn hang_up_at_client(&self) {
        self.shared.faults().hang_up_at_client = true;
    }

    /// How many connections were made.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Forgets the connections there are, as what lies between does with idle ones: they stay open and pass
    /// nothing any more, in either direction. New ones work.
    pub(crate) fn forget(&self) {
        self.shared.forgotten.store(self.accepted(), Ordering::SeqCst);
    }

    /// Ends all faults; what was swallowed stays lost.
    pub(crate) fn heal(&self) {
        *self.shared.faults() = Faults::default();
    }

    /// Cuts all connections; new ones are accepted.
    pub(crate) fn cut(&self) {
        self.shared.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Shared {
    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for socket in self.sockets().drain(..) {
            drop(socket.shutdown(Shutdown::Both));
        }
    }

    fn is_forgotten(&self, connection: usize) -> bool {
        connection <= self.forgotten.load(Ordering::SeqCst)
    }

    fn passes_request(&self, piece: &[u8]) -> bool {
        if self.faults().hang_up_at_client && piece.windows(6).any(|word| word == b"CLIENT") {
            self.cut();
            return false;
        }
        self.keep_request();
        let lost = self.faults().swallow_requests;
        self.swallowed.fetch_add(usize::from(lost), Ordering::SeqCst);
        !lost
    }

    /// Answers scripts in the server's place. Returns whether it did.
    fn refuses_scripts(&self, piece: &[u8], mut client: &TcpStream) -> bool {
        let Some(error) = self.faults().refuse_scripts else { return false };
        // `EVAL` and `EVALSHA`, as the first words of their commands.
        let scripts = piece.windows(6).filter(|word| word == b"\r\nEVAL").count();
        let replies = format!("-{error}\r\n").repeat(scripts);
        drop(client.write_all(replies.as_bytes()));
        scripts > 0
    }

    /// Waits while requests are kept.
    fn keep_request(&self) {
        let is_kept = || self.faults().hold_requests && !self.ended.load(Ordering::SeqCst);
        self.held.fetch_add(usize::from(is_kept()), Ordering::SeqCst);
        while is_kept() {
            sleep(Duration::from_millis(1));
        }
    }

    fn passes_reply(&self) -> bool {
        let faults = *self.faults();
        sleep(faults.reply_delay);
        while self.faults().hold_replies && !self.ended.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(1));
        }
        !faults.swallow_replies
    }

    /// Holds the first reply up.
    fn shake_hands(&self) {
        let began = Instant::now();
        while began.elapsed() < self.faults().handshake_delay && !self.ended.load(Ordering::SeqCst)
        {
            sleep(Duration::from_millis(1));
        }
    }

    fn sockets(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().map_while(Result::ok) {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        if let Ok(server) = TcpStream::connect(("127.0.0.1", shared.upstream)) {
            connect(number, client, server, shared);
        }
    }
}

fn connect(number: usize, client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    let copy = |socket: &TcpStream| socket.try_clone().expect("a socket can be cloned");
    drop(client.set_nodelay(true));
    drop(server.set_nodelay(true));
    shared.sockets().extend([copy(&client), copy(&server)]);
    let (requests, onward) = (copy(&client), copy(&server));
    let (there, asker) = (Arc::clone(shared), copy(&client));
    spawn(move || {
        pump(requests, onward, |piece| {
            there.passes_request(piece)
                && !there.is_forgotten(number)
                && !there.refuses_scripts(piece, &asker)
        });
    });
    let back = Arc::clone(shared);
    let mut is_first = true;
    spawn(move || {
        pump(server, client, |_| {
            if std::mem::take(&mut is_first) {
                back.shake_hands();
            }
            back.passes_reply() && !back.is_forgotten(number)
        });
    });
}

/// Copies bytes until either side ends; a piece that `pass` refuses is lost.
fn pump(mut from: TcpStream, mut to: TcpStream, mut pass: impl FnMut(&[u8]) -> bool) {
    let mut piece = [0; 4096];
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(n) if pass(&piece[..n]) && to.write_all(&piece[..n]).is_err() => break,
            Err(error) if error.kind() != ErrorKind::Interrupted => break,
            _ => {}
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}
