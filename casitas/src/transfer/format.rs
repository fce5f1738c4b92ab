//! The lines of a native export.

use anyhow::{Context as _, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::{AggregateKind, Context, Date, StreamId, Timestamp};
use ports::{Checkpoint, FollowerAt, Incarnation, Keep, KeptKey, Metadata, Position, Recorded, WrappedKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

pub const EVENTS: &str = "casitas-events";
pub const SUBJECT_KEYS: &str = "casitas-subject-keys";
pub const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    Header(Header),
    Event(EventLine),
    Key(KeyLine),
    Subject(SubjectLine),
    Trailer(Trailer),
}

impl Line {
    pub fn write(&self) -> Result<String> {
        serde_json::to_string(self).context("a line cannot be written")
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub format: String,
    pub version: u32,
    pub contexts: Vec<ContextHead>,
}

impl Header {
    pub fn check(&self, format: &str) -> Result<()> {
        ensure!(self.format == format, "this is a file of {:?}, not of {format:?}", self.format);
        ensure!(
            self.version == VERSION,
            "the file has version {}, this casitas reads version {VERSION}: use the release that wrote it",
            self.version
        );
        Ok(())
    }

    pub fn events(&self) -> u64 {
        self.contexts.iter().map(|context| context.position).sum()
    }
}

/// Where a log stood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextHead {
    pub context: Context,
    pub incarnation: Incarnation,
    /// Also the number of its events.
    pub position: Position,
    pub followers: Vec<FollowerLine>,
}

impl ContextHead {
    pub fn followers(&self) -> Vec<FollowerAt> {
        let at = |follower: &FollowerLine| FollowerAt {
            name: follower.name.clone(),
            checkpoint: Checkpoint {
                incarnation: self.incarnation,
                position: follower.position,
                event_id: follower.event_id,
            },
        };
        self.followers.iter().map(at).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FollowerLine {
    pub name: String,
    pub position: Position,
    pub event_id: Option<Uuid>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct EventLine {
    pub context: Context,
    pub position: Position,
    pub event_id: Uuid,
    /// The aggregate's kind.
    pub kind: String,
    pub stream: String,
    pub sequence: u64,
    #[serde(rename = "type")]
    pub event_type: String,
    pub version: String,
    pub effective_on: Date,
    pub recorded_at: Timestamp,
    pub actor: String,
    pub correlation_id: Uuid,
    pub causation_id: Option<Uuid>,
    pub traceparent: Option<String>,
    /// As stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Instead of `data` where the stored text has line breaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_text: Option<String>,
}

impl EventLine {
    pub fn of(event: &Recorded) -> ports::Result<Self> {
        let broken = event.payload.get().contains(['\n', '\r']);
        Ok(Self {
            context: event.stream.context(),
            position: event.position,
            event_id: event.event_id,
            kind: event.stream.kind.as_str().to_owned(),
            stream: event.stream.id.clone(),
            sequence: event.sequence,
            event_type: event.event_type.clone(),
            version: event.event_version.clone(),
            effective_on: event.effective_on,
            recorded_at: event.recorded_at,
            actor: event.metadata.actor.clone(),
            correlation_id: event.metadata.correlation_id,
            causation_id: event.metadata.causation_id,
            traceparent: event.metadata.traceparent.clone(),
            data: if broken { None } else { Some(event.payload.to_raw()?) },
            data_text: broken.then(|| event.payload.get().to_owned()),
        })
    }

    pub fn recorded(self) -> Result<Recorded> {
        let kind: AggregateKind = self.kind.parse().map_err(|error: String| {
            anyhow::anyhow!("{}:{}: {error}: a newer casitas wrote it", self.context, self.position)
        })?;
        let payload = match (self.data, self.data_text) {
            (Some(data), None) => data,
            (None, Some(text)) => RawValue::from_string(text)?,
            _ => anyhow::bail!("{}:{} must have either data or data_text", self.context, self.position),
        };
        Ok(Recorded {
            position: self.position,
            event_id: self.event_id,
            stream: StreamId::new(kind, self.stream),
            sequence: self.sequence,
            event_type: self.event_type,
            event_version: self.version,
            payload: payload.into(),
            effective_on: self.effective_on,
            recorded_at: self.recorded_at,
            metadata: Metadata {
                actor: self.actor,
                correlation_id: self.correlation_id,
                causation_id: self.causation_id,
                traceparent: self.traceparent,
            },
        })
    }
}

/// An event as a line.
pub fn event_line(event: &Recorded) -> Result<String> {
    Line::Event(EventLine::of(event)?).write()
}

/// An idempotency key that is kept for ever.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyLine {
    pub context: Context,
    pub scope: String,
    pub key: String,
    pub request_hash: String,
    pub position: Position,
    pub created_at: Timestamp,
    pub outcome: Box<RawValue>,
}

/// `None` for a key that stays behind: that of an HTTP caller, or one that was kept beyond the export.
pub fn key_line(context: Context, upto: Position, key: KeptKey) -> Option<Line> {
    let stays_behind = key.keep != Keep::Forever || key.position > upto;
    let KeptKey { scope, key, request_hash, position, created_at, outcome, .. } = (!stays_behind).then_some(key)?;
    Some(Line::Key(KeyLine { context, scope, key, request_hash, position, created_at, outcome }))
}

impl From<KeyLine> for KeptKey {
    fn from(line: KeyLine) -> Self {
        Self {
            scope: line.scope,
            key: line.key,
            keep: Keep::Forever,
            request_hash: line.request_hash,
            outcome: line.outcome,
            position: line.position,
            created_at: line.created_at,
        }
    }
}

/// The key of a data subject, wrapped by the master key.
#[derive(Debug, Serialize, Deserialize)]
pub struct SubjectLine {
    pub context: Context,
    pub subject: String,
    /// Base64; absent once the key was destroyed.
    pub wrapped: Option<String>,
    pub created_at: Timestamp,
    pub erased_at: Option<Timestamp>,
}

impl SubjectLine {
    pub fn of(context: Context, key: WrappedKey) -> Self {
        let WrappedKey { subject, wrapped, created_at, erased_at } = key;
        Self { context, subject, wrapped: wrapped.map(|bytes| STANDARD.encode(bytes)), created_at, erased_at }
    }

    pub fn key(self) -> Result<WrappedKey> {
        let subject = self.subject;
        let decode =
            |text: String| STANDARD.decode(text).with_context(|| format!("the wrapped key of {subject} is not base64"));
        let wrapped = self.wrapped.map(decode).transpose()?;
        ensure!(wrapped.is_none() == self.erased_at.is_some(), "the key of {subject} is neither there nor destroyed");
        Ok(WrappedKey { subject, wrapped, created_at: self.created_at, erased_at: self.erased_at })
    }
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    pub events: u64,
    /// Idempotency keys, or keys of data subjects.
    pub keys: u64,
    /// Of all lines before this one, in hex.
    pub sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(payload: &str) -> Recorded {
        Recorded {
            position: 7,
            event_id: Uuid::from_u128(1),
            stream: StreamId::new(AggregateKind::Unit, "0192"),
            sequence: 2,
            event_type: "UnitListed".into(),
            event_version: "1".into(),
            payload: RawValue::from_string(payload.into()).expect("JSON").into(),
            effective_on: Date::constant(2025, 1, 2),
            recorded_at: "2025-01-02T03:04:05.000006Z".parse().expect("an instant"),
            metadata: Metadata {
                actor: "cli".into(),
                correlation_id: Uuid::from_u128(2),
                causation_id: None,
                traceparent: None,
            },
        }
    }

    #[test]
    fn a_payload_keeps_every_byte_and_its_line() {
        for payload in
            [r#"{"A":{ "b" : 1.50, "c":"\u00e9é","a":1}}"#, "{\"A\":\n{}}", "{}", r#"{"big":12345678901234567890.5}"#]
        {
            let line = Line::Event(EventLine::of(&event(payload)).expect("a line")).write().expect("written");
            assert!(!line.contains('\n'), "{line}");
            let Ok(Line::Event(read)) = serde_json::from_str(&line) else { panic!("{line}") };
            let read = read.recorded().expect("an event");
            assert_eq!(read.payload.get(), payload);
            assert_eq!(format!("{read:?}"), format!("{:?}", event(payload)));
        }
    }

    #[test]
    fn the_shape_of_a_line_is_for_thirty_years() {
        let line = Line::Event(EventLine::of(&event(r#"{"UnitListed":{}}"#)).expect("a line")).write().expect("written");
        assert_eq!(
            line,
            r#"{"event":{"context":"units","position":7,"event_id":"00000000-0000-0000-0000-000000000001","kind":"unit","stream":"0192","sequence":2,"type":"UnitListed","version":"1","effective_on":"2025-01-02","recorded_at":"2025-01-02T03:04:05.000006Z","actor":"cli","correlation_id":"00000000-0000-0000-0000-000000000002","causation_id":null,"traceparent":null,"data":{"UnitListed":{}}}}"#
        );
    }
}
