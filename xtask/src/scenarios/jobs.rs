//! Report jobs: priority, kills, a broker that forgot everything.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::client::{Http, block, spawn};
use super::suite::Size;
use super::system::{Event, System};
use super::world::{self, finished};
use crate::net::wait_until;

const HIGH: &str = "/finances/generate_report";
const LOW: &str = "/legal/generate_report";
const ALL_FINISHED_WITHIN: Duration = Duration::from_secs(240);
/// The three places between the steps of a report at which the worker can be told to die.
const POINTS: [&str; 3] = ["render", "store", "append"];

/// Back to an ordinary worker.
const ORDINARY: [(&str, &str); 3] =
    [("CASITAS_CRASH_AT", ""), ("CASITAS_RENDER_DELAY_MS", ""), ("CASITAS_WORKER_SLOTS", "2")];

async fn ask(caller: &Http, path: &str, count: usize) -> Result<Vec<String>> {
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let ask = caller.post(path, &json!({}));
            spawn(async move { ask.send().await?.expect(202)?.id() })
        })
        .collect();
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(task.await??);
    }
    Ok(ids)
}

fn await_all(caller: &Http, ids: &[String]) -> Result<()> {
    for id in ids {
        let report = block(finished(caller, id, ALL_FINISHED_WITHIN))?;
        ensure!(report["status"] == "succeeded", "{report}");
    }
    Ok(())
}

/// Each report was completed exactly once, by the log.
fn completed_once(events: &[Event], ids: &[String]) -> Result<()> {
    let mut completed: BTreeMap<&str, usize> = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind == "ReportCompleted") {
        *completed.entry(event.id()).or_default() += 1;
    }
    let wrong: Vec<_> = ids.iter().filter(|id| completed.get(id.as_str()) != Some(&1)).collect();
    ensure!(wrong.is_empty(), "{} of {} reports were not completed exactly once: {wrong:?}", wrong.len(), ids.len());
    Ok(())
}

/// One busy slot, low jobs waiting, high jobs sent then: no low one starts before the last high one has finished.
pub fn priority(system: &mut System, size: Size) -> Result<String> {
    let (lows, highs, delay_ms) = size.pick((8, 3, "1000"), (53, 10, "1500"));
    // Up to three have started when the high ones come: at full size 50 wait. The delay is long enough for the high jobs to arrive while a low one is rendered.
    system.restart_worker(&[("CASITAS_WORKER_SLOTS", "1"), ("CASITAS_RENDER_DELAY_MS", delay_ms)])?;
    let outcome = race_of_queues(system, lows, highs);
    system.restart_worker(&ORDINARY)?;
    let (caller, base, low, high, figure) = outcome?;
    let all: Vec<String> = low.into_iter().chain(high).collect();
    await_all(&caller, &all)?;
    completed_once(&system.events("reports", base)?, &all)?;
    Ok(format!("{figure}; then all {} finished once", all.len()))
}

type Race = (Http, u64, Vec<String>, Vec<String>, String);

fn race_of_queues(system: &System, lows: usize, highs: usize) -> Result<Race> {
    let caller = world::admin(system)?;
    let base = system.heads()?["reports"];
    let low = block(ask(&caller, LOW, lows))?;
    let started = |events: &[Event]| events.iter().filter(|event| event.kind == "ReportAttemptStarted").count();
    // At the start of the second low job at the latest all of them wait, and a whole delay lies before us.
    wait_until("the second low job", Duration::from_secs(60), || Ok(started(&system.events("reports", base)?) >= 2))?;
    let high = block(ask(&caller, HIGH, highs))?;
    for id in &high {
        let report = block(finished(&caller, id, ALL_FINISHED_WITHIN))?;
        ensure!(report["status"] == "succeeded", "{report}");
    }
    let events = system.events("reports", base)?;
    let of = |ids: &[String], kind: &str| -> Vec<u64> {
        events
            .iter()
            .filter(|event| event.kind == kind && ids.iter().any(|id| id == event.id()))
            .map(|e| e.position)
            .collect()
    };
    let asked = of(&high, "ReportRequested");
    let done = of(&high, "ReportCompleted");
    let first = *asked.iter().min().context("no high report was asked for")?;
    let last = *done.iter().max().context("no high report finished")?;
    ensure!(done.len() == highs, "{} of {highs} high reports finished", done.len());
    let waiting = lows - of(&low, "ReportAttemptStarted").iter().filter(|position| **position < first).count();
    ensure!(waiting + 3 >= lows, "only {waiting} of {lows} low jobs waited");
    let between = of(&low, "ReportAttemptStarted").iter().filter(|position| (first..last).contains(*position)).count();
    ensure!(between == 0, "{between} low jobs started while high ones waited");
    let figure = format!("{waiting} low waiting, {highs} high sent: 0 low started before the last high finished");
    Ok((caller, base, low, high, figure))
}

/// The worker dies between render and store, store and append, append and ack: every report is finished, none twice.
pub fn kills(system: &mut System, size: Size) -> Result<String> {
    let (reports, each) = size.pick((16, 1), (100, 8));
    let caller = world::admin(system)?;
    let base = system.heads()?["reports"];
    system.kill_worker()?;
    let embedded = matches!(system, System::Embedded(_));
    if embedded {
        // Without the process nobody takes requests: they are made while it is too slow to finish any.
        system.restart_worker(&[("CASITAS_RENDER_DELAY_MS", "60000")])?;
    }
    let mut ids = block(ask(&caller, LOW, reports / 2))?;
    ids.extend(block(ask(&caller, HIGH, reports - reports / 2))?);
    let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut signals = std::collections::BTreeSet::new();
    for turn in 0..each * POINTS.len() {
        let point = POINTS[turn % POINTS.len()];
        // The second report that comes so far: not always the same one dies.
        let at = format!("{point}:2");
        system.start_doomed_worker(&[
            ("CASITAS_CRASH_AT", &at),
            ("CASITAS_RENDER_DELAY_MS", ""),
            ("CASITAS_WORKER_SLOTS", "1"),
        ])?;
        let mut ended = None;
        wait_until(&format!("the worker's end at {at}"), Duration::from_secs(60), || {
            ended = system.worker_ended()?;
            Ok(ended.is_some())
        })?;
        let status = ended.context("the worker runs on")?;
        let signal = status.signal().with_context(|| format!("the worker ended by itself at {at}: {status}"))?;
        signals.insert(signal);
        *killed.entry(point).or_default() += 1;
    }
    system.kill_worker()?;
    system.start_doomed_worker(&ORDINARY)?;
    system.restart_worker(&[])?;
    await_all(&caller, &ids)?;
    let events = system.events("reports", base)?;
    completed_once(&events, &ids)?;
    let attempts = events.iter().filter(|event| event.kind == "ReportAttemptStarted").count();
    ensure!(attempts > reports, "{attempts} attempts for {reports} reports: no kill hit one");
    for id in &ids {
        caller.get(&format!("/reports/{id}/result")).now()?.expect(200)?;
    }
    Ok(format!("killed {killed:?} (signal {signals:?}): {reports} of {reports} finished, 0 doubled, {attempts} attempts"))
}

/// The broker loses every message it held.
pub fn wiped(system: &mut System, size: Size) -> Result<String> {
    let reports = size.pick(8, 40);
    let caller = world::admin(system)?;
    let base = system.heads()?["reports"];
    system.restart_worker(&[("CASITAS_WORKER_SLOTS", "1"), ("CASITAS_RENDER_DELAY_MS", "1000")])?;
    let mut ids = block(ask(&caller, LOW, reports / 2))?;
    ids.extend(block(ask(&caller, HIGH, reports - reports / 2))?);
    let stack = system.stack()?;
    let mut held = String::new();
    wait_until("messages in the broker", Duration::from_secs(30), || {
        let listed = stack.rabbitmq.ctl(&["list_queues", "-p", "casitas", "--no-table-headers", "name", "messages"])?;
        held =
            listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ");
        let waiting = listed.lines().filter(|line| !line.starts_with("dead_letters"));
        let waiting: usize = waiting.filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok()).sum();
        Ok(waiting >= reports / 2)
    })?;
    stack.rabbitmq.wipe()?;
    system.restart_worker(&ORDINARY)?;
    await_all(&caller, &ids)?;
    let events = system.events("reports", base)?;
    completed_once(&events, &ids)?;
    Ok(format!("RabbitMQ wiped with its messages ({held}): {reports} of {reports} finished, 0 doubled"))
}
