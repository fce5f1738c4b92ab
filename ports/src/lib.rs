//! What the services need from the outside, as traits: event log, view store, shared cache, job queue, artifacts, hints,
//! clock. Adapters implement them; the conformance suite (`conformance`, feature `conformance`) runs against each.
//!
//! Must not know: any driver, any transport, the environment.

mod artifacts;
mod cache;
mod chain;
mod clock;
mod error;
mod generations;
mod hints;
mod inspect;
mod log;
mod parked;
mod payload;
mod queue;
mod sealing;
mod transfer;
mod views;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use artifacts::Artifacts;
pub use cache::{CacheVersion, SharedCache};
pub use chain::{ChainHead, HashChain, LINK_EVENTS_MAX, Link, MARK_BYTES, StoredEvent};
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, Result};
pub use generations::{Generation, Generations, Load, Part, Standing, StillViews, StoredRow};
pub use hints::{HintStream, Hints, Topic};
pub use inspect::{
    EventQuery, MonthCount, STRETCH_MAX, Tally, count_by_reading, month_of, position_before, search_by_reading,
    tally_by_reading,
};
pub use log::{
    AppendOutcome, AppendRequest, Checkpoint, EventLog, FollowerCheckpoints, Incarnation, Keep, KeyRecord, KeyUse, LogHead,
    Logs, Metadata, NewEvent, NewSubjectKey, Position, Recorded, StreamAppend, StreamEvents, Stretch, SubjectKeys,
};
pub use parked::{Ask, ParkedStream, ParkedStreams, Parking};
pub use payload::Payload;
pub use queue::{DeadLetter, DeadLetters, Delivery, JobConsumer, JobQueue, Priority, QueueDepth};
pub use sealing::{FirstKeys, MasterKey, Sealer, is_sealed};
pub use transfer::{FollowerAt, Held, Import, KeptKey, Transfer, WrappedKey};
pub use views::{
    Claim, Direction, Field, FieldKind, FieldValue, Filter, ModelHead, ModelSpec, NEWS_MAX, OrderBy, Row, RowChange, Seen,
    Select, ViewBatch, ViewChange, ViewSnapshot, ViewStore, document,
};
