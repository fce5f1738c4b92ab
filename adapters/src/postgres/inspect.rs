//! Searching and counting where the events are.

use domain::StreamId;
use ports::{Error, EventQuery, MonthCount, Position, Recorded, Result, Tally};
use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder};

use super::errors::Call;
use super::log::PostgresLog;
use super::recorded::COLUMNS;
use crate::stored::{READ_MAX, unsigned};

const MONTHS: &str = "SELECT to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM') AS month, event_type, count(*) AS events
    FROM events WHERE position > $1 AND position <= $2 GROUP BY 1, 2 ORDER BY 1, 2";

const STREAMS: &str = "SELECT aggregate_type, aggregate_id, max(sequence) AS sequence
    FROM events WHERE position > $1 AND position <= $2 GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT $3";

impl PostgresLog {
    pub(super) async fn found(
        &self,
        query: &EventQuery,
        after: Position,
        upto: Position,
        limit: usize,
    ) -> Result<Vec<Recorded>> {
        let mut sql = QueryBuilder::new(format!("SELECT {COLUMNS} FROM events"));
        narrow(&mut sql, query, after, upto);
        // Within a stream both orders are one, and its index has this one.
        sql.push(if query.stream.is_some() { " ORDER BY sequence LIMIT " } else { " ORDER BY position LIMIT " });
        sql.push_bind(limit.min(READ_MAX) as i64);
        let query = sql.build();
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        rows.iter().map(|row| self.recorded(row)).collect()
    }

    pub(super) async fn counted(&self, query: &EventQuery, after: Position, upto: Position) -> Result<u64> {
        let mut sql = QueryBuilder::new("SELECT count(*) FROM events");
        narrow(&mut sql, query, after, upto);
        let query = sql.build_query_scalar();
        unsigned(self.run(Call::Read, async |connection| query.fetch_one(connection).await).await?)
    }

    pub(super) async fn tallied(&self, after: Position, upto: Position, most: usize) -> Result<Tally> {
        let (after, upto) = (place(after), place(upto));
        let months = sqlx::query(MONTHS).bind(after).bind(upto);
        let months = self.run(Call::Read, async |connection| months.fetch_all(connection).await).await?;
        let month = |row: &PgRow| {
            let events = unsigned(self.column(row, "events")?)?;
            Ok(MonthCount { month: self.column(row, "month")?, event_type: self.column(row, "event_type")?, events })
        };
        let streams = sqlx::query(STREAMS).bind(after).bind(upto).bind(most as i64);
        let streams = self.run(Call::Read, async |connection| streams.fetch_all(connection).await).await?;
        let stream = |row: &PgRow| {
            let kind = self.column::<&str>(row, "aggregate_type")?.parse().map_err(Error::corrupt)?;
            let id: String = self.column(row, "aggregate_id")?;
            Ok((StreamId::new(kind, id), unsigned(self.column(row, "sequence")?)?))
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

fn narrow(sql: &mut QueryBuilder<'_, Postgres>, query: &EventQuery, after: Position, upto: Position) {
    sql.push(" WHERE position > ").push_bind(place(after)).push(" AND position <= ").push_bind(place(upto));
    if let Some(stream) = &query.stream {
        sql.push(" AND aggregate_type = ").push_bind(stream.kind.as_str());
        sql.push(" AND aggregate_id = ").push_bind(stream.id.clone());
    }
    if let Some(id) = query.event_id {
        sql.push(" AND event_id = ").push_bind(id);
    }
    if let Some(event_type) = &query.event_type {
        sql.push(" AND event_type = ").push_bind(event_type.clone());
    }
    if let Some(actor) = &query.actor {
        sql.push(" AND actor = ").push_bind(actor.clone());
    }
    if let Some(id) = query.correlation_id {
        sql.push(" AND correlation_id = ").push_bind(id);
    }
}
