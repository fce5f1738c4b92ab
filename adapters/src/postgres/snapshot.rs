//! A consistent read of the views: one `REPEATABLE READ READ ONLY` transaction on one connection.

use std::collections::HashMap;

use async_trait::async_trait;
use ports::{Checkpoint, Error, ModelHead, Result, Row, Select, ViewSnapshot};
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Postgres, Row as _};

use super::errors::{Call, within};
use super::shelf::{Shelf, Taken};
use super::views::WHAT;
use crate::keyset::{Bind, Dialect, build, table};
use crate::stored::unsigned;

pub(super) const HEADS: &str =
    "SELECT model, generation, fold_version, term, revision, oldest_change, incarnation, position,
    event_id FROM view_heads WHERE live";

pub(super) struct PostgresSnapshot {
    /// With an open transaction; `None` only while being dropped.
    connection: Option<Taken>,
    /// A call failed: the connection may still be busy with it.
    broken: bool,
    /// Heads seen so far: they cannot change within the transaction.
    heads: HashMap<String, ModelHead>,
}

pub(super) struct PostgresDialect;

impl Dialect for PostgresDialect {
    fn placeholder(n: usize) -> String {
        format!("${n}")
    }
    fn in_list(column: &str, n: usize) -> String {
        format!("{column} = ANY(${n})")
    }
}

impl PostgresSnapshot {
    pub(super) async fn begin(shelf: &Shelf) -> Result<Self> {
        let connection = shelf.take().await?;
        let mut snapshot = Self { connection: Some(connection), broken: false, heads: HashMap::new() };
        let begin = sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        snapshot.run(async |connection| begin.execute(connection).await).await?;
        Ok(snapshot)
    }

    async fn run<T>(&mut self, work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>) -> Result<T> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(Error::unavailable(WHAT, "the snapshot has ended"));
        };
        // Also when the caller gives up waiting.
        self.broken = true;
        let answer = within(WHAT, Call::Read, work(connection)).await;
        self.broken = answer.is_err();
        answer
    }

    async fn live(&mut self, model: &str) -> Result<&ModelHead> {
        if !self.heads.contains_key(model) {
            let sql = format!("{HEADS} AND model = $1");
            let query = sqlx::query(&sql).bind(model);
            let row = self.run(async |connection| query.fetch_optional(connection).await).await?;
            let row = row.ok_or_else(|| Error::NotFound(format!("a live generation of {model}")))?;
            self.heads.insert(model.to_owned(), head_of(&row)?);
        }
        Ok(&self.heads[model])
    }
}

impl Drop for PostgresSnapshot {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.broken {
            return;
        }
        tokio::spawn(async move {
            let ended = within(WHAT, Call::Read, sqlx::query("ROLLBACK").execute(&mut *connection)).await;
            if ended.is_ok() {
                connection.give_back();
            }
        });
    }
}

/// Planned anew for its values: a plan for any value would take a rare city for a common one.
pub(super) fn bound(sql: &str, binds: Vec<Bind>) -> PgQuery<'_> {
    let query = sqlx::query(sql).persistent(false);
    binds.into_iter().fold(query, |query, bind| match bind {
        Bind::Int(number) => query.bind(number),
        Bind::Text(text) => query.bind(text),
        Bind::Ints(numbers) => query.bind(numbers),
        Bind::Texts(texts) => query.bind(texts),
    })
}

type PgQuery<'q> = sqlx::query::Query<'q, Postgres, sqlx::postgres::PgArguments>;

#[async_trait]
impl ViewSnapshot for PostgresSnapshot {
    async fn head(&mut self, model: &str) -> Result<ModelHead> {
        self.live(model).await.cloned()
    }

    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<Value>> {
        let table = table(model, self.live(model).await?.generation)?;
        let sql = format!("SELECT doc FROM {table} WHERE key = $1");
        let query = sqlx::query_scalar(&sql).bind(key);
        self.run(async |connection| query.fetch_optional(connection).await).await
    }

    async fn select(&mut self, select: &Select) -> Result<Vec<Row>> {
        let generation = self.live(select.model).await?.generation;
        let built = build::<PostgresDialect>(select, generation)?;
        let query = bound(&built.sql, built.binds);
        let rows = self.run(async |connection| query.fetch_all(connection).await).await?;
        rows.iter().map(|row| Ok(Row { key: column(row, "key")?, doc: column(row, "doc")? })).collect()
    }
}

pub(super) fn head_of(row: &PgRow) -> Result<ModelHead> {
    let fold_version: i32 = column(row, "fold_version")?;
    Ok(ModelHead {
        model: column(row, "model")?,
        generation: unsigned(column(row, "generation")?)?,
        fold_version: fold_version as u32,
        term: unsigned(column(row, "term")?)?,
        revision: unsigned(column(row, "revision")?)?,
        oldest_change: unsigned(column(row, "oldest_change")?)?,
        checkpoint: Checkpoint {
            incarnation: column(row, "incarnation")?,
            position: unsigned(column(row, "position")?)?,
            event_id: column(row, "event_id")?,
        },
    })
}

pub(super) fn column<'r, T>(row: &'r PgRow, name: &str) -> Result<T>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    row.try_get(name).map_err(|error| Error::corrupt(format!("{WHAT}: {error}")))
}
