//! On a terminal, as `script` makes one.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::{Server, secs, within};

/// A shell on a terminal of its own.
struct Session {
    child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    seen: String,
}

impl Session {
    fn start(server: &Server, line: &str) -> Self {
        let line = line.replace("redlatch ", concat!(env!("CARGO_BIN_EXE_redlatch"), " "));
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env("REDLATCH_NODES", server.url());
        command.env("SHELL", "/bin/bash").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("`script` is there");
        let keyboard = child.stdin.take().unwrap();
        let screen = child.stdout.take().unwrap();
        Self { child, keyboard, screen, seen: String::new() }
    }

    async fn shows(&mut self, words: &str) {
        let mut piece = [0; 1024];
        while !self.seen.contains(words) {
            let length = within(self.screen.read(&mut piece)).await.expect("it can be read");
            assert!(length > 0, "{words:?} is not in {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    }

    async fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).await.unwrap();
        self.keyboard.flush().await.unwrap();
    }

    /// The exit code of the line.
    async fn end(mut self) -> Option<i32> {
        within(self.child.wait()).await.unwrap().code()
    }
}

#[tokio::test]
async fn a_command_reads_from_the_terminal_and_gives_it_back() {
    let server = Server::start();
    let line = r#"redlatch run k -- sh -c 'printf "a? "; read a; echo "got $a"'; printf "b? "; read b; echo "then $b""#;
    let mut session = Session::start(&server, line);
    session.shows("a? ").await;
    session.types("one\n").await;
    session.shows("got one").await;
    session.shows("b? ").await;
    session.types("two\n").await;
    session.shows("then two").await;
    assert_eq!(session.end().await, Some(0));
}

#[tokio::test]
async fn in_a_pipeline_the_terminal_is_lent_on_demand() {
    let server = Server::start();
    let line = r#"redlatch run k -- sh -c 'printf "a? " > /dev/tty; read a < /dev/tty; echo "got $a"' | cat"#;
    let mut session = Session::start(&server, line);
    session.shows("a? ").await;
    session.types("one\n").await;
    session.shows("got one").await;
    assert!(!session.seen.contains("waits for the terminal"), "{}", session.seen);
    assert_eq!(session.end().await, Some(0));
}

#[tokio::test]
async fn ctrl_c_ends_the_command_and_ctrl_z_does_not_suspend_it() {
    let server = Server::start();
    let line = "redlatch run k -- sh -c 'echo up; exec sleep 600'; exit $?";
    let mut session = Session::start(&server, line);
    session.shows("up").await;
    session.types("\x1a").await;
    session.shows("cannot be suspended").await;
    session.types("\x03").await;
    assert_eq!(session.end().await, Some(130));
    assert!(server.lock_keys().is_empty(), "it is released");
}

#[tokio::test]
async fn break_asks_first() {
    let server = Server::start();
    assert!(server.foreign_lock("k", "another", secs(600)));
    let mut session = Session::start(&server, "redlatch break k; exit $?");
    session.shows("k is held by another").await;
    session.shows("If `redlatch run` holds it, its command is ended").await;
    session.shows("[y/N] ").await;
    session.types("n\n").await;
    session.shows("left k as it was").await;
    assert_eq!(session.end().await, Some(75));
    assert_eq!(server.get("k").as_deref(), Some("another"));

    let mut session = Session::start(&server, "redlatch break k; exit $?");
    session.shows("[y/N] ").await;
    session.types("y\n").await;
    session.shows("broke k").await;
    assert_eq!(session.end().await, Some(0));
    assert_eq!(server.get("k"), None);
}
