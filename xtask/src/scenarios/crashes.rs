//! `kill -9` of everything in turn, while clients issue commands that they remember; and the orderly end, while clients
//! hold on.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::client::{Answer, Ask, Http, block, spawn};
use super::dates::{day, instant, now};
use super::suite::Size;
use super::system::{Event, System};
use super::world::{self, fresh};
use crate::net::wait_until;

const WRITERS: usize = 4;
/// Commands that are acknowledged before and after each kill.
const ACKS_A_KILL: u64 = 10;
/// A command is repeated with its key until there is an answer, but not longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(90);
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// From the signal to the end (R16 of reliability-security.md).
const DRAINED_WITHIN: Duration = Duration::from_secs(10);
/// A request whose head never ends.
const HALF_A_HEAD: &[u8] = b"GET /units/available HTTP/1.1\r\nhost: 127.0.0.1\r\nx-half";

/// What a client was told.
#[derive(Clone, Debug)]
struct Ack {
    context: &'static str,
    position: u64,
    stream: String,
    kind: &'static str,
}

#[derive(Default)]
struct Journal {
    acks: Vec<Ack>,
    /// Leases with their unit, by what became of them.
    signed: Vec<(String, String)>,
    voided: Vec<(String, String)>,
    faults: Vec<String>,
}

struct Load {
    admin: Http,
    journal: Mutex<Journal>,
    stop: AtomicBool,
    acked: AtomicU64,
    unknown: AtomicU64,
}

struct Writer {
    load: Arc<Load>,
    unit: String,
    party: String,
    document: String,
    sha256: String,
}

impl Load {
    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Repeats one command under one key until it is answered for good.
    async fn command(&self, ask: Ask) -> Result<Answer> {
        let ask = ask.key(&fresh("key"));
        let started = tokio::time::Instant::now();
        loop {
            let outcome = ask.send().await;
            match outcome {
                Ok(answer) if answer.status < 500 => return answer.success(),
                Ok(answer) if started.elapsed() > ANSWERED_WITHIN => bail!("never answered: {answer}"),
                Err(error) if started.elapsed() > ANSWERED_WITHIN => return Err(error),
                Ok(_) | Err(_) => {
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn ack(&self, answer: &Answer, context: &'static str, stream: String, kind: &'static str) -> Result<()> {
        let position = answer.json()?["position"].as_u64().with_context(|| format!("no position: {answer}"))?;
        self.journal().acks.push(Ack { context, position, stream, kind });
        self.acked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Writer {
    async fn run(self) {
        let mut round = 0;
        while !self.load.stop.load(Ordering::Relaxed) {
            if let Err(error) = self.round(round).await {
                self.load.journal().faults.push(format!("{error:#}"));
                return;
            }
            round += 1;
        }
    }

    async fn issue(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        self.load.command(self.load.admin.request(method, path).json(body)).await
    }

    async fn round(&self, round: i64) -> Result<()> {
        let load = &self.load;
        let unit = format!("unit:{}", self.unit);
        let path = format!("/units/{}", self.unit);
        let patched = self.issue("PATCH", &path, &json!({"area_m2": 100 + round})).await?;
        load.ack(&patched, "units", unit.clone(), "UnitUpdated")?;

        let party = self.issue("POST", "/parties", &world::party_body(&fresh("Crash"))).await?;
        load.ack(&party, "legal", format!("party:{}", party.id()?), "PartyRegistered")?;

        let expires = instant(now() + Duration::from_secs(3_600));
        let hold = json!({"party_id": self.party, "from": day(0), "to": day(3), "expires_at": expires});
        let placed = self.issue("POST", &format!("{path}/holds"), &hold).await?;
        load.ack(&placed, "units", unit.clone(), "HoldPlaced")?;
        let released = self.issue("DELETE", &format!("{path}/holds/{}", placed.id()?), &json!({})).await?;
        load.ack(&released, "units", unit.clone(), "HoldReleased")?;

        // Each lease has days of its own.
        let from = 10 + 40 * round;
        let drafted = self.issue("POST", "/leases", &world::lease_body(&self.unit, &self.party, from, from + 29)).await?;
        let lease = drafted.id()?;
        let stream = format!("lease:{lease}");
        load.ack(&drafted, "legal", stream.clone(), "LeaseDrafted")?;
        let path = format!("/leases/{lease}");
        let sent = self.issue("POST", &format!("{path}/send"), &world::send_body(&self.document, &self.party)).await?;
        load.ack(&sent, "legal", stream.clone(), "LeaseSendRequested")?;
        if sent.status == 202 || sent.header("idempotent-replayed").is_some() {
            self.wait_sent(&path).await?;
        }
        if round % 2 == 0 {
            let signature = world::sign_body(&self.party, &self.sha256);
            let signed = self.issue("POST", &format!("{path}/signatures"), &signature).await?;
            load.ack(&signed, "legal", stream, "LeaseSigned")?;
            load.journal().signed.push((lease, self.unit.clone()));
        } else {
            let voided = self.issue("POST", &format!("{path}/void"), &json!({"reason": "as planned"})).await?;
            load.ack(&voided, "legal", stream, "LeaseVoided")?;
            load.journal().voided.push((lease, self.unit.clone()));
        }
        Ok(())
    }

    /// Replicas and the views may be away for a while.
    async fn wait_sent(&self, path: &str) -> Result<()> {
        let read = self.load.admin.get(path);
        let read = &read;
        super::client::until("the lease's way to `sent`", ANSWERED_WITHIN, || async move {
            let Ok(answer) = read.send().await else { return Ok(None) };
            if answer.status != 200 {
                return Ok(None);
            }
            Ok((answer.json()?["status"] == "sent").then_some(()))
        })
        .await
    }
}

/// What is killed, and started again.
const TARGETS: [&str; 9] =
    ["command-api", "query-1", "query-2", "projector", "report-worker", "nginx", "redis", "rabbitmq", "postgres"];

pub fn distributed(system: &mut System, size: Size) -> Result<String> {
    let cycles = size.pick(1, 5);
    let (load, before, tasks) = start(system)?;
    let outcome = (|| -> Result<usize> {
        let mut kills = 0;
        for cycle in 0..cycles {
            for target in TARGETS {
                progress(&load).with_context(|| format!("before {target} is killed"))?;
                let stack = system.stack()?;
                match target {
                    "nginx" => stack.nginx.kill9().and_then(|()| stack.nginx.start_again()),
                    "redis" => stack.redis.kill9().and_then(|()| stack.redis.start_again()),
                    "rabbitmq" => stack.rabbitmq.kill9().and_then(|()| stack.rabbitmq.start_again()),
                    "postgres" => stack.postgres.kill9().and_then(|()| stack.postgres.start_again()),
                    role => {
                        let role = stack.role(role)?;
                        role.kill9().and_then(|()| role.start())
                    }
                }
                .with_context(|| format!("killing {target} in cycle {cycle}"))?;
                kills += 1;
                progress(&load).with_context(|| format!("after {target} was killed"))?;
            }
        }
        Ok(kills)
    })();
    let kills = finish(&load, tasks, outcome)?;
    let crashed = system.stack()?.crashed()?;
    ensure!(crashed.is_empty(), "ended without being killed: {crashed:?}");
    let figure = check(system, &load, before)?;
    let folded = fresh_fold(system, &load)?;
    Ok(format!("{kills} kills: {figure}; {folded}"))
}

pub fn embedded(system: &mut System, size: Size) -> Result<String> {
    let (load, before, tasks) = start(system)?;
    let outcome = (|| -> Result<usize> {
        for _ in 0..size.pick(2, 20) {
            progress(&load)?;
            let System::Embedded(embedded) = system else { bail!("not embedded") };
            embedded.server().kill9()?;
            embedded.start()?;
        }
        progress(&load)?;
        Ok(size.pick(2, 20))
    })();
    let kills = finish(&load, tasks, outcome)?;
    let figure = check(system, &load, before)?;
    let folded = fresh_fold(system, &load)?;
    Ok(format!("{kills} kills: {figure}; {folded}"))
}

type Running = (Arc<Load>, BTreeMap<String, u64>, Vec<tokio::task::JoinHandle<()>>);

fn start(system: &System) -> Result<Running> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let load = Arc::new(Load {
        admin: admin.clone(),
        journal: Mutex::default(),
        stop: AtomicBool::new(false),
        acked: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
    });
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (unit, _) = world::unit(&admin, &property, &fresh(&format!("K{writer}")))?;
        let party = world::party(&admin, &fresh("Killer"))?;
        let (document, sha256) = world::document(&admin, None)?;
        writers.push(Writer { load: load.clone(), unit, party, document, sha256 });
    }
    let before = system.heads()?;
    let tasks = writers.into_iter().map(|writer| spawn(writer.run())).collect();
    Ok((load, before, tasks))
}

/// Waits until more was acknowledged.
fn progress(load: &Load) -> Result<()> {
    let base = load.acked.load(Ordering::Relaxed);
    wait_until("more acknowledged commands", ANSWERED_WITHIN, || {
        let faults = load.journal().faults.clone();
        ensure!(faults.is_empty(), "{faults:?}");
        Ok(load.acked.load(Ordering::Relaxed) >= base + ACKS_A_KILL)
    })
}

fn finish(load: &Load, tasks: Vec<tokio::task::JoinHandle<()>>, outcome: Result<usize>) -> Result<usize> {
    load.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        block(task)?;
    }
    let faults = load.journal().faults.clone();
    ensure!(faults.is_empty(), "{faults:?}");
    outcome
}

/// Every acknowledged command is in the log once, and every step that follows from it too.
fn check(system: &System, load: &Load, before: BTreeMap<String, u64>) -> Result<String> {
    let journal = std::mem::take(&mut *load.journal());
    let unknown = load.unknown.load(Ordering::Relaxed);
    ensure!(unknown > 0, "no command met a fault: the kills hit nothing");
    let mut logs: BTreeMap<&str, Vec<Event>> = BTreeMap::new();
    let expected = steps(&journal);
    let mut differences = Vec::new();
    let settled = wait_until("the move-in process' steps", SETTLED_WITHIN, || {
        for context in ["units", "legal", "finances"] {
            logs.insert(context, system.events(context, before[context])?);
        }
        differences = compare(&expected, &logs);
        Ok(differences.is_empty())
    });
    settled.with_context(|| {
        format!("{} differences, e.g. {:?}", differences.len(), &differences[..differences.len().min(5)])
    })?;
    for (context, events) in &logs {
        let dense = events.iter().zip(before[*context] + 1..).all(|(event, position)| event.position == position);
        ensure!(dense, "the positions of {context} have gaps");
    }
    let lost: Vec<&Ack> = journal
        .acks
        .iter()
        .filter(|ack| {
            let at = (ack.position - before[ack.context]) as usize;
            logs[ack.context].get(at.wrapping_sub(1)).is_none_or(|event| event.stream != ack.stream)
        })
        .collect();
    ensure!(lost.is_empty(), "{} acknowledged commands are not where they were said to be: {:?}", lost.len(), lost[0]);
    Ok(format!(
        "{} commands acknowledged ({unknown} tries without an answer), 0 lost, 0 doubled; {} leases sent, each reserved once",
        journal.acks.len(),
        journal.signed.len() + journal.voided.len()
    ))
}

/// How often each type of event must be in each stream: (context, stream, type).
type Steps = BTreeMap<(&'static str, String, &'static str), usize>;

fn steps(journal: &Journal) -> Steps {
    let mut steps = Steps::new();
    let mut expect = |context, stream: &str, kind| *steps.entry((context, stream.to_owned(), kind)).or_default() += 1;
    for ack in &journal.acks {
        expect(ack.context, &ack.stream, ack.kind);
    }
    for (lease, unit) in journal.signed.iter().chain(&journal.voided) {
        expect("units", &format!("unit:{unit}"), "UnitReserved");
        expect("legal", &format!("lease:{lease}"), "LeaseSent");
    }
    for (lease, _) in &journal.signed {
        expect("finances", &format!("ledger:{lease}"), "LedgerOpened");
        expect("finances", &format!("ledger:{lease}"), "ChargePosted");
    }
    for (_, unit) in &journal.voided {
        expect("units", &format!("unit:{unit}"), "ReservationReleased");
    }
    steps
}

/// Both ways: what is missing, and what is there too often.
fn compare(expected: &Steps, logs: &BTreeMap<&str, Vec<Event>>) -> Vec<String> {
    let mut found: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for (context, events) in logs {
        for event in events {
            *found.entry((context, &event.stream, &event.kind)).or_default() += 1;
        }
    }
    expected
        .iter()
        .filter_map(|((context, stream, kind), count)| {
            let there = found.get(&(*context, stream.as_str(), *kind)).copied().unwrap_or(0);
            (there != *count).then(|| format!("{there} {kind} in {stream} instead of {count}"))
        })
        .collect()
}

/// What GETs answer, and (distributed) every row of every view, is the same after the views were thrown away.
fn fresh_fold(system: &mut System, load: &Load) -> Result<String> {
    let fold = fold_again(system, &load.admin)?;
    ensure!(fold.differing.is_empty(), "{}", fold.differing.join("\n"));
    match fold.tables {
        0 => Ok(format!("{} GETs equal a fresh fold", fold.gets)),
        tables => Ok(format!("{tables} views of {} rows and {} GETs equal a fresh fold", fold.rows, fold.gets)),
    }
}

/// What a fresh fold was compared with, and what was not as before.
pub(crate) struct Fold {
    pub tables: usize,
    pub rows: u64,
    pub gets: usize,
    pub differing: Vec<String>,
}

/// Throws the views away, has them folded anew, and compares.
pub(crate) fn fold_again(system: &mut System, admin: &Http) -> Result<Fold> {
    system.caught_up()?;
    let paths = paths(admin)?;
    let before = bodies(admin, &paths)?;
    let rows = match system {
        System::Embedded(embedded) => {
            embedded.server().stop()?;
            for name in ["views.sqlite", "views.sqlite-wal", "views.sqlite-shm"] {
                let path = embedded.data_dir().join(name);
                if path.exists() {
                    std::fs::remove_file(&path)?;
                }
            }
            embedded.start()?;
            None
        }
        System::Distributed(stack) => {
            let rows = view_rows(stack)?;
            for role in ["query-1", "query-2", "projector"] {
                stack.role(role)?.stop()?;
            }
            stack.postgres.sql("postgres", "DROP DATABASE views_db WITH (FORCE)")?;
            let migrated = stack.casitas(&["migrate"])?;
            ensure!(migrated.status.success(), "casitas migrate: {}", String::from_utf8_lossy(&migrated.stderr));
            // What was cached belongs to the views that are gone.
            stack.redis.stop()?;
            stack.redis.start_again()?;
            for role in ["projector", "query-1", "query-2"] {
                stack.role(role)?.start()?;
            }
            Some(rows)
        }
    };
    system.caught_up()?;
    let after = bodies(admin, &paths)?;
    let mut differing: Vec<String> = paths
        .iter()
        .zip(before.iter().zip(&after))
        .filter(|(_, (old, new))| old != new)
        .map(|(path, (old, new))| format!("{path} answers after a fresh fold\n{new}\nand before it\n{old}"))
        .collect();
    let Some(rows) = rows else { return Ok(Fold { tables: 0, rows: 0, gets: paths.len(), differing }) };
    let again = view_rows(system.stack()?)?;
    let names: std::collections::BTreeSet<&String> = rows.keys().chain(again.keys()).collect();
    for table in names.into_iter().filter(|table| rows.get(*table) != again.get(*table)) {
        differing.push(format!("{table} was {:?}, a fresh fold gives {:?}", rows.get(table), again.get(table)));
    }
    Ok(Fold { tables: rows.len(), rows: rows.values().map(|(count, _)| count).sum(), gets: paths.len(), differing })
}

fn paths(admin: &Http) -> Result<Vec<String>> {
    let lists = ["units", "units/available", "properties", "leases", "parties", "users", "reports"];
    let mut paths: Vec<String> = lists.iter().map(|list| format!("/{list}?limit=1000")).collect();
    let units = world::data(&admin.get("/units?limit=1000").now()?.success()?)?;
    let leases = world::data(&admin.get("/leases?limit=1000&status=signed").now()?.success()?)?;
    paths.extend(units.iter().filter_map(|unit| Some(format!("/units/{}/calendar", unit["unit_id"].as_str()?))));
    paths.extend(leases.iter().filter_map(|lease| Some(format!("/ledgers/{}/entries", lease["lease_id"].as_str()?))));
    Ok(paths)
}

fn bodies(admin: &Http, paths: &[String]) -> Result<Vec<String>> {
    let answers = paths.iter().map(|path| {
        let ask = admin.get(path);
        let ask = &ask;
        block(super::client::until(path, SETTLED_WITHIN, || async move {
            let answer = ask.send().await?;
            Ok((answer.status < 500).then_some(answer))
        }))
    });
    answers.map(|answer| Ok(answer?.success()?.text())).collect()
}

/// Rows and digest of every table of a view, by its name.
fn view_rows(stack: &crate::stack::Stack) -> Result<BTreeMap<String, (u64, String)>> {
    let tables = stack.postgres.sql(
        "views_db",
        r"SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE 'v\_%' ORDER BY 1",
    )?;
    ensure!(tables.lines().count() > 5, "only {tables:?} in views_db");
    tables
        .lines()
        .map(|table| {
            let digest = format!(
                "SELECT count(*) || ' ' || coalesce(md5(string_agg(key || doc::text, '|' ORDER BY key)), '-') FROM {table}"
            );
            let row = stack.postgres.sql("views_db", &digest)?;
            let (count, hash) = row.split_once(' ').with_context(|| format!("{table}: {row}"))?;
            Ok((table.to_owned(), (count.parse()?, hash.to_owned())))
        })
        .collect()
}

/// Public roles are stopped in order while clients hold on to them: one idle, one with half a request's head, and from
/// the signal on more of the latter for as long as any is let in. Each role ends by itself and in time, and no GET
/// through Nginx fails.
pub fn drains(system: &mut System, size: Size) -> Result<String> {
    let names: &[&str] = match size {
        Size::Short => &["query-1", "command-api"],
        Size::Full => &["query-1", "query-2", "command-api"],
    };
    let http = system.http()?;
    let mut told = Vec::new();
    for name in names {
        let (took, knocks, reads) = drain(system, name, &http).with_context(|| (*name).to_owned())?;
        system.stack()?.role(name)?.start()?;
        if name.starts_with("query-") {
            // Nginx leaves one that refused it alone for a while, and the next must not go before that is over.
            let served = |turn: u64| http.get(&format!("/units/available?max_price={}", 3_000_000 + turn));
            let turns = AtomicU64::new(0);
            let (served, turns) = (&served, &turns);
            block(super::client::until("the replica behind Nginx again", ANSWERED_WITHIN, || async move {
                let answer = served(turns.fetch_add(1, Ordering::Relaxed)).send().await?.expect(200)?;
                Ok((answer.served_by() == *name).then_some(()))
            }))?;
        }
        told.push(format!("{name} in {took:.1?} beside {knocks} new half heads and {reads} GETs"));
    }
    Ok(told.join(", "))
}

/// How long it took, the half heads that were let in meanwhile, and the GETs.
fn drain(system: &mut System, name: &str, http: &Http) -> Result<(Duration, usize, u64)> {
    let role = system.stack()?.role(name)?;
    let port = role.port();
    let half = half_a_head(port)?;
    // Answered: so the server has let in the one before it, too.
    let idle = idle(port)?;
    ensure!(is_open(&half) && is_open(&idle), "closed before the signal");
    let ended = AtomicBool::new(false);
    let (stopped, took, knocks, reads) = thread::scope(|scope| {
        let knocks = scope.spawn(|| knock(port, &ended));
        let reads = scope.spawn(|| read_on(http, &ended));
        let began = Instant::now();
        let stopped = role.stop();
        let took = began.elapsed();
        ended.store(true, Ordering::Relaxed);
        (stopped, took, knocks.join(), reads.join())
    });
    let status = stopped?.context("it did not run")?;
    ensure!(status.success() && took <= DRAINED_WITHIN, "it ended after {took:.1?} ({status})");
    let panicked = |_| anyhow::anyhow!("a client panicked");
    let (knocks, reads) = (knocks.map_err(panicked)?, reads.map_err(panicked)??);
    ensure!(knocks > 0 && reads > 0, "{knocks} half heads and {reads} GETs while it ended: this shows nothing");
    Ok((took, knocks, reads))
}

fn half_a_head(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(HALF_A_HEAD)?;
    Ok(stream)
}

/// A connection that is kept after an answer.
fn idle(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(DRAINED_WITHIN))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")?;
    let mut answer = [0; 1_024];
    let count = stream.read(&mut answer)?;
    ensure!(answer[..count].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer[..count]));
    Ok(stream)
}

/// Whether the other side has not closed it.
fn is_open(stream: &TcpStream) -> bool {
    match stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0])) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Sends half a head again and again until the end; how many of these connections were let in. All of them are held
/// until then.
fn knock(port: u16, ended: &AtomicBool) -> usize {
    let mut held = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        if let Ok(stream) = half_a_head(port) {
            held.push(stream);
        }
        thread::sleep(Duration::from_millis(25));
    }
    held.len()
}

/// GETs through Nginx until the end, each of an address of its own: Nginx answers a repeated one by itself.
fn read_on(http: &Http, ended: &AtomicBool) -> Result<u64> {
    let mut reads = 0;
    while !ended.load(Ordering::Relaxed) {
        http.get(&format!("/units/available?max_price={}", 2_000_000 + reads)).now()?.expect(200)?;
        reads += 1;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(reads)
}
