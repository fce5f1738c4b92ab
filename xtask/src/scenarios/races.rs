//! No double booking: many clients want the same days of the same unit; and one client asks a hundred times at once.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::client::{Answer, Http, block, spawn};
use super::dates::{day, instant, now};
use super::suite::Size;
use super::system::System;
use super::world::{self, SETTLES_WITHIN, free, fresh, send_lease};
use crate::net::wait_until;

const CLIENTS: usize = 64;
const REFUSED: &str = "UNIT_NOT_AVAILABLE";
/// Of one keyed command (requirement 5 of event-sourcing.md).
const DUPLICATES: usize = 100;

/// Days that overlap with everybody else's: all include the fourth day.
fn days(client: usize) -> (i64, i64) {
    let client = client as i64;
    (client % 4, 4 + client % 7)
}

fn hold_body(party: &str, client: usize) -> Value {
    let (from, to) = days(client);
    let expires = instant(now() + std::time::Duration::from_secs(3_600));
    json!({"party_id": party, "from": day(from), "to": day(to), "expires_at": expires})
}

/// By `POST /units/{id}/holds`.
pub fn holds(system: &System, size: Size) -> Result<String> {
    let rounds = size.pick(5, 200);
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let party = world::party(&admin, &fresh("Racer"))?;
    let (unit, _) = world::unit(&admin, &property, &fresh("H"))?;
    let path = format!("/units/{unit}/holds");
    let mut winners = std::collections::BTreeSet::new();
    for round in 0..rounds {
        let (won, lost) = block(hold_round(&admin, &path, &party)).with_context(|| format!("round {round}"))?;
        winners.insert(won.0);
        release(&admin, &unit, &won.1)?;
        // One that was refused asks again, now that the winner has let go.
        let again = admin.post(&path, &hold_body(&party, lost)).now()?.expect(201)?;
        release(&admin, &unit, &again.id()?)?;
    }
    let placed = rounds * 2;
    let stream = format!("unit:{unit}");
    let counted =
        system.events("units", 0)?.iter().filter(|event| event.stream == stream && event.kind == "HoldPlaced").count();
    ensure!(counted == placed, "the log has {counted} HoldPlaced, the clients were told of {placed}");
    Ok(format!(
        "{rounds} rounds of {CLIENTS} clients: 1 winner each ({} different), {} refused, every retry won",
        winners.len(),
        rounds * (CLIENTS - 1)
    ))
}

fn release(admin: &Http, unit: &str, hold: &str) -> Result<()> {
    admin.request("DELETE", &format!("/units/{unit}/holds/{hold}")).now()?.success()?;
    Ok(())
}

/// The winner with its hold, and one of the losers.
async fn hold_round(admin: &Http, path: &str, party: &str) -> Result<((usize, String), usize)> {
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let ask = admin.post(path, &hold_body(party, client));
            spawn(async move { ask.send().await })
        })
        .collect();
    let (mut won, mut lost) = (Vec::new(), Vec::new());
    for (client, task) in tasks.into_iter().enumerate() {
        let answer = task.await??;
        match answer.status {
            201 => won.push((client, answer.id()?)),
            _ => {
                let problem = answer.problem(409, REFUSED)?;
                ensure!(problem["conflict_id"].is_string(), "no conflict_id: {problem}");
                lost.push(client);
            }
        }
    }
    ensure!(won.len() == 1, "{} winners: {won:?}", won.len());
    let loser = *lost.last().context("nobody lost")?;
    Ok((won.remove(0), loser))
}

/// By sending 64 leases of one unit for signature.
pub fn leases(system: &System, size: Size) -> Result<String> {
    let rounds = size.pick(2, 50);
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let party = world::party(&admin, &fresh("Tenant"))?;
    let (unit, _) = world::unit(&admin, &property, &fresh("L"))?;
    let (document, _) = world::document(&admin, None)?;
    let body = world::send_body(&document, &party);
    let draft = |client: usize| {
        let (from, to) = days(client);
        world::lease_body(&unit, &party, from, to + 30)
    };
    let mut drafts: Vec<String> = Vec::new();
    let mut sent: Vec<String> = Vec::new();
    for round in 0..rounds {
        while drafts.len() < CLIENTS {
            drafts.push(world::lease(&admin, &draft(drafts.len()))?);
        }
        let won = block(lease_round(&admin, &drafts, &body)).with_context(|| format!("round {round}"))?;
        let winner = drafts.remove(won);
        void(&admin, &unit, &winner)?;
        let loser = drafts.pop().context("nobody lost")?;
        let (state, code) = block(send_lease(&admin, &loser, &body))?;
        ensure!(state == "sent", "round {round}: the retry after the release came to {state} {code}");
        void(&admin, &unit, &loser)?;
        sent.extend([winner, loser]);
    }
    let stream = format!("unit:{unit}");
    let (mut reserved, mut released) = (0, 0);
    // The last release follows its lease; a calendar that is free may be that of a moment before it was taken.
    let waited = wait_until("as many releases as reservations", SETTLES_WITHIN, || {
        let events = system.events("units", 0)?;
        let count = |kind: &str| events.iter().filter(|event| event.stream == stream && event.kind == kind).count();
        (reserved, released) = (count("UnitReserved"), count("ReservationReleased"));
        Ok(released == sent.len())
    });
    let told =
        format!("{} leases were sent and voided: {reserved} UnitReserved, {released} ReservationReleased", sent.len());
    waited.with_context(|| told.clone())?;
    ensure!(reserved == sent.len(), "{told}");
    Ok(format!("{rounds} rounds of {CLIENTS} leases: 1 sent each, {} refused, every retry was sent", rounds * (CLIENTS - 1)))
}

fn void(admin: &Http, unit: &str, lease: &str) -> Result<()> {
    admin.done(&format!("/leases/{lease}/void"), &json!({"reason": "the next round"}))?;
    block(free(admin, unit))
}

/// The place of the one that was sent.
async fn lease_round(admin: &Http, drafts: &[String], body: &Value) -> Result<usize> {
    let tasks: Vec<_> = drafts
        .iter()
        .map(|lease| {
            let (admin, lease, body) = (admin.clone(), lease.clone(), body.clone());
            spawn(async move { send_lease(&admin, &lease, &body).await })
        })
        .collect();
    let mut won = Vec::new();
    for (client, task) in tasks.into_iter().enumerate() {
        let (state, code) = task.await??;
        match state.as_str() {
            "sent" => won.push(client),
            _ => ensure!(state == "draft" && code == REFUSED, "a lease that was not sent came to {state} {code}"),
        }
    }
    ensure!(won.len() == 1, "{} leases were sent: {won:?}", won.len());
    Ok(won[0])
}

/// A command that would be done anew each time is sent a hundred times at once with one key: it is done once, and all
/// are told the same. Who has waited too long behind the others is told 409, and the same when they ask again.
pub fn duplicates(system: &System, size: Size) -> Result<String> {
    let rounds = size.pick(3, 100);
    let admin = world::admin(system)?;
    let owner = world::party(&admin, &fresh("Owner"))?;
    let before = system.heads()?["units"];
    let (mut answered, mut waited) = (Vec::new(), 0);
    for round in 0..rounds {
        let body = world::property_body(&fresh("Duplicate"), &owner);
        let (told, in_flight) =
            block(duplicates_round(&admin, &body, &fresh("key"))).with_context(|| format!("round {round}"))?;
        answered.push(told.id()?);
        waited += in_flight;
    }
    let registered: Vec<String> = system
        .events("units", before)?
        .into_iter()
        .filter(|event| event.kind == "PropertyRegistered")
        .map(|event| event.id().to_owned())
        .collect();
    ensure!(registered == answered, "the clients were told of {answered:?}, the log has {registered:?}");
    Ok(format!(
        "{rounds} rounds of {DUPLICATES} duplicates: 1 event each, one answer for all ({waited} were told 409 first)"
    ))
}

/// The answer that all were given, and how many were told at first that another one was at it.
async fn duplicates_round(admin: &Http, body: &Value, key: &str) -> Result<(Answer, usize)> {
    let ask = admin.post("/properties", body).key(key);
    let tasks: Vec<_> = (0..DUPLICATES)
        .map(|_| {
            let ask = ask.clone();
            spawn(async move { ask.send().await })
        })
        .collect();
    let (mut done, mut in_flight) = (Vec::new(), 0);
    for task in tasks {
        let answer = task.await??;
        if answer.status == 409 {
            answer.problem(409, "IDEMPOTENCY_KEY_IN_FLIGHT")?;
            ensure!(answer.header("retry-after").is_some(), "no Retry-After: {:?}", answer.headers);
            in_flight += 1;
        } else {
            done.push(answer.expect(201)?);
        }
    }
    // Now that nobody else asks.
    for _ in 0..in_flight {
        done.push(ask.send().await?.expect(201)?);
    }
    let first = done.iter().filter(|answer| answer.header("idempotent-replayed").is_none()).count();
    ensure!(first == 1, "{first} of {DUPLICATES} were told that theirs was the first");
    let told = done.swap_remove(0);
    for header in ["etag", "location", "casitas-position"] {
        let same = told.header(header).is_some() && done.iter().all(|answer| answer.header(header) == told.header(header));
        ensure!(same, "{header} differs: {:?}", done.iter().map(|answer| answer.header(header)).collect::<Vec<_>>());
    }
    let other = done.iter().find(|answer| answer.body != told.body);
    ensure!(other.is_none(), "one was answered {told}, another {other:?}");
    Ok((told, in_flight))
}
