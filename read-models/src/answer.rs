//! What a query answers: the value, what it depends on, and until when it holds.

use domain::Timestamp;
use ports::FieldValue;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A row key or [`crate::Rows::COLLECTION`] of a model: the answer changes only when one of its tags does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tag {
    pub model: String,
    pub tag: String,
}

impl Tag {
    pub fn row(model: &str, key: impl Into<String>) -> Self {
        Self { model: model.into(), tag: key.into() }
    }
    pub fn collection(model: &str) -> Self {
        Self::row(model, crate::Rows::COLLECTION)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    pub value: T,
    pub tags: Vec<Tag>,
    /// The next instant at which the answer changes without an event (a hold's expiry, a local midnight).
    pub valid_until: Option<Timestamp>,
}

impl<T> Answer<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { value: f(self.value), tags: self.tags, valid_until: self.valid_until }
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Present when there is more; hand it back as `cursor`.
    pub next_cursor: Option<String>,
}

/// Which page is wanted. `limit` is 1 to 1,000.
#[derive(Clone, Debug, PartialEq)]
pub struct PageRequest {
    pub limit: usize,
    pub after: Option<Cursor>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: Self::DEFAULT_LIMIT, after: None }
    }
}

impl PageRequest {
    pub const DEFAULT_LIMIT: usize = 50;
    pub const MAX_LIMIT: usize = 1_000;
}

/// A keyset position: the ordering value and the key of the last row seen. Opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cursor(pub FieldValue, pub String);

impl Cursor {
    /// Lower-case hex of its JSON: opaque, and safe in a URL.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        json.iter().fold(String::with_capacity(json.len() * 2), |mut text, byte| {
            use std::fmt::Write;
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// `None` for a text that is no cursor of ours.
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() > 2_000 || !text.len().is_multiple_of(2) || !text.is_ascii() {
            return None;
        }
        let bytes: Option<Vec<u8>> =
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect();
        serde_json::from_slice(&bytes?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_round_trip_and_foreign_text_is_refused() {
        let cursor = Cursor(FieldValue::Int(150_000), "unit-1".into());
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        for foreign in ["", "zz", "abc", "7b7d", "é1"] {
            assert_eq!(Cursor::decode(foreign), None, "{foreign}");
        }
    }
}
