//! The event logs as they are on Postgres' disk, and what must be true of them whoever wrote.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::servers::Postgres;

pub const CONTEXTS: [&str; 5] = ["auth", "units", "legal", "finances", "reports"];

#[derive(Clone, Debug)]
pub struct Stored {
    pub position: u64,
    /// `unit:0192…`
    pub stream: String,
    pub sequence: u64,
    pub kind: String,
    pub correlation: String,
    pub marker: String,
    pub recorded_us: i64,
    pub payload: Value,
}

pub type Logs = BTreeMap<&'static str, Vec<Stored>>;

pub fn read(postgres: &Postgres) -> Result<Logs> {
    CONTEXTS.iter().map(|context| Ok((*context, read_one(postgres, context)?))).collect()
}

pub fn read_one(postgres: &Postgres, context: &str) -> Result<Vec<Stored>> {
    let sql = "SELECT row_to_json(e) FROM (SELECT position, aggregate_type, aggregate_id, sequence, event_type,
        correlation_id, coalesce(traceparent, '') AS marker, (extract(epoch FROM recorded_at) * 1000000)::bigint AS at,
        payload FROM events ORDER BY position, aggregate_type, aggregate_id, sequence) e";
    let rows = postgres.sql(&format!("{context}_db"), sql)?;
    rows.lines().filter(|line| !line.is_empty()).map(|line| stored(line).with_context(|| line.to_owned())).collect()
}

fn stored(line: &str) -> Result<Stored> {
    let row: Value = serde_json::from_str(line)?;
    let text = |name: &str| row[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
    let number = |name: &str| row[name].as_u64().with_context(|| format!("no {name}"));
    let payload = match &row["payload"] {
        Value::Object(named) if named.len() == 1 => named.values().next().cloned().unwrap_or_default(),
        other => other.clone(),
    };
    Ok(Stored {
        position: number("position")?,
        stream: format!("{}:{}", text("aggregate_type")?, text("aggregate_id")?),
        sequence: number("sequence")?,
        kind: text("event_type")?,
        correlation: text("correlation_id")?,
        marker: text("marker")?,
        recorded_us: row["at"].as_i64().context("no time")?,
        payload,
    })
}

/// Positions 1, 2, 3 …, each stream 1, 2, 3 … in their order, and time that never goes back.
pub fn disorder(logs: &Logs) -> Vec<String> {
    let mut found = Vec::new();
    for (context, events) in logs {
        let mut versions: BTreeMap<&str, u64> = BTreeMap::new();
        let mut recorded = i64::MIN;
        for (event, expected) in events.iter().zip(1..) {
            let Stored { position, stream, sequence, .. } = event;
            if *position != expected {
                found.push(format!("{context}: position {position} stands where {expected} should"));
            }
            let version = versions.entry(stream).or_default();
            *version += 1;
            if *sequence != *version {
                found.push(format!("{context}:{position}: {stream} has version {sequence} where {version} should be"));
            }
            if event.recorded_us < recorded {
                found.push(format!("{context}:{position} was recorded before the event before it"));
            }
            recorded = event.recorded_us;
        }
    }
    found
}

/// Overlapping days of one unit that two of its events gave to two takers.
pub fn double_booked(units: &[Stored]) -> Vec<String> {
    let mut found = Vec::new();
    let mut taken: BTreeMap<&str, BTreeMap<String, (String, String)>> = BTreeMap::new();
    // ISO dates compare as text; without an end the unit is taken for good.
    let end = |value: &Value| value.as_str().unwrap_or("9999-12-31").to_owned();
    for event in units {
        let entries = taken.entry(&event.stream).or_default();
        let fact = &event.payload;
        let id = |name: &str| fact[name].as_str().unwrap_or_default().to_owned();
        let new = match event.kind.as_str() {
            "HoldPlaced" => id("hold_id"),
            "UnitReserved" => {
                for hold in fact["consumed_holds"].as_array().into_iter().flatten() {
                    entries.remove(hold.as_str().unwrap_or_default());
                }
                id("lease_id")
            }
            "HoldReleased" | "HoldExpired" => {
                entries.remove(&id("hold_id"));
                continue;
            }
            "ReservationReleased" => {
                entries.remove(&id("lease_id"));
                continue;
            }
            _ => continue,
        };
        let (from, to) = (id("from"), end(&fact["to"]));
        for (other, (its_from, its_to)) in entries.iter() {
            if from < *its_to && *its_from < to {
                found.push(format!(
                    "{}: {new} has {from} to {to} (units:{}), {other} has {its_from} to {its_to}",
                    event.stream, event.position
                ));
            }
        }
        entries.insert(new, (from, to));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(position: u64, kind: &str, payload: Value) -> Stored {
        Stored {
            position,
            stream: "unit:a".into(),
            sequence: position,
            kind: kind.into(),
            correlation: String::new(),
            marker: String::new(),
            recorded_us: position as i64,
            payload,
        }
    }

    #[test]
    fn overlapping_days_are_found_and_released_ones_are_not() {
        let hold = |id: &str, from: &str, to: &str| json!({"hold_id": id, "from": from, "to": to});
        let mut events = vec![
            event(1, "HoldPlaced", hold("a", "2026-01-01", "2026-01-05")),
            event(2, "HoldPlaced", hold("b", "2026-01-05", "2026-01-07")),
            event(3, "HoldReleased", json!({"hold_id": "a"})),
            event(4, "HoldPlaced", hold("c", "2026-01-02", "2026-01-03")),
        ];
        assert_eq!(double_booked(&events), Vec::<String>::new());
        events.push(event(
            5,
            "UnitReserved",
            json!({"lease_id": "l", "from": "2026-01-06", "to": null, "consumed_holds": []}),
        ));
        assert_eq!(double_booked(&events).len(), 1);
    }

    #[test]
    fn gaps_and_forks_are_found() {
        let logs = |positions: &[u64]| {
            Logs::from([("units", positions.iter().map(|at| event(*at, "UnitUnlisted", json!({}))).collect())])
        };
        assert!(disorder(&logs(&[1, 2, 3])).is_empty());
        assert_eq!(disorder(&logs(&[1, 3])).len(), 2, "a gap in positions, and one in versions");
        assert!(!disorder(&logs(&[1, 2, 2])).is_empty());
    }
}
