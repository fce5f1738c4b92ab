//! Part `append-embedded`: durable commands on SQLite, through the handler and through `casitas serve`, beside a raw insert
//! loop and sqlite-es.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adapters::sqlite::DataFolder;
use anyhow::{Context, Result, ensure};
use commands::Handler;
use domain::units::Property;
use ports::SystemClock;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use tempfile::TempDir;
use uuid::Uuid;
use xtask::scenarios::system::{Embedded, System};
use xtask::scenarios::world;

use crate::append::callers;
use crate::bench::{Bench, Part, Round};
use crate::drive::{Ack, Caller, Driven, audit, collect, drive};
use crate::figure::{Check, Compare, Curve, Outcome, histogram, record};
use crate::load::Posts;
use crate::peers_es::{self, SQLITE_EVENTS_TABLE};
use crate::rig::token;
use crate::workload::{Assigns, Circle, Creates, HISTORY, handler, history_payloads, seed_histories};

const CLIENTS: [usize; 3] = [1, 8, 64];
pub const LOG: &str = "units_db.sqlite";
const EXISTING: usize = 2_560;
const EXISTING_QUICK: usize = 512;
const LIMIT: &str = "raw SQLite FULL, 1 row a transaction";

#[derive(Default)]
pub struct AppendEmbedded {
    serving: Option<(System, PathBuf)>,
    checks: Vec<Check>,
}

fn create(clients: usize) -> String {
    format!("create, handler on SQLite, {}", callers(clients))
}

fn keyed() -> String {
    "create with a key, handler on SQLite, 64 callers".to_owned()
}

fn existing() -> String {
    "change of an existing aggregate (20 events), handler on SQLite, 64 callers".to_owned()
}

fn post(clients: usize) -> String {
    format!("POST, casitas serve, {}", callers(clients))
}

fn peer(clients: usize) -> String {
    format!("sqlite-es FULL create, {}", callers(clients))
}

fn peer_stock() -> String {
    "sqlite-es create as it comes (NORMAL: not flushed), 64 callers".to_owned()
}

fn peer_existing() -> String {
    "sqlite-es FULL change of an existing aggregate (20 events), 64 callers".to_owned()
}

impl Part for AppendEmbedded {
    fn name(&self) -> &'static str {
        "append-embedded"
    }

    fn compares(&self) -> Vec<Compare> {
        let mut compares: Vec<Compare> = CLIENTS.iter().map(|c| Compare::ratio(create(*c), LIMIT)).collect();
        compares.extend([
            Compare::ratio(keyed(), LIMIT),
            Compare::ratio(existing(), LIMIT),
            Compare::ratio(post(1), LIMIT),
            Compare::ratio(post(8), LIMIT),
            Compare::ratio(post(64), LIMIT).at_least(3.0),
            Compare::ratio(create(1), peer(1)),
            Compare::ratio(create(8), peer(8)),
            Compare::ratio(create(64), peer(64)),
            Compare::ratio(create(64), peer_stock()),
            Compare::ratio(existing(), peer_existing()),
        ]);
        compares
    }

    fn curves(&self) -> Vec<Curve> {
        let over = |name: fn(usize) -> String| CLIENTS.iter().map(|c| (*c as f64, name(*c))).collect();
        vec![Curve {
            file: "append-embedded-callers".to_owned(),
            title: "Durable commands a second by callers (SQLite, synchronous=FULL)".to_owned(),
            x: "callers",
            y: "commands/s",
            series: vec![
                ("create, handler".to_owned(), over(create)),
                ("POST, casitas serve".to_owned(), over(post)),
                (LIMIT.to_owned(), over(|_| LIMIT.to_owned())),
                ("sqlite-es FULL create".to_owned(), over(peer)),
            ],
        }]
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        let embedded = Embedded::start_empty(&bench.binary)?;
        let log = embedded.data_dir().join(LOG);
        let system = System::Embedded(Box::new(embedded));
        world::admin(&system)?;
        self.serving = Some((system, log));
        Ok(())
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let (system, log) = self.serving.as_ref().context("no setup")?;
        let mut turn =
            Turn { bench, round, checks: &mut self.checks, dir: tempfile::Builder::new().prefix("bench-").tempdir()? };
        let ours = turn.dir.path().join("ours");
        let folder = DataFolder::open(&ours)?;
        let handler: Handler = bench.block(async {
            let log = folder.log(domain::Context::Units, Arc::new(SystemClock)).await?;
            anyhow::Ok(handler(Arc::new(log)))
        })?;
        let own_log = ours.join(LOG);
        turn.limit()?;
        // A quick run keeps what has a target.
        for clients in CLIENTS.into_iter().filter(|clients| !bench.quick || *clients == 64) {
            turn.ours(create(clients), vec![Creates::new(&handler, false); clients], &own_log)?;
            turn.ours(post(clients), posts(bench, system, clients)?, log)?;
            turn.peer(peer(clients), clients, SqliteSynchronous::Full)?;
        }
        if !bench.quick {
            turn.ours(keyed(), vec![Creates::new(&handler, true); 64], &own_log)?;
            turn.peer(peer_stock(), 64, SqliteSynchronous::Normal)?;
            turn.histories(&handler, &own_log)?;
        }
        Ok(())
    }

    fn checks(&self) -> Vec<Check> {
        self.checks.clone()
    }

    fn notes(&self) -> Vec<String> {
        vec![
            "Ours: WAL, synchronous=FULL, one writing connection, the same aggregate as on Postgres; `casitas serve` is the \
             whole product in one process: it also folds what it appends into its views meanwhile."
                .to_owned(),
            "Raw SQLite: one connection, WAL, synchronous=FULL, a prepared insert of the same event into sqlite-es' table, one \
             a transaction, without a driver's thread between."
                .to_owned(),
            "sqlite-es: its default pool of 10 in WAL; FULL, as ours, and once NORMAL, as it comes.".to_owned(),
        ]
    }
}

fn posts(bench: &Bench, system: &System, callers: usize) -> Result<Vec<Posts>> {
    let token = token(&system.url())?;
    let port = system.url().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).context("no port")?;
    bench.block(Posts::connect(&[port], callers, &token, false))
}

/// What a round's runs have in common.
struct Turn<'a, 'r> {
    bench: &'a Bench,
    round: &'a mut Round<'r>,
    checks: &'a mut Vec<Check>,
    dir: TempDir,
}

impl Turn<'_, '_> {
    fn ours<C: Caller>(&mut self, name: String, callers: Vec<C>, log: &Path) -> Result<()> {
        let head: i64 = self.bench.block(async {
            let pool = reader(log).await?;
            let head = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events").fetch_one(&pool).await?;
            pool.close().await;
            anyhow::Ok(head)
        })?;
        let driven = self.drive(&name, callers)?;
        let added = self.bench.block(stored(log, &format!("position > {head}")))?;
        collect(self.checks, audit(name, &driven, &added));
        Ok(())
    }

    fn drive<C: Caller>(&mut self, name: &str, callers: Vec<C>) -> Result<Driven> {
        let mut driven = Driven::default();
        let bench = self.bench;
        self.round.measure(name, "commands/s", || {
            driven = bench.block(drive(callers, bench.run_time()));
            Ok(driven.outcome())
        })?;
        Ok(driven)
    }

    fn limit(&mut self) -> Result<()> {
        let path = self.dir.path().join("raw.sqlite");
        let connection = rusqlite::Connection::open(&path)?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        ensure!(mode == "wal", "the journal is {mode}");
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SQLITE_EVENTS_TABLE)?;
        let (payload, _) = history_payloads(Uuid::from_u128(9));
        let run_time = self.bench.run_time();
        let mut done = 0u64;
        self.round.measure(LIMIT, "commands/s", || {
            let mut insert = connection.prepare(
                "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                 VALUES ('property', ?, 1, 'PropertyRegistered', '1', ?, '{}')",
            )?;
            let mut latencies = histogram();
            let started = Instant::now();
            while started.elapsed() < run_time {
                let sent = Instant::now();
                insert.execute((Uuid::now_v7().to_string(), &payload))?;
                record(&mut latencies, sent.elapsed());
                done += 1;
            }
            Ok(Outcome::rate(done, started.elapsed(), &latencies))
        })?;
        let rows: u64 = connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
        let wrong = if rows == done { vec![] } else { vec![format!("{rows} rows of {done}")] };
        collect(self.checks, Check::others(LIMIT, done, wrong));
        Ok(())
    }

    /// sqlite-es on a fresh file.
    fn peer(&mut self, name: String, clients: usize, synchronous: SqliteSynchronous) -> Result<()> {
        let file = self.fresh_peer(&name);
        let pool = self.bench.block(peers_es::sqlite_pool(&file, synchronous))?;
        let cqrs = peers_es::sqlite(pool.clone());
        let driven = self.drive(&name, vec![peers_es::Creates(cqrs); clients])?;
        let added = self.bench.block(async {
            pool.close().await;
            stored(&file, "true").await
        })?;
        collect(self.checks, audit(name, &driven, &added).of_peer());
        Ok(())
    }

    fn fresh_peer(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{}.sqlite", name.replace([' ', ',', ':', '(', ')'], "-")))
    }

    fn histories(&mut self, handler: &Handler, own_log: &Path) -> Result<()> {
        let aggregates = self.bench.size(EXISTING, EXISTING_QUICK);
        let ids = self.bench.block(seed_histories(handler, aggregates, HISTORY))?;
        let callers = Assigns::deal(handler, ids, 64);
        self.ours(existing(), callers, own_log)?;

        let name = peer_existing();
        let file = self.fresh_peer(&name);
        let pool = self.bench.block(peers_es::sqlite_pool(&file, SqliteSynchronous::Full))?;
        let ids = self.bench.block(refill(&pool, aggregates))?;
        let cqrs: Arc<sqlite_es::SqliteCqrs<Property>> = peers_es::sqlite(pool.clone());
        let callers: Vec<_> =
            Circle::deal(ids, 64).into_iter().map(|ids| peers_es::Assigns { cqrs: cqrs.clone(), ids }).collect();
        let driven = self.drive(&name, callers)?;
        let added = self.bench.block(async {
            pool.close().await;
            stored(&file, &format!("sequence > {HISTORY}")).await
        })?;
        collect(self.checks, audit(name, &driven, &added).of_peer());
        Ok(())
    }
}

/// Properties with a history in a sqlite-es log.
async fn refill(pool: &SqlitePool, aggregates: usize) -> Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = (0..aggregates).map(|_| Uuid::now_v7()).collect();
    let mut transaction = pool.begin().await?;
    for id in &ids {
        let (first, later) = history_payloads(*id);
        for sequence in 1..=HISTORY {
            let (kind, payload) = if sequence == 1 { ("PropertyRegistered", &first) } else { ("OwnersAssigned", &later) };
            sqlx::query("INSERT INTO events VALUES ('property', ?, ?, ?, '1', ?, '{}')")
                .bind(id.to_string())
                .bind(sequence as i64)
                .bind(kind)
                .bind(payload)
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await?;
    Ok(ids)
}

async fn reader(log: &Path) -> Result<SqlitePool> {
    let options = SqliteConnectOptions::new().filename(log).read_only(true).busy_timeout(Duration::from_secs(5));
    Ok(SqlitePoolOptions::new().max_connections(1).connect_with(options).await?)
}

/// The events of a SQLite log: each one's aggregate, and the first party named in it.
pub async fn stored(log: &Path, which: &str) -> Result<Vec<Ack>> {
    let pool = reader(log).await?;
    let rows = sqlx::query(&format!(
        "SELECT aggregate_id, substr(payload, instr(payload, '\"party_id\":\"') + 12, 36) AS marker FROM events WHERE {which}"
    ))
    .fetch_all(&pool)
    .await?;
    pool.close().await;
    rows.iter()
        .map(|row| {
            let (aggregate, marker): (&str, &str) = (row.try_get("aggregate_id")?, row.try_get("marker")?);
            Ok(Ack { aggregate: aggregate.parse()?, marker: marker.parse()? })
        })
        .collect()
}
