//! `hold_expiries`: the holds in force, by the instant they run out; for the timer that records it.

use domain::units::UnitEvent;
use domain::{AggregateKind, Context, HoldId, Timestamp, UnitId};
use ports::{Field, FieldKind, FieldValue, ModelSpec, Recorded, Result};
use serde::{Deserialize, Serialize};

use crate::available_units::unit_of;
use crate::{Feed, Indexed, ReadModel, Rows};

pub static SPEC: ModelSpec = ModelSpec {
    name: "hold_expiries",
    fold_version: 1,
    context: Context::Units,
    fields: &[Field { name: "due_at", kind: FieldKind::Int }],
};

pub struct HoldExpiries;

/// The row of a hold, under its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldExpiry {
    pub unit_id: UnitId,
    pub hold_id: HoldId,
    /// Milliseconds since the epoch, rounded up: who comes then does not come too early.
    pub due_at: i64,
}

fn due_at(expires_at: Timestamp) -> i64 {
    // `as_millisecond` cuts towards the epoch: a rest of time after it is one millisecond more.
    let milliseconds = expires_at.as_millisecond();
    match Timestamp::from_millisecond(milliseconds) {
        Ok(cut) if cut < expires_at => milliseconds + 1,
        Ok(_) | Err(_) => milliseconds,
    }
}

impl Indexed for HoldExpiry {
    fn fields(&self) -> Vec<FieldValue> {
        vec![self.due_at.into()]
    }
}

impl ReadModel for HoldExpiries {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Unit)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        if !concerns(event) {
            return Ok(vec![]);
        }
        Ok(match event.decode::<UnitEvent>()? {
            UnitEvent::HoldPlaced { hold_id, .. }
            | UnitEvent::HoldReleased { hold_id }
            | UnitEvent::HoldExpired { hold_id, .. } => vec![hold_id.to_string()],
            UnitEvent::UnitReserved { consumed_holds, .. } => consumed_holds.iter().map(HoldId::to_string).collect(),
            _ => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if !concerns(event) {
            return Ok(());
        }
        match event.decode::<UnitEvent>()? {
            UnitEvent::HoldPlaced { hold_id, expires_at, .. } => {
                let unit_id = unit_of(event)?;
                let due_at = due_at(expires_at);
                rows.put(&hold_id.to_string(), HoldExpiry { unit_id, hold_id, due_at })
            }
            UnitEvent::HoldReleased { hold_id } | UnitEvent::HoldExpired { hold_id, .. } => {
                rows.delete(&hold_id.to_string());
                Ok(())
            }
            UnitEvent::UnitReserved { consumed_holds, .. } => {
                consumed_holds.iter().for_each(|hold_id| rows.delete(&hold_id.to_string()));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Told by the type, so that the many events that hold nothing are not decoded twice.
fn concerns(event: &Recorded) -> bool {
    let types = ["HoldPlaced", "HoldReleased", "HoldExpired", "UnitReserved"];
    event.stream.kind == AggregateKind::Unit && types.contains(&event.event_type.as_str())
}

#[cfg(test)]
mod tests;
