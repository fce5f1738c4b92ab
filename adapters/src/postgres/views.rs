//! The view store in `views_db`: one table a model and generation, heads, and the change feed.

use std::collections::HashMap;

use async_trait::async_trait;
use ports::{
    Claim, FieldKind, FieldValue, ModelHead, ModelSpec, NEWS_MAX, Result, RowChange, Seen, Select, ViewBatch, ViewChange,
    ViewSnapshot, ViewStore,
};
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor};
use uuid::Uuid;

use super::claims::Claims;
use super::errors::Call;
use super::parked::park;
use super::pool::PostgresServer;
use super::shelf::Shelf;
pub(super) use super::snapshot::column;
use super::snapshot::{HEADS, PostgresDialect, PostgresSnapshot, bound, head_of};
use crate::keyset::{Query, build, column as field_column, index_columns, shape, table};
use crate::stored::{signed, unsigned};
use crate::views::{CHANGES_KEPT, TRIM_EVERY, absent_live, another_fold, another_shape, check_batch, moved, paused};

pub(super) const WHAT: &str = "the view store";

const MOVE_ON: &str = "UPDATE view_heads SET incarnation = $5, position = $6, event_id = $7
    WHERE model = $1 AND generation = $2 AND term = $3 AND position = $4 RETURNING revision";

/// Arrays of what was seen; one row a live model.
const NEWS: &str =
    "SELECT h.model, h.generation, h.fold_version, h.term, h.revision, h.oldest_change, h.incarnation, h.position,
        h.event_id, c.changes
   FROM view_heads h
   LEFT JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) seen(model, generation, revision)
     ON seen.model = h.model AND seen.generation = h.generation
    AND seen.revision < h.revision AND h.revision - seen.revision <= $4
   LEFT JOIN LATERAL (SELECT json_agg(json_build_array(v.revision, v.tags) ORDER BY v.revision) AS changes
                        FROM view_changes v
                       WHERE v.model = h.model AND v.generation = h.generation
                         AND v.revision > seen.revision AND v.revision <= h.revision) c ON seen.model IS NOT NULL
  WHERE h.live";

/// Change rows answered at most by one call.
const CHANGES_MAX: usize = 10_000;

pub struct PostgresViews {
    /// For the steps of projections and the change feed.
    pub(super) kept: Shelf,
    /// For whatever is planned by its values, and what is rare.
    pub(super) queries: Shelf,
    /// For rebuilds, whose statements take as long as there are rows.
    pub(super) unhurried: Shelf,
    pub(super) claims: Claims,
    #[cfg(feature = "seeded-bugs")]
    bug: Option<super::seeded::SeededBug>,
}

impl PostgresViews {
    /// Needs a runtime; connects at the first use.
    pub fn connect(server: &PostgresServer) -> Self {
        let database = server.views_database();
        Self {
            kept: server.views_shelf(WHAT),
            queries: server.query_shelf(WHAT),
            unhurried: server.unhurried_shelf(WHAT),
            claims: Claims::new(WHAT.to_owned(), server.options(&database)),
            #[cfg(feature = "seeded-bugs")]
            bug: server.bug,
        }
    }

    /// How the server answers a select, as the JSON of EXPLAIN with what it really did.
    pub async fn plan(&self, select: &Select) -> Result<Value> {
        let sql = format!("{HEADS} AND model = $1");
        let head = sqlx::query(&sql).bind(select.model);
        let head = self.queries.run(Call::Read, async |connection| head.fetch_one(connection).await).await?;
        let Query { sql, binds } = build::<PostgresDialect>(select, head_of(&head)?.generation)?;
        let sql = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");
        let query = bound(&sql, binds);
        let row = self.queries.run(Call::Read, async |connection| query.fetch_one(connection).await).await?;
        column(&row, "QUERY PLAN")
    }

    pub(super) async fn is_paused(&self, model: &str) -> Result<bool> {
        let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM view_pauses WHERE model = $1)").bind(model);
        self.queries.run(Call::Read, async |connection| query.fetch_one(connection).await).await
    }

    async fn apply_at_once(&self, batch: &ViewBatch<'_>) -> Result<u64> {
        match batch.tags.is_empty() {
            true => self.move_on(batch).await,
            false => self.change(batch).await,
        }
    }

    /// A batch that changes nothing.
    async fn move_on(&self, batch: &ViewBatch<'_>) -> Result<u64> {
        let query = sqlx::query_scalar::<_, i64>(MOVE_ON)
            .bind(batch.spec.name)
            .bind(signed(batch.generation)?)
            .bind(signed(batch.term)?)
            .bind(signed(batch.from)?)
            .bind(batch.to.incarnation)
            .bind(signed(batch.to.position)?)
            .bind(batch.to.event_id);
        self.step(batch, query).await
    }

    /// Streams that are parked or unparked are rare: only they need a transaction around the one statement.
    async fn step(&self, batch: &ViewBatch<'_>, query: Statement<'_>) -> Result<u64> {
        let step = async |connection: &mut PgConnection| {
            if batch.parking.is_empty() {
                return query.fetch_optional(connection).await;
            }
            let mut transaction = connection.begin().await?;
            let revision = query.fetch_optional(&mut *transaction).await?;
            if revision.is_some() {
                park(&mut transaction, batch.spec.name, batch.generation, &batch.parking).await?;
            }
            transaction.commit().await.map(|()| revision)
        };
        let revision = self.kept.run(Call::Write, step).await?;
        unsigned(revision.ok_or_else(|| moved(batch))?)
    }

    async fn change(&self, batch: &ViewBatch<'_>) -> Result<u64> {
        let columns = Columns::of(batch.spec, &batch.changes);
        let sql = application(batch.spec, batch.generation, !columns.deleted.is_empty(), !columns.keys.is_empty())?;
        let tags: Vec<&str> = batch.tags.iter().map(String::as_str).collect();
        let mut query = sqlx::query_scalar::<_, i64>(&sql)
            .bind(batch.spec.name)
            .bind(signed(batch.generation)?)
            .bind(signed(batch.term)?)
            .bind(signed(batch.from)?)
            .bind(batch.to.incarnation)
            .bind(signed(batch.to.position)?)
            .bind(batch.to.event_id)
            .bind(tags)
            .bind(columns.deleted)
            .bind(columns.keys)
            .bind(columns.docs);
        for field in columns.fields {
            query = match field {
                FieldColumn::Text(values) => query.bind(values),
                FieldColumn::Int(values) => query.bind(values),
            };
        }
        let revision = self.step(batch, query).await?;
        if revision.is_multiple_of(TRIM_EVERY)
            && let Err(error) = self.trim(batch, revision).await
        {
            // The step is done. The next trim takes what this one left.
            tracing::warn!(model = batch.spec.name, error = error.chain(), "old changes are kept for longer");
        }
        Ok(revision)
    }

    /// Changes that `oldest_change` has passed.
    async fn trim(&self, batch: &ViewBatch<'_>, revision: u64) -> Result<()> {
        let trim = "DELETE FROM view_changes WHERE model = $1 AND generation = $2 AND revision <= $3";
        let query = sqlx::query(trim)
            .bind(batch.spec.name)
            .bind(signed(batch.generation)?)
            .bind(signed(revision.saturating_sub(CHANGES_KEPT))?);
        self.kept.run(Call::Write, async |connection| query.execute(connection).await).await.map(drop)
    }
}

type Statement<'q> = sqlx::query::QueryScalar<'q, sqlx::Postgres, i64, sqlx::postgres::PgArguments>;

/// Everything a model's first generation needs, as one script that the server runs in one transaction.
fn creation(spec: &ModelSpec, generation: u64) -> Result<String> {
    Ok(format!(
        "{}{}INSERT INTO view_heads (model, generation, fold_version, shape, live, incarnation)
         VALUES ('{}', {generation}, {}, '{}', true, '{}') ON CONFLICT DO NOTHING;",
        table_creation(spec, generation, true)?,
        index_creation(spec, generation)?,
        spec.name,
        spec.fold_version,
        shape(spec),
        Uuid::nil()
    ))
}

/// Without a key at first for a generation that is loaded: one made afterwards costs a fraction.
pub(super) fn table_creation(spec: &ModelSpec, generation: u64, keyed: bool) -> Result<String> {
    let table = table(spec.name, generation)?;
    let mut columns = String::new();
    for field in spec.fields {
        let kind = match field.kind {
            FieldKind::Text => "text COLLATE \"C\"",
            FieldKind::Int => "bigint",
        };
        columns.push_str(&format!(", {} {kind}", field_column(field.name)?));
    }
    let key = if keyed { "PRIMARY KEY" } else { "NOT NULL" };
    Ok(format!("CREATE TABLE IF NOT EXISTS {table} (key text COLLATE \"C\" {key}, doc json NOT NULL{columns});\n"))
}

pub(super) fn index_creation(spec: &ModelSpec, generation: u64) -> Result<String> {
    let table = table(spec.name, generation)?;
    let mut indexes = String::new();
    for ordinal in 1..=spec.fields.len() {
        let indexed = index_columns(spec, ordinal - 1, " NULLS FIRST")?;
        indexes.push_str(&format!("CREATE INDEX IF NOT EXISTS {table}_{ordinal} ON {table} ({indexed});\n"));
    }
    Ok(indexes)
}

/// One statement: the head moves only from the expected term and checkpoint, and everything else only if the head moved. What is
/// not deleted or put has no part in it: each part is set up for every step.
fn application(spec: &ModelSpec, generation: u64, deletes: bool, puts: bool) -> Result<String> {
    let table = table(spec.name, generation)?;
    let [mut names, mut params, mut values, mut updates] = [const { String::new() }; 4];
    for (field, n) in spec.fields.iter().zip(12..) {
        let name = field_column(field.name)?;
        let array = match field.kind {
            FieldKind::Text => "text[]",
            FieldKind::Int => "bigint[]",
        };
        names.push_str(&format!(", {name}"));
        params.push_str(&format!(", ${n}::{array}"));
        values.push_str(&format!(", r.{name}"));
        updates.push_str(&format!(", {name} = excluded.{name}"));
    }
    let gone = format!(", gone AS (DELETE FROM {table} t USING head WHERE t.key = ANY($9::text[]))");
    let put = format!(
        ", put AS (
            INSERT INTO {table} (key, doc{names})
            SELECT r.key, r.doc::json{values} FROM head, unnest($10::text[], $11::text[]{params}) r(key, doc{names})
            ON CONFLICT (key) DO UPDATE SET doc = excluded.doc{updates}
         )"
    );
    let (gone, put) = (if deletes { &*gone } else { "" }, if puts { &*put } else { "" });
    Ok(format!(
        "WITH head AS (
            UPDATE view_heads SET incarnation = $5, position = $6, event_id = $7,
                   revision = revision + 1,
                   oldest_change = CASE WHEN (revision + 1) % {TRIM_EVERY} = 0
                        THEN greatest(oldest_change, revision + 1 - {CHANGES_KEPT} + 1) ELSE oldest_change END
             WHERE model = $1 AND generation = $2 AND term = $3 AND position = $4
            RETURNING revision
         ), changed AS (
            INSERT INTO view_changes (model, generation, revision, tags)
            SELECT $1, $2, revision, $8::text[] FROM head
         ){gone}{put}
         SELECT revision FROM head"
    ))
}

/// The rows of a batch as one array a column.
struct Columns<'a> {
    deleted: Vec<&'a str>,
    keys: Vec<&'a str>,
    /// As texts: they are stored as we write them, and are not made into another type of the server's first.
    docs: Vec<String>,
    fields: Vec<FieldColumn<'a>>,
}

enum FieldColumn<'a> {
    Text(Vec<Option<&'a str>>),
    Int(Vec<Option<i64>>),
}

impl<'a> Columns<'a> {
    fn of(spec: &ModelSpec, changes: &'a [RowChange]) -> Self {
        let fields = spec.fields.iter().map(|field| match field.kind {
            FieldKind::Text => FieldColumn::Text(Vec::new()),
            FieldKind::Int => FieldColumn::Int(Vec::new()),
        });
        let mut columns = Self { deleted: Vec::new(), keys: Vec::new(), docs: Vec::new(), fields: fields.collect() };
        for change in changes {
            match change {
                RowChange::Delete { key } => columns.deleted.push(key),
                RowChange::Put { key, doc, fields } => {
                    columns.keys.push(key);
                    columns.docs.push(doc.to_string());
                    columns.fields.iter_mut().zip(fields).for_each(|(column, value)| column.push(value));
                }
            }
        }
        columns
    }
}

impl<'a> FieldColumn<'a> {
    fn push(&mut self, value: &'a FieldValue) {
        match (self, value) {
            (Self::Text(values), FieldValue::Text(text)) => values.push(Some(text)),
            (Self::Int(values), FieldValue::Int(number)) => values.push(Some(*number)),
            // `check_batch` has refused values of another kind.
            (Self::Text(values), _) => values.push(None),
            (Self::Int(values), _) => values.push(None),
        }
    }
}

#[async_trait]
impl ViewStore for PostgresViews {
    async fn prepare(&self, specs: &[&'static ModelSpec]) -> Result<()> {
        let known = self.heads().await?;
        // One simple-protocol query is one transaction. The lock lets several processes prepare at once.
        let mut script = String::from("SELECT pg_advisory_xact_lock(hashtextextended('casitas:prepare', 0));\n");
        let mut complete = true;
        for spec in specs {
            if !known.iter().any(|head| head.model == spec.name) {
                script.push_str(&creation(spec, 1)?);
                complete = false;
            }
        }
        if complete {
            return Ok(());
        }
        let run = async |connection: &mut PgConnection| connection.execute(sqlx::raw_sql(&script)).await;
        self.queries.run(Call::Write, run).await.map(drop)
    }

    async fn claim(&self, spec: &'static ModelSpec) -> Result<Option<Claim>> {
        let sql = "SELECT fold_version, shape, EXISTS (SELECT FROM view_pauses p WHERE p.model = h.model) AS paused
            FROM view_heads h WHERE live AND model = $1";
        let row = self
            .queries
            .run(Call::Read, async |connection| sqlx::query(sql).bind(spec.name).fetch_optional(connection).await)
            .await?
            .ok_or_else(|| absent_live(spec.name))?;
        if column(&row, "paused")? {
            return Err(paused(spec));
        }
        let fold_version: i32 = column(&row, "fold_version")?;
        if fold_version as u32 != spec.fold_version {
            return Err(another_fold(spec, fold_version as u32));
        }
        let live_shape: &str = column(&row, "shape")?;
        if live_shape != shape(spec) {
            return Err(another_shape(spec, live_shape));
        }
        if !self.claims.try_lead(spec.name).await? {
            return Ok(None);
        }
        let sql = "UPDATE view_heads SET term = term + 1 WHERE live AND model = $1
            RETURNING model, generation, fold_version, term, revision, oldest_change, incarnation, position, event_id";
        let row = self
            .queries
            .run(Call::Write, async |connection| sqlx::query(sql).bind(spec.name).fetch_one(connection).await)
            .await?;
        let head = head_of(&row)?;
        Ok(Some(Claim {
            generation: head.generation,
            term: head.term,
            revision: head.revision,
            checkpoint: head.checkpoint,
        }))
    }

    async fn rows(&self, spec: &ModelSpec, generation: u64, keys: &[String]) -> Result<HashMap<String, Value>> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = format!("SELECT key, doc FROM {} WHERE key = ANY($1)", table(spec.name, generation)?);
        let rows =
            self.kept.run(Call::Read, async |connection| sqlx::query(&sql).bind(keys).fetch_all(connection).await).await?;
        rows.iter().map(|row| Ok((column(row, "key")?, column(row, "doc")?))).collect()
    }

    async fn apply(&self, batch: &ViewBatch<'_>) -> Result<u64> {
        check_batch(batch)?;
        #[cfg(feature = "seeded-bugs")]
        if self.bug == Some(super::seeded::SeededBug::CheckpointBeforeView) {
            let [checkpoint, rows] = super::seeded::checkpoint_then_rows(batch);
            self.apply_at_once(&checkpoint).await?;
            return self.apply_at_once(&rows).await;
        }
        self.apply_at_once(batch).await
    }

    async fn heads(&self) -> Result<Vec<ModelHead>> {
        let rows = self.kept.run(Call::Read, async |connection| sqlx::query(HEADS).fetch_all(connection).await).await?;
        rows.iter().map(head_of).collect()
    }

    async fn changes(&self, model: &str, generation: u64, after: u64, limit: usize) -> Result<Vec<ViewChange>> {
        let query = sqlx::query(
            "SELECT revision, tags FROM view_changes WHERE model = $1 AND generation = $2 AND revision > $3
              ORDER BY revision LIMIT $4",
        )
        .bind(model)
        .bind(signed(generation)?)
        .bind(signed(after)?)
        .bind(limit.min(CHANGES_MAX) as i64);
        let rows = self.kept.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        rows.iter()
            .map(|row| Ok(ViewChange { revision: unsigned(column(row, "revision")?)?, tags: column(row, "tags")? }))
            .collect()
    }

    async fn news(&self, seen: &[Seen]) -> Result<Vec<(ModelHead, Vec<ViewChange>)>> {
        let models: Vec<&str> = seen.iter().map(|seen| seen.model.as_str()).collect();
        let generations = seen.iter().map(|seen| signed(seen.generation)).collect::<Result<Vec<i64>>>()?;
        let revisions = seen.iter().map(|seen| signed(seen.revision)).collect::<Result<Vec<i64>>>()?;
        let query = sqlx::query(NEWS).bind(models).bind(generations).bind(revisions).bind(signed(NEWS_MAX)?);
        let rows = self.kept.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        let news = |row: &PgRow| -> Result<_> {
            type Changes = sqlx::types::Json<Vec<(u64, Vec<String>)>>;
            let changes: Option<Changes> = column(row, "changes")?;
            let changes = changes.map(|changes| changes.0).unwrap_or_default();
            let changes = changes.into_iter().map(|(revision, tags)| ViewChange { revision, tags }).collect();
            Ok((head_of(row)?, changes))
        };
        rows.iter().map(news).collect()
    }

    async fn snapshot(&self) -> Result<Box<dyn ViewSnapshot>> {
        Ok(Box::new(PostgresSnapshot::begin(&self.queries).await?))
    }
}
