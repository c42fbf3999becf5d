//! Credentials that are asked for with every connection.

use std::{
    error::Error as StdError,
    fmt,
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, stream};
use redis::{
    ErrorKind, RedisConnectionInfo, RedisError, RedisResult,
    auth::{BasicAuth, StreamingCredentialsProvider},
};
use tokio::time::{Instant, sleep_until};

use crate::host::sync::lock;

/// A user, a password or token, and for how long it is good: what a provider for
/// [`Node::with_credentials`](crate::Node::with_credentials) gives. `Debug` shows no password.
///
/// ```
/// use std::time::Duration;
/// use redlatch::Credentials;
///
/// let of_the_day = Credentials::new("locks", "token").valid_for(Duration::from_secs(900));
/// ```
#[derive(Clone)]
pub struct Credentials {
    user: String,
    password: String,
    lifetime: Option<Duration>,
}

impl Credentials {
    /// Names the user, of whom an empty one is the URL's, or the default one, and the password.
    #[must_use]
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into(), lifetime: None }
    }

    /// Says for how long they are good, from now on: a connection that lasts longer logs in anew after three quarters of
    /// it, with what the provider gives then. Default: for ever.
    #[must_use]
    pub fn valid_for(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Says them at the beginning of a connection.
    #[cfg(feature = "sentinel")]
    pub(super) fn apply(&self, settings: RedisConnectionInfo) -> RedisConnectionInfo {
        settings.set_username(&self.user).set_password(&self.password)
    }

    fn basic(&self) -> BasicAuth {
        BasicAuth::new(self.user.clone(), self.password.clone())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Credentials");
        shown.field("user", &self.user).field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

type Asked = Pin<Box<dyn Future<Output = RedisResult<Credentials>> + Send>>;

/// Whom to ask for credentials.
#[derive(Clone)]
pub(in crate::node) struct Provider {
    ask: Arc<dyn Fn() -> Asked + Send + Sync>,
    /// Who logs in if no other is named.
    user: Arc<str>,
}

impl Provider {
    pub(in crate::node) fn new<F, A, E>(ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<Credentials, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let ask = Arc::new(move || {
            let asked = ask();
            let given = async { asked.await.map_err(|error| not_given(error.into().as_ref())) };
            Box::pin(given) as Asked
        });
        Self { ask, user: DEFAULT_USER.into() }
    }

    /// Logs in the user of the URL, if no other is named.
    pub(super) fn set_user(&mut self, settings: &RedisConnectionInfo) {
        self.user = settings.username().unwrap_or(DEFAULT_USER).into();
    }

    async fn given(&self) -> RedisResult<Credentials> {
        let mut given = (self.ask)().await?;
        if given.user.is_empty() {
            given.user.push_str(&self.user);
        }
        Ok(given)
    }

    /// Asks, for one connection: the library asks once more before it logs in, and then for what comes later.
    pub(super) async fn ask(&self) -> RedisResult<(Credentials, Subscriptions)> {
        let first = self.given().await?;
        let begins = Arc::new(Mutex::new(Some(First::Given(first.clone()))));
        Ok((first, Subscriptions { provider: self.clone(), first: Some(begins) }))
    }

    /// For any number of connections. Nobody tells which of them is asking, so that each asks twice.
    #[cfg(feature = "cluster")]
    pub(super) fn of_many_connections(&self) -> Subscriptions {
        Subscriptions { provider: self.clone(), first: None }
    }
}

/// A provider in the form that the library wants.
pub(super) struct Subscriptions {
    provider: Provider,
    /// What the connection has begun, or will begin, with.
    first: Option<Arc<Mutex<Option<First>>>>,
}

enum First {
    Given(Credentials),
    Used(Credentials),
}

impl StreamingCredentialsProvider for Subscriptions {
    fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send + 'static>> {
        let first = self.first.clone();
        let known = first.as_ref().and_then(|first| lock(first).take());
        let (given, due) = match known {
            Some(First::Given(credentials)) => (Some(credentials), Due::Now),
            Some(First::Used(credentials)) => (None, Due::before_the_end_of(&credentials)),
            None => (None, Due::Now),
        };
        let subscription = Subscription { provider: self.provider.clone(), first, given, due };
        Box::pin(stream::unfold(subscription, Subscription::next))
    }
}

/// One subscription to credentials.
struct Subscription {
    provider: Provider,
    first: Option<Arc<Mutex<Option<First>>>>,
    given: Option<Credentials>,
    due: Due,
}

/// When credentials are wanted again.
enum Due {
    Now,
    At(Instant, Duration),
    Never,
}

impl Due {
    fn before_the_end_of(credentials: &Credentials) -> Self {
        let Some(lifetime) = credentials.lifetime else { return Self::Never };
        let lifetime = lifetime.max(SHORTEST_LIFE);
        Self::At(Instant::now() + lifetime / 4 * 3, lifetime)
    }
}

impl Subscription {
    async fn next(mut self) -> Option<(RedisResult<BasicAuth>, Self)> {
        let again_in = match self.due {
            Due::Now => SHORTEST_LIFE,
            Due::At(when, lifetime) => {
                sleep_until(when).await;
                lifetime / 20
            }
            Due::Never => pending().await,
        };
        let given = match self.given.take() {
            Some(credentials) => Ok(credentials),
            None => self.provider.given().await,
        };
        match given {
            Ok(credentials) => {
                self.due = Due::before_the_end_of(&credentials);
                let basic = credentials.basic();
                if let Some(first) = self.first.take() {
                    *lock(&first) = Some(First::Used(credentials));
                }
                Some((Ok(basic), self))
            }
            // Asked again before the end, if it comes to that.
            Err(error) => {
                tracing::debug!(%error, "credentials were not given");
                self.due = Due::At(Instant::now() + again_in, again_in * 20);
                Some((Err(error), self))
            }
        }
    }
}

/// An outage, as long as it lasts: what is to be said of it is the provider's to choose.
fn not_given(error: &(dyn StdError + Send + Sync)) -> RedisError {
    (ErrorKind::Io, "no credentials were given", error.to_string()).into()
}

const DEFAULT_USER: &str = "default";
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
