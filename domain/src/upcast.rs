//! Old versions of events, read as today's. Nothing in a log is rewritten: a changed event gets a new version
//! (`event_names!(…, Variant = "2")`) and a step here that makes the new shape of the old one. The golden file of the
//! old version stays for ever (`golden.rs`).

use serde_json::Value;

use crate::AggregateKind;

/// From one stored version of an event to the next.
pub struct Upcast {
    pub kind: AggregateKind,
    pub event_type: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    /// Changes the body, what stands under the event's type. `personal` is opened or null by then.
    pub with: fn(&mut Value),
}

/// Every step there is. None so far: each event is still at its first version.
const UPCASTS: &[Upcast] = &[];

/// Whether an event must be upcast before it is read.
pub fn is_old(kind: AggregateKind, event_type: &str, version: &str) -> bool {
    step(UPCASTS, kind, event_type, version).is_some()
}

/// Brings an opened payload to the latest version that the steps lead to; answers that version.
pub fn upcast<'a>(kind: AggregateKind, event_type: &str, version: &'a str, payload: &mut Value) -> &'a str {
    upcast_by(UPCASTS, kind, event_type, version, payload)
}

/// Whether the steps lead from a stored version to the one that this build reads.
pub fn is_readable(kind: AggregateKind, event_type: &str, version: &str, current: &str) -> bool {
    upcast(kind, event_type, version, &mut Value::Null) == current
}

fn upcast_by<'a>(
    steps: &'static [Upcast],
    kind: AggregateKind,
    event_type: &str,
    version: &'a str,
    payload: &mut Value,
) -> &'a str {
    let mut version = version;
    while let Some(step) = step(steps, kind, event_type, version) {
        if let Some(body) = payload.get_mut(event_type) {
            (step.with)(body);
        }
        version = step.to;
    }
    version
}

fn step(steps: &'static [Upcast], kind: AggregateKind, event_type: &str, version: &str) -> Option<&'static Upcast> {
    steps.iter().find(|step| step.kind == kind && step.event_type == event_type && step.from == version)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rename(body: &mut Value) {
        let price = body["rent"].take();
        *body = json!({"price": price});
    }

    fn add_currency(body: &mut Value) {
        body["currency"] = json!("USD");
    }

    const STEPS: &[Upcast] = &[
        Upcast { kind: AggregateKind::Unit, event_type: "UnitListed", from: "1", to: "2", with: rename },
        Upcast { kind: AggregateKind::Unit, event_type: "UnitListed", from: "2", to: "3", with: add_currency },
    ];

    #[test]
    fn an_old_event_goes_through_every_step_to_today() {
        for (version, body) in
            [("1", json!({"rent": 5})), ("2", json!({"price": 5})), ("3", json!({"price": 5, "currency": "USD"}))]
        {
            let mut payload = json!({ "UnitListed": body });
            assert_eq!(upcast_by(STEPS, AggregateKind::Unit, "UnitListed", version, &mut payload), "3");
            assert_eq!(payload, json!({"UnitListed": {"price": 5, "currency": "USD"}}));
        }
    }

    #[test]
    fn other_events_and_later_versions_stay_as_they_are() {
        for (kind, event_type, version) in [
            (AggregateKind::Unit, "UnitUnlisted", "1"),
            (AggregateKind::Property, "UnitListed", "1"),
            (AggregateKind::Unit, "UnitListed", "4"),
        ] {
            let mut payload = json!({"UnitListed": {"rent": 5}});
            assert_eq!(upcast_by(STEPS, kind, event_type, version, &mut payload), version);
            assert_eq!(payload, json!({"UnitListed": {"rent": 5}}));
        }
    }

    #[test]
    fn every_step_leads_to_the_version_that_is_written_today() {
        for step in UPCASTS {
            let (names, versions) = crate::with_aggregate!(step.kind, A => {
                (<<A as crate::Aggregate>::Event>::NAMES, <<A as crate::Aggregate>::Event>::VERSIONS)
            });
            let current = names.iter().position(|name| *name == step.event_type).map(|place| versions[place]);
            assert!(current.is_some_and(|current| is_readable(step.kind, step.event_type, step.from, current)));
        }
    }
}
