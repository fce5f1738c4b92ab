//! `lease_starts`: signed leases by the instant their first day begins; for the timer that activates them.

use domain::legal::LeaseEvent;
use domain::{AggregateKind, Context, Date, LeaseId};
use ports::{Field, FieldKind, FieldValue, ModelSpec, Recorded, Result};
use serde::{Deserialize, Serialize};

use crate::time::day_begins;
use crate::{Feed, Indexed, ReadModel, Rows};

pub static SPEC: ModelSpec = ModelSpec {
    name: "lease_starts",
    fold_version: 1,
    context: Context::Legal,
    fields: &[Field { name: "due_at", kind: FieldKind::Int }],
};

pub struct LeaseStarts;

/// The row of a lease while it is signed and not under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStart {
    pub lease_id: LeaseId,
    pub start_date: Date,
    /// Midnight of the start date in the unit's zone, milliseconds since the epoch.
    pub due_at: i64,
}

impl Indexed for LeaseStart {
    fn fields(&self) -> Vec<FieldValue> {
        vec![self.due_at.into()]
    }
}

impl ReadModel for LeaseStarts {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Lease)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(if concerns(event) { vec![event.stream.id.clone()] } else { vec![] })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if !concerns(event) {
            return Ok(());
        }
        let key = &event.stream.id;
        match event.decode::<LeaseEvent>()? {
            LeaseEvent::LeaseSigned { outline, .. } => {
                let (lease_id, start_date) = (outline.lease_id, outline.from);
                // A day that does not begin before the calendar ends is never due.
                let due_at = day_begins(start_date, &outline.time_zone).map_or(i64::MAX, |begin| begin.as_millisecond());
                rows.put(key, LeaseStart { lease_id, start_date, due_at })
            }
            LeaseEvent::LeaseActivated { .. } | LeaseEvent::LeaseVoided { .. } => {
                rows.delete(key);
                Ok(())
            }
            LeaseEvent::LeaseDrafted { .. }
            | LeaseEvent::LeaseDraftEdited { .. }
            | LeaseEvent::LeaseSendRequested { .. }
            | LeaseEvent::LeaseSent { .. }
            | LeaseEvent::LeaseSendRefused { .. }
            | LeaseEvent::LeaseSignatureAdded { .. }
            | LeaseEvent::LeaseDeclined { .. }
            | LeaseEvent::LeaseActivationFailed { .. }
            | LeaseEvent::LeaseTerminated { .. } => Ok(()),
        }
    }
}

/// Told by the type, so that other events are not decoded.
fn concerns(event: &Recorded) -> bool {
    let types = ["LeaseSigned", "LeaseActivated", "LeaseVoided"];
    event.stream.kind == AggregateKind::Lease && types.contains(&event.event_type.as_str())
}

#[cfg(test)]
mod tests;
