//! The event log of one context: append, load, read in order.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use cqrs_es::persist::SerializedEvent;
use domain::{AggregateKind, Context, Date, StreamId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::inspect::{EventQuery, Tally, count_by_reading, search_by_reading, tally_by_reading};
use crate::{Error, HashChain, Payload, Result, Transfer};

/// Place in a context's whole log: 1, 2, 3 … without gaps, in commit order. 0 is before the first event.
pub type Position = u64;

/// Identifies one life of a log; a log restored to an earlier moment gets a new one by `casitas` tooling.
pub type Incarnation = Uuid;

/// Who caused an event and how it hangs together with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// `user:<id>`, `policy:<name>`, `timer:<name>`, `worker:<name>`, `cli:<account>` or `demo`.
    pub actor: String,
    /// The whole conversation.
    pub correlation_id: Uuid,
    /// The direct parent: the event or request that led here.
    pub causation_id: Option<Uuid>,
    /// W3C traceparent of the request.
    pub traceparent: Option<String>,
}

/// One event to be appended; its payload is already sealed.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub event_id: Uuid,
    pub event_type: String,
    pub event_version: String,
    pub payload: Box<RawValue>,
    pub effective_on: Date,
}

/// Events for one stream, valid only if the stream's last sequence is `expected_version` (0 for a new stream).
#[derive(Clone, Debug)]
pub struct StreamAppend {
    pub stream: StreamId,
    pub expected_version: u64,
    pub events: Vec<NewEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Keys of HTTP callers.
    Days30,
    /// Keys that policies and timers derive from events.
    Forever,
}

/// An idempotency key as used by one command.
#[derive(Clone, Debug)]
pub struct KeyUse {
    /// Principal and route, or the policy's name.
    pub scope: String,
    pub key: String,
    /// SHA-256 of the request (lower-case hex).
    pub request_hash: String,
    pub keep: Keep,
    /// The small outcome to answer a repetition with: ids and versions, or the refusal of a step; nothing with personal data.
    pub outcome: serde_json::Value,
}

/// What is stored of a command's key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRecord {
    pub request_hash: String,
    pub outcome: serde_json::Value,
    /// The last position of the command's events; where it appended none, the head when the key was kept.
    pub position: Position,
}

/// The first key of a data subject, wrapped by the master key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSubjectKey {
    /// As events name it.
    pub subject: String,
    pub wrapped: Vec<u8>,
}

/// One command's events: they stand or fall together.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    pub key: Option<KeyUse>,
    pub metadata: Metadata,
    /// Stored with the events that they seal, and not otherwise: a command that is refused, conflicts or was done before leaves
    /// none behind. A subject that has a key, or had one, makes the content of the request one that is refused.
    pub subject_keys: Vec<NewSubjectKey>,
    /// At least one stream with at least one event; each stream at most once.
    pub streams: Vec<StreamAppend>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AppendOutcome {
    /// Durable. Also the answer when these very event ids were committed by an earlier call whose reply was lost.
    Committed { first: Position, last: Position, recorded_at: Timestamp },
    /// A stream is not at its expected version; nothing of this command was written.
    VersionConflict { stream: StreamId, actual: u64 },
    /// The key was used by the same request before; nothing was written now.
    Replayed(KeyRecord),
    /// The key was used by a different request.
    KeyReused,
}

/// A stored event.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub position: Position,
    pub event_id: Uuid,
    pub stream: StreamId,
    /// Place in the stream: 1, 2, 3 …
    pub sequence: u64,
    pub event_type: String,
    pub event_version: String,
    /// As stored: personal data sealed unless a [`crate::Sealer`] opened it.
    pub payload: Payload,
    pub effective_on: Date,
    pub recorded_at: Timestamp,
    pub metadata: Metadata,
}

impl Recorded {
    /// The typed event of an (opened) payload; one of an old version goes through its upcasts.
    pub fn decode<E: serde::de::DeserializeOwned>(&self) -> Result<E> {
        let (kind, event_type, version) = (self.stream.kind, &self.event_type, &self.event_version);
        if !domain::is_old(kind, event_type, version) {
            return serde_json::from_str(self.payload.get()).map_err(|error| self.unreadable(&error));
        }
        let mut payload = self.json()?;
        domain::upcast(kind, event_type, version, &mut payload);
        serde_json::from_value(payload).map_err(|error| self.unreadable(&error))
    }

    /// The payload as it stands, in the version that it was written in.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(self.payload.get()).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &serde_json::Error) -> Error {
        Error::corrupt(format!(
            "event {} {} v{} at {}:{} cannot be read: {error}",
            self.event_id,
            self.event_type,
            self.event_version,
            self.stream.context(),
            self.position
        ))
    }
}

/// A whole stream, for who works on many at once.
#[derive(Clone, Debug, Default)]
pub struct StreamEvents {
    /// In order; empty when there is no such stream. Payloads as stored (sealed).
    pub events: Vec<SerializedEvent>,
    /// The first event's id and metadata, where the adapter tells them.
    pub origin: Option<(Uuid, Metadata)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHead {
    pub incarnation: Incarnation,
    pub position: Position,
    /// The event at `position`; `None` for an empty log.
    pub event_id: Option<Uuid>,
    pub recorded_at: Option<Timestamp>,
}

/// A piece of history of some streams: what one part of a rebuild reads at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The positions `(after, to]`; `to` is no further than the head.
    pub after: Position,
    pub to: Position,
    pub kind: AggregateKind,
    /// Only streams whose id is later than this one.
    pub streams_after: String,
    /// Only streams whose id is not later than this one.
    pub streams_to: Option<String>,
    /// The streams whose last character, as a number, has this rest when divided by that: `(0, 1)` is all of them.
    pub share: (u32, u32),
}

impl Stretch {
    pub fn has(&self, event: &Recorded) -> bool {
        let id = event.stream.id.as_str();
        let (rest, parts) = self.share;
        event.stream.kind == self.kind
            && (self.after + 1..=self.to).contains(&event.position)
            && id > self.streams_after.as_str()
            && self.streams_to.as_deref().is_none_or(|last| id <= last)
            && id.chars().next_back().map_or(0, u32::from) % parts.max(1) == rest
    }
}

/// How far a follower has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub incarnation: Incarnation,
    pub position: Position,
    /// The event at `position`; `None` at 0. Lets a follower notice a log restored to an earlier moment.
    pub event_id: Option<Uuid>,
}

#[async_trait]
pub trait EventLog: SubjectKeys + FollowerCheckpoints + HashChain + Transfer + Send + Sync + 'static {
    fn context(&self) -> Context;

    /// A stream's events after a sequence, in order, through postgres-es / sqlite-es. Payloads as stored (sealed).
    async fn load(&self, stream: &StreamId, after_sequence: u64) -> Result<Vec<SerializedEvent>>;

    /// Whole streams, one answer each in order. An adapter that can asks for all of them at once.
    async fn load_many(&self, streams: &[StreamId]) -> Result<Vec<StreamEvents>> {
        let mut loaded = Vec::with_capacity(streams.len());
        for stream in streams {
            loaded.push(StreamEvents { events: self.load(stream, 0).await?, origin: None });
        }
        Ok(loaded)
    }

    /// Appends a batch in one durable transaction; one outcome a request, in order. A stream occurs at most once in a batch.
    /// `Rejected` when the content of some request is refused (then nothing was written), `UnknownOutcome` when the
    /// connection was lost: resend with the same event ids.
    async fn append(&self, batch: &[AppendRequest]) -> Result<Vec<AppendOutcome>>;

    /// The events after a position in order, at most `limit`. A gap is `Corrupt`, never a silent skip; an error is an error,
    /// never a short answer.
    async fn read(&self, after: Position, limit: usize) -> Result<Vec<Recorded>>;

    /// The events of a stretch of history that are of some streams, in order; without their metadata where the adapter can do
    /// without. What it passes over it does not read.
    async fn stretch(&self, stretch: &Stretch) -> Result<Vec<Recorded>> {
        let mut found = Vec::new();
        let mut after = stretch.after;
        while after < stretch.to {
            let limit = usize::try_from(stretch.to - after).unwrap_or(usize::MAX);
            let events = self.read(after, limit).await?;
            let Some(last) = events.last() else {
                return Err(Error::corrupt(format!("the {} log ends at {after}, before {}", self.context(), stretch.to)));
            };
            after = last.position;
            found.extend(events.into_iter().filter(|event| stretch.has(event)));
        }
        Ok(found)
    }

    async fn head(&self) -> Result<LogHead>;

    /// The record of a key that is still kept.
    async fn find_key(&self, scope: &str, key: &str) -> Result<Option<KeyRecord>>;

    /// Keeps the key of a command that appends nothing, durably and at the head, so that who comes with it later gets the same
    /// outcome: an append with it is `Replayed`. If it is kept already, nothing is written and that record is the answer.
    async fn keep_key(&self, key: &KeyUse) -> Result<Option<KeyRecord>>;

    /// The events in `(after, upto]` that a query wants, in order, at most `limit`. Unless the query names a stream or an event,
    /// the stretch is walked: ask for [`STRETCH_MAX`](crate::STRETCH_MAX) positions at most at a time.
    async fn search(&self, query: &EventQuery, after: Position, upto: Position, limit: usize) -> Result<Vec<Recorded>> {
        search_by_reading(self, query, after, upto, limit).await
    }

    /// How many events in `(after, upto]` a query wants; bounded like [`EventLog::search`].
    async fn count(&self, query: &EventQuery, after: Position, upto: Position) -> Result<u64> {
        count_by_reading(self, query, after, upto).await
    }

    /// What `(after, upto]` holds, with the `most` longest streams; bounded like [`EventLog::search`].
    async fn tally(&self, after: Position, upto: Position, most: usize) -> Result<Tally> {
        tally_by_reading(self, after, upto, most).await
    }
}

/// The wrapped keys of data subjects, beside the log. They come in with the events that they seal:
/// [`AppendRequest::subject_keys`].
#[async_trait]
pub trait SubjectKeys: Send + Sync + 'static {
    async fn subject_key(&self, subject: &str) -> Result<Option<Vec<u8>>>;
    /// Destroys the key for good; a later append with a key for this subject is `Rejected`.
    async fn destroy_subject_key(&self, subject: &str) -> Result<()>;
}

/// Checkpoints of followers that write to this context's database (policies, timers, dispatchers).
#[async_trait]
pub trait FollowerCheckpoints: Send + Sync + 'static {
    async fn follower_checkpoint(&self, name: &str) -> Result<Option<Checkpoint>>;
    /// Every follower that has a checkpoint here, by name.
    async fn follower_checkpoints(&self) -> Result<Vec<(String, Checkpoint)>>;
    /// Leadership of a follower until the process ends or the connection is lost: a new, higher term; `None` while another
    /// process holds it.
    async fn claim_follower(&self, name: &str) -> Result<Option<u64>>;
    /// Compare-and-set: `Conflict` when the term is not the latest or the checkpoint is not at `from` (`None`: absent).
    async fn advance_follower(&self, name: &str, term: u64, from: Option<Position>, to: &Checkpoint) -> Result<()>;
}

/// The logs that a process can reach.
#[derive(Clone, Default)]
pub struct Logs(HashMap<Context, Arc<dyn EventLog>>);

impl Logs {
    pub fn new(logs: impl IntoIterator<Item = Arc<dyn EventLog>>) -> Self {
        Self(logs.into_iter().map(|log| (log.context(), log)).collect())
    }

    pub fn get(&self, context: Context) -> Result<&Arc<dyn EventLog>> {
        self.0.get(&context).ok_or_else(|| Error::NotFound(format!("this process has no access to the {context} log")))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn EventLog>> {
        self.0.values()
    }
}
