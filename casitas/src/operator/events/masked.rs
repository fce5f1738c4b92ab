//! What an operator gets to see of an event: personal data only when it is revealed, a password's hash never.

use anyhow::Result;
use domain::AggregateKind;
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

/// Without the data; of what operators did, who, why and what it was done to belong to it.
pub fn summary(event: &Recorded) -> Value {
    let mut summary = json!({
        "context": event.stream.context().as_str(),
        "position": event.position,
        "recorded_at": event.recorded_at.to_string(),
        "type": event.event_type,
        "stream": event.stream.to_string(),
        "sequence": event.sequence,
        "effective_on": event.effective_on.to_string(),
        "actor": event.metadata.actor,
        "event_id": event.event_id,
    });
    if event.stream.kind == AggregateKind::Operations
        && let Ok(data) = serde_json::from_str::<Value>(event.payload.get())
        && let Some(fact) = data.as_object().and_then(|data| data.values().next())
    {
        summary["by"] = fact["by"].clone();
        summary["reason"] = fact["reason"].clone();
        summary["what"] = match (&fact["model"], &fact["stream"], &fact["position"]) {
            (Value::String(model), Value::String(stream), Value::Number(position)) => {
                json!(format!("{model}: position {position} of {stream}"))
            }
            _ => fact["verb"].clone(),
        };
    }
    summary
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

#[cfg(test)]
mod tests {
    use domain::legal::PartyEvent;
    use domain::{Date, Personal, StreamId};
    use ports::{Metadata, Payload};
    use uuid::Uuid;

    use super::*;

    const PARTY: &str = "00000000-0000-0000-0000-000000000003";
    const SEALED: &str = r#"{"subject":"party:3","nonce":"bm9uY2U=","box":"Ym94"}"#;

    fn event(kind: AggregateKind, event_type: &str, payload: &str) -> Recorded {
        Recorded {
            position: 7,
            event_id: Uuid::from_u128(1),
            stream: StreamId::new(kind, PARTY),
            sequence: 2,
            event_type: event_type.into(),
            event_version: "1".into(),
            payload: Payload::of_json_column(payload.into()),
            effective_on: Date::constant(2026, 1, 2),
            recorded_at: "2026-01-02T03:04:05.000006Z".parse().expect("an instant"),
            metadata: Metadata {
                actor: "cli".into(),
                correlation_id: Uuid::from_u128(2),
                causation_id: None,
                traceparent: None,
            },
        }
    }

    /// A change of a party with this in place of the person.
    fn updated(personal: &str) -> Recorded {
        let payload =
            format!(r#"{{"PartyUpdated": {{"party_id": "{PARTY}", "roles": ["tenant"], "personal": {personal}}}}}"#);
        event(AggregateKind::Party, "PartyUpdated", &payload)
    }

    fn sealed() -> Recorded {
        updated(&format!(r#"{{"sealed": {SEALED}}}"#))
    }

    fn opened() -> Recorded {
        updated(r#"{"names": {"full": "Ana"}}"#)
    }

    #[test]
    fn of_what_is_sealed_the_subject_alone_is_shown() {
        let shown = whole(&sealed()).expect("JSON");
        let personal = json!({"masked": "party:3"});
        let expected = json!({"PartyUpdated": {"party_id": PARTY, "roles": ["tenant"], "personal": personal}});
        assert_eq!(shown["data"], expected);
        assert_eq!(data(&sealed()).expect("JSON"), expected);
        let text = shown.to_string();
        assert!(!text.contains("bm9uY2U=") && !text.contains("Ym94"), "{text}");
    }

    #[test]
    fn what_was_opened_or_destroyed_is_shown_as_it_is() {
        let person = |event: &Recorded| data(event).expect("JSON")["PartyUpdated"]["personal"].clone();
        assert_eq!(person(&opened()), json!({"names": {"full": "Ana"}}));
        assert_eq!(person(&updated("null")), Value::Null);
    }

    #[test]
    fn a_summary_has_nothing_of_what_happened_but_who_operated_on_what_and_why() {
        let shown = summary(&opened());
        assert_eq!((&shown["type"], &shown["position"]), (&json!("PartyUpdated"), &json!(7)));
        let text = shown.to_string();
        assert!(shown.get("data").is_none() && !text.contains("Ana") && !text.contains("tenant"), "{text}");
        assert!(shown.get("by").is_none() && shown.get("reason").is_none(), "{text}");

        let fact = r#"{"by": "ana (1000)", "reason": "asked", "verb": "events show", "events": ["legal:7"]}"#;
        let payload = format!(r#"{{"PersonalDataRevealed": {fact}}}"#);
        let shown = summary(&event(AggregateKind::Operations, "PersonalDataRevealed", &payload));
        assert_eq!((&shown["by"], &shown["reason"]), (&json!("ana (1000)"), &json!("asked")));
        assert_eq!(shown["what"], json!("events show"));
        assert!(!shown.to_string().contains("legal:7"), "{shown}");

        let fact = r#"{"by": "ana (1000)", "reason": "poison", "model": "units", "stream": "unit:1", "position": 9}"#;
        let payload = format!(r#"{{"ParkedEventSkipped": {fact}}}"#);
        let shown = summary(&event(AggregateKind::Operations, "ParkedEventSkipped", &payload));
        assert_eq!(shown["what"], json!("units: position 9 of unit:1"));
    }

    #[test]
    fn only_the_person_of_an_event_is_sealed() {
        assert!(is_sealed(&sealed()));
        let noted = |payload: &str| event(AggregateKind::Party, "Noted", payload);
        let others = [
            opened(),
            updated("null"),
            // The word alone means nothing.
            updated(r#""sealed""#),
            updated(r#"{"names": {"sealed": {"subject": "party:3"}}}"#),
            noted(r#"{"Noted": {"sealed": {"subject": "party:3"}}}"#),
            noted(r#"{"Noted": {"note": {"personal": {"sealed": {"subject": "party:3"}}}}}"#),
            noted(r#"{"sealed": 1}"#),
            noted(r#"["sealed"]"#),
            noted(r#"{"sealed": "#),
        ];
        for other in others {
            assert!(!is_sealed(&other), "{}", other.payload.get());
        }
    }

    #[test]
    fn without_its_person_an_event_reads_as_if_the_key_were_destroyed() {
        let before = sealed();
        assert!(before.decode::<PartyEvent>().is_err(), "what is sealed was read as a person");
        let after = without_person(&before).expect("JSON");
        let PartyEvent::PartyUpdated { party_id, roles, personal } = after.decode().expect("an event") else {
            panic!("another event: {}", after.payload.get());
        };
        assert_eq!((party_id.to_string().as_str(), roles.len(), personal), (PARTY, 1, Personal(None)));
        assert!(!is_sealed(&after) && is_sealed(&before), "the event itself was changed");
        assert_eq!((after.position, &after.stream, after.sequence), (before.position, &before.stream, before.sequence));
    }

    #[test]
    fn an_event_that_is_not_sealed_keeps_every_byte() {
        for event in [opened(), updated("null"), event(AggregateKind::Party, "Noted", "{\"Noted\":\n{}}")] {
            assert_eq!(without_person(&event).expect("JSON").payload.get(), event.payload.get());
        }
    }

    #[test]
    fn a_hash_is_hidden_wherever_it_stands_and_nothing_else() {
        let mut shown = json!({
            "password_hash": "$argon2id$1",
            "account": {"password_hash": "$argon2id$2", "username": "ana", "failures": 3},
            "before": [{"password_hash": "$argon2id$3"}, [{"password_hash": {"phc": "$argon2id$4"}}], "ana", 1],
            "invited": {"password_hash": null},
            "password_hash_of": "the word is another",
        });
        hide_password_hash(&mut shown);
        let expected = json!({
            "password_hash": "(hidden)",
            "account": {"password_hash": "(hidden)", "username": "ana", "failures": 3},
            "before": [{"password_hash": "(hidden)"}, [{"password_hash": "(hidden)"}], "ana", 1],
            "invited": {"password_hash": null},
            "password_hash_of": "the word is another",
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_hash_is_hidden_in_a_revealed_event_too() {
        let payload = r#"{"UserRegistered": {"personal": {"name": "Ana"}, "password_hash": "$argon2id$v=19$m=8"}}"#;
        let shown = whole(&event(AggregateKind::User, "UserRegistered", payload)).expect("JSON");
        let expected = json!({"UserRegistered": {"personal": {"name": "Ana"}, "password_hash": "(hidden)"}});
        assert_eq!(shown["data"], expected);
    }

    #[test]
    fn a_payload_that_is_no_json_is_told_and_not_shown() {
        let broken = event(AggregateKind::Party, "PartyUpdated", "{");
        assert!(data(&broken).is_err() && whole(&broken).is_err());
        assert_eq!(without_person(&broken).expect("nothing to take out").payload.get(), "{");
    }
}
