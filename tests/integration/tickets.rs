//! Handing a lock over to another process.

use redlatch::{Error, FencingToken, LockTicket, OwnerToken};

use crate::support::{
    Site, eventually, everywhere, millis, on_servers, over_a_slow_third, secs, within,
};

everywhere!(
    a_ticket_says_all_about_the_lock,
    a_lock_given_up_by_ticket_stays_held,
    an_adopted_lock_is_the_same_lock,
    an_adopted_lock_can_be_extended_and_released,
    an_adopted_lock_is_released_when_dropped,
    a_ticket_rebuilt_from_its_parts_is_as_good,
    a_ticket_for_a_vanished_lock_is_refused,
    a_ticket_for_anothers_lock_is_refused,
    a_ticket_with_another_owner_is_refused,
    a_ticket_with_a_lower_fencing_token_is_refused,
    a_ticket_with_a_higher_fencing_token_is_refused,
    a_refused_ticket_does_no_harm,
    a_ticket_out_of_range_is_refused,
    a_lock_retaken_by_the_same_owner_is_not_the_tickets,
    an_unfenced_lock_is_adopted_by_a_fenced_manager,
    a_fenced_lock_is_adopted_by_an_unfenced_manager,
    an_unfenced_ticket_rebuilt_from_its_parts_is_as_good,
    an_unfenced_ticket_for_a_vanished_or_anothers_lock_is_refused,
    an_unfenced_lock_is_not_adopted_by_a_fenced_ticket,
);

on_servers!(
    a_ticket_without_a_token_is_none_of_a_chosen_owners_lock,
    adopting_extends_the_key,
    a_ticket_expires_with_its_key,
    a_ticket_given_by_a_renewed_guard_is_no_longer_renewed,
);

async fn a_ticket_says_all_about_the_lock(site: Site) {
    let guard = site.manager().lock("k").ttl(secs(50)).await.unwrap();
    let (owner, fencing) = (guard.owner_token().clone(), guard.fencing_token());
    let ticket = guard.into_ticket();
    assert_eq!((ticket.key(), ticket.ttl()), ("k", secs(50)));
    assert_eq!((ticket.owner_token(), ticket.fencing_token()), (&owner, fencing));
}

async fn a_lock_given_up_by_ticket_stays_held(site: Site) {
    let manager = site.manager();
    let ticket = manager.lock("k").ttl(secs(600)).await.unwrap().into_ticket();
    manager.close().await;
    let holder = site.holder("k").await;
    assert_eq!(holder.as_deref(), Some(ticket.owner_token().as_str()));
}

async fn an_adopted_lock_is_the_same_lock(site: Site) {
    let ticket = site.manager().lock("k").ttl(secs(600)).await.unwrap().into_ticket();
    let guard = site.manager().adopt(ticket.clone()).await.unwrap();
    assert_eq!(guard.key(), "k");
    assert_eq!(guard.owner_token(), ticket.owner_token());
    assert_eq!(guard.fencing_token(), ticket.fencing_token());
    assert_eq!(guard.ttl(), ticket.ttl());
    assert!(guard.is_valid());
}

async fn an_adopted_lock_can_be_extended_and_released(site: Site) {
    let ticket = site.manager().lock("k").ttl(secs(600)).await.unwrap().into_ticket();
    let guard = site.manager().adopt(ticket).await.unwrap();
    guard.extend(secs(700)).await.unwrap();
    guard.release().await.unwrap();
    site.empties("k").await;
}

async fn an_adopted_lock_is_released_when_dropped(site: Site) {
    let ticket = site.manager().lock("k").ttl(secs(600)).await.unwrap().into_ticket();
    drop(site.manager().adopt(ticket).await.unwrap());
    site.empties("k").await;
}

async fn a_ticket_rebuilt_from_its_parts_is_as_good(site: Site) {
    let ticket = site.manager().lock("k").await.unwrap().into_ticket();
    let owner = OwnerToken::new(ticket.owner_token().as_str()).unwrap();
    let fencing = FencingToken::new(ticket.fencing_token().get());
    let rebuilt = LockTicket::new(ticket.key(), owner, fencing, ticket.ttl());
    let _guard = site.manager().adopt(rebuilt).await.unwrap();
}

async fn a_ticket_for_a_vanished_lock_is_refused(site: Site) {
    let ticket = site.manager().lock("k").await.unwrap().into_ticket();
    site.delete("k", ticket.owner_token()).await;
    let error = site.manager().adopt(ticket).await.unwrap_err();
    assert!(matches!(&error, Error::NotHeld { key, .. } if key == "k"), "{error:?}");
    assert_eq!(site.holder("k").await, None);
}

async fn a_ticket_for_anothers_lock_is_refused(site: Site) {
    let ticket = site.manager().lock("k").await.unwrap().into_ticket();
    site.seize("k", ticket.owner_token()).await;
    let error = site.manager().adopt(ticket).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert_eq!(site.holder("k").await.as_deref(), Some("another-owner"));
}

async fn a_ticket_with_another_owner_is_refused(site: Site) {
    let guard = site.manager().lock("k").await.unwrap();
    let stranger = OwnerToken::random();
    let ticket = LockTicket::new("k", stranger, guard.fencing_token(), guard.ttl());
    let error = site.manager().adopt(ticket).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    guard.extend(secs(30)).await.expect("its owner holds it still");
}

async fn a_ticket_with_a_lower_fencing_token_is_refused(site: Site) {
    assert_wrong_token_is_refused(&site, -1).await;
}

async fn a_ticket_with_a_higher_fencing_token_is_refused(site: Site) {
    assert_wrong_token_is_refused(&site, 1).await;
}

async fn assert_wrong_token_is_refused(site: &Site, by: i64) {
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    let ticket = misnumbered(&guard.into_ticket(), by);
    let error = site.manager().adopt(ticket).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
}

/// The same ticket with a fencing token that is not its own.
fn misnumbered(ticket: &LockTicket, by: i64) -> LockTicket {
    let wrong = ticket.fencing_token().get().checked_add_signed(by).unwrap();
    let owner = ticket.owner_token().clone();
    LockTicket::new(ticket.key(), owner, FencingToken::new(wrong), ticket.ttl())
}

async fn a_refused_ticket_does_no_harm(site: Site) {
    let ticket = site.manager().lock("k").ttl(secs(600)).await.unwrap().into_ticket();
    let manager = site.manager();
    for wrong in [misnumbered(&ticket, -1), misnumbered(&ticket, 1)] {
        manager.adopt(wrong).await.unwrap_err();
    }
    manager.close().await;
    let guard = site.manager().adopt(ticket).await.expect("the true ticket is still good");
    guard.release().await.unwrap();
}

async fn a_ticket_out_of_range_is_refused(site: Site) {
    let ticket = site.manager().lock("k").await.unwrap().into_ticket();
    for ttl in [secs(0), secs(86_401)] {
        let owner = ticket.owner_token().clone();
        let wrong = LockTicket::new("k", owner, ticket.fencing_token(), ttl);
        assert!(site.manager().adopt(wrong).await.unwrap_err().is_config());
    }
    let owner = ticket.owner_token().clone();
    let keyless = LockTicket::new("", owner, ticket.fencing_token(), ticket.ttl());
    assert!(site.manager().adopt(keyless).await.unwrap_err().is_config());
}

async fn an_unfenced_lock_is_adopted_by_a_fenced_manager(site: Site) {
    let ticket = unfenced(&site).await;
    assert!(ticket.fencing_token().is_none());
    let guard = site.manager().adopt(ticket.clone()).await.unwrap();
    assert_eq!(guard.owner_token(), ticket.owner_token());
    assert!(guard.is_valid() && guard.fencing_token().is_none());
    guard.extend(secs(900)).await.unwrap();
    assert!(guard.remaining() > secs(600));
    guard.release().await.unwrap();
    site.empties("k").await;
}

async fn a_fenced_lock_is_adopted_by_an_unfenced_manager(site: Site) {
    let ticket = site.manager().lock("k").ttl(secs(600)).await.unwrap().into_ticket();
    let manager = site.builder().unfenced().build().unwrap();
    let guard = manager.adopt(ticket.clone()).await.unwrap();
    assert_eq!(guard.fencing_token(), ticket.fencing_token());
    guard.extend(secs(900)).await.unwrap();
    let status = manager.inspect("k").await.unwrap();
    assert_eq!(status.owner_token(), Some(ticket.owner_token()));
    guard.release().await.unwrap();
    let next = site.manager().lock("k").try_acquire().await.unwrap();
    assert!(next.fencing_token() > ticket.fencing_token());
}

async fn an_unfenced_ticket_rebuilt_from_its_parts_is_as_good(site: Site) {
    let ticket = unfenced(&site).await;
    let owner = OwnerToken::new(ticket.owner_token().as_str()).unwrap();
    let fencing = FencingToken::new(ticket.fencing_token().get());
    let rebuilt = LockTicket::new(ticket.key(), owner, fencing, ticket.ttl());
    site.manager().adopt(rebuilt).await.unwrap().release().await.unwrap();
    site.empties("k").await;
}

async fn an_unfenced_ticket_for_a_vanished_or_anothers_lock_is_refused(site: Site) {
    let ticket = unfenced(&site).await;
    let manager = site.manager();
    manager.adopt(ticket.clone()).await.unwrap().release().await.unwrap();
    assert!(manager.adopt(ticket.clone()).await.unwrap_err().is_not_held());
    let next = manager.lock("k").unfenced().ttl(secs(600)).try_acquire().await.unwrap();
    assert!(manager.adopt(ticket).await.unwrap_err().is_not_held());
    next.release().await.expect("it is the other's still");
}

async fn an_unfenced_lock_is_not_adopted_by_a_fenced_ticket(site: Site) {
    let ticket = unfenced(&site).await;
    let wrong = misnumbered(&ticket, 7);
    assert!(site.manager().adopt(wrong).await.unwrap_err().is_not_held());
    let guard = site.manager().adopt(ticket).await.expect("the true ticket is still good");
    guard.release().await.unwrap();
}

/// The ticket of an unfenced lock.
async fn unfenced(site: &Site) -> LockTicket {
    let request = site.manager().lock("k").unfenced().ttl(secs(600));
    request.await.unwrap().into_ticket()
}

async fn a_lock_retaken_by_the_same_owner_is_not_the_tickets(site: Site) {
    let owner = OwnerToken::new("worker-7").unwrap();
    let request = || site.manager().lock("k").owner(owner.clone());
    let ticket = request().acquire().await.unwrap().into_ticket();
    site.delete("k", &owner).await;
    let _anew = request().try_acquire().await.unwrap();
    let error = site.manager().adopt(ticket).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert_eq!(site.holder("k").await.as_deref(), Some("worker-7"));
}

async fn adopting_extends_the_key(site: Site) {
    let given = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == site.all().len()).await;
    let ticket = given.into_ticket();
    for server in site.all() {
        server.command(&["PEXPIRE", "k", "30000"]);
    }
    let _guard = site.manager().adopt(ticket).await.unwrap();
    eventually("every key lives the ticket's TTL again", async || {
        site.all().iter().all(|server| server.pttl("k") > Some(secs(300)))
    })
    .await;
}

async fn a_ticket_expires_with_its_key(site: Site) {
    let ticket = site.manager().lock("k").ttl(millis(300)).await.unwrap().into_ticket();
    eventually("the key expires", async || site.lock_keys().is_empty()).await;
    let error = within(site.manager().adopt(ticket)).await.unwrap_err();
    assert!(matches!(error, Error::NotHeld { .. }), "{error:?}");
    assert!(site.lock_keys().is_empty());
}

async fn a_ticket_given_by_a_renewed_guard_is_no_longer_renewed(site: Site) {
    let request = site.manager().lock("k").ttl(secs(1));
    let _ticket = request.auto_renew_every(millis(20)).await.unwrap().into_ticket();
    eventually("the key expires", async || site.lock_keys().is_empty()).await;
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn a_ticket_survives_serialisation() {
    let site = Site::memory(1);
    let ticket = site.manager().lock("k").ttl(secs(50)).await.unwrap().into_ticket();
    let text = serde_json::to_string(&ticket).unwrap();
    let read: LockTicket = serde_json::from_str(&text).unwrap();
    assert_eq!(read.ttl(), ticket.ttl());
    let guard = site.manager().adopt(read).await.unwrap();
    assert_eq!(guard.fencing_token(), ticket.fencing_token());
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn a_ticket_of_an_unfenced_lock_survives_serialisation() {
    let site = Site::memory(1);
    let ticket = unfenced(&site).await;
    let text = serde_json::to_string(&ticket).unwrap();
    let read: LockTicket = serde_json::from_str(&text).unwrap();
    assert_eq!(read.fencing_token(), FencingToken::NONE);
    let guard = site.manager().adopt(read).await.unwrap();
    assert!(guard.fencing_token().is_none());
    guard.release().await.unwrap();
}

#[cfg(feature = "serde")]
#[test]
fn an_invalid_owner_token_cannot_be_read() {
    assert!(serde_json::from_str::<OwnerToken>("\"\"").is_err());
    let long = serde_json::to_string(&"x".repeat(257)).unwrap();
    assert!(serde_json::from_str::<OwnerToken>(&long).is_err());
}

/// Whoever has stored no fencing token cannot tell which of the owner's locks it was.
async fn a_ticket_without_a_token_is_none_of_a_chosen_owners_lock(site: Site) {
    let (manager, owner) = (site.manager(), OwnerToken::new("worker-7").unwrap());
    let guard = manager.lock("k").owner(owner.clone()).ttl(secs(600)).await.unwrap();
    site.fills("k").await;
    let ticket = LockTicket::new("k", owner, FencingToken::NONE, secs(600));
    assert!(within(manager.adopt(ticket)).await.unwrap_err().is_not_held());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn an_adopted_lock_is_released_where_the_counter_is_ahead_too() {
    let site = Site::servers(3);
    site.all()[2].command(&["SET", "{k}:fence", "4000000000000000"]);
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    let adopted = site.manager().adopt(guard.into_ticket()).await.unwrap();
    adopted.release().await.unwrap();
    site.empties("k").await;
}

#[tokio::test]
async fn an_adopted_lock_is_released_where_the_counter_is_behind_too() {
    let site = Site::servers(3);
    for server in &site.all()[..2] {
        server.command(&["SET", "{k}:fence", "4000000000000000"]);
    }
    let guard = site.manager().lock("k").ttl(secs(600)).await.unwrap();
    eventually("all have it", async || site.lock_keys().len() == 3).await;
    let (manager, _slow) = over_a_slow_third(&site, millis(200)).await;
    let adopted = manager.adopt(guard.into_ticket()).await.unwrap();
    adopted.release().await.unwrap();
    site.empties("k").await;
}
