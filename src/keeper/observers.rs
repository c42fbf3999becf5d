//! Observers: who hears of a key's releases without standing in its queue.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::Notify;

use crate::host::sync::lock;

/// The observers of a manager, by key.
#[derive(Debug, Default)]
pub(super) struct Observers {
    by_key: Mutex<BTreeMap<Arc<str>, Vec<Weak<Hearing>>>>,
}

/// What one observer has heard and not taken note of yet.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    news: Mutex<News>,
    woken: Notify,
}

/// What was heard of a key.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Whether there is a reason to look.
    pub(crate) is_any: bool,
    /// The fencing tokens of the locks that were released, as far as they are remembered.
    pub(crate) released: Vec<u64>,
}

impl Hearing {
    /// Waits for news. Dropping the future loses none.
    pub(crate) async fn wait(&self) {
        while !lock(&self.news).is_any {
            self.woken.notified().await;
        }
    }

    pub(crate) fn take(&self) -> News {
        std::mem::take(&mut *lock(&self.news))
    }

    fn tell(&self, released: Option<u64>) {
        let mut news = lock(&self.news);
        news.is_any = true;
        if let Some(token) = released.filter(|token| !news.released.contains(token)) {
            // Who does not ask for so long has missed them in any case.
            if news.released.len() == MOST_REMEMBERED {
                news.released.remove(0);
            }
            news.released.push(token);
        }
        drop(news);
        self.woken.notify_one();
    }
}

impl Observers {
    /// Hears of a key as long as the returned value lives.
    pub(super) fn observe(&self, key: &Arc<str>) -> Arc<Hearing> {
        let hearing = Arc::new(Hearing::default());
        let mut by_key = lock(&self.by_key);
        by_key.retain(|_, observers| observers.iter().any(|other| other.strong_count() > 0));
        by_key.entry(key.clone()).or_default().push(Arc::downgrade(&hearing));
        hearing
    }

    /// Tells those who observe a key of the release of a lock, or of a reason to look.
    pub(super) fn tell(&self, key: &str, released: Option<u64>) {
        let mut by_key = lock(&self.by_key);
        let Some(observers) = by_key.get_mut(key) else { return };
        observers.retain(|observer| observer.strong_count() > 0);
        let told: Vec<_> = observers.iter().filter_map(Weak::upgrade).collect();
        drop(by_key);
        told.iter().for_each(|observer| observer.tell(released));
    }

    /// Has all observers look.
    pub(super) fn tell_all(&self) {
        let told: Vec<_> =
            lock(&self.by_key).values().flatten().filter_map(Weak::upgrade).collect();
        told.iter().for_each(|observer| observer.tell(None));
    }
}

const MOST_REMEMBERED: usize = 256;
