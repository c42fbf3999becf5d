//! What a URL says beside the address: user, password, and what follows its `?`.

use redis::{ProtocolVersion, RedisConnectionInfo};

use super::{
    Fault, ONLY_ONE, PERCENT, cut,
    parts::{Parts, is_word},
};

/// What a connection begins with, as far as it was read.
#[derive(Default)]
pub(super) struct Draft {
    user: Option<String>,
    password: Option<String>,
    database: Option<i64>,
    protocol: Option<ProtocolVersion>,
    hides_client_info: bool,
}

/// What may follow the `?` of a URL.
struct Parameter {
    name: &'static str,
    /// Servers have their credentials before the host.
    of_sockets_only: bool,
    read: fn(&mut Draft, &str) -> Result<(), &'static str>,
}

/// All that may.
const PARAMETERS: &[Parameter] = &[
    Parameter { name: "db", of_sockets_only: false, read: Draft::database },
    Parameter { name: "protocol", of_sockets_only: false, read: Draft::protocol },
    Parameter { name: "client_info", of_sockets_only: false, read: Draft::client_info },
    Parameter { name: "user", of_sockets_only: true, read: Draft::user },
    Parameter { name: "pass", of_sockets_only: true, read: Draft::password },
];

impl Draft {
    /// Reads `user:password`.
    pub(super) fn log_in(&mut self, credentials: &str) -> Result<(), Fault> {
        match cut(credentials, ':') {
            ("", None | Some("")) => {}
            // The client's library would not log in at all.
            (_, None) => return Err(Fault::new(ONLY_ONE)),
            (user, Some(password)) => {
                self.user = Some(decoded(user)?).filter(|user| !user.is_empty());
                self.password = Some(decoded(password)?);
            }
        }
        Ok(())
    }

    /// Reads the parameters, each once at most.
    pub(super) fn read(&mut self, parts: &Parts<'_>, is_socket: bool) -> Result<(), Fault> {
        let (mut seen, mut is_behind_a_secret) = (Vec::new(), false);
        for (name, value) in parts.parameters() {
            let known = PARAMETERS
                .iter()
                .find(|known| known.name == name && (is_socket || !known.of_sockets_only));
            let (Some(known), Some(value)) = (known, value) else {
                return Err(unknown(name, value.is_some(), is_behind_a_secret, is_socket));
            };
            if seen.contains(&name) {
                return Err(Fault::from(format!("the parameter `{name}` is there twice")));
            }
            (known.read)(self, &decoded(value)?)
                .map_err(|what| Fault::from(format!("the parameter `{name}`: {what}")))?;
            seen.push(name);
            is_behind_a_secret |= known.of_sockets_only;
        }
        Ok(())
    }

    fn user(&mut self, user: &str) -> Result<(), &'static str> {
        self.user = Some(user.to_owned());
        Ok(())
    }

    fn password(&mut self, password: &str) -> Result<(), &'static str> {
        self.password = Some(password.to_owned());
        Ok(())
    }

    pub(super) fn database(&mut self, number: &str) -> Result<(), &'static str> {
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        let database = number.parse::<u32>().ok().filter(|_| is_number).map(i64::from);
        let database = database.ok_or("a database is a number, from 0")?;
        if self.database.replace(database).is_some_and(|other| other != database) {
            return Err("another database is named before it");
        }
        Ok(())
    }

    fn protocol(&mut self, version: &str) -> Result<(), &'static str> {
        self.protocol = Some(match version {
            "2" | "resp2" => ProtocolVersion::RESP2,
            "3" | "resp3" => ProtocolVersion::RESP3,
            _ => return Err("the protocol is resp2 or resp3"),
        });
        Ok(())
    }

    /// Whether the server is told the client's name.
    fn client_info(&mut self, whether: &str) -> Result<(), &'static str> {
        self.hides_client_info = match whether {
            "yes" => false,
            "no" => true,
            _ => return Err("client information is given or not: yes or no"),
        };
        Ok(())
    }

    pub(super) const fn hides_client_info(&self) -> bool {
        self.hides_client_info
    }

    pub(super) fn settings(self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default().set_db(self.database.unwrap_or_default());
        if let Some(user) = self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = self.password {
            settings = settings.set_password(password);
        }
        if self.hides_client_info {
            settings = settings.set_skip_set_lib_name();
        }
        settings.set_protocol(self.protocol.unwrap_or_default())
    }
}

/// That a parameter is unknown. It is named, unless it may be the rest of a password.
fn unknown(name: &str, is_set: bool, is_behind_a_secret: bool, is_socket: bool) -> Fault {
    if is_behind_a_secret {
        return Fault::new(
            "an unknown parameter follows `user` or `pass`; an & in them is written %26",
        );
    }
    if !is_set || !is_word(name) {
        return Fault::new("what follows its ? is no parameter; a ? in a password is written %3F");
    }
    let hint = match name.to_ascii_lowercase().as_str() {
        "ssl" | "tls" => "TLS is written rediss://".to_owned(),
        "user" | "username" | "pass" | "password" if !is_socket => {
            "credentials stand before the host: redis://USER:PASSWORD@host".to_owned()
        }
        _ => {
            let known = PARAMETERS.iter().filter(|known| is_socket || !known.of_sockets_only);
            let known: Vec<_> = known.map(|known| known.name).collect();
            format!("there are: {}", known.join(", "))
        }
    };
    Fault::from(format!("it has no parameter `{name}`; {hint}"))
}

/// Text without percent-encoding.
pub(super) fn decoded(text: &str) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => encoded(rest.next(), rest.next()).ok_or(PERCENT)?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| Fault::new("it is not UTF-8 when percent-decoded"))
}

/// The byte of two hexadecimal digits.
fn encoded(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let [high, low] = [high?, low?].map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}
