//! The cache as clients and Redis itself see it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::client::{Http, block, spawn, until};
use super::dates::{day, instant, now};
use super::suite::Size;
use super::system::System;
use super::walkthrough;
use super::world::{self, SETTLES_WITHIN, data, fresh};
use crate::servers::Redis;
use crate::stack::Stack;

/// An answer without a token may be this old: the promised second (`max-age=1`), and one for a busy machine.
const STALE_MAX: Duration = Duration::from_secs(2);
/// How long Redis stays away in the full form (R6 of reliability-security.md).
const AWAY: Duration = Duration::from_secs(60);
/// Of the GETs while it is away. R6 has it told and names no number. One that asks a Redis that is away waits 150 ms for
/// it, and the others leave it alone for half a second after that: whoever waits for a second was kept by something else.
const AWAY_P99_MAX: Duration = Duration::from_secs(1);
/// Who ask one replica for a list at the same moment.
const CLIENTS_OF_A_REPLICA: usize = 250;
/// From the command that places a hold to its end: the list is asked for and kept by both replicas before that.
const HOLD_LIVES: Duration = Duration::from_secs(3);

fn redis(stack: &Stack, args: &[&str]) -> Result<String> {
    cli(&stack.redis, &stack.secret("ops_token")?, args)
}

fn cli(redis: &Redis, password: &str, args: &[&str]) -> Result<String> {
    redis.cli(Some(("operator", password)), args)
}

fn keys(stack: &Stack) -> Result<Vec<String>> {
    Ok(redis(stack, &["--scan"])?.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect())
}

fn keyspace_hits(stack: &Stack) -> Result<u64> {
    let info = redis(stack, &["INFO", "stats"])?;
    let line = info.lines().find_map(|line| line.strip_prefix("keyspace_hits:")).context("no keyspace_hits")?;
    Ok(line.trim().parse()?)
}

/// Flushed, one command, no GET: the projector itself has put the list there, and the first GET is a HIT.
pub fn warm(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let http = system.http()?;
    let before_start = system.stack()?;
    redis(before_start, &["FLUSHALL"])?;
    let (unit, position) = {
        let id = admin.done("/units", &world::unit_body(&property, "W1"))?.id()?;
        let listed = admin.done(&format!("/units/{id}/listing"), &world::listing_body())?;
        (id, listed.position()?)
    };
    let stack = system.stack()?;
    crate::net::wait_until("available_units in Redis", SETTLES_WITHIN, || {
        Ok(keys(stack)?.iter().any(|key| key.contains("available_units")))
    })?;
    let found = keys(stack)?;
    let hits = block(until("a HIT of the list as the projector wrote it", SETTLES_WITHIN, || async {
        let answer = http.get("/units/available").after(&position, 5).send().await?.success()?;
        Ok(answer.is_hit().then_some(answer))
    }))?;
    ensure!(hits.text().contains(&unit) || data(&hits)?.len() == 50, "the list in Redis does not show the unit");
    Ok(format!("after FLUSHALL and one command Redis holds {found:?}"))
}

/// The second GET of a list is a HIT on whichever replica; without the in-process tier Redis counts as many hits.
pub fn tiers(system: &mut System, memory: bool) -> Result<String> {
    let switch = if memory { "on" } else { "off" };
    for replica in ["query-1", "query-2"] {
        system.restart(replica, &[("CASITAS_MEMORY_CACHE", switch)])?;
    }
    system.caught_up()?;
    // With an access token, which the list does not need: Nginx answers by itself only those who send none.
    let http = world::admin(system)?;
    let stack = system.stack()?;
    let before = keyspace_hits(stack)?;
    let (mut hits, mut early, mut replicas) = (0_u64, 0, BTreeSet::new());
    for list in 0..10 {
        // A filter that nobody asked for before.
        let path = format!("/units/available?max_price={}", 500_000 + list + if memory { 0 } else { 1_000 });
        let first = http.get(&path).now()?.success()?;
        ensure!(!first.is_hit(), "the first GET of {path} was a HIT already");
        let (_, misses) = block(walkthrough::hit(&http, &path))?;
        early += misses;
        hits += 1;
        for _ in 0..5 {
            let again = http.get(&path).now()?.success()?;
            ensure!(again.is_hit(), "a further GET of {path} by {} was no HIT", again.served_by());
            ensure!(again.body == first.body, "the cached answer differs");
            hits += 1;
            replicas.insert(again.served_by());
        }
        replicas.insert(first.served_by());
    }
    let rise = keyspace_hits(stack)? - before;
    for replica in ["query-1", "query-2"] {
        ensure!(replicas.contains(replica), "{replica} is not among {replicas:?}");
    }
    if !memory {
        ensure!(rise >= hits, "{hits} HITs, but Redis counted {rise}");
        for replica in ["query-1", "query-2"] {
            system.restart(replica, &[("CASITAS_MEMORY_CACHE", "on")])?;
        }
    }
    Ok(format!(
        "in-process tier {switch}: {hits} HITs by {replicas:?} ({early} of 10 second GETs came before Redis had the answer); Redis' \
         keyspace_hits + {rise}"
    ))
}

/// Both replicas as nobody in particular asks them, without Nginx in front; and their ports.
fn replicas(system: &mut System, admin: &Http) -> Result<Vec<(Http, u16)>> {
    let replica = |name: &str| -> Result<(Http, u16)> {
        let port = system.stack()?.role(name)?.port();
        Ok((admin.anonymous().at(&format!("http://127.0.0.1:{port}")), port))
    };
    ["query-1", "query-2"].into_iter().map(replica).collect()
}

/// How often a replica computed an answer.
fn computed(port: u16) -> Result<f64> {
    crate::http::metric(port, "casitas_computations_total")
}

/// How often an answer was not kept, because the replica had not heard of changes for a second.
fn bypassed(port: u16) -> Result<f64> {
    crate::http::metric(port, "casitas_cache_requests_total{result=\"bypass\"}")
}

/// A list changes, and 500 clients ask both replicas for it at the same moment, some of them with the position of the change:
/// each replica computes it once for a change at most, and nobody is refused. Changes are counted in the
/// units' log: what other scenarios left behind may change the list, too.
pub fn stampede(system: &mut System, size: Size) -> Result<String> {
    let changes: u32 = size.pick(5, 40);
    let admin = world::admin(system)?;
    let added = admin.done("/units", &world::unit_body(&world::property(&admin)?, "S1"))?;
    let unit = added.id()?;
    let replicas = replicas(system, &admin)?;
    let path = format!("/units/available?max_price={}", 700_000 + crate::net::random_u64() % 100_000);
    let events = |system: &System| system.heads()?.get("units").copied().context("no head of units");
    let events_before = events(system)?;
    for (http, _) in &replicas {
        http.get(&path).after(&added.position()?, 5).now()?.success()?;
    }
    let before = replicas.iter().map(|(_, port)| computed(*port)).collect::<Result<Vec<_>>>()?;
    let mut slowest = Duration::ZERO;
    for change in 0..changes {
        let answer = match change {
            0 => admin.done(&format!("/units/{unit}/listing"), &world::listing_body())?,
            _ => admin.done(
                &format!("/units/{unit}/price"),
                &json!({"price": world::money(100_000 + i64::from(change)), "effective_on": super::dates::day(0)}),
            )?,
        };
        let position = answer.position()?;
        let began = Instant::now();
        let asks = replicas.iter().flat_map(|(http, _)| {
            (0..CLIENTS_OF_A_REPLICA).map(|client| {
                let ask = http.get(&path);
                if client % 5 == 0 { ask.after(&position, 5) } else { ask }
            })
        });
        let asks: Vec<_> = asks.map(|ask| spawn(async move { ask.send().await?.success().map(drop) })).collect();
        for ask in asks {
            block(ask)??;
        }
        slowest = slowest.max(began.elapsed());
    }
    let mut told = Vec::new();
    let seen = events(system)? - events_before;
    ensure!(
        (u64::from(changes)..u64::from(2 * changes)).contains(&seen),
        "{seen} events for {changes} changes: this shows nothing"
    );
    for ((_, port), before) in replicas.iter().zip(before) {
        let rise = computed(*port)? - before;
        ensure!(rise <= seen as f64, "{seen} events were computed {rise} times by one replica");
        told.push(rise);
    }
    ensure!(told.iter().sum::<f64>() > 0.0, "nothing was computed at all: the change was seen by nobody");
    Ok(format!("{changes} changes x 500 clients at once: computed {told:?} times; the slowest 500 took {slowest:.0?}"))
}

/// A list changes because a hold's time is over, and 500 clients ask both replicas for it at that instant: each
/// computes it once for that, and once more at most for each event (the hold's end becomes one a moment later). While a replica hears
/// of no changes for a second (this machine stood still), it keeps nothing and computes more: such an end says nothing.
pub fn expiry(system: &mut System, size: Size) -> Result<String> {
    let holds = size.pick(2, 20);
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let party = world::party(&admin, &fresh("Holder"))?;
    let (unit, _) = world::unit(&admin, &property, "X1")?;
    let replicas = replicas(system, &admin)?;
    let path = format!("/units/available?property_id={property}");
    let (mut told, mut stood_still) = (Vec::new(), 0);
    while told.len() < holds {
        ensure!(stood_still <= holds, "{stood_still} of {} times a replica bypassed its cache", told.len() + stood_still);
        let expires = Duration::from_micros((now() + HOLD_LIVES).as_micros() as u64);
        let hold = json!({"party_id": party, "from": day(-1), "to": day(5), "expires_at": instant(expires)});
        let placed = admin.post(&format!("/units/{unit}/holds"), &hold).now()?.expect(201)?;
        for (http, _) in &replicas {
            let held = data(&http.get(&path).after(&placed.position()?, 2).now()?.success()?)?;
            ensure!(held.is_empty(), "the unit is listed although it is held: {held:?}");
        }
        let counts = |of: fn(u16) -> Result<f64>| replicas.iter().map(|(_, port)| of(*port)).collect::<Result<Vec<_>>>();
        let (before, bypassed_before) = (counts(computed)?, counts(bypassed)?);
        ensure!(now() < expires, "the hold was over before everybody was ready to ask");
        let asks = replicas.iter().flat_map(|(http, _)| (0..CLIENTS_OF_A_REPLICA).map(|_| http.get(&path)));
        let asks = asks.map(|ask| {
            spawn(async move {
                tokio::time::sleep(expires.saturating_sub(now())).await;
                data(&ask.send().await?.success()?)
            })
        });
        for ask in asks.collect::<Vec<_>>() {
            let listed = block(ask)??;
            ensure!(listed.len() == 1 && listed[0]["unit_id"] == unit.as_str(), "asked after the hold's end: {listed:?}");
        }
        let after = counts(computed)?;
        if counts(bypassed)? != bypassed_before {
            stood_still += 1;
            continue;
        }
        let position = placed.json()?["position"].as_u64().with_context(|| format!("no position: {placed}"))?;
        let events = system.events("units", position)?.len();
        let rises: Vec<f64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        // One replica may find in Redis what the other has just computed.
        ensure!(rises.iter().sum::<f64>() > 0.0, "nothing was computed: the hold's end was seen by nobody");
        let most = (1 + events) as f64;
        ensure!(rises.iter().all(|rise| *rise <= most), "a hold's end and {events} events were computed {rises:?} times");
        told.push(rises);
    }
    Ok(format!(
        "{holds} ends of a hold x 500 clients at the instant: computed {told:?} times by the two replicas ({stood_still} more while \
         a replica bypassed its cache)"
    ))
}

/// What is known of the units that the writer changes.
struct Known {
    /// The last value that was acknowledged, and the last that was sent, of each unit.
    acked: Vec<u64>,
    sent: Vec<u64>,
    /// The position of the last acknowledged change.
    token: Option<String>,
    /// What was acknowledged when, oldest first.
    history: VecDeque<(Instant, Vec<u64>)>,
}

impl Known {
    /// What any answer that is asked for now must show at least.
    fn settled(&mut self) -> Vec<u64> {
        while self.history.get(1).is_some_and(|(at, _)| at.elapsed() >= STALE_MAX) {
            self.history.pop_front();
        }
        self.history.front().map(|(_, values)| values.clone()).unwrap_or_default()
    }
}

struct Load {
    admin: Http,
    property: String,
    units: Vec<String>,
    known: Mutex<Known>,
    stop: AtomicBool,
    answers: AtomicU64,
    hits: AtomicU64,
    writes: AtomicU64,
    /// When each GET began, and how long it took.
    times: Mutex<Vec<(Instant, Duration)>>,
    faults: Mutex<Vec<String>>,
}

impl Load {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn times(&self) -> MutexGuard<'_, Vec<(Instant, Duration)>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, text: String) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    async fn write(self: Arc<Self>) {
        let mut turn = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let at = turn % self.units.len();
            turn += 1;
            let value = {
                let mut known = self.known();
                known.sent[at] += 1;
                known.sent[at]
            };
            let path = format!("/units/{}", self.units[at]);
            let answer = self.admin.request("PATCH", &path).json(&json!({"area_m2": value})).send().await;
            match answer.and_then(super::client::Answer::success).and_then(|answer| answer.position()) {
                Ok(position) => {
                    let mut known = self.known();
                    known.acked[at] = value;
                    known.token = Some(position);
                    let values = known.acked.clone();
                    known.history.push_back((Instant::now(), values));
                    self.writes.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return self.fault(format!("a command failed: {error:#}")),
            }
        }
    }

    async fn read(self: Arc<Self>, reader: usize) {
        let mut turn = reader;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let began = Instant::now();
            if let Err(error) = self.read_once(turn).await {
                self.fault(format!("{error:#}"));
            }
            self.times().push((began, began.elapsed()));
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn read_once(&self, turn: usize) -> Result<()> {
        let with_token = turn.is_multiple_of(2);
        let (least, token) = {
            let mut known = self.known();
            match (with_token, known.token.clone()) {
                (true, Some(token)) => (known.acked.clone(), Some(token)),
                _ => (known.settled(), None),
            }
        };
        let one = (turn / 2).is_multiple_of(3).then_some(turn % self.units.len());
        let path = match one {
            Some(unit) => format!("/units/{}", self.units[unit]),
            None => format!("/units/available?property_id={}&limit=100", self.property),
        };
        let mut ask = self.admin.get(&path);
        if let Some(token) = &token {
            ask = ask.after(token, 5);
        }
        let answer = ask.send().await?.expect(200)?;
        if answer.is_hit() {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        let rows: Vec<Value> = match one {
            Some(_) => vec![answer.json()?],
            None => data(&answer)?,
        };
        ensure!(one.is_some() || rows.len() == self.units.len(), "{} of {} units: {answer}", rows.len(), self.units.len());
        let most = self.known().sent.clone();
        for row in rows {
            let at = self.units.iter().position(|unit| row["unit_id"] == unit.as_str()).context("an unknown unit")?;
            let value = row["area_m2"].as_u64().context("no area")?;
            ensure!(
                value >= least[at] && value <= most[at],
                "{path} by {} with token {token:?} shows {value}, where {} to {} is true",
                answer.served_by(),
                least[at],
                most[at]
            );
        }
        Ok(())
    }
}

/// Flushed, stopped (in the full form for a minute), started: every answer is true and none is a 5xx, or much slower
/// than usual.
pub fn redis_away(system: &mut System, size: Size) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let mut units = Vec::new();
    let mut position = String::new();
    for number in 0..20 {
        let (unit, at) = world::unit(&admin, &property, &fresh(&format!("R{number}")))?;
        units.push(unit);
        position = at;
    }
    admin.get("/units/available").after(&position, 10).now()?.success()?;
    let start = vec![50; units.len()];
    let history = VecDeque::from([(Instant::now(), start.clone())]);
    let known = Mutex::new(Known { acked: start.clone(), sent: start, token: None, history });
    let load = Arc::new(Load {
        admin,
        property,
        units,
        known,
        stop: AtomicBool::new(false),
        answers: AtomicU64::new(0),
        hits: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        times: Mutex::default(),
        faults: Mutex::default(),
    });
    let mut tasks = vec![spawn(load.clone().write())];
    tasks.extend((0..4).map(|reader| spawn(load.clone().read(reader))));
    let answers_a_phase = size.pick(150, 1_000);
    let phase = |what: &str| {
        let base = load.answers.load(Ordering::Relaxed);
        crate::net::wait_until(&format!("{answers_a_phase} answers while Redis is {what}"), Duration::from_secs(300), || {
            Ok(load.answers.load(Ordering::Relaxed) >= base + answers_a_phase)
        })
    };
    let outcome = (|| -> Result<(u64, Slowness)> {
        phase("up")?;
        let stack = system.stack()?;
        for _ in 0..size.pick(3, 5) {
            redis(stack, &["FLUSHALL"])?;
            phase("flushed")?;
        }
        stack.redis.stop()?;
        let stopped = Instant::now();
        phase("stopped")?;
        let away = size.pick(Duration::ZERO, AWAY);
        crate::net::wait_until("Redis having been away for long", 2 * AWAY, || Ok(stopped.elapsed() >= away))?;
        let slowness = Slowness::of(&load.times(), stopped, Instant::now())?;
        stack.redis.start_again()?;
        let hits = load.hits.load(Ordering::Relaxed);
        phase("started again")?;
        stack.redis.kill9()?;
        phase("killed")?;
        stack.redis.start_again()?;
        phase("back")?;
        crate::net::wait_until("entries in Redis again", SETTLES_WITHIN, || Ok(!keys(stack)?.is_empty()))?;
        Ok((load.hits.load(Ordering::Relaxed) - hits, slowness))
    })();
    load.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        block(task)?;
    }
    let (hits_after, slowness) = outcome?;
    let faults = std::mem::take(&mut *load.faults.lock().unwrap_or_else(PoisonError::into_inner));
    let (answers, writes) = (load.answers.load(Ordering::Relaxed), load.writes.load(Ordering::Relaxed));
    ensure!(faults.is_empty(), "{} wrong answers or failures of {answers}; the first: {}", faults.len(), faults[0]);
    ensure!(hits_after > 0, "no HIT since Redis is back");
    let Slowness { gets, away, p50, p99, max } = slowness;
    ensure!(p99 <= AWAY_P99_MAX, "while Redis was away: p99 {p99:.0?} of {gets} GETs, at most {AWAY_P99_MAX:?} was allowed");
    Ok(format!(
        "{answers} GETs beside {writes} commands: 0 wrong, 0 5xx; {} HITs; {gets} GETs while Redis was away for {away:.0?}: \
         p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}",
        load.hits.load(Ordering::Relaxed)
    ))
}

/// How long GETs took that began while something was away.
struct Slowness {
    gets: usize,
    away: Duration,
    p50: Duration,
    p99: Duration,
    max: Duration,
}

impl Slowness {
    fn of(times: &[(Instant, Duration)], from: Instant, to: Instant) -> Result<Self> {
        let within = times.iter().filter(|(began, _)| (from..to).contains(began));
        let mut took: Vec<Duration> = within.map(|(_, took)| *took).collect();
        took.sort_unstable();
        let max = *took.last().context("no GET began meanwhile")?;
        let quantile = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1];
        Ok(Self { gets: took.len(), away: to - from, p50: quantile(50), p99: quantile(99), max })
    }
}
