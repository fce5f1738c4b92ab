//! Why a command was not done.

use domain::Refusal;

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The rules refuse it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// `If-Match` named another version than the stream has.
    #[error("the version is {actual}, not {expected}")]
    StaleVersion { expected: u64, actual: u64 },
    /// The idempotency key was used with another request.
    #[error("the idempotency key was used with a different request")]
    KeyReused,
    /// The same key is being worked on right now and did not finish within two seconds.
    #[error("a request with this idempotency key is still being processed")]
    KeyInFlight,
    #[error(transparent)]
    Port(#[from] ports::Error),
}

impl CommandError {
    /// The refusal's code, when the rules refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::StaleVersion { .. } | Self::KeyReused | Self::KeyInFlight | Self::Port(_) => None,
        }
    }
}
