//! Read models of the tests.

use std::sync::Mutex;

use domain::legal::LeaseEvent;
use domain::units::UnitEvent;
use domain::{AggregateKind, Context};
use ports::{Error, Field, FieldKind, FieldValue, ModelSpec, Position, Recorded, Result};
use read_models::{ReadModel, Rows};
use serde_json::{Value, json};

/// Writes down every position it folds: one folded twice, skipped or out of order is seen. Row `all`, and one row a stream.
pub struct Trace {
    spec: &'static ModelSpec,
    /// The event that it cannot take, and whether it panics on it.
    pub poison: Mutex<Option<(Position, bool)>>,
}

pub struct Traced;

impl Traced {
    pub fn positions(doc: Option<Value>) -> Vec<Position> {
        doc.map(|doc| serde_json::from_value(doc["positions"].clone()).expect("positions")).unwrap_or_default()
    }
}

impl Trace {
    pub fn over(context: Context, name: &'static str) -> &'static Self {
        let spec = Box::leak(Box::new(ModelSpec { name, fold_version: 1, context, fields: &[] }));
        Box::leak(Box::new(Self { spec, poison: Mutex::default() }))
    }
}

impl ReadModel for Trace {
    fn spec(&self) -> &'static ModelSpec {
        self.spec
    }
    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(vec!["all".into(), event.stream.id.clone()])
    }
    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        for key in ["all", &event.stream.id] {
            let mut positions = Traced::positions(rows.get::<Value>(key)?);
            positions.push(event.position);
            rows.put(key, &json!({ "positions": positions }), vec![])?;
            // Between the rows, so that half of the event's work is done when it fails.
            match *self.poison.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
                Some((position, false)) if position == event.position => return Err(Error::corrupt("the test says so")),
                _ => {}
            }
            let poison = *self.poison.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            assert!(poison != Some((event.position, true)), "the test panics");
        }
        Ok(())
    }
}

const DUE: &[Field] = &[Field { name: "due_at", kind: FieldKind::Int }];
static HOLDS: ModelSpec = ModelSpec { name: "hold_expiries", fold_version: 1, context: Context::Units, fields: DUE };
static STARTS: ModelSpec = ModelSpec { name: "lease_starts", fold_version: 1, context: Context::Legal, fields: DUE };

/// Holds that stand.
pub struct Holds;

impl ReadModel for Holds {
    fn spec(&self) -> &'static ModelSpec {
        &HOLDS
    }
    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        if event.stream.kind != AggregateKind::Unit {
            return Ok(vec![]);
        }
        Ok(match event.decode()? {
            UnitEvent::HoldPlaced { hold_id, .. }
            | UnitEvent::HoldReleased { hold_id }
            | UnitEvent::HoldExpired { hold_id, .. } => vec![hold_id.to_string()],
            _ => vec![],
        })
    }
    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        for key in self.keys(event)? {
            match event.decode()? {
                UnitEvent::HoldPlaced { hold_id, expires_at, .. } => {
                    let due_at = expires_at.as_millisecond();
                    let doc = json!({ "unit_id": event.stream.id, "hold_id": hold_id, "due_at": due_at });
                    rows.put(&key, &doc, vec![FieldValue::Int(due_at)])?;
                }
                _ => rows.delete(&key),
            }
        }
        Ok(())
    }
}

/// Signed leases that have not started.
pub struct Starts;

impl ReadModel for Starts {
    fn spec(&self) -> &'static ModelSpec {
        &STARTS
    }
    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(if event.stream.kind == AggregateKind::Lease { vec![event.stream.id.clone()] } else { vec![] })
    }
    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if event.stream.kind != AggregateKind::Lease {
            return Ok(());
        }
        match event.decode()? {
            LeaseEvent::LeaseSigned { outline, .. } => {
                let midnight = outline.from.in_tz(&outline.time_zone).map_err(|error| Error::corrupt(error.to_string()))?;
                let due_at = midnight.timestamp().as_millisecond();
                let doc = json!({ "lease_id": outline.lease_id, "due_at": due_at });
                rows.put(&event.stream.id, &doc, vec![FieldValue::Int(due_at)])
            }
            LeaseEvent::LeaseActivated { .. } | LeaseEvent::LeaseVoided { .. } => {
                rows.delete(&event.stream.id);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
