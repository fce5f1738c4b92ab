//! Searching and counting where the events are.

use domain::StreamId;
use ports::{EventQuery, MonthCount, Position, Recorded, Result, Tally};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite};

use super::log::{COLUMNS, SqliteLog};
use crate::stored::{READ_MAX, unsigned};

const MONTHS: &str = "SELECT strftime('%Y-%m', recorded_at / 1000000, 'unixepoch') AS month, event_type, count(*) AS events
    FROM events WHERE position > ? AND position <= ? GROUP BY 1, 2 ORDER BY 1, 2";

const STREAMS: &str = "SELECT aggregate_type, aggregate_id, max(sequence) AS sequence
    FROM events WHERE position > ? AND position <= ? GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT ?";

impl SqliteLog {
    pub(super) async fn found(
        &self,
        query: &EventQuery,
        after: Position,
        upto: Position,
        limit: usize,
    ) -> Result<Vec<Recorded>> {
        let mut sql = QueryBuilder::new(format!("SELECT {COLUMNS} FROM events"));
        narrow(&mut sql, query, after, upto);
        // Within a stream both orders are one.
        sql.push(if query.stream.is_some() { " ORDER BY sequence LIMIT " } else { " ORDER BY position LIMIT " });
        sql.push_bind(limit.min(READ_MAX) as i64);
        let rows = self.file.run(sql.build().fetch_all(&self.file.readers)).await?;
        rows.iter().map(|row| self.recorded(row)).collect()
    }

    pub(super) async fn counted(&self, query: &EventQuery, after: Position, upto: Position) -> Result<u64> {
        let mut sql = QueryBuilder::new("SELECT count(*) FROM events");
        narrow(&mut sql, query, after, upto);
        unsigned(self.file.run(sql.build_query_scalar().fetch_one(&self.file.readers)).await?)
    }

    pub(super) async fn tallied(&self, after: Position, upto: Position, most: usize) -> Result<Tally> {
        let file = &self.file;
        let (after, upto) = (place(after), place(upto));
        let months = file.run(sqlx::query(MONTHS).bind(after).bind(upto).fetch_all(&file.readers)).await?;
        let month = |row: &SqliteRow| {
            let events = unsigned(file.column(row, "events")?)?;
            Ok(MonthCount { month: file.column(row, "month")?, event_type: file.column(row, "event_type")?, events })
        };
        let streams = sqlx::query(STREAMS).bind(after).bind(upto).bind(most as i64);
        let streams = file.run(streams.fetch_all(&file.readers)).await?;
        let stream = |row: &SqliteRow| {
            let id: String = file.column(row, "aggregate_id")?;
            Ok((StreamId::new(file.parsed(row, "aggregate_type")?, id), unsigned(file.column(row, "sequence")?)?))
        };
        Ok(Tally {
            months: months.iter().map(month).collect::<Result<_>>()?,
            streams: streams.iter().map(stream).collect::<Result<_>>()?,
        })
    }
}

/// "To the end" is a position that no log reaches.
fn place(position: Position) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

fn narrow(sql: &mut QueryBuilder<'_, Sqlite>, query: &EventQuery, after: Position, upto: Position) {
    sql.push(" WHERE position > ").push_bind(place(after)).push(" AND position <= ").push_bind(place(upto));
    if let Some(stream) = &query.stream {
        sql.push(" AND aggregate_type = ").push_bind(stream.kind.as_str());
        sql.push(" AND aggregate_id = ").push_bind(stream.id.clone());
    }
    if let Some(id) = query.event_id {
        sql.push(" AND event_id = ").push_bind(id.to_string());
    }
    if let Some(event_type) = &query.event_type {
        sql.push(" AND event_type = ").push_bind(event_type.clone());
    }
    if let Some(actor) = &query.actor {
        sql.push(" AND actor = ").push_bind(actor.clone());
    }
    if let Some(id) = query.correlation_id {
        sql.push(" AND correlation_id = ").push_bind(id.to_string());
    }
}
