//! An event as a CloudEvent 1.0 (JSON), personal data masked.

use anyhow::Result;
use domain::Context;
use ports::{Position, Recorded};
use serde_json::{Value, json};

use crate::operator::masked_data;

/// Its place (`position`, `sequence`) and what the log knows beside the data are extension attributes.
pub fn cloud_event(event: &Recorded) -> Result<Value> {
    let context = event.stream.context();
    let mut value = json!({
        "specversion": "1.0",
        "id": event.event_id,
        "source": format!("/casitas/{context}"),
        "type": format!("casitas.{context}.{}", event.event_type),
        "subject": event.stream.to_string(),
        "time": event.recorded_at.to_string(),
        "datacontenttype": "application/json",
        "position": event.position.to_string(),
        "sequence": event.sequence.to_string(),
        "dataversion": event.event_version,
        "effectiveon": event.effective_on.to_string(),
        "actor": event.metadata.actor,
        "correlationid": event.metadata.correlation_id.to_string(),
        "data": masked_data(event)?,
    });
    if let Some(fields) = value.as_object_mut() {
        if let Some(cause) = event.metadata.causation_id {
            fields.insert("causationid".into(), json!(cause.to_string()));
        }
        if let Some(traceparent) = &event.metadata.traceparent {
            fields.insert("traceparent".into(), json!(traceparent));
        }
    }
    Ok(value)
}

/// Where an event stands.
pub fn place_of(event: &Value) -> Option<(Context, Position)> {
    let context: Context = event["source"].as_str()?.strip_prefix("/casitas/")?.parse().ok()?;
    Some((context, event["position"].as_str()?.parse().ok()?))
}

/// Where to go on behind an event that was delivered.
pub fn place_behind(event: &Value) -> Option<String> {
    place_of(event).map(|(context, position)| format!("{context}:{}", position + 1))
}
