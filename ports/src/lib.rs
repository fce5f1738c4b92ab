//! What the services need from the outside, as traits: event log, view store, shared cache, job queue, artifacts, hints,
//! clock. Adapters implement them; the conformance suite (`conformance`, feature `conformance`) runs against each.
//!
//! Must not know: any driver, any transport, the environment.

mod artifacts;
mod cache;
mod clock;
mod error;
mod generations;
mod hints;
mod log;
mod queue;
mod sealing;
mod views;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use artifacts::Artifacts;
pub use cache::{CacheVersion, SharedCache};
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, Result};
pub use generations::{Generation, Generations, Load, Part, Standing, StillViews, StoredRow};
pub use hints::{HintStream, Hints, Topic};
pub use log::{
    AppendOutcome, AppendRequest, Checkpoint, EventLog, FollowerCheckpoints, Incarnation, Keep, KeyRecord, KeyUse, LogHead,
    Logs, Metadata, NewEvent, Position, Recorded, StreamAppend, StreamEvents, Stretch, SubjectKeys,
};
pub use queue::{Delivery, JobConsumer, JobQueue, Priority, QueueDepth};
pub use sealing::{MasterKey, Sealer};
pub use views::{
    Claim, Direction, Field, FieldKind, FieldValue, Filter, ModelHead, ModelSpec, OrderBy, Row, RowChange, Select,
    ViewBatch, ViewChange, ViewSnapshot, ViewStore,
};
