//! `rediss://`, with a certificate of the test's own.

use std::net::TcpListener;
use std::process::Command;

use tempfile::TempDir;

use crate::support::Server;
use crate::tool::{bare, run};

#[tokio::test]
async fn a_command_runs_under_a_lock_over_tls() {
    let site = Site::start("no");
    let args = ["--node-timeout", "10s", "--nodes", &site.url, "run", "k", "--", "echo", "ran"];
    let mut trusting = bare(&args);
    trusting.env("SSL_CERT_FILE", &site.cert);
    run(trusting).await.is(0).prints("ran\n");
    run(bare(&args)).await.is(69).says("certificate");
    let plain = site.url.replace("rediss", "redis");
    let args = ["--node-timeout", "10s", "--nodes", &plain, "run", "k", "--", "echo", "ran"];
    run(bare(&args)).await.is(69).says("speaks TLS here");
}

#[tokio::test]
async fn certificates_are_read_from_files() {
    let site = Site::start("yes");
    let on = async |nodes: &str, options: &[&str], code: i32| {
        let args = ["--node-timeout", "10s", "--outage-patience", "0s", "--nodes", nodes];
        let ended = run(bare(&[&args, options, &["run", "k", "--", "echo", "ran"]].concat())).await;
        ended.is(code);
        ended
    };
    let ours = ["--tls-ca", &site.cert, "--tls-cert", &site.cert, "--tls-key", &site.key];
    on(&site.url, &ours, 0).await.prints("ran\n");
    // The server wants to see one.
    on(&site.url, &ours[..2], 69).await;
    on(&site.url, &ours[..4], 64).await.says("--tls-key");
    on(&site.url, &["--tls-ca", "/there/is/none"], 64).await.says("--tls-ca");
    on(&site.url.replace("rediss", "redis"), &ours, 64).await.says("rediss://");
}

/// A server with TLS, and its certificate, which is the clients' too.
struct Site {
    url: String,
    cert: String,
    key: String,
    _server: Server,
    _dir: TempDir,
}

impl Site {
    fn start(auth_clients: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (key, cert) = (file("key.pem"), file("cert.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=CA:FALSE"])
            .args(["-keyout", &key, "-out", &cert])
            .output()
            .expect("`openssl` is there");
        assert!(made.status.success(), "{made:?}");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        drop(free);
        let server = Server::start_with(
            &[
                &["--tls-port", &port, "--tls-auth-clients", auth_clients][..],
                &["--tls-key-file", &key, "--tls-cert-file", &cert, "--tls-ca-cert-file", &cert],
            ]
            .concat(),
        );
        Self { url: format!("rediss://127.0.0.1:{port}"), cert, key, _server: server, _dir: dir }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_told_as_such() {
    let server = Server::start();
    let url = format!("rediss://{}", server.name());
    let args = ["--node-timeout", "2s", "--nodes", &url, "run", "k", "--", "echo", "ran"];
    run(bare(&args)).await.is(69).says("speaks no TLS here");
}
