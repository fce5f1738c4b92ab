//! History on the move: from a folder to Postgres and back, and cut off on the way.

mod interrupts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Http, block};
use super::suite::Size;
use super::system::{CONTEXTS, Embedded, System};
use super::wire::Proxy;
use super::world::{self, SETTLES_WITHIN};
use crate::net::wait_until;
use crate::servers::Postgres;

/// A folder with demo data and a migrated Postgres with nothing in it, under one master key.
pub struct Lab {
    postgres: Postgres,
    binary: PathBuf,
    dir: TempDir,
}

/// Where a `casitas` works.
#[derive(Clone, Copy)]
enum Store<'a> {
    Folder(&'a str),
    Postgres(&'a str),
}

impl Lab {
    pub fn start(binary: &Path, size: Size) -> Result<Self> {
        let passable = fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new().prefix("casitas-history-").permissions(passable).tempdir()?;
        let run = |args: &[&str]| -> Result<()> {
            let output = Command::new(binary).args(args).current_dir(dir.path()).output()?;
            ensure!(output.status.success(), "casitas {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        run(&["secrets", "init", "secrets"])?;
        let (units, years) = (size.pick("12", "300"), size.pick("1", "3"));
        run(&["seed", "demo", "--units", units, "--years", years, "--data-dir", "a"])?;
        fs::copy(dir.path().join("a/keys/master.key"), dir.path().join("secrets/master.key"))?;
        let password = fs::read_to_string(dir.path().join("secrets/postgres_password"))?;
        let postgres = Postgres::start(&dir.path().join("postgres"), password.trim())?;
        let lab = Self { postgres, binary: binary.to_owned(), dir };
        let migrated = lab.done(Store::Postgres(&lab.postgres.address()), &["migrate"])?;
        ensure!(migrated["result"] == "up to date", "migrated: {migrated}");
        Ok(lab)
    }

    fn run(&self, store: Store<'_>, args: &[&str]) -> Result<Output> {
        self.program(store, args).output().context("starting casitas")
    }

    /// A verb, to be started.
    fn program(&self, store: Store<'_>, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).args(["-o", "ndjson"]);
        if let Store::Folder(name) = store {
            command.args(["--data-dir", name]);
        }
        self.beside(store, command)
    }

    /// What runs in the lab's folder; a server is named by the environment.
    fn beside(&self, store: Store<'_>, mut command: Command) -> Command {
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        if let Store::Postgres(address) = store {
            command
                .env("CASITAS_POSTGRES", address)
                .env("CASITAS_SECRETS_DIR", self.dir.path().join("secrets"))
                .env("CASITAS_ARTIFACTS_DIR", self.dir.path().join("artifacts"))
                // Neither is there: history needs the logs alone.
                .env("CASITAS_REDIS", "127.0.0.1:1")
                .env("CASITAS_RABBITMQ", "127.0.0.1:1");
        }
        command
    }

    /// The last row of a verb that must succeed.
    fn done(&self, store: Store<'_>, args: &[&str]) -> Result<Value> {
        let output = self.run(store, args)?;
        ensure!(output.status.success(), "casitas {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(last_row(&output))
    }

    /// What a verb that must be cut off says.
    fn cut_off(&self, store: Store<'_>, args: &[&str]) -> Result<(String, Output)> {
        let output = self.run(store, args)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "casitas {args:?} did not notice the cut");
        Ok((said, output))
    }

    fn same_bytes(&self, left: &str, right: &str) -> Result<usize> {
        let [left_bytes, right_bytes] = [left, right].map(|name| fs::read(self.dir.path().join(name)));
        let (left_bytes, right_bytes) = (left_bytes?, right_bytes?);
        ensure!(left_bytes == right_bytes, "{left} and {right} differ");
        Ok(left_bytes.len())
    }

    /// An empty folder under the same master key.
    fn empty_folder(&self, name: &str) -> Result<()> {
        let keys = self.dir.path().join(name).join("keys");
        fs::create_dir_all(&keys)?;
        fs::copy(self.dir.path().join("secrets/master.key"), keys.join("master.key"))?;
        Ok(())
    }

    /// Folder to Postgres to folder: three exports, the same bytes; and views come out the same.
    pub fn moves(&self) -> Result<String> {
        let address = self.postgres.address();
        let server = Store::Postgres(&address);
        let first = self.done(Store::Folder("a"), &["events", "export", "one.ndjson"])?;
        let refused = self.run(Store::Folder("a"), &["events", "import", "one.ndjson"])?;
        ensure!(refused.status.code() == Some(5), "an import into a full store ends with {}", refused.status);
        // The first attempt is cut off on its way, the second goes on.
        let proxy = Proxy::start(&address)?;
        self.done(Store::Postgres(&proxy.address), &["events", "import", "one.ndjson", "--dry-run"])?;
        proxy.allow(200_000);
        let (said, _) = self.cut_off(Store::Postgres(&proxy.address), &["events", "import", "one.ndjson"])?;
        ensure!(said.contains("the import stopped behind") && said.contains("--resume"), "{said}");
        self.done(server, &["events", "import", "one.ndjson", "--resume"])?;
        self.done(server, &["events", "export", "two.ndjson"])?;
        let bytes = self.same_bytes("one.ndjson", "two.ndjson")?;
        self.same_bytes("one.ndjson.keys", "two.ndjson.keys")?;
        self.empty_folder("b")?;
        self.done(Store::Folder("b"), &["events", "import", "two.ndjson"])?;
        self.done(Store::Folder("b"), &["events", "export", "three.ndjson", "--zstd"])?;
        let third = self.done(Store::Folder("b"), &["events", "import", "three.ndjson", "--dry-run", "--resume"])?;
        ensure!(third["sha256"] == first["sha256"], "{third} against {first}");
        for model in ["projection:available_units", "projection:party_card", "projection:ledger_lines"] {
            let folds = [Store::Folder("a"), server, Store::Folder("b")];
            let folds: Vec<Value> = folds
                .iter()
                .map(|store| self.done(*store, &["events", "replay", "--into", model]))
                .collect::<Result<_>>()?;
            ensure!(folds.iter().all(|fold| *fold == folds[0] && fold["rows"] != 0), "{folds:?}");
        }
        Ok(format!("{} events, {bytes} bytes: folder = Postgres = folder", first["events"]))
    }

    /// A connection that breaks in the middle of an export or a replay: the exit says where, and what goes on from there ends with
    /// the right count.
    pub fn cuts(&self) -> Result<String> {
        let proxy = Proxy::start(&self.postgres.address())?;
        let (address, through) = (self.postgres.address(), proxy.address.clone());
        let (server, through) = (Store::Postgres(&address), Store::Postgres(&through));
        let all = self.done(through, &["events", "export", "whole.ndjson"])?;
        let total = proxy.passed();
        proxy.allow(i64::MAX);
        let as_cloud = ["--format", "cloudevents"];
        let cloud = self.done(through, &[&["events", "export", "cloud.ndjson"], &as_cloud[..]].concat())?;
        let cloud_total = proxy.passed();
        ensure!(cloud["events"] == all["events"], "{cloud} as CloudEvents, {all}");
        let mut cuts = 0;
        for part in [3, 5, 7] {
            proxy.allow(total * part / 10);
            let name = format!("cut{part}.ndjson");
            let (said, _) = self.cut_off(through, &["events", "export", &name])?;
            ensure!(said.contains("the last") && said.contains("--resume"), "{said}");
            ensure!(!self.dir.path().join(&name).exists(), "{name} has its name though it is not complete");
            self.done(server, &["events", "export", &name, "--resume"])?;
            self.same_bytes("whole.ndjson", &name)?;

            proxy.allow(cloud_total * part / 10);
            let name = format!("cloud{part}.ndjson");
            let export = [&["events", "export", &name], &as_cloud[..]].concat();
            let (said, _) = self.cut_off(through, &export)?;
            ensure!(said.contains("the last") && said.contains("--resume --format cloudevents"), "{said}");
            ensure!(!self.dir.path().join(&name).exists(), "{name} has its name though it is not complete");
            let rest = self.done(server, &[&export[..], &["--resume"]].concat())?;
            ensure!(rest["events"] == all["events"], "{rest} in two goes, {all}");
            self.same_bytes("cloud.ndjson", &name)?;
            let left = self.dir.path().join(format!("{name}.part.head"));
            ensure!(!left.exists(), "{} is left", left.display());

            proxy.allow(total * part / 10);
            let into = ["events", "replay", "--into", "stdout"];
            let (said, first) = self.cut_off(through, &into)?;
            let from = said
                .split("--from ")
                .nth(1)
                .and_then(|rest| rest.split_whitespace().next())
                .map(|place| place.trim_end_matches(':'));
            let from = from.with_context(|| format!("no place to go on from: {said}"))?;
            let second = self.run(server, &[&into[..], &["--from", from]].concat())?;
            ensure!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
            let lines = |output: &Output| output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64;
            let (first, second) = (lines(&first), lines(&second));
            ensure!(
                Some(first + second) == all["events"].as_u64() && first > 0,
                "{first} events and {second} behind {from}, of {}",
                all["events"]
            );
            cuts += 3;
        }
        Ok(format!("{cuts} cuts of {total} bytes, {} events each time", all["events"]))
    }
}

fn last_row(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

/// Writers beside a backup: without a pause, so that a moment at which nothing is written does not come by itself.
const WRITERS: usize = 4;

/// A backup of a system that is written to: restored, every log is the original's beginning, of one moment, with all that
/// was acknowledged before; and it serves.
pub fn backup(system: &System, binary: &Path, size: Size) -> Result<String> {
    let (admin, dir, tenant) = (world::admin(system)?, tempfile::tempdir()?, world::fresh("Tenant"));
    let party = world::party(&admin, &tenant)?;
    let known = Mutex::new(vec![(format!("party:{party}"), "PartyRegistered")]);
    let stop = AtomicBool::new(false);
    let backups = thread::scope(|scope| -> Result<Vec<Backup>> {
        let mut writers = vec![];
        for _ in 0..WRITERS {
            writers.push(scope.spawn(|| write(&admin, &party, &stop, &known)));
        }
        let folder = |round: usize| dir.path().join(format!("backup-{round}"));
        let made = (0..size.pick(2, 10)).map(|round| Backup::make(system, folder(round), &known));
        let made: Result<Vec<Backup>> = made.collect();
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        made
    })?;
    let file = dir.path().join("original.ndjson");
    system.rows(&["events", "export", &file.to_string_lossy()])?;
    let original = History::read(&file)?;
    let mut causes = 0;
    for backup in &backups {
        let folder = backup.folder.display();
        causes += backup.at_rest(binary, &original).with_context(|| format!("restored from {folder}"))?;
    }
    ensure!(causes > 0, "no backup has an event that followed from another");
    let first = &backups[0];
    let (heads, all) = (first.heads()?, original.upto("units", u64::MAX).len() as u64);
    ensure!(heads["units"] < all, "nothing was written behind the first backup: it is no beginning, but all of it");
    let events = first.served(binary, &tenant)?;
    let found: usize = backups.iter().map(|backup| backup.known.len()).sum();
    Ok(format!(
        "{} backups beside {WRITERS} writers: each log a beginning of the original, {found} facts that were known before, {causes} \
         events with their causes; {events} events serve again",
        backups.len()
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(row: &Value, name: &str) -> Result<u64> {
    row[name].as_u64().with_context(|| format!("no {name}: {row}"))
}

/// A stream, and the type of an event that its writer was told is there.
type Fact = (String, &'static str);

/// Lists units and sends leases until it is told to stop, one command after the other.
fn write(admin: &Http, tenant: &str, stop: &AtomicBool, known: &Mutex<Vec<Fact>>) -> Result<()> {
    let property = world::property(admin)?;
    let know = |kind: &str, id: &str, event: &'static str| lock(known).push((format!("{kind}:{id}"), event));
    let unit = || -> Result<String> {
        let (unit, _) = world::unit(admin, &property, &world::fresh("B"))?;
        know("unit", &unit, "UnitAdded");
        know("unit", &unit, "UnitListed");
        Ok(unit)
    };
    while !stop.load(Ordering::SeqCst) {
        unit()?;
        unit()?;
        let leased = unit()?;
        let lease = world::lease(admin, &world::lease_body(&leased, tenant, 0, 364))?;
        know("lease", &lease, "LeaseDrafted");
        let (document, _) = world::document(admin, Some(&lease))?;
        know("document", &document, "DocumentStored");
        let (state, code) = block(world::send_lease(admin, &lease, &world::send_body(&document, tenant)))?;
        ensure!(state == "sent", "a lease came to {state} {code}");
        know("unit", &leased, "UnitReserved");
        know("lease", &lease, "LeaseSent");
    }
    Ok(())
}

/// A backup, and what was known when it began.
struct Backup {
    folder: PathBuf,
    known: Vec<Fact>,
    /// What the verb told.
    rows: Vec<Value>,
}

impl Backup {
    fn make(system: &System, folder: PathBuf, known: &Mutex<Vec<Fact>>) -> Result<Self> {
        let before = lock(known).len();
        wait_until("another lease that was sent", SETTLES_WITHIN, || {
            Ok(lock(known)[before..].iter().any(|(_, event)| *event == "LeaseSent"))
        })?;
        let known = lock(known).clone();
        let rows = system.rows(&["backup", &folder.to_string_lossy(), "--with-master-key"])?;
        Ok(Self { folder, known, rows })
    }

    /// Where each log stood, as the manifest has it.
    fn heads(&self) -> Result<BTreeMap<String, u64>> {
        let manifest: Value = serde_json::from_str(&fs::read_to_string(self.folder.join("backup.json"))?)?;
        let contexts = manifest["contexts"].as_array().with_context(|| format!("no contexts: {manifest}"))?;
        let head = |row: &Value| Ok((row["context"].as_str().context("no context")?.to_owned(), number(row, "position")?));
        contexts.iter().map(head).collect()
    }

    /// Restores it into a folder that nobody serves, and compares that with the original. Answers how many of its events
    /// followed from others.
    fn at_rest(&self, binary: &Path, original: &History) -> Result<usize> {
        let beside = |ending: &str| PathBuf::from(format!("{}{ending}", self.folder.display()));
        let (folder, file) = (beside("-restored"), beside(".ndjson"));
        let run = |args: &[&str]| verb(binary, &folder, args);
        let restored = run(&["restore", &self.folder.to_string_lossy()])?;
        let heads = self.heads()?;
        ensure!(heads.keys().eq(BTreeSet::from(CONTEXTS)), "the manifest has {heads:?}");
        let told = |rows: &[Value], context: &str| {
            rows.iter().find(|row| row["context"] == context).and_then(|row| row["events"].as_u64())
        };
        // What an event names was stored before it.
        let documents = self.known.iter().filter(|(_, event)| *event == "DocumentStored").count() as u64;
        let files = told(&self.rows, "artifacts");
        ensure!(files >= Some(documents), "{files:?} files beside {documents} documents");
        let verdict = run(&["events", "verify"])?;
        for (context, head) in &heads {
            let last = run(&["events", "list", "--context", context, "--limit", "1"])?;
            let last = last.last().map_or(Ok(0), |row| number(row, "position"))?;
            ensure!(last == *head, "the {context} log ends at {last}, the manifest says {head}");
            let said = [told(&self.rows, context), told(&restored, context)];
            ensure!(said == [Some(*head); 2], "of the {context} log, which ends at {head}, the verbs say {said:?}");
            let fine =
                |row: &Value| row["context"] == context.as_str() && row["state"] == "fine" && row["position"] == *head;
            ensure!(verdict.iter().any(fine), "of the {context} log up to {head}: {verdict:?}");
        }
        run(&["events", "export", &file.to_string_lossy()])?;
        let copy = History::read(&file)?;
        copy.is_beginning_of(original, &heads)?;
        copy.holds(&self.known)?;
        copy.has_leased_units()?;
        copy.causes()
    }

    /// Serves it and asks for what was known before it began, a person's name among that. Answers how many events it has.
    fn served(&self, binary: &Path, tenant: &str) -> Result<u64> {
        let restored = System::Embedded(Box::new(Embedded::restored(binary, &self.folder)?));
        restored.caught_up()?;
        let verdict = restored.casitas(&["events", "verify", "-o", "ndjson"], "")?;
        let found = String::from_utf8_lossy(&verdict.stdout).into_owned();
        ensure!(verdict.status.success(), "once it serves, verify ends with {}: {found}", verdict.status);
        let rows = restored.rows(&["events", "replay", "--into", "dry"])?;
        let events = number(rows.last().context("a replay without a result")?, "replayed")?;
        let least = self.heads()?.values().sum::<u64>();
        ensure!(events >= least, "{events} of {least} events can be replayed");
        let again = world::log_in(&restored.http()?, world::ADMIN, world::PASSWORD)?;
        for (stream, event) in &self.known {
            let (path, pointer, expected) = match *event {
                "PartyRegistered" => ("parties", "/names/full", tenant),
                "UnitListed" => ("units", "/listing/price/currency", "USD"),
                "LeaseSent" => ("leases", "/status", "sent"),
                _ => continue,
            };
            let id = stream.split_once(':').map_or("", |(_, id)| id);
            let shown = again.get(&format!("/{path}/{id}")).now()?.success()?.json()?;
            let same = shown.pointer(pointer).and_then(Value::as_str) == Some(expected);
            ensure!(same, "{stream} after the restore, {pointer} not {expected}: {shown}");
        }
        restored.stop()?;
        Ok(events)
    }
}

/// The rows of a verb on a folder that nobody serves; it must succeed.
fn verb(binary: &Path, folder: &Path, args: &[&str]) -> Result<Vec<Value>> {
    let mut command = Command::new(binary);
    command.args(args).args(["-o", "ndjson", "--data-dir"]).arg(folder).stdin(Stdio::null());
    let output = command.output().context("starting casitas")?;
    let (shown, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "casitas {args:?} ended with {}: {said} {shown}", output.status);
    shown.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The events and kept keys of a native export, by context.
#[derive(Default)]
struct History {
    events: BTreeMap<String, Vec<Line>>,
    keys: BTreeMap<String, Vec<Line>>,
}

struct Line {
    /// As it stands in the file.
    text: String,
    value: Value,
}

impl History {
    fn read(file: &Path) -> Result<Self> {
        let mut history = Self::default();
        for text in fs::read_to_string(file)?.lines() {
            let line: Value = serde_json::from_str(text).with_context(|| text.to_owned())?;
            for (name, lines) in [("event", &mut history.events), ("key", &mut history.keys)] {
                let value = line[name].clone();
                if let Some(context) = value["context"].as_str().map(str::to_owned) {
                    lines.entry(context).or_default().push(Line { text: text.to_owned(), value });
                }
            }
        }
        Ok(history)
    }

    /// The lines of a context's events up to a position.
    fn upto(&self, context: &str, head: u64) -> Vec<&str> {
        upto(&self.events, context, head)
    }

    /// Each log is the other's up to its head, byte for byte, and so are the keys that are kept for those events.
    fn is_beginning_of(&self, whole: &Self, heads: &BTreeMap<String, u64>) -> Result<()> {
        for (context, head) in heads {
            let count = self.upto(context, u64::MAX).len();
            ensure!(count as u64 == *head, "{count} events of {context} are exported, which ends at {head}");
            for (what, own, all) in [("events", &self.events, &whole.events), ("keys", &self.keys, &whole.keys)] {
                let (own, all) = (upto(own, context, u64::MAX), upto(all, context, *head));
                let other = own.iter().zip(&all).find(|(own, all)| own != all);
                ensure!(other.is_none(), "of the {what} of {context} {other:?} differ");
                ensure!(own.len() == all.len(), "{} of {} {what} of {context} up to {head}", own.len(), all.len());
            }
        }
        ensure!(!self.keys.is_empty(), "no key of a process is kept");
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Value> {
        self.events.values().flatten().map(|line| &line.value)
    }

    fn holds(&self, known: &[Fact]) -> Result<()> {
        let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let stream = |event: &Value| format!("{}:{}", text(event, "kind"), text(event, "stream"));
        let there: BTreeSet<(String, String)> = self.all().map(|event| (stream(event), text(event, "type"))).collect();
        let lost: Vec<&Fact> =
            known.iter().filter(|(stream, event)| !there.contains(&(stream.clone(), (*event).to_owned()))).collect();
        ensure!(lost.is_empty(), "{} of {} facts that were known before are lost: {lost:?}", lost.len(), known.len());
        Ok(())
    }

    /// Of one moment: a lease names a unit that its client was told of just before. Nothing but that says so.
    fn has_leased_units(&self) -> Result<()> {
        let of = |name: &'static str| self.all().filter(move |event| event["type"] == name);
        let added: BTreeSet<&str> = of("UnitAdded").filter_map(|event| event["stream"].as_str()).collect();
        let dangling = of("LeaseDrafted").find(|event| {
            let unit = event["data"]["LeaseDrafted"]["terms"]["unit_id"].as_str();
            unit.is_none_or(|unit| !added.contains(unit))
        });
        ensure!(dangling.is_none(), "a lease of a unit that is not there: {dangling:?}");
        Ok(())
    }

    /// Of one moment: what an event followed from is there, whichever log has it. Answers how many followed from another.
    fn causes(&self) -> Result<usize> {
        let ids: BTreeSet<&str> = self.all().filter_map(|event| event["event_id"].as_str()).collect();
        let caused: Vec<&Value> = self.all().filter(|event| event["causation_id"].is_string()).collect();
        let orphan = caused.iter().find(|event| event["causation_id"].as_str().is_none_or(|cause| !ids.contains(cause)));
        ensure!(orphan.is_none(), "there without its cause: {orphan:?}");
        Ok(caused.len())
    }
}

/// The lines of a context that belong to positions up to this one.
fn upto<'a>(lines: &'a BTreeMap<String, Vec<Line>>, context: &str, head: u64) -> Vec<&'a str> {
    let within = |line: &&Line| line.value["position"].as_u64().is_some_and(|position| position <= head);
    lines.get(context).into_iter().flatten().filter(within).map(|line| line.text.as_str()).collect()
}
