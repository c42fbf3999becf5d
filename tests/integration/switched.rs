//! Nodes in memory that fail on demand, on a paused clock: what users test their services with.

use redlatch::{Error, Faults, LockGuard, LockManager, LossReason, Node};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Events, Seen, millis, secs};

/// So many nodes, a manager over them, and their switches.
fn faulty(nodes: usize) -> (LockManager, Vec<Faults>) {
    let (nodes, faults): (Vec<_>, Vec<_>) =
        (0..nodes).map(|_| Node::in_memory_with_faults()).unzip();
    (LockManager::quorum(nodes).ttl(secs(10)).build().unwrap(), faults)
}

async fn is_free(manager: &LockManager, key: &str) -> bool {
    !manager.inspect(key).await.unwrap().is_held()
}

#[tokio::test(start_paused = true)]
async fn without_a_fault_it_is_a_node_in_memory() {
    let (manager, _faults) = faulty(3);
    let start = Instant::now();
    let guard = manager.lock("k").await.unwrap();
    assert!(manager.lock("k").try_acquire().await.unwrap_err().is_contended());
    drop(guard);
    manager.lock("k").try_acquire().await.unwrap().release().await.unwrap();
    assert_eq!(start.elapsed(), millis(0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_down_refuses_at_once_until_it_is_up() {
    let (manager, faults) = faulty(1);
    faults[0].down();
    let start = Instant::now();
    let error = manager.lock("k").try_acquire().await.unwrap_err();
    assert!(error.is_unavailable() && error.node_errors().len() == 1, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(manager.inspect("k").await.unwrap_err().is_unavailable());
    assert!(manager.ping().await[0].round_trip().is_err());
    assert!(start.elapsed() < millis(100), "{:?}", start.elapsed());
    faults[0].up();
    drop(manager.lock("k").try_acquire().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lock_is_lost_at_its_deadline_in_an_outage() {
    for outage in [Faults::down, Faults::hang] {
        let (manager, faults) = faulty(1);
        let guard = manager.lock("k").auto_renew().await.unwrap();
        sleep(secs(60)).await;
        assert!(guard.is_valid());
        outage(&faults[0]);
        let until = guard.valid_until();
        assert_eq!(guard.lost().await, LossReason::Expired);
        assert!(Instant::now() >= until && Instant::now() <= until + millis(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_outlives_an_outage_shorter_than_its_ttl() {
    let (manager, faults) = faulty(1);
    let events = Events::default();
    let request = manager.lock("k").on_renewal(events.listener());
    let guard = request.auto_renew().await.unwrap();
    faults[0].down();
    sleep(secs(5)).await;
    faults[0].up();
    sleep(secs(20)).await;
    assert!(guard.is_valid());
    assert!(events.all().iter().any(|event| matches!(event, Seen::Failed { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_takes_the_node_timeout() {
    let (manager, faults) = faulty(1);
    faults[0].hang();
    let start = Instant::now();
    let error = manager.lock("k").try_acquire().await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("no answer"), "{error}");
    assert!(start.elapsed() >= millis(500) && start.elapsed() < millis(600));
    let waiting = tokio::spawn(manager.lock("k").try_acquire());
    sleep(millis(300)).await;
    faults[0].up();
    drop(waiting.await.unwrap().expect("it answers in time"));
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_while_a_node_hung_leaves_nothing() {
    let (manager, faults) = faulty(1);
    faults[0].hang();
    assert!(timeout(millis(100), manager.lock("k").acquire()).await.is_err());
    faults[0].up();
    assert_eq!(manager.close().await, 0);
    assert!(is_free(&manager, "k").await);
}

#[tokio::test(start_paused = true)]
async fn late_answers_take_their_time() {
    let (manager, faults) = faulty(3);
    faults.iter().for_each(|faults| faults.delay(millis(200)));
    let start = Instant::now();
    let guard = manager.lock("k").await.unwrap();
    assert_eq!(start.elapsed(), millis(200));
    assert!(guard.remaining() < millis(9_800));
}

#[tokio::test(start_paused = true)]
async fn answers_later_than_the_node_timeout_are_none_but_what_they_took_is_given_back() {
    let (manager, faults) = faulty(1);
    faults[0].delay(secs(2));
    let start = Instant::now();
    assert!(manager.lock("k").try_acquire().await.unwrap_err().is_unavailable());
    assert!(start.elapsed() >= millis(500) && start.elapsed() < millis(600));
    faults[0].up();
    assert_eq!(manager.close().await, 0);
    assert!(is_free(&manager, "k").await);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_forgotten_is_lost_at_the_next_renewal() {
    let (node, faults) = Node::in_memory_with_faults();
    let manager = LockManager::single(node).key_prefix("app:").build().unwrap();
    let guard = manager.lock("k").ttl(secs(9)).auto_renew().await.unwrap();
    faults.lose("another");
    sleep(secs(60)).await;
    assert!(guard.is_valid());
    faults.lose("app:k");
    let start = Instant::now();
    let next = manager.lock("k").try_acquire().await.unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
    assert_eq!(guard.lost().await, LossReason::Taken);
    assert!(start.elapsed() <= secs(3), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_a_minority_forgets_is_put_back() {
    let (manager, faults) = faulty(3);
    let guard = manager.lock("k").auto_renew().await.unwrap();
    faults[0].lose("k");
    sleep(secs(10)).await;
    assert!(guard.is_valid());
    let status = manager.inspect("k").await.unwrap();
    assert!(status.votes().iter().all(|vote| vote.owner_token().is_some()), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_through_an_outage_is_there_when_it_ends() {
    for outage in [Faults::down, Faults::hang] {
        let (manager, faults) = faulty(1);
        outage(&faults[0]);
        let waiting = tokio::spawn(manager.lock("k").wait_timeout(secs(600)).acquire());
        sleep(secs(100)).await;
        assert!(!waiting.is_finished());
        let back = Instant::now();
        faults[0].up();
        drop(waiting.await.unwrap().unwrap());
        assert!(back.elapsed() < millis(10), "{:?}", back.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn impatience_ends_in_an_outage() {
    let (manager, faults) = faulty(3);
    faults[0].down();
    manager.lock("k").await.expect("two of three are there").release().await.unwrap();
    faults[1].hang();
    let error = manager.lock("k").wait_timeout(secs(20)).acquire().await.unwrap_err();
    let Error::WaitTimeout { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.is_unavailable(), "{error:?}");
    assert!(manager.lock("k").acquire().await.unwrap_err().is_unavailable());
    faults.iter().for_each(Faults::up);
    drop(manager.lock("k").try_acquire().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_dropped_in_an_outage_is_released_after_it() {
    for outage in [Faults::down, Faults::hang] {
        let (manager, faults) = faulty(1);
        let guard = manager.lock("k").ttl(secs(600)).await.unwrap();
        outage(&faults[0]);
        drop(guard);
        sleep(secs(30)).await;
        faults[0].clone().up();
        sleep(secs(3)).await;
        assert!(is_free(&manager, "k").await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_switch_shows_its_node_and_its_fault() {
    let (node, faults) = Node::in_memory_with_faults();
    faults.hang();
    let shown = format!("{faults:?}");
    assert!(shown.contains(node.name()) && shown.contains("Hung"), "{shown}");
    fn goes_anywhere<T: Send + Sync + Clone + 'static>(_: T) {}
    goes_anywhere(faults);
}

/// A service that stops when its lock is lost: as the guide tests one.
#[tokio::test(start_paused = true)]
async fn a_service_stops_when_its_lock_is_lost() {
    let (manager, faults) = faulty(1);
    let guard: LockGuard = manager.lock("k").auto_renew().await.unwrap();
    let loss = guard.loss();
    let service = tokio::spawn(async move {
        tokio::select! {
            reason = loss => reason,
            () = sleep(secs(3600)) => panic!("it works on without its lock"),
        }
    });
    sleep(secs(60)).await;
    assert!(!service.is_finished());
    faults[0].down();
    assert_eq!(service.await.unwrap(), LossReason::Expired);
    assert!(!guard.is_valid());
}

/// Once the counter is gone, nothing but the age of the attempt tells that its token may be below a later one.
#[tokio::test(start_paused = true)]
async fn an_attempt_older_than_a_tenth_of_the_retention_is_too_late() {
    let (node, faults) = Node::in_memory_with_faults();
    let builder = LockManager::single(node).fencing_retention(secs(60)).node_timeout(secs(30));
    let manager = builder.build().unwrap();
    let request = || manager.lock("k").ttl(secs(600));
    faults.delay(secs(7));
    let error = request().try_acquire().await.unwrap_err();
    assert!(matches!(error, Error::ValidityExpired { .. }), "{error:?}");
    faults.delay(secs(5));
    request().try_acquire().await.unwrap().forget();
}
