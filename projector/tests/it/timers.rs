use domain::finances::{Ledger, LedgerCommand, NewPayment, PaymentMethod};
use domain::legal::{Lease, LeaseState};
use domain::units::{Unit, UnitCommand};
use domain::{Context, Currency, HoldId, Money, PartyId, PaymentId, Timestamp};
use jiff::civil::date;
use read_models::hold_expiries::HoldExpiries;
use read_models::lease_starts::LeaseStarts;
use uuid::Uuid;

use crate::support::{World, draft, execute, send, sign, started_unit, until};

fn instant(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

async fn hold(world: &World, unit_id: Uuid, day: i8, expires_at: &str) {
    let command = UnitCommand::PlaceHold {
        hold_id: HoldId(Uuid::now_v7()),
        party_id: PartyId(Uuid::from_u128(3)),
        from: date(2026, 4, day),
        to: date(2026, 4, day + 1),
        expires_at: instant(expires_at),
    };
    execute::<Unit>(&world.client(), unit_id, command).await;
}

async fn expired(world: &World) -> usize {
    world.names(Context::Units).await.iter().filter(|name| *name == "HoldExpired").count()
}

#[tokio::test(start_paused = true)]
async fn a_hold_expires_once_when_its_time_comes_and_one_that_was_missed_at_start() {
    let world = World::new();
    let unit_id = started_unit(&world.client()).await;
    hold(&world, unit_id, 1, "2026-03-02T12:10:00Z").await;
    hold(&world, unit_id, 5, "2026-03-02T13:00:00Z").await;
    world.clock.set(instant("2026-03-02T12:30:00Z"));
    let process = world.start(vec![&HoldExpiries]);
    until("the missed one", || async { expired(&world).await == 1 }).await;
    world.clock.set(instant("2026-03-02T12:59:59.999Z"));
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    until("folded", || async { process.follower("hold_expiries").lag_events == 0 }).await;
    assert_eq!(expired(&world).await, 1);
    world.clock.set(instant("2026-03-02T13:00:00Z"));
    until("the second", || async { expired(&world).await == 2 }).await;
    process.stop().await;
    // Nothing is left to do for another process.
    let process = world.start(vec![&HoldExpiries]);
    until("running", || async { process.follower("hold_expiries").lag_events == 0 }).await;
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    assert_eq!(expired(&world).await, 2);
    process.stop().await;
}

async fn lease_state(world: &World, lease_id: Uuid) -> LeaseState {
    let lease = world.client().load::<Lease>(lease_id.to_string()).await.expect("a lease");
    lease.state.state().expect("a drafted lease")
}

#[tokio::test(start_paused = true)]
async fn a_lease_starts_on_its_day_once_the_deposit_is_paid_and_the_occupancy_with_it() {
    let world = World::new();
    let process = world.start(vec![&HoldExpiries, &LeaseStarts]);
    let client = world.client();
    let unit_id = started_unit(&client).await;
    let lease_id = draft(&client, unit_id).await;
    send(&client, lease_id).await;
    until("sent", || async { lease_state(&world, lease_id).await == LeaseState::Sent }).await;
    sign(&client, lease_id).await;
    until("a ledger", || async { world.names(Context::Finances).await.len() == 2 }).await;

    world.clock.set(instant("2026-03-10T00:00:00Z"));
    let failed =
        || async { world.names(Context::Legal).await.iter().filter(|name| *name == "LeaseActivationFailed").count() };
    until("refused", || async { failed().await == 1 }).await;
    assert_eq!(lease_state(&world, lease_id).await, LeaseState::Signed);

    let payment = NewPayment {
        payment_id: PaymentId(Uuid::now_v7()),
        money: Money { amount: 150_000, currency: Currency::new("USD").expect("a currency") },
        method: PaymentMethod::BankTransfer,
        received_on: date(2026, 3, 10),
        external_ref: None,
        payer: None,
    };
    execute::<Ledger>(&client, lease_id, LedgerCommand::RecordPayment(payment)).await;
    world.clock.set(instant("2026-03-11T00:00:01Z"));
    until("active", || async { lease_state(&world, lease_id).await == LeaseState::Active }).await;
    until("occupied", || async { world.names(Context::Units).await.last().is_some_and(|name| name == "OccupancyStarted") })
        .await;
    assert_eq!(failed().await, 1);
    let started = world.events(Context::Units).await.pop().expect("an event");
    assert_eq!(started.effective_on, date(2026, 3, 10));
    process.stop().await;
}
