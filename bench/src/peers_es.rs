//! The peers: stock cqrs-es over postgres-es and sqlite-es, with our own aggregate, so that only the store differs.

use std::sync::Arc;

use anyhow::{Context, Result};
use cqrs_es::{CqrsFramework, EventStore};
use domain::units::Property;
use domain::{Moment, Timestamp};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqlitePool};
use uuid::Uuid;
use xtask::servers::{POSTGRES_OWNER, Postgres};

use crate::drive::{Ack, Caller};
use crate::pgbench::EVENTS_TABLE;
use crate::workload::{Circle, HISTORY, assign, history_payloads, register};

pub const DATABASE: &str = "bench_peer";
/// What performance.md gives postgres-es; its own default is 10.
const POOL: u32 = 16;
/// sqlite-es' own default.
const SQLITE_POOL: u32 = 10;

/// A framework with callers that create properties.
pub struct Creates<S: EventStore<Property>>(pub Arc<CqrsFramework<Property, S>>);

/// A framework with callers that change properties which have a history.
pub struct Assigns<S: EventStore<Property>> {
    pub cqrs: Arc<CqrsFramework<Property, S>>,
    pub ids: Circle,
}

impl<S: EventStore<Property>> Clone for Creates<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: EventStore<Property> + 'static> Caller for Creates<S>
where
    S::AC: Send,
{
    async fn call(&mut self) -> Result<Ack, String> {
        let ack = Ack { aggregate: Uuid::now_v7(), marker: Uuid::now_v7() };
        let done = self.0.execute(&ack.aggregate.to_string(), register(ack.aggregate, ack.marker)).await;
        done.map(|()| ack).map_err(|error| error.to_string())
    }
}

impl<S: EventStore<Property> + 'static> Caller for Assigns<S>
where
    S::AC: Send,
{
    async fn call(&mut self) -> Result<Ack, String> {
        let ack = Ack { aggregate: self.ids.next(), marker: Uuid::now_v7() };
        let done = self.cqrs.execute(&ack.aggregate.to_string(), assign(ack.marker)).await;
        done.map(|()| ack).map_err(|error| error.to_string())
    }
}

fn moment() -> Moment {
    Moment { now: Timestamp::now() }
}

/// postgres-es on a database of its own.
///
/// # Errors
/// When Postgres refuses.
pub async fn postgres(postgres: &Postgres) -> Result<Arc<postgres_es::PostgresCqrs<Property>>> {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(postgres.port())
        .username(POSTGRES_OWNER)
        .password(postgres.password())
        .database(DATABASE)
        .disable_statement_logging();
    let pool = PgPoolOptions::new().max_connections(POOL).min_connections(POOL).connect_with(options).await?;
    Ok(Arc::new(postgres_es::postgres_cqrs(pool, vec![], moment())))
}

/// Its database and its table.
///
/// # Errors
/// When Postgres refuses.
pub fn prepare_postgres(server: &Postgres) -> Result<()> {
    server.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    server.sql(DATABASE, EVENTS_TABLE).map(drop)
}

/// Empties its log and gives it properties with a history; answers their ids.
///
/// # Errors
/// When Postgres refuses.
pub fn refill_postgres(server: &Postgres, aggregates: usize) -> Result<Vec<Uuid>> {
    server.sql(DATABASE, "TRUNCATE events")?;
    if aggregates == 0 {
        return Ok(Vec::new());
    }
    let nil = Uuid::nil().to_string();
    let (first, later) = history_payloads(Uuid::nil());
    let insert = format!(
        "INSERT INTO events SELECT 'property', a.id, s, CASE WHEN s = 1 THEN 'PropertyRegistered' ELSE 'OwnersAssigned' END,
                '1', CASE WHEN s = 1 THEN replace('{first}', '{nil}', a.id) ELSE '{later}' END::json, '{{}}'
           FROM (SELECT gen_random_uuid()::text AS id FROM generate_series(1, {aggregates})) a, generate_series(1, {HISTORY}) s"
    );
    server.sql(DATABASE, &insert)?;
    server.sql(DATABASE, "VACUUM ANALYZE events")?;
    let ids = server.sql(DATABASE, "SELECT aggregate_id FROM events WHERE sequence = 1")?;
    ids.lines().map(|id| id.parse().context("an aggregate's id")).collect()
}

/// A SQLite file with postgres-es' columns, opened as sqlite-es opens it but for `synchronous`.
///
/// # Errors
/// When the file cannot be made.
pub async fn sqlite_pool(path: &std::path::Path, synchronous: SqliteSynchronous) -> Result<SqlitePool> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .foreign_keys(true)
        .disable_statement_logging();
    let pool = SqlitePoolOptions::new().max_connections(SQLITE_POOL).connect_with(options).await?;
    sqlx::raw_sql(SQLITE_EVENTS_TABLE).execute(&pool).await?;
    Ok(pool)
}

/// sqlite-es' table, as its migration has it.
pub const SQLITE_EVENTS_TABLE: &str = "CREATE TABLE IF NOT EXISTS events
(
    aggregate_type TEXT                          NOT NULL,
    aggregate_id   TEXT                          NOT NULL,
    sequence       INTEGER CHECK (sequence >= 0) NOT NULL,
    event_type     TEXT                          NOT NULL,
    event_version  TEXT                          NOT NULL,
    payload        TEXT                          NOT NULL,
    metadata       TEXT                          NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
) STRICT";

/// sqlite-es on a pool.
pub fn sqlite(pool: SqlitePool) -> Arc<sqlite_es::SqliteCqrs<Property>> {
    Arc::new(sqlite_es::sqlite_cqrs(pool, vec![], moment()))
}
