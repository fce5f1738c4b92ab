//! Parked streams in `views.sqlite`.

use async_trait::async_trait;
use domain::StreamId;
use ports::{Ask, ParkedStream, ParkedStreams, Parking, Position, Result};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::file::DatabaseFile;
use super::views::SqliteViews;
use crate::stored::{from_micros, micros, signed, unsigned};
use crate::views::not_parked;

const PARK: &str = "INSERT INTO view_parked
    (model, generation, stream_kind, stream_id, position, sequence, event_id, event_type, reason, since)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (model, generation, stream_kind, stream_id) DO UPDATE SET position = excluded.position,
        sequence = excluded.sequence, event_id = excluded.event_id, event_type = excluded.event_type,
        reason = excluded.reason, since = excluded.since, asked = NULL";

const UNPARK: &str = "DELETE FROM view_parked WHERE model = ? AND generation = ? AND stream_kind = ? AND stream_id = ?";

const PARKED: &str = "SELECT stream_kind, stream_id, position, sequence, event_id, event_type, reason, since, asked
    FROM view_parked WHERE model = ? AND generation = ? ORDER BY position";

const ASK: &str = "UPDATE view_parked SET asked = ?6
    WHERE model = ?1 AND generation = ?2 AND stream_kind = ?3 AND stream_id = ?4 AND position = ?5";

/// Within the step's transaction.
pub(super) async fn park(
    file: &DatabaseFile,
    connection: &mut SqliteConnection,
    model: &str,
    generation: u64,
    parking: &[Parking],
) -> Result<()> {
    for parking in parking {
        let stream = parking.stream();
        let sql = match parking {
            Parking::Park(_) => PARK,
            Parking::Unpark(_) => UNPARK,
        };
        let mut query = sqlx::query(sql).bind(model).bind(signed(generation)?).bind(stream.kind.as_str()).bind(&stream.id);
        if let Parking::Park(parked) = parking {
            query = query
                .bind(signed(parked.position)?)
                .bind(signed(parked.sequence)?)
                .bind(parked.event_id.to_string())
                .bind(&parked.event_type)
                .bind(&parked.reason)
                .bind(micros(parked.since));
        }
        file.run(query.execute(&mut *connection)).await?;
    }
    Ok(())
}

fn parked(file: &DatabaseFile, row: &SqliteRow) -> Result<ParkedStream> {
    let asked: Option<&str> = file.column(row, "asked")?;
    Ok(ParkedStream {
        stream: StreamId::new(file.parsed(row, "stream_kind")?, file.column::<String>(row, "stream_id")?),
        position: unsigned(file.column(row, "position")?)?,
        sequence: unsigned(file.column(row, "sequence")?)?,
        event_id: file.parsed(row, "event_id")?,
        event_type: file.column(row, "event_type")?,
        reason: file.column(row, "reason")?,
        since: from_micros(file.column(row, "since")?)?,
        asked: asked.map(str::parse).transpose().map_err(|error: String| file.corrupt(&error))?,
    })
}

#[async_trait]
impl ParkedStreams for SqliteViews {
    async fn parked(&self, model: &str, generation: u64) -> Result<Vec<ParkedStream>> {
        let query = sqlx::query(PARKED).bind(model).bind(signed(generation)?);
        let rows = self.file.run(query.fetch_all(&self.file.readers)).await?;
        rows.iter().map(|row| parked(&self.file, row)).collect()
    }

    async fn ask(&self, model: &str, generation: u64, stream: &StreamId, position: Position, ask: Ask) -> Result<()> {
        let query = sqlx::query(ASK)
            .bind(model)
            .bind(signed(generation)?)
            .bind(stream.kind.as_str())
            .bind(&stream.id)
            .bind(signed(position)?)
            .bind(ask.as_str());
        match self.file.run(query.execute(&self.file.writer)).await?.rows_affected() {
            0 => Err(not_parked(model, stream, position)),
            _ => Ok(()),
        }
    }
}
