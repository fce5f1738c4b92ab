//! A consistent read of the views: one read transaction.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ports::{Checkpoint, Error, ModelHead, Result, Row, Select, ViewSnapshot};
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, Transaction};

use super::file::DatabaseFile;
use crate::keyset::{Bind, Dialect, build, table};
use crate::stored::unsigned;

pub(super) const HEADS: &str = "SELECT model, generation, fold_version, shape, term, revision, oldest_change, incarnation,
    position, event_id FROM view_heads WHERE live";

pub(super) struct SqliteSnapshot {
    pub file: Arc<DatabaseFile>,
    pub transaction: Transaction<'static, Sqlite>,
    /// Heads seen so far: they cannot change within the transaction.
    pub heads: HashMap<String, ModelHead>,
}

pub(super) struct SqliteDialect;

impl Dialect for SqliteDialect {
    fn placeholder(n: usize) -> String {
        format!("?{n}")
    }
    /// A list is bound as one JSON array: SQLite bounds the number of parameters.
    fn in_list(column: &str, n: usize) -> String {
        format!("{column} IN (SELECT value FROM json_each(?{n}))")
    }
}

impl SqliteSnapshot {
    async fn live(&mut self, model: &str) -> Result<&ModelHead> {
        if !self.heads.contains_key(model) {
            let sql = format!("{HEADS} AND model = ?");
            let row = self.file.run(sqlx::query(&sql).bind(model).fetch_optional(&mut *self.transaction)).await?;
            let row = row.ok_or_else(|| Error::NotFound(format!("a live generation of {model}")))?;
            self.heads.insert(model.to_owned(), head_of(&self.file, &row)?);
        }
        Ok(&self.heads[model])
    }
}

#[async_trait]
impl ViewSnapshot for SqliteSnapshot {
    async fn head(&mut self, model: &str) -> Result<ModelHead> {
        self.live(model).await.cloned()
    }

    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<String>> {
        let table = table(model, self.live(model).await?.generation)?;
        let sql = format!("SELECT doc FROM {table} WHERE key = ?");
        self.file.run(sqlx::query_scalar(&sql).bind(key).fetch_optional(&mut *self.transaction)).await
    }

    async fn select(&mut self, select: &Select) -> Result<Vec<Row>> {
        let generation = self.live(select.model).await?.generation;
        let built = build::<SqliteDialect>(select, generation)?;
        let mut query = sqlx::query(&built.sql);
        for bind in built.binds {
            query = match bind {
                Bind::Int(number) => query.bind(number),
                Bind::Text(text) => query.bind(text),
                Bind::Ints(numbers) => query.bind(Value::from(numbers)),
                Bind::Texts(texts) => query.bind(Value::from(texts)),
            };
        }
        let rows = self.file.run(query.fetch_all(&mut *self.transaction)).await?;
        rows.iter().map(|row| Ok(Row { key: self.file.column(row, "key")?, doc: self.file.column(row, "doc")? })).collect()
    }
}

pub(super) fn head_of(file: &DatabaseFile, row: &SqliteRow) -> Result<ModelHead> {
    Ok(ModelHead {
        model: file.column(row, "model")?,
        generation: unsigned(file.column(row, "generation")?)?,
        fold_version: file.column(row, "fold_version")?,
        term: unsigned(file.column(row, "term")?)?,
        revision: unsigned(file.column(row, "revision")?)?,
        oldest_change: unsigned(file.column(row, "oldest_change")?)?,
        checkpoint: Checkpoint {
            incarnation: file.parsed(row, "incarnation")?,
            position: unsigned(file.column(row, "position")?)?,
            event_id: file.parsed_or_null(row, "event_id")?,
        },
    })
}
