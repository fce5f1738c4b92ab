//! The working set of a fold.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ports::{Error, FieldValue, Result, RowChange};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Rows as they are after the events folded so far, what of them changed, and which tags that touches.
#[derive(Default)]
pub struct Rows {
    current: HashMap<String, Option<Value>>,
    /// The fields of rows that are put; `None` for those that are deleted.
    changed: BTreeMap<String, Option<Vec<FieldValue>>>,
    tags: BTreeSet<String>,
}

impl Rows {
    /// The tag of everything in a model that is not one row: its lists.
    pub const COLLECTION: &'static str = "*";

    /// Makes stored rows known; a key that is not in `stored` has no row.
    pub fn load(&mut self, keys: &[String], mut stored: HashMap<String, Value>) {
        for key in keys {
            let row = stored.remove(key);
            self.current.entry(key.clone()).or_insert(row);
        }
    }

    pub fn knows(&self, key: &str) -> bool {
        self.current.contains_key(key)
    }

    /// The row, or `None` when there is none. A row that was not named by `ReadModel::keys` is an error in the model.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.current.get(key) {
            None => Err(Error::corrupt(format!("row {key} was read but not named by the model's keys"))),
            Some(None) => Ok(None),
            Some(Some(doc)) => T::deserialize(doc)
                .map(Some)
                .map_err(|error| Error::corrupt(format!("row {key} cannot be read by this fold version: {error}"))),
        }
    }

    /// Inserts or replaces a row; marks its key and the collection as changed. A row equal to the stored one changes nothing.
    pub fn put<T: Serialize>(&mut self, key: &str, doc: &T, fields: Vec<FieldValue>) -> Result<()> {
        self.put_tagged(key, doc, fields, &[key, Self::COLLECTION])
    }

    /// The same with tags of the model's own choice (for rows that are only read in groups).
    pub fn put_tagged<T: Serialize>(&mut self, key: &str, doc: &T, fields: Vec<FieldValue>, tags: &[&str]) -> Result<()> {
        let doc =
            serde_json::to_value(doc).map_err(|error| Error::corrupt(format!("row {key} cannot be written: {error}")))?;
        if self.current.get(key).is_some_and(|current| current.as_ref() == Some(&doc)) {
            return Ok(());
        }
        self.current.insert(key.to_owned(), Some(doc));
        self.changed.insert(key.to_owned(), Some(fields));
        for tag in tags {
            if !self.tags.contains(*tag) {
                self.tags.insert((*tag).to_owned());
            }
        }
        Ok(())
    }

    pub fn delete(&mut self, key: &str) {
        if matches!(self.current.get(key), Some(None)) {
            return;
        }
        self.current.insert(key.to_owned(), None);
        self.changed.insert(key.to_owned(), None);
        self.tags.extend([key.to_owned(), Self::COLLECTION.to_owned()]);
    }

    pub fn into_changes(mut self) -> (Vec<RowChange>, BTreeSet<String>) {
        let change = |(key, fields): (String, Option<Vec<FieldValue>>)| match (fields, self.current.remove(&key).flatten()) {
            (Some(fields), Some(doc)) => RowChange::Put { key, doc, fields },
            _ => RowChange::Delete { key },
        };
        (self.changed.into_iter().map(change).collect(), self.tags)
    }
}
