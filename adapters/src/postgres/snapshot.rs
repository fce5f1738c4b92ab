//! A consistent read of the views: one `REPEATABLE READ READ ONLY` transaction on one connection.

use std::collections::HashMap;

use async_trait::async_trait;
use ports::{Checkpoint, Error, ModelHead, Result, Row, Select, ViewSnapshot};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Postgres, Row as _};

use super::errors::{Call, within};
use super::shelf::{Shelf, Taken};
use super::views::WHAT;
use crate::keyset::{Bind, Dialect, build, name, table};
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
            // Without a parameter, so that it is planned once.
            let sql = format!("{HEADS} AND model = '{}'", name(model)?);
            let query = sqlx::query(&sql);
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

pub(super) fn bound(sql: &str, binds: Vec<Bind>) -> PgQuery<'_> {
    let query = sqlx::query(sql);
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

    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<String>> {
        let table = table(model, self.live(model).await?.generation)?;
        let sql = format!("SELECT doc FROM {table} WHERE key = $1");
        let query = sqlx::query(&sql).bind(key);
        let row = self.run(async |connection| query.fetch_optional(connection).await).await?;
        row.as_ref().map(document).transpose()
    }

    async fn select(&mut self, select: &Select) -> Result<Vec<Row>> {
        let generation = self.live(select.model).await?.generation;
        let built = build::<PostgresDialect>(select, generation)?;
        let query = bound(&built.sql, built.binds);
        let rows = self.run(async |connection| query.fetch_all(connection).await).await?;
        rows.iter().map(|row| Ok(Row { key: column(row, "key")?, doc: document(row)? })).collect()
    }
}

/// The text of `doc`, unchecked: its bytes are JSON because the column's type says so.
fn document(row: &PgRow) -> Result<String> {
    let unreadable = |error: sqlx::error::BoxDynError| Error::corrupt(format!("{WHAT}: {error}"));
    let raw = row.try_get_raw("doc").map_err(|error| unreadable(error.into()))?;
    Ok(raw.as_str().map_err(unreadable)?.to_owned())
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
