//! One aggregate's part in a command, with its type erased so that a command can span several aggregates.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use domain::{Decide, DomainEvent, Fact, Moment, Refusal, StreamId};
use moka::sync::Cache;
use ports::{Error, Logs, NewEvent, Sealer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use crate::CommandError;

/// Aggregate states kept per process as a baseline; newer events are always read on top.
const CACHED_STATES_MAX: u64 = 20_000;

/// An aggregate folded from its stream.
#[derive(Clone, Debug)]
pub struct Loaded<A> {
    pub state: A,
    /// The last sequence; 0 when the stream does not exist.
    pub version: u64,
}

/// Loads aggregates: cached baseline plus what the log has since.
#[derive(Clone)]
pub(crate) struct Loader {
    logs: Logs,
    sealer: Sealer,
    states: Cache<StreamId, Arc<dyn Any + Send + Sync>>,
}

impl Loader {
    pub(crate) fn new(logs: Logs, sealer: Sealer) -> Self {
        Self { logs, sealer, states: Cache::new(CACHED_STATES_MAX) }
    }

    pub(crate) fn logs(&self) -> &Logs {
        &self.logs
    }

    pub(crate) async fn load<A: Decide>(&self, id: &str) -> Result<Arc<Loaded<A>>, CommandError> {
        let stream = StreamId::new(A::KIND, id);
        let log = self.logs.get(stream.context())?;
        let cached = self.states.get(&stream).and_then(|state| state.downcast::<Loaded<A>>().ok());
        let after = cached.as_ref().map_or(0, |loaded| loaded.version);
        let events = log.load(&stream, after).await?;
        if events.is_empty() {
            return Ok(cached.unwrap_or_else(|| Arc::new(Loaded { state: A::default(), version: 0 })));
        }
        let mut loaded = cached.map_or_else(|| Loaded { state: A::default(), version: 0 }, |cached| (*cached).clone());
        for event in events {
            let sequence = event.sequence as u64;
            if sequence != loaded.version + 1 {
                return Err(Error::corrupt(format!("{stream} jumps from {} to {sequence}", loaded.version)).into());
            }
            let mut payload = event.payload;
            self.sealer.open(&**log, &stream, sequence, &mut payload).await?;
            let event = serde_json::from_value(payload)
                .map_err(|error| Error::corrupt(format!("{stream} event {sequence} cannot be read: {error}")))?;
            loaded.state.apply(event);
            loaded.version = sequence;
        }
        let loaded = Arc::new(loaded);
        self.states.insert(stream, loaded.clone());
        Ok(loaded)
    }

    /// Seals and encodes a decided event for its place in the stream.
    async fn encode<A: Decide>(
        &self,
        stream: &StreamId,
        sequence: u64,
        event: &A::Event,
        effective_on: domain::Date,
    ) -> Result<NewEvent, CommandError> {
        let unwritable =
            |error: serde_json::Error| Error::corrupt(format!("an event of {stream} cannot be written: {error}"));
        let payload: Box<RawValue> = match event.subject() {
            None => to_raw_value(event).map_err(unwritable)?,
            Some(subject) => {
                let mut value: Value = serde_json::to_value(event).map_err(unwritable)?;
                let log = self.logs.get(stream.context())?;
                self.sealer.seal(&**log, &subject, stream, sequence, &mut value).await?;
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
}

/// One aggregate's command within a unit of work.
#[async_trait]
pub trait Step: Send + Sync {
    fn stream(&self) -> &StreamId;
    #[doc(hidden)]
    async fn decide(&self, loader: &LoaderHandle<'_>, at: &Moment) -> Result<Decided, CommandError>;
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

    async fn decide(&self, loader: &LoaderHandle<'_>, at: &Moment) -> Result<Decided, CommandError> {
        let loaded = loader.0.load::<A>(&self.stream.id).await?;
        let decided = loaded.state.decide(&self.command, at).map_err(|refusal| Refusal::of(&refusal))?;
        let mut events = Vec::with_capacity(decided.len());
        for (sequence, event) in (loaded.version + 1..).zip(&decided) {
            let effective_on = loaded.state.effective_on(event, at);
            events.push(loader.0.encode::<A>(&self.stream, sequence, event, effective_on).await?);
        }
        Ok(Decided { version: loaded.version, events })
    }
}
