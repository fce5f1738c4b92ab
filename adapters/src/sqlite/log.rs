//! The event log of one context in its SQLite file.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_es::persist::{PersistedEventRepository, SerializedEvent};
use domain::{Context, StreamId, with_aggregate};
use ports::{
    AppendOutcome, AppendRequest, Clock, EventLog, EventQuery, KeyRecord, KeyUse, LogHead, Metadata, Position, Recorded,
    Result, StreamEvents, Stretch, Tally,
};
use serde_json::value::RawValue;
use sqlite_es::SqliteEventRepository;
use sqlx::sqlite::{SqliteRow, SqliteSynchronous};

use super::DataFolder;
use super::append::{append, find_key, keep_key};
use super::file::{DatabaseFile, Step, map_load};
use crate::stored::{DAY_US, KEY_DAYS, READ_MAX, check_batch, check_dense, from_micros, micros, signed, unsigned};

const STEPS: &[Step] = &[
    (1, "log", include_str!("../../migrations/sqlite/log/0001_log.sql")),
    (2, "chain", include_str!("../../migrations/sqlite/log/0002_chain.sql")),
];

pub(super) const COLUMNS: &str =
    "position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
    effective_on, recorded_at, actor, correlation_id, causation_id, traceparent";

const READ: &str = "SELECT position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
    effective_on, recorded_at, actor, correlation_id, causation_id, traceparent
    FROM events WHERE position > ? ORDER BY position LIMIT ?";

const STRETCH: &str =
    "SELECT position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
    effective_on, recorded_at, actor, correlation_id, causation_id, traceparent
    FROM events WHERE position > ?1 AND position <= ?2 AND +aggregate_type = ?3 AND +aggregate_id > ?4
      AND (?5 IS NULL OR +aggregate_id <= ?5) AND (?6 = 1 OR unicode(substr(aggregate_id, -1)) % ?6 = ?7) ORDER BY position";

const HEAD: &str = "SELECT i.incarnation, e.position, e.event_id, e.recorded_at FROM log_incarnation i
    LEFT JOIN (SELECT position, event_id, recorded_at FROM events ORDER BY position DESC LIMIT 1) e";

pub struct SqliteLog {
    pub(super) context: Context,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) file: DatabaseFile,
    repository: SqliteEventRepository,
}

impl SqliteLog {
    pub(super) async fn open(folder: &DataFolder, context: Context, clock: Arc<dyn Clock>) -> Result<Self> {
        let name = format!("{}.sqlite", context.database());
        let what = format!("the {context} log");
        // FULL: a commit that was answered is on the disk.
        let file = DatabaseFile::open(folder, &name, what, SqliteSynchronous::Full, STEPS).await?;
        // Callers' keys are ignored after 30 days; here they are swept.
        let sweep = sqlx::query("DELETE FROM idempotency_keys WHERE keep = 'days30' AND created_at < ?")
            .bind(micros(clock.now()) - KEY_DAYS * DAY_US);
        file.run(sweep.execute(&file.writer)).await?;
        Ok(Self { context, clock, repository: SqliteEventRepository::new(file.readers.clone()), file })
    }

    /// Whether commands can be stored. `Unavailable`, with who holds the file, when something outside this process has stood in
    /// the way for longer than that.
    pub async fn can_write(&self, patience: Duration) -> Result<()> {
        self.file.can_write(patience).await
    }

    /// Closes the file's connections; the last one checkpoints.
    pub async fn close(&self) {
        self.file.readers.close().await;
        self.file.writer.close().await;
    }

    pub(super) fn recorded(&self, row: &SqliteRow) -> Result<Recorded> {
        let file = &self.file;
        let id: String = file.column(row, "aggregate_id")?;
        Ok(Recorded {
            position: unsigned(file.column(row, "position")?)?,
            event_id: file.parsed(row, "event_id")?,
            stream: StreamId::new(file.parsed(row, "aggregate_type")?, id),
            sequence: unsigned(file.column(row, "sequence")?)?,
            event_type: file.column(row, "event_type")?,
            event_version: file.column(row, "event_version")?,
            payload: RawValue::from_string(file.column(row, "payload")?).map_err(|error| file.corrupt(&error))?.into(),
            effective_on: file.parsed(row, "effective_on")?,
            recorded_at: from_micros(file.column(row, "recorded_at")?)?,
            metadata: Metadata {
                actor: file.column(row, "actor")?,
                correlation_id: file.parsed(row, "correlation_id")?,
                causation_id: file.parsed_or_null(row, "causation_id")?,
                traceparent: file.column(row, "traceparent")?,
            },
        })
    }
}

#[async_trait]
impl EventLog for SqliteLog {
    fn context(&self) -> Context {
        self.context
    }

    async fn load(&self, stream: &StreamId, after_sequence: u64) -> Result<Vec<SerializedEvent>> {
        let after = usize::try_from(after_sequence).unwrap_or(usize::MAX);
        let loaded = with_aggregate!(stream.kind, A => match after {
            0 => self.repository.get_events::<A>(&stream.id).await,
            _ => self.repository.get_last_events::<A>(&stream.id, after).await,
        });
        loaded.map_err(|error| map_load(&self.file.what, error))
    }

    async fn load_many(&self, streams: &[StreamId]) -> Result<Vec<StreamEvents>> {
        self.streams(streams).await
    }

    async fn append(&self, batch: &[AppendRequest]) -> Result<Vec<AppendOutcome>> {
        check_batch(self.context, batch)?;
        let mut transaction = self.file.begin().await?;
        let outcomes = append(&self.file, &mut transaction, batch, micros(self.clock.now())).await?;
        self.file.commit(transaction).await?;
        Ok(outcomes)
    }

    async fn read(&self, after: Position, limit: usize) -> Result<Vec<Recorded>> {
        let query = sqlx::query(READ).bind(signed(after)?).bind(limit.min(READ_MAX) as i64);
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        let events = rows.iter().map(|row| self.recorded(row)).collect::<Result<Vec<_>>>()?;
        check_dense(self.context, after, &events)?;
        Ok(events)
    }

    async fn stretch(&self, stretch: &Stretch) -> Result<Vec<Recorded>> {
        let query = sqlx::query(STRETCH)
            .bind(signed(stretch.after)?)
            .bind(signed(stretch.to)?)
            .bind(stretch.kind.as_str())
            .bind(&stretch.streams_after)
            .bind(&stretch.streams_to)
            .bind(stretch.share.1.max(1))
            .bind(stretch.share.0);
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        rows.iter().map(|row| self.recorded(row)).collect()
    }

    async fn head(&self) -> Result<LogHead> {
        let row = self.file.run(sqlx::query(HEAD).fetch_one(&self.file.readers)).await?;
        let position: Option<i64> = self.file.column(&row, "position")?;
        let recorded_at: Option<i64> = self.file.column(&row, "recorded_at")?;
        Ok(LogHead {
            incarnation: self.file.parsed(&row, "incarnation")?,
            position: unsigned(position.unwrap_or(0))?,
            event_id: self.file.parsed_or_null(&row, "event_id")?,
            recorded_at: recorded_at.map(from_micros).transpose()?,
        })
    }

    async fn find_key(&self, scope: &str, key: &str) -> Result<Option<KeyRecord>> {
        find_key(&self.file, &self.file.readers, scope, key, micros(self.clock.now())).await
    }

    async fn keep_key(&self, key: &KeyUse) -> Result<Option<KeyRecord>> {
        let mut transaction = self.file.begin().await?;
        let kept = keep_key(&self.file, &mut transaction, key, micros(self.clock.now())).await?;
        self.file.commit(transaction).await?;
        Ok(kept)
    }

    async fn search(&self, query: &EventQuery, after: Position, upto: Position, limit: usize) -> Result<Vec<Recorded>> {
        self.found(query, after, upto, limit).await
    }

    async fn count(&self, query: &EventQuery, after: Position, upto: Position) -> Result<u64> {
        self.counted(query, after, upto).await
    }

    async fn tally(&self, after: Position, upto: Position, most: usize) -> Result<Tally> {
        self.tallied(after, upto, most).await
    }
}
