//! Why a command to a user is refused.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::{RefusalClass, Refused};

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UserError {
    #[error("{}: {}", .0.pointer, .0.detail)]
    Invalid(Fault),
    #[error("there is no such user")]
    NotFound,
    #[error("the user already exists with other content")]
    AlreadyExists,
    #[error("the user is {current}")]
    InvalidState { current: &'static str, allowed: &'static [&'static str] },
    #[error("the account is locked")]
    Locked { until: Timestamp },
    #[error("this is the last administrator")]
    LastAdmin,
    #[error("nobody changes their own roles")]
    SelfRoleChange,
}

impl From<Fault> for UserError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl Refused for UserError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "VALIDATION_FAILED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::InvalidState { .. } => "INVALID_STATE",
            Self::Locked { .. } => "ACCOUNT_LOCKED",
            Self::LastAdmin => "LAST_ADMIN",
            Self::SelfRoleChange => "SELF_ROLE_CHANGE",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Invalid(_) => RefusalClass::Invalid,
            Self::NotFound => RefusalClass::NotFound,
            Self::AlreadyExists
            | Self::InvalidState { .. }
            | Self::Locked { .. }
            | Self::LastAdmin
            | Self::SelfRoleChange => RefusalClass::Conflict,
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::InvalidState { current, allowed } => json!({ "current": current, "allowed": allowed }),
            Self::Locked { until } => json!({ "until": until }),
            Self::Invalid(_) | Self::NotFound | Self::AlreadyExists | Self::LastAdmin | Self::SelfRoleChange => Value::Null,
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Invalid(fault) => Some(fault.pointer),
            _ => None,
        }
    }
}
