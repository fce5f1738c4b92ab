//! A view store of one moment in memory, and folding of events that never were in a log.

pub mod stories;
pub mod units;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use domain::{AggregateKind, DomainEvent, StreamId, Timestamp};
use jiff::tz::TimeZone;
use ports::{
    Direction, Error, FieldValue, Filter, Metadata, ModelHead, ModelSpec, Recorded, Result, Row, RowChange, Select,
    ViewSnapshot,
};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::to_raw_value;
use uuid::Uuid;

use crate::{ReadModel, Rows};

pub fn instant(text: &str) -> Timestamp {
    text.parse().expect("an instant in the test")
}

/// An event as the log would hold it, opened. Recorded at the given instant.
pub fn recorded<E: DomainEvent + Serialize>(
    kind: AggregateKind,
    id: impl ToString,
    sequence: u64,
    at: &str,
    event: &E,
) -> Recorded {
    let recorded_at = instant(at);
    Recorded {
        position: sequence,
        event_id: Uuid::from_u128(u128::from(sequence)),
        stream: StreamId::new(kind, id.to_string()),
        sequence,
        event_type: event.event_type(),
        event_version: event.event_version(),
        payload: to_raw_value(event).expect("an event encodes").into(),
        effective_on: recorded_at.to_zoned(TimeZone::UTC).date(),
        recorded_at,
        metadata: Metadata { actor: "cli".into(), correlation_id: Uuid::nil(), causation_id: None, traceparent: None },
    }
}

type Stored = BTreeMap<String, (Value, Vec<FieldValue>)>;

/// Rows of some models.
#[derive(Default)]
pub struct Shelf(HashMap<&'static str, (&'static ModelSpec, Stored)>);

impl Shelf {
    /// Folds events one by one, as separate batches.
    pub fn fold(&mut self, model: &dyn ReadModel, events: &[Recorded]) -> &mut Self {
        let spec = model.spec();
        let stored = &mut self.0.entry(spec.name).or_insert_with(|| (spec, Stored::new())).1;
        for event in events {
            let keys = model.keys(event).expect("the keys of an event");
            let mut rows = Rows::default();
            let known = keys.iter().filter_map(|key| Some((key.clone(), stored.get(key)?.0.clone()))).collect();
            rows.load(&keys, known);
            model.fold(event, &mut rows).expect("a fold");
            for change in rows.take_changes().expect("changes").0 {
                match change {
                    RowChange::Put { key, doc, fields } => {
                        assert_eq!(fields.len(), spec.fields.len(), "one value a field");
                        stored.insert(key, (doc, fields));
                    }
                    RowChange::Delete { key } => {
                        stored.remove(&key);
                    }
                }
            }
        }
        self
    }

    pub fn doc(&self, model: &str, key: impl ToString) -> Option<Value> {
        Some(self.0.get(model)?.1.get(&key.to_string())?.0.clone())
    }
}

#[async_trait]
impl ViewSnapshot for Shelf {
    async fn head(&mut self, model: &str) -> Result<ModelHead> {
        Err(Error::NotFound(model.to_owned()))
    }

    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<String>> {
        Ok(self.doc(model, key).map(|doc| doc.to_string()))
    }

    async fn select(&mut self, select: &Select) -> Result<Vec<Row>> {
        let Some((spec, stored)) = self.0.get(select.model) else { return Ok(vec![]) };
        let at = |name: &str| {
            let place = spec.fields.iter().position(|field| field.name == name);
            place.unwrap_or_else(|| panic!("{} has no field {name}", spec.name))
        };
        let passes = |key: &str, fields: &[FieldValue], filter: &Filter| match filter {
            Filter::Eq(name, value) => fields[at(name)] == *value,
            Filter::In(name, values) => values.contains(&fields[at(name)]),
            Filter::AtLeast(name, value) => fields[at(name)] != FieldValue::Null && fields[at(name)] >= *value,
            Filter::AtMost(name, value) => fields[at(name)] != FieldValue::Null && fields[at(name)] <= *value,
            Filter::KeyPrefix(prefix) => key.starts_with(prefix.as_str()),
        };
        let place = |fields: &[FieldValue]| select.order.field.map_or(FieldValue::Null, |name| fields[at(name)].clone());
        let order = |a: &(FieldValue, String), b: &(FieldValue, String)| match select.order.direction {
            Direction::Ascending => a.cmp(b),
            Direction::Descending => b.cmp(a),
        };
        let mut rows: Vec<((FieldValue, String), Value)> = stored
            .iter()
            .filter(|(key, (_, fields))| select.filters.iter().all(|filter| passes(key, fields, filter)))
            .map(|(key, (doc, fields))| ((place(fields), key.clone()), doc.clone()))
            .filter(|(row, _)| select.after.as_ref().is_none_or(|after| order(row, after) == Ordering::Greater))
            .collect();
        rows.sort_by(|a, b| order(&a.0, &b.0));
        Ok(rows.into_iter().take(select.limit).map(|((_, key), doc)| Row { key, doc: doc.to_string() }).collect())
    }
}
