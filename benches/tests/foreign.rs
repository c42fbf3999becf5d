//! A lock of redlatch and one of rslock on the same key exclude each other, since both write it the same way.

use std::time::Duration;

use redlatch_bench::servers::Server;
use rslock::LockError;

/// Servers, and a client of each library on all of them.
struct Site {
    ours: redlatch::LockManager,
    theirs: rslock::LockManager,
    /// They end with this.
    _servers: Vec<Server>,
}

impl Site {
    fn of(count: usize) -> Self {
        let servers: Vec<_> = (0..count).map(|_| Server::start().unwrap()).collect();
        let urls: Vec<_> = servers.iter().map(Server::url).collect();
        let ours = match &urls[..] {
            [url] => redlatch::LockManager::single(url).build(),
            urls => redlatch::LockManager::quorum(urls).build(),
        };
        let mut theirs = rslock::LockManager::new(urls);
        theirs.set_retry(0, Duration::from_millis(1));
        Self { ours: ours.unwrap(), theirs, _servers: servers }
    }

    async fn theirs_refuses(&self, key: &str) -> bool {
        matches!(self.theirs.lock(key, TTL).await, Err(LockError::Unavailable))
    }

    async fn ours_refuses(&self, key: &str) -> bool {
        self.ours.lock(key).try_acquire().await.is_err_and(|error| error.is_contended())
    }
}

async fn ours_keeps_theirs_out_until_its_release(site: Site) {
    let ours = site.ours.lock("k").ttl(TTL).acquire().await.unwrap();
    assert!(site.theirs_refuses("k").await);
    ours.extend(TTL).await.expect("their attempt did it no harm");
    ours.release().await.unwrap();
    site.theirs.lock("k", TTL).await.unwrap();
}

async fn theirs_keeps_ours_out_until_its_release(site: Site) {
    let theirs = site.theirs.lock("k", TTL).await.unwrap();
    assert!(site.ours_refuses("k").await);
    site.theirs.extend(&theirs, TTL).await.expect("our attempt did it no harm");
    theirs.release().await;
    site.ours.lock("k").acquire().await.unwrap().release().await.unwrap();
}

async fn ours_waits_for_the_release_of_theirs(site: Site) {
    let theirs = site.theirs.lock("k", TTL).await.unwrap();
    let request = site.ours.lock("k").wait_timeout(TTL);
    let (guard, ()) = tokio::join!(request.acquire(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        theirs.release().await;
    });
    assert!(guard.unwrap().is_valid());
}

async fn theirs_waits_for_the_drop_of_ours(site: Site) {
    let ours = site.ours.lock("k").ttl(TTL).acquire().await.unwrap();
    let (theirs, ()) = tokio::join!(site.theirs.acquire("k", TTL), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(ours);
    });
    theirs.unwrap().release().await;
}

async fn theirs_is_seen_by_inspect(site: Site) {
    let theirs = site.theirs.lock("k", TTL).await.unwrap();
    let status = site.ours.inspect("k").await.unwrap();
    assert!(status.is_held() && status.expires_in().is_some_and(|left| left <= TTL));
    assert_eq!(status.fencing_token(), None);
    theirs.release().await;
    assert!(!site.ours.inspect("k").await.unwrap().is_held());
}

/// Tests each fact on one server and on a quorum of three. The servers belong to the test's thread.
macro_rules! on_one_and_on_three {
    ($($fact:ident),+ $(,)?) => {$(
        mod $fact {
            use super::Site;

            #[tokio::test]
            async fn on_one_server() {
                super::$fact(Site::of(1)).await;
            }

            #[tokio::test]
            async fn on_three_servers() {
                super::$fact(Site::of(3)).await;
            }
        }
    )+};
}

on_one_and_on_three!(
    ours_keeps_theirs_out_until_its_release,
    theirs_keeps_ours_out_until_its_release,
    ours_waits_for_the_release_of_theirs,
    theirs_waits_for_the_drop_of_ours,
    theirs_is_seen_by_inspect,
);

const TTL: Duration = Duration::from_secs(30);
