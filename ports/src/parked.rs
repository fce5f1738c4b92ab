//! Streams that a read model does not fold for now, because one of their events could not be taken.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use domain::{StreamId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Position, Result};

/// A stream of which a model has folded everything before `position` and nothing from there on, so that its order is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedStream {
    pub stream: StreamId,
    /// Place of the event that could not be taken, in the context's log and in the stream.
    pub position: Position,
    pub sequence: u64,
    pub event_id: Uuid,
    pub event_type: String,
    /// Why it could not be taken, the last time it was tried.
    pub reason: String,
    /// When the stream was parked.
    pub since: Timestamp,
    /// What an operator asked for and the model's leader has not done yet.
    pub asked: Option<Ask>,
}

/// What an operator wants done with a parked stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// Fold again from the parked event on.
    Retry,
    /// Give the parked event up and fold what comes after it.
    Skip,
}

impl Ask {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Ask {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Retry, Self::Skip].into_iter().find(|ask| ask.as_str() == text);
        known.ok_or_else(|| format!("unknown request {text:?} for a parked stream"))
    }
}

/// What a step of a projection does to the parked streams; in the step's transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parking {
    /// Parks a stream, or moves one that is parked to another event. What was asked for is done with that.
    Park(ParkedStream),
    /// The stream is folded again.
    Unpark(StreamId),
}

impl Parking {
    pub fn stream(&self) -> &StreamId {
        match self {
            Self::Park(parked) => &parked.stream,
            Self::Unpark(stream) => stream,
        }
    }
}

/// The parked streams of each model and generation; they go when their generation goes.
#[async_trait]
pub trait ParkedStreams: Send + Sync + 'static {
    /// In the order of their positions.
    async fn parked(&self, model: &str, generation: u64) -> Result<Vec<ParkedStream>>;

    /// Leaves a request for the model's leader; it replaces an earlier one. `NotFound` when the stream is not parked at that
    /// position any more.
    async fn ask(&self, model: &str, generation: u64, stream: &StreamId, position: Position, ask: Ask) -> Result<()>;
}
