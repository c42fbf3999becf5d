//! Shortcuts that look right and are not: for each of them the story in which it fails, and in which ours holds.
//!
//! Ann asks two servers through proxies, so that the test can act between her acquire and her raise; the
//! third is down for her. Ben and everybody else ask the servers themselves.

use std::time::Duration;

use redlatch::{
    ClockDrift, Error, FencingToken, LockGuard, LockManager, LockTicket, OwnerToken, Result,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{
    Proxy, Server, Site, eventually, everywhere, millis, on_servers, secs, within,
};

everywhere!(
    adopting_by_the_owner_alone_would_let_tokens_go_backwards,
    a_ticket_of_a_lock_since_lost_to_another_is_worthless,
);

on_servers!(
    trusting_the_tickets_time_would_outlive_the_key,
    trusting_the_tickets_time_would_revive_a_lock,
    counting_from_the_answer_would_outlive_the_key,
);

/// Ann's raise of the first server finds a higher counter there. Were it counted for her token all the same,
/// she would get the token that Ben had between her acquire and her raise.
#[tokio::test]
async fn counting_a_raise_beyond_the_token_would_give_two_holders_one_token() {
    let stage = Stage::new([4, 8, 8]).await;
    let ann = stage.ann_voted().await;
    // Her key on the first server goes, and Ben gets the lock there and on the third.
    let [one, two, three] = stage.servers();
    let owner = one.get("k").unwrap();
    one.del("k");
    let ben = stage.ben().await.unwrap();
    assert_eq!(ben.fencing_token(), token(9), "as high as the second server's answer to Ann");
    // His goes too, and a late duplicate of Ann's acquire takes the first server once more.
    [one, three].iter().for_each(|server| server.del("k"));
    one.command(&["SET", "k", &owner, "PX", "600000"]);
    one.command(&["INCR", "{k}:fence"]);
    let ann = stage.ann_raises(ann).await.unwrap();
    assert!(ann.fencing_token() > ben.fencing_token(), "{ann:?} after {ben:?}");
    assert_eq!(ann.fencing_token(), token(10));
    let exact = [one, two].map(|server| server.counter("{k}:fence"));
    assert_eq!(exact, [Some(token(10).get()); 2]);
}

#[tokio::test]
async fn a_raise_that_finds_a_higher_counter_raises_the_token() {
    let stage = Stage::new([4, 8, 8]).await;
    let ann = stage.ann_voted().await;
    stage.preset(0, 20);
    let ann = stage.ann_raises(ann).await.unwrap();
    assert_eq!(ann.fencing_token(), token(20));
    let [one, two, _] = stage.servers();
    assert_eq!([one, two].map(|server| server.counter("{k}:fence")), [Some(token(20).get()); 2]);
}

/// Ann's raise of the first server is lost. Did she not wait for its answer, she would have the second
/// server's token, and Ben after her a lower one.
#[tokio::test]
async fn not_waiting_for_the_raises_would_let_tokens_go_backwards() {
    let stage = Stage::new([1, 8, 1]).await;
    let ann = stage.ann_voted().await;
    stage.proxies[0].swallow_requests();
    stage.proxies[1].heal();
    eventually("the raise is lost", async || stage.proxies[0].swallowed_requests() > 0).await;
    stage.proxies[0].cut();
    let ann = within(ann).await.unwrap();
    // Whatever she has, her keys vanish; the second server is out of Ben's reach.
    let [one, two, three] = stage.servers();
    [one, two, three].iter().for_each(|server| server.del("k"));
    assert!(two.foreign_lock("k", "another", secs(600)));
    let ben = stage.ben().await.unwrap();
    let ann = ann.map(|guard| guard.fencing_token());
    assert!(ann.as_ref().is_ok_and(|ann| ben.fencing_token() > *ann) || ann.is_err());
    assert_eq!(ben.fencing_token(), token(3));
    let error = ann.unwrap_err();
    assert!(error.is_unavailable() || error.is_contended(), "{error:?}");
}

#[tokio::test]
async fn a_lock_is_held_once_its_raises_are_answered_and_not_before() {
    let stage = Stage::new([1, 8, 1]).await;
    let ann = stage.ann_voted().await;
    stage.proxies[0].hold_replies();
    stage.proxies[1].heal();
    let [one, ..] = stage.servers();
    let raised = async || one.counter("{k}:fence") == Some(token(9).get());
    eventually("the first server is raised", raised).await;
    assert!(!ann.is_finished(), "but Ann has not heard of it");
    stage.proxies[0].heal();
    let ann = within(ann).await.unwrap().unwrap();
    assert_eq!(ann.fencing_token(), token(9));
}

/// The first server is Ben's by the time of Ann's raise. Were it raised for her all the same, both would hold
/// the lock.
#[tokio::test]
async fn raising_anothers_lock_would_make_two_holders() {
    let stage = Stage::new([1, 8, 2]).await;
    let ann = stage.ann_voted().await;
    let [one, _, three] = stage.servers();
    one.del("k");
    let ben = stage.ben().await.unwrap();
    assert_eq!(ben.fencing_token(), token(3));
    let ann = stage.ann_raises(ann).await;
    assert!(ann.is_err(), "{ann:?} beside {ben:?}");
    assert_eq!(one.counter("{k}:fence"), Some(token(3).get()), "nothing was raised");
    for server in [one, three] {
        assert_eq!(server.get("k").as_deref(), Some(ben.owner_token().as_str()));
    }
    within(ben.extend(secs(900))).await.expect("it is Ben's alone");
    within(ben.release()).await.unwrap();
}

/// Ann's key on the first server is gone by the time of her raise. Were it raised for her all the same, she
/// would hold the lock on one server of three.
#[tokio::test]
async fn raising_a_lock_that_is_gone_would_make_a_holder_of_a_minority() {
    let stage = Stage::new([1, 8, 1]).await;
    let ann = stage.ann_voted().await;
    let [one, ..] = stage.servers();
    one.del("k");
    let ann = stage.ann_raises(ann).await;
    assert!(ann.is_err(), "{ann:?}");
    assert_eq!(one.counter("{k}:fence"), Some(token(2).get()), "nothing was raised");
    assert_eq!(one.get("k"), None, "nothing was put back");
    let ben = stage.ben().await.unwrap();
    assert!(ben.is_valid());
}

/// The third server's answer comes late and is higher than the token of the other two: it does not count, and
/// the next token is higher than both.
#[tokio::test]
async fn a_late_higher_answer_does_no_harm() {
    let site = Site::servers(3);
    let proxies: Vec<_> = site.all().iter().map(Proxy::start).collect();
    preset(&site, [1, 1, 50]);
    let manager = warm(proxies.iter().map(Proxy::url).collect()).await;
    proxies[2].hold_replies();
    let guard = within(manager.lock("k").ttl(secs(600)).acquire()).await.unwrap();
    assert_eq!(guard.fencing_token(), token(2));
    proxies[2].heal();
    for _ in 0..3 {
        within(guard.extend(secs(900))).await.unwrap();
    }
    assert_eq!(guard.fencing_token(), token(2));
    let late = async || site.all()[2].counter("{k}:fence") == Some(token(51).get());
    eventually("the third server has voted higher", late).await;
    within(guard.release()).await.unwrap();
    site.empties_of("k").await;
    let next = within(manager.lock("k").acquire()).await.unwrap();
    assert!(next.fencing_token() > token(2), "{next:?}");
}

/// The worker's lock was lost, and another held it in between. Did the owner token alone prove it, the old
/// ticket would bring back a token lower than the other's.
async fn adopting_by_the_owner_alone_would_let_tokens_go_backwards(site: Site) {
    let worker = OwnerToken::new("worker-7").unwrap();
    let request = || site.manager().lock("k").ttl(secs(600)).owner(worker.clone());
    let old = request().await.unwrap().into_ticket();
    site.delete("k", &worker).await;
    let between = site.manager().lock("k").await.unwrap();
    let seen = between.fencing_token();
    within(between.release()).await.unwrap();
    let anew = request().await.unwrap();
    assert_eq!(anew.owner_token(), old.owner_token());
    match within(site.manager().adopt(old)).await {
        Ok(guard) => panic!("{:?} after {seen:?}", guard.fencing_token()),
        Err(error) => assert!(error.is_not_held(), "{error:?}"),
    }
    assert!(anew.fencing_token() > seen);
    within(anew.extend(secs(900))).await.expect("the refused ticket did it no harm");
}

async fn a_ticket_of_a_lock_since_lost_to_another_is_worthless(site: Site) {
    let ticket = site.manager().lock("k").ttl(secs(600)).await.unwrap().into_ticket();
    site.delete("k", ticket.owner_token()).await;
    let other = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let error = within(site.manager().adopt(ticket)).await.unwrap_err();
    assert!(error.is_not_held(), "{error:?}");
    within(other.release()).await.expect("the refused ticket did it no harm");
}

/// The worker has its old lock on one server of three and took the others anew.
#[tokio::test]
async fn adopting_by_the_owner_on_a_majority_would_mix_two_locks() {
    for kept in 0..3 {
        let site = Site::servers(3);
        let worker = OwnerToken::new("worker-7").unwrap();
        let ticket = held_everywhere(&site, &worker).await.into_ticket();
        for (n, server) in site.all().iter().enumerate().filter(|(n, _)| *n != kept) {
            let counter = ticket.fencing_token().get() + u64::try_from(n).unwrap() + 1;
            server.command(&["SET", "{k}:fence", &counter.to_string()]);
        }
        let error = within(site.manager().adopt(ticket)).await.unwrap_err();
        assert!(error.is_not_held(), "{error:?}");
    }
}

/// A majority that says both, the owner and the token, is enough; a counter that moved on a minority is not.
#[tokio::test]
async fn a_counter_that_moved_on_a_minority_does_no_harm() {
    let site = Site::servers(3);
    let worker = OwnerToken::new("worker-7").unwrap();
    let ticket: LockTicket = held_everywhere(&site, &worker).await.into_ticket();
    let moved = ticket.fencing_token().get() + 5;
    site.all()[0].command(&["SET", "{k}:fence", &moved.to_string()]);
    let guard = within(site.manager().adopt(ticket.clone())).await.unwrap();
    assert_eq!(guard.fencing_token(), ticket.fencing_token());
}

/// The ticket says ten minutes, and the keys had ten seconds left: who trusts it is deceived, unless the keys
/// are given the time first.
async fn trusting_the_tickets_time_would_outlive_the_key(site: Site) {
    let ticket = held_everywhere(&site, &OwnerToken::random()).await.into_ticket();
    for server in site.all() {
        server.command(&["PEXPIRE", "k", "10000"]);
    }
    let guard = within(site.manager().adopt(ticket)).await.unwrap();
    assert_within_the_keys_life(&site, &guard);
}

async fn trusting_the_tickets_time_would_revive_a_lock(site: Site) {
    let ticket = held_everywhere(&site, &OwnerToken::random()).await.into_ticket();
    for server in site.all() {
        server.command(&["PEXPIRE", "k", "1"]);
    }
    eventually("the keys expire", async || site.lock_keys().is_empty()).await;
    let error = within(site.manager().adopt(ticket)).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert!(site.lock_keys().is_empty());
}

async fn counting_from_the_answer_would_outlive_the_key(site: Site) {
    let proxies: Vec<_> = site.all().iter().map(Proxy::start).collect();
    let builder = LockManager::quorum(proxies.iter().map(Proxy::url)).node_timeout(secs(20));
    let drift = ClockDrift::new(0.0, Duration::ZERO);
    let manager = builder.clock_drift(drift).build().unwrap();
    let ticket = held_everywhere(&site, &OwnerToken::random()).await.into_ticket();
    proxies.iter().for_each(|proxy| proxy.delay_replies(millis(300)));
    let guard = within(manager.adopt(ticket)).await.unwrap();
    assert!(guard.remaining() + millis(300) <= secs(600), "{guard:?}");
}

/// A majority of the keys lives as long as the guard relies on them.
fn assert_within_the_keys_life(site: &Site, guard: &LockGuard) {
    let mut ends: Vec<_> = site
        .all()
        .iter()
        .map(|server| Instant::now() + server.pttl("k").unwrap_or_default())
        .collect();
    ends.sort_unstable();
    ends.reverse();
    let end = ends[site.all().len() / 2];
    assert!(guard.valid_until() <= end, "valid for {:?}", guard.remaining());
}

/// The servers, and Ann's way to them.
struct Stage {
    site: Site,
    proxies: Vec<Proxy>,
    ann: LockManager,
}

impl Stage {
    /// Servers with these counters.
    async fn new(counters: [u64; 3]) -> Self {
        let site = Site::servers(3);
        preset(&site, counters);
        let proxies: Vec<_> = site.all()[..2].iter().map(Proxy::start).collect();
        let nowhere = "redis://127.0.0.1:1".to_owned();
        let urls = proxies.iter().map(Proxy::url).chain([nowhere]).collect();
        Self { site, proxies, ann: warm(urls).await }
    }

    fn servers(&self) -> [&Server; 3] {
        [0, 1, 2].map(|n| &self.site.all()[n])
    }

    fn preset(&self, server: usize, counter: u64) {
        let counter = (AHEAD + counter).to_string();
        self.site.all()[server].command(&["SET", "{k}:fence", &counter]);
    }

    /// Starts Ann's acquire. Both servers have voted for her, but she has not heard of the second vote, and so
    /// raises nobody yet.
    async fn ann_voted(&self) -> JoinHandle<Result<LockGuard>> {
        self.proxies[1].hold_replies();
        let ann = tokio::spawn(self.ann.lock("k").ttl(secs(600)).try_acquire());
        eventually("both have voted", async || {
            self.site.all()[..2].iter().all(|server| server.get("k").is_some())
        })
        .await;
        ann
    }

    /// Lets Ann hear of the second vote.
    async fn ann_raises(&self, ann: JoinHandle<Result<LockGuard>>) -> Result<LockGuard> {
        self.proxies[1].heal();
        within(ann).await.expect("no panic")
    }

    async fn ben(&self) -> Result<LockGuard> {
        within(self.site.manager().lock("k").ttl(secs(600)).try_acquire()).await
    }
}

/// A manager whose connections stand where they can, and whose servers know its scripts.
async fn warm(urls: Vec<String>) -> LockManager {
    let manager = LockManager::quorum(urls).node_timeout(secs(20)).build().unwrap();
    within(manager.ping()).await;
    for _ in 0..3 {
        let guard = within(manager.lock("warm").acquire()).await.unwrap();
        within(guard.extend(secs(60))).await.unwrap();
        within(guard.release()).await.unwrap();
    }
    eventually("all answers are in", async || {
        within(manager.inspect("warm"))
            .await
            .unwrap()
            .votes()
            .iter()
            .all(|vote| vote.owner_token().is_none())
    })
    .await;
    manager
}

/// A lock that every server has.
async fn held_everywhere(site: &Site, owner: &OwnerToken) -> LockGuard {
    let request = site.manager().lock("k").ttl(secs(600)).owner(owner.clone());
    let guard = request.await.unwrap();
    eventually("every server has it", async || site.lock_keys().len() == site.all().len()).await;
    guard
}

fn preset(site: &Site, counters: [u64; 3]) {
    for (server, counter) in site.all().iter().zip(counters) {
        server.command(&["SET", "{k}:fence", &(AHEAD + counter).to_string()]);
    }
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(AHEAD + number)
}

/// Microseconds since 1970 far in the future: no clock has a say.
const AHEAD: u64 = 4_000_000_000_000_000;
