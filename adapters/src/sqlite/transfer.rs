//! Export and import of a log: the tables beside the events, and a stretch written as it was.

use async_trait::async_trait;
use ports::{Checkpoint, FollowerAt, Held, Import, Incarnation, KeptKey, Recorded, Result, Transfer, WrappedKey};
use serde_json::value::RawValue;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::file::DatabaseFile;
use super::log::SqliteLog;
use crate::stored::{
    DAY_US, KEY_DAYS, check_import, check_place, check_start, from_micros, keep_name, keep_named, micros, signed, unsigned,
};

const KEPT: &str = "SELECT scope, key, keep, request_hash, outcome, position, created_at FROM idempotency_keys
    WHERE (scope, key) > (?, ?) AND (keep = 'forever' OR created_at > ?) ORDER BY scope, key LIMIT ?";

const PLACE: &str = "SELECT incarnation, (SELECT coalesce(max(position), 0) FROM events) AS head FROM log_incarnation";

#[async_trait]
impl Transfer for SqliteLog {
    async fn kept_keys(&self, after: Option<(&str, &str)>, limit: usize) -> Result<Vec<KeptKey>> {
        let (scope, key) = after.unwrap_or_default();
        let since = micros(self.clock.now()) - KEY_DAYS * DAY_US;
        let query = sqlx::query(KEPT).bind(scope).bind(key).bind(since).bind(limit as i64);
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        let file = &self.file;
        let kept = |row: &SqliteRow| {
            Ok(KeptKey {
                scope: file.column(row, "scope")?,
                key: file.column(row, "key")?,
                keep: keep_named(file.column(row, "keep")?)?,
                request_hash: file.column(row, "request_hash")?,
                outcome: RawValue::from_string(file.column(row, "outcome")?).map_err(|error| file.corrupt(&error))?,
                position: unsigned(file.column(row, "position")?)?,
                created_at: from_micros(file.column(row, "created_at")?)?,
            })
        };
        rows.iter().map(kept).collect()
    }

    async fn followers(&self) -> Result<Vec<FollowerAt>> {
        let file = &self.file;
        let query = sqlx::query(
            "SELECT name, incarnation, position, event_id FROM follower_checkpoints WHERE position IS NOT NULL ORDER BY name",
        );
        let rows = file.run(query.fetch_all(&file.readers)).await?;
        let at = |row: &SqliteRow| {
            let checkpoint = Checkpoint {
                incarnation: file.parsed(row, "incarnation")?,
                position: unsigned(file.column(row, "position")?)?,
                event_id: file.parsed_or_null(row, "event_id")?,
            };
            Ok(FollowerAt { name: file.column(row, "name")?, checkpoint })
        };
        rows.iter().map(at).collect()
    }

    async fn wrapped_keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<WrappedKey>> {
        let file = &self.file;
        let query = sqlx::query(
            "SELECT subject, wrapped, created_at, erased_at FROM subject_keys WHERE subject > ? ORDER BY subject LIMIT ?",
        );
        let rows = file.run(query.bind(after.unwrap_or_default()).bind(limit as i64).fetch_all(&file.readers)).await?;
        let wrapped = |row: &SqliteRow| {
            Ok(WrappedKey {
                subject: file.column(row, "subject")?,
                wrapped: file.column(row, "wrapped")?,
                created_at: from_micros(file.column(row, "created_at")?)?,
                erased_at: file.column::<Option<i64>>(row, "erased_at")?.map(from_micros).transpose()?,
            })
        };
        rows.iter().map(wrapped).collect()
    }

    /// The write transaction, which then writes nothing.
    async fn hold(&self) -> Result<Held> {
        Ok(Box::new(self.file.begin().await?))
    }

    async fn import(&self, import: &Import) -> Result<()> {
        let starts = check_import(self.context, import)?;
        let file = &self.file;
        let mut transaction = file.begin().await?;
        let place = file.run(sqlx::query(PLACE).fetch_one(&mut *transaction)).await?;
        let head = unsigned(file.column(&place, "head")?)?;
        check_place(self.context, import, file.parsed(&place, "incarnation")?, head)?;
        for (stream, start) in starts {
            let stands = sqlx::query_scalar(
                "SELECT coalesce(max(sequence), 0) FROM events WHERE aggregate_type = ? AND aggregate_id = ?",
            );
            let stands = stands.bind(stream.kind.as_str()).bind(&stream.id);
            let stands: i64 = file.run(stands.fetch_one(&mut *transaction)).await?;
            check_start(self.context, import, stream, start, unsigned(stands)?)?;
        }
        if head == 0 {
            let take_over = sqlx::query("UPDATE log_incarnation SET incarnation = ?").bind(import.incarnation.to_string());
            file.run(take_over.execute(&mut *transaction)).await?;
        }
        for event in &import.events {
            insert_event(file, &mut transaction, event).await?;
        }
        for key in &import.keys {
            insert_key(file, &mut transaction, key).await?;
        }
        for follower in &import.followers {
            set_follower(file, &mut transaction, follower).await?;
        }
        for key in &import.subjects {
            insert_subject(file, &mut transaction, key).await?;
        }
        file.commit(transaction).await
    }

    async fn renew_incarnation(&self) -> Result<Incarnation> {
        let file = &self.file;
        let new = Uuid::new_v4();
        let mut transaction = file.begin().await?;
        let old = file.run(sqlx::query("SELECT incarnation FROM log_incarnation").fetch_one(&mut *transaction)).await?;
        let old: String = old.try_get(0).map_err(|error| file.corrupt(&error))?;
        for sql in [
            "UPDATE log_incarnation SET incarnation = ?1 WHERE incarnation = ?2",
            "UPDATE follower_checkpoints SET incarnation = ?1 WHERE incarnation = ?2",
        ] {
            file.run(sqlx::query(sql).bind(new.to_string()).bind(&old).execute(&mut *transaction)).await?;
        }
        file.commit(transaction).await?;
        Ok(new)
    }
}

async fn insert_event(file: &DatabaseFile, connection: &mut SqliteConnection, event: &Recorded) -> Result<()> {
    let insert = sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, position,
             event_id, effective_on, recorded_at, actor, correlation_id, causation_id, traceparent)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(event.stream.kind.as_str())
    .bind(&event.stream.id)
    .bind(signed(event.sequence)?)
    .bind(&event.event_type)
    .bind(&event.event_version)
    .bind(event.payload.get())
    .bind(signed(event.position)?)
    .bind(event.event_id.to_string())
    .bind(event.effective_on.to_string())
    .bind(micros(event.recorded_at))
    .bind(&event.metadata.actor)
    .bind(event.metadata.correlation_id.to_string())
    .bind(event.metadata.causation_id.map(|id| id.to_string()))
    .bind(&event.metadata.traceparent);
    file.run(insert.execute(connection)).await.map(drop)
}

async fn insert_key(file: &DatabaseFile, connection: &mut SqliteConnection, key: &KeptKey) -> Result<()> {
    let insert = sqlx::query(
        "INSERT INTO idempotency_keys (scope, key, request_hash, outcome, position, keep, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(&key.scope)
    .bind(&key.key)
    .bind(&key.request_hash)
    .bind(key.outcome.get())
    .bind(signed(key.position)?)
    .bind(keep_name(key.keep))
    .bind(micros(key.created_at));
    file.run(insert.execute(connection)).await.map(drop)
}

async fn set_follower(file: &DatabaseFile, connection: &mut SqliteConnection, follower: &FollowerAt) -> Result<()> {
    let FollowerAt { name, checkpoint } = follower;
    let set = sqlx::query(
        "INSERT INTO follower_checkpoints (name, term, incarnation, position, event_id) VALUES (?, 1, ?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET term = term + 1, incarnation = excluded.incarnation,
             position = excluded.position, event_id = excluded.event_id",
    )
    .bind(name)
    .bind(checkpoint.incarnation.to_string())
    .bind(signed(checkpoint.position)?)
    .bind(checkpoint.event_id.map(|id| id.to_string()));
    file.run(set.execute(connection)).await.map(drop)
}

async fn insert_subject(file: &DatabaseFile, connection: &mut SqliteConnection, key: &WrappedKey) -> Result<()> {
    let insert = sqlx::query(
        "INSERT INTO subject_keys (subject, wrapped, created_at, erased_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(&key.subject)
    .bind(&key.wrapped)
    .bind(micros(key.created_at))
    .bind(key.erased_at.map(micros));
    file.run(insert.execute(connection)).await.map(drop)
}
