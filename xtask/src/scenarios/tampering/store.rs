//! A store whose history is tampered with, and what `casitas events verify` says of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::servers::Postgres;
use crate::stack::Stack;

/// The log that is tampered with: the one with personal data.
pub const LOG: &str = "legal_db";
pub const VIEWS: &str = "views_db";

/// A store at rest that can be set back to what it was.
pub enum Store<'a> {
    Folder { binary: PathBuf, pristine: PathBuf, work: PathBuf },
    Server { stack: &'a Stack },
}

impl Store<'_> {
    /// The log as it was, and the views if they were changed too.
    pub fn reset(&self, views: bool) -> Result<()> {
        match self {
            Self::Folder { pristine, work, .. } => {
                if work.exists() {
                    std::fs::remove_dir_all(work)?;
                }
                copy_folder(pristine, work)
            }
            Self::Server { stack } => [LOG, VIEWS][..1 + usize::from(views)].iter().try_for_each(|name| {
                stack.postgres.sql("postgres", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))?;
                stack.postgres.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {name}_pristine"))?;
                Ok(())
            }),
        }
    }

    pub fn run(&self, database: &str, sql: &str) -> Result<()> {
        match self {
            Self::Folder { work, .. } => {
                sqlite(&work.join(format!("{}.sqlite", file_of(database))), "change", sql).map(drop)
            }
            Self::Server { stack } => psql(&stack.postgres, database, sql).map(drop),
        }
    }

    /// One JSON array a row.
    pub fn rows(&self, database: &str, sql: &str) -> Result<Vec<Value>> {
        let text = match self {
            Self::Folder { work, .. } => sqlite(&work.join(format!("{}.sqlite", file_of(database))), "query", sql)?,
            Self::Server { stack } => psql(&stack.postgres, database, sql)?,
        };
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    pub fn casitas(&self, args: &[&str]) -> Result<Output> {
        match self {
            Self::Folder { binary, work, .. } => {
                let mut command = Command::new(binary);
                command.args(args).arg("--data-dir").arg(work).stdin(Stdio::null());
                command.output().context("starting casitas")
            }
            Self::Server { stack } => stack.casitas(args),
        }
    }

    pub fn is_server(&self) -> bool {
        matches!(self, Self::Server { .. })
    }

    /// Text of a dialect.
    pub fn pick<'t>(&self, postgres: &'t str, sqlite: &'t str) -> &'t str {
        if self.is_server() { postgres } else { sqlite }
    }

    pub fn verify(&self, anchor: Option<&Path>) -> Result<Verdict> {
        let mut args = vec!["events", "verify", "--context", "legal", "-o", "ndjson"];
        let anchor = anchor.map(|file| file.to_string_lossy().into_owned());
        if let Some(anchor) = &anchor {
            args.extend(["--anchor", anchor]);
        }
        Verdict::of(&self.casitas(&args)?)
    }

    /// Before anything is changed.
    pub fn triggers_off(&self) -> Result<()> {
        self.run(
            LOG,
            self.pick(
                "ALTER TABLE events DISABLE TRIGGER USER; ALTER TABLE chain DISABLE TRIGGER USER;",
                "DROP TRIGGER events_are_never_changed; DROP TRIGGER events_are_never_deleted; DROP TRIGGER events_are_dense;
                 DROP TRIGGER links_are_never_changed; DROP TRIGGER links_are_never_deleted;",
            ),
        )
    }

    /// Makes room for what the tables' own rules refuse.
    pub fn constraints_off(&self) -> Result<()> {
        self.run(
            LOG,
            self.pick(
                "ALTER TABLE events DROP CONSTRAINT events_pkey, DROP CONSTRAINT events_position_key;",
                "CREATE TABLE other AS SELECT * FROM events; DROP TABLE events; ALTER TABLE other RENAME TO events;",
            ),
        )
    }

    /// Every event's columns, in the order in which they are hashed.
    pub fn events(&self) -> Result<Vec<Value>> {
        self.rows(
            LOG,
            self.pick(
                "SELECT json_build_array(position, event_id::text, aggregate_type, aggregate_id, sequence, event_type,
                     event_version, payload::text, metadata::text, effective_on::text,
                     (extract(epoch FROM recorded_at) * 1000000)::bigint, actor, correlation_id::text, causation_id::text,
                     traceparent) FROM events ORDER BY position, event_id",
                "SELECT position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                     effective_on, recorded_at, actor, correlation_id, causation_id, traceparent
                   FROM events ORDER BY position, event_id",
            ),
        )
    }

    /// The chain as it would be had history been this: what a forger who knows how it is made writes.
    pub fn forge_chain(&self) -> Result<()> {
        let (mut hash, mut marks, mut last) = (Sha256::digest(b"casitas chain 1: legal"), String::new(), 0);
        for event in self.events()? {
            let columns = event.as_array().context("no columns")?;
            let mut digest = Sha256::new();
            for column in columns {
                let bytes = match column {
                    Value::Null => {
                        digest.update(u64::MAX.to_be_bytes());
                        continue;
                    }
                    Value::Number(number) => number.as_i64().context("no number")?.to_be_bytes().to_vec(),
                    other => other.as_str().context("no text")?.as_bytes().to_vec(),
                };
                digest.update((bytes.len() as u64).to_be_bytes());
                digest.update(&bytes);
            }
            let digest = digest.finalize();
            hash = Sha256::new().chain_update(hash).chain_update(digest).finalize();
            marks.push_str(&hex(&digest[..4]));
            last = columns[0].as_i64().context("no position")?;
        }
        let (hash, is_server) = (hex(&hash), self.is_server());
        let link = match is_server {
            true => format!("(after, position, hash, marks) VALUES (0, {last}, '\\x{hash}', '\\x{marks}')"),
            false => format!(
                "(after, position, hash, marks, sealed_at) VALUES (0, {last}, X'{hash}', X'{marks}', 1700000000000000)"
            ),
        };
        self.run(LOG, &format!("DELETE FROM chain; INSERT INTO chain {link};"))
    }
}

/// What `casitas events verify` says.
pub struct Verdict {
    pub exit: i32,
    /// What is wrong: (what, position, why).
    pub wrong: Vec<(String, Option<i64>, String)>,
}

impl Verdict {
    pub fn of(output: &Output) -> Result<Self> {
        let exit = output.status.code().unwrap_or(-1);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(exit == 0 || exit == 6, "exit {exit}: {text} {}", String::from_utf8_lossy(&output.stderr));
        let rows: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let wrong = rows.iter().filter(|row| row["state"] == "wrong").map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            (text("what"), row["position"].as_i64(), text("why"))
        });
        let wrong: Vec<_> = wrong.collect();
        ensure!((exit == 6) != wrong.is_empty(), "exit {exit} and {wrong:?}");
        Ok(Self { exit, wrong })
    }

    pub fn names(&self, what: &str, position: Option<i64>) -> bool {
        self.wrong.iter().any(|(found, at, _)| found == what && (position.is_none() || *at == position))
    }
}

fn file_of(database: &str) -> &str {
    if database == VIEWS { "views" } else { database }
}

pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn psql(postgres: &Postgres, database: &str, sql: &str) -> Result<String> {
    let mut command = postgres.psql(database);
    command.args(["-1", "-f", "-"]);
    fed(command, sql)
}

fn sqlite(file: &Path, mode: &str, sql: &str) -> Result<String> {
    let script = "
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
if sys.argv[2] == 'change':
    connection.executescript(sys.stdin.read())
else:
    for row in connection.execute(sys.stdin.read()):
        print(json.dumps(row))
";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(file).arg(mode);
    fed(command, sql)
}

/// Runs a program that reads this and must succeed; what it says.
fn fed(mut command: Command, input: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
