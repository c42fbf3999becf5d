//! How renewals are scheduled, sent, judged and told.

use tokio::time::{advance, timeout};

use super::*;
use crate::{Error, LockGuard, LockManager, LossReason, Node, claim::origin::Renewal};

/// A schedule of its own for the locks of a manager, which renews none of them itself.
struct Scene {
    nodes: Vec<Node>,
    manager: LockManager,
    schedule: Schedule,
}

impl Scene {
    fn of(nodes: usize) -> Self {
        let nodes: Vec<_> = (0..nodes).map(|_| Node::in_memory()).collect();
        let manager = LockManager::quorum(nodes.clone()).build().unwrap();
        let keeper = manager.keeper();
        let schedule = Schedule::new(keeper.quorum.clone(), keeper.ledger.clone());
        Self { nodes, manager, schedule }
    }

    /// Takes a lock that is due to be renewed at once.
    async fn watch(&mut self, key: &str) -> LockGuard {
        let guard = self.take(key, TTL, |_, _| {}).await;
        self.schedule.watch(guard.claim());
        guard
    }

    /// Takes a lock; `listen` is called at its events.
    async fn take(
        &self,
        key: &str,
        ttl: Duration,
        listen: impl Fn(&Claim, &RenewalEvent) + Send + Sync + 'static,
    ) -> LockGuard {
        let guard = self.manager.lock(key).ttl(ttl).await.unwrap();
        let mut renewal = Renewal::new();
        let claim = Arc::downgrade(guard.claim());
        renewal.every = Some(INTERVAL);
        renewal.on_event = Some(Arc::new(move |event| listen(&claim.upgrade().unwrap(), event)));
        guard.claim().renew_by(renewal);
        guard
    }

    /// Deletes a key at the first node behind its holder's back.
    async fn lose_at_first(&self, guard: &LockGuard) {
        let thief = self.first();
        let request = thief.lock(guard.key()).owner(guard.owner_token().clone());
        request.acquire_or_extend().await.unwrap().release().await.unwrap();
        assert!(!self.is_at_first(guard).await);
    }

    async fn is_at_first(&self, guard: &LockGuard) -> bool {
        self.first().inspect(guard.key()).await.unwrap().is_held()
    }

    /// The next batch, unless there is none for long.
    async fn next(&mut self) -> Option<Job> {
        timeout(LONG, self.schedule.next()).await.ok()
    }

    fn first(&self) -> LockManager {
        LockManager::single(self.nodes[0].clone()).build().unwrap()
    }
}

/// The renewal of a lock on three nodes, of which so many have confirmed it.
fn item(guard: &LockGuard, confirmed: usize) -> Renewing {
    let extension = guard.claim().next_extension(clock::now()).unwrap();
    Renewing { confirmed, ..Renewing::new(guard.claim().clone(), extension) }
}

/// What is due after a renewal, and in what time.
fn duties(item: &Renewing) -> Vec<(Duty, Duration)> {
    let entries = item.conclude(2).into_iter();
    entries.map(|(at, _, duty)| (duty, at - clock::now())).collect()
}

/// How many of the locks have moved their deadlines since.
fn renewed(guards: &[LockGuard], since: &[Instant]) -> usize {
    guards.iter().zip(since).filter(|(guard, since)| guard.valid_until() > **since).count()
}

fn deadlines(guards: &[LockGuard]) -> Vec<Instant> {
    guards.iter().map(LockGuard::valid_until).collect()
}

#[tokio::test(start_paused = true)]
async fn no_more_batches_are_under_way_than_leave_room_for_acquires() {
    for nodes in [1, 3] {
        let (mut scene, mut guards) = (Scene::of(nodes), Vec::new());
        let mut under_way = Vec::new();
        for n in 0..MOST_BATCHES {
            guards.push(scene.watch(&n.to_string()).await);
            under_way.push(scene.next().await.expect("room"));
        }
        let last = scene.watch("one more").await;
        let valid_until = last.valid_until();
        assert!(scene.next().await.is_none(), "no room");
        under_way.pop().unwrap().await;
        scene.next().await.expect("room for one").await;
        assert!(last.valid_until() > valid_until, "it is the one that had no room");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_due_soon_goes_along_and_what_is_due_later_does_not() {
    let (mut scene, mut guards, start) = (Scene::of(3), Vec::new(), clock::now());
    for (key, apart) in [("first", 0), ("soon", 15), ("later", 10)] {
        advance(Duration::from_millis(apart)).await;
        guards.push(scene.watch(key).await);
    }
    let batch = scene.schedule.take_due(start + INTERVAL).unwrap();
    let keys: Vec<_> = batch.iter().map(|item| item.claim.key()).collect();
    assert_eq!(keys, ["first", "soon"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_of_so_many_locks_and_the_next_has_the_rest() {
    let (mut scene, mut guards) = (Scene::of(3), Vec::new());
    for n in 0..=LARGEST_BATCH {
        guards.push(scene.watch(&n.to_string()).await);
    }
    let since = deadlines(&guards);
    advance(INTERVAL).await;
    let (first, second) = (scene.next().await.unwrap(), scene.next().await.unwrap());
    first.await;
    assert_eq!(renewed(&guards, &since), LARGEST_BATCH);
    second.await;
    assert_eq!(renewed(&guards, &since), LARGEST_BATCH + 1);
}

#[tokio::test(start_paused = true)]
async fn locks_that_are_gone_are_swept_out_now_and_then() {
    let (mut scene, mut guards) = (Scene::of(3), Vec::new());
    let (mut sweeps, mut next_sweep) = (0, scene.schedule.next_sweep);
    for n in 0..500 {
        guards.push(scene.watch(&n.to_string()).await);
        sweeps += usize::from(scene.schedule.next_sweep != next_sweep);
        next_sweep = scene.schedule.next_sweep;
    }
    assert!((2..10).contains(&sweeps), "{sweeps} sweeps");
    for n in 500..2_000 {
        drop(scene.watch(&n.to_string()).await);
    }
    assert!(scene.schedule.due.len() <= 2 * 2 * guards.len() + 2, "they are left there");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_a_minority_has_lost_is_put_back() {
    let mut scene = Scene::of(3);
    let guard = scene.watch("k").await;
    scene.lose_at_first(&guard).await;
    scene.next().await.unwrap().await;
    assert!(scene.is_at_first(&guard).await);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_not_put_back_once_the_deadline_of_before_is_over() {
    let mut scene = Scene::of(3);
    let guard = scene.watch("k").await;
    let (batch, deadline) = (scene.next().await.unwrap(), guard.valid_until());
    guard.extend(2 * TTL).await.unwrap();
    scene.lose_at_first(&guard).await;
    advance(deadline - Instant::now()).await;
    batch.await;
    assert!(guard.is_valid() && !scene.is_at_first(&guard).await);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_put_back_only_if_a_majority_has_confirmed_the_renewal() {
    for (confirmed, is_put_back) in [(1, false), (2, true)] {
        let scene = Scene::of(3);
        let guard = scene.take("k", TTL, |_, _| {}).await;
        scene.lose_at_first(&guard).await;
        let ours = Answer::Ours { token: guard.fencing_token().get(), expires_in: TTL };
        for (node, answer) in [(1, &ours), (2, &ours), (0, &Answer::Gone)] {
            guard.claim().note(node, clock::now(), TTL, answer);
        }
        let (nodes, back) = (scene.schedule.quorum.clone(), scene.schedule.returns.0.clone());
        let (items, round) = (vec![item(&guard, confirmed)], Round::new());
        Batch { nodes, quorum: 2, items, open: 0, round, back }.heal().await;
        assert_eq!(scene.is_at_first(&guard).await, is_put_back);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_a_lock_that_is_lost_in_its_renewal_is_not_put_back() {
    let mut scene = Scene::of(3);
    let lose = |claim: &Claim, event: &RenewalEvent| {
        if matches!(event, RenewalEvent::Renewed { .. }) {
            claim.lose(LossReason::Closed);
        }
    };
    let guard = scene.take("k", TTL, lose).await;
    scene.schedule.watch(guard.claim());
    scene.lose_at_first(&guard).await;
    scene.next().await.unwrap().await;
    assert!(!guard.is_valid() && !scene.is_at_first(&guard).await);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_judged_anew_only_if_it_has_moved_back() {
    let guard = Scene::of(3).take("k", 100 * SECOND, |_, _| {}).await;
    let valid_until = guard.claim().valid_until().unwrap();
    for (deadline, is_judged) in
        [(clock::now(), false), (valid_until, false), (valid_until + SECOND, true)]
    {
        let item = Renewing { deadline: Some(deadline), ..item(&guard, 2) };
        let judged = duties(&item).into_iter().find(|(duty, _)| *duty == Duty::Deadline);
        let expected = is_judged.then(|| (Duty::Deadline, valid_until - clock::now()));
        assert_eq!(judged, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_repeated_soon_and_the_first_sets_the_alarm() {
    let guard = Scene::of(3).take("k", 5 * SECOND, |_, _| {}).await;
    assert_eq!(duties(&item(&guard, 2)).len(), 1, "the next renewal");
    // The TTL less the drift.
    let left = Duration::from_millis(4_948);
    let alarm = (Duty::Alarm, left.saturating_sub(SECOND / 2));
    assert_eq!(duties(&item(&guard, 1)), [(Duty::Renew, left / 10), alarm]);
    assert_eq!(duties(&item(&guard, 1)), [(Duty::Renew, left / 10)]);
    advance(4 * SECOND).await;
    assert_eq!(duties(&item(&guard, 1)), [(Duty::Renew, SECOND / 10)], "no tenth of so little");
    assert_eq!(duties(&item(&guard, 2)).len(), 1);
    assert_eq!(duties(&item(&guard, 1)).len(), 2, "it is the first again");
}

#[tokio::test(start_paused = true)]
async fn the_nodes_that_have_answered_are_told_with_a_failure() {
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let listen = told.clone();
    let note = move |_: &Claim, event: &RenewalEvent| {
        if let RenewalEvent::Failed { error: Error::Unavailable { needed, reached, .. }, .. } =
            event
        {
            listen.lock().unwrap().push((*needed, *reached));
        }
    };
    let guard = Scene::of(3).take("k", TTL, note).await;
    let error = NodeError::new(&"a:1".into(), std::io::Error::other("no route"));
    let mut tally = Tally::new(3);
    for (node, answer) in [Ok(()), Ok(()), Err(error)].into_iter().enumerate() {
        tally.note(node, answer);
    }
    item(&guard, 2).conclude(2);
    Renewing { tally, ..item(&guard, 1) }.conclude(2);
    assert_eq!(*told.lock().unwrap(), [(2, 2)]);
}

#[tokio::test(start_paused = true)]
async fn the_alarm_comes_shortly_before_the_end_while_the_renewals_fail() {
    let guard = Scene::of(3).take("k", 100 * SECOND, |_, _| {}).await;
    let (claim, start) = (guard.claim(), clock::now());
    let until = claim.valid_until().unwrap();
    let due = claim.alarm().unwrap();
    assert_eq!(due + 10 * SECOND, until);
    assert_eq!(alarm(claim, start, until), None, "they do not fail");
    claim.note_failed(item(&guard, 1).tally.shortage());
    assert_eq!(alarm(claim, start, until), Some((due, claim.id, Duty::Alarm)));
    assert!(claim.last_warning().is_some());
    claim.note_failed(item(&guard, 1).tally.shortage());
    assert_eq!(alarm(claim, due, until), None);
    assert!(claim.last_warning().is_none(), "it was told");
}

const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(3600);
