//! The view store: rows of read models, their checkpoints, their change feed.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use domain::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Checkpoint, Error, ParkedStreams, Parking, Position, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    Text,
    Int,
}

/// A column beside the document, for filters and order; every field gets an index (with the key behind it).
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: FieldKind,
}

/// What a view store must know of a read model.
#[derive(Clone, Copy, Debug)]
pub struct ModelSpec {
    /// `[a-z_]+`, also the table's name.
    pub name: &'static str,
    /// Raised when the fold changes; a live generation of another version must be rebuilt.
    pub fold_version: u32,
    /// The one context whose log feeds it.
    pub context: Context,
    /// The index of the first carries all others behind the key: a list in its order is filtered without reading the rows. When
    /// the first is a number, lists come in its order, and texts are what they are filtered by: a text's index goes on in that
    /// order and carries the others, too, so that entries of other texts are not passed over.
    pub fields: &'static [Field],
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FieldValue {
    Null,
    Int(i64),
    Text(String),
}

impl From<&str> for FieldValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}
impl From<String> for FieldValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
impl From<i64> for FieldValue {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}
impl<T: Into<FieldValue>> From<Option<T>> for FieldValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub key: String,
    /// JSON as the store has it: parsed once, by whoever knows its type.
    pub doc: String,
}

impl Row {
    /// The document as a type; `Corrupt` names the row.
    pub fn read<D: DeserializeOwned>(&self, model: &str) -> Result<D> {
        document(model, &self.key, &self.doc)
    }
}

/// A stored document as a type; `Corrupt` names the row.
pub fn document<D: DeserializeOwned>(model: &str, key: &str, doc: &str) -> Result<D> {
    serde_json::from_str(doc).map_err(|error| Error::corrupt(format!("row {key} of {model} cannot be read: {error}")))
}

/// A change to one row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowChange {
    /// Insert or replace; `fields` in the order of the spec.
    Put {
        key: String,
        doc: Value,
        fields: Vec<FieldValue>,
    },
    Delete {
        key: String,
    },
}

impl RowChange {
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// One step of a projection, committed as one transaction.
#[derive(Clone, Debug)]
pub struct ViewBatch<'a> {
    pub spec: &'a ModelSpec,
    pub generation: u64,
    pub term: u64,
    /// The checkpoint the batch was folded on; it must still be the stored one.
    pub from: Position,
    pub to: Checkpoint,
    /// At most one change a key.
    pub changes: Vec<RowChange>,
    /// Tags whose answers changed; empty exactly when nothing changed (then no revision is used up).
    pub tags: BTreeSet<String>,
    /// Streams that are not folded from this step on, or again; mostly none. At most one entry a stream.
    pub parking: Vec<Parking>,
}

/// Leadership of a model's projection.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    pub generation: u64,
    pub term: u64,
    pub revision: u64,
    pub checkpoint: Checkpoint,
}

/// The live state of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelHead {
    pub model: String,
    pub generation: u64,
    pub fold_version: u32,
    pub term: u64,
    /// Counts the changes of the model: 1, 2, 3 … without gaps within a generation.
    pub revision: u64,
    /// The oldest revision whose `ViewChange` is still kept.
    pub oldest_change: u64,
    pub checkpoint: Checkpoint,
}

/// One row of the change feed.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewChange {
    pub revision: u64,
    pub tags: Vec<String>,
}

/// How much of a model's changes somebody has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub model: String,
    pub generation: u64,
    pub revision: u64,
}

/// Changes of one model that [`ViewStore::news`] tells; of more there is only the head, and [`ViewStore::changes`] has them.
pub const NEWS_MAX: u64 = 1_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    Eq(&'static str, FieldValue),
    In(&'static str, Vec<FieldValue>),
    AtLeast(&'static str, FieldValue),
    AtMost(&'static str, FieldValue),
    KeyPrefix(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

/// Order by one field (nulls first ascending) and then by key, or by key alone. Text is ordered by bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderBy {
    pub field: Option<&'static str>,
    pub direction: Direction,
}

impl OrderBy {
    pub const KEY: Self = Self { field: None, direction: Direction::Ascending };
}

/// A keyset query over one model's live generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    pub model: &'static str,
    pub filters: Vec<Filter>,
    pub order: OrderBy,
    /// Only rows after this (field value, key); the value is `Null` when ordered by key.
    pub after: Option<(FieldValue, String)>,
    pub limit: usize,
}

#[async_trait]
pub trait ViewStore: ParkedStreams + Send + Sync + 'static {
    /// Makes generation 1 of each model that has none. Only the projector and `migrate` call it.
    async fn prepare(&self, specs: &[&'static ModelSpec]) -> Result<()>;

    /// Leadership of a model's projection until the process ends or the connection is lost, in a new, higher term; `None` while
    /// another process holds it.
    async fn claim(&self, spec: &'static ModelSpec) -> Result<Option<Claim>>;

    /// The current documents of some keys of one generation, for folding.
    async fn rows(&self, spec: &ModelSpec, generation: u64, keys: &[String]) -> Result<HashMap<String, Value>>;

    /// Commits rows, checkpoint and one change row together; answers the revision after it. `Conflict` when term or
    /// checkpoint moved: claim again.
    async fn apply(&self, batch: &ViewBatch<'_>) -> Result<u64>;

    /// The live heads of all models, in one statement.
    async fn heads(&self) -> Result<Vec<ModelHead>>;

    /// Change rows of a model's live generation after a revision, in order.
    async fn changes(&self, model: &str, generation: u64, after: u64, limit: usize) -> Result<Vec<ViewChange>>;

    /// The live heads, each with the changes after what was seen of its generation, in order: at most [`NEWS_MAX`], and none
    /// where nothing was seen of it. A store that can answers all of it in one statement.
    async fn news(&self, seen: &[Seen]) -> Result<Vec<(ModelHead, Vec<ViewChange>)>> {
        let mut news = Vec::new();
        for head in self.heads().await? {
            let known = seen.iter().find(|seen| seen.model == head.model && seen.generation == head.generation);
            let changes = match known.map(|seen| seen.revision) {
                Some(after) if after < head.revision && head.revision - after <= NEWS_MAX => {
                    self.changes(&head.model, head.generation, after, NEWS_MAX as usize).await?
                }
                _ => Vec::new(),
            };
            news.push((head, changes));
        }
        Ok(news)
    }

    /// A consistent read: everything asked of it is from one moment.
    async fn snapshot(&self) -> Result<Box<dyn ViewSnapshot>>;
}

#[async_trait]
pub trait ViewSnapshot: Send {
    /// `NotFound` when the model has no live generation.
    async fn head(&mut self, model: &str) -> Result<ModelHead>;
    /// The document of a row, as the store has it.
    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<String>>;
    async fn select(&mut self, select: &Select) -> Result<Vec<Row>>;
}
