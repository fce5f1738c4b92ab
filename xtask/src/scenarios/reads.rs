//! What a read must have seen, and what it must no longer show.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::client::{Answer, Http, block, spawn};
use super::dates::{day, instant, now};
use super::suite::Size;
use super::system::System;
use super::world::{self, data, fresh};

const DELAY_MS: &str = "200";
const WRITERS: usize = 16;
/// How long it may take until both replicas have answered.
const BOTH_WITHIN: Duration = Duration::from_secs(15);
/// GETs after which a writer changes its pace: all writers together, in step with the round robin, can meet one replica
/// again and again.
const GETS_IN_STEP: usize = 6;

#[derive(Clone, Copy, Default)]
struct Seen {
    writes: usize,
    gets: usize,
    /// GETs without the token that showed the state before: the delay is real.
    stale: usize,
}

/// A unit changed through command-api is seen by every GET that presents the token, on every replica.
pub fn own_writes(system: &mut System, size: Size) -> Result<String> {
    let role = "projector";
    system.restart(role, &[("CASITAS_PROJECTOR_DELAY_MS", DELAY_MS)])?;
    let outcome = delayed_writes(system, size);
    system.restart(role, &[("CASITAS_PROJECTOR_DELAY_MS", "0")])?;
    system.caught_up()?;
    outcome
}

fn delayed_writes(system: &System, size: Size) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let replicas: &[&str] = match system {
        System::Embedded(_) => &["casitas"],
        System::Distributed(_) => &["query-1", "query-2"],
    };
    let total = size.pick(64, 1_000);
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let (unit, _) = world::unit(&admin, &property, &fresh(&format!("Y{writer}")))?;
        let rounds = total / WRITERS + usize::from(writer < total % WRITERS);
        let (admin, property) = (admin.clone(), property.clone());
        tasks.push(spawn(async move {
            let mut seen = Seen::default();
            let mut by: BTreeMap<String, usize> = BTreeMap::new();
            for round in 0..rounds {
                write_and_read(&admin, &property, &unit, 100 + round as u64, replicas, &mut seen, &mut by).await?;
            }
            Ok::<_, anyhow::Error>((seen, by))
        }));
    }
    let mut all = Seen::default();
    let mut by: BTreeMap<String, usize> = BTreeMap::new();
    for task in tasks {
        let (seen, served) = block(task)??;
        all = Seen { writes: all.writes + seen.writes, gets: all.gets + seen.gets, stale: all.stale + seen.stale };
        served.into_iter().for_each(|(name, count)| *by.entry(name).or_default() += count);
    }
    ensure!(all.writes == total, "{} writes of {total}", all.writes);
    ensure!(all.stale > 0, "no GET without a token was ever behind: the projector was not delayed");
    Ok(format!(
        "{total} of {total} writes seen by each of {} GETs with the token {by:?}; {} of {total} GETs without it were behind",
        all.gets, all.stale
    ))
}

async fn write_and_read(
    admin: &Http,
    property: &str,
    unit: &str,
    value: u64,
    replicas: &[&str],
    seen: &mut Seen,
    by: &mut BTreeMap<String, usize>,
) -> Result<()> {
    let path = format!("/units/{unit}");
    let written = admin.request("PATCH", &path).json(&json!({"area_m2": value})).send().await?.success()?;
    let position = written.position()?;
    let bare = admin.get(&path).send().await?;
    if bare.status != 200 || bare.json()?["area_m2"] != value {
        seen.stale += 1;
    }
    let list = format!("/units/available?property_id={property}&limit=100");
    let mut waiting: Vec<&str> = replicas.to_vec();
    let deadline = Instant::now() + BOTH_WITHIN;
    let mut turn = 0;
    while Instant::now() < deadline {
        if turn >= GETS_IN_STEP {
            tokio::time::sleep(Duration::from_micros(rand::random_range(0..5_000))).await;
        }
        let asked = if turn % 2 == 0 { &path } else { &list };
        let answer = admin.get(asked).after(&position, 10).send().await?.expect(200)?;
        let shown = area(&answer, unit)?;
        ensure!(shown == value, "{value} was written at {position}, {} shows {shown}: {answer}", answer.served_by());
        ensure!(answer.header("cache-control") == Some("no-store"), "with a token: {:?}", answer.headers);
        seen.gets += 1;
        *by.entry(answer.served_by()).or_default() += 1;
        waiting.retain(|replica| *replica != answer.served_by());
        if waiting.is_empty() && turn > 0 {
            seen.writes += 1;
            return Ok(());
        }
        turn += 1;
    }
    anyhow::bail!("{waiting:?} answered none of {turn} GETs in {BOTH_WITHIN:?}")
}

fn area(answer: &Answer, unit: &str) -> Result<u64> {
    let body = answer.json()?;
    let row = match body["data"].as_array() {
        None => Some(&body),
        Some(rows) => rows.iter().find(|row| row["unit_id"] == unit),
    };
    row.and_then(|row| row["area_m2"].as_u64()).with_context(|| format!("unit {unit} is not shown: {answer}"))
}

/// How a unit is looked at.
const VIEWS: [&str; 3] = ["list", "unit", "calendar"];

#[derive(Default)]
struct Looks {
    held_before: usize,
    after: usize,
    cached_after: usize,
}

/// From the instant on at which a hold expires, no GET shows it.
pub fn expiring_holds(system: &System, size: Size) -> Result<String> {
    let admin = world::admin(system)?;
    let party = world::party(&admin, &fresh("Holder"))?;
    let mut tasks = Vec::new();
    for hold in 0..size.pick(4, 40) {
        // A property each, so that nobody else changes its list.
        let property = world::property(&admin)?;
        let (unit, _) = world::unit(&admin, &property, &fresh("E"))?;
        let (admin, party) = (admin.clone(), party.clone());
        tasks.push(spawn(async move {
            // Started one after the other: the expiries do not fall together.
            let lives = Duration::from_millis(1_500 + 130 * (hold % 8));
            watch_hold(&admin, &property, &unit, &party, lives).await
        }));
        if tasks.len() % 8 == 0 {
            for task in tasks.iter_mut().rev().take(8) {
                crate::net::wait_until("a hold's end", Duration::from_secs(60), || Ok(task.is_finished()))?;
            }
        }
    }
    let holds = tasks.len();
    let mut all = Looks::default();
    for task in tasks {
        let looks = block(task)??;
        ensure!(looks.held_before > 0 && looks.after > 0, "a hold was not looked at before and after");
        all.held_before += looks.held_before;
        all.after += looks.after;
        all.cached_after += looks.cached_after;
    }
    ensure!(all.cached_after > 0, "no cached answer after an expiry was looked at");
    Ok(format!(
        "{holds} holds: 0 of {} GETs after the instant ({} of them HITs) show one; {} GETs before it do",
        all.after, all.cached_after, all.held_before
    ))
}

async fn watch_hold(admin: &Http, property: &str, unit: &str, party: &str, lives: Duration) -> Result<Looks> {
    let expires = Duration::from_micros((now() + lives).as_micros() as u64);
    let body = json!({"party_id": party, "from": day(-1), "to": day(5), "expires_at": instant(expires)});
    let placed = admin.post(&format!("/units/{unit}/holds"), &body).send().await?.expect(201)?;
    let position = placed.position()?;
    let mut looks = Looks::default();
    let mut turn = 0;
    while now() < expires + Duration::from_millis(700) {
        let view = VIEWS[turn % VIEWS.len()];
        let path = match view {
            "list" => format!("/units/available?property_id={property}"),
            "unit" => format!("/units/{unit}"),
            _ => format!("/units/{unit}/calendar"),
        };
        // Every other answer may come from a cache of any age.
        let with_token = (turn / VIEWS.len()).is_multiple_of(2);
        turn += 1;
        let ask = if with_token { admin.get(&path).after(&position, 5) } else { admin.get(&path) };
        let asked_at = now();
        let answer = ask.send().await?.expect(200)?;
        let answered_at = now();
        let held = shows_hold(view, unit, &answer)?;
        if asked_at >= expires {
            let late = (asked_at - expires).as_micros();
            ensure!(
                !held,
                "asked {late} us after its expiry, {} shows the hold ({:?}): {answer}",
                answer.served_by(),
                answer.headers
            );
            looks.after += 1;
            looks.cached_after += usize::from(answer.is_hit());
        } else if with_token && answered_at < expires {
            ensure!(held, "the hold is not shown while it lives: {answer}");
            looks.held_before += 1;
        }
    }
    Ok(looks)
}

fn shows_hold(view: &str, unit: &str, answer: &Answer) -> Result<bool> {
    let body = answer.json()?;
    Ok(match view {
        "list" => !data(answer)?.iter().any(|row| row["unit_id"] == unit),
        "unit" => body["occupancy"] == "held",
        _ => {
            let entries = body["entries"].as_array().with_context(|| format!("no entries: {answer}"))?;
            let lives = |entry: &Value| entry["kind"] == "hold" && entry["ended"] != true;
            entries.iter().any(lives)
        }
    })
}
