//! Read models rebuilt by the operator's verbs, beside readers and writers, and killed at it.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::client::{Answer, Http};
use super::growth::{Stream, grow};
use super::suite::Size;
use super::system::System;
use super::world::{self, fresh};
use crate::net::{random_u64, wait_until};

/// What a client counts while models are rebuilt.
#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
}

/// Every model is rebuilt, rolled back and dropped while one client reads and another reads what it has written.
pub fn beside_clients(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let counts = Counts::default();
    let told = std::thread::scope(|scope| -> Result<String> {
        let reader = scope.spawn(|| read(&admin, &counts));
        let writer = scope.spawn(|| write(&admin, &property, &counts));
        let told = operate(system);
        counts.stop.store(true, Ordering::SeqCst);
        for client in [reader, writer] {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        told
    })?;
    system.caught_up()?;
    let equal = results(system, &["projections", "rebuild", "--all", "--dry-run"])?;
    ensure!(equal.iter().all(|row| row["result"] == "equal"), "after all that rows differ: {equal:?}");
    let [reads, writes] = [&counts.reads, &counts.writes].map(|count| count.load(Ordering::SeqCst));
    Ok(format!("{told}; meanwhile {reads} reads and {writes} writes that were read at once, none failed"))
}

fn operate(system: &System) -> Result<String> {
    let first = results(system, &["projections", "rebuild", "--all", "--parallel", "2"])?;
    ensure!(!first.is_empty(), "nothing was rebuilt");
    for row in &first {
        let equal = row["result"] == "switched" && row["differ"] == 0 && row["digest"] == row["live_digest"];
        ensure!(equal, "rebuilding under load: {row}");
    }
    let back = results(system, &["projections", "rollback", "available_units"])?;
    ensure!(back.len() == 1 && back[0]["result"] == "rolled back", "{back:?}");
    let manual = results(system, &["projections", "rebuild", "units", "--switch", "manual"])?;
    ensure!(manual[0]["result"] == "ready", "{manual:?}");
    let listed = system.rows(&["projections", "list"])?;
    let units = listed.iter().find(|row| row["name"] == "units").context("units in the list")?;
    ensure!(units["beside"].as_str().is_some_and(|beside| beside.contains("ready")), "{units}");
    ensure!(results(system, &["projections", "switch", "units"])?[0]["result"] == "switched", "switched by hand");
    for (verb, code) in [("drop", 0), ("drop", 4), ("abort", 4), ("rollback", 4), ("pause", 0), ("resume", 0)] {
        let output = system.casitas(&["projections", verb, "units"], "")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(code), "{verb} units ended with {:?}: {said}", output.status.code());
    }
    let unknown = system.casitas(&["projections", "rebuild", "unit"], "")?;
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    ensure!(unknown.status.code() == Some(4) && said.contains("available_units"), "{said}");
    Ok(format!("{} models rebuilt and switched, equal each; rolled back, dropped, paused", first.len()))
}

/// The result rows of a verb that must succeed.
pub fn results(system: &System, args: &[&str]) -> Result<Vec<Value>> {
    let rows = system.rows(args)?;
    Ok(rows.into_iter().filter(|row| row.get("progress").is_none()).collect())
}

fn read(admin: &Http, counts: &Counts) -> Result<()> {
    let public = admin.anonymous();
    while !counts.stop.load(Ordering::SeqCst) {
        for (http, path) in
            [(&public, "/units/available?limit=5"), (admin, "/units?limit=5"), (admin, "/properties?limit=5")]
        {
            let answer = http.get(path).now()?;
            ensure!(answer.status == 200, "GET {path} while a model is rebuilt: {answer}");
            counts.reads.fetch_add(1, Ordering::SeqCst);
        }
    }
    Ok(())
}

fn write(admin: &Http, property: &str, counts: &Counts) -> Result<()> {
    while !counts.stop.load(Ordering::SeqCst) {
        let (unit, position) = world::unit(admin, property, &fresh("U"))?;
        for path in [format!("/units/{unit}"), format!("/units/{unit}/calendar")] {
            let answer: Answer = admin.get(&path).after(&position, 5).now()?;
            ensure!(answer.status == 200, "what was just written is not seen at {path}: {answer}");
        }
        counts.writes.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What is killed in the middle of a rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// The operator's process, and with it the server, when embedded.
    Verb,
    Postmaster,
    Redis,
}

/// What became of the rebuilds that were under way.
#[derive(Default)]
struct Killed {
    victims: BTreeMap<Victim, u32>,
    /// They had ended before their moment, and another one was tried.
    late: u32,
    /// They ended as if nothing had happened.
    survived: u32,
    /// Generations that the next run went on with.
    resumed: u32,
}

const KILLED_MODELS: [&str; 2] = ["available_units", "ledger_lines"];
/// Parts of a rebuild that is killed, and those that the next one asks for: what is gone on with stays in the parts it has.
const PARTS: [&str; 2] = ["2", "3"];
/// How long a verb may take to notice that a server went away, and how long one is tried again when it came back.
const RECOVERS_WITHIN: Duration = Duration::from_secs(90);

/// Rebuilds are killed at random moments of all that they do; each goes on, and ends in the same rows. Dry runs are killed, too;
/// what they leave is in nobody's way.
pub fn killed(system: &mut System, size: Size) -> Result<String> {
    system.caught_up()?;
    if let (System::Embedded(_), Size::Full) = (&*system, size) {
        enlarge(system)?;
    }
    let expected = digests(system)?;
    // The first finds caches cold, and takes longer than those that are killed.
    let mut lasts = Duration::MAX;
    for _ in 0..2 {
        let began = Instant::now();
        switched(system, PARTS[0])?;
        lasts = lasts.min(began.elapsed());
    }
    let seed = random_u64();
    let mut rng = StdRng::seed_from_u64(seed);
    let victims: &[Victim] = match system {
        System::Embedded(_) => &[Victim::Verb],
        System::Distributed(_) => &[Victim::Verb, Victim::Postmaster, Victim::Verb, Victim::Redis],
    };
    let rounds: u32 = size.pick(4, 20);
    let mut killed = Killed::default();
    for round in 0..rounds {
        let victim = victims[round as usize % victims.len()];
        // One moment in each part of its duration, so that all of it is met.
        let mut moment = lasts * round / rounds + (lasts / rounds).mul_f64(rng.random());
        let begun = format!("round {round} of seed {seed:016x}: {victim:?} killed after");
        let began = Instant::now();
        while !kill(system, victim, moment, &mut killed).with_context(|| format!("{begun} {moment:.0?} of {lasts:.0?}"))? {
            killed.late += 1;
            ensure!(killed.late < rounds, "rebuilds end before they can be killed: {} of {rounds} rounds", killed.late);
            moment = moment.mul_f64(rng.random());
        }
        let context = || format!("{begun} {moment:.0?} of {lasts:.0?}");
        eprintln!("xtask: {}; in order again after {:.1?}", context(), began.elapsed());
        ensure!(digests(system).with_context(context)? == expected, "{}: other digests than before", context());
    }
    let Killed { victims, late, survived, resumed } = killed;
    ensure!(resumed > 0, "nothing was left to go on with in {rounds} rounds");
    let trials = size.pick(2, 5);
    let left = killed_trials(system, lasts, trials, &expected)?;
    Ok(format!(
        "{rounds} kills {victims:?} within {lasts:.1?} (seed {seed:016x}): {resumed} generations gone on with, {survived} rebuilds \
         lived through it ({late} more had ended before); of {trials} dry runs that were killed {left} left something, which the \
         next dropped; all in the digests of the first"
    ))
}

/// Answers how many of them left a generation.
fn killed_trials(system: &mut System, lasts: Duration, trials: u32, expected: &[String]) -> Result<u32> {
    let trial = [&["projections", "rebuild", "--dry-run"], &KILLED_MODELS[..]].concat();
    let mut left = 0;
    for round in 0..trials {
        let mut child = system.program(&trial).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(lasts * (2 * round + 1) / (2 * trials));
        kill_verb(system, &mut child)?;
        left += u32::from(!wait_for(|| generations(system, &["building"]))?.is_empty());
        let found = wait_for(|| digests(system)).context("a dry run after one that was killed")?;
        ensure!(found == expected, "a dry run after one that was killed: other digests than before");
        let still = generations(system, &["building"])?;
        ensure!(still.is_empty(), "what a dry run left that was killed is still there: {still:?}");
    }
    Ok(left)
}

/// The embedded system begins with nothing: its rebuilds would be over before they can be killed.
fn enlarge(system: &System) -> Result<()> {
    let (admin, port) = (world::admin(system)?, system.command_port()?);
    let property = world::property(&admin)?;
    let unit = || Ok(Stream::Unit(world::unit(&admin, &property, &fresh("many"))?.0));
    let units = (0..50).map(|_| unit()).collect::<Result<Vec<_>>>()?;
    grow(&admin, port, &units, 50_000)?;
    system.caught_up()
}

/// One rebuild with its victim, and the next one, which must go on with what the first left. `false` if it had ended before.
fn kill(system: &mut System, victim: Victim, moment: Duration, killed: &mut Killed) -> Result<bool> {
    let mut child =
        system.program(&rebuild(PARTS[0])).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    std::thread::sleep(moment);
    if child.try_wait()?.is_some() {
        ensure!(ended(child)?, "a rebuild that nobody disturbed failed");
        return Ok(false);
    }
    *killed.victims.entry(victim).or_default() += 1;
    match victim {
        Victim::Verb => kill_verb(system, &mut child)?,
        Victim::Postmaster => {
            system.stack()?.postgres.kill9()?;
            system.stack()?.postgres.start_again()?;
        }
        Victim::Redis => {
            system.stack()?.redis.kill9()?;
            system.stack()?.redis.start_again()?;
        }
    }
    killed.survived += u32::from(ended(child)?);
    let left = wait_for(|| generations(system, &["building", "ready"]))?;
    wait_for(|| switched(system, PARTS[1]))?;
    let live = generations(system, &["live"])?;
    for (model, begun) in left {
        ensure!(live.get(&model) == Some(&begun), "{model}: {begun:?} was not gone on with: {live:?}");
        killed.resumed += 1;
    }
    system.caught_up()?;
    Ok(true)
}

/// Of an embedded system both are killed: a verb that finds nobody at the socket opens the folder itself.
fn kill_verb(system: &mut System, child: &mut Child) -> Result<()> {
    if let System::Embedded(embedded) = system {
        embedded.server().kill9()?;
    }
    child.kill()?;
    child.wait()?;
    if let System::Embedded(embedded) = system {
        embedded.start()?;
    }
    Ok(())
}

/// Whether a verb did its work; one that did not must say why, unless it was killed itself.
fn ended(mut child: Child) -> Result<bool> {
    wait_until("the end of the verb", RECOVERS_WITHIN, || Ok(child.try_wait()?.is_some())).inspect_err(|_| {
        // Nobody waits for it any more.
        let _ = child.kill();
    })?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code().is_none_or(|code| code == 0) || !said.is_empty(), "it failed without a word");
    Ok(output.status.success())
}

/// A server that was killed may still be missed for a moment.
fn wait_for<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match work() {
            Err(_) if began.elapsed() < RECOVERS_WITHIN => std::thread::sleep(Duration::from_millis(100)),
            other => return other,
        }
    }
}

/// Number and parts of the generations in one of these states.
fn generations(system: &System, states: &[&str]) -> Result<BTreeMap<String, (u64, u64)>> {
    let rows = system.rows(&["projections", "status"])?;
    let wanted = |row: &&Value| states.iter().any(|state| row["state"] == *state);
    let number = |row: &Value, field: &str| row[field].as_u64().with_context(|| format!("no {field}: {row}"));
    let mut found = BTreeMap::new();
    for row in rows.iter().filter(wanted) {
        let name = row["name"].as_str().with_context(|| format!("no name: {row}"))?;
        if KILLED_MODELS.contains(&name) {
            found.insert(name.to_owned(), (number(row, "generation")?, number(row, "parts")?));
        }
    }
    Ok(found)
}

fn rebuild(parts: &str) -> [&str; 6] {
    ["projections", "rebuild", KILLED_MODELS[0], KILLED_MODELS[1], "--parallel", parts]
}

/// Rebuilds both, to the end.
fn switched(system: &System, parts: &str) -> Result<()> {
    let rows = results(system, &rebuild(parts))?;
    let equal = |row: &Value| row["result"] == "switched" && row["digest"] == row["live_digest"];
    ensure!(rows.len() == KILLED_MODELS.len() && rows.iter().all(equal), "{rows:?}");
    Ok(())
}

fn digests(system: &System) -> Result<Vec<String>> {
    let rows = results(system, &[&["projections", "rebuild", "--dry-run"], &KILLED_MODELS[..]].concat())?;
    rows.iter().map(|row| Ok(row["digest"].as_str().context("a digest")?.to_owned())).collect()
}
