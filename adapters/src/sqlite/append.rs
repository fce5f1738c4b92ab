//! A batch inside the one write transaction of a log: judged request by request, inserted event by event.

use ports::{AppendOutcome, AppendRequest, Keep, KeyRecord, KeyUse, Position, Result, StreamAppend};
use sqlx::sqlite::SqliteConnection;

use super::file::DatabaseFile;
use crate::stored::{DAY_US, KEY_DAYS, from_micros, signed, unsigned};

pub(super) struct Append<'a> {
    pub file: &'a DatabaseFile,
    pub connection: &'a mut SqliteConnection,
    /// The last position given out.
    pub head: i64,
    pub recorded_at_us: i64,
}

impl<'a> Append<'a> {
    pub(super) async fn start(file: &'a DatabaseFile, connection: &'a mut SqliteConnection, now_us: i64) -> Result<Self> {
        let last = sqlx::query_as("SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1");
        let last: Option<(i64, i64)> = file.run(last.fetch_optional(&mut *connection)).await?;
        let (head, last_us) = last.unwrap_or((0, i64::MIN));
        Ok(Self { file, connection, head, recorded_at_us: now_us.max(last_us) })
    }

    pub(super) async fn request(&mut self, request: &AppendRequest) -> Result<AppendOutcome> {
        if let Some(committed) = self.already_committed(request).await? {
            return Ok(committed);
        }
        if let Some(key) = &request.key
            && let Some(outcome) = self.used_key(key).await?
        {
            return Ok(outcome);
        }
        for append in &request.streams {
            let actual = self.version(append).await?;
            if actual != append.expected_version {
                return Ok(AppendOutcome::VersionConflict { stream: append.stream.clone(), actual });
            }
        }
        self.insert(request).await
    }

    async fn already_committed(&mut self, request: &AppendRequest) -> Result<Option<AppendOutcome>> {
        let (Some(first), Some(last)) = (request.streams.first(), request.streams.last()) else { return Ok(None) };
        let (Some(first_event), Some(last_event)) = (first.events.first(), last.events.last()) else { return Ok(None) };
        let count: usize = request.streams.iter().map(|append| append.events.len()).sum();
        let stands = sqlx::query_as(
            "SELECT a.position, b.position, a.recorded_at FROM events a JOIN events b ON b.position = a.position + ? - 1
              WHERE a.event_id = ? AND a.aggregate_type = ? AND a.aggregate_id = ? AND a.sequence = ? AND b.event_id = ?",
        )
        .bind(count as i64)
        .bind(first_event.event_id.to_string())
        .bind(first.stream.kind.as_str())
        .bind(&first.stream.id)
        .bind(signed(first.expected_version)? + 1)
        .bind(last_event.event_id.to_string());
        let stands: Option<(i64, i64, i64)> = self.file.run(stands.fetch_optional(&mut *self.connection)).await?;
        let Some((first, last, at)) = stands else { return Ok(None) };
        Ok(Some(AppendOutcome::Committed { first: unsigned(first)?, last: unsigned(last)?, recorded_at: from_micros(at)? }))
    }

    async fn used_key(&mut self, key: &KeyUse) -> Result<Option<AppendOutcome>> {
        let stored = find_key(self.file, &mut *self.connection, &key.scope, &key.key, self.recorded_at_us).await?;
        Ok(stored.map(|record| match record.request_hash == key.request_hash {
            true => AppendOutcome::Replayed(record),
            false => AppendOutcome::KeyReused,
        }))
    }

    async fn version(&mut self, append: &StreamAppend) -> Result<u64> {
        let last = sqlx::query_scalar(
            "SELECT coalesce(max(sequence), 0) FROM events WHERE aggregate_type = ? AND aggregate_id = ?",
        )
        .bind(append.stream.kind.as_str())
        .bind(&append.stream.id);
        unsigned(self.file.run(last.fetch_one(&mut *self.connection)).await?)
    }

    async fn insert(&mut self, request: &AppendRequest) -> Result<AppendOutcome> {
        let first = self.head + 1;
        for append in &request.streams {
            self.insert_events(request, append).await?;
        }
        if let Some(key) = &request.key {
            self.insert_key(key).await?;
        }
        Ok(AppendOutcome::Committed {
            first: unsigned(first)?,
            last: unsigned(self.head)?,
            recorded_at: from_micros(self.recorded_at_us)?,
        })
    }

    async fn insert_events(&mut self, request: &AppendRequest, append: &StreamAppend) -> Result<()> {
        for (event, sequence) in append.events.iter().zip(signed(append.expected_version)? + 1..) {
            let insert = sqlx::query(
                "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, position,
                     event_id, effective_on, recorded_at, actor, correlation_id, causation_id, traceparent)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(append.stream.kind.as_str())
            .bind(&append.stream.id)
            .bind(sequence)
            .bind(&event.event_type)
            .bind(&event.event_version)
            .bind(event.payload.get())
            .bind(self.head + 1)
            .bind(event.event_id.to_string())
            .bind(event.effective_on.to_string())
            .bind(self.recorded_at_us)
            .bind(&request.metadata.actor)
            .bind(request.metadata.correlation_id.to_string())
            .bind(request.metadata.causation_id.map(|id| id.to_string()))
            .bind(&request.metadata.traceparent);
            self.file.run(insert.execute(&mut *self.connection)).await?;
            self.head += 1;
        }
        Ok(())
    }

    /// The row of an expired key is taken over.
    async fn insert_key(&mut self, key: &KeyUse) -> Result<()> {
        let keep = match key.keep {
            Keep::Days30 => "days30",
            Keep::Forever => "forever",
        };
        let insert = sqlx::query(
            "INSERT OR REPLACE INTO idempotency_keys (scope, key, request_hash, outcome, position, keep, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&key.scope)
        .bind(&key.key)
        .bind(&key.request_hash)
        .bind(key.outcome.to_string())
        .bind(self.head)
        .bind(keep)
        .bind(self.recorded_at_us);
        self.file.run(insert.execute(&mut *self.connection)).await.map(drop)
    }
}

/// The record of a key that is still kept.
pub(super) async fn find_key<'e>(
    file: &DatabaseFile,
    executor: impl sqlx::SqliteExecutor<'e>,
    scope: &str,
    key: &str,
    now_us: i64,
) -> Result<Option<KeyRecord>> {
    let find = sqlx::query_as(
        "SELECT request_hash, outcome, position FROM idempotency_keys
          WHERE scope = ? AND key = ? AND (keep = 'forever' OR created_at > ?)",
    )
    .bind(scope)
    .bind(key)
    .bind(now_us - KEY_DAYS * DAY_US);
    let found: Option<(String, String, i64)> = file.run(find.fetch_optional(executor)).await?;
    let Some((request_hash, outcome, position)) = found else { return Ok(None) };
    let outcome = serde_json::from_str(&outcome).map_err(|error| file.corrupt(&error))?;
    let position: Position = unsigned(position)?;
    Ok(Some(KeyRecord { request_hash, outcome, position }))
}
