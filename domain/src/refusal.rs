//! How a refused command is described to whoever sent it.

use std::error::Error;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What kind of refusal it is; `web` maps it to a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalClass {
    /// The command is malformed: 400.
    Invalid,
    /// Not allowed to this caller: 403.
    Forbidden,
    /// No such thing: 404.
    NotFound,
    /// It contradicts the current state: 409.
    Conflict,
    /// An amount or a policy forbids it: 422.
    Policy,
}

/// Implemented by each aggregate's error enum.
pub trait Refused: Error + Send + Sync + 'static {
    /// Stable, e.g. `UNIT_NOT_AVAILABLE`.
    fn code(&self) -> &'static str;
    fn class(&self) -> RefusalClass;
    /// Facts a client can act on, e.g. `{"conflict_id": …}`; an object or null.
    fn facts(&self) -> Value {
        Value::Null
    }
    /// JSON pointer of the field at fault, when one is (`/end_date`).
    fn pointer(&self) -> Option<&'static str> {
        None
    }
}

/// A refusal without its type: what travels to HTTP and into process streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refusal {
    pub code: String,
    pub class: RefusalClass,
    pub message: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub facts: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

impl Refusal {
    pub fn new(class: RefusalClass, code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), class, message: message.into(), facts: Map::new(), pointer: None }
    }

    pub fn of(error: &impl Refused) -> Self {
        let facts = match error.facts() {
            Value::Object(facts) => facts,
            _ => Map::new(),
        };
        Self {
            code: error.code().into(),
            class: error.class(),
            message: error.to_string(),
            facts,
            pointer: error.pointer().map(Into::into),
        }
    }
}
