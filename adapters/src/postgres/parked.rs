//! Parked streams in `views_db`.

use async_trait::async_trait;
use domain::StreamId;
use ports::{Ask, Error, ParkedStream, ParkedStreams, Parking, Position, Result};
use sqlx::postgres::{PgConnection, PgRow};

use super::errors::Call;
use super::snapshot::column;
use super::views::{PostgresViews, WHAT};
use crate::stored::{from_micros, micros, signed, unsigned};
use crate::views::not_parked;

const PARK: &str = "INSERT INTO view_parked
    (model, generation, stream_kind, stream_id, position, sequence, event_id, event_type, reason, since)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'epoch'::timestamptz + $10 * interval '1 microsecond')
    ON CONFLICT (model, generation, stream_kind, stream_id) DO UPDATE SET position = excluded.position,
        sequence = excluded.sequence, event_id = excluded.event_id, event_type = excluded.event_type,
        reason = excluded.reason, since = excluded.since, asked = NULL";

const UNPARK: &str = "DELETE FROM view_parked WHERE model = $1 AND generation = $2 AND stream_kind = $3 AND stream_id = $4";

const PARKED: &str = "SELECT stream_kind, stream_id, position, sequence, event_id, event_type, reason,
    (extract(epoch FROM since) * 1000000)::bigint AS since, asked
    FROM view_parked WHERE model = $1 AND generation = $2 ORDER BY position";

const ASK: &str = "UPDATE view_parked SET asked = $6
    WHERE model = $1 AND generation = $2 AND stream_kind = $3 AND stream_id = $4 AND position = $5";

/// Within the step's transaction.
pub(super) async fn park(
    connection: &mut PgConnection,
    model: &str,
    generation: u64,
    parking: &[Parking],
) -> Result<(), sqlx::Error> {
    let number = |number: u64| signed(number).map_err(|error| sqlx::Error::Encode(error.into()));
    for parking in parking {
        let stream = parking.stream();
        let sql = match parking {
            Parking::Park(_) => PARK,
            Parking::Unpark(_) => UNPARK,
        };
        let mut query = sqlx::query(sql).bind(model).bind(number(generation)?).bind(stream.kind.as_str()).bind(&stream.id);
        if let Parking::Park(parked) = parking {
            query = query
                .bind(number(parked.position)?)
                .bind(number(parked.sequence)?)
                .bind(parked.event_id)
                .bind(&parked.event_type)
                .bind(&parked.reason)
                .bind(micros(parked.since));
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

fn parked(row: &PgRow) -> Result<ParkedStream> {
    let broken = |error: String| Error::corrupt(format!("{WHAT}: {error}"));
    let asked: Option<&str> = column(row, "asked")?;
    Ok(ParkedStream {
        stream: StreamId::new(
            column::<&str>(row, "stream_kind")?.parse().map_err(broken)?,
            column::<String>(row, "stream_id")?,
        ),
        position: unsigned(column(row, "position")?)?,
        sequence: unsigned(column(row, "sequence")?)?,
        event_id: column(row, "event_id")?,
        event_type: column(row, "event_type")?,
        reason: column(row, "reason")?,
        since: from_micros(column(row, "since")?)?,
        asked: asked.map(str::parse).transpose().map_err(broken)?,
    })
}

#[async_trait]
impl ParkedStreams for PostgresViews {
    async fn parked(&self, model: &str, generation: u64) -> Result<Vec<ParkedStream>> {
        let query = sqlx::query(PARKED).bind(model).bind(signed(generation)?);
        let rows = self.kept.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        rows.iter().map(parked).collect()
    }

    async fn ask(&self, model: &str, generation: u64, stream: &StreamId, position: Position, ask: Ask) -> Result<()> {
        let query = sqlx::query(ASK)
            .bind(model)
            .bind(signed(generation)?)
            .bind(stream.kind.as_str())
            .bind(&stream.id)
            .bind(signed(position)?)
            .bind(ask.as_str());
        let done = self.kept.run(Call::Write, async |connection| query.execute(connection).await).await?;
        match done.rows_affected() {
            0 => Err(not_parked(model, stream, position)),
            _ => Ok(()),
        }
    }
}
