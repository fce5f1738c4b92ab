//! The hash chain's links, and the log's rows as they stand.

use async_trait::async_trait;
use ports::{ChainHead, Error, HashChain, Link, Position, Result, StoredEvent};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::log::SqliteLog;
use crate::stored::{READ_MAX, from_micros, hash, micros, signed, unsigned};

/// Up to the position of the last row within the limit: positions that come twice (in a table made anew) stay together.
const SCAN: &str = "SELECT position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
    metadata, effective_on, recorded_at, actor, correlation_id, causation_id, traceparent
    FROM events WHERE position > ?1 AND position <=
        coalesce((SELECT position FROM events WHERE position > ?1 ORDER BY position LIMIT 1 OFFSET ?2), 9223372036854775807)
    ORDER BY position, event_id";

const LINKS: &str = "SELECT position, after, hash, marks, sealed_at FROM chain WHERE position > ? ORDER BY position LIMIT ?";

const LAST_LINK: &str = "SELECT position, after, hash, marks, sealed_at FROM chain ORDER BY position DESC LIMIT 1";

#[async_trait]
impl HashChain for SqliteLog {
    async fn scan(&self, after: i64, limit: usize) -> Result<Vec<StoredEvent>> {
        let query = sqlx::query(SCAN).bind(after).bind(limit.clamp(1, READ_MAX) as i64 - 1);
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        rows.iter().map(stored).collect::<Result<Vec<_>, _>>().map_err(|error| self.file.corrupt(&error))
    }

    async fn last_link(&self) -> Result<Option<Link>> {
        let row = self.file.run(sqlx::query(LAST_LINK).fetch_optional(&self.file.readers)).await?;
        row.map(|row| self.link(&row)).transpose()
    }

    async fn links(&self, after: Position, limit: usize) -> Result<Vec<Link>> {
        let query = sqlx::query(LINKS).bind(signed(after)?).bind(limit.min(READ_MAX) as i64);
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        rows.iter().map(|row| self.link(row)).collect()
    }

    async fn add_link(&self, after: Position, head: &ChainHead, marks: &[u8]) -> Result<()> {
        let query = sqlx::query(
            "INSERT INTO chain (after, position, hash, marks, sealed_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(signed(after)?)
        .bind(signed(head.position)?)
        .bind(&head.hash.bytes()[..])
        .bind(marks)
        .bind(micros(self.clock.now()));
        let done = self.file.run(query.execute(&self.file.writer)).await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(Error::Conflict(format!("{} was sealed from {after} on already", self.file.what))),
        }
    }
}

impl SqliteLog {
    fn link(&self, row: &SqliteRow) -> Result<Link> {
        let file = &self.file;
        Ok(Link {
            after: unsigned(file.column(row, "after")?)?,
            head: ChainHead { position: unsigned(file.column(row, "position")?)?, hash: hash(file.column(row, "hash")?)? },
            marks: file.column(row, "marks")?,
            sealed_at: from_micros(file.column(row, "sealed_at")?)?,
        })
    }
}

/// Whatever somebody wrote is told, not refused: a null as an empty text or zero.
fn stored(row: &SqliteRow) -> Result<StoredEvent, sqlx::Error> {
    let text = |place: usize| row.try_get::<Option<String>, _>(place);
    let number = |place: usize| row.try_get::<Option<i64>, _>(place).map(Option::unwrap_or_default);
    Ok(StoredEvent {
        position: number(0)?,
        event_id: text(1)?.unwrap_or_default(),
        aggregate_type: text(2)?.unwrap_or_default(),
        aggregate_id: text(3)?.unwrap_or_default(),
        sequence: number(4)?,
        event_type: text(5)?.unwrap_or_default(),
        event_version: text(6)?.unwrap_or_default(),
        payload: text(7)?.unwrap_or_default(),
        metadata: text(8)?.unwrap_or_default(),
        effective_on: text(9)?.unwrap_or_default(),
        recorded_at_us: number(10)?,
        actor: text(11)?.unwrap_or_default(),
        correlation_id: text(12)?.unwrap_or_default(),
        causation_id: text(13)?,
        traceparent: text(14)?,
    })
}
