//! The working set of a fold. A leader keeps it from batch to batch, so that a row is read from the store once and decoded once;
//! documents are written out once a batch, however many events changed them.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;
use ports::{Error, FieldValue, Result, RowChange, StoredRow};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Rows kept weigh at most about so much; beyond it only those of the last batch stay.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a row takes beside its document, roughly.
const ROW_BYTES: usize = 128;

/// Rows as they are after the events folded so far, what of them changed, and which tags that touches.
#[derive(Default)]
pub struct Rows {
    current: HashMap<String, Slot, RandomState>,
    /// Of `current`, by the documents as they were last seen.
    bytes: usize,
    /// Rows that are put; `None` for those that are deleted.
    changed: BTreeMap<String, Option<Fields>>,
    tags: BTreeSet<String>,
    /// There was nothing before, so what is not known is absent; and nobody asks what changed.
    is_first: bool,
}

struct Slot {
    row: Row,
    bytes: usize,
}

enum Row {
    Absent,
    /// As the store has it, not looked at yet.
    Stored(Value),
    Folded(Box<dyn Document>),
    /// Given to the fold, which puts it back: only where nothing is compared.
    Lent,
}

/// What the store can filter and order a model's rows by.
pub trait Indexed {
    /// The values of the model's [`ports::ModelSpec::fields`], in their order. Asked for when the row is written, not for every event.
    fn fields(&self) -> Vec<FieldValue>;
}

/// Where the fields of a changed row come from.
enum Fields {
    Known(Vec<FieldValue>),
    /// The document's own: [`fields_of`] its type.
    Own(fn(&dyn Any) -> Option<Vec<FieldValue>>),
}

fn fields_of<T: Any + Indexed>(doc: &dyn Any) -> Option<Vec<FieldValue>> {
    doc.downcast_ref::<T>().map(T::fields)
}

impl Fields {
    fn of(self, key: &str, doc: &dyn Document) -> Result<Vec<FieldValue>> {
        match self {
            Self::Known(fields) => Ok(fields),
            Self::Own(of) => {
                of(doc.as_any()).ok_or_else(|| Error::corrupt(format!("row {key} is written as two types of document")))
            }
        }
    }
}

/// A row as its model knows it.
trait Document: Any + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
    fn to_value(&self) -> serde_json::Result<Value>;
}

impl<T: Any + Send + Sync + Serialize> Document for T {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn to_value(&self) -> serde_json::Result<Value> {
        serde_json::to_value(self)
    }
}

impl Row {
    fn is<T: Document + PartialEq>(&self, key: &str, doc: &T) -> Result<bool> {
        Ok(match self {
            Self::Absent | Self::Lent => false,
            Self::Stored(stored) => *stored == doc.to_value().map_err(|error| unwritable(key, &error))?,
            Self::Folded(folded) => (**folded).as_any().downcast_ref::<T>().is_some_and(|folded| folded == doc),
        })
    }
}

impl Rows {
    /// The tag of everything in a model that is not one row: its lists.
    pub const COLLECTION: &'static str = "*";

    /// For who begins with no row at all and stores all of them at the end ([`Self::into_stored`]): rows are handed to the fold
    /// and back instead of being copied, and nothing is compared.
    pub fn first() -> Self {
        Self { is_first: true, ..Self::default() }
    }

    /// Makes stored rows known; a key that is not in `stored` has no row. What is known already stays as it is.
    pub fn load(&mut self, keys: &[String], mut stored: HashMap<String, Value>) {
        for key in keys {
            if self.knows(key) {
                continue;
            }
            let doc = stored.remove(key);
            let bytes = ROW_BYTES + key.len() + doc.as_ref().map_or(0, weight);
            self.bytes += bytes;
            self.current.insert(key.clone(), Slot { row: doc.map_or(Row::Absent, Row::Stored), bytes });
        }
    }

    pub fn knows(&self, key: &str) -> bool {
        self.current.contains_key(key)
    }

    /// The row, or `None` when there is none. A row that was not named by `ReadModel::keys` is an error in the model.
    pub fn get<T>(&mut self, key: &str) -> Result<Option<T>>
    where
        T: Any + Send + Sync + Clone + Serialize + DeserializeOwned,
    {
        if self.is_first {
            return self.lend(key);
        }
        let unreadable = |error| Error::corrupt(format!("row {key} cannot be read by this fold version: {error}"));
        let slot = self
            .current
            .get_mut(key)
            .ok_or_else(|| Error::corrupt(format!("row {key} was read but not named by the model's keys")))?;
        let doc = match &slot.row {
            Row::Absent => return Ok(None),
            Row::Lent => return Err(not_put_back(key)),
            Row::Stored(stored) => T::deserialize(stored).map_err(unreadable)?,
            Row::Folded(folded) => match (**folded).as_any().downcast_ref::<T>() {
                Some(doc) => return Ok(Some(doc.clone())),
                None => T::deserialize(folded.to_value().map_err(unreadable)?).map_err(unreadable)?,
            },
        };
        slot.row = Row::Folded(Box::new(doc.clone()));
        Ok(Some(doc))
    }

    /// The row itself, until it is put back.
    fn lend<T: Any>(&mut self, key: &str) -> Result<Option<T>> {
        let Some(slot) = self.current.get_mut(key) else { return Ok(None) };
        match std::mem::replace(&mut slot.row, Row::Lent) {
            Row::Folded(folded) => match folded.into_any().downcast::<T>() {
                Ok(doc) => Ok(Some(*doc)),
                Err(_) => Err(of_another_type(key)),
            },
            Row::Lent => Err(not_put_back(key)),
            absent @ (Row::Absent | Row::Stored(_)) => {
                slot.row = absent;
                Ok(None)
            }
        }
    }

    /// Changes a row, beginning with `first` when there is none, and puts it back: what [`Self::get`] and [`Self::put`] do, without
    /// moving the row where nothing is compared.
    pub fn update<T>(
        &mut self,
        key: &str,
        first: impl FnOnce() -> T,
        change: impl FnOnce(&mut T) -> Result<()>,
    ) -> Result<()>
    where
        T: Any + Send + Sync + Clone + PartialEq + Serialize + DeserializeOwned + Indexed,
    {
        if self.is_first
            && let Some(Slot { row: Row::Folded(folded), .. }) = self.current.get_mut(key)
        {
            // It was put before, so it is among what changed.
            return change((**folded).as_any_mut().downcast_mut().ok_or_else(|| of_another_type(key))?);
        }
        let mut doc = self.get(key)?.unwrap_or_else(first);
        change(&mut doc)?;
        self.put(key, doc)
    }

    /// Inserts or replaces a row; marks its key and the collection as changed. A row equal to the stored one changes nothing.
    pub fn put<T>(&mut self, key: &str, doc: T) -> Result<()>
    where
        T: Any + Send + Sync + PartialEq + Serialize + Indexed,
    {
        self.put_with(key, doc, Fields::Own(fields_of::<T>), &[key, Self::COLLECTION])
    }

    /// The same with fields that the document does not tell, and tags of the model's own choice (for rows that are only read in
    /// groups).
    pub fn put_tagged<T>(&mut self, key: &str, doc: T, fields: Vec<FieldValue>, tags: &[&str]) -> Result<()>
    where
        T: Any + Send + Sync + PartialEq + Serialize,
    {
        self.put_with(key, doc, Fields::Known(fields), tags)
    }

    fn put_with<T>(&mut self, key: &str, doc: T, fields: Fields, tags: &[&str]) -> Result<()>
    where
        T: Any + Send + Sync + PartialEq + Serialize,
    {
        if !self.is_first
            && let Some(slot) = self.current.get(key)
            && slot.row.is(key, &doc)?
        {
            return Ok(());
        }
        self.replace(key, Row::Folded(Box::new(doc)));
        self.change(key, Some(fields), tags);
        Ok(())
    }

    pub fn delete(&mut self, key: &str) {
        if matches!(self.current.get(key), Some(Slot { row: Row::Absent, .. })) {
            return;
        }
        self.replace(key, Row::Absent);
        self.change(key, None, &[key, Self::COLLECTION]);
    }

    /// Rows that [`Self::take_changes`] would answer.
    pub fn changed(&self) -> usize {
        self.changed.len()
    }

    /// Whether rows that are only kept should be let go: the next [`Self::take_changes`] does it.
    pub fn is_full(&self) -> bool {
        self.bytes > KEPT_BYTES_MAX
    }

    /// What changed since the last time, and the tags of it. The rows stay known: whoever calls this writes the changes, and
    /// throws everything away when that fails.
    pub fn take_changes(&mut self) -> Result<(Vec<RowChange>, BTreeSet<String>)> {
        let mut changes = Vec::with_capacity(self.changed.len());
        for (key, fields) in std::mem::take(&mut self.changed) {
            changes.push(match (fields, self.current.get_mut(&key)) {
                (Some(fields), Some(slot @ Slot { row: Row::Folded(_), .. })) => {
                    let Row::Folded(folded) = &slot.row else { continue };
                    let doc = folded.to_value().map_err(|error| unwritable(&key, &error))?;
                    let fields = fields.of(&key, &**folded)?;
                    let bytes = ROW_BYTES + key.len() + weight(&doc);
                    self.bytes = self.bytes - slot.bytes + bytes;
                    slot.bytes = bytes;
                    RowChange::Put { key, doc, fields }
                }
                _ => RowChange::Delete { key },
            });
        }
        if self.is_full() {
            self.keep_only(&changes);
        }
        Ok((changes, std::mem::take(&mut self.tags)))
    }

    /// The rows as they are to be stored, for who began with none: the end of this working set.
    pub fn into_stored(self) -> Result<Vec<StoredRow>> {
        let Self { mut current, changed, .. } = self;
        let mut stored = Vec::with_capacity(changed.len());
        for (key, fields) in changed {
            match (fields, current.remove(&key)) {
                (Some(fields), Some(Slot { row: Row::Folded(folded), .. })) => {
                    let doc = folded.to_value().map_err(|error| unwritable(&key, &error))?.to_string();
                    let fields = fields.of(&key, &*folded)?;
                    stored.push(StoredRow { key, doc, fields });
                }
                (_, Some(Slot { row: Row::Lent, .. })) => return Err(not_put_back(&key)),
                _ => {}
            }
        }
        Ok(stored)
    }

    /// About the memory that it takes, in bytes; found by writing the documents out, so for samples only.
    pub fn weigh(&self) -> usize {
        let of = |slot: &Slot| match &slot.row {
            Row::Folded(folded) => folded.to_value().map_or(0, |doc| weight(&doc)),
            Row::Stored(doc) => weight(doc),
            Row::Absent | Row::Lent => 0,
        };
        self.current.iter().map(|(key, slot)| 2 * ROW_BYTES + 3 * key.len() + of(slot)).sum()
    }

    /// The store may not have these yet, so they must not be read from it.
    fn keep_only(&mut self, changes: &[RowChange]) {
        let mut all = std::mem::take(&mut self.current);
        let kept = changes.iter().filter_map(|change| all.remove_entry(change.key()));
        self.current = kept.collect();
        self.bytes = self.current.values().map(|slot| slot.bytes).sum();
    }

    fn replace(&mut self, key: &str, row: Row) {
        match self.current.get_mut(key) {
            Some(slot) => slot.row = row,
            None => {
                let bytes = ROW_BYTES + key.len();
                self.bytes += bytes;
                self.current.insert(key.to_owned(), Slot { row, bytes });
            }
        }
    }

    fn change(&mut self, key: &str, fields: Option<Fields>, tags: &[&str]) {
        match self.changed.get_mut(key) {
            Some(known) => *known = fields,
            None => drop(self.changed.insert(key.to_owned(), fields)),
        }
        if self.is_first {
            return;
        }
        for tag in tags {
            if !self.tags.contains(*tag) {
                self.tags.insert((*tag).to_owned());
            }
        }
    }
}

fn not_put_back(key: &str) -> Error {
    Error::corrupt(format!("row {key} was read by the fold and not put back"))
}

fn of_another_type(key: &str) -> Error {
    Error::corrupt(format!("row {key} is read as another type than it was written"))
}

fn unwritable(key: &str, error: &serde_json::Error) -> Error {
    Error::corrupt(format!("row {key} cannot be written: {error}"))
}

/// About the memory that a document takes.
fn weight(doc: &Value) -> usize {
    match doc {
        Value::Null | Value::Bool(_) | Value::Number(_) => 16,
        Value::String(text) => 24 + text.len(),
        Value::Array(items) => 24 + items.iter().map(weight).sum::<usize>(),
        Value::Object(entries) => 24 + entries.iter().map(|(name, value)| 48 + name.len() + weight(value)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests;
