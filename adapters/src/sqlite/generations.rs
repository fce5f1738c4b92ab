//! Generations in `views.sqlite`. The file has one writer, so nothing here writes for long at once: whoever folds the live
//! generation waits for its turn.

use async_trait::async_trait;
use ports::{
    Checkpoint, Claim, Error, FieldKind, FieldValue, Generation, Generations, Load, ModelHead, ModelSpec, Part, Result,
    Standing, StillViews, StoredRow,
};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Executor, Sqlite, Transaction};

use super::file::DatabaseFile;
use super::parked::park;
use super::snapshot::head_of;
use super::views::{SqliteViews, index_creation, table_creation};
use crate::keyset::{self, shape, table};
use crate::stored::{signed, unsigned};
use crate::views::{
    absent, absent_live, another_fold, behind, goes_back, is_live, lost, lost_load, not_complete, paused, standing_of, twice,
};

const HEADS: &str = "SELECT model, generation, fold_version, shape, term, revision, oldest_change, incarnation, position,
    event_id, standing, trial FROM view_heads";

/// Rows bound to one statement.
const ROWS_A_STATEMENT: usize = 500;

impl SqliteViews {
    fn generation_of(&self, row: &SqliteRow, specs: &[&'static ModelSpec]) -> Result<Generation> {
        let head = head_of(&self.file, row)?;
        let stored: &str = self.file.column(row, "shape")?;
        let fits = specs.iter().any(|spec| spec.name == head.model && shape(spec) == stored);
        let standing = standing_of(self.file.column(row, "standing")?)?;
        Ok(Generation { head, standing, trial: self.file.column(row, "trial")?, fits, parts: Vec::new() })
    }

    fn part_of(&self, row: &SqliteRow) -> Result<Part> {
        let file = &self.file;
        Ok(Part {
            number: file.column(row, "number")?,
            stream: file.column(row, "stream")?,
            position: unsigned(file.column(row, "position")?)?,
            finished: file.column(row, "finished")?,
            events: unsigned(file.column(row, "events")?)?,
            rows: unsigned(file.column(row, "rows")?)?,
        })
    }

    async fn of(&self, spec: &'static ModelSpec, generation: u64) -> Result<Generation> {
        let all = self.generations(&[spec]).await?;
        let found = all.into_iter().find(|found| found.head.generation == generation);
        found.ok_or_else(|| absent(spec.name, generation))
    }

    /// The standing and unfinished parts of a generation, by who holds the writer.
    async fn head_in(&self, connection: &mut SqliteConnection, model: &str, generation: u64) -> Result<Option<ModelHead>> {
        let sql = format!("{HEADS} WHERE model = ? AND generation = ?");
        let query = sqlx::query(&sql).bind(model).bind(signed(generation)?);
        let row = self.file.run(query.fetch_optional(connection)).await?;
        row.map(|row| head_of(&self.file, &row)).transpose()
    }

    /// Changes one number of rows at most, or tells that there was nothing to change.
    async fn built(&self, connection: &mut SqliteConnection, model: &str, generation: u64, term: u64) -> Result<()> {
        let sql = "SELECT 1 FROM view_heads WHERE model = ? AND generation = ? AND term = ? AND standing = 'building'";
        let query = sqlx::query(sql).bind(model).bind(signed(generation)?).bind(signed(term)?);
        let found = self.file.run(query.fetch_optional(connection)).await?;
        found.map(drop).ok_or_else(|| lost(model, generation))
    }

    async fn unfinished(&self, connection: &mut SqliteConnection, model: &str, generation: u64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM view_parts WHERE model = ? AND generation = ? AND NOT finished)";
        let query = sqlx::query_scalar(sql).bind(model).bind(signed(generation)?);
        self.file.run(query.fetch_one(connection)).await
    }

    async fn delete(&self, connection: &mut SqliteConnection, model: &str, generation: u64) -> Result<()> {
        for sql in [
            "DELETE FROM view_heads WHERE model = ? AND generation = ?",
            "DELETE FROM view_changes WHERE model = ? AND generation = ?",
        ] {
            let query = sqlx::query(sql).bind(model).bind(signed(generation)?);
            self.file.run(query.execute(&mut *connection)).await?;
        }
        let script = format!("DROP TABLE IF EXISTS {}", table(model, generation)?);
        self.file.run(connection.execute(sqlx::raw_sql(&script))).await.map(drop)
    }

    async fn set_standing(
        &self,
        connection: &mut SqliteConnection,
        (model, generation): (&str, u64),
        standing: Standing,
        term: i64,
    ) -> Result<()> {
        let query = sqlx::query("UPDATE view_heads SET live = ?, standing = ?, term = ? WHERE model = ? AND generation = ?")
            .bind(standing == Standing::Live)
            .bind(standing.as_str())
            .bind(term)
            .bind(model)
            .bind(signed(generation)?);
        self.file.run(query.execute(connection)).await.map(drop)
    }

    async fn next_term(&self, connection: &mut SqliteConnection, model: &str) -> Result<i64> {
        let query = sqlx::query_scalar("SELECT coalesce(max(term), 0) + 1 FROM view_heads WHERE model = ?").bind(model);
        self.file.run(query.fetch_one(connection)).await
    }

    async fn make(
        &self,
        connection: &mut SqliteConnection,
        spec: &'static ModelSpec,
        number: u64,
        at: &Checkpoint,
        parts: u32,
        trial: bool,
    ) -> Result<()> {
        let script = table_creation(spec, number)?;
        self.file.run(connection.execute(sqlx::raw_sql(&script))).await?;
        let head = sqlx::query(
            "INSERT INTO view_heads
                 (model, generation, fold_version, shape, live, standing, trial, incarnation, position, event_id)
             VALUES (?, ?, ?, ?, 0, 'building', ?, ?, ?, ?)",
        )
        .bind(spec.name)
        .bind(signed(number)?)
        .bind(spec.fold_version)
        .bind(shape(spec))
        .bind(trial)
        .bind(at.incarnation.to_string())
        .bind(signed(at.position)?)
        .bind(at.event_id.map(|id| id.to_string()));
        self.file.run(head.execute(&mut *connection)).await?;
        for part in 0..parts {
            let query = sqlx::query("INSERT INTO view_parts (model, generation, number) VALUES (?, ?, ?)")
                .bind(spec.name)
                .bind(signed(number)?)
                .bind(part);
            self.file.run(query.execute(&mut *connection)).await?;
        }
        Ok(())
    }

    async fn insert(&self, connection: &mut SqliteConnection, load: &Load<'_>) -> Result<()> {
        let (mut names, mut values) = (String::new(), String::new());
        for (field, place) in load.spec.fields.iter().zip(2..) {
            names.push_str(&format!(", {}", keyset::column(field.name)?));
            values.push_str(&format!(", value ->> {place}"));
        }
        let table = table(load.spec.name, load.generation)?;
        let sql = format!("INSERT INTO {table} (key, doc{names}) SELECT value ->> 0, value ->> 1{values} FROM json_each(?)");
        for rows in load.rows.chunks(ROWS_A_STATEMENT) {
            let bound = Value::Array(rows.iter().map(bound).collect()).to_string();
            let inserted = self.file.run(sqlx::query(&sql).bind(bound).execute(&mut *connection)).await;
            inserted.map_err(|error| match error {
                Error::Rejected { source: Some(source), .. } if source.to_string().contains("UNIQUE") => {
                    twice(load.spec.name)
                }
                other => other,
            })?;
        }
        Ok(())
    }
}

fn bound(row: &StoredRow) -> Value {
    let fields = row.fields.iter().map(|field| match field {
        FieldValue::Null => Value::Null,
        FieldValue::Int(number) => Value::from(*number),
        FieldValue::Text(text) => Value::from(text.as_str()),
    });
    Value::Array([Value::from(row.key.as_str()), Value::from(row.doc.as_str())].into_iter().chain(fields).collect())
}

#[async_trait]
impl Generations for SqliteViews {
    async fn generations(&self, specs: &[&'static ModelSpec]) -> Result<Vec<Generation>> {
        let sql = format!("{HEADS} ORDER BY model, generation");
        let heads = self.file.run(sqlx::query(&sql).fetch_all(&self.file.readers)).await?;
        let parts = sqlx::query("SELECT * FROM view_parts ORDER BY number").fetch_all(&self.file.readers);
        let parts = self.file.run(parts).await?;
        let mut generations = heads.iter().map(|row| self.generation_of(row, specs)).collect::<Result<Vec<_>>>()?;
        generations.retain(|found| specs.iter().any(|spec| spec.name == found.head.model));
        for row in &parts {
            let model: &str = self.file.column(row, "model")?;
            let number = unsigned(self.file.column(row, "generation")?)?;
            let of = |found: &&mut Generation| found.head.model == model && found.head.generation == number;
            if let Some(found) = generations.iter_mut().find(of) {
                found.parts.push(self.part_of(row)?);
            }
        }
        Ok(generations)
    }

    /// The folder is held by this process alone.
    async fn claim_rebuild(&self, _: &str) -> Result<bool> {
        Ok(true)
    }

    async fn release_rebuild(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn build(&self, spec: &'static ModelSpec, at: &Checkpoint, parts: u32, trial: bool) -> Result<Generation> {
        let all = self.generations(&[spec]).await?;
        let mut transaction = self.file.begin().await?;
        let number = match all.iter().find(|found| found.standing == Standing::Building) {
            Some(building) => building.head.generation,
            None => {
                let number = all.iter().map(|found| found.head.generation).max().unwrap_or(0) + 1;
                self.make(&mut transaction, spec, number, at, parts, trial).await?;
                number
            }
        };
        let term = self.next_term(&mut transaction, spec.name).await?;
        self.set_standing(&mut transaction, (spec.name, number), Standing::Building, term).await?;
        self.file.commit(transaction).await?;
        self.of(spec, number).await
    }

    async fn load(&self, load: &Load<'_>) -> Result<()> {
        let mut transaction = self.file.begin().await?;
        let mine = self.built(&mut transaction, load.spec.name, load.generation, load.term).await;
        mine.map_err(|_| lost_load(load))?;
        self.insert(&mut transaction, load).await?;
        park(&self.file, &mut transaction, load.spec.name, load.generation, load.parking).await?;
        let part = load.part;
        let query = sqlx::query(
            "UPDATE view_parts SET stream = ?, position = ?, finished = ?, events = ?, rows = ?
              WHERE model = ? AND generation = ? AND number = ?",
        )
        .bind(&part.stream)
        .bind(signed(part.position)?)
        .bind(part.finished)
        .bind(signed(part.events)?)
        .bind(signed(part.rows)?)
        .bind(load.spec.name)
        .bind(signed(load.generation)?)
        .bind(part.number);
        self.file.run(query.execute(&mut *transaction)).await?;
        self.file.commit(transaction).await
    }

    async fn complete(&self, spec: &'static ModelSpec, generation: u64, term: u64) -> Result<()> {
        // One after the other, and the first alone: nobody waits for longer than one index takes.
        let indexes = index_creation(spec, generation)?;
        for index in std::iter::once(String::new()).chain(indexes) {
            let mut transaction = self.file.begin().await?;
            self.built(&mut transaction, spec.name, generation, term).await?;
            if self.unfinished(&mut transaction, spec.name, generation).await? {
                return Err(not_complete(spec.name, generation));
            }
            self.file.run(transaction.execute(sqlx::raw_sql(&index))).await?;
            self.file.commit(transaction).await?;
        }
        Ok(())
    }

    async fn ready(&self, spec: &'static ModelSpec, generation: u64, term: u64) -> Result<()> {
        let mut transaction = self.file.begin().await?;
        self.built(&mut transaction, spec.name, generation, term).await?;
        if self.unfinished(&mut transaction, spec.name, generation).await? {
            return Err(not_complete(spec.name, generation));
        }
        self.set_standing(&mut transaction, (spec.name, generation), Standing::Ready, signed(term)?).await?;
        self.file.commit(transaction).await
    }

    async fn claim_generation(&self, spec: &'static ModelSpec, generation: u64) -> Result<Option<Claim>> {
        let found = self.of(spec, generation).await?;
        if !matches!(found.standing, Standing::Ready | Standing::Standby) {
            return Err(absent(spec.name, generation));
        }
        if found.head.fold_version != spec.fold_version {
            return Err(another_fold(spec, found.head.fold_version));
        }
        if self.is_paused(spec.name).await? {
            return Err(paused(spec));
        }
        let sql =
            "UPDATE view_heads SET term = term + 1 WHERE model = ? AND generation = ? AND standing IN ('ready', 'standby')
            RETURNING model, generation, fold_version, term, revision, oldest_change, incarnation, position, event_id";
        let query = sqlx::query(sql).bind(spec.name).bind(signed(generation)?);
        let row = self.file.run(query.fetch_optional(&self.file.writer)).await?;
        let head = head_of(&self.file, &row.ok_or_else(|| absent(spec.name, generation))?)?;
        let ModelHead { generation, term, revision, checkpoint, .. } = head;
        Ok(Some(Claim { generation, term, revision, checkpoint }))
    }

    async fn switch(&self, spec: &'static ModelSpec, generation: u64) -> Result<ModelHead> {
        let mut transaction = self.file.begin().await?;
        let live = sqlx::query_scalar("SELECT generation FROM view_heads WHERE live AND model = ?").bind(spec.name);
        let live: Option<i64> = self.file.run(live.fetch_optional(&mut *transaction)).await?;
        let old = unsigned(live.ok_or_else(|| absent_live(spec.name))?)?;
        let old = self.head_in(&mut transaction, spec.name, old).await?.ok_or_else(|| absent_live(spec.name))?;
        let next = self.head_in(&mut transaction, spec.name, generation).await?;
        let next = next.ok_or_else(|| absent(spec.name, generation))?;
        if old.generation == generation {
            return Ok(old);
        }
        if self.unfinished(&mut transaction, spec.name, generation).await? {
            return Err(not_complete(spec.name, generation));
        }
        if goes_back(&next.checkpoint, &old.checkpoint) {
            return Err(behind(spec.name, next.checkpoint.position, old.checkpoint.position));
        }
        let term = self.next_term(&mut transaction, spec.name).await?;
        let standby = "SELECT generation FROM view_heads WHERE model = ? AND standing = 'standby' AND generation <> ?";
        let standby = sqlx::query_scalar(standby).bind(spec.name).bind(signed(generation)?);
        let standby: Option<i64> = self.file.run(standby.fetch_optional(&mut *transaction)).await?;
        if let Some(standby) = standby {
            self.delete(&mut transaction, spec.name, unsigned(standby)?).await?;
        }
        // One after the other: at no moment two of them have one standing.
        let (old, new) = ((spec.name, old.generation), (spec.name, generation));
        let passing = sqlx::query("UPDATE view_heads SET standing = 'passing' WHERE model = ? AND generation = ?");
        let passing = passing.bind(spec.name).bind(signed(generation)?).execute(&mut *transaction);
        self.file.run(passing).await?;
        self.set_standing(&mut transaction, old, Standing::Standby, term).await?;
        self.set_standing(&mut transaction, new, Standing::Live, term).await?;
        self.file.commit(transaction).await?;
        Ok(self.of(spec, generation).await?.head)
    }

    async fn drop_generation(&self, model: &str, generation: u64) -> Result<()> {
        let mut transaction = self.file.begin().await?;
        let live = sqlx::query_scalar("SELECT live FROM view_heads WHERE model = ? AND generation = ?");
        let live = live.bind(model).bind(signed(generation)?).fetch_optional(&mut *transaction);
        match self.file.run(live).await? {
            None => Err(absent(model, generation)),
            Some(true) => Err(is_live(model, generation)),
            Some(false) => {
                self.delete(&mut transaction, model, generation).await?;
                self.file.commit(transaction).await
            }
        }
    }

    async fn set_paused(&self, model: &str, paused: bool) -> Result<bool> {
        let mut transaction: Transaction<'static, Sqlite> = self.file.begin().await?;
        let change = match paused {
            true => "INSERT INTO view_pauses (model) VALUES (?) ON CONFLICT DO NOTHING",
            false => "DELETE FROM view_pauses WHERE model = ?",
        };
        let changed = self.file.run(sqlx::query(change).bind(model).execute(&mut *transaction)).await?;
        if paused {
            let stop = sqlx::query("UPDATE view_heads SET term = term + 1 WHERE model = ? AND standing <> 'building'");
            self.file.run(stop.bind(model).execute(&mut *transaction)).await?;
        }
        self.file.commit(transaction).await?;
        Ok(changed.rows_affected() > 0)
    }

    async fn paused(&self) -> Result<Vec<String>> {
        let query = sqlx::query_scalar("SELECT model FROM view_pauses ORDER BY model");
        self.file.run(query.fetch_all(&self.file.readers)).await
    }

    async fn still(&self) -> Result<Box<dyn StillViews>> {
        let mut transaction = self.file.run(self.file.readers.begin()).await?;
        // The moment is that of the first query, not of BEGIN.
        let first = sqlx::query("SELECT 1 FROM view_heads LIMIT 1");
        self.file.run(first.fetch_optional(&mut *transaction)).await?;
        Ok(Box::new(SqliteStill { file: self.file.clone(), transaction }))
    }
}

struct SqliteStill {
    file: std::sync::Arc<DatabaseFile>,
    transaction: Transaction<'static, Sqlite>,
}

impl SqliteStill {
    async fn found(&mut self, spec: &ModelSpec, generation: u64) -> Result<SqliteRow> {
        let sql = format!("{HEADS} WHERE model = ? AND generation = ?");
        let query = sqlx::query(&sql).bind(spec.name).bind(signed(generation)?);
        let row = self.file.run(query.fetch_optional(&mut *self.transaction)).await?;
        row.ok_or_else(|| absent(spec.name, generation))
    }
}

#[async_trait]
impl StillViews for SqliteStill {
    async fn head(&mut self, spec: &'static ModelSpec, generation: u64) -> Result<ModelHead> {
        let row = self.found(spec, generation).await?;
        head_of(&self.file, &row)
    }

    async fn rows(
        &mut self,
        spec: &'static ModelSpec,
        generation: u64,
        after: &str,
        limit: usize,
    ) -> Result<Vec<StoredRow>> {
        let row = self.found(spec, generation).await?;
        let fits = self.file.column::<&str>(&row, "shape")? == shape(spec);
        let mut names = String::new();
        for field in spec.fields.iter().filter(|_| fits) {
            names.push_str(&format!(", {}", keyset::column(field.name)?));
        }
        let sql =
            format!("SELECT key, doc{names} FROM {} WHERE key > ? ORDER BY key LIMIT ?", table(spec.name, generation)?);
        let query = sqlx::query(&sql).bind(after).bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = self.file.run(query.fetch_all(&mut *self.transaction)).await?;
        let stored = |row: &SqliteRow| -> Result<StoredRow> {
            let mut fields = Vec::with_capacity(spec.fields.len());
            for field in spec.fields.iter().filter(|_| fits) {
                let name = keyset::column(field.name)?;
                fields.push(match field.kind {
                    FieldKind::Text => FieldValue::from(self.file.column::<Option<String>>(row, &name)?),
                    FieldKind::Int => FieldValue::from(self.file.column::<Option<i64>>(row, &name)?),
                });
            }
            Ok(StoredRow { key: self.file.column(row, "key")?, doc: self.file.column(row, "doc")?, fields })
        };
        rows.iter().map(stored).collect()
    }
}
