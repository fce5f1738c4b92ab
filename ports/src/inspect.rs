//! Looking into a log: what a search asks for, and counts by type and month. What is here works over any log that can be read;
//! the stores do the same where the events are.

use std::collections::{BTreeMap, HashMap};

use domain::{StreamId, Timestamp};
use jiff::tz::TimeZone;
use uuid::Uuid;

use crate::{EventLog, Position, Recorded, Result};

/// Events read at once while searching.
const CHUNK: usize = 1_000;

/// Positions that one call walks at most where no index helps, so that it ends within its deadline.
pub const STRETCH_MAX: u64 = 50_000;

/// Which events of one log; whatever is absent does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    pub stream: Option<StreamId>,
    pub event_id: Option<Uuid>,
    pub event_type: Option<String>,
    pub actor: Option<String>,
    pub correlation_id: Option<Uuid>,
}

impl EventQuery {
    pub fn matches(&self, event: &Recorded) -> bool {
        self.stream.as_ref().is_none_or(|stream| event.stream == *stream)
            && self.event_id.is_none_or(|id| event.event_id == id)
            && self.event_type.as_ref().is_none_or(|wanted| event.event_type == *wanted)
            && self.actor.as_ref().is_none_or(|actor| event.metadata.actor == *actor)
            && self.correlation_id.is_none_or(|id| event.metadata.correlation_id == id)
    }

    /// Whether it wants every event.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an index leads to what it wants, so that the whole log may be asked for at once.
    pub fn is_indexed(&self) -> bool {
        self.stream.is_some() || self.event_id.is_some()
    }
}

/// How many events of a type were recorded in a month (UTC).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MonthCount {
    /// `2026-11`
    pub month: String,
    pub event_type: String,
    pub events: u64,
}

/// What a stretch of a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By month, then type.
    pub months: Vec<MonthCount>,
    /// The longest streams that have an event in the stretch, longest first, each with its last sequence there.
    pub streams: Vec<(StreamId, u64)>,
}

impl Tally {
    /// Takes in the tally of another stretch; at most `most` streams are kept. A stream's length is told by its latest event, so
    /// that the longest of a log are among the longest of some stretch.
    pub fn add(&mut self, other: Self, most: usize) {
        let mut months: BTreeMap<(String, String), u64> = BTreeMap::new();
        for count in std::mem::take(&mut self.months).into_iter().chain(other.months) {
            *months.entry((count.month, count.event_type)).or_default() += count.events;
        }
        self.months =
            months.into_iter().map(|((month, event_type), events)| MonthCount { month, event_type, events }).collect();
        let mut streams: HashMap<StreamId, u64> = HashMap::new();
        for (stream, sequence) in std::mem::take(&mut self.streams).into_iter().chain(other.streams) {
            let longest = streams.entry(stream).or_default();
            *longest = (*longest).max(sequence);
        }
        self.streams = longest(streams, most);
    }
}

/// `2026-11`, in UTC.
pub fn month_of(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m").to_string()
}

/// How many events were recorded before an instant: the position after which the later ones stand. Recorded times never go back, so
/// a handful of reads find it in a log of any size.
pub async fn position_before<L: EventLog + ?Sized>(log: &L, at: Timestamp) -> Result<Position> {
    let (mut low, mut high) = (0, log.head().await?.position);
    while low < high {
        let middle = low + (high - low) / 2;
        match log.read(middle, 1).await?.first() {
            Some(event) if event.recorded_at < at => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// [`EventLog::search`] over reads.
pub async fn search_by_reading<L: EventLog + ?Sized>(
    log: &L,
    query: &EventQuery,
    mut after: Position,
    upto: Position,
    limit: usize,
) -> Result<Vec<Recorded>> {
    let mut found = Vec::new();
    while after < upto && found.len() < limit {
        let chunk = log.read(after, CHUNK).await?;
        let Some(last) = chunk.last() else { break };
        after = last.position;
        let wanted = chunk.into_iter().filter(|event| event.position <= upto && query.matches(event));
        found.extend(wanted.take(limit - found.len()));
    }
    Ok(found)
}

/// [`EventLog::count`] over reads.
pub async fn count_by_reading<L: EventLog + ?Sized>(
    log: &L,
    query: &EventQuery,
    mut after: Position,
    upto: Position,
) -> Result<u64> {
    let mut count = 0;
    while after < upto {
        let chunk = log.read(after, CHUNK).await?;
        let Some(last) = chunk.last() else { break };
        after = last.position;
        count += chunk.iter().filter(|event| event.position <= upto && query.matches(event)).count() as u64;
    }
    Ok(count)
}

/// [`EventLog::tally`] over reads.
pub async fn tally_by_reading<L: EventLog + ?Sized>(
    log: &L,
    mut after: Position,
    upto: Position,
    most: usize,
) -> Result<Tally> {
    let mut months: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut streams: HashMap<StreamId, u64> = HashMap::new();
    while after < upto {
        let chunk = log.read(after, CHUNK).await?;
        let Some(last) = chunk.last() else { break };
        after = last.position;
        for event in chunk.into_iter().filter(|event| event.position <= upto) {
            *months.entry((month_of(event.recorded_at), event.event_type)).or_default() += 1;
            streams.insert(event.stream, event.sequence);
        }
    }
    let months = months.into_iter().map(|((month, event_type), events)| MonthCount { month, event_type, events });
    Ok(Tally { months: months.collect(), streams: longest(streams, most) })
}

/// The longest first, and by name where they are equal.
fn longest(streams: HashMap<StreamId, u64>, most: usize) -> Vec<(StreamId, u64)> {
    let mut streams: Vec<_> = streams.into_iter().collect();
    streams.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    streams.truncate(most);
    streams
}
