//! Moving a whole log to an empty store: what is kept beside its events, and writing both as they were.

use async_trait::async_trait;
use domain::Timestamp;
use serde_json::value::RawValue;

use crate::{Checkpoint, Error, Incarnation, Keep, Position, Recorded, Result};

/// An idempotency key that was used and is still kept.
#[derive(Clone, Debug)]
pub struct KeptKey {
    pub scope: String,
    pub key: String,
    pub keep: Keep,
    pub request_hash: String,
    /// As stored.
    pub outcome: Box<RawValue>,
    pub position: Position,
    pub created_at: Timestamp,
}

/// The key of a data subject, wrapped by the master key; `None` once it was destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    pub subject: String,
    pub wrapped: Option<Vec<u8>>,
    pub created_at: Timestamp,
    /// Present exactly when the key was destroyed.
    pub erased_at: Option<Timestamp>,
}

/// Lets a log be appended to again when it is dropped.
pub type Held = Box<dyn Send>;

/// How far a follower that writes to this log had got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowerAt {
    pub name: String,
    pub checkpoint: Checkpoint,
}

/// A stretch of a log to be written as it was, and what stood beside it.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Of the log that the events come from; the log takes it over.
    pub incarnation: Incarnation,
    /// Where the log must stand: 0 for an empty one.
    pub after: Position,
    /// Dense from `after + 1`, each stream's sequences without gaps. Payloads as stored (sealed).
    pub events: Vec<Recorded>,
    pub keys: Vec<KeptKey>,
    pub followers: Vec<FollowerAt>,
    pub subjects: Vec<WrappedKey>,
}

/// What a native export and import need of a log beside reading it.
///
/// The defaults refuse: a log that only wraps another one, as those of tests, is nothing to be moved.
#[async_trait]
pub trait Transfer: Send + Sync + 'static {
    /// By scope and key, at most `limit` of them.
    async fn kept_keys(&self, after: Option<(&str, &str)>, limit: usize) -> Result<Vec<KeptKey>> {
        let _ = (after, limit);
        Err(refused())
    }

    /// By name; only those that have a checkpoint.
    async fn followers(&self) -> Result<Vec<FollowerAt>> {
        Err(refused())
    }

    /// Keys of data subjects by subject, destroyed ones too, at most `limit` of them.
    async fn wrapped_keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<WrappedKey>> {
        let _ = (after, limit);
        Err(refused())
    }

    /// Lets nothing be appended until the answer is dropped, so that who holds several logs sees their heads as of one moment. What
    /// was committed before is in the head.
    ///
    /// It waits for its turn among the writers, who then wait for it: whoever asks bounds both to a fraction of a second. A holder
    /// that is not heard of for longer may lose its hold. `Unavailable` when its turn does not come. Proved by
    /// `a_log_that_is_held_takes_nothing_until_it_is_let_go`.
    async fn hold(&self) -> Result<Held> {
        Err(refused())
    }

    /// Writes a stretch with its positions, ids, sequences, times, metadata and incarnation, in one durable transaction. Keys and
    /// subjects that are there already stay as they are; a follower is set, and its leader deposed.
    ///
    /// `Conflict` when the log does not stand at `after`, or (behind the first stretch) has another incarnation: then nothing is
    /// written. `Corrupt` when the stretch is not dense, or a stream's sequence skips or comes twice. `UnknownOutcome` when the connection was
    /// lost: the head tells.
    async fn import(&self, import: &Import) -> Result<()> {
        let _ = import;
        Err(refused())
    }

    /// Begins a new life of this log, because it was set back to an earlier moment: views and clients notice. The followers whose
    /// checkpoints stand beside the log were set back with it and go on.
    async fn renew_incarnation(&self) -> Result<Incarnation> {
        Err(refused())
    }
}

fn refused() -> Error {
    Error::rejected("the event log", "this log cannot be exported or imported")
}
