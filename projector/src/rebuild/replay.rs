//! One part of a replay: the log from its beginning to a position that stands, folded into rows that are not there yet.
//!
//! Rows are kept in memory until every event of their streams was folded, so each is written once, and none is ever read. When
//! they would take too much room, the later half of the streams is let go and folded in another pass over the log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use domain::{AggregateKind, StreamId};
use foldhash::fast::RandomState;
use ports::{
    EventLog, EventQuery, Generations, Load, ParkedStream, Parking, Part, Position, Recorded, Sealer, StoredRow, Stretch,
};
use read_models::{Feed, ReadModel, Rows};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Park, Progress, RebuildError, Result};
use crate::known;
use crate::parking::{STREAMS_MAX, parked_at};
use crate::skips::Skips;
use crate::working::{caught, told, without_personal};

/// Positions read at once.
const WINDOW: u64 = 5_000;
/// Windows that are read while one is folded: the server sends one while another one's rows are decoded here.
const AHEAD: usize = 2;
/// Streams that are weighed to know what all weigh.
const SAMPLE: usize = 64;
/// Rows of streams loaded by one transaction, give or take those of the last one.
const SLICE_ROWS: usize = 5_000;
/// Events of a parked stream that are read at once.
const CHUNK: usize = 1_000;

pub(super) struct Replay {
    pub model: &'static dyn ReadModel,
    pub log: Arc<dyn EventLog>,
    pub sealer: Sealer,
    pub views: Arc<dyn Generations>,
    pub generation: u64,
    pub term: u64,
    /// The last position that is replayed.
    pub to: Position,
    pub parts: u32,
    /// Of this part's rows that are not stored yet, about.
    pub held_bytes: usize,
    pub park: Park,
    /// Events that operators gave up in the model.
    pub skips: Skips,
    pub progress: Progress,
    pub stop: CancellationToken,
}

/// A stream as far as it was folded.
struct Stream {
    rows: Rows,
    events: u64,
}

impl Stream {
    fn new() -> Self {
        Self { rows: Rows::first(), events: 0 }
    }
}

type Streams = HashMap<String, Stream, RandomState>;

/// Streams of a part that are folded no further.
type Parked = HashMap<StreamId, ParkedStream>;

/// Windows in order, some of them read ahead.
struct Windows {
    replay: Arc<Replay>,
    stretch: Stretch,
    ahead: VecDeque<(Position, JoinHandle<ports::Result<Vec<Recorded>>>)>,
}

impl Drop for Windows {
    fn drop(&mut self) {
        self.ahead.iter().for_each(|(_, read)| read.abort());
    }
}

impl Windows {
    fn new(replay: &Arc<Replay>, kind: AggregateKind, part: &Part) -> Self {
        let stretch = Stretch {
            after: part.position,
            to: part.position,
            kind,
            streams_after: part.stream.clone(),
            streams_to: None,
            share: (part.number, replay.parts),
        };
        let mut windows = Self { replay: replay.clone(), stretch, ahead: VecDeque::new() };
        windows.read_ahead();
        windows
    }

    fn read_ahead(&mut self) {
        while self.ahead.len() < AHEAD && self.stretch.to < self.replay.to {
            self.stretch.after = self.stretch.to;
            self.stretch.to = self.replay.to.min(self.stretch.after + WINDOW);
            let (replay, stretch) = (self.replay.clone(), self.stretch.clone());
            self.ahead.push_back((stretch.to, tokio::spawn(async move { replay.read(&stretch).await })));
        }
    }

    /// The next window's last position and events; `None` after the last one.
    async fn next(&mut self) -> Result<Option<(Position, Vec<Recorded>)>> {
        let Some((to, ahead)) = self.ahead.pop_front() else { return Ok(None) };
        self.read_ahead();
        let read = ahead.await.map_err(|_| RebuildError::Stopped)?;
        Ok(Some((to, read?)))
    }
}

impl Replay {
    async fn read(&self, stretch: &Stretch) -> ports::Result<Vec<Recorded>> {
        let mut events = self.log.stretch(stretch).await?;
        self.sealer.open_readable(&*self.log, &mut events).await?;
        Ok(events)
    }

    pub(super) async fn part(self: &Arc<Self>, mut part: Part) -> Result<()> {
        match self.model.feed() {
            Feed::Mixed => Ok(()),
            Feed::Events(kind) => self.events(kind, part).await,
            Feed::Streams(kind) => {
                while !part.finished {
                    part = self.pass(kind, part).await?;
                }
                Ok(())
            }
        }
    }

    /// Rows that stand as soon as they are made: they are loaded window by window.
    async fn events(self: &Arc<Self>, kind: AggregateKind, mut part: Part) -> Result<()> {
        let mut windows = Windows::new(self, kind, &part);
        // Those of other parts as well; they are met by none of ours.
        let parked = self.views.parked(self.model.spec().name, self.generation).await?;
        let mut parked: Parked = parked.into_iter().map(|parked| (parked.stream.clone(), parked)).collect();
        self.progress.at(part.number, part.position, 0);
        while let Some((to, events)) = windows.next().await? {
            let mut fresh = Parked::new();
            let (rows, folded) = loop {
                let (mut rows, mut folded, mut poisoned) = (Rows::first(), 0, false);
                for event in &events {
                    if waits(&parked, event) || self.skips.has(event) {
                        continue;
                    }
                    if let Some(fault) = self.fold(event, &mut rows)? {
                        let stream = self.parked(event, &fault, parked.len())?;
                        parked.insert(event.stream.clone(), stream.clone());
                        fresh.insert(event.stream.clone(), stream);
                        poisoned = true;
                    } else {
                        folded += 1;
                    }
                }
                // Half of what was not taken may be in the rows: once more, without it.
                if !poisoned {
                    break (rows.into_stored()?, folded);
                }
            };
            part.position = to;
            part.events += folded;
            part.finished = to == self.to;
            self.load(&mut part, &rows, fresh).await?;
            self.progress.at(part.number, to, events.len());
            self.go_on()?;
        }
        if !part.finished {
            part.finished = true;
            self.load(&mut part, &[], Parked::new()).await?;
        }
        Ok(())
    }

    /// Once through the log for as many streams as have room.
    async fn pass(self: &Arc<Self>, kind: AggregateKind, mut part: Part) -> Result<Part> {
        let mut windows = Windows::new(self, kind, &part);
        let mut streams = Streams::default();
        let (mut cut, mut parked): (Option<String>, Parked) = Default::default();
        self.progress.at(part.number, 0, 0);
        while let Some((to, events)) = windows.next().await? {
            for event in &events {
                let id = event.stream.id.as_str();
                // What was read ahead does not know of the cut yet.
                if cut.as_deref().is_some_and(|cut| id > cut) || waits(&parked, event) || self.skips.has(event) {
                    continue;
                }
                let stream = match streams.get_mut(id) {
                    Some(stream) => stream,
                    None => streams.entry(id.to_owned()).or_insert_with(Stream::new),
                };
                match self.fold(event, &mut stream.rows)? {
                    None => stream.events += 1,
                    Some(fault) => {
                        drop(streams.remove(id));
                        parked.insert(event.stream.clone(), self.parked(event, &fault, parked.len())?);
                    }
                }
            }
            self.progress.at(part.number, to, events.len());
            self.go_on()?;
            while streams.len() > 1 && weigh(&streams) > self.held_bytes {
                cut = Some(let_go(&mut streams));
                windows.stretch.streams_to = cut.clone();
            }
        }
        // Those beyond the cut are met again by another pass.
        parked.retain(|stream, _| cut.as_ref().is_none_or(|cut| stream.id <= *cut));
        for parked in parked.values() {
            streams.insert(parked.stream.id.clone(), self.before(parked).await?);
        }
        self.store(&mut part, streams, cut, parked).await?;
        Ok(part)
    }

    /// Writes complete streams in the order of their ids, so that the last one tells how far that got.
    async fn store(&self, part: &mut Part, streams: Streams, cut: Option<String>, mut parked: Parked) -> Result<()> {
        let mut streams: Vec<_> = streams.into_iter().collect();
        streams.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        let mut slice: Vec<StoredRow> = Vec::new();
        for (id, Stream { rows, events }) in streams {
            if slice.len() >= SLICE_ROWS {
                let parked = parked.extract_if(|stream, _| stream.id <= part.stream).collect();
                self.load(part, &slice, parked).await?;
                slice.clear();
                self.go_on()?;
            }
            slice.extend(rows.into_stored()?);
            part.events += events;
            part.stream = id;
        }
        match cut {
            Some(cut) => part.stream = cut,
            None => part.finished = true,
        }
        self.load(part, &slice, parked).await
    }

    async fn load(&self, part: &mut Part, rows: &[StoredRow], parked: Parked) -> Result<()> {
        part.rows += rows.len() as u64;
        let parking: Vec<Parking> = parked.into_values().map(Parking::Park).collect();
        let (spec, generation, term) = (self.model.spec(), self.generation, self.term);
        let load = Load { spec, generation, term, part, rows, parking: &parking };
        self.views.load(&load).await?;
        self.progress.loaded(rows.len());
        Ok(())
    }

    /// Why the event cannot be folded, when its stream may be parked for that; the rows may have half of it in them then.
    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<Option<String>> {
        let poison = |reason: &str| RebuildError::Poison(told(self.model, event, reason));
        known::check(event).map_err(|upgrade| poison(&upgrade))?;
        match caught(|| self.model.fold(event, rows)) {
            Ok(()) => Ok(None),
            Err(reason) => {
                let reason = without_personal(event, reason);
                if self.park.since(&event.stream).is_some() { Ok(Some(reason)) } else { Err(poison(&reason)) }
            }
        }
    }

    fn parked(&self, event: &Recorded, fault: &str, already: usize) -> Result<ParkedStream> {
        match self.park.since(&event.stream) {
            Some(since) if already < STREAMS_MAX => Ok(parked_at(event, fault, since)),
            _ => Err(RebuildError::Poison(told(self.model, event, fault))),
        }
    }

    /// A parked stream's rows as they are before the event that cannot be folded.
    async fn before(&self, parked: &ParkedStream) -> Result<Stream> {
        let query = EventQuery { stream: Some(parked.stream.clone()), ..EventQuery::default() };
        let (mut stream, mut after) = (Stream::new(), 0);
        loop {
            let mut events = self.log.search(&query, after, parked.position - 1, CHUNK).await?;
            let Some(last) = events.last() else { return Ok(stream) };
            after = last.position;
            self.sealer.open_readable(&*self.log, &mut events).await?;
            for event in events.iter().filter(|event| !self.skips.has(event)) {
                if let Some(fault) = self.fold(event, &mut stream.rows)? {
                    return Err(RebuildError::Poison(told(self.model, event, &fault)));
                }
                stream.events += 1;
            }
        }
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.is_cancelled() { Err(RebuildError::Stopped) } else { Ok(()) }
    }
}

fn waits(parked: &Parked, event: &Recorded) -> bool {
    !parked.is_empty() && parked.get(&event.stream).is_some_and(|parked| parked.position <= event.position)
}

/// What all streams weigh, by some of them.
fn weigh(streams: &Streams) -> usize {
    let sample = streams.values().take(SAMPLE);
    let weight: usize = sample.map(|stream| stream.rows.weigh()).sum();
    weight / streams.len().clamp(1, SAMPLE) * streams.len()
}

/// Lets the later half of the streams go; answers the last one that stays.
fn let_go(streams: &mut Streams) -> String {
    let mut ids: Vec<&String> = streams.keys().collect();
    let middle = (ids.len() - 1) / 2;
    let (_, last, _) = ids.select_nth_unstable(middle);
    let last = last.to_string();
    streams.retain(|id, _| *id <= last);
    last
}
