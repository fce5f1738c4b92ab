//! History on the move: from a folder to Postgres and back, and cut off on the way.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::suite::Size;
use super::system::{Embedded, System};
use super::world;
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
        lab.done(Store::Postgres(&lab.postgres.address()), &["migrate"])?;
        Ok(lab)
    }

    fn run(&self, store: Store<'_>, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.current_dir(self.dir.path()).args(args).args(["-o", "ndjson"]).stdin(Stdio::null());
        match store {
            Store::Folder(name) => command.args(["--data-dir", name]),
            Store::Postgres(address) => command
                .env("CASITAS_POSTGRES", address)
                .env("CASITAS_SECRETS_DIR", self.dir.path().join("secrets"))
                .env("CASITAS_ARTIFACTS_DIR", self.dir.path().join("artifacts"))
                // Neither is there: history needs the logs alone.
                .env("CASITAS_REDIS", "127.0.0.1:1")
                .env("CASITAS_RABBITMQ", "127.0.0.1:1"),
        };
        command.output().context("starting casitas")
    }

    /// The last row of a verb that must succeed.
    fn done(&self, store: Store<'_>, args: &[&str]) -> Result<Value> {
        let output = self.run(store, args)?;
        ensure!(output.status.success(), "casitas {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default())
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
        let mut cuts = 0;
        for part in [3, 5, 7] {
            proxy.allow(total * part / 10);
            let name = format!("cut{part}.ndjson");
            let (said, _) = self.cut_off(through, &["events", "export", &name])?;
            ensure!(said.contains("the last") && said.contains("--resume"), "{said}");
            ensure!(!self.dir.path().join(&name).exists(), "{name} has its name though it is not complete");
            self.done(server, &["events", "export", &name, "--resume"])?;
            self.same_bytes("whole.ndjson", &name)?;

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
            cuts += 2;
        }
        Ok(format!("{cuts} cuts of {total} bytes, {} events each time", all["events"]))
    }
}

/// A backup of a folder that is written to; what is restored from it serves what was there.
pub fn backup(system: &System, size: Size) -> Result<String> {
    let System::Embedded(embedded) = system else { anyhow::bail!("a backup is of the embedded mode here") };
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let dir = tempfile::tempdir()?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (dest, written) = (dir.path().join("backup"), AtomicI64::new(0));
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let number = written.fetch_add(1, Ordering::SeqCst);
                if world::unit(&admin, &property, &format!("B{number}")).is_err() {
                    break;
                }
            }
        });
        let made = (|| {
            for round in 0..size.pick(2, 10) {
                let dest = dest.with_extension(round.to_string());
                let output = system.casitas(&["backup", &dest.to_string_lossy(), "--with-master-key"], "")?;
                ensure!(output.status.success(), "casitas backup: {}", String::from_utf8_lossy(&output.stderr));
            }
            Ok(())
        })();
        stop.store(true, Ordering::SeqCst);
        made
    });
    outcome?;
    let first = dest.with_extension("0");
    let restored = Embedded::restored(embedded.binary(), &first)?;
    let restored = System::Embedded(Box::new(restored));
    restored.caught_up()?;
    let rows = restored.rows(&["events", "replay", "--into", "dry"])?;
    let events = rows.last().and_then(|row| row["replayed"].as_u64()).unwrap_or(0);
    ensure!(events > 0, "{rows:?}");
    let again = world::log_in(&restored.http()?, world::ADMIN, world::PASSWORD)?;
    let units = again.get("/units?limit=1000").now()?.success()?;
    restored.stop()?;
    Ok(format!(
        "{events} events restored beside {} commands; {} bytes of units served from it",
        written.load(Ordering::SeqCst),
        units.body.len()
    ))
}

/// Passes so many bytes, over all connections and both ways, then cuts everything.
struct Proxy {
    address: String,
    left: Arc<AtomicI64>,
    allowed: AtomicI64,
}

impl Proxy {
    fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let (server, budget) = (server.to_owned(), left.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(upstream) = TcpStream::connect(&server) else { continue };
                let pair = (client.try_clone(), upstream.try_clone());
                let (Ok(client_in), Ok(upstream_out)) = pair else { continue };
                let (there, back) = (budget.clone(), budget.clone());
                thread::spawn(move || carry(client_in, upstream_out, &there));
                thread::spawn(move || carry(upstream, client, &back));
            }
        });
        Ok(Self { address, left, allowed: AtomicI64::new(i64::MAX) })
    }

    /// From now on so many bytes.
    fn allow(&self, bytes: i64) {
        self.allowed.store(bytes, Ordering::SeqCst);
        self.left.store(bytes, Ordering::SeqCst);
    }

    fn passed(&self) -> i64 {
        self.allowed.load(Ordering::SeqCst) - self.left.load(Ordering::SeqCst)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, budget: &AtomicI64) {
    let mut bytes = [0; 4096];
    while let Ok(count) = from.read(&mut bytes) {
        let spent = budget.fetch_sub(count as i64, Ordering::SeqCst) < count as i64;
        if count == 0 || spent || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
