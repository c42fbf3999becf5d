//! `rediss://`, with a certificate of the test's own.

use std::net::TcpListener;
use std::process::Command;

use crate::support::Server;
use crate::tool::{bare, run};

#[tokio::test]
async fn a_command_runs_under_a_lock_over_tls() {
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
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let _server = Server::start_with(
        &[
            &["--tls-port", &port, "--tls-auth-clients", "no"][..],
            &["--tls-key-file", &key, "--tls-cert-file", &cert, "--tls-ca-cert-file", &cert],
        ]
        .concat(),
    );

    let url = format!("rediss://127.0.0.1:{port}");
    let args = ["--node-timeout", "10s", "--nodes", &url, "run", "k", "--", "echo", "ran"];
    let mut trusting = bare(&args);
    trusting.env("SSL_CERT_FILE", &cert);
    run(trusting).await.is(0).prints("ran\n");
    run(bare(&args)).await.is(69).says("certificate");
    let plain = format!("redis://127.0.0.1:{port}");
    let args = ["--node-timeout", "10s", "--nodes", &plain, "run", "k", "--", "echo", "ran"];
    run(bare(&args)).await.is(69).says("speaks TLS here");
}

#[tokio::test]
async fn a_server_without_tls_is_told_as_such() {
    let server = Server::start();
    let url = format!("rediss://{}", server.name());
    let args = ["--node-timeout", "2s", "--nodes", &url, "run", "k", "--", "echo", "ran"];
    run(bare(&args)).await.is(69).says("speaks no TLS here");
}
