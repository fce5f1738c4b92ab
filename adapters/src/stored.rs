//! What every adapter of the event log has in common: the checks of a batch and of a stretch that was read.

use std::collections::{BTreeMap, HashMap, HashSet};

use cqrs_es::persist::SerializedEvent;
use domain::{Context, Sha256, StreamId, Timestamp};
use foldhash::fast::RandomState;
use ports::{AppendRequest, Error, Import, Incarnation, Keep, Position, Recorded, Result, StreamEvents};

/// The most events that one `read` answers, whatever its caller asks for.
pub(crate) const READ_MAX: usize = 10_000;

/// HTTP callers' idempotency keys are kept this long.
pub(crate) const KEY_DAYS: i64 = 30;
pub(crate) const DAY_US: i64 = 86_400_000_000;

/// Refuses a batch that breaks the port's preconditions, before anything is sent.
pub(crate) fn check_batch(context: Context, batch: &[AppendRequest]) -> Result<()> {
    let mut streams = HashSet::with_capacity_and_hasher(batch.len(), RandomState::default());
    let refuse = |why: String| Err(Error::rejected(format!("the {context} log"), why));
    for request in batch {
        if request.streams.is_empty() {
            return refuse("a request without a stream".into());
        }
        for append in &request.streams {
            if append.events.is_empty() {
                return refuse(format!("no events for {}", append.stream));
            }
            if append.stream.context() != context {
                return refuse(format!("{} belongs to the {} log", append.stream, append.stream.context()));
            }
            if !streams.insert(&append.stream) {
                return refuse(format!("{} occurs twice in a batch", append.stream));
            }
        }
    }
    Ok(())
}

/// Positions are dense, so what follows `after` is known in advance; anything else means lost or foreign rows.
pub(crate) fn check_dense(context: Context, after: Position, events: &[Recorded]) -> Result<()> {
    for (event, expected) in events.iter().zip(after + 1..) {
        if event.position != expected {
            return Err(Error::corrupt(format!(
                "the {context} log has a gap: position {expected} is missing, {} ({}) stands in its place",
                event.position, event.event_id
            )));
        }
    }
    Ok(())
}

/// Refuses a stretch that is not one, before anything is sent; answers each stream with the sequence that it must stand at.
pub(crate) fn check_import(context: Context, import: &Import) -> Result<BTreeMap<&StreamId, u64>> {
    check_dense(context, import.after, &import.events)?;
    let mut starts: BTreeMap<&StreamId, u64> = BTreeMap::new();
    let mut ends: HashMap<&StreamId, u64> = HashMap::new();
    for event in &import.events {
        let stream = &event.stream;
        if stream.context() != context {
            return Err(Error::corrupt(format!("{stream} belongs to the {} log, not to {context}", stream.context())));
        }
        let end = match ends.get(stream) {
            Some(end) => *end,
            None => *starts.entry(stream).or_insert(event.sequence.saturating_sub(1)),
        };
        if event.sequence != end + 1 {
            let position = event.position;
            return Err(skipped(context, position, stream, end + 1, event.sequence));
        }
        ends.insert(stream, event.sequence);
    }
    Ok(starts)
}

/// Compares what a stretch expects of a stream with where the stream stands.
pub(crate) fn check_start(context: Context, import: &Import, stream: &StreamId, start: u64, stands: u64) -> Result<()> {
    if start == stands {
        return Ok(());
    }
    let first = import.events.iter().find(|event| event.stream == *stream).map_or(0, |event| event.position);
    Err(skipped(context, first, stream, stands + 1, start + 1))
}

fn skipped(context: Context, position: Position, stream: &StreamId, expected: u64, found: u64) -> Error {
    Error::corrupt(format!("{context}:{position}: {stream} goes on with {found} where {expected} must stand"))
}

/// Refuses to write a stretch where the log does not stand at its beginning or lives another life.
pub(crate) fn check_place(context: Context, import: &Import, incarnation: Incarnation, head: Position) -> Result<()> {
    if head != import.after {
        let after = import.after;
        return Err(Error::Conflict(format!(
            "the {context} log stands at {head}; what is to be written goes on behind {after}"
        )));
    }
    if head > 0 && incarnation != import.incarnation {
        return Err(Error::Conflict(format!(
            "the {context} log has incarnation {incarnation}; what is to be written belongs to {}",
            import.incarnation
        )));
    }
    Ok(())
}

/// The shape in which cqrs-es knows an event.
pub(crate) fn serialized(event: &Recorded) -> Result<SerializedEvent> {
    Ok(SerializedEvent::new(
        event.stream.id.clone(),
        event.sequence as usize,
        event.stream.kind.as_str().to_owned(),
        event.event_type.clone(),
        event.event_version.clone(),
        event.json()?,
        serde_json::Value::Object(serde_json::Map::new()),
    ))
}

/// Streams that were asked for, each once.
pub(crate) fn distinct(streams: &[StreamId]) -> Vec<&StreamId> {
    let mut seen = HashSet::with_capacity(streams.len());
    streams.iter().filter(|stream| seen.insert(*stream)).collect()
}

/// The events of [`distinct`] streams, in order within each, as an answer to each stream that was asked for.
pub(crate) fn by_stream(streams: &[StreamId], events: &[Recorded]) -> Result<Vec<StreamEvents>> {
    let mut found: HashMap<&StreamId, StreamEvents> = HashMap::with_capacity(streams.len());
    for event in events {
        let stream = found.entry(&event.stream).or_default();
        stream.origin.get_or_insert_with(|| (event.event_id, event.metadata.clone()));
        stream.events.push(serialized(event)?);
    }
    let mut answers: Vec<StreamEvents> = Vec::with_capacity(streams.len());
    for stream in streams {
        let earlier = || streams.iter().position(|other| other == stream).and_then(|place| answers.get(place)).cloned();
        let answer = found.remove(stream).or_else(earlier).unwrap_or_default();
        answers.push(answer);
    }
    Ok(answers)
}

pub(crate) fn keep_name(keep: Keep) -> &'static str {
    match keep {
        Keep::Days30 => "days30",
        Keep::Forever => "forever",
    }
}

pub(crate) fn keep_named(name: &str) -> Result<Keep> {
    match name {
        "days30" => Ok(Keep::Days30),
        "forever" => Ok(Keep::Forever),
        other => Err(Error::corrupt(format!("a key is kept {other:?}"))),
    }
}

/// Microseconds since the epoch, as stored; so that a value read back equals the one that was answered.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

pub(crate) fn from_micros(micros: i64) -> Result<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|error| Error::corrupt(format!("a stored time is out of range: {error}")))
}

/// Stored numbers are never negative; one that is was not written by us.
pub(crate) fn unsigned(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::corrupt(format!("a stored count is negative: {number}")))
}

/// A stored digest.
pub(crate) fn hash(bytes: &[u8]) -> Result<Sha256> {
    let bytes = bytes.try_into().map_err(|_| Error::corrupt(format!("a stored hash has {} bytes", bytes.len())))?;
    Ok(Sha256::from_bytes(bytes))
}

pub(crate) fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::rejected("a number", format!("{number} is too large to be stored")))
}
