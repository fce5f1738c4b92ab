//! Which events a verb is about, as an operator says it and as a log is asked.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::Result;
use domain::{AggregateKind, Context, Date, StreamId, Timestamp};
use ports::{EventLog, EventQuery, Position, position_before};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::operator::{Operator, chained, misunderstood};

#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct EventFilter {
    /// auth, units, legal, finances or reports; all when absent.
    #[arg(long)]
    pub context: Option<String>,
    /// The stream, e.g. unit:0192….
    #[arg(long)]
    pub stream: Option<String>,
    /// Event type, e.g. HoldPlaced.
    #[arg(long = "type")]
    pub event_type: Option<String>,
    /// Recorded at or after this instant or day (UTC), e.g. 2026-11-01T00:00:00Z.
    #[arg(long)]
    pub since: Option<String>,
    /// Recorded before this instant or day (UTC).
    #[arg(long)]
    pub until: Option<String>,
    /// Only after this position (with --context).
    #[arg(long)]
    pub after_position: Option<u64>,
    /// Only up to this position (with --context).
    #[arg(long)]
    pub until_position: Option<u64>,
    /// Who caused it, e.g. user:0192…, timer:hold-expiry, 'cli:ana (1000)'.
    #[arg(long)]
    pub actor: Option<String>,
    /// The conversation it belongs to.
    #[arg(long)]
    pub correlation: Option<Uuid>,
}

/// A stretch of one log and what is wanted of it.
pub struct Scope {
    pub log: Arc<dyn EventLog>,
    pub query: EventQuery,
    pub after: Position,
    /// The head, unless the stretch ends before it.
    pub upto: Position,
    /// Whether it was said where it begins.
    pub begins: bool,
    /// Whether it was said where it ends.
    pub ends: bool,
}

impl Scope {
    pub fn context(&self) -> Context {
        self.log.context()
    }

    pub fn wants(&self, event: &ports::Recorded) -> bool {
        (self.after + 1..=if self.ends { self.upto } else { u64::MAX }).contains(&event.position)
            && self.query.matches(event)
    }
}

impl Operator {
    /// One scope a log.
    pub(super) async fn scopes(&self, filter: &EventFilter) -> Result<Vec<Scope>> {
        if filter.context.is_none() && (filter.after_position.is_some() || filter.until_position.is_some()) {
            return Err(misunderstood("positions need --context: each context counts its own"));
        }
        let stream = filter.stream.as_deref().map(stream_id).transpose()?;
        let context = match (&filter.context, &stream) {
            (Some(name), Some(stream)) if *name != stream.context().as_str() => {
                return Err(misunderstood(format!("{stream} belongs to the {} log, not to {name}", stream.context())));
            }
            (Some(name), _) => Some(name.as_str()),
            (None, Some(stream)) => Some(stream.context().as_str()),
            (None, None) => None,
        };
        let since = filter.since.as_deref().map(|text| instant("--since", text)).transpose()?;
        let until = filter.until.as_deref().map(|text| instant("--until", text)).transpose()?;
        let query = EventQuery {
            stream,
            event_id: None,
            event_type: filter.event_type.clone(),
            actor: filter.actor.clone(),
            correlation_id: filter.correlation,
        };
        let mut scopes = vec![];
        for log in self.logs(context)? {
            let mut after = filter.after_position.unwrap_or(0);
            let mut upto = log.head().await.map_err(chained)?.position;
            if let Some(since) = since {
                after = after.max(position_before(&*log, since).await.map_err(chained)?);
            }
            if let Some(until) = until {
                upto = upto.min(position_before(&*log, until).await.map_err(chained)?);
            }
            let upto = upto.min(filter.until_position.unwrap_or(u64::MAX));
            let begins = filter.after_position.is_some() || since.is_some();
            let ends = filter.until_position.is_some() || until.is_some();
            scopes.push(Scope { log, query: query.clone(), after, upto, begins, ends });
        }
        Ok(scopes)
    }
}

/// `unit:0192…`
pub fn stream_id(text: &str) -> Result<StreamId> {
    let Some((kind, id)) = text.split_once(':') else {
        let message = format!("{text:?} is no stream: write KIND:ID, e.g. unit:0192…; kinds are {}", kinds());
        return Err(misunderstood(message));
    };
    let kind = AggregateKind::from_str(kind).map_err(|error| misunderstood(format!("{error}: one of {}", kinds())))?;
    Ok(StreamId::new(kind, id))
}

fn kinds() -> String {
    AggregateKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
}

/// An instant, or a day's beginning in UTC.
pub fn instant(what: &str, text: &str) -> Result<Timestamp> {
    if let Ok(day) = Date::from_str(text)
        && text.len() == "2026-11-01".len()
    {
        return Ok(Timestamp::from_str(&format!("{day}T00:00:00Z"))?);
    }
    Timestamp::from_str(text).map_err(|_| {
        let example = "e.g. 2026-11-01T00:00:00Z or 2026-11-01";
        misunderstood(format!("{what} is an instant or a day, {example}; {text:?} is neither"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_a_kind_and_an_id() {
        let stream = stream_id("user_name:ana").expect("a stream");
        assert_eq!((stream.kind, stream.id.as_str()), (AggregateKind::UserNameClaim, "ana"));
        for text in ["ana", "house:1", ""] {
            let refused = stream_id(text).expect_err("no stream").to_string();
            assert!(refused.contains("unit"), "{refused}");
        }
    }

    #[test]
    fn a_moment_is_an_instant_or_a_day() {
        let at = |text| instant("--since", text).map(|at| at.to_string()).ok();
        assert_eq!(at("2026-11-01").as_deref(), Some("2026-11-01T00:00:00Z"));
        assert_eq!(at("2026-11-01T02:00:00+02:00").as_deref(), Some("2026-11-01T00:00:00Z"));
        assert_eq!(at("yesterday"), None);
        assert_eq!(at("2026-13-01"), None);
    }
}
