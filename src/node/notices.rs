//! The subscriber: a push connection to a node, on which release notices are heard. It opens with the first waiter,
//! opens again when it breaks, and closes when nobody has listened for a while, or with its manager.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    failure::Failure,
    message::{Database, Message},
    source::Source,
};
use crate::{
    host::{background::Background, sync::lock, tasks},
    types::{key::Key, settings::Settings},
};

/// What a node lets those who listen know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The lock with this fencing token was released.
    Released { token: u64 },
    /// Something may have been missed: look once.
    Missed,
}

/// Is told of every notice, with the node that gave it. It is called under no lock and must not block.
pub(crate) type OnNotice = Arc<dyn Fn(usize, &Key, Notice) + Send + Sync>;

/// The subscriber at one Redis node.
#[derive(Debug)]
pub(super) struct Subscriber {
    shared: Arc<Shared>,
    /// Not for the task to keep, which lives on it.
    background: Background,
}

struct Shared {
    name: Arc<str>,
    index: usize,
    source: Source,
    /// Where the locks are: messages may be heard at another.
    database: Arc<Database>,
    node_timeout: Duration,
    on_notice: OnNotice,
    state: Mutex<State>,
    changed: Notify,
    /// Told once, when there is to be no connection any more.
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// What is listened for, by channel.
    wanted: BTreeMap<String, Wanted>,
    /// A task tends the connection.
    is_attended: bool,
    /// There is to be none any more.
    is_ended: bool,
}

struct Wanted {
    key: Arc<Key>,
    listeners: usize,
    subscription: SubscriptionState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubscriptionState {
    Missing,
    Confirmed,
    /// The server does not let us listen here.
    Refused,
}

impl Subscriber {
    pub(super) fn new(
        name: Arc<str>,
        index: usize,
        source: Source,
        database: Arc<Database>,
        settings: &Settings,
        on_notice: OnNotice,
    ) -> Self {
        let (state, changed, ended) = (Mutex::default(), Notify::new(), Notify::new());
        let shared = Arc::new(Shared {
            name,
            index,
            source,
            database,
            node_timeout: settings.node_timeout,
            on_notice,
            state,
            changed,
            ended,
        });
        Self { shared, background: settings.background.clone() }
    }

    /// Listens for the releases of a key, as long as the returned value lives.
    pub(super) fn listen(&self, key: &Arc<Key>) -> Subscription {
        let (shared, mut state) = (&self.shared, lock(&self.shared.state));
        let wanted = state.wanted.entry(key.channel.clone()).or_insert_with(|| Wanted {
            key: key.clone(),
            listeners: 0,
            subscription: SubscriptionState::Missing,
        });
        wanted.listeners += 1;
        let needs_task = !state.is_attended && !state.is_ended;
        let runtime = self.background.runtime().filter(|_| needs_task);
        state.is_attended |= runtime.is_some();
        drop(state);
        // Unlocked first: a runtime that is ending drops the task, and so its presence, at once.
        if let Some(runtime) = runtime {
            let attendance = Attendance { shared: shared.clone(), is_over: false };
            tasks::spawn(&runtime, attend(attendance));
        }
        shared.changed.notify_one();
        Subscription { shared: shared.clone(), key: key.clone() }
    }

    /// Closes the connection at once and for good.
    pub(super) fn end(&self) {
        lock(&self.shared.state).is_ended = true;
        // A task that has begun but does not wait yet finds it all the same.
        self.shared.ended.notify_one();
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.end();
    }
}

/// Somebody listens for the releases of a key.
pub(crate) struct Subscription {
    shared: Arc<Shared>,
    key: Arc<Key>,
}

impl Subscription {
    /// Whether a release is sure to be heard, as far as the connection stands.
    pub(super) fn is_heard(&self) -> bool {
        let state = lock(&self.shared.state);
        let wanted = state.wanted.get(&self.key.channel);
        wanted.is_some_and(|wanted| wanted.subscription == SubscriptionState::Confirmed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The channel stays subscribed for a while: the next waiter may be about to listen.
        if let Some(wanted) = lock(&self.shared.state).wanted.get_mut(&self.key.channel) {
            wanted.listeners -= 1;
        }
    }
}

/// The task's presence. When it ends, also with its runtime, the next who listens starts another.
struct Attendance {
    shared: Arc<Shared>,
    is_over: bool,
}

impl Attendance {
    /// Ends the task's presence if nobody listens, so that whoever listens next knows.
    fn ends_if_idle(&mut self) -> bool {
        let mut state = lock(&self.shared.state);
        self.is_over = state.wanted.values().all(|wanted| wanted.listeners == 0);
        if self.is_over {
            state.wanted.clear();
            state.is_attended = false;
        }
        self.is_over
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        if !self.is_over {
            let mut state = lock(&self.shared.state);
            state.is_attended = false;
            state.unsubscribe_all();
        }
    }
}

impl State {
    fn unsubscribe_all(&mut self) {
        for wanted in self.wanted.values_mut() {
            wanted.subscription = SubscriptionState::Missing;
        }
    }
}

/// Tends the push connection until the subscriber ends: then it is closed, wherever that stands.
async fn attend(mut attendance: Attendance) {
    let shared = attendance.shared.clone();
    tokio::select! {
        biased;
        () = shared.ended.notified() => {}
        () = tend(&mut attendance) => {}
    }
}

/// Tends the push connection as long as somebody listens.
async fn tend(attendance: &mut Attendance) {
    let shared = attendance.shared.clone();
    let mut failures: u32 = 0;
    while !attendance.ends_if_idle() {
        let gone = Arc::new(Notify::new());
        let served = match shared.open(&gone).await {
            Ok(wire) => shared.serve(wire, &gone, &mut failures).await,
            Err(failure) => Err(failure),
        };
        let keys = shared.unsubscribed();
        // Waiters who relied on notices must not sleep on. To fail to open anew is no news to anybody.
        keys.iter().for_each(|key| (shared.on_notice)(shared.index, key, Notice::Missed));
        if let Err(cause) = served {
            if failures == 0 {
                tracing::debug!(node = %shared.name, %cause, "release notices are not heard");
            }
            sleep(back_off(failures)).await;
            failures = failures.saturating_add(1);
        }
    }
}

impl Shared {
    async fn open(self: &Arc<Self>, gone: &Arc<Notify>) -> Result<MultiplexedConnection, Failure> {
        let (shared, gone) = (self.clone(), gone.clone());
        let on_notice = move |push: PushInfo| {
            match push.kind {
                PushKind::Message => shared.on_notice(&push.data),
                PushKind::Disconnection => gone.notify_one(),
                _ => {}
            }
            Ok::<_, std::convert::Infallible>(())
        };
        let patience = self.source.patience(self.node_timeout);
        let opening = self.source.connect_for_pushes(on_notice, self.node_timeout);
        let opened = timeout(patience, opening).await;
        opened.unwrap_or_else(|_| Err(Failure::TimedOut(patience)))
    }

    /// Passes a message on to those who wait for it.
    fn on_notice(&self, message: &[Value]) {
        let [Value::BulkString(channel), Value::BulkString(payload)] = message else { return };
        let Ok(channel) = str::from_utf8(channel) else { return };
        let key = lock(&self.state).wanted.get(channel).map(|wanted| wanted.key.clone());
        let Some(key) = key else { return };
        let notice = match Message::read(payload) {
            Some(message) if self.database.is_foreign(message) => return,
            Some(Message { token, .. }) => Notice::Released { token },
            // It is still a reason to look.
            None => Notice::Missed,
        };
        (self.on_notice)(self.index, &key, notice);
    }

    /// Keeps the subscriptions as they are wanted, until nobody has listened for a while.
    async fn serve(
        &self,
        mut wire: MultiplexedConnection,
        gone: &Notify,
        failures: &mut u32,
    ) -> Result<(), Failure> {
        let mut quiet = 0;
        while quiet < QUIET_ENOUGH {
            self.subscribe(&mut wire).await?;
            *failures = 0;
            tokio::select! {
                biased;
                () = gone.notified() => return Err(Failure::NotConnected),
                () = self.changed.notified() => quiet = 0,
                () = sleep(LINGER) => {
                    self.tidy(&mut wire).await?;
                    quiet = if self.is_idle() { quiet + 1 } else { 0 };
                }
            }
        }
        Ok(())
    }

    /// Subscribes to what is wanted and not subscribed yet. Whoever waits for it must look once more: the
    /// release may have come in between.
    async fn subscribe(&self, wire: &mut MultiplexedConnection) -> Result<(), Failure> {
        let (missing, mut heard) = (self.with(SubscriptionState::Missing, |_| true), Vec::new());
        let outcome = self.subscribe_to(missing, wire, &mut heard).await;
        // All at once: whoever waits for any of many keys would look as often as there are keys.
        heard.iter().for_each(|key| (self.on_notice)(self.index, key, Notice::Missed));
        outcome
    }

    /// Subscribes to these, and tells to which it has, or must not.
    async fn subscribe_to(
        &self,
        missing: Vec<Arc<Key>>,
        wire: &mut MultiplexedConnection,
        heard: &mut Vec<Arc<Key>>,
    ) -> Result<(), Failure> {
        for key in missing {
            let reply = self.bounded(wire.subscribe(&key.channel)).await;
            let subscription = match reply {
                Ok(()) => SubscriptionState::Confirmed,
                Err(Failure::Redis(error)) if error.code().is_some() => {
                    tracing::debug!(node = %self.name, %error, "release notices are not heard");
                    SubscriptionState::Refused
                }
                Err(failure) => return Err(failure),
            };
            if let Some(wanted) = lock(&self.state).wanted.get_mut(&key.channel) {
                wanted.subscription = subscription;
            }
            heard.push(key);
        }
        Ok(())
    }

    /// Lets go of what nobody listens for, and makes sure that the connection lives.
    async fn tidy(&self, wire: &mut MultiplexedConnection) -> Result<(), Failure> {
        for key in self.with(SubscriptionState::Confirmed, |wanted| wanted.listeners == 0) {
            self.bounded(wire.unsubscribe(&key.channel)).await?;
            let mut state = lock(&self.state);
            match state.wanted.get_mut(&key.channel) {
                // Somebody came while it went: the next round subscribes again.
                Some(wanted) if wanted.listeners > 0 => {
                    wanted.subscription = SubscriptionState::Missing;
                    self.changed.notify_one();
                }
                _ => drop(state.wanted.remove(&key.channel)),
            }
        }
        let ping = redis::cmd("PING");
        self.bounded(async { wire.send_packed_command(&ping).await.map(drop) }).await
    }

    async fn bounded(
        &self,
        work: impl Future<Output = redis::RedisResult<()>>,
    ) -> Result<(), Failure> {
        match timeout(self.node_timeout, work).await {
            Ok(result) => Ok(result?),
            Err(_elapsed) => Err(Failure::TimedOut(self.node_timeout)),
        }
    }

    fn with(
        &self,
        wished: SubscriptionState,
        condition: impl Fn(&Wanted) -> bool,
    ) -> Vec<Arc<Key>> {
        let state = lock(&self.state);
        let wished = |wanted: &&Wanted| wanted.subscription == wished && condition(wanted);
        state.wanted.values().filter(wished).map(|wanted| wanted.key.clone()).collect()
    }

    fn is_idle(&self) -> bool {
        lock(&self.state).wanted.values().all(|wanted| wanted.listeners == 0)
    }

    /// Notes that nothing is subscribed any more. Returns the keys whose releases somebody would have heard.
    fn unsubscribed(&self) -> Vec<Arc<Key>> {
        let mut state = lock(&self.state);
        state.wanted.retain(|_, wanted| wanted.listeners > 0);
        let was_heard = |wanted: &&Wanted| wanted.subscription == SubscriptionState::Confirmed;
        let heard = state.wanted.values().filter(was_heard);
        let keys = heard.map(|wanted| wanted.key.clone()).collect();
        state.unsubscribe_all();
        keys
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("node", &self.name).finish_non_exhaustive()
    }
}

/// The pause after so many failures in a row: from 50 ms, doubling, to 30 s. Nobody waits for the subscriber.
fn back_off(failures: u32) -> Duration {
    LONGEST_BACK_OFF.min(FIRST_BACK_OFF.saturating_mul(2_u32.saturating_pow(failures)))
}

const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// How long a channel without listeners stays subscribed.
const LINGER: Duration = Duration::from_secs(5);
/// How many times that the connection stays open without listeners.
const QUIET_ENOUGH: u32 = 2;
