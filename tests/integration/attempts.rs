//! Attempts of one chosen owner, by several processes: whatever comes late of one touches no lock of another.

use redlatch::deadpool_redis::redis::{FromRedisValue, Value};
use redlatch::{LockGuard, LockManager, LockRequest, LossReason, OwnerToken, Result, Retry};
use tokio::{task::JoinHandle, time::Instant};

use crate::support::{
    BOUND, Monitor, Proxy, Server, Site, eventually, everywhere, millis, on_servers, poll_times,
    secs, within,
};

everywhere!(
    what_a_later_lock_leaves_is_no_release_of_an_earlier_one,
    a_join_that_is_given_up_keeps_the_lock,
);

on_servers!(
    a_late_acquire_and_its_undo_keep_what_another_process_got,
    a_random_owners_late_release_keeps_the_lock_under_its_text,
    a_lock_whose_counter_has_gone_is_not_joined,
);

fn us() -> OwnerToken {
    OwnerToken::new("us").unwrap()
}

fn ours(manager: &LockManager) -> LockRequest {
    manager.lock("k").owner(us()).ttl(secs(600))
}

/// The acquire of the first process is on its way when the second gets the lock, and its undo comes right behind.
/// By the owner alone, the one would pass for a grant, and the other would delete the second's votes.
async fn a_late_acquire_and_its_undo_keep_what_another_process_got(site: Site) {
    let (proxies, builder) = site.proxied();
    let first = builder.build().unwrap();
    site.learns_the_scripts().await;
    drop(first.ping().await);
    proxies.iter().for_each(Proxy::hold_requests);
    let late = tokio::spawn(ours(&first).try_acquire());
    eventually("it is on its way", async || proxies.iter().all(is_kept)).await;
    let second = within(ours(&site.manager()).try_acquire()).await.unwrap();
    site.fills("k").await;
    proxies.iter().for_each(Proxy::heal);
    let refused = within(late).await.unwrap().expect_err("it is the second's");
    assert!(refused.is_contended(), "{refused:?}");
    assert_eq!(within(first.close()).await, 0);
    assert_eq!(site.lock_keys().len(), site.all().len(), "no vote is deleted");
    within(second.extend(secs(600))).await.expect("it is held");
    within(second.release()).await.unwrap();
}

/// The key that a later lock of the owner leaves in place does not say that the earlier one was released in time.
async fn what_a_later_lock_leaves_is_no_release_of_an_earlier_one(site: Site) {
    let (manager, other) = (site.manager(), site.manager());
    let earlier = within(ours(&manager).try_acquire()).await.unwrap();
    site.fills("k").await;
    site.delete("k", &us()).await;
    let later = within(ours(&other).min_hold(secs(600)).try_acquire()).await.unwrap();
    site.fills("k").await;
    within(later.release()).await.unwrap();
    let error = within(earlier.release()).await.expect_err("it had ended before");
    assert!(error.is_not_held(), "{error}");
}

/// Whenever it is given up: a lock that was joined is no one's to release before the guard is handed over.
async fn a_join_that_is_given_up_keeps_the_lock(site: Site) {
    let manager = site.manager();
    let guard = within(ours(&manager).try_acquire()).await.unwrap();
    site.fills("k").await;
    for polls in 0..100 {
        let join = ours(&manager).auto_renew().acquire_or_extend();
        if let Some(joined) = poll_times(polls, join).await {
            joined.unwrap().forget();
            break;
        }
    }
    within(guard.extend(secs(600))).await.expect("nobody has released it");
}

/// Its id has gone with the counter, and a token made of nothing would be lower than all before.
async fn a_lock_whose_counter_has_gone_is_not_joined(site: Site) {
    let guard = within(ours(&site.manager()).try_acquire()).await.unwrap();
    site.fills("k").await;
    site.all().iter().for_each(|server| server.del("{k}:fence"));
    let join = ours(&site.manager()).retry(Retry::never()).acquire_or_extend();
    within(join).await.expect_err("whose it is nobody knows");
    assert!(site.all().iter().all(|server| server.get("{k}:fence").is_none()));
    drop(guard);
}

fn is_kept(proxy: &Proxy) -> bool {
    proxy.held_requests() > 0
}

/// Somebody has used the text of a random owner for a lock of his own, once the random owner's had ended.
async fn a_random_owners_late_release_keeps_the_lock_under_its_text(site: Site) {
    let (proxies, builder) = site.proxied();
    let first = builder.build().unwrap();
    site.learns_the_scripts().await;
    let random = within(first.lock("k").ttl(secs(600)).try_acquire()).await.unwrap();
    site.fills("k").await;
    let owner = random.owner_token().clone();
    proxies.iter().for_each(Proxy::hold_requests);
    let late = tokio::spawn(random.release());
    eventually("it is on its way", async || proxies.iter().all(is_kept)).await;
    site.all().iter().for_each(|server| server.del("k"));
    let manager = site.manager();
    let next = within(manager.lock("k").owner(owner).ttl(secs(600)).try_acquire()).await.unwrap();
    site.fills("k").await;
    proxies.iter().for_each(Proxy::heal);
    assert!(within(late).await.unwrap().unwrap_err().is_not_held());
    assert_eq!(within(first.close()).await, 0);
    assert_eq!(site.lock_keys().len(), site.all().len(), "no vote is deleted");
    within(next.extend(secs(600))).await.expect("it is held");
}

/// Three servers whose counters differ, and a first process that reaches them through faulty networks.
struct Stage {
    site: Site,
    proxies: Vec<Proxy>,
    first: LockManager,
}

impl Stage {
    async fn new(counters: [u64; 3]) -> Self {
        let site = Site::servers(3);
        let (proxies, builder) = site.proxied();
        let first = builder.build().unwrap();
        site.learns_the_scripts().await;
        drop(first.ping().await);
        for (server, counter) in site.all().iter().zip(counters) {
            server.command(&["SET", "{k}:fence", &(AHEAD + counter).to_string()]);
        }
        Self { site, proxies, first }
    }

    /// Starts the first process' acquire. It has the votes of all but of those that it cannot reach, and its raise of
    /// the first server is on its way.
    async fn first_raises(&self) -> JoinHandle<Result<LockGuard>> {
        self.proxies[2].hold_replies();
        let acquire = tokio::spawn(ours(&self.first).try_acquire());
        eventually("it has votes", async || {
            [0, 2].iter().all(|&node| self.site.all()[node].get("k").is_some())
        })
        .await;
        self.proxies[0].hold_requests();
        self.proxies[2].heal();
        eventually("the raise is on its way", async || is_kept(&self.proxies[0])).await;
        acquire
    }
}

/// The first server is another attempt's by the time that the raise arrives. By the owner alone it would count, and both
/// would hold the lock under the same token.
#[tokio::test]
async fn a_late_raise_makes_no_second_guard_with_the_same_token() {
    let stage = Stage::new([1, 8, 8]).await;
    stage.proxies[1].swallow_requests();
    let first = stage.first_raises().await;
    stage.site.all()[0].del("k");
    let second = within(ours(&stage.site.manager()).try_acquire()).await.unwrap();
    assert_eq!(second.fencing_token().get(), AHEAD + 9);
    stage.proxies[0].heal();
    stage.proxies[1].heal();
    stage.proxies[1].cut();
    let first = within(first).await.unwrap();
    assert!(first.is_err(), "{first:?} beside {second:?}");
    within(second.extend(secs(600))).await.expect("it is held");
}

/// Two servers tell the same counter for an election that will raise it yet. Whoever joined there would share the lock
/// under another token.
#[tokio::test]
async fn a_joiner_has_the_token_of_the_lock_that_it_joins() {
    let stage = Stage::new([1, 1, 2]).await;
    stage.proxies[1].hold_replies();
    let first = stage.first_raises().await;
    let manager = stage.site.manager();
    let server = &stage.site.all()[1];
    let known = server.scripts() + 3;
    let joiner = tokio::spawn(ours(&manager).acquire_or_extend());
    let has_looked = || server.scripts() > known || joiner.is_finished();
    eventually("it looks, and looks again", async || has_looked()).await;
    assert!(!joiner.is_finished(), "there is no lock yet");
    stage.proxies[0].heal();
    stage.proxies[1].heal();
    let first = within(first).await.unwrap().unwrap();
    let joiner = within(joiner).await.unwrap().unwrap();
    assert_eq!(joiner.fencing_token(), first.fencing_token());
    within(joiner.extend(secs(600))).await.unwrap();
}

/// The release has reached one server, and the other guard renews. Were the key put back there, the lock would go on
/// when the release has been told to have succeeded.
#[tokio::test]
async fn a_shared_lock_is_not_extended_after_its_release() {
    let stage = Stage::new([1, 1, 1]).await;
    let manager = stage.site.manager();
    let request = ours(&manager).auto_renew_every(millis(20));
    let renewed = within(request.acquire()).await.unwrap();
    stage.site.fills("k").await;
    let joined = within(ours(&stage.first).acquire_or_extend()).await.unwrap();
    stage.proxies[1..].iter().for_each(Proxy::hold_requests);
    let release = tokio::spawn(joined.release());
    eventually("it has reached the others", async || stage.proxies[1..].iter().all(is_kept)).await;
    let server = &stage.site.all()[0];
    let known = server.scripts() + 3;
    let is_renewed = || server.scripts() > known || !renewed.is_valid();
    eventually("renewals go on, or end", async || is_renewed()).await;
    stage.proxies[1].heal();
    within(release).await.unwrap().expect("it was held");
    let extended = within(renewed.extend(secs(600))).await;
    assert!(extended.unwrap_err().is_not_held());
    assert_eq!(within(renewed.lost()).await, LossReason::Taken);
    stage.proxies[2].heal();
}

/// A lock that a guard behind the stage's proxies is releasing: its release has reached the first server, and the others
/// still have the lock.
struct Ending<'a> {
    stage: &'a Stage,
    release: JoinHandle<Result<()>>,
    token: u64,
}

impl<'a> Ending<'a> {
    async fn begin(stage: &'a Stage, released: LockGuard) -> Self {
        let token = released.fencing_token().get();
        stage.proxies[1..].iter().for_each(Proxy::hold_requests);
        let release = tokio::spawn(released.release());
        let [first, others @ ..] = stage.site.all() else { unreachable!("there are three") };
        eventually("it has reached the first", async || first.get("k").is_none()).await;
        assert!(others.iter().all(|server| server.get("k").is_some()));
        Self { stage, release, token }
    }

    async fn ends(self) {
        self.stage.proxies.iter().for_each(Proxy::heal);
        within(self.release).await.unwrap().expect("it was held");
    }
}

/// A majority still has the lock, but one server tells that it has ended.
#[tokio::test]
async fn a_ticket_is_not_redeemed_where_a_release_has_begun() {
    let stage = Stage::new([1, 1, 1]).await;
    let (proxies, builder) = stage.site.proxied();
    let adopter = builder.build().unwrap();
    drop(adopter.ping().await);
    let released = within(ours(&stage.first).try_acquire()).await.unwrap();
    stage.site.fills("k").await;
    let ticket = within(ours(&adopter).acquire_or_extend()).await.unwrap().into_ticket();
    let ending = Ending::begin(&stage, released).await;
    proxies[1..].iter().for_each(Proxy::hold_replies);
    let error = within(adopter.adopt(ticket)).await.expect_err("it has ended");
    assert!(error.is_not_held(), "{error}");
    ending.ends().await;
}

/// It saw a majority with the lock of its owner, and is told by one server that it has ended: then it asks for the next.
#[tokio::test]
async fn whoever_meets_the_end_of_a_lock_when_it_joins_acquires_the_next() {
    let stage = Stage::new([1, 1, 1]).await;
    let (proxies, builder) = stage.site.proxied();
    let joiner = builder.build().unwrap();
    drop(joiner.ping().await);
    let released = within(ours(&stage.first).try_acquire()).await.unwrap();
    is_marked_as_held(&stage.site).await;
    let ending = Ending::begin(&stage, released).await;
    let servers = stage.site.all();
    let known: Vec<_> = servers.iter().map(Server::scripts).collect();
    proxies[1..].iter().for_each(Proxy::hold_replies);
    let joined = tokio::spawn(ours(&joiner).acquire_or_extend());
    eventually("all are looked at", async || {
        servers.iter().zip(&known).all(|(server, known)| server.scripts() > *known)
    })
    .await;
    proxies[1..].iter().for_each(Proxy::hold_requests);
    proxies[1..].iter().for_each(Proxy::pass_replies);
    // A look, a touch, and what follows.
    eventually("it goes on", async || servers[0].scripts() > known[0] + 2).await;
    assert!(servers[0].get("k").is_some(), "it asks for a lock of its own");
    proxies.iter().for_each(Proxy::heal);
    let token = ending.token;
    ending.ends().await;
    let joined = within(joined).await.unwrap().unwrap();
    assert!(joined.fencing_token().get() > token);
    within(joined.extend(secs(600))).await.expect("it is held");
}

async fn is_marked_as_held(site: &Site) {
    let is_marked =
        |server: &Server| server.get("{k}:fence").is_some_and(|fence| fence.ends_with('h'));
    eventually("it is marked as held", async || site.all().iter().all(is_marked)).await;
}

/// Two start together. The one that loses to its own owner looks again soon for what it may share, and does not sleep
/// until the look after about two seconds. On a busy machine it may take several starts to see that.
#[tokio::test]
async fn whoever_loses_the_start_to_its_own_owner_joins_soon() {
    let stage = Stage::new([1, 1, 1]).await;
    let manager = stage.site.manager();
    let mut soonest = BOUND;
    for _ in 0..5 {
        stage.proxies.iter().for_each(Proxy::hold_replies);
        let first = tokio::spawn(ours(&stage.first).try_acquire());
        stage.site.fills("k").await;
        let joiner = tokio::spawn(ours(&manager).acquire_or_extend());
        eventually("it waits", async || stage.site.all().iter().all(is_listened_to)).await;
        tokio::time::sleep(millis(100)).await;
        assert!(!joiner.is_finished(), "there is no lock yet");
        stage.proxies.iter().for_each(Proxy::heal);
        let start = Instant::now();
        let first = within(first).await.unwrap().unwrap();
        let joiner = within(joiner).await.unwrap().unwrap();
        soonest = soonest.min(start.elapsed());
        assert_eq!(joiner.fencing_token(), first.fencing_token());
        joiner.release().await.unwrap();
        drop(first);
        stage.site.empties_of("k").await;
        if soonest < secs(1) {
            return;
        }
    }
    panic!("it took {soonest:?}");
}

fn is_listened_to(server: &Server) -> bool {
    !server.query::<Vec<String>>(&["PUBSUB", "CHANNELS"]).is_empty()
}

/// As connections of clusters send a command again. What was granted to the attempt before is granted to it again; but
/// without the counter nobody knows under which token.
#[tokio::test]
async fn a_resent_acquire_is_refused_once_the_counter_has_gone() {
    let site = Site::servers(1);
    let (server, manager) = (&site.all()[0], site.manager());
    site.learns_the_scripts().await;
    let monitor = Monitor::start(server);
    let guard = within(manager.lock("k").ttl(secs(600)).try_acquire()).await.unwrap();
    let acquire = scripts_sent(&monitor).remove(0);
    let again: Vec<u64> = run(server, &acquire);
    assert_eq!(again, [1, guard.fencing_token().get()]);
    server.del("{k}:fence");
    let refused: Vec<Value> = run(server, &acquire);
    assert!(refused[0] != Value::Int(1), "{refused:?}");
    assert_eq!(server.get("{k}:fence"), None);
}

/// Nobody would release it.
#[tokio::test]
async fn an_acquire_behind_its_own_release_takes_nothing() {
    let site = Site::servers(1);
    let server = &site.all()[0];
    site.learns_the_scripts().await;
    let monitor = Monitor::start(server);
    let guard = within(ours(&site.manager()).try_acquire()).await.unwrap();
    let acquire = scripts_sent(&monitor).remove(0);
    within(guard.release()).await.unwrap();
    assert_eq!(run::<Vec<i64>>(server, &acquire), [-2]);
    assert_eq!(server.get("k"), None);
}

/// Not even where the undo has found nothing.
#[tokio::test]
async fn an_acquire_behind_its_own_undo_takes_nothing() {
    let site = Site::servers(1);
    let server = &site.all()[0];
    site.learns_the_scripts().await;
    let manager = site.manager();
    // The first release on a connection goes as text.
    within(manager.lock("warm").try_acquire()).await.unwrap().release().await.unwrap();
    let monitor = Monitor::start(server);
    let guard = within(ours(&manager).try_acquire()).await.unwrap();
    let acquire = scripts_sent(&monitor).remove(0);
    within(guard.release()).await.unwrap();
    let release = scripts_sent(&monitor).pop().unwrap();
    // As an earlier lock left it.
    server.command(&["SET", "{k}:fence", "7", "EX", "600"]);
    assert_eq!(run::<Vec<i64>>(server, &release), [-1, 7]);
    assert_eq!(run::<Vec<i64>>(server, &acquire), [-2]);
    assert_eq!(server.get("k"), None);
}

/// The scripts that clients had the server run, as they sent them.
fn scripts_sent(monitor: &Monitor<'_>) -> Vec<Vec<String>> {
    let words = |line: &String| line.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let is_script = |words: &Vec<String>| words[0] == "EVALSHA";
    monitor.commands().iter().map(words).filter(is_script).collect()
}

/// Sends words once more.
fn run<T: FromRedisValue>(server: &Server, words: &[String]) -> T {
    server.query(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Above all that clocks propose.
const AHEAD: u64 = 4_000_000_000_000_000;
