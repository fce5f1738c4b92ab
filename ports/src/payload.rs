//! An event's text.

use serde_json::value::RawValue;

use crate::{Error, Result};

/// An event's JSON text as the log has it. That it is JSON was seen to when it was written, or by the store's own type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload(Box<str>);

impl Payload {
    /// From a store that takes nothing but JSON there: every event of a rebuild comes this way, so it is not parsed again.
    pub fn of_json_column(text: Box<str>) -> Self {
        Self(text)
    }

    pub fn get(&self) -> &str {
        &self.0
    }

    /// To be written into another document.
    pub fn to_raw(&self) -> Result<Box<RawValue>> {
        RawValue::from_string(self.get().to_owned())
            .map_err(|error| Error::corrupt(format!("a stored event is not JSON: {error}")))
    }
}

impl From<Box<RawValue>> for Payload {
    fn from(json: Box<RawValue>) -> Self {
        Self(json.into())
    }
}
