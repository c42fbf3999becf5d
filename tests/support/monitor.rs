//! What a server is sent, as `MONITOR` shows it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread::spawn;

use super::drive::BOUND;
use super::server::Server;

/// Listens to everything a server is sent from now on.
#[derive(Debug)]
pub(crate) struct Monitor<'a> {
    server: &'a Server,
    lines: Receiver<String>,
    socket: TcpStream,
}

impl<'a> Monitor<'a> {
    pub(crate) fn start(server: &'a Server) -> Self {
        // The test's own connection introduces itself, if it is new: before anybody listens.
        server.command(&["PING"]);
        let address = ("127.0.0.1", server.port());
        let mut socket = TcpStream::connect(address).expect("the server accepts");
        socket.write_all(b"MONITOR\r\n").expect("the server reads");
        let mut reader = BufReader::new(socket.try_clone().expect("a socket can be cloned"));
        let mut first = String::new();
        reader.read_line(&mut first).expect("the server answers");
        assert_eq!(first.trim(), "+OK", "MONITOR is accepted");
        let (sender, lines) = channel();
        spawn(move || {
            let arrived = reader.lines().map_while(Result::ok);
            arrived.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
        });
        Self { server, lines, socket }
    }

    /// What clients sent up to now; what scripts called is left out.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.server.command(&["ECHO", END]);
        let mut commands = Vec::new();
        loop {
            let line = self.lines.recv_timeout(BOUND).expect("the end mark arrives");
            if line.contains(END) {
                return commands;
            }
            if !line.contains(" lua] ") {
                commands.push(line);
            }
        }
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        drop(self.socket.shutdown(std::net::Shutdown::Both));
    }
}

const END: &str = "the-monitor-ends-here";
