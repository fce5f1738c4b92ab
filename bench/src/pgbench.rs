//! The limit without batching: `pgbench -M prepared` inserting one row a transaction.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use uuid::Uuid;
use xtask::net::random_password;
use xtask::process::{Account, Program};
use xtask::servers::{POSTGRES_OWNER, Postgres, Server};

use crate::figure::{Outcome, histogram, record};
use crate::workload::history_payloads;

/// The row's payload, in bytes.
pub const PAYLOAD: usize = 293;
/// A tenth of the transactions is timed one by one, so that logging them does not slow pgbench.
const SAMPLED: &str = "0.1";
/// Its clock begins before it has connected, although its rate does not count that: it gets so much longer, and more if that
/// was not enough.
const CONNECTING: [u64; 3] = [1, 5, 20];
/// More do not connect within the first of these.
const SOON_CONNECTED: usize = 64;
const DATABASE: &str = "bench_limit";
/// What a server for many takes; the product's takes 200, of which it needs a few.
pub const CONNECTIONS_MANY: usize = 300;
const READY_WITHIN: Duration = Duration::from_secs(30);
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// postgres-es' table, as its init.sql has it.
pub const EVENTS_TABLE: &str = "CREATE TABLE events
(
    aggregate_type text                         NOT NULL,
    aggregate_id   text                         NOT NULL,
    sequence       bigint CHECK (sequence >= 0) NOT NULL,
    event_type     text                         NOT NULL,
    event_version  text                         NOT NULL,
    payload        json                         NOT NULL,
    metadata       json                         NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
)";

/// JSON of exactly `PAYLOAD` bytes, without what pgbench takes for a variable.
fn payload() -> String {
    let (event, _) = history_payloads(Uuid::from_u128(9));
    let text = event.replace("\"share_bp\":", "\"share_bp\": ").replace("\"jurisdiction\":\"CO\",", "");
    // The street's name takes what is missing.
    let (before, after) = text.split_once("1 Elm St").unwrap_or((&text, ""));
    let street = PAYLOAD.saturating_sub(before.len() + after.len());
    format!("{before}{:x<street$}{after}", "1")
}

fn script() -> String {
    format!(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata) \
         VALUES ('property', gen_random_uuid()::text, 1, 'PropertyRegistered', '1', '{}', '{{}}');\n",
        payload()
    )
}

/// Makes the database and its table.
///
/// # Errors
/// When Postgres refuses.
pub fn prepare(postgres: &Postgres) -> Result<()> {
    postgres.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    postgres.sql(DATABASE, EVENTS_TABLE).map(drop)
}

/// Empties the table, then puts so many rows into it.
///
/// # Errors
/// When Postgres refuses.
pub fn refill(postgres: &Postgres, rows: u64) -> Result<()> {
    postgres.sql(DATABASE, "TRUNCATE events")?;
    if rows > 0 {
        let insert = format!(
            "INSERT INTO events SELECT 'property', gen_random_uuid()::text, 1, 'PropertyRegistered', '1', '{}', '{{}}'
               FROM generate_series(1, {rows})",
            payload()
        );
        postgres.sql(DATABASE, &insert)?;
    }
    postgres.sql(DATABASE, "VACUUM ANALYZE events").map(drop)
}

/// Transactions a second, and the p50 and p99 of those that were sampled.
///
/// # Errors
/// When pgbench fails, or one of its transactions does, or a row is missing afterwards.
pub fn insert(postgres: &Postgres, dir: &Path, clients: usize, seconds: u64) -> Result<Outcome> {
    for connecting in CONNECTING.into_iter().skip(usize::from(clients > SOON_CONNECTED)) {
        if let Some(outcome) = attempt(postgres, dir, clients, seconds + connecting, seconds)? {
            return Ok(outcome);
        }
    }
    bail!("pgbench did not get {clients} connections in time: the machine is too busy")
}

/// `None` when connecting left less than the time that was to be measured.
fn attempt(postgres: &Postgres, dir: &Path, clients: usize, duration: u64, measured: u64) -> Result<Option<Outcome>> {
    let count = || -> Result<u64> { Ok(postgres.sql(DATABASE, "SELECT count(*) FROM events")?.parse()?) };
    let before = count()?;
    let logs = tempfile::Builder::new().prefix("pgbench-").tempdir_in(dir)?;
    let file = logs.path().join("insert.sql");
    fs::write(&file, script())?;
    let output = Command::new(postgres.bin_dir().join("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--log", "--sampling-rate", SAMPLED, "--log-prefix"])
        .arg(logs.path().join("log"))
        .arg("--file")
        .arg(&file)
        .args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string(), "-T", &duration.to_string()])
        .args(["-h", "127.0.0.1", "-p", &postgres.port().to_string(), "-U", POSTGRES_OWNER, DATABASE])
        .env("PGPASSWORD", postgres.password())
        .output()
        .context("starting pgbench")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr).trim());
    let processed: u64 = after(&said, "number of transactions actually processed: ")?;
    let failed: u64 = after(&said, "number of failed transactions: ").unwrap_or(0);
    ensure!(failed == 0, "pgbench: {failed} transactions failed");
    let added = count()? - before;
    ensure!(added == processed, "pgbench says it inserted {processed} rows, and {added} are there");
    // It says neither time nor rate when it came to no transaction at all.
    let connected_ms: f64 = after(&said, "initial connection time = ").unwrap_or(f64::INFINITY);
    if duration as f64 - connected_ms / 1_000.0 < measured as f64 {
        return Ok(None);
    }
    Ok(Some(Outcome { value: after(&said, "tps = ")?, ..latencies(logs.path())? }))
}

/// The number behind a label of pgbench's summary.
fn after<T: std::str::FromStr>(said: &str, label: &str) -> Result<T> {
    let line = said.lines().find_map(|line| line.strip_prefix(label)).with_context(|| format!("no {label:?} in {said}"))?;
    let number = line.split([' ', '(']).next().unwrap_or_default();
    number.parse().ok().with_context(|| format!("{label}{line}"))
}

/// pgbench's log: client, transaction, microseconds, …
fn latencies(folder: &Path) -> Result<Outcome> {
    let mut found = histogram();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.")) {
            for line in fs::read_to_string(&path)?.lines() {
                let us: u64 = line.split(' ').nth(2).and_then(|us| us.parse().ok()).context("pgbench's log")?;
                record(&mut found, Duration::from_micros(us));
            }
        }
    }
    Ok(Outcome::latencies(&found))
}

/// A server with the same settings for more clients than the others take connections. It runs only while it is measured, so that it
/// takes nothing from what is measured before and after.
pub struct Wide {
    // Dropped in this order; the second has made the data and has stopped.
    server: Server,
    postgres: Postgres,
}

impl Wide {
    /// Makes its data in a folder of its own there, and the table.
    ///
    /// # Errors
    /// When Postgres does not come up.
    pub fn prepare(dir: &Path) -> Result<Self> {
        let dir = dir.join("postgres-wide");
        let mut postgres = Postgres::start(&dir, &random_password()?)?;
        prepare(&postgres)?;
        let pid = postgres.pid().context("Postgres does not run")?;
        let args = widened(&fs::read_to_string(format!("/proc/{pid}/cmdline"))?)?;
        postgres.stop()?;
        let program = Program::new("postgres for many", postgres.bin_dir().join("postgres"), dir.join("wide.log"))
            .args(args)
            .clean_env()
            .dir(&dir)
            .account(Account::to_drop_to("postgres"))
            .death_signal("INT");
        Ok(Self { server: Server::new(program, postgres.port(), Signal::INT, STOPS_WITHIN), postgres })
    }

    /// Starts it, with an empty table.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self) -> Result<&Postgres> {
        let postgres = &self.postgres;
        self.server.start_until(READY_WITHIN, |_| Ok(postgres.sql("postgres", "SELECT 1").is_ok()))?;
        refill(postgres, 0)?;
        postgres.sql("postgres", "CHECKPOINT")?;
        Ok(postgres)
    }

    /// # Errors
    /// When something of it survives.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop().map(drop)
    }
}

/// The arguments of a running server, but for the number of its connections.
fn widened(command_line: &str) -> Result<Vec<String>> {
    let mut args: Vec<String> = command_line.split_terminator('\0').skip(1).map(str::to_owned).collect();
    let most = args.iter_mut().find(|arg| arg.starts_with("max_connections="));
    *most.with_context(|| format!("how many connections? {command_line:?}"))? =
        format!("max_connections={CONNECTIONS_MANY}");
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_server_differs_in_its_connections_only() {
        let line = "/usr/bin/postgres\0-D\0/data\0-c\0max_connections=200\0-c\0fsync=on\0";
        let args = widened(line).expect("has a number of connections");
        assert_eq!(args, ["-D", "/data", "-c", "max_connections=300", "-c", "fsync=on"]);
        assert!(widened("/usr/bin/postgres\0-D\0/data\0").is_err());
    }

    #[test]
    fn the_payload_is_json_of_the_length_it_shall_have_and_has_no_variables() {
        let text = payload();
        assert_eq!(text.len(), PAYLOAD, "{text}");
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        let colons = text.match_indices(':').map(|(at, _)| text.as_bytes()[at + 1]);
        assert!(colons.into_iter().all(|next| !next.is_ascii_alphanumeric() && next != b'_'), "{text}");
    }

    #[test]
    fn the_summary_is_read() {
        let said = "number of transactions actually processed: 42\nnumber of failed transactions: 0 (0.000%)\n\
                    tps = 1234.5 (without initial connection time)\n";
        assert_eq!(after::<u64>(said, "number of transactions actually processed: ").ok(), Some(42));
        assert_eq!(after::<u64>(said, "number of failed transactions: ").ok(), Some(0));
        assert_eq!(after::<f64>(said, "tps = ").ok(), Some(1234.5));
    }
}
