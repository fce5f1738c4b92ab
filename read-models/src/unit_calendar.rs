//! `unit_calendar`: who or what takes which days of a unit.

use domain::units::{Calendar, Entry, EntryKind, UnitEvent};
use domain::{AggregateKind, Context, Date, DateRange, PartyId, Timestamp, UnitId};
use ports::{FieldValue, ModelSpec, Recorded, Result, ViewSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::scan::find;
use crate::{Answer, Feed, Indexed, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec { name: "unit_calendar", fold_version: 1, context: Context::Units, fields: &[] };

pub struct UnitCalendar;

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
struct Row {
    calendar: Calendar,
}

impl Indexed for Row {
    fn fields(&self) -> Vec<FieldValue> {
        vec![]
    }
}

impl ReadModel for UnitCalendar {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Unit)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match event.stream.kind {
            AggregateKind::Unit => vec![event.stream.id.clone()],
            _ => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if event.stream.kind != AggregateKind::Unit {
            return Ok(());
        }
        let key = &event.stream.id;
        let fact: UnitEvent = event.decode()?;
        rows.update(key, Row::default, |row: &mut Row| {
            row.calendar.apply(&fact);
            Ok(())
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CalendarOut {
    pub unit_id: UnitId,
    /// In the order of their first day.
    pub entries: Vec<CalendarEntryOut>,
}

/// The unit is taken on `[from, to)`; without `to`, for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CalendarEntryOut {
    pub kind: EntryKind,
    #[schema(value_type = String, format = Date)]
    pub from: Date,
    #[schema(value_type = Option<String>, format = Date)]
    pub to: Option<Date>,
    /// The hold, the lease or the block.
    pub reference: Uuid,
    /// Of a hold: for whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub party_id: Option<PartyId>,
    /// Of a hold: at this instant it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Of an occupancy: the move-out was announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice_given: Option<bool>,
    /// Of an occupancy: the keys were returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<bool>,
    /// Of a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl CalendarEntryOut {
    fn of(entry: &Entry) -> Self {
        let DateRange { from, to } = entry.range();
        let plain = Self {
            kind: entry.kind(),
            from,
            to,
            reference: entry.reference(),
            party_id: None,
            expires_at: None,
            notice_given: None,
            ended: None,
            reason: None,
        };
        match entry {
            Entry::Hold { party_id, expires_at, .. } => {
                Self { party_id: Some(*party_id), expires_at: Some(*expires_at), ..plain }
            }
            Entry::Reservation { .. } => plain,
            Entry::Occupancy { vacancy, ended, .. } => {
                Self { notice_given: Some(vacancy.is_some()), ended: Some(*ended), ..plain }
            }
            Entry::Block { reason, .. } => Self { reason: Some(reason.clone()), ..plain },
        }
    }
}

/// What intersects `[from, to)`; an absent bound is open. `None` when there is no such unit.
pub async fn unit_calendar(
    snapshot: &mut dyn ViewSnapshot,
    unit_id: UnitId,
    from: Option<Date>,
    to: Option<Date>,
    now: Timestamp,
) -> Result<Answer<Option<CalendarOut>>> {
    let key = unit_id.to_string();
    let row: Option<Row> = find(snapshot, SPEC.name, &key).await?;
    let days = DateRange { from: from.unwrap_or(Date::MIN), to };
    let calendar = row.map(|row| row.calendar);
    let valid_until = calendar.as_ref().and_then(|calendar| calendar.next_expiry(&days, now));
    let value = calendar.map(|calendar| CalendarOut {
        unit_id,
        entries: calendar.entries().iter().filter(|entry| entry.takes(&days, now)).map(CalendarEntryOut::of).collect(),
    });
    Ok(Answer { value, tags: vec![Tag::row(SPEC.name, key)], valid_until })
}

#[cfg(test)]
mod tests;
