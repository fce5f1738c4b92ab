//! Many streams in one query.

use domain::StreamId;
use ports::{Recorded, Result, StreamEvents};

use super::errors::Call;
use super::log::PostgresLog;
use crate::stored::{by_stream, distinct};

const STREAMS: &str = "SELECT e.position, e.event_id, e.aggregate_type, e.aggregate_id, e.sequence, e.event_type,
    e.event_version, e.payload::text AS payload, e.effective_on::text AS effective_on,
    (extract(epoch FROM e.recorded_at) * 1000000)::bigint AS recorded_at, e.actor, e.correlation_id, e.causation_id,
    e.traceparent
    FROM unnest($1::text[], $2::text[]) AS s(kind, id)
    JOIN events e ON e.aggregate_type = s.kind AND e.aggregate_id = s.id ORDER BY e.position";

impl PostgresLog {
    pub(super) async fn streams(&self, streams: &[StreamId]) -> Result<Vec<StreamEvents>> {
        let (kinds, ids): (Vec<&str>, Vec<&str>) =
            distinct(streams).into_iter().map(|stream| (stream.kind.as_str(), stream.id.as_str())).unzip();
        let query = sqlx::query(STREAMS).bind(kinds).bind(ids);
        let rows = self.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        let events = rows.iter().map(|row| self.recorded(row)).collect::<Result<Vec<Recorded>>>()?;
        by_stream(streams, &events)
    }
}
