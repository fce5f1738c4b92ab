//! Holds, reservations and prices of a few units, wanted by many.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use commands::{Issue, step};
use domain::units::{AddUnit, Bathrooms, PropertyFacts, Unit, UnitCommand};
use domain::{Context, Currency, HoldId, LeaseId, Money, PartyId, PropertyId};
use jiff::civil::date;
use jiff::{SignedDuration, ToSpan};
use rand::Rng;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::{Attempt, Told, insist, keyed, pause, send, some_writer, uuid};
use crate::world::World;

pub fn unit_id(index: usize) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + index as u128)
}

pub fn usd(amount: i64) -> Money {
    Money { amount, currency: Currency::new("USD").expect("a currency") }
}

/// Adds and lists the plan's units.
pub async fn add_units(world: &World) {
    let mut rng = world.fate.rng_for("setup");
    for index in 0..world.plan.units {
        let add = AddUnit {
            property: PropertyFacts {
                property_id: PropertyId(Uuid::from_u128(5)),
                property_name: "Elm Court".into(),
                city: "Oakland".into(),
                region: None,
                country: "US".into(),
                time_zone: "UTC".into(),
                currency: usd(0).currency,
                jurisdiction: "US-CA".into(),
            },
            unit_number: index.to_string(),
            bedrooms: 2,
            bathrooms: Bathrooms::new(1.5).expect("a count of bathrooms"),
            area_m2: 60,
            amenities: BTreeSet::new(),
        };
        let list = UnitCommand::ListUnit {
            price: usd(100_000 + index as i64),
            deposit: usd(100_000),
            available_from: date(2026, 3, 1),
            min_term_months: 1,
            rent_cap: None,
        };
        for (what, command) in [("add", UnitCommand::AddUnit(add)), ("list", list)] {
            let id = unit_id(index).to_string();
            let key = format!("{what}-{index}");
            insist(world, &mut rng, &key, || step::<Unit>(id.clone(), command.clone())).await;
        }
    }
}

/// One client until the end of the plan's time.
pub async fn write(world: Arc<World>, index: usize) {
    let mut rng = world.fate.rng_for(&format!("writer {index}"));
    let mut mine: Vec<(Uuid, UnitCommand)> = Vec::new();
    let mut count = 0;
    while world.fate.now_ms() < world.plan.ends_ms() {
        pause(&mut rng, 5, world.plan.client_pause_ms).await;
        let (unit, command) = choose(&world, &mut rng, &mut mine);
        count += 1;
        let key = rng.random_bool(0.7).then(|| format!("c{index}-{count}"));
        carry_through(&world, &mut rng, unit, command, key).await;
    }
}

fn choose(world: &World, rng: &mut StdRng, mine: &mut Vec<(Uuid, UnitCommand)>) -> (Uuid, UnitCommand) {
    let unit = unit_id(rng.random_range(0..world.plan.units));
    let from = date(2026, 3, 5).checked_add(rng.random_range(0..40).days()).expect("a date");
    let to = from.checked_add(rng.random_range(1..12).days()).expect("a date");
    let roll = rng.random_range(0..100);
    let undone = (roll >= 75 && !mine.is_empty()).then(|| mine.swap_remove(roll % mine.len()));
    let command = match (roll, undone) {
        (_, Some((unit, UnitCommand::PlaceHold { hold_id, .. }))) => {
            return (unit, UnitCommand::ReleaseHold { hold_id });
        }
        (_, Some((unit, UnitCommand::ReserveUnit { lease_id, .. }))) => {
            return (unit, UnitCommand::ReleaseReservation { lease_id });
        }
        (0..=47, _) => {
            let lasts_ms = if rng.random_bool(0.4) { rng.random_range(150..3_000) } else { 3_600_000 };
            UnitCommand::PlaceHold {
                hold_id: HoldId(uuid(rng)),
                party_id: PartyId(Uuid::from_u128(rng.random_range(1..6))),
                from,
                to,
                expires_at: world.clock.now() + SignedDuration::from_millis(lasts_ms),
            }
        }
        (48..=62, _) => UnitCommand::ReserveUnit {
            lease_id: LeaseId(uuid(rng)),
            from,
            to: Some(to),
            parties: vec![PartyId(Uuid::from_u128(rng.random_range(1..6)))],
        },
        _ => UnitCommand::ChangeListingPrice {
            price: usd(rng.random_range(50_000..150_000)),
            effective_on: date(2026, 3, 1),
            rent_cap: None,
        },
    };
    mine.push((unit, command.clone()));
    (unit, command)
}

/// Sends a command, again while its outcome is not known and it has a key, and now and then once too often.
async fn carry_through(world: &Arc<World>, rng: &mut StdRng, unit: Uuid, command: UnitCommand, key: Option<String>) {
    let Some(key) = key else {
        attempt(world, rng, unit, &command, None, "same").await;
        return;
    };
    if rng.random_bool(0.15) {
        let (mut one, mut other) = (child(rng), child(rng));
        tokio::join!(
            attempt(world, &mut one, unit, &command, Some(&key), "same"),
            attempt(world, &mut other, unit, &command, Some(&key), "same"),
        );
    }
    let told = loop {
        match attempt(world, rng, unit, &command, Some(&key), "same").await {
            Told::Unknown | Told::NotDone(_) => pause(rng, 10, 400).await,
            told => break told,
        }
    };
    if rng.random_bool(0.2) {
        pause(rng, 1, 100).await;
        attempt(world, rng, unit, &command, Some(&key), "same").await;
    }
    let appended = matches!(&told, Told::Done(done) if !done.no_op);
    if appended && rng.random_bool(0.1) {
        let again = attempt(world, rng, unit, &command, Some(&key), "another").await;
        if !matches!(again, Told::KeyReused | Told::NotDone(_) | Told::Unknown) {
            world.violation(format!("key {key} was used with another request and answered {again:?}"));
        }
    }
}

fn child(rng: &mut StdRng) -> StdRng {
    use rand::SeedableRng;
    StdRng::seed_from_u64(rng.random())
}

async fn attempt(world: &World, rng: &mut StdRng, unit: Uuid, command: &UnitCommand, key: Option<&str>, hash: &str) -> Told {
    let correlation = uuid(rng);
    let mut issue = Issue::by("user:sim");
    issue.metadata.correlation_id = correlation;
    issue.key = key.map(|key| keyed(key, hash));
    issue.timeout = Duration::from_millis(if rng.random_bool(0.2) { 150 } else { 1_900 });
    let writer = some_writer(world, rng);
    let (called_at, before) = (world.clock.now(), world.head(Context::Units).await);
    let told = send(world, &writer, &issue, &[step::<Unit>(unit.to_string(), command.clone())]).await;
    let (answered_at, after) = (world.clock.now(), world.head(Context::Units).await);
    world.fate.count(match &told {
        Told::Done(done) if done.replayed => "command replayed",
        Told::Done(done) if done.no_op => "command no-op",
        Told::Done(_) => "command done",
        Told::Refused(_) => "command refused",
        Told::KeyReused => "key reused",
        Told::NotDone(_) => "command not done",
        Told::Unknown => "command unknown",
    });
    if let Told::Done(done) = &told
        && done.position > 0
    {
        world.acknowledged.lock().expect("nothing panics under this lock").push(done.position);
    }
    let attempt = Attempt {
        unit,
        command: command.clone(),
        key: key.map(|key| format!("{key}/{hash}")),
        correlation,
        called_at,
        answered_at,
        heads: (before, after),
        told: told.clone(),
    };
    world.attempts.lock().expect("nothing panics under this lock").push(attempt);
    told
}
