use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use domain::finances::{Account, Ledger};
use domain::legal::{Lease, LeaseProcess, LeaseState, ProcessEvent};
use domain::{AggregateKind, Context};
use ports::EventLog;
use uuid::Uuid;

use crate::support::{Moment, World, draft, send, sign, started_unit, until, void};

const NAME: &str = "policy:move-in";

async fn state(world: &World, lease_id: Uuid) -> LeaseState {
    let lease = world.client().load::<Lease>(lease_id.to_string()).await.expect("a lease");
    lease.state.state().expect("a drafted lease")
}

async fn settled(world: &World, lease_id: Uuid, wanted: LeaseState) {
    until(wanted.as_str(), || async { state(world, lease_id).await == wanted }).await;
}

/// How often each step was recorded for each trigger, and with what.
async fn steps(world: &World) -> BTreeMap<String, u32> {
    let mut counted = BTreeMap::new();
    for event in world.events(Context::Legal).await {
        if event.stream.kind == AggregateKind::LeaseProcess
            && let ProcessEvent::StepRecorded { trigger, step, .. } = event.decode().expect("a process event")
        {
            *counted.entry(format!("{trigger}:{}", step.as_str())).or_default() += 1;
        }
    }
    counted
}

async fn deposit_charged(world: &World, lease_id: Uuid) -> bool {
    let ledger = world.client().load::<Ledger>(lease_id.to_string()).await.expect("a ledger");
    ledger.state.balance(Account::TenantReceivable) == 150_000
}

#[tokio::test(start_paused = true)]
async fn a_sent_lease_reserves_its_unit_and_a_signed_one_opens_its_ledger_with_the_deposit() {
    let world = World::new();
    let process = world.start(vec![]);
    let client = world.client();
    let unit_id = started_unit(&client).await;
    let lease_id = draft(&client, unit_id).await;
    send(&client, lease_id).await;
    settled(&world, lease_id, LeaseState::Sent).await;
    assert_eq!(world.names(Context::Units).await, ["UnitAdded", "UnitReserved"]);
    sign(&client, lease_id).await;
    until("the deposit is charged", || async { deposit_charged(&world, lease_id).await }).await;
    void(&client, lease_id).await;
    until("undone", || async { world.names(Context::Finances).await.last().is_some_and(|name| name == "LedgerClosed") })
        .await;
    assert_eq!(world.names(Context::Units).await, ["UnitAdded", "UnitReserved", "ReservationReleased"]);
    assert_eq!(world.names(Context::Finances).await, ["LedgerOpened", "ChargePosted", "ChargeReversed", "LedgerClosed"]);
    until("every step is recorded", || async { steps(&world).await.len() == 7 }).await;
    let recorded = steps(&world).await;
    assert!(recorded.values().all(|count| *count == 1), "{recorded:?}");
    // Every effect names its cause.
    let cause = world.events(Context::Units).await[1].metadata.clone();
    let request = world.events(Context::Legal).await.into_iter().find(|event| event.event_type == "LeaseSendRequested");
    let request = request.expect("the request");
    assert_eq!(cause.causation_id, Some(request.event_id));
    assert_eq!(cause.correlation_id, request.metadata.correlation_id);
    assert_eq!(cause.actor, NAME);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_many_leases_for_one_unit_one_is_sent_and_the_others_are_drafts_again() {
    let world = World::new();
    let process = world.start(vec![]);
    let client = world.client();
    let unit_id = started_unit(&client).await;
    let mut leases = vec![];
    for _ in 0..40 {
        leases.push(draft(&client, unit_id).await);
    }
    for lease_id in &leases {
        send(&client, *lease_id).await;
    }
    let mut sent = vec![];
    for lease_id in &leases {
        until("decided", || async { state(&world, *lease_id).await != LeaseState::Sending }).await;
        if state(&world, *lease_id).await == LeaseState::Sent {
            sent.push(*lease_id);
        }
    }
    assert_eq!(sent.len(), 1);
    // A refused one that tries again after the winner let go wins.
    void(&client, sent[0]).await;
    until("released", || async { world.names(Context::Units).await.len() == 3 }).await;
    let other = *leases.iter().find(|lease_id| **lease_id != sent[0]).expect("another lease");
    send(&client, other).await;
    settled(&world, other, LeaseState::Sent).await;
    process.stop().await;
}

/// So that a leader who was deposed in the middle of the step, and comes late with it, is refused as well.
#[tokio::test(start_paused = true)]
async fn a_refused_step_is_kept_in_the_log_where_it_would_have_had_its_effect() {
    let world = World::new();
    let process = world.start(vec![]);
    let client = world.client();
    let unit_id = started_unit(&client).await;
    let (first, second) = (draft(&client, unit_id).await, draft(&client, unit_id).await);
    send(&client, first).await;
    settled(&world, first, LeaseState::Sent).await;
    send(&client, second).await;
    settled(&world, second, LeaseState::Draft).await;
    let requests = world.events(Context::Legal).await.into_iter().filter(|event| event.event_type == "LeaseSendRequested");
    let requests: Vec<String> = requests.map(|event| format!("{}:reserve_unit", event.event_id)).collect();
    let mut kept = vec![];
    for key in &requests {
        kept.push(world.log(Context::Units).find_key(NAME, key).await.expect("read").expect("kept").outcome);
    }
    assert!(kept[0].get("refused").is_none(), "{kept:?}");
    assert_eq!(kept[1]["refused"]["code"], "UNIT_NOT_AVAILABLE", "{kept:?}");
    process.stop().await;
}

/// Sends and signs a lease, with a process that is killed at the n-th write of whatever log, before or after it took effect.
async fn killed_at(write: i64, moment: Moment) -> (World, Uuid, bool) {
    let world = World::new();
    let client = world.client();
    let unit_id = started_unit(&client).await;
    let lease_id = draft(&client, unit_id).await;
    send(&client, lease_id).await;
    let hang = Arc::default();
    for log in &world.logs {
        *log.hang.lock().expect("unpoisoned") = Arc::clone(&hang);
    }
    hang.writes_left.store(write, Ordering::SeqCst);
    *hang.moment.lock().expect("unpoisoned") = Some(moment);
    let first = world.start(vec![]);
    let mut signed = false;
    until("killed or done", || async {
        hang.hung.load(Ordering::SeqCst) || state(&world, lease_id).await == LeaseState::Sent
    })
    .await;
    if state(&world, lease_id).await == LeaseState::Sent {
        sign(&client, lease_id).await;
        signed = true;
        let settled = || async { first.follower(NAME).position == world.events(Context::Legal).await.len() as u64 };
        until("killed or done", || async { hang.hung.load(Ordering::SeqCst) || settled().await }).await;
    }
    let was_killed = hang.hung.load(Ordering::SeqCst);
    first.kill().await;
    for log in &world.logs {
        *log.hang.lock().expect("unpoisoned") = Arc::default();
    }
    let second = world.start(vec![]);
    settled_and_signed(&world, lease_id, signed).await;
    until("all done", || async { second.follower(NAME).lag_events == 0 && second.follower(NAME).position > 0 }).await;
    second.stop().await;
    (world, lease_id, was_killed)
}

async fn settled_and_signed(world: &World, lease_id: Uuid, signed: bool) {
    until("sent", || async { matches!(state(world, lease_id).await, LeaseState::Sent | LeaseState::Signed) }).await;
    if !signed {
        sign(&world.client(), lease_id).await;
    }
    until("the deposit is charged", || async { deposit_charged(world, lease_id).await && steps(world).await.len() == 4 })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_process_killed_at_any_write_loses_no_step_and_repeats_none() {
    for moment in [Moment::Before, Moment::After] {
        let mut kills = 0;
        for write in 0..40 {
            let (world, lease_id, was_killed) = killed_at(write, moment).await;
            assert_eq!(world.names(Context::Units).await, ["UnitAdded", "UnitReserved"], "{moment:?} write {write}");
            assert_eq!(world.names(Context::Finances).await, ["LedgerOpened", "ChargePosted"], "{moment:?} write {write}");
            let recorded = steps(&world).await;
            assert!(recorded.values().all(|count| *count == 1), "{moment:?} write {write}: {recorded:?}");
            let sent = world.names(Context::Legal).await.iter().filter(|name| *name == "LeaseSent").count();
            assert_eq!(sent, 1, "{moment:?} write {write}");
            assert_eq!(state(&world, lease_id).await, LeaseState::Signed);
            if !was_killed {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 8, "eight steps and records were to be killed at, {kills} were");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_without_an_outcome_shows_as_stuck_holds_up_no_other_lease_and_is_done_in_the_end() {
    let world = World::new();
    let process = world.start(vec![]);
    let client = world.client();
    let (unit_a, unit_b) = (started_unit(&client).await, started_unit(&client).await);
    let (lease_a, lease_b) = (draft(&client, unit_a).await, draft(&client, unit_b).await);
    send(&client, lease_a).await;
    settled(&world, lease_a, LeaseState::Sent).await;
    world.log(Context::Finances).set_down(true);
    sign(&client, lease_a).await;
    until("stuck", || async { process.stalled(NAME).is_some_and(|reason| reason.contains(&lease_a.to_string())) }).await;
    until("recorded as stuck", || async {
        client.load::<LeaseProcess>(lease_a.to_string()).await.expect("a process").state.stuck().is_some()
    })
    .await;
    send(&client, lease_b).await;
    settled(&world, lease_b, LeaseState::Sent).await;
    let checkpoint = process.follower(NAME).position;
    let signed = world
        .events(Context::Legal)
        .await
        .iter()
        .find(|event| event.event_type == "LeaseSigned")
        .map(|event| event.position);
    assert!(Some(checkpoint) < signed, "the checkpoint stays before what is not done");

    world.log(Context::Finances).set_down(false);
    until("done in the end", || async { deposit_charged(&world, lease_a).await }).await;
    until("not stuck", || async { process.stalled(NAME).is_none() && process.follower(NAME).lag_events == 0 }).await;
    let process_a = client.load::<LeaseProcess>(lease_a.to_string()).await.expect("a process");
    assert!(process_a.state.stuck().is_none());
    assert!(steps(&world).await.values().all(|count| *count == 1));
}
