//! Generations in `views_db`. What must be one step is one statement or one function of the database.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use ports::{
    Checkpoint, Claim, Error, Generation, Generations, Load, ModelHead, ModelSpec, Part, Result, Standing, StillViews,
};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor};

use super::errors::{Call, map};
use super::loading::copy;
use super::parked::park;
use super::still::PostgresStill;
use super::views::{PostgresViews, WHAT, column, index_creation, table_creation};
use crate::keyset::{shape, table};
use crate::stored::{signed, unsigned};
use crate::views::{absent, absent_live, another_fold, behind, is_live, lost, lost_load, not_complete, paused, standing_of};

/// Loading, indexing and comparing take as long as they take; a server that does nothing for so long is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

const GENERATIONS: &str =
    "SELECT model, generation, fold_version, term, revision, oldest_change, incarnation, position, event_id, standing, shape,
            trial
       FROM view_heads WHERE model = ANY($1) ORDER BY model, generation";
const PARTS: &str = "SELECT model, generation, number, stream, position, finished, events, rows FROM view_parts
      WHERE model = ANY($1) ORDER BY number";

/// The answer of something that has no deadline of its own.
pub(super) async fn patiently<T>(call: Call, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(answer) => answer.map_err(|error| map(WHAT, call, error)),
        Err(elapsed) => Err(Error::unavailable(WHAT, elapsed)),
    }
}

fn part_of(row: &PgRow) -> Result<Part> {
    let number: i32 = column(row, "number")?;
    Ok(Part {
        number: number.unsigned_abs(),
        stream: column(row, "stream")?,
        position: unsigned(column(row, "position")?)?,
        finished: column(row, "finished")?,
        events: unsigned(column(row, "events")?)?,
        rows: unsigned(column(row, "rows")?)?,
    })
}

fn generation_of(row: &PgRow, specs: &[&'static ModelSpec]) -> Result<Generation> {
    let head = super::snapshot::head_of(row)?;
    let stored: &str = column(row, "shape")?;
    let fits = specs.iter().any(|spec| spec.name == head.model && shape(spec) == stored);
    let standing = standing_of(column(row, "standing")?)?;
    Ok(Generation { head, standing, trial: column(row, "trial")?, fits, parts: Vec::new() })
}

impl PostgresViews {
    async fn of(&self, spec: &'static ModelSpec, generation: u64) -> Result<Generation> {
        let all = self.generations(&[spec]).await?;
        let found = all.into_iter().find(|found| found.head.generation == generation);
        found.ok_or_else(|| absent(spec.name, generation))
    }

    /// Several statements that the server runs in one transaction.
    async fn script(&self, script: &str) -> Result<()> {
        let mut connection = self.unhurried.take().await?;
        let ran = patiently(Call::Write, connection.execute(sqlx::raw_sql(script))).await;
        if ran.is_ok() {
            connection.give_back();
        }
        ran.map(drop)
    }

    async fn make(&self, spec: &'static ModelSpec, number: u64, at: &Checkpoint, parts: u32, trial: bool) -> Result<()> {
        let event_id = at.event_id.map_or_else(|| "NULL".to_owned(), |id| format!("'{id}'"));
        let mut script = table_creation(spec, number, false)?;
        script.push_str(&format!(
            "INSERT INTO view_heads
                 (model, generation, fold_version, shape, live, standing, trial, incarnation, position, event_id)
             VALUES ('{}', {number}, {}, '{}', false, 'building', {trial}, '{}', {}, {event_id});\n",
            spec.name,
            spec.fold_version,
            shape(spec),
            at.incarnation,
            at.position,
        ));
        for part in 0..parts {
            script.push_str(&format!(
                "INSERT INTO view_parts (model, generation, number) VALUES ('{}', {number}, {part});\n",
                spec.name
            ));
        }
        self.script(&script).await
    }
}

#[async_trait]
impl Generations for PostgresViews {
    async fn generations(&self, specs: &[&'static ModelSpec]) -> Result<Vec<Generation>> {
        let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
        let (heads, parts) = (sqlx::query(GENERATIONS).bind(&names), sqlx::query(PARTS).bind(&names));
        let heads = self.queries.run(Call::Read, async |connection| heads.fetch_all(connection).await).await?;
        let parts = self.queries.run(Call::Read, async |connection| parts.fetch_all(connection).await).await?;
        let mut generations = heads.iter().map(|row| generation_of(row, specs)).collect::<Result<Vec<_>>>()?;
        for row in &parts {
            let (model, generation) = (column::<&str>(row, "model")?, unsigned(column(row, "generation")?)?);
            let of = |found: &&mut Generation| found.head.model == model && found.head.generation == generation;
            if let Some(found) = generations.iter_mut().find(of) {
                found.parts.push(part_of(row)?);
            }
        }
        Ok(generations)
    }

    async fn claim_rebuild(&self, model: &str) -> Result<bool> {
        self.claims.try_lead(&format!("rebuild:{model}")).await
    }

    async fn release_rebuild(&self, model: &str) -> Result<()> {
        self.claims.release(&format!("rebuild:{model}")).await
    }

    async fn build(&self, spec: &'static ModelSpec, at: &Checkpoint, parts: u32, trial: bool) -> Result<Generation> {
        let all = self.generations(&[spec]).await?;
        let number = match all.iter().find(|found| found.standing == Standing::Building) {
            Some(building) => building.head.generation,
            None => {
                let number = all.iter().map(|found| found.head.generation).max().unwrap_or(0) + 1;
                self.make(spec, number, at, parts, trial).await?;
                number
            }
        };
        // Waits for a load that is under way in the term before.
        let sql = "UPDATE view_heads SET term = (SELECT max(term) + 1 FROM view_heads WHERE model = $1)
                    WHERE model = $1 AND generation = $2 AND standing = 'building'";
        let raised = sqlx::query(sql).bind(spec.name).bind(signed(number)?);
        let raised = self.queries.run(Call::Write, async |connection| raised.execute(connection).await).await?;
        match raised.rows_affected() {
            0 => Err(lost(spec.name, number)),
            _ => self.of(spec, number).await,
        }
    }

    async fn load(&self, load: &Load<'_>) -> Result<()> {
        let mut connection = self.unhurried.take().await?;
        copy(&mut connection, load).await?;
        connection.give_back();
        Ok(())
    }

    async fn complete(&self, spec: &'static ModelSpec, generation: u64, term: u64) -> Result<()> {
        let found = self.of(spec, generation).await?;
        if found.standing != Standing::Building || found.head.term != term {
            return Err(lost(spec.name, generation));
        }
        if found.parts.iter().any(|part| !part.finished) {
            return Err(not_complete(spec.name, generation));
        }
        let table = table(spec.name, generation)?;
        let keyed = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = $1)");
        let keyed = keyed.bind(format!("{table}_pkey"));
        let keyed: bool = self.queries.run(Call::Read, async |connection| keyed.fetch_one(connection).await).await?;
        let key = if keyed { String::new() } else { format!("ALTER TABLE {table} ADD PRIMARY KEY (key);\n") };
        self.script(&format!("{key}{}", index_creation(spec, generation)?)).await?;
        // By itself: it cannot run in a transaction. A fresh table is planned for as what it is, and lists are read from the index.
        self.script(&format!("VACUUM (ANALYZE) {table}")).await
    }

    async fn ready(&self, spec: &'static ModelSpec, generation: u64, term: u64) -> Result<()> {
        let sql = "UPDATE view_heads SET standing = 'ready'
                    WHERE model = $1 AND generation = $2 AND term = $3 AND standing = 'building'";
        let query = sqlx::query(sql).bind(spec.name).bind(signed(generation)?).bind(signed(term)?);
        let done = self.queries.run(Call::Write, async |connection| query.execute(connection).await).await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(lost(spec.name, generation)) }
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
        if !self.claims.try_lead(&format!("{}:{generation}", spec.name)).await? {
            return Ok(None);
        }
        let sql =
            "UPDATE view_heads SET term = term + 1 WHERE model = $1 AND generation = $2 AND standing IN ('ready', 'standby')
            RETURNING model, generation, fold_version, term, revision, oldest_change, incarnation, position, event_id";
        let query = sqlx::query(sql).bind(spec.name).bind(signed(generation)?);
        let row = self.queries.run(Call::Write, async |connection| query.fetch_optional(connection).await).await?;
        let head = super::snapshot::head_of(&row.ok_or_else(|| absent(spec.name, generation))?)?;
        let ModelHead { generation, term, revision, checkpoint, .. } = head;
        Ok(Some(Claim { generation, term, revision, checkpoint }))
    }

    async fn switch(&self, spec: &'static ModelSpec, generation: u64) -> Result<ModelHead> {
        let query = sqlx::query("SELECT outcome, at, live_at FROM casitas_switch($1, $2)");
        let query = query.bind(spec.name).bind(signed(generation)?);
        let row = self.queries.run(Call::Write, async |connection| query.fetch_one(connection).await).await?;
        match column::<&str>(&row, "outcome")? {
            "switched" => Ok(self.of(spec, generation).await?.head),
            "incomplete" => Err(not_complete(spec.name, generation)),
            "behind" => {
                let [at, live] = [column(&row, "at")?, column(&row, "live_at")?];
                Err(behind(spec.name, unsigned(at)?, unsigned(live)?))
            }
            _ if column::<Option<i64>>(&row, "live_at")?.is_none() => Err(absent_live(spec.name)),
            _ => Err(absent(spec.name, generation)),
        }
    }

    async fn drop_generation(&self, model: &str, generation: u64) -> Result<()> {
        table(model, generation)?;
        let query = sqlx::query_scalar("SELECT casitas_drop($1, $2)").bind(model).bind(signed(generation)?);
        // An autovacuum of the table gives way to who has waited for a second; `queries` wait for no longer than that.
        let mut connection = self.unhurried.take().await?;
        let outcome: String = patiently(Call::Write, query.fetch_one(&mut *connection)).await?;
        connection.give_back();
        match outcome.as_str() {
            "dropped" => Ok(()),
            "live" => Err(is_live(model, generation)),
            _ => Err(absent(model, generation)),
        }
    }

    async fn set_paused(&self, model: &str, paused: bool) -> Result<bool> {
        let sql = match paused {
            true => {
                "WITH stopped AS (UPDATE view_heads SET term = term + 1 WHERE model = $1 AND standing <> 'building')
                 INSERT INTO view_pauses (model) VALUES ($1) ON CONFLICT DO NOTHING"
            }
            false => "DELETE FROM view_pauses WHERE model = $1",
        };
        let query = sqlx::query(sql).bind(model);
        let done = self.queries.run(Call::Write, async |connection| query.execute(connection).await).await?;
        Ok(done.rows_affected() > 0)
    }

    async fn paused(&self) -> Result<Vec<String>> {
        let query = sqlx::query_scalar("SELECT model FROM view_pauses ORDER BY model");
        self.queries.run(Call::Read, async |connection| query.fetch_all(connection).await).await
    }

    async fn still(&self) -> Result<Box<dyn StillViews>> {
        Ok(Box::new(PostgresStill::begin(&self.unhurried).await?))
    }
}

/// Whether a load still belongs to the rebuild; the head stays as it is until the transaction ends.
pub(super) async fn note(connection: &mut PgConnection, load: &Load<'_>) -> Result<()> {
    let sql = "SELECT 1 FROM view_heads
                WHERE model = $1 AND generation = $2 AND term = $3 AND standing = 'building' FOR SHARE";
    let head = sqlx::query(sql).bind(load.spec.name).bind(signed(load.generation)?).bind(signed(load.term)?);
    let head = patiently(Call::Read, head.fetch_optional(&mut *connection)).await?;
    head.ok_or_else(|| lost_load(load))?;
    let part = load.part;
    let sql = "UPDATE view_parts SET stream = $4, position = $5, finished = $6, events = $7, rows = $8
                WHERE model = $1 AND generation = $2 AND number = $3";
    let query = sqlx::query(sql)
        .bind(load.spec.name)
        .bind(signed(load.generation)?)
        .bind(part.number.cast_signed())
        .bind(&part.stream)
        .bind(signed(part.position)?)
        .bind(part.finished)
        .bind(signed(part.events)?)
        .bind(signed(part.rows)?);
    patiently(Call::Read, query.execute(&mut *connection)).await?;
    patiently(Call::Read, park(connection, load.spec.name, load.generation, load.parking)).await
}

/// Begins a transaction that nothing but its end commits.
pub(super) async fn begin(connection: &mut PgConnection) -> Result<sqlx::Transaction<'_, sqlx::Postgres>> {
    patiently(Call::Read, connection.begin()).await
}
