//! Generations of read models beside the live one: built from the log, compared, switched, dropped.

use async_trait::async_trait;

use crate::{Checkpoint, Claim, FieldValue, ModelHead, ModelSpec, Parking, Position, Result, ViewStore};

/// What a generation is for. A model has at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// A rebuild fills it; its checkpoint is true only when all its parts are finished.
    Building,
    /// Complete and folded on, waiting to be switched to.
    Ready,
    /// What readers see.
    Live,
    /// What readers saw before the last switch; folded on, so that a rollback never goes back.
    Standby,
}

impl Standing {
    pub const ALL: [Self; 4] = [Self::Building, Self::Ready, Self::Live, Self::Standby];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Ready => "ready",
            Self::Live => "live",
            Self::Standby => "standby",
        }
    }
}

/// How far one part of a replay has got; parts divide the streams among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// 0, 1, 2 …
    pub number: u32,
    /// The rows of all streams up to this id are loaded; empty at the beginning.
    pub stream: String,
    /// The rows of all events up to this position are loaded, for models whose events are rows of their own.
    pub position: Position,
    pub finished: bool,
    /// Events folded into the rows that are loaded.
    pub events: u64,
    pub rows: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    pub head: ModelHead,
    pub standing: Standing,
    /// Built to be compared and dropped: nobody goes on with it when its owner is gone.
    pub trial: bool,
    /// Whether it has the fields that this program declares; `false` for a model that this program does not know.
    pub fits: bool,
    /// In order of their numbers; none for a model that is folded in the order of the log.
    pub parts: Vec<Part>,
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    pub key: String,
    /// JSON text.
    pub doc: String,
    /// In the order of the spec; none when the generation has other fields than the spec.
    pub fields: Vec<FieldValue>,
}

/// Rows that no earlier load brought, and how far that takes a part.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    pub spec: &'a ModelSpec,
    pub generation: u64,
    pub term: u64,
    /// After these rows.
    pub part: &'a Part,
    /// Few enough that nobody waits for long who wants to write as well.
    pub rows: &'a [StoredRow],
    /// Streams that are folded no further.
    pub parking: &'a [Parking],
}

#[async_trait]
pub trait Generations: ViewStore {
    /// Every generation of some models, live or not. A model that the store does not know has none.
    async fn generations(&self, specs: &[&'static ModelSpec]) -> Result<Vec<Generation>>;

    /// The only right to rebuild a model, until it is given back, the process ends or the connection is lost; `false` while
    /// another process has it.
    async fn claim_rebuild(&self, model: &str) -> Result<bool>;
    async fn release_rebuild(&self, model: &str) -> Result<()>;

    /// The generation that is being built, in a new, higher term. When there is none it is made: the next number, without rows,
    /// in so many parts, as a trial or not, and `at` is what its checkpoint will be when they are finished.
    async fn build(&self, spec: &'static ModelSpec, at: &Checkpoint, parts: u32, trial: bool) -> Result<Generation>;

    /// Adds rows, parks streams and notes the part's progress in one transaction. `Conflict` when the generation is in another term, or gone.
    async fn load(&self, load: &Load<'_>) -> Result<()>;

    /// Makes keys and indexes of a generation whose parts are finished; again changes nothing. `Rejected` when two rows have one
    /// key: then the model's rows are not fed by one stream each.
    async fn complete(&self, spec: &'static ModelSpec, generation: u64, term: u64) -> Result<()>;

    /// The generation that was being built is ready.
    async fn ready(&self, spec: &'static ModelSpec, generation: u64, term: u64) -> Result<()>;

    /// Leadership of a generation that is ready or on standby, as [`ViewStore::claim`] is of the live one.
    async fn claim_generation(&self, spec: &'static ModelSpec, generation: u64) -> Result<Option<Claim>>;

    /// Makes a complete generation live, in a term higher than any of the model's, and the live one its standby; an earlier
    /// standby is dropped. `Conflict` when it has not all that the live one has: readers never go back (but to the beginning of
    /// another life of the log).
    async fn switch(&self, spec: &'static ModelSpec, generation: u64) -> Result<ModelHead>;

    /// Drops a generation that is not live, with its rows. `NotFound` when there is none, `Conflict` when it is live.
    async fn drop_generation(&self, model: &str, generation: u64) -> Result<()>;

    /// While a model is paused nobody leads it: who does loses its term, and claims are `Rejected`. Answers whether that changed.
    async fn set_paused(&self, model: &str, paused: bool) -> Result<bool>;
    async fn paused(&self) -> Result<Vec<String>>;

    /// All generations as they are at one moment.
    async fn still(&self) -> Result<Box<dyn StillViews>>;
}

#[async_trait]
pub trait StillViews: Send {
    /// `NotFound` when there is none.
    async fn head(&mut self, spec: &'static ModelSpec, generation: u64) -> Result<ModelHead>;

    /// Rows after a key (empty: from the first), in order of their keys.
    async fn rows(&mut self, spec: &'static ModelSpec, generation: u64, after: &str, limit: usize)
    -> Result<Vec<StoredRow>>;
}
