//! Personal data inside events.

use serde::{Deserialize, Serialize};

/// Personal data of one data subject. In a stored event it is sealed with the subject's key; once the key is destroyed it
/// reads as `Personal(None)`: the fact remains, the person does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Personal<T>(pub Option<T>);

impl<T> Default for Personal<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> From<T> for Personal<T> {
    fn from(value: T) -> Self {
        Self(Some(value))
    }
}
