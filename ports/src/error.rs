//! Errors by meaning; a driver's error is only the source.

use std::error::Error as StdError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another writer or runner was first (version, checkpoint, term).
    #[error("conflict: {0}")]
    Conflict(String),
    #[error("not found: {0}")]
    NotFound(String),
    /// The server cannot be reached or did not answer in time; nothing was written. Try again later.
    #[error("{what} is unavailable")]
    Unavailable {
        what: String,
        #[source]
        source: Option<Source>,
    },
    /// The connection was lost while a write was under way: it may or may not have happened. Resend the same ids.
    #[error("the outcome of a write to {what} is unknown")]
    UnknownOutcome {
        what: String,
        #[source]
        source: Option<Source>,
    },
    /// The server refused the content of a write (a constraint, a size): retrying the same will not help.
    #[error("{what} refused the write")]
    Rejected {
        what: String,
        #[source]
        source: Option<Source>,
    },
    /// Stored content contradicts what must hold (a gap in positions, an undecodable event).
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// A bounded queue is full: shed load, come back later.
    #[error("{0} is full")]
    Full(String),
}

impl Error {
    pub fn unavailable(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Unavailable { what: what.into(), source: Some(source.into()) }
    }
    pub fn unknown_outcome(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::UnknownOutcome { what: what.into(), source: Some(source.into()) }
    }
    pub fn rejected(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Rejected { what: what.into(), source: Some(source.into()) }
    }
    pub fn corrupt(detail: impl Into<String>) -> Self {
        Self::Corrupt(detail.into())
    }
    /// Whether trying again later can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::UnknownOutcome { .. } | Self::Full(_) | Self::Conflict(_))
    }
    /// The message with all sources, for logs and operator output.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = StdError::source(self);
        while let Some(error) = source {
            let said = error.to_string();
            // Some errors show their source's text in their own, as sqlx does.
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            source = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("error returned from database: {0}")]
    struct Quoting(#[source] io::Error);

    #[test]
    fn what_a_source_says_again_is_told_once() {
        let denied = Error::rejected("the units log", Quoting(io::Error::other("permission denied")));
        assert_eq!(denied.chain(), "the units log refused the write: error returned from database: permission denied");
        let away = Error::unavailable("Redis", io::Error::other("connection refused"));
        assert_eq!(away.chain(), "Redis is unavailable: connection refused");
    }
}
