//! Export and import of a log: the tables beside the events, and a stretch written as it was. Only the owner of the databases may
//! write so: no service can put an event at a place and a time of its choice.

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::StreamId;
use ports::{Checkpoint, Error, FollowerAt, Held, Import, Incarnation, KeptKey, Recorded, Result, Transfer, WrappedKey};
use serde_json::value::RawValue;
use sqlx::postgres::{PgConnection, PgCopyIn, PgDatabaseError, PgRow};
use sqlx::{Connection, Executor};
use uuid::Uuid;

use super::errors::{Call, within};
use super::log::PostgresLog;
use super::pool::acquire;
use super::recorded::{EPOCH_MICROS, days};
use crate::stored::{check_import, check_place, check_start, from_micros, keep_name, keep_named, micros, signed, unsigned};

const KEPT: &str = "SELECT scope, key, keep, request_hash, outcome::text AS outcome, position,
        (extract(epoch FROM created_at) * 1000000)::bigint AS created_at
    FROM idempotency_keys WHERE (scope, key) > ($1, $2) AND (keep = 'forever' OR created_at > now() - interval '30 days')
    ORDER BY scope, key LIMIT $3";

const WRAPPED: &str = "SELECT subject, wrapped, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at,
        (extract(epoch FROM erased_at) * 1000000)::bigint AS erased_at
    FROM subject_keys WHERE subject > $1 ORDER BY subject LIMIT $2";

/// The lock of `casitas_append`, in a statement of its own, and no longer than the session can be heard of: in the middle of a COPY that
/// is for the connection to tell.
const LOCK: &str = "SET LOCAL idle_in_transaction_session_timeout = '10s'; SET LOCAL lock_timeout = '4s';
    SET LOCAL tcp_keepalives_idle = 5; SET LOCAL tcp_keepalives_interval = 2; SET LOCAL tcp_keepalives_count = 3;
    SELECT pg_advisory_xact_lock(7161131779257103137)";

/// The same lock for who only looks, held until the session ends; the server ends one that is not heard of.
const HOLD: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2s'; SET LOCAL lock_timeout = '1s';
    SELECT pg_advisory_xact_lock(7161131779257103137)";

const PLACE: &str = "SELECT incarnation, coalesce((SELECT max(position) FROM events), 0) AS head FROM log_incarnation";

/// The first stream that does not have the sequence given, and where it stands. By the whole key: the last of a stream costs all of it
/// that is on a page.
const SHORTER: &str =
    "SELECT o, (SELECT coalesce(max(sequence), 0) FROM events WHERE aggregate_type = t AND aggregate_id = i) AS stands
      FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY x(t, i, s, o)
     WHERE (SELECT e.sequence FROM events e WHERE e.aggregate_type = t AND e.aggregate_id = i AND e.sequence = s) IS NULL
     LIMIT 1";

const EVENTS: &str = "COPY events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, position,
        event_id, effective_on, recorded_at, actor, correlation_id, causation_id, traceparent) FROM STDIN (FORMAT binary)";
const EVENT_COLUMNS: i16 = 14;
/// What COPY's binary form begins with: its signature, no flags, no more of a header.
const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_END: [u8; 2] = (-1_i16).to_be_bytes();
/// Rows are sent in pieces of about so much.
const PIECE_BYTES: usize = 256 * 1024;

const KEYS: &str = "INSERT INTO idempotency_keys (scope, key, request_hash, outcome, position, keep, created_at)
    SELECT s, k, h, o::json, p, e, timestamptz 'epoch' + c * interval '1 microsecond'
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[])
           x(s, k, h, o, p, e, c)
    ON CONFLICT DO NOTHING";

const FOLLOWER: &str = "INSERT INTO follower_checkpoints AS old (name, term, incarnation, position, event_id)
    VALUES ($1, 1, $2, $3, $4)
    ON CONFLICT (name) DO UPDATE SET term = old.term + 1, incarnation = excluded.incarnation, position = excluded.position,
        event_id = excluded.event_id, updated_at = now()";

const SUBJECTS: &str = "INSERT INTO subject_keys (subject, wrapped, created_at, erased_at)
    SELECT s, w, timestamptz 'epoch' + c * interval '1 microsecond', timestamptz 'epoch' + e * interval '1 microsecond'
      FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::bigint[]) x(s, w, c, e)
    ON CONFLICT DO NOTHING";

#[async_trait]
impl Transfer for PostgresLog {
    async fn kept_keys(&self, after: Option<(&str, &str)>, limit: usize) -> Result<Vec<KeptKey>> {
        let (scope, key) = after.unwrap_or_default();
        let query = sqlx::query(KEPT).bind(scope).bind(key).bind(limit as i64);
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        let kept = |row: &PgRow| {
            Ok(KeptKey {
                scope: self.column(row, "scope")?,
                key: self.column(row, "key")?,
                keep: keep_named(self.column(row, "keep")?)?,
                request_hash: self.column(row, "request_hash")?,
                outcome: RawValue::from_string(self.column(row, "outcome")?)
                    .map_err(|error| Error::corrupt(format!("{}: {error}", self.what())))?,
                position: unsigned(self.column(row, "position")?)?,
                created_at: from_micros(self.column(row, "created_at")?)?,
            })
        };
        rows.iter().map(kept).collect()
    }

    async fn followers(&self) -> Result<Vec<FollowerAt>> {
        let query = sqlx::query(
            "SELECT name, incarnation, position, event_id FROM follower_checkpoints WHERE position IS NOT NULL ORDER BY name",
        );
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        let at = |row: &PgRow| {
            let checkpoint = Checkpoint {
                incarnation: self.column(row, "incarnation")?,
                position: unsigned(self.column(row, "position")?)?,
                event_id: self.column(row, "event_id")?,
            };
            Ok(FollowerAt { name: self.column(row, "name")?, checkpoint })
        };
        rows.iter().map(at).collect()
    }

    async fn wrapped_keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<WrappedKey>> {
        let query = sqlx::query(WRAPPED).bind(after.unwrap_or_default()).bind(limit as i64);
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        let wrapped = |row: &PgRow| {
            Ok(WrappedKey {
                subject: self.column(row, "subject")?,
                wrapped: self.column(row, "wrapped")?,
                created_at: from_micros(self.column(row, "created_at")?)?,
                erased_at: self.column::<Option<i64>>(row, "erased_at")?.map(from_micros).transpose()?,
            })
        };
        rows.iter().map(wrapped).collect()
    }

    async fn hold(&self) -> Result<Held> {
        let mut connection = acquire(&self.connected().pool, self.what()).await?;
        // Its end lets go, also when it waits for the lock and nobody waits for it any more.
        connection.close_on_drop();
        let session: &mut PgConnection = &mut connection;
        within(self.what(), Call::Read, session.execute(sqlx::raw_sql(HOLD))).await?;
        Ok(Box::new(connection))
    }

    async fn import(&self, import: &Import) -> Result<()> {
        let starts = check_import(self.context, import)?;
        let mut connection = acquire(&self.connected().pool, self.what()).await?;
        // Until the commit nothing can have happened: whatever fails before is a failed read, as far as the caller is concerned.
        let mut transaction = within(self.what(), Call::Read, connection.begin()).await?;
        let written = self.write(&mut transaction, import, starts).await;
        match written {
            Ok(()) => within(self.what(), Call::Write, transaction.commit()).await,
            Err(error) => {
                // A connection that does not answer is not asked to roll back, and not used again.
                if error.is_transient() {
                    drop(transaction);
                    connection.close_on_drop();
                } else {
                    within(self.what(), Call::Read, transaction.rollback()).await?;
                }
                Err(error)
            }
        }
    }

    async fn renew_incarnation(&self) -> Result<Incarnation> {
        let query = sqlx::query_scalar(
            "WITH old AS (SELECT incarnation FROM log_incarnation),
                  new AS (UPDATE log_incarnation SET incarnation = $1, since = now() RETURNING incarnation),
                  moved AS (UPDATE follower_checkpoints f SET incarnation = $1 FROM old WHERE f.incarnation = old.incarnation)
             SELECT incarnation FROM new",
        );
        let query = query.bind(Uuid::new_v4());
        self.run(Call::Write, async |connection| query.fetch_one(connection).await).await
    }
}

impl PostgresLog {
    async fn write(&self, connection: &mut PgConnection, import: &Import, starts: BTreeMap<&StreamId, u64>) -> Result<()> {
        let what = self.what();
        within(what, Call::Read, connection.execute(sqlx::raw_sql(LOCK))).await?;
        let place = within(what, Call::Read, sqlx::query(PLACE).fetch_one(&mut *connection)).await?;
        let head = unsigned(self.column(&place, "head")?)?;
        check_place(self.context, import, self.column(&place, "incarnation")?, head)?;
        self.check_starts(connection, import, starts).await?;
        if head == 0 {
            let take_over = sqlx::query("UPDATE log_incarnation SET incarnation = $1").bind(import.incarnation);
            within(what, Call::Read, take_over.execute(&mut *connection)).await?;
        }
        self.write_events(connection, import).await?;
        self.write_beside(connection, import).await
    }

    /// Whether each stream stands where the import goes on with it. One that is longer violates the primary key when its events come.
    async fn check_starts(
        &self,
        connection: &mut PgConnection,
        import: &Import,
        starts: BTreeMap<&StreamId, u64>,
    ) -> Result<()> {
        let gone_on: Vec<(&StreamId, u64)> = starts.into_iter().filter(|(_, start)| *start > 0).collect();
        let sequences: Vec<i64> = gone_on.iter().map(|(_, start)| signed(*start)).collect::<Result<_>>()?;
        let shorter = sqlx::query(SHORTER)
            .bind(gone_on.iter().map(|(stream, _)| stream.kind.as_str()).collect::<Vec<_>>())
            .bind(gone_on.iter().map(|(stream, _)| stream.id.as_str()).collect::<Vec<_>>())
            .bind(sequences);
        let Some(row) = within(self.what(), Call::Read, shorter.fetch_optional(connection)).await? else { return Ok(()) };
        let place = unsigned(self.column(&row, "o")?)?;
        let stands = unsigned(self.column(&row, "stands")?)?;
        let found = usize::try_from(place).ok().and_then(|place| gone_on.get(place.checked_sub(1)?));
        let (stream, start) = found.ok_or_else(|| Error::corrupt(format!("{} answered {place}", self.what())))?;
        check_start(self.context, import, stream, *start, stands)
    }

    /// By `COPY` in its binary form: the server parses no value but the payload, and writes many rows at once.
    async fn write_events(&self, connection: &mut PgConnection, import: &Import) -> Result<()> {
        if import.events.is_empty() {
            return Ok(());
        }
        let what = self.what();
        let mut stream = within(what, Call::Read, connection.copy_in_raw(EVENTS)).await?;
        match self.send(&mut stream, &import.events).await {
            Ok(()) => within(what, Call::Read, stream.finish()).await.map(drop).map_err(|error| twice(what, error)),
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                within(what, Call::Read, stream.abort("not all could be sent")).await?;
                Err(error)
            }
        }
    }

    async fn send(&self, stream: &mut PgCopyIn<&mut PgConnection>, events: &[Recorded]) -> Result<()> {
        let mut piece = Vec::with_capacity(PIECE_BYTES * 2);
        piece.extend_from_slice(COPY_HEAD);
        for event in events {
            row(&mut piece, event)?;
            if piece.len() >= PIECE_BYTES {
                within(self.what(), Call::Read, stream.send(piece.as_slice())).await?;
                piece.clear();
            }
        }
        piece.extend_from_slice(&COPY_END);
        within(self.what(), Call::Read, stream.send(piece.as_slice())).await.map(drop)
    }

    async fn write_beside(&self, connection: &mut PgConnection, import: &Import) -> Result<()> {
        let what = self.what();
        let keys = &import.keys;
        if !keys.is_empty() {
            let positions: Vec<i64> = keys.iter().map(|key| signed(key.position)).collect::<Result<_>>()?;
            let insert = sqlx::query(KEYS)
                .bind(keys.iter().map(|key| key.scope.as_str()).collect::<Vec<_>>())
                .bind(keys.iter().map(|key| key.key.as_str()).collect::<Vec<_>>())
                .bind(keys.iter().map(|key| key.request_hash.as_str()).collect::<Vec<_>>())
                .bind(keys.iter().map(|key| key.outcome.get()).collect::<Vec<_>>())
                .bind(positions)
                .bind(keys.iter().map(|key| keep_name(key.keep)).collect::<Vec<_>>())
                .bind(keys.iter().map(|key| micros(key.created_at)).collect::<Vec<_>>());
            within(what, Call::Read, insert.execute(&mut *connection)).await?;
        }
        for FollowerAt { name, checkpoint } in &import.followers {
            let set = sqlx::query(FOLLOWER).bind(name).bind(checkpoint.incarnation);
            let set = set.bind(signed(checkpoint.position)?).bind(checkpoint.event_id);
            within(what, Call::Read, set.execute(&mut *connection)).await?;
        }
        let subjects = &import.subjects;
        if !subjects.is_empty() {
            let insert = sqlx::query(SUBJECTS)
                .bind(subjects.iter().map(|key| key.subject.as_str()).collect::<Vec<_>>())
                .bind(subjects.iter().map(|key| key.wrapped.as_deref()).collect::<Vec<_>>())
                .bind(subjects.iter().map(|key| micros(key.created_at)).collect::<Vec<_>>())
                .bind(subjects.iter().map(|key| key.erased_at.map(micros)).collect::<Vec<_>>());
            within(what, Call::Read, insert.execute(connection)).await?;
        }
        Ok(())
    }
}

/// An event that stands in its stream's place already is not a value that the server refuses, but history that does not fit.
fn twice(what: &str, error: Error) -> Error {
    let Error::Rejected { source: Some(source), .. } = &error else { return error };
    let Some(database) = source.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error) else { return error };
    if database.constraint() != Some("events_pkey") {
        return error;
    }
    let detail = database.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail).unwrap_or_default();
    Error::corrupt(format!("{what}: an event of a stream comes twice: {detail}"))
}

/// An event's columns in the order of [`EVENTS`].
fn row(piece: &mut Vec<u8>, event: &Recorded) -> Result<()> {
    piece.extend_from_slice(&EVENT_COLUMNS.to_be_bytes());
    field(piece, event.stream.kind.as_str().as_bytes())?;
    field(piece, event.stream.id.as_bytes())?;
    field(piece, &signed(event.sequence)?.to_be_bytes())?;
    field(piece, event.event_type.as_bytes())?;
    field(piece, event.event_version.as_bytes())?;
    field(piece, event.payload.get().as_bytes())?;
    field(piece, &signed(event.position)?.to_be_bytes())?;
    field(piece, event.event_id.as_bytes())?;
    field(piece, &days(event.effective_on).to_be_bytes())?;
    field(piece, &(micros(event.recorded_at) - EPOCH_MICROS).to_be_bytes())?;
    field(piece, event.metadata.actor.as_bytes())?;
    field(piece, event.metadata.correlation_id.as_bytes())?;
    let causation_id = event.metadata.causation_id.as_ref().map(|id| id.as_bytes().as_slice());
    for optional in [causation_id, event.metadata.traceparent.as_deref().map(str::as_bytes)] {
        match optional {
            Some(bytes) => field(piece, bytes)?,
            None => piece.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
    Ok(())
}

fn field(piece: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    let length = i32::try_from(bytes.len()).map_err(|_| Error::rejected("the event log", "an event is too large"))?;
    piece.extend_from_slice(&length.to_be_bytes());
    piece.extend_from_slice(bytes);
    Ok(())
}
