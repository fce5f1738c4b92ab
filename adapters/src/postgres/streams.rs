//! Many streams in one query.

use domain::StreamId;
use ports::{Recorded, Result, StreamEvents};

use super::errors::Call;
use super::log::PostgresLog;
use super::recorded::COLUMNS;
use crate::stored::{by_stream, distinct};

impl PostgresLog {
    pub(super) async fn streams(&self, streams: &[StreamId]) -> Result<Vec<StreamEvents>> {
        let (kinds, ids): (Vec<&str>, Vec<&str>) =
            distinct(streams).into_iter().map(|stream| (stream.kind.as_str(), stream.id.as_str())).unzip();
        let sql = format!(
            "SELECT {COLUMNS} FROM unnest($1::text[], $2::text[]) AS s(kind, id)
              JOIN events ON aggregate_type = kind AND aggregate_id = id ORDER BY position"
        );
        let query = sqlx::query(&sql).bind(kinds).bind(ids);
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        let events = rows.iter().map(|row| self.recorded(row)).collect::<Result<Vec<Recorded>>>()?;
        by_stream(streams, &events)
    }
}
