//! The hash chain over a context's log: it shows later that history was edited, cut, reordered or added to.
//!
//! `digest(event) = SHA-256(columns as stored, each with its length before it)`, and `hash(n) = SHA-256(hash(n - 1) ‖ digest(n))`
//! from a first value that only the context's name gives. Payloads go in sealed, so that an erased key breaks nothing; both
//! modes store the same columns, so that a log that was exported and imported has the same hashes.
//!
//! A link is stored for each stretch of at most [`LINK_EVENTS_MAX`] events. What the chain cannot show by itself (it was
//! computed anew after an edit), a head that was written down elsewhere does.

use async_trait::async_trait;
use domain::{Context, Sha256, StreamId, Timestamp};
use serde_json::value::RawValue;

use crate::{Error, Metadata, Position, Recorded, Result};

/// Events that one link covers at most.
pub const LINK_EVENTS_MAX: usize = 1_000;

/// First bytes of an event's digest, kept in its link: they tell which event of a stretch is not the one that was sealed. No
/// more: what is proved is proved by the link's hash.
pub const MARK_BYTES: usize = 4;

/// An event's row as it stands, whatever is in it: it may have been written by anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    pub position: i64,
    pub event_id: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence: i64,
    pub event_type: String,
    pub event_version: String,
    /// Byte for byte, personal data sealed.
    pub payload: String,
    /// The column of that name, which is the cqrs-es crates' and empty (`{}`); ours have columns of their own.
    pub metadata: String,
    /// `2024-02-29`.
    pub effective_on: String,
    /// Microseconds since 1970.
    pub recorded_at_us: i64,
    pub actor: String,
    pub correlation_id: String,
    pub causation_id: Option<String>,
    pub traceparent: Option<String>,
}

impl StoredEvent {
    /// What the log stores of this event.
    pub fn of(event: &Recorded) -> Self {
        Self {
            position: event.position as i64,
            event_id: event.event_id.to_string(),
            aggregate_type: event.stream.kind.as_str().to_owned(),
            aggregate_id: event.stream.id.clone(),
            sequence: event.sequence as i64,
            event_type: event.event_type.clone(),
            event_version: event.event_version.clone(),
            payload: event.payload.get().to_owned(),
            metadata: "{}".to_owned(),
            effective_on: event.effective_on.to_string(),
            recorded_at_us: event.recorded_at.as_microsecond(),
            actor: event.metadata.actor.clone(),
            correlation_id: event.metadata.correlation_id.to_string(),
            causation_id: event.metadata.causation_id.map(|id| id.to_string()),
            traceparent: event.metadata.traceparent.clone(),
        }
    }

    /// The event that the columns make; `Corrupt` names the one that cannot be read.
    pub fn recorded(&self) -> Result<Recorded> {
        fn read<T: std::str::FromStr<Err: std::fmt::Display>>(column: &str, text: &str) -> Result<T> {
            text.parse().map_err(|error| Error::corrupt(format!("{column} {text:?} cannot be read: {error}")))
        }
        let count = |column: &str, number: i64| {
            u64::try_from(number).map_err(|_| Error::corrupt(format!("{column} {number} is negative")))
        };
        let recorded_at = Timestamp::from_microsecond(self.recorded_at_us);
        let payload = RawValue::from_string(self.payload.clone());
        Ok(Recorded {
            position: count("position", self.position)?,
            event_id: read("event_id", &self.event_id)?,
            stream: StreamId::new(read("aggregate_type", &self.aggregate_type)?, self.aggregate_id.clone()),
            sequence: count("sequence", self.sequence)?,
            event_type: self.event_type.clone(),
            event_version: self.event_version.clone(),
            payload: payload.map_err(|error| Error::corrupt(format!("the payload is not JSON: {error}")))?.into(),
            effective_on: read("effective_on", &self.effective_on)?,
            recorded_at: recorded_at.map_err(|error| Error::corrupt(format!("recorded_at cannot be read: {error}")))?,
            metadata: Metadata {
                actor: self.actor.clone(),
                correlation_id: read("correlation_id", &self.correlation_id)?,
                causation_id: self.causation_id.as_deref().map(|text| read("causation_id", text)).transpose()?,
                traceparent: self.traceparent.clone(),
            },
        })
    }

    /// `unit:0192…`, whether there is such a kind or not.
    pub fn stream(&self) -> String {
        format!("{}:{}", self.aggregate_type, self.aggregate_id)
    }

    /// SHA-256 over every column.
    pub fn digest(&self) -> Sha256 {
        let mut bytes = Vec::with_capacity(512 + self.payload.len());
        let mut put = |column: Option<&[u8]>| {
            // No text is as long as an absent one says it is.
            bytes.extend(column.map_or(u64::MAX, |column| column.len() as u64).to_be_bytes());
            bytes.extend(column.unwrap_or_default());
        };
        put(Some(&self.position.to_be_bytes()));
        put(Some(self.event_id.as_bytes()));
        put(Some(self.aggregate_type.as_bytes()));
        put(Some(self.aggregate_id.as_bytes()));
        put(Some(&self.sequence.to_be_bytes()));
        put(Some(self.event_type.as_bytes()));
        put(Some(self.event_version.as_bytes()));
        put(Some(self.payload.as_bytes()));
        put(Some(self.metadata.as_bytes()));
        put(Some(self.effective_on.as_bytes()));
        put(Some(&self.recorded_at_us.to_be_bytes()));
        put(Some(self.actor.as_bytes()));
        put(Some(self.correlation_id.as_bytes()));
        put(self.causation_id.as_deref().map(str::as_bytes));
        put(self.traceparent.as_deref().map(str::as_bytes));
        Sha256::of(&bytes)
    }
}

/// The chain up to a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainHead {
    pub position: Position,
    pub hash: Sha256,
}

impl ChainHead {
    /// Before the first event.
    pub fn start(context: Context) -> Self {
        Self { position: 0, hash: Sha256::of(format!("casitas chain 1: {context}").as_bytes()) }
    }

    /// Goes on over an event, wherever it stands; answers its mark.
    pub fn take(&mut self, event: &StoredEvent) -> [u8; MARK_BYTES] {
        let digest = event.digest();
        let mut both = [0; 64];
        both[..32].copy_from_slice(self.hash.bytes());
        both[32..].copy_from_slice(digest.bytes());
        *self = Self { position: u64::try_from(event.position).unwrap_or_default(), hash: Sha256::of(&both) };
        let [a, b, c, d, ..] = *digest.bytes();
        [a, b, c, d]
    }

    /// Goes on over what follows directly; answers the marks. `Corrupt` at a gap or a position that comes twice.
    pub fn extend(&mut self, context: Context, events: &[StoredEvent]) -> Result<Vec<u8>> {
        let mut marks = Vec::with_capacity(events.len() * MARK_BYTES);
        for event in events {
            if u64::try_from(event.position) != Ok(self.position + 1) {
                return Err(Error::corrupt(format!(
                    "the {context} log goes from position {} to {}: see `casitas events verify`",
                    self.position, event.position
                )));
            }
            marks.extend(self.take(event));
        }
        Ok(marks)
    }
}

/// A stored stretch of the chain: the events after `after` up to `head.position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub after: Position,
    pub head: ChainHead,
    /// [`MARK_BYTES`] for each event of the stretch.
    pub marks: Vec<u8>,
    pub sealed_at: Timestamp,
}

/// The chain of a log, stored beside it, and the log as it stands. Links are added, never changed or removed.
#[async_trait]
pub trait HashChain: Send + Sync + 'static {
    /// The rows after a position as they stand, in order of position and event id, whatever is wrong with them: at most `limit`
    /// and those at the same position as the last. Below every position: `i64::MIN`.
    async fn scan(&self, after: i64, limit: usize) -> Result<Vec<StoredEvent>>;

    async fn last_link(&self) -> Result<Option<Link>>;

    /// The links that end after a position, in order, at most `limit`.
    async fn links(&self, after: Position, limit: usize) -> Result<Vec<Link>>;

    /// Adds the stretch from `after` to `head`. `Conflict` when another one begins or ends there already: another sealer was
    /// first.
    async fn add_link(&self, after: Position, head: &ChainHead, marks: &[u8]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> StoredEvent {
        StoredEvent {
            position: 1,
            event_id: "018f3a4e-0000-7000-8000-000000000001".into(),
            aggregate_type: "unit".into(),
            aggregate_id: "a".into(),
            sequence: 1,
            event_type: "UnitAdded".into(),
            event_version: "1".into(),
            payload: r#"{"UnitAdded":{}}"#.into(),
            metadata: "{}".into(),
            effective_on: "2024-02-29".into(),
            recorded_at_us: 1_709_164_800_000_000,
            actor: "cli".into(),
            correlation_id: "018f3a4e-0000-7000-8000-000000000002".into(),
            causation_id: None,
            traceparent: None,
        }
    }

    #[test]
    fn a_change_of_any_column_is_another_digest() {
        let changes: [fn(&mut StoredEvent); 17] = [
            |_| {},
            |event| event.position = 2,
            |event| event.event_id.push('0'),
            |event| event.aggregate_type.push('s'),
            |event| event.aggregate_id.push('b'),
            |event| event.sequence = 2,
            |event| event.event_type.push('x'),
            |event| event.event_version.push('0'),
            |event| event.payload.push(' '),
            |event| event.metadata.push(' '),
            |event| event.effective_on.push(' '),
            |event| event.recorded_at_us += 1,
            |event| event.actor.push('x'),
            |event| event.correlation_id.push('x'),
            |event| event.causation_id = Some(String::new()),
            |event| event.traceparent = Some(String::new()),
            // What moves from one column into the next.
            |event| {
                event.aggregate_type = "uni".into();
                event.aggregate_id = "ta".into();
            },
        ];
        let digests = changes.map(|change| {
            let mut event = event();
            change(&mut event);
            event.digest().to_string()
        });
        let distinct: std::collections::HashSet<&String> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
    }

    /// Heads that were written down must fit for ever: what is hashed never changes.
    #[test]
    fn the_hash_of_a_known_event_stays_what_it_is() {
        let mut head = ChainHead::start(Context::Units);
        let mark = head.take(&event());
        let told: String = mark.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(event().digest().to_string().starts_with(&told));
        assert_eq!(head.position, 1);
        assert_eq!(head.hash.to_string(), "c0271cccbb9827784335bde6c1288836f51b201e35b3311b32757b72aa28bd57");
    }

    #[test]
    fn nothing_is_sealed_over_a_gap() {
        let mut head = ChainHead::start(Context::Units);
        let second = StoredEvent { position: 2, ..event() };
        assert!(matches!(head.extend(Context::Units, &[event(), event()]), Err(Error::Corrupt(_))));
        let mut head = ChainHead::start(Context::Units);
        assert!(matches!(head.extend(Context::Units, std::slice::from_ref(&second)), Err(Error::Corrupt(_))));
        assert_eq!(head.extend(Context::Units, &[event(), second]).expect("dense").len(), 2 * MARK_BYTES);
    }
}
