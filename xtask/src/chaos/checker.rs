//! Reads the history, the logs and the views, and counts what must not be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;

use super::faults::{Findings, Fired};
use super::figures::Figures;
use super::history::{Command, Read, Shown, Try};
use super::load::{Load, MoveIn};
use super::logs::{self, Logs, Stored};
use super::samples::{Timeline, held_at};
use crate::net::wait_until;
use crate::scenarios::crashes;
use crate::scenarios::system::System;
use crate::servers::Postgres;

/// The promised staleness bound, and what a sample may be late by.
const STALE_AFTER: Duration = Duration::from_millis(1_000 + 150);
/// After a fault the views may be behind for so long before a GET is held to what was acknowledged.
pub(super) const CALM_AFTER: Duration = Duration::from_secs(5);
/// R14: no command waits longer in the command-api; and what the way there and back may take on a busy machine.
pub(super) const COMMAND_MAX: Duration = Duration::from_millis(2_000 + 500);
/// R14: no GET waits longer, whoever answers it, and the same allowance. One that waits two seconds for its position is given up by
/// Nginx a little after them.
const READ_MAX: Duration = Duration::from_millis(2_000 + 500);
const WAITING_READ_MAX: Duration = Duration::from_millis(2_200 + 500);
/// What Nginx gives a command: 1 s to come to a role and 2.2 s to be answered by it, and twice the allowance.
const ANY_MAX: Duration = Duration::from_millis(3_200 + 1_000);
/// What follows from commands is there so long after the last fault. In less than the minute after which the dispatcher gives
/// up an attempt: one that died with its worker began again at once.
const SETTLED_WITHIN: Duration = Duration::from_secs(45);
/// But not sooner than so long after the last command, whenever the last fault was.
const SETTLES: Duration = Duration::from_secs(20);
/// Examples shown of what must not be.
pub(super) const EXAMPLES: usize = 5;

// Columns that a seeded bug must turn red.
pub(super) const DISORDER: &str = "forks, gaps, time going back";
pub(super) const REPORTS: &str = "reports not finished, or twice";
pub(super) const FOLD: &str = "views other than a fresh fold";

/// Something that must be zero.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: &'static str,
    pub count: usize,
    pub examples: Vec<String>,
}

impl Column {
    fn new(name: &'static str, found: Vec<String>) -> Self {
        let count = found.len();
        Self { name, count, examples: found.into_iter().take(EXAMPLES).collect() }
    }
}

pub struct Verdict {
    pub columns: Vec<Column>,
    pub figures: Figures,
    /// GETs that were held to what was acknowledged, after a fault and what it left behind.
    pub calm_reads: usize,
}

/// Once the clients have ended and the faults are over.
///
/// # Errors
/// When the logs or the servers cannot be asked.
pub fn check(system: &mut System, load: &Load, findings: Findings, views: &Timeline) -> Result<Verdict> {
    let (commands, reads, faults) = load.history.take();
    let mut columns = Vec::new();

    eprintln!("chaos: waiting for reports, for the steps of move-ins and for the views");
    let reports = load.reports.lock().map(|reports| reports.clone()).unwrap_or_default();
    let moved_in = load.moved_in.lock().map(|moved| moved.clone()).unwrap_or_default();
    let life_again = findings.fired.last().map_or(Duration::ZERO, |fault| fault.to + fault.recovered);
    let within = (life_again + SETTLED_WITHIN).saturating_sub(load.history.now()).max(SETTLES);
    let open = settle(system, &reports, &moved_in, within)?;
    let logs = logs::read(&system.stack()?.postgres)?;

    columns.push(Column::new("acknowledged and lost", lost(&commands, &logs)));
    columns.push(Column::new("doubled", doubled(&commands, &logs)));
    columns.push(Column::new("done, though said to be refused", untruthful(&commands, &logs)));
    columns.push(Column::new("repeated with another answer", answered_otherwise(&commands)));
    columns.push(Column::new("keys of persons who are not there", keys_of_nobody(&system.stack()?.postgres)?));
    columns.push(Column::new("double-booked", logs::double_booked(&logs["units"])));
    columns.push(Column::new(DISORDER, logs::disorder(&logs)));
    let hot = Ages::of(&logs["units"]);
    columns.push(Column::new("stale beyond the token", stale_beyond_token(&reads, &hot)));
    columns.push(Column::new("stale beyond one second", stale_beyond_a_second(&reads, &hot, views)));
    let Calm { stale, judged, after_faults } = stale_in_calm(&reads, &commands, &hot, &findings.fired);
    columns.push(Column::new("stale though nothing was wrong", stale));
    columns.push(Column::new("wrong or false-empty answers", wrong_answers(&reads, &commands, &hot, &findings.fired)));
    columns.push(Column::new(REPORTS, open.reports));
    columns.push(Column::new("steps lost or doubled", open.steps));
    columns.push(Column::new("5xx that is no 502/503/504 problem", malformed(&commands, &reads)));
    columns.push(Column::new("commands answered after 2 s", slow_commands(&commands)));
    columns.push(Column::new("GETs answered after 2 s", slow_reads(&reads)));
    columns.push(Column::new("hung", hung(&commands, &reads)));
    columns.push(Column::new("GETs failed in rolling restarts", findings.drain_failures.clone()));
    columns.push(Column::new("tokens wrongly accepted", findings.wrong_tokens.clone()));
    columns.push(Column::new("stalls that nothing showed", findings.unseen_stalls.clone()));
    columns.push(Column::new("roles that ended by themselves", findings.ended.clone()));
    columns.push(Column::new("clients left without an answer", faults));

    let (differing, compared) = match open.behind.is_empty() {
        // Views that never come to the head of their log are not those of a fresh fold either.
        false => (open.behind, "nothing: the views stand still".to_owned()),
        true => fold(system, load),
    };
    let differing = differing.into_iter().map(|line| line.chars().take(700).collect()).collect();
    columns.push(Column::new(FOLD, differing));

    let mut figures = Figures::of(&commands, &reads, &logs, &findings);
    figures.say("GETs judged while nothing was wrong", format!("{judged}, {after_faults} of them after a fault"));
    figures.say("compared with a fresh fold", compared);
    figures.say("reports asked for", reports.len().to_string());
    figures.say("move-ins", moved_in.len().to_string());
    Ok(Verdict { columns, figures, calm_reads: after_faults })
}

fn fold(system: &mut System, load: &Load) -> (Vec<String>, String) {
    eprintln!("chaos: folding the views anew");
    match crashes::fold_again(system, &load.caller()) {
        Ok(fold) => (fold.differing, format!("{} views of {} rows and {} GETs", fold.tables, fold.rows, fold.gets)),
        Err(error) => (vec![format!("{error:#}")], "nothing".to_owned()),
    }
}

fn effects(logs: &Logs) -> BTreeMap<&str, Vec<&Stored>> {
    let mut effects: BTreeMap<&str, Vec<&Stored>> = BTreeMap::new();
    for event in logs.values().flatten().filter(|event| !event.marker.is_empty()) {
        effects.entry(&event.marker).or_default().push(event);
    }
    effects
}

fn lost(commands: &[Command], logs: &Logs) -> Vec<String> {
    let effects = effects(logs);
    let mut found = Vec::new();
    for command in commands.iter().filter(|command| command.is_ok()) {
        let events = effects.get(command.intent.marker.as_str()).map(Vec::as_slice).unwrap_or_default();
        for told in command.told.iter().filter(|told| told.position > 0) {
            if !events.iter().any(|event| event.position == told.position) {
                found.push(format!("{} was acknowledged at {} and is not there", command.intent.content, told.position));
            }
        }
    }
    found
}

/// One key, more than one execution: each has a correlation id of its own.
fn doubled(commands: &[Command], logs: &Logs) -> Vec<String> {
    let effects = effects(logs);
    let mut found = Vec::new();
    for command in commands {
        let events = effects.get(command.intent.marker.as_str()).map(Vec::as_slice).unwrap_or_default();
        let executions: BTreeSet<&str> = events.iter().map(|event| event.correlation.as_str()).collect();
        if executions.len() > 1 {
            let at: Vec<u64> = events.iter().map(|event| event.position).collect();
            found.push(format!("{} was done {} times, at {at:?}", command.intent.content, executions.len()));
        }
    }
    found
}

fn untruthful(commands: &[Command], logs: &Logs) -> Vec<String> {
    let effects = effects(logs);
    let refused = commands.iter().filter(|command| command.is_refused());
    refused
        .filter_map(|command| {
            let event = effects.get(command.intent.marker.as_str())?.first()?;
            let tries: Vec<_> = command.tries.iter().map(|one| (one.status, one.code.as_str())).collect();
            Some(format!("{} was refused ({tries:?}) and is at {}", command.intent.content, event.position))
        })
        .collect()
}

/// All answers to one key name the same thing at the same place.
fn answered_otherwise(commands: &[Command]) -> Vec<String> {
    let differs = |command: &&Command| {
        let first = command.told.first().map(|told| (&told.id, told.position));
        command.told.iter().any(|told| Some((&told.id, told.position)) != first)
    };
    commands.iter().filter(differs).map(|command| format!("{}: {:?}", command.intent.content, command.told)).collect()
}

/// What each unit's versions and areas were, and when.
struct Ages {
    /// By unit: (position, version, area), in order.
    units: BTreeMap<String, Vec<(u64, u64, u64)>>,
}

impl Ages {
    fn of(units: &[Stored]) -> Self {
        let mut ages: BTreeMap<String, Vec<(u64, u64, u64)>> = BTreeMap::new();
        for event in units {
            let Some(unit) = event.stream.strip_prefix("unit:") else { continue };
            let known = ages.entry(unit.to_owned()).or_default();
            let before = known.last().map_or(0, |(_, _, area)| *area);
            known.push((event.position, event.sequence, event.payload["area_m2"].as_u64().unwrap_or(before)));
        }
        Self { units: ages }
    }

    fn at(&self, unit: &str, position: u64) -> Option<(u64, u64)> {
        let known = self.units.get(unit)?;
        let before = known.partition_point(|(at, _, _)| *at <= position);
        known.get(before.checked_sub(1)?).map(|(_, version, area)| (*version, *area))
    }

    /// What the unit is shown to be: at most so new. `None`: it never was so.
    fn newest(&self, unit: &str, shown: Shown) -> Option<u64> {
        let known = self.units.get(unit)?;
        match shown {
            Shown::Version(version) => known.iter().find(|(_, at, _)| *at == version).map(|(_, version, _)| *version),
            Shown::Area(area) => known.iter().rev().find(|(_, _, at)| *at == area).map(|(_, version, _)| *version),
        }
    }

    /// Whether what is shown is older than the unit was at a position: the version it should have been at least.
    fn older(&self, unit: &str, shown: Shown, position: u64) -> Option<String> {
        let (version, _) = self.at(unit, position)?;
        let newest = self.newest(unit, shown)?;
        (newest < version).then(|| format!("unit {unit} as {shown:?} (version {newest} at most) where {version} was due"))
    }
}

fn told_of(read: &Read) -> String {
    let Read { path, one, token, .. } = read;
    format!("{path} by {} at {:.3} s (token {token:?})", one.by, one.begun.as_secs_f64())
}

fn stale_beyond_token(reads: &[Read], hot: &Ages) -> Vec<String> {
    let mut found = Vec::new();
    for read in reads {
        let Some(token) = read.token else { continue };
        let older = read.shown.iter().filter_map(|(unit, shown)| hot.older(unit, *shown, token));
        found.extend(older.map(|older| format!("{} shows {older}", told_of(read))));
    }
    found
}

fn model_of(path: &str) -> &'static str {
    if path.starts_with("/units/available") { "available_units" } else { "units" }
}

/// Older than what the view store held a second before the request began.
fn stale_beyond_a_second(reads: &[Read], hot: &Ages, views: &Timeline) -> Vec<String> {
    let mut found = Vec::new();
    for read in reads {
        let Some(at) = read.one.begun.checked_sub(STALE_AFTER) else { continue };
        let position = held_at(views, model_of(&read.path), at);
        let older = read.shown.iter().filter_map(|(unit, shown)| hot.older(unit, *shown, position));
        found.extend(older.map(|older| format!("{} shows {older}, units:{position} being in the views", told_of(read))));
    }
    found
}

fn is_calm(fired: &[Fired], at: Duration) -> bool {
    fired.iter().all(|fault| at < fault.from || at > fault.to + fault.recovered + CALM_AFTER)
}

/// What GETs showed while no fault was on and none was just over.
#[derive(Default)]
struct Calm {
    stale: Vec<String>,
    /// GETs that showed something, and something was due.
    judged: usize,
    /// Of these, not only before the first fault.
    after_faults: usize,
}

/// Older than what was acknowledged a second before the request began.
fn stale_in_calm(reads: &[Read], commands: &[Command], hot: &Ages, fired: &[Fired]) -> Calm {
    let mut acked: Vec<(Duration, u64)> = commands
        .iter()
        .filter(|command| command.intent.context == "units")
        .filter_map(|command| Some((command.known_at()?, command.told.first()?.position)))
        .collect();
    acked.sort_unstable();
    // The highest position acknowledged up to each.
    let mut highest = 0;
    for (_, position) in &mut acked {
        highest = highest.max(*position);
        *position = highest;
    }
    let mut calm = Calm::default();
    for read in reads.iter().filter(|read| !read.shown.is_empty() && is_calm(fired, read.one.begun)) {
        let Some(at) = read.one.begun.checked_sub(STALE_AFTER) else { continue };
        let before = acked.partition_point(|(when, _)| *when <= at);
        let Some((_, position)) = before.checked_sub(1).map(|last| acked[last]) else { continue };
        calm.judged += 1;
        calm.after_faults += usize::from(fired.iter().any(|fault| fault.from <= read.one.begun));
        let older = read.shown.iter().filter_map(|(unit, shown)| hot.older(unit, *shown, position));
        let told = |older: String| format!("{} shows {older}, units:{position} being acknowledged", told_of(read));
        calm.stale.extend(older.map(told));
    }
    calm
}

/// Answers that no state of the logs ever gave, and refusals of callers who may.
fn wrong_answers(reads: &[Read], commands: &[Command], hot: &Ages, fired: &[Fired]) -> Vec<String> {
    // A query replica whose clock is wrong takes good tokens for bad ones. When it is another role's, nobody may.
    let is_on = |fault: &Fired, at: Duration| fault.from <= at && at <= fault.to + fault.recovered;
    let skewed = |at| fired.iter().any(|fault| fault.kind == "skew" && fault.on.starts_with("query-") && is_on(fault, at));
    let mut found = Vec::new();
    for read in reads {
        found.extend(read.missing.iter().map(|unit| format!("{} has no unit {unit}", told_of(read))));
        for (unit, shown) in &read.shown {
            if hot.newest(unit, *shown).is_none() {
                found.push(format!("{} shows unit {unit} as {shown:?}, which it never was", told_of(read)));
            }
        }
        if [401, 403].contains(&read.one.status) && !skewed(read.one.begun) {
            found.push(format!("{} came to {} {}", told_of(read), read.one.status, read.one.code));
        }
    }
    for command in commands {
        let refused = command.tries.iter().filter(|one| [400, 401, 403, 404, 422, 428].contains(&one.status));
        found.extend(refused.map(|one| format!("{} came to {} {}", command.intent.content, one.status, one.code)));
    }
    found
}

fn tries<'a>(commands: &'a [Command], reads: &'a [Read]) -> impl Iterator<Item = (&'a str, &'a Try)> {
    let of_commands = commands.iter().flat_map(|command| command.tries.iter().map(|one| (&*command.intent.content, one)));
    of_commands.chain(reads.iter().map(|read| (&*read.path, &read.one)))
}

fn malformed(commands: &[Command], reads: &[Read]) -> Vec<String> {
    tries(commands, reads).filter_map(|(_, one)| one.malformed.clone()).collect()
}

fn slow_commands(commands: &[Command]) -> Vec<String> {
    let answered = commands.iter().flat_map(|command| command.tries.iter().map(move |one| (command, one)));
    let late = answered.filter(|(_, one)| !one.by.is_empty() && one.took > COMMAND_MAX);
    late.map(|(command, one)| {
        let (at, took) = (one.begun.as_secs_f64(), one.took.as_secs_f64());
        format!("{} at {at:.1} s took {took:.2} s for {} {}", command.intent.content, one.status, one.code)
    })
    .collect()
}

fn slow_reads(reads: &[Read]) -> Vec<String> {
    let limit = |read: &Read| if read.token.is_some() { WAITING_READ_MAX } else { READ_MAX };
    let late = reads.iter().filter(|read| read.one.took > limit(read));
    late.map(|read| {
        let Try { took, status, code, .. } = &read.one;
        format!("{} took {:.2} s for {status} {code}", told_of(read), took.as_secs_f64())
    })
    .collect()
}

/// A duplicate or refused registration leaves nothing of the person behind, whatever met it.
fn keys_of_nobody(postgres: &Postgres) -> Result<Vec<String>> {
    let sql = "SELECT subject FROM subject_keys k WHERE NOT EXISTS (
        SELECT FROM events e
         WHERE e.aggregate_type = split_part(k.subject, ':', 1) AND e.aggregate_id = split_part(k.subject, ':', 2))";
    let subjects = postgres.sql("legal_db", sql)?;
    Ok(subjects.lines().map(|subject| format!("{subject} has a key and no event")).collect())
}

fn hung(commands: &[Command], reads: &[Read]) -> Vec<String> {
    let late = tries(commands, reads).filter(|(_, one)| one.took > ANY_MAX);
    late.map(|(what, one)| format!("{what} took {:.1} s for {} {}", one.took.as_secs_f64(), one.status, one.code)).collect()
}

/// What follows from commands and is not there, or too often.
#[derive(Default)]
struct Open {
    reports: Vec<String>,
    steps: Vec<String>,
    behind: Vec<String>,
}

/// Waits until everything that follows from the commands has followed; what is wrong in the end.
fn settle(system: &mut System, reports: &[String], moved_in: &[MoveIn], within: Duration) -> Result<Open> {
    let mut open = Open::default();
    let settled = wait_until("reports, steps and views", within, || {
        let postgres = &system.stack()?.postgres;
        open.reports = reports_wrong(&logs::read_one(postgres, "reports")?, reports);
        open.steps = steps_wrong(postgres, moved_in)?;
        let rows = system.rows(&["projections", "list"])?;
        let late = rows.iter().filter(|row| row["lag_events"] != 0 || row["state"] == "absent");
        open.behind = late.map(ToString::to_string).collect();
        Ok(open.reports.is_empty() && open.steps.is_empty() && open.behind.is_empty())
    });
    // Not to have settled is what the columns tell; not to be able to ask is an error.
    match settled {
        Err(error) if open.reports.is_empty() && open.steps.is_empty() && open.behind.is_empty() => Err(error),
        Ok(()) | Err(_) => Ok(open),
    }
}

/// Each report that was asked for was completed once.
fn reports_wrong(events: &[Stored], reports: &[String]) -> Vec<String> {
    let mut completed: BTreeMap<&str, usize> = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind == "ReportCompleted") {
        *completed.entry(event.stream.trim_start_matches("report:")).or_default() += 1;
    }
    let count = |id: &String| completed.get(id.as_str()).copied().unwrap_or(0);
    let wrong = reports.iter().filter(|id| count(id) != 1);
    wrong.map(|id| format!("report {id} was completed {} times", count(id))).collect()
}

/// Each lease that was sent has its days reserved once, and what follows from its signature or its end once.
fn steps_wrong(postgres: &Postgres, moved_in: &[MoveIn]) -> Result<Vec<String>> {
    let mut found: BTreeMap<(String, String), usize> = BTreeMap::new();
    for context in ["units", "legal", "finances"] {
        for event in logs::read_one(postgres, context)? {
            let of = event.payload["lease_id"].as_str().unwrap_or_default();
            let stream = event.stream.split_once(':').map_or("", |(_, id)| id);
            let lease = if event.stream.starts_with("unit:") { of } else { stream };
            *found.entry((lease.to_owned(), event.kind)).or_default() += 1;
        }
    }
    let mut wrong = Vec::new();
    for MoveIn { lease, signed, .. } in moved_in {
        let (yes, no) = (usize::from(*signed), usize::from(!*signed));
        for (kind, due) in [
            ("UnitReserved", 1),
            ("LeaseSent", 1),
            ("LedgerOpened", yes),
            ("ChargePosted", yes),
            ("ReservationReleased", no),
        ] {
            let there = found.get(&(lease.clone(), kind.to_owned())).copied().unwrap_or(0);
            if there != due {
                wrong.push(format!("lease {lease}: {there} {kind} instead of {due}"));
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chaos::history::{Intent, Told};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn gets_have_two_seconds_and_those_that_wait_for_a_position_a_little_more() {
        let read = |token, ms| Read {
            path: "/units/a".into(),
            one: Try::answered(s(1), Duration::from_millis(ms)),
            token,
            shown: Vec::new(),
            missing: Vec::new(),
        };
        let reads = [read(None, 2_400), read(Some(7), 2_600), read(None, 2_600), read(Some(7), 2_800)];
        assert_eq!(slow_reads(&reads[..2]), Vec::<String>::new());
        assert_eq!(slow_reads(&reads).len(), 2);
    }

    #[test]
    fn gets_are_held_to_what_was_acknowledged_before_a_fault_and_well_after_it() {
        let event = |sequence: u64| Stored {
            position: sequence,
            stream: "unit:a".into(),
            sequence,
            kind: "UnitUpdated".into(),
            correlation: String::new(),
            marker: String::new(),
            recorded_us: 0,
            payload: json!({}),
        };
        let (what, marker, content) = ("edit", String::new(), String::new());
        let told = Told { id: "a".into(), version: 2, position: 2, token: String::new() };
        let edit = Command {
            intent: Intent { what, marker, context: "units", content },
            tries: vec![Try::answered(s(1), Duration::ZERO)],
            told: vec![told],
        };
        let (count, what, on) = (1, String::new(), String::new());
        let fault = Fired { kind: "reset", count, what, on, from: s(10), to: s(12), recovered: s(1) };
        let read = |at: u64, version: u64| Read {
            path: "/units/a".into(),
            one: Try::answered(s(at), Duration::ZERO),
            token: None,
            shown: vec![("a".into(), Shown::Version(version))],
            missing: Vec::new(),
        };
        // Before anything is due, in the warm-up, in the fault, when the views may still be behind, and in calm.
        let reads = [read(2, 1), read(5, 1), read(11, 1), read(17, 1), read(19, 2), read(20, 1)];
        let calm = stale_in_calm(&reads, &[edit], &Ages::of(&[event(1), event(2)]), &[fault]);
        assert_eq!((calm.judged, calm.after_faults), (3, 2));
        assert_eq!(calm.stale.len(), 2, "{:?}", calm.stale);
    }
}
