//! The event log of one context in its Postgres database.

use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use async_trait::async_trait;
use cqrs_es::persist::{PersistedEventRepository, SerializedEvent};
use domain::{Context, StreamId, with_aggregate};
use ports::{
    AppendOutcome, AppendRequest, Error, EventLog, EventQuery, KeyRecord, KeyUse, LogHead, Position, Recorded, Result,
    StreamEvents, Stretch, Tally,
};
use postgres_es::PostgresEventRepository;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Decode, PgPool, Postgres, Row, Type};
use tokio::time::Instant;

use super::append::{Judged, Whole, accepted, outcomes};
use super::claims::Claims;
use super::errors::{Call, DEADLINE, map_load, of_role, within};
use super::pool::{PostgresServer, TRUSTED_IDLE, acquire};
use super::recorded::COLUMNS;
use super::shelf::Shelf;
use crate::stored::{READ_MAX, check_batch, check_dense, from_micros, keep_name, signed, unsigned};

/// As many as an appender has calls under way.
const WRITERS_KEPT: usize = 2;

const HEAD: &str = "SELECT i.incarnation, e.position, e.event_id, e.recorded_at
    FROM log_incarnation i LEFT JOIN LATERAL (
        SELECT position, event_id, (extract(epoch FROM recorded_at) * 1000000)::bigint AS recorded_at
          FROM events ORDER BY position DESC LIMIT 1) e ON true";

/// What [`PostgresLog::recorded_of`] expects, in its order. Every condition holds for any value of a stretch, so that it is one plan:
/// along the positions.
const STRETCH: &str = "SELECT position, event_id, aggregate_id, sequence, event_type, event_version, payload, effective_on,
    recorded_at FROM events
    WHERE position > $1 AND position <= $2 AND aggregate_type = $3
      AND ($4 = '' OR aggregate_id > $4) AND ($5::text IS NULL OR aggregate_id <= $5)
      AND ($6 = 1 OR ascii(right(aggregate_id, 1)) % $6 = $7)
    ORDER BY position";

const FIND_KEY: &str = "SELECT request_hash, outcome::text AS outcome, position FROM idempotency_keys
    WHERE scope = $1 AND key = $2 AND (keep = 'forever' OR created_at > now() - interval '30 days')";

const KEEP_KEY: &str = "SELECT request_hash, outcome, position FROM casitas_keep($1, $2, $3, $4, $5)";

pub struct PostgresLog {
    pub(super) context: Context,
    what: String,
    server: PostgresServer,
    connected: RwLock<Arc<Connected>>,
    /// For what followers ask all the time.
    readers: Shelf,
    /// Connections that only append, and since when each is idle. Not the pool's: sqlx asks a connection whether it lives each
    /// time it goes back, which would double the round trips of a commit.
    writers: Mutex<Vec<(PgConnection, Instant)>>,
    pub(super) claims: Claims,
}

pub(super) struct Connected {
    pub(super) pool: PgPool,
    repository: PostgresEventRepository,
}

impl Connected {
    fn lazily(server: &PostgresServer, context: Context) -> Arc<Self> {
        let pool = server.log_pool(context);
        Arc::new(Self { repository: PostgresEventRepository::new(pool.clone()), pool })
    }
}

impl PostgresLog {
    /// Needs a runtime; connects at the first use.
    pub fn connect(context: Context, server: &PostgresServer) -> Self {
        let what = format!("the {context} log");
        Self {
            context,
            claims: Claims::new(what.clone(), server.options(&server.log_database(context))),
            connected: RwLock::new(Connected::lazily(server, context)),
            readers: server.log_shelf(context, &what),
            writers: Mutex::default(),
            server: server.clone(),
            what,
        }
    }

    pub(super) fn connected(&self) -> Arc<Connected> {
        self.connected.read().expect("the lock is never poisoned: nothing under it panics").clone()
    }

    /// Leaves the connections of a pool behind, one of which swallowed a call: postgres-es takes its connection from the pool
    /// itself, so that it cannot be closed, and the pool would wait for it as long as TCP does.
    fn renew(&self, stuck: &Arc<Connected>) {
        let mut connected = self.connected.write().expect("the lock is never poisoned: nothing under it panics");
        if Arc::ptr_eq(&connected, stuck) {
            *connected = Connected::lazily(&self.server, self.context);
        }
    }

    /// A connection to append with. Nothing was sent yet, so failing here is plain `Unavailable`.
    async fn writer(&self) -> Result<PgConnection> {
        let idle = self.writers().pop();
        if let Some((mut connection, since)) = idle
            && (since.elapsed() < TRUSTED_IDLE || within(&self.what, Call::Read, connection.ping()).await.is_ok())
        {
            return Ok(connection);
        }
        within(&self.what, Call::Read, self.server.log_options(self.context).connect()).await
    }

    /// Mostly the whole batch is accepted; otherwise each request is judged by itself. All rows are fetched, because what is
    /// answered is durable only when the server says that the statement has ended.
    async fn append_on(&self, writer: &mut PgConnection, batch: &[AppendRequest]) -> Result<Vec<AppendOutcome>> {
        let whole = Whole::of(batch)?;
        let rows = within(&self.what, Call::Write, whole.query().fetch_all(&mut *writer)).await?;
        if let Some(outcomes) = accepted(batch, &rows)? {
            return Ok(outcomes);
        }
        let judged = Judged::of(batch)?;
        outcomes(batch, &within(&self.what, Call::Write, judged.query().fetch_all(writer)).await?)
    }

    fn writers(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.writers.lock().expect("the lock is never poisoned: nothing under it panics")
    }

    /// One call on one connection. A connection whose call did not end in time is closed, not used again.
    pub(super) async fn run<T>(
        &self,
        call: Call,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T> {
        let mut connection = acquire(&self.connected().pool, &self.what).await?;
        let answer = within(&self.what, call, work(&mut connection)).await;
        let answer = answer.map_err(|error| of_role(self.server.user(), error));
        if matches!(answer, Err(Error::Unavailable { .. } | Error::UnknownOutcome { .. })) {
            connection.close_on_drop();
        }
        answer
    }

    pub(super) fn column<'r, T>(&self, row: &'r PgRow, name: &str) -> Result<T>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        row.try_get(name).map_err(|error| self.unreadable(error))
    }

    pub(super) fn unreadable(&self, error: sqlx::Error) -> Error {
        Error::corrupt(format!("{}: {error}", self.what))
    }

    fn key_record(&self, row: &PgRow) -> Result<KeyRecord> {
        let outcome: &str = self.column(row, "outcome")?;
        Ok(KeyRecord {
            request_hash: self.column(row, "request_hash")?,
            outcome: serde_json::from_str(outcome).map_err(|error| Error::corrupt(format!("{}: {error}", self.what)))?,
            position: unsigned(self.column(row, "position")?)?,
        })
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }
}

#[async_trait]
impl EventLog for PostgresLog {
    fn context(&self) -> Context {
        self.context
    }

    async fn load(&self, stream: &StreamId, after_sequence: u64) -> Result<Vec<SerializedEvent>> {
        let after = usize::try_from(after_sequence).unwrap_or(usize::MAX);
        let connected = self.connected();
        let repository = &connected.repository;
        let load = async {
            with_aggregate!(stream.kind, A => match after {
                0 => repository.get_events::<A>(&stream.id).await,
                _ => repository.get_last_events::<A>(&stream.id, after).await,
            })
        };
        match tokio::time::timeout(DEADLINE, load).await {
            Ok(loaded) => loaded.map_err(|error| map_load(&self.what, error)),
            Err(elapsed) => {
                self.renew(&connected);
                Err(Error::unavailable(&self.what, elapsed))
            }
        }
    }

    async fn load_many(&self, streams: &[StreamId]) -> Result<Vec<StreamEvents>> {
        self.streams(streams).await
    }

    async fn append(&self, batch: &[AppendRequest]) -> Result<Vec<AppendOutcome>> {
        check_batch(self.context, batch)?;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let mut writer = self.writer().await?;
        let answer = self.append_on(&mut writer, batch).await.map_err(|error| of_role(self.server.user(), error));
        // A connection that did not answer is closed, not used again.
        if !matches!(answer, Err(Error::Unavailable { .. } | Error::UnknownOutcome { .. })) {
            let mut writers = self.writers();
            if writers.len() < WRITERS_KEPT {
                writers.push((writer, Instant::now()));
            }
        }
        answer
    }

    async fn read(&self, after: Position, limit: usize) -> Result<Vec<Recorded>> {
        let sql = format!("SELECT {COLUMNS} FROM events WHERE position > $1 ORDER BY position LIMIT $2");
        let query = sqlx::query(&sql).bind(signed(after)?).bind(limit.min(READ_MAX) as i64);
        let rows = self.readers.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
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
            .bind(stretch.share.1.max(1).cast_signed())
            .bind(stretch.share.0.cast_signed());
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        rows.iter().map(|row| self.recorded_of(stretch.kind, row)).collect()
    }

    async fn head(&self) -> Result<LogHead> {
        let row = self.readers.run(Call::Read, async |connection| sqlx::query(HEAD).fetch_one(connection).await).await?;
        Ok(LogHead {
            incarnation: self.column(&row, "incarnation")?,
            position: unsigned(self.column::<Option<i64>>(&row, "position")?.unwrap_or(0))?,
            event_id: self.column(&row, "event_id")?,
            recorded_at: self.column::<Option<i64>>(&row, "recorded_at")?.map(from_micros).transpose()?,
        })
    }

    async fn find_key(&self, scope: &str, key: &str) -> Result<Option<KeyRecord>> {
        let query = sqlx::query(FIND_KEY).bind(scope).bind(key);
        let row = self.run(Call::Read, async |connection| query.fetch_optional(connection).await).await?;
        row.as_ref().map(|row| self.key_record(row)).transpose()
    }

    async fn keep_key(&self, key: &KeyUse) -> Result<Option<KeyRecord>> {
        let outcome = key.outcome.to_string();
        let query = sqlx::query(KEEP_KEY)
            .bind(&key.scope)
            .bind(&key.key)
            .bind(&key.request_hash)
            .bind(keep_name(key.keep))
            .bind(&outcome);
        let row = self.run(Call::Write, async |connection| query.fetch_optional(connection).await).await?;
        row.as_ref().map(|row| self.key_record(row)).transpose()
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
