//! `state` and `diff`: what an aggregate was, and what changed between two moments.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use domain::{AggregateKind, Context, Decide, StreamId, Timestamp, with_aggregate};
use ports::Recorded;
use serde_json::{Value, json};

use super::filter::{instant, stream_id};
use super::look::stream_of;
use super::masked::{Reveal, hide_password_hash, without_person};
use crate::exit;
use crate::operator::{Operator, Refusal, Rows, chained, misunderstood};

/// A moment in the life of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// 0 is before the first event.
    Version(u64),
    /// What was recorded at this instant counts.
    Instant(Timestamp),
    Now,
}

impl At {
    fn parse(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(version) => Ok(Self::Version(version)),
            Err(_) => Ok(Self::Instant(instant("a moment that is no version", text)?)),
        }
    }

    fn includes(self, event: &Recorded) -> bool {
        match self {
            Self::Version(version) => event.sequence <= version,
            Self::Instant(at) => event.recorded_at <= at,
            Self::Now => true,
        }
    }
}

impl Operator {
    pub(super) async fn show_state(
        &self,
        context: &str,
        stream: &str,
        at: Option<&str>,
        reveal: &Reveal,
        rows: &Rows,
    ) -> Result<u8> {
        let at = at.map_or(Ok(At::Now), At::parse)?;
        let (stream, events) = self.life("events state", context, stream, reveal).await?;
        if let At::Version(version) = at
            && version > events.len() as u64
        {
            let message = format!("{stream} has {} versions; there is no {version}", events.len());
            return Err(Refusal::new(exit::NOT_FOUND, message).into());
        }
        let until: Vec<Recorded> = events.into_iter().filter(|event| at.includes(event)).collect();
        let Some(last) = until.last() else {
            return Err(Refusal::new(exit::NOT_FOUND, format!("{stream} did not exist then")).into());
        };
        rows.send(json!({
            "context": stream.context().as_str(),
            "stream": stream.to_string(),
            "version": last.sequence,
            "position": last.position,
            "recorded_at": last.recorded_at.to_string(),
            "type": last.event_type,
            "state": state_of(&stream, &until)?,
        }))
        .await?;
        Ok(exit::OK)
    }

    pub(super) async fn show_diff(
        &self,
        context: &str,
        stream: &str,
        moments: [&str; 2],
        reveal: &Reveal,
        rows: &Rows,
    ) -> Result<u8> {
        let [a, b] = [At::parse(moments[0])?, At::parse(moments[1])?];
        let (stream, events) = self.life("events diff", context, stream, reveal).await?;
        let state = |at: At| {
            let until: Vec<Recorded> = events.iter().filter(|event| at.includes(event)).cloned().collect();
            match until.is_empty() {
                true => Ok(Value::Null),
                false => state_of(&stream, &until),
            }
        };
        for change in changes(&state(a)?, &state(b)?) {
            rows.send(change).await?;
        }
        Ok(exit::OK)
    }

    /// A stream's events, revealed or as of a person that nothing is known of.
    async fn life(&self, verb: &str, context: &str, text: &str, reveal: &Reveal) -> Result<(StreamId, Vec<Recorded>)> {
        let log = self.logs(Some(context))?.remove(0);
        let candidates = match text.contains(':') {
            true => vec![stream_id(text)?],
            false => kinds_of(log.context()).map(|kind| StreamId::new(kind, text)).collect(),
        };
        for stream in candidates {
            if stream.context() != log.context() {
                return Err(misunderstood(format!("{stream} belongs to the {} log, not to {context}", stream.context())));
            }
            let mut events = stream_of(&*log, &stream).await?;
            if events.is_empty() {
                continue;
            }
            match reveal.reveal {
                true => self.reveal(verb, reveal, &mut events).await?,
                false => events = events.iter().map(without_person).collect::<Result<_>>()?,
            }
            return Ok((stream, events));
        }
        Err(Refusal::new(exit::NOT_FOUND, format!("there is no stream {text} in the {context} log")).into())
    }
}

fn kinds_of(context: Context) -> impl Iterator<Item = AggregateKind> {
    AggregateKind::ALL.iter().copied().filter(move |kind| kind.context() == context)
}

fn state_of(stream: &StreamId, events: &[Recorded]) -> Result<Value> {
    let mut state = with_aggregate!(stream.kind, A => fold::<A>(events))?;
    hide_password_hash(&mut state);
    Ok(state)
}

fn fold<A: Decide>(events: &[Recorded]) -> Result<Value> {
    let mut aggregate = A::default();
    for event in events {
        aggregate.apply(event.decode().map_err(chained)?);
    }
    serde_json::to_value(&aggregate).context("the state cannot be shown")
}

/// The differences of two documents, each at its JSON pointer.
fn changes(a: &Value, b: &Value) -> Vec<Value> {
    let mut found = vec![];
    compare("", a, b, &mut found);
    found
}

fn compare(pointer: &str, a: &Value, b: &Value, found: &mut Vec<Value>) {
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => {
            let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for name in names {
                let pointer = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                side_by_side(&pointer, left.get(name), right.get(name), found);
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            for place in 0..left.len().max(right.len()) {
                side_by_side(&format!("{pointer}/{place}"), left.get(place), right.get(place), found);
            }
        }
        _ if a == b => {}
        _ => found.push(json!({"pointer": pointer, "change": "changed", "before": a, "after": b})),
    }
}

fn side_by_side(pointer: &str, a: Option<&Value>, b: Option<&Value>, found: &mut Vec<Value>) {
    match (a, b) {
        (Some(a), Some(b)) => compare(pointer, a, b, found),
        (None, Some(b)) => found.push(json!({"pointer": pointer, "change": "added", "before": null, "after": b})),
        (Some(a), None) => found.push(json!({"pointer": pointer, "change": "removed", "before": a, "after": null})),
        (None, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_by_their_pointers() {
        let a = json!({"same": [1, {"x": 1}], "gone": 1, "list": [1, 2, 3], "a/b": 1, "kind": {"x": 1}});
        let b = json!({"same": [1, {"x": 1}], "new": {"y": null}, "list": [1, 5], "a/b": 2, "kind": [1]});
        let found = changes(&a, &b);
        assert_eq!(
            found,
            [
                json!({"pointer": "/a~1b", "change": "changed", "before": 1, "after": 2}),
                json!({"pointer": "/gone", "change": "removed", "before": 1, "after": null}),
                json!({"pointer": "/kind", "change": "changed", "before": {"x": 1}, "after": [1]}),
                json!({"pointer": "/list/1", "change": "changed", "before": 2, "after": 5}),
                json!({"pointer": "/list/2", "change": "removed", "before": 3, "after": null}),
                json!({"pointer": "/new", "change": "added", "before": null, "after": {"y": null}}),
            ]
        );
        assert!(changes(&a, &a).is_empty());
        assert_eq!(changes(&Value::Null, &json!({})).len(), 1, "what did not exist");
    }

    #[test]
    fn a_moment_is_a_version_or_an_instant() {
        assert_eq!(At::parse("3").expect("a version"), At::Version(3));
        assert!(matches!(At::parse("2026-11-01").expect("a day"), At::Instant(_)));
        assert!(At::parse("-1").is_err() && At::parse("late").is_err());
    }
}
