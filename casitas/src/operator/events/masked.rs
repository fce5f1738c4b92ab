//! What an operator gets to see of an event: personal data only when it is revealed, a password's hash never.

use anyhow::Result;
use ports::Recorded;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct Reveal {
    /// Open personal data; who did, when and why is recorded in the log (auth, stream operations:operators).
    #[arg(long)]
    pub reveal: bool,
    /// Why personal data is opened; recorded with it.
    #[arg(long, requires = "reveal")]
    pub reason: Option<String>,
}

pub fn summary(event: &Recorded) -> Value {
    json!({
        "context": event.stream.context().as_str(),
        "position": event.position,
        "recorded_at": event.recorded_at.to_string(),
        "type": event.event_type,
        "stream": event.stream.to_string(),
        "sequence": event.sequence,
        "effective_on": event.effective_on.to_string(),
        "actor": event.metadata.actor,
        "event_id": event.event_id,
    })
}

/// Everything; what is still sealed is masked.
pub fn whole(event: &Recorded) -> Result<Value> {
    let mut value = summary(event);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("version".into(), json!(event.event_version));
        fields.insert("correlation_id".into(), json!(event.metadata.correlation_id));
        fields.insert("causation_id".into(), json!(event.metadata.causation_id));
        fields.insert("traceparent".into(), json!(event.metadata.traceparent));
        fields.insert("data".into(), data(event)?);
    }
    Ok(value)
}

/// What happened; what is still sealed is masked.
pub fn data(event: &Recorded) -> Result<Value> {
    let mut data: Value = serde_json::from_str(event.payload.get())?;
    if let Some(personal) = sealed_part(&mut data) {
        *personal = json!({"masked": personal["sealed"]["subject"]});
    }
    hide_password_hash(&mut data);
    Ok(data)
}

/// The event as a person that nothing is known of: what is sealed reads as if its key were destroyed.
pub fn without_person(event: &Recorded) -> Result<Recorded> {
    let mut event = event.clone();
    if is_sealed(&event) {
        let mut data: Value = serde_json::from_str(event.payload.get())?;
        if let Some(personal) = sealed_part(&mut data) {
            *personal = Value::Null;
        }
        event.payload = RawValue::from_string(data.to_string())?.into();
    }
    Ok(event)
}

pub fn is_sealed(event: &Recorded) -> bool {
    let text = event.payload.get();
    text.contains("\"sealed\"") && serde_json::from_str(text).is_ok_and(|mut data: Value| sealed_part(&mut data).is_some())
}

/// `data.<Variant>.personal` where it is sealed.
fn sealed_part(data: &mut Value) -> Option<&mut Value> {
    let personal = data.as_object_mut()?.values_mut().next()?.get_mut("personal")?;
    personal.get("sealed").is_some().then_some(personal)
}

/// Nobody needs to see a password's hash, revealed or not.
pub fn hide_password_hash(data: &mut Value) {
    match data {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match name.as_str() {
                    "password_hash" if !value.is_null() => *value = json!("(hidden)"),
                    _ => hide_password_hash(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_password_hash),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
