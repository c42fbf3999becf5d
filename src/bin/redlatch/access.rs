//! How the servers let us in, where a URL cannot say it.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use redlatch::{Credentials, Node};

use crate::{args::Access, failure::Failure};

impl Access {
    /// Adds to a node what these options say.
    pub(crate) fn of(&self, mut node: Node) -> Result<Node, Failure> {
        if let Some(command) = &self.password_command {
            let command = command.clone();
            node = node.with_credentials(move || {
                let command = command.clone();
                async { tokio::task::spawn_blocking(move || password(&command)).await? }
            });
        }
        if let Some(ca) = &self.tls_ca {
            node = node.with_ca(read("--tls-ca", ca)?);
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            node = node.with_client_certificate(read("--tls-cert", cert)?, read("--tls-key", key)?);
        }
        Ok(node)
    }
}

/// What the command prints, without the end of the line.
fn password(command: &str) -> io::Result<Credentials> {
    // What it complains of is for whoever runs us to see.
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let shell = shell.output()?;
    if !shell.status.success() {
        let what = format!("the password command failed: {}", shell.status);
        return Err(io::Error::other(what));
    }
    let text = String::from_utf8(shell.stdout)
        .map_err(|_| io::Error::other("the password command printed what is no UTF-8"))?;
    Ok(Credentials::new("", text.trim_end_matches(['\r', '\n'])))
}

fn read(option: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    let cannot = |error| Failure::Usage(format!("the file of {option} cannot be read: {error}"));
    fs::read(file).map_err(cannot)
}
