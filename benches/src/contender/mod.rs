//! Who is measured: bare commands and lock libraries behind the same few calls.

mod bare;

use std::time::Duration;

use redis::IntoConnectionInfo;

use self::bare::Bare;
use crate::Outcome;

/// The names of the contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bare,
    Redlatch,
    RedlatchDrop,
    RedlatchUnfenced,
    Rslock,
    AsyncRedisLock,
}

impl Kind {
    pub const ALL: &[Self] = &[
        Self::Bare,
        Self::Redlatch,
        Self::RedlatchDrop,
        Self::RedlatchUnfenced,
        Self::Rslock,
        Self::AsyncRedisLock,
    ];
    /// Those that can lock several servers at once.
    pub const QUORUM: &[Self] =
        &[Self::Bare, Self::Redlatch, Self::RedlatchDrop, Self::RedlatchUnfenced, Self::Rslock];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Redlatch => "redlatch",
            Self::RedlatchDrop => "redlatch (drop)",
            Self::RedlatchUnfenced => "redlatch (unfenced)",
            Self::Rslock => "rslock",
            Self::AsyncRedisLock => "async-redis-lock",
        }
    }

    /// Whether it sends this command itself, and not by a script.
    pub fn sends(self, command: &str) -> bool {
        match self {
            Self::Bare | Self::Rslock | Self::RedlatchUnfenced => command == "set",
            Self::Redlatch | Self::RedlatchDrop | Self::AsyncRedisLock => false,
        }
    }

    /// Whether this is what the bounds are about.
    pub fn is_redlatch(self) -> bool {
        self == Self::Redlatch
    }
}

/// A client with connections of its own. Clones share them.
#[derive(Clone)]
pub struct Contender {
    pub kind: Kind,
    ttl: Duration,
    locks: Locks,
}

#[derive(Clone)]
enum Locks {
    Bare(Bare),
    Redlatch(redlatch::LockManager),
    Rslock(rslock::LockManager),
    AsyncRedisLock(Box<async_redis_lock::Locker>),
}

impl Contender {
    /// Connects to all servers, and takes a lock once so that all there is to set up is set up.
    pub async fn connect(kind: Kind, urls: &[String]) -> Outcome<Self> {
        let locks = match kind {
            Kind::Bare => Locks::Bare(Bare::connect(clients(urls)?).await?),
            Kind::Redlatch | Kind::RedlatchDrop => Locks::Redlatch(redlatch(urls).build()?),
            Kind::RedlatchUnfenced => Locks::Redlatch(redlatch(urls).unfenced().build()?),
            Kind::Rslock => Locks::Rslock(rslock::LockManager::from_clients(clients(urls)?)),
            Kind::AsyncRedisLock => {
                let client = clients(urls)?.pop().ok_or("no server")?;
                let locker = async_redis_lock::Locker::from_client(client).await?;
                Locks::AsyncRedisLock(Box::new(locker))
            }
        };
        let contender = Self { kind, ttl: TTL, locks };
        let key = format!("warm-up:{}:{}", kind.name(), std::process::id());
        contender.acquire(&key).await?.release().await?;
        Ok(contender)
    }

    /// One contender of each kind.
    pub async fn connect_all(kinds: &[Kind], urls: &[String]) -> Outcome<Vec<Self>> {
        let mut contenders = Vec::new();
        for &kind in kinds {
            contenders.push(Self::connect(kind, urls).await?);
        }
        Ok(contenders)
    }

    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The manager, if this is redlatch.
    pub fn manager(&self) -> Option<&redlatch::LockManager> {
        match &self.locks {
            Locks::Redlatch(manager) => Some(manager),
            _ => None,
        }
    }

    /// Takes the lock, waiting as long as it takes.
    pub async fn acquire(&self, key: &str) -> Outcome<Held> {
        Ok(match &self.locks {
            Locks::Bare(bare) => Held::Bare(bare.acquire(key, self.ttl).await?),
            Locks::Redlatch(manager) => {
                let guard = manager.lock(key).ttl(self.ttl).acquire().await?;
                match self.kind {
                    Kind::RedlatchDrop => Held::RedlatchDrop(guard),
                    _ => Held::Redlatch(guard),
                }
            }
            Locks::Rslock(manager) => Held::Rslock(manager.acquire(key, self.ttl).await?),
            Locks::AsyncRedisLock(locker) => {
                let options = async_redis_lock::Options::new()
                    .timeout(None)
                    .ttl(self.ttl)
                    .extend(self.ttl / 3);
                let lock = locker.acquire_with_options(&options, key).await?;
                Held::AsyncRedisLock(Box::new(lock))
            }
        })
    }

    /// As [`acquire`](Self::acquire), and the library keeps renewing the lock. Not all of them do.
    pub async fn acquire_renewed(&self, key: &str) -> Outcome<Held> {
        match &self.locks {
            Locks::Redlatch(manager) => {
                let request = manager.lock(key).ttl(self.ttl).auto_renew();
                Ok(Held::Redlatch(request.acquire().await?))
            }
            Locks::AsyncRedisLock(_) => self.acquire(key).await,
            Locks::Bare(_) | Locks::Rslock(_) => Err("it renews nothing".into()),
        }
    }
}

/// A held lock. Whoever drops it instead of releasing it leaves it to the library what becomes of the key.
pub enum Held {
    Bare(bare::Held),
    Redlatch(redlatch::LockGuard),
    RedlatchDrop(redlatch::LockGuard),
    Rslock(rslock::LockGuard),
    AsyncRedisLock(Box<async_redis_lock::Lock>),
}

impl Held {
    /// Gives the lock back; it is an error if it was lost before, as far as the library tells.
    pub async fn release(self) -> Outcome<()> {
        match self {
            Self::Bare(held) => held.release().await?,
            Self::Redlatch(guard) => guard.release().await?,
            Self::RedlatchDrop(guard) => drop(guard),
            Self::Rslock(guard) => guard.release().await,
            Self::AsyncRedisLock(lock) => lock.release().await?,
        }
        Ok(())
    }

    /// The bytes of the library's own guard, which this only wraps.
    pub fn guard_size(&self) -> usize {
        match self {
            Self::Bare(held) => size_of_val(held),
            Self::Redlatch(guard) | Self::RedlatchDrop(guard) => size_of_val(guard),
            Self::Rslock(guard) => size_of_val(guard),
            Self::AsyncRedisLock(_) => 0, // it is in a box, which counts as live anyway
        }
    }

    /// Whether the library knows that the lock is lost.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Redlatch(guard) | Self::RedlatchDrop(guard) => !guard.is_valid(),
            Self::AsyncRedisLock(lock) => lock.is_lost(),
            Self::Bare(_) | Self::Rslock(_) => false,
        }
    }
}

fn redlatch(urls: &[String]) -> redlatch::LockManagerBuilder {
    match urls {
        [url] => redlatch::LockManager::single(url),
        urls => redlatch::LockManager::quorum(urls),
    }
}

/// Clients with `TCP_NODELAY`, so that the libraries differ and not the sockets.
fn clients(urls: &[String]) -> redis::RedisResult<Vec<redis::Client>> {
    let client = |url: &String| {
        let info = url.as_str().into_connection_info()?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        redis::Client::open(info.set_tcp_settings(tcp))
    };
    urls.iter().map(client).collect()
}

/// Longer than any hold here, and short enough that a lock left behind is missed.
const TTL: Duration = Duration::from_secs(10);
