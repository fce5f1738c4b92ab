//! Read models rebuilt by the operator's verbs, beside readers and writers, and killed at it.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::client::{Answer, Http};
use super::suite::Size;
use super::system::System;
use super::world::{self, fresh};

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
fn results(system: &System, args: &[&str]) -> Result<Vec<Value>> {
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

/// A rebuild is killed again and again (with the whole process, when embedded); each goes on, and ends in the same rows.
pub fn killed(system: &mut System, size: Size) -> Result<String> {
    let models = ["available_units", "ledger_lines"];
    system.caught_up()?;
    let expected = digests(system, &models)?;
    let rounds = size.pick(4, 20);
    for round in 0..rounds {
        let args = ["projections", "rebuild", models[0], models[1], "--parallel", "2"];
        let mut child = system.program(&args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(20 + (round * 37) % 260));
        if let System::Embedded(embedded) = system {
            embedded.server().kill9()?;
        }
        // Of an embedded system both are killed: a verb that finds nobody at the socket opens the folder itself.
        child.kill()?;
        child.wait()?;
        if let System::Embedded(embedded) = system {
            embedded.start()?;
        }
        for row in results(system, &args)? {
            ensure!(row["result"] == "switched" && row["digest"] == row["live_digest"], "round {round}: {row}");
        }
        ensure!(digests(system, &models)? == expected, "round {round}: other digests than before");
    }
    Ok(format!("{rounds} kills; each rebuild went on and ended in the digest of the first"))
}

fn digests(system: &System, models: &[&str]) -> Result<Vec<String>> {
    let rows = results(system, &[&["projections", "rebuild", "--dry-run"], models].concat())?;
    rows.iter().map(|row| Ok(row["digest"].as_str().context("a digest")?.to_owned())).collect()
}
