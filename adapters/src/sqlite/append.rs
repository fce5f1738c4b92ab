//! A batch inside the one write transaction of a log: what is in the way is looked up for all requests together, the requests
//! are judged in memory, and what is accepted is inserted many rows a statement.

use std::collections::HashMap;

use ports::{
    AppendOutcome, AppendRequest, Error, KeyRecord, KeyUse, NewEvent, NewSubjectKey, Position, Result, StreamAppend,
};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{FromRow, Sqlite, query::Query};

use super::file::{DatabaseFile, ROWS_MAX, rows_for};
use crate::stored::{DAY_US, KEY_DAYS, from_micros, keep_name, signed, unsigned};

type Name<'a> = (&'a str, &'a str);

/// Appends a batch in an open transaction; one outcome a request, in order.
pub(super) async fn append(
    file: &DatabaseFile,
    connection: &mut SqliteConnection,
    batch: &[AppendRequest],
    now_us: i64,
) -> Result<Vec<AppendOutcome>> {
    let mut append = Append { file, connection, head: 0, recorded_at_us: now_us };
    let versions = append.versions_and_head(batch).await?;
    let mut keys = append.keys(batch).await?;
    let mut outcomes = Vec::with_capacity(batch.len());
    let (mut new_events, mut new_keys) = (Vec::new(), Vec::new());
    let mut subject_keys: Vec<&NewSubjectKey> = Vec::new();
    for request in batch {
        let clash = request.streams.iter().find_map(|append| {
            let actual = versions.get(&name(append)).copied().unwrap_or(0);
            (actual != append.expected_version).then_some((append, actual))
        });
        let known = request.key.as_ref().and_then(|key| keys.get(&(key.scope.as_str(), key.key.as_str())));
        // A resent command is always in its own way: its events have moved its stream on.
        if (clash.is_some() || known.is_some())
            && let Some(committed) = append.already_committed(request).await?
        {
            outcomes.push(committed);
        } else if let (Some(key), Some(record)) = (&request.key, known) {
            outcomes.push(match record.request_hash == key.request_hash {
                true => AppendOutcome::Replayed(record.clone()),
                false => AppendOutcome::KeyReused,
            });
        } else if let Some((append, actual)) = clash {
            outcomes.push(AppendOutcome::VersionConflict { stream: append.stream.clone(), actual });
        } else {
            let first = append.head + 1;
            append.accept(request, &mut new_events)?;
            subject_keys.extend(&request.subject_keys);
            if let Some(key) = &request.key {
                let (request_hash, outcome) = (key.request_hash.clone(), key.outcome.clone());
                let record = KeyRecord { request_hash, outcome, position: unsigned(append.head)? };
                keys.insert((&key.scope, &key.key), record);
                new_keys.push((key, append.head));
            }
            outcomes.push(AppendOutcome::Committed {
                first: unsigned(first)?,
                last: unsigned(append.head)?,
                recorded_at: from_micros(append.recorded_at_us)?,
            });
        }
    }
    append.insert_events(&new_events).await?;
    append.insert_keys(&new_keys).await?;
    append.insert_subject_keys(&subject_keys).await?;
    Ok(outcomes)
}

/// Keeps a key without events in an open transaction, unless it is kept already.
pub(super) async fn keep_key(
    file: &DatabaseFile,
    connection: &mut SqliteConnection,
    key: &KeyUse,
    now_us: i64,
) -> Result<Option<KeyRecord>> {
    let last = sqlx::query_as("SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1");
    let (head, at): (i64, i64) = file.run(last.fetch_optional(&mut *connection)).await?.unwrap_or((0, now_us));
    let recorded_at_us = at.max(now_us);
    if let Some(record) = find_key(file, &mut *connection, &key.scope, &key.key, recorded_at_us).await? {
        return Ok(Some(record));
    }
    Append { file, connection, head, recorded_at_us }.insert_keys(&[(key, head)]).await?;
    Ok(None)
}

struct Append<'a> {
    file: &'a DatabaseFile,
    connection: &'a mut SqliteConnection,
    /// The last position given out.
    head: i64,
    recorded_at_us: i64,
}

/// An event in its place.
struct Placed<'a> {
    request: &'a AppendRequest,
    append: &'a StreamAppend,
    event: &'a NewEvent,
    sequence: i64,
    position: i64,
}

fn name(append: &StreamAppend) -> Name<'_> {
    (append.stream.kind.as_str(), &append.stream.id)
}

impl Append<'_> {
    /// The last sequence of each stream that exists, and where the log ends.
    async fn versions_and_head<'b>(&mut self, batch: &'b [AppendRequest]) -> Result<HashMap<Name<'b>, u64>> {
        let names: Vec<Name> = batch.iter().flat_map(|request| &request.streams).map(name).collect();
        let mut versions = HashMap::with_capacity(names.len());
        for group in names.chunks(ROWS_MAX) {
            let sql = format!(
                "WITH q(kind, id) AS (VALUES {})
                 SELECT (SELECT coalesce(max(sequence), 0) FROM events WHERE aggregate_type = q.kind AND aggregate_id = q.id),
                        last.position, last.recorded_at
                   FROM q LEFT JOIN (SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1) last
                  WHERE q.kind IS NOT NULL",
                rows_for(group.len(), 2)
            );
            let found: Vec<(i64, Option<i64>, Option<i64>)> = self.look_up(&sql, group).await?;
            for (name, (version, head, at)) in group.iter().zip(found) {
                versions.insert(*name, unsigned(version)?);
                self.head = head.unwrap_or(0);
                self.recorded_at_us = self.recorded_at_us.max(at.unwrap_or(i64::MIN));
            }
        }
        Ok(versions)
    }

    /// The records of the batch's keys that are still kept.
    async fn keys<'b>(&mut self, batch: &'b [AppendRequest]) -> Result<HashMap<Name<'b>, KeyRecord>> {
        let names: Vec<Name> =
            batch.iter().filter_map(|request| request.key.as_ref()).map(|key| (&*key.scope, &*key.key)).collect();
        let mut records = HashMap::new();
        for group in names.chunks(ROWS_MAX) {
            let sql = format!(
                "WITH q(scope, key) AS (VALUES {})
                 SELECT k.request_hash, k.outcome, k.position, k.keep, k.created_at
                   FROM q LEFT JOIN idempotency_keys k ON k.scope = q.scope AND k.key = q.key
                  WHERE q.scope IS NOT NULL",
                rows_for(group.len(), 2)
            );
            let found: Vec<StoredKey> = self.look_up(&sql, group).await?;
            for (name, stored) in group.iter().zip(found) {
                if let Some(record) = stored.record(self.file, self.recorded_at_us)? {
                    records.insert(*name, record);
                }
            }
        }
        Ok(records)
    }

    /// One row a name, in their order: rows of VALUES come as they stand, and each is joined with one row at most.
    async fn look_up<T>(&mut self, sql: &str, names: &[Name<'_>]) -> Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        let query = names.iter().fold(sqlx::query_as(sql), |query, (first, second)| query.bind(first).bind(second));
        let rows: Vec<T> = self.file.run(query.fetch_all(&mut *self.connection)).await?;
        match rows.len() == names.len() {
            true => Ok(rows),
            false => Err(Error::corrupt(format!("{} rows for {} names", rows.len(), names.len()))),
        }
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

    fn accept<'b>(&mut self, request: &'b AppendRequest, to: &mut Vec<Placed<'b>>) -> Result<()> {
        for append in &request.streams {
            for (event, sequence) in append.events.iter().zip(signed(append.expected_version)? + 1..) {
                self.head += 1;
                to.push(Placed { request, append, event, sequence, position: self.head });
            }
        }
        Ok(())
    }

    async fn insert_events(&mut self, events: &[Placed<'_>]) -> Result<()> {
        for group in events.chunks(ROWS_MAX) {
            let sql = format!(
                "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, position,
                     event_id, effective_on, recorded_at, actor, correlation_id, causation_id, traceparent)
                 SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL",
                rows_for(group.len(), 14)
            );
            let at = self.recorded_at_us;
            let insert = group.iter().fold(sqlx::query(&sql), |query, placed| bind_event(query, placed, at));
            self.file.run(insert.execute(&mut *self.connection)).await?;
        }
        Ok(())
    }

    /// The row of an expired key is taken over.
    async fn insert_keys(&mut self, keys: &[(&KeyUse, i64)]) -> Result<()> {
        for group in keys.chunks(ROWS_MAX) {
            let sql = format!(
                "INSERT OR REPLACE INTO idempotency_keys (scope, key, request_hash, outcome, position, keep, created_at)
                 SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL",
                rows_for(group.len(), 7)
            );
            let at = self.recorded_at_us;
            let insert = group.iter().fold(sqlx::query(&sql), |query, (key, position)| {
                let query = query.bind(&key.scope).bind(&key.key).bind(&key.request_hash).bind(key.outcome.to_string());
                query.bind(*position).bind(keep_name(key.keep)).bind(at)
            });
            self.file.run(insert.execute(&mut *self.connection)).await?;
        }
        Ok(())
    }

    /// One that a subject has, or had, already is a violation of the primary key: the whole batch is refused.
    async fn insert_subject_keys(&mut self, keys: &[&NewSubjectKey]) -> Result<()> {
        for key in keys {
            let insert = sqlx::query("INSERT INTO subject_keys (subject, wrapped, created_at) VALUES (?, ?, ?)")
                .bind(key.subject.as_str())
                .bind(key.wrapped.as_slice())
                .bind(self.recorded_at_us);
            self.file.run(insert.execute(&mut *self.connection)).await?;
        }
        Ok(())
    }
}

type Insert<'q> = Query<'q, Sqlite, sqlx::sqlite::SqliteArguments<'q>>;

fn bind_event<'q>(query: Insert<'q>, placed: &Placed<'q>, recorded_at_us: i64) -> Insert<'q> {
    let Placed { request, append, event, sequence, position } = *placed;
    query
        .bind(append.stream.kind.as_str())
        .bind(&append.stream.id)
        .bind(sequence)
        .bind(&event.event_type)
        .bind(&event.event_version)
        .bind(event.payload.get())
        .bind(position)
        .bind(event.event_id.to_string())
        .bind(event.effective_on.to_string())
        .bind(recorded_at_us)
        .bind(&request.metadata.actor)
        .bind(request.metadata.correlation_id.to_string())
        .bind(request.metadata.causation_id.map(|id| id.to_string()))
        .bind(&request.metadata.traceparent)
}

/// A row of the keys' table, or nulls.
#[derive(FromRow)]
struct StoredKey {
    request_hash: Option<String>,
    outcome: Option<String>,
    position: Option<i64>,
    keep: Option<String>,
    created_at: Option<i64>,
}

impl StoredKey {
    fn record(self, file: &DatabaseFile, now_us: i64) -> Result<Option<KeyRecord>> {
        let (Some(request_hash), Some(outcome), Some(position)) = (self.request_hash, self.outcome, self.position) else {
            return Ok(None);
        };
        if self.keep.as_deref() != Some("forever") && self.created_at.unwrap_or(0) <= now_us - KEY_DAYS * DAY_US {
            return Ok(None);
        }
        let outcome = serde_json::from_str(&outcome).map_err(|error| file.corrupt(&error))?;
        Ok(Some(KeyRecord { request_hash, outcome, position: unsigned(position)? }))
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
