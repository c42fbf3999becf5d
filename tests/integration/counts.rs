//! What a lock costs its servers: commands are counted.

use redlatch::{Error, LockGuard, LockManager, OwnerToken};
use tokio::time::{Instant, sleep};

use crate::support::{
    Events, Monitor, Server, Site, eventually, millis, on_servers, poll_times, secs, within,
};

on_servers!(
    a_life_costs_two_scripts_a_node,
    a_refused_attempt_costs_no_more_than_a_script_and_its_undo,
    an_extend_costs_one_script_a_node,
    a_try_extend_costs_one_script_a_node,
    a_renewal_costs_one_script_a_node,
    a_takeover_costs_one_script_a_node,
    flushed_scripts_cost_one_more_command_once,
    a_release_is_announced_once_a_node,
    a_dropped_lock_is_announced_once_a_node,
    a_release_of_nothing_is_not_announced,
    a_forgotten_lock_is_not_announced,
    a_refused_attempt_is_not_announced,
    an_idle_manager_sends_nothing,
    a_held_lock_sends_nothing,
    an_unfenced_lock_costs_one_set_a_node,
    a_release_of_an_unfenced_lock_costs_one_script_a_node,
    a_refused_attempt_at_an_unfenced_lock_costs_one_set_and_one_script,
);

#[tokio::test]
async fn on_a_quorum_of_five_a_life_costs_five_acquires_and_five_releases() {
    assert_five_and_five(async |manager| {
        manager.lock("k").await.unwrap().release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn on_a_quorum_of_five_a_dropped_life_costs_five_acquires_and_five_releases() {
    assert_five_and_five(async |manager| drop(manager.lock("k").await.unwrap())).await;
}

#[tokio::test]
async fn on_a_quorum_of_five_a_tried_life_costs_five_acquires_and_five_releases() {
    assert_five_and_five(async |manager| {
        manager.lock("k").try_acquire().await.unwrap().release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn on_a_quorum_of_five_a_run_costs_five_acquires_and_five_releases() {
    assert_five_and_five(async |manager| manager.lock("k").run(async |_| ()).await.unwrap()).await;
}

/// However long all nodes were not asked: those whom one release wakes would take the votes from one another. Each third
/// look goes to all nodes, and so may this one: then another release is heard of.
#[tokio::test]
async fn after_a_release_one_node_is_asked_first() {
    let site = Site::servers(3);
    let (holder, waiter) = (warm(&site).await, warm(&site).await);
    let guard = holder.lock("k").await.unwrap();
    let waits = tokio::spawn(waiter.lock("k").acquire());
    eventually("the waiter listens", async || {
        let listens = |server: &Server| {
            let (_, listeners): (String, u64) = server.query(&["PUBSUB", "NUMSUB", "{k}:released"]);
            listeners > 0
        };
        site.all().iter().all(listens)
    })
    .await;
    let monitors: Vec<_> = site.all().iter().map(Monitor::start).collect();
    let scripts = || site.all().iter().map(Server::scripts).sum::<u64>();
    let mut token = guard.fencing_token().get();
    let mut is_shown = false;
    for _ in 0..12 {
        // What one node says is taken for all for a second after all were asked.
        let (mut asked, mut since) = (scripts(), Instant::now());
        while since.elapsed() < millis(1_200) {
            sleep(millis(20)).await;
            if scripts() != asked {
                (asked, since) = (scripts(), Instant::now());
            }
        }
        monitors.iter().for_each(|monitor| drop(monitor.commands()));
        token += 1;
        for server in site.all() {
            let _heard: u64 = server.query(&["PUBLISH", "{k}:released", &format!("{token} 0")]);
        }
        sleep(millis(100)).await;
        let mut looks: Vec<(String, usize)> = Vec::new();
        for (node, monitor) in monitors.iter().enumerate() {
            let commands = monitor.commands();
            let looked = commands.into_iter().filter(|line| line.contains("EVALSHA"));
            looks.extend(looked.map(|line| (line, node)));
        }
        // Each line begins with the time.
        looks.sort();
        is_shown = matches!(looks.as_slice(), [(_, one), (_, other), ..] if one == other);
        if is_shown {
            break;
        }
    }
    assert!(is_shown, "each look was one at all nodes");
    guard.release().await.unwrap();
    within(waits).await.unwrap().unwrap().release().await.unwrap();
}

/// Every one of five servers is sent one acquire and then one release, both by hash, and nothing else.
async fn assert_five_and_five(life: impl AsyncFn(&LockManager)) {
    let site = Site::servers(5);
    let manager = warm(&site).await;
    let monitors: Vec<_> = site.all().iter().map(Monitor::start).collect();
    life(&manager).await;
    let commands = settled(&site, &manager, &monitors).await;
    let scripts: Vec<_> = commands[0].iter().map(|line| hash(line)).collect();
    let [acquire, release] = scripts.as_slice() else {
        panic!("{commands:?}");
    };
    assert_ne!(acquire, release);
    for lines in &commands {
        assert_eq!(lines.iter().map(|line| hash(line)).collect::<Vec<_>>(), scripts, "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("\"k\"")), "{lines:?}");
    }
}

/// What each server was sent until the manager had nothing more to do.
async fn settled(site: &Site, manager: &LockManager, monitors: &[Monitor<'_>]) -> Vec<Vec<String>> {
    assert_eq!(manager.close().await, 0);
    let mut commands = vec![Vec::new(); monitors.len()];
    eventually("every server has heard of the release", async || {
        for (lines, monitor) in commands.iter_mut().zip(monitors) {
            lines.extend(monitor.commands());
        }
        commands.iter().all(|lines| lines.len() >= 2)
    })
    .await;
    assert!(site.lock_keys().is_empty());
    commands
}

/// The command in a line such as `1700000000.1 [0 127.0.0.1:4711] "SET" "k" ..`.
fn command(line: &str) -> &str {
    line.split('"').nth(1).expect("a command")
}

/// The hash in a line such as `1700000000.1 [0 127.0.0.1:4711] "EVALSHA" "e0e1.." "2" "k" ..`.
fn hash(line: &str) -> &str {
    let mut words = line.split('"');
    let command = words.nth(1).expect("a command");
    assert!(command.eq_ignore_ascii_case("evalsha"), "{line}");
    words.nth(1).expect("a hash")
}

async fn a_life_costs_two_scripts_a_node(site: Site) {
    let manager = warm(&site).await;
    manager.lock("k").await.unwrap().release().await.unwrap();
    assert_scripts(&site, 2).await;
}

async fn a_refused_attempt_costs_no_more_than_a_script_and_its_undo(site: Site) {
    let manager = warm(&site).await;
    hold(&site);
    manager.lock("k").try_acquire().await.unwrap_err();
    assert_eq!(manager.close().await, 0);
    // A server that answers after the others have decided may be asked to undo what it refused.
    let scripts: Vec<_> = site.all().iter().map(Server::scripts).collect();
    assert!(scripts.iter().all(|scripts| *scripts <= 2), "{scripts:?}");
    assert!(scripts.iter().filter(|scripts| **scripts == 1).count() > site.all().len() / 2);
}

async fn an_extend_costs_one_script_a_node(site: Site) {
    let manager = warm(&site).await;
    let guard = held_everywhere(&site, &manager, "k").await;
    guard.extend(secs(900)).await.unwrap();
    assert_scripts(&site, 1).await;
}

async fn a_try_extend_costs_one_script_a_node(site: Site) {
    let manager = warm(&site).await;
    let guard = held_everywhere(&site, &manager, "k").await;
    guard.try_extend(secs(900)).await.unwrap();
    assert_scripts(&site, 1).await;
}

async fn a_renewal_costs_one_script_a_node(site: Site) {
    let (manager, events) = (warm(&site).await, Events::default());
    let request = manager.lock("k").ttl(secs(600)).on_renewal(events.listener());
    let guard = request.auto_renew_every(millis(20)).await.unwrap();
    events.more_renewals(10).await;
    guard.release().await.unwrap();
    site.empties_of("k").await;
    let renewals = u64::try_from(events.renewals()).unwrap();
    // One acquire, one release, and one renewal may have been cut short by the release.
    for server in site.all() {
        let scripts = server.scripts();
        assert!((renewals + 2..=renewals + 3).contains(&scripts), "{scripts} for {renewals}");
    }
}

async fn a_takeover_costs_one_script_a_node(site: Site) {
    let manager = warm(&site).await;
    let guard = held_everywhere(&site, &manager, "k").await;
    let guard = manager.adopt(guard.into_ticket()).await.unwrap();
    assert_scripts(&site, 1).await;
    drop(guard);
}

async fn flushed_scripts_cost_one_more_command_once(site: Site) {
    let manager = warm(&site).await;
    let guard = held_everywhere(&site, &manager, "k").await;
    for server in site.all() {
        server.command(&["SCRIPT", "FLUSH"]);
    }
    site.all().iter().for_each(Server::reset_calls);
    guard.extend(secs(900)).await.unwrap();
    eventually("every server has it", async || {
        site.all().iter().all(|server| (server.calls("evalsha"), server.calls("eval")) == (1, 1))
    })
    .await;
    guard.extend(secs(900)).await.unwrap();
    eventually("every server knows it again", async || {
        site.all().iter().all(|server| (server.calls("evalsha"), server.calls("eval")) == (2, 1))
    })
    .await;
}

async fn a_release_is_announced_once_a_node(site: Site) {
    let manager = warm(&site).await;
    let guard = held_everywhere(&site, &manager, "k").await;
    guard.release().await.unwrap();
    assert_announced(&site, 1).await;
}

async fn a_dropped_lock_is_announced_once_a_node(site: Site) {
    let manager = warm(&site).await;
    drop(held_everywhere(&site, &manager, "k").await);
    assert_announced(&site, 1).await;
}

async fn a_release_of_nothing_is_not_announced(site: Site) {
    let manager = warm(&site).await;
    let guard = held_everywhere(&site, &manager, "k").await;
    site.all().iter().for_each(|server| server.del("k"));
    guard.release().await.unwrap_err();
    manager.close().await;
    assert_announced(&site, 0).await;
}

async fn a_forgotten_lock_is_not_announced(site: Site) {
    let manager = warm(&site).await;
    held_everywhere(&site, &manager, "k").await.forget();
    manager.close().await;
    assert_announced(&site, 0).await;
}

async fn a_refused_attempt_is_not_announced(site: Site) {
    let manager = warm(&site).await;
    hold(&site);
    manager.lock("k").try_acquire().await.unwrap_err();
    manager.lock("k").wait_timeout(millis(50)).acquire().await.unwrap_err();
    manager.close().await;
    assert_announced(&site, 0).await;
}

async fn an_idle_manager_sends_nothing(site: Site) {
    let (idle, busy) = (warm(&site).await, warm(&site).await);
    site.all().iter().for_each(Server::reset_calls);
    let guard = held_everywhere(&site, &busy, "k").await;
    let monitors: Vec<_> = site.all().iter().map(Monitor::start).collect();
    for _ in 0..20 {
        guard.try_extend(secs(900)).await.unwrap();
    }
    for monitor in &monitors {
        let strange = monitor.commands().into_iter().filter(|line| !line.contains("\"k\""));
        assert_eq!(strange.collect::<Vec<_>>(), Vec::<String>::new());
    }
    drop(idle);
}

async fn a_held_lock_sends_nothing(site: Site) {
    let manager = warm(&site).await;
    let guard = held_everywhere(&site, &manager, "k").await;
    let monitors: Vec<_> = site.all().iter().map(Monitor::start).collect();
    let other = held_everywhere(&site, &manager, "other").await;
    for _ in 0..20 {
        other.try_extend(secs(900)).await.unwrap();
    }
    for monitor in &monitors {
        let about = monitor.commands().into_iter().filter(|line| line.contains("\"k\""));
        assert_eq!(about.collect::<Vec<_>>(), Vec::<String>::new());
    }
    drop(guard);
}

async fn an_unfenced_lock_costs_one_set_a_node(site: Site) {
    let manager = warm_unfenced(&site).await;
    let _guard = manager.lock("k").await.unwrap();
    site.fills("k").await;
    for server in site.all() {
        assert_eq!((server.calls("set"), server.scripts()), (1, 0));
    }
}

async fn a_release_of_an_unfenced_lock_costs_one_script_a_node(site: Site) {
    let manager = warm_unfenced(&site).await;
    let guard = held_everywhere(&site, &manager, "k").await;
    guard.release().await.unwrap();
    assert_scripts(&site, 1).await;
    assert_announced(&site, 1).await;
    assert!(site.all().iter().all(|server| server.calls("set") == 0));
}

/// The `SET` does not tell for how long the lock is another's. The script does.
async fn a_refused_attempt_at_an_unfenced_lock_costs_one_set_and_one_script(site: Site) {
    let manager = warm_unfenced(&site).await;
    hold(&site);
    let monitors: Vec<_> = site.all().iter().map(Monitor::start).collect();
    let error = manager.lock("k").try_acquire().await.unwrap_err();
    assert!(
        matches!(error, Error::AlreadyHeld { retry_after: Some(left), .. } if left > secs(300)),
        "{error:?}"
    );
    assert_eq!(manager.close().await, 0);
    let sent = monitors.iter().map(|monitor| {
        let commands = monitor.commands();
        commands.iter().map(|line| command(line).to_uppercase()).collect::<Vec<_>>()
    });
    // A server that answers after the others have decided may be asked to undo what it refused.
    let exact = sent.filter(|sent| *sent == ["SET", "EVALSHA"]).count();
    assert!(exact > site.all().len() / 2, "on {exact} servers");
}

#[tokio::test]
async fn on_one_server_a_refused_attempt_costs_one_script() {
    let site = Site::servers(1);
    let manager = warm(&site).await;
    hold(&site);
    manager.lock("k").try_acquire().await.unwrap_err();
    assert_eq!(manager.close().await, 0);
    assert_scripts(&site, 1).await;
}

#[tokio::test]
async fn the_clean_up_of_a_split_vote_is_not_announced() {
    let site = Site::servers(3);
    let manager = warm(&site).await;
    for server in &site.all()[..2] {
        assert!(server.foreign_lock("k", "foreign", secs(600)));
    }
    for _ in 0..5 {
        manager.lock("k").ttl(secs(600)).try_acquire().await.unwrap_err();
    }
    assert_eq!(manager.close().await, 0);
    eventually("the third server is free again", async || site.all()[2].get("k").is_none()).await;
    assert_eq!(announced(&site), [0; 3]);
}

#[tokio::test]
async fn the_clean_up_of_a_dropped_attempt_is_not_announced() {
    let site = Site::servers(3);
    let manager = warm(&site).await;
    for n in 0..20 {
        let request = manager.lock(format!("k{n}")).ttl(secs(600));
        assert!(poll_times(1, request.try_acquire()).await.is_none(), "no server is so fast");
    }
    assert_eq!(within(manager.close()).await, 0);
    eventually("nothing is left", async || site.lock_keys().is_empty()).await;
    assert_eq!(announced(&site), [0; 3]);
}

#[tokio::test]
async fn a_lock_shared_by_its_owner_is_announced_once() {
    let site = Site::servers(1);
    let manager = warm(&site).await;
    let owner = OwnerToken::new("worker-7").unwrap();
    let request = || manager.lock("k").owner(owner.clone());
    let (one, other) = (request().await.unwrap(), request().acquire_or_extend().await.unwrap());
    one.release().await.unwrap();
    other.release().await.unwrap_err();
    manager.close().await;
    assert_eq!(announced(&site), [1]);
}

/// A manager whose connections stand, and whose servers know all scripts; nothing is counted yet.
async fn warm(site: &Site) -> LockManager {
    warmed(site, site.manager()).await
}

/// The same, whose locks are unfenced.
async fn warm_unfenced(site: &Site) -> LockManager {
    site.learns_the_scripts().await;
    warmed(site, site.builder().unfenced().build().unwrap()).await
}

async fn warmed(site: &Site, manager: LockManager) -> LockManager {
    let guard = manager.lock("warm").ttl(secs(60)).await.unwrap();
    eventually("every server has it", async || site.lock_keys().len() == site.all().len()).await;
    guard.extend(secs(600)).await.unwrap();
    eventually("every server has extended it", async || {
        site.all().iter().all(|server| server.pttl("warm") > Some(secs(300)))
    })
    .await;
    guard.release().await.unwrap();
    site.empties("warm").await;
    manager.inspect("warm").await.unwrap();
    site.all().iter().for_each(Server::reset_calls);
    manager
}

/// A lock that every server has; nothing is counted yet.
async fn held_everywhere(site: &Site, manager: &LockManager, key: &str) -> LockGuard {
    let guard = manager.lock(key).ttl(secs(600)).await.unwrap();
    eventually("every server has it", async || {
        site.all().iter().all(|server| server.get(key).is_some())
    })
    .await;
    site.all().iter().for_each(Server::reset_calls);
    guard
}

/// Makes the key another owner's; nothing is counted yet.
fn hold(site: &Site) {
    for server in site.all() {
        assert!(server.foreign_lock("k", "foreign", secs(600)));
        server.reset_calls();
    }
}

/// Waits until every server has run so many scripts, by their hashes, and checks that it stays at that.
async fn assert_scripts(site: &Site, scripts: u64) {
    let all = || -> Vec<_> { site.all().iter().map(|server| server.calls("evalsha")).collect() };
    eventually("the scripts have run", async || all().iter().all(|calls| *calls >= scripts)).await;
    assert_eq!(all(), vec![scripts; site.all().len()]);
    assert!(site.all().iter().all(|server| server.calls("eval") == 0));
}

/// Waits until every server has published so often.
async fn assert_announced(site: &Site, times: u64) {
    eventually("it is announced", async || announced(site).iter().all(|n| *n >= times)).await;
    assert_eq!(announced(site), vec![times; site.all().len()]);
}

fn announced(site: &Site) -> Vec<u64> {
    site.all().iter().map(|server| server.calls("publish")).collect()
}
