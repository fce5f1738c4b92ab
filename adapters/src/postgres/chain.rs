//! The hash chain's links, and the log's rows as they stand.

use async_trait::async_trait;
use domain::Sha256;
use ports::{ChainHead, Error, HashChain, Link, Position, Result, StoredEvent};
use sqlx::postgres::PgRow;
use sqlx::{Row, ValueRef};

use super::errors::Call;
use super::log::PostgresLog;
use super::recorded::{EPOCH_MICROS, date};
use crate::stored::{READ_MAX, from_micros, hash, signed, unsigned};

/// WITH TIES: positions that come twice stay together.
const SCAN: &str =
    "SELECT position, event_id::text, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
    metadata, effective_on, recorded_at, actor, correlation_id::text, causation_id::text, traceparent
    FROM events WHERE position > $1 ORDER BY position FETCH FIRST $2 ROWS WITH TIES";

const LINKS: &str = "SELECT position, after, hash, marks, (extract(epoch FROM sealed_at) * 1000000)::bigint AS sealed_at
    FROM chain WHERE position > $1 ORDER BY position LIMIT $2";

const LAST_LINK: &str = "SELECT position, after, hash, marks, (extract(epoch FROM sealed_at) * 1000000)::bigint AS sealed_at
    FROM chain ORDER BY position DESC LIMIT 1";

#[async_trait]
impl HashChain for PostgresLog {
    async fn scan(&self, after: i64, limit: usize) -> Result<Vec<StoredEvent>> {
        let query = sqlx::query(SCAN).bind(after).bind(limit.min(READ_MAX) as i64);
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        let events = rows.iter().map(stored).collect::<Result<Vec<_>, _>>();
        let mut events = events.map_err(|error| self.unreadable(error))?;
        events.sort_by(|a, b| (a.position, &a.event_id).cmp(&(b.position, &b.event_id)));
        Ok(events)
    }

    async fn last_link(&self) -> Result<Option<Link>> {
        let query = sqlx::query(LAST_LINK);
        let row = self.run(Call::Read, async |connection| query.fetch_optional(connection).await).await?;
        row.map(|row| self.link(&row)).transpose()
    }

    async fn links(&self, after: Position, limit: usize) -> Result<Vec<Link>> {
        let query = sqlx::query(LINKS).bind(signed(after)?).bind(limit.min(READ_MAX) as i64);
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        rows.iter().map(|row| self.link(row)).collect()
    }

    async fn add_link(&self, after: Position, head: &ChainHead, marks: &[u8]) -> Result<()> {
        let query =
            sqlx::query("INSERT INTO chain (after, position, hash, marks) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
                .bind(signed(after)?)
                .bind(signed(head.position)?)
                .bind(&head.hash.bytes()[..])
                .bind(marks);
        let done = self.run(Call::Write, async |connection| query.execute(connection).await).await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(Error::Conflict(format!("{} was sealed from {after} on by another process", self.what()))),
        }
    }
}

impl PostgresLog {
    fn link(&self, row: &PgRow) -> Result<Link> {
        Ok(Link {
            after: unsigned(self.column(row, "after")?)?,
            head: ChainHead { position: unsigned(self.column(row, "position")?)?, hash: self.hash(row)? },
            marks: self.column(row, "marks")?,
            sealed_at: from_micros(self.column(row, "sealed_at")?)?,
        })
    }

    fn hash(&self, row: &PgRow) -> Result<Sha256> {
        hash(self.column(row, "hash")?)
    }
}

/// By place, as in `recorded.rs`; but whatever somebody wrote is told, not refused: a null as an empty text, a date or an instant
/// that is none as what Postgres counts.
fn stored(row: &PgRow) -> Result<StoredEvent, sqlx::Error> {
    let text = |place: usize| row.try_get::<Option<String>, _>(place);
    let number = |place: usize| row.try_get::<Option<i64>, _>(place).map(Option::unwrap_or_default);
    let days = i32::from_be_bytes(bytes(row, 9)?);
    Ok(StoredEvent {
        position: number(0)?,
        event_id: text(1)?.unwrap_or_default(),
        aggregate_type: text(2)?.unwrap_or_default(),
        aggregate_id: text(3)?.unwrap_or_default(),
        sequence: number(4)?,
        event_type: text(5)?.unwrap_or_default(),
        event_version: text(6)?.unwrap_or_default(),
        payload: json(row, 7)?,
        metadata: json(row, 8)?,
        effective_on: date(days).map_or_else(|_| format!("day {days}"), |date| date.to_string()),
        recorded_at_us: i64::from_be_bytes(bytes(row, 10)?).saturating_add(EPOCH_MICROS),
        actor: text(11)?.unwrap_or_default(),
        correlation_id: text(12)?.unwrap_or_default(),
        causation_id: text(13)?,
        traceparent: text(14)?,
    })
}

/// The binary form; zeros for a null.
fn bytes<const N: usize>(row: &PgRow, place: usize) -> Result<[u8; N], sqlx::Error> {
    let value = row.try_get_raw(place)?;
    if value.is_null() {
        return Ok([0; N]);
    }
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    bytes.try_into().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The text of a `json` value, byte for byte.
fn json(row: &PgRow, place: usize) -> Result<String, sqlx::Error> {
    let value = row.try_get_raw(place)?;
    if value.is_null() {
        return Ok(String::new());
    }
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    String::from_utf8(bytes.to_vec()).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
