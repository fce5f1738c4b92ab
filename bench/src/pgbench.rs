//! The limit without batching: `pgbench -M prepared` inserting one row a transaction.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use uuid::Uuid;
use xtask::servers::{POSTGRES_OWNER, Postgres};

use crate::figure::{Outcome, histogram, record};
use crate::workload::history_payloads;

/// The row's payload, in bytes.
pub const PAYLOAD: usize = 293;
/// A tenth of the transactions is timed one by one, so that logging them does not slow pgbench.
const SAMPLED: &str = "0.1";
const DATABASE: &str = "bench_limit";

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
    let text = event.replace("\"share_bp\":", "\"share_bp\": ");
    // The street's name takes what is missing, or gives what is too much.
    let (before, after) = text.split_once("1 Elm Street").unwrap_or((&text, ""));
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
        .args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string(), "-T", &seconds.to_string()])
        .args(["-h", "127.0.0.1", "-p", &postgres.port().to_string(), "-U", POSTGRES_OWNER, DATABASE])
        .env("PGPASSWORD", postgres.password())
        .output()
        .context("starting pgbench")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr).trim());
    let processed: u64 = after(&said, "number of transactions actually processed: ")?;
    let failed: u64 = after(&said, "number of failed transactions: ").unwrap_or(0);
    let tps: f64 = after(&said, "tps = ")?;
    ensure!(failed == 0, "pgbench: {failed} transactions failed");
    let added = count()? - before;
    ensure!(added == processed, "pgbench says it inserted {processed} rows, and {added} are there");
    Ok(Outcome { value: tps, ..latencies(logs.path())? })
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
                record(&mut found, std::time::Duration::from_micros(us));
            }
        }
    }
    Ok(Outcome::latencies(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

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
