//! Import: a log from its export by what `casitas events import` runs, beside `psql COPY` of the same rows into an empty table of the
//! same shape. Both go to a server of their own, whose databases are made anew for every run: a log refuses to be emptied.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use adapters::postgres::{Databases, migrate};
use anyhow::{Context as _, Result, ensure};
use domain::Context;
use xtask::process::Program;
use xtask::servers::{POSTGRES_OWNER, Postgres};

use crate::bench::{Bench, Round};
use crate::figure::Outcome;
use crate::product::chained;
use crate::rebuild::{Secrets, text};
use crate::tally::Tally;
use crate::verb;

const LOG: &str = "units_db";
const EVENTS: &str = "events";
/// What COPY writes to.
const COPIED: &str = "copied";
const WITHIN: Duration = Duration::from_secs(900);
const EQUAL: &str = "events imported and copied, equal to the log's";

pub fn imported(events: usize) -> String {
    format!("casitas events import, {events} events")
}

pub fn copied(events: usize) -> String {
    format!("psql COPY FROM text, {events} events")
}

pub struct Import {
    postgres: Postgres,
    secrets: Secrets,
    folder: PathBuf,
    history: Option<History>,
}

/// A log as files.
struct History {
    events: u64,
    /// What the import reads.
    export: PathBuf,
    /// What COPY reads.
    rows: PathBuf,
    /// Of the log.
    digest: String,
}

impl Import {
    /// A server with nothing in it; its files, and those that are read, go into the folder.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(bench: &Bench, folder: &Path, secrets: &Secrets) -> Result<Self> {
        let password = secrets.of("postgres_password")?;
        let postgres = Postgres::start(&folder.join("import"), &password)?;
        let import = Self { postgres, secrets: secrets.clone(), folder: folder.to_owned(), history: None };
        import.empty(bench)?;
        Ok(import)
    }

    /// Writes a log of so many events into files, unless they hold it already. The verb given writes the export.
    ///
    /// # Errors
    /// When the log cannot be read, or holds another number of events.
    pub fn write_out(&mut self, log: &Postgres, events: u64, export: impl FnOnce(&str) -> Program) -> Result<()> {
        if self.history.as_ref().is_some_and(|history| history.events == events) {
            return Ok(());
        }
        self.history = None;
        let at = |name: &str| self.folder.join(name);
        let history = History { events, export: at("log.ndjson"), rows: at("log.rows"), digest: digest(log, EVENTS)? };
        if history.export.exists() {
            // Of the log when it was smaller.
            fs::remove_file(&history.export)?;
        }
        let ran = verb::run(&export(&text(&history.export)), WITHIN)?;
        ensure!(ran.result["events"] == events, "the export of {events} events said {}", ran.result);
        let status = log
            .psql(LOG)
            .args(["-c", "COPY (SELECT * FROM events ORDER BY position) TO STDOUT"])
            .stdin(Stdio::null())
            .stdout(File::create(&history.rows)?)
            .status()?;
        ensure!(status.success(), "psql failed ({status})");
        self.history = Some(history);
        Ok(())
    }

    /// Both, each into a log or a table with nothing in it.
    ///
    /// # Errors
    /// When one of them fails. What is not as in the log is told to the tally.
    pub fn measure(&self, bench: &Bench, round: &mut Round<'_>, size: usize, tally: &mut Tally) -> Result<()> {
        let history = self.history.as_ref().context("nothing was written out")?;
        self.empty(bench)?;
        round.measure(imported(size), "events/s", || {
            let ran = verb::run(&self.program(bench, history), WITHIN)?;
            ensure!(ran.result["state"] == "imported", "the import said {}", ran.result);
            Ok(Outcome::plain(history.events as f64 / ran.took.as_secs_f64()))
        })?;
        self.compare(history, EVENTS, tally)?;
        self.empty(bench)?;
        round.measure(copied(size), "events/s", || self.copy(history))?;
        self.compare(history, COPIED, tally)?;
        // Nothing that is left here may be cleaned up or written back while others are measured.
        self.empty(bench)
    }

    /// Databases as `casitas migrate` makes them, and a table like the log's.
    fn empty(&self, bench: &Bench) -> Result<()> {
        self.postgres.sql("postgres", &format!("DROP DATABASE IF EXISTS {LOG} WITH (FORCE)"))?;
        let owner = self.secrets.server(&self.postgres, POSTGRES_OWNER)?;
        let (roles, logs) = (self.secrets.roles()?, Databases { logs: Context::ALL.to_vec(), views: false });
        bench.block(migrate(&owner, &roles, &logs)).map_err(chained)?;
        self.postgres.sql(LOG, &format!("CREATE TABLE {COPIED} (LIKE {EVENTS} INCLUDING ALL)"))?;
        self.postgres.sql("postgres", "CHECKPOINT").map(drop)
    }

    fn program(&self, bench: &Bench, history: &History) -> Program {
        Program::new("casitas events import", &bench.binary, self.folder.join("import.log"))
            .args(["events", "import", &text(&history.export), "--without-keys"])
            .dir(&self.folder)
            .env("CASITAS_POSTGRES", self.postgres.address())
            .env("CASITAS_SECRETS_DIR", self.secrets.folder())
    }

    fn copy(&self, history: &History) -> Result<Outcome> {
        let started = Instant::now();
        let status = self
            .postgres
            .psql(LOG)
            .args(["-c", &format!("COPY {COPIED} FROM STDIN")])
            .stdin(File::open(&history.rows)?)
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "psql failed ({status})");
        Ok(Outcome::plain(history.events as f64 / started.elapsed().as_secs_f64()))
    }

    fn compare(&self, history: &History, table: &str, tally: &mut Tally) -> Result<()> {
        let found = digest(&self.postgres, table)?;
        let differs = found != history.digest;
        tally.add(EQUAL, history.events, differs.then(|| format!("{table}: {found}, in the log {}", history.digest)));
        Ok(())
    }
}

/// How many rows a table of events has, and the sum of their hashes: every column of every row is in it, in whatever order.
fn digest(postgres: &Postgres, table: &str) -> Result<String> {
    postgres.sql(LOG, &format!("SELECT count(*), sum(hashtextextended(e::text, 0)) FROM {table} e"))
}
