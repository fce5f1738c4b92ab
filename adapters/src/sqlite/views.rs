//! The view store in `views.sqlite`: one table a model and generation, heads, and the change feed.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ports::{
    Claim, FieldKind, FieldValue, ModelHead, ModelSpec, NEWS_MAX, Result, RowChange, Seen, ViewBatch, ViewChange,
    ViewSnapshot, ViewStore,
};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnection, SqliteSynchronous};
use uuid::Uuid;

use super::DataFolder;
use super::file::{DatabaseFile, ROWS_MAX, Step, rows_for};
use super::parked::park;
use super::snapshot::{HEADS, SqliteSnapshot, head_of};
use crate::keyset::{column, index_columns, shape, table};
use crate::stored::{signed, unsigned};
use crate::views::{CHANGES_KEPT, TRIM_EVERY, absent_live, another_fold, another_shape, check_batch, moved, paused};

const STEPS: &[Step] = &[
    (1, "views", include_str!("../../migrations/sqlite/views/0001_views.sql")),
    (2, "generations", include_str!("../../migrations/sqlite/views/0002_generations.sql")),
    (3, "parked", include_str!("../../migrations/sqlite/views/0003_parked.sql")),
    (4, "trials", include_str!("../../migrations/sqlite/views/0004_trials.sql")),
];

/// `?1` is a JSON list of what was seen, each as [model, generation, revision]; one row a live model.
const NEWS: &str = "WITH seen AS (
        SELECT value ->> 0 AS model, value ->> 1 AS generation, value ->> 2 AS revision FROM json_each(?1))
 SELECT h.model, h.generation, h.fold_version, h.term, h.revision, h.oldest_change, h.incarnation, h.position, h.event_id,
        (SELECT json_group_array(json_array(v.revision, json(v.tags)) ORDER BY v.revision)
           FROM seen JOIN view_changes v ON v.model = h.model AND v.generation = h.generation AND v.revision > seen.revision
          WHERE seen.model = h.model AND seen.generation = h.generation AND h.revision - seen.revision <= ?2) AS changes
   FROM view_heads h WHERE h.live";

/// Change rows answered at most by one call.
const CHANGES_MAX: usize = 10_000;

pub struct SqliteViews {
    pub(super) file: Arc<DatabaseFile>,
}

impl SqliteViews {
    pub(super) async fn open(folder: &DataFolder) -> Result<Self> {
        // NORMAL: a power failure may take the last steps of a projection, rows and checkpoint together; the log has them.
        let what = "the view store".to_owned();
        let file = DatabaseFile::open(folder, "views.sqlite", what, SqliteSynchronous::Normal, STEPS).await?;
        Ok(Self { file: Arc::new(file) })
    }

    /// Closes the file's connections; the last one checkpoints.
    pub async fn close(&self) {
        self.file.readers.close().await;
        self.file.writer.close().await;
    }
}

pub(super) fn table_creation(spec: &ModelSpec, generation: u64) -> Result<String> {
    let mut columns = String::new();
    for field in spec.fields {
        let kind = match field.kind {
            FieldKind::Text => "text",
            FieldKind::Int => "integer",
        };
        columns.push_str(&format!(", {} {kind}", column(field.name)?));
    }
    let table = table(spec.name, generation)?;
    Ok(format!("CREATE TABLE {table} (key text PRIMARY KEY NOT NULL, doc text NOT NULL{columns}) STRICT;\n"))
}

/// One statement an index.
pub(super) fn index_creation(spec: &ModelSpec, generation: u64) -> Result<Vec<String>> {
    let table = table(spec.name, generation)?;
    let index = |place: usize| -> Result<String> {
        let columns = index_columns(spec, place, "")?;
        Ok(format!("CREATE INDEX IF NOT EXISTS {table}_{} ON {table} ({columns});\n", place + 1))
    };
    (0..spec.fields.len()).map(index).collect()
}

impl SqliteViews {
    async fn create(&self, connection: &mut SqliteConnection, spec: &ModelSpec) -> Result<()> {
        let live = sqlx::query_scalar("SELECT count(*) FROM view_heads WHERE live AND model = ?").bind(spec.name);
        let live: i64 = self.file.run(live.fetch_one(&mut *connection)).await?;
        if live > 0 {
            return Ok(());
        }
        let script = format!("{}{}", table_creation(spec, 1)?, index_creation(spec, 1)?.concat());
        let creation = sqlx::Executor::execute(&mut *connection, sqlx::raw_sql(&script));
        self.file.run(creation).await?;
        let head = sqlx::query(
            "INSERT INTO view_heads (model, generation, fold_version, shape, live, incarnation) VALUES (?, 1, ?, ?, 1, ?)",
        )
        .bind(spec.name)
        .bind(spec.fold_version)
        .bind(shape(spec))
        .bind(Uuid::nil().to_string());
        self.file.run(head.execute(&mut *connection)).await.map(drop)
    }

    pub(super) async fn is_paused(&self, model: &str) -> Result<bool> {
        let query = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM view_pauses WHERE model = ?)").bind(model);
        self.file.run(query.fetch_one(&self.file.readers)).await
    }

    /// Moves the head from the expected term and checkpoint; answers (revision, oldest change) after it.
    async fn advance(&self, connection: &mut SqliteConnection, batch: &ViewBatch<'_>) -> Result<(i64, i64)> {
        let sql = format!(
            "UPDATE view_heads SET incarnation = ?1, position = ?2, event_id = ?3, revision = revision + ?4,
                    oldest_change = CASE WHEN (revision + ?4) % {TRIM_EVERY} = 0
                         THEN max(oldest_change, revision + ?4 - {CHANGES_KEPT} + 1) ELSE oldest_change END
              WHERE model = ?5 AND generation = ?6 AND term = ?7 AND position = ?8 RETURNING revision, oldest_change"
        );
        let query = sqlx::query_as(&sql)
            .bind(batch.to.incarnation.to_string())
            .bind(signed(batch.to.position)?)
            .bind(batch.to.event_id.map(|id| id.to_string()))
            .bind(i64::from(!batch.tags.is_empty()))
            .bind(batch.spec.name)
            .bind(signed(batch.generation)?)
            .bind(signed(batch.term)?)
            .bind(signed(batch.from)?);
        self.file.run(query.fetch_optional(connection)).await?.ok_or_else(|| moved(batch))
    }

    async fn write_rows(&self, connection: &mut SqliteConnection, batch: &ViewBatch<'_>) -> Result<()> {
        let table = table(batch.spec.name, batch.generation)?;
        let deleted: Vec<&str> = batch.changes.iter().filter_map(deleted).collect();
        if !deleted.is_empty() {
            let sql = format!("DELETE FROM {table} WHERE key IN (SELECT value FROM json_each(?))");
            let delete = sqlx::query(&sql).bind(Value::from(deleted));
            self.file.run(delete.execute(&mut *connection)).await?;
        }
        let (mut names, mut updates) = (String::new(), String::new());
        for field in batch.spec.fields {
            let name = column(field.name)?;
            names.push_str(&format!(", {name}"));
            updates.push_str(&format!(", {name} = excluded.{name}"));
        }
        let puts: Vec<_> = batch.changes.iter().filter_map(put).collect();
        for group in puts.chunks(ROWS_MAX) {
            let sql = format!(
                "INSERT INTO {table} (key, doc{names}) SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL
                 ON CONFLICT (key) DO UPDATE SET doc = excluded.doc{updates}",
                rows_for(group.len(), 2 + batch.spec.fields.len())
            );
            let put = group.iter().fold(sqlx::query(&sql), |query, (key, doc, fields)| {
                fields.iter().fold(query.bind(key).bind(doc), |query, value| match value {
                    FieldValue::Null => query.bind(None::<i64>),
                    FieldValue::Int(number) => query.bind(number),
                    FieldValue::Text(text) => query.bind(text),
                })
            });
            self.file.run(put.execute(&mut *connection)).await?;
        }
        Ok(())
    }

    async fn record_change(
        &self,
        connection: &mut SqliteConnection,
        batch: &ViewBatch<'_>,
        (revision, oldest): (i64, i64),
    ) -> Result<()> {
        let tags = Value::from(batch.tags.iter().map(String::as_str).collect::<Vec<_>>());
        let insert = sqlx::query("INSERT INTO view_changes (model, generation, revision, tags) VALUES (?, ?, ?, ?)")
            .bind(batch.spec.name)
            .bind(signed(batch.generation)?)
            .bind(revision)
            .bind(tags);
        self.file.run(insert.execute(&mut *connection)).await?;
        if revision % TRIM_EVERY as i64 == 0 {
            let trim = sqlx::query("DELETE FROM view_changes WHERE model = ? AND generation = ? AND revision < ?")
                .bind(batch.spec.name)
                .bind(signed(batch.generation)?)
                .bind(oldest);
            self.file.run(trim.execute(&mut *connection)).await?;
        }
        Ok(())
    }
}

fn deleted(change: &RowChange) -> Option<&str> {
    match change {
        RowChange::Delete { key } => Some(key),
        RowChange::Put { .. } => None,
    }
}

fn put(change: &RowChange) -> Option<(&str, &Value, &[FieldValue])> {
    match change {
        RowChange::Put { key, doc, fields } => Some((key, doc, fields)),
        RowChange::Delete { .. } => None,
    }
}

#[async_trait]
impl ViewStore for SqliteViews {
    async fn prepare(&self, specs: &[&'static ModelSpec]) -> Result<()> {
        let mut transaction = self.file.begin().await?;
        for spec in specs {
            self.create(&mut transaction, spec).await?;
        }
        self.file.commit(transaction).await
    }

    async fn claim(&self, spec: &'static ModelSpec) -> Result<Option<Claim>> {
        let sql = format!("{HEADS} AND model = ?");
        let row = self.file.run(sqlx::query(&sql).bind(spec.name).fetch_optional(&self.file.readers)).await?;
        let row = row.ok_or_else(|| absent_live(spec.name))?;
        if self.is_paused(spec.name).await? {
            return Err(paused(spec));
        }
        let live = head_of(&self.file, &row)?;
        if live.fold_version != spec.fold_version {
            return Err(another_fold(spec, live.fold_version));
        }
        let live_shape: &str = self.file.column(&row, "shape")?;
        if live_shape != shape(spec) {
            return Err(another_shape(spec, live_shape));
        }
        let sql = "UPDATE view_heads SET term = term + 1 WHERE live AND model = ?
            RETURNING model, generation, fold_version, term, revision, oldest_change, incarnation, position, event_id";
        let row = self.file.run(sqlx::query(sql).bind(spec.name).fetch_one(&self.file.writer)).await?;
        let head = head_of(&self.file, &row)?;
        Ok(Some(Claim {
            generation: head.generation,
            term: head.term,
            revision: head.revision,
            checkpoint: head.checkpoint,
        }))
    }

    async fn rows(&self, spec: &ModelSpec, generation: u64, keys: &[String]) -> Result<HashMap<String, Value>> {
        let table = table(spec.name, generation)?;
        let sql = format!("SELECT key, doc FROM {table} WHERE key IN (SELECT value FROM json_each(?))");
        let query = sqlx::query(&sql).bind(Value::from(keys));
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        rows.iter().map(|row| Ok((self.file.column(row, "key")?, self.file.column(row, "doc")?))).collect()
    }

    async fn apply(&self, batch: &ViewBatch<'_>) -> Result<u64> {
        check_batch(batch)?;
        let mut transaction = self.file.begin().await?;
        let head = self.advance(&mut transaction, batch).await?;
        self.write_rows(&mut transaction, batch).await?;
        if !batch.tags.is_empty() {
            self.record_change(&mut transaction, batch, head).await?;
        }
        park(&self.file, &mut transaction, batch.spec.name, batch.generation, &batch.parking).await?;
        self.file.commit(transaction).await?;
        unsigned(head.0)
    }

    async fn heads(&self) -> Result<Vec<ModelHead>> {
        let rows = self.file.run(sqlx::query(HEADS).fetch_all(&self.file.readers)).await?;
        rows.iter().map(|row| head_of(&self.file, row)).collect()
    }

    async fn changes(&self, model: &str, generation: u64, after: u64, limit: usize) -> Result<Vec<ViewChange>> {
        let query = sqlx::query(
            "SELECT revision, tags FROM view_changes WHERE model = ? AND generation = ? AND revision > ?
              ORDER BY revision LIMIT ?",
        )
        .bind(model)
        .bind(signed(generation)?)
        .bind(signed(after)?)
        .bind(limit.min(CHANGES_MAX) as i64);
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        let change = |row| -> Result<ViewChange> {
            let tags: sqlx::types::Json<Vec<String>> = self.file.column(row, "tags")?;
            Ok(ViewChange { revision: unsigned(self.file.column(row, "revision")?)?, tags: tags.0 })
        };
        rows.iter().map(change).collect()
    }

    async fn news(&self, seen: &[Seen]) -> Result<Vec<(ModelHead, Vec<ViewChange>)>> {
        let seen: Vec<_> = seen.iter().map(|seen| (&seen.model, seen.generation, seen.revision)).collect();
        let query = sqlx::query(NEWS).bind(sqlx::types::Json(seen)).bind(signed(NEWS_MAX)?);
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        let news = |row| -> Result<_> {
            let changes: sqlx::types::Json<Vec<(u64, Vec<String>)>> = self.file.column(row, "changes")?;
            let changes = changes.0.into_iter().map(|(revision, tags)| ViewChange { revision, tags }).collect();
            Ok((head_of(&self.file, row)?, changes))
        };
        rows.iter().map(news).collect()
    }

    async fn snapshot(&self) -> Result<Box<dyn ViewSnapshot>> {
        let transaction = self.file.run(self.file.readers.begin()).await?;
        Ok(Box::new(SqliteSnapshot { file: self.file.clone(), transaction, heads: HashMap::new() }))
    }
}
