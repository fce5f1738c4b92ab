//! The verbs that look into history, acted out: what an aggregate was and what changed in it, what was written when and by
//! whom, what comes next, and history delivered and exported again. What they must show is known from the commands that were
//! given here.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::client::{Answer, Http, block};
use super::dates::{day, instant, now};
use super::system::{CONTEXTS, System};
use super::world::{self, SETTLES_WITHIN, fresh};
use crate::net::wait_until;

type Look = fn(&System) -> Result<String>;

/// Name, promise and work, the same in both modes.
pub const LOOKS: [(&str, &str, Look); 6] = [
    ("look.states", "`events state` and `diff` at the versions and times of commands", states),
    ("look.lists", "`events list` by time, actor and correlation: what was written so, and no more", lists),
    ("look.stats", "`events stats` adds up to the logs", stats),
    ("look.tail", "`events tail` of one type beside a writer", tail),
    ("look.replays", "`events replay` at a rate, and to webhooks that take, ail and refuse", replays),
    ("look.exports", "`events export` as CloudEvents and without keys, to a file and into a pipe", exports),
];

/// Largest streams that are asked for.
const TOP: usize = 7;
/// Events that are replayed at a rate, and how many of them a second.
const PACED: u32 = 100;
const RATE: u32 = 50;
/// Events that are posted to a webhook.
const POSTED: u64 = 12;
/// What a webhook says that took an event.
const TAKEN: u16 = 200;

/// A unit from its first to its last version, each asked for by a command.
struct Life {
    admin: Http,
    unit: String,
    stream: String,
    /// Who gave the commands of versions 1, 2 and 5, and who those of 3 and 4.
    actors: [String; 2],
    /// An instant before all of them.
    before: String,
    versions: Vec<Version>,
}

struct Version {
    kind: &'static str,
    /// Of the unit's own event.
    position: u64,
    state: Value,
    /// An instant behind this version and before the next.
    after: String,
}

impl Life {
    fn lived(system: &System) -> Result<Self> {
        let admin = world::admin(system)?;
        let house = world::property_body(&fresh("House"), &world::party(&admin, &fresh("Owner"))?);
        let property = admin.done("/properties", &house)?.id()?;
        let (first, first_id) = world::user(&admin, &["units"], None)?;
        let (second, second_id) = world::user(&admin, &["units"], None)?;
        let (number, listing) = (fresh("L"), world::listing_body());
        let step = json!({"price": world::money(160_000), "effective_on": day(0)});
        let mut repriced = listing.clone();
        repriced["price_steps"] = json!([step]);
        let state = |bedrooms: u8, area_m2: u32, listing: &Value| {
            json!({
                "facts": {
                    "property": {
                        "property_id": property, "property_name": house["name"], "city": "Testville", "country": "US",
                        "time_zone": "Etc/UTC", "currency": "USD", "jurisdiction": "US-NY",
                    },
                    "unit_number": number, "bedrooms": bedrooms, "bathrooms_x2": 3, "area_m2": area_m2,
                    "amenities": ["balcony", "parking"],
                },
                "retired": false, "listing": listing, "calendar": [],
            })
        };
        let before = moment();
        let mut versions = Vec::new();
        let mut version = |kind: &'static str, position: u64, state: Value| {
            versions.push(Version { kind, position, state, after: moment() });
        };
        let added = first.done("/units", &world::unit_body(&property, &number))?;
        let unit = added.id()?;
        let path = format!("/units/{unit}");
        // Behind it in the same append stands the claim of its number.
        version("UnitAdded", placed(&added)? - 1, state(2, 50, &Value::Null));
        let listed = first.done(&format!("{path}/listing"), &listing)?;
        version("UnitListed", placed(&listed)?, state(2, 50, &listing));
        let updated = second.request("PATCH", &path).json(&json!({"area_m2": 61, "bedrooms": 3})).now()?.success()?;
        version("UnitUpdated", placed(&updated)?, state(3, 61, &listing));
        let priced = second.done(&format!("{path}/price"), &step)?;
        version("ListingPriceChanged", placed(&priced)?, state(3, 61, &repriced));
        let unlisted = first.request("DELETE", &format!("{path}/listing")).now()?.success()?;
        version("UnitUnlisted", placed(&unlisted)?, state(3, 61, &Value::Null));
        let actors = [first_id, second_id].map(|id| format!("user:{id}"));
        Ok(Self { admin, stream: format!("unit:{unit}"), unit, actors, before, versions })
    }
}

fn moment() -> String {
    instant(now())
}

/// The position of a command's last event.
fn placed(answer: &Answer) -> Result<u64> {
    answer.json()?["position"].as_u64().with_context(|| format!("no position: {answer}"))
}

fn text(row: &Value, name: &str) -> Result<String> {
    row[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {row}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A verb that must end with this code, say this, and show nothing.
fn refused(system: &System, args: &[&str], code: i32, word: &str) -> Result<()> {
    let output = system.casitas(args, "")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = output.status.code() == Some(code) && output.stdout.is_empty() && said.contains(word);
    ensure!(refused, "casitas {args:?} ended with {}, not with {code} and {word:?}: {said}", output.status);
    Ok(())
}

fn states(system: &System) -> Result<String> {
    let life = Life::lived(system)?;
    let Life { unit, stream, versions, .. } = &life;
    for (version, number) in versions.iter().zip(1_u64..) {
        let shown = state(system, stream, Some(&number.to_string()))?;
        let place = shown["version"] == number && shown["position"] == version.position && shown["type"] == version.kind;
        ensure!(place && shown["stream"] == stream.as_str(), "version {number} of {stream}: {shown}");
        ensure!(shown["state"] == version.state, "version {number} is {shown}, and was written as {}", version.state);
        // What was recorded at the very instant counts, and nothing has changed behind it.
        for at in [&text(&shown, "recorded_at")?, &version.after] {
            let then = state(system, stream, Some(at))?;
            ensure!(then == shown, "version {number} at {at}: {then}, not {shown}");
        }
    }
    let last = state(system, stream, Some(&versions.len().to_string()))?;
    for name in [stream, unit] {
        let today = state(system, name, None)?;
        ensure!(today == last, "{name} now: {today}, not {last}");
    }
    for (context, name, at, code, word) in [
        ("units", stream.as_str(), life.before.as_str(), 4, ""),
        ("units", stream.as_str(), "0", 4, ""),
        ("units", "unit:nobody", "1", 4, ""),
        ("units", stream.as_str(), "6", 4, "has 5 versions"),
        ("legal", stream.as_str(), "1", 2, "belongs to the units log"),
    ] {
        refused(system, &["events", "state", context, name, "--at", at], code, word)?;
    }
    let diffs = differences(system, &life)?;
    masked(system, &life.admin)?;
    Ok(format!(
        "5 versions of a unit by number, by their instant and by the time behind them; {diffs} diffs; a person masked"
    ))
}

/// The one row of `casitas events state units`.
fn state(system: &System, stream: &str, at: Option<&str>) -> Result<Value> {
    let mut args = vec!["events", "state", "units", stream];
    args.extend(at.into_iter().flat_map(|at| ["--at", at]));
    let mut rows = system.rows(&args)?;
    ensure!(rows.len() == 1, "{args:?}: {rows:?}");
    rows.pop().context("no row")
}

/// A row of `casitas events diff`.
fn changed(pointer: &str, change: &str, before: &Value, after: &Value) -> Value {
    json!({"pointer": pointer, "change": change, "before": before, "after": after})
}

fn differences(system: &System, life: &Life) -> Result<usize> {
    let [(two, three), (small, large)] = [(2, 3), (50, 61)].map(|(before, after)| (json!(before), json!(after)));
    let (area, rooms) = ("/facts/area_m2", "/facts/bedrooms");
    let grown = [changed(area, "changed", &small, &large), changed(rooms, "changed", &two, &three)];
    let shrunk = [changed(area, "changed", &large, &small), changed(rooms, "changed", &three, &two)];
    let Life { stream, versions, .. } = life;
    let (listing, steps) = (&versions[1].state["listing"], &versions[3].state["listing"]["price_steps"]);
    let listed = changed("/listing", "changed", &Value::Null, listing);
    let [begun, undone] = [("added", &Value::Null, steps), ("removed", steps, &Value::Null)]
        .map(|(change, before, after)| changed("/listing/price_steps", change, before, after));
    let cases = [
        ("0", "1", vec![changed("", "changed", &Value::Null, &versions[0].state)]),
        ("1", "3", [&grown[..], &[listed]].concat()),
        ("2", "4", [&grown[..], from_ref(&begun)].concat()),
        (versions[1].after.as_str(), versions[3].after.as_str(), [&grown[..], from_ref(&begun)].concat()),
        ("4", "2", [&shrunk[..], &[undone]].concat()),
        ("3", "3", vec![]),
    ];
    for (a, b, expected) in &cases {
        let shown = system.rows(&["events", "diff", "units", stream, a, b])?;
        ensure!(shown == *expected, "from {a} to {b}: {shown:?}, not {expected:?}");
    }
    Ok(cases.len())
}

/// What a person is, nobody sees who does not ask for it.
fn masked(system: &System, admin: &Http) -> Result<()> {
    let name = fresh("Seen");
    let stream = format!("party:{}", world::party(admin, &name)?);
    let verb = ["events", "state", "legal", &stream];
    let shown = system.rows(&verb)?;
    let hidden = shown.len() == 1 && shown[0]["state"]["registered"]["personal"].is_null();
    ensure!(hidden && !shown[0].to_string().contains(&name), "a person unasked: {shown:?}");
    let opened = system.rows(&[&verb[..], &["--reveal", "--reason", "the test asks"]].concat())?;
    let personal = opened.first().map(|row| &row["state"]["registered"]["personal"]);
    ensure!(personal.is_some_and(|person| person["names"]["full"] == name.as_str()), "a person revealed: {opened:?}");
    Ok(())
}

/// Rows of `casitas events list`, whole.
fn listed(system: &System, args: &[&str]) -> Result<Vec<Value>> {
    system.rows(&[&["events", "list", "--data", "--limit", "1000000"], args].concat())
}

/// Everything behind these positions, whole: for filters that are applied here.
fn behind(system: &System, heads: &BTreeMap<String, u64>) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for (context, head) in heads {
        all.extend(listed(system, &["--context", context, "--after-position", &head.to_string()])?);
    }
    Ok(all)
}

/// Context and position of each, in order.
fn places<'a>(rows: impl IntoIterator<Item = &'a Value>) -> Result<Vec<(String, u64)>> {
    let position = |row: &Value| row["position"].as_u64().with_context(|| format!("no position: {row}"));
    let mut places: Vec<_> =
        rows.into_iter().map(|row| Ok((text(row, "context")?, position(row)?))).collect::<Result<_>>()?;
    places.sort();
    Ok(places)
}

fn lists(system: &System) -> Result<String> {
    let (today, heads) = (day(0), system.heads()?);
    let life = Life::lived(system)?;
    by_time(system, &life, &today, heads["units"])?;
    by_actor(system, &life, &heads)?;
    let conversation = by_correlation(system, &life, &heads)?;
    Ok(format!("by 6 times, by 2 actors, by a command, and by a conversation of {conversation} events in two contexts"))
}

fn by_time(system: &System, life: &Life, today: &str, head: u64) -> Result<()> {
    let (at, head) = (life.versions.iter().map(|version| version.position).collect::<Vec<u64>>(), head.to_string());
    let (since, until) = (life.versions[1].after.as_str(), life.versions[3].after.as_str());
    let mine = |rows: &[Value]| {
        let by = |row: &&Value| row["context"] == "units" && life.actors.iter().any(|actor| row["actor"] == actor.as_str());
        rows.iter().filter(by).filter_map(|row| row["position"].as_u64()).collect::<Vec<u64>>()
    };
    let log = ["--context", "units", "--after-position", &head];
    let all = [at[0], at[0] + 1, at[1], at[2], at[3], at[4]];
    let cases = [
        (vec!["--since", since, "--until", until], &all[3..5]),
        (vec!["--context", "units", "--since", since, "--until", until], &all[3..5]),
        (vec!["--since", until], &all[5..]),
        ([&log[..], &["--until", since]].concat(), &all[..3]),
        ([&log[..], &["--since", today]].concat(), &all[..]),
        ([&log[..], &["--until", today]].concat(), &all[..0]),
    ];
    for (args, expected) in &cases {
        let rows = listed(system, args)?;
        ensure!(mine(&rows) == *expected, "{args:?} shows {:?} of {all:?}, not {expected:?}", mine(&rows));
    }
    // Of whoever else wrote, nothing before and nothing behind.
    let rows = listed(system, &cases[1].0)?;
    let outside = rows.iter().find(|row| row["position"].as_u64().is_none_or(|place| place <= at[1] || at[4] <= place));
    ensure!(outside.is_none(), "between {since} and {until}: {outside:?}");
    let updated = rows.iter().find(|row| row["position"] == at[2]).map(|row| &row["data"]);
    let expected = json!({"UnitUpdated": {"bedrooms": 3, "area_m2": 61}});
    ensure!(updated == Some(&expected), "what was written as {expected} is shown as {updated:?}");
    Ok(())
}

fn by_actor(system: &System, life: &Life, heads: &BTreeMap<String, u64>) -> Result<()> {
    let at: Vec<u64> = life.versions.iter().map(|version| version.position).collect();
    let all = behind(system, heads)?;
    let written = [vec![at[0], at[0] + 1, at[1], at[4]], vec![at[2], at[3]]];
    for (actor, units) in life.actors.iter().zip(&written) {
        let expected = places(all.iter().filter(|row| row["actor"] == actor.as_str()))?;
        let of_units: Vec<u64> = expected.iter().filter(|place| place.0 == "units").map(|place| place.1).collect();
        ensure!(of_units == *units, "{actor} wrote {units:?} of the units log; there is {expected:?}");
        let found = places(&listed(system, &["--actor", actor])?)?;
        ensure!(found == expected, "of {actor} {found:?}, not {expected:?}");
    }
    let actor = life.actors[0].as_str();
    let typed = places(&listed(system, &["--actor", actor, "--type", "UnitListed"])?)?;
    ensure!(typed == [("units".to_owned(), at[1])], "UnitListed of {actor}: {typed:?}");
    let nobody = listed(system, &["--actor", "user:nobody"])?;
    ensure!(nobody.is_empty(), "of nobody: {nobody:?}");
    let last = system.rows(&["events", "list", "--context", "units", "--actor", actor, "--limit", "2"])?;
    let last: Vec<Option<u64>> = last.iter().map(|row| row["position"].as_u64()).collect();
    ensure!(last == [Some(at[1]), Some(at[4])], "the last two of {actor}, oldest first: {last:?} of {at:?}");
    Ok(())
}

/// A command's own events, and those of a lease that was sent: the request, and what followed from it elsewhere.
fn by_correlation(system: &System, life: &Life, heads: &BTreeMap<String, u64>) -> Result<usize> {
    let added = life.versions[0].position;
    let shown = system.rows(&["events", "show", &format!("units:{added}")])?;
    let command = text(shown.first().context("no event")?, "correlation_id")?;
    let found = places(&listed(system, &["--correlation", &command])?)?;
    let expected = [added, added + 1].map(|position| ("units".to_owned(), position));
    ensure!(found == expected, "of the command at {added}: {found:?}");

    let admin = &life.admin;
    let (unit, _) = world::unit(admin, &world::property(admin)?, &fresh("S"))?;
    let tenant = world::party(admin, &fresh("Tenant"))?;
    let lease = world::lease(admin, &world::lease_body(&unit, &tenant, 0, 364))?;
    let (document, _) = world::document(admin, Some(&lease))?;
    let (state, code) = block(world::send_lease(admin, &lease, &world::send_body(&document, &tenant)))?;
    ensure!(state == "sent", "the lease came to {state} {code}");
    let streams = [format!("lease:{lease}"), format!("lease_process:{lease}"), format!("unit:{unit}")];
    let asked = listed(system, &["--stream", &streams[0], "--type", "LeaseSendRequested"])?;
    ensure!(asked.len() == 1, "requests to send {lease}: {asked:?}");
    let correlation = text(&asked[0], "correlation_id")?;
    let (mut found, mut last) = (Vec::new(), String::new());
    // What follows is still being written when the lease is sent.
    let waited = wait_until("the whole conversation about a sent lease", SETTLES_WITHIN, || {
        found = listed(system, &["--correlation", &correlation])?;
        let all = behind(system, heads)?;
        let expected = places(all.iter().filter(|row| row["correlation_id"] == correlation.as_str()))?;
        let has = |kind: &&str| found.iter().any(|row| row["type"] == *kind);
        let complete = ["LeaseSendRequested", "UnitReserved", "StepRecorded", "LeaseSent"].iter().all(has);
        last = format!("found {found:?}, of {expected:?}");
        Ok(complete && places(&found)? == expected)
    });
    waited.with_context(|| last)?;
    let foreign = found.iter().find(|row| !streams.iter().any(|stream| row["stream"] == stream.as_str()));
    ensure!(foreign.is_none(), "in the conversation about {streams:?}: {foreign:?}");
    Ok(found.len())
}

fn stats(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    // Something to count, wherever this runs alone.
    world::unit(&admin, &world::property(&admin)?, &fresh("C"))?;
    let before = system.heads()?;
    let rows = system.rows(&["events", "stats", "--top", &TOP.to_string()])?;
    let after = system.heads()?;
    let mut heads = BTreeMap::new();
    for context in CONTEXTS {
        let of = |what: &str| rows.iter().filter(|row| row["context"] == context && row["what"] == what).collect::<Vec<_>>();
        let sum = |rows: &[&Value]| rows.iter().filter_map(|row| row["events"].as_u64()).sum::<u64>();
        let (log, types) = (of("log"), sum(&of("type")));
        let head = sum(&log);
        let (low, high) = (before[context], after[context]);
        ensure!(log.len() == 1 && (low..=high).contains(&head), "{context} was at {low}, then at {high}: {log:?}");
        ensure!(types == head, "the types of {context} add up to {types} of {head} events");
        heads.insert(context, head);
    }
    recount(system, &rows, heads["units"])?;
    Ok(format!("{} events by type and month, in five logs; those of units counted once more", heads.values().sum::<u64>()))
}

/// Types, months and the longest streams of the units log, counted from its list.
fn recount(system: &System, rows: &[Value], head: u64) -> Result<()> {
    let (mut types, mut lengths) = (BTreeMap::new(), BTreeMap::new());
    let head = head.to_string();
    let args = ["events", "list", "--context", "units", "--until-position", &head, "--limit", "10000000"];
    for row in system.rows(&args)? {
        let month: String = text(&row, "recorded_at")?.chars().take("2026-11".len()).collect();
        *types.entry((month, text(&row, "type")?)).or_insert(0_u64) += 1;
        *lengths.entry(text(&row, "stream")?).or_insert(0_u64) += 1;
    }
    let (mut told, mut longest) = (BTreeMap::new(), Vec::new());
    for row in rows.iter().filter(|row| row["context"] == "units") {
        let events = row["events"].as_u64().with_context(|| format!("no count: {row}"))?;
        match row["what"].as_str() {
            Some("type") => {
                told.insert((text(row, "month")?, text(row, "type")?), events);
            }
            Some("stream") => longest.push((text(row, "stream")?, events)),
            _ => {}
        }
    }
    ensure!(told == types, "types of the units log: {told:?}, counted {types:?}");
    let wrong = longest.iter().find(|(stream, events)| lengths.get(stream) != Some(events));
    ensure!(wrong.is_none(), "{wrong:?} has another length");
    let mut lengths: Vec<u64> = lengths.into_values().collect();
    lengths.sort_by_key(|length| std::cmp::Reverse(*length));
    lengths.truncate(TOP);
    ensure!(longest.iter().map(|(_, events)| *events).eq(lengths.iter().copied()), "{longest:?}, counted {lengths:?}");
    Ok(())
}

/// A verb that goes on until it is killed, and the lines it has shown.
struct Tail {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Tail {
    fn start(system: &System, args: &[&str]) -> Result<Self> {
        let mut command = system.program(&[args, &["--output", "ndjson"]].concat());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("starting casitas")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The next row, while it runs.
    fn row(&mut self) -> Result<Value> {
        let line = self.lines.recv_timeout(SETTLES_WITHIN).context("the tail shows no further row")?;
        if let Some(status) = self.child.try_wait()? {
            bail!("the tail ended by itself with {status}");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let (unit, _) = world::unit(&admin, &world::property(&admin)?, &fresh("T"))?;
    let stop = AtomicBool::new(false);
    let mut tail = Tail::start(system, &["events", "tail", "--context", "units", "--type", "ListingPriceChanged"])?;
    let (mut rows, prices) = thread::scope(|scope| -> Result<(Vec<Value>, Vec<u64>)> {
        let writer = scope.spawn(|| reprice(&admin, &unit, &stop));
        let rows: Result<Vec<Value>> = (0..3).map(|_| tail.row()).collect();
        stop.store(true, Ordering::SeqCst);
        let prices = writer.join().map_err(|_| anyhow!("the writer panicked"))??;
        Ok((rows?, prices))
    })?;
    // It began somewhere among them, and from there on shows each one.
    let first = rows[0]["position"].as_u64().context("no position")?;
    let expected: Vec<u64> = prices.into_iter().filter(|price| *price >= first).collect();
    while rows.len() < expected.len() {
        rows.push(tail.row()?);
    }
    let stream = format!("unit:{unit}");
    let other = rows.iter().find(|row| row["type"] != "ListingPriceChanged" || row["stream"] != stream.as_str());
    ensure!(other.is_none(), "no price of {stream}: {other:?}");
    let seen: Vec<u64> = rows.iter().filter_map(|row| row["position"].as_u64()).collect();
    ensure!(seen == expected, "the tail shows {seen:?}, written were {expected:?}");
    drop(tail);
    admin.get("/auth/me").now()?.success()?;
    Ok(format!("{} prices as they were written, none of the changes between them; then killed", seen.len()))
}

/// Changes price and area of a listed unit in turn until it is told to stop: the positions of the prices.
fn reprice(admin: &Http, unit: &str, stop: &AtomicBool) -> Result<Vec<u64>> {
    let mut prices = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let turn = prices.len() as i64;
        let price = json!({"price": world::money(200_000 + turn), "effective_on": day(0)});
        prices.push(placed(&admin.done(&format!("/units/{unit}/price"), &price)?)?);
        let area = json!({"area_m2": 60 + turn % 500});
        admin.request("PATCH", &format!("/units/{unit}")).json(&area).now()?.success()?;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(prices)
}

fn replays(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let (unit, _) = world::unit(&admin, &world::property(&admin)?, &fresh("R"))?;
    let change = |turn: u32| {
        let area = json!({"area_m2": 100 + turn});
        placed(&admin.request("PATCH", &format!("/units/{unit}")).json(&area).now()?.success()?)
    };
    let changes = (0..PACED).map(change).collect::<Result<Vec<u64>>>()?;
    let (first, last) = (changes[0], changes[changes.len() - 1]);
    let whole = replayed(system, &["--until", &last.to_string(), "--into", "dry"])?;
    ensure!(whole == last, "{whole} events up to position {last}");

    let (from, until) = (first.to_string(), (first + u64::from(PACED) - 1).to_string());
    let range = ["--from", &from, "--until", &until, "--into", "dry"];
    let timed = |args: &[&str]| -> Result<Duration> {
        let began = Instant::now();
        let events = replayed(system, args)?;
        ensure!(events == u64::from(PACED), "{events} events from {from} to {until}");
        Ok(began.elapsed())
    };
    let quick = timed(&range)?;
    let paced = timed(&[&range[..], &["--rate", &RATE.to_string()]].concat())?;
    let least = Duration::from_secs(1) * PACED / RATE;
    // Without the first the second would say nothing.
    ensure!(quick < least && paced >= least, "{PACED} events at {RATE}/s took {paced:?}, and {quick:?} without a rate");
    posts(system, first)?;
    Ok(format!(
        "{PACED} events at {RATE}/s in {paced:.1?}; {POSTED} posted: taken, tried again after 503 and 429, stopped by 400"
    ))
}

/// How many events of the units log a replay has delivered: as many as the log counts.
fn replayed(system: &System, args: &[&str]) -> Result<u64> {
    let rows = system.rows(&[&["events", "replay", "--context", "units"], args].concat())?;
    let row = rows.last().context("a replay without a result")?;
    ensure!(rows.len() == 1 && row["replayed"] == row["stored"], "{args:?}: {rows:?}");
    row["replayed"].as_u64().with_context(|| format!("no count: {row}"))
}

/// The other side of a webhook: answers as it was told, and keeps what it was sent.
struct Hook {
    url: String,
    heard: Arc<Mutex<Vec<Post>>>,
}

struct Post {
    content_type: String,
    event: Value,
    status: u16,
}

impl Hook {
    /// `answer` gives the status of each request, which count from 0.
    fn start(answer: fn(usize) -> u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/", listener.local_addr()?);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = heard.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // What cannot be read is not heard, and its sender is told nothing.
                let _ = hear(&stream, answer, &kept);
            }
        });
        Ok(Self { url, heard })
    }

    /// What it took is this, in order and once each, as CloudEvents. Answers how many requests there were.
    fn took(&self, rows: &[Value]) -> Result<usize> {
        let heard = lock(&self.heard);
        let other = heard.iter().map(|post| &post.content_type).find(|media| *media != "application/cloudevents+json");
        ensure!(other.is_none(), "an event was sent as {other:?}");
        let taken: Vec<&Value> = heard.iter().filter(|post| post.status == TAKEN).map(|post| &post.event).collect();
        let same = taken.len() == rows.len() && taken.iter().zip(rows).all(|(event, row)| is_same(event, row));
        ensure!(same, "it took {taken:?}, not {rows:?}");
        Ok(heard.len())
    }
}

/// One request of a connection, answered.
fn hear(stream: &TcpStream, answer: fn(usize) -> u16, heard: &Mutex<Vec<Post>>) -> Result<()> {
    stream.set_read_timeout(Some(SETTLES_WITHIN))?;
    let mut reader = BufReader::new(stream);
    let (mut length, mut content_type) = (0_usize, String::new());
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the connection ended in the middle of a request");
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "content-type" => value.trim().clone_into(&mut content_type),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let event = serde_json::from_slice(&body)?;
    let status = {
        let mut heard = lock(heard);
        let status = answer(heard.len());
        heard.push(Post { content_type, event, status });
        status
    };
    let head = format!("HTTP/1.1 {status} As told\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let mut writer = stream;
    writer.write_all(head.as_bytes())?;
    Ok(())
}

/// Whether a CloudEvent is this row of a list.
fn is_same(event: &Value, row: &Value) -> bool {
    let said = |name: &str| row[name].as_str().unwrap_or_default();
    let expected = json!({
        "specversion": "1.0", "id": row["event_id"], "source": format!("/casitas/{}", said("context")),
        "type": format!("casitas.{}.{}", said("context"), said("type")), "subject": row["stream"],
        "time": row["recorded_at"], "datacontenttype": "application/json", "position": row["position"].to_string(),
        "sequence": row["sequence"].to_string(), "dataversion": row["version"], "effectiveon": row["effective_on"],
        "actor": row["actor"], "correlationid": row["correlation_id"], "data": row["data"],
    });
    expected.as_object().is_some_and(|fields| fields.iter().all(|(name, value)| event[name] == *value))
}

/// The same events to three webhooks.
fn posts(system: &System, first: u64) -> Result<()> {
    let (before, from, until) = ((first - 1).to_string(), first.to_string(), (first + POSTED - 1).to_string());
    let rows = listed(system, &["--context", "units", "--after-position", &before, "--until-position", &until])?;
    ensure!(rows.len() as u64 == POSTED, "{} events from {from} to {until}", rows.len());
    let to = |from: &str, hook: &Hook| replayed(system, &["--from", from, "--until", &until, "--into", &hook.url]);

    let taking = Hook::start(|_| TAKEN)?;
    let (told, requests) = (to(&from, &taking)?, taking.took(&rows)?);
    ensure!(told == POSTED && requests == rows.len(), "{told} of {POSTED} events delivered in {requests} requests");

    let ailing = Hook::start(|request| match request {
        3 => 503,
        7 => 429,
        _ => TAKEN,
    })?;
    let (told, requests) = (to(&from, &ailing)?, ailing.took(&rows)?);
    ensure!(told == POSTED && requests == rows.len() + 2, "{told} of {POSTED} events delivered in {requests} requests");
    let again = {
        let heard = lock(&ailing.heard);
        [3_usize, 7].into_iter().find(|at| heard[*at].event["id"] != heard[at + 1].event["id"])
    };
    ensure!(again.is_none(), "what request {again:?} brought was not the next to be brought");

    let refusing = Hook::start(|request| if request == 5 { 400 } else { TAKEN })?;
    let args = ["events", "replay", "--context", "units", "--from", &from, "--until", &until, "--into", &refusing.url];
    let (place, url) = (format!("units:{}", first + 5), &refusing.url);
    let again = format!("after 5 events; go on with: casitas events replay --into {url} --from {place}");
    refused(system, &args, 1, &format!("stopped at {place} {again}"))?;
    ensure!(refusing.took(&rows[..5])? == 6, "what was refused was tried again");
    let told = to(&place, &refusing)?;
    ensure!(told == POSTED - 5 && refusing.took(&rows)? == rows.len() + 1, "{told} events delivered from {place} on");
    Ok(())
}

fn exports(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let name = fresh("Seen");
    let party = world::party(&admin, &name)?;
    let (unit, _) = world::unit(&admin, &world::property(&admin)?, &fresh("X"))?;
    system.caught_up()?;
    let dir = tempfile::tempdir()?;
    let before = system.heads()?;
    let cloud = Exported::twice(system, &dir.path().join("events.ndjson"), &["--format", "cloudevents"], &[])?;
    let after = system.heads()?;
    let events = cloud.events(&before, &after)?;
    let of = |subject: &str| events.iter().filter(|event| event["subject"] == subject).collect::<Vec<_>>();
    let stream = format!("unit:{unit}");
    let rows = listed(system, &["--stream", &stream])?;
    let same = of(&stream).len() == rows.len() && of(&stream).iter().zip(&rows).all(|(event, row)| is_same(event, row));
    ensure!(same && rows.len() == 2, "{stream} is exported as {:?}, not as {rows:?}", of(&stream));
    let stream = format!("party:{party}");
    let masked = of(&stream).iter().all(|event| event["data"]["PartyRegistered"]["personal"]["masked"].is_string());
    ensure!(masked && of(&stream).len() == 1, "{stream} is exported as {:?}", of(&stream));
    let plain = cloud.bytes.windows(name.len()).any(|bytes| bytes == name.as_bytes());
    ensure!(!plain, "the name of {stream} is in the export");

    let native = Exported::twice(system, &dir.path().join("history.ndjson"), &[], &["--without-keys"])?;
    native.is_sealed()?;
    ensure!(dir.path().join("history.ndjson.keys").exists(), "the file has no keys beside it");
    refused(system, &["events", "export", "-"], 1, "--without-keys")?;
    Ok(format!("{} CloudEvents, and {} bytes of history: the file and the pipe alike", events.len(), native.bytes.len()))
}

/// One export, in a file and out of a pipe.
struct Exported {
    /// What was said of the file, and of the pipe.
    rows: [Value; 2],
    bytes: Vec<u8>,
}

impl Exported {
    /// The pipe is told more than the file.
    fn twice(system: &System, file: &Path, flags: &[&str], more: &[&str]) -> Result<Self> {
        let (path, keys) = (file.to_string_lossy().into_owned(), file.with_extension("ndjson.keys"));
        let to_file = [&["events", "export", &path], flags].concat();
        let to_pipe = [&["events", "export", "-"], flags, more].concat();
        let (mut rows, mut bytes) = ([Value::Null, Value::Null], Vec::new());
        // Somebody may have written between the two.
        wait_until("a file and a pipe of the same history", SETTLES_WITHIN, || {
            for left in [file, &keys] {
                if left.exists() {
                    fs::remove_file(left)?;
                }
            }
            let said = system.rows(&to_file)?.pop().context("an export without a result")?;
            let output = system.casitas(&to_pipe, "")?;
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "casitas {to_pipe:?}: {told}");
            let mut said_beside = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let result = said_beside.find(|row| row["file"] == "-");
            rows = [said, result.with_context(|| format!("the pipe's export has no result: {told}"))?];
            bytes = output.stdout;
            Ok(fs::read(file)? == bytes)
        })?;
        Ok(Self { rows, bytes })
    }

    /// A line an event, each log from 1 to where it stood.
    fn events(&self, before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Result<Vec<Value>> {
        let (mut events, mut counts) = (Vec::new(), BTreeMap::<String, u64>::new());
        for line in std::str::from_utf8(&self.bytes)?.lines() {
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            let context = event["source"].as_str().and_then(|source| source.strip_prefix("/casitas/"));
            let count = counts.entry(context.with_context(|| line.to_owned())?.to_owned()).or_default();
            *count += 1;
            let position = event["position"].as_str().and_then(|position| position.parse::<u64>().ok());
            ensure!(position == Some(*count), "where position {count} is due: {line}");
            events.push(event);
        }
        for context in CONTEXTS {
            let (count, low, high) = (counts.get(context).copied().unwrap_or(0), before[context], after[context]);
            let stood = self.rows[0]["positions"][context] == count && (low..=high).contains(&count);
            ensure!(stood, "{count} lines of {context}, which stood at {low} and {high}: {}", self.rows[0]);
        }
        ensure!(self.rows.iter().all(|row| row["events"] == events.len()), "{} lines: {:?}", events.len(), self.rows);
        Ok(events)
    }

    /// The trailer and both results name the SHA-256 of all lines before it; keys are beside the file alone.
    fn is_sealed(&self) -> Result<()> {
        let lines = self.bytes.strip_suffix(b"\n").context("no line at the end")?;
        let end = lines.iter().rposition(|byte| *byte == b'\n').context("one line only")? + 1;
        let sha256: String = Sha256::digest(&self.bytes[..end]).iter().map(|byte| format!("{byte:02x}")).collect();
        let trailer: Value = serde_json::from_slice(&self.bytes[end..])?;
        let trailer = &trailer["trailer"];
        let events = self.bytes[..end].split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"event\":")).count();
        let sealed = |row: &Value| row["sha256"] == sha256.as_str() && row["events"] == events;
        let all = sealed(trailer) && self.rows.iter().all(sealed);
        ensure!(all, "{events} events of digest {sha256}: {trailer}, {:?}", self.rows);
        let keys = self.rows.each_ref().map(|row| row["subject_keys"].as_u64());
        ensure!(keys[0] > Some(0) && keys[1] == Some(0), "keys of data subjects: {:?}", self.rows);
        Ok(())
    }
}
