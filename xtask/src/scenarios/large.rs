//! Read models of a large log rebuilt while clients read and write, and compared with a fold that shares nothing with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::client::{Answer, Ask, Http, block, spawn, until};
use super::dates::day;
use super::growth::{Stream, grow};
use super::rebuilds::results;
use super::suite::Size;
use super::system::{Embedded, System};
use super::world::{self, SETTLES_WITHIN, data, fresh};

const MODELS: [&str; 3] = ["available_units", "ledgers", "ledger_lines"];
/// Of the commands that make the log large, those that go to units; the others go to ledgers.
const OF_UNITS: f64 = 0.6;
/// Access tokens live for fifteen minutes; so many commands take less.
const STRETCH: u64 = 100_000;
/// Models that were left behind by so many commands.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(900);
const STEPS: usize = 6;
/// What a unit's area is before the first change.
const FIRST_AREA: u64 = 50;
/// Less than Nginx waits for an answer.
const WAIT_S: u32 = 4;
const FAULTS_TOLD: usize = 3;

/// Grows the logs, rebuilds models under load, and folds the same events elsewhere.
pub fn rebuilds(system: &mut System, size: Size) -> Result<String> {
    let grown = grown(system, size.pick(4_000, 1_000_000))?;
    let load = Arc::new(Load::prepare(system)?);
    let (before, counted) = counter_counts(system)?;
    let tasks = load.start();
    let told = rebuild_each(system, &load);
    load.stop.store(true, Ordering::SeqCst);
    for task in tasks {
        block(task).context("a client panicked")?;
    }
    let told = told?;
    system.caught_up()?;
    let messages = system.stack()?.rabbitmq.received()? - before;
    let counts = load.counts();
    ensure!(load.is_clean() && messages == 0, "{counts}, {messages} messages published; {:?}", load.faults());
    let folds = folded_elsewhere(system)?;
    Ok(format!("{grown}; {told}; meanwhile {counts}, {messages} messages published ({counted}); {folds}"))
}

/// Commands until all logs together hold so many events, and every model has them.
fn grown(system: &System, wanted: u64) -> Result<String> {
    let port = system.command_port()?;
    let admin = world::admin(system)?;
    let rows = |path| block(pages(&admin, path, &AtomicU64::new(0)));
    let units =
        rows("/units?limit=1000")?.iter().map(|row| Ok(Stream::Unit(text(row, "unit_id")?))).collect::<Result<Vec<_>>>()?;
    let leases = rows("/leases?status=active&limit=1000")?;
    let ledger = |row| Ok(Stream::Ledger { lease: text(row, "lease_id")?, currency: text(row, "currency")? });
    let ledgers = leases.iter().map(ledger).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let mut of_each = system.heads()?;
    while let Some(missing) = wanted.checked_sub(of_each.values().sum()).filter(|missing| *missing > 0) {
        let stretch = missing.min(STRETCH);
        let of_units = (stretch as f64 * OF_UNITS).ceil() as u64;
        let admin = world::admin(system)?;
        grow(&admin, port, &units, of_units)?;
        grow(&admin, port, &ledgers, stretch - of_units)?;
        of_each = system.heads()?;
        eprintln!("xtask: {} events after {:.0?}", of_each.values().sum::<u64>(), began.elapsed());
    }
    system.caught_up_within(CAUGHT_UP_WITHIN)?;
    let events: u64 = of_each.values().sum();
    Ok(format!("{events} events ({} of units, {} of finances)", of_each["units"], of_each["finances"]))
}

fn text(row: &Value, field: &str) -> Result<String> {
    row[field].as_str().map(str::to_owned).with_context(|| format!("no {field}: {row}"))
}

/// All rows of a list, page after page, each of them counted.
async fn pages(http: &Http, path: &str, reads: &AtomicU64) -> Result<Vec<Value>> {
    let (mut rows, mut next) = (Vec::new(), path.to_owned());
    loop {
        reads.fetch_add(1, Ordering::SeqCst);
        let answer = http.get(&next).send().await?.expect(200)?;
        rows.extend(data(&answer)?);
        match answer.json()?["next_cursor"].as_str() {
            Some(cursor) => next = format!("{path}&cursor={cursor}"),
            None => return Ok(rows),
        }
    }
}

/// The broker's count of what was published to it. It counts the message of a report: that it stays the same later means something.
fn counter_counts(system: &mut System) -> Result<(u64, String)> {
    let before = system.stack()?.rabbitmq.received()?;
    let admin = world::admin(system)?;
    let report = world::report(&admin, "/legal/generate_report", &json!({}))?;
    let ended = block(world::finished(&admin, &report, Duration::from_secs(120)))?;
    ensure!(ended["status"] == "succeeded", "{ended}");
    let after = system.stack()?.rabbitmq.received()?;
    ensure!(after > before, "the broker has not counted the message of a report");
    Ok((after, format!("{} for a report before", after - before)))
}

fn rebuild_each(system: &System, load: &Load) -> Result<String> {
    let mut told = Vec::new();
    for model in MODELS {
        let (began, reads) = (Instant::now(), load.reads.load(Ordering::SeqCst));
        let rows = results(system, &["projections", "rebuild", model, "--parallel", "2"])?;
        let took = began.elapsed().as_secs_f64();
        let equal = |row: &Value| row["result"] == "switched" && row["differ"] == 0 && row["digest"] == row["live_digest"];
        ensure!(rows.len() == 1 && equal(&rows[0]), "rebuilding {model} under load: {rows:?}");
        let beside = load.reads.load(Ordering::SeqCst) - reads;
        ensure!(beside > 0, "nobody read while {model} was rebuilt");
        told.push(format!("{model}: {} rows in {took:.1} s beside {beside} GETs", rows[0]["rows"]));
    }
    Ok(format!("rebuilt and switched {}", told.join(", ")))
}

/// The live rows are what a fresh fold gives, and what the exported history gives in a folder that has nothing else.
fn folded_elsewhere(system: &System) -> Result<String> {
    let here = digests(system)?;
    let System::Distributed(stack) = system else { anyhow::bail!("this scenario is about the distributed mode") };
    let began = Instant::now();
    let dir = tempfile::Builder::new().prefix("casitas-large-").tempdir_in(stack.dir())?;
    let file = dir.path().join("all.ndjson");
    let exported = system.rows(&["events", "export", &file.to_string_lossy()])?;
    let events = exported.last().map(|row| row["events"].clone()).unwrap_or_default();
    let folder = Embedded::imported(stack.binary(), &file, &stack.secrets_dir().join("master.key"))?;
    fs::remove_file(&file)?;
    let folder = System::Embedded(Box::new(folder));
    folder.caught_up_within(CAUGHT_UP_WITHIN)?;
    let there = digests(&folder)?;
    folder.stop()?;
    ensure!(here == there, "Postgres folds to {here:?}, the same {events} events in a folder to {there:?}");
    let took = began.elapsed().as_secs_f64();
    Ok(format!("digests equal a fresh fold's and those of {events} events imported into a folder ({took:.0} s)"))
}

/// Of the rows that readers see, which a fold of the log from its beginning must equal.
fn digests(system: &System) -> Result<BTreeMap<String, String>> {
    let rows = results(system, &[&["projections", "rebuild", "--dry-run"], &MODELS[..]].concat())?;
    ensure!(rows.len() == MODELS.len() && rows.iter().all(|row| row["result"] == "equal"), "{rows:?}");
    rows.iter().map(|row| Ok((text(row, "name")?, text(row, "live_digest")?))).collect()
}

/// Something that one writer changes step by step, in an order that tells from an answer alone at which step it was read. An
/// answer made of rows of two generations, or of one that is not complete, is the state after no step at all.
enum Subject {
    /// Units of one property: step n changes the area of unit n modulo their number. The areas' sum gives the step, and then the
    /// area of each.
    Stair { property: String, units: Vec<String> },
    /// A ledger: step n is a charge of n cents. What was charged in all is 1 + 2 + … + n.
    Ledger { lease: String, first: u64 },
}

impl Subject {
    fn stair(admin: &Http) -> Result<(Self, String)> {
        let property = world::property(admin)?;
        let made = (0..STEPS).map(|_| world::unit(admin, &property, &fresh("step"))).collect::<Result<Vec<_>>>()?;
        let position = made.last().map(|(_, position)| position.clone()).unwrap_or_default();
        Ok((Self::Stair { property, units: made.into_iter().map(|(unit, _)| unit).collect() }, position))
    }

    fn ledger(admin: &Http, party: &str) -> Result<(Self, String)> {
        let (unit, _) = world::unit(admin, &world::property(admin)?, &fresh("ledger"))?;
        let (document, sha256) = world::document(admin, None)?;
        let lease = world::lease(admin, &world::lease_body(&unit, party, 0, 365))?;
        let (state, code) = block(world::send_lease(admin, &lease, &world::send_body(&document, party)))?;
        ensure!(state == "sent", "the lease of a ledger came to {state} {code}");
        admin.done(&format!("/leases/{lease}/signatures"), &world::sign_body(party, &sha256))?;
        let read = admin.get(&format!("/ledgers/{lease}"));
        let read = &read;
        block(until("a ledger with its deposit", SETTLES_WITHIN, || async move {
            let answer = read.send().await?;
            Ok((answer.status == 200 && charged(&answer)? > 0).then_some(()))
        }))?;
        // For a position in this log.
        let position = admin.done(&format!("/ledgers/{lease}/charges"), &Self::charge(1))?.position()?;
        let first = charged(&admin.get(&format!("/ledgers/{lease}")).after(&position, WAIT_S).now()?.expect(200)?)?;
        Ok((Self::Ledger { lease, first }, position))
    }

    fn charge(cents: u64) -> Value {
        json!({"type": "utility", "money": world::money(cents as i64), "due_on": day(-1)})
    }

    fn path(&self) -> String {
        match self {
            Self::Stair { property, .. } => format!("/units/available?property_id={property}&limit=100"),
            Self::Ledger { lease, .. } => format!("/ledgers/{lease}"),
        }
    }

    /// The command that is step `step`, from 1.
    fn write(&self, admin: &Http, step: u64) -> Ask {
        match self {
            Self::Stair { units, .. } => {
                let count = units.len() as u64;
                let (at, turn) = ((step - 1) % count, (step - 1) / count);
                let area = FIRST_AREA + turn + 1;
                admin.request("PATCH", &format!("/units/{}", units[at as usize])).json(&json!({"area_m2": area}))
            }
            Self::Ledger { lease, .. } => admin.post(&format!("/ledgers/{lease}/charges"), &Self::charge(step)),
        }
    }

    /// After how many steps the answer is true; an error if after none.
    fn step(&self, answer: &Answer) -> Result<u64> {
        match self {
            Self::Stair { units, .. } => {
                let rows = data(answer)?;
                ensure!(rows.len() == units.len(), "{} of {} units", rows.len(), units.len());
                let area = |unit: &String| rows.iter().find(|row| row["unit_id"] == unit.as_str())?["area_m2"].as_u64();
                let areas = units.iter().map(area).collect::<Option<Vec<u64>>>().context("a unit without an area")?;
                let step = areas.iter().map(|area| area.saturating_sub(FIRST_AREA)).sum::<u64>();
                let count = units.len() as u64;
                let true_then: Vec<u64> = (0..count).map(|at| FIRST_AREA + (step + count - 1 - at) / count).collect();
                ensure!(areas == true_then, "areas {areas:?} were never true at once");
                Ok(step)
            }
            Self::Ledger { first, .. } => {
                let charged = charged(answer)?;
                let sum = charged.checked_sub(*first).with_context(|| format!("{charged} charged, {first} at first"))?;
                let step = ((((8 * sum + 1) as f64).sqrt() - 1.0) / 2.0).round() as u64;
                ensure!(step * (step + 1) / 2 == sum, "{sum} is no sum of the charges up to any");
                Ok(step)
            }
        }
    }
}

fn charged(answer: &Answer) -> Result<u64> {
    answer.json()?["charged"]["amount"].as_u64().with_context(|| format!("nothing charged: {answer}"))
}

/// A subject and what its writer knows of it.
struct Watched {
    subject: Subject,
    sent: AtomicU64,
    /// The last step that was acknowledged, with its position.
    known: Mutex<(u64, String)>,
}

impl Watched {
    fn new((subject, position): (Subject, String)) -> Self {
        Self { subject, sent: AtomicU64::new(0), known: Mutex::new((0, position)) }
    }

    fn known(&self) -> (u64, String) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The clients, and what they counted.
struct Load {
    admin: Http,
    watched: Vec<Watched>,
    document: String,
    /// Units that the public sees before; nothing that happens meanwhile takes one away.
    offered: BTreeSet<String>,
    stop: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    failed: AtomicU64,
    mixed: AtomicU64,
    violations: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Load {
    fn prepare(system: &System) -> Result<Self> {
        let admin = world::admin(system)?;
        let party = world::party(&admin, &fresh("Large"))?;
        let subjects = [
            Subject::stair(&admin)?,
            Subject::stair(&admin)?,
            Subject::ledger(&admin, &party)?,
            Subject::ledger(&admin, &party)?,
        ];
        let (document, _) = world::document(&admin, None)?;
        system.caught_up()?;
        let offered = block(offered(&admin.anonymous(), &AtomicU64::new(0)))?.into_iter().collect();
        Ok(Self {
            admin,
            watched: subjects.into_iter().map(Watched::new).collect(),
            document,
            offered,
            stop: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            mixed: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            faults: Mutex::default(),
        })
    }

    fn start(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        let mut tasks = Vec::new();
        for at in 0..self.watched.len() {
            tasks.push(spawn(self.clone().write(at)));
            tasks.push(spawn(self.clone().read(at)));
            tasks.push(spawn(self.clone().read(at)));
        }
        tasks.push(spawn(self.clone().read_document()));
        tasks.push(spawn(self.clone().walk()));
        tasks
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn is_clean(&self) -> bool {
        [&self.failed, &self.mixed, &self.violations].iter().all(|count| count.load(Ordering::SeqCst) == 0)
    }

    fn counts(&self) -> String {
        let [reads, writes, failed, mixed, violations] =
            [&self.reads, &self.writes, &self.failed, &self.mixed, &self.violations]
                .map(|count| count.load(Ordering::SeqCst));
        format!(
            "{reads} GETs and {writes} commands: {failed} failed, {mixed} mixed generations, {violations} violations of \
             read-your-writes"
        )
    }

    fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fault(&self, count: &AtomicU64, what: String) {
        count.fetch_add(1, Ordering::SeqCst);
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < FAULTS_TOLD {
            faults.push(what);
        }
    }

    /// A GET, counted; nothing if it failed.
    async fn get(&self, ask: &Ask) -> Option<Answer> {
        let answer = ask.send().await.and_then(|answer| answer.expect(200));
        self.reads.fetch_add(1, Ordering::SeqCst);
        answer.map_err(|error| self.fault(&self.failed, format!("{error:#}"))).ok()
    }

    /// Reads a subject, as somebody who knows a step of it or as somebody who knows nothing.
    async fn look(&self, watched: &Watched, http: &Http, knows: bool) {
        let (least, token) = watched.known();
        let ask = http.get(&watched.subject.path());
        let ask = if knows { ask.after(&token, WAIT_S) } else { ask };
        let Some(answer) = self.get(&ask).await else { return };
        let most = watched.sent.load(Ordering::SeqCst);
        match watched.subject.step(&answer) {
            Ok(step) if knows && step < least => {
                self.fault(&self.violations, format!("step {step} after {least} was acknowledged: {answer}"));
            }
            Ok(step) if step > most => self.fault(&self.mixed, format!("step {step} before {most} was sent: {answer}")),
            Ok(_) => {}
            Err(error) => self.fault(&self.mixed, format!("{error:#}: {answer}")),
        }
    }

    /// The next step, and reading it at once, again and again.
    async fn write(self: Arc<Self>, at: usize) {
        let watched = &self.watched[at];
        let mut step = 0;
        while !self.stopped() {
            step += 1;
            watched.sent.store(step, Ordering::SeqCst);
            let answer = watched.subject.write(&self.admin, step).send().await;
            match answer.and_then(Answer::success).and_then(|answer| answer.position()) {
                Ok(position) => *watched.known.lock().unwrap_or_else(PoisonError::into_inner) = (step, position),
                // Whether it was done is not known, so nothing that is read later can be judged.
                Err(error) => return self.fault(&self.failed, format!("a command: {error:#}")),
            }
            self.writes.fetch_add(1, Ordering::SeqCst);
            self.look(watched, &self.admin, true).await;
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn read(self: Arc<Self>, at: usize) {
        let watched = &self.watched[at];
        let mut turn = 0;
        while !self.stopped() {
            turn += 1;
            let is_public = matches!(watched.subject, Subject::Stair { .. }) && turn % 2 == 0;
            let http = if is_public { self.admin.anonymous() } else { self.admin.clone() };
            self.look(watched, &http, turn % 3 == 0).await;
            sleep(Duration::from_millis(3)).await;
        }
    }

    async fn read_document(self: Arc<Self>) {
        while !self.stopped() {
            for part in ["", "/content"] {
                self.get(&self.admin.get(&format!("/documents/{}{part}", self.document))).await;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The whole public list by its cursors, across switches: what was offered is there, once.
    async fn walk(self: Arc<Self>) {
        let public = self.admin.anonymous();
        while !self.stopped() {
            match offered(&public, &self.reads).await {
                Err(error) => self.fault(&self.failed, format!("{error:#}")),
                Ok(seen) => {
                    let once: BTreeSet<String> = seen.iter().cloned().collect();
                    if once.len() < seen.len() || !once.is_superset(&self.offered) {
                        let (seen, once, offered) = (seen.len(), once.len(), self.offered.len());
                        self.fault(&self.mixed, format!("{seen} rows, {once} units in a list that had {offered}"));
                    }
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn offered(public: &Http, reads: &AtomicU64) -> Result<Vec<String>> {
    let rows = pages(public, "/units/available?limit=20", reads).await?;
    rows.iter().map(|row| text(row, "unit_id")).collect()
}
