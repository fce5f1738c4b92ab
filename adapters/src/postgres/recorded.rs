//! Stored events, read by place and in binary: nobody looks up the name of each column of each row, and the server does not write
//! dates as text for us to read them back.

use domain::{AggregateKind, Date, StreamId, Timestamp};
use jiff::Span;
use jiff::tz::Offset;
use ports::{Error, Metadata, Payload, Recorded, Result};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo};
use sqlx::{Decode, Encode, Postgres, Row, Type, ValueRef};
use uuid::Uuid;

use super::log::PostgresLog;
use crate::stored::{from_micros, unsigned};

/// What [`PostgresLog::recorded`] expects, in its order.
pub(super) const COLUMNS: &str =
    "position, event_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
    effective_on, recorded_at, actor, correlation_id, causation_id, traceparent";

/// Where Postgres counts days and microseconds from.
const EPOCH_DAY: Date = Date::constant(2000, 1, 1);
pub(super) const EPOCH_MICROS: i64 = 946_684_800_000_000;

impl PostgresLog {
    pub(super) fn recorded(&self, row: &PgRow) -> Result<Recorded> {
        let position: i64 = self.at(row, 0)?;
        let broken = |detail: String| Error::corrupt(format!("{} at position {position}: {detail}", self.what()));
        let kind = self.at::<&str>(row, 2)?.parse().map_err(broken)?;
        Ok(Recorded {
            position: unsigned(position)?,
            event_id: self.at(row, 1)?,
            stream: StreamId::new(kind, self.at::<String>(row, 3)?),
            sequence: unsigned(self.at(row, 4)?)?,
            event_type: self.at(row, 5)?,
            event_version: self.at(row, 6)?,
            payload: self.payload(row, 7)?,
            effective_on: date(i32::from_be_bytes(self.bytes(row, 8)?)).map_err(|error| broken(error.to_string()))?,
            recorded_at: instant(i64::from_be_bytes(self.bytes(row, 9)?))?,
            metadata: Metadata {
                actor: self.at(row, 10)?,
                correlation_id: self.at(row, 11)?,
                causation_id: self.at(row, 12)?,
                traceparent: self.at(row, 13)?,
            },
        })
    }

    /// An event of a stretch: all but its metadata.
    pub(super) fn recorded_of(&self, kind: AggregateKind, row: &PgRow) -> Result<Recorded> {
        let broken = |error: jiff::Error| Error::corrupt(format!("{}: {error}", self.what()));
        Ok(Recorded {
            position: unsigned(self.at(row, 0)?)?,
            event_id: self.at(row, 1)?,
            stream: StreamId::new(kind, self.at::<String>(row, 2)?),
            sequence: unsigned(self.at(row, 3)?)?,
            event_type: self.at(row, 4)?,
            event_version: self.at(row, 5)?,
            payload: self.payload(row, 6)?,
            effective_on: date(i32::from_be_bytes(self.bytes(row, 7)?)).map_err(broken)?,
            recorded_at: instant(i64::from_be_bytes(self.bytes(row, 8)?))?,
            metadata: Metadata { actor: String::new(), correlation_id: Uuid::nil(), causation_id: None, traceparent: None },
        })
    }

    /// The binary form of `json` is its text.
    fn payload(&self, row: &PgRow, place: usize) -> Result<Payload> {
        let value = row.try_get_raw(place).map_err(|error| self.unreadable(error))?;
        let text = match value.is_null() {
            true => None,
            false => value.as_str().ok(),
        };
        let text =
            text.ok_or_else(|| Error::corrupt(format!("{}: column {place} of an event is not a text", self.what())))?;
        Ok(Payload::of_json_column(text.into()))
    }

    fn at<'r, T>(&self, row: &'r PgRow, place: usize) -> Result<T>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        row.try_get(place).map_err(|error| self.unreadable(error))
    }

    /// The binary form of a value of fixed length; statements with parameters are answered in it.
    fn bytes<const N: usize>(&self, row: &PgRow, place: usize) -> Result<[u8; N]> {
        let value = row.try_get_raw(place).map_err(|error| self.unreadable(error))?;
        let bytes = match value.is_null() {
            true => None,
            false => value.as_bytes().ok().and_then(|bytes| bytes.try_into().ok()),
        };
        bytes.ok_or_else(|| Error::corrupt(format!("{}: column {place} of an event is not {N} bytes", self.what())))
    }
}

pub(super) fn date(days: i32) -> Result<Date, jiff::Error> {
    // A span costs ten times as much; but an instant ends a day before the calendar.
    match Timestamp::from_second(i64::from(days) * 86_400 + EPOCH_MICROS / 1_000_000) {
        Ok(begin) => Ok(Offset::UTC.to_datetime(begin).date()),
        Err(_) => EPOCH_DAY.checked_add(Span::new().try_days(days)?),
    }
}

/// What [`date`] takes.
pub(super) fn days(date: Date) -> i32 {
    (date - EPOCH_DAY).get_days()
}

/// A day as an element of a `date[]` parameter.
#[derive(Clone, Copy)]
pub(super) struct Day(pub(super) Date);

/// The identities of `date` and `date[]`: Postgres' own, the same everywhere.
const DATE: Oid = Oid(1082);
const DATES: Oid = Oid(1182);

impl Type<Postgres> for Day {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(DATE)
    }
}

impl PgHasArrayType for Day {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(DATES)
    }
}

impl Encode<'_, Postgres> for Day {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&days(self.0).to_be_bytes());
        Ok(IsNull::No)
    }
}

fn instant(micros: i64) -> Result<Timestamp> {
    from_micros(micros.saturating_add(EPOCH_MICROS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_microseconds_are_counted_from_the_year_2000_both_ways() {
        let day = |days| date(days).expect("a day").to_string();
        assert_eq!([day(0), day(-1), day(9_557)], ["2000-01-01", "1999-12-31", "2026-03-02"]);
        let ends = [Date::MIN, Date::MAX].map(|end| (end - EPOCH_DAY).get_days());
        assert_eq!(ends.map(day), ["-009999-01-01", "9999-12-31"]);
        let at = |micros| instant(micros).expect("an instant").to_string();
        assert_eq!(at(0), "2000-01-01T00:00:00Z");
        assert_eq!(at(-1), "1999-12-31T23:59:59.999999Z");
        assert_eq!(at(825_768_000_000_123), "2026-03-02T12:00:00.000123Z");
        assert!(date(i32::MAX).is_err() && instant(i64::MAX).is_err(), "infinity");
    }
}
