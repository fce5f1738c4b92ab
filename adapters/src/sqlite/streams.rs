//! Many streams at once; in one process a query each costs little.

use domain::StreamId;
use ports::{Result, StreamEvents};

use super::log::SqliteLog;
use crate::stored::{by_stream, distinct};

const STREAM: &str = "SELECT position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
    effective_on, recorded_at, actor, correlation_id, causation_id, traceparent
    FROM events WHERE aggregate_type = ? AND aggregate_id = ? ORDER BY sequence";

impl SqliteLog {
    pub(super) async fn streams(&self, streams: &[StreamId]) -> Result<Vec<StreamEvents>> {
        let mut events = Vec::new();
        for stream in distinct(streams) {
            let query = sqlx::query(STREAM).bind(stream.kind.as_str()).bind(&stream.id);
            for row in self.file.run(query.fetch_all(&self.file.readers)).await? {
                events.push(self.recorded(&row)?);
            }
        }
        by_stream(streams, &events)
    }
}
