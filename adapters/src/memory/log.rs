//! The event log of one context in memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use cqrs_es::persist::SerializedEvent;
use domain::{Context, StreamId, Timestamp};
use ports::{
    AppendOutcome, AppendRequest, Checkpoint, Clock, Error, EventLog, FollowerCheckpoints, Incarnation, Keep, KeyRecord,
    KeyUse, Link, LogHead, NewSubjectKey, Position, Recorded, Result, StreamEvents, SubjectKeys, WrappedKey,
};
use uuid::Uuid;

use crate::stored::{DAY_US, KEY_DAYS, READ_MAX, by_stream, check_batch, distinct, from_micros, micros, serialized};

pub struct MemoryLog {
    pub(super) context: Context,
    pub(super) clock: Arc<dyn Clock>,
    /// Of the one who appends, or keeps others from it.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) incarnation: Incarnation,
    /// Index + 1 is the position.
    pub(super) events: Vec<Recorded>,
    /// Index into `events`, in order of sequence.
    pub(super) streams: HashMap<StreamId, Vec<usize>>,
    pub(super) ids: HashMap<Uuid, usize>,
    pub(super) keys: HashMap<(String, String), StoredKey>,
    pub(super) subjects: HashMap<String, WrappedKey>,
    pub(super) followers: HashMap<String, Follower>,
    /// In order.
    pub(super) chain: Vec<Link>,
}

pub(super) struct StoredKey {
    pub(super) record: KeyRecord,
    pub(super) keep: Keep,
    pub(super) created_at: Timestamp,
}

#[derive(Default)]
pub(super) struct Follower {
    pub(super) term: u64,
    pub(super) checkpoint: Option<Checkpoint>,
}

impl MemoryLog {
    pub fn new(context: Context, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            incarnation: Uuid::new_v4(),
            events: Vec::new(),
            streams: HashMap::new(),
            ids: HashMap::new(),
            keys: HashMap::new(),
            subjects: HashMap::new(),
            followers: HashMap::new(),
            chain: Vec::new(),
        };
        Self { context, clock, turn: Arc::default(), state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the log's lock is never poisoned: nothing under it panics")
    }
}

impl State {
    pub(super) fn version(&self, stream: &StreamId) -> u64 {
        self.streams.get(stream).map_or(0, |events| events.len() as u64)
    }

    fn key(&self, key: &KeyUse, now: Timestamp) -> Option<&StoredKey> {
        let stored = self.keys.get(&(key.scope.clone(), key.key.clone()))?;
        stored.is_kept(now).then_some(stored)
    }

    fn judge(&self, request: &AppendRequest, now: Timestamp) -> Option<AppendOutcome> {
        if let Some(committed) = self.already_committed(request) {
            return Some(committed);
        }
        if let Some((key, stored)) = request.key.as_ref().and_then(|key| Some((key, self.key(key, now)?))) {
            let same = stored.record.request_hash == key.request_hash;
            return Some(if same { AppendOutcome::Replayed(stored.record.clone()) } else { AppendOutcome::KeyReused });
        }
        request.streams.iter().find_map(|append| {
            let actual = self.version(&append.stream);
            (actual != append.expected_version)
                .then(|| AppendOutcome::VersionConflict { stream: append.stream.clone(), actual })
        })
    }

    fn already_committed(&self, request: &AppendRequest) -> Option<AppendOutcome> {
        let append = request.streams.first()?;
        let stored = &self.events[*self.ids.get(&append.events.first()?.event_id)?];
        if stored.stream != append.stream || stored.sequence != append.expected_version + 1 {
            return None;
        }
        let count = request.streams.iter().map(|append| append.events.len() as u64).sum::<u64>();
        let last = self.events.get((stored.position + count - 2) as usize)?;
        let last_id = request.streams.last()?.events.last()?.event_id;
        (last.event_id == last_id).then_some(AppendOutcome::Committed {
            first: stored.position,
            last: last.position,
            recorded_at: stored.recorded_at,
        })
    }

    fn commit(&mut self, request: &AppendRequest, recorded_at: Timestamp) -> AppendOutcome {
        let first = self.events.len() as u64 + 1;
        for append in &request.streams {
            for (event, sequence) in append.events.iter().zip(append.expected_version + 1..) {
                let index = self.events.len();
                self.ids.insert(event.event_id, index);
                self.streams.entry(append.stream.clone()).or_default().push(index);
                self.events.push(Recorded {
                    position: index as u64 + 1,
                    event_id: event.event_id,
                    stream: append.stream.clone(),
                    sequence,
                    event_type: event.event_type.clone(),
                    event_version: event.event_version.clone(),
                    payload: event.payload.clone().into(),
                    effective_on: event.effective_on,
                    recorded_at,
                    metadata: request.metadata.clone(),
                });
            }
        }
        let last = self.events.len() as u64;
        if let Some(key) = &request.key {
            self.keep(key, last, recorded_at);
        }
        for NewSubjectKey { subject, wrapped } in &request.subject_keys {
            let (subject, wrapped) = (subject.clone(), Some(wrapped.clone()));
            let key = WrappedKey { subject: subject.clone(), wrapped, created_at: recorded_at, erased_at: None };
            self.subjects.insert(subject, key);
        }
        AppendOutcome::Committed { first, last, recorded_at }
    }

    fn keep(&mut self, key: &KeyUse, position: Position, created_at: Timestamp) {
        let record = KeyRecord { request_hash: key.request_hash.clone(), outcome: key.outcome.clone(), position };
        let stored = StoredKey { record, keep: key.keep, created_at };
        self.keys.insert((key.scope.clone(), key.key.clone()), stored);
    }

    /// What the databases' unique indexes refuse.
    fn check_ids(&self, batch: &[AppendRequest], now: Timestamp) -> Result<()> {
        let mut fresh = HashSet::new();
        let mut subjects = HashSet::new();
        for request in batch.iter().filter(|request| self.judge(request, now).is_none()) {
            for event in request.streams.iter().flat_map(|append| &append.events) {
                if self.ids.contains_key(&event.event_id) || !fresh.insert(event.event_id) {
                    return Err(Error::rejected("the log", format!("event id {} is taken", event.event_id)));
                }
            }
            for NewSubjectKey { subject, .. } in &request.subject_keys {
                if self.subjects.contains_key(subject) || !subjects.insert(subject) {
                    return Err(Error::rejected("the log", format!("{subject} has a key, or had one")));
                }
            }
        }
        Ok(())
    }
}

impl StoredKey {
    pub(super) fn is_kept(&self, now: Timestamp) -> bool {
        match self.keep {
            Keep::Forever => true,
            Keep::Days30 => micros(self.created_at) > micros(now) - KEY_DAYS * DAY_US,
        }
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    fn context(&self) -> Context {
        self.context
    }

    async fn load(&self, stream: &StreamId, after_sequence: u64) -> Result<Vec<SerializedEvent>> {
        let state = self.state();
        let events = state.streams.get(stream).map(Vec::as_slice).unwrap_or_default();
        events.iter().skip(after_sequence as usize).map(|index| serialized(&state.events[*index])).collect()
    }

    async fn load_many(&self, streams: &[StreamId]) -> Result<Vec<StreamEvents>> {
        let state = self.state();
        let places = distinct(streams).into_iter().filter_map(|stream| state.streams.get(stream)).flatten();
        let events: Vec<Recorded> = places.map(|place| state.events[*place].clone()).collect();
        by_stream(streams, &events)
    }

    async fn append(&self, batch: &[AppendRequest]) -> Result<Vec<AppendOutcome>> {
        check_batch(self.context, batch)?;
        let _turn = self.turn.lock().await;
        let mut state = self.state();
        let now = from_micros(micros(self.clock.now()))?;
        state.check_ids(batch, now)?;
        let recorded_at = state.events.last().map_or(now, |last| last.recorded_at.max(now));
        let outcomes = batch.iter().map(|request| match state.judge(request, now) {
            Some(outcome) => outcome,
            None => state.commit(request, recorded_at),
        });
        Ok(outcomes.collect())
    }

    async fn read(&self, after: Position, limit: usize) -> Result<Vec<Recorded>> {
        let state = self.state();
        let from = usize::try_from(after).unwrap_or(usize::MAX);
        Ok(state.events.iter().skip(from).take(limit.min(READ_MAX)).cloned().collect())
    }

    async fn head(&self) -> Result<LogHead> {
        let state = self.state();
        let last = state.events.last();
        Ok(LogHead {
            incarnation: state.incarnation,
            position: last.map_or(0, |event| event.position),
            event_id: last.map(|event| event.event_id),
            recorded_at: last.map(|event| event.recorded_at),
        })
    }

    async fn find_key(&self, scope: &str, key: &str) -> Result<Option<KeyRecord>> {
        let now = self.clock.now();
        let state = self.state();
        let stored = state.keys.get(&(scope.to_owned(), key.to_owned()));
        Ok(stored.filter(|stored| stored.is_kept(now)).map(|stored| stored.record.clone()))
    }

    async fn keep_key(&self, key: &KeyUse) -> Result<Option<KeyRecord>> {
        let _turn = self.turn.lock().await;
        let mut state = self.state();
        let now = from_micros(micros(self.clock.now()))?;
        if let Some(stored) = state.key(key, now) {
            return Ok(Some(stored.record.clone()));
        }
        let created_at = state.events.last().map_or(now, |last| last.recorded_at.max(now));
        let position = state.events.len() as Position;
        state.keep(key, position, created_at);
        Ok(None)
    }
}

#[async_trait]
impl SubjectKeys for MemoryLog {
    async fn subject_key(&self, subject: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.state().subjects.get(subject).and_then(|key| key.wrapped.clone()))
    }

    async fn destroy_subject_key(&self, subject: &str) -> Result<()> {
        let now = from_micros(micros(self.clock.now()))?;
        let mut state = self.state();
        let stored = state.subjects.entry(subject.to_owned()).or_insert_with(|| WrappedKey {
            subject: subject.to_owned(),
            wrapped: None,
            created_at: now,
            erased_at: Some(now),
        });
        stored.wrapped = None;
        stored.erased_at.get_or_insert(now);
        Ok(())
    }
}

#[async_trait]
impl FollowerCheckpoints for MemoryLog {
    async fn follower_checkpoint(&self, name: &str) -> Result<Option<Checkpoint>> {
        Ok(self.state().followers.get(name).and_then(|follower| follower.checkpoint.clone()))
    }

    async fn follower_checkpoints(&self) -> Result<Vec<(String, Checkpoint)>> {
        let state = self.state();
        let followers = state.followers.iter();
        let mut all: Vec<_> = followers.filter_map(|(name, one)| Some((name.clone(), one.checkpoint.clone()?))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    async fn claim_follower(&self, name: &str) -> Result<Option<u64>> {
        let mut state = self.state();
        let follower = state.followers.entry(name.to_owned()).or_default();
        follower.term += 1;
        Ok(Some(follower.term))
    }

    async fn advance_follower(&self, name: &str, term: u64, from: Option<Position>, to: &Checkpoint) -> Result<()> {
        let mut state = self.state();
        let stands = |follower: &&mut Follower| {
            follower.term == term && follower.checkpoint.as_ref().map(|checkpoint| checkpoint.position) == from
        };
        let Some(follower) = state.followers.get_mut(name).filter(stands) else {
            return Err(Error::Conflict(format!("the follower {name} moved or has a new leader")));
        };
        follower.checkpoint = Some(to.clone());
        Ok(())
    }
}
