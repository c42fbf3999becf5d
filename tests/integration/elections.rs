//! Elections: one of several leads, and others see who.

use std::ops::ControlFlow;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use std::time::Duration;

use redlatch::{Election, Error, FencingToken, Leader, LeaderWatch, LockGuard, Retry};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Server, Site, eventually, everywhere, millis, on_servers, secs, within};

everywhere!(
    of_those_who_campaign_one_leads_at_a_time,
    nobody_leads_before_a_campaign,
    work_that_breaks_resigns_and_returns,
    work_that_continues_is_called_for_the_next_term,
    work_whose_lock_is_taken_is_dropped_and_leads_again,
    a_lead_that_is_dropped_resigns,
    a_lead_ends_with_its_manager,
    a_lead_goes_on_whatever_the_retry_says,
    what_cannot_work_is_told,
    observers_see_each_term_once_and_in_order,
    an_observer_that_asks_now_and_then_misses_no_leader,
    an_observer_that_gives_up_asking_loses_nothing,
    observers_end_with_their_manager,
    an_election_is_fenced_on_an_unfenced_manager,
    what_is_done_or_kept_under_the_name_leads_nobody,
);

on_servers!(a_lead_goes_on_through_an_outage, observers_wait_through_an_outage);

/// An election of which this is a member.
fn member(site: &Site, name: &str) -> Election {
    site.manager().election("e").holder(name).ttl(secs(600))
}

async fn next(watch: &mut LeaderWatch) -> Option<Leader> {
    within(watch.changed()).await.unwrap()
}

/// Waits until somebody of this name leads, and returns the term.
async fn leads(watch: &mut LeaderWatch, name: &str) -> FencingToken {
    loop {
        if let Some(leader) = next(watch).await
            && leader.name() == Some(name)
        {
            return leader.term();
        }
    }
}

async fn of_those_who_campaign_one_leads_at_a_time(site: Site) {
    let (one, other) = (member(&site, "one"), member(&site, "other"));
    let guard = within(one.campaign()).await.unwrap();
    let leader = other.leader().await.unwrap().unwrap();
    assert_eq!((leader.name(), leader.term()), (Some("one"), guard.fencing_token()));
    let waiting = other.clone().retry(Retry::never()).campaign().await;
    assert!(waiting.unwrap_err().is_contended());
    let next = tokio::spawn(other.campaign());
    guard.release().await.unwrap();
    let next = within(next).await.unwrap().unwrap();
    assert!(next.fencing_token() > leader.term());
    let leader = one.leader().await.unwrap().unwrap();
    assert_eq!((leader.name(), leader.term()), (Some("other"), next.fencing_token()));
}

async fn nobody_leads_before_a_campaign(site: Site) {
    let election = member(&site, "one");
    assert_eq!(election.leader().await.unwrap(), None);
    let mut watch = election.observe();
    assert!(timeout(millis(50), watch.changed()).await.is_err(), "the first that is told leads");
    assert_eq!(watch.current(), None);
}

async fn work_that_breaks_resigns_and_returns(site: Site) {
    let lead = member(&site, "one");
    let term = within(lead.lead(async |guard| {
        assert!(guard.is_valid());
        ControlFlow::Break(guard.fencing_token())
    }));
    assert!(!term.await.unwrap().is_none());
    site.empties("e").await;
}

async fn work_that_continues_is_called_for_the_next_term(site: Site) {
    let mut terms = Vec::new();
    let lead = member(&site, "one");
    let lead = lead.lead(async |guard: &LockGuard| {
        terms.push(guard.fencing_token());
        if terms.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    within(lead).await.unwrap();
    assert!(terms.len() == 3 && terms.is_sorted_by(|one, next| one < next), "{terms:?}");
}

/// Leads for ever in a task, and tells of each term that begins and of each work that is dropped.
fn lead_for_ever(
    election: Election,
) -> (tokio::task::JoinHandle<redlatch::Result<()>>, mpsc::UnboundedReceiver<Told>) {
    let (tell, told) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        election
            .lead(async move |guard: &LockGuard| {
                let (owner, term) = (guard.owner_token().clone(), guard.fencing_token());
                tell.send(Told::Began { owner, term }).unwrap();
                let _at_the_end = Farewell(tell.clone());
                std::future::pending::<ControlFlow<()>>().await
            })
            .await
    });
    (task, told)
}

#[derive(Debug)]
enum Told {
    Began { owner: redlatch::OwnerToken, term: FencingToken },
    Ended,
}

struct Farewell(mpsc::UnboundedSender<Told>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _told = self.0.send(Told::Ended);
    }
}

async fn began(told: &mut mpsc::UnboundedReceiver<Told>) -> (redlatch::OwnerToken, FencingToken) {
    match within(told.recv()).await {
        Some(Told::Began { owner, term }) => (owner, term),
        other => panic!("{other:?}"),
    }
}

async fn ended(told: &mut mpsc::UnboundedReceiver<Told>) {
    let told = within(told.recv()).await;
    assert!(matches!(told, Some(Told::Ended)), "{told:?}");
}

async fn work_whose_lock_is_taken_is_dropped_and_leads_again(site: Site) {
    let (task, mut told) = lead_for_ever(member(&site, "one").ttl(secs(2)));
    let (owner, first) = began(&mut told).await;
    site.delete("e", &owner).await;
    ended(&mut told).await;
    let (_, second) = began(&mut told).await;
    assert!(second > first);
    task.abort();
}

async fn a_lead_that_is_dropped_resigns(site: Site) {
    let (task, mut told) = lead_for_ever(member(&site, "one"));
    began(&mut told).await;
    task.abort();
    ended(&mut told).await;
    site.empties("e").await;
}

async fn a_lead_ends_with_its_manager(site: Site) {
    let manager = site.manager();
    let (task, mut told) = lead_for_ever(manager.election("e").ttl(secs(600)));
    began(&mut told).await;
    assert_eq!(manager.close().await, 0);
    ended(&mut told).await;
    assert!(matches!(within(task).await.unwrap(), Err(Error::Closed)));
}

async fn a_lead_goes_on_whatever_the_retry_says(site: Site) {
    let guard = site.manager().lock("e").ttl(secs(600)).await.unwrap();
    let looks = Arc::new(AtomicU32::new(0));
    let counted = looks.clone();
    let retry = Retry::from_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Duration::ZERO
    });
    let (task, mut told) = lead_for_ever(member(&site, "one").retry(retry.max_retries(1)));
    eventually("it has given up and begun anew", async || looks.load(Ordering::SeqCst) > 2).await;
    guard.release().await.unwrap();
    began(&mut told).await;
    task.abort();
}

async fn what_cannot_work_is_told(site: Site) {
    let manager = site.manager();
    let bad = manager.election("");
    assert!(bad.campaign().await.unwrap_err().is_config());
    assert!(bad.leader().await.unwrap_err().is_config());
    assert!(bad.observe().changed().await.unwrap_err().is_config());
    let work = async |_: &LockGuard| ControlFlow::Break(());
    assert!(bad.lead(work).await.unwrap_err().is_config());
    assert!(manager.election("e").ttl(secs(0)).lead(work).await.unwrap_err().is_config());
    assert!(manager.election("e").holder("a/b").lead(work).await.unwrap_err().is_config());
}

async fn observers_see_each_term_once_and_in_order(site: Site) {
    let (one, other) = (member(&site, "one"), member(&site, "other"));
    let watches = [one.observe(), other.observe(), site.manager().election("e").observe()];
    let first = one.campaign().await.unwrap();
    let mut terms = vec![first.fencing_token()];
    let watching = watches.map(|mut watch| {
        tokio::spawn(async move {
            let mut seen = vec![next(&mut watch).await.expect("the first leads").term()];
            while seen.len() < 9 {
                seen.extend(next(&mut watch).await.map(|leader| leader.term()));
            }
            assert_eq!(watch.current().map(|leader| leader.term()), seen.last().copied());
            seen
        })
    });
    // Each has seen the first before it goes: what came before the first look is the past.
    sleep(millis(300)).await;
    let mut guard = first;
    for turn in 0..8 {
        guard.release().await.unwrap();
        guard = within([&one, &other][turn % 2].campaign()).await.unwrap();
        terms.push(guard.fencing_token());
    }
    for watching in watching {
        assert_eq!(within(watching).await.unwrap(), terms);
    }
}

async fn an_observer_that_asks_now_and_then_misses_no_leader(site: Site) {
    let election = member(&site, "one");
    let mut watch = site.manager().election("e").ttl(secs(600)).observe();
    let guard = election.campaign().await.unwrap();
    let mut terms = vec![leads(&mut watch, "one").await];
    guard.release().await.unwrap();
    for _ in 0..3 {
        let guard = within(election.campaign()).await.unwrap();
        terms.push(guard.fencing_token());
        guard.release().await.unwrap();
    }
    let last = within(election.campaign()).await.unwrap();
    terms.push(last.fencing_token());
    let mut seen = vec![terms[0]];
    while seen.last() < terms.last() {
        seen.extend(next(&mut watch).await.map(|leader| leader.term()));
    }
    assert_eq!(seen, terms);
    assert_eq!(watch.current().unwrap().name(), Some("one"));
}

async fn an_observer_that_gives_up_asking_loses_nothing(site: Site) {
    let election = member(&site, "one");
    let mut watch = election.observe();
    let guard = election.campaign().await.unwrap();
    let found = within(async {
        loop {
            if let Ok(leader) = timeout(millis(1), watch.changed()).await {
                return leader.unwrap();
            }
        }
    });
    assert_eq!(found.await.unwrap().term(), guard.fencing_token());
}

async fn observers_end_with_their_manager(site: Site) {
    let manager = site.manager();
    let mut watch = manager.election("e").observe();
    let watching = tokio::spawn(async move { watch.changed().await });
    eventually("it watches", async || manager.inspect("e").await.is_ok()).await;
    manager.close().await;
    assert!(matches!(within(watching).await.unwrap(), Err(Error::Closed)));
}

async fn an_election_is_fenced_on_an_unfenced_manager(site: Site) {
    let manager = site.builder().unfenced().build().unwrap();
    let election = manager.election("e");
    let guard = election.campaign().await.unwrap();
    assert!(!guard.fencing_token().is_none());
    assert_eq!(election.leader().await.unwrap().unwrap().term(), guard.fencing_token());
}

async fn what_is_done_or_kept_under_the_name_leads_nobody(site: Site) {
    let manager = site.manager();
    manager.lock("e").await.unwrap().complete(secs(600)).await.unwrap();
    assert_eq!(manager.election("e").leader().await.unwrap(), None);
    manager.lock("f").min_hold(secs(600)).await.unwrap().release().await.unwrap();
    assert_eq!(manager.election("f").leader().await.unwrap(), None);
}

async fn a_lead_goes_on_through_an_outage(site: Site) {
    let manager = site.builder().outage_patience(millis(50)).build().unwrap();
    let (task, mut told) = lead_for_ever(manager.election("e").ttl(secs(2)));
    let (_, first) = began(&mut told).await;
    site.all().iter().for_each(Server::kill);
    ended(&mut told).await;
    // Some campaigns end in vain.
    sleep(millis(500)).await;
    assert!(!task.is_finished());
    site.all().iter().for_each(Server::restart);
    let (_, second) = began(&mut told).await;
    assert!(second > first);
    task.abort();
}

async fn observers_wait_through_an_outage(site: Site) {
    let election = member(&site, "one").ttl(secs(2));
    let mut watch = election.observe();
    let guard = election.campaign().await.unwrap();
    let first = leads(&mut watch, "one").await;
    site.all().iter().for_each(Server::kill);
    within(guard.lost()).await;
    assert!(timeout(millis(100), watch.changed()).await.is_err(), "nobody can tell");
    site.all().iter().for_each(Server::restart);
    drop(guard);
    let next = within(election.campaign()).await.unwrap();
    assert_eq!(leads(&mut watch, "one").await, next.fencing_token());
    assert!(next.fencing_token() > first);
}

/// Who leads and dies is replaced within the TTL, and observers see it within a third of it.
#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_replaced_within_the_ttl() {
    let site = Site::memory(3);
    let (ttl, start) = (secs(15), Instant::now());
    let dead = site.manager().election("e").campaign().await.unwrap();
    let mut watch = site.manager().election("e").observe();
    let first = watch.changed().await.unwrap().unwrap();
    let waiting = tokio::spawn(site.manager().election("e").holder("next").campaign());
    sleep(secs(1)).await;
    // As one whose process was killed: no longer renewed, and not released.
    dead.forget();
    let seen = loop {
        match watch.changed().await.unwrap() {
            Some(leader) if leader != first => break Instant::now(),
            _ => {}
        }
    };
    let next = waiting.await.unwrap().unwrap();
    assert!(next.fencing_token() > first.term());
    assert!(seen - start <= secs(1) + ttl + ttl / 3, "{:?}", seen - start);
}
