//! One aggregate's part in a command, with its type erased so that a command can span several aggregates.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use domain::{Decide, DomainEvent, Fact, Moment, Refusal, StreamId};
use foldhash::fast::RandomState;
use ports::{Error, FirstKeys, Logs, NewEvent, NewSubjectKey, Sealer};
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use crate::CommandError;

/// Aggregate states kept per process.
const CACHED_STATES_MAX: usize = 20_000;

/// An aggregate folded from its stream; the default is that of a stream that does not exist.
#[derive(Clone, Debug, Default)]
pub struct Loaded<A> {
    pub state: A,
    /// The last sequence; 0 when the stream does not exist.
    pub version: u64,
}

/// What a decision may be made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// What is in the cache, or an empty stream. The append's version check judges what is accepted on it.
    Cached,
    /// What the log holds now.
    Log,
}

pub(crate) type AnyState = Arc<dyn Any + Send + Sync>;

/// Loads aggregates: cached baseline plus what the log has since.
#[derive(Clone)]
pub(crate) struct Loader {
    logs: Logs,
    sealer: Sealer,
    states: Arc<Cache<StreamId, AnyState, UnitWeighter, RandomState>>,
}

impl Loader {
    pub(crate) fn new(logs: Logs, sealer: Sealer) -> Self {
        let (hasher, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
        let states = Cache::with(CACHED_STATES_MAX, CACHED_STATES_MAX as u64, UnitWeighter, hasher, lifecycle);
        Self { logs, sealer, states: Arc::new(states) }
    }

    pub(crate) fn logs(&self) -> &Logs {
        &self.logs
    }

    fn cached<A: Decide>(&self, stream: &StreamId) -> Option<Arc<Loaded<A>>> {
        self.states.get(stream).and_then(|state| state.downcast::<Loaded<A>>().ok())
    }

    /// Takes in what was committed. Never before that: a state that the log does not hold would refuse what it should not.
    pub(crate) fn advance(&self, stream: &StreamId, after: AnyState) {
        self.states.insert(stream.clone(), after);
    }

    pub(crate) fn keep<A: Decide>(&self, stream: &StreamId, loaded: Loaded<A>) {
        if self.cached::<A>(stream).is_none_or(|cached| cached.version < loaded.version) {
            self.states.insert(stream.clone(), Arc::new(loaded));
        }
    }

    async fn basis<A: Decide>(&self, stream: &StreamId, basis: Basis) -> Result<Arc<Loaded<A>>, CommandError> {
        match basis {
            Basis::Cached => Ok(self.cached(stream).unwrap_or_default()),
            Basis::Log => self.load(stream).await,
        }
    }

    pub(crate) async fn load<A: Decide>(&self, stream: &StreamId) -> Result<Arc<Loaded<A>>, CommandError> {
        let log = self.logs.get(stream.context())?;
        let cached = self.cached::<A>(stream);
        let after = cached.as_ref().map_or(0, |loaded| loaded.version);
        let events = log.load(stream, after).await?;
        let mut loaded = match cached {
            Some(cached) if events.is_empty() => return Ok(cached),
            Some(cached) => (*cached).clone(),
            None => Loaded::default(),
        };
        for event in events {
            let sequence = event.sequence as u64;
            if sequence != loaded.version + 1 {
                return Err(Error::corrupt(format!("{stream} jumps from {} to {sequence}", loaded.version)).into());
            }
            let mut payload = event.payload;
            self.sealer.open(&**log, stream, sequence, &mut payload).await?;
            domain::upcast(stream.kind, &event.event_type, &event.event_version, &mut payload);
            let event = serde_json::from_value(payload)
                .map_err(|error| Error::corrupt(format!("{stream} event {sequence} cannot be read: {error}")))?;
            loaded.state.apply(event);
            loaded.version = sequence;
        }
        let loaded = Arc::new(loaded);
        if loaded.version > 0 {
            self.states.insert(stream.clone(), loaded.clone());
        }
        Ok(loaded)
    }

    /// Seals and encodes a decided event for its place in the stream.
    async fn encode<A: Decide>(
        &self,
        stream: &StreamId,
        sequence: u64,
        event: &A::Event,
        effective_on: domain::Date,
        first: &mut FirstKeys,
    ) -> Result<NewEvent, CommandError> {
        let unwritable =
            |error: serde_json::Error| Error::corrupt(format!("an event of {stream} cannot be written: {error}"));
        let payload: Box<RawValue> = match event.subject() {
            None => to_raw_value(event).map_err(unwritable)?,
            Some(subject) => {
                let mut value: Value = serde_json::to_value(event).map_err(unwritable)?;
                let log = self.logs.get(stream.context())?;
                self.sealer.seal(&**log, &subject, stream, sequence, &mut value, first).await?;
                to_raw_value(&value).map_err(unwritable)?
            }
        };
        Ok(NewEvent {
            event_id: Uuid::now_v7(),
            event_type: event.event_type(),
            event_version: event.event_version(),
            payload,
            effective_on,
        })
    }
}

/// What one step decided.
pub struct Decided {
    pub version: u64,
    pub events: Vec<NewEvent>,
    /// Of subjects that had none before these events.
    pub subject_keys: Vec<NewSubjectKey>,
    /// The state after these events.
    pub(crate) after: AnyState,
}

/// One aggregate's command within a unit of work.
#[async_trait]
pub trait Step: Send + Sync {
    fn stream(&self) -> &StreamId;
    #[doc(hidden)]
    async fn decide(&self, loader: &LoaderHandle<'_>, at: &Moment, basis: Basis) -> Result<Decided, CommandError>;
}

/// Keeps [`Loader`] private while [`Step`] stays nameable.
pub struct LoaderHandle<'a>(pub(crate) &'a Loader);

struct OnStream<A: Decide> {
    stream: StreamId,
    command: A::Command,
}

/// A step: this command for that instance.
pub fn step<A: Decide>(id: impl Into<String>, command: A::Command) -> Box<dyn Step> {
    Box::new(OnStream::<A> { stream: StreamId::new(A::KIND, id), command })
}

#[async_trait]
impl<A: Decide> Step for OnStream<A> {
    fn stream(&self) -> &StreamId {
        &self.stream
    }

    async fn decide(&self, loader: &LoaderHandle<'_>, at: &Moment, basis: Basis) -> Result<Decided, CommandError> {
        let mut loaded = loader.0.basis::<A>(&self.stream, basis).await?;
        let mut decided = loaded.state.decide(&self.command, at);
        // What appends nothing is judged by nobody: it is decided again on what the log holds.
        if basis == Basis::Cached && decided.as_ref().map_or(true, |events| events.is_empty()) {
            loaded = loader.0.load::<A>(&self.stream).await?;
            decided = loaded.state.decide(&self.command, at);
        }
        let decided = decided.map_err(|refusal| Refusal::of(&refusal))?;
        if decided.is_empty() {
            let (version, events, subject_keys) = (loaded.version, Vec::new(), Vec::new());
            return Ok(Decided { version, events, subject_keys, after: loaded });
        }
        let mut events = Vec::with_capacity(decided.len());
        let mut first = FirstKeys::default();
        for (sequence, event) in (loaded.version + 1..).zip(&decided) {
            let effective_on = loaded.state.effective_on(event, at);
            events.push(loader.0.encode::<A>(&self.stream, sequence, event, effective_on, &mut first).await?);
        }
        let mut after = (*loaded).clone();
        after.version += decided.len() as u64;
        decided.into_iter().for_each(|event| after.state.apply(event));
        Ok(Decided { version: loaded.version, events, subject_keys: first.into_new(), after: Arc::new(after) })
    }
}
